"""Bodies of requests, which are limited in size and time while they are received.

Also the pictures, masks and keys in requests, before pictures are decoded.
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

ANONYMOUS_BYTES = 64 * 1024  # largest body of an unknown sender, such as the form to sign in
MIN_BYTES_PER_SECOND = 10_000  # lowest mean speed of a body
MAX_LOOP_DELAY = 0.1  # seconds; a timeout that the event loop notices later is not the client's fault
_BODY_KEY = "flawscope.body"
UNNAMED = "unnamed"  # picture that came without a name
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?([\w.-]+)'[^']*'([^;\"\s]*)\"?", re.IGNORECASE)
_PLAIN_NAME = re.compile(rb';\s*filename\s*=\s*(?:"(?:\\.|[^"\\])*"|[^;"]*)', re.IGNORECASE)
MAX_KEY_LENGTH = 184  # characters; the store has room for a prefix beside them
MAX_NAME_LENGTH = 200  # characters of a picture's name


class RequestBody:
    """Body of a request while it is received.

    Args:
        limiter: Limiter of all bodies, which counts the bytes in memory.
        scope: Scope of the request, with its sender.
        receive: Receives the next message from the client.

    Attributes:
        max_bytes: Largest number of bytes of the body.
        is_in_memory: Whether the body stays in memory until the request is answered.
    """

    def __init__(self, limiter: BodyLimiter, scope: Scope, receive: Receive):
        self.limiter = limiter
        self._receive = receive
        self.max_bytes = limiter.limits.upload if scope[PERSON_KEY] is not None else ANONYMOUS_BYTES
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        self._announced_bytes = int(length) if length.isdigit() else 0
        self._start_time = time.monotonic()
        self._received_bytes = 0
        self._bytes_in_memory = 0
        self.is_in_memory = True
        self._is_complete = False

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            RefusedError: The body is too large or too slow, or the memory for all bodies is in use.
        """
        if self._is_complete:  # Starlette waits for the client to disconnect
            return await self._receive()
        # checked twice: what is announced, before it comes; and what came, which may be more
        missing_bytes = self._announced_bytes - self._received_bytes
        self._check_size(missing_bytes)
        message = await self._receive_in_time()
        message_bytes = len(message.get("body", b""))
        self._check_size(message_bytes)
        self._received_bytes += message_bytes
        if self.is_in_memory:
            self._bytes_in_memory += message_bytes
            self.limiter.bytes_in_memory += message_bytes
        self._is_complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        """Receive the next message within the time limits.

        Raises:
            RefusedError: No byte came for a while, or the whole body comes too slowly.
        """
        stall_seconds = self.limiter.limits.stalled
        while True:
            time_now = time.monotonic()
            expected_seconds = self._received_bytes / MIN_BYTES_PER_SECOND
            message_deadline = time_now + stall_seconds
            body_deadline = self._start_time + stall_seconds + expected_seconds  # at the lowest mean speed
            deadline = min(message_deadline, body_deadline)
            try:
                # `wait_for` would make a task for each message
                async with asyncio.timeout(deadline - time_now):
                    return await self._receive()
            except TimeoutError:
                # seconds that the event loop noticed the timeout late, counted from the deadline, or from the
                # beginning of this wait if the deadline had passed by then
                loop_delay = time.monotonic() - max(deadline, time_now)
                if loop_delay < MAX_LOOP_DELAY:
                    text = f"nothing came for {stall_seconds:g} s, or too little; send the picture again"
                    raise RefusedError(408, text, "stalled") from None
                self._start_time += loop_delay  # the loop was busy, and bytes may wait unread: try again

    def _check_size(self, added_bytes: int) -> None:
        """Raise RefusedError if `added_bytes` more make the body too large, or do not fit into the memory."""
        if self._received_bytes + added_bytes > self.max_bytes:
            raise too_large_error(self.max_bytes)
        if self.is_in_memory and not self.limiter.has_room(self._bytes_in_memory, added_bytes):
            megabytes = self.limiter.max_bytes / 1024**2
            text = f"the {megabytes:.0f} MB for all requests together are in use; try again in a few seconds"
            raise RefusedError(503, text, "busy")

    def release(self) -> None:
        """Give the body's memory back when the request is answered."""
        self.limiter.bytes_in_memory -= self._bytes_in_memory
        self._bytes_in_memory = 0


