"""Messages of a running station to its open pages: server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from flawscope_station.core.metrics import Gauges

MAX_QUEUED_MESSAGES = 50  # messages that may wait for a slow page; beyond that the oldest are dropped
STATE_INTERVAL = 1.0  # seconds between two states


class EventBroadcaster:
    """Sends messages of a product to all its listeners; a slow listener delays nobody."""

    def __init__(self) -> None:
        # by queue of messages: numbers of the products, and the event loop that reads the queue
        self._listeners: dict[
            asyncio.Queue[str | None], tuple[frozenset[int], asyncio.AbstractEventLoop]
        ] = {}
        self._has_ended = False

    def publish(self, product_id: int, data: Mapping[str, object], event: str = "inspection") -> None:
        """Send an inspection, or a refusal, to the listeners of a product. Thread-safe.

        Args:
            product_id: Number of the product.
            data: Data of the message, for JSON.
            event: Kind of the message.
        """
        message: str | None = None
        for queue, (listened_ids, loop) in list(self._listeners.items()):
            if product_id not in listened_ids:
                continue
            if message is None:  # formatted once for all listeners, because the recorder waits for this call
                message = _format_event(event, data)
            _put_soon(loop, queue, message)

    def close(self) -> None:
        """End all streams. Thread-safe."""
        self._has_ended = True
        for queue, (_, loop) in list(self._listeners.items()):
            _put_soon(loop, queue, None)

    async def stream(
        self, product_ids: Iterable[int], states: Callable[[], Sequence[Mapping[str, object]]]
    ) -> AsyncIterator[str]:
        """Yield inspections and refusals of products as they come, and the states every second.

        The stream ends when there are no states any more, or when the broadcaster is closed.

        Args:
            product_ids: Numbers of the products.
            states: Returns the present states of the products; called in a thread.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(MAX_QUEUED_MESSAGES)
        loop = asyncio.get_running_loop()
        self._listeners[queue] = frozenset(product_ids), loop
        try:
            next_state_time = 0.0
            while not self._has_ended:
                if loop.time() >= next_state_time:
                    present_states = await asyncio.to_thread(states)
                    if not present_states:
                        return
                    for state in present_states:
                        yield _format_event("state", state)
                    next_state_time = loop.time() + STATE_INTERVAL
                try:
                    timeout = max(0.01, next_state_time - loop.time())
                    message = await asyncio.wait_for(queue.get(), timeout)
                except TimeoutError:
                    continue
                if message is None:
                    return
                yield message
        finally:
            del self._listeners[queue]

    @property
    def listeners(self) -> int:
        """Return the number of open streams."""
        return len(self._listeners)

    def gauges(self) -> Gauges:
        """Return the number of open pages as a metric."""
        return {"listeners": ("Pages that are open.", {"": float(self.listeners)})}


def _put_soon(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[str | None], message: str | None) -> None:
    """Put a message into a queue of an event loop, from any thread; a full queue loses its oldest message."""

    def put() -> None:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(message)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(put)


def _format_event(event: str, data: Mapping[str, object]) -> str:
    """Return a server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
