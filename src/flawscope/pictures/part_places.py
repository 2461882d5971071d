"""Tells from the outlines of parts whether they lie turned or at different places. Torch-free.

A cheap look at some good pictures, for a hint at `--align`: it speaks only where every picture shows one part
of the same shape apart from its ground. Parts that are as wide as long show no angle here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from flawscope.errors import InputError
from flawscope.pictures.decoding import decode
from flawscope.pictures.foreground import Mask, Picture, foreground_mask, shrink

MIN_PICTURES, MAX_PICTURES = 8, 16  # pictures that are looked at
MIN_FOUND = 0.9  # share of the pictures that must show a part of the usual shape
SHAPE_TOLERANCE = 0.2  # share by which area and length may differ from the usual ones
MIN_ELONGATION = 1.25  # length by width: below, an outline does not show its angle
MAX_ALIGNMENT = 0.6  # resultant length of the doubled angles, 0..1: below, parts lie at any angle
MIN_SHIFT = 0.15  # standard deviation of the place, in roots of the part's area


class Outline(NamedTuple):
    """Outline of a part. area: in pixels. y, x: its middle. angle: of its long axis, in radians, modulo pi.
    elongation: length by width, 1 or more."""

    area: float
    y: float
    x: float
    angle: float
    elongation: float

    @classmethod
    def of(cls, mask: Mask) -> Outline | None:
        """Outline of a mask [h, w]; None where it is everywhere, or touches an edge of the picture."""
        if mask.all() or np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any():
            return None
        y, x = np.nonzero(mask)
        spreads, axes = np.linalg.eigh(np.cov(np.stack([y, x])))
        angle = math.atan2(axes[0, 1], axes[1, 1])
        elongation = math.sqrt(spreads[1] / max(spreads[0], 1e-9))
        return cls(float(mask.sum()), float(y.mean()), float(x.mean()), angle, elongation)


def poses_needed(pictures: Iterable[Picture]) -> Literal["shift", "turn"] | None:
    """Returns how parts lie that need `--align`; None where they lie alike, or nothing is sure.

    Args:
        pictures: good ones, [H, W, 3] uint8; the first `MAX_PICTURES` are looked at.
    """
    small = [shrink(picture) for picture in islice(pictures, MAX_PICTURES)]
    found = [one for one in map(Outline.of, map(foreground_mask, small)) if one is not None]
    if len(small) < MIN_PICTURES or len(found) < MIN_FOUND * len(small):
        return None
    alike = _of_usual_shape(found)
    if len(alike) < MIN_FOUND * len(small):
        return None
    angles = np.array([one.angle for one in alike])
    is_long = np.median([one.elongation for one in alike]) >= MIN_ELONGATION
    if is_long and abs(np.exp(2j * angles).mean()) < MAX_ALIGNMENT:
        return "turn"
    places = np.array([(one.y, one.x) for one in alike]) / math.sqrt(np.median([one.area for one in alike]))
    return "shift" if places.std(0).max() >= MIN_SHIFT else None


def alignment_needed(paths: Sequence[Path]) -> Literal["shift", "turn"] | None:
    """`poses_needed` of picture files. Those that cannot be read, and deep ones, are not looked at."""
    numbers = np.unique(np.linspace(0, len(paths) - 1, min(MAX_PICTURES, len(paths))).astype(int))
    return poses_needed(_read_usual([paths[i] for i in numbers]))


def _read_usual(paths: Iterable[Path]) -> Iterator[Picture]:
    for path in paths:
        try:
            picture = decode(path)
        except InputError:  # the command names it
            continue
        if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
            yield picture


def _of_usual_shape(found: Sequence[Outline]) -> list[Outline]:
    shapes = np.array([(one.area, one.elongation) for one in found])
    usual = np.median(shapes, axis=0)
    near = (np.abs(shapes - usual) <= SHAPE_TOLERANCE * usual).all(1)
    return [one for one, is_near in zip(found, near, strict=True) if is_near]
