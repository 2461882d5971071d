"""Parts that a PLC withdrew, or whose answer came too late, are told apart in records and on Live."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flawscope_line.plc.handshake import Code
from station_helpers import NAME, PATIENCE, until

pytestmark = pytest.mark.usefixtures("plugins")


def test_parts_that_were_withdrawn_or_late_are_told_apart(play, monkeypatch):
    played = play()
    station, recorder = played.running.station, played.running.station.recorder
    opened, judged = threading.Event(), set[str | None]()
    record, add = recorder._record, recorder.add

    def held(group: Any) -> None:
        opened.wait(PATIENCE)
        record(group)

    def noted(whole: Any) -> None:
        judged.update(one.inspection.part for one in whole)
        add(whole)

    monkeypatch.setattr(recorder, "_record", held)
    monkeypatch.setattr(recorder, "add", noted)
    for part in ("W", "C", "L"):
        opened.clear()
        played.plc.say(part=part, trigger=True)
        until(lambda part=part: part in judged)
        if part == "W":
            played.plc.say(trigger=False)
            code = played.plc.until(lambda shown: not shown["busy"])["code"]
        else:
            if part == "C":
                played.plc.say(part="another")
            code = played.plc.until(lambda shown: shown["done"])["code"]
        assert code == {"W": Code.WITHDRAWN, "C": Code.CHANGED, "L": Code.LATE}[part]
        told = station.refusals.last(station.products[NAME])
        assert (told["code"], told["part"]) == (Code(code).name.lower(), part)
        opened.set()
        until(lambda: station.inspector.backlog() == 0)
        assert played.plc.ready(1) is not None
    outcome, _ = played.plc.inspect("G")
    assert outcome in ("ok", "nok")
    found = {one["part"]: one["unanswered"] for one in played.inspections()}
    assert found == {"W": "withdrawn", "C": "withdrawn", "L": "late", "G": None}


def test_an_answer_that_the_plc_did_not_read_was_not_given(play):
    """The PLC is away while Done stands: it may not have read the answer, which becomes Error."""
    played = play()
    played.plc.say(part="A", trigger=True)
    assert played.plc.until(lambda shown: shown["done"]) is not None
    played.plc.is_beating = False
    until(lambda: played.inspections()[0]["unanswered"] == "withdrawn")
