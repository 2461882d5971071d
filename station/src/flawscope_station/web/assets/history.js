"use strict";
(() => {
  const { byId } = station;
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

  document.documentElement.dataset.ready = "yes";
})();
