"""Removal of old pictures and records, a few at a time, while inspections go on.

The database is updated first, in short transactions; then the file is removed. A power cut in between leaves
a stray file, which a sweep finds. The last inspection that was checked is remembered for a day: an hourly run
takes time for the removed pictures, not for the kept ones. No picture is decoded: the database has the hashes
of the pixels, by which copies of training pictures are recognised.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import groupby
from operator import attrgetter

from sqlalchemy import Connection, and_, delete, exists, false, func, or_, select, update

from flawscope.errors import pluralize
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store.clock import Clock
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import MASK_SUFFIX, MASKS, PICTURES, Files, StrayFiles
from flawscope_station.store.insert import lock_products
from flawscope_station.store.inspection import FOLDER
from flawscope_station.store.removable import (
    ANOMALOUS,
    GOOD,
    HAS_MASK,
    HAS_VIEW,
    IS_LEARNT,
    IS_UNDELIVERED,
    KEY,
    KINDS,
    PICTURE,
    RECORDS,
    Condition,
    is_of_kind,
    is_shown,
    last_with_verdict,
    removable_keys,
)
from flawscope_station.store.removed_files import keep_file_keys
from flawscope_station.store.rows import RemovableRow, StoredPictureRow
from flawscope_station.store.schema import (
    deliveries,
    inspections,
    pictures,
    products,
    verdicts,
    views,
)

PICTURES_PER_TRANSACTION = 100  # pictures of a removal, which ends with all pictures of an inspection
ROWS_PER_QUERY = 500  # rows that one query reads
SECOND = 1_000_000  # microseconds
# microseconds after which all inspections are checked again, because verdicts may have been taken back
RESCAN_INTERVAL = 86_400 * SECOND
FULL_SHARE = 0.92  # share of `keep.space` in use at which pictures are removed
ROOM_SHARE = 0.89  # share of `keep.space` that is in use after such a removal
KEEP_CONFIRMED = "keep_confirmed"  # kind of an event: a person confirmed `keep`, however much it removes
MIN_PICTURES = 20  # with fewer pictures, a share of them means little
MAX_ID = 2**63 - 1  # above every number of an inspection
MAX_PAUSE = 5.0  # seconds


@dataclass
class RemovalSummary:
    """Result of a run.

    Attributes:
        pictures: Number of removed pictures.
        bytes: Bytes of the removed pictures.
        records: Number of removed records.
        kept: Number of pictures that were due, but stay because a model version was learnt from them.
        strays: Number of removed files that no record needed.
        problem: Why too few pictures could be removed; "": there was no problem.
    """

    pictures: int = 0
    bytes: int = 0
    records: int = 0
    kept: int = 0
    strays: int = 0
    problem: str = ""

    def __add__(self, other: RemovalSummary) -> RemovalSummary:
        """Return the sums of the numbers of two runs, with the problem of the first."""
        numbers = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.name != "problem"
        }
        return RemovalSummary(**numbers, problem=self.problem)

    def line(self) -> str:
        """Return the numbers of removed pictures, records and files as text; "" if nothing was removed."""
        counts = ((self.pictures, "picture"), (self.records, "record"), (self.strays, "stray file"))
        return ", ".join(pluralize(count, noun) for count, noun in counts if count)


@dataclass(frozen=True)
class Due:
    """Pictures, bytes and records that `keep` would remove at a moment.

    Attributes:
        by_age: Number of pictures to remove for their age.
        pictures: Number of all pictures.
        by_space: Bytes to remove for space.
        bytes: Bytes of all pictures.
        records: Share of the records to remove, 0 to 1.
    """

    by_age: int
    pictures: int
    by_space: int
    bytes: int
    records: float

    @property
    def share(self) -> float:
        """Largest of the shares of pictures, bytes and records to remove; 0 below `MIN_PICTURES` pictures."""
        if self.pictures < MIN_PICTURES:
            return 0.0
        return max(self.by_age / self.pictures, self.space_share, self.records)

    @property
    def space_share(self) -> float:
        """Share of the pictures' bytes to remove for space."""
        return self.by_space / max(1, self.bytes)

    def words(self) -> str:
        """Return the amount to remove as text."""
        phrases = []
        if self.by_age:
            phrases.append(f"{self.by_age} of {pluralize(self.pictures, 'picture')} for their age")
        if self.by_space:
            phrases.append(f"{self.by_space / 1e9:.3g} of {self.bytes / 1e9:.3g} GB of pictures for space")
        if self.records:
            phrases.append(f"{100 * self.records:.0f} % of the records")
        return " and ".join(phrases)


