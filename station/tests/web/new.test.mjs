// The machine of the page of a new product, without a browser.
import assert from "node:assert/strict";
import { test } from "node:test";

import { leadsEverywhere, randomNumbers, scripts } from "./page_scripts.mjs";

const { newProduct: machine } = scripts("progress.js", "new-state.js");
const { CALM, BUSY, PATIENCE } = machine.LIMITS;

const checked = (current = true) => ({ findings: [], current });
const facts = (more = {}) => ({
  ...{ name: "plate", stage: "collecting", version: 1, pictures: 9, left_out: 0, least: 4, check: checked(), method: null, before: 0, step: null },
  ...{ error: null, error_options: [], disk_full: false, goes_on: false, result: null, changed: false, live: null, live_is_this: false, ...more },
});
const empty = { pictures: 0, check: null };
const learnt = { stage: "ready", result: { asked_at: "2026-11-30" } };
const live = { ...learnt, live: { version: 1 }, live_is_this: true };

class Page {
  constructor(more = {}) {
    this.now = 1_000_000;
    this.state = machine.begin({ now: this.now, facts: facts(more) });
    this.requests = [...this.state.requests];
  }

  get name() {
    return this.state.name;
  }

  get view() {
    return machine.view(this.state);
  }

  happen(type, more = {}) {
    this.state = machine.next(this.state, { type, now: this.now, ...more });
    this.requests.push(...this.state.requests);
    return this;
  }

  pass(ms) {
    this.now += ms;
    return this.happen("tick");
  }

  /** The station is asked, and answers. */
  answered = (more = {}) => this.happen("look").happen("answered", { question: this.state.question, facts: facts(more) });
  failed = (status = 0) => this.happen("look").happen("failed", { question: this.state.question, status, message: "why" });
  act = (what, more = {}) => this.happen("do", { act: { what, ...more } });
  done = (more, undo) => this.happen("done", { facts: more && facts(more), undo });
  sent = () => this.requests.splice(0).map(({ kind, what }) => what ?? kind);
}

const STATES = [
  ["pictures", empty],
  ["pictures", { pictures: 3 }],
  ["checking", { check: null }],
  ["checking", { check: checked(false) }],
  ["ready", {}],
  ["ready", { stage: "stopped", goes_on: true }],
  ["queued", { stage: "queued", before: 2 }],
  ["learning", { stage: "running" }],
  ["learning", { ...learnt, stage: "running" }],
  ["failed", { stage: "failed" }],
  ["see", learnt],
  ["see", { ...live, live_is_this: false }],
  ["live", live],
];
for (const [name, given] of STATES) {
  test(`a product with ${JSON.stringify(given)} is at ${name}`, () => {
    const page = new Page(given);
    assert.equal(page.name, name);
    assert.equal(page.view.mayStart, ["ready", "failed", "see", "live"].includes(name));
    assert.equal(page.view.mayStop, ["queued", "learning"].includes(name));
    assert.equal(page.view.mayGoLive, Boolean(given.result) && !given.live_is_this);
  });
}

test("from pictures to live", () => {
  const page = new Page(empty).happen("files", { count: 2 });
  assert.equal(page.name, "sending");
  page.happen("sent");
  assert.equal(page.name, "sending");
  page.sent();
  page.happen("sent");
  assert.deepEqual(page.sent(), ["ask"]);
  assert.equal(page.happen("answered", { question: page.state.question, facts: facts({ version: 2, check: checked(false) }) }).name, "checking");
  assert.ok(page.view.waitsForCheck);
  assert.equal(page.answered({ version: 2 }).name, "ready");
  page.sent();
  page.act("learn", { goOn: false });
  assert.deepEqual(page.sent(), ["learn"]);
  assert.equal(page.done({ version: 2, stage: "queued" }).name, "queued");
  assert.equal(page.answered({ version: 2, stage: "running" }).name, "learning");
  assert.equal(page.answered({ version: 2, ...learnt }).name, "see");
  assert.ok(page.sent().includes("reveal"), "somebody waited for it");
  assert.equal(page.act("live").name, "going_live");
  assert.equal(page.done({ version: 2, ...live }).name, "live");
  assert.equal(page.view.step, "live");
});

