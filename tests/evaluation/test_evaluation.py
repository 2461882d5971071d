"""Evaluation with a session that anybody can compute in the head: a picture's score is its brightest pixel,
its map the red channel."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawscope.artefact.model_file import Artefact, Manifest, Picture
from flawscope.calibration.decision import Calibration
from flawscope.datasets import open_dataset
from flawscope.datasets.masks import union
from flawscope.errors import FlawscopeError, InputError
from flawscope.evaluation import evaluate
from flawscope.metrics import confidence_interval_rate, pixel_metrics
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor import Predictor

SIDE = 16  # of the network; pictures are twice as large


class Brightness:
    """A `Session`: map = red in 0..1, score = its maximum."""

    runtime = "fake"
    size = (SIDE, SIDE)
    batch, lanes = 3, 1

    def run(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert images.dtype == np.float32
        assert images.shape[1:] == (3, *self.size)
        maps = images[:, 0]
        return maps.max((1, 2)), maps

    run_alone = run


class Lanes(Brightness):
    """Judges three side by side, the first ones last."""

    lanes = 3

    def __init__(self) -> None:
        self.begun, self.at_once, self.most, self.lock = 0, 0, 0, Lock()

    def run_alone(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self.lock:
            self.begun, self.at_once = self.begun + 1, self.at_once + 1
            self.most = max(self.most, self.at_once)
            first = self.begun % 3 == 1
        time.sleep(0.05 if first else 0.01)
        with self.lock:
            self.at_once -= 1
        return self.run(images, positions)


def make_predictor(
    seen: dict[str, list[Path]] | None = None,
    threshold: float = 0.5,
    preprocess: Preprocess | None = None,
    **tensors: NDArray[Any],
) -> Predictor:
    """`seen`: role -> pictures the model knows. Twenty calibration scores put the threshold where asked."""
    pictures = [
        Picture(pixel_hash(decode(path)), role, path.name)
        for role, paths in (seen or {}).items()
        for path in paths
    ]
    values = (*tuple(np.linspace(0.1, threshold - 0.01, 19)), threshold)
    manifest = Manifest(
        method="patchcore",
        config={},
        preprocess=preprocess or Preprocess((SIDE, SIDE)),
        calibration=Calibration(values, values, 0.1, rate=0.05),
        pictures=tuple(pictures),
    )
    return Predictor(Artefact(manifest, tensors), Brightness())


def draw(path: Path, level: float, seed: int = 0, spot: bool = False) -> Path:
    """A dark picture [32, 32] with noise of its own; `level` is its brightest part, a square if `spot`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *path.name.encode()])
    pixels = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    pixels[..., 1:] = rng.integers(0, 255, (2 * SIDE, 2 * SIDE, 2))  # unseen by the session
    value = round(level * 255)
    if spot:
        pixels[8:16, 8:16, 0] = value
    else:
        pixels[..., 0] = value
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path: Path, value: int = 255, size: int = 2 * SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size, size), np.uint8)
    pixels[8:16, 8:16] = value
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """4 good ones, one of them over the threshold; 3 dented ones, one of them under it."""
    root = tmp_path / "thing"
    for k in range(3):
        draw(root / f"train/good/{k}.png", 0.2, seed=1)
    for k, level in enumerate((0.1, 0.2, 0.3, 0.6)):
        draw(root / f"test/good/g{k}.png", level)
    for k, level in enumerate((0.4, 0.8, 0.9)):
        draw(root / f"test/dent/d{k}.png", level, spot=True)
        draw_mask(root / f"ground_truth/dent/d{k}_mask.png")
    return root


# ------------------------------------------------------------------------------------------------- figures


