"""The union of a picture's masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets.masks import union
from flawscope.errors import InputError


def test_the_union_is_what_any_mask_marks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    marked = rng.random((3, 7, 5)) < 0.3
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, mask in zip(paths, marked, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 9).save(path)
    np.testing.assert_array_equal(union(paths, (7, 5)), marked.any(0))
    np.testing.assert_array_equal(union([paths[0], marked[1].astype(np.uint8)], (7, 5)), marked[:2].any(0))
    assert not union((), (7, 5)).any()


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    Image.new("L", (5, 7)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: it is 5x7, its picture 4x7; make them agree"):
        union([tmp_path / "m.png"], (7, 4))
    with pytest.raises(InputError, match="the mask of part 3: it is 5x7x3, its picture 5x7"):
        union([np.zeros((7, 5, 3))], (7, 5), "part 3")
