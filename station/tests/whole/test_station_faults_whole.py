"""What happens when something breaks: the database, the disk, a model, a client, the process itself."""

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from flawscope.cli import main
from flawscope_station.client import Client
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import DATABASE_FILE, RetentionSettings
from flawscope_station.store import database as database_module
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import RESERVED_BYTES
from station_helpers import INSPECTIONS, Load, missing, one_part, post, problems, until


def names(url: str) -> list[str]:
    with Client(url) as client:
        return [one.name for one in client.search()]


@pytest.mark.listens
def test_a_data_base_that_goes_and_comes_back(open_station, parts, own_postgres, caplog):
    """The stream of an open page ends without a noise; what it asks then says what is wrong."""
    cluster = own_postgres
    with cluster.database() as url:
        running = open_station(database=url)
        assert post(running.url, parts[0], key="before").status_code == 201
        with httpx.stream("GET", f"{running.url}/api/v1/products/plate/live", timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: state"
            cluster.stop("immediate")
            assert all(not line.startswith("event: error") for line in lines)
        said = httpx.get(f"{running.url}/api/v1/products/plate", timeout=30)
        assert (said.status_code, said.json()["code"]) == (503, "store_unreachable")
        assert caplog.records == []
        begun = time.monotonic()
        refused = post(running.url, parts[1], key="meanwhile")
        assert time.monotonic() - begun < 15
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unreachable")
        assert int(refused.headers["retry-after"]) > 0
        assert "\n" not in refused.json()["error"]
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        assert until(lambda: httpx.get(f"{running.url}/readyz", timeout=30).status_code == 503)
        assert running.station.inspector.backlog() == 0
        cluster.start()
        until(lambda: post(running.url, parts[1], key="meanwhile").status_code == 201)
        until(lambda: "store_unreachable" not in problems(running.url))
        again = post(running.url, parts[0], key="before")
        assert (again.status_code, again.json()["id"]) == (200, 1)
        assert len(names(running.url)) == 2
        running.close()


@pytest.fixture
def sqlite_station(open_station, monkeypatch):
    """One that waits for another writer half a second."""
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT", 0.5)
    return open_station(database=None)


def test_a_data_base_that_another_program_holds(sqlite_station, parts):
    url, store = sqlite_station.url, Path(sqlite_station.station.settings.store)
    assert post(url, parts[0]).status_code == 201
    other = sqlite3.connect(store / DATABASE_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = post(url, parts[1], key="held")
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unreachable")
    assert names(url) == ["a.png"], "what is there can be read"
    other.rollback()
    other.close()
    assert post(url, parts[1], key="held").status_code == 201
    assert len(names(url)) == 2


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Skips the test where nobody may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.name == "nt" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root alone mounts a small disk, not in every container: nothing to install")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, free: int = 0) -> None:
    """With a file, so that so many bytes are free."""
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 14))
    os.truncate(disk / "ballast", max(0, (disk / "ballast").stat().st_size - free))


def test_pictures_are_refused_just_when_the_station_is_not_ready(open_station, parts, tmp_path):
    disk, size = tmp_path / "disk", 8 << 20  # of an upload
    with small_disk(disk, "64m"):
        running = open_station(database=None, store=str(disk / "store"))
        for place, free in enumerate(
            (
                size + RESERVED_BYTES + (1 << 20),
                size + RESERVED_BYTES - (1 << 20),
                0,
                size + 2 * RESERVED_BYTES,
            )
        ):
            fill(disk, free)
            if free > size + RESERVED_BYTES:  # a write in the background may have failed before
                until(lambda: httpx.get(f"{running.url}/readyz").status_code == 200)
                assert post(running.url, parts[place], key=f"{free}").status_code == 201
                continue
            until(lambda: httpx.get(f"{running.url}/readyz").status_code == 503)  # it is measured each second
            answer, ready = post(running.url, parts[place], key=f"{free}"), httpx.get(f"{running.url}/readyz")
            assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
            assert (ready.status_code, ready.json()["problems"][0]["code"]) == (503, "disk_full")
            assert "disk_full" in problems(running.url)
            with pytest.raises(StoreError):  # of a folder as well, before it has a place
                running.station.inspector.submit(one_part(1, parts[0], "a", source="folder"))
        assert len(names(running.url)) == 2
        running.close()


