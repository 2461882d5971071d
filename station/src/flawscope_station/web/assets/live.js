"use strict";
(() => {
  const { byId, page, locale, t, count, number, time, api, connected, signedOut, picture, called, noticed, loaded, pressed, toggle, keys } = station;
  const KEPT = 16; // pictures in the strip
  const SILENT = 8000; // ms without a word after which the station is asked
  const AGAIN = 2000; // ms until the next try
  const IDLE = 60000; // ms after which a decision is not that of the present part any more
  let newest = []; // inspections, newest first
  let shown = null; // the one that is large
  let held = false;
  let away = ""; // every camera: since when
  let stopped = null; // kind of the problem for which nothing is inspected
  let refused = null; // what was not judged: when, why, and which part; nothing that began later was judged
  let seen = Date.now(); // when something came last
  let idle = false; // nothing came since the station began
  let newer = 0; // arrived since it is held
  let drawing = false; // an image is on its way
  let heard = Date.now();
  let audio = null;
  const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
  const drawn = { id: null, layer: null };

  // The state ------------------------------------------------------------------------------------------
  /** name: of the part. line: below the word. word: key of another one than the state's. */
  function band(state, name = "", line = "", word = state) {
    const before = byId("band").dataset.state;
    byId("band").dataset.state = state;
    byId("word").textContent = t(`state.${word}`);
    byId("since").textContent = line;
    byId("since").hidden = !line;
    const words = name ? t("live.said", { state: t(`state.${word}`), name }) : t(`state.${word}`);
    if (state !== before || words !== say.text) say(words);
  }

  let spoken = 0;
  let toSay = null;
  /** For screen readers, at most every two seconds: the newest words. */
  function say(text) {
    toSay ??= setTimeout(() => {
      byId("said").textContent = say.text;
      spoken = Date.now();
      toSay = null;
    }, Math.max(0, spoken + 2000 - Date.now()));
    say.text = text;
  }

  /** Says that nothing comes: the station is not reached, or one is signed out. */
  function lost({ status, message }) {
    const isOut = status === 401;
    band("lost", "", "", isOut ? "signed_out" : "lost");
    document.body.classList.add("off");
    if (isOut) signedOut();
    else connected(false, status ? t("common.failed", { text: message }) : undefined);
  }

  function back() {
    heard = Date.now();
    if (!document.body.classList.contains("off")) return;
    document.body.classList.remove("off");
    connected(true);
    current();
  }

  /** What the band says while the station answers: whether anything is inspected, and the present part. */
  function current() {
    if (document.body.classList.contains("off")) return;
    if (away) band("away", "", away);
    else if (stopped) band("stopped", "", reason("wrong", stopped));
    else if (refused) band("refused", missed(), [missed(), reason("refused", refused.code)].filter(Boolean).join(": "));
    else if (held && shown?.purpose === "trial") band("held", "", heldLine(), "trial");
    else if (!shown) band("waiting");
    else if (idle || Date.now() - seen >= IDLE) band("idle", "", t("live.idle_since", { time: clock.format(new Date(seen)) }));
    else if (held) band("held", "", heldLine());
    else band(shown.decision, shown.part ?? shown.name);
    const isBefore = ["away", "stopped", "refused"].includes(byId("band").dataset.state); // the band is of something later
    byId("now").textContent = t(isBefore ? "live.before" : "live.now");
  }

  const heldLine = () => t("live.said", { state: t(`state.${shown.decision}`), name: called(shown) });

  /** The part that was not judged, else its picture, as its sender calls it. */
  const missed = () => refused.part ?? refused.picture ?? "";

  /** Why something is not judged, in words of the shop floor. */
  function reason(section, kind) {
    return page.texts[`${section}.${kind}`] ?? t(`${section}.other`);
  }

  /** Something was not judged. Events come as they end: an earlier refusal leaves a later one as it is. */
  function remember(found) {
    if (!refused || found.at >= refused.at) refused = found;
  }

  /** A part came that was not judged. */
  function refuse(found, loud = true) {
    if (refused && found.at === refused.at) return; // two streams told of it
    remember(found);
    seen = Date.now();
    idle = false;
    if (loud) tone();
    current();
  }

  /** Something was judged that began at this time: what was refused later stays. */
  function forget(at) {
    if (refused && at > refused.at) refused = null;
  }

  // Where pictures come from ---------------------------------------------------------------------------
  /** Cameras and folders; while all cameras are away, the band says so, and what is shown is of before. */
  function sources(given) {
    const cameras = given.filter((one) => one.kind === "camera");
    const gone = cameras.length > 0 && cameras.every((one) => one.state === "away");
    const last = cameras.map((one) => one.last ?? "").sort().at(-1);
    away = gone ? t(last ? "live.away_since" : "state.away", { time: last ? time(last) : "" }) : "";
    byId("sources-part").hidden = !given.length;
    const lines = given.flatMap((one) => {
      const unseen = ["away", "frozen"].includes(one.state) && !one.last ? "_unseen" : "";
      const name = one.kind === "folder" ? one.place.split(/[\\/]/).pop() : one.name; // no server's path
      const words = { name, time: one.last ? clock.format(new Date(one.last)) : "–" };
      const found = [t(`live.source_${one.state}${unseen}`, words)];
      if (one.dropped) found.push(count("live.dropped", one.dropped));
      return found;
    });
    const there = [...byId("sources").children].map((place) => place.textContent);
    if (lines.join("\n") !== there.join("\n")) {
      byId("sources").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
    }
  }

  /** From triggers of a PLC to their outputs. */
  function times(given) {
    for (const name of ["p50", "p99", "budget"]) {
      const milliseconds = given?.[`${name}_ms`] ?? null;
      byId(name).parentElement.hidden = milliseconds === null;
      byId(name).textContent = `${number(milliseconds ?? 0)} ms`;
    }
    byId("missed").hidden = !given?.missed;
    byId("missed").textContent = given?.missed ? count("live.missed", given.missed) : "";
  }

  // The large picture ----------------------------------------------------------------------------------
  function show(item) {
    shown = item;
    if (byId("keep-good")) byId("keep-good").dataset.shown = item.id;
    byId("empty").hidden = true;
    current();
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
    for (const button of byId("strip").querySelectorAll("button")) button.setAttribute("aria-current", Number(button.dataset.id) === item.id);
    draw();
  }

  /** Loads the shown picture; while one loads, those between it and the newest are passed over. */
  async function draw() {
    if (drawing || !shown) return;
    const layer = pressed(byId("found")) ? "overlay" : "view";
    const item = shown;
    if (drawn.id === item.id && drawn.layer === layer) return;
    drawing = true;
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
    drawing = false;
    draw();
  }

  // The strip and the last anomalous part --------------------------------------------------------------
  const [good, triangle, square] = byId("marks").content.children;
  const marks = { good, anomalous: triangle, "within tolerance": square };

  /** What a person corrected: a false alarm, a missed defect, or nothing. */
  function corrected({ decision, verdict }) {
    if (decision === "anomalous") return verdict === "good" ? "false_alarm" : "";
    return verdict === "defect" ? "miss" : "";
  }
  const known = (item) => ({ false_alarm: "good", miss: "anomalous" })[corrected(item)] ?? item.decision;

  function tile(item, layer = "view", side = 160) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `tile-button ${item.unanswered ? "unanswered" : known(item).replace(" ", "-")}`;
    button.dataset.id = item.id;
    const words = { name: item.name, state: item.unanswered ? t("state.refused") : t(`common.${corrected(item) || item.decision}`), time: time(item.at) };
    button.setAttribute("aria-label", t("live.show", words));
    button.title = words.name;
    if (item.picture) {
      const image = new Image();
      Object.assign(image, { alt: "", src: picture(item, layer, side) });
      button.append(image);
    }
    if (!item.unanswered) button.append(marks[known(item)].cloneNode(true));
    button.addEventListener("click", () => {
      hold(true);
      show(item);
    });
    return button;
  }

  function keep(item) {
    const place = document.createElement("li");
    place.append(tile(item));
    byId("strip").prepend(place);
    while (byId("strip").children.length > KEPT) byId("strip").lastElementChild.remove();
    newest = [item, ...newest].slice(0, KEPT);
    if (known(item) === "anomalous") anomalous(item);
  }

  let waiting = null; // pictures that wait for a verdict
  /** Shows anew what people said of the last pictures; their number that wait tells of it. */
  async function reviewed(facts) {
    if (facts.waiting === waiting) return;
    const isFirst = waiting === null;
    waiting = facts.waiting;
    if (isFirst) return;
    const { inspections } = await api(`/inspections?limit=${KEPT}`).catch(() => ({ inspections: [] }));
    const verdicts = new Map(inspections.map((one) => [one.id, one.verdict]));
    const changed = newest.filter((one) => verdicts.has(one.id) && verdicts.get(one.id) !== one.verdict);
    for (const item of changed) {
      item.verdict = verdicts.get(item.id);
      byId("strip").querySelector(`[data-id="${item.id}"]`)?.replaceWith(tile(item));
    }
    const last = newest.find((one) => known(one) === "anomalous");
    if (changed.length && last) anomalous(last);
  }

  function anomalous(item) {
    byId("no-bad").hidden = true;
    byId("bad").replaceChildren(tile(item, "overlay", 320));
  }

  /** How many parts came since the shift began, and how many of them were defective: as the station counts. */
  function counted({ inspected, anomalous, since }) {
    byId("counts").textContent = count("live.counts", inspected, { anomalous, time: clock.format(new Date(since)) });
  }

  /** The newest inspection: its part is the present one. */
  function came(item, loud) {
    seen = Date.now() - (loud ? 0 : Math.max(0, stationTime() - new Date(item.at)));
    idle = false;
    if (item.unanswered) remember({ at: item.at, code: item.unanswered, part: item.part });
    else forget(item.at);
  }

  function arrived(item, loud = true) {
    if (newest.some((one) => one.id === item.id)) return;
    keep(item);
    came(item, loud);
    if (loud && item.decision === "anomalous") tone();
    if (!held) return show(item);
    newer += 1;
    byId("held").textContent = count("live.held_newer", newer);
  }

  /** Shows what somebody tried from a file: it is no part of the line, and no other page hears of it. */
  function tried(item) {
    hold(true);
    show(item);
    station.write(byId("sent"), t("live.tried", { name: item.name, state: t(`common.${item.decision}`) }));
  }

  function hold(on) {
    held = on;
    byId("hold").setAttribute("aria-pressed", on);
    byId("hold").firstChild.textContent = `${t(on ? "live.release" : "live.hold")} `;
    byId("held").hidden = !on;
    newer = on ? newer : 0;
    byId("held").textContent = on && newer ? count("live.held_newer", newer) : t("live.held");
    if (!on && newest.length) show(newest[0]);
    current();
  }

  // Sound: only after somebody asked for it ------------------------------------------------------------
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

  // The connection -------------------------------------------------------------------------------------
  let ahead = 0; // ms that the station's clock is ahead of this one
  const stationTime = () => Date.now() + ahead;

  function state(facts) {
    if (facts.at) ahead = new Date(facts.at) - Date.now();
    stopped = facts.stopped;
    byId("rate").textContent = number(60 * facts.rate, 2);
    byId("backlog").textContent = facts.backlog;
    sources(facts.sources);
    times(facts.timing);
    if (facts.counts) counted(facts.counts);
    station.facts(facts);
    reviewed(facts);
    current();
  }

  /** What came last, as the station knows it: a part that was not judged, or the newest inspection. */
  function caughtUp(facts) {
    const last = newest[0]?.at;
    if (facts.refused && facts.refused.at > (last ?? "")) {
      refuse(facts.refused, false);
      seen = Date.now() - (stationTime() - new Date(facts.refused.at));
    } else if (last && last < facts.started) idle = true; // nobody knows what was refused before the start
    current();
  }

  const told = {
    open: () => back(),
    inspection: (item) => arrived(item),
    refusal: (found) => refuse(found),
    state,
    error: () => again(),
  };
  function hear(kind, data) {
    if (document.hidden && !audio) return; // it gave its stream back
    if (kind !== "error") back();
    told[kind](data);
  }

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
      port.onmessage = ({ data }) => hear(data.kind, data.data);
      port.start();
      return { listen: () => port.postMessage({ listen: page.product }), leave: () => port.postMessage({ leave: true }) };
    }
    let source = null;
    const leave = () => source?.close();
    const listen = () => {
      leave();
      source = new EventSource(`${page.api}/live`);
      source.addEventListener("open", () => hear("open"));
      for (const kind of ["inspection", "refusal", "state"]) source.addEventListener(kind, ({ data }) => hear(kind, JSON.parse(data)));
      source.addEventListener("error", () => {
        leave();
        hear("error");
      });
    };
    return { listen, leave };
  }
  const stream = openStream();

  /** Who sees the page, or hears its tone, has its stream; a page that nobody sees leaves it to others. */
  function look() {
    if (document.hidden && !audio) stream.leave();
    else again();
  }
  document.addEventListener("visibilitychange", look);
  addEventListener("pagehide", () => stream.leave());
  addEventListener("pageshow", ({ persisted }) => persisted && look());

  let trying = false;
  /** Asks whether the station is there; then shows what was missed, and listens anew. */
  async function again() {
    if (trying) return;
    trying = true;
    for (;;) {
      try {
        const facts = await api("", { seconds: 5 });
        state(facts);
        const { inspections } = await api(`/inspections?limit=${KEPT}`);
        back();
        for (const item of inspections.reverse()) arrived(item, false);
        caughtUp(facts);
        break;
      } catch (error) {
        lost(error);
        await new Promise((resolve) => setTimeout(resolve, AGAIN));
      }
    }
    trying = false;
    if (!document.hidden || audio) stream.listen();
  }

  setInterval(() => {
    if (trying || (document.hidden && !audio) || Date.now() - heard < SILENT) return;
    heard = Date.now();
    stream.leave();
    again();
  }, 1000);
  addEventListener("offline", () => {
    stream.leave();
    again();
  });

  byId("hold").addEventListener("click", () => hold(!held));
  toggle(byId("found"), draw);
  toggle(byId("sound"), (on) => {
    audio?.close();
    audio = on ? new AudioContext() : null;
    byId("said").textContent = t(on ? "live.sound_on" : "live.sound_off");
    tone();
  });
  byId("file")?.addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    if (!file) return;
    byId("sent").textContent = "";
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    try {
      const answer = await fetch(`${page.api}/inspections?purpose=trial&name=${encodeURIComponent(file.name)}`, options);
      const found = await answer.json();
      if (answer.ok) tried(found);
      else station.write(byId("sent"), t("common.failed", { text: found.error }));
    } catch {
      byId("sent").textContent = t("common.lost");
    }
    target.value = "";
  });
  keys({ h: () => hold(!held), o: () => byId("found").click() });

  const { newest: first, anomalous: before, facts } = page.data;
  state(facts);
  if (before) anomalous(before);
  for (const item of [...first].reverse()) keep(item);
  if (newest.length) {
    came(newest[0], false);
    show(newest[0]);
  }
  byId("ways").open = !newest.length;
  caughtUp(facts);
  setInterval(current, 1000);
  if (!document.hidden) stream.listen();
  document.documentElement.dataset.ready = "yes";
})();
