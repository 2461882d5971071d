// Rules for the scripts of the pages, which browsers get as they are, and for their tests in Node.
import js from "@eslint/js";
import globals from "globals";

const PAGES = ["src/flawscope/pages/assets/*.js", "station/src/flawscope_station/web/assets/*.js"];
const REPORT = ["src/flawscope/pages/report/*.js"];
const EXAMPLES = ["examples/**/*.js"];
const WORKER = ["station/src/flawscope_station/web/assets/live-stream.js"];

// What a script says at its top level is for the scripts after it on a page
const SHARED = { station: "readonly", brush: "readonly", outbox: "readonly", uPlot: "readonly" };
const script = (names) => ({ sourceType: "script", globals: names });

export default [
  { ignores: ["**/vendored/**", "docs/**", "site/**", "**/build/**", "dist/**", ".venv/**"] },
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      "no-redeclare": ["error", { builtinGlobals: false }],
      "no-unused-vars": ["error", { vars: "local", ignoreRestSiblings: true }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
    },
  },
  { files: PAGES, languageOptions: script({ ...globals.browser, ...SHARED }) },
  { files: REPORT, languageOptions: script({ ...globals.browser, page: "readonly" }) },
  { files: EXAMPLES, languageOptions: script(globals.browser) },
  { files: WORKER, languageOptions: script(globals.sharedWorker) },
  { files: ["**/*.mjs"], languageOptions: { sourceType: "module", globals: globals.node } },
];
