"""Limits the logs of protocol libraries: any client that reaches a port could make them write endlessly."""

from __future__ import annotations

import logging
import time

INTERVAL = 60.0  # seconds between two lines of a library
MAX_LENGTH = 160  # characters of a line


class _BriefHandler(logging.Handler):
    """Handler that passes on a library's errors as one line, at most every `INTERVAL` seconds."""

    def __init__(self, name: str):
        super().__init__(logging.ERROR)
        self.library, self._next = name, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        text = " ".join(record.getMessage().split())[:MAX_LENGTH]
        text = "".join(c if c.isprintable() else "?" for c in text)
        logging.getLogger(__name__).warning(
            "%s: %s; others of the next minute are not shown", self.library, text
        )


def log_briefly(library: str) -> None:
    """Limit a library's loggers to one line a minute."""
    logger = logging.getLogger(library)
    if not any(isinstance(one, _BriefHandler) for one in logger.handlers):
        logger.handlers, logger.propagate = [_BriefHandler(library)], False
