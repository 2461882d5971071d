"""Whoever reaches a PLC's port, as whoever it signs in, changes no output and harms its own session alone."""

import asyncio
import datetime
import logging
import random
import socket
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua import Server as UaServer
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pymodbus.client import AsyncModbusTcpClient

from flawscope.errors import InputError
from flawscope_line.plc.handshake import Inputs, Outputs
from flawscope_line.plc.modbus import ModbusServer
from flawscope_line.plc.opcua import OpcUaServer
from flawscope_line.plc.settings import ModbusSettings, OpcUaSettings
from flawscope_line.plc.signals import NAMESPACE, OPC_UA_TYPES, ROOT_NODE, TO_PLC, TO_STATION, pack, unpack
from station_helpers import free_port

SHOWN = Outputs(
    ready=True, done=True, nok=True, result=2, code=3, score=7.5, inspection=41, part="P41", kind=2
)
KINDS = {f"Inputs.{one.node}": ua.VariantType[OPC_UA_TYPES[one.kind]] for one in TO_STATION}
KINDS |= {f"Outputs.{one.node}": ua.VariantType[OPC_UA_TYPES[one.kind]] for one in TO_PLC}
VALUES = {"Boolean": True, "Byte": 9, "UInt16": 9, "UInt32": 9, "Float": 9.0, "String": "hostile"}
PEOPLE = ("anonymous", "admin", "Admin", "root", "operator")
WITH_CERTIFICATE = ("certificate", "channel's certificate", "certificate of a channel and its user", "admin")


def write(node, value, kind=None, attribute=ua.AttributeIds.Value, **more):
    """What writes a value, or several."""
    found = (
        value
        if isinstance(value, ua.DataValue)
        else ua.DataValue(ua.Variant(value, KINDS.get(node) if kind is None else kind))
    )
    return ("write", node, attribute, found, more)


def hostile_writes() -> list[tuple[Any, ...]]:
    made = [write(name, VALUES[kind.name]) for name, kind in KINDS.items() if "Outputs" in name]
    for name, kind in KINDS.items():
        if "Inputs" in name:
            good, bad = VALUES[kind.name], ua.StatusCode(ua.StatusCodes.BadOutOfService)
            made += [write(name, [good]), write(name, []), write(name, [[good], [good]])]
            made += [write(name, good, IndexRange="0:1"), write(name, None, ua.VariantType.Null)]
            other, wrong = (
                (ua.VariantType.Int64, 1) if kind.name == "String" else (ua.VariantType.String, "1")
            )
            made += [write(name, wrong, other), write(name, ua.DataValue(ua.Variant(good, kind), bad))]
            made += [write(name, datetime.datetime(2026, 1, 1), ua.VariantType.DateTime)]
            numbers = ("Int16", "UInt32", "Int64", "Double")  # as libraries write a 9 of their own accord
            made += [write(name, 9, ua.VariantType[one]) for one in numbers if kind.name == "UInt16"]
    for name in ("Outputs.Done", "Inputs.Trigger"):
        levels = ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel
        made += [write(name, 3, ua.VariantType.Byte, level) for level in levels]
        shown = ua.LocalizedText("x"), ua.VariantType.LocalizedText, ua.AttributeIds.DisplayName
        made += [write(name, *shown), ("delete", name), ("link", name)]
    made += [("delete", name) for name in ("", "Inputs", "i=85", "i=2253")]
    made += [("add", "Outputs"), ("add", "i=85"), ("call", "i=11492"), ("register",)]
    made += [write("i=2255", ["urn:hostile"], ua.VariantType.String)]
    return [*made, write("i=2256", True, ua.VariantType.Boolean)]


async def attack(client: Client, what: tuple[Any, ...], space: int) -> Any:
    """Do what is hostile; return the status codes that it got."""

    def node(name):
        return ua.NodeId.from_string(
            name if name.startswith("i=") else f"ns={space};s=Flawscope{name and '.'}{name}"
        )

    if what[0] == "write":
        _, name, attribute, value, more = what
        one = ua.WriteValue(node(name), attribute, more.get("IndexRange"), value)
        return await client.uaclient.write(ua.WriteParameters([one]))
    if what[0] == "delete":
        return await client.delete_nodes([client.get_node(node(what[1]))]) and None
    if what[0] == "link":
        item = ua.DeleteReferencesItem(node("Outputs"), ua.NodeId(47), True, node(what[1]), True)
        return await client.uaclient.delete_references([item])
    if what[0] == "add":
        return await client.get_node(node(what[1])).add_variable(space, "Done", True)
    if what[0] == "call":
        return await client.get_node(ua.NodeId(2253)).call_method(
            node(what[1]), ua.Variant(1, ua.VariantType.UInt32)
        )
    return await client.uaclient.register_server(
        ua.RegisteredServer(ServerUri="urn:x", ServerNames=[ua.LocalizedText("x")])
    )


