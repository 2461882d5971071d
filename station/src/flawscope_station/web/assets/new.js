"use strict";
// A new product: pictures, their check, learning, the result, trying, going live. Turns what happens into events of
// its machine (`new-state.js`), sends its requests, and draws it.
(() => {
  const { byId, page, t, count, number, api } = station;
  const AT_ONCE = 3; // pictures that are sent at the same time
  const FIRST = matchMedia("(max-width: 600px)").matches ? 4 : 14; // small pictures that are shown at first
  const MORE = 240; // and with each further click
  const ENOUGH = 19; // from which a false-alarm rate of 5 % can be promised
  const USUAL = 40;
  const MANY = 0.75; // share of simulated defects that a model should find, of a size that is not small
  const EVERY = 250; // ms between two ticks
  const texts = (key, other, values) => (key in page.texts ? t(key, values) : other);

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function say(text, bad = false) {
    station.say(text, bad);
  }

  function failed(error) {
    say("");
    station.failed(error);
  }

  // ------------------------------------------------------------------------------------ the page that begins
  byId("begin")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const german = { ä: "ae", ö: "oe", ü: "ue", ß: "ss" };
    const typed = byId("name").value.replace(/[äöüß]/g, (letter) => german[letter]);
    const plain = typed.normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
    const name = plain.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-._]+|[-._]+$/g, "").slice(0, 64);
    try {
      const made = await api("/api/v1/new", { body: { name } });
      location.assign(`/-/new/${encodeURIComponent(made.name)}`);
    } catch (error) {
      failed(error);
    }
  });
  document.documentElement.dataset.ready = "yes";
  if (!page.data) return;

  // ---------------------------------------------------------------------------------------- a product's page
  const machine = station.newProduct;
  let state = machine.begin({ now: Date.now(), facts: page.data.state });
  let view = machine.view(state);
  const home = `/api/v1/new/${encodeURIComponent(state.facts.name)}`;
  const listed = { pictures: [], left_out: [], version: 0 }; // as they are drawn
  let shown = FIRST;

  /** What happened leads to the next state. */
  function happen(type, more = {}) {
    state = machine.next(state, { type, now: Date.now(), ...more });
    follow();
  }

  function follow() {
    const { requests } = state;
    view = machine.view(state);
    draw();
    for (const { kind, ...request } of requests) REQUESTS[kind](request);
  }

  async function ask({ question }) {
    let facts = null;
    try {
      facts = await api(home);
    } catch ({ status, message }) {
      return happen("failed", { question, status, message });
    }
    return happen("answered", { question, facts });
  }

  async function askPictures({ version }) {
    let found = null;
    try {
      found = await api(`${home}/pictures`);
    } catch {
      return happen("unlisted", { version });
    }
    return happen("listed", { version, ...found });
  }

  /** Does what a person asked for, one thing at a time. */
  async function act({ what, ...more }) {
    let found = null;
    try {
      found = await ACTS[what](more);
    } catch (error) {
      happen("undone", { status: error.status, message: error.message });
      return FAILED[what] ? FAILED[what](error, more) : failed(error);
    }
    if (what !== "remove") happen("done", found); // else the page goes with it
    return DONE[what](more);
  }

  const learning = ({ goOn }) => api(`${home}/learn`, { body: { ...station.options.chosen(), go_on: goOn, all_good: view.isAllGood } });
  const ACTS = {
    leave_out: async ({ pictures, undo }) => ({ facts: await api(`${home}/leave-out`, { body: { pictures, undo } }), undo: undo ? [] : pictures }),
    learn: async (how) => ({ facts: await learning(how) }),
    stop: async () => ({ facts: await api(`${home}/stop`, { body: {} }) }),
    live: async () => ({ facts: await api(`${home}/live`, { body: {}, seconds: 120 }).then(() => api(home).catch(() => null)) }),
    remove: () => api(home, { method: "DELETE" }),
  };
  const DONE = {
    leave_out: ({ pictures, undo }) => say(count(undo ? "new.taken_back" : "new.left_out", pictures.length)),
    learn: () => say(""),
    stop: () => say(t(view.isLearning ? "new.search_ends" : "new.stage_stopped")),
    live: () => {
      say("");
      byId("open").focus();
    },
    remove: () => location.assign("/-/new"),
  };
  const FAILED = {
    learn: askWhetherGood,
    remove: (error) => (error.status === 404 ? DONE.remove() : failed(error)), // somebody else did it
  };
  const REQUESTS = { ask, list: askPictures, do: act, reveal };

  const small = (name) => `${home}/pictures/${encodeURIComponent(name)}?side=320`;

  /** A list's entry: a small picture with words below, and what can be done with it. */
  function card(address, words, ...more) {
    const image = make("img", { src: address, alt: "", loading: "lazy" });
    return make("li", { className: "card" }, image, make("span", { className: "small words" }, words), ...more);
  }

  function leaveOutButton(name, undo = false) {
    const text = t(undo ? "new.take_back" : "new.leave_out");
    const button = make("button", { type: "button" }, text);
    button.setAttribute("aria-label", `${text}: ${name}`);
    button.addEventListener("click", () => leaveOut([name], undo));
    return button;
  }

  const leaveOut = (pictures, undo = false) => happen("do", { act: { what: "leave_out", pictures, undo } });
  byId("undo").addEventListener("click", () => leaveOut(state.undo, true));

  let drawnList = state.listed;
  function showList() {
    if (drawnList === state.listed) return;
    drawnList = state.listed;
    Object.assign(listed, drawnList);
    showPictures();
    station.options?.changed();
  }

  function showPictures() {
    byId("pictures").replaceChildren(...listed.pictures.slice(0, shown).map((name) => card(small(name), name, leaveOutButton(name))));
    byId("more").hidden = listed.pictures.length <= shown;
    byId("aside").hidden = !listed.left_out.length;
    byId("aside-title").textContent = count("new.aside", listed.left_out.length);
    byId("left-out").replaceChildren(...listed.left_out.slice(0, MORE).map((name) => card(small(name), name, leaveOutButton(name, true))));
  }
  byId("more").addEventListener("click", () => {
    shown += MORE;
    showPictures();
  });

  // Sending ----------------------------------------------------------------------------------------------
  const queue = [];
  let sending = 0; // files that are on their way
  const isLitter = (name) => name.startsWith(".") || /^(thumbs\.db|desktop\.ini)$/i.test(name);

  /** Says why a file was not taken, in the page's words where it knows them. */
  function refuse(text, code, name) {
    byId("refusals").append(make("li", { title: text }, code ? texts(`new.refusal_${code}`, text, { name }) : text));
    byId("refused-title").textContent = count("new.refused", byId("refusals").childElementCount);
    byId("refused").hidden = false;
  }

  const pathOf = (file) => file.within ?? (file.webkitRelativePath || file.name);

  /** Whether the pictures may be sent: of several folders a person says that all are good. */
  function areGood(files) {
    const counts = new Map();
    for (const file of files) {
      const folder = pathOf(file).split("/").slice(0, -1).join("/");
      counts.set(folder, (counts.get(folder) ?? 0) + 1);
    }
    const folders = [...counts].map(([folder, number]) => `${folder || "."} (${number})`);
    return folders.length < 2 || window.confirm(t("new.several_folders", { folders: folders.join(", ") }));
  }

  /** Sends a file until the station has it: the same content is kept once. */
  async function send(file) {
    const isZip = /\.zip$/i.test(file.name);
    const headers = { "Content-Type": isZip ? "application/zip" : "application/octet-stream" };
    for (let pause = 1; ; pause = Math.min(15, 2 * pause)) {
      let answer = null;
      try {
        answer = await fetch(`${home}/pictures?name=${encodeURIComponent(pathOf(file).slice(-200))}`, { method: "POST", headers, body: file });
      } catch {
        happen("reached", { isReached: false });
      }
      if (answer && answer.status < 500) {
        happen("reached", { isReached: true });
        const found = await answer.json().catch(() => ({}));
        if (!answer.ok) return refuse(found.error ?? `${file.name}: HTTP ${answer.status}`, answer.status === 413 ? "too_large" : found.code, file.name);
        for (const one of found.results) if (one.status === "refused") refuse(one.error, one.code, one.name);
        return;
      }
      if (answer?.status === 507) return refuse((await answer.json()).error, "disk_full", file.name);
      await new Promise((later) => setTimeout(later, 1000 * pause));
    }
  }

  async function work() {
    sending += 1;
    for (let file = queue.shift(); file; file = queue.shift()) {
      await send(file);
      happen("sent");
    }
    sending -= 1;
  }

  function showSending() {
    const { sent, all } = state;
    byId("sending").hidden = !all;
    byId("sent").value = all ? (100 * sent) / all : 0;
    byId("sending-words").textContent = t("new.sending", { done: sent, all });
  }

  function sendAll(files) {
    const wanted = files.filter((file) => !isLitter(file.name));
    if (!wanted.length || !areGood(wanted)) return;
    queue.push(...wanted);
    byId("refusals").replaceChildren();
    byId("refused").hidden = true;
    say("");
    happen("files", { count: wanted.length });
    for (let k = sending; k < Math.min(AT_ONCE, queue.length + sending); k += 1) work();
  }

  /** The files below an entry that was dropped: of a folder all. */
  async function filesOf(entry) {
    if (entry.isFile) {
      const file = await new Promise((good, bad) => entry.file(good, bad));
      return [Object.assign(file, { within: entry.fullPath.slice(1) })];
    }
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((good, bad) => reader.readEntries(good, bad)); // a hundred at most
      if (!some.length) return found;
      for (const one of some) found.push(...(await filesOf(one)));
    }
  }

  /** A place to drop files on, and a button for those who do not drag. */
  function dropPlace(place, button, input, taken) {
    for (const kind of ["dragenter", "dragover"]) {
      place.addEventListener(kind, (event) => {
        event.preventDefault();
        place.classList.add("over");
      });
    }
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", async (event) => {
      event.preventDefault();
      place.classList.remove("over");
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const plain = [...event.dataTransfer.files];
      taken(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : plain);
    });
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      taken([...input.files]);
      input.value = "";
    });
  }
  dropPlace(byId("drop"), byId("choose"), byId("files"), sendAll);
  byId("choose-folder").addEventListener("click", () => byId("folder").click());
  byId("folder").addEventListener("change", () => sendAll([...byId("folder").files]));
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault()); // beside the place: nothing opens
  window.addEventListener("beforeunload", (event) => {
    if (state.all) event.preventDefault();
  });

  // The check --------------------------------------------------------------------------------------------
  const HIDDEN = ["no-test", "few", "beside"]; // said elsewhere, or of no use here
  let checked = "";

  function showCheck() {
    const { check, pictures } = state.facts;
    const isOver = check?.current;
    const key = JSON.stringify([check, pictures > 0]);
    if (key === checked) return;
    checked = key;
    const byCode = new Map();
    for (const one of check?.findings ?? []) if (!HIDDEN.includes(one.code)) byCode.set(one.code, [...(byCode.get(one.code) ?? []), one]);
    byId("findings").replaceChildren(...[...byCode].map(([code, several]) => finding(code, several)));
    if (check?.align) byId("findings").append(alignment(check.align));
    const things = byCode.size + (check?.align ? 1 : 0);
    if (!pictures) byId("check-said").textContent = t("new.check_none");
    else if (!isOver) byId("check-said").textContent = t("new.checking");
    else byId("check-said").textContent = things ? count("new.check_found", things) : t("new.check_fine");
  }

  /** That parts lie elsewhere, and a button that says so to the learning. */
  function alignment(how) {
    const button = make("button", { type: "button" }, t("new.choose_align", { how: t(`new.choice_align_${how}`) }));
    button.addEventListener("click", () => {
      byId("align").value = how;
      byId("align").dispatchEvent(new Event("change", { bubbles: true }));
      byId("look-at").open = true;
      byId("align").focus();
    });
    return make("div", { className: "finding note" }, make("h3", {}, t("new.find_align")), make("p", { className: "wide-text" }, t("new.do_align")), button);
  }

  /** What was found of one kind, with the pictures and what can be done. */
  function finding(code, several) {
    const key = code.replaceAll("-", "_");
    const [{ severity, message, remedy }] = several;
    const isCopy = ["copy", "nearly-copy", "nearly-unsure"].includes(code); // of these one is kept
    const names = several.flatMap((one) => one.pictures);
    const surplus = several.flatMap((one) => (isCopy ? one.pictures.slice(1) : one.pictures));
    const place = make("div", { className: `finding ${severity}` }, make("h3", {}, texts(`new.find_${key}`, message)), make("p", { className: "wide-text" }, texts(`new.do_${key}`, remedy)));
    if (!names.length) return place;
    const pictures = make("ul", { className: "grid small-grid" }, ...names.slice(0, 12).map((name) => card(small(name), name, leaveOutButton(name))));
    if (names.length > 12) pictures.append(make("li", { className: "small" }, count("new.and_more", names.length - 12)));
    place.append(make("details", { open: severity !== "note" }, make("summary", {}, count("new.pictures", names.length)), pictures));
    if (surplus.length > 1 || isCopy) {
      const every = make("button", { type: "button" }, count(isCopy ? "new.keep_one" : "new.leave_all", surplus.length));
      every.addEventListener("click", () => leaveOut(surplus));
      place.append(every);
    }
    return place;
  }

  // Learning ---------------------------------------------------------------------------------------------
  async function learn(goOn) {
    if (await station.options.ready()) happen("do", { act: { what: "learn", goOn } });
  }

  /** Where their names leave open which pictures are good, a person says so. */
  function askWhetherGood(error, how) {
    if (error.code !== "question") return failed(error);
    if (!window.confirm(t("new.which_good", { said: error.message }))) return undefined;
    happen("good");
    return happen("do", { act: { what: "learn", ...how } });
  }
  byId("start").addEventListener("click", () => learn(false));
  byId("go-on").addEventListener("click", () => learn(true));
  byId("stop").addEventListener("click", () => happen("do", { act: { what: "stop" } }));

  function progressWords() {
    const { stage, step, before, disk_full: isFull } = state.facts;
    if (stage === "queued") return before ? count("new.before", before) : t("new.stage_queued");
    if (!step) return t(isFull ? "new.waits_disk_full" : "new.begins");
    return station.progressWords(step);
  }

  function showStart() {
    byId("start").disabled = !view.mayStart;
    byId("start").hidden = view.isLearning;
    byId("start").textContent = t(view.isAgain ? "new.again" : "new.start");
    byId("start-waits").hidden = !view.waitsForCheck;
    byId("stop").hidden = !view.isLearning;
    byId("stop").disabled = !view.mayStop;
    byId("go-on").hidden = !state.facts.goes_on;
    byId("go-on").disabled = !view.mayGoOn;
  }

  function showLearning() {
    showStart();
    byId("progress").hidden = !view.isLearning;
    if (state.furthest) byId("done").value = 100 * state.furthest;
    else byId("done").removeAttribute("value");
    const words = view.isLearning ? progressWords() : "";
    if (byId("progress-words").textContent !== words) byId("progress-words").textContent = words;
    byId("failed").hidden = !view.isFailed;
    if (view.isFailed) showFailure(state.facts);
    const { method } = state.facts;
    if (view.isLearning && method) for (const one of byId("methods").querySelectorAll("input[type=radio]")) one.checked = one.value === method;
  }

  let failure = ""; // that is shown
  /** What to change, in the page's words; the program's own are for engineers. */
  function showFailure({ error, error_options: options, disk_full: isFull, result }) {
    const fields = options.map((one) => t(`new.field_${one}`));
    const why = isFull ? t("new.failed_disk_full") : fields.length ? t("new.failed_about", { fields: fields.join(", ") }) : t("new.failed_other");
    const words = [t("new.failed"), why, ...(result ? [t("new.failed_kept")] : [])].join(" ");
    if (failure === `${words} ${error}`) return;
    failure = `${words} ${error}`;
    byId("failed-words").textContent = words;
    station.write(byId("failed-text"), error ?? "");
    byId("failed-more").open = !fields.length;
  }

  // The result -------------------------------------------------------------------------------------------
  let told = "";
  function showResult() {
    const { result, changed, live, live_is_this: isThis } = state.facts;
    byId("result").hidden = byId("live").hidden = !result;
    byId("changed").hidden = !changed;
    byId("is-live").hidden = byId("open").hidden = !live;
    byId("go-live").hidden = isThis;
    byId("go-live").textContent = t(live ? "new.go_live_again" : "new.go_live");
    showWarnings(result, changed);
    const key = JSON.stringify(result);
    if (key === told) return;
    told = key;
    if (!result) return byId("tried").replaceChildren();
    byId("promise").textContent = station.promise.words(result);
    if (result.interval) {
      const [low, high] = result.interval.map((one) => number(Math.round(100 * one)));
      byId("promise").textContent += ` ${t("promise.range", { low, high })}`;
    }
    const threshold = result.threshold === null ? "" : t("new.threshold", { threshold: number(result.threshold, 4) }); // each view has its own
    byId("promise-more").textContent = `${station.promise.from(result)} ${station.promise.missing(result)} ${threshold}`;
    showSearch(result.search);
    const shown = Object.entries(result.shown).map(rate);
    byId("rates").replaceChildren(...(shown.length ? shown : [make("li", {}, t("new.too_few"))]));
    byId("examples").replaceChildren(
      ...result.examples.map((one) => {
        const item = card(`${home}/examples/${one.file}`, t(`new.size_${one.size}`), mark(one.found, t(one.found ? "new.found" : "new.missed")));
        item.prepend(make("a", { href: `${home}/examples/${one.file}`, target: "_blank" }, item.querySelector("img"))); // in full size
        item.querySelector("img").alt = `${t(`new.size_${one.size}`)}: ${t(one.found ? "new.found" : "new.missed")}`;
        return item;
      }),
    );
    byId("rates-part").hidden = !result.rates.some(hasNumbers);
    const isTried = result.rates.some(({ found }) => Object.keys(found).length);
    byId("rates-found").hidden = !isTried;
    byId("rates-table").replaceChildren(...result.rates.map((one) => rateRow(one, result, isTried)));
    byId("odd").replaceChildren(
      ...result.odd.map((one) => {
        const item = card(small(one.name), one.name);
        if (one.reason) item.append(make("span", { className: "badge anomalous" }, t(`new.odd_${one.reason}`)));
        item.append(leaveOutButton(one.name));
        return item;
      }),
    );
    const asked = result.questions ?? []; // of a result of an earlier version there are none
    byId("questions").hidden = !asked.length;
    byId("asked").replaceChildren(...asked.map((line) => make("li", {}, line)));
  }

  /** Somebody waited for the result. */
  function reveal() {
    if (document.querySelector("dialog[open]")) return;
    byId("result").scrollIntoView({ block: "start" });
    byId("result-title").focus({ preventScroll: true });
  }

  /** What a person should know before it inspects. */
  function showWarnings(result, changed) {
    const found = [];
    if (changed) found.push(t("new.changed"));
    if (result && (!result.promised || result.missing)) found.push(`${station.promise.words(result)} ${station.promise.missing(result)}`.trim());
    const odd = (result?.odd ?? []).filter((one) => one.reason).map((one) => one.name);
    if (odd.length) found.push(count("new.warn_odd", odd.length, { names: odd.join(", ") }));
    for (const [size, [hits, all, , high]] of Object.entries(result?.shown ?? {})) {
      if (size !== "small" && high < MANY) found.push(t("new.warn_misses", { size: texts(`new.size_${size}`, size), found: hits, all }));
    }
    const missed = (result?.examples ?? []).filter((one) => !one.found).length;
    if (result && 2 * missed > result.examples.length) found.push(t("new.warn_examples", { missed, all: result.examples.length }));
    byId("before").hidden = !found.length || state.facts.live_is_this;
    byId("warnings").replaceChildren(...found.map((one) => make("li", {}, one)));
  }

  /** How the pictures are seen, and what else was tried. */
  function showSearch(search) {
    byId("search").hidden = !search;
    if (!search) return;
    const { chosen, trials, ended } = search;
    const others = trials.filter(({ seen }) => seen[0].key !== "given").length;
    const said = [t("new.search_chosen", { how: seenHow(chosen) })];
    if (chosen[0].key === "given") said.push(others ? count("new.search_none_better", others) : t("new.search_nothing"));
    else said.push(t("new.search_better"));
    if (!ended) said.push(t("new.search_goes_on"));
    byId("search-said").textContent = said.join(" ");
    byId("search-more").hidden = !trials.length;
    const cell = (text) => make("td", { className: "number" }, text);
    byId("search-table").replaceChildren(
      ...trials.map((one) => {
        const [alarms, found] = [one.false_alarms, one.found].map(([k, n]) => t("rates.of", { k, n }));
        const row = make("tr", {}, make("th", { scope: "row" }, seenHow(one.seen)), cell(alarms), cell(found), cell(`${number(one.milliseconds)} ms`));
        if (seenHow(one.seen) === seenHow(chosen)) row.setAttribute("aria-current", "true");
        return row;
      }),
    );
  }

  const seenHow = (seen) => seen.map(({ key, value }) => texts(`new.seen_${key}`, `${key} ${value}`, { value })).join(", ");

  function mark(isGood, words) {
    const [good, bad] = byId("marks").content.children;
    return make("span", { className: `badge ${isGood ? "good" : "anomalous"}` }, (isGood ? good : bad).cloneNode(true), words);
  }

  const hasNumbers = ({ supported, missing }) => supported || !missing;

  /** What a false-alarm rate would mean for this model. */
  function rateRow({ rate, expected, at_most, supported, missing, found }, { wanted_rate }, isTried) {
    const cell = (text) => make("td", { className: "number" }, text);
    const title = make("th", { scope: "row" }, t("rates.of_hundred", { rate: number(100 * rate, 3) }));
    const row = make("tr", {}, title);
    if (rate === wanted_rate) row.setAttribute("aria-current", "true");
    const { day } = page.data;
    if (!hasNumbers({ supported, missing })) {
      row.append(make("td", { colSpan: day ? 4 : 3, className: "small" }, count("rates.missing", missing)));
      return row;
    }
    const [k, n] = Object.values(found).reduce(([k, n], [hit, all]) => [k + hit, n + all], [0, 0]);
    row.append(cell(number(1000 * expected, 2)), cell(at_most === null ? "–" : number(1000 * at_most, 2)), ...(day ? [cell(number(day * expected, 2))] : []), ...(isTried ? [cell(n ? t("rates.of", { k, n }) : "–")] : []));
    return row;
  }

  function rate([size, [found, all, low, high]]) {
    const bar = make("meter", { max: all, value: found });
    const words = `${texts(`new.size_${size}`, size)}: ${t("new.found_of", { found, all, low: number(Math.round(100 * low)), high: number(Math.round(100 * high)) })}`;
    bar.setAttribute("aria-label", words);
    return make("li", {}, bar, words);
  }

  dropPlace(byId("try-drop"), byId("try-choose"), byId("try-files"), async (files) => {
    const some = files.filter((file) => !isLitter(file.name)).slice(0, 8);
    const form = new FormData();
    for (const file of some) form.append("files", file);
    judge(async () => {
      const answer = await fetch(`${home}/try`, { method: "POST", body: form });
      const found = await answer.json();
      if (!answer.ok) throw new station.Refused(answer.status, found.error);
      return found;
    });
  });

  /** Show how pictures are judged that are not kept. */
  async function judge(ask) {
    byId("try-said").textContent = t("new.trying");
    try {
      byId("tried").prepend(...(await ask()).results.map(tried));
      byId("try-said").textContent = "";
    } catch (error) {
      station.write(byId("try-said"), t("common.failed", { text: error.status ? error.message : t("common.lost") }));
    }
  }

  function tried(one) {
    if (one.error) return make("li", { className: "card", title: one.error }, t("new.refusal_unreadable", { name: one.name }));
    const badge = mark(one.decision === "good", t(`common.${one.decision}`));
    return card(`data:image/webp;base64,${one.overlay}`, one.name, badge, make("span", { className: "small" }, ` ${t("new.severity", { n: number(one.severity) })}`));
  }

  byId("go-live").addEventListener("click", () => {
    say(t("new.goes_live"));
    happen("do", { act: { what: "live" } });
  });
  byId("remove").addEventListener("click", () => station.sure("sure", () => happen("do", { act: { what: "remove" } })));

  // As it is ---------------------------------------------------------------------------------------------
  function advice() {
    const { pictures, least } = state.facts;
    if (pictures < least) return count("new.more", least - pictures);
    if (pictures < ENOUGH) return count("new.may_begin", ENOUGH - pictures);
    return t(pictures < USUAL ? "new.usual" : "new.enough");
  }

  function showConnection() {
    const { connection, trouble } = state;
    if (connection === "signed_out") station.signedOut();
    else if (connection === "removed") station.connected(false, t("new.removed_elsewhere"));
    else if (connection === "lost") station.connected(false, trouble.status ? t("common.failed", { text: trouble.message }) : undefined);
    else station.connected(true);
  }

  function showSteps() {
    for (const step of document.querySelectorAll("[data-step]")) {
      if (step.dataset.step === view.step) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    }
  }

  let drawn = null; // what the station said
  function draw() {
    showConnection();
    showSending();
    showStart();
    showList();
    byId("undo").hidden = !view.mayUndo;
    byId("cancelled").hidden = state.name !== "cancelled";
    byId("go-live").disabled = !view.mayGoLive;
    if (drawn === state.facts) return;
    drawn = state.facts;
    byId("count").textContent = count("new.safe", drawn.pictures);
    byId("advice").textContent = advice();
    showSteps();
    showCheck();
    showLearning();
    showResult();
    station.options?.changed();
  }

  const restart = () => happen("options", { isBlocked: station.options.blocked() });
  const look = () => happen("look");
  station.draft = { home, small, say, failed, refuse, leaveOut, look, make, restart, listed, of: () => state.facts }; // for the scripts beside this one
  follow();
  setInterval(() => happen("tick"), EVERY);
})();
