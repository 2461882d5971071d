"""Plan of a candidate: the version that it starts from, and the pictures that it learns from."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, FromClause, exists, select

from flawscope.artefact import files
from flawscope.calibration import defect_like
from flawscope.errors import InputError, require_installed
from flawscope.methods import registry
from flawscope.predictor import router
from flawscope_station.learning.jobs import job_of_version
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.files import MASK_SUFFIX, MASKS, PICTURES, Files
from flawscope_station.store.model_registry import rate_root
from flawscope_station.store.records import DEFECT, GOOD, find_views, verdict_stacks
from flawscope_station.store.rows import (
    DrawnRow,
    LatestRow,
    LearntPictureRow,
    ReviewedRow,
    VerdictRow,
    ViewRow,
)
from flawscope_station.store.schema import (
    IS_REVIEWED,
    challenge_parts,
    challenge_views,
    inspections,
    on_line,
    pictures,
)

# way of making a candidate: pictures are added to the model, thresholds are made anew, or it is trained anew;
# "": the way that the method knows without a training
LearningWay = Literal["", "extended", "recalibrated", "retrained"]
# good pictures of the line that are drawn
EXTENSION_PICTURES = 24
TRAINING_PICTURES = 200
RECENT_INSPECTIONS = 5000  # inspections that the line's good pictures are drawn from
MAX_REVIEWED = 500  # reviewed pictures that are judged; corrections are judged even beyond it
MAX_CORRECTIONS = 5000  # the latest, that are judged


@dataclass(frozen=True)
class ActiveVersion:
    """Version that judges now.

    Attributes:
        number: Of the version.
        file: Its model.
        method: Of the model.
        precision: Of the model, such as fp32.
        fences: Scores above which a good picture is suspicious, by view, or one score for all pictures under
            ""; None: not known.
    """

    number: int
    file: Path
    method: str
    precision: str
    fences: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def read(cls, number: int, file: Path) -> ActiveVersion:
        """Read what the plan needs of a version's file. InputError where it cannot be read."""
        facts = router.read_facts(file)
        method = facts.shared("methods", lambda manifest: manifest.method)
        precision = facts.shared("precisions", lambda manifest: manifest.calibration.precision)
        fences = {view: manifest.suspicious_above for view, manifest in facts.manifests.items()}
        return cls(number, file, method, precision, fences)

    def fence(self, view: str | None) -> float | None:
        """Return the score above which a good picture of a view is suspicious; None: not known."""
        return self.fences.get(view or "", self.fences.get(""))

    @property
    def extends(self) -> bool:
        """Whether pictures can be added to the model."""
        return registry.method(self.method).extends

    @property
    def is_trained(self) -> bool:
        """Whether the file is the trained model itself; else it is an export."""
        return self.file.suffix == files.TRAINED_SUFFIX


def reason_not_to_learn(active: ActiveVersion, learn: LearningSettings, how: LearningWay = "") -> str | None:
    """Return the reason why a product cannot learn, or not in this way, as one line; None: it can."""
    try:
        require_installed("learning", "torch", extras="train")
    except InputError as error:
        return str(error)
    if how == "retrained" and learn.pictures is None:
        return (
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    if active.is_trained or (how != "retrained" and not active.extends):
        return None
    if active.extends and learn.trained is None:
        return (
            f"version {active.number} is an export: name the trained model as `learn: trained` of the product"
        )
    if active.precision != "fp32" and how != "recalibrated":  # which changes the export itself
        return (
            f"version {active.number} is of {active.precision}, and what is learnt is exported in fp32 "
            "alone: use a version of fp32"
        )
    return None


# -------------------------------------------------------------------------------------------------- verdicts


class ValidVerdict(NamedTuple):
    """Verdict on an inspection that was not taken back.

    Attributes:
        inspection: Its row.
        verdict: good or defect.
        verdict_id: Number of the verdict.
        is_confirmed: It was given twice in a row.
        mask: Hash of the mask that a person drew; None: nobody drew one.
    """

    inspection: ReviewedRow
    verdict: str
    verdict_id: int
    is_confirmed: bool
    mask: str | None

    @property
    def number(self) -> int:
        """Return the number of the inspection."""
        return int(self.inspection.id)

    @property
    def is_correction(self) -> bool:
        """Whether the verdict contradicts the model: a false alarm or a miss."""
        return bool(self.inspection.anomalous) != (self.verdict == DEFECT)


@dataclass
class ValidVerdicts:
    """Verdicts on a product's inspections that were not taken back.

    Attributes:
        judged: The latest corrections up to `MAX_CORRECTIONS`, and the latest others up to `MAX_REVIEWED`,
            oldest first, with their pictures.
        gone: Inspections whose pictures were removed.
        contradictory: Inspections of a file that was called both good and a defect.
    """

    judged: list[ValidVerdict] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)

    @cached_property
    def corrections(self) -> list[ValidVerdict]:
        """Return the verdicts that contradict the model, oldest first."""
        return [verdict for verdict in self.judged if verdict.is_correction]

    @property
    def verdicts(self) -> list[int]:
        """Numbers of the verdicts that corrected a model."""
        return sorted(verdict.verdict_id for verdict in self.corrections)


