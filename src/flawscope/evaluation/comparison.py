"""Compares two models on the same test pictures, and tests whether they differ by more than chance.

The difference of a metric is measured on pictures that both models judge. Its 95 % interval comes from the
paired bootstrap: both are resampled with the same pictures. Pictures that are hard for both cancel out, and
the interval is narrower than two intervals side by side suggest (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.rates import promise_of
from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError, check_arguments, pluralize
from flawscope.evaluation.decided import Decided, JudgedPart
from flawscope.evaluation.evaluation import evaluate
from flawscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap_counts,
    bootstrap_images,
    bootstrap_pixels,
    count_pixels,
    percentile_interval,
)
from flawscope.evaluation.metrics import f1_at, image_metrics
from flawscope.evaluation.result import METRIC_NAMES, Evaluation
from flawscope.evaluation.unlearnt import leave_out_learnt_parts
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.types import Json

# Rates at each model's score threshold
RATE_LABELS = {"false_alarms": "false alarms", "defects_found": "defects found"}
LOWER_IS_BETTER = frozenset({"false_alarms"})
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Values of one metric for both models, and how much they differ.

    Attributes:
        name: Name of the metric.
        a: Value of the first model.
        b: Value of the second model.
        interval: 95 % interval of b - a; None where no interval can be found.
    """

    name: str
    a: float
    b: float
    interval: tuple[float, float] | None
    note: str = ""  # how the interval was found, or why there is none

    @property
    def label(self) -> str:
        """Name of the metric for a person."""
        return RATE_LABELS.get(self.name) or METRIC_NAMES.get(self.name) or self.name.replace("_", " ")

    @property
    def difference(self) -> float:
        """Metric of b less the metric of a."""
        return self.b - self.a

    @property
    def better(self) -> str:
        """Name of the better model, "a" or "b"; empty where chance is enough to explain the difference.

        Chance is enough where there is no interval, or zero lies in it.
        """
        if self.interval is None:
            return ""
        low, high = self.interval
        if low <= 0 <= high:
            return ""
        is_b_better = low > 0
        if self.name in LOWER_IS_BETTER:
            is_b_better = not is_b_better
        return "b" if is_b_better else "a"

    def to_dict(self) -> Json:
        """Return the metric of both models and its difference as a JSON object."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "better": self.better or None,
            "note": self.note,
        }


class Pair(NamedTuple):
    """Picture or part with both models' decisions."""

    a: Decided
    b: Decided

    @property
    def name(self) -> str:
        """Path of the picture, or the part's name."""
        return self.a.name

    @property
    def changed(self) -> bool:
        """Whether the models decide differently."""
        return self.a.is_anomalous != self.b.is_anomalous

    @property
    def right(self) -> str:
        """Name of the model that is right, "a" or "b"; for pairs in which they decide differently."""
        return "a" if self.a.is_anomalous == self.a.anomalous else "b"

    def to_dict(self) -> Json:
        """Return the truth, both decisions and whether they differ, as values that JSON can hold."""
        return {
            "path": self.name,
            "kind": self.a.kind,
            "defective": self.a.anomalous,
            "a": _decision_document(self.a),
            "b": _decision_document(self.b),
            "changed": self.changed,
        }


def _decision_document(decided: Decided) -> Json:
    """Return a model's figures and decision on a picture or part."""
    return {
        "score": decided.score,
        "p_value": decided.p_value,
        "severity": decided.severity,
        "decision": "anomalous" if decided.is_anomalous else "good",
    }


