"""What goes between a station and its clients: records of its answers, and pictures as they are sent."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import Source, decode
from flawscope.results.prediction import Region
from flawscope.station.settings.secret import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")


class RefusedError(InputError):
    """The station does not do what was asked.

    Attributes:
        status: of HTTP. code: the station's word for the reason.
    """

    def __init__(self, text: str, status: int, code: str):
        super().__init__(text)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Inspection:
    """A picture that the station has judged; numbers as in `Prediction`.

    at: when it came. picture: SHA-256 of its file; None: it was removed. near: good, but not by much.
    verdict: what a person said, good or defect. review: none, waiting, done or skipped. part, batch: as its
    sender said. triggers: how many the frame answers; None: none asked for it.
    """

    id: int
    product: str
    version: int
    at: datetime
    name: str
    source: str
    score: float
    p_value: float
    severity: float
    decision: str
    score_threshold: float
    picture: str | None = None
    width: int = 0
    height: int = 0
    near: bool = False
    regions: tuple[Region, ...] = ()
    verdict: str | None = None
    verdict_at: datetime | None = None
    verdict_by: str | None = None
    note: str = ""
    has_mask: bool = False
    review: str = "none"
    part: str | None = None
    batch: str | None = None
    triggers: int | None = None

    @property
    def is_anomalous(self) -> bool:
        return self.decision == "anomalous"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inspection:
        """From the API's answer; fields that a newer station adds are passed over."""
        given = dict(data)
        for name in ("at", "verdict_at"):
            if given.get(name):
                given[name] = datetime.fromisoformat(given[name])
        given["regions"] = tuple(_region(one) for one in given.get("regions", ()))
        return built(cls, given)


@dataclass(frozen=True)
class Product:
    """What is inspected.

    version: the model version that judges. waiting: for a review. backlog: pictures that are queued. rate:
    pictures a second, of the last minute. problem: what keeps it from judging. sources: folders, video files
    and cameras, as the API describes them.
    """

    name: str
    version: int | None
    method: str = ""
    file: str = ""
    score_threshold: float | None = None
    false_alarm_rate: float | None = None
    inspections: int = 0
    waiting: int = 0
    backlog: int = 0
    rate: float = 0.0
    folder: str | None = None
    problem: str | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Version:
    """A model that judges, has judged or can judge. pictures: that it was learnt from, by their role."""

    id: int
    file: str
    hash: str
    origin: str
    method: str
    created_at: str
    active: bool
    score_threshold: float
    false_alarm_rate: float
    pictures: dict[str, int] = field(default_factory=dict)
    size: list[int] = field(default_factory=list)
    promise: str = ""
    notes: list[str] = field(default_factory=list)
    switches: list[dict[str, str]] = field(default_factory=list)


def _region(data: Mapping[str, Any]) -> Region:
    (x0, y0, x1, y1), (x, y) = data["box"], data["centroid"]
    return Region((x0, y0, x1, y1), data["area"], data["peak"], (x, y))


def built(cls: type[T], data: Mapping[str, Any]) -> T:
    """What the answer says, as a record. FlawscopeError where something is not there."""
    known = fields(cls)  # type: ignore[arg-type]
    missing = [
        one.name
        for one in known
        if one.name not in data and one.default is MISSING and one.default_factory is MISSING
    ]
    if missing:
        raise FlawscopeError(
            f"the station's answer has no {', '.join(missing)}: update the client or the station"
        )
    return cls(**{one.name: data[one.name] for one in known if one.name in data})


# ----------------------------------------------------------------------------------------------- what is sent


def address(url: str) -> str:
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise InputError(f"{shown(text)} is no address of a station: write for example http://127.0.0.1:8080")
    return text.rstrip("/")


def token_text(text: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("the token is none: it begins with fls_ and has no spaces")
    return token


def encoded(picture: Source) -> tuple[bytes, str]:
    """The file that is sent, and a name for it."""
    if isinstance(picture, str | os.PathLike):
        return read_file(Path(picture), "picture"), os.path.basename(picture)
    if isinstance(picture, bytes):
        return picture, "picture"
    array, buffer = decode(picture, name="picture"), io.BytesIO()
    if array.shape[2] == 3 and array.dtype != np.uint8:
        raise InputError("a deep colour picture has no file format that keeps it: send the file, or 8 bits")
    single = array[:, :, 0] if array.shape[2] == 1 else array
    if single.dtype == np.float32:
        Image.fromarray(single).save(buffer, "TIFF")
    else:
        Image.fromarray(single).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "picture"


def read_file(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror}; check the path") from None


def mask_png(mask: NDArray[np.bool_]) -> str:
    """8-bit PNG, 0 and 255, in base64."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError("a mask is an array [H, W] of bool at the picture's size")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def time_text(moment: datetime | str | None) -> str | None:
    if not isinstance(moment, datetime):
        return moment
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
