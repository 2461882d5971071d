"use strict";
(() => {
  const { byId, page, locale, t, number, api, colour } = station;
  const { range, seconds } = page.data;
  const AGAIN = { hour: 15000, day: 60000 }[range]; // ms; the longer ones stand
  const MOST_ROWS = 200; // of the table
  const DECISIONS = ["good", "anomalous", "within tolerance"]; // by their numbers in points
  const [GOOD, ANOMALOUS, WITHIN] = DECISIONS.keys();
  const [SCORE, LOWEST, MEAN, HIGHEST] = [1, 3, 4, 5]; // columns of a point, and of a bucket
  let found = null;
  let charts = [];
  let zoomed = false;

  const address = (id) => `/${encodeURIComponent(page.product)}/inspections/${id}`;
  const single = () => found.unit === "inspection";
  const verdictOf = (anomalous, verdict) => {
    if (verdict === "good" && anomalous) return t("common.false_alarm");
    if (verdict === "defect" && !anomalous) return t("common.miss");
    return verdict ? t(`common.${verdict}`) : "";
  };

  // What is drawn ----------------------------------------------------------------------------------------
  /** The version that was in use at a time. */
  function inUse(at) {
    const steps = [...found.versions].sort((a, b) => Date.parse(a.since) - Date.parse(b.since));
    return steps.filter((one) => Date.parse(one.since) <= 1000 * at).pop() ?? steps[0];
  }

  const threshold = (at) => inUse(at).threshold;

  /** Scores become severities, as on the other pages: above 0 is defective. They stay where a version was added
   *  before the station knew their spread. */
  function toSeverity() {
    found.kind = found.versions.every((one) => one.spread) ? "severity" : "score";
    if (found.kind === "score") return;
    for (const [rows, columns] of [[found.points, [SCORE]], [found.buckets, [LOWEST, MEAN, HIGHEST]]]) {
      for (const row of rows) {
        const { threshold, spread } = inUse(row[0]);
        for (const column of columns) row[column] = (row[column] - threshold) / spread;
      }
    }
    for (const one of found.versions) one.threshold = 0;
  }

  /** Days are those of the station: each is drawn where the browser's clocks begin it, so that its date is shown. */
  function toDays() {
    found.days.forEach((day, k) => (found.buckets[k][0] = Date.parse(`${day}T00:00`) / 1000));
  }

  /** Signs at points: none of them needs its colour to be told apart. */
  const SIGNS = {
    dot: (c, x, y, r) => c.arc(x, y, r, 0, 2 * Math.PI),
    square: (c, x, y, r) => c.rect(x - r, y - r, 2 * r, 2 * r),
    triangle: (c, x, y, r) => [[0, -1.3], [1.2, 1], [-1.2, 1], [0, -1.3]].forEach(([u, v], k) => (k ? c.lineTo(x + r * u, y + r * v) : c.moveTo(x + r * u, y + r * v))),
    cross: (c, x, y, r) => [[-1, -1, 1, 1], [1, -1, -1, 1]].forEach(([a, b, d, e]) => (c.moveTo(x + r * a, y + r * b), c.lineTo(x + r * d, y + r * e))),
    ring: (c, x, y, r) => c.arc(x, y, r, 0, 2 * Math.PI),
  };

  /** Draws a sign at every value of a column of the data: [column, sign, colour, size, filled]. */
  function mark(plot, [column, sign, name, size, filled]) {
    const { ctx } = plot;
    const r = size * devicePixelRatio;
    ctx.fillStyle = ctx.strokeStyle = colour(name);
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.beginPath();
    plot.data[column].forEach((value, k) => {
      if (value === null) return;
      const [x, y] = [plot.valToPos(plot.data[0][k], "x", true), plot.valToPos(value, "y", true)];
      ctx.moveTo(x + r, y);
      SIGNS[sign](ctx, x, y, r);
    });
    if (filled) ctx.fill();
    else ctx.stroke();
  }

  /** What lies over lines and bands. */
  function over(marks) {
    return (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      limit(plot);
      marks.forEach((one) => mark(plot, one));
      ctx.restore();
    };
  }

  const line = (name, width) => ({ stroke: () => colour(name), width, points: { show: false }, spanGaps: true });
  const hidden = () => ({ stroke: "transparent", width: 0, points: { show: false } });

  function axes(label, size = 56) {
    const grid = { stroke: () => colour("line"), width: 1 };
    const both = { stroke: () => colour("pale"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const dates = { hour: "2-digit", minute: "2-digit" };
    const day = { day: "2-digit", month: "2-digit" };
    const clock = new Intl.DateTimeFormat(locale, dates);
    const seconds = new Intl.DateTimeFormat(locale, { ...dates, second: "2-digit" });
    const moments = new Intl.DateTimeFormat(locale, { ...dates, second: "2-digit", fractionalSecondDigits: 3 });
    const date = new Intl.DateTimeFormat(locale, day);
    const values = (plot, splits) => {
      const apart = splits.length > 1 ? splits[1] - splits[0] : Infinity;
      const short = apart < 86400;
      const format = apart < 1 ? moments : apart < 60 ? seconds : short ? clock : date;
      return splits.map((at, k) => {
        const text = format.format(1000 * at);
        return short && (k === 0 || new Date(1000 * at).getDate() !== new Date(1000 * splits[k - 1]).getDate()) ? `${text}\n${date.format(1000 * at)}` : text;
      });
    };
    return [{ ...both, values, space: 120 }, { ...both, size, label, labelSize: 20, labelFont: "12px system-ui, sans-serif", values: (plot, splits) => splits.map((value) => number(value, 4)) }];
  }

  function options(place, height, series, more = {}) {
    return {
      width: place.clientWidth,
      height,
      legend: { show: false },
      cursor: { points: { show: false }, drag: { x: true, y: false } },
      series: [{}, ...series],
      ...more,
    };
  }

  /** From the first picture to the last, so that an hour in an empty day is no stripe; or what somebody zoomed
   *  to. */
  function whole(plot, least, most) {
    const times = plot.data[0];
    zoomed = least !== times[0] || most !== times[times.length - 1];
    if (zoomed) return [least, most];
    const edge = (most - least || 3600) / 60;
    return [least - edge, most + edge];
  }

  /** The threshold from edge to edge, in steps where another version came. */
  function limit(plot) {
    const { ctx } = plot;
    const { min, max } = plot.scales.x;
    const steps = [min, ...found.versions.map((one) => Date.parse(one.since) / 1000).filter((at) => at > min && at < max).sort((a, b) => a - b), max];
    ctx.strokeStyle = colour("bad");
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.setLineDash([8 * devicePixelRatio, 5 * devicePixelRatio]);
    ctx.beginPath();
    steps.slice(0, -1).forEach((at, k) => {
      const y = plot.valToPos(threshold(at), "y", true);
      ctx.lineTo(plot.valToPos(at, "x", true), y);
      ctx.lineTo(plot.valToPos(steps[k + 1], "x", true), y);
    });
    ctx.stroke();
    ctx.restore();
  }

  function scores() {
    const from = single() ? found.points : found.buckets;
    const times = from.map((one) => one[0]);
    const only = (wanted) => from.map((one) => (wanted(one) ? one[1] : null));
    let data;
    let series;
    let marks;
    let bands = [];
    if (single()) {
      const of = (decision) => only((one) => one[2] === decision);
      data = [times, of(GOOD), of(ANOMALOUS), of(WITHIN), only((one) => one[2] === ANOMALOUS && one[3] === "good"), only((one) => one[2] !== ANOMALOUS && one[3] === "defect")];
      series = [hidden(), hidden(), hidden(), hidden(), hidden()];
      marks = [[1, "dot", "ok", 3, true], [2, "triangle", "bad", 4.5, true], [3, "square", "within", 3.5, true], [4, "cross", "ink", 7, false], [5, "ring", "ink", 8, false]];
    } else {
      const column = (k) => from.map((one) => one[k]);
      data = [times, column(5), column(3), column(4), from.map((one) => (one[6] ? one[5] : null)), from.map((one) => (one[7] ? one[3] : null))];
      series = [hidden(), hidden(), line("ok", 2), hidden(), hidden()];
      marks = [[4, "cross", "ink", 6, false], [5, "ring", "ink", 7, false]];
      bands = [{ series: [1, 2], fill: colour("ok-veil") }];
    }
    const place = byId("chart");
    const values = [...data.slice(1).flat().filter((value) => value !== null), ...times.map(threshold)];
    const [least, most] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const air = 0.06 * (most - least) || 1;
    const plot = new uPlot(
      options(place, place.clientWidth < 500 ? 300 : 380, series, {
        bands,
        axes: axes(t(`common.${found.kind}`)),
        scales: { x: { range: whole }, y: { range: [least - air, most + air] } },
        hooks: { draw: [over(marks)] },
      }),
      data,
      place,
    );
    charts.push(plot);
    if (single()) opens(plot, from);
  }

  /** A click on a point leads to its picture; not one that ends a drag. */
  function opens(plot, from) {
    let down = 0;
    plot.over.addEventListener("mousedown", (event) => (down = event.clientX));
    plot.over.addEventListener("click", (event) => {
      if (Math.abs(event.clientX - down) > 3) return;
      const box = plot.over.getBoundingClientRect();
      const far = (one) => Math.hypot(plot.valToPos(one[0], "x") - (event.clientX - box.left), plot.valToPos(one[1], "y") - (event.clientY - box.top));
      const nearest = from.reduce((best, one) => (far(one) < far(best) ? one : best));
      if (far(nearest) < 20) location.href = address(nearest[4]);
    });
  }

  function shares() {
    const place = byId("counts");
    place.hidden = single();
    if (single()) return;
    const data = [found.buckets.map((one) => one[0]), found.buckets.map((one) => (one[1] ? (100 * one[2]) / one[1] : null))];
    const bars = { stroke: () => colour("bad"), fill: () => colour("bad-veil"), width: 1, paths: uPlot.paths.bars({ size: [0.8, 40] }), points: { show: false } };
    charts.push(
      new uPlot(
        options(place, 180, [bars], { axes: axes(t("trends.share")), scales: { x: { range: whole }, y: { range: (plot, least, most) => [0, Math.max(most * 1.1, 1)] } } }),
        data,
        place,
      ),
    );
  }

  function legend() {
    const NS = "http://www.w3.org/2000/svg";
    const shapes = {
      dot: ["M10 8m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", true],
      triangle: ["M10 2l6 11H4z", true],
      square: ["M6 4h8v8H6z", true],
      cross: ["M4 2l12 12M16 2L4 14", false],
      ring: ["M10 8m-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z", false],
      dashed: ["M0 8h7M12 8h8", false],
      line: ["M0 8h20", false],
      band: ["M0 2h20v12H0z", true],
    };
    const kinds = single()
      ? [["dot", "ok", "common.good"], ["triangle", "bad", "trends.anomalous"], ...(found.totals.within_tolerance ? [["square", "within", "trends.within_tolerance"]] : [])]
      : [["line", "ok", "trends.mean"], ["band", "ok-veil", "trends.score_range"]];
    kinds.push(["dashed", "bad", "trends.threshold"], ["cross", "ink", "trends.false_alarms"], ["ring", "ink", "trends.misses"]);
    byId("legend").replaceChildren(
      ...kinds.map(([shape, name, key]) => {
        const sign = document.createElementNS(NS, "svg");
        const path = document.createElementNS(NS, "path");
        sign.setAttribute("viewBox", "0 0 20 16");
        sign.setAttribute("aria-hidden", "true");
        path.setAttribute("d", shapes[shape][0]);
        sign.style.color = `var(--${name})`;
        if (shapes[shape][1]) path.setAttribute("fill", "currentcolor");
        sign.append(path);
        const item = document.createElement("span");
        item.append(sign, t(key));
        return item;
      }),
    );
    byId("legend").hidden = false;
  }

  // The same as a table ----------------------------------------------------------------------------------
  function table() {
    const from = [...(single() ? found.points : found.buckets)].reverse();
    const keys = single() ? ["time", found.kind, "decision", "verdict", "open"] : ["time", "count", "anomalous", "lowest", "mean", "highest", "false_alarms", "misses", "within_tolerance"];
    const cell = (kind, content, numeric = false) => {
      const made = document.createElement(kind);
      made.append(content);
      if (numeric) made.className = "number";
      return made;
    };
    const date = new Intl.DateTimeFormat(locale, { dateStyle: "short" });
    const when = (at) => (found.unit === "day" ? date.format(1000 * at) : station.time(1000 * at));
    const head = document.createElement("tr");
    head.append(...keys.map((key) => Object.assign(cell("th", t(key === found.kind ? `common.${key}` : `trends.${key}`), !single() && key !== "time"), { scope: "col" })));
    byId("head").replaceChildren(head);
    byId("rows").replaceChildren(
      ...from.slice(0, MOST_ROWS).map((one) => {
        const row = document.createElement("tr");
        const first = Object.assign(cell("th", when(one[0])), { scope: "row" });
        if (single()) {
          const link = Object.assign(document.createElement("a"), { href: address(one[4]), textContent: one[4] });
          row.append(first, cell("td", number(one[1], 4)), cell("td", t(`common.${DECISIONS[one[2]]}`)), cell("td", verdictOf(one[2] === ANOMALOUS, one[3])), cell("td", link));
        } else row.append(first, ...one.slice(1).map((value) => cell("td", number(value, 4), true)));
        return row;
      }),
    );
    byId("cut").hidden = from.length <= MOST_ROWS;
    byId("cut").textContent = t("trends.newest_rows", { n: MOST_ROWS, all: from.length });
    byId("as-table").hidden = !from.length;
  }

  function draw() {
    charts.forEach((chart) => chart.destroy());
    charts = [];
    const some = found.totals.inspections > 0;
    byId("state").textContent = some ? "" : t("trends.nothing");
    byId("state").hidden = some;
    byId("chart").hidden = !some;
    byId("counts").hidden = true;
    byId("hint").hidden = !some || !single();
    for (const [name, value] of Object.entries(found.totals)) byId(`total-${name}`).textContent = value.toLocaleString(locale);
    for (const name of ["within_tolerance", "unanswered", "not_inspected"]) byId(`total-${name}`).parentElement.hidden = !found.totals[name];
    if (some) {
      scores();
      shares();
      legend();
    } else byId("legend").hidden = true;
    document.documentElement.dataset.drawn = charts.length;
  }

  async function load() {
    const since = seconds ? `?since=${encodeURIComponent(new Date(Date.now() - 1000 * seconds).toISOString())}` : "";
    if (AGAIN) setTimeout(load, AGAIN);
    if (zoomed) return; // somebody looks closely
    try {
      found = await api(`/trends${since}`);
      toSeverity();
      toDays();
      draw();
      table();
    } catch (error) {
      byId("state").hidden = false;
      station.write(byId("state"), t("common.failed", { text: error.message }));
    }
    document.documentElement.dataset.ready = "yes";
  }

  let resized = null;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => found && draw(), 150);
  });
  document.addEventListener("theme", () => found && draw());
  load();
})();
