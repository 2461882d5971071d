"""Fits models of fewer good pictures, and tells by simulated defects what more of them bring."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.tried import LearningCurve, Scored
from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError, pluralize
from flawscope.fitting.fitting import fit
from flawscope.fitting.simulated_defects import (
    DEFECT_SIZES,
    SimulatedDefects,
    score_with_models,
)
from flawscope.fitting.stored_options import refit_options
from flawscope.fitting.training_pictures import Reader
from flawscope.methods import registry
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.listing import pictures_in, relative_names
from flawscope.pictures.near_duplicates import read_look
from flawscope.pictures.table import learnt_units
from flawscope.pictures.units import named_rows, units_of
from flawscope.predictor import Predictor, fitted_artefact, open_fitted
from flawscope.progress import ProgressCallback, ignore_progress

T = TypeVar("T")
SUBSET_STEPS = (8, 4, 2)  # every 8th, 4th and 2nd picture: the subsets that are compared
COMPARED_DEFECTS = 72  # simulated defects by which the subsets are compared
MIN_SUBSET = 8  # pictures in a subset
INPUT_CHANGING_OPTIONS = ("light", "align", "part")  # models of other pictures get another input with them
_QUICK = {"samples": 0, "check": False}  # of models that are compared, and not kept


def learning_curve(
    pictures: Path, options: Mapping[str, Any], device: str, step: ProgressCallback
) -> LearningCurve | None:
    """Measures what more pictures bring: models of an eighth, a quarter and half of the pictures judge the
    same good pictures, that none has learnt from, with simulated defects and without. Near-copies stay
    together and count once.

    Args:
        pictures: folder of good ones.
        options: of `fit`.

    Returns:
        The shares found at the same false-alarm rate; None where the models cannot be compared.
    """
    if any(options.get(one, "none") != "none" for one in INPUT_CHANGING_OPTIONS):
        return None
    units = _units(pictures_in(pictures))
    unseen, how = [unit[0] for unit in units[1::2]], {"device": device, **_QUICK, "step": step, **options}
    models = _fit_fewer(units, lambda some: fit([*some], **how))
    detectors = [open_fitted(one.artefact, "cpu").detector for one in models.values()]
    if not detectors or detectors[0].config.tile is not None:  # tiles are judged one by one
        return None
    first, (one, *_) = detectors[0], models.values()
    reader = Reader.of_model(first, one.manifest.preprocess, [str(path) for path in unseen])
    defects = SimulatedDefects(first, reader.load, range(len(unseen)))
    defects.learn_part(math.inf)
    scores = score_with_models(defects, detectors, range(COMPARED_DEFECTS), step)
    good = score_with_models(defects, detectors, range(len(unseen)), step, defects.load_good)
    place = {picture: k for k, picture in enumerate(good)}
    carriers = np.array([place[defects.picture_of(number)] for number in scores])
    compared = {n: Scored(_column(good, k), _column(scores, k), carriers) for k, n in enumerate(models)}
    calibrations = [one.calibration for one in models.values()]
    rate = max(one.expected_rate for one in calibrations)  # more false alarms would find more defects
    limits = {n: replace(one.calibration, rate=rate).score_threshold for n, one in models.items()}
    curve = LearningCurve.of(compared, lambda n, one: float(np.mean(~(one.defective <= limits[n]))))
    limit = calibrations[-1].score_threshold
    tested = {
        str(size): [not one[-1] <= limit for number, one in scores.items() if number % len(DEFECT_SIZES) == k]
        for k, size in enumerate(DEFECT_SIZES)
    }
    return replace(curve, tested={size: (sum(several), len(several)) for size, several in tested.items()})


def fit_fewer(
    model: Predictor, dataset: Dataset, step: ProgressCallback = ignore_progress
) -> list[Predictor]:
    """Fits models like one, of an eighth, a quarter and half of the parts that it learnt from, where these
    are eight or more: `evaluate` compares them.

    Args:
        dataset: has the good pictures that the model learnt from, beside others or alone.

    Raises:
        InputError: the model is an exported one, learnt from defects too, or of too few of these pictures.
    """
    old = fitted_artefact(model)
    takes_defects = registry.method(old.manifest.method).takes_seen_defects
    if takes_defects and any(row.role == "seen" for row in old.manifest.pictures):
        raise InputError(
            "the model learnt from defects, too: what good pictures alone bring is not to be told"
        )
    known, read = learnt_units(old.manifest.pictures), old.manifest.preprocess.decode
    items, units = (*dataset.train, *dataset.validation), defaultdict[int, list[tuple[Item, str]]](list)
    for pair in zip(items, relative_names([item.path for item in items]), strict=True):
        with suppress(InputError, MemoryError):  # the model did not learn from it
            if (unit := known.get(pixel_hash(read(pair[0].path)))) is not None:
                units[unit].append(pair)
    options = {**refit_options(old), **_QUICK, "step": step}

    def fit_some(some: Sequence[tuple[Item, str]]) -> Predictor:
        learnt, names = zip(*some, strict=True)
        return fit(replace(dataset, train=learnt, validation=(), test=()), names=names, **options)

    models = [*_fit_fewer([*units.values()], fit_some).values()]
    if not models:
        there = f"good pictures of {pluralize(len(units), 'part')} that the model learnt from"
        raise InputError(
            f"{dataset.root} has {there}; a learning curve needs {MIN_SUBSET * SUBSET_STEPS[-1]}: name the "
            "folder that it was fitted on"
        )
    return models


def _fit_fewer(
    units: Sequence[Sequence[T]], fit_some: Callable[[Sequence[T]], Predictor]
) -> dict[int, Predictor]:
    """Models of an eighth, a quarter and half of the units, where these are enough to learn from, by their
    number."""
    subsets = (units[::stride] for stride in SUBSET_STEPS)
    return {len(some): fit_some([*chain(*some)]) for some in subsets if len(some) >= MIN_SUBSET}


def _column(scores: Mapping[int, tuple[float, ...]], model: int) -> NDArray[np.float64]:
    return np.array([one[model] for one in scores.values()])


def _units(paths: Sequence[Path]) -> list[list[Path]]:
    """Returns pictures by their unit: near-copies are one. Those that cannot be read are left out."""
    looks = {path: look for path in paths if (look := read_look(path)) is not None}
    found: dict[int, list[Path]] = defaultdict(list)
    for path, number in zip(
        looks, units_of(named_rows([path.name for path in looks], [*looks.values()])).numbers, strict=True
    ):
        found[number].append(path)
    return [*found.values()]
