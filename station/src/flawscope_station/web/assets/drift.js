"use strict";
(() => {
  const { byId, locale, t, count, number, time, api, colour } = station;
  const AGAIN = 10000; // ms
  const YOUNG = 100; // good pictures that say little
  let found = null;
  let chart = null;

  const percent = (share) => number(100 * share, 2);

  function say(id, text) {
    station.write(byId(id), text);
    byId(id).hidden = !text;
  }

  function words() {
    const { watched, ready, good, since, alarm } = found;
    if (!watched) return t("drift.unwatched");
    const bound = t("drift.any_time", { percent: percent(found.bound) });
    if (alarm) return `${t(`drift.how_${alarm.how}`, { since: time(alarm.since) })} ${t("drift.do")} ${bound}`;
    if (!ready) return t("drift.reading");
    if (good < YOUNG) return count("drift.young", good);
    return `${t("drift.calm", { good: good.toLocaleString(locale), since: time(since) })} ${bound}`;
  }

  function camera() {
    const { watched, problems } = found.camera;
    if (!watched) return t("drift.camera_unwatched");
    return problems.map((kind) => t(`drift.camera_${kind}`)).join(" ");
  }

  /** For engineers: how much it is. */
  function numbers() {
    const { alarm } = found;
    const isRank = alarm && alarm.now !== null && ["higher", "lower"].includes(alarm.how);
    say("drift-rank", isRank ? t("drift.rank", { since: time(alarm.since), now: percent(alarm.now) }) : "");
    say("drift-bound", found.watched ? t("drift.bound") : "");
    byId("drift-more").hidden = !found.watched;
  }

  function show() {
    const { watched, ready, alarm, good } = found;
    const wrong = alarm || found.camera.problems.length > 0;
    const state = wrong ? "alarm" : good < YOUNG ? "young" : "calm";
    say("drift-said", words());
    say("drift-camera", camera());
    say("drift-state", wrong || (watched && ready) ? t(`drift.state_${state}`) : "");
    byId("drift-state").className = `badge ${{ alarm: "wrong", calm: "good", young: "plain" }[state]}`;
    if (byId("drift-normal")) byId("drift-normal").hidden = !alarm;
    if (byId("drift-more")) numbers();
    draw();
  }

  // The curve ---------------------------------------------------------------------------------------------
  /** The limit from edge to edge. */
  function limit(plot) {
    const { ctx, bbox } = plot;
    const y = plot.valToPos(found.limit, "y", true);
    ctx.save();
    ctx.strokeStyle = colour("bad");
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.setLineDash([8 * devicePixelRatio, 5 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  function draw() {
    chart?.destroy();
    chart = null;
    const place = byId("drift-chart");
    if (place) place.hidden = !found.watched || found.points.length < 2;
    if (place?.clientWidth && !place.hidden) {
      const most = found.limit + 2; // beyond it nobody needs to know how much
      const values = found.points.map((one) => Math.min(one[1], most));
      const ends = [values.reduce((a, b) => Math.min(a, b), -1), values.reduce((a, b) => Math.max(a, b), found.limit)];
      const both = { stroke: () => colour("pale"), grid: { stroke: () => colour("line"), width: 1 }, font: "12px system-ui, sans-serif" };
      const clock = new Intl.DateTimeFormat(locale, { day: "2-digit", month: "2-digit", hour: "2-digit", minute: "2-digit" });
      const powers = (plot, splits) => splits.map((value) => (Number.isInteger(value) ? number(10 ** value) : ""));
      chart = new uPlot(
        {
          width: place.clientWidth,
          height: 180,
          legend: { show: false },
          cursor: { show: false },
          series: [{}, { stroke: () => colour("ok"), width: 2, points: { show: false } }],
          axes: [
            { ...both, space: 110, values: (plot, splits) => splits.map((at) => clock.format(1000 * at)) },
            { ...both, size: 72, incrs: [1, 2, 5], label: t("drift.axis"), labelSize: 20, labelFont: "12px system-ui, sans-serif", values: powers },
          ],
          scales: { y: { range: [ends[0] - 0.3, ends[1] + 0.5] } },
          hooks: { draw: [limit] },
        },
        [found.points.map((one) => one[0]), values],
        place,
      );
    }
    document.documentElement.dataset.drift = chart ? "drawn" : "said";
  }

  async function load() {
    try {
      found = await api("/drift");
      show();
    } catch (error) {
      say("drift-said", t("common.failed", { text: error.message }));
    }
  }

  async function again() {
    await load();
    setTimeout(again, AGAIN);
  }

  // What a person says ------------------------------------------------------------------------------------
  async function acknowledge() {
    try {
      found = await api("/drift/acknowledge", { body: {} });
      show();
      say("drift-said", t("drift.acknowledged"));
    } catch (error) {
      say("drift-said", t("common.failed", { text: error.message }));
    }
  }
  byId("drift-normal")?.addEventListener("click", () => station.sure("drift-sure", acknowledge));

  let resized = null;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => found && draw(), 150);
  });
  document.addEventListener("theme", () => found && draw());
  byId("drift-more")?.addEventListener("toggle", () => found && draw());
  again();
})();
