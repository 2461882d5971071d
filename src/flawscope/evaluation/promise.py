"""Says whether the promised false-alarm rate was kept on good test pictures, and why it may not be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flawscope.artefact.rates import promise_of
from flawscope.calibration.promise import judge_pictures
from flawscope.datasets import Item
from flawscope.errors import join_names, pluralize
from flawscope.pictures.appearance import is_far
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look, near_duplicates, read_look
from flawscope.pictures.units import group_reader, named_rows, same_sources, units_of
from flawscope.results.prediction import Prediction
from flawscope.types import Facts, Json

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

SHIFTED_SHARE = 0.2  # of the good pictures: so many that look otherwise as a whole are a reason


def check_promise(
    predictor: Predictor, train: Sequence[Item], good: Sequence[tuple[Item, Prediction]]
) -> Json:
    """Test the promise on good test pictures, for `Evaluation.false_alarms`.

    Args:
        predictor: The model.
        train: Training pictures, to look for near-duplicates.
        good: Good test pictures with the model's predictions.

    Returns:
        Empty where there are no pictures, or nothing was promised; else these values by their names.

        - `expected_interval`: Ends of the interval that this model's false-alarm rate should lie in.
        - `alarms`: Number of false alarms; of parts, where the model decides on parts.
        - `pictures`: Number of good pictures.
        - `chance`, `broken`: Results of `judge_pictures`.
        - `reasons`: Sentences on why the promise may be broken.
        - `copies_of_training`: Names of good test pictures that are near-duplicates of training pictures.
    """
    promise = promise_of(predictor.manifest)
    if not good or not promise.is_made:
        return {}
    is_alarm = [prediction.is_anomalous for _, prediction in good]
    good_items = [item for item, _ in good]
    learnt = [read_look(item.path) for item in train]
    shown = [read_look(item.path) for item in good_items]
    part_numbers = _units(predictor, shown, [item.path for item in good_items])
    chance, broken = judge_pictures(is_alarm, part_numbers, promise.rate, promise.calibrated)
    copy_numbers = sorted(set(_copies_of(learnt, shown)) | set(_made_of_the_same(train, good_items)))
    alarm_count = _count_units(part_numbers, is_alarm) if promise.by_part else sum(is_alarm)
    reasons = list(_reasons(predictor, train, learnt, good)) if broken else []
    return {
        "expected_interval": [*promise.interval],
        "alarms": alarm_count,
        "pictures": len(good),
        "chance": chance,
        "broken": broken,
        "reasons": reasons,
        "copies_of_training": [str(good_items[number].path) for number in copy_numbers],
    }


def _count_units(units: Sequence[int], alarms: Sequence[bool]) -> int:
    """Number of units, such as parts, with a false alarm."""
    return len({unit for unit, is_alarm in zip(units, alarms, strict=True) if is_alarm})


def describe_promise(found: Facts) -> list[str]:
    """Return lines for a person; empty where the promise was kept and there is no remark.

    Args:
        found: `false_alarms` of an evaluation.
    """
    lines = []
    if found.get("broken"):
        lines.append(
            f"the promise was broken: a sound model calls so many anomalous in {100 * found['chance']:.2g} % "
            "of such tests. Why it may be:"
        )
        lines += [f"  {reason}" for reason in found["reasons"]]
    if copies := found.get("copies_of_training"):
        lines.append(
            f"nearly the same as pictures learnt from, and so little evidence of new parts: "
            f"{len(copies)} of {pluralize(found['pictures'], 'good test picture')}: {join_names(copies)}"
        )
    return lines


def _reasons(
    predictor: Predictor,
    train: Sequence[Item],
    learnt: Sequence[Look | None],
    good: Sequence[tuple[Item, Prediction]],
) -> Iterator[str]:
    shown = named_rows([item.path.name for item in train], learnt)
    copies = len(learnt) - len({*units_of(shown).numbers})
    if copies and not predictor.calibration.has_shared_units:
        yield (
            f"{copies} of {pluralize(len(learnt), 'training picture')} are near-duplicates of others, which "
            "the model counted as parts of their own: fit anew, or name the parts with --group"
        )
    shifted = sum(is_far(prediction.shifts) for _, prediction in good)
    if shifted >= max(1, SHIFTED_SHARE * len(good)):
        yield (
            f"{shifted} of the good test pictures look otherwise as a whole than those learnt from (light, "
            "camera, place): calibrate on pictures of that day, or fit with --light"
        )
    yield (
        "they show good parts of another day, batch, light or camera: learn from some of them, or calibrate "
        "on some"
    )


def _units(predictor: Predictor, shown: Sequence[Look | None], paths: Sequence[Path]) -> list[int]:
    """Numbers [N] of the units of pictures: those of one part, by the model's rule, and near-duplicates."""
    collector = predictor.parts()
    group = predictor.manifest.facts.get("group")
    part_of = group_reader(group) if collector is None else collector.pattern.part_key
    return units_of(named_rows(relative_names(list(paths)), shown), part_of=part_of).numbers


def _copies_of(learnt: Sequence[Look | None], shown: Sequence[Look | None]) -> list[int]:
    """Numbers of the pictures shown that are near-duplicates of pictures learnt from."""
    bank = [look for look in learnt if look is not None]
    asked = [k for k, look in enumerate(shown) if look is not None]
    looks = [look for look in shown if look is not None]
    pairs = near_duplicates(bank + looks, np.arange(len(bank)))
    return sorted({asked[j - len(bank)] for i, j, _ in pairs if i < len(bank) <= j})


def _made_of_the_same(train: Sequence[Item], shown: Sequence[Item]) -> list[int]:
    """Numbers of the pictures shown whose names say that a training picture was made from the same one."""
    items = [*train, *shown]
    sources = same_sources([item.path.name for item in items])
    learnt = set(sources[: len(train)]) - {None}
    return [k for k, source in enumerate(sources[len(train) :]) if source in learnt]
