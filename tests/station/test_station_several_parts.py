"""A model of several parts at the station: what a picture shows is recorded, answered and drawn."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from station_helpers import Opener

import flawscope
from brackets import SIDE, drawn
from flawscope.station.client import Client
from flawscope.station.settings.station import Product

for _library in ("torch", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_library)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_recorded_with_all_of_its_parts(
    open_station: Opener, several_model: Path, tmp_path: Path
) -> None:
    running = open_station(products={"brackets": Product(str(several_model))})
    expected = flawscope.load(several_model)
    with Client(running.url) as client:
        for cells, word in ((range(5), ""), (range(4), "1 missing"), (range(6), "1 too many")):
            picture = drawn(500, cells)[0]
            answer = client.inspect(png(picture), "brackets")
            found = expected.predict(picture).found_parts
            assert found is not None
            assert answer.found_parts is not None
            assert [one.part_pose for one in answer.found_parts.parts] == [
                one.part_pose for one in found.parts
            ]
            assert answer.found_parts.wrong.startswith(word)
            assert answer.is_anomalous or not word
            again = client.inspection(answer.id, "brackets")
            assert again.found_parts == answer.found_parts
        overlay = Image.open(io.BytesIO(client.overlay(answer.id, "brackets")))
        assert overlay.size == (SIDE, SIDE)
        page = httpx.get(f"{running.url}/brackets/inspections/{answer.id}", follow_redirects=True)
        assert "6 parts found, 5 expected, 0 other objects" in page.text
        assert page.text.count("<dt>Part ") == 6