@dataclass(frozen=True)
class Comparison:
    """Comparison of models a and b on the pictures that both were evaluated on.

    Where a model decides on parts, the parts are compared.

    Attributes:
        names: Names of the models, for a person.
        predictors: The models.
        evaluations: Evaluations of both models; their `pictures` are the same in the same order.
        differences: Differences of the rates of defects found and of false alarms, and of every metric that
            both have.
        pairs: All pictures or parts with both decisions.
        noun: "picture" or "part".
    """

    names: tuple[str, str]
    predictors: tuple[Predictor, Predictor] = field(repr=False, compare=False)
    evaluations: tuple[Evaluation, Evaluation] = field(repr=False)
    differences: tuple[Difference, ...]
    pairs: tuple[Pair, ...] = field(repr=False)
    noun: str = "picture"

    @cached_property
    def changed(self) -> tuple[Pair, ...]:
        """Pairs in which the models decide differently.

        Pairs where b is wrong come first, then larger differences of severity before smaller ones.
        """

        def order(pair: Pair) -> tuple[bool, float]:  # False comes first
            is_b_right = pair.right == "b"
            return is_b_right, -abs(pair.a.severity - pair.b.severity)

        return tuple(sorted((pair for pair in self.pairs if pair.changed), key=order))

    @property
    def failures(self) -> tuple[str, ...]:
        """Pictures that a model could not judge, and unusable masks, each with the reason."""
        return tuple(dict.fromkeys(line for evaluation in self.evaluations for line in evaluation.failures))

    def __repr__(self) -> str:
        return f"<Comparison A {self.names[0]}, B {self.names[1]}: {self.sentence()}>"

    def sentence(self) -> str:
        """Return a sentence on the changes from a to b."""
        total = pluralize(len(self.pairs), self.noun)
        if not self.changed:
            return f"both decide alike on {total}"
        a_right = sum(pair.right == "a" for pair in self.changed)
        b_right = len(self.changed) - a_right
        return (
            f"they decide differently on {len(self.changed)} of {total}: A is right on {a_right} of these, "
            f"B on {b_right}"
        )

    def to_dict(self) -> Json:
        """Return the document that `compare --json` prints."""
        models = []
        for name, predictor, evaluation in zip(self.names, self.predictors, self.evaluations, strict=True):
            model: Json = {"name": name}
            model |= describe_model(predictor)
            model["seconds"] = round(evaluation.seconds, 3)
            model["false_alarms"] = evaluation.false_alarms
            model["mismatch"] = evaluation.mismatch or None
            model["remarks"] = evaluation.remarks
            models.append(model)
        first = self.evaluations[0]
        differences = {difference.name: difference.to_dict() for difference in self.differences}
        return {
            "category": first.category,
            "product": first.product,
            "models": {"a": models[0], "b": models[1]},
            "counted": f"{self.noun}s",
            "images": first.images,
            "left_out": first.left_out,
            "metrics": differences,
            "changed": [pair.to_dict() for pair in self.changed],
            "pictures": [pair.to_dict() for pair in self.pairs],
            "failures": list(self.failures),
        }


def describe_model(predictor: Predictor) -> Json:
    """Return the facts of a model that a comparison shows, as values that JSON can hold."""
    manifest = predictor.manifest
    promise = promise_of(predictor.manifest)
    return {
        "method": manifest.method,
        "category": manifest.category,
        "size": list(manifest.preprocess.network_size),
        "runtime": predictor.session.runtime,
        "precision": predictor.calibration.precision,
        "score_threshold": predictor.calibration.score_threshold,
        "false_alarm_rate": promise.rate,
    }


@check_arguments()
def compare(
    a: Predictor,
    b: Predictor,
    dataset: Dataset,
    *,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = RESAMPLES,
    seed: int = 0,
    step: ProgressCallback = ignore_progress,
) -> Comparison:
    """Evaluate both models on the test pictures that neither of them learnt from.

    The models may be of different methods, sizes and runtimes. Pictures that either model was fitted or
    calibrated on are left out for both. If one model decides on parts and the other on pictures, parts are
    compared: the second model calls a part anomalous if it calls one of the part's pictures anomalous.

    Args:
        a: The first model.
        b: The second model.
        dataset: Data set whose test pictures are judged.
        names: Names of the models, for a person.
        resamples: Resamples of the bootstrap; pixel metrics have half as many.
        seed: Seed of the bootstrap.
        step: Called with the progress.

    Raises:
        InputError: There is nothing to test.
    """
    hashes_of = [{picture.hash for picture in model.manifest.pictures} for model in (a, b)]
    tested = leave_out_learnt_parts(a, dataset, hashes_of[0] | hashes_of[1], step)

    def evaluate_model(which: int, items: tuple[Item, ...]) -> Evaluation:
        """Evaluate model 0 (a) or 1 (b) on some of the test pictures."""

        def report_step(stage: str, done: int, total: int) -> None:
            step(f"{stage} of {'AB'[which]}", done, total)

        model = (a, b)[which]
        other_hashes = hashes_of[1 - which]  # hashes of pictures that the other model knows
        return evaluate(model, replace(tested, test=items), leave_out=other_hashes, step=report_step)

    learnt_from = len(tested.train) if dataset.drawn_split else 0
    first, second = (
        replace(evaluation, learnt_from=learnt_from)
        for evaluation in _evaluate_same_pictures(evaluate_model, tested.test)
    )
    pairs = _pairs(first, second)
    noun = "part" if first.parts or second.parts else "picture"
    differences = tuple(_differences((first, second), pairs, resamples, seed))
    return Comparison(
        names,
        predictors=(a, b),
        evaluations=(first, second),
        differences=differences,
        pairs=pairs,
        noun=noun,
    )


