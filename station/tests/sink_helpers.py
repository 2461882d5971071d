"""What the tests of sinks share: a broker of one's own, a network that can be cut, who listens."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from flawscope_station.client import Client
from flawscope_station.settings.sinks import SinkSettings, read_broker, read_sinks
from station_helpers import PATIENCE, free_port, until


def make_sink(**given: Any) -> SinkSettings:
    """Settings of a sink as `station.yaml` gives them."""
    return read_sinks([given], Path())[0]


def make_broker(**given: Any) -> SinkSettings | None:
    return read_broker(given, Path())


# ------------------------------------------------------------------------------------------------- the broker


@dataclass
class Mosquitto:
    """A real one, which keeps what it has in a folder of its own."""

    folder: Path
    extra: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def program() -> str | None:
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = self.program()
        assert program
        self.folder.mkdir(exist_ok=True)
        access = "" if "password_file" in self.extra else "allow_anonymous true\n"
        user = "user root\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n{access}{user}{self.extra}\n"
            f"persistence true\npersistence_location {self.folder}/\n"
            "autosave_on_changes true\nautosave_interval 1\nmax_queued_messages 0\n"
            "log_type error\nlog_type warning\n"
        )
        with open(self.folder / "log", "ab") as log:
            words = [program, "-c", str(self.folder / "mosquitto.conf")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until(self._listens, "mosquitto did not start")

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return listens(self.port)

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)


@dataclass
class Cable:
    """A way to a port of this machine that can be cut."""

    to: int
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()
        self._plugged = True
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._lock:
                    if not self._plugged:
                        raise OSError
                there = socket.create_connection(("127.0.0.1", self.to), 2)
            except OSError:
                here.close()
                continue
            with self._lock:
                self._pairs += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=_carry, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        """What is on its way is lost."""
        with self._lock:
            self._plugged = False
            for one in self._pairs:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._pairs.clear()

    def plug(self) -> None:
        with self._lock:
            self._plugged = True

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Listener:
    """Who subscribes with a session that the broker keeps, with quality of service 1."""

    def __init__(self, port: int, *topics: str, name: str = "listener", clean: bool = False):
        self.topics = topics
        self.messages: list[tuple[str, dict[str, Any] | str]] = []
        self.ready = threading.Event()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, name, clean_session=clean, protocol=paho.MQTTv311
        )
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self._came
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, 5)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE)

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe([(topic, 1) for topic in self.topics])

    def _came(self, client: Any, data: Any, one: Any) -> None:
        text = one.payload.decode()
        with suppress(ValueError):
            text = json.loads(text)
        self.messages.append((one.topic, text))

    def of(self, topic: str) -> list[Any]:
        return [payload for name, payload in list(self.messages) if name == topic]

    def last(self, topic: str) -> Any:
        found = self.of(topic)
        return found[-1] if found else None

    def numbers(self, topic: str) -> Counter[int]:
        """How often each inspection came."""
        return Counter(one["data"]["id"] for one in self.of(topic))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


# ------------------------------------------------------------------------------------------ who gets webhooks


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Receiver:
    """An HTTP server. `answers` are given one after another, then 204: a code, (code, headers), "hang", "cut"
    (reads, then closes without a word) or "slow" (a second)."""

    def __init__(self, *answers: Any):
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.taken: list[Request] = []  # those with a good answer
        self.times: list[float] = []
        self.delay = 0.0
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # who sent it was killed
                    self.close_connection = True
                    return
                request = Request({key.lower(): value for key, value in self.headers.items()}, body)
                outer.times.append(time.monotonic())
                outer.requests.append(request)
                if outer.delay:
                    outer.ended.wait(outer.delay)
                answer = outer.answers.pop(0) if outer.answers else 204
                if answer == "hang":
                    outer.ended.wait(60)
                    answer = "cut"
                if answer == "cut":
                    self.close_connection = True
                    with suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                code, headers = answer if isinstance(answer, tuple) else (answer, {})
                if code < 300:
                    outer.taken.append(request)
                text = headers.pop("body", b"") if isinstance(headers, dict) else b""
                with suppress(OSError):
                    self.send_response(code)
                    for key, value in headers.items():
                        self.send_header(key, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


def listens(port: int) -> bool:
    """Whether somebody does on this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="flawscope-mqtt-"))


def certified_folder() -> Path:
    """A folder with `key.pem` and `cert.pem`, signed by itself, of this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    folder = new_folder()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder


KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def send(url: str, parts: list[bytes], names: range) -> list[int]:
    with Client(url) as client:
        return [client.inspect(parts[0] + str(name).encode(), name=f"{name}.png").id for name in names]


def numbers(receiver: Receiver) -> list[int]:
    return [one.json["data"]["id"] for one in list(receiver.taken)]


def codes(running: Any) -> list[str]:
    return [one.code for one in running.station.problems()]
