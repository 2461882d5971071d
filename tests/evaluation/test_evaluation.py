"""Evaluation with a model that anybody can compute in the head."""

import json
import re
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brightness import SIDE, draw, draw_mask, model
from flawscope.cli.evaluate import format_evaluation
from flawscope.datasets import Item, open_dataset
from flawscope.datasets.masks import union_masks
from flawscope.errors import FlawscopeError, InputError
from flawscope.evaluation.evaluation import evaluate
from flawscope.evaluation.ground_truth import shrink_mask
from flawscope.evaluation.metrics import confidence_interval_rate, pixel_metrics
from flawscope.evaluation.result import PictureStore
from flawscope.evaluation.robustness import robustness
from flawscope.pages.report.words import Tally, sentences
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.views.geometry import Geometry
from flawscope.views.light import Light
from flawscope.views.preprocess import Preprocess


@pytest.fixture
def root(tmp_path):
    """4 good ones, one of them over the threshold; 3 dented ones, one of them under it."""
    root = tmp_path / "thing"
    for k in range(3):
        draw(root / f"train/good/{k}.png", 0.2)
    for k, level in enumerate((0.1, 0.2, 0.3, 0.6)):
        draw(root / f"test/good/g{k}.png", level)
    for k, level in enumerate((0.4, 0.8, 0.9)):
        draw(root / f"test/dent/d{k}.png", level, spot=True)
        draw_mask(root / f"ground_truth/dent/d{k}_mask.png")
    return root


def found(root, full_resolution=False, **given):
    return evaluate(model(**given), open_dataset(root), full_resolution=full_resolution)


def test_the_figures_are_those_one_counts_by_hand(root):
    result = found(root)
    values = result.metrics
    # pairs (defect, good) in the right order: 0.4 beats 3 of 4, 0.8 and 0.9 beat all 4
    assert values["image_auroc"] == pytest.approx(11 / 12)
    # ranks of the defects: 1, 2 and 4
    assert values["image_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert values["image_f1"] == pytest.approx(2 * 3 / (3 + 4))  # at 0.4: 3 found, 1 false alarm
    assert values["image_f1_calibrated"] == pytest.approx(2 * 2 / (3 + 3))  # at 0.5: 2 found, 1 false alarm
    # an 8x8 square of the picture is 4x4 in the map; above 0.5: two of three squares and a good picture
    assert values["pixel_f1_calibrated"] == pytest.approx(2 * 32 / (32 + 256 + 48))
    assert 0.9 < values["pixel_auroc"] < 1
    assert 0 < values["au_pro_05"] < values["au_pro"] < 1
    for name in ("image_f1", "pixel_f1"):
        assert "test labels" in result.labels[name]
        assert "fixed by calibration" in result.labels[f"{name}_calibrated"]
    good = result.kinds["good"]
    assert (result.images, result.category, result.method) == (7, "thing", "patchcore")
    assert (list(result.kinds), good["images"], good["anomalous"]) == (["good", "dent"], 4, 1)
    assert good["mean_score"] == pytest.approx(0.3, abs=0.01)
    # calibration scores lie 0.39 / 18 apart, and 0.5: the middle distance from their median is 5 steps
    levels = sorted(p.score for _, p, _, _ in result.pictures if p.path and "good" in p.path)
    middle = (levels[1] + levels[2]) / 2
    assert good["median_severity"] == pytest.approx((middle - 0.5) / (1.4826 * 5 * 0.39 / 18), rel=1e-6)
    assert result.kinds["dent"]["anomalous"] == 2
    assert (result.left_out, result.without_mask, result.failures) == ({}, 0, ())
    alarms = result.false_alarms
    assert (alarms["target"], alarms["measured"], alarms["images"]) == (0.05, 0.25, 4)
    assert alarms["expected"] == 1 / 21  # of 20 calibration scores
    assert alarms["interval"] == list(confidence_interval_rate(1, 4))
    full = found(root, full_resolution=True)
    assert values.items() <= full.metrics.items()
    pixel = ("pixel_auroc", "pixel_ap", "pixel_f1", "pixel_f1_calibrated", "au_pro", "au_pro_05")
    names = [f"full_{name}" for name in pixel]
    hits = total = 0
    for one in full.pictures:
        mask, masks = one.prediction.picture_mask(), one.item.masks
        truth = union_masks(masks, mask.shape) if masks else np.zeros_like(mask)
        hits, total = hits + (mask & truth).sum(), total + mask.sum() + truth.sum()
    assert full.metrics["full_pixel_f1_calibrated"] == pytest.approx(2 * hits / total)
    assert {*full.metrics} - {*values} == {*names}
    assert "full_resolution" in full.labels
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"category", "method", "metrics", "false_alarms", "images", "left_out", "seconds"} <= set(data)


