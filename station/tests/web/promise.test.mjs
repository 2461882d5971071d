// What a model promises, in words.
import assert from "node:assert/strict";
import { test } from "node:test";

import { scripts } from "./page_scripts.mjs";

globalThis.document = { querySelectorAll: () => [] };
const { promise } = scripts("promise.js");

test("a promise counts parts where it says so, else pictures, and says what it lacks", () => {
  const given = { promised: true, rate: 0.125, calibrated: 7, missing: 12, wanted_rate: 0.05, several: false };
  assert.deepEqual(
    [promise.words, promise.from, promise.missing].map((words) => words({ ...given, of_parts: false })),
    ["promise.rate 13", "promise.from 7", "promise.missing 12 5"],
  );
  assert.deepEqual(
    [promise.from, promise.missing].map((words) => words({ ...given, of_parts: true })),
    ["promise.from_parts 7", "promise.missing_parts 12 5"],
  );
  assert.equal(promise.words({ ...given, several: true }), "promise.rate_several 13");
  assert.equal(promise.words({ ...given, promised: false }), "promise.none");
  assert.equal(promise.from({ ...given, promised: false }), "");
});
