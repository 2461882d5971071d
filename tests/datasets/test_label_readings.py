"""Label files that do not fit their pictures, or cannot be used wholly: nothing is read wrong untold."""

import base64
import io
import json
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_labels import EXPORTS, runs
from test_labels import place as place_export

from flawscope.datasets import open_dataset
from flawscope.datasets.check import check
from flawscope.datasets.labels import LabelFiles, forms
from flawscope.datasets.labels.yolo import have_key_points
from flawscope.datasets.mask_remarks import good_remarks, mask_remarks
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError

W, H = 96, 64  # of the pictures as they are stored
PLACES = [(60, 10), (10, 40), (70, 45), (30, 20), (50, 30), (12, 8), (80, 8), (44, 50)]  # left, top
WIDTH, HEIGHT = 12, 6
TURNED = 6  # EXIF: shown turned by 90 degrees clockwise, 64 x 96


def draw(root, turns=(1,) * 8, suffix=".png"):
    """bad/0.png, ...: each turned as EXIF says, with a defect at its place in the stored pixels. Returns the
    masks as they are shown."""
    rng, shown = np.random.default_rng(0), []
    (root / "bad").mkdir(exist_ok=True)
    for k, ((x, y), turn) in enumerate(zip(PLACES, turns, strict=True)):
        exif, mask = Image.Exif(), np.zeros((H, W), bool)
        exif[0x0112] = turn
        mask[y : y + HEIGHT, x : x + WIDTH] = True
        Image.fromarray(rng.integers(0, 255, (H, W, 3), dtype=np.uint8)).save(
            root / f"bad/{k}{suffix}", exif=exif
        )
        shown.append(mask[::-1].T if turn == TURNED else mask)
    return shown


def boxes(shown):
    """Of each mask: left, top, width, height."""
    found = []
    for mask in shown:
        ys, xs = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        found.append((int(xs[0]), int(ys[0]), len(xs), len(ys)))
    return found


STORED = [(x, y, WIDTH, HEIGHT) for x, y in PLACES]


def write_via(root, places, scale=1):
    pictures = {}
    for k, place in enumerate(places):
        x, y, width, height = (int(scale * v) for v in place)
        shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
        region = {"shape_attributes": shape, "region_attributes": {"type": "dent"}}
        pictures[f"{k}.png1"] = {"filename": f"{k}.png", "size": 1, "regions": [region]}
    (root / "via.json").write_text(json.dumps(pictures))


def write_coco(root, places, names=None, **size):
    names = names or [f"{k}.png" for k in range(len(places))]
    document = {
        "images": [{"id": k, "file_name": name, **size} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": place} for k, place in enumerate(places)
        ],
        "categories": [{"id": 1, "name": "dent"}],
    }
    (root / "coco.json").write_text(json.dumps(document))


def write_yolo(root, places, width, height):
    for k, (x, y, w, h) in enumerate(places):
        line = f"0 {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}"
        (root / f"bad/{k}.txt").write_text(line + "\n")


def defective(root):
    return [item for item in open_dataset(root).test if item.anomalous]


def read(root):
    """Masks of the defective pictures, None where there is none, and why there is none."""
    items = defective(root)
    sizes = [Image.open(item.path) for item in items]
    sizes = [(s.width, s.height) if s.getexif().get(0x0112) == TURNED else (s.height, s.width) for s in sizes]
    found = [union_masks(i.masks, size) if i.masks else None for i, size in zip(items, sizes, strict=True)]
    return found, [item.unmarked for item in items]


def assert_read(root, shown):
    found, _ = read(root)
    for mask, expected in zip(found, shown, strict=True):
        np.testing.assert_array_equal(mask, expected)


def remarks(root):
    return " | ".join(mask_remarks(open_dataset(root)))


@pytest.mark.parametrize("scale", [2, 1.5, 4])
def test_marks_of_larger_pictures_are_left_out_also_those_that_fit(root, scale):
    draw(root)
    write_via(root, STORED, scale)
    found, why = read(root)
    assert found == [None] * len(PLACES)
    assert {*why} == {
        "marked beyond the picture (VIA)",
        "marked where others reach beyond their pictures (VIA)",
    }


def test_a_single_slip_leaves_out_its_picture_alone(root):
    shown = draw(root)
    write_via(root, [(90, 10, 30, 6), *STORED[1:]])
    found, why = read(root)
    assert why == ["marked beyond the picture (VIA)", *[""] * 7]
    np.testing.assert_array_equal(found[1], shown[1])


