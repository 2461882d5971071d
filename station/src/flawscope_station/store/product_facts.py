"""Facts about a product, one list of fields for API, pages and client; pydantic alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Sink(BaseModel):
    """Sink to which inspections are delivered."""

    name: str
    kind: str = Field(description="webhook, folder, mqtt, or a plugin's name")
    delivered: int = Field(description="messages, since the sink is there")
    refused: int = Field(description="messages that the other side did not want")
    waiting: int = Field(description="messages, counted up to 1,000")
    error: str | None = Field(description="why messages wait")


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
    picture: str | None = Field(None, description="what its sender calls it")
    product: str | None = None


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


class ProductState(BaseModel):
    """Product at a moment."""

    backlog: int = Field(description="parts that are not answered yet")
    rate: float = Field(description="parts a second in the last minute")
    views: list[str] = Field(description="in which the model judges parts; none: a part has one picture")
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


class Product(ProductState):
    """Product that is inspected, with the model that is active."""

    name: str
    version: int | None
    method: str | None
    file: str | None
    score_threshold: float | None
    false_alarm_rate: float | None
    inspections: int
    waiting: int = Field(description="for a review")
    folder: str | None
    found_at: str | None = Field(
        None, description="the address that finds this product in a picture, of a joint model"
    )
    tolerances: dict[str, str] | None = Field(
        None, description="version and sha256 of the rules in force; null: nothing is tolerated"
    )
    sinks: list[Sink]
