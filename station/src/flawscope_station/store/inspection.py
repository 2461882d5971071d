"""Inspections, and the keys and labels that name them.

The API answers with an `Inspection`; the client returns it, sinks send it and exports list it. A sender's key
names a request: the same request gets the same answer however often it is sent, and another request under its
key is refused. Number and batch name a part, which may be inspected many times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic.config import JsonDict

from flawscope import Region
from flawscope.errors import FlawscopeError
from flawscope.results import FoundParts, PartPose, findings
from flawscope_station.store.purposes import PRODUCTION

Finding = findings.Finding  # in the classes below, a field `findings` hides the module
EXAMPLE: JsonDict = {
    "id": 17,
    "product": "plate",
    "version": 1,
    "at": "2026-11-22T02:04:51.123Z",
    "name": "0017.png",
    "source": "http",
    "part": "4711",
    "batch": "2026-47",
    "view": None,
    "views": [],
    "triggers": None,
    "shows": None,
    "product_p_value": None,
    "part_found": None,
    "part_pose": None,
    "found_parts": None,
    "findings": [],
    "tolerances": None,
    "unanswered": None,
    "purpose": "production",
    "picture": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "width": 640,
    "height": 480,
    "score": 21.7,
    "p_value": 0.0244,
    "severity": 2.6,
    "decision": "anomalous",
    "near": False,
    "score_threshold": 17.3,
    "regions": [
        {"box": [120.0, 80.0, 168.0, 131.0], "area": 1730.0, "peak": 21.7, "centroid": [143.9, 104.2]}
    ],
    "verdict": None,
    "verdict_id": None,
    "verdict_at": None,
    "verdict_by": None,
    "note": "",
    "has_mask": False,
    "kind": None,
    "review": "waiting",
}


def format_time(moment: datetime) -> str:
    """Return a time as 2026-11-22T02:04:51.123Z; a time without a zone is UTC."""
    zoned_moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return zoned_moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(format_time)]
# a region in the form of `Region.to_dict`, which leaves out kinds and sizes that the model does not have
WrittenRegion = Annotated[
    Region, PlainSerializer(Region.to_dict), WithJsonSchema(TypeAdapter(Region).json_schema())
]


Decision = Literal["good", "anomalous", "within tolerance"]


class SeenView(BaseModel):
    """Picture of a part in several views; numbers as in `Prediction`, of this picture alone."""

    model_config = ConfigDict(frozen=True, extra="allow")
    view: str
    name: str = Field(description="name of the picture, from its sender")
    picture: str | None = Field(description="SHA-256 of the file; null when it was removed")
    width: int
    height: int
    decision: Decision
    score: float
    p_value: float
    severity: float
    score_threshold: float
    regions: tuple[WrittenRegion, ...] = ()
    findings: tuple[Finding, ...] = ()


class Inspection(BaseModel):
    """Part that was judged; numbers as in `Prediction`.

    For a part in several views, `decision` and `p_value` are the part's; the other numbers are those of its
    most unusual picture. The fields are the columns of an export. An answer also has further facts of the
    library under their names in `Prediction.to_dict`; an export has them in the column `more`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", json_schema_extra={"example": EXAMPLE})
    id: int
    at: Time = Field(description="time at which the picture arrived, UTC")
    product: str
    version: int = Field(description="number of the model version that judged")
    name: str = Field(description="name of the picture, from its sender")
    source: str
    decision: Decision = Field(description="within tolerance: anomalous, and tolerated by a person's rules")
    score: float
    p_value: float
    severity: float
    score_threshold: float
    verdict: Literal["good", "defect"] | None = Field(description="verdict of a person; null: there is none")
    verdict_id: int | None = Field(
        None, description="number of the verdict, for `replaces` of a later verdict"
    )
    verdict_at: Time | None
    verdict_by: str | None
    note: str
    review: Literal["none", "waiting", "done", "skipped"]
    width: int
    height: int
    picture: str | None = Field(description="SHA-256 of the file; null when it was removed")
    regions: tuple[WrittenRegion, ...] = Field(
        (),
        description="anomalous regions, the strongest first, each with the possible `kinds` of its defect; "
        "empty `kinds`: something new",
    )
    part: str | None = Field(description="number of the part, from its sender")
    batch: str | None = Field(description="batch of the part")
    triggers: int | None = Field(
        None, description="number of triggers that the frame answers; null: it came without a trigger"
    )
    shows: str | None = Field(
        None,
        description='product that was recognised, or "none of these"; null: the address names the product',
    )
    product_p_value: float | None = Field(
        None,
        description="p-value of the recognition: how often a good part of the product looks as different; "
        "null: the address names the product",
    )
    part_found: bool | None = Field(
        None, description="false: the picture shows no part; null: the model aligns no parts"
    )
    part_pose: PartPose | None = Field(
        None, description="pose of the part; null: no part was found, or none is looked for"
    )
    found_parts: FoundParts | None = Field(
        None, description="parts in the picture, each judged; null: the model does not look for several parts"
    )
    near: bool = Field(description="true: good, but near the threshold")
    has_mask: bool = Field(description="true: a person drew a mask of the defect")
    view: str | None = Field(description="view that the picture shows; null: the part has a single picture")
    views: tuple[SeenView, ...] = Field(
        (), description="all pictures of a part in several views; empty: it has a single picture"
    )
    findings: tuple[Finding, ...] = Field(
        (), description="findings beside the score; a finding that `decides` makes the picture anomalous"
    )
    kind: str | None = Field(None, description="kind of the defect, as a person named it")
    tolerances: dict[str, str] | None = Field(
        None, description="version and SHA-256 of the tolerance rules in force; null: there were none"
    )
    unanswered: Literal["late", "withdrawn", "abandoned"] | None = Field(
        None,
        description="why the sender did not get the answer: it was late, or the line or client did not wait "
        "for it; null: it was answered",
    )
    purpose: Literal["production", "challenge", "trial"] = Field(
        "production",
        description="challenge: a challenge part; trial: a try by hand, no part of the line. Neither counts "
        "in any figure",
    )

    @property
    def is_anomalous(self) -> bool:
        """Whether it is anomalous by its score, also where it is within tolerance."""
        return self.decision != "good"


