// The machine of the page Live, without a browser: what is shown as the verdict of the present part.
import assert from "node:assert/strict";
import { test } from "node:test";

import { leadsEverywhere, randomNumbers, scripts } from "./page_scripts.mjs";

const { live: machine } = scripts("live-state.js");
const { SILENT, AGAIN, PATIENCE, IDLE, SLOW, KEPT } = machine.LIMITS;
const BEGIN = Date.parse("2026-11-30T06:00:00Z");
const VERDICTS = ["good", "anomalous", "within tolerance"];

const iso = (seconds) => new Date(BEGIN + 1000 * seconds).toISOString();
const part = (id, decision = "good", more = {}) => ({ id, at: iso(id), decision, verdict: null, unanswered: null, purpose: "production", name: `${id}.png`, ...more });
const facts = (more = {}) => ({ started: iso(0), stopped: null, refused: null, sources: [], backlog: 0, waiting: 0, ...more });

/** A page, and the time of its browser in seconds after 100, which the station's is, too. */
class Page {
  constructor({ inspections = [], isVisible = true, ...more } = {}) {
    this.seconds = 100;
    this.state = machine.begin({ now: this.now, facts: facts({ at: iso(100), ...more }), inspections, bad: null, isVisible });
    this.requests = [...this.state.requests];
  }

  get now() {
    return BEGIN + 1000 * this.seconds;
  }

  get name() {
    return this.state.name;
  }

  happen(type, more = {}) {
    this.state = machine.next(this.state, { type, now: this.now, ...more });
    this.requests.push(...this.state.requests);
    return this;
  }

  /** Time passes, by ticks of a second, without a word of the station. */
  pass(seconds) {
    for (let k = 0; k < seconds; k += 1) {
      this.seconds += 1;
      this.happen("tick");
    }
    return this;
  }

  inspected = (item) => this.happen("inspection", { item });
  refused = (found) => this.happen("refusal", { found: { code: "late", part: "4711", ...found } });
  told = (more = {}) => this.happen("state", { facts: facts({ at: iso(this.seconds), ...more }) });

  /** The station answers the newest question. */
  answered = (inspections = [], more = {}) => this.happen("answered", { question: this.state.question, facts: facts(more), inspections });
  failed = (status = 0) => this.happen("failed", { question: this.state.question, status, message: "why" });

  /** The requests since they were asked for last. */
  sent() {
    return this.requests.splice(0).map(({ kind }) => kind);
  }
}

/** A page whose stream is open, and that knows all there was. */
const opened = (more) => new Page(more).happen("open").answered(more?.inspections ?? [], more);

// What the band says ---------------------------------------------------------------------------------------
const camera = (state) => ({ kind: "camera", state, last: iso(1) });
const BANDS = [
  ["waiting", {}],
  ["good", { inspections: [part(99)] }],
  ["anomalous", { inspections: [part(99, "anomalous")] }],
  ["within tolerance", { inspections: [part(99, "within tolerance")] }],
  ["away", { inspections: [part(99)], sources: [camera("away"), camera("away")] }],
  ["good", { inspections: [part(99)], sources: [camera("away"), camera("running")] }],
  ["paused", { inspections: [part(99)], stopped: "paused" }],
  ["stopped", { inspections: [part(99)], stopped: "challenge" }],
  ["refused", { inspections: [part(99)], refused: { at: iso(99.5), code: "late" } }],
  ["good", { inspections: [part(99)], refused: { at: iso(98), code: "late" } }],
  ["refused", { inspections: [part(99, "good", { unanswered: "late" })] }],
  ["idle", { inspections: [part(1)] }],
  ["idle", { inspections: [part(99)], started: iso(99.5) }],
];
for (const [name, given] of BANDS) {
  test(`a page that begins with ${JSON.stringify(given)} is ${name}`, () => assert.equal(new Page(given).name, name));
}

test("a decision is that of the present part for a minute", () => {
  const page = opened().inspected(part(101));
  for (let k = 0; k < IDLE / 1000 - 1; k += 1) page.pass(1).told();
  assert.equal(page.name, "good");
  assert.equal(page.pass(1).told().name, "idle");
  assert.equal(page.inspected(part(200, "anomalous")).name, "anomalous");
});

test("a part that is judged for long takes the place of the verdict before it", () => {
  const page = opened({ inspections: [part(99)] }).inspected(part(100));
  assert.equal(page.told({ backlog: 1 }).name, "good");
  assert.equal(page.pass(SLOW / 1000).told({ backlog: 1 }).name, "judging");
  assert.equal(page.inspected(part(101, "anomalous")).name, "anomalous");
  assert.equal(opened().pass(SLOW / 1000).told({ backlog: 1 }).name, "judging");
});

