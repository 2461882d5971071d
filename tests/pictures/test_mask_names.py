"""Masks are told from pictures by their look first: a photograph is a picture, whatever its name."""

import numpy as np
import pytest
from PIL import Image

from flawscope.pictures.listing import list_inputs, pictures_in
from flawscope.pictures.mask_files import LOOKED_AT, find_masks, find_photographs
from flawscope.pictures.masks import is_photograph

RNG = np.random.default_rng(0)
GROUND = np.add.outer(np.arange(96), 2 * np.arange(96)) // 3 + 40.0


def photograph(path, grey=False, dark=False):
    """A part under uneven light, with the noise of a sensor; dark: before a black ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = GROUND[:, :, None] * (1, 0.8, 0.6) + RNG.normal(0, 4, (96, 96, 3))
    values[:60] *= not dark
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    (image.convert("L") if grey else image).save(path)
    return path


def drawn_mask(path, peak=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((96, 96), np.uint8)
    values[20:40, 30 : 40 + RNG.integers(20)] = peak
    Image.fromarray(values).save(path)
    return path


NAMES = [  # of a photograph, and of the picture with which its name pairs
    ("pcb1_mask_top.jpg", "pcb1.jpg"),
    ("4712_gt.jpg", "4712.jpg"),
    ("q1_seg1.jpg", "q1.jpg"),
    ("masks/9.png", "9.png"),
    ("pcb7_soldermask.png", "pcb7.png"),
    ("pcb7_mask_top.png", "pcb7.png"),
    ("x_gt.png", "x.png"),
    ("mask_of_a.bmp", "a.bmp"),
    ("ground_truth/1.jpg", "images/1.jpg"),
    ("part_segmentation.tif", "part.tif"),
    ("annotations/b.png", "images/b.png"),
    ("Maske/3.png", "3.png"),
    ("7 (2)_masque.jpg", "7 (2).jpg"),
]


@pytest.mark.parametrize("look", ["colour", "grey", "dark"])
@pytest.mark.parametrize(("name", "picture"), NAMES)
def test_a_photograph_is_a_picture_whatever_its_name(tmp_path, name, picture, look):
    named = photograph(tmp_path / name, grey=look == "grey", dark=look == "dark")
    other = photograph(tmp_path / picture)
    assert sorted(pictures_in(tmp_path)) == sorted([named, other])
    assert list_inputs(tmp_path)[1] == []
    assert find_photographs([named, other]) == [named]


def test_one_photograph_among_masks_and_one_mask_among_photographs(tmp_path):
    pictures = [photograph(tmp_path / f"{k}.png") for k in range(40)]
    masks = [drawn_mask(tmp_path / f"{k}_mask.png") for k in range(39)]
    odd = photograph(tmp_path / "39_mask.png")
    assert find_masks([*pictures, *masks, odd]).keys() == {*masks}
    assert find_photographs([*pictures, *masks, odd]) == [odd]
    tops = [photograph(tmp_path / f"top/{k}_gt.png") for k in range(30)]
    of = [photograph(tmp_path / f"top/{k}.png") for k in range(30)]
    tops[7] = drawn_mask(tops[7])
    assert find_masks([*of, *tops]) == {tops[7]: of[7]}


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_it_is_seen_where_all_files_are_of_one_size(tmp_path, suffix):
    pictures = [photograph(tmp_path / f"{k}.{suffix}", grey=True) for k in range(30)]
    masks = [drawn_mask(tmp_path / f"{k}_mask.{suffix}") for k in range(29)]
    odd = photograph(tmp_path / f"29_mask.{suffix}", grey=True)
    assert len({path.stat().st_size for path in [*masks, odd]}) == 1
    assert odd not in find_masks([*pictures, *masks, odd])


def test_masks_that_are_stored_badly_stay_masks(tmp_path):
    """They are refused when they are read, with the reason."""
    picture, mask = photograph(tmp_path / "a.png"), tmp_path / "masks/a.jpg"
    mask.parent.mkdir()
    classes = np.repeat(np.arange(4, dtype=np.uint8), 24)[:, None] * np.ones(96, np.uint8) * 10
    Image.fromarray(classes).save(mask, quality=60)
    assert not is_photograph(mask)
    assert find_masks([picture, mask]) == {mask: picture}


def test_views_named_by_a_weak_word_are_told_of_no_more_than_before(tmp_path):
    files = [photograph(tmp_path / name) for name in ("a.png", "a_label.png", "b.png", "b_label.png")]
    assert find_masks(files) == {}
    assert find_photographs(files) == []


def test_few_of_many_files_are_looked_at(tmp_path, monkeypatch):
    from flawscope.pictures import mask_files

    seen = []
    monkeypatch.setattr(mask_files, "_look_at", lambda path, *stamp: not seen.append(path))
    first = photograph(tmp_path / "0.png")
    one = drawn_mask(tmp_path / "masks/0.png")
    files = [first, one]
    for k in range(1, 3000):
        for name, source in ((f"{k}.png", first), (f"masks/{k}.png", one)):
            (tmp_path / name).hardlink_to(source)
            files.append(tmp_path / name)
    assert len(find_masks(files)) == 3000
    assert len(seen) <= 3 * LOOKED_AT
