"""Bodies of requests: counted all together and timed while they are received; and the pictures, masks and
keys in requests, before anything is decoded."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import Query
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request

from flawscope.errors import InputError
from flawscope.pictures.decoding import read_mask
from flawscope.station.access.roles import PERSON_KEY, SENDER
from flawscope.station.inspecting.picture import checked, last_part
from flawscope.station.inspecting.renderings import png
from flawscope.station.settings.station import Limits
from flawscope.station.store.inspection import MOST_FILES, MOST_LABEL, Label, labelled
from flawscope.station.web.refusals import Refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANONYMOUS = 64 * 1024  # bytes of a request without a person: a name and a password
LEAST = 10_000  # bytes a second, on average
HELD_UP = 0.1  # seconds that the event loop runs late when the station itself could not listen
_KEY = "flawscope.body"
MOST_KEY = 184  # characters, with room for the prefix in the store
_RAW = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")  # the last: curl's default


class Body:
    """Body of a request, as it is received.

    Attributes:
        most: bytes that the body may have. is_kept: in memory, until the request is answered.
    """

    def __init__(self, bodies: Bodies, scope: Scope, receive: Receive):
        self.bodies, self._receive = bodies, receive
        self.most = bodies.limits.upload_bytes if scope[PERSON_KEY] is not None else ANONYMOUS
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self._announced = int(length) if length.isdigit() else 0
        self._began = time.monotonic()
        self._count = self._held = 0
        self.is_kept, self._is_whole = True, False

    async def receive(self) -> Message:
        """Receive the next message. Refused where the body is too large, or nothing comes."""
        if self._is_whole:  # Starlette waits for the client to go away
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
                    raise Refused(408, text, "stalled") from None
                self._began += late  # bytes may wait unread: not the client's fault

    def _check(self, more: int) -> None:
        if self._count + more > self.most:
            raise too_large(self.most)
        if self.is_kept and not self.bodies.has_room(self._held, more):
            most = self.bodies.most / 1024**2
            text = f"the {most:.0f} MB for all requests together are in use; try again in a few seconds"
            raise Refused(503, text, "busy")

    def release(self) -> None:
        """Give the body's memory back, when the request is answered."""
        self.bodies.held -= self._held
        self._held = 0


class Bodies:
    """ASGI middleware: limits what the bodies of all requests hold together, until they are answered, to four
    times the largest request. A quarter of it is for requests of ordinary size, so that a few large ones, or
    ones that never end, keep nobody else out."""

    def __init__(self, app: ASGIApp, limits: Callable[[], Limits]):
        self.app, self._limits = app, limits
        self.held = 0

    @property
    def limits(self) -> Limits:
        """Limits at the moment: pages change them."""
        return self._limits()

    @property
    def most(self) -> int:
        return 4 * self.limits.upload_bytes

    def has_room(self, held: int, more: int) -> bool:
        """Whether a request whose body holds `held` bytes may have `more`."""
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
    """Body of a request."""
    found: Body = request.scope[_KEY]
    return found


def too_large(most: int) -> Refused:
    size = f"{most / 1024**2:.0f} MB" if most >= 1024**2 else f"{most // 1024} KB"
    text = f"the request has more than {size}: send less at once, or raise `limits: upload`"
    return Refused(413, text, "too_large")


@dataclass(frozen=True)
class Upload:
    """Picture as it was sent. name: the last part of its path."""

    name: str
    data: bytes = field(repr=False)


async def read(request: Request, name: str) -> tuple[list[Upload], bool]:
    """Read the pictures of a request; the second value says whether they came in a form.

    Raises:
        Refused: the body is too large, too slow or empty, or its type is not a picture's.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request), True
    if kind and not kind.startswith(_RAW):
        text = f"{kind:.60} is no picture: send image/… or application/octet-stream, or a form with `files`"
        raise Refused(415, text, "not_a_picture")
    data = await request.body()
    if not data:
        raise Refused(422, "the request has no picture in its body", "empty")
    return [Upload(clean(name) or "picture", data)], False


async def _form(request: Request) -> list[Upload]:
    try:
        async with request.form(
            max_files=MOST_FILES, max_fields=20, max_part_size=body_of(request).most
        ) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            for name in Label._fields:
                if isinstance(form.get(name), str):
                    text = f"{name} is no field of the form: write it into the address, ?{name}=..."
                    raise Refused(422, text, "invalid")
            found = [Upload(clean(file.filename or "") or "picture", await file.read()) for file in files]
    except Refused:
        raise
    except Exception as error:  # errors of python-multipart and Starlette
        why = " ".join(str(getattr(error, "detail", "") or error).split())[:200]
        raise Refused(422, f"the form cannot be read: {why}", "broken_form") from None
    if not found:
        raise Refused(422, "the form has no file: call the field `files`", "empty")
    return found


def mask_of(data: bytes, width: int, height: int, limits: Limits) -> bytes:
    """Convert a mask to the form that is kept: 8-bit PNG at the picture's size, 255 where the mask is not
    black. A smaller mask of the same shape is enlarged, for not every browser can draw on large pictures.

    Raises:
        InputError: the mask is no PNG, or of another shape.
    """
    suffix, about = checked(data, "the mask", limits)
    rows, columns = about.height, about.width
    if suffix != ".png":
        raise InputError("the mask is no PNG: send a PNG in base64")
    same_shape = abs(rows - columns * height / width) <= 0.5 + rows / 100
    if rows > height or columns > width or not same_shape:
        raise InputError(f"the mask has {columns}x{rows} pixels, its picture {width}x{height}: draw it there")
    marked = Image.fromarray(read_mask(data).astype(np.uint8) * np.uint8(255))
    if marked.size != (width, height):
        marked = marked.resize((width, height), Image.Resampling.NEAREST)
    return png(np.asarray(marked))


def clean(name: str) -> str:
    """Last part of a name that a sender gave, not too long."""
    return last_part(name).strip()[:200]


def key_of(request: Request) -> str | None:
    """Sender's key of a request; None where there is none. Refused where the key is invalid."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MOST_KEY or not key.isprintable():
        text = f"Idempotency-Key must have 1 to {MOST_KEY} characters that can be printed"
        raise Refused(422, text, "bad_key")
    person = request.scope.get(PERSON_KEY)
    if person is not None and person.role == SENDER:  # a sender does not get another's answer under its key
        key = f"{hashlib.sha256(person.name.encode()).hexdigest()[:7]}:{key}"
    return key


async def label_of(
    part: Annotated[str, Query(description=f"its number; {MOST_LABEL} characters at most")] = "",
    batch: Annotated[str, Query(description="that the part belongs to")] = "",
    view: Annotated[
        str, Query(description="of the part, where the model judges parts in several views")
    ] = "",
) -> Label:
    """Label of a request's pictures; a dependency. InputError."""
    return labelled(part, batch, view)
