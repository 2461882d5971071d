"""Masks and label files in their place: what they mark, whose they are, and what is wrong with them."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.mask_remarks import good_remarks, mask_remarks
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import list_seen
from flawscope.errors import InputError

SIDE = 48
BOX = np.zeros((SIDE, SIDE), bool)
BOX[10:20, 5:30] = True
RUNS = [5 * SIDE + 10, *[10, SIDE - 10] * 24, 10, SIDE * SIDE - 29 * SIDE - 20]  # of COCO: down the columns
OUTLINE = [[5, 10], [30, 10], [30, 20], [5, 20]]
WRONG_FORM = "a value in it has the wrong form"
# the same box in COCO's compressed run lengths, made by pycocotools: encode(np.asfortranarray(BOX))
COMPRESSED = f"j7:V1{47 * '0'}fj0"


@pytest.fixture
def root(tmp_path, save):
    """good/ and bad/KIND/ without masks."""
    for k in range(4):
        save(tmp_path / f"part/good/{k}.png")
    for kind in ("dent", "scratch"):
        save(tmp_path / f"part/bad/{kind}/0.png")
    return tmp_path / "part"


def coco(root, name, *annotations, file="annotations.json"):
    image = {"id": 7, "file_name": name, "height": SIDE, "width": SIDE}
    of = [{"id": k, "image_id": 7, "category_id": 1, **a} for k, a in enumerate(annotations)]
    path = root / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": [image], "annotations": of, "categories": []}))
    return path


def labelme(path, **shape):
    shapes = [{"label": "dent", **shape}]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"shapes": shapes, "imagePath": "x", "imageHeight": SIDE, "imageWidth": SIDE}))
    return path


def masks(root):
    """Of the defective pictures that have one, by their kinds."""
    items = [item for item in open_dataset(root).test if item.anomalous]
    return {item.kind: union_masks(item.masks, (SIDE, SIDE)) for item in items if item.masks}


def assert_box(root, kind):
    """Only the defective picture of this kind is marked, with BOX."""
    marks = masks(root)
    assert list(marks) == [kind]
    np.testing.assert_array_equal(marks[kind], BOX)


@pytest.mark.parametrize(  # of the ordinary forms test_labels.py has one each
    ("file", "marked"),
    [
        ("coco", {"segmentation": {"size": [SIDE, SIDE], "counts": COMPRESSED}}),
        ("coco", {"segmentation": [], "bbox": [5, 10, 25, 10]}),
        ("coco", {"segmentation": [[]], "bbox": [5, 10, 25, 10]}),
        ("coco", {"segmentation": [[5, 10, 30, 20]], "bbox": [5, 10, 25, 10], "score": None}),
        ("labelme", {"points": OUTLINE}),
        ("labelme", {"points": OUTLINE, "shape_type": "rectangle"}),
    ],
)
def test_marks_are_what_a_file_says(root, file, marked):
    if file == "coco":
        coco(root, "bad/dent/0.png", marked)
    else:
        labelme(root / "bad/dent/0.json", **marked)
    assert_box(root, "dent")


def test_boxes_are_masks_and_the_check_says_so(root):
    labelme(root / "Annotations/0.json", points=[[5, 10], [30, 20]], shape_type="rectangle")
    both = [item for item in open_dataset(root).test if item.anomalous]
    assert [(item.masks, item.left_out) for item in both] == [
        ((), ("marked by a name that 2 pictures have",))
    ] * 2
    (root / "bad/scratch/0.png").rename(root / "bad/scratch/1.png")
    np.testing.assert_array_equal(masks(root)["dent"], BOX)
    codes = {finding.code: finding.message for finding in check(root, near=False).findings}
    assert codes["boxes"] == "1 of the marked places is a box, not outlined"
    assert "beside" not in codes


def test_a_mask_picture_wins_and_good_pictures_need_none(root, save, mask):
    coco(root, "bad/dent/0.png", {"bbox": [5, 10, 25, 10]})
    save(root / "masks/dent/0.png", mask)
    np.testing.assert_array_equal(masks(root)["dent"], mask > 0)


def test_other_json_files_and_what_a_model_has_found_are_no_ground_truth(root):
    coco(root, "bad/dent/0.png", {"bbox": [5, 10, 25, 10], "score": 3.5})
    (root / "results.json").write_text(json.dumps({"images": 3}))
    (root / "bad/dent/0.json").write_text("{")
    (root / "list.json").write_text("[1, 2]")
    (root / "names.json").write_text(json.dumps({"images": ["0.png"], "annotations": []}))
    (root / "drawing.json").write_text(json.dumps({"shapes": "round", "imagePath": 3}))
    (root / "notes.xml").write_text("<notes/>")
    assert masks(root) == {}


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


def test_the_union_is_what_any_mask_marks_and_sizes_must_agree(tmp_path):
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
    with pytest.raises(InputError, match=r"0\.png: it is 5x7, its picture 7x5; turn it like its picture"):
        union_masks(paths, (5, 7))
    with pytest.raises(InputError, match="the mask of part 3: it is 5x7x3, its picture 5x7"):
        union_masks([np.zeros((7, 5, 3))], (7, 5), "part 3")


@pytest.mark.parametrize("missing", ["height and width", "both null", "both 0", "imagePath alone"])
@pytest.mark.parametrize("kind", ["COCO", "COCO, runs", "LabelMe", "LabelMe, line"])
def test_sizes_that_are_not_told_are_the_pictures(root, kind, missing):
    line = {"points": [[2.5, 3.5], [12.5, 3.5]], "shape_type": "line"}
    if kind.startswith("COCO"):
        marked = {"segmentation": {"size": [SIDE, SIDE], "counts": RUNS}}
        path = coco(root, "dent/0.png", marked if "runs" in kind else {"bbox": [5, 10, 25, 10]})
    else:
        path = labelme(root / "bad/dent/0.json", **(line if "line" in kind else {"points": OUTLINE}))
    document = json.loads(path.read_text())
    sizes = document["images"][0] if "images" in document else document
    for key in ("height", "width", "imageHeight", "imageWidth"):
        sizes.pop(key, None)
        if missing.startswith("both"):
            sizes[key] = None if "null" in missing else 0
    path.write_text(json.dumps(document))
    if "line" in kind:
        assert {name: mask.sum() for name, mask in masks(root).items()} == {"dent": 11}
    else:
        assert_box(root, "dent")


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        ("7.png", "7_png.rf.3c1f5ab2c1d94b8f9a8e0d7c6b5a4f3e.jpg"),  # Roboflow
        ("7.png", "7_png.rf.aBcD1234efgh.jpg"),
        ("my part 7.png", "my-part-7_png.rf.4X-kz_Q9.jpg"),
        ("7.png", "https://elsewhere/upload/7.png?token=1.2&x=8.png"),
        ("7.png", "images/1a2b3c4d-7.png"),  # Label Studio
        ("7.png", "..\\..\\label-studio\\data\\media\\upload\\1\\1a2b3c4d-7.png"),
        ("7.png", "/data/local-files/?d=parts%2F7.png"),
        ("my part.png", "1a2b3c4d-my_part.png"),
        ("7_png.rf.3c1f5ab2c1d94b8f9a8e0d7c6b5a4f3e.jpg", "7.png"),
        ("1a2b3c4d-7.png", "7.png"),
        ("IMG_0.PNG", "img_0.png"),
        ("img_0.png", "IMG_0.JPG"),
        (unicodedata.normalize("NFD", "Gehäuse.png"), unicodedata.normalize("NFC", "Gehäuse.png")),
        (unicodedata.normalize("NFC", "Gehäuse.png"), unicodedata.normalize("NFD", "gehäuse.png")),
        ("7.png", "7.PNG.jpg"),
        *[("0.png", name) for name in ("0.png", "dent/0.png", "bad\\dent\\0.png", "bad/dent/0.jpg")],
        ("0.png", "/elsewhere/part/bad/dent/0.png"),
    ],
)
def test_names_as_tools_change_them(root, save, picture, name):
    (root / "bad/scratch/0.png").rename(root / "bad/scratch/1.png")
    (root / "bad/dent/0.png").unlink()
    save(root / "bad/dent" / picture)
    coco(root, name, {"bbox": [5, 10, 25, 10]})
    assert list(masks(root)) == ["dent"]
    assert "label-stray" not in {finding.code for finding in check(root, near=False).findings}


def test_a_name_that_is_there_is_never_another_ones(root, save):
    """Copies that Roboflow turned have labels of their own, which are not the original's."""
    save(root / "bad/dent/0_png.rf.aaa.png")
    coco(root, "0_png.rf.aaa.png", {"bbox": [5, 10, 25, 10]})
    items = {item.path.name: item.masks for item in open_dataset(root).test if item.kind == "dent"}
    assert {name: len(found) for name, found in items.items()} == {"0.png": 0, "0_png.rf.aaa.png": 1}


