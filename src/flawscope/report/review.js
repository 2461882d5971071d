"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { pictures, decided: known } = JSON.parse(byId("data").textContent);
  let decided = known; // number -> good or defect
  let place = 0;
  let busy = false;
  const WORDS = { good: "fine", defect: "defect" };

  const open = () => pictures.findIndex((_, k) => !(k in decided));
  const count = () => Object.keys(decided).length;
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(1)}`;

  function show(to) {
    place = Math.min(Math.max(to, 0), pictures.length - 1);
    byId("work").hidden = false;
    byId("end").hidden = true;
    document.body.classList.remove("ended");
    const picture = pictures[place];
    byId("name").textContent = picture.name;
    const p = picture.p_value === null ? "" : `, p ${picture.p_value.toFixed(3)}`;
    const facts = `${place + 1} of ${pictures.length} · severity ${signed(picture.severity)}${p}, score ${Number(picture.score.toPrecision(4))}`;
    byId("facts").textContent = picture.regions ? facts : `${facts} · nothing outlined`;
    for (const layer of ["photo", "found"]) {
      const image = byId(layer);
      image.hidden = false;
      image.alt = layer === "photo" ? `Picture ${picture.name}` : "";
      image.src = `${layer}/${place}`;
    }
    byId("missing").hidden = true;
    byId("view").classList.remove("near");
    update();
    for (const k of [place + 1, place + 2]) {
      if (k < pictures.length) for (const layer of ["photo", "found"]) new Image().src = `${layer}/${k}`; // ready when it is turned to
    }
  }

  function update() {
    byId("bar").value = count();
    byId("count").textContent = `${count()} of ${pictures.length} decided`;
    for (const which of ["good", "defect"]) byId(which).setAttribute("aria-pressed", decided[place] === which);
    byId("previous").setAttribute("aria-disabled", place === 0);
    byId("next").setAttribute("aria-disabled", place === pictures.length - 1);
  }

  function finished() {
    document.body.classList.add("ended");
    byId("work").hidden = true;
    byId("end").hidden = false;
    const values = Object.values(decided);
    const of = (which) => values.filter((one) => one === which).length;
    byId("end-title").textContent = count() === pictures.length ? "All decided" : `${pictures.length - count()} not decided yet`;
    byId("end-words").textContent = `${of("good")} fine, ${of("defect")} defects. Finish ends the review; the terminal then says how to go on. What is decided is kept in any case.`;
    byId("end-title").focus();
  }

  async function send(what, body) {
    if (busy) return null; // one at a time, in order
    busy = true;
    try {
      const answer = await fetch(what, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      const found = await answer.json();
      if (found.error) return say(found.error, true);
      decided = found.decided;
      return found;
    } catch {
      return say("The review is not running any more: start it again in the terminal, it goes on here.", true);
    } finally {
      busy = false;
    }
  }

  function say(text, bad = false) {
    byId("said").textContent = text;
    byId("said").classList.toggle("bad", bad);
    return null;
  }

  async function decide(decision) {
    if (byId("work").hidden) return;
    const { name } = pictures[place];
    const here = place;
    if (!(await send("decide", { number: here, decision }))) return;
    say(`${name}: ${WORDS[decision]}.`);
    const later = pictures.findIndex((_, k) => k > here && !(k in decided));
    const to = later >= 0 ? later : open();
    if (to >= 0) show(to);
    else {
      update();
      finished();
    }
  }

  async function undo() {
    const found = await send("undo", {});
    if (!found) return;
    if (found.number === null) return say("Nothing to undo.");
    show(found.number);
    say(`${pictures[found.number].name}: undecided again.`);
  }

  function heat() {
    const button = byId("heat");
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    byId("view").classList.toggle("bare", !on);
  }

  async function finish() {
    if (!(await send("done", {}))) return;
    document.body.classList.add("over");
    byId("work").hidden = true;
    byId("end").hidden = false;
    byId("end-title").textContent = "The review has ended";
    byId("end-words").textContent = "The terminal says how to go on. This page can be closed.";
    byId("end-buttons").hidden = true;
  }

  byId("photo").addEventListener("error", async () => {
    byId("photo").hidden = true;
    const answer = await fetch(`photo/${place}`).catch(() => null);
    byId("missing").textContent = answer ? await answer.text() : "the review is not running any more";
    byId("missing").hidden = false;
  });
  byId("found").addEventListener("error", () => (byId("found").hidden = true));
  byId("view").addEventListener("click", (event) => {
    const view = byId("view");
    const box = view.getBoundingClientRect();
    view.style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
    view.style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
    view.classList.toggle("near");
  });

  const actions = {
    good: () => decide("good"),
    defect: () => decide("defect"),
    undo,
    heat,
    finish,
    previous: () => show(byId("work").hidden ? pictures.length - 1 : place - 1),
    next: () => (byId("work").hidden ? null : show(place + 1)),
    again: () => show(0),
    "end-finish": finish,
  };
  for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
  const keys = { f: "good", d: "defect", u: "undo", h: "heat", arrowleft: "previous", arrowright: "next" };
  document.addEventListener("keydown", (event) => {
    const id = keys[event.key.toLowerCase()];
    if (!id || event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.body.classList.contains("over")) return;
    event.preventDefault();
    actions[id]();
  });

  const first = open();
  if (first >= 0) show(first);
  else {
    show(0);
    finished();
  }
  document.documentElement.dataset.ready = "yes";
})();
