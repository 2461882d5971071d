"""Challenges of all products of a station: when they are due, what passes, and who may say so without them.

A product is ready while its last challenge has passed, or was overridden, with the version that judges, the
settings and challenge parts that it has now, and since the last moment at which one was due. Nothing else is
remembered, so that a station that was killed is ready exactly when it was before.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard

from sqlalchemy import Row, insert, update

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures import decoding
from flawscope_station.access.audit import flatten_settings
from flawscope_station.background import CLOCK, BackgroundThread, MonotonicClock
from flawscope_station.challenge import records
from flawscope_station.challenge.records import FAILED, OLD_PICTURE, OVERRIDDEN, PASSED, REPLACED, WRONG_PART
from flawscope_station.challenge.resemblance import LEAST, Box, lies_alike, relative_boxes, resemblance
from flawscope_station.inspecting.interlock import NotProductionError, NotReadyError
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.renderings import InspectionRenderer, encode_webp, reduce_picture
from flawscope_station.settings.shifts import ShiftSettings, moments, times_of_day
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.database import now
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import make_label
from flawscope_station.store.records import NotFoundError, add_event, iso
from flawscope_station.store.schema import ANOMALOUS, GOOD, challenge_parts, challenge_results, challenges

CHECK_INTERVAL = 1.0  # seconds between two looks at whether challenges are due
CLOCK_TOLERANCE = 60_000_000  # microseconds by which a clock may be set back after a challenge
VIEW_SIDE = 640  # pixels of a stored picture
MAX_NOTE_LENGTH = 200  # characters of a note, and of a reason
AWAITED_SECONDS = 600.0  # within which the first picture of a new challenge part must come
BATCH = "batch"  # cause of a challenge that somebody asked for


class ChallengeOpenError(InputError):
    """Somebody has begun a challenge already."""


@dataclass(frozen=True)
class State:
    """State of a product. passed: numbers of the parts that have, in the last challenge. moment: at
    which the next one is due, as the wall clock counts; deadline: as the monotonic clock does."""

    parts: Mapping[str, Row[Any]] = field(default_factory=dict)
    last: Row[Any] | None = None
    passed: frozenset[int] = frozenset()
    moment: int | None = None
    deadline: float = math.inf


@dataclass(frozen=True)
class NewPart:
    """Challenge part to be kept. expected: good or anomalous. due: until when its picture must come, as the
    monotonic clock counts."""

    name: str
    expected: str
    note: str
    who: str
    due: float


class Challenge(BackgroundThread):
    """Interlock that holds answers back until the challenge parts have passed; reports it as a problem.

    Args:
        settings: by number of the product. common: of the station, that change what its models say.
        names: by number, which may grow.
        report: reports a problem, as `Problems.report`.
        clock, wall: monotonic seconds, and microseconds since 1970.
    """

    def __init__(
        self,
        settings: Callable[[int], ProductSettings],
        common: Any,
        shifts: ShiftSettings | None,
        names: Mapping[int, str],
        renderer: InspectionRenderer,
        report: Callable[..., None],
        clock: MonotonicClock = CLOCK,
        wall: Callable[[], int] = now,
    ):
        super().__init__("challenge", clock, is_lazy=True)
        self.settings, self.common, self.shifts, self.names = settings, common, shifts, names
        self.store, self.versions, self.renderer = renderer.store, renderer.versions, renderer
        self.report, self.clock, self.wall = report, clock, wall
        self._states: dict[int, State] = {}
        self._awaited: dict[int, NewPart] = {}  # by product: the next picture of this part is kept
        self._hashed: dict[int, tuple[ProductSettings, str]] = {}  # by product, as text
        self._lock = threading.Lock()  # of changes; who reads takes a state as it is

    def add_product(self, product_id: int) -> None:
        with self._lock:
            self._load(product_id)
        if not self._is_unchallenged(product_id):
            self.wake()

    # ---- interlock

    def check(self, product_id: int, part: str | None) -> None:
        """Raise NotReadyError unless the product is ready, or the part is one of its challenge parts, or will
        be."""
        state = self._states.get(product_id)
        if state is not None and part not in state.parts and self._wanted(product_id, part) is None:
            self._hold(product_id, state, self._version(product_id))

    def release(self, picture: Picture, record: NewInspection) -> None:
        """Take the picture of a challenge part, and raise NotProductionError with what became of it; raise
        NotReadyError for others unless the product is ready with the version that has judged."""
        state = self._states.get(record.product_id)
        if state is None:
            return
        if (new := self._wanted(record.product_id, picture.part)) is not None:
            raise NotProductionError(
                f"the challenge part {new.name} {self._keep_shown(new, picture, record)}"
            )
        if self._is_unchallenged(record.product_id):
            return
        if (part := state.parts.get(picture.part or "")) is not None:
            raise NotProductionError(f"the challenge part {part.name} {self._take(part, picture, record)}")
        self._hold(record.product_id, state, record.version_id)

    def _hold(self, product_id: int, state: State, version: int | None) -> None:
        if (cause := self._cause(product_id, state, version)) is not None:
            missing = ", ".join(_missing(state)) or "a good and a defective one must be stored"
            name = self.names[product_id]
            raise NotReadyError(f"{name} is not ready, challenge parts have not passed ({cause}): {missing}")

    def _version(self, product_id: int) -> int | None:
        with suppress(FlawscopeError):  # no model is open
            return self.versions.number(product_id)
        return None

    def _is_unchallenged(self, product_id: int) -> bool:
        return self.settings(product_id).challenge is None

    # ---- whether a product is ready

    def _cause(self, product_id: int, state: State, version: int | None) -> str | None:
        """Return why a product is not ready; None: it is."""
        last = state.last
        if self._is_unchallenged(product_id):
            return None
        if last is None:
            return "first"
        if last.outcome is None:
            return str(last.cause)
        if last.outcome not in (PASSED, OVERRIDDEN):
            return FAILED
        if last.version_id != version:
            return "version"
        if last.state_hash != self._state_hash(product_id, state):
            return "settings"
        if state.moment is None:
            return None
        if self.wall() >= state.moment:
            return "time"
        # the clock was set back, or stands
        is_wrong = self.wall() < last.ended_at - CLOCK_TOLERANCE or self.clock.monotonic() >= state.deadline
        return "clock" if is_wrong else None

    def _state_hash(self, product_id: int, state: State) -> str:
        """Return a hash of the settings, challenge parts and tolerances of a product."""
        settings = self.settings(product_id)
        if (hashed := self._hashed.get(product_id)) is None or hashed[0] is not settings:
            every = flatten_settings({"product": asdict(settings), "common": self.common})
            hashed = self._hashed[product_id] = settings, repr(sorted(map(repr, every)))
        facts: list[Any] = [hashed[1], [part.id for part in state.parts.values()]]
        if (rules := self.renderer.inspector.judge.tolerances.in_force(product_id)) is not None:
            facts.append(rules["sha256"])
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _load(self, product_id: int) -> State:
        """Read the state of a product after a change. In the lock."""
        with self.store.database.reading() as connection:
            parts = {part.name: part for part in records.current_parts(connection, product_id)}
            last = next(iter(records.latest_challenges(connection, product_id)), None)
            passed = frozenset[int]() if last is None else records.passed_parts(connection, last.id)
        moment, deadline = None, math.inf
        if last is not None and last.ended_at is not None and not self._is_unchallenged(product_id):
            times = times_of_day(self.settings(product_id).challenge or (), self.shifts)
            zone, ended = None if self.shifts is None else self.shifts.tz, last.ended_at
            later = (at for at, _ in moments(times, zone, ended, range(-1, 3)) if at > ended)
            moment = min(later, default=None)
        if moment is not None:
            seconds = (max(0, moment - self.wall()) + CLOCK_TOLERANCE) / 1e6
            deadline = self.clock.monotonic() + seconds
        self._states[product_id] = State(parts, last, passed, moment, deadline)
        return self._states[product_id]

    # ---- a challenge

    def begin(self, product_id: int, who: str) -> None:
        """Begin a challenge, such as before a batch: the product is not ready until it has passed.

        Raises:
            ChallengeOpenError: one is under way.
            InputError: the settings ask for none.
        """
        with self._lock:
            state, cause = self._load(product_id), self._checked_cause(product_id)
            if _is_under_way(state.last):
                raise ChallengeOpenError(f"{state.last.who} has begun a challenge: show its parts")
            self._begin(product_id, cause or BATCH, self.versions.number(product_id), who)

    def override(self, product_id: int, reason: str, who: str) -> None:
        """Let a product be ready without its challenge parts, until the next challenge is due. InputError
        where no reason is given, or it is ready."""
        if not (reason := _checked_text(reason, "reason")):
            raise InputError("reason: write why the challenge parts are not shown")
        with self._lock:
            self._load(product_id)
            if (cause := self._checked_cause(product_id)) is None:
                raise InputError(f"{self.names[product_id]} is ready: there is nothing to override")
            ended = {"outcome": OVERRIDDEN, "ended_at": self.wall(), "reason": reason}
            self._begin(product_id, cause, self.versions.number(product_id), who, **ended)
        self.wake()

    def _checked_cause(self, product_id: int) -> str | None:
        if self._is_unchallenged(product_id):
            name = self.names[product_id]
            raise InputError(
                f'{name} has no challenge: write `challenge: ["06:00"]` below it in station.yaml'
            )
        return self._cause(product_id, self._states[product_id], self._version(product_id))

    def _begin(self, product_id: int, cause: str, version: int, who: str, **ended: Any) -> State:
        """Begin a challenge in the place of the one under way; ended: columns of one that is over. In the
        lock."""
        state_hash = self._state_hash(product_id, self._states[product_id])
        begun = {"cause": cause, "who": who, "begun_at": self.wall()}
        new = {"product_id": product_id, "version_id": version, "state_hash": state_hash, **begun, **ended}
        under_way = challenges.c.product_id == product_id, challenges.c.outcome.is_(None)
        with self.store.database.writing() as connection:
            replaced = {"outcome": REPLACED, "ended_at": self.wall()}
            connection.execute(update(challenges).where(*under_way).values(replaced))
            connection.execute(insert(challenges).values(new))
            kind, text = f"challenge_{ended.get('outcome', 'begun')}", f"({cause}) {ended.get('reason', '')}"
            add_event(connection, kind, who, text.strip(), product_id)
        return self._load(product_id)

    def _take(self, part: Row[Any], picture: Picture, record: NewInspection) -> str:
        """Record what became of a challenge part, in the challenge under way or a new one that is due; return
        it in words."""
        product_id, version, memory = record.product_id, record.version_id, self.renderer.inspector.memory
        looks = (reduce_picture(data, part.name, VIEW_SIDE, memory) for data in (picture.data, part.view))
        alike = resemblance(*looks)
        with self._lock:
            state = self._load(product_id)
            if (cause := self._cause(product_id, state, version)) is None:
                return "was not taken, for no challenge is due: begin one"
            present = version, self._state_hash(product_id, state)
            last = state.last
            if last is None or last.outcome is not None or (last.version_id, last.state_hash) != present:
                state = self._begin(product_id, cause, version, "station")
            elif part.id in state.passed:
                return "has passed already: show the next one"
            assert state.last is not None
            assert record.pixels  # hashed as it was decoded
            with self.store.database.writing() as connection:
                outcome = self._outcome(part, record, alike)
                if records.was_taken_before(connection, product_id, record.pixels):
                    outcome = OLD_PICTURE
                result = {"part_id": part.id, "at": self.wall(), "outcome": outcome, "resemblance": alike}
                same = ("anomalous", "score", "score_threshold", "pixels")
                result |= {name: getattr(record, name) for name in same}
                new = insert(challenge_results).values(challenge_id=state.last.id, **result)
                connection.execute(new)
                is_complete = outcome == PASSED and _is_complete(state, state.passed | {part.id})
                if outcome == FAILED or is_complete:
                    ended = update(challenges).where(challenges.c.id == state.last.id)
                    connection.execute(ended.values(outcome=outcome, ended_at=self.wall()))
                    add_event(connection, f"challenge_{outcome}", "station", part.name, product_id)
            left = _missing(self._load(product_id))
        self.wake()
        if outcome != PASSED:
            return _OUTCOMES[outcome]
        after = "all have: parts are inspected again" if is_complete else f"next is {', '.join(left[:1])}"
        return f"has passed; {after if is_complete or left else 'a part of the other kind is missing'}"

    def _outcome(self, part: Row[Any], record: NewInspection, alike: float) -> str:
        if alike < LEAST:
            return WRONG_PART
        if record.decision != part.expected:  # a defect within tolerance was not found
            return FAILED
        boxes = relative_boxes(record.regions, record.width, record.height)
        return PASSED if not record.anomalous or lies_alike(boxes, json.loads(part.boxes)) else WRONG_PART

    # ---- challenge parts

    def add_part(
        self, product_id: int, number: int, name: str, expected: str, note: str, who: str
    ) -> dict[str, Any]:
        """Keep the part of an inspection as a challenge part, and return it as the API shows it.

        Args:
            number: of the inspection. name: the `part` under which it will be shown.
            expected: good or anomalous.

        Raises:
            InputError: the name is taken or cannot be one, or the inspection shows one view of a part.
            NotFoundError: there is no such inspection, or its picture was removed.
        """
        name, note = self._checked_name(product_id, name), _checked_text(note, "note")
        data, _, called = self.renderer.picture(product_id, number)
        row = self.store.inspection(product_id, number)
        if row["part_id"] is not None:
            raise InputError(
                f"inspection {number} shows one view of a part: show parts that one picture judges"
            )
        source = decoding.HashedPicture(data)
        self.versions.active(product_id)[1].manifest.preprocess.read(source, called)
        boxes = relative_boxes(row["regions"], row["width"], row["height"])
        view = self.renderer.view(product_id, number, VIEW_SIDE)
        self._keep(product_id, NewPart(name, expected, note, who, 0.0), source.pixels, boxes, view)
        return next(part for part in self.facts(product_id)["parts"] if part["name"] == name)

    def await_part(self, product_id: int, name: str, expected: str, note: str, who: str) -> None:
        """Keep the next picture of this part as a challenge part, also while nothing else is answered: the
        picture is judged, and is no part of the production. InputError as of `add_part`."""
        name, note = self._checked_name(product_id, name), _checked_text(note, "note")
        due = self.clock.monotonic() + AWAITED_SECONDS
        self._awaited[product_id] = NewPart(name, expected, note, who, due)

    def _wanted(self, product_id: int, part: str | None) -> NewPart | None:
        new = self._awaited.get(product_id)
        return new if new and new.name == part and self.clock.monotonic() < new.due else None

    def _keep_shown(self, new: NewPart, picture: Picture, record: NewInspection) -> str:
        """Keep a new challenge part from its picture; return what became of it in words."""
        if record.part_views is not None:
            return "was not kept: the picture shows one view of it; show parts that one picture judges"
        view = encode_webp(reduce_picture(picture.data, new.name, VIEW_SIDE, self.renderer.inspector.memory))
        boxes = relative_boxes(record.regions, record.width, record.height)
        assert record.pixels  # hashed as it was decoded
        self._keep(record.product_id, new, record.pixels, boxes, view)
        self._awaited.pop(record.product_id, None)
        self.wake()
        found = "as good" if record.decision == GOOD else "as defective"
        return f"is kept, and was judged {found}"

    def _checked_name(self, product_id: int, name: str) -> str:
        if not (name := make_label(name, None).part or ""):
            raise InputError("name: write the number of the part, as its sender will give it")
        if name in self._states[product_id].parts:
            raise InputError(f"there is a challenge part {name}: remove it first, or choose another name")
        return name

    def _keep(self, product_id: int, new: NewPart, pixels: str, boxes: list[Box], view: bytes) -> None:
        values = {"product_id": product_id, "name": new.name, "expected": new.expected, "note": new.note}
        values |= {"pixels": pixels, "boxes": json.dumps(boxes), "view": view}
        with self._lock:
            self._load(product_id)
            self._checked_name(product_id, new.name)  # two people may add it at once
            with self.store.database.writing() as connection:
                connection.execute(insert(challenge_parts).values(values))
                text = f"{new.name}, {new.expected}: {new.note}"
                add_event(connection, "challenge_part_added", new.who, text, product_id)
            self._load(product_id)

    def remove_part(self, product_id: int, number: int, who: str) -> None:
        """Remove a challenge part; its results stay. NotFoundError."""
        with self._lock:
            part = self._part(product_id, number)
            with self.store.database.writing() as connection:
                gone = update(challenge_parts).where(challenge_parts.c.id == number)
                connection.execute(gone.values(removed_at=self.wall()))
                add_event(connection, "challenge_part_removed", who, part.name, product_id)
            self._load(product_id)

    def view(self, product_id: int, number: int) -> bytes:
        """Return the stored picture of a challenge part, as WebP. NotFoundError."""
        return bytes(self._part(product_id, number).view)

    def _part(self, product_id: int, number: int) -> Row[Any]:
        for part in self._states[product_id].parts.values():
            if part.id == number:
                return part
        raise NotFoundError(f"there is no challenge part {number} of this product")

    # ---- for people

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return the challenges of a product as the API shows them."""
        state = self._states[product_id]
        cause = self._cause(product_id, state, self._version(product_id))
        return {
            "asked": not self._is_unchallenged(product_id),
            "ready": cause is None,
            "cause": cause,
            "under_way": _is_under_way(state.last),
            "missing": [] if cause is None else _missing(state),
            "next_at": iso(state.moment) if cause is None and state.moment is not None else None,
            **records.describe(self.store.database, product_id),
        }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges: name -> help text and values by product name."""
        ready = {self.names[i]: float(self._why_held(i) is None) for i in list(self._states)}
        return {"challenge_ready": ("0 while challenge parts must be shown first.", ready)}

    def _why_held(self, product_id: int) -> str | None:
        try:
            self.check(product_id, None)
        except NotReadyError as error:
            return str(error).partition(";")[0]
        return None

    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL):
            for product_id in list(self._states):
                self.report(f"challenge_{product_id}", self._why_held(product_id), stops=True)


def _is_under_way(last: Row[Any] | None) -> TypeGuard[Row[Any]]:
    return last is not None and last.outcome is None


def _missing(state: State) -> list[str]:
    """Return the names of the parts that are still to be shown."""
    passed = state.passed if _is_under_way(state.last) else ()
    return [name for name, part in state.parts.items() if part.id not in passed]


def _is_complete(state: State, passed: frozenset[int]) -> bool:
    """Whether all parts have passed, one good and one defective at least."""
    has_both = {part.expected for part in state.parts.values()} == {GOOD, ANOMALOUS}
    return has_both and all(part.id in passed for part in state.parts.values())


def _checked_text(text: str, name: str) -> str:
    text = text.strip()
    if len(text) > MAX_NOTE_LENGTH or not text.isprintable():
        raise InputError(f"{name}: write a line of {MAX_NOTE_LENGTH} characters at most")
    return text


_OUTCOMES = {
    FAILED: "was judged wrongly, and the challenge has failed: call an engineer, or show all parts again",
    WRONG_PART: "does not pass, for the picture does not look like it: lay it in as on its stored picture",
    OLD_PICTURE: "does not pass, for the picture was taken before: take a new one",
}
