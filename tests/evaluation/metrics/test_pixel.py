"""Pixel metrics against a literal definition, image metrics, two public packages, and properties; sPRO
against a literal definition."""

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import ndimage

from flawscope.evaluation.metrics import au_spro, image_metrics, pixel_metrics, saturation_pixels
from flawscope.evaluation.metrics import auroc_au_pro as ranking


def draw(seed, levels=None, share=0.2):
    """Pictures of different sizes with ragged regions; good ones among them."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(5):
        shape = tuple(rng.integers(4, 14, size=2))
        mask = rng.random(shape) < (0 if i == 2 else share)
        values = rng.normal(1.2 * mask, 1.0)
        if levels is not None:
            values = np.round(values * levels / 4)
        maps.append(values.astype(np.float32))
        masks.append(mask)
    return maps, masks


def literal_regions(mask):
    """8-connected parts, as lists of pixels."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    return [[*zip(*np.nonzero(numbers == k), strict=True)] for k in range(1, count + 1)]


def literal_au_pro(maps, masks, limit):
    """The definition, word for word: every threshold, every region, every trapezoid."""
    regions = [(m, region) for m, mask in zip(maps, masks, strict=True) for region in literal_regions(mask)]
    normal = [float(v) for m, mask in zip(maps, masks, strict=True) for v in m[~mask]]
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps = [sum(float(m[p]) >= threshold for p in region) / len(region) for m, region in regions]
        false_alarms = sum(v >= threshold for v in normal)
        curve.append((false_alarms / len(normal), sum(overlaps) / len(overlaps)))
    return literal_area(curve, limit)


def literal_area(curve, limit):
    """Trapezoids under the points, up to the limit, where a line is cut."""
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x1 > limit:
            if x0 < limit:
                y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize("levels", [None, 1, 3, 12])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.05, 0.2, 0.8])
def test_au_pro_is_the_literal_definition(seed, levels, share):
    maps, masks = draw(seed, levels, share)
    found = pixel_metrics(maps, masks)
    assert found.au_pro == pytest.approx(literal_au_pro(maps, masks, 0.3), abs=1e-12)
    assert found.au_pro_05 == pytest.approx(literal_au_pro(maps, masks, 0.05), abs=1e-12)
    assert found.regions == sum(len(literal_regions(mask)) for mask in masks)


@pytest.mark.parametrize("levels", [None, 3])
def test_the_rest_is_that_of_one_score_per_picture(levels):
    maps, masks = draw(11, levels)
    labels, scores = (np.concatenate([one.ravel() for one in several]) for several in (masks, maps))
    assert astuple(pixel_metrics(maps, masks))[:4] == astuple(image_metrics(labels, scores))


def by_formula():
    """Four pictures of 24 x 32, no random generator; in the third, six pixels joined by their corners."""
    i, y, x = np.meshgrid(np.arange(4), np.arange(24), np.arange(32), indexing="ij")
    masks = ((y - 8) ** 2 + (x - 8) ** 2 < 12 + 8 * i) | ((y >= 14) & (y < 14 + 2 * i) & (x >= 20))
    masks |= (y == x - 20) & (i == 2) & (y < 6)
    masks[3] = False
    maps = (i * 7919 + y * 104729 + x * 1299709) % 251 + 60 * masks
    return maps.astype(np.float32), masks


# (MVTec's code, anomalib 2.7.0), computed once on `by_formula` with numpy 2 and torch on a CPU.
# - MVTec's evaluation code as packaged on PyPI by pyaupro 0.1.11 (`_reference.compute_pro`), its curve
#   integrated with NumPy's trapezoid rule and interpolated at the limit. It holds the rate in float32.
# - anomalib.metrics.aupro._AUPRO(fpr_limit=limit): one point per distinct score too, float32 throughout.
GOLDEN = {
    "au_pro_05": (0.2338059418596771, 0.23380595445632935),
    "au_pro": (0.3770267108141417, 0.37702667713165283),
}