test("a refusal is forgotten by what began later alone, in whatever order the messages come", () => {
  const messages = [
    ["r105 g103", "refused"],
    ["r105 g105", "refused"],
    ["r105 g106", "good"],
    ["g106 r105", "good"],
    ["r105 r102 g103", "refused"],
    ["r105 g106 r102", "good"],
    ["r105 g106 g103", "good"],
    ["u105 g103", "refused"],
    ["u105 g106", "good"],
    ["r105 g103 a106", "anomalous"],
  ];
  for (const [order, name] of messages) {
    const page = opened();
    order.split(" ").forEach((message, k) => {
      const at = iso(Number(message.slice(1)));
      if (message[0] === "r") page.refused({ at });
      else page.inspected(part(900 + k, message[0] === "a" ? "anomalous" : "good", { at, unanswered: message[0] === "u" ? "late" : null }));
    });
    assert.equal(page.name, name, order);
  }
});

test("a refusal whose message was lost comes with the next state", () => {
  const page = opened().inspected(part(101));
  page.seconds = 103;
  assert.equal(page.told({ refused: { at: iso(102), code: "late", part: "4711" } }).name, "refused");
});

test("a station's clock that is set back hides no refusal", () => {
  const page = opened().inspected(part(101));
  page.told({ at: iso(-3600) });
  assert.equal(page.refused({ at: iso(-3599) }).name, "refused");
});

test("a browser's clock that is set back delays nothing", () => {
  const page = opened().inspected(part(101));
  page.seconds -= 3600;
  page.happen("tick");
  page.pass(SILENT / 1000);
  assert.equal(page.name, "connecting");
  assert.equal(page.failed().name, "lost");
});

// What is newest -------------------------------------------------------------------------------------------
test("an older verdict that comes later is not shown as the newest", () => {
  const page = opened().inspected(part(105, "anomalous")).inspected(part(104));
  assert.equal(machine.shown(page.state).id, 105);
  assert.equal(page.name, "anomalous");
  assert.deepEqual(page.state.newest.map(({ id }) => id), [105, 104]);
});

test("an answer that is older than what the stream told meanwhile shows nothing old", () => {
  const page = opened();
  const old = Array.from({ length: KEPT }, (_, k) => part(100 + k));
  page.happen("broken");
  for (let k = 0; k < KEPT + 4; k += 1) page.inspected(part(200 + k, "anomalous"));
  page.answered(old, { stopped: "challenge" });
  assert.equal(machine.shown(page.state).id, 219);
  assert.ok(page.state.newest.every(({ id }) => id >= 200));
});

test("what the stream told of the station is not undone by an answer that was asked for before", () => {
  const page = opened().happen("broken").told({ stopped: "challenge" });
  assert.equal(page.answered([part(99)]).name, "stopped");
});

test("what came between the page and its stream is asked for", () => {
  const page = new Page({ inspections: [part(98)] });
  assert.deepEqual(page.sent(), ["listen"]);
  page.happen("open");
  assert.deepEqual(page.sent(), ["ask"]);
  assert.equal(page.answered([part(99, "anomalous"), part(98)]).name, "anomalous");
  assert.deepEqual(page.sent(), [], "it listens already");
});

test("a stream that opens while an answer is on its way is asked about once more", () => {
  const page = new Page().happen("broken").happen("open");
  page.sent();
  page.answered();
  assert.deepEqual(page.sent(), ["ask"]);
});

test("two streams that tell of a part show it once, and a correction stays", () => {
  const page = opened().inspected(part(101, "anomalous"));
  page.told({ waiting: 1 }).answered([part(101, "anomalous", { verdict: "good" })]);
  page.inspected(part(101, "anomalous"));
  assert.deepEqual(page.state.newest.map(({ id, verdict }) => [id, verdict]), [[101, "good"]]);
  assert.equal(machine.corrected(page.state.newest[0]), "false_alarm");
});

test("what somebody else corrected is asked for, and the last defective part is another one", () => {
  const page = opened().inspected(part(101, "anomalous")).inspected(part(102, "anomalous")).inspected(part(103));
  page.sent();
  page.told({ waiting: 1 });
  assert.deepEqual(page.sent(), ["ask"]);
  page.answered([part(103, "good", { verdict: "good" }), part(102, "anomalous", { verdict: "good" }), part(101, "anomalous")]);
  assert.equal(page.state.bad.id, 101);
});

test("a station that began anew with an older store is believed", () => {
  const page = opened().inspected(part(500, "anomalous"));
  page.told({ started: iso(300) });
  assert.equal(page.name, "connecting");
  page.answered([part(310)], { started: iso(300) });
  assert.equal(page.name, "good");
  assert.equal(machine.shown(page.state).id, 310);
});

