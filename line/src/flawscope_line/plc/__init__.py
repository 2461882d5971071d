"""Handshake of a station with a PLC, over Modbus TCP or OPC UA (extra `plc`): docs/station-plc.md.

There are two plugins of the group `flawscope.connections`, which share all code but that for the protocol.
Importing this package loads neither protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flawscope.errors import require_installed
from flawscope_line.plc.settings import ModbusSettings, OpcUaSettings
from flawscope_station.plugins import Plugin

if TYPE_CHECKING:
    from flawscope_station.plugins import Connection, ConnectionContext


def _open_modbus(context: ConnectionContext, settings: ModbusSettings) -> Connection:
    """Make a connection over Modbus; raise InputError where pymodbus is not installed."""
    require_installed("a PLC over Modbus", "pymodbus", extras="plc", package="flawscope-line")
    from flawscope_line.plc import modbus
    from flawscope_line.plc.line import PlcLine

    transport_class = modbus.ModbusServer if settings.listen else modbus.ModbusClient
    return PlcLine(
        "modbus", context, settings, lambda handle_inputs: transport_class(settings, handle_inputs)
    )


def _open_opcua(context: ConnectionContext, settings: OpcUaSettings) -> Connection:
    """Make a connection over OPC UA; raise InputError where asyncua is not installed."""
    require_installed("a PLC over OPC UA", "asyncua", extras="plc", package="flawscope-line")
    from flawscope_line.plc.line import PlcLine
    from flawscope_line.plc.opcua import OpcUaServer

    return PlcLine("opcua", context, settings, lambda handle_inputs: OpcUaServer(settings, handle_inputs))


MODBUS = Plugin("modbus", ModbusSettings, _open_modbus)
OPCUA = Plugin("opcua", OpcUaSettings, _open_opcua, ("certificate_file", "key_file", "password_file"))
