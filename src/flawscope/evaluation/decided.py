"""Decisions of a model in an evaluation, beside the truth: pictures, or parts in several views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from flawscope.datasets import Item
from flawscope.errors import Failure, InputError, failure_of
from flawscope.predictor import Predictor
from flawscope.predictor.router import Router
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction, outcome

Judged = tuple[Item, Prediction]  # a test picture with its prediction


class JudgedPart(NamedTuple):
    """Decision on a part, beside the truth.

    Attributes:
        prediction: The model's decision.
        anomalous: Whether the part is defective: whether any of its pictures is.
        kind: Kind of its first defective picture, else of its first.
    """

    prediction: PartPrediction
    anomalous: bool
    kind: str

    @property
    def outcome(self) -> str:
        """Outcome of the decision: right, missed or false alarm."""
        return outcome(self.anomalous, self.prediction.is_anomalous)


class Decided(NamedTuple):
    """Picture or part that a model decided on.

    Attributes:
        name: Path of the picture, or name of the part.
        kind: Its true kind.
        anomalous: Whether it is truly defective.
        score: Score of the model.
        severity: Severity by the model.
        p_value: p-value by the model.
        is_anomalous: The model's decision.
    """

    name: str
    kind: str
    anomalous: bool
    score: float
    severity: float
    p_value: float
    is_anomalous: bool


def judge_parts(
    predictor: Predictor | Router, pictures: Iterable[Judged], failures: list[Failure]
) -> tuple[JudgedPart, ...]:
    """Decide on the parts that pictures show. Empty where the model decides on pictures alone.

    Args:
        predictor: The model.
        pictures: Items with the model's predictions.
        failures: Gets a line for each picture whose part is not known.
    """
    if (parts := predictor.parts()) is None:
        return ()
    items = dict[str | None, Item]()
    decisions = list[PartPrediction | None]()
    for item, prediction in pictures:
        items[prediction.path] = item
        try:
            decisions.append(parts.add(prediction))
        except InputError as error:
            failures.append(failure_of(error))
    found = [*filter(None, decisions), *parts.decide_incomplete()]
    return tuple(_with_truth(part, [items[view.path] for view in part.views.values()]) for part in found)


def _with_truth(found: PartPrediction, shown: Sequence[Item]) -> JudgedPart:
    kinds = [item.kind for item in shown if item.anomalous]
    return JudgedPart(found, bool(kinds), (kinds or [shown[0].kind])[0])


def decided_on(pictures: Iterable[Judged], parts: Sequence[JudgedPart]) -> list[Decided]:
    """Return the decisions: on the parts, if there are any, else on the pictures."""
    if not parts:
        return [
            _decided(str(item.path), item.kind, item.anomalous, prediction) for item, prediction in pictures
        ]
    return [_decided(part.prediction.part, part.kind, part.anomalous, part.prediction) for part in parts]


def _decided(name: str, kind: str, anomalous: bool, found: Prediction | PartPrediction) -> Decided:
    return Decided(name, kind, anomalous, found.score, found.severity, found.p_value, found.is_anomalous)


def as_parts_say(pictures: Sequence[Judged], parts: Sequence[JudgedPart]) -> list[Judged]:
    """Return the pictures with the decision on their parts and the truth of these.

    Each picture of a defective part has the part's kind, whatever the picture shows.
    """
    by_path = dict[str | None, tuple[JudgedPart, Prediction]]()
    for part in parts:
        for prediction in part.prediction.pictures().values():
            by_path[prediction.path] = part, prediction
    found = list[Judged]()
    for item, prediction in pictures:
        if prediction.path not in by_path:
            found.append((item, prediction))
            continue
        part, decided = by_path[prediction.path]
        found.append((replace(item, kind=part.kind, anomalous=part.anomalous), decided))
    return found
