"""What tests of both floors need: test_station_sinks.py, whole/test_station_sinks_whole.py."""

import base64
from typing import Any

from flawscope_station.client import Client
from sink_helpers import Receiver

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def send(url: str, parts: list[bytes], names: range) -> list[int]:
    with Client(url) as client:
        return [client.inspect(parts[0] + str(name).encode(), name=f"{name}.png").id for name in names]


def numbers(receiver: Receiver) -> list[int]:
    return [one.json["data"]["id"] for one in list(receiver.taken)]


def codes(running: Any) -> list[str]:
    return [one.code for one in running.station.problems()]
