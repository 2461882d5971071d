"""Names tell which pictures were made from one, and cameras' numbers do not."""

from pathlib import Path

import pytest

from flawscope.datasets import Item
from flawscope.datasets.dataset import SplitSettings, split_dataset
from flawscope.evaluation.promise import _of_same_sources
from flawscope.pictures.units import group_numbers

HASH = "rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9"


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([f"a_png.{HASH}1.jpg", f"a_png.{HASH}2.jpg", f"b_png.{HASH}3.jpg"], [0, 0, 1]),
        ([f"x/a.jpeg.{HASH}.jpg", f"y/a.jpeg.{HASH}.jpg"], [0, 1]),
        (["a.png", "a_aug1.png", "A_aug2.png", "b.png"], [0, 0, 0, 1]),
        (["a.png", "a_hflip.png", "a-rot90.png", "a_mirrored.jpg"], [0, 0, 0, 0]),
        (["12_aug.png", "13_aug.png", "teil_rot1.png", "teil_rot2.png", "teil.png"], [0, 1, 2, 3, 4]),
        (["a (1).png", "a (2).png", "a.png", "b - Kopie.png", "b.png"], [0, 1, 2, 3, 4]),
        (["IMG_0001.png", "IMG_0002.png", "IMG_0002.bmp"], [0, 1, 2]),
        (["", "part 1", "part 2"], [0, 1, 2]),
    ],
)
def test_parts_by_what_tools_add_to_names(names, parts):
    assert group_numbers(names, None) == parts
    assert group_numbers(names, ".*") == [*range(len(names))] or "" in names


def test_a_split_keeps_pictures_made_from_one_together(tmp_path):
    paths = [tmp_path / f"p{k}_png.{HASH}{view}.jpg" for k in range(12) for view in range(3)]
    made = split_dataset(tmp_path, "folder", tmp_path, paths, [], SplitSettings(0, 0.3, None))
    sides = [{item.path.name.split("_")[0] for item in items} for items in (made.train, made.test)]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_test_pictures_made_from_training_pictures_are_named():
    def items(*names):
        return [Item(Path(name), "good", False) for name in names]

    train = items(f"a_png.{HASH}1.jpg", f"b_png.{HASH}2.jpg", "c.png", "IMG_0001.png")
    shown = items(f"a_png.{HASH}3.jpg", "c_hflip.png", "IMG_0002.png", "d.png")
    assert _of_same_sources(train, shown) == [0, 1]