class RegionFacts(TypedDict):
    """Region as it is recorded: JSON has lists where `flawscope.Region` has tuples."""

    box: tuple[float, float, float, float]
    area: float
    peak: float
    centroid: tuple[float, float]
    kinds: NotRequired[tuple[str, ...]]
    kind_p_values: NotRequired[dict[str, float]]


class FindingFacts(TypedDict):
    """Finding as it is recorded: the fields that the station itself reads."""

    code: str
    words: str


class ViewFacts(TypedDict):
    """Picture of a part in several views, as JSON: the fields of `SeenView` that the station reads."""

    view: str
    name: str
    picture: str | None
    width: int
    height: int
    decision: str
    regions: list[RegionFacts]


class InspectionFacts(TypedDict):
    """Inspection as JSON: the fields of `Inspection` that the station itself reads."""

    id: int
    at: str
    product: str
    version: int
    name: str
    decision: str
    score: float
    width: int
    height: int
    picture: str | None
    near: bool
    part: str | None
    batch: str | None
    view: str | None
    unanswered: str | None
    verdict: str | None
    verdict_id: int | None
    regions: list[RegionFacts]
    views: list[ViewFacts]
    findings: list[FindingFacts]


def other_fields(inspection: Mapping[str, object]) -> dict[str, object]:
    """Return the values of an inspection that are no fields of `Inspection`: further facts of the library."""
    return {name: value for name, value in inspection.items() if name not in Inspection.model_fields}


FOLDER = "folder"  # source of an inspection
HTTP = "http"  # scheme of senders' keys in the store, for requests to a product
ENTRY = "any"  # scheme of senders' keys in the store, for requests to an entry
MAX_FILES = 100  # files of a form
UNANSWERED_REQUEST = "request, which is not answered yet"
MAX_LABEL_LENGTH = 500  # characters of a part's number or batch: PostgreSQL's indexes take 2.7 kB at most
PADDING = " \t\r\n\0"  # characters that are stripped from both ends of a label


class RefusalError(FlawscopeError):
    """A picture, or a trigger, is not judged.

    It is no `InputError`, after which a picture is given up as unreadable. Callers decide about each
    subclass; only `BusyError` says that other requests wait, too.

    Attributes:
        status: HTTP status.
        code: Reason, for programs.
    """

    status = 503
    code = "failed"


class KeyUsedError(RefusalError):
    """The key of a request names another request."""

    status = 409
    code = "key_used"

    def __init__(self, use: str):
        super().__init__(
            f"this Idempotency-Key was used for another {use}: send a new request under a new key, and the "
            "number of a part as `part`"
        )


