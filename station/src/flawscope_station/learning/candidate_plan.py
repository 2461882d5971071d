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

# Way of making a candidate: pictures are added to the model, only its thresholds are made anew, or it is
# trained anew. "": the method chooses between the first two.
LearningWay = Literal["", "extended", "recalibrated", "retrained"]
EXTENSION_PICTURES = 24  # random good pictures of the line, for a model to which pictures can be added
TRAINING_PICTURES = 200  # random good pictures of the line, for another model
RECENT_INSPECTIONS = 5000  # latest inspections, from which the line's good pictures are chosen
MAX_REVIEWED = 500  # reviewed pictures that are judged; further corrections are judged, too
MAX_CORRECTIONS = 5000  # latest corrections, which are judged


@dataclass(frozen=True)
class ActiveVersion:
    """Active version of a product.

    Attributes:
        number: Number of the version.
        file: Model file of the version.
        method: Method of the model.
        precision: Precision of the model, such as fp32.
        fences: Score above which a good picture is suspicious, by view; a model without views has a single
            score under the key "". A score of None is unknown.
    """

    number: int
    file: Path
    method: str
    precision: str
    fences: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def read(cls, number: int, file: Path) -> ActiveVersion:
        """Return the version, with the facts from its model file.

        Args:
            number: Number of the version.
            file: Model file of the version.

        Raises:
            InputError: The file cannot be read.
        """
        facts = router.read_facts(file)
        method = facts.shared("methods", lambda manifest: manifest.method)
        precision = facts.shared("precisions", lambda manifest: manifest.calibration.precision)
        fences = {view: manifest.suspicious_above for view, manifest in facts.manifests.items()}
        return cls(number, file, method, precision, fences)

    def fence(self, view: str | None) -> float | None:
        """Return the score above which a good picture of a view is suspicious; None: unknown."""
        score_without_views = self.fences.get("")  # of a model without views
        return self.fences.get(view or "", score_without_views)

    @property
    def extends(self) -> bool:
        """Whether pictures can be added to the model."""
        return registry.method(self.method).extends

    @property
    def is_trained(self) -> bool:
        """Whether the file is the trained model itself, not an export of it."""
        return self.file.suffix == files.TRAINED_SUFFIX


def reason_not_to_learn(active: ActiveVersion, learn: LearningSettings, how: LearningWay = "") -> str | None:
    """Return the reason, in one line, why no candidate can be made in this way; None: one can be made.

    Args:
        active: The product's active version.
        learn: Settings of learning.
        how: Way of making the candidate.
    """
    try:
        require_installed("learning", "torch", extras="train")
    except InputError as error:
        return str(error)
    if how == "retrained" and learn.pictures is None:
        return (
            "a training needs the pictures that the model was fitted on: name their folder as "
            "`learn: pictures` of the product"
        )
    if active.is_trained:
        return None
    if how != "retrained" and not active.extends:  # only thresholds are made anew, which an export allows
        return None
    if active.extends and learn.trained is None:
        return (
            f"version {active.number} is an export: name the trained model as `learn: trained` of the product"
        )
    if active.precision != "fp32" and how != "recalibrated":
        return (
            f"version {active.number} is of {active.precision}, and what is learnt is exported in fp32 "
            "alone: use a version of fp32"
        )
    return None


# -------------------------------------------------------------------------------------------------- verdicts


class ValidVerdict(NamedTuple):
    """Verdict on an inspection; it was not taken back.

    Attributes:
        inspection: Row of the inspection.
        verdict: `good` or `defect`.
        verdict_id: Number of the verdict.
        is_confirmed: Whether the same verdict was given twice in a row.
        mask: Hash of the mask that a person drew; None: nobody drew a mask.
    """

    inspection: ReviewedRow
    verdict: str
    verdict_id: int
    is_confirmed: bool
    mask: str | None

    @property
    def number(self) -> int:
        """Number of the inspection."""
        return int(self.inspection.id)

    @property
    def is_correction(self) -> bool:
        """Whether the verdict contradicts the model: a false alarm or a miss."""
        return bool(self.inspection.anomalous) != (self.verdict == DEFECT)


