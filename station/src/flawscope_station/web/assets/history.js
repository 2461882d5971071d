"use strict";
(() => {
  const { byId, page, count } = station;
  const KEY = `compare of ${page.product}`; // kept from page to page
  const form = byId("filters");

  // Times are shown and asked for in the browser's zone; the address has them in UTC.
  const twoDigits = (value) => String(value).padStart(2, "0");
  function local(iso) {
    const at = new Date(iso);
    if (Number.isNaN(at.getTime())) return "";
    return `${at.getFullYear()}-${twoDigits(at.getMonth() + 1)}-${twoDigits(at.getDate())}T${twoDigits(at.getHours())}:${twoDigits(at.getMinutes())}`;
  }
  for (const field of form.querySelectorAll("[data-iso]")) if (field.dataset.iso) field.value = local(field.dataset.iso);
  form.addEventListener("formdata", ({ formData }) => {
    for (const field of form.querySelectorAll("[data-iso]")) {
      const same = field.dataset.iso && field.value === local(field.dataset.iso);
      if (field.value) formData.set(field.name, same ? field.dataset.iso : new Date(field.value).toISOString());
    }
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });

  // Two are chosen, also from different pages; a third takes the first one's place.
  const boxes = [...document.querySelectorAll('.pick input[type="checkbox"]')];
  let chosen = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");

  function update() {
    sessionStorage.setItem(KEY, JSON.stringify(chosen));
    if (!byId("chosen")) return;
    for (const box of boxes) box.checked = chosen.includes(box.value);
    byId("how-many").parentElement.hidden = !chosen.length;
    byId("how-many").textContent = count("history.chosen", chosen.length);
    byId("compare").disabled = chosen.length !== 2;
  }

  for (const box of boxes) {
    box.addEventListener("change", () => {
      chosen = chosen.filter((id) => id !== box.value);
      if (box.checked) chosen = [...chosen, box.value].slice(-2);
      update();
    });
  }
  byId("drop")?.addEventListener("click", () => {
    chosen = [];
    update();
  });
  byId("chosen")?.addEventListener("formdata", ({ formData }) => {
    formData.delete("id");
    formData.set("a", chosen[0]);
    formData.set("b", chosen[1]);
  });
  addEventListener("pageshow", update);
  update();
  document.documentElement.dataset.ready = "yes";
})();
