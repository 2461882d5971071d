"use strict";
(() => {
  const { page, api, failed } = station;
  const EVERY = 4000; // ms between two looks

  for (const button of document.querySelectorAll("[data-post]")) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await api(button.dataset.post, { body: {} });
        location.reload();
      } catch (error) {
        failed(error);
        button.disabled = false;
      }
    });
  }

  /** The page comes anew when others are there, or somebody takes care of one. */
  async function look() {
    const { problems } = await api("/api/v1/status").catch(() => ({}));
    const now = problems?.map((one) => [one.code, one.acknowledged_by]);
    if (now && JSON.stringify(now) !== JSON.stringify(page.data)) location.reload();
    else setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
  document.documentElement.dataset.ready = "yes";
})();