def test_a_model_without_a_promise_is_not_held_to_one(root):
    plain = model()
    result = evaluate(plain.with_calibration(replace(plain.calibration, promised=False)), open_dataset(root))
    assert result.false_alarms["expected"] is None
    told = format_evaluation(result)
    assert "false alarms: 1 of 4 good pictures (95 %: 1% to 81% of such); no promise" in told
    assert "2 of 3 defects found (95 %: 9% to 99% of such defects)" in told


def test_boxes_of_a_label_file_are_masks_and_the_figures_say_so(root):
    by_masks = found(root)
    assert "boxes" not in by_masks.labels["au_pro"]
    shutil.rmtree(root / "ground_truth")
    sides = {"height": 2 * SIDE, "width": 2 * SIDE}
    images = [{"id": k, "file_name": f"test/dent/d{k}.png", **sides} for k in range(3)]
    boxes = [{"image_id": k, "bbox": [8, 8, 8, 8]} for k in range(3)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    by_boxes = found(root)
    assert by_boxes.metrics == by_masks.metrics
    assert "some masks are boxes" in by_boxes.labels["au_pro"]


def test_every_picture_is_handed_on_once_with_its_item_and_their_order_changes_nothing(root):
    taken = []
    steps = []
    dataset = open_dataset(root)
    result = evaluate(model(), dataset, take=lambda *one: taken.append(one), step=lambda *s: steps.append(s))
    assert [item.path for item, _ in taken] == [item.path for item in dataset.test]
    for item, prediction in taken:
        assert prediction.path == str(item.path)
        pixels = np.array(Image.open(item.path))
        assert prediction.score == pytest.approx(pixels[..., 0].max() / 255, abs=0.01)
    assert steps == [("evaluation", k, 7) for k in range(1, 8)]
    assert evaluate(model(), replace(dataset, test=dataset.test[::-1])).metrics == result.metrics


@pytest.mark.parametrize("role", ["train", "calibration", "duplicate", "dropped", "seen"])
def test_what_the_model_has_seen_is_left_out_whatever_its_name(root, role):
    learnt = [root / f"train/good/{k}.png" for k in range(3)]
    plain = found(root)
    Image.open(learnt[0]).save(root / "test/good/new.bmp")
    Image.open(learnt[1]).convert("RGBA").save(root / "test/dent/new.png", compress_level=0)
    result = found(root, seen={role: learnt})
    assert (result.left_out, result.to_dict()["left_out"]) == ({"good": 1, "dent": 1}, 2)
    assert (result.metrics, result.images) == (plain.metrics, 7)
    pixels = np.array(Image.open(learnt[2]))
    pixels[3, 3, 1] ^= 1  # another picture
    Image.fromarray(pixels).save(root / "test/good/other.png")
    assert found(root, seen={role: learnt}).images == 8


def test_a_missing_mask_still_counts_for_the_image_figures(root):
    whole = found(root)
    (root / "ground_truth/dent/d1_mask.png").unlink()
    result = found(root)
    assert (result.without_mask, result.images) == (1, 7)
    for name in ("image_auroc", "image_ap", "image_f1", "image_f1_calibrated"):
        assert result.metrics[name] == whole.metrics[name]
    assert result.metrics["pixel_ap"] != whole.metrics["pixel_ap"]
    shutil.rmtree(root / "ground_truth")
    result = found(root, full_resolution=True)
    assert result.metrics["pixel_auroc"] is result.metrics["full_au_pro"] is None
    assert result.metrics["image_auroc"] == pytest.approx(11 / 12)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("full_resolution", [False, True])
@pytest.mark.parametrize("fault", ["damaged", "other size"])
def test_a_bad_mask_is_reported_and_its_picture_counts_without(root, fault, full_resolution):
    mask = root / "ground_truth/dent/d1_mask.png"
    if fault == "damaged":
        mask.write_bytes(mask.read_bytes()[:40])
    else:
        draw_mask(mask, size=(50, 50))
    result = found(root, full_resolution)
    (failure,) = result.failures
    assert ("d1_mask.png" in failure, "counted without its mask" in failure) == (True, True)
    assert (result.images, result.without_mask) == (7, 1)
    assert result.metrics["image_auroc"] == pytest.approx(11 / 12)


def test_nothing_to_test_is_an_input_error(root):
    for folder, seen, said in (
        (root / "train/good", root / "train/good", "no test pictures"),
        (root, root / "test", "fitted on all of them"),
    ):
        with pytest.raises(InputError, match=said):
            found(folder, seen={"train": list(seen.rglob("*.png"))})
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 7 test pictures"):
        found(root)


def draw_dots(root, *dots, size=256):
    """Pictures of 16 times the map's size, each with a square of (row, column, side)."""
    for k, (row, column, side) in enumerate(dots):
        path = root / f"test/dot/{k}.png"
        draw(path, 0.3, size=(size, size))
        mask = np.zeros((size, size), np.uint8)
        mask[row : row + side, column : column + side] = 255
        picture = np.asarray(Image.open(path)).copy()
        picture[mask > 0] = 250
        Image.fromarray(picture).save(path)
        target = root / f"ground_truth/dot/{k}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)


def test_masks_that_resizing_would_lose_count_and_are_told(root):
    shutil.rmtree(root / "test/dent")
    # at 1/16 the pixels 8, 24, ... are looked at: the first three squares have none of them
    draw_dots(root, (2, 2, 3), (50, 50, 5), (255, 250, 1), (128, 128, 40))
    result = found(root)
    assert result.masks == {"pictures": 4, "empty": 0, "lost": 3, "regions": 4, "lost_regions": 0}
    kept = [np.argwhere(p.truth).tolist() for p in result.pictures if p.item.anomalous]
    assert (kept[:3], len(kept[3]) > 1) == ([[[0, 0]], [[3, 3]], [[15, 15]]], True)
    (line,) = result.remarks
    assert line.startswith("3 of 4 masks so small that no pixel is left at the map's size")
    page = result._repr_html_().replace("&#x27;", "'")
    for told in (result.to_dict()["remarks"], format_evaluation(result), page):
        assert line in told
    assert "keeps the nearest one" in result.labels["pixel_metrics"]
    maps = [p.prediction.map for p in result.pictures]
    truths = [p.truth for p in result.pictures if p.truth is not None]
    assert pixel_metrics(maps, truths).regions == 4


def test_regions_that_vanish_beside_others_are_counted(root):
    shutil.rmtree(root / "test/dent")
    draw_dots(root, (128, 128, 40))
    mask = root / "ground_truth/dot/0_mask.png"
    values = np.asarray(Image.open(mask)).copy()
    values[2:5, 2:5] = values[60, 60] = 255
    Image.fromarray(values).save(mask)
    result = found(root)
    assert (result.masks["lost"], result.masks["regions"], result.masks["lost_regions"]) == (0, 3, 2)
    assert result.remarks[0].startswith("2 of 3 marked regions so small")
    maps, truths = zip(*((p.prediction.map, p.truth) for p in result.pictures), strict=True)
    assert pixel_metrics(maps, truths).regions == 1


def test_an_empty_mask_is_no_mask_and_it_is_said_of_how_many_the_figures_are(root):
    for k in (0, 1):
        (root / f"ground_truth/dent/d{k}_mask.png").unlink()
    Image.new("L", (2 * SIDE, 2 * SIDE)).save(root / "ground_truth/dent/d1_mask.png")
    result = found(root)
    assert (result.without_mask, result.masks["pictures"], result.masks["empty"]) == (2, 1, 1)
    (line,) = result.remarks
    begin = "2 of 3 defective pictures without a usable mask: the pixel metrics are of the other 1"
    assert (line.startswith(begin), line.endswith("masks that mark nothing: 1")) == (True, True)
    assert "of 1 of 3 defective pictures" in repr(result)
    assert line in format_evaluation(result)
    assert "2 of 3 defective" in " ".join(
        sentences(Tally(4, 0, 3, 0), model().calibration, False, result.remarks)
    )


def test_a_turned_part_keeps_a_small_mask():
    """The view is turned by 30 degrees and moved; a pixel of the picture is a twelfth of one in the view."""
    turn = np.deg2rad(30)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / 12
    geometry = Geometry((240, 240), (16, 16), (1 / 12, 1 / 12), (3.0, 1.0), tuple(matrix.ravel()))
    lost = 0
    for row, column in ((60, 100), (101, 95), (120, 121), (150, 60)):
        marked = np.zeros((240, 240), bool)
        marked[row : row + 2, column : column + 2] = True
        truth, _, gone = shrink_mask(marked, marked, geometry)
        (at,) = np.argwhere(truth)
        expected = matrix @ (row + 1, column + 1) + (3.0, 1.0)
        assert np.abs(at + 0.5 - expected).max() < 0.6
        lost += gone
    assert lost >= 3


def test_without_good_or_without_defective_pictures_nothing_is_perfect(root):
    dataset = open_dataset(root)
    good, bad = (
        evaluate(model(), replace(dataset, test=tuple(i for i in dataset.test if i.anomalous == which)))
        for which in (False, True)
    )
    for result in (good, bad):
        for name in ("image_auroc", "image_ap", "image_f1", "image_f1_calibrated"):
            assert result.metrics[name] is None, name
        assert result.labels["image_f1"] is None
        assert "nan" not in json.dumps(result.to_dict())
    assert (good.labels["pixel_f1"], good.false_alarms["measured"]) == (None, 0.25)
    assert bad.false_alarms.items() >= {"measured": None, "images": 0, "interval": [0.0, 1.0]}.items()
    assert bad.metrics["pixel_auroc"] is not None
    told = format_evaluation(bad)
    assert ("image AUROC" in told, "pixel AUROC" in told) == (False, True)
    shutil.rmtree(root / "test/good")
    for path in (root / "ground_truth").rglob("*.png"):
        Image.new("L", (2 * SIDE, 2 * SIDE), 255).save(path)  # no good pixel either
    assert set(found(root).metrics.values()) == {None}
    assert "metric" not in format_evaluation(found(root)).splitlines()[:4]


def test_only_pixels_in_the_region_of_interest_count_and_defects_outside_are_no_miss(root):
    """The square of d0 lies inside, those of d1 and d2 are moved outside; half of the map is left."""
    roi = np.zeros((SIDE, SIDE), bool)
    roi[:, : SIDE // 2] = True
    for name in ("d1", "d2"):
        for path in (root / f"test/dent/{name}.png", root / f"ground_truth/dent/{name}_mask.png"):
            Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path)
    result = found(root, tensors={"roi": roi}, full_resolution=True)
    assert result.defect_pixels == {"all": 192, "outside": 128, "pictures_outside": 2}
    assert result.to_dict()["defect_pixels"] == result.defect_pixels
    (line,) = result.remarks
    assert re.match("66.7% of the defects' pixels lie outside.*2 pictures with no other defect$", line)
    assert "inside the region of interest" in result.labels["pixel_metrics"]
    halves = [seen.prediction.map[:, :8] for seen in result.pictures]
    truths = [seen.truth[:, :8] for seen in result.pictures if seen.truth is not None]
    by_hand, values = pixel_metrics(halves, truths), result.metrics
    known = [values[name] for name in ("pixel_auroc", "pixel_ap", "au_pro")]
    assert known == [by_hand.auroc, by_hand.ap, by_hand.au_pro]
    assert values["pixel_f1_calibrated"] == 0  # the only defect inside is below the threshold
    assert sum((half > 0.5).sum() for half in halves) == 128  # of the good picture that is called anomalous
    full = pixel_metrics(
        [seen.prediction.picture_map()[:, :SIDE] for seen in result.pictures],
        [union_masks(seen.item.masks, (2 * SIDE, 2 * SIDE))[:, :SIDE] for seen in result.pictures],
    )
    assert values["full_pixel_ap"] == full.ap
    # pictures count as before
    assert result.images == 7
    assert values["image_auroc"] == pytest.approx(11 / 12)


def test_a_letterboxs_border_counts_nowhere(tmp_path):
    root, flat = tmp_path / "flat", (16, 32)
    draw(root / "train/good/0.png", 0.2, size=flat)
    draw(root / "test/good/g.png", 0.6, size=flat)
    draw(root / "test/dent/d.png", 0.9, size=flat, spot=True)
    draw_mask(root / "ground_truth/dent/d_mask.png", size=flat)
    result = found(root, preprocess=Preprocess((SIDE, SIDE), keep_aspect=True))
    shown = slice(SIDE // 4, SIDE - SIDE // 4)
    by_hand = pixel_metrics(
        [seen.prediction.map[shown] for seen in result.pictures],
        [seen.truth[shown] for seen in result.pictures if seen.truth is not None],
    )
    assert (result.metrics["pixel_ap"], result.metrics["au_pro"]) == (by_hand.ap, by_hand.au_pro)
    assert result.defect_pixels == {"all": 32, "outside": 0, "pictures_outside": 0}
    assert result.remarks == []


def test_what_a_crop_cuts_away_counts_nowhere(root):
    preprocess = Preprocess((SIDE * 2, SIDE * 2), crop=(SIDE, SIDE))  # the middle of the pictures as they are
    result = found(root, preprocess=preprocess, full_resolution=True)
    assert result.defect_pixels == {"all": 192, "outside": 0, "pictures_outside": 0}
    assert result.metrics["full_au_pro"] == pytest.approx(result.metrics["au_pro"])
    for path in (root / "ground_truth/dent").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(path)), -8, axis=0)).save(path)
    result = found(root, preprocess=preprocess)
    assert result.defect_pixels == {"all": 192, "outside": 192, "pictures_outside": 3}
    assert result.metrics["au_pro"] is None  # nothing that could be found


