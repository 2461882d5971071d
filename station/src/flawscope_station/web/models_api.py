"""Routes and page of model versions, and of learning from corrections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypedDict

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from flawscope.artefact import ModelFacts, rates
from flawscope.artefact import files as model_files
from flawscope.errors import InputError
from flawscope_station.access.roles import has_role
from flawscope_station.learning.candidate_plan import LearningWay
from flawscope_station.learning.candidate_records import Candidate, advice, list_history, status_of
from flawscope_station.learning.candidates import Learning
from flawscope_station.learning.jobs import REJECTED
from flawscope_station.setup.drafts import NameTakenError
from flawscope_station.setup.live_products import LiveProducts
from flawscope_station.store.files import write_error
from flawscope_station.store.line_alarms import compare_false_alarm_rates
from flawscope_station.store.model_registry import ModelRegistry, VersionFacts, is_of_joint_model
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.product_facts import Product
from flawscope_station.store.records import GOOD, valid_id_or_zero
from flawscope_station.store.schema import READY
from flawscope_station.store.throughput import ReviewedDefect, pictures_a_day, reviewed_defects
from flawscope_station.web import schemas, uploads
from flawscope_station.web.api import Answer, Engineer, api_router, file_body_schema, refusals
from flawscope_station.web.components import (
    AddressesDep,
    DatabaseDep,
    FilesDep,
    OverviewDep,
    ProductId,
    RecordsDep,
    StoreDep,
    VersionsDep,
    component,
)
from flawscope_station.web.errors import RefusedError
from flawscope_station.web.pages import Page, product_page
from flawscope_station.web.uploads import get_body

MAX_MODEL_BYTES = 2 * 1024**3  # of a model file that is sent
PICTURE_ROLES = ("train", "calibration", "duplicate", "dropped", "quantile", "reserve", "seen")
_ROUNDING = 1e-9  # of a rate
# on the page; of one list
MAX_CANDIDATES = 12
MAX_THUMBNAILS = 24
THUMBNAIL_LISTS = ("lost", "weaker", "unsure", "responsible")  # lists of a judgement that show thumbnails

LearningDep = Annotated[Learning, component(Learning)]
LiveProductsDep = Annotated[LiveProducts, component(LiveProducts)]
router = api_router()
page_router = APIRouter(include_in_schema=False)


class ActivationOptions(BaseModel):
    """Options of an activation."""

    model_config = ConfigDict(extra="forbid")
    losing: list[int] = Field(
        [], description="inspections of known defects that the version may lose (`at_risk`)"
    )
    hash: str | None = Field(
        None, description="SHA-256 that the version's file must have, else it is refused with 409"
    )


class RateRequest(BaseModel):
    """Wish for another false-alarm rate."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"rate": 0.02}})
    rate: float = Field(gt=0, lt=0.5, description="share of good parts that may be called anomalous")


class LearnOptions(BaseModel):
    """Options for making a candidate."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"how": ""}})
    how: LearningWay = Field(
        "", description="way of making it; empty: the way that the method knows without a training"
    )
    good: list[int] = Field(
        [], description="inspections of `unsure` that a person has looked at again, and found good"
    )


class LearningState(BaseModel):
    """State of a product's learning."""

    why_not: str | None = Field(description="why the product cannot learn; null: it can")
    after: int | None = Field(
        description="number of corrections after which a candidate is made automatically; null: never"
    )
    keep: int = Field(description="number of unused candidates that are kept, the newest")
    false_alarms: int
    misses: int
    new: int = Field(description="corrections since the last candidate")
    contradictory: list[int]
    unsure: list[int] = Field(
        description="inspections called good that look like defects: learnt from once called good again"
    )
    candidates: list[Candidate]


class KeptPromise(BaseModel):
    """Expected false-alarm rate of the version in use beside the rate counted on the line.

    It counts the latest 10,000 parts that the version judged, each once. Parts within tolerance are left out,
    and parts that it has learnt from.
    """

    version: int
    rate: float = Field(description="share of good parts expected to be called anomalous")
    interval: list[float] = Field(description="95 % interval of this model's rate: low end, high end")
    good: int = Field(description="parts that nobody called a defect")
    alarms: int = Field(description="parts of `good` that the model called anomalous, and a person good")
    unreviewed: int = Field(
        description="parts of `good` that the model called anomalous, and nobody has reviewed yet"
    )
    line_interval: list[float] = Field(
        description="95 % interval of the share of good parts that are called anomalous; the low end takes "
        "all unreviewed parts for defects, the high end for good"
    )
    state: Literal["nothing", "kept", "broken", "open"] = Field(
        description="by the rule of `flawscope evaluate`; open: it depends on the unreviewed parts"
    )


