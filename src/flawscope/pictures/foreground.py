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

SIDE = (
    128  # pixels of a picture's longer side, for colours and contours; windows are taken at half of the size
)
_WINDOW = 8  # side of a window in pixels, at half of the size
_CELLS = 4  # number of cells along a side of a window, each with its mean colour
_MIN_SIDE = 9 * _WINDOW  # pixels of the shorter side: in smaller pictures the border leaves no middle
_BORDER_WINDOWS = 3  # number of windows from the border that count as ground
_MAX_BANK = 2000  # largest number of windows that are kept
_MIN_SELF_DISTANCE = 0.5  # share of a picture: at this distance and beyond, a ground is like itself
_MIN_DEVIATION = 6.0  # grey levels that are added to the ground's deviation in each direction
# Multiples of the ground's typical distance: all of a novel area is above the first, some above the second
_NOVEL = 1.1
_CERTAINLY_NOVEL = 1.3
# Largest difference between median and upper quartile of a pattern's distances to itself
_MAX_SELF_SPREAD = 1.0
_BINS = 32  # number of bins of a channel in the tables of colours
_ROUNDS = 2  # number of times that colours and contours are learnt in turn
_MAX_LOG_ODDS = 3.0  # largest log-odds of a colour
_PRIOR = 0.35  # log-odds by which a novel area speaks for the part
_STEPS = 20  # number of rounds of smoothing
_COUPLING = 2.0  # weight of a neighbour in smoothing
_EDGE = 10.0  # difference in grey levels by which the weight of a neighbour falls to 1/e


def shrink(picture: Picture) -> Picture:
    """Scale a picture `[h, w, 3]` uint8 to `SIDE` pixels at most on its longer side.

    Raises:
        InputError: `picture` is no picture.
    """
    check_picture(picture)
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


