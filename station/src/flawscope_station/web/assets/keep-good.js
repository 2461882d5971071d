"use strict";
// Live: the part that is shown becomes a picture to learn from, of a product that is taught on these pages.
(() => {
  const { byId, page, t, api } = station;
  const button = byId("keep-good");
  if (!button) return;
  const say = (text) => station.write(byId("kept-good"), text);

  button.addEventListener("click", async () => {
    if (!button.dataset.shown) return say(t("live.nothing"));
    button.disabled = true;
    const shown = Number(button.dataset.shown); // of this moment: another part may come meanwhile
    const body = { product: page.product, inspection: shown };
    try {
      const [{ name, status, error }] = (await api(`/api/v1/new/${encodeURIComponent(page.product)}/capture`, { body })).results;
      const said = { kept: t("capture.kept", { name }), known: t("capture.known", { name }), refused: error };
      say(said[status]);
    } catch (error) {
      say(t("common.failed", { text: error.message }));
    }
    button.disabled = false;
    button.focus();
  });

  api("/api/v1/new")
    .then(({ products }) => (button.hidden = !products.some(({ name }) => name === page.product)))
    .catch(() => {}); // it stays hidden
})();
