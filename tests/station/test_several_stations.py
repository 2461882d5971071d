"""Several stations on one data base: processes on a real PostgreSQL, and who is who in the tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import func, select
from station_helpers import INSPECTIONS, Served, aged, everything, free_port, taken_file

from flawscope.errors import InputError
from flawscope.predictor import read_manifest
from flawscope.station.client import Client
from flawscope.station.settings.station import ProductSettings, RetentionSettings, Settings, read_settings
from flawscope.station.store.backup import backup, restore
from flawscope.station.store.database import Database
from flawscope.station.store.files import PICTURES, Files
from flawscope.station.store.model_registry import ModelRegistry
from flawscope.station.store.records import Store
from flawscope.station.store.retention import Retention
from flawscope.station.store.schema import pictures, products, stations
from flawscope.station.store.station_identity import claim_identity, public_address

# learnt from nothing that is drawn here
UNRELATED = Path(__file__).parents[1] / "fixtures/models-97f7321/patchcore.safetensors"
Make = Callable[..., Served]


@pytest.fixture
def shared_url(postgres: Any) -> Iterator[str]:
    """Of an empty data base for several stations."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def make(shared_url: str, model_file: Path, tmp_path: Path) -> Iterator[Make]:
    """`make("line1")`: a station in a process of its own, not started yet."""
    made: list[Served] = []

    def one(name: str, store: str = "", product: str = "plate") -> Served:
        port, path = free_port(), tmp_path / f"{name}-{store or name}.yaml"
        settings = {
            "name": name,
            "products": {product: str(model_file)},
            "store": store or name,
            "database": shared_url,
            "public": [f"127.0.0.1:{port}"],
        }
        path.write_text(yaml.safe_dump(settings))
        made.append(Served([str(path), "--device", "cpu", "--threads", "1"], port))
        return made[-1]

    yield one
    for served in made:
        if served.process is not None and served.process.poll() is None:
            served.kill()


def at_once(*several: Served) -> None:
    with ThreadPoolExecutor(len(several)) as pool:
        list(pool.map(Served.start, several))


