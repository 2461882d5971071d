"""What is said of pictures that do not fit a model, and of such that do."""

from __future__ import annotations

import numpy as np
import pytest

from flawscope.pictures.geometry import Geometry
from flawscope.results.prediction import KEPT, LEAST, Mismatch, Prediction

AS_TRAINED = (0.0, 0.0, 0.1, 0.0, -0.2, 0.0)
DARKER = (-3.0, 0.0, 0.0, -1.5, 0.0, 0.0)
DEFECTS = (0.5, 2.0, 8.0, 30.0, 4.0, 12.0, 60.0, 3.0)
ALIKE = (60.0, 61.0, 64.0, 59.0, 62.0, 60.0, 61.0, 63.0)


def one(severity: float, shifts: tuple[float, ...]) -> Prediction:
    geometry = Geometry((2, 2), (2, 2), (1.0, 1.0), (0.0, 0.0))
    values = np.zeros((2, 2), np.float32)
    return Prediction(
        severity, 0.5, severity, severity > 0, values, geometry, 0.0, 0.0, (0.0, 1.0), None, shifts
    )


def line(severities: tuple[float, ...], shifts: tuple[float, ...], **given: bool) -> str:
    found = Mismatch(0.05, **given)
    for severity in severities:
        found.add(one(severity, shifts))
    return found.line()


def test_pictures_like_those_of_the_training_are_passed_in_silence() -> None:
    assert line((-3.0, -1.0, 0.5, -2.0, -4.0, 2.0), AS_TRAINED) == ""
    assert line((-3.0, -1.0, 0.5, -2.0, -4.0, 2.0), ()) == ""


def test_other_light_is_named_with_the_remedy() -> None:
    said = line(ALIKE, DARKER)
    assert "8 of 8 pictures look unlike the training pictures as a whole (darker, less contrast)" in said
    assert "8 of 8 are anomalous" in said
    assert "another product, camera or light" in said
    assert "calibrate" in said
    mild = line((-3.0, -1.0, -0.5, -2.0), DARKER)
    assert "0 of 4 are anomalous: has the camera or the light changed?" in mild


def test_a_few_odd_pictures_are_no_mismatch() -> None:
    found = Mismatch(0.05)
    for k in range(20):
        found.add(one(-1.0, DARKER if k < 9 else AS_TRAINED))
    assert found.line() == ""


def test_a_batch_of_defective_parts_reads_otherwise() -> None:
    said = line(DEFECTS, AS_TRAINED)
    assert "8 of 8 pictures are anomalous, although light, colour and detail are as in the training" in said
    assert "another product" not in said
    assert line(DEFECTS, AS_TRAINED, defective=True) == ""


def test_without_statistics_of_the_pictures_the_scores_alone_tell() -> None:
    """Another product is about equally far in every picture; defects are not (models from before)."""
    said = line(ALIKE, ())
    assert "all of about the same severity (60 to 63): is the model of another product" in said
    assert line(ALIKE, (), defective=True) == said
    assert "another product" not in line(DEFECTS, ())
    assert "look at some" in line(DEFECTS, ())
    assert "in the same place and position" in line(ALIKE, AS_TRAINED)


@pytest.mark.parametrize("count", range(LEAST))
def test_too_few_pictures_say_nothing(count: int) -> None:
    assert line(ALIKE[:count], DARKER) == ""


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    found = Mismatch(0.05)
    for _ in range(3 * KEPT):
        found.add(one(1.0, AS_TRAINED))
    assert found.count == 3 * KEPT
    assert len(found.severities) == len(found.shifts) == KEPT
