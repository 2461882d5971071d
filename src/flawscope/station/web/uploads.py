"""What a request brings, before anything is decoded."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from fastapi import Query
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request

from flawscope.errors import InputError
from flawscope.pictures.decoding import read_mask
from flawscope.station.access.roles import SCOPE, SENDER
from flawscope.station.inspecting.renderings import png
from flawscope.station.inspecting.worker import checked
from flawscope.station.settings.station import Limits
from flawscope.station.store.identity import MOST_FILES, MOST_LABEL, Label, labelled
from flawscope.station.web.bodies import UploadError, body_of

MOST_KEY = 184  # characters, with room for what stands before it in the store
_RAW = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")  # the last: curl's own


@dataclass(frozen=True)
class Upload:
    """A picture as it was sent. name: only the last part of a path."""

    name: str
    data: bytes = field(repr=False)


async def read(request: Request, name: str) -> tuple[list[Upload], bool]:
    """The pictures of a request, and whether they came in a form.

    Raises:
        UploadError: too large, too slow, or nothing that is a picture by its type.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request), True
    if kind and not kind.startswith(_RAW):
        raise UploadError(
            f"{kind:.60} is no picture: send image/… or application/octet-stream, or a form with `files`",
            *(415, "not_a_picture"),
        )
    data = await request.body()
    if not data:
        raise UploadError("the request has no picture in its body", 422, "empty")
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
                    raise UploadError(text, 422, "invalid")
            found = [Upload(clean(file.filename or "") or "picture", await file.read()) for file in files]
    except UploadError:
        raise
    except Exception as error:  # what python-multipart and Starlette say of a broken form
        why = " ".join(str(getattr(error, "detail", "") or error).split())[:200]
        raise UploadError(f"the form cannot be read: {why}", 422, "broken_form") from None
    if not found:
        raise UploadError("the form has no file: call the field `files`", 422, "empty")
    return found


def mask_of(data: bytes, width: int, height: int, limits: Limits) -> bytes:
    """A mask as it is kept: 8-bit PNG at the picture's size, 255 where the sent one is not black. A smaller
    one of the same shape is enlarged, for not every browser can draw on large pictures.

    Raises:
        InputError: it is no PNG, or of another shape.
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
    """The last part of a name that a sender gave, without what cannot be shown."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()[:200]


def key_of(request: Request) -> str | None:
    """The sender's key. UploadError where it is none."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MOST_KEY or not key.isprintable():
        text = f"Idempotency-Key must have 1 to {MOST_KEY} characters that can be printed"
        raise UploadError(text, 422, "bad_key")
    person = request.scope.get(SCOPE)
    if person is not None and person.role == SENDER:  # under another's key is another's answer
        key = f"{hashlib.sha256(person.name.encode()).hexdigest()[:7]}:{key}"
    return key


async def label_of(
    part: Annotated[str, Query(description=f"its number; {MOST_LABEL} characters at most")] = "",
    batch: Annotated[str, Query(description="that the part belongs to")] = "",
) -> Label:
    """Of which part the pictures of a request are; a dependency. InputError."""
    return labelled(part, batch)
