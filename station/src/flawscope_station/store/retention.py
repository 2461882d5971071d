"""Removal of old pictures and records, a few at a time, while inspections go on.

The database is updated first, in short transactions; then the file is removed. A cut in between leaves a
stray file, which a sweep finds. The last inspection that was checked is remembered for a day: an hourly run
costs time for the removed pictures, not for the kept ones. Nothing is decoded: the database has the hashes of
the pixels, by which copies of training pictures are known.
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

from sqlalchemy import Connection, and_, delete, exists, false, func, or_, select, update

from flawscope.errors import pluralize
from flawscope_station.settings.station import RetentionSettings
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
from flawscope_station.store.station_identity import Clock

PICTURES_PER_TRANSACTION = 100  # after which a removal ends, with all pictures of the last inspection
ROWS_PER_QUERY = 500  # inspections that one query reads
SECOND = 1_000_000  # microseconds
RESCAN_INTERVAL = 86_400 * SECOND  # until all are checked again: verdicts may have been taken back
# of `keep.space`: at the first, pictures are removed down to the second
FULL_SHARE = 0.92
ROOM_SHARE = 0.89
KEEP_CONFIRMED = "keep_confirmed"  # event: a person took `keep` as right, however much goes
LEAST_ASKED = 20  # pictures of which a share says something
MAX_ID = 2**63 - 1  # above every number of an inspection


@dataclass
class RemovalSummary:
    """Result of a run.

    Attributes:
        pictures: Removed pictures.
        bytes: Bytes of the removed pictures.
        records: Removed records.
        kept: Pictures that were old enough, but that a model version was learnt from.
        strays: Removed files that no record needed.
        problem: Why pictures could not be removed; "": they could.
    """

    pictures: int = 0
    bytes: int = 0
    records: int = 0
    kept: int = 0
    strays: int = 0
    problem: str = ""

    def __add__(self, other: RemovalSummary) -> RemovalSummary:
        """Return the sum of two runs; the problem is the first run's."""
        numbers = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.name != "problem"
        }
        return RemovalSummary(**numbers, problem=self.problem)

    def line(self) -> str:
        """Return the numbers of removed pictures, records and files as text; "" where there are none."""
        several = ((self.pictures, "picture"), (self.records, "record"), (self.strays, "stray file"))
        return ", ".join(pluralize(number, thing) for number, thing in several if number)


@dataclass(frozen=True)
class Due:
    """Pictures, bytes and records that `keep` would remove at a moment.

    Attributes:
        by_age: Pictures to remove for their age.
        pictures: Pictures that are there.
        by_space: Bytes to remove for space.
        bytes: Bytes of all pictures.
        records: Share of the records to remove.
    """

    by_age: int
    pictures: int
    by_space: int
    bytes: int
    records: float

    @property
    def share(self) -> float:
        """Largest share to remove, of pictures, bytes or records; 0 where hardly any picture is there."""
        if self.pictures < LEAST_ASKED:
            return 0.0
        return max(self.by_age / self.pictures, self.space_share, self.records)

    @property
    def space_share(self) -> float:
        """Share of the pictures' bytes to remove for space."""
        return self.by_space / max(1, self.bytes)

    def words(self) -> str:
        """Return the amount to remove as text."""
        parts = []
        if self.by_age:
            parts.append(f"{self.by_age} of {pluralize(self.pictures, 'picture')} for their age")
        if self.by_space:
            parts.append(f"{self.by_space / 1e9:.3g} of {self.bytes / 1e9:.3g} GB of pictures for space")
        if self.records:
            parts.append(f"{100 * self.records:.0f} % of the records")
        return " and ".join(parts)


class _EndedError(Exception):
    """The station ends."""