def _evaluate_same_pictures(
    evaluate_model: Callable[[int, tuple[Item, ...]], Evaluation], items: tuple[Item, ...]
) -> tuple[Evaluation, Evaluation]:
    """Evaluate both models on the pictures that both can judge.

    The second model gets the pictures that the first can judge. If the second cannot judge some of them, for
    example because a score overflows, the first model is evaluated again without these.

    Args:
        evaluate_model: Function of the model's number, 0 or 1, and the pictures to evaluate it on.
        items: Test pictures.

    Raises:
        InputError: The pictures changed during the evaluations.
    """
    first = evaluate_model(0, items)
    # if the model decides on parts, the items in `first.pictures` have the part's truth, not their own
    item_of = {item.path: item for item in items}
    second = evaluate_model(1, tuple(item_of[picture.item.path] for picture in first.pictures))
    if second.images < first.images:
        # the pictures to leave out are not in `common_items`: the earlier count is kept
        common_items = tuple(item_of[picture.item.path] for picture in second.pictures)
        first = replace(evaluate_model(0, common_items), left_out=first.left_out)
    if second.images != first.images:
        raise InputError("the pictures changed while they were compared: compare again")
    return first, second


def _pairs(first: Evaluation, second: Evaluation) -> tuple[Pair, ...]:
    """Pair both models' decisions on the same picture, or on the same part.

    Raises:
        InputError: The models decide on different parts.
    """
    first_decided, second_decided = first.decided, second.decided
    # if only one model decides on parts, both models are compared on the parts of that model
    if first.parts and not second.parts:
        second_decided = _decided_by_pictures(second, first.judged_parts)
    elif second.parts and not first.parts:
        first_decided = _decided_by_pictures(first, second.judged_parts)
    second_by_name = {decided.name: decided for decided in second_decided}
    pairs = []
    for decided in first_decided:
        if decided.name in second_by_name:
            pairs.append(Pair(decided, second_by_name[decided.name]))
    if not pairs:
        raise InputError(
            "the models decide on no part in common: their names tell other parts; compare models that were "
            "fitted with the same --part and --view"
        )
    return tuple(pairs)


def _decided_by_pictures(evaluation: Evaluation, parts: Iterable[JudgedPart]) -> list[Decided]:
    """Return decisions on parts by a model that decides on pictures, each from the part's worst picture.

    Args:
        evaluation: Evaluation of a model that decides on pictures.
        parts: Parts that another model decided on.
    """
    prediction_of = {picture.item.path: picture.prediction for picture in evaluation.pictures}
    decisions = list[Decided]()
    for part in parts:
        predictions = [prediction_of[Path(str(view.path))] for view in part.prediction.views.values()]
        worst = max(predictions, key=lambda prediction: prediction.severity)
        decisions.append(
            Decided(
                name=part.prediction.part,
                kind=part.kind,
                anomalous=part.anomalous,
                score=worst.severity,  # scores of different views are not comparable, severities are
                severity=worst.severity,
                p_value=worst.p_value,
                is_anomalous=any(prediction.is_anomalous for prediction in predictions),
            )
        )
    return decisions


# ------------------------------------------------------------------------------------------------ differences