def test_good_pictures_of_a_camera_wait_for_room_on_the_disk(open_station, settings, tmp_path):
    camera = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=25,realtime", "trigger")
    products = {"plate": replace(settings.products["plate"], sources=(camera,))}
    with small_disk(tmp_path / "disk", "64m"):
        running = open_station(database=None, store=str(tmp_path / "disk/store"), products=products)
        with httpx.Client(base_url=f"{running.url}/api/v1", timeout=60) as http:
            until(lambda: http.get("/products/plate").json()["sources"][0]["state"] == "running")
            http.post("/new", json={"name": "lid"}).raise_for_status()
            fill(tmp_path / "disk")
            refused = http.post("/new/lid/capture", json={"product": "plate"})
            assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
            assert http.get("/new/lid/pictures").json()["pictures"] == []
            (tmp_path / "disk/ballast").unlink()
            kept = http.post("/new/lid/capture", json={"product": "plate"}).json()["results"]
            assert [one["status"] for one in kept] == ["kept"]
        running.close()


def test_a_station_that_was_killed_on_a_full_disk_says_so_until_there_is_room(
    serve, model_file, parts, tmp_path
):
    disk = tmp_path / "disk"
    with small_disk(disk, "64m"):
        store = disk / "store"
        served = serve({"model": str(model_file)}, store=str(store), limits={"upload": "8 MB"})
        served.start()
        assert post(served.url, parts[0]).status_code == 201
        fill(disk)
        served.kill()
        for left in (store / "station.sqlite-shm", store / "station.sqlite-wal"):
            shutil.move(left, tmp_path)  # as if it had ended, and another program filled the rest
        fill(disk)
        served.begin()
        until(lambda: httpx_status(f"{served.url}/readyz") == 503)
        assert httpx.get(f"{served.url}/readyz").json()["problems"][0]["code"] == "disk_full"
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        page = httpx.get(f"{served.url}/plate/live", headers={"Accept-Language": "de"})
        assert (page.status_code, "Platz schaffen" in page.text) == (507, True)
        assert str(store) not in page.text, "nobody has signed in"
        refused = post(served.url, parts[1])
        assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
        (disk / "ballast").unlink()
        for left in ("station.sqlite-shm", "station.sqlite-wal"):
            shutil.move(tmp_path / left, store)
        until(lambda: httpx_status(f"{served.url}/readyz") == 200)
        assert post(served.url, parts[1], name="b.png").status_code == 201
        assert names(served.url) == ["b.png", "a.png"]
        fill(disk)
        served.kill()
        served.begin()
        until(lambda: httpx_status(f"{served.url}/readyz") == 503)
        assert served.kill(signal.SIGTERM) == 0


def httpx_status(url: str) -> int:
    """0 where nobody answers."""
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5).status_code
    return 0


def test_a_data_base_without_room_is_as_full_as_a_disk(running, parts):
    """It may be on a disk of its own."""
    most = 1  # as many as there are

    def limit(connection: Any, *_: Any) -> None:  # it holds for a connection
        connection.execute(f"PRAGMA max_page_count = {most}")

    event.listen(running.station.database.engine, "checkout", limit)

    def answers() -> tuple[int, int]:
        """A small row may still fit, of a part or of what the station notes itself; then there is room."""
        with suppress(StoreError):
            while True:
                running.station.store.note_event("test", "", "x" * 4000)
        return post(running.url, parts[0]).status_code, httpx.get(f"{running.url}/readyz").status_code

    until(lambda: answers() == (507, 503))
    most = 1_000_000
    until(lambda: httpx.get(f"{running.url}/readyz").status_code == 200)
    assert post(running.url, parts[0]).status_code == 201


def test_space_for_pictures_is_looked_at_while_they_come(open_station, parts, monkeypatch):
    monkeypatch.setattr("flawscope_station.core.housekeeping.CHECK_INTERVAL", 3600.0)  # it is woken
    running = open_station(keep=RetentionSettings(None, None, None, None, "200 KB"))
    retention = running.station.housekeeping._retention
    until(lambda: retention._next_rescan)
    for place in range(30):
        assert post(running.url, parts[0] + bytes(20_000 + place)).status_code == 201
    pictures = running.station.files.folder / "pictures"

    def held() -> int:
        return sum(path.stat().st_size for path in pictures.rglob("*") if path.is_file())

    until(lambda: 0 < retention.used <= 200 * 1024 and held() <= 250 * 1024)


@pytest.mark.listens
def test_who_goes_away_takes_nothing_along(running, parts):
    """Whole requests of clients that do not wait for the answer, and ones that break off."""
    host, port = running.url.removeprefix("http://").split(":")
    for place in range(20):
        body = parts[place % len(parts)]
        head = f"POST /api/v1/{INSPECTIONS}?name=g{place} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head.encode() + (body if place % 2 else body[:-10]))
    assert post(running.url, parts[0]).status_code == 201
    until(lambda: running.station.inspector.backlog() == 0)
    found = names(running.url)
    assert found[-1:] == ["a.png"] or "a.png" in found
    assert all(name == "a.png" or int(name[1:]) % 2 for name in found), "half a picture was taken"
    assert len(found) == len(set(found))