@pytest.fixture(scope="module", name="certificate")
def certificate_fixture(tmp_path_factory):
    """Certificate and key, as whoever makes them himself has."""
    folder, key = tmp_path_factory.mktemp("certificate"), rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    day = datetime.datetime(2026, 1, 1)
    made = made.serial_number(1).not_valid_before(day).not_valid_after(day.replace(year=2099))
    (folder / "a.der").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "a.pem").write_bytes(key.private_bytes(*pem))
    return folder / "a.der", folder / "a.pem"


async def sign_in(url: str, who: str, certificate: Any) -> Client | None:
    """A client that is signed in as somebody; None: it is not let in."""
    client = Client(url, timeout=5)
    if "channel" in who:
        secured = SecurityPolicyBasic256Sha256, *certificate
        await client.set_security(*secured, server_certificate=certificate[0])
    if "user" in who or who == "certificate":
        await client.load_client_certificate(certificate[0])
        await client.load_private_key(certificate[1])
    elif who != "anonymous" and "channel" not in who:
        client.set_user(who)
        client.set_password("whatever")
    with suppress(Exception):
        await client.connect()
        return client
    return None


class Floor:
    """The line that a server asks: keeps what it was told, as a PLC's program would see it."""

    def __init__(self):
        self.told, self.shown = [], SHOWN

    def __call__(self, inputs):
        for one in (inputs,) if inputs is not None else ():
            kinds = [type(value) for value in vars(one).values()]
            assert kinds == [bool, int, int, str], one
            self.told.append(one)
        return self.shown


def test_opc_ua(certificate):
    """Who has a certificate is turned away: the station has none."""
    people = [*PEOPLE, *WITH_CERTIFICATE]
    assert asyncio.run(_attack_opc_ua(certificate, people)) == [*PEOPLE, "admin"]


def test_a_station_with_a_certificate_takes_encrypted_channels_and_its_user_alone(certificate, tmp_path):
    """Who comes without, or with another password, is not let in; the user writes inputs, nothing else."""
    (tmp_path / "password").write_text("se cret")
    files = {"certificate_file": str(certificate[0]), "key_file": str(certificate[1])}
    user = {"user": "press-4", "password_file": str(tmp_path / "password")}
    assert asyncio.run(_let_in(certificate, files)) == {("encrypted", None, None), ("encrypted", "x", "y")}
    assert asyncio.run(_let_in(certificate, files | user)) == {("encrypted", "press-4", "se cret")}
    for wrong in (user, {"user": "press-4"}, {"certificate_file": "a.der"}):
        with pytest.raises(InputError, match="write"):
            OpcUaSettings({1: "plate"}, **wrong)


async def _let_in(certificate, given):
    """Of several clients those that a server with these settings lets in."""
    floor, port, found = Floor(), free_port(), set()
    server = OpcUaServer(OpcUaSettings({1: "plate"}, listen=f"127.0.0.1:{port}", **given), floor)
    await server.open()
    for how in ("open", "encrypted"):
        for name, password in ((None, None), ("x", "y"), ("press-4", "y"), ("press-4", "se cret")):
            client = Client(f"opc.tcp://127.0.0.1:{port}/", timeout=5)
            if name is not None:
                client.set_user(name)
                client.set_password(password)
            with suppress(Exception):
                if how == "encrypted":
                    secured = SecurityPolicyBasic256Sha256, *certificate
                    await client.set_security(*secured, server_certificate=certificate[0])
                await client.connect()
                space = await client.get_namespace_index(NAMESPACE)
                part = client.get_node(f"ns={space};s={ROOT_NODE}.Inputs.Part")
                await part.write_value("A-1", ua.VariantType.String)
                assert floor.told[-1].part == "A-1"
                done = client.get_node(f"ns={space};s={ROOT_NODE}.Outputs.Done")
                with pytest.raises(ua.UaError):
                    await done.write_value(True, ua.VariantType.Boolean)
                found.add((how, name, password))
                await client.disconnect()
    await server.close()
    return found if "user" in given else {one for one in found if one[1] != "press-4"}


