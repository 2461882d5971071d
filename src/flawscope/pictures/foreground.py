"""Segments the object in a picture, by the ground that good pictures share, or by the picture alone.

In a texture everything is foreground. A patterned ground, such as a perforated board, repeats itself, and the
part on it does not. The border shows the ground in all good pictures: its windows, of an eighth of the
picture, are kept. A window is novel where its distance from all of them is larger than those of the border's
windows from others far away; a pixel belongs to the part where every window over it is novel. Colours that
are common on the part and rare on the ground then give the contour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.pictures.arrays import check_picture, otsu

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]

SIDE = 128  # pixels of the longer side: of colours and outlines; windows have half as many
_WINDOW = 8  # pixels at half of `SIDE`
_CELLS = 4  # a side of a window, each with its mean colour
_MIN_SIDE = 9 * _WINDOW  # pixels of the shorter side: below, the border leaves no middle
_BORDER_WINDOWS = 3  # windows from the border that count as ground
_MAX_BANK = 2000  # windows kept
_MIN_SELF_DISTANCE = 0.5  # of the picture: a ground is like itself at this distance
_MIN_DEVIATION = 6.0  # grey levels: directions in which the ground varies less count as if it varied by this
# times the ground's typical distance; a novel area reaches the second
_NOVEL = 1.1
_CERTAINLY_NOVEL = 1.3
_MAX_SELF_SPREAD = 1.0  # of the ground's distances to itself, from median to upper quartile, in a pattern
_BINS = 32  # of a channel in the tables of colours
_ROUNDS = 2  # of colours and outlines in turn
_MAX_LOG_ODDS = 3.0  # of a colour at most
_PRIOR = 0.35  # log-odds of the windows' finding
# smoothing: rounds, weight of a neighbour, grey levels of an edge
_STEPS = 20
_COUPLING = 2.0
_EDGE = 10.0


def shrink(picture: Picture) -> Picture:
    """Scale a picture `[h, w, 3]` uint8 to `SIDE` pixels at most on its longer side.

    Raises:
        InputError: It is no picture.
    """
    check_picture(picture)
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


@dataclass(frozen=True)
class PatternedGround:
    """The look of a product's ground, and the colours of its part.

    Windows are described by `d` numbers in grey levels, and compared after `whitening`.
    """

    tone: Floats  # [3]: mean colour of the border, to which every picture's is brought
    mean: Floats  # [d]
    whitening: Floats  # [d, d]
    bank: Floats  # [n, d]: windows of the ground, whitened
    typical_distance: float  # the upper quartile of the ground's distances to itself
    log_odds: Floats  # [_BINS ** 3]: of part against ground, by colour

    @classmethod
    def learn(cls, pictures: Sequence[Picture]) -> PatternedGround | None:
        """Learn from pictures of at most `SIDE` pixels a side.

        None where the border is not like itself elsewhere, or where a picture is too narrow or too small.
        """
        if any(min(picture.shape[:2]) < _MIN_SIDE for picture in pictures):
            return None
        tone = np.stack([_border_colour(picture) for picture in pictures]).mean(0)
        toned = [_match_border_colour(picture, tone) for picture in pictures]
        found = _learn_windows(toned)
        if found is None:
            return None
        ground = cls(tone, *found, np.zeros(_BINS**3, np.float32))
        areas = [ground._novel_area(image) for image in toned]
        if not any(area.any() for area in areas):
            return ground
        return ground._learn_colours(toned, areas)

    def _learn_colours(self, toned: Sequence[Floats], areas: Sequence[Mask]) -> PatternedGround:
        """Return the ground with the colours of the part, which are learnt by turns with the part's place.

        Args:
            toned: Pictures in the ground's tone.
            areas: Masks of each picture, True where its windows are unlike the ground's.
        """
        codes = [_colour_codes(image) for image in toned]
        parts = areas
        for _ in range(_ROUNDS):
            ground = replace(self, log_odds=_colour_log_odds(codes, parts))
            parts = [ground._segment_part(*both) for both in zip(toned, areas, strict=True)]
        return replace(self, log_odds=_colour_log_odds(codes, parts))

    def part_mask(self, picture: Picture) -> Mask:
        """Mask `[h, w]` bool of the part in a picture `[h, w, 3]` uint8 of at most `SIDE` pixels a side."""
        if min(picture.shape[:2]) < _MIN_SIDE:
            return np.zeros(picture.shape[:2], np.bool_)
        image = _match_border_colour(picture, self.tone)
        return self._segment_part(image, self._novel_area(image))

    def _novel_area(self, image: Floats) -> Mask:
        """Return the mask `[h, w]` of areas in which all windows of each pixel are unlike the ground.

        An area counts where some of it is certainly unlike the ground: a somewhat unlike area is taken with
        such a place, and left out where it lies alone.
        """
        from scipy import ndimage

        windows = _window_descriptors(image)
        rows = windows.reshape(-1, windows.shape[-1]) - self.mean
        flat = np.asarray(rows @ self.whitening, np.float32)
        distance = _nearest_distances(flat, self.bank).reshape(windows.shape[:2])
        # a pixel lies in up to _WINDOW x _WINDOW windows; the one that is most like the ground counts
        nearest = ndimage.minimum_filter(np.pad(distance, _WINDOW - 1, mode="edge"), _WINDOW)
        height, width = image.shape[0] // 2, image.shape[1] // 2  # windows are taken at half of the size
        start = _WINDOW // 2
        least = nearest[start : start + height, start : start + width]
        labels, count = ndimage.label(least > _NOVEL * self.typical_distance)
        certain = np.zeros(count + 1, np.bool_)
        certain[np.unique(labels[least > _CERTAINLY_NOVEL * self.typical_distance])] = True
        certain[0] = False  # pixels in no area
        areas = Image.fromarray(certain[labels].astype(np.float32))
        return np.asarray(areas.resize(image.shape[1::-1], Image.Resampling.BILINEAR)) > 0.5

    def _segment_part(self, image: Floats, area: Mask) -> Mask:
        """Segment the part in an area of novel windows: by its colours, along the edges of the picture.

        The mean field of a pairwise model with the area as prior, whose neighbours are coupled where their
        colours are alike, as in GrabCut (Rother et al., 2004).
        """
        from scipy import ndimage

        if not area.any():
            return area
        zone = ndimage.binary_dilation(area, iterations=2)
        evidence = np.where(
            zone, self.log_odds[_colour_codes(image)] + np.where(area, _PRIOR, -_PRIOR), -_MAX_LOG_ODDS
        )
        smooth = ndimage.uniform_filter(image, (3, 3, 0))
        down, right = (np.exp(-np.abs(np.diff(smooth, axis=axis)).max(-1) / _EDGE) for axis in (0, 1))
        belief = np.tanh(evidence / 2)
        for _ in range(_STEPS):
            pull = np.zeros_like(belief)
            pull[1:] += down * belief[:-1]
            pull[:-1] += down * belief[1:]
            pull[:, 1:] += right * belief[:, :-1]
            pull[:, :-1] += right * belief[:, 1:]
            belief = np.where(zone, np.tanh((evidence + _COUPLING * pull) / 2), -1)
        part = ndimage.binary_opening(belief > 0)
        # gaps and holes of the part that the windows give to it: marks in the ground's colours
        part |= ndimage.binary_closing(np.pad(part, 4), iterations=2)[4:-4, 4:-4] & area
        part |= ndimage.binary_fill_holes(part) & area
        return _remove_specks(part)


def _remove_specks(mask: Mask) -> Mask:
    """Remove the connected areas below a twentieth of the largest."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(1, 0.05 * sizes.max()))[labels])


