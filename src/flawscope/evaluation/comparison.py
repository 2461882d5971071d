"""Compares two models on the same test pictures, and tests whether they differ by more than chance.

The difference of a metric is measured on pictures that both models judge. Its 95 % interval comes from the
paired bootstrap: both are resampled with the same pictures, so that what is hard for both cancels out and the
interval is narrower than two intervals side by side suggest (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope import Predictor
from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError, check_arguments, pluralize
from flawscope.evaluation.evaluation import evaluate
from flawscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap_counts,
    bootstrap_images,
    bootstrap_pixels,
    count_pixels,
    percentile_interval,
)
from flawscope.evaluation.result import METRIC_NAMES, Evaluation
from flawscope.evaluation.unlearnt import with_unlearnt
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.prediction import Prediction

# Rates at each model's score threshold
RATE_LABELS = {"false_alarms": "false alarms", "defects_found": "defects found"}
LOWER_IS_BETTER = frozenset({"false_alarms"})
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Metric of both models. `difference` is b - a, `interval` its 95 % interval; None: not measured."""

    name: str
    a: float | None
    b: float | None
    interval: tuple[float, float] | None
    note: str = ""  # how the interval was found, or why there is none

    @property
    def label(self) -> str:
        """The metric's name for a person."""
        return RATE_LABELS.get(self.name) or METRIC_NAMES.get(self.name) or self.name.replace("_", " ")

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def better(self) -> str:
        """Name of the better model, "a" or "b", where the interval leaves out zero; else empty: chance is
        enough to explain the difference."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "b" if (self.interval[0] > 0) != (self.name in LOWER_IS_BETTER) else "a"

    def to_dict(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "better": self.better or None,
            "note": self.note,
        }


@dataclass(frozen=True)
class Judged:
    """Picture with both models' predictions, which are without their maps."""

    index: int  # of the picture in both evaluations' `pictures`, which have the maps and masks
    name: str  # below the data set's folder
    item: Item
    a: Prediction
    b: Prediction

    @property
    def changed(self) -> bool:
        """Whether the models decide differently."""
        return self.a.is_anomalous != self.b.is_anomalous

    @property
    def right(self) -> str:
        """Name of the model that is right where they differ, "a" or "b"."""
        return "a" if self.a.is_anomalous == self.item.anomalous else "b"

    def to_dict(self) -> dict[str, Any]:
        def of(found: Prediction) -> dict[str, Any]:
            values = {"score": found.score, "p_value": found.p_value, "severity": found.severity}
            return {**values, "decision": found.decision}

        truth = {"kind": self.item.kind, "defective": self.item.anomalous}
        return {"path": self.name, **truth, "a": of(self.a), "b": of(self.b), "changed": self.changed}