@pytest.mark.parametrize(("image", "annotation"), [("7", 7), (7, "7"), (7.0, "7"), ("a7", "a7")])
def test_ids_are_alike_however_they_are_written(root, image, annotation):
    (root / "bad/scratch/0.png").unlink()
    path = coco(root, "0.png", {"bbox": [5, 10, 25, 10], "image_id": annotation}, {"caption": "a dent"})
    document = json.loads(path.read_text())
    document["images"][0]["id"] = image
    path.write_text(json.dumps(document))
    np.testing.assert_array_equal(masks(root)["dent"], BOX)


@pytest.mark.parametrize(
    ("name", "image", "subject"), [("0.png", {"image_id": 8}, "image_id 8"), ("elsewhere/9.png", {}, "9")]
)
def test_marks_of_no_picture_are_named(root, name, image, subject):
    coco(root, name, {"bbox": [5, 10, 25, 10], **image})
    (finding,) = (f for f in check(root, near=False).findings if f.code == "label-stray")
    assert (finding.severity, finding.subject) == ("warning", "annotations.json")
    assert f"marks something in {subject}, and there is no such picture" in finding.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["images"][0].pop("file_name"), "something in it has no 'file_name'"),
        (lambda d: d["images"][0].pop("id"), "something in it has no 'id'"),
        (lambda d: d["annotations"][0].pop("image_id"), "something in it has no 'image_id'"),
        (lambda d: d["annotations"][0].update(segmentation=[["a", "b"]]), WRONG_FORM),
        (lambda d: d["images"][0].update(height="tall"), WRONG_FORM),
        (lambda d: d["images"][0].update(height=-4), WRONG_FORM),
        (
            lambda d: d["annotations"][0].update(segmentation={"size": [3, 4], "counts": [12]}),
            "a mask of 0.png has another size than the picture",
        ),
    ],
)
def test_damage_is_told_in_plain_words(root, change, reason):
    path = coco(root, "0.png", {"segmentation": [np.ravel(OUTLINE).tolist()]})
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    (finding,) = [f for f in check(root, near=False).findings if f.code == "labels-unreadable"]
    expected = f"error: {path.name}: could not be read (as COCO: {reason}); export it again"
    assert finding.line() == expected
    assert masks(root) == {}


