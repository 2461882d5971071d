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
    """Test pictures, sorted by what came of them.

    Attributes:
        store: Pictures with a prediction.
        failures: Reasons why pictures could not be judged, or masks not be used.
        left_out: Pictures that the model learnt from.
        unjudged: Pictures that could not be judged, each with the reason.
        mask_counts: Counts of `DEFECT_PIXELS` and `MASK_COUNTS`.
        unmarked: For each defective picture without a usable mask the reason.
    """

    store: PictureStore
    failures: list[Failure] = field(default_factory=list)
    left_out: list[Item] = field(default_factory=list)
    unjudged: list[tuple[Item, str]] = field(default_factory=list)
    mask_counts: Counter[str] = field(default_factory=Counter)
    unmarked: list[str] = field(default_factory=list)


def valid_pixels(predictor: Predictor, geometry: Geometry) -> NDArray[np.bool_]:
    """Return the pixels that count, [H, W] bool at the size of a prediction's map.

    These pixels show the picture, not a letterbox's border, and lie inside the model's region of interest.
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

    Pictures that the model was fitted or calibrated on are left out. They are found by their decoded pixels,
    so their names do not matter. If the data set has no split of its own, all other pictures are tested. A
    defective picture without a mask counts for image metrics only. Pixel metrics are over `valid_pixels`
    only. Maps are kept in a temporary file (in TMPDIR).

    Args:
        predictor: Model to evaluate.
        dataset: Data set whose test pictures are judged.
        full_resolution: Whether to compute pixel metrics at the pictures' own size too, which is slower.
            Their names are `full_*`.
        robust: Whether to judge every picture in other light and out of focus too (`robustness`), which takes
            20 times as long. A collection of lights is used in place of the usual ones.
        leave_out: Hashes (`decoding.pixel_hash`) of further pictures to leave out.
        fewer: Models for the learning curve: fitted like `predictor`, but to fewer good pictures
            (`fitting.fewer_pictures.fit_fewer`).
        take: Called with every item and its prediction, for example to write pictures.
        step: Called with the progress.

    Raises:
        InputError: There is nothing to test.
    """
    start = time.perf_counter()
    _check_dataset(dataset)
    learnt_hashes = set(leave_out)
    # add the hashes of all pictures that the model was fitted or calibrated on
    learnt_hashes.update(picture.hash for picture in predictor.manifest.pictures)
    tested = leave_out_learnt_parts(predictor, dataset, learnt_hashes, step)
    _check_tests(predictor, tested, changes_light=bool(robust))
    results = _predict_all(predictor, tested, learnt_hashes, take, step)
    store = results.store
    if not store.items:
        raise _nothing_evaluated(tested, results.failures)
    explanations: Json = {}
    pictures = [*zip(store.items, store.predictions, strict=True)]
    parts = judge_parts(predictor, pictures, results.failures)
    if parts:
        pictures = as_parts_say(pictures, parts)
        store.items = [item for item, _ in pictures]
        store.predictions = [prediction for _, prediction in pictures]
        explanations["image_metrics"] = "of parts, which the model decides on"
    decided = decided_on(pictures, parts)
    metrics = _image_metrics(decided, predictor, explanations)
    metrics |= _pixel_metrics(store, predictor, explanations)
    metrics |= loco_metrics(store, tested, explanations)
    if full_resolution:
        metrics |= _full_resolution_metrics(store, explanations)
    left_out_kinds = Counter(item.kind for item in results.left_out)
    return Evaluation(
        category=tested.category,
        product=predictor.manifest.category,
        method=predictor.manifest.method,
        metrics=_nan_to_none(metrics),
        false_alarms=_false_alarm_statistics(pictures, decided, predictor, tested.train),
        defects=_defect_statistics(decided),
        kinds=_kind_statistics(decided, tested),
        images=len(store),
        defect_pixels=_counts_of(results.mask_counts, DEFECT_PIXELS),
        masks=_counts_of(results.mask_counts, MASK_COUNTS),
        left_out=dict(left_out_kinds),
        learnt_from=len(tested.train) if dataset.drawn_split else 0,
        without_mask=store.without_mask,
        unmarked=dict(Counter(results.unmarked)),
        seconds=time.perf_counter() - start,
        mismatch=_mismatch_warning(store, predictor),
        labels=explanations,
        parts=part_statistics(predictor, parts),
        learning_curve=learning_curve(predictor, fewer, pictures, step),
        robustness=robustness(predictor, tested, lights=_lights_of(robust), leave_out=leave_out, step=step),
        failures=tuple(results.failures),
        judged_parts=parts,
        pictures=store.pictures,
        left_out_items=tuple(results.left_out),
        unjudged=tuple(results.unjudged),
    )


