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

  /** Words on a step: what is done, how much of it, and about how long it takes. */
  station.progressWords = (step) => {
    const doing = STAGES.find(([, pattern]) => pattern.test(step.stage))?.[0] ?? "practise";
    const words = t(`progress.doing_${doing}`);
    const left = step.left === null ? "" : ` ${step.left < 90 ? t("progress.seconds", { n: Math.max(1, Math.round(step.left)) }) : t("progress.minutes_left", { n: Math.round(step.left / 60) })}`;
    return ["try", "save"].includes(doing) ? `${words}${left}` : `${words} ${t("progress.step", { done: step.done, all: step.total })}${left}`;
  };
})();
