"""The example clients of a PLC, which know the documentation alone, and what goes wrong on the way."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from flawscope_line.plc.handshake import Code
from flawscope_station.settings.station import read_settings
from plc_helpers import connection
from plugin_helpers import ROOT, settings_text
from station_helpers import NAME, Running, free_port, held, opened, until

pytestmark = pytest.mark.usefixtures("plugins")
CLIENTS = ROOT / "examples/plc"
WATCHDOG = 2.0  # seconds, of `connection`


@dataclass
class Line:
    """A station, and an example's client of it. start: starts the station, also anew."""

    example: ModuleType
    start: Callable[[], Running]
    address: str
    running: Running
    link: Any = None

    def connect(self) -> None:
        place = self.address.rpartition(":")
        if self.example.__name__ == "modbus_client":
            self.link = self.example.ModbusTcpClient(place[0], port=int(place[2]), timeout=2, retries=0)
        else:
            self.link = self.example.Client(self.address)
        self.link.connect()

    def wait_and_connect(self) -> None:
        """Connect as soon as the station listens."""

        def is_there() -> bool:
            with suppress(OSError):
                self.connect()
                self.cycle(False)
                return True
            self.disconnect()
            return False

        until(is_there)

    def disconnect(self) -> None:
        with suppress(Exception):  # it may be broken
            (self.link.close if self.example.__name__ == "modbus_client" else self.link.disconnect)()

    def cycle(self, trigger: bool, part: str = "", recipe: int = 1) -> dict[str, Any]:
        shown = self.example.cycle(self.link, trigger, recipe, part)
        return {name.lower(): value for name, value in shown.items()}

    def inspect(self, part: str, recipe: int = 1, seconds: float = 10.0) -> tuple[str, dict[str, Any]]:
        found: tuple[str, dict[str, Any]] = self.example.inspect(self.link, part, recipe, seconds)
        return found

    def is_refused(self, part: str, *codes: Code) -> bool:
        """Whether Trigger stands, and the part is answered with Done and Error for one of these reasons."""
        shown = self.cycle(True, part)
        told = {"ready": False, "done": True, "ok": False, "nok": False, "error": True, "part": part}
        return told.items() <= shown.items() and shown["code"] in codes


@pytest.fixture(params=["modbus", "opcua"])
def line(request, settings, reels, model_file, tmp_path) -> Iterator[Line]:
    port, path = free_port(), tmp_path / "station.yaml"
    wire = connection(request.param, port, {1: NAME})
    own = replace(settings, store=str(tmp_path / "store"))
    path.write_text(settings_text(own, {NAME: f"{model_file} {reels['mixed']}"}, wire))
    found = importlib.util.spec_from_file_location(
        f"{request.param}_client", CLIENTS / f"{request.param}_client.py"
    )
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    address = f"127.0.0.1:{port}" if request.param == "modbus" else f"opc.tcp://127.0.0.1:{port}"
    start = lambda: opened(read_settings(path))  # noqa: E731
    made = Line(example, start, address, start())
    made.wait_and_connect()
    yield made
    made.disconnect()
    made.running.close()


def test_parts_are_inspected_one_after_another(line):
    assert [line.inspect(f"P{number}")[0] for number in range(4)] == ["ok", "nok"] * 2
    line.disconnect()
    command = [
        sys.executable,
        str(CLIENTS / f"{line.example.__name__}.py"),
        line.address,
        "--recipe",
        "1",
        "A",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.startswith("A ok, score ")) == (0, True), ended.stderr


def test_what_is_asked_for_wrongly_is_an_error_and_the_next_part_is_judged(line):
    assert line.inspect("wrong", recipe=9, seconds=1)[0] == "fault"
    shown = line.cycle(False, "wrong", recipe=9)
    assert (shown["ready"], shown["error"], shown["code"]) == (False, True, Code.UNKNOWN_RECIPE)
    shown = line.cycle(True, "eager", recipe=9)  # Trigger, although Ready is low
    assert (shown["done"], shown["error"], shown["ok"]) == (True, True, False)
    outcome, said = line.inspect("right")
    assert outcome == "ok", said
    with held(line.running.station):
        until(lambda: line.cycle(False, "first")["ready"])
        line.cycle(True, "first")
        shown = line.cycle(True, "second")  # while Busy
        told = {"done": True, "error": True, "code": Code.CHANGED, "part": "first"}
        assert told.items() <= shown.items()
        line.cycle(False, "second")
    outcome, said = line.inspect("last")
    assert outcome in ("ok", "nok"), said


def test_a_part_whose_trigger_falls_too_early_gets_no_answer(line):
    with held(line.running.station):
        until(lambda: line.cycle(False, "first")["ready"])
        line.cycle(True, "first")
        shown = line.cycle(False, "first")
        assert (shown["done"], shown["ok"]) == (False, False)
        line.cycle(True, "second")
    until(lambda: line.cycle(True, "second")["done"])
    shown = line.cycle(True, "second")
    assert (shown["part"], shown["error"]) == ("second", False), shown


def test_a_client_that_goes_away_in_the_middle_lowers_trigger_and_goes_on(line):
    with held(line.running.station):
        until(lambda: line.cycle(False, "away")["ready"])
        line.cycle(True, "away")
        line.disconnect()
        time.sleep(WATCHDOG + 0.5)
    line.connect()
    assert line.is_refused("away", Code.LINK)
    outcome, said = line.inspect("next")
    assert outcome in ("ok", "nok"), said


def test_a_station_that_starts_anew_asks_for_trigger_to_fall(line):
    until(lambda: line.cycle(False, "restart")["ready"])
    line.cycle(True, "restart")
    line.running.close()
    with pytest.raises(Exception):  # noqa: B017 - each library has its own
        line.cycle(True, "restart")
    line.disconnect()
    line.running = line.start()
    line.wait_and_connect()
    until(lambda: line.is_refused("restart", Code.UNKNOWN_PART))
    outcome, said = line.inspect("next")
    assert outcome in ("ok", "nok"), said


@pytest.mark.parametrize("name", ["modbus_client", "opcua_client"])
def test_without_a_station_each_part_is_a_fault_in_a_line(name):
    place = f"127.0.0.1:{free_port()}"
    address = place if name == "modbus_client" else f"opc.tcp://{place}"
    command = [sys.executable, str(CLIENTS / f"{name}.py"), address, "--recipe", "1", "A47", "A48"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = [line.split(", ")[0] for line in ended.stdout.splitlines()]
    assert (ended.returncode, told, "Traceback" in ended.stderr) == (1, ["A47 fault", "A48 fault"], False), (
        ended
    )
