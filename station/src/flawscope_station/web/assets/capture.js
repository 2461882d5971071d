"use strict";
// A new product's pictures by a camera of the station, one a click, or one of each view of a part.
(() => {
  const { byId, t, api } = station;
  const { draft } = station;
  if (!draft || !byId("camera")) return;

  const EVERY = 2000; // ms between two pictures that are taken by themselves

  /** The chosen camera; where it shows a view of a part, those of all views. */
  function cameras() {
    const [chosen] = byId("camera").selectedOptions;
    const { product, view } = chosen.dataset;
    if (!view) return [chosen];
    return [...byId("camera").options].filter(({ dataset }) => dataset.product === product && dataset.view);
  }

  let number = 0; // of the part that was taken last: the list of pictures is behind
  /** The next part's name: pictures of its views are named by it. */
  function nextPart() {
    const { pictures, left_out: leftOut } = draft.listed;
    const numbers = [...pictures, ...leftOut].map((name) => Number(/^part(\d+)_/.exec(name)?.[1] ?? 0));
    number = Math.max(number, ...numbers) + 1;
    return `part${String(number).padStart(4, "0")}`;
  }

  /** Takes a picture, or one of each view; whether it can go on. */
  async function take() {
    const options = cameras();
    const part = nextPart();
    for (const option of options) {
      if (!(await takeBy(option, option.dataset.view ? part : null))) return false;
    }
    station.options.nameViews(options.map(({ dataset }) => dataset.view).filter(Boolean));
    return true;
  }

  async function takeBy(option, part) {
    const body = { product: option.dataset.product, camera: Number(option.value), part };
    try {
      const [{ name, status, error }] = (await api(`${draft.home}/capture`, { body })).results;
      if (status === "refused") draft.refuse(error);
      else draft.say(t(status === "known" ? "capture.again" : "capture.taken", { name }), status === "known");
      await draft.look();
      return status !== "refused";
    } catch (error) {
      draft.failed(error);
      return false;
    }
  }

  byId("capture").addEventListener("click", async () => {
    byId("capture").disabled = true;
    await take();
    byId("capture").disabled = false;
    byId("capture").focus();
  });

  // Faults of the camera, by frames of one part that lies still
  byId("measure").addEventListener("click", async () => {
    const [option] = byId("camera").selectedOptions;
    const body = { product: option.dataset.product, camera: Number(option.value) };
    byId("measure").disabled = true;
    byId("camera-faults").replaceChildren();
    station.write(byId("measured"), t("still.measuring"));
    try {
      const { measurements } = await api(`${draft.home}/still`, { body });
      const faults = measurements.filter(({ fault }) => fault);
      station.write(byId("measured"), t(faults.length ? "still.faults" : "still.fine"));
      byId("camera-faults").replaceChildren(...faults.map(faultItem));
    } catch (error) {
      station.write(byId("measured"), "");
      draft.failed(error);
    }
    byId("measure").disabled = false;
    byId("measure").focus();
  });

  function faultItem({ code, value }) {
    const item = document.createElement("li");
    item.textContent = t(`still.fault_${code}`, { value: station.number(Number(value.toPrecision(2))) });
    return item;
  }

  // Again and again until a second click: a pause, after which a further one goes on
  let running = false;
  function run(on) {
    running = on;
    byId("capture-all").setAttribute("aria-pressed", on);
    byId("capture-all").textContent = t(on ? "capture.pause" : "capture.all");
  }
  byId("capture-all").addEventListener("click", async () => {
    if (running) return run(false);
    run(true);
    while (running) {
      if (!(await take())) run(false);
      else await new Promise((later) => setTimeout(later, EVERY));
    }
  });
})();
