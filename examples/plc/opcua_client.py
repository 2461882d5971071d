"""Has parts inspected over OPC UA as docs/station-plc.md says, with asyncua alone.

python examples/plc/opcua_client.py opc.tcp://127.0.0.1:4840 --recipe 1 A47 A48
"""

import argparse
import time
from itertools import count

from asyncua import ua
from asyncua.sync import Client

CYCLE = 0.02  # seconds between two cycles
BEATS = count(1)
INPUTS = {"Trigger": ua.VariantType.Boolean, "Heartbeat": ua.VariantType.UInt16}
INPUTS |= {"Recipe": ua.VariantType.UInt16, "Part": ua.VariantType.String}
OUTPUTS = "Ready", "Done", "OK", "NOK", "Error", "Recipe", "Code", "Score", "Part"


def cycle(client: Client, trigger: bool, recipe: int, part: str) -> dict:
    """Write the PLC's nodes in one request, with another heartbeat each time, and read the station's."""
    time.sleep(CYCLE)
    space = client.get_namespace_index("urn:flawscope:plc")
    told = [trigger, next(BEATS) % 65536, recipe, part]
    nodes = [client.get_node(f"ns={space};s=Flawscope.Inputs.{name}") for name in INPUTS]
    client.write_values(nodes, [ua.Variant(*one) for one in zip(told, INPUTS.values(), strict=True)])
    nodes = [client.get_node(f"ns={space};s=Flawscope.Outputs.{name}") for name in OUTPUTS]
    return dict(zip(OUTPUTS, client.read_values(nodes), strict=True))


def inspect(client: Client, part: str, recipe: int = 0, seconds: float = 10.0) -> tuple[str, dict]:
    """Return "ok", "nok" or "fault", and what the station said last: whatever is no OK of this part is not
    good. A link that breaks raises an error, which is a fault, too."""
    outcome, end = "fault", time.monotonic() + seconds
    shown = cycle(client, False, recipe, part)
    while not (is_ready := shown["Ready"] and recipe in (0, shown["Recipe"])) and time.monotonic() < end:
        shown = cycle(client, False, recipe, part)
    if is_ready:
        while not (shown := cycle(client, True, recipe, part))["Done"] and time.monotonic() < end:
            pass
        if shown["Done"] and shown["Part"] == part and not shown["Error"]:
            outcome = "ok" if shown["OK"] else "nok"
    while cycle(client, False, recipe, part)["Done"] and time.monotonic() < end:
        pass
    return outcome, shown


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.partition(",")[0])
    asked.add_argument("address", metavar="opc.tcp://HOST:PORT")
    asked.add_argument("parts", nargs="+")
    asked.add_argument("--recipe", type=int, default=0)
    given = asked.parse_args()
    waiting = list(given.parts)
    try:
        with Client(given.address) as link:
            while waiting:
                found, said = inspect(link, waiting[0], given.recipe)
                print(f"{waiting.pop(0)} {found}, score {said['Score']:.3g}, code {said['Code']}")
    except (OSError, ua.UaError) as broken:  # no station, or no longer: nothing is good
        for one in waiting:
            print(f"{one} fault, {broken}")
        raise SystemExit(1) from None
