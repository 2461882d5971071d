"""Chooses the good pictures that a fit is given, and reads their parts from names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.parts import PartPattern
from flawscope.datasets import Dataset
from flawscope.errors import InputError
from flawscope.methods.options.arguments import Reading
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.listing import refuse_masks
from flawscope.pictures.units import PartReader, check_group, group_reader

Images = Dataset | str | os.PathLike[str] | Sequence[PictureSource] | NDArray[Any]


def split_sources(
    images: Images, category: str | None
) -> tuple[list[PictureSource], list[PictureSource], str]:
    """Split the good pictures of a fit.

    Args:
        images: A data set, or good pictures; an array [N, H, W, 3] contains N pictures.
        category: Name of the category, if `images` is no data set.

    Returns:
        The pictures to learn from; the pictures that the data set reserves (`Dataset.validation`); and the
        name of the category.

    Raises:
        InputError: There is no good picture, or `images` is neither a data set nor pictures.
    """
    if isinstance(images, Dataset):
        sources: list[PictureSource] = [item.path for item in images.train]
        if not sources:
            raise InputError(f"there are no good pictures to learn from in {images.root}")
        return sources, [item.path for item in images.validation], images.category
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple) or not images:
        raise InputError("give a folder, a data set, or a list with at least one good picture")
    refuse_masks(images)
    return list(images), [], category or ""


def pattern_of(which: Reading) -> PartPattern | None:
    """Return the pattern of parts and views in a fit's options; None: the model judges single pictures."""
    return None if which.part is None else PartPattern(which.part, which.view)


def part_reader(names: Sequence[str], group: str | None, pattern: PartPattern | None) -> PartReader | None:
    """Return a function that reads parts from names; None: there is neither a pattern nor a group.

    Args:
        names: Names of the pictures.
        group: Regular expression; pictures for which it matches the same text show one part.
        pattern: Pattern of parts and views; with a pattern, `group` is not used.

    Raises:
        InputError: The pattern does not fit the names.
    """
    if pattern is None:
        check_group(names, group)
        return group_reader(group)
    pattern.check_parts(names)
    return pattern.part_key
