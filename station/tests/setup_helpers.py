"""A station that begins with nothing, and what people send to it."""

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope_station.learning.process import Worker
from flawscope_station.settings.station import Limits, Settings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.job import run_job
from small_network import SMALL_NETWORK
from station_fixtures import place_of
from station_helpers import opened

NEW = "/api/v1/new"


def empty_settings(store: Path) -> Settings:
    limits = Limits(upload="2 MB", pixels=4_000_000, stalled=10.0)
    return Settings(store=str(store), port=0, device="cpu", threads=1, limits=limits)


def small_fit(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Do the job with the small network, unless another method or a search is asked for."""
    given = dict(job.get("given", {}))
    if given and "auto" not in given and given.get("method", "patchcore") == "patchcore":
        job = {**job, "given": {**given, **SMALL_NETWORK}}
    return run_job(job, step)


@pytest.fixture(name="empty")
def empty_fixture(request, tmp_path):
    with closing(opened(empty_settings(tmp_path / "store"), place_of(request.node))) as made:
        made.station.parts[Drafts].worker = Worker(small_fit)
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
