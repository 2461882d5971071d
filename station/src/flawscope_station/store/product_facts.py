"""Facts about a product, one list of fields for API, pages and client; pydantic alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Sink(BaseModel):
    """Sink to which inspections are delivered."""

    name: str
    kind: str = Field(description="webhook, folder, mqtt, or a plugin's name")
    delivered: int = Field(description="messages that were delivered since the sink was added")
    refused: int = Field(description="messages that the receiver refused")
    waiting: int = Field(description="messages that wait, counted up to 1,000")
    error: str | None = Field(description="why messages wait")


class Source(BaseModel):
    """Source from which pictures come by themselves."""

    kind: str = Field(description="folder, camera, or the kind that a plugin gives")
    name: str = Field(description="name of the source, as in names of its pictures")
    place: str = Field(description="folder, file or address, without a password")
    takes: str = Field(
        description="frames that a camera takes: every frame, an interval, or trigger; of a folder: the next "
        "step of a file"
    )
    state: Literal["waiting", "running", "away", "frozen"]
    why: str | None = Field(description="why it is away or frozen")
    last: str | None = Field(description="when the last picture came, UTC")
    taken: int = Field(description="pictures that were inspected since the start")
    dropped: int = Field(description="frames that came while others were inspected")
    broken: int = Field(description="frames that could not be decoded or were refused")


class Timing(BaseModel):
    """Times from triggers of a connection to their outputs, such as those of a PLC."""

    triggers: int = Field(description="number of triggers that were timed: the last ones, 1,000 at most")
    p50_ms: float = Field(description="median of the times, ms")
    p99_ms: float = Field(description="99th percentile of the times, ms")
    budget_ms: int | None = Field(description="ms after which an error is reported")
    missed: int = Field(description="triggers that were not answered in time, since the start")


class RefusedPart(BaseModel):
    """Picture or trigger that was not judged."""

    at: str
    code: str = Field(description="code of the error that its sender got")
    part: str | None
    picture: str | None = Field(None, description="name of the picture, from its sender")
    product: str | None = None


class PromiseFacts(BaseModel):
    """Promise of a model about good parts."""

    promised: bool = Field(
        description="false: its good pictures show only one part, and no rate can be expected"
    )
    rate: float = Field(
        description="expected share of good parts that are called anomalous: the mean over such models"
    )
    calibrated: int = Field(description="number of good pictures, or parts, that the rate comes from")
    missing: int = Field(
        description="number of good pictures, or parts, that are missing for the wanted rate"
    )
    wanted_rate: float
    of_parts: bool = Field(description="true: it counts parts, not pictures")
    several: bool = Field(description="true: a picture shows several parts, and the rate is that of pictures")


class Promised(PromiseFacts):
    """Promise of the version that judges about good parts."""

    version: int


class Pause(BaseModel):
    """Pause of a product: its parts are refused with the code `paused` until somebody resumes it."""

    by: str
    at: str
    reason: str


class ProductState(BaseModel):
    """Product at a moment."""

    backlog: int = Field(description="number of parts that are not answered yet")
    rate: float = Field(description="parts a second in the last minute")
    views: list[str] = Field(
        description="views in which the model judges parts; empty: a part has one picture"
    )
    problem: str | None
    problems: list[str] = Field(
        description="kinds of the problems that nobody has acknowledged, the oldest first"
    )
    problem_products: list[str | None] = Field(
        description="product of each problem; null: all products, or the only one"
    )
    stopped: str | None = Field(description="kind of the problem that stops inspection; null: none does")
    paused: Pause | None = Field(description="pause by a person; null: it is not paused")
    refused: RefusedPart | None = Field(description="last part since the start that was not judged")
    started: str = Field(description="time at which the station started")
    sources: list[Source]
    timing: Timing | None = Field(description="times of triggers; null: no connection has triggered yet")
    promised: Promised | None = Field(description="expected false-alarm rate; null: no model is open")


class Product(ProductState):
    """Product that is inspected, with the model that is active."""

    name: str
    version: int | None
    method: str | None
    file: str | None
    score_threshold: float | None
    false_alarm_rate: float | None
    inspections: int
    waiting: int = Field(description="number of inspections that wait for a review")
    folder: str | None
    found_at: str | None = Field(
        None,
        description="address of the joint model that finds this product; null: it has its own model",
    )
    tolerances: dict[str, str] | None = Field(
        None, description="version and SHA-256 of the rules in force; null: nothing is tolerated"
    )
    sinks: list[Sink]
