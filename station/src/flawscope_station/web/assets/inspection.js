"use strict";
// One inspection, and two beside each other.
(() => {
  const { byId, page, t, api, say, failed, later, said, keys } = station;
  const over = document.querySelectorAll("#over, .over");
  const fade = () => over.forEach((image) => (image.style.opacity = byId("strength").value / 100));
  byId("strength")?.addEventListener("input", fade);
  if (byId("strength")) fade(); // a browser that goes back keeps the slider's place

  async function decide(verdict) {
    const buttons = document.querySelectorAll("[data-verdict]");
    buttons.forEach((button) => (button.disabled = true));
    say("");
    try {
      const body = { verdict, mask: null, note: byId("note").value.trim() };
      if (verdict === "defect") body.kind = byId("kind").value.trim();
      await api(`/inspections/${page.data.id}/verdict`, { body });
      later(t("inspection.stored")); // the server says what follows from it
    } catch (error) {
      failed(error);
      buttons.forEach((button) => (button.disabled = false));
    }
  }

  if (page.data) {
    said();
    for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => decide(button.dataset.verdict));
    keys({ g: () => decide("good"), d: () => decide("defect"), z: () => decide("undo") });
  }
  document.documentElement.dataset.ready = "yes";
})();
