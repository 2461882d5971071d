"""Every fault is planted here, so the findings are known exactly."""

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.errors import InputError


def found(root):
    return [(f.severity, f.code, f.subject, f.others) for f in check(root, near=False).findings]


def test_a_clean_set_has_no_findings(mvtec, tmp_path):
    report = check(mvtec)
    assert report.findings == ()
    assert report.ok
    assert report.counts == (
        ("train", "good", 20),
        ("test", "good", 2),
        ("test", "bent", 2),
        ("test", "cut", 2),
    )
    assert report.sizes == ((48, 48, 26),)
    assert report.modes == (("colour", 26),)
    assert report.lines()[-1] == "nothing found"
    assert check(open_dataset(mvtec), near=False) == check(mvtec, near=False) == report
    assert check(str(mvtec), near=False).to_dict() == report.to_dict()
    with pytest.raises(InputError):
        check(tmp_path / "nowhere")


def test_large_pictures_lose_small_defects_by_default(tmp_path, save):
    """2,048 pixels are four times what PatchCore sees by default."""
    for k, width in enumerate((1200, 2048, 400)):
        save(tmp_path / f"good/{k}.png", np.zeros((width, width), np.uint8) + k)
    note = next(f for f in check(tmp_path).findings if f.code == "reduced")
    assert note.line().startswith(
        "note: pictures are 2048x2048 and seen at the default size, 512 px, where a defect "
    )


def test_nearly_the_same_in_train_and_test(mvtec, save):
    picture = Image.open(save(mvtec / "train/good/big.png", seed=5, side=256))
    picture.save(mvtec / "test/good/again.jpg", quality=60)
    picture.resize((248, 248)).save(mvtec / "train/good/smaller.png")
    report = check(mvtec)
    findings = [f for f in report.findings if f.code != "mixed-sizes"]
    assert [(f.severity, f.code, f.subject, f.others) for f in findings] == [
        (
            *("warning", "nearly-in-two-splits", "train/good/big.png"),
            ("train/good/smaller.png", "test/good/again.jpg"),
        )
    ]
    assert [f.code for f in check(mvtec, near=False).findings] == ["mixed-sizes"]
