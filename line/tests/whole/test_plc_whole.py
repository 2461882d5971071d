"""A station and a PLC, over real Modbus TCP and OPC UA on this machine: every part has one outcome, and OK is
that of a part that was judged good."""

from __future__ import annotations

import csv
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import flawscope
from flawscope.cli import main
from flawscope_line.plc.handshake import Code, Kind
from flawscope_line.plc.signals import NAMESPACE
from flawscope_station.settings.station import read_settings
from plc_helpers import WIRES, connection, plc_at
from plugin_helpers import LINE, ROOT, settings_text
from station_helpers import NAME, PATIENCE, free_port, held, opened, until

pytestmark = pytest.mark.usefixtures("plugins")


def test_an_anomalous_part_says_its_kind(play, reels, model_file, naming):
    played = play(products={NAME: f"{model_file} {reels['mixed']}"})
    expected = [("ok", 0), ("nok", 2), ("ok", 0), ("nok", Kind.SEVERAL), ("ok", 0), ("nok", Kind.NEW)]
    for number, (outcome, kind) in enumerate(expected):
        naming.update(crack=0.6 if kind == Kind.SEVERAL else 0.01, scratch=0.01 if kind == Kind.NEW else 0.6)
        assert played.plc.ready(1) is not None
        told, shown = played.plc.inspect(f"P{number}")
        assert (told, shown["kind"]) == (outcome, kind)
    assert not played.plc.until(lambda shown: not shown["done"])["kind"], "the answer was read"


@pytest.mark.parametrize("wire", ["modbus", "opcua"])
def test_the_wire_tells_a_part_within_tolerance(play, reels, model_file, spot, naming, tmp_path, wire):
    (reels["mixed"] / "1.png").write_bytes(spot)
    scaled, rules = flawscope.load(model_file).with_scale(0.1), tmp_path / "tolerances.yaml"
    scaled.save(tmp_path / "scaled.onnx")
    height, width = scaled.predict(reels["mixed"] / "0.png").geometry.picture_size
    text = f"version: 1\npicture: [{width}, {height}]\nrules: [{{kind: any, length: 1000}}]\n"
    rules.write_text(text)
    products = {NAME: f"{tmp_path / 'scaled.onnx'} {reels['mixed']}"}
    played = play(wire, products, product={"tolerances": rules})
    good = "ok", False, 1, 0
    for number, told in enumerate((good, ("ok", True, 4, 2), good, ("nok", False, 2, 2))):
        if number == 2:
            rules.write_text(text.replace("1000", "0.001").replace("version: 1", "version: 2"))
            until(lambda: (played.running.station.tolerances.in_force(1) or {})["version"] == "2")
        assert played.plc.ready(1) is not None
        outcome, shown = played.plc.inspect(f"P{number}")
        assert (outcome, shown["tolerated"], shown["result"], shown["kind"]) == told
    cleared = played.plc.until(lambda shown: not shown["done"])
    assert (cleared["tolerated"], cleared["result"]) == (False, 0), "the answer was read"


@pytest.mark.parametrize("wire", WIRES)
def test_a_part_gets_its_answer(play, reels, model_file, wire):
    played = play(wire, {NAME: f"{model_file} {reels['mixed']}"})
    for number in range(6):
        outcome, shown = played.plc.inspect(f"Größe {number}")
        assert outcome == ("nok" if number % 2 else "ok"), shown
        (last,) = [one for one in played.inspections() if one["id"] == shown["inspection"]]
        assert last["part"] == f"Größe {number}", "as it stands in the records"
        assert last["decision"] == ("anomalous" if number % 2 else "good")
        assert shown["score"] == pytest.approx(last["score"], rel=1e-6)
        assert shown["regions"] == len(last["regions"])
        assert last["source"] == "camera"
        assert played.plc.ready(1) is not None
    metrics = httpx.get(f"{played.running.url}/metrics", timeout=30).text
    assert f'flawscope_missed_deadlines_total{{product="{NAME}"}} 0.0' in metrics
    for share in (50, 99):
        seconds = re.findall(rf"^flawscope_trigger_seconds_p{share}{{.*}} (\S+)$", metrics, re.M)
        assert 0 < float(*seconds) < 60


# -------------------------------------------------------------------------------------------- what goes wrong


@contextmanager
def busy_with(played: Any, part: str) -> Iterator[None]:
    """Trigger a part, whose inspection is held up meanwhile."""
    with held(played.running.station):
        played.plc.say(part=part, trigger=True)
        assert played.plc.until(lambda shown: shown["busy"]) is not None
        yield


@pytest.mark.parametrize("wire", WIRES)
def test_a_plc_that_goes_away_while_busy_gets_an_error_when_it_is_back(play, wire):
    played = play(wire, watchdog="500 ms")
    plc = played.plc
    with busy_with(played, "A"):
        plc.is_beating = False
        shown = plc.until(lambda shown: shown["done"])
        assert (shown["error"], shown["ok"], shown["code"], shown["part"]) == (True, False, Code.LINK, "A")
        problems = {one.kind: one.text for one in played.running.station.problems()}
        assert "heartbeat stands still" in problems["plc_away"]
    until(lambda: len(played.inspections()) == 1)  # it was being judged, and is recorded
    assert not plc.until(lambda shown: shown["ok"], 0.3), "too late"
    plc.is_beating = True
    assert plc.ready(1) is not None
    assert "plc_away" not in {one.kind for one in played.running.station.problems()}
    assert plc.inspect("B")[0] == "ok"


