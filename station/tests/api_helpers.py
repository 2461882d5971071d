"""What unit and end-to-end tests need: test_station_api.py, whole/test_station_api_whole.py."""

import io

import httpx
import pytest
from PIL import Image

from station_helpers import INSPECTIONS

PRODUCT = "products/plate"


def png(height: int = 8, width: int = 8, value: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), value).save(buffer, "PNG")
    return buffer.getvalue()


def send(api: httpx.Client, data: bytes, name: str = "a.png", **headers: str) -> httpx.Response:
    kind = {"Content-Type": "image/png", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return api.post(INSPECTIONS, params={"name": name}, content=data, headers=kind)


def picture_of(response: httpx.Response) -> Image.Image:
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


@pytest.fixture(name="some")
def some_fixture(api, parts):
    """Inspections, the oldest first; two of them with a verdict."""
    made = [send(api, parts[k % len(parts)], f"p{k}.png").json() for k in range(6)]
    for place, verdict in ((1, "good"), (4, "defect")):
        body = {"verdict": verdict, "note": '=1+1 "x", ä\n;'}
        made[place] = api.post(f"{INSPECTIONS}/{made[place]['id']}/verdict", json=body).json()
    return made
