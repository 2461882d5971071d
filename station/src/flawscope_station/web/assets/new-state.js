"use strict";
// The page of a new product as a state machine: `begin`, and `next` for each event. Nothing of a browser is in it:
// `new.js` turns answers, clicks and ticks into events, sends the requests of a state, and draws what `view` says.
(() => {
  const CALM = 4000; // ms between two questions
  const BUSY = 1000; // and while something is under way
  const PATIENCE = 30000; // ms after which a question counts as failed
  const WAITS = ["leave_out", "remove"]; // what a person asks for is done after what is under way
  const LEARNS = ["queued", "running"]; // stages of the station

  // The connection: state -> event -> state. Other events leave it as it is.
  const CONNECTION = {
    connected: { unreachable: "lost", refused: "signed_out", missing: "removed" },
    lost: { answered: "connected", refused: "signed_out", missing: "removed" },
    signed_out: { answered: "connected", unreachable: "lost", missing: "removed" },
    removed: { answered: "connected", unreachable: "lost", refused: "signed_out" },
  };

  // What the product is at, while the page is connected: the first of these that holds
  const STAGES = [
    ["removing", ({ doing }) => doing === "remove"],
    ["going_live", ({ doing }) => doing === "live"],
    ["queued", ({ facts }) => facts.stage === "queued"],
    ["learning", ({ facts }) => facts.stage === "running"],
    ["sending", ({ all }) => all > 0],
    ["pictures", ({ facts }) => facts.pictures < facts.least],
    ["checking", ({ facts }) => !facts.check?.current],
    ["failed", ({ facts }) => facts.stage === "failed"],
    ["cancelled", ({ isCancelled }) => isCancelled],
    ["live", ({ facts }) => facts.live_is_this],
    ["see", ({ facts }) => Boolean(facts.result)],
    ["ready", () => true],
  ];
  const NAMES = [...STAGES.map(([name]) => name), "lost", "signed_out", "removed"];

  function nameOf(state) {
    if (state.connection !== "connected") return state.connection;
    return STAGES.find(([, holds]) => holds(state))[0];
  }

  const learns = ({ facts }) => LEARNS.includes(facts.stage);

  function move(state, event) {
    state.connection = CONNECTION[state.connection][event] ?? state.connection;
  }

  // Questions --------------------------------------------------------------------------------------------
  function ask(state) {
    state.question += 1;
    state.askedAt = state.now;
    state.requests.push({ kind: "ask", question: state.question });
  }

  /** When the station is asked again: soon, while something is under way. */
  function wait(state) {
    const { facts, all } = state;
    const isCalm = !learns(state) && !all && (!facts.pictures || facts.check?.current);
    Object.assign(state, { askedAt: null, askAt: state.now + (isCalm ? CALM : BUSY) });
  }

  /** An answer that is on its way is of before. */
  function forgetQuestion(state) {
    state.question += 1;
    wait(state);
  }

  function fail(state, { status, message }) {
    state.trouble = { status, message };
    move(state, { 401: "refused", 404: "missing" }[status] ?? "unreachable");
  }

  // What is known ----------------------------------------------------------------------------------------
  function takeFacts(state, facts) {
    const wasLearning = learns(state);
    state.facts = facts;
    const isEnd = wasLearning && !learns(state);
    if (isEnd && facts.stage === "stopped" && state.doing !== "stop") state.isCancelled = true;
    if (facts.stage !== "stopped") state.isCancelled = false;
    if (isEnd && facts.stage === "ready") state.requests.push({ kind: "reveal" }); // somebody waited for it
    const share = facts.step ? station.progressShare(facts.step) : 0;
    state.furthest = learns(state) ? Math.max(state.furthest, share ?? 0) : 0; // steps may come again: it does not go back
    list(state);
  }

  /** Asks for the names of the pictures, where they are others than those that are listed. */
  function list(state) {
    const { facts, listed } = state;
    const isListed = listed.version === facts.version && listed.pictures.length === facts.pictures && listed.left_out.length === facts.left_out;
    if (isListed || state.listing === facts.version) return;
    state.listing = facts.version;
    state.requests.push({ kind: "list", version: facts.version });
  }

  // What a person does -----------------------------------------------------------------------------------
  function start(state, act) {
    state.doing = act.what;
    state.requests.push({ kind: "do", ...act });
  }

  function end(state) {
    const [act, ...later] = state.later;
    Object.assign(state, { doing: null, later });
    forgetQuestion(state);
    if (act) start(state, act);
  }

  // Events -----------------------------------------------------------------------------------------------
  const EVENTS = {
    tick(state) {
      if (state.doing === "remove") return; // the page goes with it
      if (state.askedAt !== null) {
        if (state.now - state.askedAt < PATIENCE) return;
        fail(state, { status: 0, message: "" });
        forgetQuestion(state);
      } else if (state.now >= state.askAt) ask(state);
    },

    /** Something was done beside this page's states. */
    look(state) {
      forgetQuestion(state);
      ask(state);
    },

    answered(state, { question, facts }) {
      if (question !== state.question) return; // something was done meanwhile, and its answer is newer
      move(state, "answered");
      takeFacts(state, facts);
      wait(state);
    },

    failed(state, { question, status, message }) {
      if (question !== state.question) return;
      fail(state, { status, message });
      wait(state);
    },

    listed(state, { version, pictures, left_out }) {
      if (state.listing === version) state.listing = null;
      if (version === state.facts.version) state.listed = { version, pictures, left_out };
      else list(state);
    },

    unlisted(state, { version }) {
      if (state.listing === version) state.listing = null; // with the next answer it is asked for again
    },

    /** A person does something: one after the other; a second click on what may be done once does nothing. */
    do(state, { act }) {
      if (state.doing && WAITS.includes(act.what)) state.later = [...state.later, act];
      else if (!state.doing) start(state, act);
    },

    /** It is done. facts: as they are now; null: they are asked for. undo: pictures that it left out. */
    done(state, { facts, undo = [] }) {
      if (facts) {
        move(state, "answered");
        takeFacts(state, facts);
      }
      state.undo = undo;
      end(state);
      if (!facts) ask(state);
    },

    undone(state, { status, message }) {
      if (status === 401) fail(state, { status, message });
      end(state);
      ask(state); // why: it may be otherwise than this page knows
    },

    /** Files are being sent. */
    files(state, { count }) {
      Object.assign(state, { all: state.all + count, undo: [] });
    },

    sent(state) {
      state.sent += 1;
      if (state.sent < state.all) return;
      Object.assign(state, { sent: 0, all: 0 });
      forgetQuestion(state);
      ask(state);
    },

    /** Whether the station took a file, or could not be reached. */
    reached(state, { isReached }) {
      if (isReached) move(state, "answered");
      else fail(state, { status: 0, message: "" });
    },

    /** Options that do not go together. */
    options(state, { isBlocked }) {
      state.isBlocked = isBlocked;
    },

    /** A person said that all pictures are good, whatever they are called. */
    good(state) {
      state.allGood = state.facts.version;
    },
  };

  /** The state after an event {type, now, ...}, with `requests` to be sent: ask, list, do, reveal. */
  function next(before, event) {
    const state = { ...before, now: event.now, requests: [] };
    const back = before.now - event.now;
    if (back > 0) {
      state.askAt -= back; // somebody set the clock back
      if (state.askedAt !== null) state.askedAt -= back;
    }
    EVENTS[event.type](state, event);
    state.name = nameOf(state);
    return state;
  }

  /** The state of a page that begins, from what it was rendered with. */
  function begin({ now, facts }) {
    const state = {
      ...{ name: "", connection: "connected", now, requests: [], trouble: null, question: 0, askedAt: null, askAt: now + BUSY },
      ...{ facts, listed: { version: null, pictures: [], left_out: [] }, listing: null, doing: null, later: [], undo: [], allGood: null },
      ...{ sent: 0, all: 0, isBlocked: false, isCancelled: false, furthest: 0 },
    };
    takeFacts(state, facts);
    state.name = nameOf(state);
    return state;
  }

  /** Whether the page waits for the check of its pictures before it may learn. */
  const waitsForCheck = ({ facts, all }) => facts.pictures >= facts.least && !all && !facts.check?.current;

  /** Which of the five steps is reached. */
  function stepOf({ facts }) {
    if (facts.live) return "live";
    if (facts.result) return "result";
    if (LEARNS.includes(facts.stage)) return "learn";
    return facts.pictures ? "check" : "give";
  }

  /** What a person can do, and what stands on the page. */
  function view(state) {
    const { facts, connection, doing, all, isBlocked } = state;
    const isLearning = learns(state);
    const isThere = connection === "connected" && !doing;
    const mayLearn = facts.pictures >= facts.least && !all && !waitsForCheck(state) && !isLearning && !isBlocked;
    return {
      step: stepOf(state),
      isLearning,
      mayStart: isThere && mayLearn,
      waitsForCheck: !isLearning && waitsForCheck(state),
      mayStop: isThere && isLearning,
      mayGoOn: isThere && facts.goes_on,
      mayGoLive: isThere && Boolean(facts.result) && !facts.live_is_this,
      mayUndo: isThere && state.undo.length > 0,
      isFailed: facts.stage === "failed",
      isAgain: Boolean(facts.result) || facts.stage === "failed",
      isAllGood: state.allGood === facts.version,
    };
  }

  station.newProduct = { NAMES, CONNECTION, LIMITS: { CALM, BUSY, PATIENCE }, begin, next, view };
})();
