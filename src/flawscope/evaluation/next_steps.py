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

MEASURED = 40  # missed defects whose sizes are measured
ADVISED_RATES = (0.02, 0.05, 0.1, 0.2, 0.3)
LOOKED_AT = 9  # pictures that tell how parts lie: one more than it takes


def advise_before(dataset: Dataset) -> list[Advice]:
    """Steps before a fit, by how the parts lie."""
    return advice(lies=_poses_needed([item.path for item in dataset.train]))


def advise_untried(choice: Choice, dataset: Dataset) -> list[Advice]:
    """Return the steps after a search by the poses of the parts that it found and had no time to try.

    For a search that did not look for poses, they are looked for here.
    """
    if not any(trial.flags for trial in choice.trials):
        return advise_before(dataset)
    waiting = {trial.flags for trial in choice.trials if not trial.was_ended}
    return advice(lies=next((kind for kind in LIES if f"--align {kind}" in waiting), None))


def advise_blind(manifest: Manifest) -> list[Advice]:
    """Return the steps for a model that hardly sees simulated defects.

    There are none where it sees them, or where they are too few.
    """
    tried = decided_defects(manifest)
    blind = "" if tried is None else tried.describe_blindness()
    return advice(remedies=_remedies(manifest), blind=blind) if blind else []


def _remedies(manifest: Manifest) -> list[str]:
    """List what may help a model to see defects, by how it sees its pictures and what it learnt from."""
    choice = Choice.from_facts(manifest.facts)
    how = manifest.preprocess
    learnt = {row.unit for row in manifest.pictures if row.role == TRAIN}
    accurate = registry.method(manifest.method).presets.get("accurate", {})
    return remedies(
        learnt=len(learnt),
        pictures=known_sizes(manifest.facts),
        network=how.network_size if how.tile is None and how.reference is None else None,
        accurate=any(manifest.config.get(name) != value for name, value in accurate.items()),
        tried=choice is not None and choice.has_tried,
    )


def _looser_rate(result: Evaluation, manifest: Manifest) -> Advice | None:
    """Advise a higher false-alarm rate where the threshold is what hides the defects."""
    decided = [(picture.anomalous, picture.is_anomalous, picture.p_value) for picture in result.decided]
    rates = [rate for rate in ADVISED_RATES if rate > manifest.calibration.rate]
    return looser_rate(decided, rates, result.metrics.get("image_auroc"))


def advise_after(result: Evaluation, manifest: Manifest) -> list[Advice]:
    """Steps by the defects that were missed, and by the promise; none where there is nothing to gain."""
    missed = [picture for picture in result.pictures if picture.outcome == MISSED]
    how = manifest.preprocess
    sole = _sole_picture(manifest)
    is_whole = how.tile is None and how.reference is None
    defective = [picture for picture in result.decided if picture.anomalous]
    hidden = sum(picture.prediction.score > sole[1] for picture in missed)
    sizes = [picture.prediction.geometry.picture_size for picture in missed[:MEASURED]]

    def lies_elsewhere() -> bool:
        return how.reference is None and _poses_needed(_posed_pictures(result)) is not None

    return advice(
        rate=manifest.calibration.rate,
        missing=promise_of(manifest).describe_missing(),
        marks=_mark_lengths(missed[:MEASURED]),
        pictures=sizes,
        network=how.network_size if is_whole else None,
        defects=len(defective),
        missed=sum(not picture.is_anomalous for picture in defective),
        lies_elsewhere=lies_elsewhere,
        sole=sole[0],
        hidden=hidden,
        looser=_looser_rate(result, manifest),
        remedies=_remedies(manifest),
    )


def _mark_lengths(missed: Sequence[EvaluatedPicture]) -> list[float]:
    """Length of the largest piece of each missed defect that is marked, in pixels of the pictures."""
    lengths = []
    for picture in missed:
        if picture.truth is None or not picture.truth.any():
            continue
        size = picture.prediction.geometry.picture_size
        factor = math.sqrt(math.prod(size) / picture.truth.size)  # the mask has the map's size
        length = largest_sizes(connected_parts(picture.truth)[1])[0]
        lengths.append(factor * float(length))
    return lengths


def _posed_pictures(result: Evaluation) -> list[Path]:
    """Return the good test pictures, which show how parts lie.

    Where they are too few, all pictures count: parts with defects lie like the others.
    """
    good = [picture.item.path for picture in result.pictures if not picture.item.anomalous]
    if len(good) >= LOOKED_AT:
        return good
    return [picture.item.path for picture in result.pictures]


def _poses_needed(shown: Sequence[PictureSource]) -> PoseKind | None:
    """Return `poses_needed` of some pictures; those that cannot be read, and deep ones, do not count."""
    how = Preprocess()
    small = []
    for number in spread_numbers(len(shown), LOOKED_AT):
        with suppress(InputError):  # the command names it
            small.append(how.small(how.decode(shown[number])))
    lying = poses_needed(small)
    return None if lying is None else lying.kind


def _sole_picture(manifest: Manifest) -> tuple[str, float]:
    """Return the name of the good picture that alone sets the threshold, and the threshold without it.

    They are "" and infinity where there is none.
    """
    calibration = manifest.calibration
    by_pictures = calibration.promised and stored_part_pattern(manifest) is None
    found = calibration.sole_threshold() if by_pictures else None
    if found is None:
        return "", math.inf
    row, threshold = found
    return scored(manifest.pictures)[row].name, threshold