@dataclass(frozen=True)
class PatternedGround:
    """Look of a product's ground, and the colours of its part.

    Windows are described by `d` numbers in grey levels, and compared after `whitening`.

    Attributes:
        tone: [3], mean colour of the border, to which that of every picture is changed.
        mean: [d], mean of the ground's windows.
        whitening: [d, d], matrix that makes the ground's windows vary equally in all directions.
        bank: [n, d], windows of the ground, whitened.
        typical_distance: Upper quartile of the ground's distances to itself.
        log_odds: [_BINS ** 3], log-odds of part against ground, by colour.
    """

    tone: Floats
    mean: Floats
    whitening: Floats
    bank: Floats
    typical_distance: float
    log_odds: Floats

    @classmethod
    def learn(cls, pictures: Sequence[Picture]) -> PatternedGround | None:
        """Learn the ground from pictures of at most `SIDE` pixels a side.

        None where the border does not repeat itself, or where a picture is too narrow or too small.
        """
        if any(min(picture.shape[:2]) < _MIN_SIDE for picture in pictures):
            return None
        tone = np.stack([_border_colour(picture) for picture in pictures]).mean(0)
        images = [_match_border_colour(picture, tone) for picture in pictures]
        ground_windows = _learn_windows(images)
        if ground_windows is None:
            return None
        mean, whitening, bank, typical_distance = ground_windows
        no_colours = np.zeros(_BINS**3, np.float32)  # log-odds 0: no colour speaks for the part or the ground
        ground = cls(tone, mean, whitening, bank, typical_distance, log_odds=no_colours)
        areas = [ground._novel_area(image) for image in images]
        if not any(area.any() for area in areas):
            return ground
        return ground._learn_colours(images, areas)

    def _learn_colours(self, images: Sequence[Floats], areas: Sequence[Mask]) -> PatternedGround:
        """Return the ground with learnt colours of the part.

        Colours are learnt from the areas, and parts are segmented by these colours. Then, several times, the
        colours are learnt from the parts, and the parts are segmented anew.

        Args:
            images: Pictures in the ground's tone.
            areas: Mask of each picture, True where its windows are unlike the ground's.
        """
        codes = [_colour_codes(image) for image in images]
        parts = areas
        for _ in range(_ROUNDS):
            ground = replace(self, log_odds=_colour_log_odds(codes, parts))
            parts = [ground._segment_part(image, area) for image, area in zip(images, areas, strict=True)]
        return replace(self, log_odds=_colour_log_odds(codes, parts))

    def part_mask(self, picture: Picture) -> Mask:
        """Return a mask `[h, w]` of the part in a picture `[h, w, 3]` uint8 of at most `SIDE` pixels a side.

        The mask is empty if the picture is too narrow or too small.
        """
        if min(picture.shape[:2]) < _MIN_SIDE:
            return np.zeros(picture.shape[:2], np.bool_)
        image = _match_border_colour(picture, self.tone)
        return self._segment_part(image, self._novel_area(image))

    def _novel_area(self, image: Floats) -> Mask:
        """Return the mask `[h, w]` of the pixels all of whose windows are unlike the ground.

        A connected area of such pixels is left out if none of them is certainly unlike the ground.
        """
        from scipy import ndimage

        windows = _window_descriptors(image)
        descriptors = windows.reshape(-1, windows.shape[-1]) - self.mean
        whitened = np.asarray(descriptors @ self.whitening, np.float32)
        distances = _nearest_distances(whitened, self.bank).reshape(windows.shape[:2])
        # a pixel lies in up to _WINDOW x _WINDOW windows; the window that is most like the ground counts
        padded = np.pad(distances, _WINDOW - 1, mode="edge")
        smallest = ndimage.minimum_filter(padded, _WINDOW)
        height, width = image.shape[0] // 2, image.shape[1] // 2  # windows are taken at half of the size
        start = _WINDOW // 2  # place at which the centred filter covers all windows of the first pixel
        pixel_distances = smallest[start : start + height, start : start + width]
        labels, count = ndimage.label(pixel_distances > _NOVEL * self.typical_distance)
        is_certain_pixel = pixel_distances > _CERTAINLY_NOVEL * self.typical_distance
        is_certain = np.zeros(count + 1, np.bool_)  # a value for each label
        is_certain[np.unique(labels[is_certain_pixel])] = True
        is_certain[0] = False  # label 0: pixels in no area
        areas = Image.fromarray(is_certain[labels].astype(np.float32))
        width_and_height = image.shape[1::-1]
        return np.asarray(areas.resize(width_and_height, Image.Resampling.BILINEAR)) > 0.5

    def _segment_part(self, image: Floats, area: Mask) -> Mask:
        """Segment the part by its colours and along the edges of the picture.

        This is done by the mean field of a pairwise model: the area is the prior, and neighbouring pixels of
        similar colours are coupled, as in GrabCut (Rother et al., 2004).

        Args:
            image: Picture in the ground's tone.
            area: Mask of its pixels that are unlike the ground.
        """
        from scipy import ndimage

        if not area.any():
            return area
        zone = ndimage.binary_dilation(area, iterations=2)
        prior = np.where(area, _PRIOR, -_PRIOR)
        evidence = np.where(zone, self.log_odds[_colour_codes(image)] + prior, -_MAX_LOG_ODDS)
        smooth = ndimage.uniform_filter(image, (3, 3, 0))
        # weight of each pixel's neighbour below and of its neighbour to the right
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
        # fill the part's gaps and holes that lie in the area: they are marks in the ground's colours
        # padded, so that they are also closed at the picture's edges
        closed_part = ndimage.binary_closing(np.pad(part, 4), iterations=2)[4:-4, 4:-4]
        part |= closed_part & area
        part |= ndimage.binary_fill_holes(part) & area
        return _remove_specks(part)


def _remove_specks(mask: Mask) -> Mask:
    """Remove the connected areas that are smaller than a twentieth of the largest."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # label 0: pixels in no area
    return np.asarray((sizes >= max(1, 0.05 * sizes.max()))[labels])


def _border_colour(picture: Picture) -> Floats:
    """Return the mean colour [3] of the border, which is an eighth of the shorter side wide."""
    edge = max(1, min(picture.shape[:2]) // 8)
    is_border = np.ones(picture.shape[:2], np.bool_)
    is_border[edge:-edge, edge:-edge] = False
    return np.asarray(picture[is_border].mean(0), np.float32)


def _match_border_colour(picture: Picture, tone: Floats) -> Floats:
    """Return the picture as float32, with the mean colour of its border changed to `tone`."""
    gain = tone / np.maximum(_border_colour(picture), 8)
    return np.clip(picture * gain, 0, 255).astype(np.float32)


def _box_mean(image: Floats, side: int) -> Floats:
    """Return the mean of every window of `side` x `side` pixels that lies in the image."""
    sums = np.cumsum(np.cumsum(image, 0, dtype=np.float64), 1)
    sums = np.pad(sums, ((1, 0), (1, 0)) + ((0, 0),) * (image.ndim - 2))
    window_sums = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return (window_sums / side**2).astype(np.float32)


def _halve(image: Floats) -> Floats:
    """Return the image at half of its size; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    even = image[:height, :width]
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(total / 4, np.float32)