def _check_dataset(dataset: object) -> None:
    """Raise InputError for a path, which `fit` takes but `evaluate` does not, and for other types."""
    if isinstance(dataset, str | os.PathLike):
        raise InputError(f"{dataset!s} is a path: open it, evaluate(model, open_dataset({str(dataset)!r}))")
    require_type("dataset", dataset, Dataset)


def _nothing_evaluated(dataset: Dataset, failures: Sequence[str]) -> InputError:
    """Return the error that no test picture can be evaluated, with the first failure as the reason."""
    reason = failures[0] if failures else "the model was fitted on all of them"
    count = pluralize(len(dataset.test), "test picture")
    return InputError(f"none of {count} of {dataset.root} can be evaluated: {reason}")


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
    """Return the lights in which every picture is judged, too."""
    if isinstance(robust, bool):
        return LIGHTS if robust else ()
    return robust


def _counts_of(counts: Counter[str], names: Iterable[str]) -> dict[str, int]:
    """Return the counts of some names, 0 for those without."""
    return {name: counts[name] for name in names}


def _nan_to_none(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the metrics with None in place of NaN."""
    values: dict[str, float | None] = {}
    for name, value in metrics.items():
        values[name] = None if value is None or np.isnan(value) else float(value)
    return values


def _predict_all(
    predictor: Predictor,
    dataset: Dataset,
    learnt_hashes: Collection[str],
    take: OnPrediction | None,
    step: ProgressCallback,
) -> _TestPictures:
    """Predict the test pictures, and read their ground truth.

    Args:
        predictor: The model.
        dataset: Data set of the test pictures.
        learnt_hashes: Hashes of the pictures to leave out.
        take: Called with every item and its prediction; None for nothing.
        step: Called with the progress.
    """
    results = _TestPictures(PictureStore(lambda geometry: valid_pixels(predictor, geometry)))
    stream = predictor.stream([item.path for item in dataset.test], leave_out=learnt_hashes)
    for done, (item, (_, result)) in enumerate(zip(dataset.test, stream, strict=True), start=1):
        step("evaluation", done, len(dataset.test))
        if isinstance(result, ExcludedPictureError):
            results.left_out.append(item)
            continue
        if isinstance(result, InputError):
            results.failures.append(failure_of(result))
            results.unjudged.append((item, str(result)))
            continue
        try:
            truth = _ground_truth(item, result, predictor, results.mask_counts)
            if truth is None:
                # `item.unmarked` is the reason why there is no mask, empty if there is one
                results.unmarked.append(item.unmarked or "masks that mark nothing")
        except InputError as error:
            results.failures.append(mask_failure(error))
            results.unmarked.append("masks that cannot be used")
            truth = None
        results.store.append(item, result, truth)
        if take:
            take(item, result)
    return results


def _ground_truth(
    item: Item, result: Prediction, predictor: Predictor, counts: Counter[str]
) -> NDArray[np.bool_] | None:
    """Return the union of a picture's masks, [H, W] bool at the network's size.

    The union is all False for a good picture, and None for a defective picture in which nothing is marked.

    Args:
        item: Picture with its masks.
        result: The model's prediction of it.
        predictor: The model.
        counts: The counts named by `DEFECT_PIXELS` and `MASK_COUNTS`; this picture is added to them.

    Raises:
        InputError: A mask cannot be used.
    """
    geometry = result.geometry
    if not item.anomalous:
        return np.zeros(geometry.size, dtype=bool)
    if not item.masks:
        return None
    mask = union_masks(item.masks, geometry.picture_size)
    marked_count = int(np.count_nonzero(mask))
    if marked_count == 0:
        counts["empty"] += 1
        return None
    visible_mask = mask & geometry.warp_mask(valid_pixels(predictor, geometry))
    visible_count = int(np.count_nonzero(visible_mask))
    counts["pictures"] += 1
    counts["all"] += marked_count
    counts["outside"] += marked_count - visible_count
    counts["pictures_outside"] += visible_count == 0  # adds 1 if no marked pixel is visible
    truth, region_count, lost_count = shrink_mask(mask, visible_mask, geometry)
    counts["regions"] += region_count
    # "lost_regions" is a number of regions; "lost" is a number of pictures that lose all regions
    if lost_count < region_count:
        counts["lost_regions"] += lost_count
    elif region_count:
        counts["lost"] += 1
    return truth


def _image_metrics(decided: Sequence[Decided], predictor: Predictor, explanations: Json) -> dict[str, float]:
    """Return the image metrics of decisions on pictures or parts, by their names.

    `explanations` gets a text on the choice of each threshold.
    """
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


def _best_threshold_label(name: str, threshold: float) -> str | None:
    """Return a text on the threshold of the best F1; None where no F1 exists.

    Args:
        name: What is compared with the threshold: "score" or "mask".
        threshold: Threshold of the best F1; NaN where no F1 exists.
    """
    if not np.isfinite(threshold):
        return None
    return f"best {name} threshold, chosen on test labels: {threshold:.6g}"


def _false_alarm_statistics(
    pictures: Sequence[Judged], decided: Sequence[Decided], predictor: Predictor, train: Sequence[Item]
) -> Json:
    """Return the figures of `Evaluation.false_alarms`.

    Args:
        pictures: Test pictures with their predictions.
        decided: Decisions on pictures or parts.
        predictor: The model.
        train: Training pictures.
    """
    # for each good picture or part, whether it is called anomalous
    is_alarm = [picture.is_anomalous for picture in decided if not picture.anomalous]
    alarm_count = sum(is_alarm)
    good_count = len(is_alarm)
    low, high = metrics.confidence_interval_rate(alarm_count, good_count)
    promise = promise_of(predictor.manifest)
    good_pictures = [(item, prediction) for item, prediction in pictures if not item.anomalous]
    statistics: Json = {
        "target": promise.wanted if promise.by_part else predictor.calibration.effective_rate,
        "expected": promise.rate if promise.is_made else None,
        "measured": alarm_count / good_count if good_count else None,
        "images": good_count,
        "interval": [low, high],
    }
    statistics |= check_promise(predictor, train, good_pictures)
    return statistics


def _defect_statistics(decided: Sequence[Decided]) -> Json:
    """Return the figures of `Evaluation.defects`."""
    is_detected = [picture.is_anomalous for picture in decided if picture.anomalous]
    interval = metrics.confidence_interval_rate(sum(is_detected), len(is_detected))
    return {"images": len(is_detected), "found": sum(is_detected), "interval": [*interval]}


def part_statistics(predictor: Predictor | Router, judged: Sequence[JudgedPart]) -> Json:
    """Return the figures of the parts; empty where the model decides on single pictures."""
    collector = predictor.parts()
    if collector is None:
        return {}
    is_defective = np.array([part.anomalous for part in judged], bool)
    is_flagged = np.array([part.prediction.is_anomalous for part in judged], bool)
    scores = np.array([part.prediction.score for part in judged])
    good_count = int(np.count_nonzero(~is_defective))
    alarm_count = int(np.count_nonzero(is_flagged & ~is_defective))
    auroc = metrics.image_metrics(is_defective, scores).auroc
    verdict = collector.judge_promise(alarm_count, good_count)
    low, high = metrics.confidence_interval_rate(alarm_count, good_count)
    return {
        "good": good_count,
        "false_alarms": alarm_count,
        "interval": [low, high],
        "promise": collector.promise(),
        "broken": None if verdict is None else verdict.broken,
        "defective": len(judged) - good_count,
        "found": int(np.count_nonzero(is_flagged & is_defective)),
        "incomplete": sum(part.prediction.decision == INCOMPLETE for part in judged),
        "auroc": float(auroc) if np.isfinite(auroc) else None,
    }


def _mismatch_warning(store: PictureStore, predictor: Predictor) -> str:
    """Return a warning if the pictures seem to be of another product than the model's; else an empty text.

    Only the good pictures are looked at if there are enough of them, else all pictures.
    """
    rate = predictor.calibration.expected_rate
    predictions = []
    for item, prediction in zip(store.items, store.predictions, strict=True):
        if not item.anomalous:
            predictions.append(prediction)
    detector = MismatchDetector(rate, "good test pictures")
    if len(predictions) < MIN_WARNING_PICTURES:
        predictions = store.predictions
        detector = MismatchDetector(rate, "test pictures", defective=True)
    for prediction in predictions:
        detector.add(prediction)
    return detector.warning()


def _pixel_metrics(store: PictureStore, predictor: Predictor, explanations: Json) -> dict[str, float]:
    """Return pixel metrics by their names; add to `explanations` how each was measured."""
    predicted_masks = LazySequence(lambda i: store.prediction_with_map(i).mask, len(store))
    values, best_threshold = _compute_pixel_metrics(store.maps, store.truths, store.valid, predicted_masks)
    threshold = predictor.calibration.mask_threshold
    outline = predictor.calibration.outline
    maps_label = (
        "maps at network size, masks resized by nearest neighbour; one that would keep no pixel keeps the "
        "nearest one"
    )
    if any(valid is not None for valid in store.valid):
        maps_label += "; only pixels of the picture inside the region of interest count"
    regions_label = "8-connected regions over the whole test set, FPR up to 0.3"
    masks = [mask for item in store.items for mask in item.masks]
    if any(isinstance(mask, PictureLabels) and mask.boxes for mask in masks):
        regions_label += "; some masks are boxes, which cover more than the defect"
    threshold_label = f"mask threshold fixed by calibration: {threshold:.6g}"
    if outline:
        threshold_label += f"; regions outlined at {outline:.0%} of the height nearby"
    explanations["pixel_metrics"] = maps_label
    explanations["au_pro"] = regions_label
    explanations["pixel_f1"] = _best_threshold_label("mask", best_threshold)
    explanations["pixel_f1_calibrated"] = threshold_label
    return values


def _compute_pixel_metrics(
    maps: Sequence[NDArray[np.float32]],
    truths: Sequence[NDArray[np.bool_] | None],
    valid: Sequence[NDArray[np.bool_] | None],
    predicted_masks: Sequence[NDArray[np.bool_]],
) -> tuple[dict[str, float], float]:
    """Return pixel metrics by their names, and the threshold of the best F1.

    Args:
        maps: Anomaly map [H, W] of each picture.
        truths: [H, W] of each picture, defective pixels; None: the picture does not count.
        valid: [H, W] of each picture, pixels that count; None: all.
        predicted_masks: [H, W] of each picture, pixels that the model calls defective.
    """
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
    """Return the F1 over the pixels of all pictures together; NaN without pixels of both classes.

    This F1 is the SegF1 of Heckler-Kram et al., "The MVTec AD 2 Dataset" (arXiv 2503.21622).

    Args:
        predicted_masks: [H, W] of each picture, pixels that the model calls defective.
        truths: [H, W] of each picture, defective pixels; None: the picture does not count.
        valid: [H, W] of each picture, pixels that count; None: all.
    """
    hit_count = predicted_count = defective_count = pixel_count = 0
    for i in range(len(truths)):
        truth = truths[i]
        if truth is None:
            continue
        is_valid = valid[i]
        predicted = predicted_masks[i] if is_valid is None else predicted_masks[i][is_valid]
        defective = truth if is_valid is None else truth[is_valid]
        hit_count += int((predicted & defective).sum())
        predicted_count += int(predicted.sum())
        defective_count += int(defective.sum())
        pixel_count += defective.size
    if not 0 < defective_count < pixel_count:
        return float("nan")
    return 2 * hit_count / (predicted_count + defective_count)


def _full_resolution_metrics(store: PictureStore, explanations: Json) -> dict[str, float]:
    """Return pixel metrics at the pictures' own size by their names; add a remark to `explanations`."""
    explanations["full_resolution"] = "full_*: maps warped to each picture's size, masks as they are"

    def truth(i: int) -> NDArray[np.bool_] | None:
        if store.truths[i] is None:
            return None
        return union_masks(store.items[i].masks, store.predictions[i].geometry.picture_size)

    def valid_pixels_of(i: int) -> NDArray[np.bool_]:
        geometry = store.predictions[i].geometry
        valid = store.valid[i]
        if valid is None:
            valid = np.ones(geometry.size, np.bool_)
        return geometry.warp_mask(valid)

    count = len(store)
    values, _ = _compute_pixel_metrics(
        maps=LazySequence(lambda i: store.prediction_with_map(i).picture_map(), count),
        truths=LazySequence(truth, count),
        valid=LazySequence(valid_pixels_of, count),
        predicted_masks=LazySequence(lambda i: store.prediction_with_map(i).picture_mask(), count),
    )
    return {f"full_{name}": value for name, value in values.items()}


def _kind_statistics(decided: Sequence[Decided], dataset: Dataset) -> dict[str, Json]:
    """Return the figures of `Evaluation.kinds`, in the data set's order of kinds."""
    statistics: dict[str, Json] = {}
    for kind in dataset.kinds:
        pictures = [picture for picture in decided if picture.kind == kind]
        if not pictures:
            continue
        scores = [picture.score for picture in pictures]
        severities = [picture.severity for picture in pictures]
        statistics[kind] = {
            "images": len(pictures),
            "anomalous": sum(picture.is_anomalous for picture in pictures),
            "mean_score": float(np.mean(scores)),
            "median_severity": float(np.median(severities)),
        }
    return statistics
