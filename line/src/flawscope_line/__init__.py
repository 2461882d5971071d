"""PLCs and industrial cameras for a station, as plugins: `plc`, and `industrial_cameras`.

COMMANDS: help and module by name, for `flawscope`.
"""

COMMANDS = {
    "plc-table": ("the signals of a PLC's handshake, for who programs it", "flawscope_line.plc.table_command")
}
