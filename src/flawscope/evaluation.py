"""A predictor on a data set's test pictures: the field's metrics, and whether the promise was kept."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope import metrics
from flawscope.datasets import Dataset, Item
from flawscope.datasets.masks import sized, union
from flawscope.errors import InputError, LeftOut
from flawscope.pictures.decoding import read_labels
from flawscope.predictor import Predictor
from flawscope.progress import Step, silent
from flawscope.results.prediction import Prediction

Take = Callable[[Item, Prediction], None]

NAMES = {  # of the metrics, for a person
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1": "image F1, best threshold (test labels)",
    "image_f1_calibrated": "image F1, calibrated threshold",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1": "pixel F1, best threshold (test labels)",
    "pixel_f1_calibrated": "pixel F1, calibrated threshold",
    "au_pro": "AU-PRO (FPR up to 0.3)",
}


class Evaluated(NamedTuple):
    """One test picture: what it is, what was predicted, and its ground truth [H, W] bool at the map's size
    (all False for a good picture, None where a defective one has no mask)."""

    item: Item
    prediction: Prediction
    truth: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Evaluation:
    """Results of one category.

    metrics: image_auroc, image_ap, image_f1, pixel_auroc, pixel_ap, pixel_f1, au_pro (FPR up to 0.3), all
        on maps at the network's size. `*_f1` is the best over thresholds chosen with the test's own labels;
        `*_f1_calibrated` is at the thresholds that calibration fixed before.
    false_alarms: target, expected (k/(n + 1), what n calibration pictures promise), measured, images (good
        test pictures), interval (95 %, Clopper-Pearson).
    kinds: per kind of test picture the number, how many were called anomalous, and the mean score.
    left_out: test pictures whose pixels the model was fitted or calibrated on, by kind.
    pictures: every picture that counted, for the report; left_out_items: those left out. Not in `to_dict`.
    """

    category: str
    method: str
    metrics: dict[str, float | None]
    false_alarms: dict[str, Any]
    kinds: dict[str, dict[str, Any]]
    images: int
    left_out: dict[str, int]
    without_mask: int
    seconds: float
    failures: tuple[str, ...] = ()
    labels: dict[str, Any] = field(default_factory=dict)  # what a reader must know about single figures
    pictures: tuple[Evaluated, ...] = field(default=(), repr=False, compare=False)
    left_out_items: tuple[Item, ...] = field(default=(), repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """What `evaluate --json` prints."""
        return {
            "category": self.category,
            "method": self.method,
            "metrics": self.metrics,
            "false_alarms": self.false_alarms,
            "kinds": self.kinds,
            "images": self.images,
            "left_out": sum(self.left_out.values()),
            "left_out_by_kind": self.left_out,
            "without_mask": self.without_mask,
            "seconds": round(self.seconds, 3),
            "failures": list(self.failures),
            "labels": self.labels,
        }


@dataclass
class _Seen:
    items: list[Item] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    truths: list[NDArray[np.bool_] | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: list[Item] = field(default_factory=list)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    full_resolution: bool = False,
    take: Take | None = None,
    step: Step = silent,
) -> Evaluation:
    """Score the test pictures and compute the metrics.

    Pictures that the model was fitted or calibrated on are left out, found by their decoded pixels, whatever
    their name.
    A defective picture without a mask counts for image metrics only.

    Args:
        full_resolution: pixel metrics at the pictures' own size too, labelled `full_*`. Slower.
        take: called with every item and its prediction, to write pictures.

    Raises:
        InputError: there is nothing to test.
    """
    began = time.perf_counter()
    if not dataset.test:
        raise InputError(
            f"{dataset.root} has no test pictures: give a data set with a test split, "
            "or folders of good and bad pictures"
        )
    seen = _predict(predictor, dataset, take, step)
    if not seen.items:
        raise InputError(
            f"none of the {len(dataset.test)} test pictures of {dataset.root} can be evaluated: "
            + (seen.failures[0] if seen.failures else "the model was fitted on all of them")
        )
    anomalous = np.array([item.anomalous for item in seen.items])
    scores = np.array([p.score for p in seen.predictions])
    decisions = np.array([p.is_anomalous for p in seen.predictions])
    image = metrics.image_metrics(anomalous, scores)
    found = {
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "image_f1": image.f1,
        "image_f1_calibrated": metrics.f1_at(anomalous, decisions),
    }
    labels: dict[str, Any] = {
        "image_f1": f"best threshold chosen on test labels: {image.f1_threshold:.6g}",
        "image_f1_calibrated": f"threshold fixed by calibration: {predictor.calibration.threshold:.6g}",
        "pixel_metrics": "maps at network size, masks resized by nearest neighbour",
        "au_pro": "8-connected regions over the whole test set, FPR up to 0.3",
    }
    found |= _pixel(seen, predictor, labels)
    found |= _loco(seen, dataset, labels)
    if full_resolution:
        found |= _full(seen, labels)
    good = ~anomalous
    alarms, total = int(decisions[good].sum()), int(good.sum())
    low, high = metrics.confidence_interval_rate(alarms, total)
    return Evaluation(
        category=dataset.category,
        method=predictor.manifest.method,
        metrics={k: None if v is None or np.isnan(v) else float(v) for k, v in found.items()},
        false_alarms={
            "target": predictor.calibration.effective_rate,
            "expected": predictor.calibration.expected_rate,
            "measured": alarms / total if total else None,
            "images": total,
            "interval": [low, high],
        },
        kinds=_kinds(seen, dataset),
        images=len(seen.items),
        left_out=dict(Counter(item.kind for item in seen.left_out)),
        without_mask=sum(t is None for t in seen.truths),
        seconds=time.perf_counter() - began,
        failures=tuple(seen.failures),
        labels=labels,
        pictures=tuple(map(Evaluated, seen.items, seen.predictions, seen.truths)),
        left_out_items=tuple(seen.left_out),
    )


def _predict(predictor: Predictor, dataset: Dataset, take: Take | None, step: Step) -> _Seen:
    learnt = {p.hash for p in predictor.manifest.pictures}  # thresholds are learnt from pictures, too
    seen = _Seen()
    results = predictor.stream([item.path for item in dataset.test], leave_out=learnt)
    for done, (item, (_, result)) in enumerate(zip(dataset.test, results, strict=True), start=1):
        step("evaluation", done, len(dataset.test))
        if isinstance(result, LeftOut):
            seen.left_out.append(item)
            continue
        if isinstance(result, InputError):
            seen.failures.append(str(result))
            continue
        try:
            truth = _truth(item, result)
        except InputError as error:
            seen.failures.append(f"{error} (counted without its mask)")
            truth = None
        seen.items.append(item)
        seen.predictions.append(result)
        seen.truths.append(truth)
        if take:
            take(item, result)
    return seen


def _truth(item: Item, result: Prediction) -> NDArray[np.bool_] | None:
    """The union of the item's masks at the network's size; all False for a good picture."""
    if not item.anomalous:
        return np.zeros(result.map.shape, dtype=bool)
    if not item.masks:
        return None
    return result.geometry.mask_to_network(union(item.masks, result.geometry.picture_size))


def _pixel(seen: _Seen, predictor: Predictor, labels: dict[str, Any]) -> dict[str, float]:
    maps = [p.map for p in seen.predictions]
    pixel = metrics.pixel_metrics(maps, seen.truths)
    counts = np.zeros(3, dtype=np.int64)  # true positives, predicted, true
    for prediction, truth in zip(seen.predictions, seen.truths, strict=True):
        if truth is not None:
            counts += [(prediction.mask & truth).sum(), prediction.mask.sum(), truth.sum()]
    hits, called, wanted = (int(c) for c in counts)
    labels["pixel_f1"] = f"best threshold chosen on test labels: {pixel.f1_threshold:.6g}"
    labels["pixel_f1_calibrated"] = (
        f"threshold fixed by calibration: {predictor.calibration.mask_threshold:.6g}"
    )
    return {
        "pixel_auroc": pixel.auroc,
        "pixel_ap": pixel.ap,
        "pixel_f1": pixel.f1,
        "pixel_f1_calibrated": 2 * hits / (called + wanted) if wanted else float("nan"),
        "au_pro": pixel.au_pro,
    }


def _full(seen: _Seen, labels: dict[str, Any]) -> dict[str, float]:
    labels["full_resolution"] = "full_*: maps warped to each picture's size, masks as they are"
    maps = []
    truths: list[NDArray[np.bool_] | None] = []
    for item, prediction, truth in zip(seen.items, seen.predictions, seen.truths, strict=True):
        maps.append(prediction.picture_map())
        truths.append(None if truth is None else union(item.masks, prediction.geometry.picture_size))
    pixel = metrics.pixel_metrics(maps, truths)
    return {
        "full_pixel_auroc": pixel.auroc,
        "full_pixel_ap": pixel.ap,
        "full_pixel_f1": pixel.f1,
        "full_au_pro": pixel.au_pro,
    }


def _loco(seen: _Seen, dataset: Dataset, labels: dict[str, Any]) -> dict[str, float]:
    """MVTec LOCO's sPRO, where its saturation file lies beside the data."""
    if dataset.layout != "loco":
        return {}
    path = dataset.root / metrics.SATURATION_FILE
    if not path.is_file():
        labels["au_pro"] += "; sPRO needs defects_config.json in the category's folder"
        return {}
    try:
        configs = {c["pixel_value"]: c for c in json.loads(path.read_text(encoding="utf-8"))}
        regions: list[list[tuple[NDArray[np.bool_], float]] | None] = []
        for item, prediction, truth in zip(seen.items, seen.predictions, seen.truths, strict=True):
            found = (_region(p, prediction, configs) for p in item.masks)
            regions.append(None if truth is None else [region for region in found if region])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not LOCO's saturation file ({error}): copy it again") from None
    labels["au_spro"] = (
        "Bergmann et al., IJCV 2022: each kind of defect with all good pictures, then their mean; "
        "maps at network size, saturation scaled with the area"
    )
    kinds = dict.fromkeys(item.kind for item in seen.items if item.anomalous)
    areas: dict[str, list[float]] = {}
    for kind in kinds:
        chosen = [i for i, item in enumerate(seen.items) if item.kind == kind or not item.anomalous]
        area = metrics.au_spro([seen.predictions[i].map for i in chosen], [regions[i] for i in chosen])
        for limit, value in area.items():
            if not np.isnan(value):  # a kind without masks has none
                areas.setdefault(f"au_spro_{limit:g}", []).append(value)
    return {name: float(np.mean(values)) for name, values in areas.items()}


def _region(
    path: Path, prediction: Prediction, configs: dict[int, Any]
) -> tuple[NDArray[np.bool_], float] | None:
    """A region at the network's size with its saturation in pixels there; None if nothing is left of it."""
    values = sized(read_labels(path), prediction.geometry.picture_size, f"mask {path}")
    scaled = prediction.geometry.mask_to_network(values > 0)
    if not scaled.any():
        return None
    config = configs[int(values.max())]
    sy, sx = prediction.geometry.scale
    saturation = metrics.saturation_pixels(
        int(scaled.sum()),
        config["saturation_threshold"],
        relative=config["relative_saturation"],
        scale=sy * sx,
    )
    return scaled, saturation


def _kinds(seen: _Seen, dataset: Dataset) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kind in dataset.kinds:
        chosen = [p for i, p in zip(seen.items, seen.predictions, strict=True) if i.kind == kind]
        if chosen:
            found[kind] = {
                "images": len(chosen),
                "anomalous": sum(p.is_anomalous for p in chosen),
                "mean_score": float(np.mean([p.score for p in chosen])),
            }
    return found
