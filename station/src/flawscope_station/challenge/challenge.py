"""Challenges of all products of a station: when they are due, what passes, and who may say so without them.

A challenge part is inspected like any other, and recorded with the purpose `challenge`. What was recorded
says whether a product is ready (`readiness`), so that a station that was killed is ready exactly when it was
before.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import NamedTuple

import typing_extensions
from sqlalchemy import Connection, insert, update

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.challenge import records
from flawscope_station.challenge.readiness import (
    FAILED,
    OLD_PICTURE,
    OVERRIDDEN,
    PASSED,
    WRONG_PART,
    History,
    Instant,
    Readiness,
    readiness,
)
from flawscope_station.challenge.resemblance import lies_alike, relative_boxes, resemblance
from flawscope_station.inspecting.interlock import NotProductionError, NotReadyError
from flawscope_station.inspecting.memory import MemoryBudget
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.renderings import InspectionRenderer, encode_webp, reduce_picture
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import CLOCK, BackgroundThread
from flawscope_station.settings.shifts import ShiftSettings, moments, station_zone, times_of_day
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.database import now
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import make_label
from flawscope_station.store.purposes import CHALLENGE
from flawscope_station.store.records import NotFoundError, add_event, find_views, inspection_query, iso
from flawscope_station.store.rows import ChallengePartRow, ChallengeViewRow, ShownInspectionRow, ViewRow
from flawscope_station.store.schema import (
    GOOD,
    challenge_parts,
    challenge_views,
    challenges,
    inspections,
    pictures,
)

CHECK_INTERVAL = 1.0  # seconds between two looks at whether challenges are due
VIEW_SIDE = 640  # pixels of a stored picture
MAX_NOTE_LENGTH = 200  # characters of a note, and of a reason
BATCH = "batch"  # cause of a challenge that somebody asked for
_SAID = {
    FAILED: "was judged wrongly, and the challenge has failed: call an engineer, or show all parts again",
    WRONG_PART: "does not pass, for the picture does not look like it: lay it in as on its stored picture",
    OLD_PICTURE: "does not pass, for the picture was taken before: take a new one",
}


class ChallengeOpenError(InputError):
    """Somebody has begun a challenge already."""

    status = 409
    code = "challenge_open"


@dataclass(frozen=True)
class State:
    """Challenge parts of a product, their stored pictures, and its history.

    Attributes:
        history: Of its challenges.
        parts: Challenge parts with a stored picture, by name.
        wanted: Challenge parts without one yet, by name.
        views: Stored pictures, by number of the challenge part and view.
        number: Of the last challenge; None: there was none.
    """

    history: History
    parts: Mapping[str, ChallengePartRow] = field(default_factory=dict)
    wanted: Mapping[str, ChallengePartRow] = field(default_factory=dict)
    views: Mapping[int, Mapping[str, ChallengeViewRow]] = field(default_factory=dict)
    number: int | None = None


class StoredView(NamedTuple):
    """Picture of a challenge part to be stored.

    Attributes:
        view: That it shows; "": the part has one view.
        pixels: Hash of its pixels.
        boxes: JSON of the boxes of its regions.
        picture: WebP.
    """

    view: str
    pixels: str | None
    boxes: str
    picture: bytes


class ChallengeFacts(records.ChallengeRecords):
    """Challenges of a product, as the API shows them.

    Attributes:
        asked: The settings ask for challenges.
        ready: No answer is held back.
        cause: Why answers are held back; None: they are not.
        under_way: A challenge has begun and has no outcome yet.
        missing: Names of the parts to be shown.
        next_at: When the next challenge is due, in ISO 8601; None: at no time.
    """

    asked: bool
    ready: bool
    cause: str | None
    under_way: bool
    missing: list[str]
    next_at: str | None


class Challenge(BackgroundThread):
    """Interlock that holds answers back until the challenge parts have passed; reports it as a problem.

    Args:
        settings: returns the settings of a product by its number.
        runs_by: engine and device of models.
        shifts: settings of shifts, which may name the times of challenges.
        names: of products, by number; they may grow.
        renderer: of stored pictures.
        report: reports a problem, as `Problems.report`.

    Attributes:
        products: numbers of the products that need challenges, or have a challenge part without a picture.
    """

    def __init__(
        self,
        settings: Callable[[int], ProductSettings],
        runs_by: Sequence[str | None],
        shifts: ShiftSettings | None,
        names: Mapping[int, str],
        renderer: InspectionRenderer,
        report: Callable[..., None],
    ):
        super().__init__("challenge", is_lazy=True)
        self.settings = settings
        self.runs_by = runs_by
        self.shifts = shifts
        self.names = names
        self.store = renderer.store
        self.versions = renderer.versions
        self.renderer = renderer
        self.report = report
        self.clock = CLOCK
        self.wall = now
        self.products: set[int] = set()
        self._states: dict[int, State] = {}
        self._unchallenged: set[int] = set()  # products that need no challenge, though they may have parts
        self._lock = threading.Lock()  # of changes; who reads takes a state as it is
        # for one picture beyond the common budget, which the picture itself holds until it is answered
        self._memory = MemoryBudget(0)

    def add_product(self, product_id: int) -> None:
        """Read the challenges of a product, and from now on check it where its settings ask for them."""
        is_challenged = self.settings(product_id).challenge is not None
        if is_challenged:
            self._unchallenged.discard(product_id)
        else:
            self._unchallenged.add(product_id)
        with self._lock:
            self._load(product_id)
        if is_challenged:
            self.wake()

    # ---- interlock

    def check(self, product_id: int, number: str | None) -> None:
        """Raise NotReadyError unless the product is ready, or the part is one of its challenge parts."""
        state = self._states.get(product_id)
        if state is None or product_id in self._unchallenged:
            return
        if number not in state.parts and number not in state.wanted:
            self._hold(product_id, state, self._version(product_id))

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return the record as it may be answered; that of a challenge part gets its purpose.

        Raises:
            NotReadyError: the product is not ready with the version that has judged, and the part is none of
                its challenge parts.
        """
        state = self._states.get(record.product_id)
        if state is None:
            return record
        if record.part in state.wanted:
            return replace(record, purpose=CHALLENGE, key=None)
        if self._is_unchallenged(record.product_id):
            return record
        known = state.parts.get(record.part or "")
        if known is not None:
            return self._shown(state, known, part, record)
        self._hold(record.product_id, state, record.version_id)
        return record

    def recorded(self, found: RecordedInspection) -> None:
        """Raise NotProductionError with what became of a challenge part that was recorded."""
        inspection = found.inspection
        if inspection.purpose != CHALLENGE:
            return
        number = inspection.challenge_part_id
        said = self._keep_shown(found) if number is None else self._take(found, number)
        self.wake()
        raise NotProductionError(f"the challenge part {inspection.part} {said}")

    def _shown(
        self, state: State, known: ChallengePartRow, part: Part, record: NewInspection
    ) -> NewInspection:
        """Return the record of a challenge part, of the challenge under way or a new one that is due."""
        alike, is_at_place = self._compare(state, known, part, record)
        run = self._due_run(record.product_id, record.version_id)
        pixels = [str(picture.pixels) for picture in record.pictures]
        with self.store.database.reading() as connection:
            is_copy = any(
                records.was_taken_before(connection, record.product_id, digest) for digest in pixels
            )
        facts = {"resemblance": alike, "is_at_place": is_at_place, "is_copy": is_copy, "pixels": pixels}
        return replace(
            record,
            record={**record.record, "challenge": facts},
            key=None,
            purpose=CHALLENGE,
            challenge_id=run,
            challenge_part_id=known.id,
        )

    def _compare(
        self, state: State, known: ChallengePartRow, part: Part, record: NewInspection
    ) -> tuple[float, bool]:
        """Compare the pictures of a challenge part with its stored ones.

        Return the lowest resemblance, -1 where a view has no stored picture, and whether a region lies where
        a stored one does.
        """
        stored_views = state.views.get(known.id, {})
        data = {sent.view: sent.data for sent in part.pictures}
        alike = list[float]()
        at_place = list[bool]()
        for seen in record.pictures:
            view = stored_views.get(seen.view or "")
            if view is None:
                alike.append(-1.0)
                continue
            picture = reduce_picture(data[seen.view], known.name, VIEW_SIDE, self._memory)
            stored = reduce_picture(bytes(view.picture), known.name, VIEW_SIDE, self._memory)
            alike.append(resemblance(picture, stored))
            stored_boxes = json.loads(view.boxes)
            if stored_boxes:
                boxes = relative_boxes(seen.regions, seen.width, seen.height)
                at_place.append(lies_alike(boxes, stored_boxes))
        return min(alike), any(at_place) or not at_place

    def _due_run(self, product_id: int, version: int) -> int | None:
        """Return the number of the challenge under way, or of a new one that is due; None: none is due."""
        with self._lock:
            state = self._load(product_id)
            cause = self._readiness(product_id, state, version).cause
            if cause is None:
                return None
            last = state.history.last
            judging = (version, self._state_hash(product_id, state))
            if last is None or last.outcome is not None or last.judging != judging:
                state = self._begin(product_id, state, cause, version, "station")
            return state.number

    def _take(self, found: RecordedInspection, number: int) -> str:
        """Return in words what became of a challenge part that was recorded, and note the outcome."""
        first = found.inspection
        if first.challenge_id is None:
            return "was not taken, for no challenge is due: begin one"
        with self._lock:
            state = self._load(first.product_id)
            run = state.history.last
            if state.number != first.challenge_id or run is None:
                return "was not taken, for another challenge has begun: show it again"
            place = [picture.inspection for picture in run.shown].index(found.number)
            shown = run.shown[place]
            before = replace(run, shown=run.shown[:place])
            after = replace(run, shown=run.shown[: place + 1])  # others may have been recorded since
            if before.outcome is None and after.outcome is not None:
                self.store.note_event(
                    f"challenge_{after.outcome}", "station", str(first.part), first.product_id
                )
        outcome = shown.outcome(run.parts[number], before.shown)
        if outcome != PASSED:
            return _SAID[outcome]
        if after.outcome == FAILED:
            return _SAID[FAILED]
        if after.outcome == PASSED:
            return "has passed; all have: parts are inspected again"
        if number in before.result[2]:
            return "has passed already: show the next one"
        missing = self._readiness(first.product_id, state, first.version_id).missing
        if missing:
            return f"has passed; next is {missing[0]}"
        return "has passed; a part of the other kind is missing"

    def _hold(self, product_id: int, state: State, version: int | None) -> None:
        found = self._readiness(product_id, state, version)
        if found.cause is not None:
            missing = ", ".join(found.missing) or "a good and a defective one must be stored"
            name = self.names[product_id]
            raise NotReadyError(
                f"{name} is not ready, challenge parts have not passed ({found.cause}): {missing}"
            )

    def _version(self, product_id: int) -> int | None:
        with suppress(FlawscopeError):  # no model is open
            return self.versions.number(product_id)
        return None

    def _is_unchallenged(self, product_id: int) -> bool:
        return product_id in self._unchallenged

    # ---- whether a product is ready

    def _readiness(self, product_id: int, state: State, version: int | None) -> Readiness:
        if self._is_unchallenged(product_id):
            return Readiness(None)
        return readiness(state.history, (version, self._state_hash(product_id, state)), self._now())

    def _now(self) -> Instant:
        return Instant(self.wall(), self.clock.monotonic())

    def _state_hash(self, product_id: int, state: State) -> str:
        """Return a hash of the facts, beside the version, that a decision depends on.

        They are engine and device, the product's challenge parts and its tolerances. Another setting, or
        release, asks for no challenge.
        """
        rules = self.renderer.inspector.judge.tolerances.in_force(product_id)
        parts = [part.id for part in state.parts.values()]
        facts = [*self.runs_by, parts, rules and rules["sha256"]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _load(self, product_id: int) -> State:
        """Read the state of a product after a change. In the lock."""
        with self.store.database.reading() as connection:
            every = {part.name: part for part in records.current_parts(connection, product_id)}
            views = records.stored_views(connection, product_id)
            found = records.find_runs(connection, product_id)
        number, last = found[0] if found else (None, None)
        parts = {name: part for name, part in every.items() if part.id in views}
        wanted = {name: part for name, part in every.items() if part.id not in views}
        names = {part.id: name for name, part in parts.items()}
        next_due = cache(partial(self._next_due, product_id))  # each picture of the line asks
        history = History(self._now(), names, last, next_due)
        state = self._states[product_id] = State(history, parts, wanted, views, number)
        if wanted or not self._is_unchallenged(product_id):
            self.products.add(product_id)
        else:
            self.products.discard(product_id)
        return state

    def _next_due(self, product_id: int, after: int) -> int | None:
        times = times_of_day(self.settings(product_id).challenge or (), self.shifts)
        later = [at for at, _ in moments(times, station_zone(self.shifts), after, range(-1, 3)) if at > after]
        return min(later, default=None)

    # ---- a challenge

    def begin(self, product_id: int, who: str) -> None:
        """Begin a challenge, such as before a batch: the product is not ready until it has passed.

        Raises:
            ChallengeOpenError: a challenge is under way.
            InputError: the settings ask for none.
        """
        with self._lock:
            state = self._load(product_id)
            cause = self._checked_cause(product_id, state)
            last = state.history.last
            if last is not None and state.history.is_under_way:
                raise ChallengeOpenError(f"{last.who} has begun a challenge: show its parts")
            self._begin(product_id, state, cause or BATCH, self.versions.number(product_id), who)

    def override(self, product_id: int, reason: str, who: str) -> None:
        """Let a product be ready without its challenge parts, until the next challenge is due.

        InputError where no reason is given, or it is ready.
        """
        reason = _checked_text(reason, "reason")
        if not reason:
            raise InputError("reason: write why the challenge parts are not shown")
        with self._lock:
            state = self._load(product_id)
            cause = self._checked_cause(product_id, state)
            if cause is None:
                raise InputError(f"{self.names[product_id]} is ready: there is nothing to override")
            version = self.versions.number(product_id)
            self._begin(product_id, state, cause, version, who, override_reason=reason)
        self.wake()

    def _checked_cause(self, product_id: int, state: State) -> str | None:
        """Return why the product is not ready; None: it is ready.

        InputError where the settings ask for no challenge.
        """
        if self._is_unchallenged(product_id):
            name = self.names[product_id]
            raise InputError(
                f'{name} has no challenge: write `challenge: ["06:00"]` below it in station.yaml'
            )
        return self._readiness(product_id, state, self._version(product_id)).cause

    def _begin(
        self,
        product_id: int,
        state: State,
        cause: str,
        version: int,
        who: str,
        *,
        override_reason: str | None = None,
    ) -> State:
        """Begin a challenge in the place of the last, and return the state with it. In the lock.

        Args:
            product_id: number of the product.
            state: of the product, before.
            cause: why the product is not ready.
            version: number of the version that judges.
            who: begins it.
            override_reason: why a person lets the product be ready without challenge parts: the challenge is
                over with it. None: nobody does.
        """
        values = {
            "product_id": product_id,
            "version_id": version,
            "state_hash": self._state_hash(product_id, state),
            "parts": json.dumps({part.id: part.expected for part in state.parts.values()}),
            "cause": cause,
            "who": who,
            "begun_at": self.wall(),
            "reason": override_reason,
        }
        with self.store.database.writing() as connection:
            connection.execute(insert(challenges).values(values))
            kind = "challenge_begun" if override_reason is None else f"challenge_{OVERRIDDEN}"
            add_event(connection, kind, who, f"({cause}) {override_reason or ''}".strip(), product_id)
        return self._load(product_id)

    # ---- challenge parts

    def add_part(
        self, product_id: int, number: int | None, name: str, expected: str, note: str, who: str
    ) -> records.PartFacts:
        """Keep the part of an inspection as a challenge part, and return it as the API shows it.

        A part in several views is kept with all of them.

        Args:
            product_id: number of the product.
            number: of the inspection; None: the first picture of the part that comes is kept, also while
                nothing else is answered.
            name: the `part` under which it will be shown.
            expected: good or anomalous.
            note: one line for people, `MAX_NOTE_LENGTH` characters at most.
            who: adds it.

        Raises:
            InputError: the name is taken or cannot be one.
            NotFoundError: there is no such inspection, or its picture was removed.
        """
        note = _checked_text(note, "note")
        label = make_label(name, None).part or ""
        if not label:
            raise InputError("name: write the number of the part, as its sender will give it")
        views = [] if number is None else self._views_of(product_id, number)
        values = {"product_id": product_id, "name": label, "expected": expected, "note": note}
        with self._lock:
            state = self._load(product_id)
            if label in state.parts or label in state.wanted:
                raise InputError(
                    f"there is a challenge part {label}: remove it first, or choose another name"
                )
            with self.store.database.writing() as connection:
                added = insert(challenge_parts).values(values).returning(challenge_parts.c.id)
                part_id = connection.execute(added).scalar_one()
                _keep(connection, part_id, views)
                text = f"{label}, {expected}: {note}"
                add_event(connection, "challenge_part_added", who, text, product_id)
            self._load(product_id)
        return next(part for part in self.facts(product_id)["parts"] if part["name"] == label)

    def _keep_shown(self, found: RecordedInspection) -> str:
        """Keep the first picture of a challenge part; return what became of it in words."""
        first = found.inspection
        views = self._views_of(first.product_id, found.number)
        with self._lock:
            new = self._load(first.product_id).wanted.get(first.part or "")
            if new is None:
                return "is kept already: show it again"  # it came twice
            with self.store.database.writing() as connection:
                _keep(connection, new.id, views)
            self._load(first.product_id)
        return f"is kept, and was judged {'as good' if first.decision == GOOD else 'as defective'}"

    def _views_of(self, product_id: int, number: int) -> list[StoredView]:
        """Return the stored pictures that the part of an inspection would have. NotFoundError."""
        query = inspection_query().add_columns(pictures.c.pixels)
        query = query.where(inspections.c.product_id == product_id, inspections.c.id == number)
        with self.store.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFoundError(f"there is no inspection {number}")
            seen = find_views(connection, [number])
        if not seen:
            reduced = self._reduced(product_id, number, None)
            return [StoredView(row.view or "", row.pixels, _boxes_of(row), reduced)]
        stored = []
        for view in seen:
            reduced = self._reduced(product_id, number, view.view)
            stored.append(StoredView(view.view or "", view.pixels, _boxes_of(view), reduced))
        return stored

    def _reduced(self, product_id: int, number: int, view: str | None) -> bytes:
        data, _, name = self.renderer.picture(product_id, number, view)
        return encode_webp(reduce_picture(data, name, VIEW_SIDE, self._memory))

    def remove_part(self, product_id: int, number: int, who: str) -> None:
        """Remove a challenge part; records of its inspections stay. NotFoundError."""
        with self._lock:
            state = self._states[product_id]
            for part in (*state.parts.values(), *state.wanted.values()):
                if part.id == number:
                    break
            else:
                raise NotFoundError(f"there is no challenge part {number} of this product")
            with self.store.database.writing() as connection:
                gone = update(challenge_parts).where(challenge_parts.c.id == number)
                connection.execute(gone.values(removed_at=self.wall()))
                add_event(connection, "challenge_part_removed", who, part.name, product_id)
            self._load(product_id)

    def view(self, product_id: int, number: int, view: str | None = None) -> bytes:
        """Return the stored picture of a challenge part, as WebP; without a view, that of its first one.

        NotFoundError.
        """
        views = self._states[product_id].views.get(number, {})
        row = next(iter(views.values()), None) if view is None else views.get(view)
        if row is None:
            raise NotFoundError(f"there is no challenge part {number} of this product with such a view")
        return bytes(row.picture)

    # ---- for people

    def facts(self, product_id: int) -> ChallengeFacts:
        """Return the challenges of a product as the API shows them."""
        state = self._states[product_id]
        found = self._readiness(product_id, state, self._version(product_id))
        return {
            "asked": not self._is_unchallenged(product_id),
            "ready": found.cause is None,
            "cause": found.cause,
            "under_way": state.history.is_under_way,
            "missing": list(found.missing),
            "next_at": None if found.next_at is None else iso(found.next_at),
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

    @typing_extensions.override  # the class has a method `override`
    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL):
            for product_id in list(self._states):
                self.report(f"challenge_{product_id}", self._why_held(product_id), stops=True)


def _keep(connection: Connection, part_id: int, views: Sequence[StoredView]) -> None:
    """Store the pictures of a challenge part."""
    rows = [{**view._asdict(), "part_id": part_id} for view in views]
    if rows:
        connection.execute(insert(challenge_views), rows)


def _boxes_of(row: ShownInspectionRow | ViewRow) -> str:
    """Return the boxes of a picture's regions, as `challenge_views` stores them."""
    regions = json.loads(row.record)["regions"]
    return json.dumps(relative_boxes(regions, row.width, row.height))


def _checked_text(text: str, name: str) -> str:
    text = text.strip()
    if len(text) > MAX_NOTE_LENGTH or not text.isprintable():
        raise InputError(f"{name}: write a line of {MAX_NOTE_LENGTH} characters at most")
    return text
