"""Challenges of all products of a station: when they are due, when they have passed, overrides by people.

A challenge part is inspected like any other part, and recorded with the purpose `challenge`. Whether a
product is ready follows from the records (`readiness`), so that a restart of the station changes nothing.
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

CHECK_INTERVAL = 1.0  # seconds between two checks whether challenges are due
VIEW_SIDE = 640  # pixels of the longer side of a stored picture
MAX_NOTE_LENGTH = 200  # characters of a note, and of a reason
BATCH = "batch"  # cause of a challenge that a person begins
_OUTCOME_WORDS = {
    FAILED: "was judged wrongly, and the challenge has failed: call an engineer, or show all parts again",
    WRONG_PART: "does not pass, for the picture does not look like it: lay it in as on its stored picture",
    OLD_PICTURE: "does not pass, for the picture was taken before: take a new one",
}


class ChallengeOpenError(InputError):
    """A challenge is under way already."""

    status = 409
    code = "challenge_open"


@dataclass(frozen=True)
class State:
    """Challenge parts of a product, their stored pictures, and its history.

    Attributes:
        history: History of its challenges.
        parts: Challenge parts with a stored picture, by name.
        pending_parts: Challenge parts without a stored picture yet, by name.
        views: Stored pictures, by number of the challenge part and view.
        number: Number of the last challenge; None: there was none.
    """

    history: History
    parts: Mapping[str, ChallengePartRow] = field(default_factory=dict)
    pending_parts: Mapping[str, ChallengePartRow] = field(default_factory=dict)
    views: Mapping[int, Mapping[str, ChallengeViewRow]] = field(default_factory=dict)
    number: int | None = None


class StoredView(NamedTuple):
    """Picture of a challenge part to be stored, with the columns of `challenge_views`.

    Attributes:
        view: View that the picture shows; "": the part has a single picture.
        pixels: Hash of its pixels.
        boxes: JSON of the boxes of its regions, from `relative_boxes`.
        picture: Picture as a WebP file.
    """

    view: str
    pixels: str | None
    boxes: str
    picture: bytes


class ChallengeFacts(records.ChallengeRecords):
    """Challenges of a product, as the API shows them.

    Attributes:
        asked: Whether the settings ask for challenges.
        ready: Whether the product may answer requests.
        cause: Why answers are held back; None: they are not.
        under_way: Whether a challenge has begun and has no outcome yet.
        missing: Names of the challenge parts that are still to be shown.
        next_at: Time at which the next challenge is due, in ISO 8601; None: at no time.
    """

    asked: bool
    ready: bool
    cause: str | None
    under_way: bool
    missing: list[str]
    next_at: str | None


class Challenge(BackgroundThread):
    """Interlock that holds answers back until the challenge parts have passed, and reports that as a problem.

    Args:
        settings: Function that returns the settings of a product by its number.
        runs_by: Engine and device of models.
        shifts: Settings of shifts, which may name the times of challenges; None: there are no shifts.
        names: Names of products, by number; products may be added.
        renderer: Renderer of the pictures of inspections.
        report: Function that reports a problem, as `Problems.report`.

    Attributes:
        products: Numbers of the products that need challenges, or have a challenge part without a picture.
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
        self._unchallenged: set[int] = set()  # products that need no challenge; they may have challenge parts
        self._lock = threading.Lock()  # for changes of states; a state itself never changes
        # a budget of its own, as a shown picture holds memory of the common one until its part is answered
        self._memory = MemoryBudget(0)

    def add_product(self, product_id: int) -> None:
        """Read the challenges of a product, and check it from now on if its settings ask for challenges."""
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
        """Raise NotReadyError if a product is not ready; its challenge parts may be inspected even then.

        Args:
            product_id: Number of the product.
            number: Number of the part, from its sender; None: the part has no number.
        """
        state = self._states.get(product_id)
        if state is None or product_id in self._unchallenged:
            return
        if number not in state.parts and number not in state.pending_parts:
            self._check_ready(product_id, state, self._version(product_id))

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return the inspection of a part as it is to be recorded.

        The inspection of a challenge part gets the purpose `challenge`, and no key, for it answers no
        request. Any other inspection stays as it is.

        Args:
            part: Part with its pictures.
            record: Inspection of the part.

        Raises:
            NotReadyError: the part is no challenge part, and the product is not ready with the version that
                has judged it.
        """
        state = self._states.get(record.product_id)
        if state is None:
            return record
        if record.part in state.pending_parts:  # `recorded` will store its pictures
            return replace(record, purpose=CHALLENGE, key=None)
        if self._is_unchallenged(record.product_id):
            return record
        challenge_part = state.parts.get(record.part or "")
        if challenge_part is not None:
            return self._challenge_record(state, challenge_part, part, record)
        self._check_ready(record.product_id, state, record.version_id)
        return record

    def recorded(self, recorded: RecordedInspection) -> None:
        """Raise NotProductionError, which says the result, if the inspected part is a challenge part."""
        inspection = recorded.inspection
        if inspection.purpose != CHALLENGE:
            return
        number = inspection.challenge_part_id
        if number is None:
            result = self._store_pictures(recorded)
        else:
            result = self._note_showing(recorded, number)
        self.wake()
        raise NotProductionError(f"the challenge part {inspection.part} {result}")

    def _challenge_record(
        self, state: State, challenge_part: ChallengePartRow, part: Part, record: NewInspection
    ) -> NewInspection:
        """Return the inspection of a challenge part to be recorded.

        The inspection belongs to the challenge under way, or to a new one that is due.

        Args:
            state: State of the product.
            challenge_part: Challenge part that was shown.
            part: Part with its pictures.
            record: Inspection of the part.
        """
        lowest_resemblance, is_at_place = self._compare(state, challenge_part, part, record)
        challenge_id = self._due_run(record.product_id, record.version_id)  # None: no challenge is due
        pixel_hashes = [str(picture.pixels) for picture in record.pictures]
        with self.store.database.reading() as connection:
            is_copy = any(
                records.was_taken_before(connection, record.product_id, pixel_hash)
                for pixel_hash in pixel_hashes
            )
        facts = {
            "resemblance": lowest_resemblance,
            "is_at_place": is_at_place,
            "is_copy": is_copy,
            "pixels": pixel_hashes,
        }
        return replace(
            record,
            record={**record.record, "challenge": facts},
            key=None,
            purpose=CHALLENGE,
            challenge_id=challenge_id,
            challenge_part_id=challenge_part.id,
        )

    def _compare(
        self, state: State, challenge_part: ChallengePartRow, part: Part, record: NewInspection
    ) -> tuple[float, bool]:
        """Compare the pictures of a shown challenge part with its stored pictures.

        Args:
            state: State of the product.
            challenge_part: Challenge part that was shown.
            part: Part with its pictures.
            record: Inspection of the part.

        Returns:
            A pair. First the lowest resemblance of all views: -1 if a view has no stored picture. Second,
            whether in any view a region lies where a stored region does: True if no region is stored.
        """
        stored_views = state.views.get(challenge_part.id, {})
        data_by_view = {picture.view: picture.data for picture in part.pictures}
        resemblances = list[float]()
        region_matches = list[bool]()  # for each view with stored regions: whether a region lies there
        for judged_picture in record.pictures:
            stored_view = stored_views.get(judged_picture.view or "")
            if stored_view is None:
                resemblances.append(-1.0)
                continue
            data = data_by_view[judged_picture.view]
            picture = reduce_picture(data, challenge_part.name, VIEW_SIDE, self._memory)
            stored_data = bytes(stored_view.picture)
            stored_picture = reduce_picture(stored_data, challenge_part.name, VIEW_SIDE, self._memory)
            resemblances.append(resemblance(picture, stored_picture))
            stored_boxes = json.loads(stored_view.boxes)
            if stored_boxes:
                boxes = relative_boxes(judged_picture.regions, judged_picture.width, judged_picture.height)
                region_matches.append(lies_alike(boxes, stored_boxes))
        is_at_place = any(region_matches) or not region_matches
        return min(resemblances), is_at_place

    def _due_run(self, product_id: int, version: int) -> int | None:
        """Return the number of the challenge for a part that is shown now; None: no challenge is due.

        The last challenge goes on if it has no outcome yet, and if version, settings and parts are those at
        its begin. Otherwise a new challenge is begun.
        """
        with self._lock:
            state = self._load(product_id)
            cause = self._readiness(product_id, state, version).cause
            if cause is None:
                return None
            last = state.history.last
            # version, and hash of settings and parts, as they are now
            judging = (version, self._state_hash(product_id, state))
            can_go_on = last is not None and last.outcome is None and last.judging == judging
            if not can_go_on:
                state = self._begin(product_id, state, cause, version, who="station")
            return state.number

    def _note_showing(self, recorded: RecordedInspection, number: int) -> str:
        """Return the result of a shown challenge part in words; record the end of the challenge, if it ends.

        Args:
            recorded: Inspection of the challenge part.
            number: Number of the challenge part.
        """
        inspection = recorded.inspection
        if inspection.challenge_id is None:
            return "was not taken, for no challenge is due: begin one"
        with self._lock:
            state = self._load(inspection.product_id)
            challenge = state.history.last
            if state.number != inspection.challenge_id or challenge is None:
                return "was not taken, for another challenge has begun: show it again"
            inspection_numbers = [showing.inspection for showing in challenge.showings]
            position = inspection_numbers.index(recorded.number)
            showing = challenge.showings[position]
            # the challenge before and after this showing; later showings may have been recorded meanwhile
            before = replace(challenge, showings=challenge.showings[:position])
            after = replace(challenge, showings=challenge.showings[: position + 1])
            if before.outcome is None and after.outcome is not None:
                self.store.note_event(
                    f"challenge_{after.outcome}", "station", str(inspection.part), inspection.product_id
                )
        # `challenge.parts` has the right decision on each part
        part_outcome = showing.outcome(challenge.parts[number], before.showings)
        if part_outcome != PASSED:
            return _OUTCOME_WORDS[part_outcome]
        if after.outcome == FAILED:
            return _OUTCOME_WORDS[FAILED]
        if after.outcome == PASSED:
            return "has passed; all have: parts are inspected again"
        if number in before.result.passed_parts:
            return "has passed already: show the next one"
        missing = self._readiness(inspection.product_id, state, inspection.version_id).missing
        if missing:
            return f"has passed; next is {missing[0]}"
        return "has passed; a part of the other kind is missing"

    def _check_ready(self, product_id: int, state: State, version: int | None) -> None:
        """Raise NotReadyError if a product may not answer with a version.

        Args:
            product_id: Number of the product.
            state: State of the product.
            version: Number of the version; None: no model is open.
        """
        product_readiness = self._readiness(product_id, state, version)
        cause = product_readiness.cause
        if cause is not None:
            missing = ", ".join(product_readiness.missing) or "a good and a defective one must be stored"
            name = self.names[product_id]
            raise NotReadyError(f"{name} is not ready, challenge parts have not passed ({cause}): {missing}")

    def _version(self, product_id: int) -> int | None:
        """Return the number of the version that judges a product; None: no model is open."""
        with suppress(FlawscopeError):
            return self.versions.number(product_id)
        return None

    def _is_unchallenged(self, product_id: int) -> bool:
        """Return whether the settings of a product ask for no challenges."""
        return product_id in self._unchallenged

    # ---- whether a product is ready

    def _readiness(self, product_id: int, state: State, version: int | None) -> Readiness:
        """Return whether a product may answer now with a version."""
        if self._is_unchallenged(product_id):
            return Readiness(None)
        judging = (version, self._state_hash(product_id, state))
        return readiness(state.history, judging, self._now())

    def _now(self) -> Instant:
        """Return the present time by both clocks."""
        return Instant(self.wall(), self.clock.monotonic())

    def _state_hash(self, product_id: int, state: State) -> str:
        """Return a hash of engine, device, challenge parts and tolerances: if it changes, a challenge is due.

        Other settings and the release of flawscope are left out. So is the version of the model, which is
        compared without a hash.
        """
        tolerances = self.renderer.inspector.judge.tolerances.in_force(product_id)
        tolerances_hash = None if tolerances is None else tolerances["sha256"]
        part_ids = [part.id for part in state.parts.values()]
        facts = [*self.runs_by, part_ids, tolerances_hash]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _load(self, product_id: int) -> State:
        """Read the state of a product anew, and return it; the caller holds the lock."""
        with self.store.database.reading() as connection:
            part_by_name = {part.name: part for part in records.current_parts(connection, product_id)}
            views = records.stored_views(connection, product_id)
            latest_runs = records.find_runs(connection, product_id)
        number, last_run = latest_runs[0] if latest_runs else (None, None)
        parts = {name: part for name, part in part_by_name.items() if part.id in views}
        pending_parts = {name: part for name, part in part_by_name.items() if part.id not in views}
        name_by_id = {part.id: name for name, part in parts.items()}
        next_due = cache(partial(self._next_due, product_id))  # cached: each picture of the line asks for it
        history = History(read=self._now(), parts=name_by_id, last=last_run, next_due=next_due)
        state = State(history, parts=parts, pending_parts=pending_parts, views=views, number=number)
        self._states[product_id] = state
        if pending_parts or not self._is_unchallenged(product_id):
            self.products.add(product_id)
        else:
            self.products.discard(product_id)
        return state

    def _next_due(self, product_id: int, after: int) -> int | None:
        """Return the first moment after `after` at which the settings want a challenge; None: at no time.

        Both moments are in microseconds since 1970.
        """
        times = times_of_day(self.settings(product_id).challenge or (), self.shifts)
        days = range(-1, 3)  # days before and after that of `after`: the next moment lies in one of them
        zone = station_zone(self.shifts)
        later_moments = [moment for moment, _ in moments(times, zone, after, days) if moment > after]
        return min(later_moments, default=None)

    # ---- a challenge

    def begin(self, product_id: int, who: str) -> None:
        """Begin a challenge, such as before a batch; until it has passed, the product is not ready.

        Args:
            product_id: Number of the product.
            who: Person who begins it.

        Raises:
            ChallengeOpenError: a challenge is under way.
            InputError: the settings ask for no challenges.
        """
        with self._lock:
            state = self._load(product_id)
            cause = self._checked_cause(product_id, state)
            last = state.history.last
            if last is not None and state.history.is_under_way:
                raise ChallengeOpenError(f"{last.who} has begun a challenge: show its parts")
            version = self.versions.number(product_id)
            self._begin(product_id, state, cause or BATCH, version, who)

    def override(self, product_id: int, reason: str, who: str) -> None:
        """Let a product be ready without its challenge parts, until the next challenge is due.

        Args:
            product_id: Number of the product.
            reason: Why the challenge parts are not shown.
            who: Person who decides that.

        Raises:
            InputError: the reason is empty or too long, or the product is ready.
        """
        stripped_reason = _check_line(reason, name="reason")
        if not stripped_reason:
            raise InputError("reason: write why the challenge parts are not shown")
        with self._lock:
            state = self._load(product_id)
            cause = self._checked_cause(product_id, state)
            if cause is None:
                raise InputError(f"{self.names[product_id]} is ready: there is nothing to override")
            version = self.versions.number(product_id)
            self._begin(product_id, state, cause, version, who, override_reason=stripped_reason)
        self.wake()

    def _checked_cause(self, product_id: int, state: State) -> str | None:
        """Return why a product that needs challenges is not ready; None: it is ready.

        Raises:
            InputError: the settings ask for no challenges.
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
        """Begin a challenge, and return the state of the product with it; the caller holds the lock.

        Args:
            product_id: Number of the product.
            state: State of the product before.
            cause: Why the challenge is due.
            version: Number of the version that judges.
            who: Person who begins it.
            override_reason: Reason of an override, which ends the challenge at once; None: no override.
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
            if override_reason is None:
                add_event(connection, "challenge_begun", who, f"({cause})", product_id)
            else:
                text = f"({cause}) {override_reason}".strip()
                add_event(connection, f"challenge_{OVERRIDDEN}", who, text, product_id)
        return self._load(product_id)

    # ---- challenge parts

    def add_part(
        self, product_id: int, number: int | None, name: str, expected: str, note: str, who: str
    ) -> records.PartFacts:
        """Add the part of an inspection as a challenge part, with all its views.

        Args:
            product_id: Number of the product.
            number: Number of the inspection; None: the pictures are stored when the part is next sent, which
                works even while the product is not ready.
            name: Number under which the part will be sent.
            expected: Right decision, good or anomalous.
            note: Line for people, `MAX_NOTE_LENGTH` characters at most.
            who: Person who adds it.

        Returns:
            The challenge part as the API shows it.

        Raises:
            InputError: the name is empty or taken, or the note is too long.
            NotFoundError: there is no such inspection, or its picture was removed.
        """
        stripped_note = _check_line(note, name="note")
        label = make_label(name, None).part or ""
        if not label:
            raise InputError("name: write the number of the part, as its sender will give it")
        views = [] if number is None else self._views_of(product_id, number)
        values = {"product_id": product_id, "name": label, "expected": expected, "note": stripped_note}
        with self._lock:
            state = self._load(product_id)
            if label in state.parts or label in state.pending_parts:
                raise InputError(
                    f"there is a challenge part {label}: remove it first, or choose another name"
                )
            with self.store.database.writing() as connection:
                insert_part = insert(challenge_parts).values(values).returning(challenge_parts.c.id)
                part_id = connection.execute(insert_part).scalar_one()
                _insert_views(connection, part_id, views)
                text = f"{label}, {expected}: {stripped_note}"
                add_event(connection, "challenge_part_added", who, text, product_id)
            self._load(product_id)
        return next(part for part in self.facts(product_id)["parts"] if part["name"] == label)

    def _store_pictures(self, recorded: RecordedInspection) -> str:
        """Store the first pictures of a challenge part; return the result of the part in words."""
        inspection = recorded.inspection
        views = self._views_of(inspection.product_id, recorded.number)
        with self._lock:
            state = self._load(inspection.product_id)
            challenge_part = state.pending_parts.get(inspection.part or "")
            if challenge_part is None:  # another inspection of the part has stored its pictures
                return "is kept already: show it again"
            with self.store.database.writing() as connection:
                _insert_views(connection, challenge_part.id, views)
            self._load(inspection.product_id)  # takes the stored pictures over into the state in memory
        decision_words = "as good" if inspection.decision == GOOD else "as defective"
        return f"is kept, and was judged {decision_words}"

    def _views_of(self, product_id: int, number: int) -> list[StoredView]:
        """Return the pictures of an inspection as they are stored for a challenge part.

        Raises:
            NotFoundError: there is no such inspection, or its picture was removed.
        """
        query = inspection_query().add_columns(pictures.c.pixels)
        query = query.where(inspections.c.product_id == product_id, inspections.c.id == number)
        with self.store.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFoundError(f"there is no inspection {number}")
            view_rows = find_views(connection, [number])
        if not view_rows:
            picture_file = self._reduced_picture(product_id, number, view=None)
            return [StoredView(row.view or "", row.pixels, _boxes_of(row), picture_file)]
        stored_views = []
        for view_row in view_rows:
            picture_file = self._reduced_picture(product_id, number, view_row.view)
            stored_views.append(
                StoredView(view_row.view or "", view_row.pixels, _boxes_of(view_row), picture_file)
            )
        return stored_views

    def _reduced_picture(self, product_id: int, number: int, view: str | None) -> bytes:
        """Return the picture of an inspection, or of its view, as a WebP file of `VIEW_SIDE` pixels."""
        data, _, name = self.renderer.picture(product_id, number, view)
        return encode_webp(reduce_picture(data, name, VIEW_SIDE, self._memory))

    def remove_part(self, product_id: int, number: int, who: str) -> None:
        """Remove a challenge part; the records of its inspections stay.

        Args:
            product_id: Number of the product.
            number: Number of the challenge part.
            who: Person who removes it.

        Raises:
            NotFoundError: there is no such challenge part.
        """
        with self._lock:
            state = self._states[product_id]
            parts_by_id = {part.id: part for part in (*state.parts.values(), *state.pending_parts.values())}
            part = parts_by_id.get(number)
            if part is None:
                raise NotFoundError(f"there is no challenge part {number} of this product")
            with self.store.database.writing() as connection:
                removal = update(challenge_parts).where(challenge_parts.c.id == number)
                connection.execute(removal.values(removed_at=self.wall()))
                add_event(connection, "challenge_part_removed", who, part.name, product_id)
            self._load(product_id)

    def view(self, product_id: int, number: int, view: str | None = None) -> bytes:
        """Return a stored picture of a challenge part, as a WebP file.

        Args:
            product_id: Number of the product.
            number: Number of the challenge part.
            view: View of the part; None: the first one in the order of `stored_views`.

        Raises:
            NotFoundError: there is no such picture.
        """
        views = self._states[product_id].views.get(number, {})
        if view is None:
            row = next(iter(views.values()), None)
        else:
            row = views.get(view)
        if row is None:
            raise NotFoundError(f"there is no challenge part {number} of this product with such a view")
        return bytes(row.picture)

    # ---- for people

    def facts(self, product_id: int) -> ChallengeFacts:
        """Return the challenges of a product as the API shows them."""
        state = self._states[product_id]
        product_readiness = self._readiness(product_id, state, self._version(product_id))
        next_at = product_readiness.next_at
        return {
            "asked": not self._is_unchallenged(product_id),
            "ready": product_readiness.cause is None,
            "cause": product_readiness.cause,
            "under_way": state.history.is_under_way,
            "missing": list(product_readiness.missing),
            "next_at": None if next_at is None else iso(next_at),
            **records.describe(self.store.database, product_id),
        }

    def gauges(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return Prometheus gauges by name, each with a help text and the values by product name."""
        value_by_name = {}
        for product_id in list(self._states):
            is_ready = self._hold_reason(product_id) is None
            value_by_name[self.names[product_id]] = float(is_ready)
        return {"challenge_ready": ("0 while challenge parts must be shown first.", value_by_name)}

    def _hold_reason(self, product_id: int) -> str | None:
        """Return why the answers of a product are held back; None: they are not."""
        try:
            self.check(product_id, None)
        except NotReadyError as error:
            return str(error).partition(";")[0]  # without a remedy
        return None

    @typing_extensions.override  # the class has a method `override`
    def _work(self) -> None:
        """Report the products that are not ready, every `CHECK_INTERVAL`, until the station ends."""
        while True:
            is_ended = self._wait(CHECK_INTERVAL)
            if is_ended:
                return
            for product_id in list(self._states):
                self.report(f"challenge_{product_id}", self._hold_reason(product_id), stops=True)


def _insert_views(connection: Connection, part_id: int, views: Sequence[StoredView]) -> None:
    """Insert the stored pictures of a challenge part into the database."""
    rows = [{**view._asdict(), "part_id": part_id} for view in views]
    if rows:
        connection.execute(insert(challenge_views), rows)


def _boxes_of(row: ShownInspectionRow | ViewRow) -> str:
    """Return the boxes of a picture's regions as JSON, in the form of `challenge_views`."""
    regions = json.loads(row.record)["regions"]
    return json.dumps(relative_boxes(regions, row.width, row.height))


def _check_line(text: str, name: str) -> str:
    """Return a text without spaces at its ends.

    Args:
        text: Text from a person.
        name: Name of the parameter, for the message.

    Raises:
        InputError: the text has more than one line, or is too long.
    """
    line = text.strip()
    if len(line) > MAX_NOTE_LENGTH or not line.isprintable():
        raise InputError(f"{name}: write a line of {MAX_NOTE_LENGTH} characters at most")
    return line
