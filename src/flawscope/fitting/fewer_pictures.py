"""Fits models of fewer good pictures, which show the gain from more pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError, pluralize
from flawscope.fitting.fitting import fit
from flawscope.fitting.stored_options import refit_options
from flawscope.methods import registry
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.table import learnt_units
from flawscope.predictor import Predictor, fitted_artefact
from flawscope.progress import ProgressCallback, ignore_progress

T = TypeVar("T")
SUBSET_STEPS = (8, 4, 2)  # every 8th, 4th and 2nd picture: the subsets that are compared
MIN_SUBSET = 8  # pictures in a subset
_QUICK = {"samples": 0, "check": False}  # of models that are compared, and not kept


def fit_fewer(
    model: Predictor, dataset: Dataset, step: ProgressCallback = ignore_progress
) -> list[Predictor]:
    """Fit models like `model`, of an eighth, a quarter and half of its parts, where these are eight or more.

    `evaluate` compares them.

    Args:
        model: A fitted model.
        dataset: Data set with the good pictures that the model learnt from, beside others or alone.
        step: Gets progress.

    Raises:
        InputError: The model is an exported one, learnt from defects too, or from too few of these pictures.
    """
    old = fitted_artefact(model)
    takes_defects = registry.method(old.manifest.method).takes_seen_defects
    if takes_defects and any(row.role == "seen" for row in old.manifest.pictures):
        raise InputError(
            "the model learnt from defects, too: what good pictures alone bring is not to be told"
        )
    known = learnt_units(old.manifest.pictures)
    read = old.manifest.preprocess.decode
    items = (*dataset.train, *dataset.validation)
    units = defaultdict[int, list[tuple[Item, str]]](list)
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
        learnt_from = f"good pictures of {pluralize(len(units), 'part')} that the model learnt from"
        raise InputError(
            f"{dataset.root} has {learnt_from}; a learning curve needs {MIN_SUBSET * SUBSET_STEPS[-1]}: name "
            "the folder that it was fitted on"
        )
    return models


def _fit_fewer(
    units: Sequence[Sequence[T]], fit_some: Callable[[Sequence[T]], Predictor]
) -> dict[int, Predictor]:
    """Return models of an eighth, a quarter and half of the units, by their number of units.

    Subsets of fewer than `MIN_SUBSET` units are left out.

    Args:
        units: Units, each with its pictures.
        fit_some: Fits a model of some pictures.
    """
    subsets = (units[::stride] for stride in SUBSET_STEPS)
    return {len(some): fit_some([*chain(*some)]) for some in subsets if len(some) >= MIN_SUBSET}
