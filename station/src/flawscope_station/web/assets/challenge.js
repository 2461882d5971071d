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

  /** Shows a challenge part, which is answered as a refusal; says what became of it. files: of all its views. */
  async function show(path, part, files = []) {
    const options = { method: "POST" };
    if (files.length > 1) {
      options.body = new FormData();
      for (const file of files) options.body.append("files", file);
    } else if (files.length) Object.assign(options, { body: files[0], headers: { "Content-Type": "application/octet-stream" } });
    const answer = await fetch(`${page.api}${path}?part=${encodeURIComponent(part)}`, options);
    const body = await answer.json().catch(() => ({}));
    const { error, code } = body.results?.[0] ?? body;
    if (code !== "not_production") throw new Error(error ?? `HTTP ${answer.status}`);
    const { parts } = await api("/challenge");
    return `${part}: ${t(`challenge.${parts.find((one) => one.name === part).results.at(-1)?.outcome ?? "kept"}`)}`;
  }

  const values = (form) => Object.fromEntries(new FormData(form));
  const on = (id, kind, work) => byId(id)?.addEventListener(kind, (event) => (event.preventDefault(), act(work)));

  on("begin", "click", () => api("/challenge", { body: {} }).then(() => ""));
  on("shoot", "click", () => show("/trigger", byId("shoot").dataset.part));
  on("file", "change", () => show("/inspections", byId("file").dataset.part, byId("file").files));
  on("override", "submit", () => api("/challenge/override", { body: values(byId("override")) }).then(() => ""));
  on("add", "submit", async () => {
    const { inspection, file: _, ...body } = values(byId("add"));
    const { files } = byId("add").elements.file;
    if (inspection) return api("/challenge/parts", { body: { ...body, inspection: Number(inspection) } }).then(() => "");
    await api("/challenge/parts", { body });
    if (files.length) return show("/inspections", body.name, files);
    if (byId("add").dataset.camera) return show("/trigger", body.name);
    return t("challenge.awaited", { name: body.name });
  });
  for (const button of document.querySelectorAll("[data-remove]"))
    button.addEventListener("click", () => act(() => api(`/challenge/parts/${button.dataset.remove}`, { method: "DELETE" }).then(() => "")));
  said();
  document.documentElement.dataset.ready = "yes";
})();
