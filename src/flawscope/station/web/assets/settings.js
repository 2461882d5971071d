"use strict";
// An administrator's page: each form and button sends what it says, and the page comes anew.
(() => {
  const { byId, t, api } = station;
  const HOME = "/api/v1/settings";
  let wanted = null; // what is removed when somebody is sure

  async function send(path, options) {
    try {
      const { secret } = await api(`${HOME}${path}`, options);
      if (!secret) return location.reload();
      byId("secret").textContent = secret;
      byId("secret-part").hidden = false;
    } catch (error) {
      if (error.status === 401) return station.signedOut();
      byId("said").textContent = t("common.failed", { text: error.message });
      byId("said").classList.add("bad");
      byId("said").scrollIntoView({ block: "center" });
    }
  }

  for (const form of document.querySelectorAll("form[data-post]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const body = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
      if (body.days) body.days = Number(body.days);
      send(form.dataset.post, { body, seconds: 60 });
    });
  }
  for (const button of document.querySelectorAll("button[data-post]")) {
    button.addEventListener("click", () => send(button.dataset.post, { body: {}, seconds: 60 }));
  }
  for (const button of document.querySelectorAll("[data-delete]")) {
    button.addEventListener("click", () => {
      wanted = button.dataset.delete;
      byId("question").textContent = t("settings.sure", { name: button.dataset.name });
      byId("sure").returnValue = "";
      byId("sure").showModal();
    });
  }
  byId("sure").addEventListener("close", () => {
    if (byId("sure").returnValue === "yes") send(wanted, { method: "DELETE", seconds: 60 });
  });
  document.documentElement.dataset.ready = "yes";
})();
