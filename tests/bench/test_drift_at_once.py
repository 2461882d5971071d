"""`bench/drift.py` computes for all streams at once what the station computes picture by picture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from flawscope.station.drift.martingale import Ranks, uniform
from flawscope.station.drift.run import Light

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("drift")


@pytest.mark.parametrize("values", [5, 10**9])
def test_p_values_of_a_whole_stream(drift: Any, values: int) -> None:
    numbers = np.random.default_rng(values).integers(0, values, 700).astype(float)
    ranks = Ranks()
    found = [ranks.p_value(one, uniform(90 + k, 3)) for k, one in enumerate(numbers.tolist())]
    assert drift.p_values(numbers, 90, 3).tolist() == found


def test_a_light_after_quiet_parts(drift: Any) -> None:
    brightness = 0.45 * np.random.default_rng(1).uniform(0.95, 1.05, (4, 900))
    brightness[:2, 600:] *= 0.95
    found = drift.of_light(brightness, 500)
    assert found == drift.of_light(brightness, 0)
    assert [one is not None for one in found] == [True, True, False, False]
    after, alarm = found[0]
    assert 600 < after <= 640
    light, begun = drift.calm_lights(brightness, 500)[2]
    assert begun == 500
    same = Light(light.test.limit)
    for k, one in enumerate(brightness[2, :500].tolist()):
        same.add(2 * 10_000_000 + k, 0, one)
    assert (light.test.value, light.test.total) == (same.test.value, same.test.total)
    assert (light.pictures, light._last, light._steps) == (500, same._last, same._steps)
    assert alarm.how == "darker"
