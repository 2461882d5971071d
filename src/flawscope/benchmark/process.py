"""The process of a cell, seen from the one that started it, on the same machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from flawscope.benchmark.cell import Task


class Process:
    """`run` is called by one thread, `kill` by any other.

    Args:
        tell: gets where it is, such as "features 3 of 10".
        lock: file number that the process keeps open.
    """

    def __init__(self, task: Task, tell: Callable[[str], None], lock: int | None = None):
        self.task, self.tell, self.lock = task, tell, lock
        self.process: subprocess.Popen[str] | None = None
        self.ending = threading.Event()

    def run(self) -> str | None:
        """Run it to its end; the reason if it failed."""
        try:
            return self._run()
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return f"its process could not be run: {error.strerror or error}{where}; try again"

    def kill(self) -> None:
        """Everything it writes is whole or not there."""
        self.ending.set()
        if self.process is not None:
            self.process.kill()

    def _run(self) -> str | None:
        """OSError: there is no place for its files, or no process."""
        work = Path(self.task.work)
        work.mkdir(parents=True, exist_ok=True)
        log = work / "log.txt"
        self.process = process = self._start(log)
        if self.ending.is_set():
            process.kill()
        try:
            error = self._listen(process)
        finally:
            code = process.wait()
        return None if code == 0 else error or ended(code, log)

    def _start(self, log: Path) -> subprocess.Popen[str]:
        threads = {name: str(self.task.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with open(log, "w", encoding="utf-8") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "flawscope.benchmark.cell"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **threads},
                start_new_session=True,  # Ctrl-C comes to this process alone, which ends the others
                pass_fds=() if self.lock is None else (self.lock,),
            )

    def _listen(self, process: subprocess.Popen[str]) -> str | None:
        """Tell it what to do, and tell where it is; the last words of one that failed."""
        error = None
        self.tell("starts")
        with suppress(OSError, ValueError), process:  # it may be killed in the middle of a word
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(self.task)) + "\n")
            process.stdin.flush()  # and stays open: when this process dies, that one ends
            for line in process.stdout:
                message = json.loads(line)
                error = message.get("error", error)
                if "stage" in message:
                    self.tell(f"{message['stage']} {message['done']} of {message['total']}")
            process.wait()  # with its stdin open to the end
        return error


def ended(code: int, log: Path) -> str:
    """Why a process ended that said nothing."""
    if code == -9:
        return (
            "its process was killed, as systems do when memory runs out: give fewer --jobs or a smaller size"
        )
    if code < 0:
        return f"its process was ended by signal {signal.Signals(-code).name}: try again"
    words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with code {code}: {words[-1] if words else 'it said nothing'}"