def test_a_broken_model_is_not_activated_and_the_one_before_goes_on(running, parts, other_model):
    with Client(running.url) as client:
        first = client.inspect(parts[0])
        added = client.add_version(other_model)
        (file,) = (running.station.files.folder / "models").rglob("new.onnx")
        whole = file.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", whole[:2000] + bytes(2000) + whole[4000:], b"no model"):
            file.write_bytes(broken)
            response = httpx.post(
                f"{running.url}/api/v1/products/plate/versions/{added.id}/activate", timeout=60
            )
            assert response.status_code == 422, response.text
            assert "\n" not in response.json()["error"]
            assert client.product().version == first.version
            assert client.inspect(parts[0]).score == first.score
        file.unlink()
        gone = httpx.post(f"{running.url}/api/v1/products/plate/versions/{added.id}/activate")
        assert gone.status_code in (404, 422)
        file.write_bytes(whole)
        assert client.activate(None, added.id).version == added.id
        assert client.inspect(parts[0]).version == added.id
        for model in (b"", b"no model", whole[:3000]):
            sent = httpx.post(
                f"{running.url}/api/v1/products/plate/versions", params={"name": "x.onnx"}, content=model
            )
            assert (sent.status_code, len(client.versions())) == (422, 2)


def test_a_station_starts_when_the_active_version_is_damaged(open_station, parts, other_model):
    first = open_station()
    with Client(first.url) as client:
        added = client.add_version(other_model)
        client.activate(None, added.id)
        assert client.inspect(parts[0]).version == added.id
    first.close()
    (file,) = (first.station.files.folder / "models").rglob("new.onnx")
    file.write_bytes(b"damaged")
    with Client(open_station().url) as client:
        assert client.inspect(parts[0]).version != added.id
        assert len(list(client.search())) == 2


def check_all_there(url: str, load: Load) -> None:
    assert load.odd == []
    assert missing(url, load) == ([], 0)
    rng = random.Random(0)
    for name in rng.sample(sorted(load.taken), 10):
        number, digest = load.taken[name]
        data = httpx.get(f"{url}/api/v1/{INSPECTIONS}/{number}/picture").content
        assert hashlib.sha256(data).hexdigest() == digest
    trends = httpx.get(f"{url}/api/v1/products/plate/trends").json()
    assert trends["totals"]["inspections"] == len(names(url)) >= len(load.taken)


@pytest.mark.both_databases
def test_nothing_that_was_acknowledged_is_lost_by_kill_9(served, parts):
    load, rng = Load(served.url, parts), random.Random(1)
    served.start()
    load.start()
    for _ in range(2):
        before = len(load.taken)
        until(lambda before=before: len(load.taken) > before + 5)
        time.sleep(rng.random() / 2)
        assert served.kill() == -signal.SIGKILL
        served.start()
    until(lambda: len(load.taken) > 30)
    load.end()
    check_all_there(served.url, load)
    store = Path(served.words[served.words.index("--station") + 1])
    assert list(store.rglob("*.part")) == []


def test_a_graceful_end_answers_what_was_taken(served, parts):
    """SIGTERM, as a service manager sends it, and Ctrl-C."""
    load = Load(served.url, parts)
    load.start()
    for how in (signal.SIGTERM, signal.SIGINT):
        served.start()
        before = len(load.taken)
        until(lambda before=before: len(load.taken) > before + 10)
        code = served.kill(how)
        said = served.said()
        assert "Traceback" not in said, said
        assert "ending: what was taken is answered first" in said
        assert code == 0, said
    served.start()
    load.end()
    check_all_there(served.url, load)


def test_a_start_that_cannot_be_is_one_line(served, capsys):
    """A port that is taken, and a database that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", served.port))
        taken.listen()
        with pytest.raises(AssertionError, match="it ended"):
            served.start()
    lines = served.said().splitlines()
    assert any(f"127.0.0.1:{served.port} cannot be used" in line for line in lines)
    assert "ending" not in served.said(), "it had not begun"
    assert "Traceback" not in served.said()
    assert main(["serve", *served.words, "--database", "postgresql://me:secret@127.0.0.1:9/none"]) == 2
    (*_, line) = capsys.readouterr().err.splitlines()
    assert re.search(r"cannot be used.*check `database`", line)
    assert "secret" not in line