@dataclass
class ValidVerdicts:
    """Verdicts on a product's inspections; verdicts that were taken back are left out.

    At most `MAX_CORRECTIONS` corrections are read, and as many other verdicts as make `MAX_REVIEWED` verdicts
    in all; the latest of both.

    Attributes:
        usable_verdicts: Verdicts, the oldest first, without those in `removed` and `contradictory`.
        removed: Numbers of inspections whose pictures were removed.
        contradictory: Numbers of inspections whose file was called good in one inspection, and a defect in
            another.
    """

    usable_verdicts: list[ValidVerdict] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    contradictory: list[int] = field(default_factory=list)

    @cached_property
    def corrections(self) -> list[ValidVerdict]:
        """Usable verdicts that contradict the model, oldest first."""
        return [verdict for verdict in self.usable_verdicts if verdict.is_correction]

    @property
    def verdicts(self) -> list[int]:
        """Numbers of the verdicts in `corrections`, in ascending order."""
        return sorted(verdict.verdict_id for verdict in self.corrections)


def read_verdicts(connection: Connection, product_id: int) -> ValidVerdicts:
    """Return the latest valid verdicts (those not taken back) on a product's inspections."""
    column_names = "id", "picture", "name", "view", "verdict", "anomalous", "version_id", "score", "severity"
    latest_verdicts = (
        select(
            *(inspections.c[name] for name in column_names),
            pictures.c.suffix,
            pictures.c.removed_at,
            _contradicts().label("contradicts"),
        )
        .select_from(inspections.join(pictures))
        .where(on_line(product_id), IS_REVIEWED, _may_teach(inspections))
        .order_by(inspections.c.id.desc())
    )
    is_correction = inspections.c.anomalous != (inspections.c.verdict == DEFECT)
    corrections = latest_verdicts.where(is_correction).limit(MAX_CORRECTIONS)
    rows: list[ReviewedRow] = [*connection.execute(corrections)]
    confirmations = latest_verdicts.where(~is_correction).limit(max(0, MAX_REVIEWED - len(rows)))
    rows += connection.execute(confirmations).all()
    # number of an inspection -> its verdicts that were not taken back, the oldest first
    verdicts_by_inspection = dict[int, list[VerdictRow]]()
    for query in (corrections, confirmations):
        verdicts_by_inspection |= verdict_stacks(connection, query.with_only_columns(inspections.c.id))
    valid = ValidVerdicts()
    for row in sorted(rows, key=attrgetter("id")):
        if row.removed_at is not None:
            valid.removed.append(row.id)
        elif row.contradicts:
            valid.contradictory.append(row.id)
        else:
            # a verdict is confirmed if people gave it twice in a row
            *earlier_verdicts, last = verdicts_by_inspection[row.id]
            is_confirmed = bool(earlier_verdicts) and earlier_verdicts[-1].verdict == last.verdict
            valid.usable_verdicts.append(ValidVerdict(row, row.verdict, last.id, is_confirmed, last.mask))
    return valid


def _may_teach(table: FromClause) -> ColumnElement[bool]:
    """Return the SQL condition that a model may learn from a reviewed inspection.

    A part that passed within tolerance and was called good is left out: it has a defect that a rule
    tolerates, and that the model must still find.

    Args:
        table: The table of inspections, or an alias of it.
    """
    return ~table.c.tolerated | (table.c.verdict == DEFECT)


def _contradicts() -> ColumnElement[bool]:
    """Return the SQL condition that an inspection's file has another verdict in another inspection."""
    other = inspections.alias()
    is_same_file = (other.c[name] == inspections.c[name] for name in ("product_id", "picture", "purpose"))
    return exists().where(*is_same_file, other.c.verdict != inspections.c.verdict, _may_teach(other))