def test_maps_that_find_no_room_are_one_line(root, monkeypatch):
    result = found(root)
    assert [seen.item for seen in result.pictures[-2:]] == [result.pictures[k].item for k in (-2, -1)]
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "wb", 0))  # noqa: SIM115
    with pytest.raises(FlawscopeError, match=r"cannot keep anomaly maps in .*: No space left.*TMPDIR"):
        found(root)


def test_what_is_kept_is_read_as_it_was():
    rng = np.random.default_rng(0)
    kept, geometry = PictureStore(Geometry.visible_mask), Preprocess((30, 50)).geometry((30, 50))
    maps = rng.normal(size=(9, 30, 50)).astype(np.float32)
    truths = [None if k == 4 else rng.random((30, 50)) < k / 9 for k in range(9)]
    for values, truth in zip(maps, truths, strict=True):
        found = Prediction(1.0, 0.5, 2.0, True, values, geometry, ScoreLevels(0.5, 0.5, (0.0, 1.0)))
        kept.append(Item(Path("x.png"), "kind", True), found, truth)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda k: kept.pictures[k % 9], range(1200)))  # more than files may be open
    for k, one in enumerate(read):
        np.testing.assert_array_equal(one.prediction.map, maps[k % 9])
        np.testing.assert_array_equal(one.truth, truths[k % 9])
    assert kept.without_mask == 1


