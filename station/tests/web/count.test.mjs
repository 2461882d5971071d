// Counts in the words of a language, as `pages.js` forms them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { runInNewContext } from "node:vm";

const FILE = new URL("../../../src/flawscope/pages/assets/pages.js", import.meta.url);
const TEXTS = { "x.left_one": "{n} thing", "x.left_many": "{n} things" };

/** `count` of a page in a language, as a browser makes it of the page's data. */
function countOf(language, missing = []) {
  const page = { textContent: JSON.stringify({ language, missing, texts: TEXTS }) };
  const place = { addEventListener() {} };
  const document = { getElementById: (id) => (id === "page" ? page : place), querySelectorAll: () => [], addEventListener() {} };
  const context = { document, navigator: { languages: [] }, matchMedia: () => place, Intl };
  const { count } = runInNewContext(`${readFileSync(FILE, "utf8")}; station`, context);
  return [0, 1, 2].map((n) => count("x.left", n));
}

test("a count has the form of the language", () => {
  assert.deepEqual(countOf("en"), ["0 things", "1 thing", "2 things"]);
  assert.deepEqual(countOf("de"), ["0 things", "1 thing", "2 things"]);
  assert.deepEqual(countOf("fr"), ["0 thing", "1 thing", "2 things"]);
});

test("a count that is shown in English has the form of English", () => {
  assert.deepEqual(countOf("fr", ["x.left_many", "x.left_one"]), ["0 things", "1 thing", "2 things"]);
});