def _window_descriptors(image: Floats) -> Floats:
    """Return the descriptor of every window, `[H, W, d]`: its cells' colours, and its quarters' roughness."""
    from scipy import ndimage

    roughness = np.abs(image - ndimage.uniform_filter(image, (3, 3, 0))).mean(-1)
    colours = _halve(image)
    height, width = (side - _WINDOW + 1 for side in colours.shape[:2])
    cell_side = _WINDOW // _CELLS
    quarter_side = _WINDOW // 2
    cell_colours = _box_mean(colours, cell_side)
    quarter_roughness = 3 * _box_mean(_halve(roughness), quarter_side)[..., None]
    values_by_place = []
    for values, step in ((cell_colours, cell_side), (quarter_roughness, quarter_side)):
        for top in range(0, _WINDOW, step):
            for left in range(0, _WINDOW, step):
                values_by_place.append(values[top : top + height, left : left + width])
    return np.concatenate(values_by_place, -1)


def _partial_squared_distances(rows: Floats, others: Floats) -> Floats:
    """Return squared distances `[n, m]`, less the squared length of each row.

    |a - b|^2 - |a|^2 = |b|^2 - 2 a b is computed as a single product, for speed.
    """
    ones = np.ones((len(rows), 1), np.float32)
    squared_lengths = (others**2).sum(1)[:, None]
    left = np.hstack([rows, ones])
    right = np.hstack([-2 * others, squared_lengths])
    return np.asarray(left @ right.T)


def _squared_distances(rows: Floats, others: Floats) -> Floats:
    """Return squared distances `[n, m]` of rows and others."""
    return np.asarray(_partial_squared_distances(rows, others) + (rows**2).sum(1)[:, None])


def _nearest_distances(rows: Floats, others: Floats) -> Floats:
    """Return each row's distance to the nearest of `others`."""
    squared = _partial_squared_distances(rows, others).min(1) + (rows**2).sum(1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)


def _learn_windows(images: Sequence[Floats]) -> tuple[Floats, Floats, Floats, float] | None:
    """Learn the ground from the windows along the pictures' borders.

    Returns:
        `mean`, `whitening`, `bank` and `typical_distance` of a `PatternedGround`; None where the border does
        not repeat itself.
    """
    windows_by_image = []
    places_by_image = []
    for image in images:
        descriptors = _window_descriptors(image)
        is_border = np.ones(descriptors.shape[:2], np.bool_)
        is_border[_BORDER_WINDOWS:-_BORDER_WINDOWS, _BORDER_WINDOWS:-_BORDER_WINDOWS] = False
        windows_by_image.append(descriptors[is_border])
        places_by_image.append(np.argwhere(is_border) / np.asarray(is_border.shape))  # 0..1
    windows = np.concatenate(windows_by_image)
    places = np.concatenate(places_by_image).astype(np.float32)
    mean = windows.mean(0)
    variances, axes = np.linalg.eigh(np.cov(windows, rowvar=False))
    whitening = (axes / np.sqrt(np.maximum(variances, 0) + _MIN_DEVIATION**2)).astype(np.float32)
    chosen = np.random.default_rng(0).permutation(len(windows))[:_MAX_BANK]
    bank = (windows[chosen] - mean) @ whitening
    bank_places = places[chosen]
    squared_distances = _squared_distances(bank, bank)
    squared_gaps = _squared_distances(bank_places, bank_places)
    is_far_away = squared_gaps >= _MIN_SELF_DISTANCE**2
    squared_nearest = np.where(is_far_away, squared_distances, np.inf).min(1)
    nearest = np.sqrt(np.maximum(squared_nearest, 0))  # distance to the most similar window far away
    median, upper_quartile = np.quantile(nearest, [0.5, 0.75])
    if upper_quartile - median > _MAX_SELF_SPREAD:
        return None
    # windows at the border that are like none far away show a piece of the part
    is_ground = nearest <= _CERTAINLY_NOVEL * upper_quartile
    return mean, whitening, bank[is_ground], float(upper_quartile)


