"""Gathers the facts for advice (`results.advice`) before a fit and after an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flawscope.artefact.detection import decided_defects
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import stored_part_pattern
from flawscope.artefact.rates import promise_of
from flawscope.artefact.tried import Choice
from flawscope.calibration.rows import scored
from flawscope.datasets import Dataset
from flawscope.errors import InputError
from flawscope.evaluation.result import EvaluatedPicture, Evaluation
from flawscope.methods import registry
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.form import known_sizes
from flawscope.pictures.pixel_sets import connected_parts, largest_sizes
from flawscope.pictures.table import TRAIN
from flawscope.results.advice import LIES, Advice, advice, looser_rate, remedies
from flawscope.results.prediction import MISSED
from flawscope.views.congealing import poses_needed, spread_numbers
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess

MAX_MEASURED = 40  # missed defects whose sizes are measured
ADVISED_RATES = (0.02, 0.05, 0.1, 0.2, 0.3)
POSE_PICTURES = 9  # pictures that show how parts lie: one more than are needed


def advise_before(dataset: Dataset) -> list[Advice]:
    """Return the steps advised before a fit; they depend on how the parts lie."""
    return advice(lies=_pose_kind_needed([item.path for item in dataset.train]))


def advise_untried(choice: Choice, dataset: Dataset) -> list[Advice]:
    """Return the steps advised after a search that found poses of the parts but had no time to try them.

    If the search did not look for poses, they are looked for here.
    """
    has_looked_for_poses = any(trial.flags for trial in choice.trials)
    if not has_looked_for_poses:
        return advise_before(dataset)
    # the search lists a trial that it had no time for as one that was not ended
    untried_flags = {trial.flags for trial in choice.trials if not trial.was_ended}
    untried_kinds = [kind for kind in LIES if f"--align {kind}" in untried_flags]
    return advice(lies=untried_kinds[0] if untried_kinds else None)


def advise_blind(manifest: Manifest) -> list[Advice]:
    """Return the steps advised for a model that hardly sees simulated defects.

    The list is empty if the model sees them, or if too few were simulated to say.
    """
    tried = decided_defects(manifest)
    blindness = "" if tried is None else tried.describe_blindness()
    return advice(remedies=_remedies(manifest), blind=blindness) if blindness else []


def _remedies(manifest: Manifest) -> list[str]:
    """Return what may help a model to see defects; it depends on the model's settings and pictures."""
    choice = Choice.from_facts(manifest.facts)
    learnt_parts = {row.unit for row in manifest.pictures if row.role == TRAIN}
    accurate_settings = registry.method(manifest.method).presets.get("accurate", {})
    has_unused_preset = any(manifest.config.get(name) != value for name, value in accurate_settings.items())
    return remedies(
        learnt=len(learnt_parts),
        pictures=known_sizes(manifest.facts),
        network=_full_picture_size(manifest.preprocess),
        accurate=has_unused_preset,
        tried=choice is not None and choice.has_tried,
    )


def _full_picture_size(preprocess: Preprocess) -> tuple[int, int] | None:
    """Return the network's size if it gets full pictures; None if it gets tiles or aligned parts."""
    if preprocess.tile is None and preprocess.reference is None:
        return preprocess.network_size
    return None


def _looser_rate(result: Evaluation, manifest: Manifest) -> Advice | None:
    """Return the advice to allow more false alarms if the threshold hides the defects; else None."""
    decided = [(picture.anomalous, picture.is_anomalous, picture.p_value) for picture in result.decided]
    rates = [rate for rate in ADVISED_RATES if rate > manifest.calibration.rate]
    return looser_rate(decided, rates, result.metrics.get("image_auroc"))


def advise_after(result: Evaluation, manifest: Manifest) -> list[Advice]:
    """Return the steps advised after an evaluation; empty where none would help.

    The steps depend on the missed defects, and on the good pictures that the target rate still lacks.
    """
    preprocess = manifest.preprocess
    missed = [picture for picture in result.pictures if picture.outcome == MISSED]
    measured = missed[:MAX_MEASURED]
    defective = [picture for picture in result.decided if picture.anomalous]
    sole_picture, threshold_without_it = _sole_picture(manifest)

    def lies_elsewhere() -> bool:
        """Whether parts lie differently from picture to picture, and the model does not align them."""
        return preprocess.reference is None and _pose_kind_needed(_posed_pictures(result)) is not None

    return advice(
        rate=manifest.calibration.rate,
        missing=promise_of(manifest).describe_missing(),
        marks=_mark_lengths(measured),
        pictures=[picture.prediction.geometry.picture_size for picture in measured],
        network=_full_picture_size(preprocess),
        defects=len(defective),
        missed=sum(not picture.is_anomalous for picture in defective),
        lies_elsewhere=lies_elsewhere,
        sole=sole_picture,
        hidden=sum(picture.prediction.score > threshold_without_it for picture in missed),
        looser=_looser_rate(result, manifest),
        remedies=_remedies(manifest),
    )


def _mark_lengths(missed: Sequence[EvaluatedPicture]) -> list[float]:
    """Return the length of the largest marked piece of each missed defect, in pixels of the pictures.

    Defects without a mark are left out.
    """
    lengths = []
    for picture in missed:
        if picture.truth is None or not picture.truth.any():
            continue
        size = picture.prediction.geometry.picture_size
        # the mask has the map's size: a side of one of its pixels is `scale` pixels of the picture long
        area_ratio = math.prod(size) / picture.truth.size
        scale = math.sqrt(area_ratio)
        _, pieces = connected_parts(picture.truth)
        greatest_length = largest_sizes(pieces)[0]
        lengths.append(scale * float(greatest_length))
    return lengths


def _posed_pictures(result: Evaluation) -> list[Path]:
    """Return the good test pictures, which show how parts lie.

    Where they are too few, all pictures are returned: parts with defects lie like the others.
    """
    good = [picture.item.path for picture in result.pictures if not picture.item.anomalous]
    if len(good) >= POSE_PICTURES:
        return good
    return [picture.item.path for picture in result.pictures]


def _pose_kind_needed(pictures: Sequence[PictureSource]) -> PoseKind | None:
    """Return the kind of alignment that the pictures need; None where the parts lie alike.

    Some of the pictures are looked at. Pictures that cannot be read are left out.
    """
    preprocess = Preprocess()
    small_pictures = []
    for number in spread_numbers(len(pictures), POSE_PICTURES):
        with suppress(InputError):  # the command that reads the picture reports it
            small_pictures.append(preprocess.small(preprocess.decode(pictures[number])))
    needed = poses_needed(small_pictures)
    return None if needed is None else needed.kind


def _sole_picture(manifest: Manifest) -> tuple[str, float]:
    """Return the name of the good picture that alone sets the threshold, and the threshold without it.

    If no single picture sets the threshold, the result is an empty name and infinity.
    """
    calibration = manifest.calibration
    if not calibration.promised or stored_part_pattern(manifest) is not None:
        return "", math.inf
    sole = calibration.sole_threshold()
    if sole is None:
        return "", math.inf
    row, threshold = sole
    return scored(manifest.pictures)[row].name, threshold
