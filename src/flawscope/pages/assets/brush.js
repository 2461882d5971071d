"use strict";
// The outline of a defect, painted by finger, pen, mouse or keys.
const brush = (() => {
  const { byId } = station;
  const LONGEST = 2048; // pixels that are painted on; a larger picture's mask is made of them
  const canvas = byId("canvas");
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  let erasing = false;
  let changed = false;
  let last = null; // [x, y] on the canvas while a pointer is down
  let spot = null; // of the keys
  let told = () => {};
  let full = [0, 0]; // size of the picture

  const width = () => (Math.max(canvas.width, canvas.height) * (byId("size").value / 100) ** 2) / 4 + 2; // fine for small brushes

  /** Where a pointer is, on the canvas: the picture keeps its shape within the element. */
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
    return [
      (event.clientX - box.left - (box.width - scale * canvas.width) / 2) / scale,
      (event.clientY - box.top - (box.height - scale * canvas.height) / 2) / scale,
    ];
  }

  function stroke(from, to) {
    paper.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    paper.strokeStyle = "#00d8d8";
    paper.lineWidth = width();
    paper.lineCap = paper.lineJoin = "round";
    paper.beginPath();
    paper.moveTo(...from);
    paper.lineTo(to[0] + 0.01, to[1]); // a line of no length is not drawn everywhere
    paper.stroke();
    changed = true;
    told();
  }

  /** Shows the brush where it is. */
  function tip([x, y]) {
    const box = canvas.getBoundingClientRect();
    const view = byId("view").getBoundingClientRect();
    const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
    const side = width() * scale;
    const left = box.left - view.left + byId("view").scrollLeft + (box.width - scale * canvas.width) / 2 + x * scale;
    const top = box.top - view.top + byId("view").scrollTop + (box.height - scale * canvas.height) / 2 + y * scale;
    const { style } = byId("tip");
    Object.assign(style, { width: `${side}px`, height: `${side}px`, left: `${left - side / 2}px`, top: `${top - side / 2}px` });
    byId("tip").hidden = false;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    tip(place(event));
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? []) {
      const next = place(one);
      stroke(last, next);
      last = next;
    }
    const next = place(event);
    stroke(last, next);
    last = next;
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => (last = null));
  canvas.addEventListener("pointerleave", () => (byId("tip").hidden = true));
  canvas.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    spot ??= [canvas.width / 2, canvas.height / 2];
    const step = (width() / 3) * (event.shiftKey ? 4 : 1);
    const next = way ? [spot[0] + step * way[0], spot[1] + step * way[1]] : spot;
    spot = [Math.min(Math.max(next[0], 0), canvas.width), Math.min(Math.max(next[1], 0), canvas.height)];
    if (!way) stroke(spot, spot);
    tip(spot);
  });

  /** Begins with a mask, black and white, of this picture; without one with nothing. */
  async function open(item, address, changes) {
    const scale = Math.min(1, LONGEST / Math.max(item.width, item.height));
    canvas.width = Math.max(1, Math.round(item.width * scale));
    canvas.height = Math.max(1, Math.round(item.height * scale));
    told = changes;
    full = [item.width, item.height];
    spot = last = null;
    changed = false;
    canvas.hidden = false;
    await reset(address);
  }

  async function reset(address) {
    clear();
    const image = await station.loaded(address).catch(() => null);
    if (!image) return;
    paper.globalCompositeOperation = "source-over";
    paper.drawImage(image, 0, 0, canvas.width, canvas.height);
    const pixels = paper.getImageData(0, 0, canvas.width, canvas.height);
    const values = new Uint32Array(pixels.data.buffer); // red is the lowest byte
    for (let k = 0; k < values.length; k++) values[k] = (values[k] & 255) > 127 ? 0xffd8d800 : 0;
    paper.putImageData(pixels, 0, 0);
  }

  function clear() {
    paper.clearRect(0, 0, canvas.width, canvas.height);
  }

  /** The mask as PNG in base64, as large as the picture: white where it is painted, black elsewhere. */
  function mask() {
    const pixels = paper.getImageData(0, 0, canvas.width, canvas.height);
    const values = new Uint32Array(pixels.data.buffer); // alpha is the highest byte
    for (let k = 0; k < values.length; k++) values[k] = values[k] >>> 24 > 127 ? 0xffffffff : 0xff000000;
    let sheet = sheetOf(canvas.width, canvas.height);
    sheet.putImageData(pixels, 0, 0);
    if (full[0] !== canvas.width || full[1] !== canvas.height) {
      const large = sheetOf(...full);
      large.imageSmoothingEnabled = false;
      large.drawImage(sheet.canvas, 0, 0, ...full);
      sheet = large;
    }
    return sheet.canvas.toDataURL("image/png").split(",")[1];
  }

  function sheetOf(width, height) {
    return Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  }

  return {
    open,
    reset: (address) => reset(address).then(() => (changed = true)).then(() => told()),
    clear() {
      clear();
      changed = true;
      told();
    },
    close() {
      canvas.hidden = byId("tip").hidden = true;
      changed = false;
    },
    erase: (on) => (erasing = on),
    mask,
    changed: () => changed && !canvas.hidden,
  };
})();