def test_boxes_of_a_label_file_are_masks_and_the_figures_say_so(root: Path) -> None:
    by_masks = evaluate(make_predictor(), open_dataset(root))
    assert "boxes" not in by_masks.labels["au_pro"]
    shutil.rmtree(root / "ground_truth")
    sides = {"height": 2 * SIDE, "width": 2 * SIDE}
    images = [{"id": k, "file_name": f"test/dent/d{k}.png", **sides} for k in range(3)]
    boxes = [{"image_id": k, "bbox": [8, 8, 8, 8]} for k in range(3)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    by_boxes = evaluate(make_predictor(), open_dataset(root))
    assert by_boxes.metrics == by_masks.metrics
    assert "some masks are boxes" in by_boxes.labels["au_pro"]


def test_the_figures_are_those_one_counts_by_hand(root: Path) -> None:
    result = evaluate(make_predictor(), open_dataset(root))
    found = result.metrics
    # pairs (defect, good) in the right order: 0.4 beats 3 of 4, 0.8 and 0.9 beat all 4
    assert found["image_auroc"] == pytest.approx(11 / 12)
    # ranks of the defects: 1, 2 and 4
    assert found["image_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["image_f1"] == pytest.approx(2 * 3 / (3 + 4))  # at 0.4: 3 found, 1 false alarm
    assert found["image_f1_calibrated"] == pytest.approx(2 * 2 / (3 + 3))  # at 0.5: 2 found, 1 false alarm
    assert result.images == 7
    assert (result.category, result.method) == ("thing", "patchcore")
    good = result.kinds["good"]
    assert (good["images"], good["anomalous"]) == (4, 1)
    assert good["mean_score"] == pytest.approx(0.3, abs=0.01)
    # calibration scores lie 0.39 / 18 apart, and 0.5: the middle distance from their median is 5 steps
    levels = sorted(p.score for _, p, _, _ in result.pictures if p.path and "good" in p.path)
    middle = (levels[1] + levels[2]) / 2
    assert good["median_severity"] == pytest.approx((middle - 0.5) / (1.4826 * 5 * 0.39 / 18), rel=1e-6)
    assert result.kinds["dent"]["anomalous"] == 2
    assert list(result.kinds) == ["good", "dent"]
    assert (result.left_out, result.without_mask, result.failures) == ({}, 0, ())


def test_pixel_figures_use_the_maps_at_network_size(root: Path) -> None:
    found = evaluate(make_predictor(), open_dataset(root)).metrics
    # an 8x8 square of the picture is 4x4 in the map; three of them, and two are found
    calibrated = 2 * 32 / (32 + 256 + 48)  # above 0.5: two squares and one whole good picture
    assert found["pixel_f1_calibrated"] == pytest.approx(calibrated)
    assert 0.9 < found["pixel_auroc"] < 1
    assert 0 < found["au_pro"] < 1


def test_false_alarms_have_target_measured_and_interval(root: Path) -> None:
    alarms = evaluate(make_predictor(), open_dataset(root)).false_alarms
    assert (alarms["target"], alarms["measured"], alarms["images"]) == (0.05, 0.25, 4)
    assert alarms["expected"] == 1 / 21  # of 20 calibration scores
    assert alarms["interval"] == list(confidence_interval_rate(1, 4))
    low, high = alarms["interval"]
    assert low < 0.25 < high


def test_json_has_the_promised_keys(root: Path) -> None:
    data = json.loads(json.dumps(evaluate(make_predictor(), open_dataset(root)).to_dict(), allow_nan=False))
    assert {"category", "method", "metrics", "false_alarms", "images", "left_out", "seconds"} <= set(data)
    names = "image_auroc image_ap image_f1 pixel_auroc pixel_ap pixel_f1 au_pro"
    assert set(names.split()) <= set(data["metrics"])
    assert {"target", "measured", "images"} <= set(data["false_alarms"])
    assert data["left_out"] == 0


def test_figures_that_needed_test_labels_say_so(root: Path) -> None:
    labels = evaluate(make_predictor(), open_dataset(root)).labels
    for name in ("image_f1", "pixel_f1"):
        assert "test labels" in labels[name]
        assert "fixed by calibration" in labels[f"{name}_calibrated"]


def test_the_order_of_the_files_changes_nothing(root: Path) -> None:
    import dataclasses

    dataset = open_dataset(root)
    turned = dataclasses.replace(dataset, test=dataset.test[::-1])
    assert evaluate(make_predictor(), turned).metrics == evaluate(make_predictor(), dataset).metrics


# ------------------------------------------------------------------------------- pictures the model has seen


def copy_renamed(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def copy_as_bmp(source: Path, target: Path) -> None:
    Image.open(source).save(target.with_suffix(".bmp"))


def copy_recompressed(source: Path, target: Path) -> None:
    Image.open(source).convert("RGBA").save(target.with_suffix(".png"), compress_level=0)


@pytest.mark.parametrize("copy", [copy_renamed, copy_as_bmp, copy_recompressed])
@pytest.mark.parametrize("role", ["train", "calibration", "duplicate", "dropped", "seen"])
def test_what_the_model_has_seen_is_left_out_whatever_its_name(
    root: Path, role: str, copy: Callable[[Path, Path], None]
) -> None:
    learnt = [root / f"train/good/{k}.png" for k in range(3)]
    plain = evaluate(make_predictor(), open_dataset(root))
    copy(learnt[0], root / "test/good/new.png")
    copy(learnt[1], root / "test/dent/new.png")
    result = evaluate(make_predictor({role: learnt}), open_dataset(root))
    assert result.left_out == {"good": 1, "dent": 1}
    assert result.to_dict()["left_out"] == 2
    assert result.metrics == plain.metrics
    assert result.images == 7


def test_one_changed_pixel_is_another_picture(root: Path) -> None:
    pixels = np.array(Image.open(root / "train/good/0.png"))
    pixels[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(root / "test/good/new.png")
    result = evaluate(make_predictor({"train": [root / "train/good/0.png"]}), open_dataset(root))
    assert result.left_out == {}
    assert result.images == 8


# ------------------------------------------------------------------------------------------- missing things


def test_a_missing_mask_still_counts_for_the_image_figures(root: Path) -> None:
    whole = evaluate(make_predictor(), open_dataset(root))
    (root / "ground_truth/dent/d1_mask.png").unlink()
    result = evaluate(make_predictor(), open_dataset(root))
    assert result.without_mask == 1
    assert result.images == 7
    for name in ("image_auroc", "image_ap", "image_f1", "image_f1_calibrated"):
        assert result.metrics[name] == whole.metrics[name]
    assert result.metrics["pixel_ap"] != whole.metrics["pixel_ap"]


def test_without_any_mask_pixel_figures_are_null_and_the_rest_is_there(root: Path) -> None:
    for path in (root / "ground_truth/dent").iterdir():
        path.unlink()
    result = evaluate(make_predictor(), open_dataset(root), full_resolution=True)
    assert result.metrics["pixel_auroc"] is None
    assert result.metrics["full_au_pro"] is None
    assert result.metrics["image_auroc"] == pytest.approx(11 / 12)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("full_resolution", [False, True])
@pytest.mark.parametrize("fault", ["damaged", "other size"])
def test_a_bad_mask_is_reported_and_its_picture_counts_without(
    root: Path, fault: str, full_resolution: bool
) -> None:
    mask = root / "ground_truth/dent/d1_mask.png"
    if fault == "damaged":
        mask.write_bytes(mask.read_bytes()[:40])
    else:
        draw_mask(mask, size=50)
    result = evaluate(make_predictor(), open_dataset(root), full_resolution=full_resolution)
    (failure,) = result.failures
    assert "d1_mask.png" in failure
    assert "counted without its mask" in failure
    assert (result.images, result.without_mask) == (7, 1)
    assert result.metrics["image_auroc"] == pytest.approx(11 / 12)


def test_a_damaged_picture_is_reported_and_the_others_are_done(root: Path) -> None:
    bad = root / "test/good/g1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    (root / "test/dent/d0.png").write_bytes(b"")
    result = evaluate(make_predictor({"train": [root / "train/good/0.png"]}), open_dataset(root))
    assert len(result.failures) == 2  # each once
    assert any("g1.png" in f for f in result.failures)
    assert result.images == 5
    assert result.kinds["dent"]["images"] == 2


def test_only_good_or_only_bad_pictures_have_null_figures(root: Path) -> None:
    import dataclasses

    dataset = open_dataset(root)
    good = dataclasses.replace(dataset, test=tuple(i for i in dataset.test if not i.anomalous))
    result = evaluate(make_predictor(), good)
    assert result.metrics["image_auroc"] is None
    assert (result.labels["image_f1"], result.labels["pixel_f1"]) == (None, None)
    assert "nan" not in json.dumps(result.to_dict())
    assert result.false_alarms["measured"] == 0.25
    bad = dataclasses.replace(dataset, test=tuple(i for i in dataset.test if i.anomalous))
    result = evaluate(make_predictor(), bad)
    assert result.metrics["image_auroc"] is None
    assert result.false_alarms["measured"] is None
    assert (result.false_alarms["images"], result.false_alarms["interval"]) == (0, [0.0, 1.0])


def test_nothing_to_test_is_an_input_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no test pictures"):
        evaluate(make_predictor(), open_dataset(root / "train/good"))
    everything = {"train": list((root / "test").rglob("*.png"))}
    with pytest.raises(InputError, match="fitted on all of them"):
        evaluate(make_predictor(everything), open_dataset(root))
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 7 test pictures"):
        evaluate(make_predictor(), open_dataset(root))


# -------------------------------------------------------------------------------------------------- options


def test_every_evaluated_picture_is_handed_on_once_with_its_item(root: Path) -> None:
    taken: list[Any] = []
    steps: list[tuple[str, int, int]] = []
    evaluate(
        make_predictor(),
        open_dataset(root),
        take=lambda item, prediction: taken.append((item, prediction)),
        step=lambda *s: steps.append(s),
    )
    assert [item.path for item, _ in taken] == [item.path for item in open_dataset(root).test]
    for item, prediction in taken:
        assert prediction.path == str(item.path)
        pixels = np.array(Image.open(item.path))
        assert prediction.score == pytest.approx(pixels[..., 0].max() / 255, abs=0.01)
    assert steps == [("evaluation", k, 7) for k in range(1, 8)]


def test_full_resolution_is_extra_and_labelled(root: Path) -> None:
    plain = evaluate(make_predictor(), open_dataset(root))
    full = evaluate(make_predictor(), open_dataset(root), full_resolution=True)
    assert plain.metrics.items() <= full.metrics.items()
    assert {n for n in full.metrics if n not in plain.metrics} == {
        "full_pixel_auroc",
        "full_pixel_ap",
        "full_pixel_f1",
        "full_au_pro",
    }
    assert "full_resolution" in full.labels


# ---------------------------------------------------------------------------------------- pixels that count


def test_only_pixels_in_the_region_of_interest_count_and_defects_outside_are_no_miss(root: Path) -> None:
    """The square of d0 lies inside, those of d1 and d2 are moved outside; half of the map is left."""
    roi = np.zeros((SIDE, SIDE), bool)
    roi[:, : SIDE // 2] = True
    for name in ("d1", "d2"):
        for path in (root / f"test/dent/{name}.png", root / f"ground_truth/dent/{name}_mask.png"):
            Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path)
    result = evaluate(make_predictor(roi=roi), open_dataset(root), full_resolution=True)
    assert result.defect_pixels == {"all": 192, "outside": 128, "pictures_outside": 2}
    assert result.to_dict()["defect_pixels"] == result.defect_pixels
    assert result.outside().startswith("66.7% of the defects' pixels lie outside")
    assert result.outside().endswith("2 pictures with no other defect")
    assert "inside the region of interest" in result.labels["pixel_metrics"]
    halves = [seen.prediction.map[:, :8] for seen in result.pictures]
    truths = [seen.truth[:, :8] for seen in result.pictures if seen.truth is not None]
    by_hand = pixel_metrics(halves, truths)
    found = result.metrics
    assert (found["pixel_auroc"], found["pixel_ap"], found["au_pro"]) == (
        by_hand.auroc,
        by_hand.ap,
        by_hand.au_pro,
    )
    called = sum((half > 0.5).sum() for half in halves)
    assert found["pixel_f1_calibrated"] == 0  # the only defect inside is below the threshold
    assert called == 128  # of the good picture that is called anomalous
    full = pixel_metrics(
        [seen.prediction.picture_map()[:, :SIDE] for seen in result.pictures],
        [union(seen.item.masks, (2 * SIDE, 2 * SIDE))[:, :SIDE] for seen in result.pictures],
    )
    assert found["full_pixel_ap"] == full.ap
    # pictures count as before
    assert result.images == 7
    assert found["image_auroc"] == pytest.approx(11 / 12)


def test_a_letterboxs_border_counts_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for name, level in (("train/good/0", 0.2), ("test/good/g", 0.6), ("test/dent/d", 0.9)):
        path = draw(root / f"{name}.png", level, spot=level == 0.9)
        Image.fromarray(np.asarray(Image.open(path))[:16]).save(path)  # twice as wide as high
    mask = draw_mask(root / "ground_truth/dent/d_mask.png")
    Image.fromarray(np.asarray(Image.open(mask))[:16]).save(mask)
    result = evaluate(
        make_predictor(preprocess=Preprocess((SIDE, SIDE), keep_aspect=True)), open_dataset(root)
    )
    shown = slice(SIDE // 4, SIDE - SIDE // 4)
    by_hand = pixel_metrics(
        [seen.prediction.map[shown] for seen in result.pictures],
        [seen.truth[shown] for seen in result.pictures if seen.truth is not None],
    )
    assert result.metrics["pixel_ap"] == by_hand.ap
    assert result.metrics["au_pro"] == by_hand.au_pro
    assert result.defect_pixels == {"all": 64, "outside": 0, "pictures_outside": 0}
    assert result.outside() == ""


def test_what_a_crop_cuts_away_counts_nowhere(root: Path) -> None:
    preprocess = Preprocess((SIDE * 2, SIDE * 2), crop=(SIDE, SIDE))  # the middle of the pictures as they are
    result = evaluate(make_predictor(preprocess=preprocess), open_dataset(root), full_resolution=True)
    assert result.defect_pixels == {"all": 192, "outside": 0, "pictures_outside": 0}
    assert result.metrics["full_au_pro"] == pytest.approx(result.metrics["au_pro"])
    for path in (root / "ground_truth/dent").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(path)), -8, axis=0)).save(path)
    result = evaluate(make_predictor(preprocess=preprocess), open_dataset(root))
    assert result.defect_pixels == {"all": 192, "outside": 192, "pictures_outside": 3}
    assert result.metrics["au_pro"] is None  # nothing that could be found


# ------------------------------------------------------------------------------------------------- memory


def test_maps_on_disk_make_no_difference(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "ground_truth/dent/d1_mask.png").unlink()
    before = evaluate(make_predictor(), open_dataset(root), full_resolution=True)
    monkeypatch.setattr("flawscope.evaluation.result.MEMORY", 3 * 4 * SIDE * SIDE)
    after = evaluate(make_predictor(), open_dataset(root), full_resolution=True)
    assert after.metrics == before.metrics
    for one, other in zip(after.pictures, before.pictures, strict=True):
        assert one.item == other.item
        np.testing.assert_array_equal(one.prediction.map, other.prediction.map)
        np.testing.assert_array_equal(one.truth, other.truth)  # type: ignore[arg-type]
        assert one.prediction.regions == other.prediction.regions
    assert [seen.item for seen in after.pictures[-2:]] == [after.pictures[k].item for k in (-2, -1)]


def test_a_full_disk_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawscope.evaluation.result.MEMORY", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "wb", 0))  # noqa: SIM115
    with pytest.raises(FlawscopeError, match=r"cannot keep anomaly maps in .*: No space left.*TMPDIR"):
        evaluate(make_predictor(), open_dataset(root))


# ----------------------------------------------------------------------------------------------- MVTec LOCO


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    """The network finds the left half of a missing object's area, and a scratch as a whole."""
    root = tmp_path / "box"
    for k in range(2):
        draw(root / f"train/good/{k}.png", 0.1)
        draw(root / f"validation/good/v{k}.png", 0.1)
        draw(root / f"test/good/g{k}.png", 0.1)
    for kind, value in (("logical_anomalies", 200), ("structural_anomalies", 255)):
        path = root / f"test/{kind}/000.png"
        path.parent.mkdir(parents=True)
        pixels = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
        pixels[..., 0] = 25
        pixels[8:24, 8 : 16 if value == 200 else 24, 0] = 230
        pixels[0, 0] = value
        Image.fromarray(pixels).save(path)
        mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
        mask[8:24, 8:24] = value
        target = root / f"ground_truth/{kind}/000/000.png"
        target.parent.mkdir(parents=True)
        Image.fromarray(mask).save(target)
    return root


def saturate(root: Path, threshold: float, relative: bool) -> None:
    entries = [
        {"pixel_value": v, "saturation_threshold": threshold, "relative_saturation": relative}
        for v in (200, 255)
    ]
    (root / "defects_config.json").write_text(json.dumps(entries))


def test_loco_without_its_saturation_file_gets_au_pro_and_says_so(loco: Path) -> None:
    result = evaluate(make_predictor(), open_dataset(loco))
    assert not any(name.startswith("au_spro") for name in result.metrics)
    assert "defects_config.json" in result.labels["au_pro"]


@pytest.mark.parametrize(
    ("threshold", "relative"),
    [(0.4, True), (100, False)],  # both are at most half of the 256 pixels of the mask in the picture
)
def test_half_of_a_region_is_enough_where_it_saturates(loco: Path, threshold: float, relative: bool) -> None:
    """A quarter of the pixels is left at network size: the saturation has to shrink with them."""
    saturate(loco, threshold, relative)
    found = evaluate(make_predictor(), open_dataset(loco)).metrics
    assert found["au_spro_0.3"] == pytest.approx(1.0, abs=0.03)
    saturate(loco, 1.0, True)
    found = evaluate(make_predictor(), open_dataset(loco)).metrics
    assert found["au_spro_0.05"] < 0.9


def test_spro_is_the_mean_over_the_kinds_of_defect(loco: Path) -> None:
    """As in the paper: not of all regions together, where the more frequent kind would win."""
    saturate(loco, 1.0, True)
    before = evaluate(make_predictor(), open_dataset(loco)).metrics["au_spro_0.05"]
    for k in range(1, 4):
        for name in (f"test/logical_anomalies/00{k}.png", f"ground_truth/logical_anomalies/00{k}/000.png"):
            (loco / name).parent.mkdir(exist_ok=True)
            source = loco / name.replace(f"00{k}", "000")
            (loco / name).write_bytes(source.read_bytes())
    after = evaluate(make_predictor(), open_dataset(loco)).metrics["au_spro_0.05"]
    assert after == pytest.approx(before, abs=0.02)


def test_a_defect_without_mask_is_not_taken_for_good_in_spro(loco: Path) -> None:
    """Its bright pixels would be false alarms, and only its own."""
    saturate(loco, 0.4, True)
    before = evaluate(make_predictor(), open_dataset(loco)).metrics["au_spro_0.05"]
    draw(loco / "test/logical_anomalies/001.png", 0.99)
    result = evaluate(make_predictor(), open_dataset(loco))
    assert result.without_mask == 1
    assert result.metrics["au_spro_0.05"] == pytest.approx(before)


def test_a_damaged_loco_mask_is_reported_not_blamed_on_the_saturation_file(loco: Path) -> None:
    saturate(loco, 0.4, True)
    (loco / "ground_truth/logical_anomalies/000/000.png").write_bytes(b"x")
    result = evaluate(make_predictor(), open_dataset(loco))
    assert "000.png" in result.failures[0]
    assert result.without_mask == 1
    assert math.isfinite(result.metrics["au_spro_0.05"] or math.nan)  # of the structural ones


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '[{"pixel_value": 200}]', '[{"a": 1}]', "[[1]]"])
def test_a_bad_saturation_file_is_one_line_with_its_name(loco: Path, text: str) -> None:
    (loco / "defects_config.json").write_text(text)
    with pytest.raises(InputError, match="saturation file") as caught:
        evaluate(make_predictor(), open_dataset(loco))
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- stream