class BodyLimiter:
    """ASGI middleware that limits the memory for the bodies of all requests that are not answered yet.

    All bodies together may have four times as many bytes as the largest allowed request. A quarter of this
    memory is reserved for small requests, so that a few large requests cannot keep all others out.

    Args:
        app: Application that serves the requests.
        limits: Returns the limits of the settings.
    """

    def __init__(self, app: ASGIApp, limits: Callable[[], Limits]):
        self.app = app
        self._limits = limits
        self.bytes_in_memory = 0

    @property
    def limits(self) -> Limits:
        """Current limits, which may change."""
        return self._limits()

    @property
    def max_bytes(self) -> int:
        """Bytes that all bodies together may hold in memory."""
        return 4 * self.limits.upload

    def has_room(self, held_bytes: int, added_bytes: int) -> bool:
        """Return whether a request may have `added_bytes` more in memory.

        Args:
            held_bytes: Number of bytes of the request's body that are in memory.
            added_bytes: Number of further bytes.
        """
        # small: at most a quarter of the largest request, which may have a quarter of `max_bytes`
        is_small = held_bytes + added_bytes <= self.max_bytes // 16
        # large requests leave a quarter of the memory to small ones
        allowed_bytes = self.max_bytes if is_small else self.max_bytes * 3 // 4
        return self.bytes_in_memory + added_bytes <= allowed_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with a limited body (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
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

    A body that is no form is taken for the file of one picture, whatever its media type is, because programs
    send any type, or none.

    Args:
        request: HTTP request.
        picture_name: Name of a body that is one picture.

    Returns:
        The pictures, and whether they came in a form.

    Raises:
        RefusedError: The body is too large, too slow, empty or encoded.
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
    """Parser of forms that recognises more parts as files.

    A part is a file, too, if it has only `filename*` (RFC 5987), or another media type than text/plain and
    application/json.
    """

    @override
    def on_headers_finished(self) -> None:
        """Add a plain `filename` to the Content-Disposition of a part with a file, before its parsing."""
        part = self._current_part
        media_type = dict(part.item_headers).get(b"content-type", b"text/plain")
        part.content_disposition = name_file(part.content_disposition or b"", media_type)
        super().on_headers_finished()


def name_file(disposition: bytes, media_type: bytes) -> bytes:
    """Return the Content-Disposition of a form's part, with a plain `filename` added if it is a file.

    Args:
        disposition: Content-Disposition as it was sent.
        media_type: Content-Type of the part.
    """
    extended_name = _EXTENDED_NAME.search(disposition)
    if extended_name is not None:
        charset, quoted_name = extended_name.groups()
        with suppress(LookupError):  # raised for an unknown charset: then the extended name is ignored
            decoded_name = unquote_to_bytes(quoted_name).decode(charset.decode(), "replace")
            safe_name = re.sub(r'[\x00-\x1f"\\]', "_", decoded_name)
            without_names = _PLAIN_NAME.sub(b"", _EXTENDED_NAME.sub(b"", disposition))
            return without_names + f'; filename="{safe_name}"'.encode()
    is_text = media_type.lower().startswith((b"text/plain", b"application/json"))
    has_name = b"filename" in disposition
    if is_text or has_name:
        return disposition
    return disposition + f'; filename="{UNNAMED}"'.encode()


async def _read_form(request: Request) -> list[Upload]:
    """Return the files of a form. RefusedError: the form cannot be read, or has no file."""
    max_bytes = get_body(request).max_bytes
    try:
        async with aclosing(request.stream()) as stream:
            parser = FormParser(
                request.headers, stream, max_files=MAX_FILES, max_fields=20, max_part_size=max_bytes
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
    """Return the files of a form.

    Raises:
        RefusedError: The form has a field that belongs into the query of the URL, such as `part`.
    """
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

    A smaller mask of the same shape is enlarged, because not every browser can draw on large pictures.

    Args:
        data: PNG file.
        width: Columns of the picture.
        height: Rows of the picture.
        limits: Limits of pictures.

    Raises:
        InputError: The mask is no PNG, or of another shape.
    """
    suffix, facts = check_picture(data, "the mask", limits)
    rows, columns = facts.height, facts.width
    if suffix != ".png":
        raise InputError("the mask is no PNG: send a PNG in base64")
    expected_rows = columns * height / width
    # half a pixel for rounding, and 1 % for the browser's scaling
    is_same_shape = abs(rows - expected_rows) <= 0.5 + rows / 100
    if rows > height or columns > width or not is_same_shape:
        raise InputError(f"the mask has {columns}x{rows} pixels, its picture {width}x{height}: draw it there")
    image = Image.fromarray(read_mask(data).astype(np.uint8) * np.uint8(255))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.NEAREST)
    return encode_png(np.asarray(image))


def clean_name(name: str) -> str:
    """Return the last part of the path `name`, shortened to `MAX_NAME_LENGTH` characters."""
    return base_name(name).strip()[:MAX_NAME_LENGTH]


def idempotency_key(request: Request) -> str | None:
    """Return the key that the sender gave a request; None: it has no key.

    Raises:
        RefusedError: The key is invalid.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        text = f"Idempotency-Key must have 1 to {MAX_KEY_LENGTH} characters that can be printed"
        raise RefusedError(422, text, "bad_key")
    person = request.scope.get(PERSON_KEY)
    if person is not None and person.role == SENDER:
        # each sender gets a prefix, so that it cannot get the answer to another sender's request
        name_hash = hashlib.sha256(person.name.encode()).hexdigest()[:7]
        return f"{name_hash}:{key}"
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
