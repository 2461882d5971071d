"""Learning when the disk is full, and when somebody puts another version to use meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from learning_helpers import API, NAME, Line, drawn_part
from station_helpers import until

pytest.importorskip("torch")

from flawscope.predictor import load
from flawscope.station.learning import learning as learning_module
from flawscope.station.settings.station import Learn


@pytest.fixture(scope="module")
def model_file(model_path: Path) -> Path:
    """The trained model itself."""
    return model_path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_module, "AGAIN", 0.1)


@contextmanager
def held_up(running: Any, line: Line) -> Iterator[int]:
    """A candidate, while its process stands still."""
    number = int(line.http.post(f"{API}/learning", json={}).json()["id"])
    process = until(lambda: running.station.learning.worker.pid)
    os.kill(process, signal.SIGSTOP)
    try:
        yield number
    finally:
        os.kill(process, signal.SIGCONT)


def problems(line: Line) -> dict[str, str]:
    return {one["code"]: one["text"] for one in line.http.get("/api/v1/status").json()["problems"]}


def status_of(line: Line, number: int) -> str:
    return str(line.http.get(f"{API}/candidates/{number}").json()["status"])


def other_version(line: Line, model: Path, folder: Path, rate: str = "2%") -> int:
    """An operator's own model file; its number."""
    path = folder / "other.safetensors"
    load(model).with_rate(rate).save(path)
    with path.open("rb") as file:
        answer = line.http.post(f"{API}/versions", params={"name": path.name}, content=file.read())
    assert answer.status_code in (200, 201), answer.text
    return int(answer.json()["id"])


# --------------------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize("left", [1_000_000, 0], ids=["no room for a model", "no room at all"])
def test_a_full_disk_while_a_version_is_made(open_station: Any, tmp_path: Path, left: int) -> None:
    """It waits, says so in a line, and is made when there is room: also where not even the data base could
    write down that it waits."""
    with import_module("test_station_faults").small_disk(tmp_path / "disk", "64m"):
        running = open_station(database=None, store=str(tmp_path / "disk" / "store"))
        line = Line(running.url)
        line.shift()
        ballast = tmp_path / "disk" / "ballast"
        with held_up(running, line) as number, ballast.open("wb", buffering=0) as file, suppress(OSError):
            while (free := running.station.files.free_bytes()) > left:
                file.write(bytes(min(1 << 14, free - left)))
        text = until(lambda: problems(line).get("learning_1"))
        assert text.startswith("a version waits to be made from corrections: the disk of ")
        assert text.endswith("; free some space")
        assert "\n" not in text
        assert status_of(line, number) in ("queued", "running")
        answer = line.http.post(f"{API}/inspections", params={"name": "on.png"}, content=drawn_part(7))
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
        ballast.unlink()
        made = line.ended(number)
        assert (made["status"], made["version"]) == ("ready", 2), made["error"]
        until(lambda: "learning_1" not in problems(line))
        assert len(line.http.get(f"{API}/versions").json()["versions"]) == 2
        assert not list(running.station.files.folder.rglob("*.part"))
        assert line.send(drawn_part(8), "after.png")["version"] == 1
        line.http.close()
        running.close()


# -------------------------------------------------------------------------------------------- another version


@pytest.mark.parametrize("rule", ["click", "auto"])
def test_another_version_is_put_to_use_meanwhile(
    open_station: Any, settings: Any, model_file: Path, tmp_path: Path, rule: str
) -> None:
    """What was made from version 1 is shown as that, and does not go live by the rule; another one is made
    from the version that judges."""
    product = replace(settings.products[NAME], learn=Learn(rule=rule, after=1000))
    running = open_station(products={NAME: product})
    line = Line(running.url)
    other, first = switched_meanwhile(running, line, model_file, tmp_path)
    assert (first["status"], first["start"], first["compared_with"]) == ("ready", 1, 1)
    assert "switched" in first["waits"]
    trail = line.http.get(f"{API}/trail").json()["entries"]
    said = f"candidate {first['id']}: version {first['version']} does not go live by the rule ("
    assert any(one["text"].startswith(said) for one in trail) is (rule == "auto")
    assert ("version activated", "rule") not in [(one["kind"], one["by"]) for one in trail]
    assert line.active() == other
    second = line.ended(until(lambda: newest(line, first["id"])))
    assert (second["status"], second["start"], second["compared_with"]) == ("ready", other, other)
    assert "switched" not in second["waits"]
    assert line.active() == other, "neither goes live without a click"
    assert line.send(drawn_part(9), "now.png")["version"] == other
    assert line.use(first["version"]).status_code == 200, "and who wants the first one may have it"
    line.http.close()


def switched_meanwhile(running: Any, line: Line, model: Path, folder: Path) -> tuple[int, dict[str, Any]]:
    """An operator's version, put to use while a candidate is made; and the candidate."""
    line.shift()
    other = other_version(line, model, folder)
    with held_up(running, line) as number:
        assert line.use(other).status_code == 200
    return other, line.ended(number)


def newest(line: Line, after: int) -> int | None:
    """Of the candidates, if there is one after this."""
    number = int(line.http.get(f"{API}/learning").json()["candidates"][0]["id"])
    return number if number > after else None


def test_a_version_judges_instead_of_the_one_that_is_named_alone(
    running: Any, model_file: Path, tmp_path: Path
) -> None:
    """The rule's last look: somebody may be quicker while it opens the model."""
    line = Line(running.url)
    versions = running.station.versions
    one = other_version(line, model_file, tmp_path)
    two = other_version(line, model_file, tmp_path, "4%")
    assert versions.activate(1, one, "operator", instead_of=1) is True
    assert versions.activate(1, one, "operator", instead_of=1) is True, "as where the answer was lost"
    assert versions.activate(1, two, "rule", instead_of=1) is False
    assert (line.active(), line.send(drawn_part(9))["version"]) == (one, one)
    switched = [one for one in line.http.get(f"{API}/trail").json()["entries"] if "activated" in one["kind"]]
    assert [one["by"] for one in switched] == ["operator", "operator", "station"]
    line.http.close()