test("a result that was there before is not revealed", () => {
  const page = new Page(learnt);
  page.answered({ ...learnt, changed: true });
  assert.ok(!page.sent().includes("reveal"));
});

test("options that do not go together hold learning back", () => {
  const page = new Page().happen("options", { isBlocked: true });
  assert.equal(page.view.mayStart, false);
  assert.equal(page.happen("options", { isBlocked: false }).view.mayStart, true);
});

test("the bar of learning does not go back", () => {
  const step = (stage, done) => ({ stage, done, total: 10, left: null });
  const page = new Page({ stage: "running", step: step("leave-one-out", 5) });
  const { furthest } = page.state;
  assert.ok(furthest >= 0.5);
  assert.equal(page.answered({ stage: "running", step: step("features", 5) }).state.furthest, furthest);
  assert.equal(page.answered(learnt).state.furthest, 0);
});

// Two people at once -----------------------------------------------------------------------------------------
test("learning that somebody else stops is called so, and one's own is not", () => {
  const page = new Page({ stage: "running" });
  assert.equal(page.answered({ stage: "stopped" }).name, "cancelled");
  assert.equal(page.answered({ stage: "stopped" }).name, "cancelled");
  assert.ok(page.view.mayStart);
  assert.equal(page.answered({ stage: "running" }).name, "learning");
  page.act("stop");
  page.happen("answered", { question: page.state.question, facts: facts({ stage: "stopped" }) });
  assert.equal(page.done({ stage: "stopped" }).name, "ready");
});

test("a stop that ends a search for settings alone, and then somebody else's", () => {
  const page = new Page({ stage: "running" }).act("stop").done({ stage: "running" });
  assert.equal(page.name, "learning");
  assert.equal(page.answered({ stage: "stopped" }).name, "cancelled");
});

test("learning that somebody else began is shown, and can be stopped here", () => {
  const page = new Page();
  assert.equal(page.answered({ stage: "queued" }).name, "queued");
  assert.ok(page.view.mayStop && !page.view.mayStart);
});

test("a product that somebody else removed is called so, and one that is there again is found", () => {
  const page = new Page(learnt).failed(404);
  assert.equal(page.name, "removed");
  assert.ok(!page.view.mayStart && !page.view.mayGoLive);
  page.sent();
  page.pass(CALM);
  assert.deepEqual(page.sent(), ["ask"]);
  assert.equal(page.happen("answered", { question: page.state.question, facts: facts(empty) }).name, "pictures");
});

test("a page that removes its product asks no more, unless that fails", () => {
  const page = new Page(learnt).act("remove");
  page.sent();
  assert.deepEqual([page.pass(CALM).name, page.sent()], ["removing", []]);
  page.happen("undone", { status: 503, message: "why" });
  assert.deepEqual([page.name, page.sent()], ["see", ["ask"]]);
});

test("what a click cannot do since somebody else was faster is asked for", () => {
  const page = new Page(learnt).act("live");
  page.sent();
  page.happen("undone", { status: 409, message: "it learns" });
  assert.deepEqual(page.sent(), ["ask"]);
  assert.equal(page.happen("answered", { question: page.state.question, facts: facts({ ...learnt, stage: "running" }) }).name, "learning");
});

// Answers in any order ---------------------------------------------------------------------------------------
test("an answer from before a click does not undo what the click did", () => {
  const page = new Page().happen("look");
  const { question } = page.state;
  page.act("leave_out", { pictures: ["a.png"] }).done({ version: 2, pictures: 8, left_out: 1 }, ["a.png"]);
  page.happen("answered", { question, facts: facts() });
  assert.equal(page.state.facts.pictures, 8);
  assert.ok(page.view.mayUndo);
});

test("of clicks on pictures none is lost, and a second click on a button does nothing", () => {
  const page = new Page();
  page.sent();
  page.act("leave_out", { pictures: ["a.png"] }).act("leave_out", { pictures: ["b.png"] }).act("learn").act("learn");
  assert.deepEqual(page.sent(), ["leave_out"]);
  page.done({ version: 2, pictures: 8, left_out: 1 });
  assert.deepEqual(page.sent().filter((kind) => kind !== "list"), ["leave_out"]);
  page.happen("undone", { status: 0, message: "" });
  assert.equal(page.state.doing, null);
});

