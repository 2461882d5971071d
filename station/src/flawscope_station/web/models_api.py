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

MAX_MODEL_BYTES = 2 * 1024**3  # largest size of a model file
PICTURE_ROLES = ("train", "calibration", "duplicate", "dropped", "quantile", "reserve", "seen")
_ROUNDING = 1e-9  # rounding error of a rate
MAX_CANDIDATES = 12  # candidates on the page
MAX_THUMBNAILS = 24  # thumbnails of each list on the page
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


class FalseAlarmComparison(BaseModel):
    """Expected false-alarm rate of the active version beside the rate that was counted on the line.

    The latest 10,000 parts that the version judged are counted, each once. Parts within tolerance and parts
    that it has learnt from are left out.
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


@router.get("/versions", response_model=schemas.Versions, summary="Model versions")
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
    has_model_suffix = PurePosixPath(file_name).suffix.lower() in model_files.MODEL_SUFFIXES
    if not has_model_suffix or not re.fullmatch(r"\w[\w. -]*", file_name):
        raise InputError(
            f"name={sent_name:.60} is not a model's: send {' or '.join(model_files.MODEL_SUFFIXES)}"
        )
    temporary = files.temporary_path(file_name)
    try:
        await save_body(request, temporary)
        who = person.name
        origin = f"sent by {who}"
        # `addresses` adds the version, because that of a joint model is also added to its other products
        number = await asyncio.to_thread(addresses.add_version, product_name, temporary, origin, who)
        return await asyncio.to_thread(addresses.versions.version, product_id, number)
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), file_name)) from None
    finally:
        await asyncio.to_thread(files.remove_temporary, temporary)


async def save_body(request: Request, path: Path) -> None:
    """Write a request's body to the file `path`, whose folder is created, without holding it in memory.

    Raises:
        RefusedError: The body has more than `MAX_MODEL_BYTES`, or is too slow.
        StoreError: The file cannot be written.
    """
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
    """Remove a version and its file, if it was never used and belongs to no joint model.

    Any other version cannot be removed, because records refer to it.
    """
    version_id = versions.version(product_id, valid_id_or_zero(number))["id"]  # 404 where there is none
    if not versions.remove(product_id, version_id, person.name):
        text = f"version {version_id} cannot be removed: it was used, or belongs to a joint model"
        raise RefusedError(409, text, "version_used")


@router.post("/versions/{number}/activate", responses=refusals(409), summary="Activate a version")
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
    """Activate a version, which judges from now on.

    If it cannot be opened, the version that was active stays active. A version that was learnt from
    corrections and loses known defects is refused, unless `losing` names the inspections of all these
    defects. A version whose file does not have the hash in `hash` is refused, too.
    """
    activation = options or ActivationOptions()  # type: ignore[call-arg]  # all have defaults
    version_id = valid_id_or_zero(number)
    if activation.hash is not None and versions.version(product_id, version_id)["hash"] != activation.hash:
        text = f"version {version_id} has another file than the hash says"
        raise RefusedError(409, text, "other_version")
    learning.activate(product_id, version_id, person.name, activation.losing)
    return overview.facts(name)


@router.post(
    "/versions/{number}/rate",
    status_code=201,
    response_model=schemas.Version,
    responses=refusals(409),
    summary="Change the false-alarm rate",
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
    """Make a copy of a version with another false-alarm rate, and activate the copy.

    A rate that the version's good pictures do not support is refused. If the settings file sets the product's
    rate, every rate is refused.
    """
    if product_id in versions.rates:
        raise NameTakenError(f"`false_alarm_rate` of {name} stands in the settings file: change it there")
    new_number = versions.add_at_rate(product_id, valid_id_or_zero(number), body.rate, person.name)
    active_number = learning.activate(product_id, new_number, person.name)
    return versions.version(product_id, active_number)


@router.get("/promise", response_model=FalseAlarmComparison | None, summary="False-alarm rate on the line")
def promise(product_id: ProductId, versions: VersionsDep, records: RecordsDep) -> Answer | None:
    """Compare the active version's expected false-alarm rate with the rate that was counted on the line.

    The answer is null where the version has no expected rate.
    """
    with records.turns.take():
        return compare_false_alarm_rates(versions, product_id)


@router.get("/versions/{number}/file", response_class=FileResponse, summary="Model file of a version")
def version_file(product_id: ProductId, number: int, versions: VersionsDep, person: Engineer) -> FileResponse:
    """Return the model file of a version."""
    path = versions.path(product_id, valid_id_or_zero(number))
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/learning", response_model=LearningState, summary="State of learning")
def learning(product_id: ProductId, records: RecordsDep, learning: LearningDep) -> Answer:
    """Return a product's corrections, and the candidates that were made from them, the newest first."""
    with records.turns.take():
        return learning.facts(product_id)


