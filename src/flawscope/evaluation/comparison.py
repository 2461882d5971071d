"""Compares two models on the same test pictures, and tests whether they differ by more than chance.

The difference of a metric is measured on pictures that both models judge. Its 95 % interval comes from the
paired bootstrap: both are resampled with the same pictures. Pictures that are hard for both cancel out, and
the interval is narrower than two intervals side by side suggest (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.rates import promise_of
from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError, check_arguments, pluralize
from flawscope.evaluation.decided import Decided
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
    """Metric of both models. `difference` is b - a, `interval` its 95 % interval; None: there is none."""

    name: str
    a: float
    b: float
    interval: tuple[float, float] | None
    note: str = ""  # how the interval was found, or why there is none

    @property
    def label(self) -> str:
        """The metric's name for a person."""
        return RATE_LABELS.get(self.name) or METRIC_NAMES.get(self.name) or self.name.replace("_", " ")

    @property
    def difference(self) -> float:
        """The metric of b less that of a."""
        return self.b - self.a

    @property
    def better(self) -> str:
        """Name of the better model, "a" or "b", where the interval leaves out zero; else empty.

        Empty means that chance is enough to explain the difference.
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "b" if (self.interval[0] > 0) != (self.name in LOWER_IS_BETTER) else "a"

    def to_dict(self) -> Json:
        """Return the values by name, as JSON knows them."""
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
        """Name of the model that is right where they differ, "a" or "b"."""
        return "a" if self.a.is_anomalous == self.a.anomalous else "b"

    def to_dict(self) -> Json:
        """Return the truth, both decisions and whether they differ, as JSON knows them."""

        def of(found: Decided) -> Json:
            decision = "anomalous" if found.is_anomalous else "good"
            numbers = {"score": found.score, "p_value": found.p_value, "severity": found.severity}
            return {**numbers, "decision": decision}

        truth = {"kind": self.a.kind, "defective": self.a.anomalous}
        return {"path": self.name, **truth, "a": of(self.a), "b": of(self.b), "changed": self.changed}


@dataclass(frozen=True)
class Comparison:
    """Comparison of models a and b on the pictures, or parts, that both were evaluated on.

    It is on parts where a model decides on parts.

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
        """Decisions in which the models differ: those where b is wrong come first."""
        found = [pair for pair in self.pairs if pair.changed]
        return tuple(
            sorted(found, key=lambda pair: (pair.right == "b", -abs(pair.a.severity - pair.b.severity)))
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """Pictures that a model could not judge, and unusable masks, each with the reason."""
        return tuple(dict.fromkeys(line for evaluation in self.evaluations for line in evaluation.failures))

    def __repr__(self) -> str:
        return f"<Comparison A {self.names[0]}, B {self.names[1]}: {self.sentence()}>"

    def sentence(self) -> str:
        """Sentence on the changes from a to b."""
        b, a = (sum(pair.right == which for pair in self.changed) for which in "ba")
        of = pluralize(len(self.pairs), self.noun)
        if not self.changed:
            return f"both decide alike on {of}"
        return f"they decide differently on {len(self.changed)} of {of}: A is right on {a} of these, B on {b}"

    def to_dict(self) -> Json:
        """The document that `compare --json` prints."""
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
    """Facts of a model that a comparison shows."""
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
    """Evaluate both models on the test pictures that neither of them has seen.

    The models may be of different methods, sizes and runtimes. Pictures that either was fitted or calibrated
    on are left out for both. Where one decides on parts and the other on pictures, a part is anomalous to the
    latter where one of its pictures is.

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
    learnt = {p.hash for model in (a, b) for p in model.manifest.pictures}
    is_drawn = dataset.drawn_split
    dataset = leave_out_learnt_parts(a, dataset, learnt, step)

    def evaluate_model(which: int, items: tuple[Item, ...]) -> Evaluation:
        def report_step(stage: str, done: int, total: int) -> None:
            step(f"{stage} of {'AB'[which]}", done, total)

        other_hashes = {p.hash for p in (b, a)[which].manifest.pictures}
        tested = replace(dataset, test=items)
        return evaluate((a, b)[which], tested, leave_out=other_hashes, step=report_step)

    first, second = (
        replace(evaluation, learnt_from=len(dataset.train) if is_drawn else 0)
        for evaluation in _evaluate_same_pictures(evaluate_model, dataset.test)
    )
    pairs = _pairs(first, second)
    noun = "part" if first.parts or second.parts else "picture"
    differences = tuple(_differences((first, second), pairs, resamples, seed))
    return Comparison(names, (a, b), (first, second), differences, pairs, noun)


def _evaluate_same_pictures(
    evaluate_model: Callable[[int, tuple[Item, ...]], Evaluation], items: tuple[Item, ...]
) -> tuple[Evaluation, Evaluation]:
    """Evaluate both models on the pictures that both can judge.

    Rarely only one can, such as where a score overflows: then the first model is evaluated again.
    """
    first = evaluate_model(0, items)
    known = {item.path: item for item in items}  # of a model of parts their truth is that of the part
    second = evaluate_model(1, tuple(known[seen.item.path] for seen in first.pictures))
    if second.images < first.images:
        again = evaluate_model(0, tuple(known[seen.item.path] for seen in second.pictures))
        first = replace(again, left_out=first.left_out)
    if second.images != first.images:
        raise InputError("the pictures changed while they were compared: compare again")
    return first, second


def _pairs(first: Evaluation, second: Evaluation) -> tuple[Pair, ...]:
    """Pairs the decisions of both models."""
    if bool(first.parts) == bool(second.parts):
        a, b = first.decided, second.decided
    else:
        a, b = (
            evaluation.decided if evaluation.parts else _decided_by_pictures(evaluation, first, second)
            for evaluation in (first, second)
        )
    others = {other.name: other for other in b}
    both = [picture for picture in a if picture.name in others]
    if not both:
        raise InputError(
            "the models decide on no part in common: their names tell other parts; compare models that were "
            "fitted with the same --part and --view"
        )
    return tuple(Pair(picture, others[picture.name]) for picture in both)


def _decided_by_pictures(judged: Evaluation, *both: Evaluation) -> list[Decided]:
    """Decisions of a model of pictures on the parts of the other model: by the worst picture."""
    pictures = {picture.item.path: picture.prediction for picture in judged.pictures}
    found = list[Decided]()
    for part in (part for evaluation in both for part in evaluation.judged_parts):
        shown = [pictures[Path(str(view.path))] for view in part.prediction.views.values()]
        worst = max(shown, key=lambda prediction: prediction.severity)
        found.append(
            Decided(
                part.prediction.part,
                part.kind,
                part.anomalous,
                worst.severity,  # comparable between pictures of several views
                worst.severity,
                worst.p_value,
                any(prediction.is_anomalous for prediction in shown),
            )
        )
    return found


# ------------------------------------------------------------------------------------------------ differences


def _groups(anomalous: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """The pictures that decide each rate, as far as there are any."""
    groups = {"defects_found": anomalous, "false_alarms": ~anomalous}
    return {name: members for name, members in groups.items() if members.any()}


def _values(
    evaluation: Evaluation, anomalous: NDArray[np.bool_], decisions: NDArray[np.bool_], scores: Floats
) -> dict[str, float | None]:
    """The rates of an evaluation's decisions, and its metrics, those of pictures for these alone."""
    rates = {name: float(decisions[members].mean()) for name, members in _groups(anomalous).items()}
    image = image_metrics(anomalous, scores)
    return {
        **rates,
        **evaluation.metrics,
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "image_f1": image.f1,
        "image_f1_calibrated": f1_at(anomalous, decisions),
    }


def _resampled_rates(
    anomalous: NDArray[np.bool_], decisions: NDArray[np.bool_], times: NDArray[np.integer]
) -> dict[str, Floats]:
    """The rates of each resample; good and defective ones are drawn in their own numbers."""
    rates: dict[str, Floats] = {}
    for name, members in _groups(anomalous).items():
        rates[name] = times[:, members] @ decisions[members] / members.sum()
    return rates


def _differences(
    evaluations: tuple[Evaluation, Evaluation], pairs: Sequence[Pair], resamples: int, seed: int
) -> list[Difference]:
    """Differences of the rates, and of every metric that a and b have."""
    anomalous = np.array([pair.a.anomalous for pair in pairs])
    times = bootstrap_counts(anomalous, resamples, seed)
    pictures = times
    if any(compared.parts for compared in evaluations):  # pixels are those of pictures
        truth = np.array([picture.item.anomalous for picture in evaluations[0].pictures])
        pictures = bootstrap_counts(truth, resamples, seed)
    has_both = min(anomalous.sum(), (~anomalous).sum()) >= 2
    values: list[dict[str, float | None]] = []
    resampled: list[dict[str, Floats]] = []
    for evaluation, decided in zip(
        evaluations, ([pair.a for pair in pairs], [pair.b for pair in pairs]), strict=True
    ):
        decisions = np.array([prediction.is_anomalous for prediction in decided])
        scores = np.array([prediction.score for prediction in decided])
        values.append(_values(evaluation, anomalous, decisions, scores))
        rates = _resampled_rates(anomalous, decisions, times)
        if has_both:
            rates |= bootstrap_images(anomalous, scores, decisions, times)
        resampled.append(rates | _bootstrap_pixels(evaluation, pictures[: resamples // 2]))
    differences = []
    for name, a, b in _known_of_both(values):
        differences.append(Difference(name, a, b, *_interval(name, resampled)))
    return differences


def _known_of_both(values: Sequence[Mapping[str, float | None]]) -> Iterator[tuple[str, float, float]]:
    """Yield the names of metrics that both models have, with their values."""
    first, second = values
    for name, value in first.items():
        other = second.get(name)
        if value is None or other is None or np.isnan([value, other]).any():
            continue  # such as of pixels, where there are no masks
        yield name, value, other


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
