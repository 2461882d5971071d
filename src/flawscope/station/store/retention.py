"""Removal of old pictures and records, a few at a time, while inspections go on.

The data base is updated first, in short transactions; then the file is removed. A cut in between leaves an
orphaned file, which a sweep finds. The last inspection looked at is remembered for a day, so that an hourly
run costs what it removes, not what is kept.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)

from flawscope.errors import InputError, pluralize
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.station.settings.station import Keep
from flawscope.station.store.database import Database, now
from flawscope.station.store.files import MASK, MASKS, PICTURES, Files, Orphans, named
from flawscope.station.store.schema import deliveries, inspections, learnt, learnt_pixels, pictures, verdicts
from flawscope.station.store.station_identity import Clock

GOOD, ANOMALOUS, REVIEWED = KINDS = "good", "anomalous", "reviewed"  # in the order of removal for space
RECORDS = "records"
TOGETHER = 100  # inspections in a transaction
PAGE = 500  # records that are read together
ANEW = 86_400_000_000  # microseconds after which all are looked at again: verdicts may have been taken back
SECOND = 1_000_000  # microseconds
_KEY = pictures.c.product_id, pictures.c.hash
_PICTURE = tuple_(*_KEY)
_OF_PICTURE = and_(
    inspections.c.product_id == pictures.c.product_id, inspections.c.picture == pictures.c.hash
)


@dataclass
class Summary:
    """Result of a run. kept: pictures that were old enough, but a model version was learnt from. orphans:
    files that no record needed. problem: why pictures could not be removed."""

    pictures: int = 0
    bytes: int = 0
    records: int = 0
    kept: int = 0
    orphans: int = 0
    problem: str = ""

    def line(self) -> str:
        """Numbers of what was removed, as text; "" where nothing was."""
        several = ((self.pictures, "picture"), (self.records, "record"), (self.orphans, "stray file"))
        return ", ".join(pluralize(number, thing) for number, thing in several if number)


class Old(NamedTuple):
    """Inspection whose picture may be removed, or was."""

    number: int
    product_id: int
    picture: str
    suffix: str
    bytes: int
    removed_at: int | None

    @property
    def key(self) -> tuple[int, str]:
        """Key of the picture: product and hash."""
        return self.product_id, self.picture


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
        used: bytes of all pictures after the last look at `keep.space`.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        keep: Keep,
        clock: Clock,
        ended: threading.Event | None = None,
    ):
        self.database, self.files, self.clock = database, files, clock
        self.used, self._space = 0, keep.space_bytes
        self._ended = ended or threading.Event()
        limits = {kind: keep.seconds(kind) for kind in (*KINDS, RECORDS)}
        for kind in (GOOD, ANOMALOUS):
            known = [limit for limit in (limits[kind], limits[RECORDS]) if limit is not None]
            limits[kind] = min(known, default=None)
        self._limits = {k: None if limit is None else round(limit * SECOND) for k, limit in limits.items()}
        self._orphans = Orphans(database, files, self._rest)
        self._learnt = Learnt(database, files)
        self._passed: dict[tuple[int, str], int] = {}  # by product and kind: the last inspection looked at
        self._anew: int | None = None  # age of the station at which everything is looked at again

    def run(self) -> Summary:
        """Remove what is due; where the clock jumped, only what exceeds the space.

        Raises:
            StoreError: the data base cannot be used. What was removed until then stays removed.
        """
        summary = Summary()
        try:
            by_age = not self.clock.jump
            if by_age and (self._anew is None or self.clock.age >= self._anew):
                self._passed.clear()
                summary.orphans = self._orphans.sweep(now())
                self._anew = self.clock.age + ANEW
            with self.database.reading() as connection:
                known = list(connection.execute(self.database.own()).scalars())
            if by_age:
                self._by_age(known, summary)
            if self._space is not None:
                self._by_space(known, self._space, summary)
            if by_age:
                self._records(known, summary)
        except _EndedError:
            pass
        return summary

    # ---- pictures

    def _by_age(self, known: Sequence[int], summary: Summary) -> None:
        limits = {kind: limit for kind in KINDS if (limit := self._limits[kind]) is not None}
        last = {kind: self.clock.newest_before(limit) for kind, limit in limits.items()}
        young = [and_(_is(kind), inspections.c.id > last[kind] if kind in last else true()) for kind in KINDS]
        wanted = exists().where(_OF_PICTURE, or_(*young))
        for kind in last:
            for product_id in known:
                oldest = self._oldest(product_id, kind, inspections.c.id <= last[kind])
                while group := _several(oldest):
                    self._remove(group, wanted, summary)
                    self._pass(kind, group)

    def _by_space(self, known: Sequence[int], most: int, summary: Summary) -> None:
        there = pictures.c.removed_at.is_(None), pictures.c.product_id.in_(known)
        sizes = select(pictures.c.bytes, pictures.c.hash).where(*there)
        if len(known) > 1:  # products may share a picture, which is one file
            sizes = sizes.distinct()
        with self.database.reading() as connection:
            total = select(func.coalesce(func.sum(sizes.subquery().c.bytes), 0))
            excess = int(connection.execute(total).scalar_one()) - most
        drawn = exists().where(_OF_PICTURE, inspections.c.verdict.is_not(None), _HAS_MASK)
        for rank, kind in enumerate(KINDS):
            oldest = heapq.merge(*(self._oldest(product_id, kind) for product_id in known))
            higher = [_is(other) for other in KINDS[rank + 1 :]]
            while excess > 0 and (group := _several(oldest, excess)):
                # a picture that was inspected again comes up again later
                again = exists().where(_OF_PICTURE, or_(inspections.c.id > group[-1].number, *higher))
                before = summary.bytes
                self._remove(group, or_(again, drawn), summary)
                excess -= summary.bytes - before
                self._pass(kind, group)
        self.used = most + excess
        if excess > 0:
            most_text = f"{excess / 1e6:.0f} MB more than `keep: space` allows"
            summary.problem = f"pictures that must stay take {most_text}; raise it, or lower `keep: reviewed`"

    def _oldest(self, product_id: int, kind: str, *which: ColumnElement[bool]) -> Iterator[Old]:
        """Inspections of a kind, the oldest first, from where the last run ended."""
        there = inspections.c
        columns = there.id, there.product_id, there.picture
        query = (
            select(*columns, pictures.c.suffix, pictures.c.bytes, pictures.c.removed_at)
            .join_from(inspections, pictures)
            .where(there.product_id == product_id, *([] if kind == RECORDS else [_is(kind)]), *which)
            .order_by(there.id)
            .limit(PAGE)
        )
        start = self._passed.get((product_id, kind), 0)
        while True:
            begun = time.monotonic()
            with self.database.reading() as connection:
                rows = connection.execute(query.where(there.id > start)).all()
            self._rest(time.monotonic() - begun)
            yield from (Old(*row) for row in rows)
            if len(rows) < PAGE:
                return
            start = rows[-1].id

    def _pass(self, kind: str, group: Iterable[Old]) -> None:
        """Remember a group, so that today's next runs begin after it."""
        for old in group:
            self._passed[old.product_id, kind] = old.number

    def _remove(self, group: list[Old], wanted: ColumnElement[bool], summary: Summary) -> None:
        """Remove pictures that nothing keeps: first in the data base, then as files."""
        there = {old.key: old for old in group if old.removed_at is None}
        if not there:
            return
        begun = time.monotonic()
        with self.database.reading() as connection:
            free = _free(connection, sorted(there), wanted)
        due = [key for key in free if not self._learnt.knows(there[key].picture, there[key].suffix)]
        summary.kept += len(free) - len(due)
        if not due:
            return
        with self.database.writing() as connection:
            # locked first: a writer that records one of the pictures now waits, then keeps its file anew
            locked = select(pictures.c.hash).where(_PICTURE.in_(due)).order_by(*_KEY)
            connection.execute(locked.with_for_update()).all()
            due = _free(connection, due, wanted)
            connection.execute(update(pictures).where(_PICTURE.in_(due)).values(removed_at=now()))
        for old in {there[key].picture: there[key] for key in due}.values():
            # where another product has the picture, too, the file stays
            if self._orphans.discard(PICTURES, old.picture, old.suffix):
                summary.pictures += 1
                summary.bytes += old.bytes
        self._rest(time.monotonic() - begun)

    # ---- records

    def _records(self, known: Sequence[int], summary: Summary) -> None:
        limit = self._limits[RECORDS]
        if limit is None:
            return
        last = inspections.c.id <= self.clock.newest_before(limit)
        for product_id in known:
            oldest = self._oldest(product_id, RECORDS, last)
            while group := _several(oldest):
                summary.records += self._forget([old.number for old in group if old.removed_at is not None])
                self._pass(RECORDS, group)

    def _forget(self, numbers: list[int]) -> int:
        """Remove inspections whose pictures are gone; return their number."""
        if not numbers:
            return 0
        begun = time.monotonic()
        with self.database.writing() as connection:
            found = (
                select(inspections.c.id, *_KEY)
                .join_from(inspections, pictures)
                .where(inspections.c.id.in_(numbers), pictures.c.removed_at.is_not(None))
                # the newest one stays: SQLite would give its number to another
                .where(inspections.c.id < select(func.max(inspections.c.id)).scalar_subquery())
                # where there are sinks, the inspection of the last verdict stays, too
                .where(or_(inspections.c.id != _last_spoken_of(), ~exists(select(deliveries.c.sink))))
                .order_by(*_KEY)
            )
            rows = connection.execute(found.with_for_update()).all()
            numbers = [row.id for row in rows]
            of_these = verdicts.c.inspection_id.in_(numbers)
            masks = set(connection.execute(select(verdicts.c.mask).where(of_these)).scalars()) - {None}
            connection.execute(delete(verdicts).where(of_these))
            connection.execute(delete(inspections).where(inspections.c.id.in_(numbers)))
            gone = {(row.product_id, row.hash) for row in rows}
            connection.execute(delete(pictures).where(_PICTURE.in_(gone), ~named()))
        for mask in masks:
            self._orphans.discard(MASKS, mask, MASK)
        self._rest(time.monotonic() - begun)
        return len(numbers)

    def _rest(self, seconds: float) -> None:
        """Pause as long as the work took: others get processor and data base half of the time."""
        if self._ended.wait(min(5.0, seconds)):
            raise _EndedError


