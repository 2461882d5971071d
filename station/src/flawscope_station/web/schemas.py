"""Schemas of requests and answers, for the API's description and checks, and the client; pydantic alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flawscope_station.store.inspection import Inspection
from flawscope_station.store.product_facts import Product


class Refusal(BaseModel):
    """Reason why a request was refused."""

    error: str = Field(description="one line that names the thing, the reason and the remedy")
    code: str


class PartResult(BaseModel):
    """Result of a part in a form: an inspection, or the reason why there is none."""

    inspection: Inspection | None = None
    name: str | None = None
    error: str | None = None
    code: str | None = None


class PartResults(BaseModel):
    """Results of the parts of a form, in the form's order."""

    results: list[PartResult]


class RemovedProducts(BaseModel):
    """Names of removed products."""

    products: list[str] = Field(description="names of those that have records")


class Inspections(BaseModel):
    """Page of inspections that a search found."""

    inspections: list[Inspection]
    next: str | None = Field(description="`cursor` of the page after this one")


class WaitingInspections(BaseModel):
    """Inspections that wait for a review."""

    inspections: list[Inspection]
    waiting: int = Field(description="all that wait, also those that are lent to other readers")


class UndeliveredMessage(BaseModel):
    """Message that a sink refused for good."""

    sink: str
    inspection: int
    verdict: int | None = Field(description="that the message is about; null: it is about the inspection")
    why: str
    at: str
    again: bool = Field(description="it is being sent again")


class UndeliveredMessages(BaseModel):
    """Messages that a sink refused for good."""

    messages: list[UndeliveredMessage] = Field(description="the latest 1,000 of each sink, the latest first")


class Shift(BaseModel):
    """Shift that has ended, with the counts of its inspections. The fields are the columns of the CSV."""

    name: str
    since: str = Field(description="by the clocks of the zone of `shifts`: 2026-11-22T06:00:00+01:00")
    until: str
    inspected: int
    anomalous: int
    reviewed: int
    defects: int
    false_alarms: int
    misses: int
    within_tolerance: int
    unanswered: int


class PauseRequest(BaseModel):
    """Wish that a product be paused."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"reason": "new tool"}})
    reason: str = Field("", max_length=200)


class Products(BaseModel):
    """Products that are inspected."""

    products: list[Product]


class VersionSwitch(BaseModel):
    """Activation of a version, with its time and person."""

    at: str
    by: str


class Version(BaseModel):
    """Model version, as its file was when it was added."""

    id: int
    file: str
    hash: str
    origin: str
    method: str
    category: str
    created_at: str
    active: bool
    score_threshold: float | None = Field(description="of pictures; null: each view has its own")
    false_alarm_rate: float = Field(description="share of good parts expected to be called anomalous")
    interval: list[float] | None = Field(
        None, description="low and high: where the rate of this one model lies with 95 %; null: not known"
    )
    wanted_rate: float | None = Field(None, description="that was asked for; null: not known any more")
    rate_of: int | None = Field(None, description="version that it differs from by the rate alone")
    promise: str
    pictures: dict[str, int]
    size: list[int]
    notes: list[str]
    program: str
    switches: list[VersionSwitch]


class Versions(BaseModel):
    """Model versions of a product, and the number of the active one."""

    versions: list[Version]
    active: int | None


class Verdict(BaseModel):
    """Verdict of a person."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"verdict": "good"}})
    verdict: Literal["good", "defect", "skip", "undo"]
    mask: str | None = Field(
        None,
        description="PNG in base64, as large as the picture or smaller in the same shape; not black: defect",
    )
    note: str = Field("", max_length=2000)
    kind: str = Field("", description="of the defect: one of the model's, or any name")
    replaces: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="`verdict_id` of the inspection as it was seen, 0 where it had none; left out: a verdict "
        "of one's own may be replaced, and another's is refused with 409",
    )


class DecidedRefusal(Refusal):
    """Refusal of a verdict because somebody else decided meanwhile.

    Each field is null where no verdict holds, or where the refusal has another reason.
    """

    verdict_id: int | None = Field(None, description="of the verdict that holds: `replaces` replaces it")
    verdict: Literal["good", "defect"] | None = None
    by: str | None = None
    at: str | None = None


class Trends(BaseModel):
    """Scores over time, as points or as buckets."""

    unit: Literal["inspection", "minute", "hour", "day"]
    threshold: float | None
    points: list[list[object]] = Field(
        description="of the unit inspection: seconds since 1970, score, class (0 good, 1 anomalous, 2 within "
        "tolerance), verdict, id"
    )
    buckets: list[list[float]] = Field(
        description="of the other units: seconds since 1970, inspected, anomalous, lowest, mean and highest "
        "score, false alarms, misses, within tolerance"
    )
    days: list[str] = Field(description="dates of buckets that are days, in the zone of `shifts`")
    totals: dict[str, int]
    versions: list[dict[str, object]]


class Problem(BaseModel):
    """Problem of the station that is not over."""

    code: str
    kind: str = Field(description="the code without its numbers of product, camera, folder or sink")
    text: str
    since: str
    acknowledged_by: str | None


class Status(BaseModel):
    """State of the station with its problems."""

    state: Literal["ok", "degraded"]
    problems: list[Problem]
    version: str
    settings: str = Field(description="hash of the settings that hold")
    queue: dict[str, int]


class SettingsInForce(BaseModel):
    """Settings that hold, as `station.yaml` names them, with the defaults of those that it leaves out."""

    hash: str = Field(description="SHA-256; changes with any value, also a masked one")
    settings: dict[str, object] = Field(description="secrets masked; times in seconds, sizes in bytes")


class WatchedThread(BaseModel):
    """Thread that the station watches."""

    name: str
    inspects: bool = Field(description="pictures are not inspected without it")
    state: Literal["running", "failed", "hangs"]
    failure: str | None = Field(description="why it was begun again last")
    calling_seconds: float | None = Field(description="since it called what it waits for; null: nothing")


class ThreadStack(BaseModel):
    """Place in the program at which a thread is."""

    name: str
    stack: list[str] = Field(description="calls, the innermost last")


class Threads(BaseModel):
    """Threads of the station: those that it watches, and the calls of all."""

    watched: list[WatchedThread]
    stacks: list[ThreadStack]


class DriftChange(BaseModel):
    """Change of the scores of good parts."""

    inspection: int = Field(description="at which it was found")
    since: str = Field(description="the most likely beginning")
    first: int = Field(description="the inspection there")
    how: Literal["higher", "lower", "wider", "narrower"]
    now: float | None = Field(
        description="share of earlier ones below a new one; null: it was found long before the last start"
    )


class CameraState(BaseModel):
    """State of the camera, as its pictures show it."""

    watched: bool
    problems: list[Literal["dark", "overexposed", "frozen"]]


class DriftState(BaseModel):
    """State of the drift test: whether good parts and the camera still look as the model knows them."""

    watched: bool
    bound: float | None = Field(description="of the probability of a false alarm, ever")
    ready: bool = Field(description="all that was recorded is counted")
    version: int | None = None
    since: str | None = Field(None, description="the first picture that counts")
    pictures: int = 0
    good: int = Field(0, description="of them, called so: their scores are tested")
    flagged: float | None = Field(None, description="share of pictures that were called anomalous")
    value: float = Field(0.0, description="logarithm to base 10 of the martingale")
    limit: float | None = Field(None, description="at which it alarms")
    alarm: DriftChange | None = None
    points: list[list[float]] = Field([], description="seconds since 1970, value then")
    camera: CameraState
