"""A station and a PLC, over real Modbus TCP and OPC UA on this machine: every part has one outcome, and OK is
that of a part that was judged good."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from pymodbus.pdu import ExceptionResponse

from flawscope.errors import InputError
from flawscope_line.plc.handshake import Inputs, Kind, Outputs
from flawscope_line.plc.line import TransportError, kind_number
from flawscope_line.plc.signals import REGISTERS, TO_PLC, TO_STATION, pack, register_count, unpack
from flawscope_station.settings.plugins import CONNECTION_GROUP, load_plugin
from flawscope_station.settings.station import read_settings
from station_helpers import NAME

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


# -------------------------------------------------------------------------------------------------- the wires


def test_outputs_are_told_one_by_one_so_that_none_says_ok_too_early():
    from flawscope_line.plc.opcua import write_order

    done = Outputs(done=True, ok=True, result=1, score=2.0, part="A", inspection=3)
    told = write_order(Outputs(busy=True, part="A"), done)
    assert (told[0], told[-1]) == ("busy", "done")
    assert told.index("ok") > max(told.index(name) for name in ("score", "result", "inspection"))
    told = write_order(done, Outputs(ready=True))
    assert told[-1] == "ready"
    assert {*told[:2]} == {"ok", "done"}


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


@pytest.mark.parametrize("text", ["4711 ", " 4711", "4711\0\0rest", "4711\r\n", "", "\t", "Größe 8 "])
def test_a_parts_number_comes_back_byte_for_byte(text):
    """A program of the PLC that compares padded texts gets its OK."""
    sent = pack(Inputs(part=text), TO_STATION)
    plc = Inputs(**unpack(sent, TO_STATION))
    first = {one.name: one.register for one in (*TO_STATION, *TO_PLC) if one.name == "part"}
    returned = pack(Outputs(part=plc.part), TO_PLC)
    assert returned[first["part"] : first["part"] + 16] == sent[3:19]


def test_a_part_comes_back_byte_for_byte_over_opc_ua():
    from flawscope_line.plc.opcua import OpcUaServer

    class Node:
        def __init__(self, value):
            self.value = value

        async def read_value(self):
            return self.value

    taken = []
    server = OpcUaServer(None, taken.append)

    async def write(part):
        values = {"trigger": False, "heartbeat": 1, "recipe": 1, "part": part}
        server._inputs = {name: (Node(value), None) for name, value in values.items()}
        server.exchange = lambda: asyncio.sleep(0)
        await server._take_inputs()
        return server._last_inputs.part

    assert [asyncio.run(write(part)) for part in ("4711 ", " \t4711", None)] == ["4711 ", " \t4711", ""]


def test_a_plc_without_these_registers_is_told_which():
    """Its program may count from 1, or begin elsewhere."""
    from flawscope_line.plc.modbus import _await_response

    async def refuse():
        return ExceptionResponse(3, exception_code=2)

    with pytest.raises(TransportError) as caught:
        asyncio.run(_await_response(refuse(), 0, 19))
    assert str(caught.value).startswith(
        "the PLC refuses registers 0 to 18 (exception 2): it must have all of"
    )
    assert str(caught.value).endswith("`unit`, `inputs` and `outputs` say where, counted from 0")


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
