"""Has parts inspected over Modbus TCP as docs/station-plc.md says, with pymodbus alone: the program of a PLC,
to be written anew in the language of yours.

    python examples/plc/modbus_client.py 127.0.0.1:5020 --recipe 1 A47 A48
"""

import argparse
import struct
import time
from itertools import count

from pymodbus import ModbusException
from pymodbus.client import ModbusTcpClient

CYCLE = 0.02  # seconds between two cycles
BEATS = count(1)
BITS = "ready", "busy", "done", "ok", "nok", "error"  # of register 100


def cycle(client: ModbusTcpClient, trigger: bool, recipe: int, part: str) -> dict:
    """Write the PLC's 19 registers, with another heartbeat each time, and read the station's 26."""
    time.sleep(CYCLE)
    letters = struct.unpack(">16H", part.encode("latin-1").ljust(32, b"\0"))
    written = client.write_registers(0, [trigger, next(BEATS) % 65536, recipe, *letters])
    read = client.read_holding_registers(100, count=26)
    if written.isError() or read.isError():
        raise ConnectionError(f"{written}, {read}")
    bits, _, loaded, _, code = read.registers[:5]
    shown = {name: bool(bits >> k & 1) for k, name in enumerate(BITS)}
    (score,) = struct.unpack(">f", struct.pack(">2H", *read.registers[6:8]))
    said = struct.pack(">16H", *read.registers[10:]).rstrip(b"\0").decode("latin-1")
    return {**shown, "recipe": loaded, "code": code, "score": score, "part": said}


def inspect(client: ModbusTcpClient, part: str, recipe: int = 0, seconds: float = 10.0) -> tuple[str, dict]:
    """Return "ok", "nok" or "fault", and what the station said last: whatever is no OK of this part is not
    good. A link that breaks raises an error, which is a fault, too."""
    outcome, end = "fault", time.monotonic() + seconds
    shown = cycle(client, False, recipe, part)
    while not (is_ready := shown["ready"] and recipe in (0, shown["recipe"])) and time.monotonic() < end:
        shown = cycle(client, False, recipe, part)
    if is_ready:
        while not (shown := cycle(client, True, recipe, part))["done"] and time.monotonic() < end:
            pass
        if shown["done"] and shown["part"] == part and not shown["error"]:
            outcome = "ok" if shown["ok"] else "nok"
    while cycle(client, False, recipe, part)["done"] and time.monotonic() < end:
        pass
    return outcome, shown


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.partition(",")[0])
    asked.add_argument("address", metavar="HOST:PORT")
    asked.add_argument("parts", nargs="+")
    asked.add_argument("--recipe", type=int, default=0)
    given = asked.parse_args()
    host, _, port = given.address.rpartition(":")
    waiting = list(given.parts)
    try:
        with ModbusTcpClient(host, port=int(port), timeout=2, retries=0) as link:
            while waiting:
                found, said = inspect(link, waiting[0], given.recipe)
                print(f"{waiting.pop(0)} {found}, score {said['score']:.3g}, code {said['code']}")
    except (OSError, ModbusException) as broken:  # no station, or no longer: nothing is good
        for one in waiting:
            print(f"{one} fault, {broken}")
        raise SystemExit(1) from None
