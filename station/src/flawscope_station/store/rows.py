"""Types of the rows that queries return: the columns that a reader of the row may use.

SQLAlchemy's own `Row` has no types of columns. Each class here has the columns of a query; `schema` explains
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sqlalchemy import (
        RowMapping,
    )  # for type checkers alone: clients import this module without SQLAlchemy


class UserRow(Protocol):
    """Row of `users`."""

    id: int
    name: str
    password: str
    role: str
    subject: str | None


class MemberRow(Protocol):
    """Person for whom a session begins."""

    id: int
    name: str


class AccountRow(Protocol):
    """Account as lists show it; only tokens have `used_at` and `expires_at`."""

    name: str
    role: str
    created_at: int
    used_at: int | None
    expires_at: int | None

    @property
    def _mapping(self) -> RowMapping: ...


class TokenRow(Protocol):
    """Row of `tokens`."""

    id: int
    name: str
    role: str
    used_at: int | None
    expires_at: int | None


class SessionRow(Protocol):
    """Session of a user: the user's name and role, and its end."""

    name: str
    role: str
    expires_at: int


class ProductRow(Protocol):
    """Row of `products`."""

    id: int
    name: str
    created_at: int
    entry_id: int | None


class EventRow(Protocol):
    """Row of `events`."""

    id: int
    at: int
    kind: str
    who: str
    product_id: int | None
    text: str
    address: str | None


class ShownEventRow(EventRow, Protocol):
    """Event with the name of its product."""

    product: str | None


class UndeliveredRow(Protocol):
    """Row of `undelivered`."""

    inspection_id: int
    verdict_id: int
    why: str
    at: int
    again: bool


class DecisionRow(Protocol):
    """Judged picture: of an inspection, or of one of its views."""

    @property
    def anomalous(self) -> bool:
        """Whether it is anomalous by its score."""

    @property
    def tolerated(self) -> bool:
        """Whether it is within tolerance."""


class InspectionRow(DecisionRow, Protocol):
    """Row of `inspections`."""

    id: int
    product_id: int
    version_id: int
    at: int
    name: str
    source: str
    key: str | None
    score: float
    score_threshold: float
    near: bool
    record: str
    verdict: str | None
    review: str
    kind: str | None
    part: str | None
    batch: str | None
    unanswered: str | None
    view: str | None
    purpose: str


class ShownInspectionRow(InspectionRow, Protocol):
    """Inspection with columns of its picture and product, as the API shows it."""

    picture: str
    width: int
    height: int
    removed_at: int | None
    product: str


class ReviewedRow(Protocol):
    """Reviewed inspection with columns of its picture.

    Attributes:
        contradicts: Whether another verdict on the same file disagrees.
    """

    id: int
    picture: str
    name: str
    view: str | None
    verdict: str
    anomalous: bool
    version_id: int
    score: float
    severity: float
    suffix: str
    removed_at: int | None
    contradicts: bool


class LatestRow(Protocol):
    """Inspection with the columns that say whether its part is good."""

    id: int
    anomalous: bool
    verdict: str | None


class DrawnRow(InspectionRow, Protocol):
    """Inspection from whose picture a model learns, with columns of the picture."""

    picture: str
    suffix: str


class LearntPictureRow(Protocol):
    """Picture from which a model learns: of a reviewed inspection, or of a random one.

    Attributes:
        view: View of the part that it shows.
    """

    id: int
    name: str
    view: str | None
    picture: str
    suffix: str


class VersionRow(Protocol):
    """Row of `versions`."""

    id: int
    product_id: int
    hash: str
    file: str
    origin: str
    facts: str
    created_at: int
    state: str


class CalledVersionRow(VersionRow, Protocol):
    """Version with the name of its product, as `called`."""

    called: str


class ChallengeInspectionRow(InspectionRow, Protocol):
    """Inspection of a challenge part, with the hash of its pixels."""

    challenge_id: int | None
    challenge_part_id: int
    pixels: str | None


class KeyedInspectionRow(Protocol):
    """Inspection under a sender's key."""

    id: int
    key: str
    picture: str
    source: str
    request_hash: str | None


class ViewRow(DecisionRow, Protocol):
    """Row of `views`, with columns of its picture."""

    inspection_id: int
    place: int
    picture: str
    view: str
    name: str
    record: str
    suffix: str
    width: int
    height: int
    removed_at: int | None
    pixels: str | None


class VerdictRow(Protocol):
    """Row of `verdicts`."""

    id: int
    inspection_id: int
    verdict: str
    at: int
    who: str
    mask: str | None
    note: str
    kind: str | None


class ChallengePartRow(Protocol):
    """Row of `challenge_parts`."""

    id: int
    name: str
    expected: str
    note: str


class ChallengeViewRow(Protocol):
    """Row of `challenge_views`."""

    part_id: int
    view: str
    pixels: str
    boxes: str
    picture: bytes


class StoredPictureRow(Protocol):
    """Picture that may be removed.

    Attributes:
        number: Number of its inspection.
        picture: SHA-256 of the file.
    """

    number: int
    product_id: int
    picture: str
    suffix: str
    bytes: int
    removed_at: int | None


class RemovableRow(Protocol):
    """Inspection or view that is removed.

    Attributes:
        id: Number of the inspection; of a view, that of the inspection which it belongs to.
        hash: SHA-256 of the picture.
    """

    id: int
    product_id: int
    hash: str
    key: str | None
    source: str


class FileKeyRow(Protocol):
    """Row of `removed_files`."""

    product_id: int
    key: str
    picture: str
    inspection_id: int


class DeliveryRow(Protocol):
    """Row of `deliveries`."""

    product_id: int
    sink: str
    inspection_id: int
    verdict_id: int
    delivered: int
    refused: int


class JobRow(Protocol):
    """Row of `jobs`."""

    id: int
    kind: str
    product_id: int
    draft: str
    start_version_id: int
    version_id: int | None
    status: str
    who: str
    created_at: int
    changed_at: int
    facts: str


class CandidateRow(JobRow, Protocol):
    """Job with the state of the version that came of it; None: there is no such version."""

    version_state: str | None
