"""What happens when something breaks: the database, the disk, a model, a client, the process itself."""

import errno
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures import decoding
from flawscope.views.preprocess import Preprocess
from flawscope_station.client import Client
from flawscope_station.inspecting.picture import check_picture
from flawscope_station.settings.station import Limits
from flawscope_station.store import database as database_module
from flawscope_station.store.database import StoreError
from station_helpers import failing, post, until


def names(url: str) -> list[str]:
    with Client(url) as client:
        return [one.name for one in client.search()]


def parts_left(running: Any) -> list[Path]:
    return list(running.station.files.folder.rglob("*.part"))


@pytest.fixture
def sqlite_station(open_station, monkeypatch):
    """One that waits for another writer half a second."""
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT", 0.5)
    return open_station(database=None)


def test_a_full_disk_is_said_and_nothing_is_half_taken(sqlite_station, parts, monkeypatch):
    url = sqlite_station.url
    assert post(url, parts[0]).status_code == 201

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        refused = post(url, parts[1], key="full")
        assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
        assert "free some space" in refused.json()["error"]
    assert parts_left(sqlite_station) == []
    assert len(names(url)) == 1
    assert sqlite_station.station.inspector.backlog() == 0
    assert post(url, parts[1], key="full").status_code == 201


def test_a_picture_may_have_as_many_pixels_as_the_settings_say(open_station, monkeypatch):
    """Pillow alone stands for 178 million."""
    limits = Limits(pixels=300_000_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    open_station(limits=limits)
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "BMP")
    head = buffer.getvalue()

    def sized(pixels: int) -> bytes:
        return head[:18] + (1000).to_bytes(4, "little") + (pixels // 1000).to_bytes(4, "little") + head[26:]

    assert check_picture(sized(limits.pixels), "a.bmp", limits)[1][1:3] == (limits.pixels // 1000, 1000)
    with pytest.raises(InputError, match=f"more than {limits.pixels // 1_000_000} megapixels"):
        check_picture(sized(limits.pixels + 1000), "a.bmp", limits)


def test_a_model_that_is_lost_from_the_store_is_taken_from_the_settings_again(open_station, parts):
    first = open_station()
    with Client(first.url) as client:
        version = client.inspect(parts[0]).version
        shutil.rmtree(first.station.files.folder / "models")
        assert client.inspect(parts[1]).version == version, "it is in memory"
    first.close()
    with Client(open_station().url) as client:
        assert client.inspect(parts[0]).version == version


def test_an_error_of_the_store_is_told_to_everybody_in_the_group(running, parts, monkeypatch):
    away = failing(StoreError("the database is on holiday; wait", "store_unreachable"))
    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(running.station.store, "record", away)
        answers = list(pool.map(lambda part: post(running.url, part), parts[:4]))
    assert {answer.status_code for answer in answers} == {503}
    assert post(running.url, parts[0]).status_code == 201
    until(lambda: running.station.inspector.backlog() == 0)
    files = [path for path in (running.station.files.folder / "pictures").rglob("*") if path.is_file()]
    assert len(files) == 1, "pictures that nobody knows were left"


@pytest.mark.parametrize("place", [(decoding, "read_picture_header"), (Preprocess, "views")])
def test_a_picture_that_no_reader_foresees_is_its_own_fault(running, parts, monkeypatch, place):
    """It could not be read; the model is fine, and the other pictures are judged."""
    with monkeypatch.context() as patch:
        patch.setattr(*place, failing(TypeError("Cannot handle this data type")))
        answer = post(running.url, parts[0])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        assert "could not be read (unexpected TypeError: Cannot handle" in answer.json()["error"]
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        assert httpx.get(f"{running.url}/api/v1/status").json()["problems"] == []
    assert post(running.url, parts[0]).status_code == 201