class Label(NamedTuple):
    """Part that a picture shows, as the sender names it: number and batch of the part, and the view."""

    part: str | None = None
    batch: str | None = None
    view: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the texts that the sender gave, by the name of the field."""
        return {name: text for name, text in self._asdict().items() if text is not None}


def make_label(part: str | None, batch: str | None, view: str | None = None) -> Label:
    """Return the label of a picture from texts as the sender gave them; empty texts become None."""
    texts = [label_text(text or "") for text in (part, batch, view)]
    part_text, batch_text, view_text = (text or None for text in texts)
    return Label(part_text, batch_text, view_text)


def label_text(text: str) -> str:
    r"""Return a part's number, batch or view in the form that is recorded and shown.

    A character that cannot be printed is replaced by a visible one, such as ␝ for GS, or by its code, such as
    \u00a0. If the text has more than `MAX_LABEL_LENGTH` characters, its end is replaced by a hash of the
    whole, so that different texts stay different.
    """
    stripped_text = text.strip(PADDING)
    printable = "".join(
        character if character.isprintable() else _printable_form(ord(character))
        for character in stripped_text
    )
    if len(printable) <= MAX_LABEL_LENGTH:
        return printable
    digest = hashlib.sha256(printable.encode()).hexdigest()[:32]
    beginning = printable[: MAX_LABEL_LENGTH - len(digest) - 1]  # 1 for the ellipsis
    return f"{beginning}…{digest}"


def _printable_form(code: int) -> str:
    """Return the form of a character that cannot be printed: Unicode's control picture, or its code."""
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:  # delete
        return "\u2421"
    return f"\\u{code:04x}"


@dataclass(frozen=True)
class KeyedRequest:
    """Request that its sender has named by a key.

    Attributes:
        key: Key from `request_key`: the scheme of the address, and the sender's key.
        keys: Keys of its parts; for a request of a single part, `key` alone.
        hash: SHA-256 of all that was sent.
        pictures: SHA-256 of each file; empty: the request is a trigger.
    """

    key: str
    keys: tuple[str, ...]
    hash: str
    pictures: tuple[str, ...] = ()

    def possible_keys(self) -> list[str]:
        """Return all stored keys that any request under this sender's key may have.

        By these keys, the caller finds out whether another request has used the sender's key.
        """
        is_single_part = self.keys == (self.key,)
        max_parts = 1 if is_single_part else MAX_FILES
        return [self.key, *part_keys(self.key, max_parts)]


def request_key(scheme: str, key: str) -> str:
    """Return the key of a request as it is stored.

    Args:
        scheme: Scheme of the address: `HTTP` for a product, `ENTRY` for an entry. The two schemes keep the
            keys of both apart.
        key: Key from the sender.
    """
    return f"{scheme}:{key}"


def part_keys(key: str, count: int) -> tuple[str, ...]:
    """Return the keys of the parts of a request that sends several parts.

    The keys have the form SCHEME/PLACE:KEY. The "/" keeps them apart from the keys of requests, SCHEME:KEY.

    Args:
        key: Key of the request, from `request_key`.
        count: Number of parts.
    """
    scheme, _, sender_key = key.partition(":")
    return tuple(f"{scheme}/{place}:{sender_key}" for place in range(count))


def upload_request(
    key: str,
    files: Sequence[bytes],
    is_form: bool,
    is_multi_part: bool,
    label: Label,
    purpose: str = PRODUCTION,
) -> KeyedRequest:
    """Return a request that sends pictures, with the hash of its content.

    The purpose is a part of the hash: the answer to a trial is never given to the same request of the
    production.

    Args:
        key: Key from `request_key`.
        files: Content of each file.
        is_form: Whether the pictures came in a form.
        is_multi_part: Whether each picture is a part of its own; else they are one part.
        label: Label of the pictures.
        purpose: Purpose of the inspections.
    """
    pictures = tuple(hashlib.sha256(data).hexdigest() for data in files)
    hashed_texts = [label.part, label.batch, *pictures, *_view_fields(label)]
    if purpose != PRODUCTION:
        hashed_texts.append(f"purpose={purpose}")
    keys = part_keys(key, len(pictures)) if is_multi_part else (key,)
    request_hash = _hash("form" if is_form else "file", *hashed_texts)
    return KeyedRequest(key, keys, request_hash, pictures)


def trigger_request(key: str, camera: int | None, label: Label) -> KeyedRequest:
    """Return a request that takes a frame of a camera, with the hash of its content.

    Args:
        key: Key from `request_key`.
        camera: Number of the camera; None: the product's only one.
        label: Label of the part.
    """
    camera_text = None if camera is None else str(camera)
    request_hash = _hash("trigger", camera_text, label.part, label.batch, *_view_fields(label))
    return KeyedRequest(key, keys=(key,), hash=request_hash)


def _view_fields(label: Label) -> tuple[str, ...]:
    """Return the view of a label as a text to be hashed; empty where the label has no view."""
    return () if label.view is None else (f"view={label.view}",)


def _hash(*texts: str | None) -> str:
    """Return the SHA-256 of texts, separated by zero bytes; None counts as empty."""
    return hashlib.sha256("\0".join(text or "" for text in texts).encode()).hexdigest()
