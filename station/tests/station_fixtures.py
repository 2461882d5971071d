"""Stations to test: on SQLite, and, where a test is marked `both_databases`, also on a PostgreSQL of the
distribution that the tests start themselves."""

import functools
import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope import Region
from flawscope.cli import main
from flawscope.predictor.tolerating import tolerator
from flawscope.results.tolerance import Rule, Tolerances
from flawscope_station.client import Client
from flawscope_station.drift import camera_checks
from flawscope_station.learning import process
from flawscope_station.learning.process import Worker
from flawscope_station.settings.station import Limits, ProductSettings, Settings
from flawscope_station.store.database import Database
from forked_station import ForkedStation
from sink_helpers import Receiver
from station_helpers import (
    NAME,
    InProcess,
    Listening,
    Postgres,
    Running,
    Served,
    Unavailable,
    free_port,
    opened,
    png,
    running_postgres,
)
from tablet import driver_fixture, tablet_fixture  # noqa: F401

_numbers = count()


# ------------------------------------------------------------------------------------------------- PostgreSQL


def _or_skip() -> Iterator[Postgres]:
    try:
        with running_postgres() as cluster:
            yield cluster
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres():
    """One for all tests of this process."""
    yield from _or_skip()


@pytest.fixture
def own_postgres():
    """One to stop."""
    yield from _or_skip()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker("both_databases")
    if marked and "database_url" in metafunc.fixturenames:
        second_floor = pytest.param("postgresql", marks=pytest.mark.whole)
        metafunc.parametrize("database_url", ["sqlite", second_floor], indirect=True)


@pytest.fixture
def database_url(request):
    """Of an empty database, as the setting `database` takes it; None: SQLite in the station's folder."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield url


@pytest.fixture
def database(database_url, tmp_path):
    """With its tables."""
    made = Database(Settings(store=str(tmp_path), database=database_url).url)
    made.migrate()
    yield made
    made.close()


# --------------------------------------------------------------------------------------------------- stations


@pytest.fixture(scope="session")
def model_file(onnx_path):
    """What judges: small, and without torch. Read only."""
    return onnx_path


@pytest.fixture(scope="session")
def other_model(model_file, drawn, shared):
    """The same with another threshold. Read only."""

    def fill(folder: Path) -> None:
        good, out = drawn / "plate" / "test" / "good", str(folder / "new.onnx")
        assert main(["calibrate", str(model_file), "--good", str(good), "--force", "--out", out]) == 0

    return shared("other-model", fill) / "new.onnx"


@pytest.fixture(scope="session")
def parts(drawn):
    """Encoded pictures, the first ones good, the last ones with defects."""
    test = drawn / "plate" / "test"
    paths = sorted((test / "good").iterdir()) + sorted(test.glob("[!g]*/*.png"))
    return [path.read_bytes() for path in paths]


def settings_of(store: Path, model: Path, database: str | None = None) -> Settings:
    return Settings(
        products={NAME: ProductSettings(str(model))},
        store=str(store),
        database=database,
        port=0,
        device="cpu",
        threads=1,
        limits=Limits(upload="8 MB", pixels=4_000_000, stalled=10.0),
    )


@pytest.fixture
def settings(database_url, model_file, tmp_path):
    return settings_of(tmp_path / "store", model_file, database_url)


@pytest.fixture(scope="session", autouse=True)
def prompt_workers():
    """Processes that learn have the priority of the tests: with the lowest one they take minutes on a busy
    machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker.__init__, "__defaults__", (0,))
        yield


@pytest.fixture(scope="session", autouse=True)
def few_parts():
    """Stations of tests are shown the same few parts again and again, where no test is about that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera_checks, "RECENT_PICTURES", 0)
        yield


class Forked:
    """In the place of a context that spawns: its processes come from one that has loaded torch once."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["loaded_torch"])
        self.Pipe = self._context.Pipe

    def Process(self, **given: Any) -> BaseProcess:
        with pytest.MonkeyPatch.context() as patch:
            there = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, there)))
            ensure_running()
        return self._context.Process(**given)


