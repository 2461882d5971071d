"use strict";
(() => {
  const { byId, page, t, api, say, failed, later, said, sure } = station;
  said();

  async function act(work, text) {
    say("…");
    try {
      await work();
      later(text);
    } catch (error) {
      failed(error);
    }
  }

  // Activate, and go back: asked before, because the line feels it at once ------------------------------
  for (const button of document.querySelectorAll("[data-activate]")) {
    button.addEventListener("click", () => {
      const id = button.dataset.activate;
      const losing = (button.dataset.losing ?? "").split(",").filter(Boolean).map(Number);
      byId("question").textContent = t("models.confirm", { id });
      byId("losses").hidden = !losing.length;
      byId("losses").textContent = losing.length ? t("learning.loses", { list: losing.join(", ") }) : "";
      sure("sure", () => act(() => api(`/versions/${id}/activate`, { body: { losing }, seconds: 120 }), t("models.activated", { id })));
    });
  }

  // Another false-alarm rate: the line feels it at once, and it can be taken back ------------------------
  byId("change-rate")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const rate = Number(new FormData(event.target).get("rate"));
    say("…");
    try {
      const { id } = await api(`/versions/${event.target.dataset.version}/rate`, { body: { rate }, seconds: 120 });
      later(t("rates.changed", { id }));
    } catch (error) {
      failed(error);
    }
  });

  // Learn from corrections ------------------------------------------------------------------------------

  for (const button of document.querySelectorAll("[data-learn]")) {
    const good = button.dataset.learn.split(",").filter(Boolean).map(Number); // looked at once more, on this page
    button.addEventListener("click", () => act(() => api("/learning", { body: { how: byId("how").value, good } }), t("learning.asked")));
  }
  for (const button of document.querySelectorAll("[data-reject]")) {
    const id = button.dataset.reject;
    button.addEventListener("click", () => act(() => api(`/candidates/${id}/reject`, { body: {} }), t("learning.rejected", { id })));
  }

  /** Shows how far a candidate is; the page comes anew when it is done. */
  async function follow(card) {
    const id = card.dataset.candidate;
    try {
      const { status, step } = await api(`/candidates/${id}`);
      if (status !== "queued" && status !== "running") return location.reload();
      card.querySelector("[data-step]").textContent = step ? station.progressWords(step) : t(`learning.status_${status}`);
      const share = step && station.progressShare(step);
      if (share) card.querySelector("[data-bar]").value = 100 * share;
    } catch {
      // the notice above says why
    }
    setTimeout(follow, 1000, card);
  }
  for (const card of document.querySelectorAll("[data-status=queued], [data-status=running]")) setTimeout(follow, 500, card);

  for (const button of document.querySelectorAll("[data-remove]")) {
    const id = button.dataset.remove;
    button.addEventListener("click", () => {
      byId("version-question").textContent = t("models.remove_version_sure", { id });
      sure("sure-version", () => act(() => api(`/versions/${id}`, { method: "DELETE" }), t("models.removed_version", { id })));
    });
  }

  async function remove() {
    try {
      await api("", { method: "DELETE" });
      location.assign("/");
    } catch (error) {
      failed(error);
    }
  }
  byId("remove-product")?.addEventListener("click", () => sure("sure-remove", remove));

  // Upload ----------------------------------------------------------------------------------------------
  function upload(file) {
    const words = byId("sent");
    const button = byId("upload").querySelector("button");
    const request = new XMLHttpRequest(); // fetch does not tell how far it is
    const failed = (text) => {
      station.write(words, t("common.failed", { text }));
      button.disabled = false;
      byId("bar").hidden = true;
    };
    request.open("POST", `${page.api}/versions?name=${encodeURIComponent(file.name)}`);
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