@pytest.fixture
def loco(tmp_path):
    """The network finds the left half of a missing object's area, and a scratch as a whole."""
    root = tmp_path / "box"
    for k in range(2):
        draw(root / f"train/good/{k}.png", 0.1)
        draw(root / f"validation/good/v{k}.png", 0.1)
        draw(root / f"test/good/g{k}.png", 0.1)
    for kind, value in (("logical_anomalies", 200), ("structural_anomalies", 255)):
        path, target = root / f"test/{kind}/000.png", root / f"ground_truth/{kind}/000/000.png"
        path.parent.mkdir(parents=True)
        target.parent.mkdir(parents=True)
        pixels = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
        pixels[..., 0] = 25
        pixels[8:24, 8 : 16 if value == 200 else 24, 0] = 230
        pixels[0, 0] = value
        Image.fromarray(pixels).save(path)
        mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
        mask[8:24, 8:24] = value
        Image.fromarray(mask).save(target)
    return root


def saturate(root, threshold, relative):
    entry = {"saturation_threshold": threshold, "relative_saturation": relative}
    (root / "defects_config.json").write_text(json.dumps([{"pixel_value": v, **entry} for v in (200, 255)]))


@pytest.mark.parametrize(
    ("threshold", "relative"),
    [(0.4, True), (100, False)],  # both are at most half of the 256 pixels of the mask in the picture
)
def test_half_of_a_region_is_enough_where_it_saturates(loco, threshold, relative):
    """A quarter of the pixels is left at network size: the saturation has to shrink with them."""
    without = found(loco)
    assert not any(name.startswith("au_spro") for name in without.metrics)
    assert "defects_config.json" in without.labels["au_pro"]
    saturate(loco, threshold, relative)
    assert found(loco).metrics["au_spro_0.3"] == pytest.approx(1.0, abs=0.03)
    saturate(loco, 1.0, True)
    assert found(loco).metrics["au_spro_0.05"] < 0.9


