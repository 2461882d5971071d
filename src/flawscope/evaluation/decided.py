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
        anomalous: Whether the part is truly defective: any of its pictures is.
        kind: Kind of the part's first defective picture; of a good part, of its first picture.
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
        kind: True kind of the picture or part.
        anomalous: Whether the picture or part is truly defective.
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
    """Return the decisions on the parts that pictures show; empty if the model decides on single pictures.

    Args:
        predictor: The model.
        pictures: Items with the model's predictions.
        failures: List to which a failure is added for each picture whose part is not known.
    """
    collector = predictor.parts()
    if collector is None:
        return ()
    item_of = dict[str | None, Item]()
    parts = list[PartPrediction]()
    for item, prediction in pictures:
        item_of[prediction.path] = item
        try:
            completed_part = collector.add(prediction)
        except InputError as error:
            failures.append(failure_of(error))
            continue
        if completed_part:
            parts.append(completed_part)
    parts += collector.decide_incomplete()
    judged = []
    for part in parts:
        items = [item_of[view.path] for view in part.views.values()]
        judged.append(_with_truth(part, items))
    return tuple(judged)


def _with_truth(part: PartPrediction, items: Sequence[Item]) -> JudgedPart:
    """Return the decision on a part, with the truth; `items` are the part's pictures."""
    defect_kinds = [item.kind for item in items if item.anomalous]
    kind = defect_kinds[0] if defect_kinds else items[0].kind
    return JudgedPart(part, anomalous=bool(defect_kinds), kind=kind)


def decided_on(pictures: Iterable[Judged], parts: Sequence[JudgedPart]) -> list[Decided]:
    """Return the decisions on the parts; without parts, on the pictures."""
    if not parts:
        return [
            _decided(str(item.path), item.kind, item.anomalous, prediction) for item, prediction in pictures
        ]
    return [_decided(part.prediction.part, part.kind, part.anomalous, part.prediction) for part in parts]


def _decided(name: str, kind: str, anomalous: bool, prediction: Prediction | PartPrediction) -> Decided:
    """Return the decision in `prediction`, with the truth."""
    return Decided(
        name=name,
        kind=kind,
        anomalous=anomalous,
        score=prediction.score,
        severity=prediction.severity,
        p_value=prediction.p_value,
        is_anomalous=prediction.is_anomalous,
    )


def as_parts_say(pictures: Sequence[Judged], parts: Sequence[JudgedPart]) -> list[Judged]:
    """Return the pictures, each with the decision on its part and with the truth of its part.

    Each picture of a defective part counts as defective and has the part's kind, whatever the picture shows.
    Pictures that belong to no part are returned as they are.
    """
    part_and_prediction_by_path = dict[str | None, tuple[JudgedPart, Prediction]]()
    for part in parts:
        for prediction in part.prediction.pictures().values():
            part_and_prediction_by_path[prediction.path] = part, prediction
    judged = list[Judged]()
    for item, prediction in pictures:
        if prediction.path not in part_and_prediction_by_path:
            judged.append((item, prediction))
            continue
        part, part_prediction = part_and_prediction_by_path[prediction.path]
        part_item = replace(item, kind=part.kind, anomalous=part.anomalous)
        judged.append((part_item, part_prediction))
    return judged
