"""Schemas of the API's requests and answers, also for the client. They need pydantic alone."""

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

    products: list[str] = Field(description="names of removed products that have records")


class Inspections(BaseModel):
    """Page of inspections that a search found."""

    inspections: list[Inspection]
    next: str | None = Field(description="`cursor` of the page after this one")


class WaitingInspections(BaseModel):
    """Inspections that wait for a review."""

    inspections: list[Inspection]
    waiting: int = Field(description="number of all that wait, also of those that are lent to other readers")


class UndeliveredMessage(BaseModel):
    """Message that a sink refused for good."""

    sink: str
    inspection: int
    verdict: int | None = Field(
        description="verdict that the message is about; null: it is about the inspection"
    )
    why: str
    at: str
    again: bool = Field(description="true: it is being sent again")


class UndeliveredMessages(BaseModel):
    """Messages that a sink refused for good."""

    messages: list[UndeliveredMessage] = Field(description="the latest 1,000 of each sink, the latest first")


class Shift(BaseModel):
    """Shift that has ended, with the counts of its inspections. The fields are the columns of the CSV."""

    name: str
    since: str = Field(description="begin in the zone of `shifts`, such as 2026-11-22T06:00:00+01:00")
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
    score_threshold: float | None = Field(
        description="threshold of pictures' scores; null: each view has its own"
    )
    false_alarm_rate: float = Field(description="share of good parts expected to be called anomalous")
    interval: list[float] | None = Field(
        None, description="95 % interval of this model's rate: low end, high end; null: not known"
    )
    wanted_rate: float | None = Field(None, description="false-alarm rate that was requested; null: unknown")
    rate_of: int | None = Field(
        None, description="number of the version with the same network, from which only the rate differs"
    )
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
        description="PNG in base64 of the picture's shape, as large or smaller; not black: defect",
    )
    note: str = Field("", max_length=2000)
    kind: str = Field("", description="kind of the defect: a kind that the model knows, or any name")
    replaces: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="`verdict_id` of the inspection as you saw it, 0 where it had none; left out: only your "
        "own verdict may be replaced, and a verdict over another person's is refused with 409",
    )


class DecidedRefusal(Refusal):
    """Refusal of a verdict because somebody else decided meanwhile.

    Each field is null where there is no verdict, or where the refusal has another reason.
    """

    verdict_id: int | None = Field(None, description="number of the current verdict, for `replaces`")
    verdict: Literal["good", "defect"] | None = None
    by: str | None = None
    at: str | None = None


class Trends(BaseModel):
    """Scores over time, as points or as buckets."""

    unit: Literal["inspection", "minute", "hour", "day"]
    threshold: float | None
    points: list[list[object]] = Field(
        description="where the unit is inspection: seconds since 1970, score, class (0 good, 1 anomalous, "
        "2 within tolerance), verdict, id"
    )
    buckets: list[list[float]] = Field(
        description="for the other units: seconds since 1970, inspected, anomalous, lowest, mean and highest "
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
    settings: str = Field(description="hash of the current settings")
    queue: dict[str, int]


class SettingsInForce(BaseModel):
    """Current settings in the form of `station.yaml`, with the defaults of those that it leaves out."""

    hash: str = Field(description="SHA-256, which changes with any value, also with a masked one")
    settings: dict[str, object] = Field(description="secrets masked; times in seconds, sizes in bytes")


class WatchedThread(BaseModel):
    """Thread that the station watches."""

    name: str
    inspects: bool = Field(description="true: pictures are not inspected without it")
    state: Literal["running", "failed", "hangs"]
    failure: str | None = Field(
        description="reason for which it was started again last; null: it was never started again"
    )
    calling_seconds: float | None = Field(
        description="seconds for which it has waited for its current call; null: it waits for no call"
    )


class ThreadStack(BaseModel):
    """Current place of a thread in the program."""

    name: str
    stack: list[str] = Field(description="calls, the innermost last")


class Threads(BaseModel):
    """Threads of the station: those that it watches, and the calls of all."""

    watched: list[WatchedThread]
    stacks: list[ThreadStack]


class DriftChange(BaseModel):
    """Change of the scores of good parts."""

    inspection: int = Field(description="inspection at which the change was found")
    since: str = Field(description="most likely time of the change")
    first: int = Field(description="inspection at the most likely time of the change")
    how: Literal["higher", "lower", "wider", "narrower"]
    now: float | None = Field(
        description="share of earlier scores below a new score; null: found long before the last start"
    )


class CameraState(BaseModel):
    """State of the camera, as its pictures show it."""

    watched: bool
    problems: list[Literal["dark", "overexposed", "frozen"]]


class DriftState(BaseModel):
    """State of the drift test: whether good parts and the camera still look as the model knows them."""

    watched: bool
    bound: float | None = Field(description="bound on the probability that the test ever gives a false alarm")
    ready: bool = Field(description="true: all recorded pictures are counted")
    version: int | None = None
    since: str | None = Field(None, description="time of the first picture that counts")
    pictures: int = 0
    good: int = Field(0, description="pictures that were called good: their scores are tested")
    flagged: float | None = Field(None, description="share of pictures that were called anomalous")
    value: float = Field(0.0, description="logarithm to base 10 of the test's martingale")
    limit: float | None = Field(None, description="value at which the test alarms")
    alarm: DriftChange | None = None
    points: list[list[float]] = Field([], description="course of the value: seconds since 1970, value")
    camera: CameraState