// The connection -------------------------------------------------------------------------------------------
test("a lost station shows no verdict until it answers", () => {
  const page = opened().inspected(part(101)).happen("broken");
  assert.equal(page.name, "connecting");
  assert.equal(page.failed().name, "lost");
  page.sent();
  page.pass(AGAIN / 1000);
  assert.deepEqual(page.sent(), ["ask"]);
  assert.equal(page.name, "lost");
  assert.equal(page.answered([part(102, "anomalous"), part(101)]).name, "anomalous");
  assert.deepEqual(page.sent(), ["listen"]);
});

test("a silent stream is left and asked about", () => {
  const page = opened().inspected(part(101));
  page.sent();
  page.pass(SILENT / 1000);
  assert.equal(page.name, "connecting");
  assert.deepEqual(page.sent(), ["leave", "ask"]);
});

test("a question without an answer is not waited for for ever", () => {
  const page = opened().happen("broken").pass(PATIENCE / 1000);
  assert.equal(page.name, "lost");
  page.sent();
  page.pass(AGAIN / 1000);
  assert.deepEqual(page.sent(), ["ask"]);
});

test("one answer that fails is no lost connection while the stream tells", () => {
  const page = opened().inspected(part(101)).happen("open");
  assert.equal(page.failed(503).name, "good");
  page.sent();
  page.pass(AGAIN / 1000);
  assert.deepEqual(page.sent(), ["ask"]);
});

test("who is signed out is told so, and is back after signing in elsewhere", () => {
  const page = opened().inspected(part(101)).happen("open").failed(401);
  assert.equal(page.name, "signed_out");
  page.pass(AGAIN / 1000);
  assert.equal(page.answered([part(101)]).name, "good");
});

test("a held picture hides neither a lost connection nor a part that is not judged", () => {
  const page = opened().inspected(part(101, "anomalous")).happen("hold");
  assert.equal(page.name, "held");
  page.inspected(part(102));
  assert.deepEqual([page.name, machine.shown(page.state).id, page.state.newer], ["held", 101, 1]);
  assert.equal(page.refused({ at: iso(103) }).name, "refused");
  assert.equal(page.happen("offline").name, "connecting");
  assert.equal(page.failed().name, "lost");
  page.answered([part(102)]);
  assert.equal(page.happen("hold").state.picked, null);
});

test("what is tried from a file is called a trial, and is no part of the line", () => {
  const page = opened().inspected(part(101));
  page.happen("pick", { item: part(102, "anomalous", { purpose: "trial" }) });
  assert.equal(page.name, "trial");
  assert.deepEqual(page.state.newest.map(({ id }) => id), [101]);
  assert.equal(page.happen("hold").name, "good");
});

// A page that nobody sees ----------------------------------------------------------------------------------
test("a page that is seen again shows no verdict of before", () => {
  const page = opened().inspected(part(101));
  page.sent();
  page.happen("look", { isVisible: false });
  assert.deepEqual([page.name, page.sent()], ["unseen", ["leave"]]);
  page.inspected(part(102)).told().pass(3600);
  assert.deepEqual([page.state.newest.length, page.sent()], [1, []], "it gave its stream back");
  page.happen("look", { isVisible: true });
  assert.deepEqual([page.name, page.sent()], ["connecting", ["ask"]]);
  assert.equal(page.answered([part(101)]).name, "idle");
});

test("an answer that comes after the page was left changes nothing", () => {
  const page = opened().inspected(part(101)).happen("broken");
  const { question } = page.state;
  page.happen("look", { isVisible: false });
  page.happen("answered", { question, facts: facts(), inspections: [part(102)] });
  page.happen("failed", { question, status: 0 });
  assert.equal(page.name, "unseen");
  page.happen("look", { isVisible: true });
  page.happen("answered", { question, facts: facts(), inspections: [part(102)] });
  assert.equal(page.name, "connecting");
  assert.deepEqual(page.state.newest.map(({ id }) => id), [101]);
});

test("a page with its sound on listens while nobody sees it, and leaves when it is closed", () => {
  const page = opened().happen("sound", { isLoud: true }).happen("look", { isVisible: false });
  assert.equal(page.inspected(part(101, "anomalous")).name, "anomalous");
  assert.equal(page.requests.at(-1).kind, "tone");
  assert.equal(page.happen("sound", { isLoud: false }).name, "unseen");
  assert.equal(opened().happen("sound", { isLoud: true }).happen("leave").name, "unseen");
});

test("a page that begins in the background asks nothing", () => {
  assert.equal(new Page({ isVisible: false }).name, "unseen");
});

// All that can happen, in any order ------------------------------------------------------------------------
/** A station that judges and refuses parts, and whose messages and answers come late, twice, in any order or never. */
class Line {
  constructor(random) {
    this.random = random;
    this.parts = [];
    this.id = 100;
    this.isThere = true;
    this.page = new Page();
    this.answers = [];
    this.highest = 0; // number of the newest part that the page knows
  }

