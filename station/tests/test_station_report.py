"""The archive for support: what is in it, whatever of the station hangs."""

import json
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from backup_helpers import filled_fixture  # noqa: F401
from flawscope.cli import main
from flawscope.errors import FlawscopeError
from flawscope_station.cli import report
from station_helpers import failing


def pieces(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def settings_file(filled, tmp_path):
    path = tmp_path / "station.yaml"
    text = f"store: {filled.store}\nport: 1\nproducts:\n  plate:\n    model: plate.onnx\n"
    path.write_text(f"{text}    sinks:\n      - webhook: https://hub.example/pass-word\n")
    return path


def test_of_a_station_that_hangs_it_has_all_that_lies_on_the_disk(
    settings_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(report, "_ask_station", failing(FlawscopeError("it does not answer")))
    out = tmp_path / "report.zip"
    assert main(["station", "report", "--settings", str(settings_file), "--out", str(out)]) == 0
    found = pieces(out)
    assert "pass-word" not in "".join(found.values())
    assert json.loads(found["settings.json"])["settings"]["products"]["plate"]["sinks"]
    assert "user_added" in [one["kind"] for one in json.loads(found["events.json"])]
    assert {one["product"] for one in json.loads(found["versions.json"])} == {"plate", "board"}
    assert "flawscope" in found["packages.txt"]
    assert json.loads(found["disk.json"])["free_bytes"] > 0
    asked = [line.partition(":")[0] for line in found["missing.txt"].splitlines()]
    assert asked == [f"running/{name}.json" for name in report.API_PATHS]
    assert "missing: running/status.json" in capsys.readouterr().err
    assert main(["station", "report", "--settings", str(settings_file), "--out", str(out)]) == 2


def test_a_piece_that_hangs_keeps_no_other_from_coming(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PIECE_SECONDS", 0.3)
    monkeypatch.setattr(report, "_pieces", lambda _: {"a": lambda: time.sleep(5) or "", "b": lambda: "here"})
    missing = report.write_report(filled, tmp_path / "report.zip")
    assert pieces(tmp_path / "report.zip")["b"] == "here"
    assert [line.partition(":")[0] for line in missing] == ["a"]


def test_a_running_station_tells_its_problems_threads_and_settings(common):
    with httpx.Client(base_url=f"{common.url}/api/v1/", timeout=30) as api:
        told = api.get("threads").json()
    names = {one["name"]: one["state"] for one in told["watched"]}
    assert names["recorder"] == "running"
    assert any("test_station_report" in call for one in told["stacks"] for call in one["stack"])
