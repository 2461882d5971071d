"""Bodies of requests: limited in size and time while they are received.

Also the pictures, masks and keys in requests, before anything is decoded.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote_to_bytes

import numpy as np
from fastapi import Query
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from typing_extensions import override

from flawscope.errors import InputError
from flawscope.pictures import read_mask
from flawscope_station.access.roles import PERSON_KEY, SENDER
from flawscope_station.inspecting.picture import base_name, check_picture
from flawscope_station.inspecting.renderings import encode_png
from flawscope_station.settings.station import Limits
from flawscope_station.store.inspection import MAX_FILES, Label, make_label
from flawscope_station.web.errors import RefusedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANONYMOUS_BYTES = 64 * 1024  # of a body without a person: a name and a password
MIN_BYTES_PER_SECOND = 10_000  # of a body, on average
MAX_LOOP_DELAY = 0.1  # seconds; if the event loop is later than that, the client is not to blame
_BODY_KEY = "flawscope.body"
UNNAMED = "unnamed"  # picture that came without a name
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?([\w.-]+)'[^']*'([^;\"\s]*)\"?", re.IGNORECASE)
_PLAIN_NAME = re.compile(rb';\s*filename\s*=\s*(?:"(?:\\.|[^"\\])*"|[^;"]*)', re.IGNORECASE)
MAX_KEY_LENGTH = 184  # characters, with room for the prefix in the store


class RequestBody:
    """Body of a request while it is received.

    Attributes:
        max_bytes: Bytes that the body may have.
        is_in_memory: Whether the body stays in memory until the request is answered.
    """

    def __init__(self, limiter: BodyLimiter, scope: Scope, receive: Receive):
        self.limiter = limiter
        self._receive = receive
        self.max_bytes = limiter.limits.upload if scope[PERSON_KEY] is not None else ANONYMOUS_BYTES
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self._announced = int(length) if length.isdigit() else 0
        self._started = time.monotonic()
        self._received = self._bytes_in_memory = 0
        self.is_in_memory = True
        self._is_complete = False

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            RefusedError: the body is too large or too slow, or the memory for all bodies is in use.
        """
        if self._is_complete:  # Starlette waits for the client to disconnect
            return await self._receive()
        self._check_size(self._announced - self._received)
        message = await self._receive_in_time()
        more = len(message.get("body", b""))
        self._check_size(more)
        self._received += more
        if self.is_in_memory:
            self._bytes_in_memory += more
            self.limiter.bytes_in_memory += more
        self._is_complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        stalled = self.limiter.limits.stalled
        while True:
            now = time.monotonic()
            deadline = min(now + stalled, self._started + stalled + self._received / MIN_BYTES_PER_SECOND)
            try:
                async with asyncio.timeout(deadline - now):  # `wait_for` would make a task for each message
                    return await self._receive()
            except TimeoutError:
                delay = time.monotonic() - max(deadline, now)
                if delay < MAX_LOOP_DELAY:
                    text = f"nothing came for {stalled:g} s, or too little; send the picture again"
                    raise RefusedError(408, text, "stalled") from None
                self._started += delay  # bytes may wait unread: not the client's fault

    def _check_size(self, more: int) -> None:
        if self._received + more > self.max_bytes:
            raise too_large_error(self.max_bytes)
        if self.is_in_memory and not self.limiter.has_room(self._bytes_in_memory, more):
            megabytes = self.limiter.max_bytes / 1024**2
            text = f"the {megabytes:.0f} MB for all requests together are in use; try again in a few seconds"
            raise RefusedError(503, text, "busy")

    def release(self) -> None:
        """Give the body's memory back when the request is answered."""
        self.limiter.bytes_in_memory -= self._bytes_in_memory
        self._bytes_in_memory = 0


