"""Models of options of a fit (`matrix.py`) answer at the station as `predict` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import flawscope
import matrix
from flawscope.cli import main
from flawscope.pictures.listing import list_pictures
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from station_helpers import NAME, Opener

Shared = Callable[[str, Callable[[Path], Any]], Path]
# of each kind that a station tells apart: all else is its predictor's
SERVED = ["align", "several", "light", "positions", "part", "joint", "method"]


@pytest.mark.parametrize(
    "option", [pytest.param(name, marks=() if name == "align" else pytest.mark.slow) for name in SERVED]
)
def test_the_station_answers_as_predict_does(
    option: str,
    shared: Shared,
    small_backbone: dict[str, str],
    quick_settings: dict[str, Any],
    open_station: Opener,
    tmp_path: Path,
) -> None:
    data, model = shared("matrix", matrix.draw_data), tmp_path / "model.safetensors"
    settings = quick_settings if option == "method" else small_backbone
    more = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    assert main(matrix.fit_arguments((option,), data, model, *more)) == 0
    running = open_station(products={NAME: ProductSettings(str(model))})
    product = "many-one" if option == "several" else "one"
    predictor = flawscope.load(model, device="cpu")
    with Client(running.url) as client:
        for picture in list_pictures([data / product / "test/good", data / product / "test/spot"]):
            said = {"part": picture.stem, "view": "top"} if option == "part" else {}
            answer = client.inspect(picture, NAME, **said)
            prediction = predictor.predict(picture)
            assert answer.score == pytest.approx(prediction.score, rel=1e-6)
            assert answer.is_anomalous == prediction.is_anomalous
