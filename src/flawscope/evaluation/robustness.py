"""Measures false alarms and found defects in other light, and out of focus."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from flawscope.datasets import Dataset, Item
from flawscope.errors import InputError
from flawscope.evaluation import metrics
from flawscope.evaluation.decided import Decided, Judged, decided_on, judge_parts
from flawscope.evaluation.unlearnt import leave_out_learnt_parts
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ProgressCounter, ignore_progress
from flawscope.results.prediction import Prediction
from flawscope.types import Array, Json
from flawscope.views.light import Light

FACTORS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.2)
BRIGHTNESSES = [Light(brightness=factor) for factor in FACTORS]
CONTRASTS = [Light(contrast=factor) for factor in FACTORS]
WHITE_BALANCES = [Light(white_balance=share) for share in (-0.1, -0.05, 0.05, 0.1)]
BLURS = [Light(blur=share) for share in (0.001, 0.002, 0.005)]
CHANGES = BRIGHTNESSES + CONTRASTS + WHITE_BALANCES + BLURS
LIGHTS = (Light(), *CHANGES)


@dataclass(frozen=True)
class Robustness:
    """Decisions on all test pictures in one light, at the model's threshold.

    Attributes:
        light: The light.
        good: Number of good pictures, or parts where the model decides on those.
        false_alarms: Number of these that are called anomalous.
        defective: Number of defective pictures, or parts.
        found: Number of these that are called anomalous.
        image_auroc: 0..1; None without pictures of both kinds.
    """

    light: Light
    good: int
    false_alarms: int
    defective: int
    found: int
    image_auroc: float | None

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the good pictures called anomalous, 0..1; None without good ones."""
        return self.false_alarms / self.good if self.good else None

    @property
    def found_rate(self) -> float | None:
        """Share of the defective pictures called anomalous, 0..1; None without defective ones."""
        return self.found / self.defective if self.defective else None

    def to_dict(self) -> Json:
        """Return the fields, the light's name and both rates, as JSON knows them."""
        rates = {"false_alarm_rate": self.false_alarm_rate, "found_rate": self.found_rate}
        return {"name": self.light.name, **asdict(self), **rates}


def robustness(
    predictor: Predictor,
    dataset: Dataset,
    *,
    lights: Collection[Light] = LIGHTS,
    leave_out: Collection[str] = (),
    step: ProgressCallback = ignore_progress,
) -> tuple[Robustness, ...]:
    """Judge every test picture in each of `lights`.

    Pictures that the model was fitted or calibrated on are left out, and those that cannot be judged in every
    light.

    Args:
        predictor: The model.
        dataset: Data set whose test pictures are judged.
        lights: Lights to judge in.
        leave_out: Hashes (`decoding.pixel_hash`) of further pictures to leave out.
        step: Called with the progress.
    """
    left_out = set(leave_out)
    left_out.update(picture.hash for picture in predictor.manifest.pictures)
    dataset = leave_out_learnt_parts(predictor, dataset, left_out)
    advance = ProgressCounter(step, "robustness", len(dataset.test) * len(lights))
    items: list[Item] = []

    def pictures() -> Iterator[Array]:
        for item in dataset.test:
            try:
                picture = decode(item.path)
            except (InputError, MemoryError):
                picture = None
            if picture is None or pixel_hash(picture) in left_out:
                for _ in lights:
                    advance()
                continue
            items.append(item)
            for light in lights:
                yield light(picture)

    answers: list[Prediction | None] = []  # without maps; all lights of a picture, then those of the next one
    for _, result in predictor.stream(pictures()):
        advance()
        if isinstance(result, InputError) or not np.isfinite(result.score):
            answers.append(None)
        else:
            answers.append(replace(result, map=result.map[:0].copy()))
    rows = [answers[k * len(lights) : (k + 1) * len(lights)] for k in range(len(items))]
    found = []
    for place, light in enumerate(lights):
        shown = _judged_in_every_light(items, rows, place)
        decided = decided_on(shown, judge_parts(predictor, shown, []))
        found.append(_count_decisions(light, decided))
    return tuple(found)


def _judged_in_every_light(
    items: Sequence[Item], rows: Sequence[Sequence[Prediction | None]], place: int
) -> list[Judged]:
    """Return the pictures that were judged in every light, with their predictions in one.

    Args:
        items: The pictures.
        rows: Predictions of each picture in all lights; None: it could not be judged.
        place: Place of the one light in a row.
    """
    shown = list[Judged]()
    for item, row in zip(items, rows, strict=True):
        answer = row[place]
        if answer is not None and None not in row:
            shown.append((item, replace(answer, path=str(item.path))))
    return shown


def _count_decisions(light: Light, decided: Sequence[Decided]) -> Robustness:
    """Count the decisions in one light."""
    anomalous, called = (
        np.array([getattr(picture, name) for picture in decided], bool)
        for name in ("anomalous", "is_anomalous")
    )
    scores = np.array([picture.score for picture in decided], np.float64)
    both = bool(anomalous.any()) and not anomalous.all()
    return Robustness(
        light,
        good=int((~anomalous).sum()),
        false_alarms=int((called & ~anomalous).sum()),
        defective=int(anomalous.sum()),
        found=int((called & anomalous).sum()),
        image_auroc=float(metrics.auroc(anomalous, scores)) if both else None,
    )