test("what was done without an answer on how the product is now is asked for", () => {
  const page = new Page(learnt).act("live");
  page.sent();
  page.done(null);
  assert.deepEqual(page.sent(), ["ask"]);
});

test("names of pictures that are of before are asked for anew", () => {
  const page = new Page();
  assert.deepEqual(page.sent(), ["list"]);
  page.answered({ version: 2, pictures: 8, left_out: 1 });
  page.sent();
  page.happen("listed", { version: 1, pictures: Array(9).fill("a.png"), left_out: [] });
  assert.equal(page.state.listed.version, null);
  page.happen("listed", { version: 2, pictures: Array(8).fill("a.png"), left_out: ["b.png"] });
  assert.equal(page.state.listed.version, 2);
  page.sent();
  page.answered({ version: 2, pictures: 8, left_out: 1 });
  assert.ok(!page.sent().includes("list"));
  page.answered({ version: 2, pictures: 5, left_out: 1 }); // a station that began anew counts its versions anew
  assert.ok(page.sent().includes("list"));
});

test("that all pictures are good is said of those that were there", () => {
  const page = new Page().happen("good");
  assert.ok(page.view.isAllGood);
  assert.ok(!page.answered({ version: 2 }).view.isAllGood);
});

// The connection ---------------------------------------------------------------------------------------------
test("a lost connection is told, whatever a person is asked, and left as soon as the station answers", () => {
  const page = new Page(learnt).failed(0);
  assert.equal(page.name, "lost");
  assert.ok(!page.view.mayGoLive && !page.view.mayStart);
  assert.equal(page.answered(learnt).name, "see");
  assert.equal(page.happen("reached", { isReached: false }).name, "lost");
  assert.equal(page.happen("reached", { isReached: true }).name, "see");
  assert.equal(page.failed(401).name, "signed_out");
  assert.equal(page.answered(learnt).name, "see");
});

test("a question without an answer is not waited for for ever", () => {
  const page = new Page();
  page.pass(BUSY);
  page.sent();
  assert.equal(page.pass(PATIENCE).name, "lost");
  page.pass(CALM);
  assert.deepEqual(page.sent(), ["ask"]);
});

test("the station is asked each second while something is under way, else seldom", () => {
  for (const [more, pause] of [[{}, CALM], [{ stage: "running" }, BUSY], [{ check: checked(false) }, BUSY], [empty, CALM]]) {
    const page = new Page(more).answered(more);
    page.sent();
    page.pass(pause - 1);
    assert.deepEqual(page.sent(), []);
    page.pass(1);
    assert.deepEqual(page.sent(), ["ask"]);
  }
});

// All that can happen, in any order ----------------------------------------------------------------------------
/** A station whose product goes its way by this page and others, and whose answers come late, twice, or never. */
class Maker {
  constructor(random) {
    this.random = random;
    this.isThere = true;
    this.status = 0;
    this.count = 0; // of changes: a later answer has more
    this.known = facts({ ...empty, count: 0 });
    this.page = new Page(this.known);
    this.answers = [];
    this.newest = 0;
  }

  pick = (things) => things[Math.floor(this.random() * things.length)];
  chance = (share) => this.random() < share;

  change(more) {
    this.count += 1;
    this.known = { ...this.known, ...more, count: this.count };
  }

  take(type, more = {}) {
    const page = this.page.happen(type, more);
    for (const request of page.requests.splice(0)) this.serve(request);
    const { state } = page;
    assert.ok(machine.NAMES.includes(state.name), state.name);
    assert.ok(state.facts.count >= this.newest, "nothing older than what is known is shown");
    this.newest = state.facts.count;
    const view = machine.view(state);
    assert.ok(!(view.mayStart && (view.isLearning || view.waitsForCheck || state.all || state.connection !== "connected")));
    assert.ok(!(view.mayGoLive && !state.facts.result));
  }

  serve(request) {
    const { kind, question, version } = request;
    const copy = { ...this.known };
    if (kind === "ask") this.answers.push(this.isThere ? ["answered", { question, facts: copy }] : ["failed", { question, status: this.status, message: "" }]);
    if (kind === "list") this.answers.push(["listed", { version, pictures: Array(copy.pictures).fill("a.png"), left_out: [] }]);
    if (kind === "do") this.doing = request;
  }

