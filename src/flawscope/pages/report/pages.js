"use strict";
// What all pages share: pictures in layers, their switches, the list with sorting and filters, the viewer.
const page = (() => {
  const byId = (id) => document.getElementById(id);
  const pictures = JSON.parse(byId("data").textContent);
  const viewer = byId("viewer");
  const PANELS = JSON.parse(viewer.dataset.panels); // key -> name, layers
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // ---- the layers of a picture, laid over each other

  function panel(picture, shown) {
    const [title, names] = PANELS[shown];
    const figure = make("figure", "panel");
    figure.dataset.shown = shown;
    const stage = make("div", "stage");
    stage.setAttribute("role", "img");
    const layers = picture.layers; // or, in words, why there are none
    const there = typeof layers === "string" ? [] : names.filter((name) => layers[name]);
    for (const name of there) {
      const image = make("img", name.split("_")[0]);
      image.alt = "";
      image.decoding = "async";
      image.src = layers[name];
      stage.append(image);
    }
    if (there.length) {
      stage.setAttribute("aria-label", `${title}: ${picture.name}`);
    } else {
      stage.classList.add("empty");
      stage.append(make("span", "", layers));
      stage.setAttribute("aria-label", `${picture.name}: ${layers}`);
    }
    stage.style.aspectRatio = picture.ratio;
    figure.append(stage, make("figcaption", "", title));
    return figure;
  }

  for (const picture of pictures) {
    const [width, height] = picture.size.split(" × ").map(Number);
    picture.ratio = height ? Math.min(Math.max(width / height, 1 / 9), 9) : 4 / 3;
  }

  const fill = (box) => {
    const panels = box.dataset.panels ? box.dataset.panels.split(" ") : Object.keys(PANELS);
    const picture = pictures[box.dataset.index];
    box.replaceChildren(...panels.map((shown) => panel(picture, shown)));
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

  // ---- switches of the layers

  const root = document.documentElement;
  function toggle(layer) {
    const off = root.classList.toggle(`no-${layer}`);
    for (const button of document.querySelectorAll(`[data-layer="${layer}"]`)) button.setAttribute("aria-pressed", !off);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const button = document.querySelector(`[aria-keyshortcuts="${CSS.escape(event.key.toLowerCase())}"]`);
    if (button) toggle(button.dataset.layer);
  });

  // ---- the list: sort and filter

  const list = byId("all");
  const body = list.tBodies ? list.tBodies[0] : list;
  const rows = [...body.children];
  const heads = [...list.querySelectorAll("[data-sort]")];
  const order_by = byId("sort");
  const FALLING = new Set(["severity", "score", "margin"]); // what is looked for is at the top
  const first = list.dataset.first; // what the list is sorted by at first
  const names = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => (typeof a === "number" ? a - b : names.compare(a, b));

  function sortBy(key, falling) {
    const sign = falling ? -1 : 1;
    const at = (row) => pictures[row.dataset.index];
    rows.sort((a, b) => sign * compare(at(a)[key], at(b)[key]) || at(b)[first] - at(a)[first]);
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

  if (order_by) order_by.addEventListener("input", () => sortBy(order_by.value, order_by.value !== "name" && order_by.value !== "p_value"));

  const fields = [...document.querySelectorAll("[data-filter]")];
  const by_name = byId("by-name");
  const passes = (value, wanted) => !wanted || (wanted[0] === "!" ? value !== wanted.slice(1) : value === wanted);
  function filter() {
    const part = by_name.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const picture = pictures[row.dataset.index];
      const fits =
        fields.every((field) => passes(String(picture[field.dataset.filter]), field.value)) &&
        (!part || picture.name.toLowerCase().includes(part));
      row.hidden = !fits;
      count += fits;
    }
    byId("shown").textContent = `${count} of ${rows.length} shown`;
    byId("none").hidden = count > 0;
    list.hidden = count === 0;
  }
  const tools = byId("tools");
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter)); // after the fields have changed
  byId("clear").addEventListener("click", () => {
    for (const field of fields) field.value = "";
    by_name.value = "";
    filter();
    fields[0].focus();
  });

  // ---- the viewer

  let order = [];
  let place = 0;
  let opener = null;

  function show() {
    const picture = pictures[order[place]];
    byId("viewer-name").textContent = picture.name;
    byId("viewer-place").textContent = `${place + 1} of ${order.length}`;
    byId("viewer-panels").replaceChildren(...Object.keys(PANELS).map((shown) => panel(picture, shown)));
    byId("viewer-panels").classList.toggle("flat", picture.ratio > 3); // one below the other
    byId("viewer-facts").replaceChildren(
      ...picture.facts.map(([what, value]) => {
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

  function open(index, among, from) {
    opener = from;
    const cards = among && document.querySelectorAll(`.open[data-order="${among}"]`);
    order = [...(cards || rows.filter((row) => !row.hidden))].map((element) => Number(element.dataset.index));
    if (!order.includes(index)) order = [index]; // such as one that a filter hides
    place = order.indexOf(index);
    show();
    viewer.showModal();
  }
  function go(to) {
    place = Math.min(Math.max(to, 0), order.length - 1);
    show();
  }
  document.addEventListener("click", (event) => {
    const layer = event.target.closest("[data-layer]");
    if (layer) return toggle(layer.dataset.layer);
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
    const among = opener && opener.dataset.order;
    const part = among ? `[data-order="${among}"]` : ":not([data-order])";
    const button = order.length > 1 ? document.querySelector(`.open${part}[data-index="${order[place]}"]`) : opener;
    if (button) button.focus();
  });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("[data-index]:is(tr, li)");
    if (!step || !row) return;
    const shown = rows.filter((one) => !one.hidden);
    const near = shown[shown.indexOf(row) + step];
    if (!near) return;
    event.preventDefault();
    near.querySelector(".open").focus();
  });

  if (first) sortBy(first, true);
  filter();
  root.dataset.ready = "yes";
  return { pictures, make };
})();
