"""Models of options of a fit (`matrix.py`) answer at the station as `predict` does."""

import io
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
import matrix
from deep_files import tiff
from flawscope.pictures.listing import list_pictures
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from station_helpers import NAME

# of each kind that a station tells apart: all else is its predictor's
SERVED = ["align", "several", "light", "tile", "joint", "method"]


@pytest.mark.parametrize("option", SERVED)
def test_the_station_answers_as_predict_does(option, shared, small_backbone, quick_settings, open_station):
    settings = quick_settings if option == "method" else small_backbone
    data, model = shared("matrix", matrix.draw_data), matrix.fitted(option, shared, settings)
    running = open_station(products={NAME: ProductSettings(str(model))})
    product = "many-one" if option == "several" else "one"
    predictor = flawscope.load(model, device="cpu")
    with Client(running.url) as client:
        for picture in list_pictures([data / product / "test/good", data / product / "test/spot"]):
            answer = client.inspect(picture, NAME)
            prediction = predictor.predict(picture)
            assert answer.score == pytest.approx(prediction.score, rel=1e-6)
            assert answer.is_anomalous == prediction.is_anomalous


SIDE = 64


def lights(seed: int, spot: int | None = None) -> np.ndarray:
    """A part under five lights [H, W, 5] uint16, and a spot that one of them shows."""
    rng = np.random.default_rng([9, seed])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    drawn = [30_000 + 300 * (np.cos(k) * x + np.sin(k) * y) + rng.normal(0, 300, x.shape) for k in range(5)]
    if spot is not None:
        drawn[spot] += 20_000.0 * (np.hypot(x - 5, y) < 6)
    return np.stack(drawn, 2).clip(0, 65535).astype(np.uint16)


def test_a_part_under_five_lights_is_judged_and_displayed(open_station, small_backbone, tmp_path):
    settings = {**small_backbone, "size": "64"}
    good = [lights(k) for k in range(20)]
    model = flawscope.fit(good, channels="all", check=False, group=r"\d+", force=True, **settings)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "spot.tif").write_bytes(tiff(lights(99, 3)))
    product = ProductSettings(str(tmp_path / "m.safetensors"))
    running = open_station(products={NAME: product})
    with Client(running.url) as client:
        answer = client.inspect(tmp_path / "spot.tif", NAME)
        assert answer.is_anomalous
        assert answer.score == pytest.approx(model.predict(lights(99, 3)).score, rel=1e-6)
        other = client.inspect(tiff(lights(98)), NAME)
    api = f"{running.url}/api/v1/products/{NAME}"
    view = httpx.get(f"{api}/inspections/{answer.id}/view")
    assert Image.open(io.BytesIO(view.content)).size == (SIDE, SIDE)
    for one in (answer, other):
        new = {"inspection": one.id, "name": one.decision, "expected": one.decision}
        assert httpx.post(f"{api}/challenge/parts", json=new).status_code == 201
    running.close()
    api = f"{open_station(products={NAME: replace(product, challenge=())}).url}/api/v1/products/{NAME}"
    for part, picture, said in (
        ("anomalous", lights(99, 3), "taken before"),
        ("anomalous", lights(97, 3), "passed"),
        ("good", lights(96), "passed"),
    ):
        shown = httpx.post(f"{api}/inspections", params={"part": part}, content=tiff(picture))
        assert (shown.status_code, said in shown.json()["error"]) == (409, True), shown.text
    assert httpx.get(f"{api}/challenge").json()["ready"]
