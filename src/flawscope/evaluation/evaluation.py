"""Evaluates a predictor on test pictures: the field's metrics, and whether the promise was kept."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.rates import promise_of
from flawscope.datasets import Dataset, Item
from flawscope.datasets.labels import PictureLabels
from flawscope.datasets.masks import union_masks
from flawscope.errors import (
    ExcludedPictureError,
    Failure,
    InputError,
    check_arguments,
    failure_of,
    mask_failure,
    pluralize,
    require_type,
)
from flawscope.evaluation import metrics
from flawscope.evaluation.decided import (
    Decided,
    Judged,
    JudgedPart,
    as_parts_say,
    decided_on,
    judge_parts,
)
from flawscope.evaluation.ground_truth import loco_metrics, shrink_mask
from flawscope.evaluation.learning_curve import learning_curve
from flawscope.evaluation.promise import check_promise
from flawscope.evaluation.result import (
    DEFECT_PIXELS,
    MASK_COUNTS,
    Evaluation,
    LazySequence,
    PictureStore,
)
from flawscope.evaluation.robustness import LIGHTS, robustness
from flawscope.evaluation.unlearnt import leave_out_learnt_parts
from flawscope.predictor import Predictor
from flawscope.predictor.router import Router
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.prediction import INCOMPLETE, MIN_WARNING_PICTURES, MismatchDetector, Prediction
from flawscope.types import Json
from flawscope.views.geometry import Geometry
from flawscope.views.light import Light

OnPrediction = Callable[[Item, Prediction], None]


@dataclass
class _TestPictures:
    """Test pictures with a prediction (`kept`), left out, or unreadable."""

    kept: PictureStore
    failures: list[Failure] = field(default_factory=list)
    left_out: list[Item] = field(default_factory=list)
    unjudged: list[tuple[Item, str]] = field(default_factory=list)
    marked: Counter[str] = field(default_factory=Counter)  # counts of `DEFECT_PIXELS` and `MASK_COUNTS`
    unmarked: list[str] = field(default_factory=list)  # why defective pictures have no usable mask


def valid_pixels(predictor: Predictor, geometry: Geometry) -> NDArray[np.bool_]:
    """Mask [H, W] bool of the pixels that count, at the size of a prediction's map.

    They show the picture, not a letterbox's border, and lie inside the model's region of interest.
    """
    return predictor.valid_mask(geometry) & geometry.visible_mask()


@check_arguments(unchecked=("dataset",))
def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    full_resolution: bool = False,
    robust: bool | Collection[Light] = False,
    leave_out: Collection[str] = (),
    fewer: Sequence[Predictor] = (),
    take: OnPrediction | None = None,
    step: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Score the test pictures and compute the metrics.

    Pictures that the model was fitted or calibrated on are left out, found by their decoded pixels, whatever
    their name. Where the data set has no split of its own, every other picture is tested. A defective picture
    without a mask counts for image metrics only. For pixel metrics only `valid_pixels` count. Maps lie in a
    temporary file (in TMPDIR).

    Args:
        predictor: Model to evaluate.
        dataset: Data set whose test pictures are judged.
        full_resolution: Whether to compute pixel metrics at the pictures' own size too, named `full_*`.
            Slower.
        robust: Whether to judge every picture in other light and out of focus too (`robustness`), or the
            lights to do so in: 20 times the work, or as many times as there are lights.
        leave_out: Hashes (`decoding.pixel_hash`) of further pictures to leave out.
        fewer: Models like it of fewer good pictures (`fitting.fewer_pictures.fit_fewer`), for the learning
            curve.
        take: Called with every item and its prediction, to write pictures.
        step: Called with the progress.

    Raises:
        InputError: There is nothing to test.
    """
    began = time.perf_counter()
    _check_dataset(dataset)
    learnt = set(leave_out)
    learnt.update(picture.hash for picture in predictor.manifest.pictures)  # thresholds are learnt, too
    is_drawn = dataset.drawn_split
    dataset = leave_out_learnt_parts(predictor, dataset, learnt, step)
    _check_tests(predictor, dataset, changes_light=bool(robust))
    seen = _predict_all(predictor, dataset, learnt, take, step)
    kept = seen.kept
    if not kept.items:
        raise _nothing_evaluated(dataset, seen.failures)
    explanations: Json = {}
    shown = [*zip(kept.items, kept.predictions, strict=True)]
    judged = judge_parts(predictor, shown, seen.failures)
    if judged:
        shown = as_parts_say(shown, judged)
        kept.items = [item for item, _ in shown]
        kept.predictions = [prediction for _, prediction in shown]
        explanations["image_metrics"] = "of parts, which the model decides on"
    decided = decided_on(shown, judged)
    metrics = _image_metrics(decided, predictor, explanations) | _pixel_metrics(kept, predictor, explanations)
    metrics |= loco_metrics(kept, dataset, explanations)
    if full_resolution:
        metrics |= _full_resolution_metrics(kept, explanations)
    left_out_kinds = Counter(item.kind for item in seen.left_out)
    return Evaluation(
        category=dataset.category,
        product=predictor.manifest.category,
        method=predictor.manifest.method,
        metrics=_known_metrics(metrics),
        false_alarms=_false_alarm_statistics(shown, decided, predictor, dataset.train),
        defects=_defect_statistics(decided),
        kinds=_kind_statistics(decided, dataset),
        images=len(kept),
        defect_pixels=_counts_of(seen.marked, DEFECT_PIXELS),
        masks=_counts_of(seen.marked, MASK_COUNTS),
        left_out=dict(left_out_kinds),
        learnt_from=len(dataset.train) if is_drawn else 0,
        without_mask=kept.without_mask,
        unmarked=dict(Counter(seen.unmarked)),
        seconds=time.perf_counter() - began,
        mismatch=_mismatch_warning(kept, predictor),
        labels=explanations,
        parts=part_statistics(predictor, judged),
        learning_curve=learning_curve(predictor, fewer, shown, step),
        robustness=robustness(predictor, dataset, lights=_lights_of(robust), leave_out=leave_out, step=step),
        failures=tuple(seen.failures),
        judged_parts=judged,
        pictures=kept.pictures,
        left_out_items=tuple(seen.left_out),
        unjudged=tuple(seen.unjudged),
    )


