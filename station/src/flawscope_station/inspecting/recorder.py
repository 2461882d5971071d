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

# seconds for which the recorder looks for a record whose COMMIT got no answer; then it refuses the sender
LOOK_SECONDS = 4.0
LOOK_INTERVAL = 0.5  # seconds between two looks for such a record
RESENT_SECONDS = 60.0  # time for which a part that is sent again gets its record of a settled doubt
MAX_DOUBTS = 256  # parts that may or may not be recorded; if there are more, the oldest are forgotten
MAX_GROUP = 64  # most inspections in a transaction: one flush of the disk serves them all


@dataclass(frozen=True, eq=False)
class Doubt:
    """Part whose sender was refused while nobody knew whether its record was stored.

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
    """Return what identifies a part to its sender: addresses, labels and pictures."""
    pictures = tuple((view.view, view.picture, view.name) for view in inspection.pictures)
    return (
        inspection.product_id,
        inspection.address,
        inspection.source,
        inspection.purpose,
        inspection.part,
        inspection.batch,
        pictures,
    )


def _record_of(ticket: Ticket) -> NewInspection:
    """Return the record of a part that is judged."""
    assert ticket.record is not None, "it is judged"
    return ticket.record


def _with_files(ticket: Ticket) -> NewInspection:
    """Return the record of a part whose files are on the disk, with their hashes."""
    record = _record_of(ticket)
    file_of = {view.picture.view: view.file or "" for view in ticket.views}
    views = tuple(replace(view, picture=file_of[view.view]) for view in record.views)
    return replace(record, picture=file_of[record.view], views=views, unanswered=ticket.unanswered)


def _seconds(ticket: Ticket) -> dict[str, float]:
    """Return the seconds of each stage for a part that was recorded just now."""
    judged_at = ticket.times[State.JUDGED]
    return {
        "wait": ticket.begun_at - ticket.since,
        "judge": judged_at - ticket.begun_at,
        "record": time.monotonic() - judged_at,
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
        self._answered = set[int]()  # numbers of records that senders got, kept while doubts are open
        self._settling = threading.Lock()  # held while the field `unanswered` of a record is settled
        self._ended = threading.Event()
        self.threads = [GuardedThread("recorder", self._work, self._ended, queue=self._queue)]
        self.threads[0].start()

    def add(self, ticket: Ticket) -> None:
        """Record a part that is judged; remove the files of one that has failed."""
        self._queue.put(ticket)

    def note_answered(self, number: int) -> None:
        """Note that a sender has its answer, because it sent its key again and got this record.

        From now on the record counts as answered, even if a waiter left earlier, or got an error because the
        record was not known then.
        """
        with self._settling:
            # else there is neither a doubt nor a recording that may still settle the record differently
            if self._doubts or self._queue.taken_at is not None:
                self._answered.add(number)

    def close(self) -> None:
        """Wait until all parts are written, `STOP_TIMEOUT` at most: a disk may hang."""
        self._queue.put(None)
        self.threads[0].join(STOP_TIMEOUT)

    def _work(self) -> None:
        while self._record_next():
            pass
        self._ended.set()

    def _record_next(self) -> bool:
        """Record the waiting parts; return False after `close`, which puts None in the queue.

        This is a separate function, so that no local variable keeps a ticket while the thread waits.
        """
        # while there are doubts, wait only shortly, to settle them below even if no part comes
        wait_seconds = LOOK_INTERVAL if self._doubts else None
        group = self._queue.take(MAX_GROUP, wait_seconds)
        tickets = [ticket for ticket in group if ticket is not None]
        try:
            self._settle_doubts()
            self._record(tickets)
        except BaseException as error:
            for ticket in tickets:
                self._fail(ticket, error)
            if None in group:  # put back, so that the thread ends after it was begun again
                self._queue.put(None)
            raise  # the thread is begun again, and people get a report
        return None not in group

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        """End a part after an unexpected error."""
        bare_error = without_traceback(error)
        has_failed = ticket.fail(bare_error)
        if not has_failed and not ticket.has_ended:  # the recording of the part has begun
            ticket.fail_recording(bare_error, may_have_record=True)

    def _record(self, group: list[Ticket]) -> None:
        """Record parts and answer each."""
        ready = list[Ticket]()
        for ticket in group:
            try:
                has_failed = not (ticket.wait_for_files() and ticket.begin_recording())
                if has_failed:  # its sender has the error
                    continue
                ticket.record = _with_files(ticket)
                if not self._answer_resent(ticket):
                    ready.append(ticket)
            except BaseException as error:  # some libraries' errors are no Exception
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
            with suppress(FlawscopeError, OSError):  # the sweep finds the file later
                self.files.discard(path, file.digest, partial(self._is_unneeded, file.digest))

    def _is_unneeded(self, digest: str) -> bool:
        """Return whether no record names a file."""
        return not self.store.has_picture(digest)

    def _record_ready(self, ready: list[Ticket]) -> None:
        """Record parts whose files are on the disk, all in one transaction, and answer each."""
        is_in_doubt = False
        # number of each record, and whether it is new; None: there is no record
        results: Sequence[tuple[int, bool] | None]
        no_results: Sequence[tuple[int, bool] | None] = [None] * len(ready)
        try:
            results = [*self.store.record([_record_of(ticket) for ticket in ready])]
        except StoreError as error:
            stored_results = self._find_standing(ready) if error.is_in_doubt else no_results
            # None: the database does not say which of the records were stored
            is_in_doubt = stored_results is None
            results = no_results if stored_results is None else stored_results
            for ticket, result in zip(ready, results, strict=True):
                if result is None:
                    ticket.fail_recording(without_traceback(error), may_have_record=is_in_doubt)
        except BaseException as error:
            self._record_each(ready, error)
            return
        for ticket, result in zip(ready, results, strict=True):
            if result is not None:
                number, is_new = result
                self._answer(ticket, number, is_new=is_new)

    def _record_each(self, ready: list[Ticket], error: BaseException) -> None:
        """Record parts one by one after their transaction failed: one part's error must not harm the others.

        A single part fails. All parts fail if the error is not about a part.
        """
        for ticket in ready:
            if len(ready) == 1 or isinstance(error, FlawscopeError):  # a FlawscopeError is not about a part
                ticket.fail_recording(without_traceback(error))
            else:
                self._record_ready([ticket])

    def _answer(self, ticket: Ticket, number: int, *, is_new: bool) -> None:
        """Answer a part that has a record, and announce it if the record is new.

        Args:
            ticket: Ticket of the part.
            number: Number of its record.
            is_new: Whether the record was written just now; False: the part's key had a record before.
        """
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
        """Find out whether a COMMIT whose answer was lost has stored the records of parts.

        Returns:
            One entry for each part: the number of its record, and True, because the record is new. The entry
            is None if the part has no record, or if its key had a record before. None in place of the list:
            the database did not answer in `LOOK_SECONDS`, and the parts are remembered as doubts.
        """
        deadline = time.monotonic() + LOOK_SECONDS
        inspections = [_record_of(ticket) for ticket in ready]
        while True:
            try:
                numbers = self.store.find_recorded(inspections)
                return [None if number is None else (number, True) for number in numbers]
            except StoreError:
                if time.monotonic() > deadline:
                    since = time.monotonic()
                    self._doubts += [Doubt(_record_of(ticket), ticket.predictions, since) for ticket in ready]
                    del self._doubts[:-MAX_DOUBTS]  # the newest stay: the database may be away for hours
                    return None
            time.sleep(LOOK_INTERVAL)

    def _settle_doubts(self) -> None:
        """Find out which doubts have a stored record, and note those records.

        A doubt is a record whose COMMIT got no answer. It leaves the list if its record is not stored;
        otherwise it is settled, and may stay for `RESENT_SECONDS`.
        """
        earliest = time.monotonic() - RESENT_SECONDS
        self._doubts = [doubt for doubt in self._doubts if doubt.number is None or doubt.since > earliest]
        open_doubts = [doubt for doubt in self._doubts if doubt.number is None]
        if not open_doubts:
            self._answered.clear()
            return
        try:
            numbers = self.store.find_recorded([doubt.inspection for doubt in open_doubts])
        except StoreError:  # the store is still away
            return
        for doubt, number in zip(open_doubts, numbers, strict=True):
            self._doubts.remove(doubt)
            if number is not None:
                self._note_standing(doubt, number)  # may append the doubt again, with its number

    def _note_standing(self, doubt: Doubt, number: int) -> None:
        """Note that the record of a doubt turned out to be stored, and announce the record.

        Mark the record as unanswered, unless its sender has fetched it by a retry.
        """
        with self._settling:
            reason = None if number in self._answered else LATE
            if reason is not None:
                # the settled doubt stays for `_answer_resent`: the sender may send the part again
                self._doubts.append(replace(doubt, number=number, since=time.monotonic()))
                with suppress(Exception):  # the store is away again
                    self.store.set_unanswered(number, reason)
        inspection = replace(doubt.inspection, unanswered=reason)
        recorded = RecordedInspection(number, inspection, is_new=True, predictions=doubt.predictions)
        if inspection.purpose == PRODUCTION:
            with suppress(Exception):
                self.announce(recorded)

    def _answer_resent(self, ticket: Ticket) -> bool:
        """Answer a part that its sender sends again with the record of the part's settled doubt.

        The sender got an error before, although the record turned out to be stored.

        Returns:
            Whether there was such a record, so that the part is answered.
        """
        for doubt in self._doubts:
            if doubt.number is None or not doubt.is_sent_again(_record_of(ticket)):
                continue
            reason = ticket.decide()
            if reason is None:
                self.store.set_unanswered(doubt.number, None)
            self._doubts.remove(doubt)
            inspection = replace(doubt.inspection, unanswered=reason)
            ticket.finish(
                RecordedInspection(doubt.number, inspection, is_new=False, predictions=ticket.predictions)
            )
            return True
        return False

    def _refusal_of_challenge(self, recorded: RecordedInspection) -> Exception:
        """Return the error that the sender of a recorded challenge part gets in place of the record."""
        try:
            self.refuse(recorded)
        except Exception as error:
            return without_traceback(error)
        return RuntimeError(f"nobody answers an inspection with purpose {recorded.inspection.purpose}")

    def _with_unanswered_reason(self, ticket: Ticket, number: int) -> NewInspection:
        """Return a part's inspection with its field `unanswered` up to date.

        The field has the reason why nobody got the answer, or None, if somebody gets it. If all waiters have
        left since the record was written, the reason is changed in the store, too.
        """
        inspection = _record_of(ticket)
        reason = ticket.decide()
        with self._settling:
            if number in self._answered:
                reason = None
            if reason == inspection.unanswered:
                return inspection
            with suppress(Exception):  # the store is away again; the announced inspection has the reason
                self.store.set_unanswered(number, reason)
        return replace(inspection, unanswered=reason)

    def _answer_resender(self, ticket: Ticket, number: int) -> Exception | None:
        """Mark the record that a part's key already has as answered, because the sender sent the part again.

        Returns:
            The error that the sender gets in place of the record; None: the sender gets the record.
        """
        if (conflict := self._key_conflict(_record_of(ticket))) is not None:
            return conflict
        try:
            if ticket.decide() is None:  # somebody waits for the answer
                self.store.set_unanswered(number, None)
        except Exception as error:  # the sender gets the error, and may send the key once more
            return without_traceback(error)
        return None

    def _key_conflict(self, inspection: NewInspection) -> Exception | None:
        """Return an error if the record under the part's key is of another request; None: there is none."""
        try:
            rows = self.store.find_by_keys(
                inspection.address or inspection.product_id, [inspection.key or ""]
            )
        except Exception as error:
            return without_traceback(error)
        if all(row.request_hash == inspection.request_hash for row in rows):
            return None
        return KeyUsedError(use=f"request, inspection {rows[0].id}")
