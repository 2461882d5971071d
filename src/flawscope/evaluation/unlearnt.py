"""Finds the pictures of a data set that a model can be tested on: all that it did not learn from."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from flawscope import Predictor
from flawscope.datasets import Dataset
from flawscope.errors import InputError
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.units import compile_group, part_key
from flawscope.progress import ProgressCallback, ignore_progress


def with_unlearnt(
    predictor: Predictor, dataset: Dataset, learnt: Collection[str], step: ProgressCallback = ignore_progress
) -> Dataset:
    """Moves the training pictures that were not learnt from to the test pictures, where the split was drawn.
    The draw keeps some back from a model of the others; from a model of other pictures none need be kept.

    Pictures of a part that was learnt from (`--group`) stay where they are.

    Args:
        learnt: hashes (`decoding.pixel_hash`) of the pictures that were learnt from.
    """
    if not dataset.drawn_split:
        return dataset
    pattern = compile_group(predictor.manifest.facts.get("group"))
    names = relative_names([item.path for item in dataset.train])
    parts = {
        item: part_key(name, pattern) or item.path for item, name in zip(dataset.train, names, strict=True)
    }
    read, learnt_parts = predictor.manifest.preprocess.decode, set[object]()
    for done, (item, part) in enumerate(parts.items(), start=1):
        with suppress(InputError, MemoryError):  # told when it is judged
            if pixel_hash(read(item.path)) in learnt:
                learnt_parts.add(part)
        step("pictures learnt from", done, len(parts))
    train = tuple(item for item, part in parts.items() if part in learnt_parts)
    fresh = tuple(item for item, part in parts.items() if part not in learnt_parts)
    return replace(dataset, train=train, test=(*dataset.test, *fresh), drawn_split=False)
