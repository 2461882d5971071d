"""Finds the pictures of a data set that a model can be tested on: all that it did not learn from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from flawscope.artefact.parts import stored_part_reader
from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look, near_duplicates
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ignore_progress


def leave_out_learnt_parts(
    predictor: Predictor, dataset: Dataset, learnt: Collection[str], step: ProgressCallback = ignore_progress
) -> Dataset:
    """Return the data set with a test split of only those pictures that the model did not learn from.

    A data set with a split of its own is returned as it is. A split that the program made is made anew: all
    pictures are tested, except those of parts that the model learnt from. A picture is of such a part if its
    name says so (`--group`, `--part`), or if it is good and a near-duplicate of a picture learnt from.

    Args:
        predictor: The model.
        dataset: Data set whose test pictures are judged.
        learnt: Hashes (`decoding.pixel_hash`) of the pictures that were learnt from.
        step: Called with the progress.
    """
    if not dataset.drawn_split:
        return dataset
    good = list(dataset.train)
    good += [item for item in dataset.test if not item.anomalous]
    preprocess = predictor.manifest.preprocess
    looks = dict[Item, Look]()
    learnt_items = set[Item]()
    for done, item in enumerate(good, start=1):
        with suppress(InputError, MemoryError):  # reported when the picture is judged
            pixels = preprocess.decode(item.path)
            shown = pixels
            if preprocess.channels is not None:
                shown = next(preprocess.channels.split(pixels))  # the first of several pictures
            looks[item] = Look.of(shown)
            if pixel_hash(pixels) in learnt:
                learnt_items.add(item)
        step("pictures learnt from", done, len(good))
    items_of_learnt_parts = _of_learnt_parts(predictor, dataset.train, learnt_items)
    items_of_learnt_parts |= _near_duplicates(looks, learnt_items | items_of_learnt_parts)
    # the pictures of learnt parts are the new train split, all others the test split
    train = tuple(item for item in good if item in items_of_learnt_parts)
    unlearnt_train = [item for item in dataset.train if item not in items_of_learnt_parts]
    unlearnt_test = [item for item in dataset.test if item not in items_of_learnt_parts]
    return replace(dataset, train=train, test=(*unlearnt_test, *unlearnt_train), drawn_split=False)


def _of_learnt_parts(
    predictor: Predictor, train: Sequence[Item], learnt_items: Collection[Item]
) -> set[Item]:
    """Return the pictures of `train` that show a part that was learnt from.

    A picture whose name shows no part counts as a part of its own.
    """
    read_part = stored_part_reader(predictor.manifest)  # None: the model has no rule for parts
    names = relative_names([item.path for item in train])
    part_of_item = dict[Item, object]()
    for item, name in zip(train, names, strict=True):
        named_part = None if read_part is None else read_part(name)
        part_of_item[item] = named_part or item.path
    learnt_parts = {part for item, part in part_of_item.items() if item in learnt_items}
    return {item for item, part in part_of_item.items() if part in learnt_parts}


def _near_duplicates(looks: Mapping[Item, Look], learnt_items: Collection[Item]) -> set[Item]:
    """Return the near-duplicates of `learnt_items` among the other pictures."""
    learnt = [item for item in looks if item in learnt_items]
    others = [item for item in looks if item not in learnt_items]
    items = [*learnt, *others]
    pairs = near_duplicates([looks[item] for item in items], np.arange(len(learnt)))
    duplicates = set()
    for smaller, larger, _ in pairs:
        # the learnt pictures come first in `items`
        is_learnt_and_other = smaller < len(learnt) and larger >= len(learnt)
        if is_learnt_and_other:
            duplicates.add(items[larger])
    return duplicates