def test_what_hangs_over_the_border_as_hands_slip_is_cut(root):
    draw(root)
    write_via(root, [(86, 10, 11, 6), (-1, 3, 8, 63), *STORED[2:]])
    assert not any(read(root)[1])
    round_one = {"name": "circle", "cx": 95, "cy": 30, "r": 20}  # of a defect at the edge
    document = json.loads((root / "via.json").read_text())
    document["0.png1"]["regions"][0]["shape_attributes"] = round_one
    (root / "via.json").write_text(json.dumps(document))
    assert not any(read(root)[1])


@pytest.mark.parametrize("size", [{}, {"width": W, "height": H}])
def test_corners_taken_for_sizes_are_left_out(root, size):
    draw(root)
    write_coco(root, [(x, y, x + w, y + h) for x, y, w, h in STORED], **size)
    assert read(root)[0] == [None] * len(PLACES)
    write_yolo(root, [(x, y, x + w, y + h) for x, y, w, h in STORED], W, H)
    (root / "coco.json").unlink()
    assert read(root)[0] == [None] * len(PLACES)


def test_marks_of_smaller_pictures_are_told(root):
    draw(root)
    write_via(root, STORED, 0.5)
    assert "via.json marks all of 8 pictures within the first 48% of the width" in remarks(root)
    assert "labels-scale" in {finding.code for finding in check(root, near=False).findings}
    write_via(root, STORED)
    assert "within the first" not in remarks(root)
    write_via(root, STORED[:3], 0.5)  # of three pictures that happens
    assert "within the first" not in remarks(root)


def test_marks_on_turned_pictures_are_read_as_far_as_they_fit(root):
    shown = draw(root, [TURNED] * 8)
    write_via(root, STORED)  # as stored: x reaches beyond the width that is shown
    assert_read(root, shown)
    write_via(root, boxes(shown))
    assert_read(root, shown)
    write_coco(root, STORED, width=W, height=H)
    (root / "via.json").unlink()
    assert_read(root, shown)
    write_coco(root, boxes(shown), width=H, height=W)
    assert_read(root, shown)
    assert "stored turned" not in remarks(root)


def test_the_other_pictures_of_a_file_tell_where_one_does_not(root):
    turns = [TURNED] * 4 + [1, 3, TURNED, 1]
    shown = draw(root, turns)
    shown[5] = shown[5][::-1, ::-1]
    write_via(root, STORED)
    assert_read(root, shown)


def test_a_turned_picture_that_fits_both_ways_is_told(root):
    shown = draw(root, [TURNED] * 8)
    write_yolo(root, boxes(shown), H, W)
    assert_read(root, shown)
    assert "stored turned (EXIF), with a mask that fits upright and as stored: bad/0.png" in remarks(root)
    assert "mask-turned" in {finding.code for finding in check(root, near=False).findings}
    draw(root)
    write_yolo(root, STORED, W, H)
    assert "stored turned" not in remarks(root)


def pose(place, visibility, count, rng):
    x, y, w, h = place
    words = [0, (x + w / 2) / W, (y + h / 2) / H, w / W, h / H]
    for _ in range(count):
        px, py = x + w * rng.random(), y + h * rng.random()
        words += [px / W, py / H, *([int(rng.integers(0, 3))] if visibility else [])]
        if visibility and words[-1] == 0:
            words[-3:-1] = 0, 0
    return " ".join(f"{word:.6g}" for word in words)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 17])
def test_key_points_with_visibility_are_boxes(root, count):
    shown, rng = draw(root), np.random.default_rng(0)
    for k, place in enumerate(STORED):
        (root / f"bad/{k}.txt").write_text(pose(place, True, count, rng))
    assert_read(root, shown)


def test_key_points_without_visibility_are_left_out_and_counted(root):
    draw(root)
    rng = np.random.default_rng(0)
    for k, place in enumerate(STORED):
        (root / f"bad/{k}.txt").write_text(pose(place, False, 4, rng))
    assert {*read(root)[1]} == {"box with key points or polygon (YOLO)"}
    (root / "data.yaml").write_text("names: [dent]\nkpt_shape: [4, 2]\n")
    assert not any(read(root)[1])


def test_polygons_are_no_key_points():
    rng, taken = np.random.default_rng(0), 0
    for _ in range(2000):
        centre, count = rng.random(2), int(rng.integers(3, 12))
        angles = np.sort(rng.random(count)) * 2 * np.pi
        ring = centre + rng.uniform(0.01, 0.3) * np.stack([np.cos(angles), np.sin(angles)], 1)
        words = ["0", *(f"{v:.6f}" for v in np.clip(ring, 0, 1).ravel())]
        taken += have_key_points([words]) is not False
    assert taken <= 20


