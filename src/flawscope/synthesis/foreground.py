"""Where the object is, estimated from one picture; everywhere if it is a texture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from flawscope.synthesis.appearance import check_picture
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.noise import Floats, Picture

_SIDE = 128  # the estimate is made at this size
_BORDER_IS_BACKGROUND = 0.9  # share of the border that must look like background
_SEPARATION = 0.65  # share of the variance that two classes must explain
_SHARE = (0.03, 0.85)  # share of the picture an object takes


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
    mask = Image.fromarray(found.astype(np.uint8) * 255).resize(
        (shape[1], shape[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(mask) > 127
