"""Pictures and records that were kept long enough are removed, a few at a time, while inspections go on.

The data base is told first, in short transactions; then the file goes. Whatever is cut off in between leaves
a file that nobody needs, and a sweep finds it. How far the oldest were looked through is remembered for a
day: a look an hour costs what it removes, not what is kept.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

from flawscope.errors import InputError
from flawscope.progress import counted
from flawscope.station.settings.station import Keep
from flawscope.station.store.clock import Clock
from flawscope.station.store.database import Database, now
from flawscope.station.store.files import MASK, MASKS, PICTURES, Files
from flawscope.station.store.orphan_files import Stray, named
from flawscope.station.store.records import held
from flawscope.station.store.schema import deliveries, inspections, learnt, pictures, verdicts
from flawscope.station.store.training_provenance import Learnt

GOOD, ANOMALOUS, REVIEWED = "good", "anomalous", "reviewed"  # in the order in which they go for want of space
RECORDS = "records"
TOGETHER = 100  # pictures or records of a transaction
PAGE = 500  # records that are looked at together
ANEW = 86_400_000_000  # microseconds after which everything is looked at again: verdicts were taken back, say
SECOND = 1_000_000  # microseconds


@dataclass
class Summary:
    """What a look has done. kept: pictures that were old enough, but a model version was learnt from. strays:
    files that nobody needed. problem: why pictures could not be removed."""

    pictures: int = 0
    bytes: int = 0
    records: int = 0
    kept: int = 0
    strays: int = 0
    problem: str = ""

    def line(self) -> str:
        """What was removed; "" where nothing was."""
        several = ((self.pictures, "picture"), (self.records, "record"), (self.strays, "stray file"))
        return ", ".join(counted(number, thing) for number, thing in several if number)


class Old(NamedTuple):
    """An inspection whose picture may go, or is gone."""

    number: int
    product_id: int
    picture: str
    bytes: int
    removed_at: int | None


class Kept(NamedTuple):
    """A picture of a product."""

    product_id: int
    hash: str


_KEY = pictures.c.product_id, pictures.c.hash
_PICTURE = tuple_(*_KEY)


class _EndedError(Exception):
    """The station ends."""


class Retention:
    """Of this station's pictures: by age, each as long as the longest kept of its inspections; then by space,
    where the oldest go first. A skipped picture was not reviewed. One with a mask that a person drew never
    goes for want of space, and one that a model version was learnt from never goes.

    Of records: those older than `keep.records` whose picture is gone. Unreviewed pictures are kept no longer
    than that; a record stays with a picture that is kept, and so does the last one. Hours, from which
    trends are drawn, always stay.

    Attributes:
        runs: how often it was called.
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
        """clock: says how old inspections are. ended: leave off soon."""
        self.database, self.files, self.keep, self.clock = database, files, keep, clock
        self.runs = self.used = 0
        self._ended = ended or threading.Event()
        self._limits = {
            kind: _microseconds(keep.seconds(kind)) for kind in (GOOD, ANOMALOUS, REVIEWED, RECORDS)
        }
        for kind in (GOOD, ANOMALOUS):
            known = [limit for limit in (self._limits[kind], self._limits[RECORDS]) if limit is not None]
            self._limits[kind] = min(known, default=None)
        self._stray = Stray(database, files, self._rest)
        self._learnt = Learnt(database, files)
        self._passed: dict[tuple[int, str], int] = {}  # by product and kind, an inspection
        self._anew: int | None = None  # age of the station at which everything is looked at again

    def run(self) -> Summary:
        """Remove what is due; where the clock jumped, what is too much alone.

        Raises:
            StoreError: the data base cannot be used; what was removed until then is.
        """
        self.runs += 1
        summary = Summary()
        try:
            by_age = not self.clock.jump
            if by_age and (self._anew is None or self.clock.age >= self._anew):
                self._passed.clear()
                summary.strays = self._stray.sweep(now())
                self._anew = self.clock.age + ANEW
            with self.database.reading() as connection:
                known = list(connection.execute(self.database.own()).scalars())
            try:
                if by_age:
                    self._by_age(known, summary)
                self._by_space(known, summary)
            except InputError as error:  # nobody knows what that version was learnt from
                summary.problem = f"{error}; no pictures are removed until then"
            if by_age:
                self._records(known, summary)
        except _EndedError:
            pass
        return summary

    # ---- pictures

    def _by_age(self, known: Sequence[int], summary: Summary) -> None:
        wanted = self._wanted()
        for kind in (GOOD, ANOMALOUS, REVIEWED):
            limit = self._limits[kind]
            if limit is None:
                continue
            for product_id in known:
                oldest = self._oldest(product_id, kind, self.clock.newest_before(limit))
                while group := _several(oldest):
                    self._remove(group, wanted, summary)
                    self._pass(kind, group)

    def _by_space(self, known: Sequence[int], summary: Summary) -> None:
        most = self.keep.space_bytes
        if most is None:
            return
        with self.database.reading() as connection:
            there = pictures.c.removed_at.is_(None), pictures.c.product_id.in_(known)
            sizes = select(pictures.c.bytes, pictures.c.hash).where(*there)
            if len(known) > 1:  # several may have the same picture, which is one file
                sizes = sizes.distinct()
            total = select(func.coalesce(func.sum(sizes.subquery().c.bytes), 0))
            self.used = int(connection.execute(total).scalar_one())
        excess = self.used - most
        for rank, kind in enumerate((GOOD, ANOMALOUS, REVIEWED)):
            oldest = heapq.merge(*(self._oldest(product_id, kind) for product_id in known))
            while excess > 0 and (group := _several(oldest, excess)):
                # one that was inspected again comes again, later
                higher = [_is(other) for other in (GOOD, ANOMALOUS, REVIEWED)[rank + 1 :]]
                wanted = _of_picture(or_(inspections.c.id > group[-1].number, *higher))
                before = summary.bytes
                self._remove(group, wanted, summary, masked_too=False)
                excess -= summary.bytes - before
                self._pass(kind, group)
        self.used = most + excess
        if excess > 0:
            most_text = f"{excess / 1e6:.0f} MB more than `keep: space` allows"
            summary.problem = f"pictures that must stay take {most_text}; raise it, or lower `keep: reviewed`"

    def _wanted(self) -> ColumnElement[bool]:
        """A picture has an inspection for which it is not to be removed yet."""
        reasons = []
        for kind in (GOOD, ANOMALOUS, REVIEWED):
            limit = self._limits[kind]
            young = true() if limit is None else inspections.c.id > self.clock.newest_before(limit)
            reasons.append(and_(_is(kind), young))
        return _of_picture(or_(*reasons))

    def _oldest(self, product_id: int, kind: str, last: int | None = None) -> Iterator[Old]:
        """Inspections of a kind up to the last one, the oldest first, from where the last look ended."""
        there = inspections.c
        start = self._passed.get((product_id, kind), 0)
        wanted = there.product_id == product_id, _is(kind), true() if last is None else there.id <= last
        while True:
            begun = time.monotonic()
            query = (
                select(there.id, there.product_id, there.picture)
                .add_columns(pictures.c.bytes, pictures.c.removed_at)
                .join_from(inspections, pictures)
                .where(*wanted, there.id > start)
                .order_by(there.id)
                .limit(PAGE)
            )
            with self.database.reading() as connection:
                rows = connection.execute(query).all()
            self._rest(time.monotonic() - begun)
            yield from (Old(*row) for row in rows)
            if len(rows) < PAGE:
                return
            start = rows[-1].id

    def _pass(self, kind: str, group: Iterable[Old]) -> None:
        """They need not be looked at again today."""
        for old in group:
            self._passed[old.product_id, kind] = old.number

    def _remove(
        self,
        group: list[Old],
        wanted: ColumnElement[bool],
        summary: Summary,
        masked_too: bool = True,
    ) -> None:
        """Pictures that nothing keeps: they are gone for the data base, then as files."""
        there = sorted({Kept(old.product_id, old.picture) for old in group if old.removed_at is None})
        if not there:
            return
        begun = time.monotonic()
        with self.database.reading() as connection:
            free = _free(connection, there, wanted, masked_too)
        stay = {kept for kept, suffix in free.items() if self._learnt.knows(kept.hash, suffix)}
        summary.kept += len(stay)
        due = sorted(free.keys() - stay)
        if not due:
            return
        with self.database.writing() as connection:
            # locked first: who records one of them at this moment waits, and then needs its file again
            locked = select(pictures.c.hash).where(_PICTURE.in_(due)).order_by(*_KEY)
            connection.execute(locked.with_for_update()).all()
            due = sorted(_free(connection, due, wanted, masked_too))
            connection.execute(update(pictures).where(_PICTURE.in_(due)).values(removed_at=now()))
        sizes = {old.picture: old.bytes for old in group}
        files = {kept.hash: free[kept] for kept in due}
        for digest, suffix in files.items():  # another product may have it, too: then its file stays
            if self._stray.discard(PICTURES, digest, suffix):
                summary.pictures += 1
                summary.bytes += sizes[digest]
        self._rest(time.monotonic() - begun)

    # ---- records

    def _records(self, known: Sequence[int], summary: Summary) -> None:
        limit = self._limits[RECORDS]
        if limit is None:
            return
        last = self.clock.newest_before(limit)
        for product_id in known:
            while rows := self._page_of_records(product_id, last):
                summary.records += self._forget([row.id for row in rows if row.removed_at is not None])
                self._passed[product_id, RECORDS] = rows[-1].id

    def _page_of_records(self, product_id: int, last: int) -> list[Any]:
        there = inspections.c
        query = (
            select(there.id, pictures.c.removed_at)
            .join_from(inspections, pictures)
            .where(there.product_id == product_id, there.id <= last)
            .where(there.id > self._passed.get((product_id, RECORDS), 0))
            .order_by(there.id)
            .limit(TOGETHER)
        )
        with self.database.reading() as connection:
            return list(connection.execute(query))

    def _forget(self, numbers: list[int]) -> int:
        """Remove inspections whose pictures are gone; how many there were."""
        if not numbers:
            return 0
        begun = time.monotonic()
        with self.database.writing() as connection:
            found = (
                select(inspections.c.id, *_KEY)
                .join_from(inspections, pictures)
                .where(inspections.c.id.in_(numbers), pictures.c.removed_at.is_not(None))
                # the last one stays: SQLite would give its number to another one
                .where(inspections.c.id < select(func.max(inspections.c.id)).scalar_subquery())
                # so does, where there are sinks, that of the last verdict
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
            self._stray.discard(MASKS, mask, MASK)
        self._rest(time.monotonic() - begun)
        return len(numbers)

    def _rest(self, seconds: float) -> None:
        """As long as the work took: others get the processor, and the data base, half of the time."""
        if self._ended.wait(min(5.0, seconds)):
            raise _EndedError


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * SECOND)