def _border_colour(picture: Picture) -> Floats:
    edge = max(1, min(picture.shape[:2]) // 8)
    ring = np.ones(picture.shape[:2], np.bool_)
    ring[edge:-edge, edge:-edge] = False
    return np.asarray(picture[ring].mean(0), np.float32)


def _match_border_colour(picture: Picture, tone: Floats) -> Floats:
    """The picture as float32, its border's mean colour brought to `tone`, as if in the same light."""
    gain = tone / np.maximum(_border_colour(picture), 8)
    return np.clip(picture * gain, 0, 255).astype(np.float32)


def _box_mean(image: Floats, side: int) -> Floats:
    """The mean of every window of `side` x `side` pixels that lies in the image."""
    total = np.cumsum(np.cumsum(image, 0, dtype=np.float64), 1)
    total = np.pad(total, ((1, 0), (1, 0)) + ((0, 0),) * (image.ndim - 2))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return (inside / side**2).astype(np.float32)


def _halve(image: Floats) -> Floats:
    height, width = (side // 2 * 2 for side in image.shape[:2])
    even = image[:height, :width]
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(total / 4, np.float32)


def _window_descriptors(image: Floats) -> Floats:
    """Descriptors of every window `[H, W, d]`: its cells' colours, and its quarters' roughness."""
    from scipy import ndimage

    rough = np.abs(image - ndimage.uniform_filter(image, (3, 3, 0))).mean(-1)
    colours = _halve(image)
    half = _WINDOW // 2
    cell = _WINDOW // _CELLS
    height, width = (side - _WINDOW + 1 for side in colours.shape[:2])
    cells = _box_mean(colours, cell)
    quarters = 3 * _box_mean(_halve(rough), half)[..., None]
    return np.concatenate(
        [
            values[row * step : row * step + height, column * step : column * step + width]
            for values, step in ((cells, cell), (quarters, half))
            for row in range(_WINDOW // step)
            for column in range(_WINDOW // step)
        ],
        -1,
    )


def _partial_squared_distances(rows: Floats, others: Floats) -> Floats:
    """`[n, m]`: squared distances less the squared length of each row. One product, for speed."""
    ones = np.ones((len(rows), 1), np.float32)
    return np.asarray(np.hstack([rows, ones]) @ np.hstack([-2 * others, (others**2).sum(1)[:, None]]).T)


def _nearest_distances(rows: Floats, others: Floats) -> Floats:
    """Each row's distance to the nearest of the others."""
    squared = _partial_squared_distances(rows, others).min(1) + (rows**2).sum(1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)


def _learn_windows(images: Sequence[Floats]) -> tuple[Floats, Floats, Floats, float] | None:
    """Return mean, whitening, bank and usual distance of the border's windows; None without repetition."""
    windows = []
    places = []
    for image in images:
        described = _window_descriptors(image)
        ring = np.ones(described.shape[:2], np.bool_)
        ring[_BORDER_WINDOWS:-_BORDER_WINDOWS, _BORDER_WINDOWS:-_BORDER_WINDOWS] = False
        windows.append(described[ring])
        places.append(np.argwhere(ring) / np.asarray(ring.shape))
    every = np.concatenate(windows)
    place = np.concatenate(places).astype(np.float32)
    mean = every.mean(0)
    variances, axes = np.linalg.eigh(np.cov(every, rowvar=False))
    whitening = (axes / np.sqrt(np.maximum(variances, 0) + _MIN_DEVIATION**2)).astype(np.float32)
    kept = np.random.default_rng(0).permutation(len(every))[:_MAX_BANK]
    bank = (every[kept] - mean) @ whitening
    where = place[kept]
    squared = _partial_squared_distances(bank, bank) + (bank**2).sum(1)[:, None]
    gap = _partial_squared_distances(where, where) + (where**2).sum(1)[:, None]
    nearest = np.sqrt(np.maximum(np.where(gap >= _MIN_SELF_DISTANCE**2, squared, np.inf).min(1), 0))
    median, upper = np.quantile(nearest, [0.5, 0.75])
    if upper - median > _MAX_SELF_SPREAD:
        return None
    # windows at the border that are like none far away show a piece of the part
    return mean, whitening, bank[nearest <= _CERTAINLY_NOVEL * upper], float(upper)


def _colour_codes(image: Floats) -> NDArray[np.intp]:
    from scipy import ndimage

    # by the root: dark colours differ by few grey levels
    levels = (np.sqrt(ndimage.uniform_filter(image, (3, 3, 0)) / 256) * _BINS).astype(np.intp)
    return np.asarray((levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2])


def _colour_log_odds(codes: Sequence[NDArray[np.intp]], parts: Sequence[Mask]) -> Floats:
    """Return log-odds of each colour in the parts against beside them, over all pictures."""
    from scipy import ndimage

    shares = []
    for chosen in (parts, [~part for part in parts]):
        every = np.concatenate([code[where] for code, where in zip(codes, chosen, strict=True)])
        counts = np.bincount(every, minlength=_BINS**3).reshape((_BINS,) * 3).astype(np.float32)
        shares.append(ndimage.gaussian_filter(counts, 0.7).ravel() / max(1, len(every)) + 1e-6)
    return np.asarray(np.clip(np.log(shares[0] / shares[1]), -_MAX_LOG_ODDS, _MAX_LOG_ODDS), np.float32)


_MIN_BORDER_BACKGROUND = 0.9  # share of the border that must look like background
_MIN_SEPARATION = 0.65  # share of the variance that two classes must explain
_OBJECT_SHARE = (0.03, 0.85)  # share of the picture an object takes

PICTURE_COUNTS = (8, 40)  # good pictures that a patterned ground is learnt from, at least and at most
_MIN_AGREEMENT = 0.75  # share of them that must show a part on it, or no part
_ALIKE = 2.0  # times the usual share of a picture, or one by it: a part found by each picture alone takes


@dataclass(frozen=True)
class Foreground:
    """The place of the object in pictures of one product.

    `Foreground.of(good_pictures).mask(picture)` is the usual way; `Foreground(given=mask)` takes one mask,
    drawn by hand, for all of them.
    """

    ground: PatternedGround | None = None  # None: every picture by `foreground_mask` alone
    given: Mask | None = None  # [h, w] bool, True on the object; stretched over pictures of another size
    share: float | None = None  # of a picture that the part usually takes, by `foreground_mask`; None: any

    def __post_init__(self) -> None:
        if self.given is not None and not self.given.any():
            raise InputError("The mask of the foreground is empty: mark the object in it.")

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> Foreground:
        """Learn the foreground from good pictures `[H, W, 3]` uint8, sizes may differ; the first 40 are used.

        From 8 pictures on, a plain or patterned area that repeats itself along their borders is the ground,
        and a part that three quarters of them show on it is found in every picture. Where a quarter or fewer
        show one, they are of a texture: everything is foreground. Otherwise, where the border does not repeat
        itself, and of fewer pictures, each is judged alone by `foreground_mask`, if it finds a part of about
        the same size in three quarters of them: else its findings are no part, and everything is foreground.
        """
        small = [shrink(picture) for picture in islice(pictures, PICTURE_COUNTS[1])]
        ground = PatternedGround.learn(small) if len(small) >= PICTURE_COUNTS[0] else None
        if ground is None:
            return cls._judge_alone(small)
        shares = [float(ground.part_mask(picture).mean()) for picture in small]
        found = sum(_OBJECT_SHARE[0] <= share <= _OBJECT_SHARE[1] for share in shares) / len(small)
        if found >= _MIN_AGREEMENT:
            return cls(ground)
        if found <= 1 - _MIN_AGREEMENT:
            return cls._everywhere()
        return cls._judge_alone(small)

    @classmethod
    def _everywhere(cls) -> Foreground:
        return cls(given=np.ones((1, 1), np.bool_))

    @classmethod
    def _judge_alone(cls, small: Sequence[Picture]) -> Foreground:
        """Return the foreground by `foreground_mask` of each picture alone.

        Everything is foreground where it does not find a part of about the same size in three quarters of
        these.
        """
        if not small:
            return cls()
        alone = [float(mask.mean()) for mask in map(foreground_mask, small) if not mask.all()]
        usual = float(np.median(alone)) if alone else 1.0
        alike = sum(_is_alike(share, usual) for share in alone)
        return cls(share=usual) if alike >= _MIN_AGREEMENT * len(small) else cls._everywhere()

    def mask(self, picture: Picture) -> Mask:
        """Return the object in a picture `[H, W, 3]` uint8, `[H, W]` bool; everywhere where none is found."""
        if self.given is not None:
            check_picture(picture)
            return _resize_mask(self.given, picture.shape)
        if self.ground is None:
            found = foreground_mask(picture)
            is_unlike = self.share is not None and not _is_alike(float(found.mean()), self.share)
            return np.ones_like(found) if is_unlike else found
        part = self.ground.part_mask(shrink(picture))
        if not _OBJECT_SHARE[0] <= part.mean() <= _OBJECT_SHARE[1]:
            return np.ones(picture.shape[:2], np.bool_)
        return _resize_mask(part, picture.shape)


def _is_alike(share: float, usual: float) -> bool:
    return usual / _ALIKE <= share <= usual * _ALIKE


def _resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)) > 127


def foreground_mask(picture: Picture) -> Mask:
    """Return the object in a picture, `[H, W]` bool, a little too large rather than too small.

    The border gives the colours of the background; the distance of every pixel from the nearest of them is
    split by Otsu's threshold. Where that does not look like one object on a background (the classes do not
    separate, the border is not background, the share is implausible) the picture counts as a texture and the
    foreground is everywhere.
    """
    from scipy import ndimage

    reduced = shrink(picture)
    shape = picture.shape[:2]
    whole = np.ones(shape, np.bool_)
    if min(reduced.shape[:2]) < 8:
        return whole
    small = np.asarray(Image.fromarray(reduced).filter(ImageFilter.MedianFilter(5)), np.float32)
    ring = np.ones(small.shape[:2], np.bool_)
    edge = max(1, round(0.04 * min(reduced.shape[:2])))
    ring[edge:-edge, edge:-edge] = False
    # a background may be lit unevenly: the medians of pieces of the border, without the odd ones
    piece_colours = np.stack([np.median(part, 0) for part in np.array_split(small[ring], 16)])
    common = np.median(piece_colours, 0)
    apart = np.abs(piece_colours - common).max(1)
    colours = piece_colours[apart <= max(12.0, 2.5 * float(np.median(apart)))]
    distance = np.abs(small[:, :, None] - colours).max(-1).min(-1)
    level, separation = otsu(distance)
    found = distance >= level
    if separation < _MIN_SEPARATION or 1 - found[ring].mean() < _MIN_BORDER_BACKGROUND:
        return whole
    found = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(found, 4), iterations=3))[4:-4, 4:-4]
    found = ndimage.binary_dilation(_remove_specks(found), iterations=2)
    if not _OBJECT_SHARE[0] <= found.mean() <= _OBJECT_SHARE[1]:
        return whole
    return _resize_mask(found, shape)
