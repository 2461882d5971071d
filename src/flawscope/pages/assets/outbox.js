"use strict";
// Verdicts on their way: sent one after the other in the order they were given, kept until they are stored.
const outbox = (() => {
  const { byId, page, t, count, api, signedOut } = station;
  const KEY = `verdicts of ${page.product} by ${page.person}`; // kept over a reload and a new sign-in, too
  const WAITS = [1, 2, 4, 8]; // seconds between tries
  const SEEN = `${KEY}, seen`;
  let entries = [];
  let seen = new Map(); // number of the verdict that holds, by inspection, as this page knows it; 0: there is none
  let tries = 0;
  let timer = null;
  let sending = false;
  let pause = 0; // seconds, while nothing can be sent
  let stored = () => {};
  let refused = () => {};
  function keep() {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(entries));
      sessionStorage.setItem(SEEN, JSON.stringify([...seen].filter(([id]) => has(id))));
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

  const has = (id) => entries.some((entry) => entry.id === id);

  /** Shows a line with buttons, each [its text, what it does]; it goes with the first click. */
  function ask(text, buttons) {
    const line = document.createElement("li");
    const words = document.createElement("span");
    station.write(words, text);
    line.append(words);
    for (const [title, act] of buttons) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        line.remove();
        byId("refused").hidden = !byId("refused").children.length;
        act();
      });
      line.append(button);
    }
    byId("refused").append(line);
    byId("refused").hidden = false;
  }

  function turnedDown(entry, text) {
    ask(t("review.refused", { name: entry.name, text }), [[t("review.refused_drop"), () => {}]]);
    refused(entry);
  }

  /** Somebody else decided meanwhile, which holds unless this person replaces it. */
  function decided(first, held) {
    const last = entries.findLast((entry) => entry.id === first.id); // what this person said in the end
    entries = entries.filter((entry) => entry.id !== first.id);
    refused(last);
    const agrees = last.verdict === held.verdict && !last.mask && !last.note;
    if (agrees || ["undo", "skip"].includes(last.verdict)) return; // there is nothing to be replaced
    const said = (word) => t(`review.${word}`);
    const by = held.by === page.person ? t("review.other_window") : held.by;
    const theirs = held.verdict ? t("review.decided", { name: last.name, by, theirs: said(held.verdict) }) : t("review.taken_back", last);
    const keep = t(held.verdict ? "review.keep_theirs" : "review.keep_none");
    const replace = () => {
      seen.set(last.id, held.verdict_id ?? 0);
      add(last);
    };
    ask(theirs, [[keep, () => {}], [t("review.say_mine", { mine: said(last.verdict) }), replace]]);
  }

  async function send() {
    if (sending) return;
    sending = true;
    clearTimeout(timer);
    while (entries.length) {
      const { id, name, key, ...body } = entries[0];
      body.replaces = seen.get(id) ?? 0;
      try {
        const answer = await api(`/inspections/${id}/verdict?reader=${page.reader ?? ""}`, { body, key });
        entries.shift();
        seen.set(id, answer.verdict_id ?? 0);
        stored(answer, body.verdict);
      } catch (error) {
        if (error.code === "decided") decided(entries[0], error.answer);
        else if ([400, 404, 409, 413, 422].includes(error.status)) turnedDown(entries.shift(), error.message); // never taken
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
    seen = new Map(JSON.parse(sessionStorage.getItem(SEEN) ?? "[]"));
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
    has,
    /** Notes the verdict that an inspection has, as the station gave it to this page. */
    note(item) {
      if (!has(item.id)) seen.set(item.id, item.verdict_id ?? 0);
    },
  };
})();
