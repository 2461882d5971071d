"use strict";
// One inspection, and two beside each other.
(() => {
  const { byId, page, t, api, keys } = station;
  const over = document.querySelectorAll("#over, .over");
  const fade = () => over.forEach((image) => (image.style.opacity = byId("strength").value / 100));
  byId("strength")?.addEventListener("input", fade);
  if (byId("strength")) fade(); // a browser that goes back keeps the slider's place

  async function decide(verdict) {
    const buttons = document.querySelectorAll("[data-verdict]");
    buttons.forEach((button) => (button.disabled = true));
    byId("said").classList.remove("bad");
    byId("said").textContent = "";
    try {
      await api(`/inspections/${page.data.id}/verdict`, { body: { verdict, mask: null, note: byId("note").value.trim() } });
      sessionStorage.setItem("said", t("inspection.stored"));
      location.reload(); // the server says what follows from it
    } catch (error) {
      byId("said").textContent = t("common.failed", { text: error.message });
      byId("said").classList.add("bad");
      buttons.forEach((button) => (button.disabled = false));
    }
  }

  if (page.data) {
    byId("said").textContent = sessionStorage.getItem("said") ?? "";
    sessionStorage.removeItem("said");
    for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => decide(button.dataset.verdict));
    keys({ g: () => decide("good"), d: () => decide("defect"), z: () => decide("undo") });
  }
  document.documentElement.dataset.ready = "yes";
})();
