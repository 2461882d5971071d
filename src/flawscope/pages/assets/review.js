"use strict";
(() => {
  const { byId, page, t, count, number, api, say, picture, called, noticed, loaded, pressed, toggle, keys } = station;
  const AHEAD = 6; // pictures that are loaded before their turn
  const ENOUGH = 6; // of the queue at a time: they are lent to this page, and others wait for theirs
  const AGAIN = 3000; // ms between two looks at an empty queue
  // This page, also after a reload: others are given other pictures
  const reader = (page.reader = sessionStorage.getItem("reader") ?? Math.random().toString(36).slice(2));
  sessionStorage.setItem("reader", reader);
  const only = page.data.only;

  let queue = only ? [only] : []; // what waits, oldest first; the first one is shown
  let history = page.data.done ?? []; // what was decided here, and what was passed, without a verdict: {item, verdict}
  let left = 0; // of the whole queue, as the station last said
  const DONE = `reviewed ${page.product} by ${page.person} on ${new Date().toDateString()}`; // kept over a reload
  let done = page.data.done ? history.length : Number(sessionStorage.getItem(DONE));
  let known = false; // what waits
  let asking = false;
  const seen = new Set(history.map(({ item }) => item.id)); // that were in the queue: none comes twice
  let newest = 0; // id that came from the station
  const images = new Map(); // id -> {overlay, view}: promises of images

  // Pictures, before their turn --------------------------------------------------------------------------
  function layersOf(item, both) {
    const view = byId("view");
    const wanted = Math.max(view.clientWidth || 800, view.clientHeight) * Math.min(devicePixelRatio, 2);
    const found = images.get(item.id) ?? {};
    images.set(item.id, found);
    const load = (layer) => loaded(picture(item, layer, wanted)).catch(() => null);
    if (!item.picture) return { overlay: Promise.resolve(null), view: Promise.resolve(null) };
    found.overlay ??= load("overlay");
    if (both) found.view ??= load("view");
    return found;
  }

  function prefetch() {
    queue.slice(0, AHEAD).forEach((item, k) => layersOf(item, k < 2));
    const near = new Set([...queue.slice(0, AHEAD), ...history.slice(-3).map(({ item }) => item)].map(({ id }) => id));
    for (const id of images.keys()) if (!near.has(id)) images.delete(id);
  }

  async function fill() {
    if (only || asking || page.over || queue.length >= ENOUGH) return;
    asking = true;
    const before = outbox.empty() ? done : null;
    try {
      if (!queue.length && outbox.empty()) {
        seen.clear(); // what others put back, and what was passed, comes again
        newest = 0;
      }
      const { inspections, waiting } = await api(`/review?limit=${ENOUGH}&reader=${reader}${newest ? `&after=${newest}` : ""}`);
      if (before === done) left = waiting; // else it was counted before the last verdicts
      known = true;
      const empty = !queue.length;
      for (const item of inspections) {
        newest = Math.max(newest, item.id);
        if (seen.has(item.id) || outbox.has(item.id)) continue;
        seen.add(item.id);
        outbox.note(item);
        queue.push(item);
        history = history.filter((one) => one.verdict || one.item.id !== item.id);
      }
      if (empty) show();
      else prefetch();
    } catch {
      // pages.js says so, and the queue is asked again
    }
    asking = false;
    progress();
  }

  // The picture whose turn it is -------------------------------------------------------------------------
  function show() {
    const item = queue[0];
    leaveOutline();
    byId("work").hidden = !item;
    byId("end").hidden = Boolean(item);
    for (const id of ["good", "defect", "skip", "next"]) byId(id).setAttribute("aria-disabled", !item);
    for (const id of ["good", "defect", "skip"]) byId(id).setAttribute("aria-pressed", item?.said === id);
    byId("previous").setAttribute("aria-disabled", !history.length);
    if (!item) return finished();
    byId("name").textContent = byId("name").title = called(item);
    const share = number(100 * page.data.near, 2); // for every 100 false alarms
    const offered = item.near ? `. ${t("review.near", { share })}` : "";
    byId("called").textContent = t("review.called", { decision: t(`common.${item.decision}`) }) + offered;
    const near = item.near ? ` · ${t("common.near")}` : "";
    const remarks = noticed(item) ? ` · ${noticed(item)}` : "";
    const detail = item.detail ? ` · ${item.detail}` : ""; // of the page that stands alone
    byId("numbers").textContent = `${t("common.severity")} ${number(item.severity)}${near}${remarks}${detail}`;
    byId("numbers").title = t("common.severity_more");
    byId("views").hidden = !item.views?.length; // of the page that stands alone, too
    byId("views").firstChild.textContent = t("review.views", { part: item.part, state: t(`common.${item.decision}`) });
    byId("views").firstChild.href = `/${encodeURIComponent(page.product)}/inspections/${item.id}#views`;
    byId("note").value = item.note ?? "";
    prefetch();
    byId("layers").replaceChildren();
    byId("layers").dataset.id = "";
    byId("missing").hidden = true;
    zoom(pressed(byId("zoom")));
    put(item);
  }

  /** Puts the layers where they are seen, each as soon as it is there. */
  function put(item) {
    const layers = layersOf(item, true);
    const place = (image, layer) => {
      if (queue[0] !== item) return;
      if (!image) {
        byId("missing").hidden = seeing();
        byId("missing").textContent = t(item.picture ? "common.unreadable" : "common.gone");
        delete images.get(item.id)?.[layer]; // tried again before long
        return;
      }
      byId("missing").hidden = true;
      image.className = layer === "overlay" ? "found" : "";
      image.alt = layer === "view" ? t("common.picture_of", { name: item.name }) : "";
      byId("layers").dataset.id = item.id;
      if (layer === "view") byId("layers").prepend(image);
      else byId("layers").append(image);
    };
    layers.overlay.then((image) => place(image, "overlay"));
    layers.view.then((image) => place(image, "view"));
  }

  const seeing = () => Boolean(queue[0]) && byId("layers").dataset.id === String(queue[0].id);

  function finished() {
    const more = !only && (!known || left > 0); // they are on their way, or others have them
    const coming = known && outbox.empty() ? "review.with_others" : "review.coming";
    byId("end-title").textContent = t(only ? "review.only_done" : more ? coming : "review.empty");
    byId("end-words").hidden = Boolean(only) || more;
    byId("layers").replaceChildren();
    if (document.activeElement === document.body) byId("end-title").focus({ preventScroll: true });
  }

  function progress() {
    left = Math.max(left, queue.length);
    byId("left").textContent = count("review.left", only ? queue.length : left);
    byId("done").textContent = t("review.done", { done });
    if (known) station.waits(left);
    sessionStorage.setItem(DONE, done);
    document.documentElement.dataset.done = done;
  }

  // Verdicts ---------------------------------------------------------------------------------------------
  function decide(verdict) {
    const item = queue[0];
    if (!item) return;
    if (verdict !== "skip" && !seeing()) return say(t("review.loading")); // nobody judges what was not seen
    const edited = verdict === "defect" && brush.changed();
    const note = byId("note").value.trim();
    const before = item.said; // decided already, and turned to again
    if (before !== verdict || edited || note !== (item.note ?? "")) {
      if (before) tell(item, "undo");
      tell(item, verdict, edited ? brush.mask() : null, note);
    }
    if (byId("note") === document.activeElement) byId("note").blur();
    queue.shift();
    history.push({ item: { ...item, note, said: null }, verdict });
    if (!before) tally(1);
    flash(verdict, item);
    show();
    progress();
    if (queue.length < ENOUGH / 2) fill();
  }

  function undo() {
    while (!queue[0]?.said && history.length && !history.at(-1).verdict) queue.unshift(history.pop().item);
    if (!queue[0]?.said) {
      const before = history.pop();
      if (!before) return say(t("review.nothing_to_undo"));
      queue.unshift(before.item);
    }
    const item = queue[0];
    item.said = null;
    tell(item, "undo");
    tally(-1);
    flash("undo", item);
    show();
    progress();
  }

  function tell({ id, name }, verdict, mask = null, note = "") {
    outbox.add({ id, name, verdict, mask, note });
  }

  function tally(more) {
    left = Math.max(0, left - more);
    done += more;
  }

  // Turning pages: nothing is decided --------------------------------------------------------------------
  function previous() {
    const before = history.pop();
    if (!before) return;
    queue.unshift({ ...before.item, said: before.verdict });
    show();
  }

  function next() {
    if (!queue.length || only) return;
    const item = queue.shift();
    history.push({ item: { ...item, said: null }, verdict: item.said ?? null });
    show();
    fill();
  }

  function flash(id, item) {
    for (const button of document.querySelectorAll(".choose .just")) button.classList.remove("just");
    byId(id).classList.add("just");
    setTimeout(() => byId(id).classList.remove("just"), 250);
    say(t(`review.said_${id}`, { name: item.name }));
  }

  /** Ends `flawscope review`, which shows this page alone, when all is stored. */
  async function finish() {
    while (!outbox.empty()) await new Promise((stored) => setTimeout(stored, 50));
    try {
      await api("/done", { body: {} });
    } catch (error) {
      return say(error.message, true);
    }
    page.over = true;
    queue = history = [];
    show();
    byId("end-title").textContent = t("review.ended");
    byId("end-words").hidden = true;
    for (const button of document.querySelectorAll(".finish, .choose")) button.hidden = true;
  }

  // The outline ------------------------------------------------------------------------------------------
  const maskOf = (item) => `${page.api}/inspections/${item.id}/mask`;

  async function outline(erasing = false) {
    const item = queue[0];
    if (!item?.picture) return;
    if (byId("brushes").hidden) {
      byId("brushes").hidden = false;
      byId("edit").setAttribute("aria-pressed", true);
      byId("view").classList.add("bare"); // the found outline would hide the one that is drawn
      await brush.open(item, maskOf(item), () => say(t("review.edited")));
      byId("canvas").focus({ preventScroll: true });
    }
    brush.erase(erasing);
    byId("brush").setAttribute("aria-pressed", !erasing);
    byId("erase").setAttribute("aria-pressed", erasing);
  }

  function leaveOutline() {
    byId("brushes").hidden = true;
    byId("edit").setAttribute("aria-pressed", false);
    byId("view").classList.toggle("bare", !pressed(byId("found")));
    brush.close();
  }

  for (const id of ["good", "defect", "skip"]) byId(id).addEventListener("click", () => decide(id));
  for (const [id, action] of Object.entries({ undo, previous, next })) byId(id).addEventListener("click", action);
  for (const button of document.querySelectorAll(".finish")) button.addEventListener("click", finish);
  byId("edit").addEventListener("click", () => (byId("brushes").hidden ? outline() : leaveOutline()));
  byId("brush").addEventListener("click", () => outline(false));
  byId("erase").addEventListener("click", () => outline(true));
  byId("clear").addEventListener("click", () => brush.clear());
  byId("reset").addEventListener("click", () => brush.reset(maskOf(queue[0])));
  byId("close").addEventListener("click", leaveOutline);
  toggle(byId("found"), (on) => byId("view").classList.toggle("bare", !on));
  /** Larger: around the strongest mark, else around the middle of the picture. */
  function zoom(on) {
    const view = byId("view");
    view.classList.toggle("near", on);
    if (!on || !queue[0]) return;
    const { width, height, regions } = queue[0];
    const layers = byId("layers").getBoundingClientRect(); // the picture is fitted into its middle
    const [x, y] = regions?.[0]?.centroid ?? [width / 2, height / 2];
    const scale = width ? Math.min(layers.width / width, layers.height / height) : 0;
    /** Where it begins, so that nothing beside the picture is seen while there is more of it. */
    const begin = (whole, seen, side, at) => {
      const most = Math.max(0, scale * side - seen) / 2;
      return (whole - seen) / 2 + Math.max(-most, Math.min(most, scale * (at - side / 2)));
    };
    view.scrollTo(begin(layers.width, view.clientWidth, width, x), begin(layers.height, view.clientHeight, height, y));
  }
  toggle(byId("zoom"), zoom);
  keys({
    g: () => decide("good"),
    f: () => decide("good"),
    d: () => decide("defect"),
    s: () => decide("skip"),
    z: undo,
    u: undo,
    arrowleft: previous,
    arrowright: next,
    b: () => outline(false),
    e: () => outline(true),
    o: () => byId("found").click(),
    h: () => byId("found").click(),
    n: () => byId("note").focus(),
    escape: () => (document.activeElement === byId("note") ? byId("note").blur() : leaveOutline()),
  });

  byId("view").classList.toggle("bare", !pressed(byId("found")));
  outbox.start(
    () => {},
    () => fill(),
  );
  if (only) outbox.note(only);
  if (!page.data.done) {
    addEventListener("pagehide", () => navigator.sendBeacon(`${page.api}/review/release?reader=${reader}`)); // others may have them
    addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
  }
  show();
  progress();
  fill();
  setInterval(() => {
    fill();
    if (!page.over && queue[0]?.picture && !byId("missing").hidden) put(queue[0]);
  }, AGAIN);
  document.documentElement.dataset.ready = "yes";
})();
