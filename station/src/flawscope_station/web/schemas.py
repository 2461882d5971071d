"""Schemas of requests and answers, for the API's description and checks, and the client; pydantic alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flawscope_station.store.inspection import Inspection


class Refusal(BaseModel):
    """Reason why a request was refused."""

    error: str = Field(description="one line that names the thing, the reason and the remedy")
    code: str


class PartResult(BaseModel):
    """Result of a part in a form: an inspection, or why there is none."""

    inspection: Inspection | None = None
    name: str | None = None
    error: str | None = None
    code: str | None = None


class PartResults(BaseModel):
    results: list[PartResult]


class RemovedProducts(BaseModel):
    products: list[str] = Field(description="names of those that have records")


class Inspections(BaseModel):
    inspections: list[Inspection]
    next: str | None = Field(description="`cursor` of the page after this one")


class WaitingInspections(BaseModel):
    inspections: list[Inspection]
    waiting: int = Field(description="all that wait, also those that are lent to other readers")


class Sink(BaseModel):
    """Sink to which inspections are delivered."""

    name: str
    kind: str = Field(description="webhook, folder, mqtt, or a plugin's name")
    delivered: int = Field(description="messages, since the sink is there")
    refused: int = Field(description="messages that the other side did not want")
    waiting: int = Field(description="messages, counted up to 1,000")
    error: str | None = Field(description="why messages wait")


class UndeliveredMessage(BaseModel):
    """Message that a sink refused for good."""

    sink: str
    inspection: int
    verdict: int | None = Field(description="that the message is about; null: it is about the inspection")
    why: str
    at: str
    again: bool = Field(description="it is being sent again")


class UndeliveredMessages(BaseModel):
    messages: list[UndeliveredMessage] = Field(description="the latest 1,000 of each sink, the latest first")


class Source(BaseModel):
    """Source from which pictures come by themselves."""

    kind: str = Field(description="folder, camera, or what a plugin says")
    name: str = Field(description="what its pictures are called after")
    place: str = Field(description="folder, file or address, without a password")
    takes: str = Field(description="every frame, a time, or trigger; of a folder what happens to a file then")
    state: Literal["waiting", "running", "away", "frozen"]
    why: str | None = Field(description="why it is away or frozen")
    last: str | None = Field(description="when the last picture came, UTC")
    taken: int = Field(description="pictures that were inspected since the start")
    dropped: int = Field(description="frames that came while others were inspected")
    broken: int = Field(description="frames that could not be decoded or were refused")


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


class Timing(BaseModel):
    """Times from triggers of a connection to their outputs, such as those of a PLC."""

    triggers: int = Field(description="that the times are of: the last ones, 1,000 at most")
    p50_ms: float = Field(description="half of them took less")
    p99_ms: float = Field(description="99 of 100 took less")
    budget_ms: int | None = Field(description="time after which an error is told")
    missed: int = Field(description="not answered in time, since the start")


class RefusedPart(BaseModel):
    """Picture or trigger that was not judged."""

    at: str
    code: str = Field(description="as of the error that its sender got")
    part: str | None


class PromiseFacts(BaseModel):
    """Promise of a model about good parts."""

    promised: bool = Field(description="false: its good pictures show one part alone, and promise nothing")
    rate: float = Field(description="share of good parts that will be called anomalous, mean of such models")
    calibrated: int = Field(description="good pictures, or parts, that the rate comes from")
    missing: int = Field(description="more of them that the wanted rate needs")
    wanted_rate: float
    of_parts: bool = Field(description="it counts parts, not pictures")
    several: bool = Field(description="a picture shows several parts, and the rate is that of pictures")


class Promised(PromiseFacts):
    """Promise of the version that judges about good parts."""

    version: int


class Pause(BaseModel):
    """Pause of a product: its parts are refused with the code `paused` until somebody resumes it."""

    by: str
    at: str
    reason: str


class PauseRequest(BaseModel):
    """Wish that a product be paused."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"reason": "new tool"}})
    reason: str = Field("", max_length=200)


class Product(BaseModel):
    """Product that is inspected, with the model that is active."""

    name: str
    version: int | None
    method: str | None
    file: str | None
    score_threshold: float | None
    false_alarm_rate: float | None
    inspections: int
    waiting: int = Field(description="for a review")
    backlog: int = Field(description="parts that are not answered yet")
    rate: float = Field(description="parts a second in the last minute")
    folder: str | None
    found_at: str | None = Field(
        None, description="the address that finds this product in a picture, of a joint model"
    )
    tolerances: dict[str, str] | None = Field(
        None, description="version and sha256 of the rules in force; null: nothing is tolerated"
    )
    views: list[str] = Field(description="in which the model judges parts; none: a part has one picture")
    sinks: list[Sink]
    problem: str | None
    problems: list[str] = Field(description="kinds of those that nobody has acknowledged, oldest first")
    problem_products: list[str | None] = Field(
        description="the product of each of them; null: of all, or of the only one"
    )
    stopped: str | None = Field(description="kind of the problem for which nothing is inspected; null: none")
    paused: Pause | None = Field(description="of a product that a person paused")
    refused: RefusedPart | None = Field(description="the last part that was not judged, since the start")
    started: str = Field(description="when the station began: what came before is no present part")
    sources: list[Source]
    timing: Timing | None = Field(description="none: nothing was triggered by a connection yet")
    promised: Promised | None = Field(description="null: no model is open")


class Products(BaseModel):
    products: list[Product]


class VersionSwitch(BaseModel):
    at: str
    by: str


class Version(BaseModel):
    """A model file, as it was when it was added."""

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
    """Somebody decided meanwhile. Each is null where no verdict holds, or the refusal has another reason."""

    verdict_id: int | None = Field(None, description="of the verdict that holds: `replaces` replaces it")
    verdict: Literal["good", "defect"] | None = None
    by: str | None = None
    at: str | None = None


class Trends(BaseModel):
    """Scores over time; points [seconds, score, good 0, anomalous 1 or within tolerance 2, verdict, id], or
    buckets [seconds, inspected, anomalous, lowest, mean and highest score, false alarms, misses, within
    tolerance]."""

    unit: Literal["inspection", "minute", "hour", "day"]
    threshold: float | None
    points: list[list[object]]
    buckets: list[list[float]]
    days: list[str] = Field(description="dates of buckets that are days, in the zone of `shifts`")
    totals: dict[str, int]
    versions: list[dict[str, object]]


class Problem(BaseModel):
    code: str
    kind: str = Field(description="the code without its numbers of product, camera, folder or sink")
    text: str
    since: str
    acknowledged_by: str | None


class Status(BaseModel):
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
    """Whether the world in front of the camera is still the one that the model knows."""

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
