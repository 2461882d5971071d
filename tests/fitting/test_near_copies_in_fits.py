"""A fit finds pictures that show one part by itself, and counts parts."""

import tracemalloc

import numpy as np
import pytest

from flawscope.pictures import near_duplicates
from flawscope.pictures.empty_pictures import find_blank_pictures
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import group_reader, named_rows, units_of
from flawscope.synthesis.demo import fabric
from near_copy_fits import SIDE, fitted, part

pytestmark = pytest.mark.copies


def test_names_are_believed(tmp_path):
    from PIL import Image

    for k in range(8):
        Image.fromarray(part(k // 2, k % 2)).save(tmp_path / f"{k}.png")
    said = []
    assert fitted(str(tmp_path), group=r"\d+", say=said.append).calibration.unit_count >= 6
    assert any("although their names tell different parts" in line for line in said)


def test_pictures_whose_names_tell_no_part_are_joined_whatever_others_tell():
    looks = [Look.of(part(k, view)) for k in range(4) for view in range(2)]
    names = ["p0_a", "p0_b", "p1_a", "p9_b", "x1", "x2", "y1", "y2"]  # p1 and p9 are believed
    found = units_of(named_rows(names, looks), part_of=group_reader(r"p\d"))
    said = found.remarks
    assert found.numbers == [0, 0, 1, 2, 3, 3, 4, 4]
    assert "p1_a, p9_b, although their names tell different parts" in said[0]
    assert "4 pictures are nearly the same as others, such as x1, x2: one part photographed again?" in said[1]
    assert "Counted as 5 parts; if each shows another part: --group '.*'" in said[1]


def test_exact_copies_are_no_near_copies():
    """They are told where they are left out; they count as one part all the same."""
    looks = [Look.of(part(k)) for k in range(4)]
    found = units_of(named_rows([f"{k}" for k in range(8)], [*looks, *looks]))
    assert (found.numbers, found.remarks) == ([0, 1, 2, 3, 0, 1, 2, 3], [])


@pytest.mark.parametrize("white", [np.uint8(255), np.uint16(65535), np.float32(1)])
def test_noise_alone_shows_nothing_however_deep_the_picture(white):
    rng = np.random.default_rng(0)
    dark = (np.abs(rng.normal(0.01, 0.03, (SIDE, SIDE, 3))).clip(0, 1) * white).astype(white.dtype)
    good = [(part(k) / 255 * white).astype(white.dtype) for k in range(4)]
    assert find_blank_pictures([Look.of(one) for one in [*good, dark]]) == [4]
    fabrics = [fabric.render(SIDE, np.random.default_rng(k), None) for k in range(4)]
    deep = [(one.clip(0, 255) / 255 * white).astype(white.dtype) for one in fabrics]
    assert find_blank_pictures([Look.of(one) for one in deep]) == []


def test_comparing_pictures_holds_little_of_each(monkeypatch):
    """Of each a thumbnail and its spectrum, 33 kB, and not those of its mirror images, 100 kB and more."""
    looks = 75 * [Look.of(part(k)) for k in range(4)]
    monkeypatch.setattr(near_duplicates, "_nominate", lambda smooth, *_: [[(0, 0)] for _ in smooth])
    inner = near_duplicates._INNER
    monkeypatch.setattr(near_duplicates, "_register", lambda a, pictures, shifts: pictures[inner])
    tracemalloc.start()
    near_duplicates.compare_pictures(looks, np.arange(len(looks)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(looks) < 100_000