  pick = (things) => things[Math.floor(this.random() * things.length)];
  chance = (share) => this.random() < share;

  take(type, more = {}) {
    const page = this.page.happen(type, more);
    for (const { kind, question } of page.requests.splice(0)) if (kind === "ask") this.answers.push(this.answer(question));
    this.highest = Math.max(this.highest, ...page.state.newest.map(({ id }) => id));
    this.check();
  }

  answer(question) {
    const known = { question, facts: facts({ stopped: this.stopped, backlog: this.backlog }), inspections: this.parts.slice(-KEPT).reverse() };
    if (this.isThere) return ["answered", known];
    return ["failed", { question, status: this.pick([0, 401, 500]), message: "" }];
  }

  step() {
    this.page.seconds += Math.floor(4 * this.random() ** 3 * (this.chance(0.05) ? 30 : 1));
    this.stopped = this.chance(0.1) ? this.pick(["paused", "challenge"]) : null;
    this.backlog = this.chance(0.5) ? 1 : 0;
    const sources = this.chance(0.05) ? [camera("away")] : [];
    const acts = {
      part: () => this.parts.push(part((this.id += 1), this.pick(VERDICTS), { at: iso(this.page.seconds - 3 * this.random()) })),
      message: () => this.parts.length && this.take("inspection", { item: this.chance(0.7) ? this.parts.at(-1) : this.pick(this.parts) }),
      refusal: () => this.take("refusal", { found: { at: iso(this.page.seconds - 3 * this.random()), code: "late" } }),
      state: () => this.take("state", { facts: facts({ at: iso(this.page.seconds), stopped: this.stopped, backlog: this.backlog, sources, waiting: Math.floor(3 * this.random()) }) }),
      answer: () => this.answers.length && this.take(...this.pick(this.answers)), // also twice, or of an earlier question
      late: () => (this.answers = this.answers.slice(-3)),
      tick: () => this.take("tick"),
      open: () => this.take("open"),
      broken: () => this.take("broken"),
      offline: () => this.take("offline"),
      look: () => this.take("look", { isVisible: this.chance(0.7) }),
      sound: () => this.take("sound", { isLoud: this.chance(0.3) }),
      leave: () => this.take("leave"),
      hold: () => this.take("hold"),
      pick: () => this.parts.length && this.take("pick", { item: this.chance(0.5) ? this.pick(this.parts) : part(9999, "good", { purpose: "trial" }) }),
      fall: () => (this.isThere = this.chance(0.7)),
    };
    const weights = { part: 3, message: 4, state: 4, answer: 4, tick: 4, open: 2, look: 2 };
    const names = Object.keys(acts).flatMap((name) => Array(weights[name] ?? 1).fill(name));
    acts[this.pick(names)]();
  }

  /** What holds always. */
  check() {
    const { page } = this;
    const { state, name } = page;
    assert.ok(machine.NAMES.includes(name), name);
    if (!VERDICTS.includes(name)) return;
    const [newest] = state.newest;
    assert.equal(state.connection, "connected");
    assert.equal(machine.shown(state).id, this.highest, "a verdict is that of the newest part that is known");
    assert.equal(name, newest.decision);
    assert.ok(!machine.isRefused(state) && !state.picked && !state.facts.stopped);
    assert.ok(page.now - state.seen < IDLE && page.now - state.heard < SILENT + 120000);
  }

  /** A person looks, the station is there and answers: the page is connected, and leaves its stream to nobody. */
  recover() {
    this.isThere = true;
    this.stopped = null;
    this.backlog = 0;
    this.take("look", { isVisible: true });
    this.take("broken");
    const isThere = ({ connection, askedAt, askAt }) => connection === "connected" && askedAt === null && askAt === null;
    for (let k = 0; k < 2 + PATIENCE / 1000 && !isThere(this.page.state); k += 1) {
      this.page.seconds += 1;
      this.take("tick");
      const answers = this.answers.splice(0).filter(([, { question }]) => question === this.page.state.question);
      for (const [type, more] of answers) this.take(type, more);
    }
    assert.equal(this.page.state.connection, "connected", "every state has a way back");
    assert.notEqual(this.page.state.stream, "closed");
    for (const item of this.parts.slice(-KEPT)) assert.ok(this.page.state.newest.some(({ id }) => id === item.id), "nothing is missed");
  }
}

test("in any order of events no old verdict is shown as the newest, each state is reached, and each has a way out", () => {
  const reached = new Set();
  for (let seed = 0; seed < 300; seed += 1) {
    const line = new Line(randomNumbers(seed));
    for (let k = 0; k < 200; k += 1) {
      line.step();
      reached.add(line.page.name);
    }
    line.recover();
  }
  assert.deepEqual([...reached].sort(), [...machine.NAMES].sort());
});

test("the table of the connection has a way from each state to each", () => leadsEverywhere(machine.CONNECTION));
