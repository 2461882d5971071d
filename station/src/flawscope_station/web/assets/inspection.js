"use strict";
// One inspection, and two beside each other.
(() => {
  const { byId, page, t, api, say, failed, later, said, sure, keys } = station;
  const over = document.querySelectorAll("#over, .over");
  const fade = () => over.forEach((image) => (image.style.opacity = byId("strength").value / 100));
  byId("strength")?.addEventListener("input", fade);
  if (byId("strength")) fade(); // a browser that goes back keeps the slider's place

  const word = (verdict) => t(verdict === "undo" ? "inspection.undo" : `review.${verdict}`);

  /** Asks whether a verdict that somebody else gave meanwhile is to be replaced. */
  function ask(verdict, held) {
    const by = held.by === page.person ? t("review.other_window") : held.by;
    const values = { name: document.querySelector("h1").textContent, by, theirs: held.verdict && word(held.verdict) };
    byId("decided-question").textContent = t(held.verdict ? "review.decided" : "review.taken_back", values);
    byId("replace").textContent = t("review.say_mine", { mine: word(verdict) });
    sure("decided", () => decide(verdict, held.verdict_id ?? 0));
    byId("decided").addEventListener("close", () => byId("decided").returnValue === "yes" || location.reload(), { once: true });
  }

  /** seen: the verdict that was there, 0 for none. */
  async function decide(verdict, seen = page.data.verdict_id ?? 0) {
    const buttons = document.querySelectorAll("[data-verdict]");
    buttons.forEach((button) => (button.disabled = true));
    say("");
    try {
      const body = { verdict, mask: null, note: byId("note").value.trim(), replaces: seen };
      if (verdict === "defect") body.kind = byId("kind").value.trim();
      await api(`/inspections/${page.data.id}/verdict`, { body });
      later(t("inspection.stored")); // the server says what follows from it
    } catch (error) {
      if (error.code === "decided") ask(verdict, error.answer);
      else failed(error);
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
