"""Pictures of more channels than three are judged and displayed."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import flawscope
from deep_files import tiff
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from station_helpers import NAME, Opener

SIDE = 64


def lights(seed: int, spot: int | None = None) -> np.ndarray:
    """A part under five lights [H, W, 5] uint16, and a spot that one of them shows."""
    rng = np.random.default_rng([9, seed])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    drawn = [30_000 + 300 * (np.cos(k) * x + np.sin(k) * y) + rng.normal(0, 300, x.shape) for k in range(5)]
    if spot is not None:
        drawn[spot] += 20_000.0 * (np.hypot(x - 5, y) < 6)
    return np.stack(drawn, 2).clip(0, 65535).astype(np.uint16)


def test_a_part_under_five_lights_is_judged_and_displayed(
    open_station: Opener, small_backbone: dict[str, str], tmp_path: Path
) -> None:
    settings = {**small_backbone, "size": "64"}
    good = [lights(k) for k in range(20)]
    model = flawscope.fit(good, channels="all", check=False, group=r"\d+", force=True, **settings)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "spot.tif").write_bytes(tiff(lights(99, 3)))
    running = open_station(products={NAME: ProductSettings(str(tmp_path / "m.safetensors"))})
    with Client(running.url) as client:
        answer = client.inspect(tmp_path / "spot.tif", NAME)
        assert answer.is_anomalous
        assert answer.score == pytest.approx(model.predict(lights(99, 3)).score, rel=1e-6)
    view = httpx.get(f"{running.url}/api/v1/products/{NAME}/inspections/{answer.id}/view")
    assert Image.open(io.BytesIO(view.content)).size == (SIDE, SIDE)
