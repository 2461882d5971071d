"use strict";
// The page Live as a state machine: `begin`, and `next` for each event. Nothing of a browser is in it: `live.js` turns
// messages, answers, clicks and ticks into events, sends the requests of a state, and draws it.
(() => {
  const KEPT = 16; // inspections in the strip
  const SILENT = 8000; // ms without a word after which the station is asked
  const AGAIN = 2000; // ms from an answer that failed to the next question
  const PATIENCE = 30000; // ms after which a question counts as failed
  const IDLE = 60000; // ms after which a decision is not that of the present part any more
  const SLOW = 3000; // ms without a decision after which a part that waits is said to be judged
  const CLOCK_BACK = 10000; // ms that the station's clock goes back at least where somebody set it

  // The connection: state -> event -> state. Other events leave it as it is.
  const CONNECTION = {
    connecting: { answered: "connected", unreachable: "lost", refused: "signed_out", left: "unseen" },
    connected: { broken: "connecting", restarted: "connecting", refused: "signed_out", left: "unseen" },
    lost: { answered: "connected", refused: "signed_out", left: "unseen" },
    signed_out: { answered: "connected", unreachable: "lost", left: "unseen" },
    unseen: { looked: "connecting" },
  };

  // The line, while the page is connected: the first of these that holds is the state; if none does, the decision on the
  // newest part is: good, anomalous or within tolerance.
  const LINE = [
    ["away", ({ facts }) => areCamerasAway(facts.sources)],
    ["paused", ({ facts }) => facts.stopped === "paused"],
    ["stopped", ({ facts }) => Boolean(facts.stopped)],
    ["refused", isRefused],
    ["trial", ({ picked }) => picked?.purpose === "trial"],
    ["judging", (state) => !state.picked && state.facts.backlog > 0 && state.now - state.seen >= SLOW],
    ["waiting", (state) => !shown(state)],
    ["idle", (state) => !state.isFresh || state.now - state.seen >= IDLE],
    ["held", ({ picked }) => Boolean(picked)],
  ];
  const NAMES = ["connecting", "lost", "signed_out", "unseen", ...LINE.map(([name]) => name), "good", "anomalous", "within tolerance"];

  function areCamerasAway(sources) {
    const cameras = sources.filter(({ kind }) => kind === "camera");
    return cameras.length > 0 && cameras.every(({ state }) => state === "away");
  }

  /** Whether the newest part that is known was not judged: nothing that was judged began later. */
  function isRefused({ refused, judged }) {
    return Boolean(refused) && judged <= refused.at;
  }

  /** The inspection that is large: the one that somebody holds, else the newest. */
  const shown = ({ picked, newest }) => picked ?? newest[0] ?? null;

  /** What a person corrected: a false alarm, a missed defect, or nothing. */
  function corrected({ decision, verdict }) {
    if (decision === "anomalous") return verdict === "good" ? "false_alarm" : "";
    return verdict === "defect" ? "miss" : "";
  }
  const known = (item) => ({ false_alarm: "good", miss: "anomalous" })[corrected(item)] ?? item.decision;

  function nameOf(state) {
    if (state.connection !== "connected") return state.connection;
    const found = LINE.find(([, holds]) => holds(state));
    return found ? found[0] : state.newest[0].decision;
  }

  // The connection ---------------------------------------------------------------------------------------
  function move(state, event) {
    state.connection = CONNECTION[state.connection][event] ?? state.connection;
  }

  const isAttended = ({ isVisible, isLoud }) => isVisible || isLoud;

  /** Asks what the station knows; while it is asked, once more after the answer. */
  function ask(state) {
    if (state.askedAt !== null) {
      state.askAt = state.now;
      return;
    }
    state.question += 1;
    state.askedAt = state.now;
    state.askAt = null;
    state.requests.push({ kind: "ask", question: state.question });
  }

  function listen(state) {
    state.requests.push({ kind: "listen" });
    state.stream = "asked";
  }

  function leaveStream(state) {
    if (state.stream !== "closed") state.requests.push({ kind: "leave" });
    state.stream = "closed";
  }

  /** The stream cannot be trusted: what is known may be of before. */
  function reconnect(state) {
    leaveStream(state);
    move(state, "broken");
    ask(state);
  }

  /** Nobody sees the page: answers that are on their way are of before. */
  function leave(state) {
    leaveStream(state);
    move(state, "left");
    Object.assign(state, { question: state.question + 1, askedAt: null, askAt: null });
  }

  /** Nobody sees the page, or somebody does again. */
  function attend(state) {
    if (state.connection === "unseen" && isAttended(state)) {
      move(state, "looked");
      ask(state);
    } else if (state.connection !== "unseen" && !isAttended(state)) leave(state);
  }

  function fail(state, { status, message }) {
    Object.assign(state, { askedAt: null, askAt: state.now + AGAIN, trouble: { status, message } });
    move(state, status === 401 ? "refused" : "unreachable"); // one answer that fails is no lost connection
    if (state.connection !== "connected") leaveStream(state);
  }

  // What is known ----------------------------------------------------------------------------------------
  const stationTime = ({ now, ahead }) => now + ahead;
  const byNumber = (one, other) => other.id - one.id;

  /** Takes over inspections in whatever order they come: the newest is the one with the highest number. Returns
   *  whether one of them is new and among the last. */
  function learn(state, inspections) {
    const before = state.newest;
    const given = new Map(inspections.map((item) => [item.id, item]));
    const numbers = new Set(before.map(({ id }) => id));
    const corrections = before.map((item) => (given.has(item.id) ? { ...item, verdict: given.get(item.id).verdict } : item));
    const added = inspections.filter(({ id }) => !numbers.has(id));
    state.newest = [...added, ...corrections].sort(byNumber).slice(0, KEPT);
    for (const { at, unanswered, part } of added) {
      if (unanswered) refuse(state, { at, code: unanswered, part });
      else if (at > state.judged) state.judged = at;
    }
    const bad = state.newest.find((item) => known(item) === "anomalous");
    if (bad) state.bad = bad;
    return state.newest.some((item) => added.includes(item));
  }

  /** Something was not judged: of several the one that began last counts. */
  function refuse(state, found) {
    if (!state.refused || found.at > state.refused.at) state.refused = found;
  }

  /** Something came, now or at a time of the station. */
  function see(state, at = null) {
    const seen = at === null ? state.now : state.now - Math.max(0, stationTime(state) - Date.parse(at));
    state.seen = Math.max(state.seen, Math.min(seen, state.now));
  }

  function takeFacts(state, facts) {
    if (facts.at) {
      const isSetBack = Date.parse(state.facts.at ?? facts.at) - Date.parse(facts.at) >= CLOCK_BACK;
      if (isSetBack) state.judged = ""; // times of before are no measure for what comes
      state.ahead = Date.parse(facts.at) - state.now;
    }
    state.facts = { ...state.facts, ...facts };
    if (facts.refused) refuse(state, facts.refused);
    if (facts.refused && isRefused(state)) see(state, facts.refused.at);
  }

  /** What the station knows, all at once: of a page that begins, or after a time without its messages. */
  function catchUp(state, { facts, inspections }) {
    const isNewStart = facts.started !== state.facts.started;
    if (isNewStart) Object.assign(state, { newest: [], refused: null, judged: "", isFresh: false });
    const isLate = !isNewStart && state.toldAt >= state.askedAt; // the stream told it meanwhile
    if (!isLate) takeFacts(state, facts);
    if (!learn(state, inspections)) return;
    const [newest] = state.newest;
    see(state, newest.at);
    state.isFresh ||= newest.at >= facts.started; // else nobody knows what was refused before the start
  }

  // Events -----------------------------------------------------------------------------------------------
  /** Something came by the stream. False: nobody sees it. */
  function hear(state) {
    if (state.connection === "unseen") return false;
    state.heard = state.now;
    if (state.connection !== "connected") ask(state);
    return true;
  }

  const EVENTS = {
    /** The stream is open: what came before it was is asked for. */
    open(state) {
      if (!hear(state)) return;
      state.stream = "open";
      ask(state);
    },

    inspection(state, { item }) {
      if (!hear(state) || state.newest.some(({ id }) => id === item.id)) return; // two streams told of it
      if (!learn(state, [item])) return; // it is older than all that are kept
      see(state);
      state.isFresh = true;
      state.newer += state.picked ? 1 : 0;
      if (item.decision === "anomalous") state.requests.push({ kind: "tone" });
    },

    refusal(state, { found }) {
      if (!hear(state)) return;
      const before = state.refused;
      refuse(state, found);
      if (state.refused === before || !isRefused(state)) return;
      see(state);
      state.isFresh = true;
      state.requests.push({ kind: "tone" });
    },

    state(state, { facts }) {
      if (!hear(state)) return;
      if (facts.started !== state.facts.started) {
        move(state, "restarted");
        ask(state);
        return;
      }
      const isReviewed = facts.waiting !== state.facts.waiting;
      takeFacts(state, facts);
      state.toldAt = state.now;
      if (isReviewed) ask(state); // somebody may have corrected what is shown
    },

    broken(state) {
      state.stream = "closed";
      if (state.connection !== "unseen") reconnect(state);
    },

    answered(state, { question, facts, inspections }) {
      if (question !== state.question || state.askedAt === null) return; // of a page that was left
      catchUp(state, { facts, inspections });
      Object.assign(state, { askedAt: null, heard: state.now, trouble: null });
      move(state, "answered");
      if (state.askAt !== null) ask(state);
      if (state.stream === "closed") listen(state);
    },

    failed(state, { question, status, message }) {
      if (question === state.question && state.askedAt !== null) fail(state, { status, message });
    },

    tick(state) {
      if (state.connection === "unseen") return;
      if (state.askedAt !== null && state.now - state.askedAt >= PATIENCE) fail(state, { status: 0, message: "" });
      if (state.connection === "connected" && state.now - state.heard >= SILENT) reconnect(state);
      const isDue = state.askAt === null ? state.connection !== "connected" : state.now >= state.askAt;
      if (isDue && state.askedAt === null) ask(state);
    },

    offline(state) {
      if (state.connection !== "unseen") reconnect(state);
    },

    look(state, { isVisible }) {
      state.isVisible = isVisible;
      attend(state);
    },

    /** The page goes, with its sound. */
    leave(state) {
      state.isVisible = false;
      if (state.connection !== "unseen") leave(state);
    },

    sound(state, { isLoud }) {
      state.isLoud = isLoud;
      attend(state);
    },

    /** Somebody keeps what is shown, or wants to see the newest again. */
    hold(state) {
      state.picked = state.picked ? null : shown(state);
      state.newer = 0;
    },

    /** Somebody chose one of the last parts, or tried a picture: it is no part of the line. */
    pick(state, { item }) {
      state.newer = state.picked ? state.newer : 0;
      state.picked = item;
    },
  };

  const TIMES = ["heard", "seen", "askedAt", "askAt", "toldAt"]; // ms of the browser's clock

  /** Somebody set the browser's clock back: what was a second ago still is. */
  function setBack(state, by) {
    for (const name of TIMES) if (state[name] !== null) state[name] -= by;
    state.ahead += by;
  }

  /** The state after an event {type, now, ...}, with `requests` to be sent: ask, listen, leave, tone. */
  function next(before, event) {
    const state = { ...before, now: event.now, requests: [] };
    if (event.now < before.now) setBack(state, before.now - event.now);
    EVENTS[event.type](state, event);
    state.name = nameOf(state);
    return state;
  }

  /** The state of a page that begins, from what it was rendered with. bad: the last defective part. */
  function begin({ now, facts, inspections, bad, isVisible }) {
    const state = {
      ...{ name: "", connection: "connected", stream: "closed", now, requests: [], trouble: null },
      ...{ question: 0, askedAt: null, askAt: null, heard: now, toldAt: -Infinity, ahead: 0, isVisible: true, isLoud: false },
      ...{ facts: {}, newest: [], bad, refused: null, judged: "", seen: -Infinity, isFresh: false, picked: null, newer: 0 },
    };
    state.askedAt = now;
    catchUp(state, { facts, inspections });
    state.askedAt = null;
    listen(state);
    EVENTS.look(state, { isVisible });
    state.name = nameOf(state);
    return state;
  }

  station.live = { NAMES, CONNECTION, LIMITS: { KEPT, SILENT, AGAIN, PATIENCE, IDLE, SLOW }, begin, next, shown, isRefused, corrected, known };
})();
