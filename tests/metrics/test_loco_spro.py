"""sPRO against a literal definition, against AU-PRO where they agree, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flawscope.metrics import au_pro, au_spro, saturation_pixels

Regions = list[list[tuple[np.ndarray, float]]]


def draw(seed: int, levels: int | None) -> tuple[list[np.ndarray], Regions]:
    """Pictures with none to three regions, which may overlap; some saturate at a fraction of a pixel."""
    rng = np.random.default_rng(seed)
    maps: list[np.ndarray] = []
    regions: Regions = []
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


def literal_au_spro(maps: list[np.ndarray], regions: Regions, limit: float) -> float:
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
    fpr, pro = np.array(curve).T
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    beyond = int(inside.sum())
    y_limit = 1.0
    if beyond < fpr.size:
        slope = (pro[beyond] - pro[beyond - 1]) / (fpr[beyond] - fpr[beyond - 1])
        y_limit = pro[beyond - 1] + slope * (limit - fpr[beyond - 1])
    y = np.append(pro[inside], y_limit)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_is_the_literal_definition(seed: int, levels: int | None) -> None:
    maps, regions = draw(seed, levels)
    limits = (0.01, 0.05, 0.3, 1.0)
    result = au_spro(maps, regions, limits)
    for limit in limits:
        assert result[limit] == pytest.approx(literal_au_spro(maps, regions, limit), abs=1e-12)


def test_is_au_pro_where_nothing_saturates_early() -> None:
    rng = np.random.default_rng(5)
    masks = np.zeros((3, 12, 12), dtype=bool)
    masks[0, 2:5, 2:7] = True
    masks[1, 8:, 8:] = True
    maps = rng.normal(masks, 1.0).astype(np.float32)
    regions = [[(m, float(m.sum()))] if m.any() else [] for m in masks]
    assert au_spro(maps, regions)[0.3] == au_pro(maps, masks, 0.3)
    assert au_spro(maps, regions)[0.05] == au_pro(maps, masks, 0.05)
    capped = [[(mask, 1e9) for mask, _ in found] for found in regions]
    assert au_spro(maps, capped) == au_spro(maps, regions)


def test_a_part_is_enough_where_the_region_saturates() -> None:
    mask = np.zeros((4, 10), dtype=bool)
    mask[:2] = True
    values = np.zeros((4, 10))
    values[0, :5] = 1
    values[0, 5:] = values[1] = -1
    assert au_spro([values], [[(mask, 5.0)]]) == {0.05: 1.0, 0.3: 1.0}
    assert au_spro([values], [[(mask, 20.0)]]) == {0.05: 0.25, 0.3: 0.25}


@pytest.mark.filterwarnings("error")
def test_what_does_not_take_part() -> None:
    maps, regions = draw(1, None)
    expected = au_spro(maps, regions)
    assert au_spro([*maps, np.full((2, 2), np.nan)], [*regions, None]) == expected
    empty = np.zeros(maps[0].shape, dtype=bool)
    assert au_spro(maps, [[*regions[0], (empty, 3.0)], *regions[1:]]) == expected
    order = [2, 0, 3, 1]
    assert au_spro([maps[i] for i in order], [regions[i] for i in order]) == expected
    assert all(math.isnan(v) for v in au_spro(maps, [[] for _ in maps]).values())
    assert all(math.isnan(v) for v in au_spro([np.ones((2, 2))], [[(np.ones((2, 2), bool), 1.0)]]).values())


def test_bad_input_is_named() -> None:
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(ValueError, match=r"saturation of regions\[0\]\[0\] is 0"):
        au_spro([np.zeros((2, 2))], [[(mask, 0)]])
    with pytest.raises(ValueError, match=r"regions\[0\]\[0\] has shape \(2, 2\), its map has \(3, 3\)"):
        au_spro([np.zeros((3, 3))], [[(mask, 1)]])
    with pytest.raises(ValueError, match="1 maps and 0 lists of regions"):
        au_spro([np.zeros((3, 3))], [])


def test_saturation_from_the_configuration() -> None:
    assert saturation_pixels(1000, 0.25, relative=True) == 250
    assert saturation_pixels(999, 0.5, relative=True) == 499  # cut, as the published code does
    assert saturation_pixels(1, 0.5, relative=True) == 1  # which would divide by 0 here
    assert saturation_pixels(1000, 300, relative=False) == 300
    assert saturation_pixels(200, 300, relative=False) == 200
    assert saturation_pixels(200, 300, relative=False, scale=1 / 16) == 300 / 16
    with pytest.raises(ValueError, match="must all be above 0"):
        saturation_pixels(0, 300, relative=False)