@pytest.mark.parametrize("wire", ["modbus", "opcua"])
def test_a_plc_that_connects_anew_half_way_gets_its_answer(play, wire):
    played = play(wire, watchdog="30 s")
    plc = played.plc
    with busy_with(played, "A"):
        before = plc.said
        plc.close()
        played.plc = plc = plc_at(wire, played.port)
        plc.said = before
    shown = plc.until(lambda shown: shown["done"])
    assert (shown["ok"], shown["part"]) == (True, "A")
    assert plc.ready(1) is not None


def test_an_answer_never_stands_for_the_next_trigger(play):
    """The PLC drops Trigger and raises it again without waiting: what it reads then is no old answer."""
    played = play()
    plc = played.plc
    plc.beat = 60
    for number in range(20):
        plc.say(trigger=True)
        shown = plc.until(lambda shown: shown["done"])
        assert shown["ok"]
        last = shown["inspection"]
        plc.say(trigger=False, heartbeat=number)
        plc.say(trigger=True)
        shown = plc.wire.read()
        assert not shown["ok"] or shown["inspection"] != last
        plc.until(lambda shown: shown["done"])
        assert plc.ready(1) is not None


def test_a_product_has_a_budget_of_its_own(play):
    played = play(deadline="5 s")
    assert played.line.rules.budgets == {1: 5.0}
    played = play(product={"deadline": "200 ms"})
    assert played.line.rules.budgets[1] == pytest.approx(0.2, abs=0.01)


def test_a_change_of_recipe_under_load_judges_no_part_by_the_wrong_model(
    play, reels, model_file, other_model, parts
):
    """Two products with a model each. Others send pictures of both meanwhile; now and then the PLC changes
    Recipe together with Trigger, or while Busy."""
    products = {NAME: f"{model_file} {reels['good']}", "lid": f"{other_model} {reels['good']}"}
    played = play("modbus", products, {1: NAME, 2: "lid"})
    plc, station = played.plc, played.running.station
    ended = threading.Event()

    def send(product: str) -> None:
        with httpx.Client(base_url=f"{played.running.url}/api/v1/", timeout=60) as client:
            while not ended.is_set():
                client.post(f"products/{product}/inspections", content=parts[0])

    senders = [threading.Thread(target=send, args=(product,)) for product in products]
    for sender in senders:
        sender.start()
    rng, answered = random.Random(0), 0
    try:
        for number in range(24):
            recipe = rng.choice((1, 2))
            if number % 6 == 5:  # too early: it is not loaded yet
                plc.say(trigger=False)
                plc.until(lambda shown: not shown["done"])
                plc.say(trigger=True, recipe=recipe, part=f"P{number}")
                plc.until(lambda shown: shown["done"])
            elif number % 6 == 4:
                assert plc.ready(recipe) is not None
                plc.say(trigger=True, part=f"P{number}")
                plc.say(recipe=3 - recipe)
                plc.until(lambda shown: shown["done"])
            else:
                assert plc.ready(recipe) is not None
                plc.say(trigger=True, part=f"P{number}")
            shown = plc.until(lambda shown: shown["done"])
            if not shown["ok"]:
                assert shown["error"], "the part is good"
                continue
            answered += 1
            assert number % 6 < 4 or shown["recipe"] == plc.said.recipe
            product = {1: NAME, 2: "lid"}[shown["recipe"]]
            assert shown["recipe"] == recipe
            judged = station.store.inspection(station.products[product], shown["inspection"])
            assert judged["part"] == f"P{number}"
            assert judged["version"] == station.versions.active(station.products[product])[0]
    finally:
        ended.set()
        for sender in senders:
            sender.join(PATIENCE)
    assert answered >= 16


def test_parts_that_were_withdrawn_or_late_are_told_apart(play, monkeypatch):
    played = play()
    station, recorder = played.running.station, played.running.station.recorder
    opened, judged = threading.Event(), set[str | None]()
    record, add = recorder._record, recorder.add

    def held(group: Any) -> None:
        opened.wait(PATIENCE)
        record(group)

    def noted(whole: Any) -> None:
        judged.add(whole.record.part)
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


