"""Plan of a candidate: the version that it starts from, and the pictures that it learns from."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from flawscope.errors import installing
from flawscope.machine import cores
from flawscope.methods import registry
from flawscope.predictor import read_manifest
from flawscope.runtime import TRAINED
from flawscope.station.learning.candidates import of_version
from flawscope.station.settings.station import Learn
from flawscope.station.store.files import MASK, MASKS, PICTURES, Files
from flawscope.station.store.records import DEFECT, GOOD, said_of
from flawscope.station.store.schema import inspections, pictures, verdicts

FEW, MANY = 24, 200  # good pictures of the line that are drawn: to extend a model, else
LATELY = 5000  # inspections that the line's good pictures are drawn from
MOST = 500  # reviewed pictures that are judged; corrections are judged even beyond it


@dataclass(frozen=True)
class Word:
    """Verdict that holds of an inspection.

    verdict_id: its number. sure: it was given twice in a row. wrong: the model had decided otherwise.
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
    """Verdicts that hold of a product's inspections.

    judged: all corrections, and the latest others up to `MOST`, oldest first, with their pictures.
    gone: inspections whose pictures were removed.
    contradictory: inspections of a file that was called both good and a defect.
    """

    judged: list[Word] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)

    @property
    def corrections(self) -> list[Word]:
        return [word for word in self.judged if word.wrong]


def words_of(connection: Connection, product_id: int) -> Words:
    """Return the verdicts that hold; undone ones do not. All corrections are there, of others the latest."""
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
    said = said_of(connection, [row.id for row in chosen])
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
    """Return the number of the last verdict on a product's inspections; 0: there is none."""
    query = (
        select(verdicts.c.id)
        .select_from(verdicts.join(inspections))
        .where(inspections.c.product_id == product_id)
        .order_by(verdicts.c.id.desc())
        .limit(1)
    )
    return int(connection.execute(query).scalar_one_or_none() or 0)


def drawn(connection: Connection, product_id: int, count: int, seed: int) -> list[Row[Any]]:
    """Draw at most `count` of the line's good pictures: each has the same chance, whether the model passed it
    or a person corrected the model.

    A passed picture counts as good unless a verdict says otherwise. Where some of the flagged ones are not
    reviewed yet, the same share of the passed ones is left out, so that false alarms keep their share.
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


# -------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Active:
    """Version that judges now. file: its model. method, precision: those of the model."""

    number: int
    file: Path
    method: str
    precision: str

    @property
    def extends(self) -> bool:
        """Whether pictures can be added to the model."""
        return registry.method(self.method).extends


def why_not(active: Active | None, learn: Learn) -> str | None:
    """Return the reason why a product cannot learn, one line; None: it can."""
    if active is None:
        return "no model is open: activate a version"
    if importlib.util.find_spec("torch") is None:
        return f"learning needs torch, and it is not installed here: {installing('torch', extras='train')}"
    if active.file.suffix == TRAINED or not active.extends:
        return None
    if learn.trained is None:
        return (
            f"version {active.number} is an export: name the trained model as `learn: trained` of the product"
        )
    if active.precision != "fp32":
        return (
            f"version {active.number} is of {active.precision}, and what is learnt is exported in fp32 "
            "alone: use a version of fp32"
        )
    return None


@dataclass
class Plan:
    """Plan of a candidate.

    start: the version whose corrections the candidate keeps. learnt: inspections that this version learnt
    from.
    words: the verdicts that hold. line: good pictures of the line.
    """

    start: int
    learnt: list[int]
    words: Words
    line: list[Any]

    @property
    def verdicts(self) -> list[int]:
        """Numbers of the verdicts that corrected a model."""
        return sorted(word.verdict_id for word in self.words.corrections)


def planned(connection: Connection, product_id: int, active: Active, seed: int) -> Plan:
    """Plan a candidate on the active version, or, where a correction that it learnt from holds no longer, on
    the latest one before it of which all hold."""
    words = words_of(connection, product_id)
    good = {word.number for word in words.judged if word.verdict == GOOD} | set(words.gone)
    start, learnt = active.number, []
    while (made := of_version(connection, product_id, start)) is not None:
        learnt = [int(number) for number in json.loads(made.facts).get("learnt", [])]
        if good >= set(learnt):
            break
        start, learnt = int(made.start_version_id), []
    count = FEW if active.extends else MANY
    return Plan(start, learnt, words, drawn(connection, product_id, count, seed))


def job_of(
    plan: Plan, active: Active, start_file: Path, learn: Learn, files: Files, how: str, out: Path
) -> dict[str, Any]:
    """Return the job for the worker, without engine and device."""
    exported = active.file.suffix != TRAINED
    trained = learn.trained if exported else str(start_file)
    already = set() if exported else set(plan.learnt)
    line = {row.id for row in plan.line}
    pictures = [_of_word(word, active, files, word.number in line, already) for word in plan.words.judged]
    judged = {word.number for word in plan.words.judged}
    drawn_alone = {"good": True, "drawn": True, "judged": False, "before": None}
    pictures += [_named(row, files) | drawn_alone for row in plan.line if row.id not in judged]
    same = trained is not None and Path(trained) == active.file
    return {
        "active": str(active.file),
        "trained": None if same else trained,
        "out": str(out),
        "how": how,
        "strict": learn.rule == "auto",
        "precision": active.precision,
        "pictures": pictures,
        "good": learn.pictures if how == "retrained" else None,
        "threads": max(1, cores() // 2),
    }


def _of_word(word: Word, active: Active, files: Files, is_drawn: bool, already: set[int]) -> dict[str, Any]:
    row = word.inspection
    is_good = word.verdict == GOOD
    return _named(row, files) | {
        "good": is_good,
        "learn": is_good and word.wrong and word.number not in already,
        "sure": word.sure,
        "drawn": is_drawn and is_good,
        "mask": None if word.mask is None else str(files.path(MASKS, word.mask, MASK)),
        "before": [row.score, row.score_threshold] if row.version_id == active.number else None,
    }


def _named(row: Row[Any], files: Files) -> dict[str, Any]:
    source = str(files.path(PICTURES, row.picture, row.suffix))
    return {"number": int(row.id), "name": row.name, "source": source}


def active_of(number: int, file: Path) -> Active:
    """Read what the plan needs of a version's file. InputError where it cannot be read."""
    manifest = read_manifest(file)
    return Active(number, file, manifest.method, manifest.calibration.precision)
