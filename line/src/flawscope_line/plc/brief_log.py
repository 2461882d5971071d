"""Logs of the libraries of protocols: whoever reaches a port can make them write without end."""

from __future__ import annotations

import logging
import time

INTERVAL = 60.0  # seconds between two lines of a library
MAX_LENGTH = 160  # characters of a line


class _BriefHandler(logging.Handler):
    """Passes a library's errors on as one line, then none for a while."""

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
    """Have a library's loggers write one line a minute, at most."""
    logger = logging.getLogger(library)
    if not any(isinstance(one, _BriefHandler) for one in logger.handlers):
        logger.handlers, logger.propagate = [_BriefHandler(library)], False
