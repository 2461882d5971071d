"""The worker's process, as the station sees it. It is started when it is needed, stays for the next job, and
ends by itself when there was none for a while (`worker.IDLE`), because it holds a few hundred megabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from flawscope.errors import FlawscopeError
from flawscope.pictures.decoding import most_pixels
from flawscope.station.store.database import StoreError

PATIENCE = 10.0  # seconds that it has to end
MODULE = "flawscope.station.learning.worker"


class WorkerError(FlawscopeError):
    """The process could not do the job; why."""


class StoppedError(WorkerError):
    """It was ended in the middle of a job."""


class Worker:
    """One job at a time, in a process of the lowest priority."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None  # its standard error
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process that is there."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self, job: dict[str, Any], step: Callable[[str, int, int], None]) -> dict[str, Any]:
        """What `worker.work` gives.

        Raises:
            WorkerError: it cannot be done, or the process ended; why.
            StoreError: the disk is full.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise StoppedError("the station ends")
                process = self._started()
            done = self._asked(process, job, step)
            if done is not None:
                return done

    def _asked(
        self, process: subprocess.Popen[str], job: dict[str, Any], step: Callable[[str, int, int], None]
    ) -> dict[str, Any] | None:
        """What became of a job; None where the process, idle for so long, ended just before it came."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError, ValueError):  # it has ended, or was ended by `close`
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            word = json.loads(line)
            if "step" in word:
                step(*word["step"])
            elif "error" in word:
                full = word.get("code") == "disk_full"
                raise StoreError(word["error"], "disk_full") if full else WorkerError(word["error"])
            else:
                return dict(word["done"])
        code = process.wait()
        if self._closed:
            raise StoppedError("the station ends")
        if code == 0:
            return None
        killed = code == -9
        why = "it was killed, perhaps for want of memory" if killed else f"it ended with {code}"
        raise WorkerError(f"the process that learns did not finish: {why}{self._last_words()}; learn again")

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(most_pixels())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # waiting threads leave the processor to others
        )
        return self._process

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def close(self) -> None:
        """End the process, in the middle of a job too."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()  # it ends by itself then, whatever it does
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
