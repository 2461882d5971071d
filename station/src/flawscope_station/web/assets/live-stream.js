"use strict";
// A shared worker: one stream of the station for all pages of a browser, which has six connections to a station.
// A page says `{listen: product}` or `{leave: true}`, and is told {kind, data} of its product's events; kind is
// also "open" and "error".
const products = new Map(); // port of a page -> its product
const streams = new Set(); // that are open or being opened: `source`, and those before it until it is there
let source = null;
let heard = new Set(); // products of the stream

function tell(message, product = null) {
  for (const [port, own] of products) if (product === null || own === product) port.postMessage(message);
}

/** Closes all streams but one. */
function closeOthers(kept = null) {
  for (const one of streams) {
    if (one === kept) continue;
    one.close();
    streams.delete(one);
  }
}

/** Opens the stream for what the pages want, and leaves those before when this one is there: nothing is missed. */
function connect() {
  heard = new Set(products.values());
  const opened = new EventSource(`/api/v1/live?products=${encodeURIComponent([...heard].sort().join(","))}`);
  source = opened;
  streams.add(opened);
  opened.addEventListener("open", () => {
    if (source === opened) closeOthers(opened); // else a later one does
    tell({ kind: "open" });
  });
  for (const kind of ["inspection", "refusal", "state"]) {
    opened.addEventListener(kind, (event) => {
      const data = JSON.parse(event.data);
      tell({ kind, data }, data.product);
    });
  }
  opened.addEventListener("error", () => {
    opened.close();
    streams.delete(opened);
    if (source !== opened) return; // another one took its place
    closeOthers();
    source = null;
    tell({ kind: "error" }); // the pages find out why, and listen again
  });
}

function hear(port, { listen, leave }) {
  if (leave) products.delete(port);
  if (listen) products.set(port, listen);
  if (!products.size) {
    closeOthers();
    source = null;
  } else if (listen && (source === null || !heard.has(listen))) connect();
  else if (listen && source.readyState === EventSource.OPEN) port.postMessage({ kind: "open" });
}

self.addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data }) => hear(port, data);
});
