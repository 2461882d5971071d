"use strict";
// A new product's pictures by a camera of the station, one a click.
(() => {
  const { byId, t, api } = station;
  const { draft } = station;
  if (!draft || !byId("camera")) return;

  const EVERY = 2000; // ms between two pictures that are taken by themselves

  /** Takes a picture; whether it can go on. */
  async function take() {
    const [option] = byId("camera").selectedOptions;
    const body = { product: option.dataset.product, camera: Number(option.value) };
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