def test_opc_ua_with_certificates(certificate, monkeypatch):
    """Were they let in, by a station that has a certificate, they could write no more than others."""
    init, set_policies = UaServer.init, UaServer.set_security_policy

    async def init_with_certificate(self, *given):
        await init(self, *given)
        await self.load_certificate(certificate[0])
        await self.load_private_key(certificate[1])

    policies = [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
    monkeypatch.setattr(UaServer, "init", init_with_certificate)
    monkeypatch.setattr(UaServer, "set_security_policy", lambda self, _: set_policies(self, policies))
    assert asyncio.run(_attack_opc_ua(certificate, WITH_CERTIFICATE)) == [*WITH_CERTIFICATE]


async def _attack_opc_ua(certificate, people):
    """Attack as each of these people; return those who were let in."""
    floor, port = Floor(), free_port()
    server = OpcUaServer(OpcUaSettings({1: "plate"}, listen=f"127.0.0.1:{port}"), floor)
    await server.open()
    await server.exchange()
    url, counted, let_in = f"opc.tcp://127.0.0.1:{port}/", 0, []
    plc = Client(url, timeout=5)
    await plc.connect()
    space = await plc.get_namespace_index(NAMESPACE)

    def node(name):
        return plc.get_node(f"ns={space};s=Flawscope.{name}")

    heard = []
    subscription = await plc.create_subscription(50, lambda: None)
    subscription._handler = type(
        "Handler", (), {"datachange_notification": lambda self, n, v, d: heard.append(v)}
    )()
    await subscription.subscribe_data_change(node("Outputs.Heartbeat"))
    for who in people:
        client = await sign_in(url, who, certificate)
        if client is None:
            continue
        let_in.append(who)
        for what in hostile_writes():
            counted += 1
            before = len(floor.told)
            try:
                codes = await asyncio.wait_for(attack(client, what, space), 5)
            except (ua.UaError, ConnectionError, AttributeError):
                codes = None
            assert codes is None or not any(code.is_good() for code in codes), (who, what)
            assert len(floor.told) == before, (who, what)
        for number in range(60, 90):  # subscriptions of others, whose numbers are easily guessed
            with suppress(ua.UaError):
                await client.uaclient.delete_subscriptions([number])
                await client.uaclient.transfer_subscriptions(
                    ua.TransferSubscriptionsParameters([number], False)
                )
        shown = {one.name: await node(f"Outputs.{one.node}").read_value() for one in TO_PLC}
        assert shown == vars(SHOWN) | {"heartbeat": shown["heartbeat"]}, who
        beat = len(floor.told)
        await plc.write_values(
            [node("Inputs.Heartbeat"), node("Inputs.Part")],
            [ua.Variant(beat, ua.VariantType.UInt16), ua.Variant("P1", ua.VariantType.String)],
        )
        assert floor.told[-1] == Inputs(heartbeat=beat, part="P1")
        with suppress(Exception):
            await client.disconnect()
    floor.shown = replace(SHOWN, heartbeat=77)
    await server.exchange()
    for _ in range(100):
        if 77 in heard:
            break
        await asyncio.sleep(0.02)
    assert 77 in heard, "its subscription lives"
    assert counted >= 40 * len(let_in)
    await plc.disconnect()
    await server.close()
    return let_in


def test_a_bad_part_raises_no_trigger():
    """A request is written whole or not at all: else Trigger would rise with the part before."""
    asyncio.run(_write_half())


async def _write_half():
    floor, port = Floor(), free_port()
    server = OpcUaServer(OpcUaSettings({1: "plate"}, listen=f"127.0.0.1:{port}"), floor)
    await server.open()
    async with Client(f"opc.tcp://127.0.0.1:{port}/", timeout=5) as client:
        space = await client.get_namespace_index(NAMESPACE)
        names = "Trigger", "Part"
        ids = [ua.NodeId.from_string(f"ns={space};s=Flawscope.Inputs.{name}") for name in names]
        for part in (["A"], ua.Variant(7, ua.VariantType.UInt16)):
            values = [
                ua.DataValue(ua.Variant(True)),
                ua.DataValue(ua.Variant(part) if isinstance(part, list) else part),
            ]
            rows = [ua.WriteValue(one, 13, None, value) for one, value in zip(ids, values, strict=True)]
            codes = await client.uaclient.write(ua.WriteParameters(rows))
            assert not any(code.is_good() for code in codes)
        assert floor.told == []
    await server.close()


LAYOUTS = {"as it is": (0, 100), "side by side": (0, 19), "the other way round": (26, 0)}


def hostile_frames(inputs: int, outputs: int) -> list[bytes]:
    """Requests that would write outputs, or that no server should take."""
    made = [struct.pack(">BHH", 6, outputs + place, 9) for place in range(26)]
    for start, count in (
        (outputs, 26),
        (outputs - 1, 2),
        (inputs + 18, 2),
        (outputs + 25, 2),
        (0, 123),
        (65535, 2),
    ):
        words = struct.pack(f">{count}H", *[9] * count)
        made.append(struct.pack(">BHHB", 16, start % 65536, count, 2 * count) + words)
        made.append(struct.pack(">BHHHHB", 23, inputs, 1, start % 65536, count, 2 * count) + words)
    made += [struct.pack(">BHHH", 22, outputs + place, 0, 9) for place in (0, 3, 25)]
    made += [struct.pack(">BHH", 5, place, 0xFF00) for place in (0, outputs, 16 * outputs)]
    made += [struct.pack(">BHHBB", 15, place, 8, 1, 255) for place in (0, outputs)]
    made += [bytes([code, 0, 1, 0, 0]) for code in (0, 8, 17, 20, 21, 24, 43, 90, 127, 128, 255)]
    made += [struct.pack(">BHHB", 16, outputs, 26, 9), struct.pack(">BH", 6, outputs), b""]
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modbus(layout):
    asyncio.run(_attack_modbus(*LAYOUTS[layout]))


async def _attack_modbus(inputs, outputs):
    floor, port = Floor(), free_port()
    settings = ModbusSettings({1: "plate"}, listen=f"127.0.0.1:{port}", inputs=inputs, outputs=outputs)
    server = ModbusServer(settings, floor)
    await server.open()
    await server.exchange()
    plc = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=5)
    assert await plc.connect()
    frames = [(unit, frame) for unit in (0, 1, 255) for frame in hostile_frames(inputs, outputs)]
    assert len(frames) >= 120
    for number, (unit, frame) in enumerate(frames):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(struct.pack(">HHHB", number, 0, 1 + len(frame), unit) + frame)
        with suppress(TimeoutError, ConnectionError):
            answer = await asyncio.wait_for(reader.read(300), 0.2 if len(frame) < 5 else 2)
            is_refused = len(answer) < 8 or answer[7] >= 128
            assert is_refused or answer[7] not in (5, 6, 15, 16, 22, 23), (unit, frame.hex(), answer.hex())
        writer.close()
        found = await plc.read_holding_registers(outputs, count=26)
        assert unpack(found.registers, TO_PLC) == vars(SHOWN), (unit, frame.hex())
    said = Inputs(True, 7, 1, "P7")
    assert not (await plc.write_registers(inputs, pack(said, TO_STATION))).isError()
    assert floor.told[-1] == said
    plc.close()
    await server.close()