def _check_dataset(dataset: object) -> None:
    if isinstance(dataset, str | os.PathLike):  # as `fit` takes it
        raise InputError(f"{dataset!s} is a path: open it, evaluate(model, open_dataset({str(dataset)!r}))")
    require_type("dataset", dataset, Dataset)


def _nothing_evaluated(dataset: Dataset, failures: Sequence[str]) -> InputError:
    why = failures[0] if failures else "the model was fitted on all of them"
    count = pluralize(len(dataset.test), "test picture")
    return InputError(f"none of {count} of {dataset.root} can be evaluated: {why}")


def _check_tests(predictor: Predictor, dataset: Dataset, changes_light: bool) -> None:
    """Raise an InputError where there is nothing to test, or no light that could be changed."""
    if not dataset.test:
        raise InputError(
            f"{dataset.root} has no test pictures: give a data set with a test split, "
            "or folders of good and bad pictures"
        )
    if changes_light and predictor.manifest.preprocess.channels is not None:
        raise InputError("pictures of several channels have no light to change: leave out --robustness")


def _lights_of(robust: bool | Collection[Light]) -> Collection[Light]:
    """The lights in which every picture is judged, too."""
    if isinstance(robust, bool):
        return LIGHTS if robust else ()
    return robust


def _counts_of(counts: Counter[str], names: Iterable[str]) -> dict[str, int]:
    return {name: counts[name] for name in names}


