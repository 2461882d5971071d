"""Routes of model versions, and of learning from corrections."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from flawscope.artefact.files import MODEL_SUFFIXES
from flawscope.errors import InputError
from flawscope.station.learning.candidates import describe_candidate, list_history
from flawscope.station.store.files import write_error
from flawscope.station.store.records import valid_id_or_zero
from flawscope.station.web import schemas, uploads
from flawscope.station.web.api import Engineer, StationDep, api_router, file_body_schema, refusals
from flawscope.station.web.refusals import RefusedError
from flawscope.station.web.uploads import get_body

MAX_MODEL_BYTES = 2 * 1024**3  # of a model file that is sent

router = api_router()


class ActivationOptions(BaseModel):
    """Options of an activation."""

    model_config = ConfigDict(extra="forbid")
    losing: list[int] = Field([], description="inspections of the known defects that it may lose (`at_risk`)")


class LearnOptions(BaseModel):
    """Options for making a candidate."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"how": ""}})
    how: Literal["", "extended", "recalibrated", "retrained"] = Field(
        "", description="empty: as the method can without a training"
    )


class DecisionCounts(BaseModel):
    """Reviewed pictures: how many there are, and how many were called anomalous before and after, each as
    [count, low, high] with the 95 % interval of the share."""

    count: int
    before: list[float]
    after: list[float]


class MissedDefect(BaseModel):
    id: int
    rate: float = Field(description="the least false-alarm rate at which it would be found")


class ScoreChange(BaseModel):
    """Score and threshold before and after."""

    before: list[float]
    after: list[float]


class CandidateComparison(BaseModel):
    """Comparison of a candidate with the version that was active, on reviewed pictures, each judged as if the
    candidate had not learnt from it. Lists hold numbers of inspections."""

    how: Literal["extended", "recalibrated", "retrained"]
    good: DecisionCounts
    defects: DecisionCounts
    gained: list[int] = Field(description="false alarms that would pass")
    alarms: list[int] = Field(description="good ones that would be flagged, and were not")
    lost: list[int] = Field(description="known defects that would not be found any more")
    found: list[int] = Field(description="missed defects that would be found")
    weaker: list[int] = Field(
        description="known defects that would stand out less than half as much, "
        "and no more than odd good pictures do"
    )
    missed: list[MissedDefect] = Field(description="known defects that are not found")
    scores: dict[str, ScoreChange]
    cross_fitted: int = Field(description="judged pictures that were left out for it")
    learnt: list[int] = Field(description="what was learnt from")
    unsure: list[int] = Field(description='"good" ones that look like known defects: say it again')
    contradictory: list[int] = Field(description="the same pixels were called good and a defect")
    unreadable: list[int]
    inside: list[int] = Field(description="defects that the model has learnt from as good parts")
    gone: list[int] = Field(description="pictures that were removed")
    drawn: int = Field(description="good pictures of the line that the threshold comes from, too")
    kept: bool = Field(description="the threshold stayed as it was: else more defects would be lost")
    simulated: list[int] | None = Field(
        None, description="simulated defects: found before, found after, how many there are"
    )
    refused: list[Literal["known", "simulated", "threshold"]] = Field(
        [], description="of which defects less than 98 % of those before would be found"
    )
    responsible: list[int] = Field([], description="the corrections by which these are lost")


class CandidateStep(BaseModel):
    stage: str
    done: int
    total: int


class Correction(BaseModel):
    id: int
    verdict: Literal["good", "defect"]
    verdict_id: int


class Candidate(BaseModel):
    """Version that is being made, or was made, from verdicts."""

    id: int
    status: Literal["queued", "running", "ready", "live", "rejected", "failed", "removed"]
    start: int = Field(description="the version that it was made from")
    version: int | None = Field(description="that it became")
    compared_with: int | None
    by: str
    created_at: str
    changed_at: str
    how: str
    corrections: list[Correction]
    error: str | None
    waits: list[Literal["lost", "simulated", "weaker", "no_gain", "few", "switched", "not_opened"]] = Field(
        description="why the rule does not let it go live"
    )
    judgement: CandidateComparison | None
    at_risk: list[int] = Field(description="what `losing` must name to use it")
    seconds: dict[str, float] | None
    step: CandidateStep | None