def _last_spoken_of() -> ColumnElement[int]:
    """The inspection that has the last verdict, 0 where there is none."""
    last = select(verdicts.c.inspection_id).order_by(verdicts.c.id.desc()).limit(1)
    return func.coalesce(last.scalar_subquery(), 0)


def _is(kind: str) -> ColumnElement[bool]:
    """An inspection is of this kind."""
    if kind == REVIEWED:
        return inspections.c.verdict.is_not(None)
    return and_(inspections.c.verdict.is_(None), inspections.c.anomalous.is_(kind == ANOMALOUS))


def _of_picture(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """A picture has such an inspection."""
    same = inspections.c.picture == pictures.c.hash, inspections.c.product_id == pictures.c.product_id
    return exists().where(*same, condition)


def _free(
    connection: Connection, several: list[Kept], wanted: ColumnElement[bool], masked_too: bool
) -> dict[Kept, str]:
    """Those of the pictures, with their endings, that neither an inspection nor the table of what was learnt
    from wants to keep."""
    query = select(*_KEY, pictures.c.suffix).where(
        _PICTURE.in_(several),
        pictures.c.removed_at.is_(None),
        ~wanted,
        ~exists().where(learnt.c.picture == pictures.c.hash, learnt.c.product_id == pictures.c.product_id),
    )
    free = {Kept(row.product_id, row.hash): row.suffix for row in connection.execute(query)}
    masked = set() if masked_too else _masked(connection, list(free))
    return {kept: suffix for kept, suffix in free.items() if kept not in masked}


def _masked(connection: Connection, several: list[Kept]) -> set[Kept]:
    """Pictures for which somebody drew a mask that holds."""
    there = inspections.c
    query = select(there.id, there.product_id, there.picture).where(
        tuple_(there.product_id, there.picture).in_(several), there.verdict.is_not(None)
    )
    of = {row.id: Kept(row.product_id, row.picture) for row in connection.execute(query)}
    return {of[number] for number, word in held(connection, list(of)).items() if word.mask is not None}


def _several(oldest: Iterator[Old], enough: float = math.inf) -> list[Old]:
    """The next ones: a transaction's, or those whose pictures have so many bytes."""
    group: list[Old] = []
    sizes: dict[str, int] = {}
    for old in oldest:
        group.append(old)
        if old.removed_at is None:
            sizes[old.picture] = old.bytes
        if len(sizes) >= TOGETHER or len(group) >= PAGE or sum(sizes.values()) >= enough:
            break
    return group
