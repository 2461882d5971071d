"""Events at a syslog server."""

import json
import socket
from contextlib import closing

from flawscope_station.core.syslog import EventForwarder
from flawscope_station.store.files import Files
from flawscope_station.store.records import Store


def test_a_server_gets_a_line_of_json(database, tmp_path):
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        one = EventForwarder(address, "line3", database, Files(tmp_path / "store"), lambda *_: None)
        one.forward()
        Store(database).note_event("x", "anna", "Größe %d")
        one.forward()
        one.forward()
        one.stop()
        line = server.recv(65536).decode()
    assert line.startswith("<14>{")
    assert json.loads(line.removeprefix("<14>"))["text"] == "Größe %d"