@router.post("/learning", status_code=201, response_model=Candidate, summary="Make a candidate")
def learn(
    product_id: ProductId,
    learning: LearningDep,
    store: StoreDep,
    person: Engineer,
    options: LearnOptions | None = None,
) -> Candidate:
    """Make a candidate from verdicts, or return the candidate that is queued already.

    Before that, the inspections in `good` get a new verdict good.
    """
    learn_options = options or LearnOptions()  # type: ignore[call-arg]  # all have defaults
    good_numbers = learn_options.good
    unsure_numbers = learning.facts(product_id)["unsure"] if good_numbers else []
    wrong_numbers = sorted(set(good_numbers) - set(unsure_numbers))
    if wrong_numbers:
        raise InputError(f"inspection {wrong_numbers[0]} is not among `unsure`: name in `good` only what is")
    for number in dict.fromkeys(good_numbers):
        current_verdict_id = store.inspection(product_id, number)["verdict_id"] or 0  # 0: there is no verdict
        store.add_verdict(product_id, number, GOOD, person.name, replaces=current_verdict_id)
    return learning.request_candidate(product_id, person.name, learn_options.how)


@router.get("/candidates/{number}", response_model=Candidate, summary="A candidate")
def candidate(product_id: ProductId, number: int, learning: LearningDep) -> Candidate:
    """Return a candidate."""
    return learning.candidate(product_id, valid_id_or_zero(number))


@router.post("/candidates/{number}/reject", response_model=Candidate, summary="Reject a candidate")
def reject(product_id: ProductId, number: int, learning: LearningDep, person: Engineer) -> Candidate:
    """Reject a candidate; its version is kept, and can still be activated."""
    return learning.reject(product_id, valid_id_or_zero(number), person.name)


@router.get("/trail", response_model=AuditTrail, summary="Events of models and verdicts")
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
    version_list = versions.list_versions(product_id)
    active_number = version_list["active"]
    all_versions = version_list["versions"]
    active = next((version for version in all_versions if version["id"] == active_number), None)
    state = learning.facts(product_id)
    candidates: list[Candidate] = state["candidates"][:MAX_CANDIDATES]
    job_by_version = learning.candidates.by_version(product_id)
    rejected_numbers = {number for number, job in job_by_version.items() if status_of(job) == REJECTED}
    candidate_numbers = {candidate.version for candidate in candidates if candidate.status == READY}
    hidden_numbers = rejected_numbers | candidate_numbers
    others = [
        version for version in all_versions if version is not active and version["id"] not in hidden_numbers
    ]
    inspection_by_number = store.inspections_by_number(
        product_id, _shown_inspections(candidates, state["unsure"])
    )
    may_change = has_role(page.person, "engineer")
    return page.render(
        "models",
        sections=("models", "learning", "progress", "promise", "rates"),
        **_rate_facts(page, versions, active, all_versions),
        missed_rates=lambda missed: {defect.id: defect.rate for defect in missed},
        learning=state,
        candidates=candidates,
        trail=list_history(store.database, product_id, 100),  # at most 100 events
        active=active,
        others=others,
        false_alarm_rates=compare_false_alarm_rates(versions, product_id),
        losses=learning.losses(product_id, all_versions),
        advice={candidate.id: advice(candidate, active_number) for candidate in candidates},
        known=inspection_by_number,
        MOST=MAX_THUMBNAILS,
        previous=versions.previous_version(product_id, active_number),
        roles=PICTURE_ROLES,
        removable=live_products.is_removable(page.product or ""),
        unused=versions.removable(product_id) if may_change else [],
    )