@pytest.mark.parametrize("batch", [None, 1, 2, 50])
def test_a_stream_answers_in_order_and_tells_what_cannot_be_read(root: Path, batch: int | None) -> None:
    paths = [*sorted((root / "test/good").glob("*.png")) * 3]
    broken = root / "broken.png"
    broken.write_bytes(b"x")
    paths.insert(4, broken)
    found = list(make_predictor().stream(iter(paths), batch=batch))
    assert [path for path, _ in found] == paths
    assert [isinstance(result, InputError) for _, result in found] == [path == broken for path in paths]
    assert list(make_predictor().stream([], batch=batch)) == []


def test_side_by_side_answers_come_in_order_too(root: Path) -> None:
    paths = [*sorted((root / "test/good").glob("*.png")) * 3]
    broken = root / "broken.png"
    broken.write_bytes(b"x")
    paths.insert(4, broken)
    plain, model = make_predictor(), make_predictor()
    model.session = Lanes()
    expected = [(p, str(r) if isinstance(r, InputError) else r.score) for p, r in plain.stream(paths)]
    found = [(p, str(r) if isinstance(r, InputError) else r.score) for p, r in model.stream(iter(paths))]
    assert found == expected
    assert model.session.most == 3
    assert model.session.begun == len(paths) - 1


