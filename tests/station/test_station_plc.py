"""A station and a PLC, over real Modbus TCP and OPC UA on this machine: every part has one outcome, and OK is
that of a part that was judged good."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from plc_helpers import WIRES, Play, play_fixture, plc_at, plugins_fixture, reels_fixture  # noqa: F401
from station_helpers import NAME

for _library in ("pymodbus", "asyncua"):
    pytest.importorskip(_library)

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.mark.parametrize("wire", WIRES)
def test_a_part_is_inspected_and_answered(
    play: Play, reels: dict[str, Path], model_file: Path, wire: str
) -> None:
    played = play(wire, {NAME: f"{model_file} {reels['mixed']}"})
    assert played.plc.ready(1) is not None
    for number in range(6):
        outcome, shown = played.plc.inspect(f"P{number}")
        assert outcome == ("nok" if number % 2 else "ok"), shown
        (last,) = [one for one in played.inspections() if one["id"] == shown["inspection"]]
        assert last["part"] == f"P{number}", "as it stands in the records"
        assert last["decision"] == ("anomalous" if number % 2 else "good")
        assert shown["score"] == pytest.approx(last["score"], rel=1e-6)
        assert shown["regions"] == len(last["regions"])
        assert last["source"] == "camera"
        assert played.plc.ready(1) is not None
    metrics = httpx.get(f"{played.running.url}/metrics", timeout=30).text
    assert f'flawscope_missed_deadlines_total{{product="{NAME}"}} 0.0' in metrics
    for share in (50, 99):
        (line,) = [
            one for one in metrics.splitlines() if one.startswith(f"flawscope_trigger_seconds_p{share}{{")
        ]
        assert 0 < float(line.split()[-1]) < 5
