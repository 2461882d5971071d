"""Parts are numbered among new pictures and against all that are known, by names and by looks."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.table import Picture, next_unit
from flawscope.pictures.units import group_numbers, group_reader, named_rows, units_of
from near_copy_fits import SIDE, part

pytestmark = pytest.mark.copies
KNOWN = 6


def saved_anew(picture, how):
    """The picture as people save it again."""
    image = Image.fromarray(picture)
    if how == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return np.asarray(Image.open(file).convert("RGB"))
    if how == "scaled":
        return np.asarray(image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC))
    edge = max(1, round(0.02 * SIDE))
    return picture[edge:-edge, edge:-edge]


def known_row(k, name=None, look=True):
    row = Picture(f"{k:064d}", "train", name or f"{k:03d}.png", 10 + k)
    return replace(row, look=Look.of(part(k))) if look else row


@pytest.fixture(scope="module")
def known():
    return [known_row(k) for k in range(KNOWN)]


def shown(*pictures, names=()):
    looks = [Look.of(one) for one in pictures]
    return named_rows(names or [f"new_{k}.png" for k in range(len(pictures))], looks)


@pytest.mark.parametrize("how", ["jpeg", "scaled", "cropped"])
def test_a_copy_of_a_known_picture_that_was_saved_anew_is_known_again(known, how):
    new = shown(part(40), saved_anew(part(2), how), part(41), saved_anew(part(5), how))
    found = units_of(new, known)
    fresh = next_unit(known)
    assert found.numbers == [fresh, known[2].unit, fresh + 1, known[5].unit]
    assert {number: one.name for number, one in found.copies.items()} == {1: "002.png", 3: "005.png"}
    assert found.describe_copies() == (
        "2 pictures nearly the same as known ones, such as new_1.png as 002.png"
    )
    assert (found.further, found.remarks) == ([], [])


def test_names_tell_known_parts_whatever_they_look_like(known):
    names = ["002_b.png", "77.png", "x.png"]
    found = units_of(shown(part(40), part(41), part(42), names=names), known, group_reader(r"^(\d+)"))
    fresh = next_unit(known)
    assert found.numbers == [known[2].unit, fresh, fresh + 1]
    assert (found.further, found.copies) == ([0], {})


def test_a_further_picture_of_a_copy_is_of_the_known_part_too(known):
    names = ["p1_a.png", "p1_b.png"]
    found = units_of(shown(part(3), part(40), names=names), known, group_reader(r"p\d"))
    assert found.numbers == [known[3].unit] * 2
    assert ([*found.copies], found.further) == ([0], [1])


def test_names_that_tell_different_parts_are_believed_and_the_likeness_is_told(known):
    found = units_of(shown(part(3), part(40), names=["903.png", "9.png"]), known, group_reader(r"^(\d+)"))
    assert found.numbers == [next_unit(known), next_unit(known) + 1]
    assert found.copies == {}
    assert "903.png, 003.png, although their names tell different parts" in found.remarks[0]


def test_without_looks_only_names_are_known_and_that_is_said():
    blind = [known_row(k, look=False) for k in range(KNOWN)]
    found = units_of(shown(part(2), part(40)), blind)
    assert found.numbers == [next_unit(blind), next_unit(blind) + 1]
    assert found.remarks == [
        "the model keeps no looks of 6 of the 6 pictures that it knows: copies of them that were saved anew "
        "are not known again, so give none [FS-G35]"
    ]
    assert units_of([], blind).remarks == []


def test_what_was_made_from_a_known_picture_is_of_its_part_but_cameras_number_from_1_again():
    known = [Picture("a", "train", "good/1.png", 4), Picture("b", "train", "good/2_jpg.rf.abcdef0123.jpg", 7)]
    changed = named_rows(["good/1_hflip.png", "good/2_jpg.rf.123456abcd.jpg"])
    assert units_of(changed, known).numbers == [4, 7]
    anew = named_rows(["good/1.png", "good/1_hflip.png", "good/2.png"])
    assert units_of(anew, known).numbers == [8, 8, 9]


def test_defects_have_no_part(known):
    defect = Picture("f" * 64, "seen", "new_0.png", look=Look.of(part(40)))
    assert units_of(shown(part(40)), [*known, defect]).numbers == [next_unit(known)]


@pytest.mark.parametrize("seed", range(3))
def test_new_parts_have_units_that_no_known_row_has(seed):
    rng = np.random.default_rng(seed)
    known = [Picture(f"{k}", "train", f"k{k}", int(unit)) for k, unit in enumerate(rng.integers(0, 30, 12))]
    names = [f"n{number}_{k}" for k, number in enumerate(rng.integers(0, 5, 9))]
    found = units_of(named_rows(names), known, group_reader(r"n\d")).numbers
    assert not {*found} & {row.unit for row in known}
    assert min(found) == next_unit(known)
    alone = group_numbers(names, r"n\d")
    assert [unit - next_unit(known) for unit in found] == alone


def test_many_known_pictures_cost_little_and_hide_no_copy():
    """Of more pictures than are all compared with each other, only those beside which new ones lie are."""
    known = [known_row(k) for k in range(40)]
    new = shown(*(saved_anew(part(k), "jpeg") for k in (7, 31)), part(90), part(91))
    found = units_of(new, known)
    assert found.numbers == [17, 41, 50, 51]
    assert [*found.copies] == [0, 1]
