"""Every fault is planted here, so the findings are known exactly."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets.check import check


def found(root):
    return [(f.severity, f.code, f.subject, f.others) for f in check(root, near=False).findings]


def animated(source, target):
    with Image.open(source) as first:
        first.rotate(5).save(target, save_all=True, append_images=[first.rotate(90)])


GOOD, TEST, TRUTH = "train/good/", "test/", "ground_truth/"
PLANTED = {  # what is done to the clean set -> what is found
    "unreadable": (
        lambda r: (r / GOOD / "003.png").write_bytes(b"no"),
        ("error", "unreadable", GOOD + "003.png", ()),
    ),
    "half": (
        lambda r: (r / TEST / "cut/001.png").write_bytes((r / TEST / "cut/001.png").read_bytes()[:900]),
        ("error", "unreadable", TEST + "cut/001.png", ()),
    ),
    "in two splits": (
        lambda r: Image.open(r / GOOD / "007.png").save(r / TEST / "good/other_name.bmp"),
        ("error", "in-two-splits", GOOD + "007.png", (TEST + "good/other_name.bmp",)),
    ),
    "copies": (
        lambda r: [shutil.copy(r / GOOD / "000.png", r / GOOD / name) for name in ("a.png", "b.png")],
        ("warning", "copy", GOOD + "000.png", (GOOD + "a.png", GOOD + "b.png")),
    ),
    "a folder copied": (
        lambda r: shutil.copytree(r / GOOD, r / "train/Kopie von good"),
        ("warning", "copy", "train/Kopie von good", ...),
    ),
    "some of a folder in the test": (
        lambda r: [shutil.copy(r / GOOD / f"00{k}.png", r / TEST / f"good/x{k}.png") for k in (1, 2, 3)],
        ("error", "in-two-splits", "test/good", ...),
    ),
    "good and bad": (
        lambda r: shutil.copy(r / TEST / "good/000.png", r / TEST / "bent/001.png"),
        ("error", "good-and-bad", TEST + "bent/001.png", (TEST + "good/000.png",)),
    ),
    "broken mask": (
        lambda r: (r / TRUTH / "cut/000_mask.png").write_bytes(b""),
        ("error", "mask-unreadable", TRUTH + "cut/000_mask.png", ()),
    ),
    "no masks": (lambda r: shutil.rmtree(r / TRUTH), ("note", "no-masks", ".", ())),
    "plain": (
        lambda r: Image.new("RGB", (48, 48), (3, 3, 3)).save(r / GOOD / "dark.png"),
        ("warning", "plain", GOOD + "dark.png", ()),
    ),
    "no suffix": (
        lambda r: (r / GOOD / "IMG_0001").touch(),
        ("warning", "unknown-format", "train/good", (GOOD + "IMG_0001",)),
    ),
    "frames": (
        lambda r: animated(r / GOOD / "000.png", r / GOOD / "000.gif") or (r / GOOD / "000.png").unlink(),
        ("error", "unreadable", GOOD + "000.gif", ()),
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_the_one_that_is_found(mvtec, fault):
    plant, finding = PLANTED[fault]
    plant(mvtec)
    report = check(mvtec, near=False)
    (one,) = report.findings
    assert (one.severity, one.code, one.subject) == finding[:3]
    assert finding[3] in (..., one.others)
    if finding[3] is ...:  # one line for the folder, which has the names of all
        assert len(one.others) >= 6
    assert report.ok == (finding[0] != "error")
    assert report.findings[0].message
    assert str(mvtec) not in report.findings[0].line()


def test_masks(mvtec, save, mask):
    truth = mvtec / "ground_truth"
    (truth / "bent/000_mask.png").unlink()
    save(truth / "bent/001_mask.png", np.zeros_like(mask))
    save(truth / "cut/000_mask.png", mask[::2])
    save(truth / "cut/001_mask.png", mask[::2, ::2])
    save(truth / "cut/555_mask.png", mask)
    save(truth / "good/000_mask.png", np.zeros_like(mask))  # some sets have these; nothing is wrong
    assert found(mvtec) == [
        ("error", "mask-size", "ground_truth/cut/000_mask.png", ()),  # another shape
        ("warning", "mask-empty", "ground_truth/bent/001_mask.png", ()),
        ("warning", "mask-missing", "test/bent/000.png", ()),
        ("warning", "mask-size", "ground_truth/cut/001_mask.png", ()),  # half the size, same shape
        ("warning", "mask-stray", "ground_truth/cut/555_mask.png", ()),
    ]


def test_of_several_masks_one_may_be_empty(tmp_path, save, mask):
    for k in range(20):
        save(tmp_path / f"train/good/{k}.png")
    save(tmp_path / "validation/good/0.png")
    save(tmp_path / "test/good/0.png")
    save(tmp_path / "test/logical_anomalies/0.png")
    save(tmp_path / "ground_truth/logical_anomalies/0/000.png", mask)
    save(tmp_path / "ground_truth/logical_anomalies/0/001.png", np.zeros_like(mask))
    assert found(tmp_path) == []


def test_mixed_sizes_and_modes(mvtec, save):
    save(mvtec / "train/good/wide.png", seed=1, side=64)
    grey = np.asarray(Image.open(save(mvtec / "x.png", seed=2)).convert("L"))
    (mvtec / "x.png").unlink()
    save(mvtec / "train/good/grey.png", grey)
    save(mvtec / "train/good/deep.png", grey.astype(np.uint16) * 16 + np.arange(48, dtype=np.uint16))
    report = check(mvtec, near=False)
    assert [(f.code, f.message) for f in report.findings] == [
        ("mixed-modes", "different kinds of pixels: colour (27), 16-bit grey (1), grey (1)"),
        ("mixed-sizes", "2 picture sizes: 48x48 (28), 64x64 (1)"),
    ]
    assert [f.others for f in report.findings] == [(), ("train/good/wide.png",)]


def test_files_that_take_no_part(mvtec, save):
    save(mvtec / "preview.png")
    save(mvtec / "old/1.png")
    save(mvtec / "old/2.png")
    for name in ("b.mp4", "a.mp4"):
        (mvtec / "train/good" / name).touch()
    for name in ("readme.txt", "~$list.xlsx", "bad.zip"):
        (mvtec / name).touch()
    assert found(mvtec) == [
        ("warning", "unknown-format", ".", ("bad.zip",)),
        ("warning", "unknown-format", "train/good", ("train/good/a.mp4", "train/good/b.mp4")),
        ("note", "beside", ".", ("readme.txt",)),
        ("note", "unused", ".", ()),
        ("note", "unused", "old", ()),
    ]
    remedies = [one.remedy for one in check(mvtec, near=False).findings if one.code == "unknown-format"]
    assert remedies == ["unpack archives, and give the folder", "take single pictures out of videos"]


def test_few_pictures_and_nothing_to_test_are_told_and_a_folder_of_good_ones_has_no_splits(tmp_path, save):
    for k in range(3):
        save(tmp_path / f"{k}.png")
    report = check(tmp_path)
    assert [f.code for f in report.findings] == ["few", "no-test"]
    assert "only 3 pictures to learn from: no false-alarm rate below 25.0%" in report.findings[0].message
    assert report.ok
    for k in range(3):
        save(tmp_path / "part/good" / f"{k}.png")
    shutil.copy(tmp_path / "part/good/0.png", tmp_path / "part/good/copy.png")
    for root in (tmp_path / "part", tmp_path / "part/good"):
        said = " ".join(check(root).lines())
        assert "the same picture is 2 times in the folder" in said
        assert not {"train", "test"} & set(re.findall(r"\w+", said))


def test_splits_are_told_by_what_their_pictures_are_for(mvtec, save):
    save(mvtec / "validation/good/0.png")
    for where in ("train/good/again.png", "test/good/again.png"):
        shutil.copy(mvtec / "train/good/000.png", mvtec / where)
    shutil.copy(mvtec / "test/good/001.png", mvtec / "test/good/twice.png")
    report = check(mvtec, near=False)
    said = "\n".join(report.lines())
    assert "the same picture is among those to learn from and among those to test with" in said
    assert "the same picture is 2 times among those to test with" in said
    assert [f"  {words} " in said for words in ("to learn from", "to calibrate by", "to test with")] == [
        True
    ] * 3
    without_paths = re.sub(r"\S*/\S*", "", said)
    assert not {"train", "test", "validation"} & set(re.findall(r"(?<!to )\b\w+", without_paths))
    assert [split for split, _, _ in report.counts][:2] == ["train", "validation"]


def test_report_for_people_and_machines(mvtec):
    for k in range(7):
        (mvtec / f"train/good/{k:03}.png").write_bytes(b"")
    report = check(mvtec, near=False)
    lines = report.lines()
    assert sum(line.startswith("error: train/good/") for line in lines) == 5
    assert "error: unreadable: 2 more of these; --json lists all" in lines
    assert lines[-1].startswith("7 errors")
    assert not any("\n" in line for line in lines)
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["ok"] is False
    assert data["totals"]["error"] == 7
    assert data["findings"][0].keys() == {"severity", "code", "subject", "message", "remedy", "others"}


def test_progress_is_told_picture_by_picture(mvtec):
    calls = []
    check(mvtec, near=False, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 26) for k in range(1, 27)]
