"""Two people activate and remove versions of a product while the station is killed, in the middle of any step:
whenever it starts again, the version that the page names judges, and it is there."""

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

from flawscope import Predictor
from flawscope.errors import FlawscopeError
from flawscope_station.store.database import Database
from flawscope_station.store.files import MODELS, Files
from flawscope_station.store.model_registry import ModelRegistry
from station_helpers import add_version

ROUNDS = 20
VERSIONS = 6  # that a round begins with, at least


class Registry(ModelRegistry):
    """Versions whose files are no models: they open at once, or take a moment."""

    def _load_model(self, row):
        assert (self.files.folder / row.file).is_file(), "a version that is there has its file"
        time.sleep(random.choice((0.0, 0.003)))
        return object.__new__(Predictor)


def opened(home: Path) -> Registry:
    database = Database(f"sqlite:///{home / 'station.sqlite'}")
    database.migrate()
    return Registry(database, Files(home / "files"))


def add(registry: Registry, contents: "itertools.count[int]") -> None:
    digest = f"{next(contents):064}"
    file = registry.files.model_folder(digest) / "a.onnx"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no model")
    _, number = add_version(registry.database, content=digest)
    name = f"{MODELS}/{file.parent.name}/{file.name}"
    with registry.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET file = ? WHERE id = ?", (name, number))


def work(home: Path, seed: int, begun: int) -> None:
    """Let two people activate and remove versions until the process is killed; close a pipe when they begin."""
    registry = opened(home)
    registry.resume(1)
    os.close(begun)

    def person(name: str) -> None:
        rng = random.Random(f"{seed} {name}")
        while True:
            numbers = [one["id"] for one in registry.list_versions(1)["versions"]]
            try:
                if rng.random() < 0.5:
                    registry.activate(1, rng.choice(numbers), name)
                else:
                    registry.remove(1, rng.choice(registry.removable(1) or numbers), name)
            except FlawscopeError:
                continue

    threads = [threading.Thread(target=person, args=(name,), daemon=True) for name in ("anna", "berta")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def kill_while_working(home: Path, seed: int, seconds: float) -> None:
    has_begun, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(home, seed, begun)
        finally:
            os._exit(1)
    os.close(begun)
    os.read(has_begun, 1)
    os.close(has_begun)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself: a version was without its file, or an error"


def run_rounds(home: Path, rounds: int) -> dict[str, int]:
    """Kill a station so often; return how often a version was removed, and another one activated."""
    contents, rng, found = itertools.count(), random.Random(0), {"removed": 0, "switched": 0}
    registry = opened(home)
    add(registry, contents)
    registry.activate(1, 1, "anna")
    for k in range(rounds):
        while len(registry.list_versions(1)["versions"]) < VERSIONS:
            add(registry, contents)
        before = registry.list_versions(1)
        registry.database.close()
        kill_while_working(home, k, rng.uniform(0.0, 0.1))
        registry = opened(home)
        judging, page = registry.resume(1), registry.list_versions(1)
        assert judging is not None
        assert judging == page["active"] == registry.number(1)
        assert judging in [one["id"] for one in page["versions"]]
        found["removed"] += len(before["versions"]) > len(page["versions"])
        found["switched"] += judging != before["active"]
    registry.database.close()
    return found


def test_whenever_the_station_is_killed_the_version_that_the_page_names_judges(tmp_path):
    found = run_rounds(tmp_path, ROUNDS)
    assert found["switched"] > 0
