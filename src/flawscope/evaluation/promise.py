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

# If at least this share of the good pictures looks different as a whole, this may be why the promise is
# broken
SHIFTED_SHARE = 0.2


def check_promise(
    predictor: Predictor, train: Sequence[Item], good: Sequence[tuple[Item, Prediction]]
) -> Json:
    """Test the promise on good test pictures, for `Evaluation.false_alarms`.

    Args:
        predictor: The model.
        train: Training pictures, to look for near-duplicates.
        good: Good test pictures with the model's predictions.

    Returns:
        These values by their names; {} if there are no good pictures, or nothing was promised.

        - `expected_interval`: Ends of the interval that this model's false-alarm rate should lie in.
        - `alarms`: Number of false alarms; if the promise is about parts, number of parts with one.
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
    train_looks = [read_look(item.path) for item in train]
    test_looks = [read_look(item.path) for item in good_items]
    unit_numbers = _unit_numbers(predictor, test_looks, [item.path for item in good_items])
    chance, broken = judge_pictures(is_alarm, unit_numbers, promise.rate, promise.calibrated)
    near_duplicate_indices = _near_duplicates_of(train_looks, test_looks)
    same_source_indices = _of_same_sources(train, good_items)
    copy_indices = sorted({*near_duplicate_indices, *same_source_indices})
    alarm_count = _count_units(unit_numbers, is_alarm) if promise.by_part else sum(is_alarm)
    reasons = list(_reasons(predictor, train, train_looks, good)) if broken else []
    return {
        "expected_interval": [*promise.interval],
        "alarms": alarm_count,
        "pictures": len(good),
        "chance": chance,
        "broken": broken,
        "reasons": reasons,
        "copies_of_training": [str(good_items[index].path) for index in copy_indices],
    }


def _count_units(units: Sequence[int], alarms: Sequence[bool]) -> int:
    """Return the number of units, such as parts, with a false alarm.

    Args:
        units: Number of each picture's unit.
        alarms: Whether each picture is a false alarm.
    """
    return len({unit for unit, is_alarm in zip(units, alarms, strict=True) if is_alarm})


def describe_promise(found: Facts) -> list[str]:
    """Return lines for a person on a broken promise, and on near-duplicates; empty without either.

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
    copies = found.get("copies_of_training")
    if copies:
        lines.append(
            f"nearly the same as pictures learnt from, and so little evidence of new parts: "
            f"{len(copies)} of {pluralize(found['pictures'], 'good test picture')}: {join_names(copies)}"
        )
    return lines


def _reasons(
    predictor: Predictor,
    train: Sequence[Item],
    train_looks: Sequence[Look | None],
    good: Sequence[tuple[Item, Prediction]],
) -> Iterator[str]:
    """Yield sentences on why the promise may be broken, the surest reason first.

    Args:
        predictor: The model.
        train: Training pictures.
        train_looks: Thumbnail of each training picture; None: it cannot be read.
        good: Good test pictures with the model's predictions.
    """
    rows = named_rows([item.path.name for item in train], train_looks)
    unit_count = len({*units_of(rows).numbers})
    duplicate_count = len(train) - unit_count  # all pictures of a unit but one
    if duplicate_count and not predictor.calibration.has_shared_units:
        yield (
            f"{duplicate_count} of {pluralize(len(train), 'training picture')} are near-duplicates of "
            "others, which the model counted as parts of their own: fit anew, or name the parts with --group"
        )
    shifted_count = sum(is_far(prediction.shifts) for _, prediction in good)
    if shifted_count >= max(1, SHIFTED_SHARE * len(good)):
        yield (
            f"{shifted_count} of the good test pictures look otherwise as a whole than those learnt from "
            "(light, camera, place): calibrate on pictures of that day, or fit with --light"
        )
    yield (
        "they show good parts of another day, batch, light or camera: learn from some of them, or calibrate "
        "on some"
    )


def _unit_numbers(predictor: Predictor, looks: Sequence[Look | None], paths: Sequence[Path]) -> list[int]:
    """Return for each picture the number of its unit.

    Pictures of one part are one unit, and so are near-duplicates. The model's rule finds the part in a
    picture's name.
    """
    collector = predictor.parts()
    if collector is None:
        read_part = group_reader(predictor.manifest.facts.get("group"))
    else:
        read_part = collector.pattern.part_key
    rows = named_rows(relative_names(list(paths)), looks)
    return units_of(rows, part_of=read_part).numbers


def _near_duplicates_of(train_looks: Sequence[Look | None], test_looks: Sequence[Look | None]) -> set[int]:
    """Return the indices of the test pictures that are near-duplicates of training pictures.

    Args:
        train_looks: Thumbnail of each training picture; None: it cannot be read, and is left out.
        test_looks: Thumbnail of each test picture; None as above.
    """
    train = [look for look in train_looks if look is not None]
    readable_indices = [index for index, look in enumerate(test_looks) if look is not None]
    readable_looks = [look for look in test_looks if look is not None]
    # only pairs with a training picture, whose indices are the first in the list
    pairs = near_duplicates(train + readable_looks, np.arange(len(train)))
    indices = set()
    for smaller, larger, _ in pairs:
        is_train_and_test = smaller < len(train) and larger >= len(train)
        if is_train_and_test:
            indices.add(readable_indices[larger - len(train)])
    return indices


def _of_same_sources(train: Sequence[Item], test: Sequence[Item]) -> list[int]:
    """Return the indices of test pictures whose names say that a training picture has the same source."""
    sources = same_sources([item.path.name for item in (*train, *test)])
    train_sources = set(sources[: len(train)]) - {None}
    test_sources = sources[len(train) :]
    return [index for index, source in enumerate(test_sources) if source in train_sources]
