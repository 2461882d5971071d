"""A station that begins with nothing, and what people send to it."""

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope_station.settings.station import Limits, Settings
from station_fixtures import place_of
from station_helpers import opened

NEW = "/api/v1/new"


def empty_settings(store: Path) -> Settings:
    limits = Limits(upload="2 MB", pixels=4_000_000, stalled=10.0)
    return Settings(store=str(store), port=0, device="cpu", threads=1, limits=limits)


@pytest.fixture(name="empty")
def empty_fixture(request, tmp_path):
    with closing(opened(empty_settings(tmp_path / "store"), place_of(request.node))) as made:
        yield made


@pytest.fixture(name="http")
def http_fixture(empty):
    with httpx.Client(base_url=empty.url, timeout=120) as client:
        yield client


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def begin(http: httpx.Client, name: str = "plate") -> dict[str, Any]:
    answer = http.post(NEW, json={"name": name})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
