"""Seen defects: which they are, how they are seen, and what cannot be used."""

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.fitting.seen_defects import read_defects, seen_defect_pairs
from flawscope.methods.training.prnet.record import METHOD
from flawscope.pictures.decoding import pixel_hash
from flawscope.views.preprocess import Preprocess

SIZE = Preprocess((64, 64))


def read(seen):
    """By hash what `--seen` means, each as one, and what cannot be used."""
    found, unusable = read_defects(seen_defect_pairs(seen, METHOD, 0, None), SIZE)
    return {digest: one for digest, (one,) in found.items()}, unusable


@pytest.fixture
def saved(tmp_path):
    """saved(pairs) is a folder with the pictures 0.png, ... and their masks."""

    def write(pairs):
        (tmp_path / "bad/masks").mkdir(parents=True)
        for k, (picture, mask) in enumerate(pairs):
            Image.fromarray(picture).save(tmp_path / f"bad/{k}.png")
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(tmp_path / f"bad/masks/{k}_mask.png")
        return tmp_path / "bad"

    return write


def test_a_folder_a_list_and_arrays_are_the_same(defects, saved, tmp_path):
    folder = saved(defects[:2])
    (tmp_path / "seen.txt").write_text("bad/0.png\nbad/1.png\n")
    for seen, names in (
        (defects[:2], ["picture 0", "picture 1"]),
        (folder, ["0.png", "1.png"]),
        (str(tmp_path / "seen.txt"), ["0.png", "1.png"]),
    ):
        found, unusable = read(seen)
        assert list(found) == [pixel_hash(picture) for picture, _ in defects[:2]]
        assert [one.name for one in found.values()] == names
        assert unusable == []
        for one, (picture, mask) in zip(found.values(), defects, strict=False):
            np.testing.assert_array_equal(one.image.numpy(), SIZE(picture)[0][0])
            assert np.array_equal(one.mask, mask)


def test_they_are_seen_as_good_pictures_are(defects):
    """At the network's size, by the same preprocessing; the masks follow, and several are one."""
    picture, mask = defects[0]
    large = np.asarray(Image.fromarray(picture).resize((128, 256), Image.Resampling.NEAREST))
    marked = np.zeros((2, 256, 128), bool)
    marked[0, 64:96, 96:128] = marked[1, 96:128, 96:128] = True
    found, unusable = read_defects([(large, [*marked]), (large, [mask])], SIZE)
    ((digest, (defect,)),) = found.items()
    assert digest == pixel_hash(large)
    np.testing.assert_array_equal(defect.image.numpy(), SIZE(large)[0][0])
    expected = np.zeros((64, 64), bool)
    expected[16:32, 48:] = True
    assert np.array_equal(defect.mask, expected)
    assert unusable == ["cannot use the mask of picture 1: it is 64x64, its picture 128x256; make them agree"]


def test_what_cannot_be_used_is_told_and_the_others_are_learnt_from(defects, saved):
    dot = np.zeros((64, 64), bool)
    folder = saved([*defects, (defects[0][0][::-1].copy(), dot), (defects[1][0][::-1].copy(), ~dot)])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])  # cut short
    (folder / "masks/2_mask.png").write_bytes(b"no mask")
    found, unusable = read(folder)
    assert [one.name for one in found.values()] == ["0.png", "4.png"]
    for line, name in zip(unusable, ("1.png", "2_mask.png", "3.png"), strict=True):
        assert name in line
        assert "\n" not in line
    assert "its mask is empty, cut away, or less than a pixel at 64x64" in unusable[2]
    for path in folder.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of 5 seen defects can be used; the first: .*0\.png"):
        read(folder)


def test_a_seen_defect_among_the_good_pictures_is_not_learnt_as_good(fit_small, few, defects):
    made = fit_small([*few[:3], defects[0][0], few[3]], steps=1, seen=defects[:2])
    assert made.failures == ["picture 3 is not good: it is the seen defect picture 0"]
    others = {p.hash for p in made.manifest.pictures if p.role != "seen"}
    assert others == {pixel_hash(p) for p in few[:4]}
    assert {p.hash for p in made.manifest.pictures if p.role == "seen"} == {
        pixel_hash(p) for p, _ in defects[:2]
    }


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (3, "cannot draw 3 seen defects: a list of pictures has 0 defective test pictures with a mask"),
        ("nowhere", "nowhere is neither a number, a folder nor a list of pictures"),
        (-1, "-1 is neither"),
        (2.5, "seen is a number, a folder, a list file, or pairs of picture and mask"),
        (None, "seen is a number"),
        ([("a.png", "b.png", "c.png")], "seen is a number"),
    ],
)
def test_what_seen_cannot_be_is_one_line(seen, text):
    with pytest.raises(InputError, match=text):
        read(seen)
