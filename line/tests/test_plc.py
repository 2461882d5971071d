"""A station and a PLC, over real Modbus TCP and OPC UA on this machine: every part has one outcome, and OK is
that of a part that was judged good."""

from __future__ import annotations

import json
import random
import re
import socket

import httpx
import pytest

from flawscope.errors import InputError
from flawscope_line.plc.handshake import Code, Inputs, Kind, Outputs
from flawscope_line.plc.line import kind_number
from flawscope_line.plc.signals import REGISTERS, TO_PLC, TO_STATION, pack, register_count, unpack
from flawscope_station.settings.plugins import CONNECTION_GROUP, load_plugin
from flawscope_station.settings.station import read_settings
from plc_helpers import connection, plc_at
from plugin_helpers import settings_text
from station_helpers import NAME, held, opened, until

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.mark.parametrize(
    ("regions", "kind"),
    [
        ([], Kind.UNKNOWN),
        ([{"peak": 3.0}], Kind.UNKNOWN),
        ([{"kinds": ["b"], "kind_p_values": {"a": 0.01, "b": 1.0}}, {"kinds": ["a"]}], 2),
        ([{"kinds": ["253"], "kind_p_values": {str(n): 1.0 for n in range(300)}}], Kind.UNKNOWN),
        ([{"kinds": ["252"], "kind_p_values": {str(n): 1.0 for n in range(300)}}], 253),
    ],
)
def test_kinds_have_numbers(regions, kind):
    assert kind_number(regions) == kind


def test_what_cannot_be_inspected_in_time_is_an_error(play):
    played = play(deadline="150 ms")
    with held(played.running.station):
        outcome, shown = played.plc.inspect("A")
    assert outcome == "fault"
    assert (shown["code"], shown["ok"], shown["part"]) == (Code.LATE, False, "A")
    assert played.running.station.floor.timing.gauges()["missed_deadlines_total"][1] == {NAME: 1.0}
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


# -------------------------------------------------------------------------------------------------- the wires


def test_registers_of_the_station_are_not_written_and_other_functions_are_refused(play):
    played = play()
    client = played.plc.wire._client
    for answer in (
        client.write_register(100, 9),
        client.write_registers(0, [0] * 110),
        client.read_holding_registers(60, count=1),
        client.write_coil(0, True),
        client.read_coils(0, count=1),
    ):
        assert answer.isError()
    first, same = client.read_input_registers(100, count=26), client.read_holding_registers(100, count=26)
    assert first.registers[2:] == same.registers[2:]
    assert played.plc.ready(1) is not None
    assert played.plc.inspect("A")[0] == "ok"


def test_garbage_on_the_line_harms_nobody(play):
    played = play()
    rng = random.Random(0)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", played.port), 5) as other:
            other.sendall(rng.randbytes(rng.randrange(1, 300)))
    assert played.plc.ready(1) is not None
    assert played.plc.inspect("A")[0] == "ok"


def test_outputs_are_told_one_by_one_so_that_none_says_ok_too_early():
    from flawscope_line.plc.opcua import write_order

    done = Outputs(done=True, ok=True, result=1, score=2.0, part="A", inspection=3)
    told = write_order(Outputs(busy=True, part="A"), done)
    assert (told[0], told[-1]) == ("busy", "done")
    assert told.index("ok") > max(told.index(name) for name in ("score", "result", "inspection"))
    told = write_order(done, Outputs(ready=True))
    assert told[-1] == "ready"
    assert {*told[:2]} == {"ok", "done"}


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


# ----------------------------------------------------------------------------------------- table and settings


def test_values_come_through_registers_as_they_are():
    shown = Outputs(
        *(True, False, True, False, True, False, 65535, 2, 3, 9, 65535, -1.5, 2**32 - 1, "Teil 4711/b"),
        **{"kind": 255, "tolerated": True},
    )
    flags = pack(shown, TO_PLC)[0]
    assert (flags >> 8, flags & 255) == (255, 0b10010101), "bits stay where they are"
    assert unpack(pack(shown, TO_PLC), TO_PLC) == vars(shown)
    said = Inputs(True, 3, 65535, "x" * 32)
    assert unpack(pack(said, TO_STATION), TO_STATION) == vars(said)
    own = [range(one.register, one.register + REGISTERS[one.kind]) for one in TO_PLC if one.bit is None]
    places = [place for one in own for place in one]
    assert sorted(places) == list(range(1, register_count(TO_PLC))), "none overlaps another"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "modbus: setting recipes is missing"),
        ({"recipes": {1: NAME}}, "write either `listen: HOST:PORT` or `connect: HOST:PORT`"),
        ({"recipes": {1: NAME}, "listen": "x"}, "listen: 'x' is not HOST:PORT"),
        ({"recipes": {0: NAME}, "listen": "h:1"}, "recipes: write `NUMBER: PRODUCT`"),
        ({"recipes": {}, "listen": "h:1"}, "recipes: write `NUMBER: PRODUCT`"),
        ({"recipes": NAME, "listen": "h:1"}, "recipes: 'plate' is not lines of `key: value`"),
        ({"recipes": {"a": NAME}, "listen": "h:1"}, "is not lines of `key: value`"),
        ({"recipes": {1: NAME}, "listn": "h:1"}, "unknown setting listn; did you mean listen?"),
        ({"recipes": {1: NAME}, "listen": "h:1", "watchdog": "soon"}, "watchdog: 'soon' is not a time such"),
        ({"recipes": {1: NAME}, "listen": "h:1", "outputs": 10}, "inputs and outputs overlap"),
        ({"recipes": {1: NAME}, "listen": "h:1", "outputs": 65530}, "registers 0 to 65535"),
        ({"recipes": {1: NAME}, "listen": "h:1", "camera": "plate/x"}, "is not a product, or PRODUCT/2"),
    ],
)
def test_a_wrong_setting_is_one_line(given, said, tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(json.dumps({"products": {NAME: "a.onnx"}, "connections": [{"modbus": given}]}))
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("flawscope.errors.importlib.util.find_spec", lambda name: None)
    for name, library in (("modbus", "pymodbus"), ("opcua", "asyncua")):
        given = {"recipes": {1: NAME}, "listen": "127.0.0.1:5020"}
        one = load_plugin(CONNECTION_GROUP, name).read(given, tmp_path)
        with pytest.raises(InputError, match=rf"needs {library}: pip install"):
            one.open(None, one.values)