class Retention:
    """Removal of old pictures and records of a station.

    Pictures go by age, each kept as long as the longest kept of its inspections; then by space, the oldest
    first. A skipped picture counts as not reviewed. A picture with a drawn mask is never removed for space,
    and a picture that a model version was learnt from is never removed.

    Records older than `keep.records` go once their picture is gone. Unreviewed pictures are kept no longer
    than that. These always stay: the newest record, the hours for the trends, records that a sink waits for,
    and the keys of a folder's files.

    Args:
        database: Database of the station.
        files: Files of the station.
        keep: Setting `keep`.
        clock: Knows the age of inspections.
        ended: Set to stop soon.
        record_seconds: Time for which others need records, however short `keep.records` is.
        going_on: Called after each piece of work.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        keep: RetentionSettings,
        clock: Clock,
        ended: threading.Event | None = None,
        record_seconds: float = 0.0,
        going_on: Callable[[], object] = lambda: None,
    ):
        self.database = database
        self.files = files
        self.clock = clock
        self._going_on = going_on
        self._space = keep.space
        # bytes of all pictures when they were counted last
        self._used = 0
        self._written = files.written
        self._frees = self._hastens = False  # for space; without a rest
        self._freed = RemovalSummary()  # for space, in pauses of other work
        self._came = 0  # bytes that came while room was made, lately: so much is kept free, too
        self._ended = ended or threading.Event()
        ages = {kind: getattr(keep, kind) for kind in (*KINDS, RECORDS)}
        if (age := ages[RECORDS]) is not None:
            ages[RECORDS] = max(age, record_seconds)
        for kind in (GOOD, ANOMALOUS):
            known = [age for age in (ages[kind], ages[RECORDS]) if age is not None]
            ages[kind] = min(known, default=None)
        self._ages = {kind: round(age * SECOND) for kind, age in ages.items() if age is not None}
        self._stray_files = StrayFiles(database, files, self._pause)
        self._checked: dict[tuple[int, str], int] = {}  # by product and kind: the last inspection checked
        self._next_rescan = 0  # time at which all inspections are checked again

    def run(self) -> RemovalSummary:
        """Remove due pictures and records; where the clock jumped, only pictures that exceed the space.

        Raises:
            StoreError: the database cannot be used; removals before that stay.
        """
        summary = RemovalSummary()
        is_dated = not self.clock.jump
        is_rescan = is_dated and self.clock.at >= self._next_rescan
        with suppress(_EndedError):
            self._count_bytes()
            if is_rescan:
                self._checked.clear()
                self._skip_removed()
            if is_dated:
                self._remove_by_age(summary)
            if self._space is not None:
                self._remove_by_space(self._space, summary)
            if is_dated:
                self._remove_records(summary)
            if is_rescan:  # last: it walks through all files
                summary.strays = self._stray_files.sweep()
                self._next_rescan = self.clock.at + RESCAN_INTERVAL
        freed = self._freed
        self._freed = RemovalSummary()
        return summary + freed

    def due(self) -> Due:
        """Return the amount that a run would remove now.

        Raises:
            StoreError: the database cannot be used.
        """
        last = {kind: self._newest_due(kind) for kind in KINDS}
        later = or_(*(and_(is_of_kind(kind), inspections.c.id > number) for kind, number in last.items()))
        present_pictures = select(func.count(), func.coalesce(func.sum(pictures.c.bytes), 0))
        present_pictures = present_pictures.where(pictures.c.removed_at.is_(None))
        with self.database.reading() as connection:
            count, size = connection.execute(present_pictures).one()
            old = 0
            if any(last.values()):
                old, _ = connection.execute(present_pictures.where(~is_shown(later), ~IS_LEARNT)).one()
            first = connection.scalar(select(func.min(inspections.c.id)))
            newest = connection.scalar(select(func.max(inspections.c.id))) or 0
        records = self._newest_due(RECORDS)
        share = 0.0 if not records or first is None else max(0, records - first + 1) / (newest - first + 1)
        excess = 0 if self._space is None else max(0, int(size) - self._space)
        return Due(int(old), int(count), excess, int(size), share)

    @property
    def is_full(self) -> bool:
        """Whether so little of `keep.space` is left that `make_room` should be called."""
        return self._space is not None and self.used + self._came > FULL_SHARE * self._space

    def make_room(self) -> RemovalSummary:
        """Remove pictures that exceed `keep.space`, and a few more, before it is exceeded.

        It takes no rests, because pictures go on coming.

        Raises:
            StoreError: the database cannot be used.
        """
        summary = RemovalSummary()
        if self._space is not None:
            self._hastens = True
            before = self.files.written
            try:
                with suppress(_EndedError):
                    self._remove_by_space(int(ROOM_SHARE * self._space) - 2 * self._came, summary)
            finally:
                self._hastens = False
                self._came = min(self._space // 4, max(self.files.written - before, self._came // 2))
        return summary

    @property
    def used(self) -> int:
        """Bytes of all pictures: those of the last count, and the files that were written since."""
        return self._used + self.files.written - self._written

    def _count_bytes(self) -> None:
        if self._space is not None:
            self._written = self.files.written  # before the sum: what is recorded meanwhile may count twice
            self._used = self._total_bytes() + self.files.held_bytes()

    def _skip_removed(self) -> None:
        """Begin each kind with its oldest inspection whose picture is there: older records may be many."""
        with self.database.reading() as connection:
            newest = connection.scalar(select(func.coalesce(func.max(inspections.c.id), 0))) or 0
            for product_id in self._products(connection):
                for kind in KINDS:
                    with_picture = select(inspections.c.id).join_from(inspections, pictures)
                    with_picture = with_picture.where(
                        inspections.c.product_id == product_id,
                        is_of_kind(kind),
                        pictures.c.removed_at.is_(None),
                    )
                    oldest_first = with_picture.order_by(inspections.c.id)
                    number = connection.scalar(oldest_first.limit(1))
                    self._checked[product_id, kind] = newest if number is None else number - 1

    # ---- pictures

    def _remove_by_age(self, summary: RemovalSummary) -> None:
        last = {kind: self._newest_due(kind) for kind in KINDS}
        for kind in KINDS:
            for group in self._groups(kind, last[kind]):
                self._remove_pictures(group, last, false(), summary)

    def _remove_by_space(self, most: int, summary: RemovalSummary) -> None:
        self._count_bytes()
        before = summary.bytes
        self._frees = True

        def excess() -> int:
            return self.used - most - (summary.bytes - before)

        last = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            for group in self._groups(kind, MAX_ID, excess):
                last[kind] = group[-1].number  # a picture that was inspected again comes up again later
                self._remove_pictures(group, last, HAS_MASK, summary)
            last[kind] = MAX_ID
        left = excess()
        self._frees = False
        self._used -= summary.bytes - before
        if left > 0 and not self._hastens:
            text = f"{left / 1e6:.0f} MB more than `keep: space` allows"
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
        last: Mapping[str, int],
        stays: Condition,
        summary: RemovalSummary,
    ) -> None:
        """Remove pictures, first in the database, then as files.

        A picture stays where `stays` holds, where an inspection after the `last` of its kind shows it, and
        where a version has learnt from it.
        """
        begun = time.monotonic()
        present_pictures = {(old.product_id, old.picture): old for old in group if old.removed_at is None}
        if not present_pictures:
            return
        later = [and_(is_of_kind(kind), inspections.c.id > number) for kind, number in last.items()]
        stays = or_(stays, is_shown(or_(*later)))
        due = self._not_learnt(present_pictures, stays, summary)
        stays = or_(stays, IS_LEARNT)
        if due:
            with self.database.writing() as connection:
                lock_products(connection, {product for product, _ in due})
                due = removable_keys(connection, due, stays)  # one may have been recorded again
                connection.execute(update(pictures).where(PICTURE.in_(due)).values(removed_at=now()))
            by_hash = {present_pictures[key].picture: present_pictures[key] for key in due}
            for old in by_hash.values():
                # where another product has the picture, too, the file stays
                if self._stray_files.discard(PICTURES, old.picture, old.suffix):
                    summary.pictures += 1
                    summary.bytes += old.bytes
        self._pause(time.monotonic() - begun)

    def _not_learnt(
        self,
        present_pictures: Mapping[tuple[int, str], StoredPictureRow],
        stays: Condition,
        summary: RemovalSummary,
    ) -> list[tuple[int, str]]:
        """Return the keys of pictures that need not stay, and that no model version was learnt from."""
        with self.database.reading() as connection:
            free = removable_keys(connection, list(present_pictures), stays)
            due = removable_keys(connection, free, or_(stays, IS_LEARNT))
        summary.kept += len(free) - len(due)
        return due

    # ---- records

    def _remove_records(self, summary: RemovalSummary) -> None:
        for group in self._groups(RECORDS, self._newest_due(RECORDS)):
            removed = {old.number for old in group} - {old.number for old in group if old.removed_at is None}
            summary.records += self._delete_inspections(sorted(removed))

    def _delete_inspections(self, numbers: list[int]) -> int:
        """Remove inspections whose pictures are gone; return their number."""
        begun = time.monotonic()
        with self.database.writing() as connection:
            lock_products(connection, self._products(connection))
            rows = _removable_inspections(connection, numbers)
            numbers = [row.id for row in rows]
            rows += _views_of(connection, numbers)
            theirs = verdicts.c.inspection_id.in_(numbers)
            masks = set(connection.execute(select(verdicts.c.mask).where(theirs)).scalars()) - {None}
            connection.execute(delete(verdicts).where(theirs))
            connection.execute(delete(views).where(views.c.inspection_id.in_(numbers)))
            connection.execute(delete(inspections).where(inspections.c.id.in_(numbers)))
            keep_file_keys(connection, [row for row in rows if row.source == FOLDER])
            gone = {(row.product_id, row.hash) for row in rows}
            connection.execute(delete(pictures).where(PICTURE.in_(gone), ~is_shown(), ~IS_LEARNT))
        for mask in masks:
            self._stray_files.discard(MASKS, mask, MASK_SUFFIX)
        self._pause(time.monotonic() - begun)
        return len(numbers)

    # ---- inspections in their order

    def _newest_due(self, kind: str) -> int:
        """Return the number of the newest inspection older than its kind's age limit; 0: there is none."""
        return self.clock.newest_older_than(self._ages[kind]) if kind in self._ages else 0

    def _products(self, connection: Connection) -> list[int]:
        return list(connection.execute(select(products.c.id)).scalars())

    def _groups(
        self, kind: str, last: int, enough: Callable[[], float] = lambda: math.inf
    ) -> Iterator[list[StoredPictureRow]]:
        """Yield pictures of a kind's inspections, the oldest first, in groups of a transaction each.

        It goes on from the end of today's last run.

        Args:
            kind: Kind of `KINDS`, or `RECORDS`.
            last: Number of the last inspection.
            enough: Returns the bytes of pictures after which a group ends; 0 or less ends all.
        """
        with self.database.reading() as connection:
            known = self._products(connection)
        oldest = heapq.merge(*(self._read_oldest(product_id, kind, last) for product_id in known))
        while enough() > 0:
            group = _take_group(oldest, enough())
            if not group:
                return
            yield group
            for old in group:
                self._checked[old.product_id, kind] = old.number

    def _read_oldest(self, product_id: int, kind: str, last: int) -> Iterator[list[StoredPictureRow]]:
        """Yield the pictures of each inspection."""
        column = inspections.c
        picture = func.coalesce(views.c.picture, inspections.c.picture)
        is_picture = and_(pictures.c.product_id == column.product_id, pictures.c.hash == picture)
        with_pictures = inspections.outerjoin(views, views.c.inspection_id == column.id).join(
            pictures, is_picture
        )
        query = select(
            column.id.label("number"),
            column.product_id,
            pictures.c.hash.label("picture"),
            pictures.c.suffix,
            pictures.c.bytes,
            pictures.c.removed_at,
        ).select_from(with_pictures)
        query = query.where(column.product_id == product_id, is_of_kind(kind), column.id <= last)
        query = query.order_by(column.id, views.c.place).limit(ROWS_PER_QUERY)
        start = self._checked.get((product_id, kind), 0)
        while start < last:
            begun = time.monotonic()
            rows = self.database.rows(query.where(column.id > start))
            self._pause(time.monotonic() - begun)
            parts: list[list[StoredPictureRow]] = [
                list(rows_of_part) for _, rows_of_part in groupby(rows, _number_of)
            ]
            is_last = len(rows) < ROWS_PER_QUERY
            whole = parts if is_last else parts[:-1]  # the last may have more pictures
            yield from whole
            start = last if is_last else whole[-1][0].number

    def _pause(self, seconds: float) -> None:
        """Pause as long as the work took: inspections get CPU and database half of the time."""
        self._going_on()
        if self._ended.wait(0.0 if self._hastens else min(5.0, seconds)):
            raise _EndedError
        if self.is_full and not self._frees:  # whatever is being done
            self._freed += self.make_room()