def test_the_table_is_what_a_programmer_types_in(tmp_path, capsys):
    from asyncua.sync import Server as UaServer

    assert main(["plc-table", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    wanted = {"Trigger", "Heartbeat", "Recipe", "Part"}
    assert {row["signal"] for row in rows if row["from"] == "PLC"} == wanted
    assert {"Ready", "Busy", "Done", "OK", "NOK", "Error", "Score"} < {row["signal"] for row in rows}
    (done,) = [row for row in rows if row["signal"] == "Done"]
    assert (done["register"], done["bit"], done["node"]) == ("100", "2", "Flawscope.Outputs.Done")
    assert done["reference"] == "40101"
    assert {row["signal"] for row in rows if "high word first" in row["meaning"]} == {"Score", "Inspection"}
    out = tmp_path / "nodes.xml"
    assert main(["plc-table", "--format", "nodeset", "--out", str(out)]) == 0
    server = UaServer()
    server.import_xml(str(out))
    space = server.get_namespace_index(NAMESPACE)
    for row in rows:
        node = server.get_node(f"ns={space};s={row['node']}")
        assert node.read_display_name().Text == row["signal"]
        assert node.read_data_type_as_variant_type().name == row["type"]
    server.tloop.stop()


def test_the_whole_line_in_one_command(plugins, tmp_path):
    houses = (str(ROOT / house / "src") for house in ("", "station", "line"))
    here = os.pathsep.join((str(plugins), str(LINE), *houses, os.environ.get("PYTHONPATH", "")))
    words = [sys.executable, "-m", "emulated_line", "--parts", "8", "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": here, "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "said").open("wb") as said:
        line = subprocess.Popen(words, cwd=tmp_path, stdout=said, stderr=said, env=environment)
    try:
        until(lambda: line.poll() is not None or "stays open" in (tmp_path / "said").read_text())
        line.send_signal(signal.SIGINT)
        assert line.wait(PATIENCE) == 0
    finally:
        line.kill()
    text = (tmp_path / "said").read_text()
    rows = re.findall(r"^(\d{6})  (\w+) +(ok|nok|fault) ", text, re.M)
    assert [int(number) for number, *_ in rows] == list(range(8)), text
    assert {outcome for _, kind, outcome in rows if kind == "good"} == {"ok"}, text
    assert {kind for _, kind, _ in rows} > {"good"}


def test_what_cannot_be_inspected_in_time_is_an_error(play):
    played = play(deadline="150 ms")
    with held(played.running.station):
        outcome, shown = played.plc.inspect("A")
    assert outcome == "fault"
    assert (shown["code"], shown["ok"], shown["part"]) == (Code.LATE, False, "A")
    assert played.running.station.context.timing.gauges()["missed_deadlines_total"][1] == {NAME: 1.0}
    told = httpx.get(f"{played.running.url}/api/v1/products/{NAME}", timeout=30).json()["timing"]
    assert (told["triggers"], told["missed"], told["budget_ms"]) == (1, 1, 150)
    assert 150 <= told["p50_ms"] <= told["p99_ms"] < 60_000
    assert played.plc.ready(1) is not None


def test_a_picture_that_cannot_be_had_is_an_error(play, reels):
    played = play()
    (picture,) = reels["good"].iterdir()
    kept = picture.read_bytes()
    for spoilt, code in ((kept[:2000], Code.PICTURE), (b"nothing", Code.PICTURE), (None, Code.REFUSED)):
        picture.write_bytes(spoilt) if spoilt is not None else picture.unlink()
        assert played.plc.ready(1) is not None
        outcome, shown = played.plc.inspect("A")
        assert outcome == "fault"
        assert shown["code"] == code
    picture.write_bytes(kept)
    assert played.plc.ready(1) is not None
    assert played.plc.inspect("B")[0] == "ok"


def test_a_station_that_ends_says_so_to_a_plc_that_serves(play):
    played = play("modbus-client")
    played.plc.say(part="A", trigger=True)
    assert played.plc.until(lambda shown: shown["ok"]) is not None
    played.running.close()
    shown = played.plc.wire.read()
    assert (shown["ready"], shown["done"], shown["ok"], shown["code"]) == (False, False, False, Code.ENDING)


def test_registers_of_the_station_are_not_written_and_other_functions_are_refused(play):
    played = play()
    client = played.plc.wire._client
    for answer in (
        client.write_register(100, 9),
        client.write_registers(0, [0] * 110),
        client.read_holding_registers(60, count=1),
        client.read_holding_registers(10, count=100),  # a block over registers that are none
        client.read_holding_registers(101, count=26),  # addresses one off, as of a PLC that counts from 1
        client.read_holding_registers(99, count=26),
        client.write_registers(1, [1] * 19),
        client.write_coil(0, True),
        client.read_coils(0, count=1),
    ):
        assert answer.isError()
    first, same = client.read_input_registers(100, count=26), client.read_holding_registers(100, count=26)
    assert first.registers[2:] == same.registers[2:]
    assert played.plc.ready(1) is not None
    assert played.plc.inspect("A")[0] == "ok"


def test_a_port_that_is_taken_is_a_problem_and_no_end(plugins, settings, reels, model_file, tmp_path):
    path = tmp_path / "station.yaml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        setting = connection("modbus", port, {1: NAME})
        path.write_text(settings_text(settings, {NAME: f"{model_file} {reels['good']}"}, setting))
        running = opened(read_settings(path))
        try:
            text = until(lambda: {p.kind: p.text for p in running.station.problems()}.get("plc_away"))
            assert "another program may listen there; it is tried again by itself" in text
            other.close()
            plc = plc_at("modbus", port)
            assert plc.ready(1) is not None
            plc.close()
        finally:
            running.close()
