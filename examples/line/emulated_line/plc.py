"""A PLC's side of the handshake, over Modbus TCP (client or server) and OPC UA (client).

    python -m emulated_line.plc --modbus 127.0.0.1:5020 --parts 10

writes a line for each part: its number, what the station said, and how long that took.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from flawscope_line.plc.handshake import Inputs
from flawscope_line.plc.signals import (
    NAMESPACE,
    OPC_UA_TYPES,
    ROOT_NODE,
    TO_PLC,
    TO_STATION,
    pack,
    register_count,
    unpack,
)

GOOD, BAD, FAULT = "ok", "nok", "fault"  # outcomes of a part


class ModbusClient:
    """Reads and writes the registers of a station that is the server."""

    def __init__(self, host: str, port: int, inputs: int = 0, outputs: int = 100):
        from pymodbus.client import ModbusTcpClient

        self._client = ModbusTcpClient(host, port=port, timeout=2, retries=0)
        self._inputs, self._outputs = inputs, outputs
        self._lock = threading.Lock()
        if not self._client.connect():
            raise ConnectionError(f"{host}:{port} does not answer")

    def write(self, said: Inputs) -> None:
        with self._lock:
            answer = self._client.write_registers(self._inputs, pack(said, TO_STATION))
        if answer.isError():
            raise ConnectionError(str(answer))

    def read(self, *names: str) -> dict[str, Any]:
        with self._lock:
            found = self._client.read_holding_registers(self._outputs, count=register_count(TO_PLC))
        if found.isError():
            raise ConnectionError(str(found))
        return unpack(found.registers, TO_PLC)

    def close(self) -> None:
        self._client.close()


class ModbusServer:
    """Serves the registers that a station reads and writes."""

    def __init__(self, port: int, inputs: int = 0, outputs: int = 100, host: str = "127.0.0.1"):
        self._place, self._inputs, self._outputs = (host, port), inputs, outputs
        self._said, self._shown = [0] * register_count(TO_STATION), [0] * register_count(TO_PLC)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    async def _open(self) -> None:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        blocks = [
            SimData(self._inputs, values=self._said, datatype=DataType.REGISTERS),
            SimData(self._outputs, values=self._shown, datatype=DataType.REGISTERS),
        ]
        self._server = ModbusTcpServer(SimDevice(0, simdata=blocks, action=self._asked), address=self._place)
        await self._server.serve_forever(background=True)

    async def _asked(
        self, function: int, start: int, address: int, number: int, registers: list[int], values: Any
    ) -> None:
        place = self._inputs - start
        registers[place : place + len(self._said)] = self._said
        if values and address == self._outputs:
            self._shown = list(values)

    def write(self, said: Inputs) -> None:
        self._said = pack(said, TO_STATION)

    def read(self, *names: str) -> dict[str, Any]:
        return unpack(self._shown, TO_PLC)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class OpcUaClient:
    """Reads and writes the nodes of a station."""

    def __init__(self, url: str):
        from asyncua import ua
        from asyncua.sync import Client

        self._ua, self._client = ua, Client(url, timeout=30)
        try:
            self._client.connect()
        except Exception:
            self._client.tloop.stop()  # a thread, which the client leaves behind
            raise
        space = self._client.get_namespace_index(NAMESPACE)
        self._inputs, self._outputs = (
            {
                one.name: self._client.get_node(f"ns={space};s={ROOT_NODE}.{folder}.{one.node}")
                for one in signals
            }
            for folder, signals in (("Inputs", TO_STATION), ("Outputs", TO_PLC))
        )
        self._lock = threading.Lock()

    def write(self, said: Inputs) -> None:
        kinds = {one.name: self._ua.VariantType[OPC_UA_TYPES[one.kind]] for one in TO_STATION}
        values = [self._ua.Variant(getattr(said, name), kinds[name]) for name in self._inputs]
        with self._lock:
            self._client.write_values([*self._inputs.values()], values)

    def read(self, *names: str) -> dict[str, Any]:
        wanted = names or tuple(self._outputs)
        with self._lock:
            found = self._client.read_values([self._outputs[name] for name in wanted])
        return dict(zip(wanted, found, strict=True))

    def close(self) -> None:
        self._client.disconnect()


class Again:
    """A wire that is opened anew after it broke.

    Args:
        make: opens it.
    """

    def __init__(self, make: Callable[[], Any]):
        self._make, self._wire, self._lock = make, None, threading.RLock()

    def _on(self, work: Callable[[Any], Any]) -> Any:
        with self._lock:
            self._wire = self._wire or self._make()
            try:
                return work(self._wire)
            except Exception:
                self.close()
                raise

    def write(self, said: Inputs) -> None:
        self._on(lambda wire: wire.write(said))

    def read(self, *names: str) -> dict[str, Any]:
        return self._on(lambda wire: wire.read(*names))

    def close(self) -> None:
        with self._lock, suppress(Exception):
            wire, self._wire = self._wire, None
            if wire is not None:
                wire.close()


@dataclass
class Plc:
    """A PLC's program: it gives each part one outcome, and takes no OK that is not about the part.

    Attributes:
        wire: one of those above. beat: seconds between two heartbeats. outcomes: how many of each.
    """

    wire: Any
    beat: float = 0.2
    said: Inputs = field(default_factory=Inputs)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.raised = self.answered = 0.0  # of the last part, as `time.perf_counter` counts
        self.is_beating, self._ended = True, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def say(self, **signals: Any) -> None:
        with self._lock:
            self.said = replace(self.said, **signals)
            self.wire.write(self.said)

    def _beat(self) -> None:
        while not self._ended.wait(self.beat):
            if self.is_beating:
                try:
                    self.say(heartbeat=(self.said.heartbeat + 1) % 65536)
                except Exception:  # the link is away: the part's time limit tells
                    continue

    def until(
        self, true: Callable[[dict[str, Any]], Any], seconds: float = 30.0, *names: str
    ) -> dict[str, Any] | None:
        """The station's signals as soon as this is true of them; None where it does not come true in time.

        names: signals that decide, so that others need not be read all the time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if true(shown := self.wire.read(*names)):
                    return shown if not names else dict(self.wire.read())
            except Exception:
                time.sleep(0.05)
            time.sleep(0.001)
        return None

    def ready(self, recipe: int = 0, seconds: float = 30.0) -> dict[str, Any] | None:
        """Choose a recipe, and wait until the station has it and is ready."""
        try:
            self.say(trigger=False, recipe=recipe)
        except Exception:  # the link is away
            return None
        return self.until(lambda shown: shown["ready"] and recipe in (0, shown["recipe"]), seconds)

    def inspect(self, part: str = "", seconds: float = 10.0) -> tuple[str, dict[str, Any] | None]:
        """Have a part inspected; return its outcome, and what the station said."""
        shown = None
        try:
            self.say(part=part)
            self.raised = time.perf_counter()
            self.say(trigger=True)
            shown = self.until(lambda shown: shown["done"], seconds, "done")
            self.answered = time.perf_counter()
        except Exception:  # the link is away
            shown = None
        is_mine = shown is not None and shown["part"] == part and not shown["error"]
        outcome = FAULT if shown is None or not is_mine else GOOD if shown["ok"] else BAD
        self.outcomes[outcome] += 1
        try:
            self.say(trigger=False)
            self.until(lambda shown: not shown["done"], seconds, "done")
        except Exception:
            pass
        return outcome, shown

    def close(self) -> None:
        self._ended.set()
        self._thread.join(10)
        self.wire.close()


def main() -> None:
    made = argparse.ArgumentParser(description="A PLC that has parts inspected, one after another.")
    made.add_argument("--modbus", metavar="HOST:PORT", help="of a station with `listen`")
    made.add_argument("--opcua", metavar="HOST:PORT", help="of a station")
    made.add_argument("--recipe", type=int, default=0)
    made.add_argument("--parts", type=int, default=10)
    args = made.parse_args()
    host, _, port = (args.modbus or args.opcua or "127.0.0.1:5020").rpartition(":")
    plc = Plc(OpcUaClient(f"opc.tcp://{host}:{port}/") if args.opcua else ModbusClient(host, int(port)))
    for number in range(args.parts):
        if plc.ready(args.recipe) is None:
            print("the station is not ready")
            break
        begun = time.monotonic()
        outcome, shown = plc.inspect(f"{number:06}")
        score = f"score {shown['score']:.3g}, code {shown['code']}" if shown else "no answer"
        print(f"{number:06} {outcome:5} {score}, {1000 * (time.monotonic() - begun):.0f} ms")
    print(dict(plc.outcomes))
    plc.close()


if __name__ == "__main__":
    main()
