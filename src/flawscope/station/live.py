"""What happens, told to every page that is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

BEHIND = 50  # messages that a slow page may be behind; then the oldest are dropped
SECOND = 1.0  # between two messages about the state


class Live:
    """Messages of a product reach whoever listens, and nobody waits for a slow one."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Queue[str | None], tuple[int, asyncio.AbstractEventLoop]] = {}
        self._ended = False

    def tell(self, product_id: int, inspection: dict[str, Any]) -> None:
        """From any thread."""
        for queue, (listens, loop) in list(self._listeners.items()):
            if listens == product_id:
                _put_soon(loop, queue, _message("inspection", inspection))

    def close(self) -> None:
        """End all streams. From any thread."""
        self._ended = True
        for queue, (_, loop) in list(self._listeners.items()):
            _put_soon(loop, queue, None)

    async def stream(self, product_id: int, state: Callable[[], dict[str, Any] | None]) -> AsyncIterator[str]:
        """Inspections as they come, and every second the state, until that is None."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(BEHIND)
        loop = asyncio.get_running_loop()
        self._listeners[queue] = product_id, loop
        try:
            due = 0.0
            while not self._ended:
                if loop.time() >= due:
                    said = await asyncio.to_thread(state)
                    if said is None:
                        return
                    yield _message("state", said)
                    due = loop.time() + SECOND
                try:
                    message = await asyncio.wait_for(queue.get(), max(0.01, due - loop.time()))
                except TimeoutError:
                    continue
                if message is None:
                    return
                yield message
        finally:
            del self._listeners[queue]

    @property
    def listeners(self) -> int:
        return len(self._listeners)


def _put_soon(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[str | None], message: str | None) -> None:
    def put() -> None:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(message)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(put)


def _message(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
