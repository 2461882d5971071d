"""The place of the object: by what good pictures have in common, or by one alone; in a texture everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.synthesis.appearance import check_picture
from flawscope.synthesis.ground import PatternedGround, shrunk
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.noise import Floats, Picture

_SIDE = 128  # the estimate is made at this size
_BORDER_IS_BACKGROUND = 0.9  # share of the border that must look like background
_SEPARATION = 0.65  # share of the variance that two classes must explain
_SHARE = (0.03, 0.85)  # share of the picture an object takes

PICTURES = (8, 40)  # good pictures that a patterned ground is learnt from, at least and at most
_FOUND = 0.75  # share of them that must show a part on it, or no part


@dataclass(frozen=True)
class Foreground:
    """The place of the object in pictures of one product.

    `Foreground.of(good_pictures).mask(picture)` is the usual way; `Foreground(given=mask)` takes one mask,
    drawn by hand, for all of them.
    """

    ground: PatternedGround | None = None  # None: every picture by `foreground_mask` alone
    given: Mask | None = None  # [h, w] bool, True on the object; stretched over pictures of another size

    def __post_init__(self) -> None:
        if self.given is not None and not self.given.any():
            raise InputError("The mask of the foreground is empty: mark the object in it.")

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> Foreground:
        """Learn it from good pictures `[H, W, 3]` uint8, sizes may differ; the first 40 are used.

        From 8 on, what repeats itself along their borders is the ground, plain or patterned, and a part that
        three quarters of them show on it is found in every picture. Where a quarter or fewer show one, they
        are of a texture: everything is foreground. Otherwise, where the border does not repeat itself, and of
        fewer pictures, each is judged alone by `foreground_mask`.
        """
        small = [shrunk(picture) for picture in islice(_checked(pictures), PICTURES[1])]
        ground = PatternedGround.learn(small) if len(small) >= PICTURES[0] else None
        if ground is None:
            return cls()
        shares = [float(ground.part(one).mean()) for one in small]
        found = sum(_SHARE[0] <= share <= _SHARE[1] for share in shares) / len(small)
        if found >= _FOUND:
            return cls(ground)
        return cls(given=np.ones((1, 1), np.bool_)) if found <= 1 - _FOUND else cls()

    def mask(self, picture: Picture) -> Mask:
        """The object in a picture `[H, W, 3]` uint8, `[H, W]` bool; everywhere where none is found."""
        check_picture(picture)
        if self.given is not None:
            return _enlarged(self.given, picture.shape)
        if self.ground is None:
            return foreground_mask(picture)
        part = self.ground.part(shrunk(picture))
        if not _SHARE[0] <= part.mean() <= _SHARE[1]:
            return np.ones(picture.shape[:2], np.bool_)
        return _enlarged(part, picture.shape)


def _checked(pictures: Iterable[Picture]) -> Iterator[Picture]:
    for picture in pictures:
        check_picture(picture)
        yield picture


def _enlarged(mask: Mask, shape: tuple[int, ...]) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)) > 127


def otsu(values: Floats) -> tuple[float, float]:
    """Otsu's threshold and the share of the variance that it explains, 0..1."""
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    total = counts.sum()
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (total - below)
        between = np.nan_to_num(below / total * (1 - below / total) * gap**2)
    best = int(between.argmax())
    variance = float(values.var())
    return float(edges[best + 1]), float(between[best] / variance) if variance > 0 else 0.0


def foreground_mask(picture: Picture) -> Mask:
    """The object in a picture, `[H, W]` bool, a little too large rather than too small.

    The border gives the colours of the background; the distance of every pixel from the nearest of them is
    split by Otsu's threshold. Where that does not look like one object on a background (the classes do not
    separate, the border is not background, the share is implausible) the picture counts as a texture and
    the foreground is everywhere.
    """
    from scipy import ndimage

    check_picture(picture)
    shape = picture.shape[:2]
    all_of_it = np.ones(shape, np.bool_)
    scale = min(1.0, _SIDE / max(shape))
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    if min(size) < 8:
        return all_of_it
    reduced = Image.fromarray(picture).resize(size, Image.Resampling.BOX)
    small = np.asarray(reduced.filter(ImageFilter.MedianFilter(5)), np.float32)
    ring = np.ones(small.shape[:2], np.bool_)
    edge = max(1, round(0.04 * min(size)))
    ring[edge:-edge, edge:-edge] = False
    # a background may be lit unevenly: the medians of pieces of the border, without the odd ones
    pieces = np.stack([np.median(part, 0) for part in np.array_split(small[ring], 16)])
    common = np.median(pieces, 0)
    apart = np.abs(pieces - common).max(1)
    colours = pieces[apart <= max(12.0, 2.5 * float(np.median(apart)))]
    distance = np.abs(small[:, :, None] - colours).max(-1).min(-1)
    level, separation = otsu(distance)
    found = distance >= level
    if separation < _SEPARATION or 1 - found[ring].mean() < _BORDER_IS_BACKGROUND:
        return all_of_it
    found = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(found, 4), iterations=3))[4:-4, 4:-4]
    labels, count = ndimage.label(found)
    areas = ndimage.sum_labels(found, labels, np.arange(1, count + 1))
    if not count:
        return all_of_it
    found = np.isin(labels, 1 + np.flatnonzero(areas >= 0.05 * areas.max()))
    found = ndimage.binary_dilation(found, iterations=2)
    if not _SHARE[0] <= found.mean() <= _SHARE[1]:
        return all_of_it
    return _enlarged(found, shape)
