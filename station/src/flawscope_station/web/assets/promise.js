"use strict";
// What a model promises of good parts, in words: of a new product, and of the version that judges.
(() => {
  const { t, count, number } = station;
  const percent = (share) => number(100 * share, 2);
  const whose = ({ of_parts }) => (of_parts ? "_parts" : ""); // views of a part are decided on together

  station.promise = {
    /** How many good parts it will call defective by mistake, or that it promises nothing. */
    words: (one) => (one.promised ? t(one.several ? "promise.rate_several" : "promise.rate", { rate: percent(one.rate) }) : t("promise.none")),

    /** How many pictures, or parts, that comes from. */
    from: (one) => (one.promised ? count(`promise.from${whose(one)}`, one.calibrated) : ""),

    /** How many more the rate that was asked for needs. */
    missing: (one) => (one.missing ? count(`promise.missing${whose(one)}`, one.missing, { rate: percent(one.wanted_rate) }) : ""),

    /** All of it, of the version that judges. */
    line: (one) => [t("promise.version", { id: one.version }), station.promise.words(one), station.promise.from(one), station.promise.missing(one)].filter(Boolean).join(" "),
  };
  for (const place of document.querySelectorAll("[data-promised]")) place.textContent = station.promise.line(JSON.parse(place.dataset.promised));
})();
