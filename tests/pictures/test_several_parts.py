"""Several drawn parts in a picture, whose places are known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flawscope.pictures.resampling import grey
from flawscope.pictures.several_parts import OVERVIEW, SeveralParts, learn_several, usual_count

SIDE, CELL = 256, 85  # pixels; a part lies anyhow in each cell


def drawn(seed: int, cells: range, other: int | None = None) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Brackets, and a disc in cell `other`, on an uneven ground, [H, W, 3] uint8; where the brackets lie."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    picture = 70 + 40 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3)
    known = []
    for cell in (*cells, *([] if other is None else [other])):
        x, y = ((at + 0.5) * CELL + rng.uniform(-9, 9) for at in (cell % 3, cell // 3))
        angle = rng.uniform(-np.pi, np.pi)
        u = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
        v = np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)
        bars = [
            np.maximum(abs(u - a) - w, abs(v - b) - h) for a, b, w, h in ((0, 14, 22, 6), (-16, 0, 6, 20))
        ]
        shape = np.hypot(u, v) - 18 if cell == other else np.minimum(*bars)
        picture += np.clip(0.5 - shape, 0, 1) * (170 - picture)
        known += [] if cell == other else [(x, y)]
    picture += rng.normal(0, 2, picture.shape)
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2), known


def test_parts_are_found_and_counted_and_other_objects_are_seen() -> None:
    good = [drawn(seed, range(seed % 3, 5 + seed % 3))[0] for seed in range(8)]
    learnt = learn_several(
        [grey(one, 255.0, OVERVIEW) for one in good], lambda i, side: grey(good[i], 255.0, side), "turn"
    )
    settings, reference = learnt.settings, learnt.reference
    assert (learnt.counts, settings.least, settings.most) == ([5] * 8, 5, 5)
    assert learnt.wrong == [""] * 8
    assert SeveralParts.from_dict(settings.to_dict()) == settings
    assert reference.period == 1
    for cells, other in (
        (range(5), None),
        (range(4), None),
        (range(6), None),
        (range(5), 7),
        (range(0), None),
    ):
        picture, known = drawn(100 + len(cells), cells, other)
        small = grey(picture, 255.0, settings.side), grey(picture, 255.0, OVERVIEW)
        found = settings.find(*small, reference)
        assert (len(found.poses), len(found.objects)) == (len(known), int(other is not None))
        at = np.array([(pose.x, pose.y) for pose in found.poses]).reshape(-1, 2) * SIDE / settings.side
        for place in known:  # the middle of the reference is not that of the drawing
            assert np.hypot(*(at - place).T).min() < 12


def test_number_of_parts_is_that_of_nearly_all_good_pictures_or_a_range() -> None:
    assert usual_count([6] * 19 + [5]) == (6, 6)
    assert usual_count([3, 4, 6, 4]) == (3, 6)