def read_verdicts(connection: Connection, product_id: int) -> ValidVerdicts:
    """Return the verdicts that were not taken back: the latest corrections, and the latest others."""
    of_picture = pictures.c.suffix, pictures.c.removed_at
    names = "id", "picture", "name", "view", "verdict", "anomalous", "version_id", "score", "severity"
    query = select(*(inspections.c[name] for name in names), *of_picture, _contradicts().label("contradicts"))
    query = query.select_from(inspections.join(pictures)).where(on_line(product_id), IS_REVIEWED)
    latest = query.where(_may_teach(inspections)).order_by(inspections.c.id.desc())
    is_wrong = inspections.c.anomalous != (inspections.c.verdict == DEFECT)
    rows = list[ReviewedRow]()
    stacks = dict[int, list[VerdictRow]]()
    for which, most in ((is_wrong, MAX_CORRECTIONS), (~is_wrong, MAX_REVIEWED)):
        chosen = latest.where(which).limit(max(0, most - len(rows)))
        rows += connection.execute(chosen).all()
        stacks |= verdict_stacks(connection, chosen.with_only_columns(inspections.c.id))
    found = ValidVerdicts()
    for row in sorted(rows, key=attrgetter("id")):
        if row.removed_at is not None:
            found.gone.append(row.id)
        elif row.contradicts:
            found.contradictory.append(row.id)
        else:
            *before, last = stacks[row.id]
            is_confirmed = bool(before) and before[-1].verdict == last.verdict
            found.judged.append(ValidVerdict(row, row.verdict, last.id, is_confirmed, last.mask))
    return found


def _may_teach(table: FromClause) -> ColumnElement[bool]:
    """Return the condition of reviewed inspections that a model may learn from.

    A part that was called good within tolerance is left out: its rule lets it pass, and the model must go on
    to find its defect.
    """
    return ~table.c.tolerated | (table.c.verdict == DEFECT)


def _contradicts() -> ColumnElement[bool]:
    """Return the condition of an inspection whose file has another verdict, too."""
    other = inspections.alias()
    same = (other.c[name] == inspections.c[name] for name in ("product_id", "picture", "purpose"))
    return exists().where(*same, other.c.verdict != inspections.c.verdict, _may_teach(other))


def find_unsure(valid: ValidVerdicts, active: ActiveVersion, asked: Sequence[int] = ()) -> list[int]:
    """Return the inspections that must be called good once more before they are learnt from.

    These are false alarms of the active version that look like defects, and inspections that learning asked
    about before.

    Args:
        valid: verdicts on the product's inspections.
        active: the version that judges now.
        asked: inspections that the last candidate did not learn from.
    """
    judged = [verdict for verdict in valid.judged if verdict.inspection.version_id == active.number]
    found = [o.inspection.severity for o in judged if o.verdict == DEFECT and o.inspection.anomalous]
    alarms: dict[str | None, dict[int, defect_like.Strength]] = {}  # by the view that is shown
    for picture in judged:
        row = picture.inspection
        if picture.verdict == GOOD and picture.is_correction:
            alarms.setdefault(row.view, {})[picture.number] = defect_like.Strength(row.score, row.severity)
    doubtful = {*asked}
    for view, strengths in alarms.items():
        doubtful |= defect_like.defect_like(strengths, found, active.fence(view))
    once = (v for v in valid.corrections if v.verdict == GOOD and not v.is_confirmed)
    return [picture.number for picture in once if picture.number in doubtful]


def draw_good_pictures(
    connection: Connection, product_id: int, count: int, seed: int
) -> list[LearntPictureRow]:
    """Draw at most `count` of the line's good parts, with one picture of each.

    Each part has the same chance, whether the model passed it or a person corrected the model. Of a part in
    several views, a view is drawn.

    A passed picture counts as good unless a verdict says otherwise. Where some flagged pictures are not
    reviewed yet, the same share of the passed pictures is left out, so that false alarms keep their share. No
    picture within tolerance is drawn, and none that was kept as a challenge part: the model may have missed
    its defect.
    """
    latest = (
        select(inspections.c.id, inspections.c.anomalous, inspections.c.verdict)
        .where(on_line(product_id), ~inspections.c.tolerated)
        .order_by(inspections.c.id.desc())
        .limit(RECENT_INSPECTIONS)
    )
    kept = (
        select(challenge_views.c.pixels)
        .join_from(challenge_views, challenge_parts)
        .where(challenge_parts.c.product_id == product_id)
    )
    rows: list[LatestRow] = [*connection.execute(latest)]
    shown = select(inspections.c.id).join_from(inspections, pictures)
    shown = shown.where(on_line(product_id), pictures.c.pixels.in_(kept))
    masters = {*connection.scalars(shown.where(inspections.c.id >= min((row.id for row in rows), default=0)))}
    rows = [row for row in rows if row.id not in masters]
    rng = random.Random(seed)
    line = _good_of_line(rows, rng)
    numbers = rng.sample(line, min(count, len(line)))
    query = (
        select(inspections, pictures.c.suffix)
        .select_from(inspections.join(pictures))
        .where(inspections.c.id.in_(numbers), pictures.c.removed_at.is_(None))
        .order_by(inspections.c.id)
    )
    drawn: list[DrawnRow] = [*connection.execute(query)]
    seen: dict[int, list[ViewRow]] = {}
    for view in find_views(connection, [row.id for row in drawn if row.view is not None]):
        if view.removed_at is None:
            seen.setdefault(view.inspection_id, []).append(view)
    return [_with_picture(row, rng.choice(seen[row.id])) if row.id in seen else row for row in drawn]


