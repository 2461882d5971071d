"""Masks and label files in their place: what they mark, whose they are, and what is wrong with them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.masks import PictureLabels, to_runs, union_masks
from flawscope.datasets.seen_defects import list_seen
from flawscope.errors import InputError

SIDE = 48
BOX = np.zeros((SIDE, SIDE), bool)
BOX[10:20, 5:30] = True
OUTLINE = [[5, 10], [30, 10], [30, 20], [5, 20]]
# the same box in COCO's compressed run lengths, made by pycocotools: encode(np.asfortranarray(BOX))
COMPRESSED = f"j7:V1{47 * '0'}fj0"


@pytest.fixture
def root(tmp_path, save) -> Path:
    """good/ and bad/KIND/ without masks."""
    for k in range(4):
        save(tmp_path / f"part/good/{k}.png")
    for kind in ("dent", "scratch"):
        save(tmp_path / f"part/bad/{kind}/0.png")
    return tmp_path / "part"


def coco(root: Path, name: str, *annotations: dict, file: str = "annotations.json") -> Path:
    image = {"id": 7, "file_name": name, "height": SIDE, "width": SIDE}
    of = [{"id": k, "image_id": 7, "category_id": 1, **a} for k, a in enumerate(annotations)]
    path = root / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": [image], "annotations": of, "categories": []}))
    return path


def labelme(path: Path, **shape: object) -> Path:
    shapes = [{"label": "dent", **shape}]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"shapes": shapes, "imagePath": "x", "imageHeight": SIDE, "imageWidth": SIDE}))
    return path


def masks(root: Path) -> dict[str, np.ndarray]:
    """Of the defective pictures that have one, by their kinds."""
    items = [item for item in open_dataset(root).test if item.anomalous]
    return {item.kind: union_masks(item.masks, (SIDE, SIDE)) for item in items if item.masks}


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    "marked",
    [
        {"segmentation": [np.ravel(OUTLINE).tolist()]},
        {"segmentation": {"size": [SIDE, SIDE], "counts": to_runs(BOX).tolist()}},
        {"segmentation": {"size": [SIDE, SIDE], "counts": COMPRESSED}},
        {"bbox": [5, 10, 25, 10]},
        {"segmentation": [], "bbox": [5, 10, 25, 10]},
    ],
)
def test_coco_marks_what_it_says(root, marked):
    coco(root, "bad/dent/0.png", marked)
    found = masks(root)
    assert list(found) == ["dent"]
    np.testing.assert_array_equal(found["dent"], BOX)


@pytest.mark.parametrize(
    "shape",
    [
        {"points": OUTLINE, "shape_type": "polygon"},
        {"points": OUTLINE},
        {"points": [[30, 20], [5, 10]], "shape_type": "rectangle"},
        {"points": [[5, 10], [30, 20]], "shape_type": "mask", "mask": png(BOX[10:20, 5:30])},
    ],
)
def test_labelme_marks_what_it_says(root, shape):
    labelme(root / "bad/scratch/0.json", **shape)
    found = masks(root)
    assert list(found) == ["scratch"]
    np.testing.assert_array_equal(found["scratch"], BOX)


def test_circles_and_lines_of_labelme(root):
    labelme(root / "bad/dent/0.json", points=[[24, 24], [24, 34]], shape_type="circle")
    labelme(root / "bad/scratch/0.json", points=[[2.5, 3.5], [12.5, 3.5]], shape_type="line")
    found = masks(root)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    distance = np.hypot(x - 24, y - 24)
    assert found["dent"][distance < 9.9].all()
    assert not found["dent"][distance > 10].any()
    assert np.argwhere(found["scratch"]).tolist() == [[3, x] for x in range(2, 13)]


def test_boxes_are_masks_and_the_check_says_so(root):
    labelme(root / "Annotations/0.json", points=[[5, 10], [30, 20]], shape_type="rectangle")
    with pytest.raises(InputError, match=r"0 may be .*dent.*scratch"):
        open_dataset(root)
    (root / "bad/scratch/0.png").rename(root / "bad/scratch/1.png")
    np.testing.assert_array_equal(masks(root)["dent"], BOX)
    codes = {finding.code: finding.message for finding in check(root, near=False).findings}
    assert codes["boxes"] == "1 of the marked places is a box, not outlined"
    assert "beside" not in codes


def test_polygons_fill_pixels_whose_centre_is_inside():
    """Against a test of every centre."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        corners = rng.uniform(-5, 45, (3, 2))
        found = PictureLabels(Path("x"), (40, 40), (corners,)).read()
        y, x = np.mgrid[:40, :40] + 0.5
        sides = [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)
        ]
        inside = np.all(np.array(sides) > 0, 0) | np.all(np.array(sides) < 0, 0)
        np.testing.assert_array_equal(found, inside)