def find_unsure(
    valid: ValidVerdicts, active: ActiveVersion, previously_unsure: Sequence[int] = ()
) -> list[int]:
    """Return the inspections, by number, that must be called good once more before they are learnt from.

    These inspections are false alarms that are as anomalous as defects, by the active version or by the last
    candidate, and that were not called good twice in a row.

    Args:
        valid: Verdicts on the product's inspections.
        active: The product's active version.
        previously_unsure: Numbers of the inspections that were unsure for the last candidate.
    """
    verdicts_on_active = [
        verdict for verdict in valid.usable_verdicts if verdict.inspection.version_id == active.number
    ]
    defect_severities: list[float] = []  # severities of the defects that the active version found
    # strengths of the active version's false alarms: view -> number of the inspection -> strength
    strengths_by_view: dict[str | None, dict[int, defect_like.Strength]] = {}
    for verdict in verdicts_on_active:
        row = verdict.inspection
        if verdict.verdict == DEFECT and row.anomalous:
            defect_severities.append(row.severity)
        elif verdict.verdict == GOOD and verdict.is_correction:
            strengths = strengths_by_view.setdefault(row.view, {})
            strengths[verdict.number] = defect_like.Strength(row.score, row.severity)
    doubtful = set(previously_unsure)
    for view, strengths in strengths_by_view.items():
        doubtful |= defect_like.defect_like(strengths, defect_severities, active.fence(view))
    unconfirmed = [
        verdict for verdict in valid.corrections if verdict.verdict == GOOD and not verdict.is_confirmed
    ]
    return [verdict.number for verdict in unconfirmed if verdict.number in doubtful]


def draw_good_pictures(
    connection: Connection, product_id: int, count: int, seed: int
) -> list[LearntPictureRow]:
    """Return random good parts of the line, each with one picture.

    A part is good if the model passed it and no verdict calls it a defect, or if a person called it good. All
    good parts have the same chance. Of a part in several views, a random view is taken.

    Only reviewed parts can be false alarms. If a share of the flagged parts is not reviewed yet, the same
    share of the passed parts is left out, so that false alarms are as frequent as among all good parts. Parts
    within tolerance and challenge parts are left out, because they have defects.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        count: Largest number of parts.
        seed: Seed of the random numbers.
    """
    latest = (
        select(inspections.c.id, inspections.c.anomalous, inspections.c.verdict)
        .where(on_line(product_id), ~inspections.c.tolerated)
        .order_by(inspections.c.id.desc())
        .limit(RECENT_INSPECTIONS)
    )
    latest_rows: list[LatestRow] = [*connection.execute(latest)]
    oldest_id = min((row.id for row in latest_rows), default=0)
    challenge_pixels = (
        select(challenge_views.c.pixels)
        .join_from(challenge_views, challenge_parts)
        .where(challenge_parts.c.product_id == product_id)
    )
    challenge_inspections = (
        select(inspections.c.id)
        .join_from(inspections, pictures)
        .where(
            on_line(product_id),
            pictures.c.pixels.in_(challenge_pixels),
            inspections.c.id >= oldest_id,
        )
    )
    challenge_ids = {*connection.scalars(challenge_inspections)}
    rng = random.Random(seed)
    good_ids = _good_parts([row for row in latest_rows if row.id not in challenge_ids], rng)
    chosen_ids = rng.sample(good_ids, min(count, len(good_ids)))
    query = (
        select(inspections, pictures.c.suffix)
        .select_from(inspections.join(pictures))
        .where(inspections.c.id.in_(chosen_ids), pictures.c.removed_at.is_(None))
        .order_by(inspections.c.id)
    )
    rows: list[DrawnRow] = [*connection.execute(query)]
    views_by_inspection: dict[int, list[ViewRow]] = {}
    for view in find_views(connection, [row.id for row in rows if row.view is not None]):
        if view.removed_at is None:
            views_by_inspection.setdefault(view.inspection_id, []).append(view)
    chosen_rows: list[LearntPictureRow] = []
    for row in rows:
        if row.id in views_by_inspection:
            random_view = rng.choice(views_by_inspection[row.id])
            chosen_rows.append(_with_picture(row, random_view))
        else:
            chosen_rows.append(row)
    return chosen_rows


def _good_parts(rows: Sequence[LatestRow], rng: random.Random) -> list[int]:
    """Return the numbers of the good parts among the line's inspections, in ascending order.

    These are all false alarms, and random passed parts. The more flagged parts are reviewed, the more passed
    parts are taken: if a third of the flagged parts is reviewed, a third of the passed parts.
    """
    flagged = [row for row in rows if row.anomalous]
    reviewed = [row for row in flagged if row.verdict is not None]
    reviewed_share = len(reviewed) / len(flagged) if flagged else 1.0
    false_alarms = [row.id for row in flagged if row.verdict == GOOD]
    passed = [row.id for row in rows if not row.anomalous and row.verdict != DEFECT]
    chosen_passed = rng.sample(passed, round(reviewed_share * len(passed)))
    return sorted(chosen_passed + false_alarms)