def test_few_pictures_get_all_threads_each_and_a_stream_that_is_left_looks_at_few_more(root: Path) -> None:
    path = next((root / "test/good").glob("*.png"))
    model = make_predictor()
    model.session = Lanes()
    assert len(list(model.stream([path] * 2))) == 2
    assert not model.session.begun
    assert model.predict(path).score
    assert not model.session.begun
    asked = 0

    def ask() -> Iterator[Path]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield path

    stream = model.stream(ask())
    next(stream)
    stream.close()
    assert asked <= 2 * 3 + 1


def test_one_at_a_time_a_picture_is_answered_before_the_next_one_is_asked_for(root: Path) -> None:
    path = next((root / "test/good").glob("*.png"))
    asked = []

    def ask() -> Iterator[Path]:
        for number in range(3):
            asked.append(number)
            yield path

    for number, _ in enumerate(make_predictor().stream(ask(), batch=1)):
        assert asked == list(range(number + 1))
    assert len(asked) == 3


# ------------------------------------------------------------------------------------------------ calibrate


def test_calibrating_uses_only_pictures_the_model_has_not_seen_and_each_once(root: Path) -> None:
    learnt = [root / f"train/good/{k}.png" for k in range(3)]
    fresh = sorted((root / "test/good").glob("*.png"))
    copy_as_bmp(fresh[0], root / "copy.png")
    predictor = make_predictor({"train": learnt, "calibration": [root / "test/dent/d0.png"]})
    broken = root / "broken.png"
    broken.write_bytes(b"x")
    new = predictor.calibrate([*learnt[:2], *fresh, root / "copy.bmp", broken])
    assert new.calibration.scores == pytest.approx((0.1, 0.2, 0.3, 0.6), abs=0.01)
    assert len(new.failures) == 1
    assert new.calibration.runtime == "fake"
    roles = [(p.role, p.name) for p in new.manifest.pictures]
    assert roles == [("train", p.name) for p in learnt] + [("calibration", p.name) for p in fresh]
    hashes = [pixel_hash(decode(p)) for p in fresh]
    assert new.manifest.facts["calibration_pictures"] == hashes  # in the order of the scores
    assert any("3 pictures" in note for note in new.manifest.notes)


def test_the_pictures_of_a_new_calibration_are_left_out_of_its_evaluation(root: Path) -> None:
    new = make_predictor().calibrate(sorted((root / "test/good").glob("g[01].png")))
    assert evaluate(new, open_dataset(root)).left_out == {"good": 2}


def test_calibrating_on_nothing_new_is_an_input_error(root: Path) -> None:
    learnt = sorted((root / "train/good").glob("*.png"))
    predictor = make_predictor({"train": learnt})
    with pytest.raises(InputError, match="fitted on all of them"):
        predictor.calibrate(learnt)
    with pytest.raises(InputError, match="no good pictures"):
        predictor.calibrate([])
    (root / "broken.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"broken\.png"):
        predictor.calibrate([root / "broken.png"])
