"use strict";
// A new product's pictures by a camera of the station, one a click.
(() => {
  const { byId, t, api } = station;
  const { draft } = station;
  if (!draft || !byId("camera")) return;

  const chosen = () => {
    const [option] = byId("camera").selectedOptions;
    return { product: option.dataset.product, camera: Number(option.value) };
  };

  byId("capture").addEventListener("click", async () => {
    byId("capture").disabled = true;
    try {
      const [{ name, status, error }] = (await api(`${draft.home}/capture`, { body: chosen() })).results;
      if (status === "refused") draft.refuse(error);
      else draft.say(t(status === "known" ? "capture.again" : "capture.taken", { name }), status === "known");
      await draft.look();
    } catch (error) {
      draft.failed(error);
    }
    byId("capture").disabled = false;
    byId("capture").focus();
  });
  byId("try-camera").hidden = false;
  byId("try-camera").addEventListener("click", () => draft.judge(() => api(`${draft.home}/try-capture`, { body: chosen(), seconds: 60 })));
})();