def test_spro_is_the_mean_over_the_kinds_of_defect(loco):
    """As in the paper: not of all regions together, where the more frequent kind would win."""
    saturate(loco, 1.0, True)
    before = found(loco).metrics["au_spro_0.05"]
    for k in range(1, 4):
        for name in ("test/logical_anomalies/{}.png", "ground_truth/logical_anomalies/{}/000.png"):
            (loco / name.format(k)).parent.mkdir(exist_ok=True)
            shutil.copy(loco / name.format("000"), loco / name.format(k))
    assert found(loco).metrics["au_spro_0.05"] == pytest.approx(before, abs=0.02)


def test_a_defect_without_mask_is_not_taken_for_good_in_spro(loco):
    """Its bright pixels would be false alarms, and only its own."""
    saturate(loco, 0.4, True)
    before = found(loco).metrics["au_spro_0.05"]
    draw(loco / "test/logical_anomalies/001.png", 0.99)
    result = found(loco)
    assert (result.without_mask, result.metrics["au_spro_0.05"]) == (1, pytest.approx(before))


def test_a_damaged_loco_mask_is_reported_not_blamed_on_the_saturation_file(loco):
    saturate(loco, 0.4, True)
    (loco / "ground_truth/logical_anomalies/000/000.png").write_bytes(b"x")
    result = found(loco)
    assert "000.png" in result.failures[0]
    assert result.without_mask == 1
    assert result.metrics["au_spro_0.05"] is not None  # of the structural ones


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '[{"pixel_value": 200}]', '[{"a": 1}]', "[[1]]"])
def test_a_bad_saturation_file_is_one_line_with_its_name(loco, text):
    (loco / "defects_config.json").write_text(text)
    with pytest.raises(InputError, match="saturation file"):
        found(loco)


