"""Seen defects: which they are, that evaluation leaves them out, and what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.fitting.training_pictures import read_defects
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor import Predictor

Fit = Callable[..., Predictor]
Pairs = list[tuple[np.ndarray, np.ndarray]]
Saved = Callable[[Pairs], Path]


def seen_by(predictor: Predictor) -> dict[str, str]:
    """Hashes and names."""
    return {p.hash: p.name for p in predictor.manifest.pictures if p.role == "seen"}


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """saved(pairs) is a folder with the pictures 0.png, ... and their masks."""

    def write(pairs: Pairs) -> Path:
        for k, (picture, mask) in enumerate(pairs):
            for path, pixels in (
                (tmp_path / f"bad/{k}.png", picture),
                (tmp_path / f"bad/masks/{k}_mask.png", mask.astype(np.uint8) * np.uint8(255)),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        return tmp_path / "bad"

    return write


# ------------------------------------------------------------------------------------- what they may be


def test_a_folder_a_list_and_arrays_give_the_same_model(
    fit_small: Fit, few: list[np.ndarray], defects: Pairs, saved: Saved, tmp_path: Path
) -> None:
    folder = saved(defects[:2])
    (tmp_path / "seen.txt").write_text("bad/0.png\nbad/1.png\n")
    arrays, from_folder, from_list = (
        fit_small(steps=2, seen=seen) for seen in (defects[:2], folder, str(tmp_path / "seen.txt"))
    )
    assert list(seen_by(arrays).values()) == ["picture 0", "picture 1"]
    assert list(seen_by(from_folder).values()) == ["0.png", "1.png"]
    hashes = [pixel_hash(picture) for picture, _ in defects[:2]]
    for made in (arrays, from_folder, from_list):
        assert list(seen_by(made)) == hashes
        assert made.manifest.facts["seen_defects"] == 2
        assert made.failures == []
        for name, values in arrays.artefact.tensors.items():
            assert np.array_equal(values, made.artefact.tensors[name]), name


def test_they_are_seen_as_good_pictures_are(defects: Pairs) -> None:
    """At the network's size, by the same preprocessing; the mask follows."""
    picture, mask = defects[0]
    large = np.asarray(Image.fromarray(picture).resize((128, 256), Image.Resampling.NEAREST))
    marked = np.zeros((256, 128), bool)
    marked[64:128, 96:128] = True
    preprocess = Preprocess((64, 64))
    found, unusable = read_defects([(large, [marked]), (large, [mask])], preprocess)
    ((digest, (defect,)),) = found.items()
    assert digest == pixel_hash(large)
    np.testing.assert_array_equal(defect.image.numpy(), preprocess(large)[0][0])
    expected = np.zeros((64, 64), bool)
    expected[16:32, 48:] = True
    assert np.array_equal(defect.mask, expected)
    assert unusable == ["cannot use the mask of picture 1: it is 64x64, its picture 128x256; make them agree"]


# ------------------------------------------------------------------------------------- what cannot be used


def test_what_cannot_be_used_is_told_and_the_others_are_learnt_from(
    fit_small: Fit, defects: Pairs, saved: Saved
) -> None:
    dot = np.zeros((64, 64), bool)
    folder = saved([*defects, (defects[0][0][::-1].copy(), dot), (defects[1][0][::-1].copy(), ~dot)])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])  # cut short
    (folder / "masks/2_mask.png").write_bytes(b"no mask")
    said: list[str] = []
    made = fit_small(steps=1, seen=folder, say=said.append)
    assert list(seen_by(made).values()) == ["0.png", "4.png"]
    assert len(made.failures) == 3
    for line, name in zip(made.failures, ("1.png", "2_mask.png", "3.png"), strict=True):
        assert name in line
        assert "\n" not in line
    assert "its mask is empty, cut away, or less than a pixel at 64x64" in made.failures[2]
    assert any("2 seen defects" in line for line in said)


def test_where_none_can_be_used_it_is_one_error(fit_small: Fit, defects: Pairs, saved: Saved) -> None:
    folder = saved(defects[:2])
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of 2 seen defects can be used; the first: .*0\.png") as told:
        fit_small(seen=folder)
    assert "\n" not in str(told.value)


def test_a_seen_defect_among_the_good_pictures_is_not_learnt_as_good(
    fit_small: Fit, few: list[np.ndarray], defects: Pairs
) -> None:
    made = fit_small([*few[:3], defects[0][0], few[3]], steps=1, seen=defects[:2])
    assert made.failures == ["picture 3 is not good: it is the seen defect picture 0"]
    others = {p.hash for p in made.manifest.pictures if p.role != "seen"}
    assert others == {pixel_hash(p) for p in few[:4]}
    assert set(seen_by(made)) == {pixel_hash(p) for p, _ in defects[:2]}


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (3, "cannot draw 3 seen defects: a list of pictures has 0 test pictures"),
        ("nowhere", "setting seen: nowhere is neither a number, a folder nor a list of pictures"),
        (-1, "setting seen: -1 is neither"),
        (2.5, "seen is a number, a folder, a list file, or pairs of picture and mask"),
        (None, "seen is a number, a folder, a list file, or pairs"),
        (["a.png", "b.png"], "seen is a number, a folder, a list file, or pairs"),
        ([("a.png", "b.png", "c.png")], "seen is a number, a folder, a list file, or pairs"),
    ],
)
def test_what_seen_cannot_be_is_one_line(fit_small: Fit, seen: object, text: str) -> None:
    with pytest.raises(InputError, match=text) as told:
        fit_small(seen=seen)
    assert "\n" not in str(told.value)