  /** What the page asked for is done, or not. */
  end() {
    const { doing } = this;
    if (!doing) return;
    this.doing = null;
    if (!this.isThere || doing.what === "remove" || this.chance(0.2)) {
      this.take("undone", { status: this.isThere ? 409 : this.status, message: "" });
      return;
    }
    const ends = { learn: { stage: "queued" }, stop: { stage: "stopped", step: null }, live: { live: { version: 1 }, live_is_this: true }, leave_out: { version: this.known.version + 1 } };
    this.change(ends[doing.what]);
    this.take("done", { facts: { ...this.known } });
  }

  step() {
    this.page.now += Math.floor(3000 * this.random() ** 2);
    const { stage, result } = this.known;
    const isLearning = ["queued", "running"].includes(stage);
    const acts = {
      answer: () => this.answers.length && this.take(...this.pick(this.answers)),
      late: () => (this.answers = this.answers.slice(-2)),
      tick: () => this.take("tick"),
      end: () => this.end(),
      click: () => this.click(),
      files: () => this.chance(0.3) && this.take("files", { count: 1 }),
      sent: () => this.page.state.all && (this.change({ pictures: this.known.pictures + 4, version: this.known.version + 1, check: checked(false) }), this.take("sent")),
      checked: () => this.change({ check: checked() }),
      runs: () => stage === "queued" && this.change({ stage: "running", step: { stage: this.pick(["features", "coreset"]), done: 1, total: 2, left: null } }),
      ends: () => isLearning && this.change({ ...this.pick([learnt, learnt, { stage: "failed" }]), step: null, live_is_this: false }),
      other: () => isLearning && this.chance(0.3) && this.change({ stage: "stopped", step: null }),
      starts: () => !isLearning && this.known.pictures > 3 && this.chance(0.2) && this.change({ stage: "queued" }),
      options: () => this.take("options", { isBlocked: this.chance(0.2) }),
      fall: () => ([this.isThere, this.status] = [this.chance(0.7), this.pick([0, 401, 404, 503])]),
      look: () => this.take("look"),
      lives: () => result && this.chance(0.1) && this.change({ live: { version: 1 }, live_is_this: true }),
    };
    const weights = { answer: 6, tick: 4, end: 3, click: 2, checked: 2, sent: 2 };
    const names = Object.keys(acts).flatMap((name) => Array(weights[name] ?? 1).fill(name));
    acts[this.pick(names)]();
  }

  /** What a person may do now. */
  click() {
    const view = machine.view(this.page.state);
    const may = { learn: view.mayStart, stop: view.mayStop, live: view.mayGoLive, leave_out: true, remove: this.chance(0.1) };
    const what = this.pick(Object.keys(may).filter((name) => may[name]));
    this.take("do", { act: { what } });
  }

  /** The station is there and answers: the page knows what it knows, and waits for nothing. */
  recover() {
    this.isThere = true;
    while (this.page.state.doing) this.end();
    while (this.page.state.all) this.take("sent");
    if (this.page.state.listing !== null) this.take("unlisted", { version: this.page.state.listing });
    this.take("look");
    for (let k = 0; k < 3; k += 1) for (const [type, more] of this.answers.splice(0)) this.take(type, more);
    const { state } = this.page;
    assert.equal(state.connection, "connected", "every state has a way back");
    assert.equal(state.facts.count, this.count);
    assert.equal(state.listed.version, state.facts.version);
    assert.equal(state.askedAt, null);
  }
}

test("in any order of events nothing old is shown, each state is reached, and each has a way out", () => {
  const reached = new Set();
  for (let seed = 0; seed < 300; seed += 1) {
    const maker = new Maker(randomNumbers(seed));
    for (let k = 0; k < 200; k += 1) {
      maker.step();
      reached.add(maker.page.name);
    }
    maker.recover();
  }
  assert.deepEqual([...reached].sort(), [...machine.NAMES].sort());
});

test("the table of the connection has a way from each state to each", () => leadsEverywhere(machine.CONNECTION));
