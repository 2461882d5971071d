"use strict";
// The page Live: turns what happens into events of its machine (`live-state.js`), sends its requests, and draws it.
(() => {
  const { byId, page, locale, t, count, number, time, api, connected, signedOut, picture, called, noticed, loaded, pressed, toggle, keys } = station;
  const machine = station.live;
  const EVERY = 1000; // ms between two ticks
  const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
  let audio = null;

  // The state --------------------------------------------------------------------------------------------
  const data = page.data;
  let state = machine.begin({ now: Date.now(), facts: data.facts, inspections: data.newest, bad: data.anomalous, isVisible: !document.hidden });

  /** What happened leads to the next state. */
  function happen(type, more = {}) {
    state = machine.next(state, { type, now: Date.now(), ...more });
    follow();
  }

  const REQUESTS = { ask, tone, listen: () => stream.listen(), leave: () => stream.leave() };
  function follow() {
    const { requests } = state;
    draw();
    for (const request of requests) REQUESTS[request.kind](request);
  }

  // The band ---------------------------------------------------------------------------------------------
  /** Why something is not judged, in words of the shop floor. */
  function reason(section, kind) {
    return page.texts[`${section}.${kind}`] ?? t(`${section}.other`);
  }

  /** The part that was not judged, else its picture, as its sender calls it. */
  const missed = ({ part, picture: name }) => part ?? name ?? "";

  function refusedLine({ refused }) {
    return [missed(refused), reason("refused", refused.code)].filter(Boolean).join(": ");
  }

  function awayLine({ facts }) {
    const last = facts.sources.map(({ kind, last: at }) => (kind === "camera" ? (at ?? "") : "")).sort().at(-1);
    return t(last ? "live.away_since" : "state.away", { time: last ? time(last) : "" });
  }

  function pickedLine({ picked }) {
    return t("live.said", { state: t(`state.${picked.decision}`), name: called(picked) });
  }

  // What stands below the word, and the part that is read out, by state; other states have none
  const LINES = {
    away: awayLine,
    paused: ({ facts }) => reason("wrong", facts.stopped),
    stopped: ({ facts }) => reason("wrong", facts.stopped),
    refused: refusedLine,
    idle: ({ seen }) => t("live.idle_since", { time: clock.format(new Date(seen)) }),
    trial: pickedLine,
    held: pickedLine,
  };
  const PARTS = {
    refused: ({ refused }) => missed(refused),
    ...Object.fromEntries(["good", "anomalous", "within tolerance"].map((name) => [name, ({ newest: [item] }) => item.part ?? item.name])),
  };
  const LATER = ["away", "paused", "stopped", "refused"]; // the band is of something later than the picture
  const LOOKS = { unseen: "connecting", signed_out: "lost", trial: "held" }; // of states that look like others

  function drawBand() {
    const look = LOOKS[state.name] ?? state.name;
    const word = t(`state.${state.name === "unseen" ? "connecting" : state.name}`);
    const line = LINES[state.name]?.(state) ?? "";
    const part = PARTS[state.name]?.(state) ?? "";
    byId("band").dataset.state = look;
    byId("word").textContent = word;
    byId("since").textContent = line;
    byId("since").hidden = !line;
    byId("now").textContent = t(LATER.includes(state.name) ? "live.before" : "live.now");
    say(part ? t("live.said", { state: word, name: part }) : word);
  }

  let spoken = 0;
  let toSay = null;
  /** For screen readers, at most every two seconds: the newest words. */
  function say(text) {
    if (text === say.text) return;
    toSay ??= setTimeout(() => {
      byId("said").textContent = say.text;
      spoken = Date.now();
      toSay = null;
    }, Math.max(0, spoken + 2000 - Date.now()));
    say.text = text;
  }

  /** Says that nothing comes: the station is not reached, or one is signed out. */
  function drawConnection() {
    document.body.classList.toggle("off", state.connection !== "connected");
    if (state.connection === "signed_out") signedOut();
    else if (state.connection === "lost") connected(false, state.trouble.status ? t("common.failed", { text: state.trouble.message }) : undefined);
    else connected(true);
  }

  // Where pictures come from -----------------------------------------------------------------------------
  function sourceLines(one) {
    const unseen = ["away", "frozen"].includes(one.state) && !one.last ? "_unseen" : "";
    const name = one.kind === "folder" ? one.place.split(/[\\/]/).pop() : one.name; // no server's path
    const words = { name, time: one.last ? clock.format(new Date(one.last)) : "–" };
    const found = [t(`live.source_${one.state}${unseen}`, words)];
    if (one.dropped) found.push(count("live.dropped", one.dropped));
    return found;
  }

  function drawSources(sources) {
    byId("sources-part").hidden = !sources.length;
    const lines = sources.flatMap(sourceLines);
    const there = [...byId("sources").children].map((place) => place.textContent);
    if (lines.join("\n") === there.join("\n")) return;
    byId("sources").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  }

  /** From triggers of a PLC to their outputs. */
  function drawTimes(timing) {
    for (const name of ["p50", "p99", "budget"]) {
      const milliseconds = timing?.[`${name}_ms`] ?? null;
      byId(name).parentElement.hidden = milliseconds === null;
      byId(name).textContent = `${number(milliseconds ?? 0)} ms`;
    }
    byId("missed").hidden = !timing?.missed;
    byId("missed").textContent = timing?.missed ? count("live.missed", timing.missed) : "";
  }

  function drawFacts() {
    const { facts } = state;
    byId("rate").textContent = number(60 * facts.rate, 2);
    byId("backlog").textContent = facts.backlog;
    drawSources(facts.sources);
    drawTimes(facts.timing);
    const { inspected, anomalous, since } = facts.counts; // since the shift began, as the station counts
    byId("counts").textContent = count("live.counts", inspected, { anomalous, time: clock.format(new Date(since)) });
    station.facts(facts);
  }

  // The large picture ------------------------------------------------------------------------------------
  const drawn = { id: null, layer: null };
  let isDrawing = false; // an image is on its way

  function drawPart() {
    const item = machine.shown(state);
    for (const button of byId("strip").querySelectorAll("button")) button.setAttribute("aria-current", Number(button.dataset.id) === item?.id);
    if (!item || item.id === drawPart.id) return;
    drawPart.id = item.id;
    if (byId("keep-good")) byId("keep-good").dataset.shown = item.id;
    byId("empty").hidden = true;
    byId("name").textContent = called(item);
    byId("name").href = `/${encodeURIComponent(page.product)}/inspections/${item.id}`;
    byId("at").textContent = clock.format(new Date(item.at));
    byId("severity").textContent = number(item.severity);
    byId("recognised").hidden = !item.shows;
    byId("shows").textContent = item.shows === item.product ? item.shows : t("common.none_of_these");
    byId("not-found").hidden = !noticed(item);
    byId("not-found").firstChild.textContent = noticed(item);
    byId("score").textContent = number(item.score, 4);
    byId("threshold").textContent = number(item.score_threshold, 4);
    byId("p-value").textContent = number(item.p_value);
    drawPicture();
  }

  /** Loads the shown picture; while one loads, those between it and the newest are passed over. */
  async function drawPicture() {
    const item = machine.shown(state);
    if (isDrawing || !item) return;
    const layer = pressed(byId("found")) ? "overlay" : "view";
    if (drawn.id === item.id && drawn.layer === layer) return;
    isDrawing = true;
    const stage = byId("stage");
    const wanted = Math.max(stage.clientWidth, stage.clientHeight) * Math.min(devicePixelRatio, 2);
    let image = null;
    if (item.picture) image = await loaded(picture(item, layer, wanted)).catch(() => null);
    const place = byId("shown");
    if (image) {
      Object.assign(image, { id: "shown", alt: t("common.picture_of", { name: item.name }) });
      place.replaceWith(image);
    } else place.hidden = true;
    byId("empty").hidden = Boolean(image);
    byId("empty").textContent = t(item.picture ? "common.unreadable" : "common.gone");
    Object.assign(drawn, { id: item.id, layer });
    isDrawing = false;
    drawPicture();
  }

  function drawHold() {
    const isHeld = Boolean(state.picked);
    byId("hold").setAttribute("aria-pressed", isHeld);
    byId("hold").firstChild.textContent = `${t(isHeld ? "live.release" : "live.hold")} `;
    byId("held").hidden = !isHeld;
    byId("held").textContent = state.newer ? count("live.held_newer", state.newer) : t("live.held");
  }

  // The strip and the last anomalous part ----------------------------------------------------------------
  const [good, triangle, square] = byId("marks").content.children;
  const marks = { good, anomalous: triangle, "within tolerance": square };

  function tile(item, layer = "view", side = 160) {
    const decision = machine.known(item);
    const button = document.createElement("button");
    button.type = "button";
    button.className = `tile-button ${item.unanswered ? "unanswered" : decision.replace(" ", "-")}`;
    button.dataset.id = item.id;
    const words = { name: item.name, state: item.unanswered ? t("state.refused") : t(`common.${machine.corrected(item) || item.decision}`), time: time(item.at) };
    button.setAttribute("aria-label", t("live.show", words));
    button.title = words.name;
    if (item.picture) {
      const image = new Image();
      Object.assign(image, { alt: "", src: picture(item, layer, side) });
      button.append(image);
    }
    if (!item.unanswered) button.append(marks[decision].cloneNode(true));
    button.addEventListener("click", () => happen("pick", { item }));
    return button;
  }

  const keyOf = ({ id, verdict }) => `${id} ${verdict}`; // what a tile shows

  /** Tiles that are there already stay, so that nobody who is on one of them is sent elsewhere. */
  function drawStrip() {
    const strip = byId("strip");
    const there = new Map([...strip.children].map((place) => [place.dataset.key, place]));
    const wanted = new Set(state.newest.map(keyOf));
    for (const [key, place] of there) if (!wanted.has(key)) place.remove();
    state.newest.forEach((item, k) => {
      const place = there.get(keyOf(item)) ?? entry(item);
      if (strip.children[k] !== place) strip.insertBefore(place, strip.children[k] ?? null);
    });
  }

  function entry(item) {
    const place = document.createElement("li");
    place.dataset.key = keyOf(item);
    place.append(tile(item));
    return place;
  }

  function drawBad() {
    if (!state.bad || byId("bad").dataset.key === keyOf(state.bad)) return;
    byId("bad").dataset.key = keyOf(state.bad);
    byId("no-bad").hidden = true;
    byId("bad").replaceChildren(tile(state.bad, "overlay", 320));
  }

  function draw() {
    drawBand();
    drawConnection();
    drawFacts();
    drawStrip();
    drawBad();
    drawPart();
    drawHold();
  }

  // Sound: only after somebody asked for it --------------------------------------------------------------
  function tone() {
    if (!audio) return;
    for (const [at, pitch] of [[0, 880], [0.18, 660]]) {
      const start = audio.currentTime + at;
      const voice = audio.createOscillator();
      const loudness = audio.createGain();
      voice.frequency.value = pitch;
      loudness.gain.setValueAtTime(0.25, start);
      loudness.gain.exponentialRampToValueAtTime(0.001, start + 0.17);
      voice.connect(loudness).connect(audio.destination);
      voice.start(start);
      voice.stop(start + 0.18);
    }
  }

  // The connection ---------------------------------------------------------------------------------------
  /** Asks how the product is, and for its last inspections. */
  async function ask({ question }) {
    let answer = null;
    try {
      const facts = await api("", { seconds: 5 });
      const { inspections } = await api(`/inspections?limit=${machine.LIMITS.KEPT}`);
      answer = { facts, inspections };
    } catch ({ status, message }) {
      return happen("failed", { question, status, message });
    }
    return happen("answered", { question, ...answer });
  }

  const KINDS = { inspection: "item", refusal: "found", state: "facts" }; // of messages, and what each brings
  const hear = (kind, data) => (kind === "error" ? happen("broken") : happen(kind, KINDS[kind] && { [KINDS[kind]]: data }));

  function sharedPort() {
    try {
      return new SharedWorker(document.querySelector("script[data-worker]").dataset.worker).port;
    } catch {
      return null; // this browser has none, or does not allow it
    }
  }

  /** The stream of all pages of this browser; where there is no shared worker, one of its own. */
  function openStream() {
    const port = sharedPort();
    if (port) {
      port.onmessage = ({ data: { kind, data } }) => hear(kind, data);
      port.start();
      return { listen: () => port.postMessage({ listen: page.product }), leave: () => port.postMessage({ leave: true }) };
    }
    let source = null;
    const leave = () => source?.close();
    const listen = () => {
      leave();
      source = new EventSource(`${page.api}/live`);
      source.addEventListener("open", () => hear("open"));
      for (const kind of Object.keys(KINDS)) source.addEventListener(kind, ({ data }) => hear(kind, JSON.parse(data)));
      source.addEventListener("error", () => {
        leave();
        hear("error");
      });
    };
    return { listen, leave };
  }
  const stream = openStream();

  const look = () => happen("look", { isVisible: !document.hidden });
  document.addEventListener("visibilitychange", look);
  addEventListener("pagehide", () => happen("leave"));
  addEventListener("pageshow", ({ persisted }) => persisted && look());
  addEventListener("offline", () => happen("offline"));
  setInterval(() => happen("tick"), EVERY);

  // What a person does -----------------------------------------------------------------------------------
  byId("hold").addEventListener("click", () => happen("hold"));
  toggle(byId("found"), drawPicture);
  toggle(byId("sound"), (isOn) => {
    audio?.close();
    audio = isOn ? new AudioContext() : null;
    byId("said").textContent = t(isOn ? "live.sound_on" : "live.sound_off");
    tone();
    happen("sound", { isLoud: isOn });
  });
  byId("file")?.addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    byId("sent").textContent = "";
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    try {
      const answer = await fetch(`${page.api}/inspections?purpose=trial&name=${encodeURIComponent(file.name)}`, options);
      const found = await answer.json();
      if (answer.ok) {
        happen("pick", { item: found }); // it is no part of the line, and no other page hears of it
        station.write(byId("sent"), t("live.tried", { name: found.name, state: t(`common.${found.decision}`) }));
      } else station.write(byId("sent"), t("common.failed", { text: found.error }));
    } catch {
      byId("sent").textContent = t("common.lost");
    }
    target.value = "";
  });
  keys({ h: () => happen("hold"), o: () => byId("found").click() });

  byId("ways").open = !state.newest.length;
  follow();
  document.documentElement.dataset.ready = "yes";
})();