class TrailEntry(BaseModel):
    """Event of the models, or verdict on a picture."""

    at: str
    by: str
    kind: str
    text: str
    inspection: int | None


class AuditTrail(BaseModel):
    """Events of a product's models and verdicts, the latest first."""

    entries: list[TrailEntry]


@router.delete("", status_code=204, responses=refusals(409))
def remove_product(name: str, live_products: LiveProductsDep, person: Engineer) -> None:
    """Remove a product that was made on the pages: it is inspected no more.

    Its records are kept. Refused where the settings name the product.
    """
    live_products.remove_live(name, person.name)


@router.get("/versions", response_model=schemas.Versions)
def versions(product_id: ProductId, versions: VersionsDep) -> Answer:
    """List the model versions of a product, the newest first."""
    return versions.list_versions(product_id)


@router.post(
    "/versions",
    status_code=201,
    response_model=schemas.Version,
    responses=refusals(408, 413, 507),
    openapi_extra=file_body_schema("application/octet-stream"),
)
async def add_version(
    product_name: Annotated[str, PathParameter(alias="name")],
    product_id: ProductId,
    request: Request,
    addresses: AddressesDep,
    files: FilesDep,
    person: Engineer,
    sent_name: Annotated[
        str,
        Query(
            alias="name",
            max_length=200,
            description="name of the file, such as part.safetensors, part.onnx or part.zip",
        ),
    ],
) -> Answer:
    """Add a model file as a version; it judges nothing until it is activated."""
    file_name = uploads.clean_name(sent_name)
    is_model = PurePosixPath(file_name).suffix.lower() in model_files.MODEL_SUFFIXES
    if not is_model or not re.fullmatch(r"\w[\w. -]*", file_name):
        raise InputError(
            f"name={sent_name:.60} is not a model's: send {' or '.join(model_files.MODEL_SUFFIXES)}"
        )
    temporary = files.temporary_path(file_name)
    try:
        await save_body(request, temporary)
        who = person.name
        origin = f"sent by {who}"
        number = await asyncio.to_thread(addresses.add_version, product_name, temporary, origin, who)
        return await asyncio.to_thread(addresses.versions.version, product_id, number)
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), file_name)) from None
    finally:
        await asyncio.to_thread(files.remove_temporary, temporary)


