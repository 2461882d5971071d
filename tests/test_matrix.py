"""Options of a fit go with each other, and with all that is done with a model (`matrix.py`)."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import flawscope
import matrix
from flawscope.cli import main
from flawscope.datasets import list_pictures
from flawscope.errors import InputError
from flawscope.methods.conflicts import find_conflicts

EVERY = matrix.pairs()
QUICK = {*random.Random(55).sample(EVERY, 8)}
# an export takes seconds: those of which the exported file holds more than a network
EXPORTED = {frozenset(pair) for pair in itertools.combinations(("align", "region", "light", "tile", "joint"), 2)}
EXPORTED |= {frozenset(("several", name)) for name in ("region", "light", "tile")}
Fit = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="session")
def data(shared: Any) -> Path:
    return Path(shared("matrix", matrix.draw_data))


@pytest.fixture
def fit(
    data: Path, small_backbone: dict[str, str], quick_settings: dict[str, Any], tmp_path: Path
) -> Fit:
    def fitted(names: tuple[str, ...]) -> Path:
        out = tmp_path / "model.safetensors"
        settings = quick_settings if "method" in names else small_backbone
        more = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        assert main(matrix.fit_arguments(names, data, out, *more)) == 0
        return out

    return fitted


def pictures_of(names: tuple[str, ...], data: Path) -> list[Path]:
    folder = data / ("many-one" if "several" in names else "one") / "test"
    return list_pictures([folder / "good", folder / "spot"])


def answers(model: Path, names: tuple[str, ...], data: Path) -> list[Any]:
    """Scores and decisions of pictures, or of the parts that they show."""
    opened = flawscope.load(model, device="cpu") if model.suffix == ".safetensors" else flawscope.load(model)
    predictions = opened.predict(pictures_of(names, data))
    return [(prediction.score, prediction.is_anomalous) for prediction in predictions]


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, id="+".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
        for pair in EVERY
    ],
)
def test_options_go_with_each_other_and_with_each_use(
    pair: tuple[str, str], fit: Fit, data: Path, tmp_path: Path, capsys: Any
) -> None:
    model, (_, use) = fit(pair), pair
    before = answers(model, pair, data)
    assert all(np.isfinite(score) for score, _ in before)
    if use == "predict":
        main(["predict", str(model), *map(str, pictures_of(pair, data)), "--json", "--out", str(tmp_path / "o")])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert lines
    elif use == "evaluate":
        product = "many-one" if "several" in pair else "one"
        which = f"{product},{product.replace('one', 'two')}" if "joint" in pair else product
        asked = ["--data", str(data), "--category", which, "--out", str(tmp_path / "evaluation")]
        assert main(["evaluate", str(model), *asked]) == 0
    elif use == "calibrate":
        out, which = tmp_path / "calibrated.safetensors", ["--product", "one"] if "joint" in pair else []
        assert main(["calibrate", str(model), "--false-alarm-rate", "30%", "--out", str(out), *which]) == 0
        assert answers(out, pair, data)[0][0] == before[0][0]
    elif use == "update":
        out = tmp_path / "updated.safetensors"
        product = "many-one" if "several" in pair else "one"
        asked = ["--data", str(data / "more"), "--category", product, "--force", "--no-check", "--quiet"]
        assert main(["fit", "--update", str(model), *asked, "--out", str(out)]) == 0
    elif use in ("export", "int8") or frozenset(pair) in EXPORTED:
        deployed = tmp_path / ("model.zip" if {"joint", "each-view"} & {*pair} else "model.onnx")
        int8 = ["--precision", "int8", "--pictures", str(data / "one/train/good")] if use == "int8" else []
        assert main(["export", str(model), "--out", str(deployed), *int8]) == 0
        after = answers(deployed, pair, data)
        if use != "int8":
            np.testing.assert_allclose([a for a, _ in after], [b for b, _ in before], rtol=1e-4)
            assert [decision for _, decision in after] == [decision for _, decision in before]


def test_what_is_left_out_is_refused_by_name() -> None:
    assert {*matrix.LEFT_OUT.values()}
