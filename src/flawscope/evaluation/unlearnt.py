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
    """Return the data set with test pictures that show no part learnt from, where the split was drawn.

    Training pictures that were not learnt from are tested, too: the draw keeps some back from a model of the
    others, and from a model of other pictures none need be kept. Pictures of a part that was learnt from are
    not tested: neither those whose names show the part (`--group`, `--part`), nor good ones that are nearly
    the same as a picture learnt from, wherever the draw put them.

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
    were_learnt = set[Item]()
    for done, item in enumerate(good, start=1):
        with suppress(InputError, MemoryError):  # reported when it is judged
            pixels = preprocess.decode(item.path)
            channels = preprocess.channels
            looks[item] = Look.of(pixels if channels is None else next(channels.split(pixels)))
            if pixel_hash(pixels) in learnt:
                were_learnt.add(item)
        step("pictures learnt from", done, len(good))
    shown = _of_learnt_parts(predictor, dataset.train, were_learnt)
    shown |= _near_duplicates(looks, were_learnt | shown)
    train = tuple(item for item in good if item in shown)
    fresh = tuple(item for item in dataset.train if item not in shown)
    tested = tuple(item for item in dataset.test if item not in shown)
    return replace(dataset, train=train, test=(*tested, *fresh), drawn_split=False)


def _of_learnt_parts(predictor: Predictor, train: Sequence[Item], were_learnt: Collection[Item]) -> set[Item]:
    """Return the training pictures of the parts that were learnt from.

    A picture whose name shows no part is a part of its own.
    """
    part_of = stored_part_reader(predictor.manifest)
    parts = dict[Item, object]()
    for item, name in zip(train, relative_names([learnt.path for learnt in train]), strict=True):
        named_part = None if part_of is None else part_of(name)
        parts[item] = named_part or item.path
    learnt_parts = {part for item, part in parts.items() if item in were_learnt}
    return {item for item, part in parts.items() if part in learnt_parts}


def _near_duplicates(looks: Mapping[Item, Look], learnt: Collection[Item]) -> set[Item]:
    """Pictures that are nearly the same as one that was learnt from."""
    known = [item for item in looks if item in learnt]
    others = [item for item in looks if item not in learnt]
    every = [*known, *others]
    pairs = near_duplicates([looks[item] for item in every], np.arange(len(known)))
    return {every[j] for i, j, _ in pairs if i < len(known) <= j}
