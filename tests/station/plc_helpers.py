"""What the tests of PLCs share: the example's packages as if they were installed, a station with an emulated
camera, and a PLC that plays its side."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from station_helpers import NAME, Running, free_port, opened

from flawscope.station.settings.station import Settings, read_settings
from flawscope.station.store.search import Filters

ROOT = Path(__file__).parents[2]
LINE = ROOT / "examples/line"
sys.path.append(str(LINE))  # as an editable installation does
from flawscope_line.plc import Plc  # noqa: E402


def install(site: Path, *projects: Path) -> Path:
    """Write down what pip does about the entry points of projects: a folder for the path."""
    for project in projects:
        entries = (project / "pyproject.toml").read_text().partition("[project.entry-points.")
        text = "[" + entries[2].partition("\n[tool")[0].replace('"', "").replace(
            "[project.entry-points.", "["
        )
        folder = site / f"{project.name.replace('-', '_')}_here-0.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "entry_points.txt").write_text(text)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project.name}-here\nVersion: 0.1.0\n"
        )
    return site


@pytest.fixture(name="plugins", scope="session")
def plugins_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Plugins of this checkout, whatever the installation knows, and of examples/line; the folder to put on
    the path of other processes."""
    site = install(tmp_path_factory.mktemp("site"), ROOT, LINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield site


@pytest.fixture(name="reels")
def reels_fixture(parts: list[bytes], tmp_path: Path) -> dict[str, Path]:
    """Folders of pictures: good ones, and a good one and one with a defect in turn."""
    found = {"good": parts[:1], "mixed": [parts[0], parts[-1]]}
    for name, pictures in found.items():
        (tmp_path / name).mkdir()
        for number, data in enumerate(pictures):
            (tmp_path / name / f"{number}.png").write_bytes(data)
    return {name: tmp_path / name for name in found}


def settings_text(
    settings: Settings, products: dict[str, str], connection: str, deadline: str | None = None
) -> str:
    """station.yaml. products: model by name, with the folder of its camera after a space."""
    lines = ["products:"]
    for name, given in products.items():
        model, folder = given.split()
        lines += [f"  {name}:", f"    model: {model}", "    camera_checks: false"]
        lines += [f"    deadline: {deadline}"] if deadline else []
        lines += ["    sources:", f"      - reel: {folder}"]
    return "\n".join([*lines, f"store: {settings.store}", "port: 0", "threads: 1", "device: cpu", connection])


WIRES = ("modbus", "modbus-client", "opcua")  # of the station; a PLC that is a Modbus server is the second


def connection(wire: str, port: int, recipes: dict[int, str], **more: Any) -> str:
    """The setting `connections` of a station that plays over this wire."""
    name = wire.partition("-")[0]
    place = "connect" if wire == "modbus-client" else "listen"
    given = {place: f"127.0.0.1:{port}", "recipes": recipes, "watchdog": "2 s", "deadline": "5 s", **more}
    return f"connections: [{{{name}: {json.dumps(given)}}}]"


def plc_at(wire: str, port: int, seconds: float = 30.0) -> Plc:
    """A PLC that plays with the station, as soon as that listens."""
    from flawscope_line.plc import ModbusClient, ModbusServer, OpcUaClient

    if wire == "modbus-client":
        return Plc(ModbusServer(port))
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            there = OpcUaClient(f"opc.tcp://127.0.0.1:{port}/") if wire == "opcua" else None
            return Plc(there or ModbusClient("127.0.0.1", port))
        except Exception:
            assert time.monotonic() < end, "the station does not listen"
            time.sleep(0.05)


@dataclass
class Played:
    """A station and its PLC. reels: folders of the cameras' pictures, by name."""

    running: Running
    plc: Plc
    port: int

    @property
    def line(self) -> Any:
        (line,) = self.running.station.connections._all
        return line

    def inspections(self, product: str = NAME) -> list[dict[str, Any]]:
        return self.running.station.search(product, Filters(limit=500)).inspections


Play = Callable[..., Played]


@pytest.fixture(name="play")
def play_fixture(
    plugins: Path, settings: Settings, reels: dict[str, Path], model_file: Path, tmp_path: Path
) -> Iterator[Play]:
    """`play(wire, products, recipes)` starts a station and a PLC; all are closed at the end."""
    made: list[Played] = []

    def one(
        wire: str = "modbus",
        products: dict[str, str] | None = None,
        recipes: dict[int, str] | None = None,
        product_deadline: str | None = None,
        **more: Any,
    ) -> Played:
        port = free_port()
        given = products or {NAME: f"{model_file} {reels['good']}"}
        setting = connection(wire, port, recipes or {1: NAME}, **more)
        path = tmp_path / f"station{len(made)}.yaml"
        own = replace(settings, store=f"{settings.store}{len(made)}")
        path.write_text(settings_text(own, given, setting, product_deadline))
        plc = plc_at(wire, port) if wire == "modbus-client" else None
        running = opened(read_settings(path))
        made.append(Played(running, plc or plc_at(wire, port), port))
        return made[-1]

    yield one
    for each in made:
        if each.running.thread.is_alive():
            each.running.close()
        each.plc.close()
