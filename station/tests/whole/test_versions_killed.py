"""Two people learn, activate and remove versions of a product while the station is killed, in the middle of
any step: whenever it starts again, the version that the page names judges, and it is there."""

import os
import random
import secrets
import signal
import threading
import time
from pathlib import Path

from sqlalchemy import select

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.store.database import Database
from flawscope_station.store.files import MODELS, Files
from flawscope_station.store.model_registry import ModelRegistry, make_ready
from flawscope_station.store.schema import versions
from station_helpers import add_version
from version_machine import OpenModel

ROUNDS = 20
STEPS = 8  # of both people that are begun before the kill, at most


class Registry(ModelRegistry):
    """Versions whose files are no models: they open at once, or take a moment."""

    def _load_model(self, row):
        if not (self.files.folder / row.file).is_file():
            raise InputError(f"{row.file} is gone")
        time.sleep(random.choice((0.0, 0.003)))
        return OpenModel()


def opened(home: Path) -> Registry:
    database = Database(f"sqlite:///{home / 'station.sqlite'}")
    database.migrate()
    registry = Registry(database, Files(home / "files"))
    registry.remove_unfinished()
    return registry


def add(registry: Registry) -> None:
    """Add a version as learning does: it is being made, then its file is there, then it is ready."""
    digest = secrets.token_hex(32)
    file = registry.files.model_folder(digest) / "a.onnx"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no model")
    _, number = add_version(registry.database, content=digest, state="making")
    name = f"{MODELS}/{file.parent.name}/{file.name}"
    with registry.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET file = ? WHERE id = ?", (name, number))
    with registry.database.writing() as connection:
        make_ready(connection, number, "anna")


def work(home: Path, seed: int, begun: int) -> None:
    """Let two people add, activate and remove versions until they are killed. begun: a pipe that gets a byte
    when a step begins."""
    registry = opened(home)
    registry.resume(1)

    def person(name: str) -> None:
        rng = random.Random(f"{seed} {name}")
        while True:
            numbers = [one["id"] for one in registry.list_versions(1)["versions"]]
            step = rng.choice(("add", "add", "activate", "remove", "remove"))
            os.write(begun, b"1")
            try:
                if step == "add":
                    add(registry)
                elif step == "activate":
                    registry.activate(1, rng.choice(numbers[:4]), name)
                else:
                    registry.remove(1, rng.choice(registry.removable(1) or numbers), name)
            except FlawscopeError:
                continue

    threads = [threading.Thread(target=person, args=(name,), daemon=True) for name in ("anna", "berta")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def kill_while_working(home: Path, seed: int, steps: int, seconds: float) -> None:
    """Kill a station so many seconds after so many steps were begun."""
    has_begun, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(home, seed, begun)
        finally:
            os._exit(1)
    os.close(begun)
    for _ in range(steps):
        os.read(has_begun, 1)
    time.sleep(seconds)
    os.close(has_begun)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"


def run_rounds(home: Path, rounds: int) -> dict[str, int]:
    """Kill a station so often; return in how many rounds a version was removed, and another one activated."""
    rng, found = random.Random(0), {"removed": 0, "switched": 0}
    registry = opened(home)
    add(registry)
    registry.activate(1, 1, "anna")
    for k in range(rounds):
        before = registry.list_versions(1)
        registry.database.close()
        kill_while_working(home, k, rng.randint(1, STEPS), rng.uniform(0.0, 0.02))
        registry = opened(home)
        judging, page = registry.resume(1), registry.list_versions(1)
        assert judging is not None
        assert judging == page["active"] == registry.number(1)
        assert judging in [one["id"] for one in page["versions"]]
        states = [row.state for row in registry.database.rows(select(versions.c.state))]
        assert (states.count("active"), states.count("making")) == (1, 0)
        there = {one["id"] for one in page["versions"]}
        found["removed"] += not {one["id"] for one in before["versions"]} <= there
        found["switched"] += judging != before["active"]
    registry.database.close()
    return found


def test_whenever_the_station_is_killed_the_version_that_the_page_names_judges(tmp_path):
    found = run_rounds(tmp_path, ROUNDS)
    assert min(found.values()) > 0