def _colour_codes(image: Floats) -> NDArray[np.intp]:
    """Return the number of each pixel's colour [H, W] in a table of `_BINS` ** 3 colours."""
    from scipy import ndimage

    # bins of the square root are finer where colours are dark, which differ by few grey levels
    levels = (np.sqrt(ndimage.uniform_filter(image, (3, 3, 0)) / 256) * _BINS).astype(np.intp)
    return np.asarray((levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2])


def _colour_log_odds(codes: Sequence[NDArray[np.intp]], parts: Sequence[Mask]) -> Floats:
    """Return the log-odds of each colour: log(share among the parts' pixels / share among all other pixels).

    Args:
        codes: `_colour_codes` of each picture.
        parts: Mask of the part in each picture.
    """
    from scipy import ndimage

    shares = []
    for masks in (parts, [~part for part in parts]):
        colours = np.concatenate([code[mask] for code, mask in zip(codes, masks, strict=True)])
        counts = np.bincount(colours, minlength=_BINS**3).reshape((_BINS,) * 3).astype(np.float32)
        shares.append(ndimage.gaussian_filter(counts, 0.7).ravel() / max(1, len(colours)) + 1e-6)
    part_share, ground_share = shares
    return np.asarray(np.clip(np.log(part_share / ground_share), -_MAX_LOG_ODDS, _MAX_LOG_ODDS), np.float32)


_MIN_BORDER_BACKGROUND = 0.9  # share of the border that must look like background
_MIN_SEPARATION = 0.65  # share of the variance that two classes must explain
_OBJECT_SHARE = (0.03, 0.85)  # share of the picture an object takes

PICTURE_COUNTS = (8, 40)  # smallest and largest number of good pictures that a ground is learnt from
_MIN_AGREEMENT = 0.75  # share of the pictures that must show a part on the ground, or no part
_ALIKE = 2.0  # factor by which the part's share of a picture may differ from the usual share


@dataclass(frozen=True)
class Foreground:
    """Place of the object in pictures of a product.

    `Foreground.of(good_pictures).mask(picture)` is the usual way; `Foreground(given=mask)` takes a single
    mask, such as one made by hand, for all pictures.

    Attributes:
        ground: Ground that good pictures share; None: `foreground_mask` finds the object in each picture.
        given: Mask [h, w], True on the object, stretched over pictures of another size; None: no fixed mask.
        share: Share of a picture that the part usually takes, by `foreground_mask`; None: any share.
    """

    ground: PatternedGround | None = None
    given: Mask | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.given is not None and not self.given.any():
            raise InputError("The mask of the foreground is empty: mark the object in it.")

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> Foreground:
        """Learn the foreground from good pictures `[H, W, 3]` uint8, of any sizes; the first 40 are used.

        If there are 8 pictures or more, and they have a ground (a plain or patterned area that repeats itself
        along their borders):

        - If at least three quarters of the pictures show a part on the ground, the part is the foreground.
        - If at most a quarter show one, the pictures are of a texture, and everything is foreground.

        In all other cases `foreground_mask` is tried. If it finds a part of about the same size in three
        quarters of the pictures, the part that it finds is each picture's foreground. Otherwise everything is
        foreground.
        """
        min_count, max_count = PICTURE_COUNTS
        small_pictures = [shrink(picture) for picture in islice(pictures, max_count)]
        ground = PatternedGround.learn(small_pictures) if len(small_pictures) >= min_count else None
        if ground is None:
            return cls._without_ground(small_pictures)
        part_count = sum(_is_plausible(ground.part_mask(picture)) for picture in small_pictures)
        share_with_part = part_count / len(small_pictures)
        if share_with_part >= _MIN_AGREEMENT:
            return cls(ground=ground)
        if share_with_part <= 1 - _MIN_AGREEMENT:
            return cls._everywhere()
        return cls._without_ground(small_pictures)

    @classmethod
    def _everywhere(cls) -> Foreground:
        """Return the foreground that takes all of each picture."""
        return cls(given=np.ones((1, 1), np.bool_))

    @classmethod
    def _without_ground(cls, small_pictures: Sequence[Picture]) -> Foreground:
        """Return the foreground of a product whose ground is not learnt.

        `foreground_mask` finds it in each picture. If that function finds a part of about the same size in
        fewer than three quarters of these pictures, the foreground is all of each picture.
        """
        if not small_pictures:
            return cls()
        masks = [foreground_mask(picture) for picture in small_pictures]
        shares = [float(mask.mean()) for mask in masks if not mask.all()]
        usual_share = float(np.median(shares)) if shares else 1.0
        usual_count = sum(_is_usual(share, usual_share) for share in shares)
        if usual_count < _MIN_AGREEMENT * len(small_pictures):
            return cls._everywhere()
        return cls(share=usual_share)

    def mask(self, picture: Picture) -> Mask:
        """Return a mask `[H, W]` of the object in a picture `[H, W, 3]` uint8.

        It is True everywhere where no object is found.
        """
        if self.given is not None:
            check_picture(picture)
            return _resize_mask(self.given, picture.shape)
        if self.ground is None:
            mask = foreground_mask(picture)
            if self.share is not None and not _is_usual(float(mask.mean()), self.share):
                return np.ones_like(mask)
            return mask
        part = self.ground.part_mask(shrink(picture))
        if not _is_plausible(part):
            return np.ones(picture.shape[:2], np.bool_)
        return _resize_mask(part, picture.shape)