class _EndedError(Exception):
    """The station ends, so that the removal stops."""


class Retention:
    """Removal of old pictures and records of a station.

    Pictures are removed for their age, then for space, the oldest first. A picture of several inspections is
    kept as long as the inspection that is kept longest. A skipped picture counts as not reviewed. A picture
    with a drawn mask is never removed for space, and a picture that a model version was learnt from is never
    removed.

    Records older than `keep.records` are removed once their picture is removed; unreviewed pictures are kept
    no longer than that. These always stay: the newest record, the hours for the trends, records that a sink
    waits for, and the keys of a folder's files.

    Args:
        database: Database of the station.
        files: Files of the station.
        keep: Setting `keep`.
        clock: Clock of the station, from which the age of inspections follows.
        ended: Event that is set when the station ends: removal stops soon.
        record_seconds: Seconds for which other features need records, even if `keep.records` is shorter.
        report_alive: Function that is called after each batch of work, to show that the removal has not hung.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        keep: RetentionSettings,
        clock: Clock,
        ended: threading.Event | None = None,
        record_seconds: float = 0.0,
        report_alive: Callable[[], object] = lambda: None,
    ):
        self.database = database
        self.files = files
        self.clock = clock
        self._report_alive = report_alive
        self._space = keep.space  # bytes; None: no limit
        self._counted_bytes = 0  # bytes of all pictures at the last count
        self._written_at_count = files.written  # value of `Files.written` at the last count
        self._is_freeing = False  # whether pictures are being removed for space
        self._is_hurried = False  # whether removals make no pauses
        self._freed_in_pauses = RemovalSummary()  # what was removed for space in pauses of other work
        # bytes that arrived during the last calls of `make_room`; the next call frees room for them, too
        self._recent_inflow = 0
        self._ended = ended or threading.Event()
        max_ages = {kind: getattr(keep, kind) for kind in (*KINDS, RECORDS)}  # seconds; None: no limit
        if max_ages[RECORDS] is not None:
            max_ages[RECORDS] = max(max_ages[RECORDS], record_seconds)
        for kind in (GOOD, ANOMALOUS):  # unreviewed pictures are kept no longer than records
            limits = [age for age in (max_ages[kind], max_ages[RECORDS]) if age is not None]
            max_ages[kind] = min(limits, default=None)
        # microseconds; kinds without a limit are left out
        self._max_ages = {kind: round(age * SECOND) for kind, age in max_ages.items() if age is not None}
        self._stray_files = StrayFiles(database, files, self._pause)
        self._checked: dict[tuple[int, str], int] = {}  # product and kind -> last inspection checked
        self._next_rescan = 0  # time at which all inspections are checked again

    def run(self) -> RemovalSummary:
        """Remove due pictures and records.

        If the clock is wrong, ages are unknown: only pictures beyond `keep.space` are removed.

        Raises:
            StoreError: the database cannot be used; earlier removals are not undone.
        """
        summary = RemovalSummary()
        is_clock_right = not self.clock.jump
        is_rescan = is_clock_right and self.clock.at >= self._next_rescan
        with suppress(_EndedError):  # the summary has what was removed until then
            self._count_bytes()
            if is_rescan:
                self._checked.clear()
                self._skip_removed()
            if is_clock_right:
                self._remove_by_age(summary)
            if self._space is not None:
                self._remove_by_space(self._space, summary)
            if is_clock_right:
                self._remove_records(summary)
            if is_rescan:  # last, because the sweep walks through all files
                summary.strays = self._stray_files.sweep()
                self._next_rescan = self.clock.at + RESCAN_INTERVAL
        freed_in_pauses = self._freed_in_pauses
        self._freed_in_pauses = RemovalSummary()
        return summary + freed_in_pauses

    def due(self) -> Due:
        """Return how much a run would remove now.

        Raises:
            StoreError: the database cannot be used.
        """
        newest_due_by_kind = {kind: self._newest_due(kind) for kind in KINDS}
        present_pictures = select(func.count(), func.coalesce(func.sum(pictures.c.bytes), 0))
        present_pictures = present_pictures.where(pictures.c.removed_at.is_(None))
        # a picture stays if a newer inspection, which is not due, shows it, too
        is_shown_by_newer = is_shown(_is_after(newest_due_by_kind))
        due_pictures = present_pictures.where(~is_shown_by_newer, ~IS_LEARNT)
        with self.database.reading() as connection:
            picture_count, total_bytes = connection.execute(present_pictures).one()
            due_count = 0
            if any(newest_due_by_kind.values()):  # otherwise no picture is due by its age
                due_count, _ = connection.execute(due_pictures).one()
            first_record = connection.scalar(select(func.min(inspections.c.id)))
            last_record = connection.scalar(select(func.max(inspections.c.id))) or 0
        newest_due_record = self._newest_due(RECORDS)
        record_share = 0.0  # share of the records to remove
        if newest_due_record and first_record is not None:
            due_records = max(0, newest_due_record - first_record + 1)
            record_share = due_records / (last_record - first_record + 1)
        excess = 0 if self._space is None else max(0, int(total_bytes) - self._space)
        return Due(
            by_age=int(due_count),
            pictures=int(picture_count),
            by_space=excess,
            bytes=int(total_bytes),
            records=record_share,
        )

    @property
    def is_full(self) -> bool:
        """Whether to call `make_room`: `FULL_SHARE` of `keep.space` is used, with the expected inflow."""
        if self._space is None:
            return False
        return self.used + self._recent_inflow > FULL_SHARE * self._space

    def make_room(self) -> RemovalSummary:
        """Remove pictures early, until they use only `ROOM_SHARE` of `keep.space`.

        There are no pauses in between, because pictures go on coming.

        Raises:
            StoreError: the database cannot be used.
        """
        summary = RemovalSummary()
        if self._space is None:
            return summary
        self._is_hurried = True
        written_before = self.files.written
        try:
            with suppress(_EndedError):  # the summary has what was removed until then
                # room for the inflow twice: it comes during this call, and `is_full` expects it once more
                limit = int(ROOM_SHARE * self._space) - 2 * self._recent_inflow
                self._remove_by_space(limit, summary)
        finally:
            self._is_hurried = False
            inflow = self.files.written - written_before
            # the estimate rises at once, falls to a half at most, and never exceeds a quarter of the space
            estimated_inflow = max(inflow, self._recent_inflow // 2)
            self._recent_inflow = min(self._space // 4, estimated_inflow)
        return summary

    @property
    def used(self) -> int:
        """Bytes of all pictures: the result of the last count, plus the files written since."""
        return self._counted_bytes + self.files.written - self._written_at_count

    def _count_bytes(self) -> None:
        """Count the bytes of all pictures anew, if the space is limited."""
        if self._space is not None:
            # read before the sum: a picture that is recorded meanwhile may count twice, but is never missed
            self._written_at_count = self.files.written
            self._counted_bytes = self._total_bytes() + self.files.held_bytes()

    def _skip_removed(self) -> None:
        """Start the check of each kind at its oldest inspection that still has its picture.

        There may be many older inspections without a picture; the check need not read them.
        """
        with self.database.reading() as connection:
            newest_id = connection.scalar(select(func.coalesce(func.max(inspections.c.id), 0))) or 0
            for product_id in self._products(connection):
                for kind in KINDS:
                    query = select(inspections.c.id).join_from(inspections, pictures)
                    query = query.where(
                        inspections.c.product_id == product_id,
                        is_of_kind(kind),
                        pictures.c.removed_at.is_(None),
                    )
                    oldest_first = query.order_by(inspections.c.id)
                    oldest_id = connection.scalar(oldest_first.limit(1))
                    # the check goes on after this number
                    self._checked[product_id, kind] = newest_id if oldest_id is None else oldest_id - 1

    # ---- pictures

    def _remove_by_age(self, summary: RemovalSummary) -> None:
        """Remove the pictures that are older than `keep` allows; add their numbers to the summary."""
        newest_due_by_kind = {kind: self._newest_due(kind) for kind in KINDS}
        for kind in KINDS:
            for group in self._groups(kind, newest_due_by_kind[kind]):
                self._remove_pictures(group, newest_due_by_kind, is_protected=false(), summary=summary)

    def _remove_by_space(self, limit: int, summary: RemovalSummary) -> None:
        """Remove the oldest pictures until at most `limit` bytes are left; add the result to the summary."""
        self._count_bytes()
        bytes_before = summary.bytes
        self._is_freeing = True

        def excess_bytes() -> int:
            removed_bytes = summary.bytes - bytes_before
            return self.used - limit - removed_bytes

        newest_due_by_kind = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            for group in self._groups(kind, last=MAX_ID, needed_bytes=excess_bytes):
                # a picture that a later inspection shows again stays until that inspection's turn
                newest_due_by_kind[kind] = group[-1].number
                self._remove_pictures(group, newest_due_by_kind, is_protected=HAS_MASK, summary=summary)
            newest_due_by_kind[kind] = MAX_ID  # all inspections of the kind have had their turn
        remaining_excess = excess_bytes()
        self._is_freeing = False
        self._counted_bytes -= summary.bytes - bytes_before
        if remaining_excess > 0 and not self._is_hurried:
            text = f"{remaining_excess / 1e6:.0f} MB more than `keep: space` allows"
            summary.problem = f"pictures that must stay take {text}; raise it, or lower `keep: reviewed`"

    def _total_bytes(self) -> int:
        """Return the bytes of all recorded pictures; a picture that products share counts once."""
        sizes = select(pictures.c.bytes, pictures.c.hash).distinct().where(pictures.c.removed_at.is_(None))
        with self.database.reading() as connection:
            total = select(func.coalesce(func.sum(sizes.subquery().c.bytes), 0))
            return int(connection.execute(total).scalar_one())

    def _remove_pictures(
        self,
        group: list[StoredPictureRow],
        newest_due: Mapping[str, int],
        is_protected: Condition,
        summary: RemovalSummary,
    ) -> None:
        """Remove pictures, first in the database, then as files; add their numbers to the summary.

        A picture that a model version was learnt from is kept.

        Args:
            group: Pictures of inspections.
            newest_due: Kind -> number of the newest inspection whose pictures are due. A picture is kept if a
                newer inspection also shows it.
            is_protected: SQL condition of further pictures to keep.
            summary: Result of the run, which is updated.
        """
        start = time.monotonic()
        present_pictures = {(row.product_id, row.picture): row for row in group if row.removed_at is None}
        if not present_pictures:
            return
        is_needed = or_(is_protected, is_shown(_is_after(newest_due)))
        due_keys = self._find_unlearnt(list(present_pictures), is_needed, summary)
        if due_keys:
            with self.database.writing() as connection:
                lock_products(connection, {product_id for product_id, _ in due_keys})
                # checked again under the lock: a picture may have been recorded again meanwhile
                removed_keys = removable_keys(connection, due_keys, or_(is_needed, IS_LEARNT))
                is_removed = PICTURE.in_(removed_keys)
                connection.execute(update(pictures).where(is_removed).values(removed_at=now()))
            removed_rows = [present_pictures[key] for key in removed_keys]
            row_by_hash = {row.picture: row for row in removed_rows}  # each file once
            for row in row_by_hash.values():
                # the file stays where another product has the same picture
                if self._stray_files.discard(PICTURES, row.picture, row.suffix):
                    summary.pictures += 1
                    summary.bytes += row.bytes
        self._pause(time.monotonic() - start)

    def _find_unlearnt(
        self, keys: list[tuple[int, str]], is_protected: Condition, summary: RemovalSummary
    ) -> list[tuple[int, str]]:
        """Return the keys of the pictures that may be removed.

        Pictures that a model version was learnt from may not; their number is added to `summary.kept`.

        Args:
            keys: Product and hash of each picture.
            is_protected: SQL condition of pictures to keep for other reasons.
            summary: Result of the run, which is updated.
        """
        with self.database.reading() as connection:
            unneeded_keys = removable_keys(connection, keys, is_protected)
            due_keys = removable_keys(connection, unneeded_keys, or_(is_protected, IS_LEARNT))
        summary.kept += len(unneeded_keys) - len(due_keys)
        return due_keys

    # ---- records

    def _remove_records(self, summary: RemovalSummary) -> None:
        """Remove the records that are older than `keep.records`; add their number to the summary."""
        for group in self._groups(RECORDS, self._newest_due(RECORDS)):
            numbers = {row.number for row in group}
            numbers_with_picture = {row.number for row in group if row.removed_at is None}
            summary.records += self._delete_inspections(sorted(numbers - numbers_with_picture))

    def _delete_inspections(self, numbers: list[int]) -> int:
        """Remove inspections whose pictures were removed; return how many were removed.

        Args:
            numbers: Numbers of the inspections. An inspection that is still needed is kept.
        """
        start = time.monotonic()
        with self.database.writing() as connection:
            lock_products(connection, self._products(connection))
            removed_rows = _removable_inspections(connection, numbers)
            removed_numbers = [row.id for row in removed_rows]
            # from here on, the rows of inspections and of their views
            removed_rows += _views_of(connection, removed_numbers)
            is_verdict_on_removed = verdicts.c.inspection_id.in_(removed_numbers)
            mask_query = select(verdicts.c.mask).where(is_verdict_on_removed)
            masks = {mask for mask in connection.execute(mask_query).scalars() if mask is not None}
            connection.execute(delete(verdicts).where(is_verdict_on_removed))
            connection.execute(delete(views).where(views.c.inspection_id.in_(removed_numbers)))
            connection.execute(delete(inspections).where(inspections.c.id.in_(removed_numbers)))
            keep_file_keys(connection, [row for row in removed_rows if row.source == FOLDER])
            picture_keys = {(row.product_id, row.hash) for row in removed_rows}
            connection.execute(delete(pictures).where(PICTURE.in_(picture_keys), ~is_shown(), ~IS_LEARNT))
        for mask in masks:
            self._stray_files.discard(MASKS, mask, MASK_SUFFIX)
        self._pause(time.monotonic() - start)
        return len(removed_numbers)

    # ---- inspections in their order

    def _newest_due(self, kind: str) -> int:
        """Return the number of the newest inspection beyond the largest age of a kind; 0 if there is none."""
        if kind not in self._max_ages:
            return 0
        return self.clock.newest_older_than(self._max_ages[kind])

    def _products(self, connection: Connection) -> list[int]:
        """Return the numbers of all products."""
        return list(connection.execute(select(products.c.id)).scalars())

    def _groups(
        self, kind: str, last: int, needed_bytes: Callable[[], float] = lambda: math.inf
    ) -> Iterator[list[StoredPictureRow]]:
        """Yield the pictures of a kind's inspections, the oldest first, in groups for one transaction each.

        Inspections that were checked since the last rescan are left out.

        Args:
            kind: Kind of `KINDS`, or `RECORDS`.
            last: Number of the last inspection to yield.
            needed_bytes: Function that returns the bytes still to remove. A group ends once its pictures have
                that many bytes. The generator ends when the result is 0 or less.
        """
        with self.database.reading() as connection:
            product_ids = self._products(connection)
        # lists are compared by the first field of their first row, the inspection's number: the oldest first
        oldest_first = heapq.merge(*(self._read_oldest(product_id, kind, last) for product_id in product_ids))
        while needed_bytes() > 0:
            group = _take_group(oldest_first, needed_bytes())
            if not group:
                return
            yield group
            for row in group:
                self._checked[row.product_id, kind] = row.number

    def _read_oldest(self, product_id: int, kind: str, last: int) -> Iterator[list[StoredPictureRow]]:
        """Yield a list of pictures for each inspection of a product and kind, the oldest first.

        Args:
            product_id: Number of the product.
            kind: Kind of `KINDS`, or `RECORDS`.
            last: Number of the last inspection to yield.
        """
        inspection = inspections.c
        picture_hash = func.coalesce(views.c.picture, inspections.c.picture)
        is_picture = and_(pictures.c.product_id == inspection.product_id, pictures.c.hash == picture_hash)
        joined_tables = inspections.outerjoin(views, views.c.inspection_id == inspection.id).join(
            pictures, is_picture
        )
        query = select(
            inspection.id.label("number"),
            inspection.product_id,
            pictures.c.hash.label("picture"),
            pictures.c.suffix,
            pictures.c.bytes,
            pictures.c.removed_at,
        ).select_from(joined_tables)
        query = query.where(inspection.product_id == product_id, is_of_kind(kind), inspection.id <= last)
        query = query.order_by(inspection.id, views.c.place).limit(ROWS_PER_QUERY)
        last_read = self._checked.get((product_id, kind), 0)
        while last_read < last:
            read_start = time.monotonic()
            rows = self.database.rows(query.where(inspection.id > last_read))
            self._pause(time.monotonic() - read_start)
            pictures_of_inspections: list[list[StoredPictureRow]] = [
                list(inspection_rows) for _, inspection_rows in groupby(rows, attrgetter("number"))
            ]
            is_last_page = len(rows) < ROWS_PER_QUERY
            if not is_last_page:  # the limit may have cut off pictures of the last inspection: read it again
                del pictures_of_inspections[-1]
            yield from pictures_of_inspections
            last_read = last if is_last_page else pictures_of_inspections[-1][0].number

    def _pause(self, seconds: float) -> None:
        """Pause as long as the work took, so that inspections get CPU and database half of the time.

        If `keep.space` is nearly used up, pictures are removed for space after the pause.

        Args:
            seconds: Duration of the work.

        Raises:
            _EndedError: the station ends.
        """
        self._report_alive()
        pause = 0.0 if self._is_hurried else min(MAX_PAUSE, seconds)
        if self._ended.wait(pause):  # the station ends
            raise _EndedError
        if self.is_full and not self._is_freeing:
            self._freed_in_pauses += self.make_room()


def _is_after(numbers: Mapping[str, int]) -> Condition:
    """Return the SQL condition that an inspection has a number above that of its kind in `numbers`."""
    is_after_by_kind = [and_(is_of_kind(kind), inspections.c.id > number) for kind, number in numbers.items()]
    return or_(*is_after_by_kind)


def _removable_inspections(connection: Connection, numbers: list[int]) -> list[RemovableRow]:
    """Read and lock the inspections that have no picture left and are no longer needed.

    Args:
        connection: Connection of the transaction.
        numbers: Numbers of the inspections to check.
    """
    inspection = inspections.c
    has_newest_verdict = inspection.id == last_with_verdict()
    has_sinks = exists(select(deliveries.c.sink))
    query = select(inspection.id, *KEY, inspection.key, inspection.source).join_from(inspections, pictures)
    query = query.where(inspection.id.in_(numbers), pictures.c.removed_at.is_not(None), ~HAS_VIEW)
    # the newest inspection stays: SQLite would give its number to a new one
    query = query.where(inspection.id < select(func.max(inspection.id)).scalar_subquery())
    # where there are sinks, the inspection of the last verdict stays, too
    query = query.where(or_(~has_newest_verdict, ~has_sinks))
    query = query.where(~IS_UNDELIVERED).with_for_update(of=inspections)
    return [*connection.execute(query)]


def _views_of(connection: Connection, numbers: list[int]) -> list[RemovableRow]:
    """Read the views of inspections by number, in the form of the rows of `_removable_inspections`."""
    query = select(
        views.c.picture.label("hash"),
        views.c.inspection_id.label("id"),
        views.c.product_id,
        views.c.key,
        inspections.c.source,
    )
    query = query.join_from(views, inspections).where(views.c.inspection_id.in_(numbers))
    return [*connection.execute(query)]


def _take_group(oldest: Iterable[list[StoredPictureRow]], enough_bytes: float) -> list[StoredPictureRow]:
    """Take the pictures of the next inspections, as many as one transaction removes.

    The group ends with the inspection that brings it to `PICTURES_PER_TRANSACTION` pictures, or to
    `enough_bytes` bytes. If no inspection is left before that, the group is smaller or empty.

    Args:
        oldest: Pictures of each inspection, the oldest first.
        enough_bytes: Bytes of a full group; pictures that were already removed do not count.
    """
    group: list[StoredPictureRow] = []
    group_bytes = 0
    for inspection_rows in oldest:
        group += inspection_rows
        group_bytes += sum(row.bytes for row in inspection_rows if row.removed_at is None)
        if len(group) >= PICTURES_PER_TRANSACTION or group_bytes >= enough_bytes:
            break
    return group
