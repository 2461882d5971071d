"use strict";
// Verdicts on their way: sent one after the other in the order they were given, kept until they are stored.
const outbox = (() => {
  const { byId, page, t, count, api, signedOut } = station;
  const KEY = `verdicts of ${page.product} by ${page.person}`; // kept over a reload and a new sign-in, too
  const WAITS = [1, 2, 4, 8]; // seconds between tries
  let entries = [];
  let tries = 0;
  let timer = null;
  let sending = false;
  let pause = 0; // seconds, while nothing can be sent
  let stored = () => {};
  let refused = () => {};

  function keep() {
    try {
      if (entries.length) sessionStorage.setItem(KEY, JSON.stringify(entries));
      else sessionStorage.removeItem(KEY);
    } catch {
      // no room, or not allowed: they are kept until the page is closed, and closing it asks first
    }
  }

  function say(seconds = 0) {
    pause = seconds;
    const failing = seconds > 0;
    byId("unsent").hidden = !failing;
    if (failing) byId("unsent").querySelector("span").textContent = count("review.unsent", entries.length, { seconds });
    document.documentElement.dataset.unsent = entries.length;
  }

  function turnedDown(entry, text) {
    const line = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = t("review.refused_drop");
    button.addEventListener("click", () => {
      line.remove();
      byId("refused").hidden = !byId("refused").children.length;
    });
    const words = document.createElement("span");
    station.write(words, t("review.refused", { name: entry.name, text }));
    line.append(words, button);
    byId("refused").append(line);
    byId("refused").hidden = false;
    refused(entry);
  }

  async function send() {
    if (sending) return;
    sending = true;
    clearTimeout(timer);
    while (entries.length) {
      const { id, name, key, ...body } = entries[0];
      try {
        const answer = await api(`/inspections/${id}/verdict`, { body, key });
        entries.shift();
        stored(answer, body.verdict);
      } catch (error) {
        if ([400, 404, 409, 413, 422].includes(error.status)) turnedDown(entries.shift(), error.message); // never taken
        else {
          if (error.status === 401 || error.status === 403) signedOut(); // or in again, elsewhere: this page is of before
          const seconds = WAITS[Math.min(tries++, WAITS.length - 1)];
          timer = setTimeout(send, 1000 * seconds);
          sending = false;
          return say(seconds);
        }
      }
      tries = 0;
      keep();
      say();
    }
    sending = false;
  }

  function add(entry) {
    entries.push({ ...entry, key: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}` });
    keep();
    say(pause);
    if (!pause) send();
  }

  byId("send-now").addEventListener("click", send);
  addEventListener("online", send);
  let leaving = false; // to sign in, and to come back
  document.addEventListener("click", ({ target }) => (leaving ||= target.id === "sign-in-again"));
  addEventListener("beforeunload", (event) => {
    if (entries.length && !leaving) event.preventDefault();
  });
  try {
    entries = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  } catch {
    entries = [];
  }
  return {
    add,
    /** Begins with what an earlier page could not send; `done` and `failed` are told of every verdict. */
    start(done, failed) {
      stored = done;
      refused = failed;
      document.documentElement.dataset.unsent = entries.length;
      if (entries.length) send();
    },
    empty: () => !entries.length,
    has: (id) => entries.some((entry) => entry.id === id),
  };
})();