def _with_picture(row: DrawnRow, view: ViewRow) -> LearntPictureRow:
    """Return the row of an inspection with the picture of one of its views."""
    return SimpleNamespace(
        id=row.id, name=view.name, view=view.view, picture=view.picture, suffix=view.suffix
    )


# -------------------------------------------------------------------------------------------------- the plan


@dataclass
class Plan:
    """Plan of a candidate.

    Attributes:
        start: Number of the version that the candidate is made from.
        learnt: Numbers of the inspections that the version `start` learnt from.
        verdicts: Verdicts that were not taken back.
        pictures: Reviewed pictures and random good pictures of the line. Each is a dictionary of the fields
            of `flawscope.fitting.update_evaluation.ReviewedPicture`.
    """

    start: int
    learnt: list[int]
    verdicts: ValidVerdicts
    pictures: list[dict[str, object]]


def make_plan(conn: Connection, product_id: int, active: ActiveVersion, files: Files, seed: int) -> Plan:
    """Plan a candidate, and choose the version from which it starts.

    The start is the active version if all corrections that this learnt from are still valid. If one was taken
    back or contradicted since, the start is the latest earlier version whose corrections are all valid.

    Args:
        conn: Connection to the database.
        product_id: Number of the product.
        active: The product's active version.
        files: Files of the store.
        seed: Seed of the random choice of good pictures.
    """
    valid = read_verdicts(conn, product_id)
    called_good = {verdict.number for verdict in valid.usable_verdicts if verdict.verdict == GOOD}
    # a removed picture still counts as good: it was good when a version learnt from it
    still_good = called_good | set(valid.removed)
    start, learnt = _valid_start(conn, product_id, active.number, still_good)
    already_learnt = {*learnt} if active.is_trained else set()  # for an export, everything is learnt anew
    count = EXTENSION_PICTURES if active.extends else TRAINING_PICTURES
    line_rows = {row.id: row for row in draw_good_pictures(conn, product_id, count, seed)}
    plan_pictures = []
    for verdict in valid.usable_verdicts:
        is_random_good = verdict.verdict == GOOD and verdict.number in line_rows
        if is_random_good:
            del line_rows[verdict.number]  # the loop below adds only pictures that are not reviewed
        is_new = verdict.number not in already_learnt
        fields = _reviewed_fields(verdict, active, files, is_drawn=is_random_good, is_new=is_new)
        plan_pictures.append(fields)
    for row in line_rows.values():
        plan_pictures.append({**_picture_fields(row, files), "good": True, "drawn": True, "judged": False})
    return Plan(start, learnt, valid, plan_pictures)


def _valid_start(
    conn: Connection, product_id: int, active_number: int, still_good: set[int]
) -> tuple[int, list[int]]:
    """Return the number of the version to start from, and the numbers of the inspections that it learnt from.

    Begin with the active version, and go back to the version from which each was made, until one has learnt
    only from inspections that are still good.

    Args:
        conn: Connection to the database.
        product_id: Number of the product.
        active_number: Number of the active version.
        still_good: Numbers of the inspections that are still good.
    """
    start = active_number
    # a version that differs from another only by its rate has no job: take the job of the other version
    while (candidate_job := job_of_version(conn, product_id, rate_root(conn, start))) is not None:
        learnt = [int(number) for number in json.loads(candidate_job.facts).get("learnt", [])]
        if still_good >= set(learnt):
            return start, learnt
        start = int(candidate_job.start_version_id)
    return start, []  # a version that was not made from corrections


def _reviewed_fields(
    verdict: ValidVerdict, active: ActiveVersion, files: Files, *, is_drawn: bool, is_new: bool
) -> dict[str, object]:
    """Return a reviewed picture as the fields of `flawscope.fitting.update_evaluation.ReviewedPicture`.

    Args:
        verdict: Verdict on the picture.
        active: The product's active version.
        files: Files of the store.
        is_drawn: Whether the picture is among the line's random good pictures, too.
        is_new: Whether the start version did not learn from the picture.
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
    """Return the fields of `flawscope.fitting.update_evaluation.ReviewedPicture` that each picture has."""
    source = str(files.path(PICTURES, row.picture, row.suffix))
    return {"number": int(row.id), "name": row.name, "source": source, "view": row.view or ""}
