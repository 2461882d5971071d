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
    """Return the URL of a station in its normal form.

    If the URL has no scheme, http:// is added. Slashes at its end are removed.

    Raises:
        InputError: the text cannot be the URL of a station.
    """
    stripped = url.strip()
    full_url = stripped if "://" in stripped else f"http://{stripped}"
    if not _is_station_url(full_url):
        raise InputError(
            f"{redact_address(full_url)} is no address of a station: write for example http://127.0.0.1:8080"
        )
    return full_url.rstrip("/")


def _is_station_url(url: str) -> bool:
    """Return whether a URL has the scheme http or https, a host, no query and no fragment."""
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where the port is no number
    except ValueError:
        return False
    if parts.query or parts.fragment:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def check_token(text: str) -> str:
    """Return a token without spaces at its ends.

    Raises:
        InputError: the token is empty, or has characters that no token has.
    """
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("the token is none: it begins with fls_ and has no spaces")
    return token


def encode_picture(picture: PictureSource) -> tuple[bytes, str]:
    """Return a picture as the content of a file, and the name of the file.

    Files and encoded pictures are returned unchanged. Other pictures are encoded: float32 as TIFF, all others
    as PNG.

    Raises:
        InputError: the file cannot be read, or the picture has three channels of more than 8 bits each.
    """
    if isinstance(picture, str | os.PathLike):
        return read_file(Path(picture), "picture"), os.path.basename(picture)
    if isinstance(picture, bytes):
        return picture, "picture"
    array = decoding.decode(picture, name="picture")  # [H, W, channels]
    channels = array.shape[2]
    if channels == 3 and array.dtype != np.uint8:
        raise InputError("a deep colour picture has no file format that keeps it: send the file, or 8 bits")
    image = Image.fromarray(array[:, :, 0] if channels == 1 else array)
    buffer = io.BytesIO()
    if array.dtype == np.float32:
        image.save(buffer, "TIFF")
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "picture"


def read_file(path: Path, kind: str) -> bytes:
    """Return the content of a file.

    Args:
        path: Path of the file.
        kind: Kind of the file, for the message, such as "picture".

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror}; check the path") from None


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Return a mask [H, W] bool as a PNG file in base64, with 0 and 255.

    Raises:
        InputError: the array does not have this shape and type.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError("a mask is an array [H, W] of bool at the picture's size")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def parse(cls: type[T], answer: object) -> T:
    """Return a station's answer as a pydantic model; fields that a newer station adds are ignored.

    Args:
        cls: Class of the model.
        answer: Decoded JSON of the answer.

    Raises:
        FlawscopeError: a field is missing, or has a value that this version of the client does not know.
    """
    try:
        return cls.model_validate(answer)
    except ValidationError as error:
        first_error = error.errors()[0]
        field = ".".join(map(str, first_error["loc"])) or "JSON object"
        is_missing = first_error["type"] == "missing"
        problem = "has no" if is_missing else "has another"
        raise FlawscopeError(
            f"the station's answer {problem} {field}: update the client or the station"
        ) from None
