"""Removal of old pictures and records, a few at a time, while inspections go on.

The data base is updated first, in short transactions; then the file is removed. A cut in between leaves a
stray file, which a sweep finds. The last inspection that was checked is remembered for a day, so that
an hourly run costs what it removes, not what is kept.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    tuple_,
    update,
)

from flawscope.errors import InputError, pluralize
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.station.settings.station import RetentionSettings
from flawscope.station.store.database import Database, now
from flawscope.station.store.files import MASK_SUFFIX, MASKS, PICTURES, Files, StrayFiles
from flawscope.station.store.insert import lock_products
from flawscope.station.store.schema import (
    deliveries,
    inspections,
    learnt,
    learnt_pixels,
    parts,
    pictures,
    verdicts,
)
from flawscope.station.store.station_identity import Clock

GOOD, ANOMALOUS, REVIEWED = KINDS = "good", "anomalous", "reviewed"  # in the order of removal for space
RECORDS = "records"
INSPECTIONS_PER_TRANSACTION = 100  # in one removal
ROWS_PER_QUERY = 500  # inspections that one query reads
SECOND = 1_000_000  # microseconds
RESCAN_INTERVAL = 86_400 * SECOND  # until all are checked again: verdicts may have been taken back
MAX_ID = 2**63 - 1  # above every number of an inspection
_KEY = pictures.c.product_id, pictures.c.hash
Condition = ColumnElement[bool]
_PICTURE = tuple_(*_KEY)
_SAME_PICTURE = and_(
    inspections.c.product_id == pictures.c.product_id, inspections.c.picture == pictures.c.hash
)
_IS_LEARNT = exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id)
_HAS_MASK = exists().where(
    _SAME_PICTURE,
    inspections.c.verdict.is_not(None),
    exists().where(verdicts.c.inspection_id == inspections.c.id, verdicts.c.mask.is_not(None)),
)


@dataclass
class RemovalSummary:
    """Result of a run. kept: pictures that were old enough, but a model version was learnt from. strays:
    files that no record needed. problem: why pictures could not be removed."""

    pictures: int = 0
    bytes: int = 0
    records: int = 0
    kept: int = 0
    strays: int = 0
    problem: str = ""

    def line(self) -> str:
        """Return the numbers of removed pictures, records and files as text; "" where there are none."""
        several = ((self.pictures, "picture"), (self.records, "record"), (self.strays, "stray file"))
        return ", ".join(pluralize(number, thing) for number, thing in several if number)


class _EndedError(Exception):
    """The station ends."""


class Retention:
    """Removes old pictures and records of this station.

    Pictures go by age, each kept as long as the longest kept of its inspections; then by space, the oldest
    first. A skipped picture counts as not reviewed. One with a drawn mask is never removed for space, and one
    that a model version was learnt from is never removed.

    Records older than `keep.records` go once their picture is gone. Unreviewed pictures are kept no longer
    than that. The newest record always stays, as do the hours, from which trends are drawn.

    Args:
        clock: knows the age of inspections.
        ended: set to stop soon.

    Attributes:
        used: bytes of all pictures at the last check of `keep.space`.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        keep: RetentionSettings,
        clock: Clock,
        ended: threading.Event | None = None,
    ):
        self.database, self.files, self.clock = database, files, clock
        self.used, self._space = 0, keep.space_bytes
        self._ended = ended or threading.Event()
        ages = {kind: keep.seconds(kind) for kind in (*KINDS, RECORDS)}
        for kind in (GOOD, ANOMALOUS):
            known = [age for age in (ages[kind], ages[RECORDS]) if age is not None]
            ages[kind] = min(known, default=None)
        self._ages = {kind: round(age * SECOND) for kind, age in ages.items() if age is not None}
        self._stray_files = StrayFiles(database, files, self._pause)
        self._learnt = LearntPictures(database, files)
        self._checked: dict[tuple[int, str], int] = {}  # by product and kind: the last inspection checked
        self._next_rescan = 0  # age of the station at which all inspections are checked again

    def run(self) -> RemovalSummary:
        """Remove what is due; where the clock jumped, only what exceeds the space.

        Raises:
            StoreError: the data base cannot be used. What was removed until then stays removed.
        """
        summary, is_dated = RemovalSummary(), not self.clock.jump
        with suppress(_EndedError):
            if is_dated and self.clock.age >= self._next_rescan:
                self._checked.clear()
                summary.strays = self._stray_files.sweep()
                self._next_rescan = self.clock.age + RESCAN_INTERVAL
            if is_dated:
                self._remove_by_age(summary)
            if self._space is not None:
                self._remove_by_space(self._space, summary)
            if is_dated:
                self._remove_records(summary)
        return summary

    # ---- pictures

    def _remove_by_age(self, summary: RemovalSummary) -> None:
        last = {kind: self._newest_due(kind) for kind in KINDS}
        for kind in KINDS:
            for group in self._groups(kind, last[kind]):
                self._remove_pictures(group, last, false(), summary)

    def _remove_by_space(self, most: int, summary: RemovalSummary) -> None:
        used, before = self._total_bytes(), summary.bytes

        def excess() -> int:
            return used - most - (summary.bytes - before)

        last = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            for group in self._groups(kind, MAX_ID, excess):
                last[kind] = group[-1].number  # a picture that was inspected again comes up again later
                self._remove_pictures(group, last, _HAS_MASK, summary)
            last[kind] = MAX_ID
        self.used = most + excess()
        if excess() > 0:
            text = f"{excess() / 1e6:.0f} MB more than `keep: space` allows"
            summary.problem = f"pictures that must stay take {text}; raise it, or lower `keep: reviewed`"

    def _total_bytes(self) -> int:
        """Bytes of all pictures. Products may share a picture, which is one file."""
        sizes = select(pictures.c.bytes, pictures.c.hash).distinct()
        sizes = sizes.where(
            pictures.c.removed_at.is_(None), pictures.c.product_id.in_(self.database.own_product_ids())
        )
        with self.database.reading() as connection:
            total = select(func.coalesce(func.sum(sizes.subquery().c.bytes), 0))
            return int(connection.execute(total).scalar_one())

    def _remove_pictures(
        self, group: list[Row[Any]], last: Mapping[str, int], stays: Condition, summary: RemovalSummary
    ) -> None:
        """Remove pictures, first in the data base, then as files, but for those that `stays` says, those with
        an inspection beyond the last one of its kind, and those that were learnt from."""
        begun = time.monotonic()
        there = {(old.product_id, old.picture): old for old in group if old.removed_at is None}
        if not there:
            return
        later = (and_(_is_of_kind(kind), inspections.c.id > number) for kind, number in last.items())
        stays = or_(stays, _IS_LEARNT, exists().where(_SAME_PICTURE, or_(*later)))
        with self.database.reading() as connection:
            free = _removable(connection, list(there), stays)
        due = [key for key in free if not self._learnt.contains(there[key].picture, there[key].suffix)]
        summary.kept += len(free) - len(due)
        if due:
            with self.database.writing() as connection:
                lock_products(connection, {product for product, _ in due})
                due = _removable(connection, due, stays)  # one may have been recorded again
                connection.execute(update(pictures).where(_PICTURE.in_(due)).values(removed_at=now()))
            for old in {there[key].picture: there[key] for key in due}.values():
                # where another product has the picture, too, the file stays
                if self._stray_files.discard(PICTURES, old.picture, old.suffix):
                    summary.pictures += 1
                    summary.bytes += old.bytes
        self._pause(time.monotonic() - begun)

    # ---- records

    def _remove_records(self, summary: RemovalSummary) -> None:
        for group in self._groups(RECORDS, self._newest_due(RECORDS)):
            removed = [old.number for old in group if old.removed_at is not None]
            summary.records += self._delete_inspections(removed)

    def _delete_inspections(self, numbers: list[int]) -> int:
        """Remove inspections whose pictures are gone; return their number."""
        begun = time.monotonic()
        with self.database.writing() as connection:
            lock_products(connection, self._products(connection))
            found = (
                select(inspections.c.id, inspections.c.part_id, *_KEY)
                .join_from(inspections, pictures)
                .where(inspections.c.id.in_(numbers), pictures.c.removed_at.is_not(None))
                # views of a part that is not decided on stay
                .where(~exists().where(parts.c.id == inspections.c.part_id, parts.c.decision.is_(None)))
                # the newest one stays: SQLite would give its number to another
                .where(inspections.c.id < select(func.max(inspections.c.id)).scalar_subquery())
                # where there are sinks, the inspection of the last verdict stays, too
                .where(or_(inspections.c.id != _last_with_verdict(), ~exists(select(deliveries.c.sink))))
            )
            rows = connection.execute(found.with_for_update(of=inspections)).all()
            numbers = [row.id for row in rows]
            theirs = verdicts.c.inspection_id.in_(numbers)
            masks = set(connection.execute(select(verdicts.c.mask).where(theirs)).scalars()) - {None}
            connection.execute(delete(verdicts).where(theirs))
            connection.execute(delete(inspections).where(inspections.c.id.in_(numbers)))
            _delete_parts(connection, {row.part_id for row in rows} - {None})
            gone = {(row.product_id, row.hash) for row in rows}
            is_named = or_(exists().where(_SAME_PICTURE), _IS_LEARNT)
            connection.execute(delete(pictures).where(_PICTURE.in_(gone), ~is_named))
        for mask in masks:
            self._stray_files.discard(MASKS, mask, MASK_SUFFIX)
        self._pause(time.monotonic() - begun)
        return len(numbers)

    # ---- inspections in their order

    def _newest_due(self, kind: str) -> int:
        """Number of the newest inspection that is older than those of its kind are kept; 0: none is."""
        return self.clock.newest_older_than(self._ages[kind]) if kind in self._ages else 0

    def _products(self, connection: Connection) -> list[int]:
        return list(connection.execute(self.database.own_product_ids()).scalars())

    def _groups(
        self, kind: str, last: int, enough: Callable[[], float] = lambda: math.inf
    ) -> Iterator[list[Row[Any]]]:
        """Inspections of a kind up to a number, the oldest first, in groups for one transaction each, from
        where today's last run ended. enough: bytes of pictures after which a group ends."""
        with self.database.reading() as connection:
            known = self._products(connection)
        oldest = heapq.merge(*(self._read_oldest(product_id, kind, last) for product_id in known))
        while enough() > 0 and (group := _take_group(oldest, enough())):
            yield group
            for old in group:
                self._checked[old.product_id, kind] = old.number

    def _read_oldest(self, product_id: int, kind: str, last: int) -> Iterator[Row[Any]]:
        column = inspections.c
        query = (
            select(column.id.label("number"), column.product_id, column.picture)
            .add_columns(pictures.c.suffix, pictures.c.bytes, pictures.c.removed_at)
            .join_from(inspections, pictures)
            .where(column.product_id == product_id, _is_of_kind(kind), column.id <= last)
            .order_by(column.id)
            .limit(ROWS_PER_QUERY)
        )
        start = self._checked.get((product_id, kind), 0)
        while start < last:
            begun = time.monotonic()
            with self.database.reading() as connection:
                rows = connection.execute(query.where(column.id > start)).all()
            self._pause(time.monotonic() - begun)
            yield from rows
            start = rows[-1].number if len(rows) == ROWS_PER_QUERY else last

    def _pause(self, seconds: float) -> None:
        """Pause as long as the work took: inspections get processor and data base half of the time."""
        if self._ended.wait(min(5.0, seconds)):
            raise _EndedError