def _shown_inspections(candidates: Sequence[Candidate], unsure: Sequence[int]) -> set[int]:
    """Return the numbers of the inspections whose thumbnails the page shows.

    Args:
        candidates: Candidates on the page.
        unsure: Numbers of the inspections that are unsure.
    """
    numbers = set(unsure[:MAX_THUMBNAILS])
    for candidate in candidates:
        judgement = candidate.judgement
        if judgement is None:
            continue
        for name in THUMBNAIL_LISTS:
            numbers.update(getattr(judgement, name)[:MAX_THUMBNAILS])
        numbers.update(defect.id for defect in judgement.missed[:MAX_THUMBNAILS])
    return numbers


class RateFacts(TypedDict):
    """Results of the active version at other false-alarm rates.

    Attributes:
        rates: Rates on offer, each with its threshold and the number of defects that would be found.
        day: Number of pictures a day; None: unknown.
        known_defects: Number of reviewed defects whose scores are known.
        may_rate: Whether the person may change the rate on the page.
        rate_by_file: Whether the settings file sets the product's rate.
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
    all_versions: Sequence[VersionFacts],
) -> RateFacts:
    """Return what other false-alarm rates would mean for the active version.

    Reviewed defects count if a version with the same network judged them: the active version would give them
    the same scores.

    Args:
        page: The product's page.
        versions: Versions of all products.
        active: The active version; None: there is none.
        all_versions: All versions of the product.
    """
    product_id = page.product_id
    is_set_by_file = product_id in versions.rates
    can_have_rate = active is not None and not is_of_joint_model(active)
    facts: RateFacts = {
        "rates": [],
        "day": None,
        "known_defects": 0,
        "may_rate": has_role(page.person, "engineer") and not is_set_by_file and can_have_rate,
        "rate_by_file": is_set_by_file,
    }
    try:
        _, open_model = versions.active(product_id)
    except NoModelError:
        return facts
    if active is None:
        return facts
    model = open_model.facts
    network = _network_of(active)
    same_network = [version["id"] for version in all_versions if _network_of(version) == network]
    reviewed = reviewed_defects(versions.database, product_id, same_network)
    facts["rates"] = _describe_rates(model, reviewed)
    facts["day"] = pictures_a_day(versions.database, product_id)
    facts["known_defects"] = len(reviewed)
    return facts


def _network_of(version: VersionFacts) -> int:
    """Return the number of the version for which this version's network was made.

    A version that differs from another only in its rate has the other's network: `rate_of` is its number.
    """
    return version.get("rate_of", version["id"])


def _describe_rates(model: ModelFacts, reviewed: Sequence[ReviewedDefect]) -> list[dict[str, object]]:
    """Return the rates on offer, each with the number of defects that the model would find at this rate.

    A row has the keys of `rates.describe_rates`, and in addition: `defects`: number of simulated defects;
    `hits`: simulated defects that would be found; `known`: reviewed defects that would be found; `is_own`:
    whether this is the model's current rate.

    Args:
        model: Facts of the model.
        reviewed: Reviewed defects, with their scores.
    """
    is_by_part = rates.promise_of(model).by_part
    rows = []
    for row in rates.describe_rates(model):
        if is_by_part:  # a part is judged by its p-value, and has no single score with a threshold
            known_count = sum(defect.p_value <= row["expected"] + _ROUNDING for defect in reviewed)
        else:
            # `not ... <=` instead of `>` counts a score of NaN, too, because it is anomalous
            known_count = sum(not defect.score <= row["threshold"] for defect in reviewed)
        counts = row["found"].values()  # one pair for each size: number of found defects, and of all defects
        rows.append(
            {
                **row,
                "hits": sum(found_count for found_count, _ in counts),
                "defects": sum(all_count for _, all_count in counts),
                "known": known_count,
                "is_own": row["rate"] == model.rate,
            }
        )
    return rows
