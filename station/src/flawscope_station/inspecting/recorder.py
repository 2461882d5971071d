"""Recorder of judged parts: it writes several in a transaction, before their senders are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from flawscope import Prediction
from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.memory import without_traceback
from flawscope_station.inspecting.queues import GroupQueue
from flawscope_station.inspecting.ticket import RecordedInspection, State, Ticket
from flawscope_station.monitoring.background import STOP_TIMEOUT, GuardedThread
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.insert import NewInspection
from flawscope_station.store.inspection import KeyUsedError
from flawscope_station.store.purposes import CHALLENGE, PRODUCTION
from flawscope_station.store.records import Store
from flawscope_station.store.schema import LATE

LOOK_SECONDS = 4.0  # for which the recorder looks whether a record stands, before its sender is refused
LOOK_INTERVAL = 0.5  # seconds between two such looks
RESENT_SECONDS = 60.0  # for which a part whose sender was refused though its record stands is known again
MAX_DOUBTS = 256  # parts of which it is not known whether they are recorded; of more the oldest are forgotten
MAX_GROUP = 64  # inspections in a transaction, at most: flushing the disk costs as much for a single one


@dataclass(frozen=True, eq=False)
class Doubt:
    """Part whose sender was refused while nobody knew whether its record stands.

    Attributes:
        inspection: Record of the part.
        predictions: Predictions of its pictures.
        since: Time of the doubt, as `time.monotonic` counts.
        number: Number of the record; None: not known yet.
    """

    inspection: NewInspection
    predictions: tuple[Prediction, ...]
    since: float
    number: int | None = None

    def is_sent_again(self, inspection: NewInspection) -> bool:
        """Return whether a part is this one, sent again: the same files and labels, without a key."""
        return inspection.key is None and _content(inspection) == _content(self.inspection)


def _content(inspection: NewInspection) -> tuple[object, ...]:
    """Return the properties of a part by which its sender knows it."""
    seen = tuple((view.view, view.picture, view.name) for view in inspection.pictures)
    return (
        inspection.product_id,
        inspection.address,
        inspection.source,
        inspection.purpose,
        inspection.part,
        inspection.batch,
        seen,
    )


def _record_of(ticket: Ticket) -> NewInspection:
    """Return the record of a part that is judged."""
    assert ticket.record is not None, "it is judged"
    return ticket.record


def _with_files(ticket: Ticket) -> NewInspection:
    """Return the record of a part whose files are on the disk, with their hashes."""
    whole = _record_of(ticket)
    file_of = {view.picture.view: view.file or "" for view in ticket.views}
    views = tuple(replace(view, picture=file_of[view.view]) for view in whole.views)
    return replace(whole, picture=file_of[whole.view], views=views, unanswered=ticket.unanswered)


def _seconds(ticket: Ticket) -> dict[str, float]:
    """Return the seconds of each stage of a part that was recorded just now."""
    judged = ticket.times[State.JUDGED]
    return {
        "wait": ticket.begun_at - ticket.since,
        "judge": judged - ticket.begun_at,
        "record": time.monotonic() - judged,
    }


class Recorder:
    """Thread that records judged parts in groups, and removes the files of parts that failed.

    The answer to a COMMIT may be lost with the connection. Then the recorder looks for the part's record, by
    product, time and picture, before it refuses the sender; where the database is away, it looks again later.

    Args:
        store: Records of the station.
        files: Files of the station.
        announce: Gets every new inspection of the production after it was recorded.
        refuse: Gets every inspection of a challenge, and raises the error that answers its sender.
    """

    def __init__(
        self,
        store: Store,
        files: Files,
        announce: Callable[[RecordedInspection], None],
        refuse: Callable[[RecordedInspection], None],
    ):
        self.store = store
        self.files = files
        self.announce = announce
        self.refuse = refuse
        self._queue: GroupQueue[Ticket | None] = GroupQueue()
        self._doubts: list[Doubt] = []
        self._answered = set[int]()  # records whose senders have them by now, while doubts are open
        self._settling = threading.Lock()  # held while it is found out what a record says of its answer
        self._ended = threading.Event()
        self.threads = [GuardedThread("recorder", self._work, self._ended, queue=self._queue)]
        self.threads[0].start()

    def add(self, ticket: Ticket) -> None:
        """Record a part that is judged; remove the files of one that has failed."""
        self._queue.put(ticket)

    def note_answered(self, number: int) -> None:
        """Note that the sender of a record has its answer, after it sent its key again.

        The record then counts as answered, though a waiter left before, or was refused while the record was
        not known.
        """
        with self._settling:
            if self._doubts or self._queue.taken_at is not None:
                self._answered.add(number)

    def close(self) -> None:
        """Return when all parts are written, or after a while: a disk may hang."""
        self._queue.put(None)
        self.threads[0].join(STOP_TIMEOUT)

    def _work(self) -> None:
        while self._record_next():
            pass
        self._ended.set()

    def _record_next(self) -> bool:
        """Record the waiting parts; return False at the end. It holds no ticket while it waits for more."""
        # where doubts are to be settled, it waits no longer for a part
        group = self._queue.take(MAX_GROUP, LOOK_INTERVAL if self._doubts else None)
        tickets = [ticket for ticket in group if ticket is not None]
        try:
            self._settle_doubts()
            self._record(tickets)
        except BaseException as error:
            for ticket in tickets:
                self._fail(ticket, error)
            if None in group:
                self._queue.put(None)
            raise  # the thread is begun again, and people are told
        return None not in group

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        """End a part after an unexpected error."""
        plain = without_traceback(error)
        if not ticket.fail(plain) and not ticket.has_ended:
            ticket.fail_recording(plain, may_have_record=True)

    def _record(self, group: list[Ticket]) -> None:
        """Record parts and answer each. Some libraries' errors are no Exception."""
        ready = list[Ticket]()
        for ticket in group:
            try:
                # False: its sender was told that it failed
                if ticket.wait_for_files() and ticket.begin_recording():
                    ticket.record = _with_files(ticket)
                    if not self._answer_resent(ticket):
                        ready.append(ticket)
            except BaseException as error:
                self._fail(ticket, error)
        if ready:
            self._record_ready(ready)
        for ticket in group:
            self._release_files(ticket)

    def _release_files(self, ticket: Ticket) -> None:
        """Let go of the files of a part that has ended.

        Files of a part without a record are removed, unless another inspection has them.
        """
        if not ticket.has_ended:
            return
        for file in ticket.take_files():
            self.files.release(file.digest)
            if ticket.may_have_record:
                continue
            path = self.files.path(PICTURES, file.digest, file.suffix)
            with suppress(FlawscopeError, OSError):  # the sweep finds it
                self.files.discard(path, file.digest, partial(self._is_unneeded, file.digest))

    def _is_unneeded(self, digest: str) -> bool:
        return not self.store.has_picture(digest)

    def _record_ready(self, ready: list[Ticket]) -> None:
        """Record parts whose files are there, in a transaction, and answer each."""
        is_in_doubt = False
        found: Sequence[tuple[int, bool] | None]
        try:
            found = [*self.store.record([_record_of(ticket) for ticket in ready])]
        except StoreError as error:
            nothing: list[tuple[int, bool] | None] = [None] * len(ready)
            standing = self._find_standing(ready) if error.is_in_doubt else nothing
            is_in_doubt = standing is None
            found = standing or [*nothing]
            for ticket, record in zip(ready, found, strict=True):
                if record is None:
                    ticket.fail_recording(without_traceback(error), may_have_record=is_in_doubt)
        except BaseException as error:
            self._record_each(ready, error)
            return
        for ticket, record in zip(ready, found, strict=True):
            if record is not None:
                self._answer(ticket, *record)

    def _record_each(self, ready: list[Ticket], error: BaseException) -> None:
        """Record parts one by one after they failed together: a part's error does not harm the others."""
        for ticket in ready:
            if len(ready) == 1 or isinstance(error, FlawscopeError):
                ticket.fail_recording(without_traceback(error))
            else:
                self._record_ready([ticket])

    def _answer(self, ticket: Ticket, number: int, is_new: bool) -> None:
        """Answer a part that is recorded, and announce it."""
        inspection = _record_of(ticket)
        if is_new:
            inspection = self._with_unanswered_reason(ticket, number)
        elif (error := self._answer_resender(ticket, number)) is not None:
            ticket.fail_recording(error)
            return
        recorded = RecordedInspection(number, inspection, is_new, ticket.predictions, _seconds(ticket))
        if inspection.purpose == CHALLENGE:
            ticket.refuse_recorded(self._refusal_of_challenge(recorded))
            return
        ticket.finish(recorded)
        if is_new and inspection.purpose == PRODUCTION:
            with suppress(Exception):  # a listener's error does not harm the answers
                self.announce(recorded)

    # ---- the answer to COMMIT was lost

    def _find_standing(self, ready: list[Ticket]) -> Sequence[tuple[int, bool] | None] | None:
        """Find the records of parts after a COMMIT whose answer was lost: all records stand, or none does.

        Returns:
            The results of `Store.record` for the parts. None for a part without a record, and for a part
                whose key had
            a record before: a sender of that key gets that record. None in place of the list where the
                database does
            not answer soon; then the parts are remembered as doubts.
        """
        ends = time.monotonic() + LOOK_SECONDS
        inspections = [_record_of(ticket) for ticket in ready]
        while True:
            try:
                numbers = self.store.find_recorded(inspections)
                return [None if number is None else (number, True) for number in numbers]
            except StoreError:
                if time.monotonic() > ends:
                    since = time.monotonic()
                    self._doubts += [Doubt(_record_of(ticket), ticket.predictions, since) for ticket in ready]
                    del self._doubts[:-MAX_DOUBTS]  # a data base that answers nothing for hours
                    return None
            time.sleep(LOOK_INTERVAL)

    def _settle_doubts(self) -> None:
        """Look whether the records of doubted parts were written, and note those that were.

        A doubt that is too old is dropped.
        """
        since = time.monotonic() - RESENT_SECONDS
        self._doubts = [other for other in self._doubts if other.number is None or other.since > since]
        open_doubts = [other for other in self._doubts if other.number is None]
        if not open_doubts:
            self._answered.clear()
            return
        try:
            numbers = self.store.find_recorded([other.inspection for other in open_doubts])
        except StoreError:  # the store is away still
            return
        for doubt, number in zip(open_doubts, numbers, strict=True):
            self._doubts.remove(doubt)
            if number is not None:
                self._note_standing(doubt, number)

    def _note_standing(self, doubt: Doubt, number: int) -> None:
        """Note that the record of a part stands whose sender was refused, and announce it.

        The sender may have got the record by now.
        """
        with self._settling:
            why = None if number in self._answered else LATE
            if why is not None:
                self._doubts.append(replace(doubt, number=number, since=time.monotonic()))
                with suppress(Exception):  # the store is away again
                    self.store.set_unanswered(number, why)
        inspection = replace(doubt.inspection, unanswered=why)
        recorded = RecordedInspection(number, inspection, is_new=True, predictions=doubt.predictions)
        if inspection.purpose == PRODUCTION:
            with suppress(Exception):
                self.announce(recorded)

    def _answer_resent(self, ticket: Ticket) -> bool:
        """Answer a part that was refused though its record stands, when its sender sends it again.

        Returns:
            Whether it is such a part.
        """
        for doubt in self._doubts:
            if doubt.number is None or not doubt.is_sent_again(_record_of(ticket)):
                continue
            why = ticket.decide()
            if why is None:
                self.store.set_unanswered(doubt.number, None)
            self._doubts.remove(doubt)
            inspection = replace(doubt.inspection, unanswered=why)
            ticket.finish(
                RecordedInspection(doubt.number, inspection, is_new=False, predictions=ticket.predictions)
            )
            return True
        return False

    def _refusal_of_challenge(self, recorded: RecordedInspection) -> Exception:
        """Return the error that answers a challenge part, whose record stands."""
        try:
            self.refuse(recorded)
        except Exception as error:
            return without_traceback(error)
        return RuntimeError(f"nobody answers an inspection with purpose {recorded.inspection.purpose}")

    def _with_unanswered_reason(self, ticket: Ticket, number: int) -> NewInspection:
        """Return the inspection with the reason why nobody got its answer.

        All waiters may have left since it was written. The reason is None where somebody waits for the
        answer, or has it.
        """
        inspection = _record_of(ticket)
        why = ticket.decide()
        with self._settling:
            if number in self._answered:
                why = None
            if why == inspection.unanswered:
                return inspection
            with suppress(Exception):  # the store is away again: the answer says it all the same
                self.store.set_unanswered(number, why)
        return replace(inspection, unanswered=why)

    def _answer_resender(self, ticket: Ticket, number: int) -> Exception | None:
        """Let the record under the part's key answer the sender that sent the part again.

        The first sender may have left without an answer.

        Returns:
            An error where the record cannot answer; else None.
        """
        if (used := self._key_conflict(_record_of(ticket))) is not None:
            return used
        try:
            if ticket.decide() is None:
                self.store.set_unanswered(number, None)
        except Exception as error:  # its sender sends the key again
            return without_traceback(error)
        return None

    def _key_conflict(self, taken: NewInspection) -> Exception | None:
        """Return an error where another request with the key was recorded while this one was under way."""
        try:
            rows = self.store.find_by_keys(taken.address or taken.product_id, [taken.key or ""])
        except Exception as error:
            return without_traceback(error)
        if all(row.request_hash == taken.request_hash for row in rows):
            return None
        return KeyUsedError(f"request, inspection {rows[0].id}")
