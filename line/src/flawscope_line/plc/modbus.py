"""Modbus TCP: the station is the server that a PLC reads and writes, or the client of a PLC as server.

All signals of a side are read and written together, in one request.
"""

from __future__ import annotations

from collections.abc import Awaitable

from pymodbus import ModbusException
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.pdu import ModbusPDU
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from flawscope_line.plc.brief_log import log_briefly
from flawscope_line.plc.handshake import Inputs, Outputs
from flawscope_line.plc.line import InputsHandler, TransportError
from flawscope_line.plc.settings import ModbusSettings
from flawscope_line.plc.signals import (
    TO_PLC,
    TO_STATION,
    pack,
    register_count,
    unpack,
)

READ_FUNCTIONS = (3, 4)  # function codes that read registers
WRITE_FUNCTIONS = (6, 16, 22, 23)  # function codes that write registers
TIMEOUT = 1.0  # seconds in which a PLC must answer


class ModbusServer:
    """Server whose holding registers the PLC reads and writes; its input registers have the same values."""

    every = 1.0

    def __init__(self, settings: ModbusSettings, handle_inputs: InputsHandler):
        self.settings = settings
        self._handle_inputs = handle_inputs
        self._input_registers: list[int] = [0] * register_count(TO_STATION)
        self._output_registers: list[int] = [0] * register_count(TO_PLC)
        self._is_written = False  # whether the PLC has written its signals

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: The address cannot be used.
        """
        log_briefly("pymodbus")
        settings = self.settings
        data_type = DataType.REGISTERS
        blocks = [
            SimData(settings.inputs, values=self._input_registers, datatype=data_type),
            SimData(settings.outputs, values=self._output_registers, datatype=data_type, readonly=True),
        ]
        device = SimDevice(0, simdata=blocks, action=self._serve_request)
        self._server = ModbusTcpServer(device, address=settings.address)
        try:
            await self._server.serve_forever(background=True)
        except (RuntimeError, OSError):
            host, port = settings.address
            raise TransportError(f"{host}:{port} cannot be used: another program may listen there") from None

    async def _serve_request(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Serve a request of the PLC, for pymodbus; inputs that the PLC writes are handled before the answer.

        Args:
            function: Function code.
            start: First register of the block.
            address: First register of the request.
            count: Number of registers of the request.
            registers: Registers of the block; the outputs among them are updated.
            values: Values that the PLC writes; None: it reads.

        Returns:
            Exception code of a function that is not supported; else None.
        """
        if function not in (*READ_FUNCTIONS, *WRITE_FUNCTIONS):
            return ExcCodes.ILLEGAL_FUNCTION
        if values:
            offset = address - self.settings.inputs
            self._input_registers[offset : offset + count] = [int(value) for value in values]
            self._is_written = True
            await self.exchange()
        first = self.settings.outputs - start  # place of the outputs in the block
        registers[first : first + len(self._output_registers)] = self._output_registers
        return None

    async def exchange(self) -> None:
        """Pass the registers that the PLC wrote to the handler, and keep the outputs for its next request.

        The inputs are None until the PLC has written.
        """
        inputs = Inputs(**unpack(self._input_registers, TO_STATION)) if self._is_written else None
        self._output_registers = pack(self._handle_inputs(inputs), TO_PLC)

    async def close(self) -> None:
        """Stop listening."""
        await self._server.shutdown()  # type: ignore[no-untyped-call]


class ModbusClient:
    """Client of a PLC that is the server: its registers are read at a fixed interval."""

    def __init__(self, settings: ModbusSettings, handle_inputs: InputsHandler):
        self.settings = settings
        self.every = settings.poll_interval
        self._handle_inputs = handle_inputs
        self._written_outputs: Outputs | None = None
        host, port = settings.address
        self._client = AsyncModbusTcpClient(host, port=port, timeout=TIMEOUT, retries=0, reconnect_delay=0)

    async def open(self) -> None:
        """Connect to the PLC.

        Raises:
            TransportError: The PLC does not answer.
        """
        log_briefly("pymodbus")
        if not await self._client.connect():
            host, port = self.settings.address
            raise TransportError(f"the PLC at {host}:{port} does not answer")

    async def exchange(self) -> None:
        """Read the PLC's signals, pass them to the handler, and write the outputs where they have changed.

        Raises:
            TransportError: The connection is lost, or the PLC refuses the registers.
        """
        settings = self.settings
        length = register_count(TO_STATION)
        unit = self.settings.unit
        request = self._client.read_holding_registers(settings.inputs, count=length, device_id=unit)
        response = await _await_response(request, settings.inputs, length)
        outputs = self._handle_inputs(Inputs(**unpack(response.registers, TO_STATION)))
        if outputs != self._written_outputs:
            self._written_outputs = None  # not known, if the writing fails
            registers = pack(outputs, TO_PLC)
            request = self._client.write_registers(settings.outputs, registers, device_id=unit)
            await _await_response(request, settings.outputs, len(registers))
            self._written_outputs = outputs

    async def close(self) -> None:
        """Close the connection."""
        self._client.close()


async def _await_response(request: Awaitable[ModbusPDU], first: int, count: int) -> ModbusPDU:
    """Return the PLC's response to a request on `count` registers from `first` on.

    Raises:
        TransportError: The connection is lost, or the PLC refuses the registers.
    """
    try:
        response = await request
    except (ModbusException, OSError) as error:
        raise TransportError(f"the connection to the PLC is lost: {error}") from None
    if response.isError():
        register_text = f"registers {first} to {first + count - 1} (exception {response.exception_code})"
        raise TransportError(
            f"the PLC refuses {register_text}: it must have all of them; `unit`, `inputs` and `outputs` "
            "say where, counted from 0"
        )
    return response
