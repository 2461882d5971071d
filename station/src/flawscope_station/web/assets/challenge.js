"use strict";
(() => {
  const { byId, page, t, api, failed, later, said } = station;

  /** Does what a button or form asks for; then the page comes anew. */
  async function act(work) {
    try {
      later(await work());
    } catch (error) {
      failed(error);
    }
  }

  /** Shows a challenge part, which is answered as a refusal; says what became of it. */
  async function show(path, part, file) {
    const options = { method: "POST", body: file, headers: file ? { "Content-Type": "application/octet-stream" } : {} };
    const answer = await fetch(`${page.api}${path}?part=${encodeURIComponent(part)}`, options);
    const { error, code } = await answer.json().catch(() => ({}));
    if (code !== "not_production") throw new Error(error ?? `HTTP ${answer.status}`);
    const { parts } = await api("/challenge");
    return `${part}: ${t(`challenge.${parts.find((one) => one.name === part).results.at(-1)?.outcome ?? "kept"}`)}`;
  }

  const values = (form) => Object.fromEntries(new FormData(form));
  const on = (id, kind, work) => byId(id)?.addEventListener(kind, (event) => (event.preventDefault(), act(work)));

  on("begin", "click", () => api("/challenge", { body: {} }).then(() => ""));
  on("shoot", "click", () => show("/trigger", byId("shoot").dataset.part));
  on("file", "change", () => show("/inspections", byId("file").dataset.part, byId("file").files[0]));
  on("override", "submit", () => api("/challenge/override", { body: values(byId("override")) }).then(() => ""));
  on("add", "submit", async () => {
    const { inspection, file, ...body } = values(byId("add"));
    if (inspection) return api("/challenge/parts", { body: { ...body, inspection: Number(inspection) } }).then(() => "");
    await api("/challenge/awaited", { body });
    if (file.size) return show("/inspections", body.name, file);
    if (byId("add").dataset.camera) return show("/trigger", body.name);
    return t("challenge.awaited", { name: body.name });
  });
  for (const button of document.querySelectorAll("[data-remove]"))
    button.addEventListener("click", () => act(() => api(`/challenge/parts/${button.dataset.remove}`, { method: "DELETE" }).then(() => "")));
  said();
  document.documentElement.dataset.ready = "yes";
})();