def test_au_pro_golden_values_of_public_packages():
    maps, masks = by_formula()
    maps.setflags(write=False)  # arguments are left alone
    masks.setflags(write=False)
    found = pixel_metrics(maps, masks)
    for name, (mvtec, anomalib) in GOLDEN.items():
        assert getattr(found, name) == pytest.approx(mvtec, abs=2e-8)
        assert getattr(found, name) == pytest.approx(anomalib, abs=2e-7)
    assert found.regions == 6


def test_chunks_make_no_difference(monkeypatch):
    for levels in (None, 3):
        maps, masks = draw(31, levels)
        whole = astuple(pixel_metrics(maps, masks))
        monkeypatch.setattr(ranking, "BATCH", 7)
        assert astuple(pixel_metrics(maps, masks)) == whole
        monkeypatch.setattr(ranking, "CHUNK", 5)  # now regions run over the ends of chunks, and share them
        assert astuple(pixel_metrics(maps, masks)) == pytest.approx(whole, abs=1e-14)
        monkeypatch.undo()


@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_nan():
    values = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)
    good, full = np.zeros((1, 4, 4), dtype=bool), np.ones((1, 4, 4), dtype=bool)
    for maps, masks, regions in ((values, good, 0), (values, full, 1), ([], [], 0), (values, [None], 0)):
        found = pixel_metrics(maps, masks)
        assert np.isnan(astuple(found)[:5]).all()
        assert found.regions == regions
    maps, masks = draw(51)  # pictures without ground truth take no part
    unknown = np.full((3, 3), np.nan, dtype=np.float32)
    assert pixel_metrics([unknown, *maps], [None, *masks]) == pixel_metrics(maps, masks)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_only_valid_pixels_count(seed, levels):
    """As if the others were cut away: here whole rows, so that what is left is a picture again."""
    maps, masks = draw(seed, levels)
    cut = pixel_metrics([m[2:] for m in maps], [_apart(m)[2:] for m in masks])
    valid = [np.arange(len(m))[:, None] >= np.full(m.shape[1], 2) for m in maps]
    hidden = [np.where(v, m, np.nan).astype(np.float32) for m, v in zip(maps, valid, strict=True)]
    masks = [_apart(m) for m in masks]
    assert pixel_metrics(hidden, masks, valid=valid) == cut
    assert pixel_metrics(maps, masks, valid=[None] * 5) == pixel_metrics(maps, masks)


def _apart(mask):
    """Without defects across the cut, which would be one region and not two."""
    mask = mask.copy()
    mask[1] = False
    return mask


def test_a_defect_that_is_cut_in_two_is_one_region_with_the_pixels_that_count():
    rng = np.random.default_rng(1)
    values, mask = rng.random((9, 9)).astype(np.float32), np.zeros((9, 9), bool)
    mask[1:8, 4] = mask[6:8, 0] = True
    valid = np.ones((9, 9), bool)
    valid[4] = False
    found = pixel_metrics([values], [mask], valid=[valid])
    assert found.regions == 2
    rows = [*range(4), *range(5, 9)]  # the row is gone, and both ends of the defect touch
    assert found == pixel_metrics([values[rows]], [mask[rows]])


def test_wider_maps_keep_their_precision():
    mask = np.array([[True, False]])
    near = np.array([[np.nextafter(1.0, 2.0), 1.0]])
    assert pixel_metrics([near], [mask]).auroc == 1
    assert pixel_metrics([near.astype(np.float32)], [mask]).auroc == 0.5
    assert pixel_metrics([np.array([[7, 3]], dtype=np.uint8)], [mask]).f1_threshold == 7


@pytest.mark.parametrize(
    ("maps", "masks", "says"),
    [
        ([np.full((2, 2), np.nan)], [np.zeros((2, 2), bool)], r"maps\[0\] contains NaN"),
        ([np.zeros((2, 2))], [np.zeros((2, 2), np.uint8)], r"masks\[0\] has dtype uint8, expected bool"),
        (
            [np.zeros((2, 2))],
            [np.zeros((2, 3), bool)],
            r"masks\[0\] has shape \(2, 3\), its map has \(2, 2\)",
        ),
        ([np.zeros((2, 2))], [], "1 maps and 0 masks"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), r"maps\[0\] has shape \(2,\), expected \[H, W\]"),
        ([np.zeros((2, 2), complex)], [np.zeros((2, 2), bool)], "expected real numbers"),
    ],
)
def test_bad_input_is_named(maps, masks, says):
    with pytest.raises(ValueError, match=says):
        pixel_metrics(maps, masks)
    for valid in ([np.ones((2, 3), bool)], [np.ones((2, 2))], []):
        with pytest.raises(ValueError, match="valid"):
            pixel_metrics([np.zeros((2, 2))], [np.zeros((2, 2), bool)], valid=valid)


