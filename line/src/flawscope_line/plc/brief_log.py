"""Limits of the logs of protocol libraries: any client that reaches a port could make them endless."""

from __future__ import annotations

import logging
import time

from typing_extensions import override

INTERVAL = 60.0  # seconds between two lines of a library
MAX_LENGTH = 160  # characters of a line


class _BriefHandler(logging.Handler):
    """Handler that passes on a library's errors as one line, at most every `INTERVAL` seconds."""

    def __init__(self, name: str):
        super().__init__(logging.ERROR)
        self.library = name
        self._next_time = 0.0  # before which no line is passed on, as `time.monotonic` counts

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on, shortened, unless another was passed on within `INTERVAL`."""
        now = time.monotonic()
        if now < self._next_time:
            return
        self._next_time = now + INTERVAL
        text = " ".join(record.getMessage().split())[:MAX_LENGTH]
        text = "".join(character if character.isprintable() else "?" for character in text)
        logging.getLogger(__name__).warning(
            "%s: %s; others of the next minute are not shown", self.library, text
        )


def log_briefly(library: str) -> None:
    """Limit a library's loggers to one line a minute."""
    logger = logging.getLogger(library)
    if not any(isinstance(handler, _BriefHandler) for handler in logger.handlers):
        logger.handlers = [_BriefHandler(library)]
        logger.propagate = False