def region(name="image", item=None, **value):
    size = {"original_width": W, "original_height": H, "image_rotation": 0}
    page = {} if item is None else {"item_index": item}
    return {"id": f"{name}{item}{len(value)}", "type": "x", "to_name": name, **size, **page, "value": value}


def outline(place):
    x, y, w, h = place
    points = [[100 * px / W, 100 * py / H] for px, py in ((x, y), (x + w, y), (x + w, y + h), (x, y + h))]
    return {"points": points, "polygonlabels": ["dent"]}


def bitmask(mask):
    pixels = np.zeros((H, W, 4), np.uint8)
    pixels[mask] = (0, 0, 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {"imageDataURL": f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"}


def write_tasks(root, *tasks):
    document = [{"data": data, "annotations": [{"result": list(regions)}]} for data, *regions in tasks]
    (root / "tasks.json").write_text(json.dumps(document))


def test_a_bitmask_counts_beside_a_polygon_of_its_task(root):
    shown = draw(root)
    write_tasks(root, ({"image": "0.png"}, region(**outline(STORED[0])), region(**bitmask(shown[1]))))
    np.testing.assert_array_equal(read(root)[0][0], shown[0] | shown[1])


def test_marks_land_on_the_picture_that_they_name(root):
    shown = draw(root)
    both = {"left": "/data/upload/0.png", "right": "/data/upload/1.png"}
    marks = [region("left", **outline(STORED[0])), region("right", **outline(STORED[1]))]
    pages = {"pages": ["2.png", "3.png"]}
    write_tasks(root, (both, *marks), (pages, region("image", 1, **outline(STORED[3]))))
    found, why = read(root)
    for k in (0, 1, 3):
        np.testing.assert_array_equal(found[k], shown[k])
    assert found[2] is None
    write_tasks(root, (both, region("img-2", **outline(STORED[1]))))  # nobody knows which
    found, why = read(root)
    assert why[:3] == [*["mark in one of several pictures (Label Studio)"] * 2, "no mask"]


def test_a_task_without_a_picture_is_passed_over(root):
    shown = draw(root)
    wordy, ordinary = (region(**outline(STORED[k])) for k in (1, 0))
    write_tasks(root, ({"text": "a note"}, wordy), ({"image": "0.png"}, ordinary))
    np.testing.assert_array_equal(read(root)[0][0], shown[0])
    assert "task without a picture 1" in " ".join(f.line() for f in check(root, near=False).findings)


def test_a_name_may_hold_what_looks_like_an_escape(root):
    shown = draw(root)
    (root / "bad/0.png").rename(root / "bad/a%20b.png")
    (root / "bad/1.png").rename(root / "bad/c d.png")
    write_coco(root, STORED[:2], ["a%20b.png", "bad/c%20d.png"])
    found = {item.path.name: union_masks(item.masks, (H, W)) for item in defective(root)}
    np.testing.assert_array_equal(found["a%20b.png"], shown[0])
    np.testing.assert_array_equal(found["c d.png"], shown[1])


@pytest.mark.parametrize("label", ["_background_", "__ignore__", "Background", "ignore"])
def test_what_is_labelled_as_no_defect_is_none(root, label):
    shown = draw(root)
    x, y, w, h = STORED[0]
    marks = [
        {"label": name, "points": [[a, b], [a + c, b + d]], "shape_type": "rectangle"}
        for name, (a, b, c, d) in ((label, (0, 0, W, H)), ("dent", (x, y, w, h)))
    ]
    document = {"shapes": marks, "imagePath": "0.png", "imageHeight": H, "imageWidth": W}
    (root / "bad/0.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(read(root)[0][0], shown[0])
    assert f"label {label} 1" in " ".join(f.line() for f in check(root, near=False).findings)


NO_POINTS = {"all_points_x": [], "all_points_y": []}
SHAPES = [{"name": "polygon", **NO_POINTS}, {"name": "polyline", **NO_POINTS}, {}]
REGIONS = [{"shape_attributes": shape, "region_attributes": {}} for shape in SHAPES]
MARKS = [{"label": "dent", "points": [], "shape_type": kind} for kind in ("polygon", "circle", "point")]
EMPTY = {
    "LabelMe": ("bad/0.json", {"shapes": MARKS, "imagePath": "0.png"}),
    "VIA": ("via.json", {"0": {"filename": "0.png", "size": 1, "regions": REGIONS}}),
    "VIA's project": ("via.json", {"_via_settings": {}, "_via_img_metadata": {}}),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_shapes_are_no_marks(root, name):
    draw(root)
    file, document = EMPTY[name]
    (root / file).write_text(json.dumps(document))
    assert read(root)[0] == [None] * 8
    findings = [f for f in check(root, near=False).findings if f.code in ("labels", "labels-unreadable")]
    assert [f.code for f in findings] == ["labels"]


def test_run_lengths_may_stand_in_a_list(root):
    shown = draw(root)
    write_coco(root, STORED[:1], width=W, height=H)
    document = json.loads((root / "coco.json").read_text())
    document["annotations"][0]["segmentation"] = [{"size": [H, W], "counts": runs(shown[0].T.ravel())}]
    (root / "coco.json").write_text(json.dumps(document))
    np.testing.assert_array_equal(read(root)[0][0], shown[0])


def test_pictures_that_share_a_label_file_are_told_and_a_suffix_tells_them_apart(root):
    draw(root)
    draw(root, suffix=".jpg")
    write_yolo(root, STORED, W, H)
    assert {*read(root)[1]} == {"marked by a name that 2 pictures have"}
    for path in (root / "bad").glob("*.txt"):
        path.unlink()
    write_coco(root, STORED, [f"{k}.jpg" for k in range(8)])
    assert {item.path.suffix for item in defective(root) if item.masks} == {".jpg"}


def test_overlays_are_no_kind_of_defect(root):
    draw(root)
    shutil.copytree(root / "bad", root / "bad/overlay")
    for path in (root / "bad/overlay").iterdir():
        with Image.open(path) as image:
            ImageDraw.Draw(image).rectangle((20, 20, 50, 40), outline=(255, 0, 0), width=2)
            image.save(path)
    assert {item.kind for item in defective(root)} == {"bad"}
    assert len(defective(root)) == 8
    assert "passed over, since they are others with something drawn in: bad/overlay/0.png" in " ".join(
        good_remarks(open_dataset(root))
    )
    (finding,) = [f for f in check(root, near=False).findings if f.code == "overlays"]
    assert len(finding.others) == 8


def test_a_kind_of_defect_may_be_called_overlay(root):
    draw(root)
    rng = np.random.default_rng(3)
    (root / "bad/overlay").mkdir()
    for k in range(8):  # other photographs of the same part
        with Image.open(root / f"bad/{k}.png") as image:
            noisy = np.asarray(image, float) + rng.normal(0, 3, (H, W, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"bad/overlay/{k}.png")
    assert sum(item.kind == "overlay" for item in defective(root)) == 8


def test_seen_defects_that_are_left_out_are_counted(root):
    draw(root)
    write_via(root, [(90, 10, 30, 6), *STORED[1:6]])
    said = []
    assert len(choose_seen(str(root / "bad"), None, 0, said.append)) == 5
    reasons = "no mask: 2, marked beyond the picture (VIA): 1"
    assert said == [f"note: 3 of 8 defective pictures cannot be learnt from: {reasons}"]
    (root / "via.json").write_text((root / "via.json").read_text()[:-9])
    with pytest.raises(InputError, match=r"in via\.json, which could not be read: 8"):
        choose_seen(str(root / "bad"))


def mutated(text, rng):
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        span = rng.randint(1, 8)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + span]
        elif kind == 2:
            data[at:at] = data[rng.randrange(len(data)) :][:span]
        elif kind == 3:
            data[at:at] = rng.choice(
                [b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b"NaN", b"9" * 20, b"[[]]"]
            )
        elif kind == 4:
            words = bytes(data).split(b" ")
            rng.shuffle(words) if len(words) < 40 else words.pop(rng.randrange(len(words)))
            data = bytearray(b" ".join(words))
        else:
            del data[at:]
        data = data or bytearray(b" ")
    return bytes(data)


@pytest.mark.parametrize("form", range(26))
def test_a_mutated_file_ends_nothing(root, form):
    name = [*EXPORTS][form % len(EXPORTS)]
    place_export(root, EXPORTS[name])
    rng = random.Random(form)
    for _ in range(4):
        for file, text in EXPORTS[name].files.items():
            (root / file).write_bytes(mutated(text, rng))
        for item in defective(root):
            with suppress(InputError):
                union_masks(item.masks, (48, 64))
        remarks(root)


def test_a_large_table_that_names_no_picture_is_searched_once(tmp_path, monkeypatch):
    """One lay in the folder above the pictures: its bytes were searched for each of its numbers."""
    draw(tmp_path)
    (tmp_path / "trace.json").write_text(json.dumps([{"ts": k, "pid": "7"} for k in range(500)]))
    searches, plain = [], forms._LABEL_SIGN

    class Sign:
        def search(self, data):
            searches.append(len(data))
            return plain.search(data)

    monkeypatch.setattr(forms, "_LABEL_SIGN", Sign())
    assert not LabelFiles(tmp_path, [*(tmp_path / "bad").iterdir()]).unread_lists
    assert len(searches) <= 2  # by the form, and by the list