def test_a_table_for_pandas_has_a_row_for_each_test_picture(root, monkeypatch):
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    (root / "test/good/broken.png").write_bytes(b"\x89PNG")
    rows = found(root, seen={"train": [root / "test/dent/d0.png"]}).to_dataframe()
    by_name = {Path(row["path"]).stem: row for row in rows}
    assert len(by_name) == 8
    assert (by_name["d1"]["decision"], by_name["d1"]["defective"]) == ("anomalous", True)
    assert (by_name["broken"]["score"], "broken.png" in by_name["broken"]["error"]) == (None, True)
    assert "left out" in by_name["d0"]["error"]
    assert all(list(row) == list(rows[0]) for row in rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"to_dataframe\(\) needs pandas: pip install"):
        found(root).to_dataframe()


def test_the_same_pictures_are_counted_in_each_light(root):
    (root / "test/good/broken.png").write_bytes(b"x")
    known = root / "test/good/g3.png"  # 0.6, the only false alarm: the model knows it
    predictor = model(seen={"train": [known]})
    lights = (Light(), Light(brightness=0.5), Light(brightness=2.0))
    same, dark, bright = robustness(predictor, open_dataset(root), lights=lights)
    # good ones have 0.1, 0.2 and 0.3, defects 0.4, 0.8 and 0.9; anomalous is above 0.5
    assert (same.good, same.defective) == (dark.good, dark.defective) == (3, 3)
    counts = [(one.false_alarms, one.found) for one in (same, dark, bright)]
    assert (counts, same.image_auroc) == ([(0, 2), (0, 0), (1, 3)], 1)
    assert (bright.false_alarm_rate, bright.found_rate) == (pytest.approx(1 / 3), 1)
    whole = evaluate(predictor, open_dataset(root), robust=True)
    assert whole.robustness[0] == same
    # 0.4, 0.8 and 0.9 less a fifth are 0.32, 0.64 and 0.72
    assert re.search(r"brightness 0.8 +0.0% \(0 of 3\) +66.7% \(2 of 3\)", format_evaluation(whole))
    document = json.loads(json.dumps(whole.to_dict()))
    assert [one["name"] for one in document["robustness"]][:2] == ["unchanged", "brightness 0.8"]


def test_a_picture_that_fails_in_one_light_counts_in_none(root):
    predictor = model(limit=0.95)  # 0.8 and 0.9 overflow in bright light
    same, bright = robustness(predictor, open_dataset(root), lights=(Light(), Light(brightness=1.2)))
    assert (same.good, same.defective) == (bright.good, bright.defective) == (4, 1)
