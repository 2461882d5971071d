"""Turned and mirrored copies of good pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from flawscope.errors import InputError

# A way to turn a picture, 1 to 7: its bits mirror the rows, mirror the columns, and, first, swap both
WAYS: dict[str, tuple[int, ...]] = {
    "none": (),
    "turn": (3, 5, 6),
    "mirror": (1, 2),
    "all": (1, 2, 3, 4, 5, 6, 7),
}


def turned(image: Tensor, way: int) -> Tensor:
    """[..., H, W] turned by quarters and mirrored."""
    if way & 4:
        image = image.transpose(-1, -2)
    return image.flip([axis for axis, bit in ((-2, 1), (-1, 2)) if way & bit]).contiguous()


def possible(augment: str, roi: Tensor) -> tuple[int, ...]:
    """The ways after which the sides are as long as they were, and the region of interest [H, W] bool is
    where it was."""
    return tuple(way for way in WAYS[augment] if torch.equal(turned(roi, way), roi))


def asked(augment: str, roi: Tensor) -> tuple[int, ...]:
    """As `possible`.

    Raises:
        InputError: there is none.
    """
    found = possible(augment, roi)
    if not found and augment != "none":
        raise InputError(
            f"setting augment: {augment} is not possible: a copy does not fit the picture size or the region "
            "of interest; take a square --size, a symmetric --roi, or augment: none"
        )
    return found
