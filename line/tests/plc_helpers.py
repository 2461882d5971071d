"""A station with an emulated camera, and a PLC that plays its side."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from emulated_line.plc import Plc

from flawscope_station.settings.station import read_settings
from plugin_helpers import settings_text
from station_helpers import NAME, Running, free_port, opened, recorded

WIRES = ("modbus", "modbus-client", "opcua")  # of the station; a PLC that is a Modbus server is the second


def connection(wire: str, port: int, recipes: dict[int, str], **more: Any) -> str:
    """The setting `connections` of a station that plays over this wire."""
    name = wire.partition("-")[0]
    place = "connect" if wire == "modbus-client" else "listen"
    given = {place: f"127.0.0.1:{port}", "recipes": recipes, "watchdog": "2 s", "deadline": "5 s", **more}
    return f"connections: [{{{name}: {json.dumps(given)}}}]"


def plc_at(wire: str, port: int, seconds: float = 30.0) -> Plc:
    """A PLC that plays with the station, as soon as that listens."""
    from emulated_line.plc import ModbusClient, ModbusServer, OpcUaClient

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
        return recorded(self.running.station, product)


@pytest.fixture(name="play")
def play_fixture(plugins, settings, reels, model_file, tmp_path):
    """`play(wire, products, recipes)` starts a station and a PLC, ready for the first recipe."""
    made: list[Played] = []

    def one(
        wire: str = "modbus",
        products: dict[str, str] | None = None,
        recipes: dict[int, str] | None = None,
        product: dict[str, Any] | None = None,
        **more: Any,
    ) -> Played:
        port = free_port()
        given = products or {NAME: f"{model_file} {reels['good']}"}
        setting = connection(wire, port, recipes or {1: NAME}, **more)
        path = tmp_path / f"station{len(made)}.yaml"
        own = replace(settings, store=f"{settings.store}{len(made)}")
        path.write_text(settings_text(own, given, setting, product))
        plc = plc_at(wire, port) if wire == "modbus-client" else None
        running = opened(read_settings(path))
        made.append(Played(running, plc or plc_at(wire, port), port))
        assert made[-1].plc.ready(next(iter(recipes or {1: NAME}))) is not None
        return made[-1]

    yield one
    for each in made:
        each.running.close()
        each.plc.close()
