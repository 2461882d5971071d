"""`flawscope serve` in a process that is forked from one that has loaded it: tenths of seconds."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from station_helpers import Served


def serve(words: list[str], environment: dict[str, str], log: str) -> None:
    """Be `flawscope serve`, shown the same few parts again and again (`station_fixtures.few_parts`)."""
    from flawscope.cli import main
    from flawscope_station.drift import camera_checks

    camera_checks.RECENT_PICTURES = 0
    with open(log, "ab", 0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.exit(main(["serve", *words]))


class Child:
    """A process as subprocess shows it."""

    def __init__(self, process: BaseProcess):
        self._process, self.pid, self._lock = process, process.pid, threading.Lock()

    def poll(self) -> int | None:
        with self._lock:  # the code can be read once
            return self._process.exitcode

    def send_signal(self, how: int) -> None:
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, how)

    def wait(self, timeout: float | None = None) -> int:
        connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        assert code is not None, "it does not end"
        return code


class ForkedStation(Served):
    def begin(self) -> None:
        from station_fixtures import Forked

        self.log = tempfile.NamedTemporaryFile()  # noqa: SIM115 (it lives as long as this)
        words = [*self.words, "--port", str(self.port)]
        process = Forked().Process(target=serve, args=(words, self.environment, self.log.name))
        process.start()
        self.process = Child(process)  # type: ignore[assignment]
