// Loads scripts of the pages as a browser does, without a browser: what they say of a page stays in `station`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const ASSETS = new URL("../../src/flawscope_station/web/assets/", import.meta.url);

// What `pages.js` gives to every script, as far as it needs no page: a text is its key, and the values in it
const shared = {
  t: (key, values = {}) => [key, ...Object.values(values)].join(" "),
  count: (key, n, values = {}) => [key, n, ...Object.values(values)].join(" "),
  number: (value, digits = 3) => String(Number(value.toPrecision(digits))),
};

/** What scripts of the pages add to `station`. */
export function scripts(...names) {
  globalThis.station = { ...shared };
  for (const name of names) runInThisContext(readFileSync(new URL(name, ASSETS), "utf8"), { filename: name });
  return globalThis.station;
}

/** Numbers from 0 to below 1, the same for each seed: mulberry32. */
export function randomNumbers(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Asserts that a table of states, each with its events and the states after them, leads from each to each. */
export function leadsEverywhere(table) {
  const states = Object.keys(table);
  for (const from of states) {
    const found = new Set([from]);
    for (const state of found) for (const to of Object.values(table[state])) found.add(to);
    assert.deepEqual([...found].sort(), [...states].sort(), from);
  }
}