@pytest.mark.parametrize(
    ("turn", "side", "doubt"), [(6, 48, True), (3, 64, True), (6, 64, False), (1, 48, False)]
)
def test_masks_that_may_be_turned_are_told(root, turn, side, doubt):
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.random.default_rng(0).integers(0, 255, (48, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "bad/dent/0.jpg", exif=exif)
    (root / "bad/dent/0.png").unlink()
    upright = np.zeros((side, 48) if turn == 6 else (48, side), np.uint8)
    upright[5:9, 7:30] = 255
    Image.fromarray(upright).save(root / "bad/dent/0_mask.png")
    codes = {finding.code for finding in check(root, near=False).findings}
    assert ("mask-turned" in codes, "mask-size" in codes) == (doubt, False)
    remarks = [line for line in mask_remarks(open_dataset(root)) if line.startswith("stored turned")]
    assert bool(remarks) == doubt


def test_masks_that_mark_most_are_told(root, save):
    inverted = np.where(BOX, 0, 255).astype(np.uint8)
    save(root / "bad/dent/0_mask.png", inverted)
    save(root / "bad/scratch/0_mask.png", 255 - inverted)
    (finding,) = (f for f in check(root, near=False).findings if f.code == "mask-most")
    assert (finding.severity, finding.subject) == ("warning", "bad/dent/0_mask.png")
    (line,) = mask_remarks(open_dataset(root))
    assert line.startswith("more than half is marked as defect in bad/dent/0.png: is the mask inverted?")


def test_good_pictures_that_are_marked_are_told(root, save):
    labelme(root / "good/2.json", points=OUTLINE)
    save(root / "masks/good/1.png", np.where(BOX, 255, 0).astype(np.uint8))
    save(root / "masks/good/0.png", np.zeros((SIDE, SIDE), np.uint8))
    (line,) = good_remarks(open_dataset(root))
    assert line == (
        "counted as good, but something is marked: good/1.png (in masks/good/1.png), good/2.png (in "
        "good/2.json); move it, or remove the mark [FS-G05]"
    )
    marked = [f for f in check(root, near=False).findings if f.code == "good-marked"]
    assert [(f.severity, f.subject) for f in marked] == [("warning", f"good/{k}.png") for k in (1, 2)]
    assert "good/2.json marks something in it" in marked[1].message
