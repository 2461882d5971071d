"""A command that is run for every anomalous picture, beside the watching."""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from flawscope.errors import InputError
from flawscope.results.prediction import Prediction

TIMEOUT = 60.0  # seconds after which a command is ended
MOST = 100  # commands that may wait; what comes then is reported and not run
NAMES = ("path", "decision", "score", "p_value", "severity")


class Commands:
    """Runs a command for one prediction after the other, in a thread of its own, without a shell.

    It gets the picture's path and the decision as its last two arguments, and as FLAWSCOPE_PATH,
    FLAWSCOPE_DECISION, FLAWSCOPE_SCORE, FLAWSCOPE_P_VALUE and FLAWSCOPE_SEVERITY in its environment. What it
    prints goes to standard error. It is ended after `timeout` seconds.

    Attributes:
        failures: how many failed, were ended, or could not be run.
    """

    def __init__(self, command: str, say: Callable[[str], None], timeout: float = TIMEOUT):
        """
        Args:
            command: program and arguments, quoted as in a shell.
            say: gets a line for every failure; called from the thread.

        Raises:
            InputError: there is no such program.
        """
        try:
            self.words = shlex.split(command, posix=os.name == "posix")
        except ValueError as error:
            raise InputError(f"--on-anomaly {command!r}: {error}; close the quotes") from None
        program = self.words[0] if self.words else ""
        if shutil.which(program) is None:
            raise InputError(
                f"--on-anomaly {command!r}: there is no program {program!r} that can be run; give its path"
            )
        self.say, self.timeout, self.failures = say, timeout, 0
        self._waiting: queue.Queue[Prediction | None] = queue.Queue(MOST)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self, prediction: Prediction) -> None:
        """Soon; never waits."""
        try:
            self._waiting.put_nowait(prediction)
        except queue.Full:
            self._fail(f"{MOST} wait already, not run", prediction)

    def close(self, seconds: float = TIMEOUT) -> None:
        """Wait for those that were asked for, so long at most."""
        left = self._waiting.qsize()
        with suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.say(f"the command is still busy, up to {left} were not run")

    def _work(self) -> None:
        while (prediction := self._waiting.get()) is not None:
            self._run(prediction)

    def _run(self, prediction: Prediction) -> None:
        facts = {name: str(getattr(prediction, name)) for name in NAMES}
        try:
            code = subprocess.run(
                [*self.words, facts["path"], facts["decision"]],
                env={**os.environ, **{f"FLAWSCOPE_{name.upper()}": value for name, value in facts.items()}},
                stdin=subprocess.DEVNULL,
                stdout=_standard_error(),
                timeout=self.timeout,
                start_new_session=True,  # Ctrl-C ends the watching, not the command
            ).returncode
        except subprocess.TimeoutExpired:
            self._fail(f"ended after {self.timeout:g} s", prediction)
        except (OSError, ValueError) as error:
            self._fail(getattr(error, "strerror", None) or str(error), prediction)
        else:
            if code:
                self._fail(f"ended with {code}", prediction)

    def _fail(self, why: str, prediction: Prediction) -> None:
        self.failures += 1
        self.say(f"command for {prediction.path}: {why}")


def _standard_error() -> int:
    """For what a command prints; nowhere where standard error is no file."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):
        return subprocess.DEVNULL
