"use strict";
// The slider over the false-alarm rate: every position was computed beforehand.
(() => {
  const byId = (id) => document.getElementById(id);
  const section = byId("rate");
  if (!section) return;
  const points = JSON.parse(section.dataset.points);
  const slider = byId("rate-slider");
  const parts = byId("rate-parts");
  const first = Number(slider.value);
  const percent = (share) => `${(100 * share).toFixed(1).replace(/\.0$/, "")}\u00a0%`;
  const whole = (value) => Math.round(value).toLocaleString("en");
  const share = (count, all) => (all ? percent(count / all) : "–");

  function names(threshold) {
    const then = (picture) => picture.score > threshold;
    const changed = page.pictures
      .map((picture, index) => ({ picture, index }))
      .filter(({ picture }) => then(picture) !== picture.called);
    const text = changed.length ? "Decided differently from now: " : "";
    const shown = changed.slice(0, 12).map(({ picture, index }) => {
      const button = page.make("button", "open", picture.name);
      button.type = "button";
      button.dataset.index = index;
      const now = then(picture) ? "anomalous" : "good";
      const item = page.make("span", "change");
      item.append(button, ` ${now}, ${then(picture) === picture.anomalous ? "right" : "wrong"}`);
      return item;
    });
    const more = changed.length > 12 ? [`and ${changed.length - 12} more`] : [];
    byId("rate-names").replaceChildren(text, ...shown, ...more);
  }

  function show() {
    const point = points[slider.value];
    const daily = Math.max(0, Number(parts.value) || 0);
    const set = (id, text) => (byId(id).textContent = text);
    set("rate-value", point.rate === null ? "no promise" : point.rate_text);
    set("rate-threshold", `score threshold ${Number(point.threshold.toPrecision(4))}`);
    set("rate-missed", share(point.missed, point.defective));
    set("rate-missed-small", point.defective ? `${point.missed} of ${point.defective}, 95 % interval ${point.missed_interval}` : "no defective test pictures");
    set("rate-alarms", share(point.alarms, point.good));
    set("rate-alarms-small", point.good ? `${point.alarms} of ${point.good}, 95 % interval ${point.alarm_interval}` : "no good test pictures");
    set("rate-day", point.rate === null ? "not known" : whole(point.rate * daily));
    const seen = point.alarm_range && point.alarm_range.map((rate) => whole(rate * daily)).join(" to ");
    set("rate-day-small", `of ${whole(daily)} good parts${seen ? `; from the test alone ${seen}` : ""}`);
    set("rate-option", point.option);
    slider.setAttribute("aria-valuetext", `${point.rate_text}, ${point.missed} missed, ${point.alarms} false alarms`);
    byId("rate-now").setAttribute("d", `M${(100 * slider.value) / (points.length - 1)} 0V100`);
    byId("rate-back").disabled = Number(slider.value) === first;
    names(point.threshold);
  }
  slider.addEventListener("input", show);
  parts.addEventListener("input", show);
  byId("rate-back").addEventListener("click", () => {
    slider.value = first;
    show();
    slider.focus();
  });
  show();
})();