def draw_regions(seed, levels):
    """Pictures with none to three regions, which may overlap; some saturate at a fraction of a pixel."""
    rng = np.random.default_rng(seed)
    maps = []
    regions = []
    for count in (2, 0, 3, 1):
        shape = tuple(rng.integers(5, 12, size=2))
        masks = [rng.random(shape) < 0.15 for _ in range(count)]
        masks = [mask for mask in masks if mask.any()]
        values = rng.normal(np.sum([np.zeros(shape), *masks], axis=0), 1.0)
        maps.append(np.round(values * levels / 4) if levels else values)
        saturations = [float(rng.uniform(0.3, 1.2 * m.sum())) for m in masks]
        if saturations:
            saturations[0] = float(math.ceil(saturations[0]))
        regions.append(list(zip(masks, saturations, strict=True)))
    return maps, regions


def literal_au_spro(maps, regions, limit):
    normal = []
    for values, found in zip(maps, regions, strict=True):
        union = np.any([np.zeros(values.shape, bool), *(mask for mask, _ in found)], axis=0)
        normal += values[~union].tolist()
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        spro = [
            min((values[mask] >= threshold).sum() / min(saturation, mask.sum()), 1.0)
            for values, found in zip(maps, regions, strict=True)
            for mask, saturation in found
        ]
        curve.append((sum(v >= threshold for v in normal) / len(normal), float(np.mean(spro))))
    return literal_area(curve, limit)


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_au_spro_is_the_literal_definition(seed, levels):
    maps, regions = draw_regions(seed, levels)
    limits = (0.01, 0.05, 0.3, 1.0)
    result = au_spro(maps, regions, limits)
    for limit in limits:
        assert result[limit] == pytest.approx(literal_au_spro(maps, regions, limit), abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_what_does_not_take_part_in_au_spro():
    maps, regions = draw_regions(1, None)
    expected = au_spro(maps, regions)
    assert au_spro([*maps, np.full((2, 2), np.nan)], [*regions, None]) == expected
    empty = np.zeros(maps[0].shape, dtype=bool)
    assert au_spro(maps, [[*regions[0], (empty, 3.0)], *regions[1:]]) == expected
    order = [2, 0, 3, 1]
    assert au_spro([maps[i] for i in order], [regions[i] for i in order]) == expected
    assert all(math.isnan(v) for v in au_spro(maps, [[] for _ in maps]).values())
    assert all(math.isnan(v) for v in au_spro([np.ones((2, 2))], [[(np.ones((2, 2), bool), 1.0)]]).values())


def test_bad_regions_are_named():
    mask = np.ones((2, 2), dtype=bool)
    for side, regions, says in (
        (2, [[(mask, 0)]], r"saturation of regions\[0\]\[0\] is 0"),
        (3, [[(mask, 1)]], r"regions\[0\]\[0\] has shape \(2, 2\), its map has \(3, 3\)"),
        (3, [], "1 maps and 0 lists of regions"),
    ):
        with pytest.raises(ValueError, match=says):
            au_spro([np.zeros((side, side))], regions)


def test_saturation_from_the_configuration():
    for pixels, share, saturation in ((1000, 0.25, 250), (999, 0.5, 499), (1, 0.5, 1)):  # cut, and never 0
        assert saturation_pixels(pixels, share, relative=True) == saturation
    assert [saturation_pixels(n, 300, relative=False) for n in (1000, 200)] == [300, 200]
    assert saturation_pixels(200, 300, relative=False, scale=1 / 16) == 300 / 16
    with pytest.raises(ValueError, match="must all be above 0"):
        saturation_pixels(0, 300, relative=False)
