"use strict";
// A new product's pictures by a camera: what it shows, focus and light in words, one picture a click or every few seconds.
(() => {
  const { byId, page, t, count, api } = station;
  const draft = station.draft;
  if (!draft || !byId("capture-part")) return;
  const AGAIN = 400; // ms between two looks through the camera
  const LATER = 3000; // after one that failed
  const LOST = 0.3; // octaves of sharpness that are worth a word
  const FORGET = 0.97; // how fast the best sharpness is forgotten, so that another part is no fault
  const camera = byId("camera");
  let best = null; // sharpness
  let series = null; // while pictures are taken by themselves

  const chosen = () => {
    const { product } = camera.selectedOptions[0].dataset;
    return product ? { product, camera: Number(camera.value) } : {};
  };

  /** What is wrong with focus and light, in words; the first pictures have nothing to be compared with. */
  function words({ hints, sharpness }) {
    if (hints.length) return hints.map((one) => t(`capture.hint_${one}`)).join(" ");
    if (best - sharpness > LOST) return t("capture.was_sharper");
    return t(draft.of().pictures ? "capture.fine" : "capture.first");
  }

  function show(seen) {
    best = best === null || seen.sharpness > best ? seen.sharpness : FORGET * best + (1 - FORGET) * seen.sharpness;
    byId("view").src = `data:image/webp;base64,${seen.picture}`;
    byId("view").hidden = false;
    byId("focus").value = 100 * 2 ** Math.min(0, seen.sharpness - best);
    byId("brightness").value = 100 * seen.brightness;
    const alike = seen.alike ? ` ${t("capture.shows_again", { name: seen.alike })}` : "";
    hint(`${words(seen)}${alike}`);
  }

  function hint(text) {
    if (byId("view-said").textContent !== text) byId("view-said").textContent = text; // else it is read out again and again
  }

  const isLooking = () => byId("capture-part").open && camera.options.length && !document.hidden && !draft.of().live_is_this;
  async function look() {
    let pause = AGAIN;
    if (isLooking()) {
      try {
        show(await api(`${draft.home}/view?${new URLSearchParams(chosen())}`));
      } catch (error) {
        if (error.status === 401) return station.signedOut();
        hint(error.message);
        pause = LATER;
      }
    }
    setTimeout(look, pause);
  }

  async function capture() {
    try {
      const [{ name, status, error, seen }] = (await api(`${draft.home}/capture`, { body: chosen() })).results;
      if (status === "refused") draft.refuse(error);
      else if (status === "known") draft.say(t("capture.again"), true);
      else if (seen?.alike) {
        draft.say(t("capture.alike", { name: seen.alike }), true);
        draft.offer(name);
      } else draft.say([t("capture.taken", { name }), ...seen.hints.map((one) => t(`capture.hint_${one}`))].join(" "), seen.hints.length > 0);
      await draft.look();
    } catch (error) {
      draft.failed(error);
    }
  }

  byId("capture").addEventListener("click", async () => {
    byId("capture").disabled = true;
    await capture();
    byId("capture").disabled = false;
    byId("capture").focus();
  });
  async function takeAll(isOn) {
    byId("series").setAttribute("aria-pressed", String(isOn));
    byId("series").textContent = t(isOn ? "capture.end" : "capture.begin");
    const mine = (series = isOn ? {} : null);
    while (mine && series === mine) {
      await capture();
      await new Promise((later) => setTimeout(later, 1000 * Math.max(1, Number(byId("pause").value) || 1)));
    }
  }
  byId("series").addEventListener("click", () => takeAll(series === null));
  byId("start").addEventListener("click", () => takeAll(false)); // what comes later would not be learnt
  byId("capture-part").addEventListener("toggle", () => {
    if (byId("capture-part").open && byId("name-source")?.open) byId("name-camera").elements.camera.focus();
  });
  camera.addEventListener("change", () => (best = null));
  byId("try-camera").addEventListener("click", () => draft.judge(() => api(`${draft.home}/try-capture`, { body: chosen(), seconds: 60 })));

  // Where pictures come from ------------------------------------------------------------------------------
  async function name(source) {
    try {
      await api(`${draft.home}/source`, { method: "PUT", body: source });
      location.reload();
    } catch (error) {
      draft.failed(error);
    }
  }
  for (const id of ["name-camera", "name-folder"]) {
    byId(id)?.addEventListener("submit", (event) => {
      event.preventDefault();
      name(Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value)));
    });
  }
  const { every, latency } = byId("name-camera")?.elements ?? {};
  every?.addEventListener("change", () => {
    latency.required = every.value === "trigger"; // an older frame would be of another part
    byId("latency-part").hidden = !latency.required;
    if (!latency.required) latency.value = "";
  });
  byId("source-end")?.addEventListener("click", () => name({}));

  function changed() {
    const { source } = draft.of();
    byId("source-part").hidden = !source;
    if (!source) return;
    const { kind, place, taken, refused, why } = source;
    const told = [t(`capture.from_${kind}`, { place })];
    if (kind !== "camera") told.push(count("capture.filled", taken));
    if (refused) told.push(count("capture.refused", refused));
    if (why) told.push(why);
    if (byId("source-said").textContent !== told.join(" ")) byId("source-said").textContent = told.join(" ");
  }
  for (const id of ["camera-part", "try-camera"]) byId(id).hidden = !camera.options.length;
  draft.changed = changed;
  changed();
  look();
})();