def _known_metrics(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the metrics as numbers, or None for NaN."""
    known: dict[str, float | None] = {}
    for name, value in values.items():
        known[name] = None if value is None or np.isnan(value) else float(value)
    return known


def _predict_all(
    predictor: Predictor,
    dataset: Dataset,
    learnt: Collection[str],
    take: OnPrediction | None,
    step: ProgressCallback,
) -> _TestPictures:
    seen = _TestPictures(PictureStore(lambda geometry: valid_pixels(predictor, geometry)))
    results = predictor.stream([item.path for item in dataset.test], leave_out=learnt)
    for done, (item, (_, result)) in enumerate(zip(dataset.test, results, strict=True), start=1):
        step("evaluation", done, len(dataset.test))
        if isinstance(result, ExcludedPictureError):
            seen.left_out.append(item)
            continue
        if isinstance(result, InputError):
            seen.failures.append(failure_of(result))
            seen.unjudged.append((item, str(result)))
            continue
        try:
            truth = _ground_truth(item, result, predictor, seen.marked)
            seen.unmarked += [item.unmarked or "masks that mark nothing"] if truth is None else []
        except InputError as error:
            seen.failures.append(mask_failure(error))
            seen.unmarked.append("masks that cannot be used")
            truth = None
        seen.kept.append(item, result, truth)
        if take:
            take(item, result)
    return seen


def _ground_truth(
    item: Item, result: Prediction, predictor: Predictor, counts: Counter[str]
) -> NDArray[np.bool_] | None:
    """Return the union of the item's masks at the network's size, and count its pixels, regions and masks.

    It is all False for a good picture, and None where nothing is marked.

    Args:
        item: Picture with its masks.
        result: The model's prediction of it.
        predictor: The model.
        counts: Gets the numbers.
    """
    geometry = result.geometry
    if not item.anomalous:
        return np.zeros(geometry.size, dtype=bool)
    if not item.masks:
        return None
    marked = union_masks(item.masks, geometry.picture_size)
    every = int(np.count_nonzero(marked))
    if not every:
        counts["empty"] += 1
        return None
    visible = marked & geometry.warp_mask(valid_pixels(predictor, geometry))
    inside = int(np.count_nonzero(visible))
    counts.update(all=every, outside=every - inside, pictures_outside=inside == 0, pictures=1)
    truth, regions, lost = shrink_mask(marked, visible, geometry)
    counts.update(regions=regions, lost=lost == regions > 0, lost_regions=lost if lost < regions else 0)
    return truth


def _image_metrics(decided: Sequence[Decided], predictor: Predictor, explanations: Json) -> dict[str, float]:
    """Metrics of decisions on pictures, or parts; writes into `explanations` which thresholds they have."""
    anomalous = np.array([picture.anomalous for picture in decided])
    image = metrics.image_metrics(anomalous, np.array([picture.score for picture in decided]))
    explanations["image_f1"] = _best_threshold_label("score", image.f1_threshold)
    threshold = predictor.calibration.score_threshold
    if predictor.parts() is None:
        explanations["image_f1_calibrated"] = f"score threshold fixed by calibration: {threshold:.6g}"
    return {
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "image_f1": image.f1,
        "image_f1_calibrated": metrics.f1_at(anomalous, [picture.is_anomalous for picture in decided]),
    }


def _best_threshold_label(what: str, threshold: float) -> str | None:
    """Label of a best F1; None where there is none, with pictures of one kind only."""
    if not np.isfinite(threshold):
        return None
    return f"best {what} threshold, chosen on test labels: {threshold:.6g}"


def _false_alarm_statistics(
    shown: Sequence[Judged], decided: Sequence[Decided], predictor: Predictor, train: Sequence[Item]
) -> Json:
    good = [picture.is_anomalous for picture in decided if not picture.anomalous]
    alarms = sum(good)
    total = len(good)
    low, high = metrics.confidence_interval_rate(alarms, total)
    promise = promise_of(predictor.manifest)
    found: Json = {
        "target": promise.wanted if promise.by_part else predictor.calibration.effective_rate,
        "expected": promise.rate if promise.is_made else None,
        "measured": alarms / total if total else None,
        "images": total,
        "interval": [low, high],
    }
    good_pictures = [(item, prediction) for item, prediction in shown if not item.anomalous]
    found |= check_promise(predictor, train, good_pictures)
    return found


def _defect_statistics(decided: Sequence[Decided]) -> Json:
    called = [picture.is_anomalous for picture in decided if picture.anomalous]
    interval = metrics.confidence_interval_rate(sum(called), len(called))
    return {"images": len(called), "found": sum(called), "interval": [*interval]}


def part_statistics(predictor: Predictor | Router, judged: Sequence[JudgedPart]) -> Json:
    """Figures of the parts. Empty where the model decides on pictures alone."""
    if (parts := predictor.parts()) is None:
        return {}
    anomalous = np.array([part.anomalous for part in judged], bool)
    decisions = np.array([part.prediction.is_anomalous for part in judged], bool)
    incomplete = sum(part.prediction.decision == INCOMPLETE for part in judged)
    good = int(np.count_nonzero(~anomalous))
    alarms = int(np.count_nonzero(decisions & ~anomalous))
    scores = np.array([part.prediction.score for part in judged])
    auroc = metrics.image_metrics(anomalous, scores).auroc
    verdict = parts.judge_promise(alarms, good)
    low, high = metrics.confidence_interval_rate(alarms, good)
    return {
        "good": good,
        "false_alarms": alarms,
        "interval": [low, high],
        "promise": parts.promise(),
        "broken": None if verdict is None else verdict.broken,
        "defective": len(judged) - good,
        "found": int(np.count_nonzero(decisions & anomalous)),
        "incomplete": incomplete,
        "auroc": float(auroc) if np.isfinite(auroc) else None,
    }


def _mismatch_warning(kept: PictureStore, predictor: Predictor) -> str:
    """Warning about pictures that do not belong to the model, judged by good ones if these are enough."""
    good = [p for i, p in zip(kept.items, kept.predictions, strict=True) if not i.anomalous]
    rate = predictor.calibration.expected_rate
    enough = len(good) >= MIN_WARNING_PICTURES
    mismatch = (
        MismatchDetector(rate, "good test pictures")
        if enough
        else MismatchDetector(rate, "test pictures", defective=True)
    )
    for prediction in good if enough else kept.predictions:
        mismatch.add(prediction)
    return mismatch.warning()


def _pixel_metrics(kept: PictureStore, predictor: Predictor, explanations: Json) -> dict[str, float]:
    """Pixel metrics; writes into `explanations` how each was measured."""
    predicted_masks = LazySequence(lambda i: kept.prediction_with_map(i).mask, len(kept))
    found, best = _compute_pixel_metrics(kept.maps, kept.truths, kept.valid, predicted_masks)
    threshold = predictor.calibration.mask_threshold
    outline = predictor.calibration.outline
    maps_label = (
        "maps at network size, masks resized by nearest neighbour; one that would keep no pixel keeps the "
        "nearest one"
    )
    if any(valid is not None for valid in kept.valid):
        maps_label += "; only pixels of the picture inside the region of interest count"
    regions_label = "8-connected regions over the whole test set, FPR up to 0.3"
    masks = [mask for item in kept.items for mask in item.masks]
    if any(isinstance(mask, PictureLabels) and mask.boxes for mask in masks):
        regions_label += "; some masks are boxes, which cover more than the defect"
    threshold_label = f"mask threshold fixed by calibration: {threshold:.6g}"
    if outline:
        threshold_label += f"; regions outlined at {outline:.0%} of the height nearby"
    explanations["pixel_metrics"] = maps_label
    explanations["au_pro"] = regions_label
    explanations["pixel_f1"] = _best_threshold_label("mask", best)
    explanations["pixel_f1_calibrated"] = threshold_label
    return found


def _compute_pixel_metrics(
    maps: Sequence[NDArray[np.float32]],
    truths: Sequence[NDArray[np.bool_] | None],
    valid: Sequence[NDArray[np.bool_] | None],
    predicted_masks: Sequence[NDArray[np.bool_]],
) -> tuple[dict[str, float], float]:
    """Pixel metrics by their names, and the threshold of the best F1."""
    pixel = metrics.pixel_metrics(maps, truths, valid=valid)
    figures = {
        "pixel_auroc": pixel.auroc,
        "pixel_ap": pixel.ap,
        "pixel_f1": pixel.f1,
        "pixel_f1_calibrated": _segmentation_f1(predicted_masks, truths, valid),
        "au_pro": pixel.au_pro,
        "au_pro_05": pixel.au_pro_05,
    }
    return figures, pixel.f1_threshold


def _segmentation_f1(
    predicted_masks: Sequence[NDArray[np.bool_]],
    truths: Sequence[NDArray[np.bool_] | None],
    valid: Sequence[NDArray[np.bool_] | None],
) -> float:
    """Return the F1 of the marked pixels of all pictures together; NaN without pixels of both classes.

    It is the SegF1 of Heckler-Kram et al., "The MVTec AD 2 Dataset" (arXiv 2503.21622).

    Args:
        predicted_masks: [H, W] of each picture, pixels that the model marks.
        truths: [H, W] of each picture, defective pixels; None: the picture does not count.
        valid: [H, W] of each picture, pixels that count; None: all.
    """
    hits = called = defective = counting = 0
    for i in range(len(truths)):
        if (truth := truths[i]) is not None:
            counted = ... if (inside := valid[i]) is None else inside
            found = predicted_masks[i][counted]
            true = truth[counted]
            hits += int((found & true).sum())
            called += int(found.sum())
            defective += int(true.sum())
            counting += true.size
    return 2 * hits / (called + defective) if 0 < defective < counting else float("nan")


def _full_resolution_metrics(kept: PictureStore, explanations: Json) -> dict[str, float]:
    """Pixel metrics at the pictures' own size; writes into `explanations` how they were measured."""
    explanations["full_resolution"] = "full_*: maps warped to each picture's size, masks as they are"

    def truth(i: int) -> NDArray[np.bool_] | None:
        known = kept.truths[i] is not None
        return union_masks(kept.items[i].masks, kept.predictions[i].geometry.picture_size) if known else None

    def valid(i: int) -> NDArray[np.bool_]:
        geometry = kept.predictions[i].geometry
        inside = kept.valid[i]
        return geometry.warp_mask(np.ones(geometry.size, np.bool_) if inside is None else inside)

    maps = LazySequence(lambda i: kept.prediction_with_map(i).picture_map(), len(kept))
    predicted_masks = LazySequence(lambda i: kept.prediction_with_map(i).picture_mask(), len(kept))
    truths = LazySequence(truth, len(kept))
    inside = LazySequence(valid, len(kept))
    found, _ = _compute_pixel_metrics(maps, truths, inside, predicted_masks)
    return {f"full_{name}": value for name, value in found.items()}


def _kind_statistics(decided: Sequence[Decided], dataset: Dataset) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for kind in dataset.kinds:
        chosen = [picture for picture in decided if picture.kind == kind]
        if not chosen:
            continue
        scores = [picture.score for picture in chosen]
        severities = [picture.severity for picture in chosen]
        found[kind] = {
            "images": len(chosen),
            "anomalous": sum(picture.is_anomalous for picture in chosen),
            "mean_score": float(np.mean(scores)),
            "median_severity": float(np.median(severities)),
        }
    return found