def _number_of(row: StoredPictureRow) -> int:
    return row.number


def _removable_inspections(connection: Connection, numbers: list[int]) -> list[RemovableRow]:
    """Read and lock the inspections among `numbers` whose pictures are gone, and that nothing needs."""
    column = inspections.c
    is_newest_verdict = column.id == last_with_verdict()
    has_sinks = exists(select(deliveries.c.sink))
    query = select(column.id, *KEY, column.key, column.source).join_from(inspections, pictures)
    query = query.where(column.id.in_(numbers), pictures.c.removed_at.is_not(None), ~HAS_VIEW)
    # the newest one stays: SQLite would give its number to another
    query = query.where(column.id < select(func.max(column.id)).scalar_subquery())
    # where there are sinks, the inspection of the last verdict stays, too
    query = query.where(or_(~is_newest_verdict, ~has_sinks))
    query = query.where(~IS_UNDELIVERED).with_for_update(of=inspections)
    return [*connection.execute(query)]


def _views_of(connection: Connection, numbers: list[int]) -> list[RemovableRow]:
    """Read the views of inspections."""
    query = select(
        views.c.picture.label("hash"),
        views.c.inspection_id.label("id"),
        views.c.product_id,
        views.c.key,
        inspections.c.source,
    )
    query = query.join_from(views, inspections).where(views.c.inspection_id.in_(numbers))
    return [*connection.execute(query)]


def _take_group(oldest: Iterable[list[StoredPictureRow]], enough: float) -> list[StoredPictureRow]:
    """Return the pictures of the next inspections, each with all of its pictures.

    They are as many as a transaction removes, or have `enough` bytes; fewer where no inspection is left.

    Args:
        oldest: Pictures of each inspection, the oldest first.
        enough: Bytes of pictures that are still there.
    """
    group: list[StoredPictureRow] = []
    size = 0
    for inspection_pictures in oldest:
        group += inspection_pictures
        size += sum(old.bytes for old in inspection_pictures if old.removed_at is None)
        if len(group) >= PICTURES_PER_TRANSACTION or size >= enough:
            break
    return group
