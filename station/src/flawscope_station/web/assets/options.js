"use strict";
// How a new product learns: false alarms, region, light, how parts lie. What does not go together is said
// at the click; the station knows the rules.
(() => {
  const { byId, t, count, api, draft } = station;
  if (!draft) return;
  const { home, make, listed } = draft;
  const state = draft.of();
  const DELAY = 150; // ms after a change until the station is asked
  let conflicts = 0;

  const method = () => byId("methods").querySelector("input:checked");
  const edges = ["left", "top", "right", "bottom"].map((name) => byId(`edge-${name}`));
  const region = () => edges.map((edge) => Math.min(100, Math.max(0, Number(edge.value) || 0)));

  function isEmpty() {
    const [left, top, right, bottom] = region();
    return right <= left || bottom <= top;
  }

  function roi() {
    const [left, top, right, bottom] = region();
    const isAll = left === 0 && top === 0 && right === 100 && bottom === 100;
    return isAll || isEmpty() ? null : [left, top, right, bottom].map((one) => one / 100).join(",");
  }

  const isAccurate = () => method().value === "patchcore" && Boolean(byId("accurate")?.checked);
  const controls = [...document.querySelectorAll("[data-option]")];
  const isShown = (control) => !control.closest("[hidden]");

  // An option's value in a control, by the kind of field that its record names; null: as usual
  const READ = {
    region: roi,
    number: ({ value }) => Number(value) || null,
    percent: ({ value }) => Number(value) / 100 || null,
    choice: ({ value, options }) => (value === options[0].value ? null : value),
    switch: ({ checked }) => checked || null,
    word: ({ value, checked }) => (checked ? value : null),
    views: () => patterns().view,
  };
  const WRITE = {
    region: (_, value) => value?.split(",").forEach((share, k) => (edges[k].value = Math.round(100 * share))),
    number: (control, value) => (control.value = value ?? ""),
    percent: (control, value) => (control.value = value ? Math.round(100 * value) : ""),
    choice: (control, value) => (control.value = value ?? control.options[0].value),
    switch: (control, value) => (control.checked = Boolean(value)),
    word: (control, value) => (control.checked = value === control.value),
    views: writeViews,
  };

  // Views of a part, by words in the pictures' names ------------------------------------------------------
  const viewNames = () => byId("views").value.split(",").map((one) => one.trim()).filter(Boolean);
  const stem = (name) => name.replace(/\.[^.]+$/, "");

  /** Patterns of view and part by which all pictures tell both: the part is what else stands in a name. */
  function patterns() {
    const names = viewNames().sort((one, other) => other.length - one.length);
    if (!names.length) return { view: null, part: null };
    const words = names.map((one) => one.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    const view = `(?<![^\\W\\d_])(?:${words})(?![^\\W_])`;
    const ways = [`^(.+?)[ _.-]*${view}$`, `^${view}[ _.-]*(.+)$`, `^(.+?)[ _.-]*${view}[ _.-]*(.+)$`];
    const tellsAll = (way) => listed.pictures.every((name) => new RegExp(way).test(stem(name)));
    return { view, part: ways.find(tellsAll) ?? ways[2] };
  }

  /** The pictures whose names have none of the views, or no part beside it. */
  function withoutView() {
    const { view, part } = patterns();
    return view ? listed.pictures.filter((name) => !new RegExp(part).test(stem(name))) : [];
  }

  /** The views of an earlier choice, which is kept as patterns. */
  function writeViews(control, view) {
    const words = /^\(\?<!\[\^\\W\\d_\]\)\(\?:(.*)\)\(\?!\[\^\\W_\]\)$/.exec(view ?? "")?.[1] ?? "";
    control.value = words.split("|").map((one) => one.replace(/\\(.)/g, "$1")).join(", ");
  }

  /** The options as the API takes them: what is not shown is not asked for. */
  function chosen() {
    const given = { method: method().value, part: patterns().part };
    for (const control of controls) given[control.dataset.option] = isShown(control) ? READ[control.dataset.kind](control) : null;
    return given;
  }

  // What does not go together ----------------------------------------------------------------------------
  /** Which numbers cannot be, in the page's words. */
  function outOfRange() {
    const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((name) => t(`new.edge_${name}`));
    const fields = controls.filter((control) => control.type === "number" && isShown(control));
    const numbers = [
      ...edges.map((edge, k) => [edge, [left, top, right, bottom][k]]),
      ...fields.map((field) => [field, t(`new.field_${field.dataset.option}`)]),
    ];
    const wrong = numbers.filter(([input]) => !input.validity.valid);
    const unnamed = withoutView();
    if (unnamed.length) return [t("new.no_view", { name: unnamed[0], views: viewNames().join(", ") })];
    if (wrong.length) return wrong.map(([{ min, max }, field]) => t("new.out_of_range", { field, min, max }));
    return isEmpty() ? [t("new.no_region", { left, top, right, bottom })] : [];
  }

  function conflictWords({ first, second, is_missing }) {
    const field = t(`new.field_${first}`);
    if (!is_missing) return t("new.apart", { first: field, second: t(`new.field_${second}`) });
    return t("new.needs", { first: field, shift: t("new.choice_align_shift"), turn: t("new.choice_align_turn"), full: t("new.choice_align_full") });
  }

  let asked = 0;
  /** Says it beside what was changed, and beside the button. */
  async function check(changed) {
    const mine = (asked += 1);
    let sentences = outOfRange();
    if (!sentences.length) {
      const body = chosen();
      try {
        sentences = (await api(`${home}/options`, { body })).conflicts.map(conflictWords);
      } catch (error) {
        if (error.status !== 422) return; // the notice above says why
        sentences = [t("common.failed", { text: error.message })];
      }
    }
    if (mine !== asked) return; // something else was changed meanwhile
    conflicts = sentences.length;
    byId("conflicts").hidden = !conflicts;
    byId("conflicts").replaceChildren(...sentences.map((one) => make("p", {}, one)));
    document.querySelector(".beside")?.remove();
    const place = changed?.closest("label, #edges, .region");
    if (conflicts && place) place.after(make("p", { className: "said bad beside" }, sentences.join(" ")));
    draft.restart();
  }

  let timer = null;
  function ask(changed) {
    clearTimeout(timer);
    timer = setTimeout(check, DELAY, changed);
  }
  for (const kind of ["input", "change"]) {
    for (const part of ["views-part", "auto-part", "look-at", "methods"]) {
      byId(part).addEventListener(kind, ({ target }) => {
        showRegion();
        showMinutes();
        showRate();
        ask(target);
      });
    }
  }
  function showMinutes() {
    byId("minutes-part").hidden = !method().dataset.steps;
    byId("auto-part").hidden = method().value !== "patchcore" || viewNames().length > 0; // a search makes one model for all views
    byId("auto-time").hidden = !byId("auto").checked;
  }

  /** Few pictures: a larger network is advised. */
  function showAccurate() {
    byId("accurate-part").hidden = method().value !== "patchcore" || !(draft.of().advised_preset || isAccurate());
  }
  byId("methods").addEventListener("change", showAccurate);

  // False alarms -----------------------------------------------------------------------------------------
  function showRate() {
    const there = draft.of().pictures;
    const ofPart = Math.max(1, viewNames().length); // pictures that a part has
    const missing = ofPart * Number(byId("rate").selectedOptions[0].dataset.needed) - there;
    byId("rate-few").textContent = missing > 0 && there ? count("new.rate_few", missing) : "";
  }
  byId("rate").addEventListener("change", showRate);

  // What is looked at: a rectangle, dragged or typed, and a ring as large as the smallest defect -----------
  let corner = null; // where a drag began

  function showRegion() {
    const [left, top, right, bottom] = region();
    byId("box").hidden = !roi();
    Object.assign(byId("box").style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    const size = draft.of().check?.sizes[0];
    const smallest = Number(byId("min_defect").value);
    byId("ring").hidden = !(size && smallest);
    if (size && smallest) byId("ring").style.width = `${(100 * smallest) / size.width}%`;
  }

  function pointed({ clientX, clientY }) {
    const box = byId("whole").getBoundingClientRect();
    return [(clientX - box.left) / box.width, (clientY - box.top) / box.height].map((share) => Math.round(100 * Math.min(1, Math.max(0, share))));
  }
  byId("region").addEventListener("pointerdown", (event) => {
    event.preventDefault();
    byId("region").setPointerCapture(event.pointerId);
    corner = pointed(event);
  });
  byId("region").addEventListener("pointermove", (event) => {
    if (!corner) return;
    const [x, y] = pointed(event);
    [Math.min(x, corner[0]), Math.min(y, corner[1]), Math.max(x, corner[0]), Math.max(y, corner[1])].forEach((value, k) => (edges[k].value = value));
    showRegion();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    byId("region").addEventListener(kind, () => {
      corner = null;
      ask(byId("region"));
    });
  }
  function showWhole() {
    if (!listed.pictures.length || !byId("look-at").open) return;
    byId("whole").src = `${home}/pictures/${encodeURIComponent(listed.pictures[0])}?side=1280`;
    showRegion();
  }
  byId("look-at").addEventListener("toggle", showWhole);
  byId("all-of-it").addEventListener("click", () => {
    [0, 0, 100, 100].forEach((value, k) => (edges[k].value = value));
    showRegion();
    ask(byId("region"));
  });

  // As it was chosen before ------------------------------------------------------------------------------
  byId("auto").checked = !state.method || Boolean(state.auto);
  for (const control of controls) {
    const value = state[control.dataset.option];
    if (value !== null || !control.required) WRITE[control.dataset.kind](control, value); // else the usual one stays
  }
  showMinutes();
  const rates = [...byId("rate").options];
  rates.sort((one, other) => Math.abs(one.value - (state.false_alarm_rate ?? 0.05)) - Math.abs(other.value - (state.false_alarm_rate ?? 0.05)));
  rates[0].selected = true;

  let version = 0; // of the pictures that are shown
  function changed() {
    showRate();
    showAccurate();
    if (version === listed.version) return;
    showWhole();
    version = listed.version;
    draft.restart();
  }
  /** Whether it can learn with what is chosen now: the last click counts. */
  async function ready() {
    clearTimeout(timer);
    await check(null);
    return !station.options.blocked();
  }
  /** Pictures were taken of these views: nobody has to type them. */
  function nameViews(names) {
    if (!names.length || viewNames().length) return;
    byId("views").value = names.join(", ");
    showMinutes();
  }
  station.options = { chosen, changed, nameViews, ready, blocked: () => conflicts > 0 };
  changed();
  if (state.align || state.light) check(null);
})();
