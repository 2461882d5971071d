"use strict";
(() => {
  const { byId, page, csrf, t, api } = station;

  function say(text, bad = false) {
    byId("said").textContent = text;
    byId("said").classList.toggle("bad", bad);
  }

  /** What is said after the page came anew. */
  function later(text) {
    sessionStorage.setItem("said", text);
    location.reload();
  }

  say(sessionStorage.getItem("said") ?? "");
  sessionStorage.removeItem("said");

  // Activate, and go back: asked before, because the line feels it at once ------------------------------
  let wanted = null;
  for (const button of document.querySelectorAll("[data-activate]")) {
    button.addEventListener("click", () => {
      wanted = button.dataset.activate;
      byId("sure").returnValue = "";
      byId("question").textContent = t("models.confirm", { id: wanted });
      byId("sure").showModal();
      byId("yes").focus();
    });
  }
  byId("sure")?.addEventListener("close", async () => {
    if (byId("sure").returnValue !== "yes") return;
    say("…");
    try {
      await api(`/versions/${wanted}/activate`, { body: {}, seconds: 120 });
      later(t("models.activated", { id: wanted }));
    } catch (error) {
      say(t("common.failed", { text: error.message }), true);
    }
  });

  // Upload ----------------------------------------------------------------------------------------------
  function upload(file) {
    const words = byId("sent");
    const button = byId("upload").querySelector("button");
    const request = new XMLHttpRequest(); // fetch does not tell how far it is
    const failed = (text) => {
      words.textContent = t("common.failed", { text });
      button.disabled = false;
      byId("bar").hidden = true;
    };
    request.open("POST", `${page.api}/versions?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      byId("bar").value = (100 * loaded) / total;
      words.textContent = loaded < total ? t("models.sending", { percent: Math.round((100 * loaded) / total) }) : t("models.checking");
    });
    request.addEventListener("error", () => failed(t("common.lost")));
    request.addEventListener("load", () => {
      let found = {};
      try {
        found = JSON.parse(request.responseText);
      } catch {
        // no answer of the station: the status says enough
      }
      if (request.status === 201) later(t("models.uploaded", { id: found.id }));
      else failed(found.error ?? `HTTP ${request.status}`);
    });
    button.disabled = true;
    byId("bar").hidden = false;
    request.send(file);
  }

  byId("upload")?.addEventListener("submit", (event) => {
    event.preventDefault();
    upload(byId("file").files[0]);
  });
  document.documentElement.dataset.ready = "yes";
})();