class LearningState(BaseModel):
    """State of a product's learning."""

    why_not: str | None = Field(description="why it cannot")
    rule: Literal["click", "ask", "auto"]
    after: int | None = Field(description="corrections after which a candidate is made by itself")
    false_alarms: int
    misses: int
    new: int = Field(description="corrections since the last candidate")
    contradictory: list[int]
    candidates: list[Candidate]


class TrailEntry(BaseModel):
    """Event of the models, or verdict on a picture, for the trail."""

    at: str
    by: str
    kind: str
    text: str
    inspection: int | None


class AuditTrail(BaseModel):
    entries: list[TrailEntry]


@router.get("/versions", response_model=schemas.Versions)
def versions(name: str, station: StationDep) -> Any:
    """List the model versions of a product, the newest first."""
    return station.versions.list_versions(station.product_id(name))


@router.post(
    "/versions",
    status_code=201,
    response_model=schemas.Version,
    responses=refusals(408, 413, 507),
    openapi_extra=file_body_schema("application/octet-stream"),
)
async def add_version(
    name: str,
    request: Request,
    station: StationDep,
    person: Engineer,
    file: Annotated[str, Query(alias="name", max_length=200, description="part.safetensors or part.onnx")],
) -> Any:
    """Add a model file as a version, which judges nothing until it is activated."""
    station.product_id(name)
    file_name = uploads.clean_name(file)
    if PurePosixPath(file_name).suffix.lower() not in MODEL_SUFFIXES or not re.fullmatch(
        r"\w[\w. -]*", file_name
    ):
        raise InputError(f"name={file:.60} is not a model's: send {' or '.join(MODEL_SUFFIXES)}")
    temporary = station.files.temporary_path(file_name)
    try:
        await save_body(request, temporary)
        who = person.name
        return await asyncio.to_thread(station.add_version, name, temporary, f"sent by {who}", who)
    except RefusedError:
        raise
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), file_name)) from None
    finally:
        await asyncio.to_thread(station.files.remove_temporary, temporary)


async def save_body(request: Request, path: Path) -> None:
    """Write the body to a file in a new folder: it may be larger than the memory for all requests."""
    body = get_body(request)
    body.max_bytes, body.is_in_memory = MAX_MODEL_BYTES, False
    try:
        path.parent.mkdir()
        with open(path, "xb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise write_error(path, error) from None


@router.post("/versions/{number}/activate", response_model=schemas.Product)
def activate(
    name: str, number: int, station: StationDep, person: Engineer, options: ActivationOptions | None = None
) -> Any:
    """Activate a version, which judges from now on. If it cannot be opened, the version before goes on. One
    that was learnt from corrections and loses known defects is refused unless `losing` names all of their
    inspections."""
    losing = [] if options is None else options.losing
    station.learning.activate(station.product_id(name), valid_id_or_zero(number), person.name, losing)
    return station.product_facts(name)


@router.get("/versions/{number}/file", response_class=FileResponse)
def version_file(name: str, number: int, station: StationDep, person: Engineer) -> FileResponse:
    """Return the model file of a version."""
    path = station.versions.path(station.product_id(name), valid_id_or_zero(number))
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/learning", response_model=LearningState)
def learning(name: str, station: StationDep) -> Any:
    """Return corrections, and the candidates that were made of them, the newest first."""
    return station.learning.facts(station.product_id(name))


@router.post("/learning", status_code=201, response_model=Candidate)
def learn(name: str, station: StationDep, person: Engineer, options: LearnOptions | None = None) -> Any:
    """Make a candidate from verdicts, or return the one that waits already."""
    how = "" if options is None else options.how
    return station.learning.request_candidate(station.product_id(name), person.name, how)


@router.get("/candidates/{number}", response_model=Candidate)
def candidate(name: str, number: int, station: StationDep) -> Any:
    return describe_candidate(
        station.learning.candidates.row(station.product_id(name), valid_id_or_zero(number))
    )


@router.post("/candidates/{number}/reject", response_model=Candidate)
def reject(name: str, number: int, station: StationDep, person: Engineer) -> Any:
    """Reject a candidate. Its version can still be activated."""
    return station.learning.reject(station.product_id(name), valid_id_or_zero(number), person.name)


@router.get("/trail", response_model=AuditTrail)
def audit_trail(name: str, station: StationDep, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Any:
    """List who added and activated versions, made candidates and gave verdicts, the latest first."""
    return {"entries": list_history(station.database, station.product_id(name), limit)}
