"""What people said, as the next version is made of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from flawscope.station.store.records import DEFECT, GOOD, UNDO
from flawscope.station.store.schema import inspections, pictures, verdicts

LATELY = 5000  # inspections that the line's good pictures are drawn from
MOST = 500  # reviewed pictures that are judged, where there are not more corrections: all of these are
AT_ONCE = 10_000  # inspections that are named in one question; SQLite takes 32,766


@dataclass(frozen=True)
class Word:
    """The verdict that holds of an inspection.

    verdict_id: of the verdict. sure: the same was said twice, one after the other. wrong: the model had said
    otherwise.
    """

    inspection: Row[Any]
    verdict: str
    verdict_id: int
    sure: bool
    mask: str | None

    @property
    def number(self) -> int:
        return int(self.inspection.id)

    @property
    def wrong(self) -> bool:
        return bool(self.inspection.anomalous) != (self.verdict == DEFECT)


@dataclass
class Words:
    """What holds of a product.

    judged: all corrections, and the latest others up to `MOST`, oldest first, with their pictures. gone:
    whose pictures were removed. contradictory: the same file was called good and a defect.
    """

    judged: list[Word] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)

    @property
    def corrections(self) -> list[Word]:
        return [word for word in self.judged if word.wrong]


def words_of(connection: Connection, product_id: int) -> Words:
    """Undone verdicts are not there. Corrections all are, others as far as there is room, latest first."""
    query = (
        select(inspections, pictures.c.suffix, pictures.c.removed_at)
        .select_from(inspections.join(pictures))
        .where(inspections.c.product_id == product_id, inspections.c.verdict.is_not(None))
        .order_by(inspections.c.id)
    )
    rows = connection.execute(query).all()
    wrong = [row for row in rows if bool(row.anomalous) != (row.verdict == DEFECT)]
    rest = [row for row in rows if bool(row.anomalous) == (row.verdict == DEFECT)]
    room = max(0, MOST - len(wrong))
    chosen = sorted([*wrong, *(rest[-room:] if room else [])], key=lambda row: row.id)
    said = _said(connection, [row.id for row in chosen])
    found = Words()
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.picture, set()).add(row.verdict)
    for row in chosen:
        if row.removed_at is not None:
            found.gone.append(row.id)
        elif len(kinds[row.picture]) > 1:
            found.contradictory.append(row.id)
        else:
            stack = said[row.id]
            sure = len(stack) > 1 and stack[-2].verdict == stack[-1].verdict
            last = stack[-1]
            found.judged.append(Word(row, row.verdict, last.id, sure, last.mask))
    return found


def latest_verdict(connection: Connection, product_id: int) -> int:
    """Number of the last thing that was said of a product's inspections; 0: nothing."""
    query = (
        select(verdicts.c.id)
        .select_from(verdicts.join(inspections))
        .where(inspections.c.product_id == product_id)
        .order_by(verdicts.c.id.desc())
        .limit(1)
    )
    return int(connection.execute(query).scalar_one_or_none() or 0)


def drawn(connection: Connection, product_id: int, count: int, seed: int) -> list[Row[Any]]:
    """So many of the line's good pictures as they come: each has the same chance, whether the model passed it
    or a person corrected the model.

    What passed counts as good unless somebody said otherwise. Of what was flagged, a part may not be reviewed
    yet; as many of the others are left out, so that false alarms keep their share.
    """
    here = (
        select(inspections.c.id, inspections.c.anomalous, inspections.c.verdict)
        .where(inspections.c.product_id == product_id)
        .order_by(inspections.c.id.desc())
        .limit(LATELY)
    )
    rows = connection.execute(here).all()
    flagged = sum(row.anomalous for row in rows)
    reviewed = sum(row.anomalous and row.verdict is not None for row in rows)
    share = reviewed / flagged if flagged else 1.0
    rng = random.Random(seed)
    passed = [row.id for row in rows if not row.anomalous and row.verdict != DEFECT]
    passed = rng.sample(passed, round(share * len(passed)))
    alarms = [row.id for row in rows if row.anomalous and row.verdict == GOOD]
    line = sorted(passed + alarms)
    numbers = rng.sample(line, min(count, len(line)))
    query = (
        select(inspections, pictures.c.suffix)
        .select_from(inspections.join(pictures))
        .where(inspections.c.id.in_(numbers), pictures.c.removed_at.is_(None))
        .order_by(inspections.c.id)
    )
    return list(connection.execute(query))


def _said(connection: Connection, numbers: Sequence[int]) -> dict[int, list[Row[Any]]]:
    """What holds of each inspection, oldest first: what was taken back is not there."""
    found: dict[int, list[Row[Any]]] = {number: [] for number in numbers}
    for start in range(0, len(numbers), AT_ONCE):
        here = verdicts.c.inspection_id.in_(numbers[start : start + AT_ONCE])
        for row in connection.execute(select(verdicts).where(here).order_by(verdicts.c.id)):
            stack = found[row.inspection_id]
            if row.verdict != UNDO:
                stack.append(row)
            elif stack:
                stack.pop()
    return found