def _good_of_line(rows: Sequence[LatestRow], rng: random.Random) -> list[int]:
    """Return the numbers of the good parts among the line's, in order.

    These are all false alarms, and a share of the passed parts: the share of the flagged parts that is
    reviewed.
    """
    flagged = [row for row in rows if row.anomalous]
    reviewed = [row for row in flagged if row.verdict is not None]
    share = len(reviewed) / len(flagged) if flagged else 1.0
    passed = [row.id for row in rows if not row.anomalous and row.verdict != DEFECT]
    passed = rng.sample(passed, round(share * len(passed)))
    return sorted(passed + [row.id for row in flagged if row.verdict == GOOD])


def _with_picture(row: DrawnRow, seen: ViewRow) -> LearntPictureRow:
    """Return the row of an inspection with the picture of one of its views."""
    return SimpleNamespace(
        id=row.id, name=seen.name, view=seen.view, picture=seen.picture, suffix=seen.suffix
    )


# -------------------------------------------------------------------------------------------------- the plan


@dataclass
class Plan:
    """Plan of a candidate.

    Attributes:
        start: The version whose corrections the candidate keeps.
        learnt: Inspections that this version learnt from.
        verdicts: Those not taken back.
        pictures: Reviewed and drawn ones, each as the fields of `Reviewed`.
    """

    start: int
    learnt: list[int]
    verdicts: ValidVerdicts
    pictures: list[dict[str, object]]


def make_plan(conn: Connection, product_id: int, active: ActiveVersion, files: Files, seed: int) -> Plan:
    """Plan a candidate on the active version, or on an earlier one.

    Where a correction that the active version learnt from holds no longer, it is the latest version before it
    whose corrections all hold.
    """
    valid = read_verdicts(conn, product_id)
    good = {verdict.number for verdict in valid.judged if verdict.verdict == GOOD} | set(valid.gone)
    start = active.number
    learnt = []
    while (candidate := job_of_version(conn, product_id, rate_root(conn, start))) is not None:
        learnt = [int(number) for number in json.loads(candidate.facts).get("learnt", [])]
        if good >= set(learnt):
            break
        start = int(candidate.start_version_id)
        learnt = []
    already_learnt = {*learnt} if active.is_trained else set()  # for an export, all are learnt anew
    count = EXTENSION_PICTURES if active.extends else TRAINING_PICTURES
    line_pictures = {row.id: row for row in draw_good_pictures(conn, product_id, count, seed)}
    found = []
    for verdict in valid.judged:
        is_drawn = verdict.verdict == GOOD and line_pictures.pop(verdict.number, None) is not None
        is_new = verdict.number not in already_learnt
        found.append(_reviewed_fields(verdict, active, files, is_drawn=is_drawn, is_new=is_new))
    drawn_only = {"good": True, "drawn": True, "judged": False}
    found += [_picture_fields(row, files) | drawn_only for row in line_pictures.values()]
    return Plan(start, learnt, valid, found)


def _reviewed_fields(
    verdict: ValidVerdict, active: ActiveVersion, files: Files, *, is_drawn: bool, is_new: bool
) -> dict[str, object]:
    """Return the fields of `Reviewed` of a reviewed picture.

    Args:
        verdict: on the picture.
        active: the version that judges now.
        files: of the store.
        is_drawn: it is among the line's drawn pictures, too.
        is_new: it was not learnt from before.
    """
    row = verdict.inspection
    is_good = verdict.verdict == GOOD
    return _picture_fields(row, files) | {
        "good": is_good,
        "learn": is_good and verdict.is_correction and is_new,
        "sure": verdict.is_confirmed,
        "drawn": is_drawn,
        "mask": None if verdict.mask is None else str(files.path(MASKS, verdict.mask, MASK_SUFFIX)),
        "before": row.score if row.version_id == active.number else None,
    }


def _picture_fields(row: LearntPictureRow, files: Files) -> dict[str, object]:
    source = str(files.path(PICTURES, row.picture, row.suffix))
    return {"number": int(row.id), "name": row.name, "source": source, "view": row.view or ""}
