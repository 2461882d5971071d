"use strict";
// A new product's pictures by a camera of the station, one a click.
(() => {
  const { byId, t, api } = station;
  const { draft } = station;
  if (!draft || !byId("camera")) return;

  byId("capture").addEventListener("click", async () => {
    byId("capture").disabled = true;
    const [option] = byId("camera").selectedOptions;
    const body = { product: option.dataset.product, camera: Number(option.value) };
    try {
      const [{ name, status, error }] = (await api(`${draft.home}/capture`, { body })).results;
      if (status === "refused") draft.refuse(error);
      else draft.say(t(status === "known" ? "capture.again" : "capture.taken", { name }), status === "known");
      await draft.look();
    } catch (error) {
      draft.failed(error);
    }
    byId("capture").disabled = false;
    byId("capture").focus();
  });
})();
