"use strict";
// What every page needs: texts, the API, colours by day and night, times and numbers, and what is wrong.
const station = (() => {
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("page").textContent);
  const EVERY = 8000; // ms between two looks at the station

  const t = (key, values = {}) => page.texts[key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  const locale = navigator.languages.find((one) => one.startsWith(page.language)) ?? page.language; // en-GB, de-AT
  const counted = (language, key, n) => (new Intl.PluralRules(language).select(n) === "one" ? `${key}_one` : `${key}_many`);
  /** The text for a number of things. Where the language has none it is English, which has forms of its own. */
  function count(key, n, values = {}) {
    const own = counted(page.language, key, n);
    const shown = page.missing.includes(own) ? counted("en", key, n) : own;
    return t(shown, { n, ...values });
  }
  const number = (value, digits = 3) =>
    value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString(locale, { maximumSignificantDigits: digits });
  const clock = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" });
  const time = (iso) => clock.format(new Date(iso));

  class Refused extends Error {
    constructor(status, text, answer = {}) {
      super(text);
      this.status = status; // 0: no answer at all
      this.code = answer.code ?? "";
      this.answer = answer;
    }
  }

  /** Asks the API of the product, or of the station where the path begins with /api/; the answer's JSON, or Refused with the one line that says why. */
  async function api(path, { body, key, method = body === undefined ? "GET" : "POST", seconds = 20 } = {}) {
    const headers = method === "GET" ? {} : { "Content-Type": "application/json" };
    if (key) headers["Idempotency-Key"] = key; // sent again, it is taken once
    const stop = new AbortController();
    const late = setTimeout(() => stop.abort(), 1000 * seconds);
    try {
      const answer = await fetch(path.startsWith("/api/") ? path : `${page.api}${path}`, { method, headers, body: body && JSON.stringify(body), signal: stop.signal });
      const found = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Refused(answer.status, found.error ?? `HTTP ${answer.status}`, found);
      return found;
    } catch (error) {
      throw error instanceof Refused ? error : new Refused(0, t("common.lost"));
    } finally {
      clearTimeout(late);
    }
  }

  /** Puts a text in a place, unless it is there: what stands between ` is code. */
  function write(place, text) {
    const made = text.split(/`([^`]*)`/).map((part, n) => (n % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
    const there = made.map((part) => part.textContent ?? part).join("");
    if (place.textContent !== there) place.replaceChildren(...made);
  }

  function notice(id, text) {
    const place = byId(id);
    if (text) write(place.querySelector("span"), text);
    place.hidden = !text;
  }

  /** Says that the station cannot be reached, or is there again. */
  function connected(is, text = t("common.lost")) {
    byId("sign-in-again")?.remove();
    notice("lost", is ? "" : text);
  }

  /** Shows that one is signed out, with the way back in. */
  function signedOut() {
    notice("lost", t("common.sign_in_again"));
    if (byId("sign-in-again")) return;
    const link = document.createElement("a");
    Object.assign(link, { id: "sign-in-again", className: "button", textContent: t("common.sign_in_link") });
    link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
    byId("lost").append(link);
  }

  /** Takes over what the station says of itself: what waits for review, and what is wrong. */
  function facts({ waiting, problems, problem_products: products = [] }) {
    const title = (kind) => page.texts[`wrong.${kind}`] ?? t("wrong.other");
    const titles = problems.map((kind, n) => (products[n] ? `${products[n]}: ${title(kind)}` : title(kind)));
    notice("problem", titles.length ? count("problems.bar", titles.length, { what: [...new Set(titles)].join(" · ") }) : "");
    if (!document.body.classList.contains("review")) waits(waiting); // there it is counted with each verdict
  }

  /** Shows how many pictures wait for a review. */
  function waits(n) {
    if (!byId("waiting")) return; // the page stands alone
    byId("waiting").hidden = !n;
    const [short, spoken] = byId("waiting").children;
    short.textContent = n < 1000 ? n : "999+";
    spoken.textContent = count("nav.waiting", n);
  }

  /** Says in the page's line what was done, or what went wrong. */
  function say(text, bad = false) {
    write(byId("said"), text);
    byId("said").closest(".said").classList.toggle("bad", bad);
  }

  /** Says why something did not work, or that one is signed out. */
  function failed(error) {
    const isOut = error.status === 401;
    say(isOut ? "" : t("common.failed", { text: error.message }), !isOut);
    if (isOut) signedOut();
  }

  /** Says it after the page came anew. */
  function later(text) {
    sessionStorage.setItem("said", text);
    location.reload();
  }

  /** Says what the page before said for `later`. */
  function said() {
    say(sessionStorage.getItem("said") ?? "");
    sessionStorage.removeItem("said");
  }

  /** Asks in a dialog whether somebody is sure, and does it then. */
  function sure(id, act) {
    const dialog = byId(id);
    dialog.returnValue = "";
    dialog.onclose = () => dialog.returnValue === "yes" && act();
    dialog.showModal();
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  async function look() {
    if (page.over) return;
    try {
      facts(await api("", { seconds: 6 }));
      connected(true);
    } catch (error) {
      if (error.status === 401) signedOut();
      else connected(false, error.status ? t("common.failed", { text: error.message }) : undefined);
    }
    setTimeout(look, EVERY);
  }

  /** The address of a picture of an inspection, no larger than it is needed. */
  function picture(item, layer, wanted) {
    const side = [160, 320, 640, 960, 1280, 1600, 2400].find((one) => one >= wanted) ?? 3200;
    return `${page.api}/inspections/${item.id}/${layer}?side=${side}`;
  }

  /** Its part, batch and view, where they are known, and the name of a picture. */
  function called(item) {
    const label = ["part", "batch", "view"].filter((name) => item[name]).map((name) => t(`common.${name}`, item));
    return [...label, ...(item.name ? [item.name] : [])].join(" · ");
  }

  /** What was noticed about it beside its score: each in the page's language, or in the words that it came with. */
  function noticed(item) {
    const several = item.found_parts ?? { parts: [], objects: [] };
    const expected = several.least === several.most ? several.least : `${several.least}–${several.most}`;
    const bad = several.parts.filter((one) => one.is_anomalous).map((one) => one.part_index).join(", ");
    const values = { found: several.parts.length, expected, others: several.objects.length, bad };
    const shown = (value) => (value === null ? t("common.region") : typeof value === "number" && !Number.isInteger(value) ? number(value, 4) : value);
    const reason = ({ code, ...rest }) => t(`common.reason_${code}`, Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, shown(value)])));
    const text = ({ code, words, reasons }) =>
      page.texts[`common.finding_${code}`] ? [t(`common.finding_${code}`, values), reasons.map(reason).join(", ")].filter(Boolean).join(": ") : words;
    return (item.findings ?? []).map(text).join(" · ");
  }

  /** An image that is there; rejects if it cannot be shown. */
  async function loaded(address) {
    const image = new Image();
    image.src = address;
    image.alt = "";
    await image.decode();
    return image;
  }

  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  /** A button that is on or off; `changed` is told. */
  function toggle(button, changed) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", !pressed(button));
      changed(pressed(button));
    });
  }

  /** Keys without a modifier, where nobody is writing; a key that is held counts once. */
  function keys(actions) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing || event.defaultPrevented) return;
      if (event.key.startsWith("Arrow") && event.target.closest("input")) return;
      const typing = event.target.closest("input:not([type=range], [type=checkbox], [type=radio]), select, textarea, dialog");
      const action = actions[event.key.toLowerCase()];
      if (!action || (typing && event.key !== "Escape")) return;
      event.preventDefault();
      action(event);
    });
  }

  for (const place of document.querySelectorAll("time[datetime]")) place.textContent = time(place.dateTime);
  byId("themes").addEventListener("change", ({ target }) => {
    const chosen = target.value === "system" ? "" : target.value;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    document.cookie = `theme=${chosen}; path=/; max-age=${chosen ? 31536000 : 0}; samesite=lax`;
    document.dispatchEvent(new Event("theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));
  document.addEventListener("click", ({ target }) => {
    for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const menu = document.querySelector(".menu[open]");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  if (page.product && !document.body.classList.contains("live")) setTimeout(look, EVERY);

  return {
    ...{ byId, page, locale, t, count, number, time, api, Refused, connected, signedOut, write, say, failed, later, said, sure, colour },
    ...{ facts, waits, picture, called, noticed, loaded, pressed, toggle, keys },
  };
})();
