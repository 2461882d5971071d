"""Other light, other colours, another camera: random changes of how a picture looks. Nothing moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.pictures.decoding import to_eight_bits
from flawscope.synthesis.noise import Picture

Change = Callable[[Picture, np.random.Generator, float], Picture]
"""picture [H, W, 3] uint8, generator, strength (1 is plain to see) -> picture of the same shape."""

_LEVELS = np.arange(256, dtype=np.float64)
_LUMA = np.asarray([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey


def check_picture(picture: Picture, name: str = "picture") -> None:
    """Refuse anything but `[H, W, 3]` uint8: textures in 0..1 pasted into pictures in 0..255 have made
    defects invisible elsewhere."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"A {name} is [H, W, 3] uint8 in 0..255, not {list(picture.shape)} {picture.dtype}.")


def is_grey(picture: Picture) -> bool:
    """Whether all three channels are the same everywhere."""
    first = picture[..., 0]
    return bool((first == picture[..., 1]).all() and (first == picture[..., 2]).all())


def without_colour(picture: Picture) -> Picture:
    """The picture in greys, still `[H, W, 3]`."""
    return to_eight_bits(np.asarray(Image.fromarray(picture).convert("L"))[..., None])


def changed_appearance(
    picture: Picture, rng: np.random.Generator, *, count: int = 3, strong: bool = False
) -> Picture:
    """`count` different random changes of brightness, contrast, gamma, colour, sharpness or noise.

    `picture [H, W, 3]` uint8 stays `[H, W, 3]` uint8, and a grey one stays grey. `strong` changes more, and
    may also solarise, posterise or equalise: for a picture that is to look like other material.
    """
    check_picture(picture)
    known = _CHANGES + _STRONG if strong else _CHANGES
    for index in rng.permutation(len(known))[:count]:
        picture = known[int(index)](picture, rng, 1.0 if strong else 0.5)
    return picture


def _curve(picture: Picture, values: NDArray[np.float64]) -> Picture:
    """The picture through a table of 256 values."""
    table: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return table[picture]


def _brightness(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _curve(picture, _LEVELS * math.exp(strength * rng.uniform(-0.5, 0.4)))


def _contrast(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    middle = float(picture.mean())
    return _curve(picture, middle + (_LEVELS - middle) * math.exp(strength * rng.uniform(-0.6, 0.6)))


def _gamma(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _curve(picture, 255 * (_LEVELS / 255) ** math.exp(strength * rng.uniform(-0.6, 0.6)))


def _colour(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Hue turned about the grey axis, and more or less saturation."""
    turn = strength * rng.uniform(-1, 1)
    x, y, z = np.full(3, math.sqrt(1 / 3)) * math.sin(turn)
    around = np.asarray([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    hue = math.cos(turn) * np.eye(3) + around + (1 - math.cos(turn)) / 3
    amount = math.exp(strength * rng.uniform(-1, 0.5))
    matrix = (amount * np.eye(3) + (1 - amount) * _LUMA) @ hue
    rows = np.concatenate([matrix, np.zeros((3, 1))], 1).ravel()
    return np.asarray(Image.fromarray(picture).convert("RGB", tuple(rows.tolist())))


def _blur(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    radius = strength * rng.uniform(0.3, 1.6) * max(1.0, max(picture.shape[:2]) / 256)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _sharpness(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    sharper = ImageFilter.UnsharpMask(rng.uniform(0.6, 2), round(strength * rng.uniform(40, 200)), 1)
    return np.asarray(Image.fromarray(picture).filter(sharper))


def _noise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """The same in all channels."""
    grain = rng.standard_normal(picture.shape[:2], np.float32) * np.float32(strength * rng.uniform(2, 14))
    noisy = picture.astype(np.int16) + np.rint(grain).astype(np.int16)[..., None]
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _solarise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    return _curve(picture, np.where(rng.uniform(60, 220) > _LEVELS, _LEVELS, 255 - _LEVELS))


def _posterise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    step = 255 / int(rng.integers(2, 7))
    return _curve(picture, np.rint(_LEVELS / step) * step)


def _equalise(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Every grey level as often as every other, by one curve for all channels."""
    counts = np.bincount(picture[::2, ::2].ravel(), minlength=256)
    return _curve(picture, 255 * np.cumsum(counts) / counts.sum())


_CHANGES: tuple[Change, ...] = (_brightness, _contrast, _gamma, _colour, _blur, _sharpness, _noise)
_STRONG: tuple[Change, ...] = (_solarise, _posterise, _equalise)