class LearntPictures:
    """Pictures that model versions were learnt from, by the hash of their decoded pixels: a model may have
    been fitted elsewhere, with copies of the files."""

    def __init__(self, database: Database, files: Files):
        self.database, self.files = database, files
        self._versions: set[int] = set()  # versions whose hashes were read
        self._pixels: set[str] = set()
        self._pictures: set[str] = set()  # hashes of files that were learnt from

    def contains(self, digest: str, suffix: str) -> bool:
        """Whether a version of any station was learnt from a picture with the same pixels."""
        if digest in self._pictures:
            return True
        new = select(learnt_pixels).where(learnt_pixels.c.version_id.not_in(self._versions))
        with self.database.reading() as connection:
            for row in connection.execute(new).all():
                self._versions.add(row.version_id)
                self._pixels.add(row.pixels)
        if not self._pixels:
            return False
        try:
            found = pixel_hash(decode(self.files.path(PICTURES, digest, suffix))) in self._pixels
        except InputError:  # the file is missing, or no model can learn from it
            return False
        if found:
            self._pictures.add(digest)
        return found


def _delete_parts(connection: Connection, numbers: set[int]) -> None:
    """Delete parts without inspections; the newest and the last decided stay, so that numbers are unique."""
    same = parts.alias()
    last = select(func.max(same.c.number)).where(same.c.product_id == parts.c.product_id).scalar_subquery()
    newest = select(func.max(same.c.id)).scalar_subquery()
    is_named = exists().where(inspections.c.part_id == parts.c.id)
    gone = parts.c.id.in_(numbers), parts.c.id < newest, parts.c.number < last, ~is_named
    connection.execute(delete(parts).where(*gone))


def _last_with_verdict() -> ColumnElement[int]:
    """Number of the inspection that has the last verdict; 0 where there is none."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def _is_of_kind(kind: str) -> Condition:
    if kind == RECORDS:
        return inspections.c.id.is_not(None)
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def _removable(
    connection: Connection, keys: list[tuple[int, str]], stays: Condition
) -> list[tuple[int, str]]:
    """Keys of the pictures that are there and need not stay."""
    there = _PICTURE.in_(keys), pictures.c.removed_at.is_(None)
    return [tuple(row) for row in connection.execute(select(*_KEY).where(*there, ~stays))]


def _take_group(oldest: Iterable[Row[Any]], enough: float) -> list[Row[Any]]:
    """Next inspections: those of a transaction, or fewer, whose pictures have `enough` bytes."""
    group: list[Row[Any]] = []
    size = 0
    for old in oldest:
        group.append(old)
        size += old.bytes if old.removed_at is None else 0
        if len(group) >= INSPECTIONS_PER_TRANSACTION or size >= enough:
            break
    return group