@pytest.mark.parametrize("wire", ["opcua", "modbus"])
def test_garbage_is_one_line_of_log(wire, caplog):
    """However much comes, and whatever a library writes about it."""
    asyncio.run(_send_garbage(wire))
    lines = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert len(lines) <= 1, lines
    assert all(line.isprintable() and len(line) < 300 for line in lines)


async def _send_garbage(wire):
    port, rng = free_port(), random.Random(0)
    listen = f"127.0.0.1:{port}"
    modbus = ModbusSettings({1: "plate"}, listen=listen)
    server: Any = ModbusServer(modbus, Floor()) if wire == "modbus" else None
    server = server or OpcUaServer(OpcUaSettings({1: "plate"}, listen=listen), Floor())
    for library in ("asyncua", "pymodbus"):
        logging.getLogger(library).handlers.clear()
    await server.open()
    known = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + bytes(99),
        b"OPNF\x3c\0\0\0" + bytes(52),
        b"\0\1\0\0\0\4\1\x10\0\0",
    )

    def send():
        for data in (*known, *(rng.randbytes(rng.randrange(1, 300)) for _ in range(20))):
            with socket.create_connection(("127.0.0.1", port), 5) as other:
                other.sendall(data)

    await asyncio.to_thread(send)
    await asyncio.sleep(0.1)
    await server.close()
