"use strict";
// How far a model in the making is, in words: of a new product, and of a version from corrections.
(() => {
  const { t } = station;
  const STAGES = [
    ["try", /^trying|^align/],
    ["test", /simulated/],
    ["cause", /^corrections/],
    ["save", /^export/],
    ["judge", /leave-one-out|calibration|judging/],
    ["choose", /coreset|prototype/],
    ["look", /feature|picture|statistic|target|copies/],
  ];

  const PLACES = { look: 1, choose: 2, practise: 2, judge: 3, test: 4, save: 5 }; // of the steps of a fit
  const LAST = 5;
  const doingOf = (step) => STAGES.find(([, pattern]) => pattern.test(step.stage))?.[0] ?? "practise";

  /** Words on a step: which of all it is, what is done, and about how long that takes. */
  station.progressWords = (step) => {
    const doing = doingOf(step);
    const place = PLACES[doing];
    const words = t(`progress.doing_${doing}`);
    const left = step.left === null ? "" : ` ${step.left < 90 ? t("progress.seconds", { n: Math.max(1, Math.round(step.left)) }) : t("progress.minutes_left", { n: Math.round(step.left / 60) })}`;
    return `${place ? t("progress.step", { k: place, n: LAST, words }) : words}${left}`;
  };

  /** How much of all steps is done, 0 to 1; null where nobody knows. */
  station.progressShare = (step) => {
    const place = PLACES[doingOf(step)];
    return place && step.total ? (place - 1 + step.done / step.total) / LAST : null;
  };
})();