@pytest.mark.parametrize(
    "name", ["0.png", "dent/0.png", "bad\\dent\\0.png", "/elsewhere/part/bad/dent/0.png", "bad/dent/0.jpg"]
)
def test_names_with_other_folders(root, name):
    (root / "bad/scratch/0.png").rename(root / "bad/scratch/1.png")
    coco(root, name, {"bbox": [5, 10, 25, 10]}, file="labels/instances_default.json")
    assert list(masks(root)) == ["dent"]


def test_a_mask_picture_wins_and_good_pictures_need_none(root, save, mask):
    coco(root, "bad/dent/0.png", {"bbox": [5, 10, 25, 10]})
    save(root / "masks/dent/0.png", mask)
    np.testing.assert_array_equal(masks(root)["dent"], mask > 0)


def test_other_json_files_and_what_a_model_has_found_are_no_ground_truth(root):
    coco(root, "bad/dent/0.png", {"bbox": [5, 10, 25, 10], "score": 3.5})
    (root / "results.json").write_text(json.dumps({"images": 3}))
    (root / "bad/dent/0.json").write_text("{")
    (root / "list.json").write_text("[1, 2]")
    (root / "notes.xml").write_text("<notes/>")
    assert masks(root) == {}


def test_a_good_picture_that_is_marked_is_reported(root):
    labelme(root / "good/2.json", points=OUTLINE)
    found = [f for f in check(root, near=False).findings if f.code == "good-marked"]
    assert [(f.severity, f.subject) for f in found] == [("warning", "good/2.png")]
    assert "good/2.json marks something in it" in found[0].message


def test_a_damaged_file_is_one_line(root):
    path = coco(root, "bad/dent/0.png", {"segmentation": {"size": [SIDE, SIDE], "counts": [1, 2]}})
    (item,) = (item for item in open_dataset(root).test if item.masks)
    with pytest.raises(InputError, match="run lengths do not make 48x48 pixels"):
        union_masks(item.masks, (SIDE, SIDE))
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(InputError, match="is damaged, it looks like a COCO file"):
        open_dataset(root)


def test_seen_defects_may_have_label_files_of_their_own_or_of_their_data_set(root, monkeypatch):
    labelme(root / "bad/scratch/0.json", points=OUTLINE)
    (item,) = list_seen(root / "bad")
    assert item.kind == "scratch"
    np.testing.assert_array_equal(union_masks(item.masks, (SIDE, SIDE)), BOX)
    with pytest.raises(InputError, match=r"0\.json: it is 48x48, its picture 96x96"):
        union_masks(item.masks, (96, 96))
    (root / "bad/scratch/0.json").unlink()
    coco(root, "dent/0.png", {"bbox": [5, 10, 25, 10]})
    monkeypatch.chdir(root)
    (item,) = list_seen("bad")
    assert item.kind == "dent"


def test_the_layout_of_a_benchmark_takes_them_too(mvtec):
    for path in (mvtec / "ground_truth/cut").iterdir():
        path.unlink()
    coco(mvtec, "test/cut/001.png", {"bbox": [5, 10, 25, 10]})
    found = {(i.kind, i.path.stem): len(i.masks) for i in open_dataset(mvtec).test if i.anomalous}
    assert found == {("bent", "000"): 1, ("bent", "001"): 1, ("cut", "000"): 0, ("cut", "001"): 1}


def test_the_union_is_what_any_mask_marks_and_sizes_must_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    marked = rng.random((3, 7, 5)) < 0.3
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, mask in zip(paths, marked, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 9).save(path)
    np.testing.assert_array_equal(union_masks(paths, (7, 5)), marked.any(0))
    np.testing.assert_array_equal(
        union_masks([paths[0], marked[1].astype(np.uint8)], (7, 5)), marked[:2].any(0)
    )
    assert not union_masks((), (7, 5)).any()
    with pytest.raises(InputError, match=r"0\.png: it is 5x7, its picture 4x7"):
        union_masks(paths, (7, 4))
    with pytest.raises(InputError, match="the mask of part 3: it is 5x7x3, its picture 5x7"):
        union_masks([np.zeros((7, 5, 3))], (7, 5), "part 3")
