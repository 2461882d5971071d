"use strict";
// An administrator's page: each form and button sends what it says, and the page comes anew.
(() => {
  const { byId, t, api } = station;
  const HOME = "/api/v1/settings";

  async function send(path, options) {
    try {
      const { secret } = await api(`${HOME}${path}`, options);
      if (!secret) return location.reload();
      byId("secret").textContent = secret;
      byId("secret-part").hidden = false;
    } catch (error) {
      station.failed(error);
      byId("said").scrollIntoView({ block: "center" });
    }
  }

  /** What a form says: settings.serial stands in settings. What is empty is left out, or null where all is set. */
  function said(form) {
    const body = {};
    for (const { name, type, value, checked } of form.elements) {
      const given = type === "checkbox" ? checked : value || null;
      if (!name || (given === null && !form.dataset.put)) continue;
      const [at, inner] = name.split(".");
      if (inner) (body[at] ??= {})[inner] = given;
      else body[at] = name === "days" ? Number(given) : given;
    }
    return body;
  }

  for (const form of document.querySelectorAll("form")) {
    const { post, put } = form.dataset;
    if (!post && !put) continue;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(post ?? put, { method: post ? "POST" : "PUT", body: said(form), seconds: 60 });
    });
  }
  for (const button of document.querySelectorAll("button[data-post]")) {
    button.addEventListener("click", () => send(button.dataset.post, { body: {}, seconds: 60 }));
  }
  for (const button of document.querySelectorAll("[data-delete]")) {
    button.addEventListener("click", () => {
      byId("question").textContent = t("settings.sure", { name: button.dataset.name });
      station.sure("sure", () => send(button.dataset.delete, { method: "DELETE", seconds: 60 }));
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
