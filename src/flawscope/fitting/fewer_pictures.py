"""Fits models of fewer good pictures, which show the gain from more pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
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
SUBSET_STEPS = (8, 4, 2)  # every 8th, 4th and 2nd part: the subsets that are compared
MIN_SUBSET = 8  # parts that a subset needs
_QUICK = {"samples": 0, "check": False}  # options of models that are compared, and not kept


def fit_fewer(
    model: Predictor, dataset: Dataset, step: ProgressCallback = ignore_progress
) -> list[Predictor]:
    """Fit models like `model` to an eighth, a quarter and half of its parts, for a learning curve.

    Subsets of fewer than `MIN_SUBSET` parts are left out.

    Args:
        model: A fitted model.
        dataset: Data set that holds the good pictures that the model learnt from.
        step: Gets progress.

    Raises:
        InputError: The model is exported or has learnt from defects; or the data set contains too few of the
            pictures that the model has learnt from.
    """
    old = fitted_artefact(model)
    takes_defects = registry.method(old.manifest.method).takes_seen_defects
    if takes_defects and any(row.role == "seen" for row in old.manifest.pictures):
        raise InputError(
            "the model learnt from defects, too: what good pictures alone bring is not to be told"
        )
    unit_by_hash = learnt_units(old.manifest.pictures)
    items = (*dataset.train, *dataset.validation)
    items_and_names_by_unit = defaultdict[int, list[tuple[Item, str]]](list)
    for item, name in zip(items, relative_names([item.path for item in items]), strict=True):
        try:
            digest = pixel_hash(old.manifest.preprocess.decode(item.path))
        except (InputError, MemoryError):
            continue  # a picture that cannot be read was not learnt from
        unit = unit_by_hash.get(digest)
        if unit is not None:
            items_and_names_by_unit[unit].append((item, name))
    options = {**refit_options(old), **_QUICK, "step": step}

    def fit_subset(subset: Sequence[tuple[Item, str]]) -> Predictor:
        subset_items, names = zip(*subset, strict=True)
        return fit(replace(dataset, train=subset_items, validation=(), test=()), names=names, **options)

    models = [*_fit_fewer([*items_and_names_by_unit.values()], fit_subset).values()]
    if not models:
        unit_count = len(items_and_names_by_unit)
        pictures = f"good pictures of {pluralize(unit_count, 'part')} that the model learnt from"
        needed = MIN_SUBSET * SUBSET_STEPS[-1]
        raise InputError(
            f"{dataset.root} has {pictures}; a learning curve needs {needed}: name the folder that it was "
            "fitted on"
        )
    return models


def _fit_fewer(
    units: Sequence[Sequence[T]], fit_subset: Callable[[Sequence[T]], Predictor]
) -> dict[int, Predictor]:
    """Fit models to an eighth, a quarter and half of the units; return them by the number of their units.

    Subsets of fewer than `MIN_SUBSET` units are left out.

    Args:
        units: Units, each with its pictures.
        fit_subset: Fits a model to some pictures.
    """
    models = {}
    for stride in SUBSET_STEPS:
        subset = units[::stride]
        if len(subset) >= MIN_SUBSET:
            pictures = [*chain(*subset)]
            models[len(subset)] = fit_subset(pictures)
    return models