def _is_plausible(mask: Mask) -> bool:
    """Whether a mask takes a share of the picture that an object may take (`_OBJECT_SHARE`)."""
    smallest, largest = _OBJECT_SHARE
    return bool(smallest <= mask.mean() <= largest)


def _is_usual(share: float, usual_share: float) -> bool:
    """Whether a share differs from the usual share by a factor of `_ALIKE` at most."""
    return usual_share / _ALIKE <= share <= usual_share * _ALIKE


def _resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return the mask scaled to a shape, whose first numbers are height and width."""
    height, width = shape[:2]
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) > 127


def foreground_mask(picture: Picture) -> Mask:
    """Return a mask of the object in a picture, `[H, W]` bool, rather a little too large than too small.

    The border gives the colours of the background. A pixel belongs to the object if its distance from the
    nearest of these colours is above Otsu's threshold. If the result does not look like an object on a
    background, the picture counts as a texture and the mask is True everywhere. This is the case if the two
    classes of pixels do not separate, if the border is not background, or if the object's share is
    implausible.
    """
    from scipy import ndimage

    reduced = shrink(picture)
    everywhere = np.ones(picture.shape[:2], np.bool_)
    if min(reduced.shape[:2]) < 8:
        return everywhere
    small = np.asarray(Image.fromarray(reduced).filter(ImageFilter.MedianFilter(5)), np.float32)
    is_border = np.ones(small.shape[:2], np.bool_)
    edge = max(1, round(0.04 * min(reduced.shape[:2])))
    is_border[edge:-edge, edge:-edge] = False
    # a background may be lit unevenly, so that each of 16 sections of the border has its own median colour
    sections = np.array_split(small[is_border], 16)
    section_colours = np.stack([np.median(section, 0) for section in sections])
    deviations = np.abs(section_colours - np.median(section_colours, 0)).max(1)
    max_deviation = max(12.0, 2.5 * float(np.median(deviations)))  # farther sections may show the object
    background_colours = section_colours[deviations <= max_deviation]
    # distance of each pixel from the nearest of these colours, in the channel that differs most
    distances = np.abs(small[:, :, None] - background_colours).max(-1).min(-1)
    threshold, separation = otsu(distances)
    is_object = distances >= threshold
    background_share_of_border = 1 - is_object[is_border].mean()
    if separation < _MIN_SEPARATION or background_share_of_border < _MIN_BORDER_BACKGROUND:
        return everywhere
    closed = ndimage.binary_closing(np.pad(is_object, 4), iterations=3)
    filled = ndimage.binary_fill_holes(closed)[4:-4, 4:-4]
    mask = ndimage.binary_dilation(_remove_specks(filled), iterations=2)
    if not _is_plausible(mask):
        return everywhere
    return _resize_mask(mask, picture.shape)
