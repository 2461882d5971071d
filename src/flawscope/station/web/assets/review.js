"use strict";
(() => {
  const { byId, page, t, count, number, api, picture, called, loaded, pressed, toggle, keys } = station;
  const AHEAD = 6; // pictures that are loaded before their turn
  const ENOUGH = 20; // of the queue at a time
  const AGAIN = 3000; // ms between two looks at an empty queue
  const READER = Math.random().toString(36).slice(2); // this page: others are given other pictures
  const only = page.data.only;

  let queue = only ? [only] : []; // what waits, oldest first; the first one is shown
  let history = []; // what was decided here: {item, verdict}
  let left = 0; // of the whole queue, as the station last said
  const DONE = `reviewed ${page.product} by ${page.person} on ${new Date().toDateString()}`; // kept over a reload
  let done = Number(sessionStorage.getItem(DONE));
  let known = false; // what waits
  let asking = false;
  const seen = new Set(); // ids that were in the queue: none comes twice
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
    if (only || asking || queue.length >= ENOUGH) return;
    asking = true;
    const before = outbox.empty() ? done : null;
    try {
      if (!queue.length && outbox.empty()) seen.clear(); // what others put back comes again
      const after = Math.max(0, ...seen);
      const { inspections, waiting } = await api(`/review?limit=${ENOUGH}&reader=${READER}${after ? `&after=${after}` : ""}`);
      if (before === done) left = waiting; // else it was counted before the last verdicts
      known = true;
      const empty = !queue.length;
      for (const item of inspections) {
        if (seen.has(item.id) || outbox.has(item.id)) continue;
        seen.add(item.id);
        queue.push(item);
      }
      if (empty) show();
      else prefetch();
    } catch {
      // station.js says so, and the queue is asked again
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
    for (const id of ["good", "defect", "skip"]) byId(id).setAttribute("aria-disabled", !item);
    if (!item) return finished();
    byId("name").textContent = called(item);
    byId("called").textContent = t("review.called", { decision: t(`common.${item.decision}`) });
    const near = item.near ? ` · ${t("common.near")}` : "";
    byId("numbers").textContent = `${t("common.severity")} ${number(item.severity)}${near}`;
    byId("numbers").title = t("common.severity_more");
    byId("note").value = item.note ?? "";
    prefetch();
    byId("layers").replaceChildren();
    byId("layers").dataset.id = "";
    byId("missing").hidden = true;
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
    const more = !only && (!known || left > 0); // they are on their way
    byId("end-title").textContent = t(only ? "review.only_done" : more ? "review.coming" : "review.empty");
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
    outbox.add({ id: item.id, name: item.name, verdict, mask: edited ? brush.mask() : null, note: byId("note").value.trim() });
    if (byId("note") === document.activeElement) byId("note").blur();
    queue.shift();
    history.push({ item: { ...item, note: byId("note").value.trim() }, verdict });
    left = Math.max(0, left - 1);
    done += 1;
    flash(verdict, item);
    show();
    progress();
    if (queue.length < ENOUGH / 2) fill();
  }

  function undo() {
    const before = history.pop();
    if (!before) return say(t("review.nothing_to_undo"));
    outbox.add({ id: before.item.id, name: before.item.name, verdict: "undo", mask: null, note: "" });
    queue.unshift(before.item);
    left += 1;
    done -= 1;
    flash("undo", before.item);
    show();
    progress();
  }

  function flash(id, item) {
    for (const button of document.querySelectorAll(".choose .just")) button.classList.remove("just");
    byId(id).classList.add("just");
    setTimeout(() => byId(id).classList.remove("just"), 250);
    say(t(`review.said_${id}`, { name: item.name }));
  }

  function say(text, bad = false) {
    byId("said").textContent = text;
    byId("said").classList.toggle("bad", bad);
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
  byId("undo").addEventListener("click", undo);
  byId("edit").addEventListener("click", () => (byId("brushes").hidden ? outline() : leaveOutline()));
  byId("brush").addEventListener("click", () => outline(false));
  byId("erase").addEventListener("click", () => outline(true));
  byId("clear").addEventListener("click", () => brush.clear());
  byId("reset").addEventListener("click", () => brush.reset(maskOf(queue[0])));
  byId("close").addEventListener("click", leaveOutline);
  toggle(byId("found"), (on) => byId("view").classList.toggle("bare", !on));
  toggle(byId("zoom"), (on) => byId("view").classList.toggle("near", on));
  keys({
    g: () => decide("good"),
    d: () => decide("defect"),
    s: () => decide("skip"),
    z: undo,
    b: () => outline(false),
    e: () => outline(true),
    o: () => byId("found").click(),
    n: () => byId("note").focus(),
    escape: () => (document.activeElement === byId("note") ? byId("note").blur() : leaveOutline()),
  });

  byId("view").classList.toggle("bare", !pressed(byId("found")));
  outbox.start(
    () => {},
    () => fill(),
  );
  show();
  progress();
  fill();
  setInterval(() => {
    fill();
    if (queue[0]?.picture && !byId("missing").hidden) put(queue[0]);
  }, AGAIN);
  document.documentElement.dataset.ready = "yes";
})();
