"""Advises what to do before a fit, and after an evaluation: gathers the facts for `advice`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from flawscope.artefact.model_file import Manifest
from flawscope.artefact.rates import promise_of
from flawscope.artefact.tried import Choice
from flawscope.calibration.goods import scored
from flawscope.datasets import Dataset
from flawscope.errors import InputError
from flawscope.evaluation.result import Evaluation
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.pixel_sets import connected_parts, largest_sizes
from flawscope.results.advice import LIES, Advice, advice
from flawscope.results.prediction import MISSED
from flawscope.views.congealing import poses_needed, spread_numbers
from flawscope.views.pose import PoseKind
from flawscope.views.preprocess import Preprocess

MEASURED = 40  # missed defects whose sizes are measured
LOOKED_AT = 9  # pictures that tell how parts lie: one more than it takes


def advise_before(dataset: Dataset) -> list[Advice]:
    """Steps before a fit, by how the parts lie."""
    return advice(lies=_poses_needed([item.path for item in dataset.train]))


def advise_untried(choice: Choice, dataset: Dataset) -> list[Advice]:
    """Steps after a search by how the parts lie, where it found that and had no time to try it. One that did
    not come to ask is asked for here."""
    if not any(trial.flags for trial in choice.trials):
        return advise_before(dataset)
    waiting = {trial.flags for trial in choice.trials if not trial.was_ended}
    return advice(lies=next((kind for kind in LIES if f"--align {kind}" in waiting), None))


def advise_after(result: Evaluation, manifest: Manifest) -> list[Advice]:
    """Steps by the defects that were missed, and by the promise; none where there is nothing to gain."""
    missed = [one for one in result.pictures if one.outcome == MISSED]
    sizes, marks = list[tuple[int, int]](), list[float]()
    for one in missed[:MEASURED]:
        sizes.append(one.prediction.geometry.picture_size)
        if one.truth is not None and one.truth.any():
            factor = math.sqrt(math.prod(sizes[-1]) / one.truth.size)  # the mask has the map's size
            length = largest_sizes(connected_parts(one.truth)[1])[0]
            marks.append(factor * float(length))
    choice = Choice.from_facts(manifest.facts)
    how, sole = manifest.preprocess, _sole_picture(manifest)
    is_whole = how.tile is None and how.reference is None
    shown = [one.item.path for one in result.pictures if not one.item.anomalous]
    if len(shown) < LOOKED_AT:  # too few tell nothing; parts with defects lie like the others
        shown = [one.item.path for one in result.pictures]
    return advice(
        rate=manifest.calibration.rate,
        missing=promise_of(manifest).describe_missing(),
        marks=marks,
        pictures=sizes,
        network=how.network_size if is_whole else None,
        defects=result.defects["images"],
        missed=len(missed),
        lies_elsewhere=lambda: how.reference is None and _poses_needed(shown) is not None,
        tried=choice is not None and choice.has_tried,
        sole=sole[0],
        hidden=sum(one.prediction.score > sole[1] for one in missed),
    )


def _poses_needed(shown: Sequence[PictureSource]) -> PoseKind | None:
    """Returns `poses_needed` of some pictures; those that cannot be read, and deep ones, do not count."""
    how, small = Preprocess(), []
    for number in spread_numbers(len(shown), LOOKED_AT):
        with suppress(InputError):  # the command names it
            small.append(how.small(how.decode(shown[number])))
    lying = poses_needed(small)
    return None if lying is None else lying.kind


def _sole_picture(manifest: Manifest) -> tuple[str, float]:
    """Name of the good picture that alone sets the threshold, and the threshold without it; "" and infinity
    where there is none."""
    calibration = manifest.calibration
    found = calibration.sole_threshold() if calibration.promised else None
    return ("", math.inf) if found is None else (scored(manifest.pictures)[found[0]].name, found[1])