async def save_body(request: Request, path: Path) -> None:
    """Write a request's body, which may be larger than the memory for bodies, to a file in a new folder."""
    body = get_body(request)
    body.max_bytes = MAX_MODEL_BYTES
    body.is_in_memory = False
    try:
        path.parent.mkdir()
        with open(path, "xb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise write_error(path, error) from None


@router.delete("/versions/{number}", status_code=204, responses=refusals(409))
def remove_version(product_id: ProductId, number: int, versions: VersionsDep, person: Engineer) -> None:
    """Remove a version and its file: one that was never used and belongs to no joint model.

    Any other is refused: inspections name it.
    """
    number = versions.version(product_id, valid_id_or_zero(number))["id"]
    if not versions.remove(product_id, number, person.name):
        text = f"version {number} cannot be removed: it was used, or belongs to a joint model"
        raise RefusedError(409, text, "version_used")


@router.post("/versions/{number}/activate", responses=refusals(409))
def activate(
    name: str,
    product_id: ProductId,
    number: int,
    learning: LearningDep,
    versions: VersionsDep,
    overview: OverviewDep,
    person: Engineer,
    options: ActivationOptions | None = None,
) -> Product:
    """Activate a version: it judges from now on.

    If it cannot be opened, the version before goes on. Refused: a version that was learnt from corrections
    and loses known defects, unless `losing` names all of their inspections; and a version whose file does not
    have the hash in `hash`.
    """
    options = options or ActivationOptions()  # type: ignore[call-arg]  # all have defaults
    number = valid_id_or_zero(number)
    if options.hash is not None and versions.version(product_id, number)["hash"] != options.hash:
        raise RefusedError(409, f"version {number} has another file than the hash says", "other_version")
    learning.activate(product_id, number, person.name, options.losing)
    return overview.facts(name)


@router.post(
    "/versions/{number}/rate", status_code=201, response_model=schemas.Version, responses=refusals(409)
)
def change_rate(
    name: str,
    product_id: ProductId,
    number: int,
    body: RateRequest,
    versions: VersionsDep,
    learning: LearningDep,
    person: Engineer,
) -> Answer:
    """Make a version with another false-alarm rate from a version, and activate it.

    Refused: a rate that the version's good pictures do not support, and any rate where the settings file
    names one.
    """
    if product_id in versions.rates:
        raise NameTakenError(f"`false_alarm_rate` of {name} stands in the settings file: change it there")
    new = versions.add_at_rate(product_id, valid_id_or_zero(number), body.rate, person.name)
    return versions.version(product_id, learning.activate(product_id, new, person.name))


@router.get("/promise", response_model=KeptPromise | None)
def promise(product_id: ProductId, versions: VersionsDep, records: RecordsDep) -> Answer | None:
    """Return whether the version in use keeps its expected false-alarm rate on the line.

    Null where it has no expected rate.
    """
    with records.turns.take():
        return compare_false_alarm_rates(versions, product_id)


@router.get("/versions/{number}/file", response_class=FileResponse)
def version_file(product_id: ProductId, number: int, versions: VersionsDep, person: Engineer) -> FileResponse:
    """Return the model file of a version."""
    path = versions.path(product_id, valid_id_or_zero(number))
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/learning", response_model=LearningState)
def learning(product_id: ProductId, records: RecordsDep, learning: LearningDep) -> Answer:
    """Return a product's corrections, and the candidates that were made of them, the newest first."""
    with records.turns.take():
        return learning.facts(product_id)


@router.post("/learning", status_code=201, response_model=Candidate)
def learn(
    product_id: ProductId,
    learning: LearningDep,
    store: StoreDep,
    person: Engineer,
    options: LearnOptions | None = None,
) -> Candidate:
    """Make a candidate from verdicts, or return the one that waits already.

    The inspections in `good` first get the verdict good once more.
    """
    options = options or LearnOptions()  # type: ignore[call-arg]  # all have defaults
    known = learning.facts(product_id)["unsure"] if options.good else []
    unknown = sorted(set(options.good) - set(known))
    if unknown:
        raise InputError(f"inspection {unknown[0]} is not among `unsure`: name in `good` only what is")
    for number in dict.fromkeys(options.good):
        seen = store.inspection(product_id, number)["verdict_id"] or 0  # the page shows it
        store.add_verdict(product_id, number, GOOD, person.name, replaces=seen)
    return learning.request_candidate(product_id, person.name, options.how)


@router.get("/candidates/{number}", response_model=Candidate)
def candidate(product_id: ProductId, number: int, learning: LearningDep) -> Candidate:
    """Return a candidate."""
    return learning.candidate(product_id, valid_id_or_zero(number))


@router.post("/candidates/{number}/reject", response_model=Candidate)
def reject(product_id: ProductId, number: int, learning: LearningDep, person: Engineer) -> Candidate:
    """Reject a candidate; its version is kept, and can still be activated."""
    return learning.reject(product_id, valid_id_or_zero(number), person.name)


@router.get("/trail", response_model=AuditTrail)
def audit_trail(
    product_id: ProductId, database: DatabaseDep, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> Answer:
    """List who added and activated versions, made candidates and gave verdicts, the latest first."""
    return {"entries": list_history(database, product_id, limit)}


# -------------------------------------------------------------------------------------------------- the page


@page_router.get("/{product}/models")
def models(
    page: Annotated[Page, product_page("models")],
    versions: VersionsDep,
    learning: LearningDep,
    store: StoreDep,
    live_products: LiveProductsDep,
) -> Response:
    """Show the model versions, corrections and candidates of a product."""
    product_id = page.product_id
    listed = versions.list_versions(product_id)
    state = learning.facts(product_id)
    all_versions = listed["versions"]
    active = next((version for version in all_versions if version["id"] == listed["active"]), None)
    candidates: list[Candidate] = state["candidates"][:MAX_CANDIDATES]
    made = learning.candidates.by_version(product_id)
    elsewhere: set[int | None] = {number for number, row in made.items() if status_of(row) == REJECTED}
    elsewhere |= {candidate.version for candidate in candidates if candidate.status == READY}
    others = [version for version in all_versions if version is not active and version["id"] not in elsewhere]
    advice_by_candidate = {candidate.id: advice(candidate, listed["active"]) for candidate in candidates}
    known = store.inspections_by_number(product_id, _shown_inspections(candidates, state["unsure"]))
    may_change = has_role(page.person, "engineer")
    return page.render(
        "models",
        sections=("models", "learning", "progress", "promise", "rates"),
        **_rate_facts(page, versions, active, all_versions),
        missed_rates=lambda missed: {rate.id: rate.rate for rate in missed},
        learning=state,
        candidates=candidates,
        trail=list_history(store.database, product_id, 100),
        active=active,
        others=others,
        false_alarm_rates=compare_false_alarm_rates(versions, product_id),
        losses=learning.losses(product_id, all_versions),
        advice=advice_by_candidate,
        known=known,
        MOST=MAX_THUMBNAILS,
        previous=versions.previous_version(product_id, listed["active"]),
        roles=PICTURE_ROLES,
        removable=live_products.is_removable(page.product or ""),
        unused=versions.removable(product_id) if may_change else [],
    )


def _shown_inspections(candidates: Sequence[Candidate], unsure: Sequence[int]) -> set[int]:
    """Return the inspections whose thumbnails the page shows."""
    shown = set(unsure[:MAX_THUMBNAILS])
    for candidate in candidates:
        judgement = candidate.judgement
        if judgement is None:
            continue
        for name in THUMBNAIL_LISTS:
            shown.update(getattr(judgement, name)[:MAX_THUMBNAILS])
        shown.update(missed.id for missed in judgement.missed[:MAX_THUMBNAILS])
    return shown


class RateFacts(TypedDict):
    """Meaning of other false-alarm rates for the active version.

    Attributes:
        rates: Rates on offer, each with its threshold and the defects that it would find.
        day: Pictures a day; None: not known.
        known_defects: Number of defects that people reviewed.
        may_rate: Whether the person may change the rate here.
        rate_by_file: Whether the settings file names the rate.
    """

    rates: list[dict[str, object]]
    day: float | None
    known_defects: int
    may_rate: bool
    rate_by_file: bool


def _rate_facts(
    page: Page,
    versions: ModelRegistry,
    active: VersionFacts | None,
    listed: Sequence[VersionFacts],
) -> RateFacts:
    """Return the meaning of other false-alarm rates for the active version."""
    product_id = page.product_id
    by_file = product_id in versions.rates
    is_joint = active is None or is_of_joint_model(active)
    facts: RateFacts = {
        "rates": [],
        "day": None,
        "known_defects": 0,
        "may_rate": has_role(page.person, "engineer") and not by_file and not is_joint,
        "rate_by_file": by_file,
    }
    try:
        model = versions.active(product_id)[1].facts
    except NoModelError:
        return facts
    if active is None:
        return facts
    root = _network_of(active)
    same_network = [version["id"] for version in listed if _network_of(version) == root]
    reviewed = reviewed_defects(versions.database, product_id, same_network)
    facts["rates"] = _describe_rates(model, reviewed)
    facts["day"] = pictures_a_day(versions.database, product_id)
    facts["known_defects"] = len(reviewed)
    return facts


def _network_of(version: VersionFacts) -> int:
    """Return the number of the version whose network this one has: its own, or that of `rate_of`."""
    return version.get("rate_of", version["id"])


def _describe_rates(model: ModelFacts, reviewed: Sequence[ReviewedDefect]) -> list[dict[str, object]]:
    """Return the rates on offer, each with the defects that it would find.

    Keys beside those of `rates.describe_rates`: `hits` of `defects` that were simulated, `known` of the
    reviewed ones, and `is_own` where the model has this rate.
    """
    by_part = rates.promise_of(model).by_part
    rows = []
    for row in rates.describe_rates(model):
        if by_part:  # a part has no threshold of its own
            known = sum(inspection.p_value <= row["expected"] + _ROUNDING for inspection in reviewed)
        else:
            known = sum(not inspection.score <= row["threshold"] for inspection in reviewed)
        hits = sum(found for found, _ in row["found"].values())
        defects = sum(tried for _, tried in row["found"].values())
        is_own = row["rate"] == model.rate
        rows.append({**row, "hits": hits, "defects": defects, "known": known, "is_own": is_own})
    return rows