class Learnt:
    """Pictures that model versions were learnt from, known by the hash of their decoded pixels: a model may
    have been fitted elsewhere, with copies of the files. Pictures are decoded as they are asked for."""

    def __init__(self, database: Database, files: Files):
        self.database, self.files = database, files
        self._versions: set[int] = set()  # versions whose hashes were read
        self._pixels: set[str] = set()
        self._pictures: set[str] = set()  # hashes of files that were learnt from

    def knows(self, digest: str, suffix: str) -> bool:
        """Whether a version of any station was learnt from a picture with the same pixels."""
        if digest in self._pictures:
            return True
        new = select(learnt_pixels).where(learnt_pixels.c.version_id.not_in(self._versions))
        with self.database.reading() as connection:
            rows = connection.execute(new).all()
        self._versions |= {row.version_id for row in rows}
        self._pixels |= {row.pixels for row in rows}
        if not self._pixels:
            return False
        try:
            found = pixel_hash(decode(self.files.path(PICTURES, digest, suffix))) in self._pixels
        except InputError:  # the file is missing, or no model can learn from it
            return False
        if found:
            self._pictures.add(digest)
        return found


_HAS_MASK = exists().where(verdicts.c.inspection_id == inspections.c.id, verdicts.c.mask.is_not(None))


def _last_spoken_of() -> ColumnElement[int]:
    """Number of the inspection that has the last verdict; 0 where there is none."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def _is(kind: str) -> ColumnElement[bool]:
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def _free(
    connection: Connection, several: list[tuple[int, str]], wanted: ColumnElement[bool]
) -> list[tuple[int, str]]:
    """Keys of the pictures that neither an inspection nor `learnt` keeps."""
    query = select(*_KEY).where(
        _PICTURE.in_(several),
        pictures.c.removed_at.is_(None),
        ~wanted,
        ~exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id),
    )
    return [(row.product_id, row.hash) for row in connection.execute(query.order_by(*_KEY))]


def _several(oldest: Iterable[Old], enough: float = math.inf) -> list[Old]:
    """Next inspections: those of a transaction, or fewer, whose pictures have `enough` bytes."""
    group: list[Old] = []
    size = 0
    for old in oldest:
        group.append(old)
        size += old.bytes if old.removed_at is None else 0
        if len(group) >= TOGETHER or size >= enough:
            break
    return group