@pytest.fixture(scope="session", autouse=True)
def torch_loaded_once():
    """Processes that learn are spawned in test_learning_steps alone: each would load torch."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(os, "fork"):
            patch.setattr(process, "SPAWN_CONTEXT", Forked())
        yield


@pytest.fixture(scope="session", autouse=True)
def in_process():
    """Requests to stations of this process need no socket, and clients no certificates read anew for each."""
    with pytest.MonkeyPatch.context() as patch:
        context = functools.cache(httpx.create_ssl_context)  # 20 ms of the processor each
        patch.setattr("httpx._transports.default.create_ssl_context", context)
        patch.setattr(httpx.HTTPTransport, "handle_request", lambda *words: InProcess.answer(*words))
        yield


def place_of(node: Any) -> type[Listening | InProcess]:
    """Where stations of a test answer: without a server, unless it is marked `listens` or has a browser."""
    in_browser = {"driver", "tablet", "browser"} & {*getattr(node, "fixturenames", ())}
    return Listening if in_browser or node.get_closest_marker("listens") else InProcess


@pytest.fixture(scope="module")
def common(request, model_file, tmp_path_factory):
    """A station for all tests of a file that do not mind the others' pictures."""
    made = opened(settings_of(tmp_path_factory.mktemp("common"), model_file), place_of(request.node))
    yield made
    made.close()


@pytest.fixture
def open_station(request, settings):
    """`open_station(limits=...)` opens a station with settings of its own; all are closed at the end."""
    with ExitStack() as stack:

        def open_one(**changes: Any) -> Running:
            return stack.enter_context(closing(opened(replace(settings, **changes), place_of(request.node))))

        yield open_one


@pytest.fixture
def running(open_station):
    """A station that answers."""
    return open_station()


@pytest.fixture
def api(running):
    """Asks the station's API."""
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as made:
        yield made


@pytest.fixture
def http(running):
    """Asks for pages, too."""
    with httpx.Client(base_url=running.url, timeout=60) as made:
        yield made


@pytest.fixture
def receive():
    """`receive(500)` makes somebody who gets webhooks, and fails at first."""
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(closing(Receiver(*answers)))


@pytest.fixture
def station(running):
    return running.station


@pytest.fixture
def client(running):
    with Client(running.url) as made:
        yield made


# ------------------------------------------------------------------------------------------ processes to kill


@pytest.fixture
def served(settings):
    """Not started yet."""
    words = [settings.products[NAME].model, "--station", settings.store, "--product", NAME]
    words += ["--device", "cpu", "--threads", "1"]
    words += ["--database", settings.database] if settings.database else []
    with closing(ForkedStation(words, free_port())) as made:
        yield made


@pytest.fixture
def serve(tmp_path):
    """`serve(product, limits=...)`: the same by a file of settings."""
    with ExitStack() as stack:

        def one(product: dict[str, Any], **settings: Any) -> Served:
            settings = {"store": str(tmp_path / "store"), "device": "cpu", "threads": 1, **settings}
            (path := tmp_path / "station.yaml").write_text(
                json.dumps({"products": {NAME: product}, **settings})
            )
            return stack.enter_context(closing(ForkedStation([str(path)], free_port())))

        yield one


@pytest.fixture
def naming(monkeypatch):
    """P-values of kinds that every model answers; those above 0.1 may be a defect's."""
    p_values, plain = {"crack": 0.02, "scratch": 0.6}, Region.to_dict

    def to_dict(region: Region) -> dict[str, Any]:
        kinds = tuple(name for name, p in p_values.items() if p > 0.1)
        return plain(replace(region, kinds=kinds, kind_p_values=p_values))

    monkeypatch.setattr(Region, "to_dict", to_dict)
    return p_values


@pytest.fixture(scope="session")
def spot(judged, model_file):
    """A picture with a spot in its middle: the model calls it anomalous, and nothing beside it may be wrong,
    so that a tolerance allows it."""
    model = flawscope.load(model_file).with_scale(0.1)
    for side in (4, 3, 5, 2, 6):
        with Image.open(io.BytesIO(judged[0])) as image:
            picture = np.asarray(image.convert("RGB")).copy()
        middle = [
            slice(length // 2 - side // 2, length // 2 + side - side // 2) for length in picture.shape[:2]
        ]
        picture[middle[0], middle[1]] = (0, 0, 255)
        rules = Tolerances("1", "0" * 64, picture.shape[:2], (Rule("any", length=1e3),))
        if tolerator(model, rules)(model.predict(picture)).decision == "within tolerance":
            return png(picture)
    raise AssertionError("no spot is tolerated")


@pytest.fixture(scope="session")
def judged(parts, model_file):
    """A picture that the model calls good, and one that it calls anomalous."""
    found = flawscope.load(model_file).predict(parts)
    decisions = [one.is_anomalous for one in found]
    return parts[decisions.index(False)], parts[decisions.index(True)]
