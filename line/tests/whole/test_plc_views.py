"""A PLC with two cameras whose product is judged in two views: one trigger is one part."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from emulated_line.plc import Plc

import flawscope
from plc_helpers import WIRES, connection, plc_at
from plugin_helpers import LINE, settings_text
from station_helpers import NAME, PATIENCE, Served, free_port
from view_helpers import exported, lives, recorded_parts, whole

KILLS, PARTS = int(os.environ.get("KILLS", "2")), int(os.environ.get("PARTS", "20"))
PAIR = ("left", "top")
pytestmark = pytest.mark.usefixtures("plugins")


class Belt:
    """Lays parts under two cameras."""

    def __init__(self, folder: Path):
        self.folders = {name: folder / name for name in PAIR}
        for one in self.folders.values():
            one.mkdir()
        self.lay(0)

    def lay(self, part: int, bad: str | None = None) -> dict[str, bytes]:
        pictures = whole(part, bad, PAIR)
        for name, data in pictures.items():
            (self.folders[name] / "new").write_bytes(data)
            (self.folders[name] / "new").rename(self.folders[name] / "0.png")
        return pictures

    def product(self, model: Path) -> str:
        """As `settings_text` takes it."""
        return " ".join([str(model), *(f"{name}={folder}" for name, folder in self.folders.items())])


@pytest.fixture
def belt(tmp_path):
    return Belt(tmp_path)


def good_parts(model: Path, count: int) -> list[int]:
    """Parts that the model calls good: one of ten others would be a false alarm."""
    predict = flawscope.load(model, device="cpu", threads=1).predict_part
    each = (part for part in range(20, 200) if not predict(whole(part, None, PAIR)).is_anomalous)
    return [next(each) for _ in range(count)]


@pytest.mark.parametrize("wire", WIRES)
def test_a_trigger_is_a_part(play, belt, pair_model, wire):
    """The decision, the worst view's score and its record."""
    played = play(wire, {NAME: belt.product(pair_model)})
    (good,) = good_parts(pair_model, 1)
    sent = {}
    for part, bad in ((good, None), (31, "top"), (32, "left")):
        sent[f"P{part}"] = belt.lay(part, bad)
        outcome, shown = played.plc.inspect(f"P{part}")
        assert outcome == ("nok" if bad else "ok"), shown
        found = recorded_parts(played.running.url, sent)[f"P{part}"]
        assert shown["inspection"] == found["id"]
        assert bad in (None, found["view"])
        assert played.plc.ready(1) is not None


def has_ended(served: Served) -> bool:
    """Whether the station's process has ended."""
    return served.process is None or served.process.poll() is not None


def plc_of_life(wire: str, port: int, served: Served) -> Plc | None:
    """A PLC at the station; None: the station was killed before it answered the PLC."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return plc_at(wire, port, seconds=1.0)
        except AssertionError:
            if has_ended(served):
                return None
            assert time.monotonic() < end, "the station does not listen"


@pytest.mark.parametrize("wire", ["opcua", "modbus-client"])
def test_parts_at_a_station_that_is_killed(plugins, settings, belt, pair_model, shared, tmp_path, wire):
    """Each part has one outcome at the PLC, and is in the records if that is not an error.
    KILLS and PARTS say how many."""
    port, path = free_port(), tmp_path / "station.yaml"
    # watchdog and PLC wait longer than the station's deadline: on a busy machine a second is no break
    text = connection(wire, port, {1: NAME}, watchdog="10 s")
    path.write_text(settings_text(settings, {NAME: belt.product(exported(pair_model, shared))}, text))
    there = os.pathsep.join((str(plugins), str(LINE), os.environ.get("PYTHONPATH", "")))
    served = Served([str(path)], free_port(), {"PYTHONPATH": there})
    sent: dict[str, dict[str, bytes]] = {}
    outcomes: dict[str, str] = {}
    plc = plc_at(wire, port) if wire == "modbus-client" else None
    for life, is_last in enumerate(lives(served, KILLS, 3.0)):
        if wire != "modbus-client":
            plc = plc_of_life(wire, port, served)
        if plc is None:  # killed before it answered the PLC
            assert not is_last
            continue
        share = PARTS if is_last else PARTS * (life + 1) // (KILLS + 1)
        while len(outcomes) < share:
            if plc.ready(1, 60.0 if is_last else 1.0) is None:
                assert not is_last
                if has_ended(served):
                    break
                continue
            number = len(outcomes)
            name = f"P{number}"
            sent[name] = belt.lay(number, "top" if number % 3 == 2 else None)
            outcomes[name] = plc.inspect(name, seconds=6)[0]
        if wire != "modbus-client" or is_last:
            plc.close()
    found = recorded_parts(served.url, sent)
    served.kill()
    told = {name: outcome for name, outcome in outcomes.items() if outcome != "fault"}
    assert len(outcomes) == PARTS
    assert len(told) >= PARTS - 2 * KILLS, "a busy machine may lose its link, too"
    for name, outcome in told.items():
        assert found[name]["decision"] == {"ok": "good", "nok": "anomalous"}[outcome]
    print(f"{wire}: {len(told)} of {len(outcomes)} answered, {len(found)} in the records")
