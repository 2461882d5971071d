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
        good: Number of good pictures; of good parts where the model decides on parts.
        false_alarms: Number of good pictures, or parts, that are called anomalous.
        defective: Number of defective pictures, or parts.
        found: Number of defective pictures, or parts, that are called anomalous.
        image_auroc: AUROC, 0..1; None without both good and defective pictures.
    """

    light: Light
    good: int
    false_alarms: int
    defective: int
    found: int
    image_auroc: float | None

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the good pictures called anomalous, 0..1; None without good pictures."""
        return self.false_alarms / self.good if self.good else None

    @property
    def found_rate(self) -> float | None:
        """Share of the defective pictures called anomalous, 0..1; None without defective pictures."""
        return self.found / self.defective if self.defective else None

    def to_dict(self) -> Json:
        """Return the fields, the light's name and both rates as values that JSON can hold."""
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
    """Judge every test picture in each of `lights`, and count the decisions in each light.

    Pictures that the model was fitted or calibrated on are left out. So are pictures that cannot be judged in
    one of the lights.

    Args:
        predictor: The model.
        dataset: Data set whose test pictures are judged.
        lights: Lights to judge in.
        leave_out: Hashes (`decoding.pixel_hash`) of further pictures to leave out.
        step: Called with the progress.
    """
    learnt_hashes = set(leave_out)
    learnt_hashes.update(picture.hash for picture in predictor.manifest.pictures)
    test = leave_out_learnt_parts(predictor, dataset, learnt_hashes).test
    advance = ProgressCounter(step, "robustness", len(test) * len(lights))
    items: list[Item] = []

    def pictures_in_lights() -> Iterator[Array]:
        """Yield each picture in all lights, one after the other, and add the picture to `items`.

        Pictures to leave out are passed over.
        """
        for item in test:
            try:
                picture = decode(item.path)
            except (InputError, MemoryError):
                picture = None
            if picture is None or pixel_hash(picture) in learnt_hashes:
                for _ in lights:
                    advance()
                continue
            items.append(item)
            for light in lights:
                yield light(picture)

    # predictions without maps in the order of `pictures_in_lights`; None: not judged in this light
    predictions: list[Prediction | None] = []
    for _, result in predictor.stream(pictures_in_lights()):
        advance()
        if isinstance(result, InputError) or not np.isfinite(result.score):
            predictions.append(None)
        else:
            # with an empty map, because maps of all pictures in all lights would fill the memory
            predictions.append(replace(result, map=result.map[:0].copy()))
    light_count = len(lights)
    # a row for each picture, with its predictions in all lights
    rows = [predictions[k * light_count : (k + 1) * light_count] for k in range(len(items))]
    results = []
    for column, light in enumerate(lights):
        pictures = _judged_in_every_light(items, rows, column)
        parts = judge_parts(predictor, pictures, failures=[])
        decided = decided_on(pictures, parts)
        results.append(_count_decisions(light, decided))
    return tuple(results)


def _judged_in_every_light(
    items: Sequence[Item], rows: Sequence[Sequence[Prediction | None]], column: int
) -> list[Judged]:
    """Return the pictures that could be judged in every light, with their predictions in one of the lights.

    Args:
        items: The pictures.
        rows: Predictions of each picture in all lights; None: it could not be judged.
        column: Index, in a row, of the light whose predictions are returned.
    """
    pictures = list[Judged]()
    for item, row in zip(items, rows, strict=True):
        prediction = row[column]
        if prediction is None or None in row:
            continue
        pictures.append((item, replace(prediction, path=str(item.path))))
    return pictures


def _count_decisions(light: Light, decided: Sequence[Decided]) -> Robustness:
    """Count the decisions in one light."""
    is_defective = np.array([picture.anomalous for picture in decided], bool)
    is_flagged = np.array([picture.is_anomalous for picture in decided], bool)
    scores = np.array([picture.score for picture in decided], np.float64)
    has_both_classes = bool(is_defective.any()) and not is_defective.all()
    return Robustness(
        light,
        good=int((~is_defective).sum()),
        false_alarms=int((is_flagged & ~is_defective).sum()),
        defective=int(is_defective.sum()),
        found=int((is_flagged & is_defective).sum()),
        image_auroc=float(metrics.auroc(is_defective, scores)) if has_both_classes else None,
    )