class BodyLimiter:
    """ASGI middleware that limits the memory of all requests' bodies until they are answered.

    All bodies together may hold four times the largest request. A quarter of that is for requests of an
    ordinary size, so that a few large ones, or ones that never end, keep nobody else out.
    """

    def __init__(self, app: ASGIApp, limits: Callable[[], Limits]):
        self.app = app
        self._limits = limits
        self.bytes_in_memory = 0

    @property
    def limits(self) -> Limits:
        """Present limits: pages change them."""
        return self._limits()

    @property
    def max_bytes(self) -> int:
        """Bytes that all bodies together may hold."""
        return 4 * self.limits.upload

    def has_room(self, held_bytes: int, added: int) -> bool:
        """Return whether a request whose body has `held_bytes` in memory may have `added` bytes more."""
        is_ordinary = held_bytes + added <= self.max_bytes // 16
        return self.bytes_in_memory + added <= (self.max_bytes if is_ordinary else self.max_bytes * 3 // 4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with a limited body (ASGI)."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = scope[_BODY_KEY] = RequestBody(self, scope, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()


def get_body(request: Request) -> RequestBody:
    """Return the body of a request."""
    body: RequestBody = request.scope[_BODY_KEY]
    return body


def too_large_error(max_bytes: int) -> RefusedError:
    """Return the refusal (413) of a request with more than `max_bytes`."""
    size = f"{max_bytes / 1024**2:.0f} MB" if max_bytes >= 1024**2 else f"{max_bytes // 1024} KB"
    text = f"the request has more than {size}: send less at once, or raise `limits: upload`"
    return RefusedError(413, text, "too_large")


@dataclass(frozen=True)
class Upload:
    """Picture file as it was sent.

    Attributes:
        name: Last part of its path.
        data: Bytes of the file.
    """

    name: str
    data: bytes = field(repr=False)


async def read_uploads(request: Request, picture_name: str) -> tuple[list[Upload], bool]:
    """Read the pictures of a request.

    A body of any other type than a form is a picture's file, and its bytes decide the format: programs send
    any type, or none.

    Args:
        request: HTTP request.
        picture_name: Name of a body that is one picture.

    Returns:
        The pictures, and whether they came in a form.

    Raises:
        RefusedError: the body is too large, too slow, empty or encoded.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise RefusedError(415, f"the body is encoded as {encoding[:20]}: send it as it is", "encoded")
    if media_type.startswith("multipart/"):
        return await _read_form(request), True
    data = await request.body()
    if not data:
        raise RefusedError(422, "the request has no picture in its body", "empty")
    return [Upload(clean_name(picture_name) or UNNAMED, data)], False


class FormParser(MultiPartParser):
    """Parser of forms that also knows a file by `filename*` (RFC 5987), or without a name by its type."""

    @override
    def on_headers_finished(self) -> None:
        """Rewrite the part's Content-Disposition where it is a file, before the parser reads it."""
        part = self._current_part
        kind = dict(part.item_headers).get(b"content-type", b"text/plain")
        part.content_disposition = name_file(part.content_disposition or b"", kind)
        super().on_headers_finished()


def name_file(disposition: bytes, kind: bytes) -> bytes:
    """Return a form part's Content-Disposition with a plain `filename` where the part is a file.

    Args:
        disposition: Content-Disposition as it was sent.
        kind: Content-Type of the part.
    """
    if (found := _EXTENDED_NAME.search(disposition)) is not None:
        with suppress(LookupError):
            name = unquote_to_bytes(found[2]).decode(found[1].decode(), "replace")
            name = re.sub(r'[\x00-\x1f"\\]', "_", name)
            rest = _PLAIN_NAME.sub(b"", _EXTENDED_NAME.sub(b"", disposition))
            return rest + f'; filename="{name}"'.encode()
    is_text = kind.lower().startswith((b"text/plain", b"application/json"))
    has_name = b"filename" in disposition
    return disposition if is_text or has_name else disposition + f'; filename="{UNNAMED}"'.encode()


async def _read_form(request: Request) -> list[Upload]:
    most = get_body(request).max_bytes
    try:
        async with aclosing(request.stream()) as stream:
            parser = FormParser(
                request.headers, stream, max_files=MAX_FILES, max_fields=20, max_part_size=most
            )
            form = await parser.parse()
        try:
            uploads = await _uploads_of(form)
        finally:
            await form.close()
    except RefusedError:
        raise
    except Exception as error:  # errors of python-multipart and Starlette
        reason = " ".join(str(error).split())[:200]
        raise RefusedError(422, f"the form cannot be read: {reason}", "broken_form") from None
    if not uploads:
        raise RefusedError(422, "the form has no file: call the field `files`", "empty")
    return uploads


async def _uploads_of(form: FormData) -> list[Upload]:
    """Return the files of a form. RefusedError where it has a field that belongs into the address."""
    for name in Label._fields:
        if isinstance(form.get(name), str):
            text = f"{name} is no field of the form: write it into the address, ?{name}=..."
            raise RefusedError(422, text, "invalid")
    uploads = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            name = clean_name(value.filename or "") or UNNAMED
            uploads.append(Upload(name, await value.read()))
    return uploads


def normalize_mask(data: bytes, width: int, height: int, limits: Limits) -> bytes:
    """Convert a mask to its stored form: 8-bit PNG at the picture's size, 255 where the mask is not black.

    A smaller mask of the same shape is enlarged: not every browser can draw on large pictures.

    Args:
        data: PNG file.
        width: Columns of the picture.
        height: Rows of the picture.
        limits: Limits of pictures.

    Raises:
        InputError: the mask is no PNG, or of another shape.
    """
    suffix, facts = check_picture(data, "the mask", limits)
    rows, columns = facts.height, facts.width
    if suffix != ".png":
        raise InputError("the mask is no PNG: send a PNG in base64")
    same_shape = abs(rows - columns * height / width) <= 0.5 + rows / 100
    if rows > height or columns > width or not same_shape:
        raise InputError(f"the mask has {columns}x{rows} pixels, its picture {width}x{height}: draw it there")
    image = Image.fromarray(read_mask(data).astype(np.uint8) * np.uint8(255))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.NEAREST)
    return encode_png(np.asarray(image))


def clean_name(name: str) -> str:
    """Return the last part of a sent path, 200 characters at most."""
    return base_name(name).strip()[:200]


def idempotency_key(request: Request) -> str | None:
    """Return the sender's key of a request, or None.

    Raises:
        RefusedError: the key is invalid.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        text = f"Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters that can be printed"
        raise RefusedError(422, text, "bad_key")
    person = request.scope.get(PERSON_KEY)
    if person is not None and person.role == SENDER:  # a sender does not get another's answer under its key
        key = f"{hashlib.sha256(person.name.encode()).hexdigest()[:7]}:{key}"
    return key


async def parse_label(
    part: Annotated[str, Query(description="number of the part")] = "",
    batch: Annotated[str, Query(description="batch of the part")] = "",
    view: Annotated[
        str,
        Query(description="view of the part in the picture, where the model judges parts in several views"),
    ] = "",
) -> Label:
    """Return the label of a request's pictures, from its query."""
    return make_label(part, batch, view)