def _groups(anomalous: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Return, by a rate's name, which pictures it is measured on, [N] bool.

    A rate without pictures is left out.
    """
    groups = {"defects_found": anomalous, "false_alarms": ~anomalous}
    return {name: members for name, members in groups.items() if members.any()}


def _values(
    evaluation: Evaluation, anomalous: NDArray[np.bool_], decisions: NDArray[np.bool_], scores: Floats
) -> dict[str, float | None]:
    """Return the rates of decisions, and the metrics of an evaluation, by their names.

    The image metrics are computed from `decisions` and `scores`, which may be of parts.

    Args:
        evaluation: Evaluation of the model.
        anomalous: [N], whether each picture or part is defective.
        decisions: [N], whether the model calls each anomalous.
        scores: [N], the model's score of each.
    """
    rates = {name: float(decisions[members].mean()) for name, members in _groups(anomalous).items()}
    image = image_metrics(anomalous, scores)
    return {
        **rates,
        **evaluation.metrics,
        # these replace the image metrics of `evaluation.metrics`
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "image_f1": image.f1,
        "image_f1_calibrated": f1_at(anomalous, decisions),
    }


def _resampled_rates(
    anomalous: NDArray[np.bool_], decisions: NDArray[np.bool_], times: NDArray[np.integer]
) -> dict[str, Floats]:
    """Return the rates of each resample by their names, [B] each.

    Args:
        anomalous: [N], whether each picture is defective.
        decisions: [N], whether each picture is called anomalous.
        times: [B, N], how often each resample has each picture (`bootstrap_counts`).
    """
    rates: dict[str, Floats] = {}
    for name, members in _groups(anomalous).items():
        # `bootstrap_counts` puts as many members into each resample as the test set has
        rates[name] = times[:, members] @ decisions[members] / members.sum()
    return rates


def _differences(
    evaluations: tuple[Evaluation, Evaluation], pairs: Sequence[Pair], resamples: int, seed: int
) -> list[Difference]:
    """Return the differences of the rates, and of every metric that both models have.

    Both models are resampled with the same pictures, or parts.

    Args:
        evaluations: Evaluations of both models.
        pairs: Pictures or parts with both decisions.
        resamples: Resamples of the bootstrap; pixel metrics have half as many.
        seed: Seed of the bootstrap.
    """
    anomalous = np.array([pair.a.anomalous for pair in pairs])
    times = bootstrap_counts(anomalous, resamples, seed)
    picture_times = times
    if any(evaluation.parts for evaluation in evaluations):  # pixel metrics are over pictures, not parts
        is_defective = np.array([picture.item.anomalous for picture in evaluations[0].pictures])
        picture_times = bootstrap_counts(is_defective, resamples, seed)
    has_two_of_each_class = min(anomalous.sum(), (~anomalous).sum()) >= 2
    decided_of = ([pair.a for pair in pairs], [pair.b for pair in pairs])
    values_of_models: list[dict[str, float | None]] = []
    resampled_of_models: list[dict[str, Floats]] = []
    for evaluation, decided in zip(evaluations, decided_of, strict=True):
        decisions = np.array([picture.is_anomalous for picture in decided])
        scores = np.array([picture.score for picture in decided])
        values_of_models.append(_values(evaluation, anomalous, decisions, scores))
        resampled_values = _resampled_rates(anomalous, decisions, times)
        if has_two_of_each_class:
            resampled_values |= bootstrap_images(anomalous, scores, decisions, times)
        resampled_values |= _bootstrap_pixels(evaluation, picture_times[: resamples // 2])
        resampled_of_models.append(resampled_values)
    differences = []
    for name, a, b in _common_metrics(*values_of_models):
        interval, note = _interval(name, *resampled_of_models)
        differences.append(Difference(name, a, b, interval, note))
    return differences


def _common_metrics(
    first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> Iterator[tuple[str, float, float]]:
    """Yield the names of metrics that both models have, with both values.

    A metric is None or NaN where it is undefined, such as a pixel metric without masks.
    """
    for name, a in first.items():
        b = second.get(name)
        if a is not None and b is not None and not np.isnan([a, b]).any():
            yield name, a, b


def _interval(
    name: str, first: Mapping[str, Floats], second: Mapping[str, Floats]
) -> tuple[tuple[float, float] | None, str]:
    """Return the interval (low, high) of b - a, and how it was found; or None, and why there is none.

    Args:
        name: Name of the metric.
        first: Metrics of a in each resample.
        second: Metrics of b in each resample.
    """
    if name not in METRIC_NAMES and name not in RATE_LABELS:
        return None, "no interval: not computed"
    if name not in first or name not in second:
        return None, "no interval: too few pictures"
    differences = second[name] - first[name]
    interval = percentile_interval(differences, len(differences))
    if interval is not None:
        return (interval.low, interval.high), f"paired {interval.method}"
    # `percentile_interval` returns None where a value is NaN, or where all values are equal
    if np.isnan(differences).any():
        return None, "no interval: too few pictures"
    return None, "no interval: the same in every draw"


def _bootstrap_pixels(evaluation: Evaluation, times: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the pixel metrics of every resample by their names, [B] each.

    Each model has its own, as map sizes and thresholds differ between models. The result is empty if
    fewer than two pictures have a region.

    Args:
        evaluation: Evaluation of the model, with N pictures.
        times: [B, N], how often each resample has each picture.
    """
    has_truth = np.array([picture.truth is not None for picture in evaluation.pictures])
    counts = count_pixels(evaluation.pictures)
    if counts is None or int((counts.regions > 0).sum()) < 2:
        return {}
    return bootstrap_pixels(counts, times[:, has_truth])
