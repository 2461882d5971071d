"""Messages between a client and a station: addresses, pictures, masks and answers."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures import PictureSource, decoding
from flawscope_station.settings.values import redact_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T", bound=BaseModel)


def normalize_url(url: str) -> str:
    """Return a station's URL with its scheme, http:// by default, and no slash at its end. InputError."""
    full = url.strip() if "://" in url else f"http://{url.strip()}"
    if not _is_station_url(full):
        raise InputError(
            f"{redact_address(full)} is no address of a station: write for example http://127.0.0.1:8080"
        )
    return full.rstrip("/")


def _is_station_url(url: str) -> bool:
    """Whether a URL has host and port of a server, and no query."""
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # it is a number
    except ValueError:
        return False
    if parts.query or parts.fragment:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def check_token(text: str) -> str:
    """Return a token without the spaces around it. InputError where it is empty or has other signs."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("the token is none: it begins with fls_ and has no spaces")
    return token


def encode_picture(picture: PictureSource) -> tuple[bytes, str]:
    """Return a picture as an encoded file, and its name."""
    if isinstance(picture, str | os.PathLike):
        return read_file(Path(picture), "picture"), os.path.basename(picture)
    if isinstance(picture, bytes):
        return picture, "picture"
    array = decoding.decode(picture, name="picture")
    buffer = io.BytesIO()
    if array.shape[2] == 3 and array.dtype != np.uint8:
        raise InputError("a deep colour picture has no file format that keeps it: send the file, or 8 bits")
    single = array[:, :, 0] if array.shape[2] == 1 else array
    if single.dtype == np.float32:
        Image.fromarray(single).save(buffer, "TIFF")
    else:
        Image.fromarray(single).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "picture"


def read_file(path: Path, kind: str) -> bytes:
    """Return a file's bytes. InputError, which names the kind of file, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror}; check the path") from None


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Encode a mask as PNG of 8 bits, 0 and 255, in base64. InputError."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError("a mask is an array [H, W] of bool at the picture's size")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def parse(cls: type[T], answer: object) -> T:
    """Validate a station's answer; fields that a newer station adds are ignored.

    FlawscopeError where a field is missing, or has a value that this version does not know.
    """
    try:
        return cls.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "JSON object"
        why = "has no" if first["type"] == "missing" else "has another"
        raise FlawscopeError(
            f"the station's answer {why} {field}: update the client or the station"
        ) from None
