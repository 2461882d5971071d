"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const pictures = JSON.parse(byId("data").textContent);
  const VIEWS = {
    picture: ["Picture", ["photo"]],
    outline: ["Outline", ["photo", "line"]],
    overlay: ["Overlay", ["photo", "heat"]],
    map: ["Map", ["map"]],
    mask: ["Ground truth", ["mask"]],
  };
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // ---- the layers of a picture, laid over each other

  function panel(picture, view) {
    const [title, names] = VIEWS[view];
    const figure = make("figure", "panel");
    const stage = make("div", "stage");
    stage.setAttribute("role", "img");
    const layers = picture.layers; // or, in words, why there are none
    if (layers[names[0]]) {
      for (const name of names) {
        const image = make("img");
        image.alt = "";
        image.decoding = "async";
        image.src = layers[name];
        stage.append(image);
      }
      stage.setAttribute("aria-label", `${title} of ${picture.name}`);
    } else {
      const missing = picture.anomalous ? "no mask" : "good: nothing to mark";
      const why = typeof layers === "string" ? layers : missing;
      stage.classList.add("empty");
      stage.append(make("span", "", why));
      stage.setAttribute("aria-label", `${title}: ${why}`);
    }
    stage.style.aspectRatio = picture.ratio;
    figure.append(stage, make("figcaption", "", title));
    return figure;
  }

  for (const picture of pictures) {
    const [width, height] = picture.size.split(" × ").map(Number);
    picture.ratio = Math.min(Math.max(width / height, 1 / 9), 9);
  }

  const fill = (box) => {
    const views = box.dataset.views ? box.dataset.views.split(" ") : Object.keys(VIEWS);
    const picture = pictures[box.dataset.index];
    box.replaceChildren(...views.map((view) => panel(picture, view)));
  };
  // Thousands of pictures are not decoded before they are near the screen.
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        fill(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  for (const box of document.querySelectorAll(".panels[data-index]")) seen.observe(box);

  // ---- the table: sort and filter

  const table = byId("all");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.querySelectorAll("[data-sort]")];
  const FALLING = new Set(["severity", "score", "margin"]); // what is looked for is at the top
  const names = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => (typeof a === "number" ? a - b : names.compare(a, b));

  function sortBy(key, falling) {
    const sign = falling ? -1 : 1;
    const at = (row) => pictures[row.dataset.index];
    rows.sort((a, b) => sign * compare(at(a)[key], at(b)[key]) || at(b).margin - at(a).margin);
    body.append(...rows);
    for (const button of heads) {
      const own = button.dataset.sort === key;
      const head = button.closest("th");
      if (own) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }
  for (const button of heads) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      const now = button.closest("th").getAttribute("aria-sort");
      sortBy(key, now ? now === "ascending" : FALLING.has(key));
    });
  }

  const wanted = ["by-kind", "by-verdict", "by-outcome", "by-name"].map(byId);
  function filter() {
    const [kind, verdict, outcome, text] = wanted.map((field) => field.value);
    const part = text.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const picture = pictures[row.dataset.index];
      const fits =
        (!kind || picture.kind === kind) &&
        (!verdict || picture.verdict === verdict) &&
        (!outcome || (outcome === "wrong" ? picture.outcome !== "right" : picture.outcome === outcome)) &&
        (!part || picture.name.toLowerCase().includes(part));
      row.hidden = !fits;
      count += fits;
    }
    byId("shown").textContent = `${count} of ${rows.length} shown`;
    byId("none").hidden = count > 0;
    table.hidden = count === 0;
  }
  const tools = byId("tools");
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter));
  byId("clear").addEventListener("click", () => {
    tools.reset();
    wanted[0].focus();
  });

  // ---- the viewer

  const viewer = byId("viewer");
  let order = [];
  let place = 0;
  let opener = null;

  function show() {
    const picture = pictures[order[place]];
    byId("viewer-name").textContent = picture.name;
    byId("viewer-place").textContent = `${place + 1} of ${order.length}`;
    byId("viewer-panels").replaceChildren(...Object.keys(VIEWS).map((view) => panel(picture, view)));
    byId("viewer-panels").classList.toggle("flat", picture.ratio > 3); // one below the other
    const truth = picture.anomalous ? "defective" : "good";
    const facts = [
      ["Result", picture.outcome],
      ["Verdict", picture.verdict],
      ["Type", picture.kind === truth ? truth : `${picture.kind} (${truth})`],
      ["Severity", `${picture.severity > 0 ? "+" : ""}${picture.severity.toFixed(1)}`],
      ["Score", format(picture.score)],
      ["p-value", picture.p_value.toFixed(3)],
      ["Regions outlined", picture.regions],
      ["Size", `${picture.size} pixels`],
    ];
    byId("viewer-facts").replaceChildren(
      ...facts.map(([what, value]) => {
        const pair = make("div");
        const told = make("dd");
        if (what === "Result") told.append(make("span", `badge ${value.replace(" ", "-")}`, value));
        else told.textContent = value;
        pair.append(make("dt", "", what), told);
        return pair;
      }),
    );
    // not `disabled`: that would lose the focus of who has just pressed it
    byId("previous").setAttribute("aria-disabled", place === 0);
    byId("next").setAttribute("aria-disabled", place === order.length - 1);
  }
  const format = (value) => String(Number(value.toPrecision(4)));

  function open(index, among, from) {
    opener = from;
    order = (among === "worst" ? [...document.querySelectorAll("#mistakes .open")] : rows.filter((row) => !row.hidden))
      .map((element) => Number(element.dataset.index));
    place = Math.max(0, order.indexOf(index));
    show();
    viewer.showModal();
  }
  function go(to) {
    place = Math.min(Math.max(to, 0), order.length - 1);
    show();
  }
  document.addEventListener("click", (event) => {
    const from = event.target.closest(".open, .panels[data-index]");
    if (from) open(Number(from.dataset.index), from.dataset.order, from);
    else if (event.target === viewer) viewer.close(); // its backdrop
  });
  byId("previous").addEventListener("click", () => go(place - 1));
  byId("next").addEventListener("click", () => go(place + 1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
  viewer.addEventListener("close", () => {
    // back to where the last picture stands, not to where one began
    const scope = opener && opener.dataset.order === "worst" ? byId("mistakes") : body;
    const button = scope.querySelector(`.open[data-index="${order[place]}"]`);
    if (button) button.focus();
  });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("tr");
    if (!step || !row) return;
    const shown = rows.filter((one) => !one.hidden);
    const near = shown[shown.indexOf(row) + step];
    if (!near) return;
    event.preventDefault();
    near.querySelector(".open").focus();
  });

  sortBy("margin", true);
  filter();
  document.documentElement.dataset.ready = "yes";
})();
