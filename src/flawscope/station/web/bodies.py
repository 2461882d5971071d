"""Bodies of requests: counted while they are received, all together, and timed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import HTTPException

from flawscope.errors import InputError
from flawscope.station.access.roles import SCOPE
from flawscope.station.settings.station import Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANONYMOUS = 64 * 1024  # bytes that somebody may send who has not signed in: a name and a password
LEAST = 10_000  # bytes a second, on average
HELD_UP = 0.1  # seconds that the event loop runs late when the station itself could not listen
_KEY = "flawscope.body"


class UploadError(InputError, HTTPException):  # as such FastAPI passes it on
    """What was sent cannot be taken.

    Attributes:
        status: of the answer. code: for programs.
    """

    __str__ = Exception.__str__

    def __init__(self, text: str, status: int, code: str):
        HTTPException.__init__(self, status, text)
        self.args = (text,)
        self.status, self.code = status, code


class Body:
    """A request's messages.

    Attributes:
        most: bytes that it may have. is_kept: in memory, until the request is answered.
    """

    def __init__(self, bodies: Bodies, scope: Scope, receive: Receive):
        self.bodies, self._receive = bodies, receive
        self.most = bodies.limits.upload_bytes if scope[SCOPE] is not None else ANONYMOUS
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self._announced = int(length) if length.isdigit() else 0
        self._began = time.monotonic()
        self._count = self._held = 0
        self.is_kept, self._is_whole = True, False

    async def receive(self) -> Message:
        """The next message; UploadError where there is too much, or nothing comes."""
        if self._is_whole:  # then it waits for the client to go away
            return await self._receive()
        self._check(self._announced - self._count)
        message = await self._next()
        more = len(message.get("body", b""))
        self._check(more)
        self._count += more
        if self.is_kept:
            self._held += more
            self.bodies.held += more
        self._is_whole = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        stalled = self.bodies.limits.stalled
        while True:
            now = time.monotonic()
            due = min(now + stalled, self._began + stalled + self._count / LEAST)
            try:
                async with asyncio.timeout(due - now):  # `wait_for` would make a task for each message
                    return await self._receive()
            except TimeoutError:
                late = time.monotonic() - max(due, now)
                if late < HELD_UP:
                    text = f"nothing came for {stalled:g} s, or too little; send the picture again"
                    raise UploadError(text, 408, "stalled") from None
                self._began += late  # bytes may wait unread: not the client's fault

    def _check(self, more: int) -> None:
        """That so many bytes more are not too many."""
        if self._count + more > self.most:
            raise too_large(self.most)
        if self.is_kept and not self.bodies.has_room(self._held, more):
            most = self.bodies.most / 1024**2
            text = f"the {most:.0f} MB for all requests together are in use; try again in a few seconds"
            raise UploadError(text, 503, "busy")

    def release(self) -> None:
        """None of its bytes is in memory any more."""
        self.bodies.held -= self._held
        self._held = 0


class Bodies:
    """ASGI middleware: bounds what the bodies of all requests hold together, until they are answered, to four
    times the largest request. A quarter of it is for requests of ordinary size, so that a few large ones, or
    ones that never end, keep nobody else out."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app, self.limits = app, limits
        self.most = 4 * limits.upload_bytes
        self.held = 0

    def has_room(self, held: int, more: int) -> bool:
        """Whether a request that holds so many bytes may have so many more."""
        ordinary = held + more <= self.most // 16
        return self.held + more <= (self.most if ordinary else self.most * 3 // 4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = scope[_KEY] = Body(self, scope, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()


def body_of(request: Request) -> Body:
    """The body that a request comes with."""
    found: Body = request.scope[_KEY]
    return found


def too_large(most: int) -> UploadError:
    size = f"{most / 1024**2:.0f} MB" if most >= 1024**2 else f"{most // 1024} KB"
    text = f"the request has more than {size}: send less at once, or raise `limits: upload`"
    return UploadError(text, 413, "too_large")
