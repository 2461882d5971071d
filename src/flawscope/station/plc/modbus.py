"""Modbus TCP: the station is the server that a PLC reads and writes, or the client of a PLC that serves.

All signals of a side are read and written together, in one request.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from pymodbus import ModbusException
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from flawscope.station.plc import ModbusSettings
from flawscope.station.plc.handshake import Inputs, Outputs
from flawscope.station.plc.line import Hear, WireError
from flawscope.station.plc.signals import (
    TO_PLC,
    TO_PLC_ALONE,
    TO_STATION,
    TO_STATION_ALONE,
    count,
    pack,
    unpack,
)

READ, WRITE = (3, 4), (6, 16, 22, 23)  # function codes, of registers
PATIENCE = 1.0  # seconds in which a PLC must answer


class Server:
    """Server whose holding registers the PLC reads and writes; input registers are the same ones."""

    every = 1.0

    def __init__(self, settings: ModbusSettings, hear: Hear):
        self.settings, self._hear = settings, hear
        self._said: list[int] = [0] * count(TO_STATION)
        self._shown: list[int] = [0] * count(TO_PLC)
        self._is_written = False

    async def open(self) -> None:
        given = self.settings
        blocks = [
            SimData(given.inputs, values=self._said, datatype=DataType.REGISTERS),
            SimData(given.outputs, values=self._shown, datatype=DataType.REGISTERS, readonly=True),
        ]
        self._server = ModbusTcpServer(SimDevice(0, simdata=blocks, action=self._asked), address=given.place)
        try:
            await self._server.serve_forever(background=True)
        except (RuntimeError, OSError):
            host, port = given.place
            raise WireError(f"{host}:{port} cannot be used: another program may listen there") from None

    async def _asked(
        self,
        function: int,
        start: int,
        address: int,
        number: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Serve a request. What is written is heard before the request is answered."""
        if function not in (*READ, *WRITE):
            return ExcCodes.ILLEGAL_FUNCTION
        if values:
            place = address - self.settings.inputs
            self._said[place : place + number] = [int(one) for one in values]
            self._is_written = True
            await self.exchange()
        first = self.settings.outputs - start
        registers[first : first + len(self._shown)] = self._shown
        return None

    async def exchange(self) -> None:
        said = Inputs(**unpack(self._said, TO_STATION)) if self._is_written else None
        self._shown = pack(self._hear(said), TO_PLC)

    async def close(self) -> None:
        await self._server.shutdown()  # type: ignore[no-untyped-call]


class Client:
    """Client of a PLC that is the server: its registers are read again and again."""

    def __init__(self, settings: ModbusSettings, hear: Hear):
        self.settings, self.every, self._hear = settings, settings.seconds, hear
        self._shown: Outputs | None = None
        has_gate = settings.gate is not None
        self._inputs = TO_STATION if has_gate else TO_STATION_ALONE
        self._outputs = TO_PLC if has_gate else TO_PLC_ALONE
        host, port = settings.place
        self._client = AsyncModbusTcpClient(host, port=port, timeout=PATIENCE, retries=0, reconnect_delay=0)

    async def open(self) -> None:
        if not await self._client.connect():
            raise WireError(f"the PLC at {':'.join(map(str, self.settings.place))} does not answer")

    async def exchange(self) -> None:
        given, many, unit = self.settings, count(self._inputs), self.settings.unit
        found = await _asked(self._client.read_holding_registers(given.inputs, count=many, device_id=unit))
        shown = self._hear(Inputs(**unpack(found.registers, self._inputs)))
        if shown != self._shown:
            self._shown = None
            await _asked(
                self._client.write_registers(given.outputs, pack(shown, self._outputs), device_id=unit)
            )
            self._shown = shown

    async def close(self) -> None:
        self._client.close()


async def _asked(request: Awaitable[Any]) -> Any:
    """Return the PLC's answer. WireError."""
    try:
        found = await request
    except (ModbusException, OSError) as error:
        raise WireError(f"the connection to the PLC is lost: {error}") from None
    if found.isError():
        raise WireError(f"the PLC refuses its registers: {found}")
    return found