def send(url: str, data: bytes, name: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/api/v1/{INSPECTIONS}", params={"name": name}, content=data, timeout=30)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def picture_of(url: str, number: int) -> httpx.Response:
    return httpx.get(f"{url}/api/v1/{INSPECTIONS}/{number}/picture")


# ---------------------------------------------------------------------------------------------- two processes


def test_two_stations_share_a_data_base_and_nothing_else(
    make: Make, shared_url: str, parts: list[bytes], other_model: Path, tmp_path: Path
) -> None:
    """They start at the same moment, and have a product of the same name, and the same picture."""
    part = parts[-1]  # no model was learnt from it
    one, two = make("line1"), make("line2")
    at_once(one, two)
    first, second = send(one.url, part, "a.png"), send(two.url, part, "b.png")
    assert first["id"] != second["id"]
    assert [entry["name"] for entry in everything(one.url)] == ["a.png"]
    assert [entry["name"] for entry in everything(two.url)] == ["b.png"]
    assert picture_of(one.url, first["id"]).content == part

    elsewhere = picture_of(one.url, second["id"])
    assert elsewhere.status_code == 404
    assert elsewhere.json()["error"] == (
        f"inspection {second['id']} and its picture are at the station line2 (http://127.0.0.1:{two.port}): "
        "look there"
    )
    verdict = httpx.post(f"{one.url}/api/v1/{INSPECTIONS}/{second['id']}/verdict", json={"verdict": "good"})
    assert verdict.status_code == 404
    page = httpx.get(f"{one.url}/plate/history").text
    assert f'href="http://127.0.0.1:{two.port}/plate/history"' in page
    assert "line2" in page

    with Client(one.url) as client, Client(two.url) as foreign:  # models are each one's own
        before = client.product().version
        added = foreign.add_version(other_model)
        foreign.activate(None, added.id)
        assert client.product().version == before
        assert [version.id for version in client.versions()] == [before]
        missing_one = httpx.post(f"{one.url}/api/v1/products/plate/versions/{added.id}/activate")
        assert missing_one.status_code == 404
    one.kill()
    one.start()
    assert "line2" not in one.said()
    with Client(one.url) as client:
        assert client.product().version == before

    # what one removes is there at the other
    database = Database(Settings(database=shared_url).url, "line1")
    keep = RetentionSettings(good="1 hour", anomalous="1 hour")
    gone = Retention(database, Files(tmp_path / "line1"), keep, aged(database))
    gone._pause = lambda seconds: None  # type: ignore[method-assign]
    assert gone.run().pictures == 1
    assert picture_of(one.url, first["id"]).status_code == 404
    assert picture_of(two.url, second["id"]).content == part
    assert send(one.url, part, "c.png")["picture"] == first["picture"]
    database.close()


def test_a_name_or_a_folder_that_is_taken_is_one_line(make: Make) -> None:
    one = make("line1")
    one.start()
    for wrong, why in (
        (make("line1", store="elsewhere"), r"the station line1 of .* has another folder than .*elsewhere"),
        (make("line2", store="line1"), r"another station runs on .*line1"),
    ):
        with pytest.raises(AssertionError, match=why):
            wrong.start()
        assert "Traceback" not in wrong.said()
        assert len(wrong.said().splitlines()) == 1


# ---------------------------------------------------------------------------------------------- in the tables


@pytest.fixture
def lines(shared_url: str, tmp_path: Path) -> Iterator[list[tuple[Settings, Database, Files]]]:
    """Two stations that are not running."""
    made = []
    for name in ("line1", "line2"):
        settings = Settings(name=name, store=str(tmp_path / name), database=shared_url)
        database, files = Database(settings.url, name), Files(settings.store)
        database.migrate()
        claim_identity(database, files, f"http://{name}.example")
        made.append((settings, database, files))
    yield made
    for _, database, _ in made:
        database.close()


def test_what_a_model_of_another_station_was_learnt_from_stays(
    lines: Any, model_file: Path, drawn: Path
) -> None:
    (_, first, files), (_, second, other_files) = lines
    product = Store(first).add_product("plate")
    other = Store(second).add_product("plate")
    good = drawn / "plate" / "test" / "good"
    learnt_from = {picture.hash for picture in read_manifest(model_file).pictures}
    assert learnt_from
    here = ModelRegistry(first, files).add(product, UNRELATED, "by hand", "anna")
    ModelRegistry(second, other_files).add(other, model_file, "by hand", "anna")
    train = sorted((drawn / "plate" / "train" / "good").iterdir())[0].read_bytes()
    new = sorted(good.iterdir())[0].read_bytes()
    Store(first).record([taken_file(files, product, here, data, at) for at, data in enumerate((train, new))])
    retention = Retention(first, files, RetentionSettings(good="1 hour"), aged(first))
    retention._pause = lambda seconds: None  # type: ignore[method-assign]
    summary = retention.run()
    assert (summary.problem, summary.kept, summary.pictures) == ("", 1, 1)
    assert files.path(PICTURES, hashlib.sha256(train).hexdigest(), ".png").exists()


def test_each_backs_up_its_own_and_is_restored_alone(lines: Any, postgres: Any, tmp_path: Path) -> None:
    for place, (_, database, files) in enumerate(lines):
        product = Store(database).add_product("plate")
        version = ModelRegistry(database, files).add(product, UNRELATED, "by hand", "anna")
        store = Store(database)
        store.record(
            [taken_file(files, product, version, f"{place} {k}".encode(), k) for k in range(3 + place)]
        )
    settings = lines[0][0]
    held = backup(settings, tmp_path / "one.tar")
    assert (held.products, held.versions, held.inspections, held.pictures) == (1, 1, 3, 3)
    assert held.damaged == []
    with pytest.raises(InputError, match=r"has no station line3: set `name` to one of line1, line2"):
        backup(replace(settings, name="line3"), tmp_path / "three.tar")
    with postgres.database() as url:
        there = replace(settings, database=url, store=str(tmp_path / "there"))
        assert restore(tmp_path / "one.tar", there) == held
        database, files = Database(there.url, "line1"), Files(there.store)
        assert files.identity() == lines[0][2].identity()
        claim_identity(database, files)  # it goes on
        with database.reading() as connection:
            removed = select(func.count()).where(pictures.c.removed_at.is_not(None))
            assert connection.execute(removed).scalar_one() == 0
            assert connection.execute(select(func.count()).select_from(products)).scalar_one() == 2
        lost = Database(there.url, "line2")
        with pytest.raises(InputError, match=rf"write {lines[1][2].identity()} into .*\.station"):
            claim_identity(lost, Files(tmp_path / "files-of-two"))
        lost.close()
        database.close()
    with postgres.database() as url:
        nameless = replace(settings, name="station", database=url, store=str(tmp_path / "nameless"))
        with pytest.raises(InputError, match="this backup has the stations line1, line2"):
            restore(tmp_path / "one.tar", nameless)
        assert not Path(nameless.store).exists()


@pytest.mark.both_databases
def test_a_name_goes_with_the_folder(database: Database, database_url: str | None, tmp_path: Path) -> None:
    files = Files(tmp_path / "files")
    claim_identity(database, files)
    number = Store(database).add_product("plate")
    database.station = "renamed"
    claim_identity(database, files)
    assert Store(database).add_product("plate") == number
    with database.reading() as connection:
        assert connection.execute(select(stations.c.name)).scalars().all() == ["renamed"]
    other = Files(tmp_path / "other")
    if database_url is None:  # the data base was moved without the rest of its folder
        claim_identity(database, other)
        assert Store(database).add_product("plate") == number
    else:
        with pytest.raises(InputError, match="another folder"):
            claim_identity(database, other)
        other.identity_path.write_text(files.identity() + "\n")
        claim_identity(database, other)


def test_a_folder_with_pictures_of_another_data_base_is_refused(database: Database, tmp_path: Path) -> None:
    """Else they would be taken for nobody's, and removed."""
    files = Files(tmp_path / "files")
    files.keep(PICTURES, b"somebody's", ".png")
    with pytest.raises(InputError, match=r"has pictures that .* does not know: choose an empty `store`"):
        claim_identity(database, files)
    files.identity_path.write_text("nonsense")
    with pytest.raises(InputError, match="is damaged: it holds 'nonsense'"):
        claim_identity(database, files)


def test_stations_that_come_at_once_are_each_one(shared_url: str, tmp_path: Path) -> None:
    """Also the first two, for which the tables are made."""
    url = Settings(database=shared_url).url

    def come(number: int) -> str:
        database = Database(url, "same")
        try:
            database.migrate()
            claim_identity(database, Files(tmp_path / str(number)))
            return "here"
        except InputError as error:
            return str(error)
        finally:
            database.close()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(come, range(6)))
    assert found.count("here") == 1
    assert sum("has another folder" in one for one in found) == 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"host": "10.0.0.7"}, "http://10.0.0.7:8080"),
        ({"host": "fd00::7", "port": 81}, "http://[fd00::7]:81"),
        ({"public": ("line.example:8080", "other")}, "http://line.example:8080"),
        ({"public": ("line.example",), "proxy": True}, "https://line.example"),
    ],
)
def test_the_address_is_where_others_reach_it(given: dict[str, Any], expected: str | None) -> None:
    assert public_address(Settings(products={"plate": ProductSettings("x")}, **given)) == expected


def test_a_name_of_a_station_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text("name: a/b\nproducts: {plate: part.onnx}\n")
    with pytest.raises(InputError, match=r"name 'a/b' cannot be a station's: use letters"):
        read_settings(path)
    path.write_text("name: line.1\nproducts: {plate: part.onnx}\n")
    assert read_settings(path).name == "line.1"