@dataclass(frozen=True)
class Comparison:
    """Comparison of models a and b on the pictures that both were evaluated on.

    names: of the models, for a person. evaluations: of both; their `pictures` are the same in the same order,
        each with the prediction, map and mask of its own model. calibrations are those of `predictors`.
    differences: of every metric that one of them has, and of the rates of false alarms and of defects found.
    pictures: every picture with both decisions, in the order of the evaluations.
    """

    names: tuple[str, str]
    predictors: tuple[Predictor, Predictor] = field(repr=False, compare=False)
    dataset: Dataset = field(repr=False)
    evaluations: tuple[Evaluation, Evaluation] = field(repr=False)
    differences: tuple[Difference, ...]
    pictures: tuple[Judged, ...] = field(repr=False)

    @cached_property
    def changed(self) -> tuple[Judged, ...]:
        """Pictures that the models decide differently on: those where b is wrong come first."""
        found = [one for one in self.pictures if one.changed]
        return tuple(sorted(found, key=lambda one: (one.right == "b", -abs(one.a.severity - one.b.severity))))

    @property
    def failures(self) -> tuple[str, ...]:
        """Pictures that a model could not judge, and unusable masks, each with the reason."""
        return tuple(dict.fromkeys(line for one in self.evaluations for line in one.failures))

    def __repr__(self) -> str:
        return f"<Comparison A {self.names[0]}, B {self.names[1]}: {self.sentence()}>"

    def sentence(self) -> str:
        """Sentence on the changes from a to b."""
        b, a = (sum(one.right == which for one in self.changed) for which in "ba")
        if not self.changed:
            return f"both decide alike on {pluralize(len(self.pictures), 'picture')}"
        return (
            f"they decide differently on {len(self.changed)} of {pluralize(len(self.pictures), 'picture')}: "
            f"A is right on {a} of these, B on {b}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The document that `compare --json` prints."""
        models = [
            {
                "name": name,
                **describe_model(predictor),
                "seconds": round(evaluation.seconds, 3),
                "false_alarms": evaluation.false_alarms,
                "mismatch": evaluation.mismatch or None,
                "remarks": evaluation.remarks,
            }
            for name, predictor, evaluation in zip(self.names, self.predictors, self.evaluations, strict=True)
        ]
        first = self.evaluations[0]
        return {
            "category": first.category,
            "product": first.product,
            "models": {"a": models[0], "b": models[1]},
            "images": first.images,
            "left_out": first.left_out,
            "metrics": {one.name: one.to_dict() for one in self.differences},
            "changed": [one.to_dict() for one in self.changed],
            "pictures": [one.to_dict() for one in self.pictures],
            "failures": list(self.failures),
        }


def describe_model(predictor: Predictor) -> dict[str, Any]:
    """Facts of a model that a comparison shows."""
    manifest, calibration = predictor.manifest, predictor.calibration
    return {
        "method": manifest.method,
        "category": manifest.category,
        "size": list(manifest.preprocess.network_size),
        "runtime": predictor.session.runtime,
        "precision": calibration.precision,
        "score_threshold": calibration.score_threshold,
        "false_alarm_rate": calibration.effective_rate,
    }


@check_arguments()
def compare(
    a: Predictor,
    b: Predictor,
    dataset: Dataset,
    *,
    names: tuple[str, str] = ("A", "B"),
    full_resolution: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    step: ProgressCallback = ignore_progress,
) -> Comparison:
    """Evaluates both models on the test pictures that neither of them has seen.

    The models may be of different methods, sizes and runtimes. Pictures that either was fitted or calibrated
    on are left out for both.

    Args:
        names: of the models, for a person.
        full_resolution: pixel metrics at the pictures' own size too; they have no interval.
        resamples, seed: of the bootstrap; pixel metrics have half as many resamples.

    Raises:
        InputError: there is nothing to test.
    """

    learnt = {p.hash for one in (a, b) for p in one.manifest.pictures}
    is_drawn, dataset = dataset.drawn_split, with_unlearnt(a, dataset, learnt, step)

    def evaluate_model(which: int, items: tuple[Item, ...]) -> Evaluation:
        def report_step(stage: str, done: int, total: int) -> None:
            step(f"{stage} of {'AB'[which]}", done, total)

        other_hashes = {p.hash for p in (b, a)[which].manifest.pictures}
        return evaluate(
            *((a, b)[which], replace(dataset, test=items)),
            full_resolution=full_resolution,
            leave_out=other_hashes,
            step=report_step,
        )

    first, second = (
        replace(one, learnt_from=len(dataset.train) if is_drawn else 0)
        for one in _evaluate_same_pictures(evaluate_model, dataset.test)
    )
    evaluations = first, second
    pictures = _pair_predictions(*evaluations, dataset)
    differences = tuple(_differences(evaluations, pictures, resamples, seed))
    return Comparison(names, (a, b), dataset, evaluations, differences, pictures)


def _evaluate_same_pictures(
    evaluate_model: Callable[[int, tuple[Item, ...]], Evaluation], items: tuple[Item, ...]
) -> tuple[Evaluation, Evaluation]:
    """Evaluates both models on the pictures that both can judge. Rarely only one can, such as where a score
    overflows: then the first model is evaluated again."""
    first = evaluate_model(0, items)
    second = evaluate_model(1, tuple(seen.item for seen in first.pictures))
    if second.images < first.images:
        again = evaluate_model(0, tuple(seen.item for seen in second.pictures))
        first = replace(again, left_out=first.left_out)
    if second.images != first.images:
        raise InputError("the pictures changed while they were compared: compare again")
    return first, second


def _pair_predictions(first: Evaluation, second: Evaluation, dataset: Dataset) -> tuple[Judged, ...]:
    def without_map(found: Prediction) -> Prediction:
        return replace(found, map=np.empty((0, 0), np.float32))

    pairs = zip(first.pictures, second.pictures, strict=True)
    return tuple(
        Judged(k, dataset.relative(p.item.path), p.item, without_map(p.prediction), without_map(q.prediction))
        for k, (p, q) in enumerate(pairs)
    )


# ------------------------------------------------------------------------------------------------ differences


def _differences(
    evaluations: tuple[Evaluation, Evaluation], pictures: tuple[Judged, ...], resamples: int, seed: int
) -> list[Difference]:
    """Differences of the rates, and of every metric that a or b has."""
    anomalous = np.array([one.item.anomalous for one in pictures])
    times = bootstrap_counts(anomalous, resamples, seed)
    values: list[dict[str, float | None]] = []
    resampled: list[dict[str, Floats]] = []
    for evaluation, predictions in zip(
        evaluations, ([one.a for one in pictures], [one.b for one in pictures]), strict=True
    ):
        decisions = np.array([prediction.is_anomalous for prediction in predictions])
        scores = np.array([prediction.score for prediction in predictions])
        groups = dict(zip(RATE_LABELS, (~anomalous, anomalous), strict=True))
        rates = {name: float(decisions[of].mean()) if of.any() else None for name, of in groups.items()}
        values.append(rates | evaluation.metrics)
        found = {  # good and defective pictures are drawn in their own numbers
            name: times[:, of] @ decisions[of] / of.sum() for name, of in groups.items() if of.any()
        }
        if min(anomalous.sum(), (~anomalous).sum()) >= 2:
            found |= bootstrap_images(anomalous, scores, decisions, times)
        resampled.append(found | _bootstrap_pixels(evaluation, times[: resamples // 2]))
    return [
        Difference(name, values[0].get(name), values[1].get(name), *_interval(name, resampled))
        for name in dict.fromkeys([*values[0], *values[1]])
    ]


def _interval(name: str, resampled: list[dict[str, Floats]]) -> tuple[tuple[float, float] | None, str]:
    """Interval of b - a, and how it was found or why there is none."""
    if name not in METRIC_NAMES and name not in RATE_LABELS:
        return None, "no interval: not computed"
    if not all(name in metrics for metrics in resampled):
        return None, "no interval: too few pictures"
    differences = resampled[1][name] - resampled[0][name]
    if (found := percentile_interval(differences, len(differences))) is not None:
        return (found.low, found.high), f"paired {found.method}"
    is_constant = not np.isnan(differences).any()
    return None, f"no interval: {'the same in every draw' if is_constant else 'too few pictures'}"


def _bootstrap_pixels(evaluation: Evaluation, times: NDArray[np.int64]) -> dict[str, Floats]:
    """Pixel metrics of every resample; each model's are counted at its own size and thresholds."""
    known = np.array([seen.truth is not None for seen in evaluation.pictures])
    counts = count_pixels(evaluation.pictures)
    if counts is None or int((counts.regions > 0).sum()) < 2:
        return {}
    return bootstrap_pixels(counts, times[:, known])
