"""Plugins as if they were installed, those of examples/line, and stations that use them."""

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flawscope_station.settings.station import Settings

ROOT = Path(__file__).parents[2]
LINE = ROOT / "examples/line"
sys.path.append(str(LINE))  # as an editable installation does


def install(site: Path, *projects: Path) -> Path:
    """Write down what pip does about the entry points of projects: a folder for the path."""
    for number, project in enumerate(projects):  # a checkout may be called as an example is
        name = f"{project.name.replace('-', '_')}_here{number}"
        entries = (project / "pyproject.toml").read_text().partition("[project.entry-points.")
        text = "[" + entries[2].partition("\n[tool")[0].replace('"', "").replace(
            "[project.entry-points.", "["
        )
        folder = site / f"{name}-0.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "entry_points.txt").write_text(text)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    return site


@pytest.fixture(name="plugins", scope="session")
def plugins_fixture(tmp_path_factory):
    """Plugins of examples/line as if they were installed; the folder to put on
    the path of other processes."""
    site = install(tmp_path_factory.mktemp("site"), LINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield site


@pytest.fixture(name="reels")
def reels_fixture(parts, tmp_path):
    """Folders of pictures: good ones, and a good one and one with a defect in turn."""
    found = {"good": parts[:1], "mixed": [parts[0], parts[-1]]}
    for name, pictures in found.items():
        (tmp_path / name).mkdir()
        for number, data in enumerate(pictures):
            (tmp_path / name / f"{number}.png").write_bytes(data)
    return {name: tmp_path / name for name in found}


def settings_text(
    settings: Settings, products: dict[str, str], connection: str, more: Mapping[str, Any] | None = None
) -> str:
    """station.yaml. products: model by name, with the folder of its camera after a space, or
    VIEW=FOLDER of several. more: settings of each."""
    lines = ["products:"]
    for name, given in products.items():
        model, *cameras = given.split()
        lines += [f"  {name}:", f"    model: {model}", "    camera_checks: false"]
        lines += [f"    {key}: {value}" for key, value in (more or {}).items()]
        lines += ["    sources:"]
        for view, _, folder in (camera.rpartition("=") for camera in cameras):
            lines += [
                f"      - reel: {{folder: {folder}, view: {view}}}" if view else f"      - reel: {folder}"
            ]
    return "\n".join([*lines, f"store: {settings.store}", "port: 0", "threads: 1", "device: cpu", connection])


def ids(path: Path) -> list[str]:
    """Of the inspections in a CSV file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Careless:
    file: str
