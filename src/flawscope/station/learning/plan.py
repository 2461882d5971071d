"""What a candidate is made from: the version that it starts from, and what holds of which pictures."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from flawscope.errors import installing
from flawscope.machine import cores
from flawscope.methods import registry
from flawscope.predictor import read_manifest
from flawscope.runtime import TRAINED
from flawscope.station.learning.candidates import of_version
from flawscope.station.learning.corrections import Word, Words, drawn, words_of
from flawscope.station.settings.station import Learn
from flawscope.station.store.files import MASK, MASKS, PICTURES, Files
from flawscope.station.store.records import GOOD

FEW, MANY = 24, 200  # good pictures of the line that are drawn: where a model is extended, else


@dataclass(frozen=True)
class Active:
    """The version that judges now. file: its model. method, precision: of it."""

    number: int
    file: Path
    method: str
    precision: str

    @property
    def extends(self) -> bool:
        """Whether pictures can be added to it."""
        return registry.method(self.method).extends


def why_not(active: Active | None, learn: Learn) -> str | None:
    """Why a product cannot learn, in one line; None: it can."""
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
    """start: the version whose corrections the candidate has, too; it learns beside them. learnt: inspections
    that it has learnt from already. words: what holds."""

    start: int
    learnt: list[int]
    words: Words
    line: list[Any]

    @property
    def verdicts(self) -> list[int]:
        """Numbers of the verdicts that corrected a model."""
        return sorted(word.verdict_id for word in self.words.corrections)


def planned(connection: Connection, product_id: int, active: Active, seed: int) -> Plan:
    """From the active version where all that it learnt from still holds, else from the latest one before it
    of which that is so."""
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
    plan: Plan, active: Active, start_file: Path, learn: Learn, files: Files, how: str, device: str, out: Path
) -> dict[str, Any]:
    """As the worker takes it."""
    exported = active.file.suffix != TRAINED
    trained = learn.trained if exported else str(start_file)
    if exported and not active.extends and learn.trained is None:
        trained = None
    already = set() if exported else set(plan.learnt)
    line = {row.id for row in plan.line}
    pictures = [_of_word(word, active, files, word.number in line, already) for word in plan.words.judged]
    judged = {word.number for word in plan.words.judged}
    for row in plan.line:
        if row.id not in judged:
            pictures.append(
                {
                    "number": row.id,
                    "source": str(files.path(PICTURES, row.picture, row.suffix)),
                    "good": True,
                    "name": row.name,
                    "drawn": True,
                    "judged": False,
                    "before": None,
                }
            )
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
        "device": device,
        "threads": max(1, cores() // 2),
    }


def _of_word(word: Word, active: Active, files: Files, is_drawn: bool, already: set[int]) -> dict[str, Any]:
    row = word.inspection
    is_good = word.verdict == GOOD
    return {
        "number": word.number,
        "source": str(files.path(PICTURES, row.picture, row.suffix)),
        "good": is_good,
        "name": row.name,
        "learn": is_good and word.wrong and word.number not in already,
        "sure": word.sure,
        "drawn": is_drawn and is_good,
        "mask": None if word.mask is None else str(files.path(MASKS, word.mask, MASK)),
        "before": [row.score, row.score_threshold] if row.version_id == active.number else None,
    }


def active_of(number: int, file: Path) -> Active:
    """InputError where the file cannot be read."""
    manifest = read_manifest(file)
    return Active(number, file, manifest.method, manifest.calibration.precision)
