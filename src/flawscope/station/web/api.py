"""JSON API below /api/v1."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import StreamingResponse

from flawscope._version import __version__
from flawscope.errors import InputError, suggest_name
from flawscope.station.access.roles import ADMIN, ENGINEER, OPERATOR, PERSON_KEY, VIEWER, Person, has_role
from flawscope.station.access.users import ExpiredError
from flawscope.station.station import Station
from flawscope.station.store.database import StoreError
from flawscope.station.store.files import MASK_SUFFIX, MASKS
from flawscope.station.store.inspection import HTTP_PREFIX, Inspection
from flawscope.station.store.records import parse_time, valid_id_or_zero
from flawscope.station.store.search import MAX_PAGE_SIZE, Filters
from flawscope.station.web import schemas, uploads
from flawscope.station.web.middleware import require_role

DEFAULT_SIDE = 1600  # pixels of the longer side of a view
MAX_MASK_BYTES = 8 * 1024**2  # of a mask in base64
_CACHE_A_DAY = {"Cache-Control": "private, max-age=86400"}  # headers of answers that do not change
_MEDIA_TYPES = {
    **{".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff", ".bmp": "image/bmp"},
    **{".webp": "image/webp", ".gif": "image/gif", ".avif": "image/avif", ".heic": "image/heic"},
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Refusal} for status in statuses}


async def check_query_names(request: Request) -> None:
    """Dependency of every route: refuse query parameters that the route does not declare, since a misspelt
    filter would find everything. InputError names the nearest right parameter."""
    known = sorted(_query_names(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if given.count(name) > 1:
            raise InputError(f"query parameter {name:.60} is given more than once: send one value")
        if name not in known:
            raise InputError(f"there is no query parameter {name!r:.60}: {suggest_name(name, known)}")


def _query_names(dependant: Dependant) -> set[str]:
    """Return the names of all query parameters of a route and its dependencies."""
    names = {parameter.alias for parameter in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


def api_router(*statuses: int, prefix: str = "/api/v1/products/{name}", role: str = VIEWER) -> APIRouter:
    """Make a router for senders of this role or a higher one. statuses: of refusals beside the usual ones."""
    responses = refusals(401, 403, 404, 421, 422, 503, *statuses)
    dependencies = [Depends(require_role(role)), Depends(check_query_names)]
    return APIRouter(prefix=prefix, dependencies=dependencies, responses=responses)


Side = Annotated[int, Query(ge=64, le=4096, description="pixels of the longer side, at most")]
PictureName = Annotated[str, Query(alias="name", max_length=300, description="what you call the picture")]
RecordNumber = Annotated[int, Query(ge=0, lt=2**63)]


async def get_station(request: Request) -> Station:  # async: FastAPI calls plain functions in another thread
    station: Station = request.app.state.station
    return station


def file_body_schema(*media_types: str, allow_form: bool = False) -> dict[str, Any]:
    """Describe a body for OpenAPI: a file of these media types, or a form with several files."""
    content: dict[str, Any] = {
        name: {"schema": {"type": "string", "format": "binary"}} for name in media_types
    }
    if allow_form:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"type": "object", "required": ["files"], "properties": {"files": files}}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def key_header_schema(effect: str) -> list[dict[str, Any]]:
    """Describe the header with the sender's key for OpenAPI. effect: what the same key does."""
    schema = {"type": "string", "maxLength": uploads.MAX_KEY_LENGTH}
    text = f"the same key {effect}, however often it is sent"
    return [
        {"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema, "description": text}
    ]


StationDep = Annotated[Station, Depends(get_station)]
Operator = Annotated[Person, Depends(require_role(OPERATOR))]
Engineer = Annotated[Person, Depends(require_role(ENGINEER))]
Admin = Annotated[Person, Depends(require_role(ADMIN))]

router = api_router(prefix="/api/v1")
product_router = APIRouter(prefix="/products/{name}")

# --------------------------------------------------------------------------------------------------- products


@router.get("/products", response_model=schemas.Products)
def products(station: StationDep) -> Any:
    """List the products that are inspected here."""
    return {"products": [station.product_facts(name) for name in station.products]}


@product_router.get("", response_model=schemas.Product)
def one_product(name: str, station: StationDep) -> Any:
    return station.product_facts(name)


@router.get("/status", response_model=schemas.Status)
def status(station: StationDep) -> Any:
    """Return the state of the station, with its problems."""
    problems = [problem.to_dict() for problem in station.problems()]
    return {
        "state": "degraded" if problems else "ok",
        "problems": problems,
        "version": __version__,
        "queue": {"waiting": station.inspector.backlog(), "most": station.settings.limits.queue},
    }


@router.post("/problems/{code}/acknowledge", response_model=schemas.Problem)
def acknowledge_problem(code: str, station: StationDep, person: Engineer) -> Any:
    """Acknowledge a problem: the bar on the pages leaves it out until it is over."""
    return station.acknowledge(code, person.name).to_dict()


@router.post("/clock/confirm", response_model=schemas.Status)
def confirm_clock(station: StationDep, person: Engineer) -> Any:
    """Confirm the computer's clock, which jumped: pictures are removed for their age again."""
    station.confirm_clock(person.name)
    return status(station)


# ------------------------------------------------------------------------------------------------ inspections


def parse_filters(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before")] = None,
    since: Annotated[str | None, Query(description="2026-11-22 or 2026-11-22T14:30:00Z")] = None,
    until: Annotated[str | None, Query(description="before this time")] = None,
    decision: Literal["", "good", "anomalous"] | None = None,
    verdict: Literal["", "good", "defect", "none"] | None = None,
    review: Literal["", "none", "waiting", "done", "skipped"] | None = None,
    score_min: str | None = None,
    score_max: str | None = None,
    version: str | None = None,
    picture: Annotated[
        str | None, Query(alias="file", description="what its sender calls it; A12* begins with A12")
    ] = None,
    part: Annotated[str | None, Query(description="its number; 4711* begins with 4711")] = None,
    batch: Annotated[str | None, Query(description="that the part belongs to; 47* begins with 47")] = None,
) -> Filters:
    query = {key: value for key, value in request.query_params.items() if key not in ("name", "file")}
    return Filters.from_query({**query, "name": picture or ""})


FiltersDep = Annotated[Filters, Depends(parse_filters)]


@product_router.get("/inspections", response_model=schemas.Inspections)
def find_inspections(name: str, station: StationDep, filters: FiltersDep) -> Any:
    """Search inspections, the newest first."""
    page = station.search(name, filters)
    return {"inspections": page.inspections, "next": page.next}


@product_router.get("/inspections/{number}", response_model=Inspection)
def one_inspection(name: str, number: int, station: StationDep) -> Any:
    return station.inspection(name, valid_id_or_zero(number))


# --------------------------------------------------------------------------------------------------- pictures


@product_router.get("/inspections/{number}/picture", response_class=Response)
def picture(name: str, number: int, station: StationDep) -> Response:
    """Return the picture file as it was sent."""
    data, suffix, sent_name = station.renderer.picture(station.product_id(name), valid_id_or_zero(number))
    stem = PurePosixPath(sent_name).stem or str(number)
    headers = {**attachment(f"{stem}{suffix}"), "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=_MEDIA_TYPES.get(suffix, "application/octet-stream"), headers=headers)


@product_router.get("/inspections/{number}/view", response_class=Response)
def view(name: str, number: int, station: StationDep, side: Side = DEFAULT_SIDE) -> Response:
    """Return the picture upright, as WebP."""
    data = station.renderer.view(station.product_id(name), valid_id_or_zero(number), side)
    return Response(data, media_type="image/webp", headers=_CACHE_A_DAY)


@product_router.get("/inspections/{number}/overlay", response_class=Response)
def overlay(name: str, number: int, station: StationDep, side: Side = DEFAULT_SIDE) -> Response:
    """Return the picture with heat map and outlines, as WebP."""
    data = station.renderer.overlay(station.product_id(name), valid_id_or_zero(number), side)
    return Response(data, media_type="image/webp", headers=_CACHE_A_DAY)


@product_router.get("/inspections/{number}/map", response_class=Response)
def anomaly_map(name: str, number: int, station: StationDep) -> Response:
    """Return the anomaly map at the network's size, as 16-bit PNG; X-Map-Low and X-Map-High are the values of
    0 and 65535."""
    data, low, high = station.renderer.map(station.product_id(name), valid_id_or_zero(number))
    headers = {"X-Map-Low": repr(low), "X-Map-High": repr(high), **_CACHE_A_DAY}
    return Response(data, media_type="image/png", headers=headers)


@product_router.get("/inspections/{number}/mask", response_class=Response)
def mask(name: str, number: int, station: StationDep) -> Response:
    """Return the mask that a person drew, else that of the model, as PNG of the picture's size, 255 where the
    defect is."""
    data = station.renderer.mask(station.product_id(name), valid_id_or_zero(number))
    return Response(data, media_type="image/png")


# --------------------------------------------------------------------------------------------------- verdicts


@product_router.post(
    "/inspections/{number}/verdict",
    response_model=Inspection,
    responses=refusals(409),
    openapi_extra={"parameters": key_header_schema("is one verdict")},
)
def decide(
    name: str, number: int, request: Request, verdict: schemas.Verdict, station: StationDep, person: Operator
) -> Any:
    """Give a verdict on an inspection; `undo` takes the last verdict back."""
    product_id, number, key = (
        station.product_id(name),
        valid_id_or_zero(number),
        uploads.idempotency_key(request),
    )
    mask_hash = None
    if verdict.mask is not None:
        mask_hash = _store_mask(station, product_id, number, verdict.mask)
    try:
        details = verdict.verdict, person.name, mask_hash, verdict.note, key and f"{HTTP_PREFIX}{key}"
        inspection = station.store.add_verdict(product_id, number, *details)
    finally:
        if mask_hash is not None:
            station.files.release(mask_hash)
    station.metrics.verdicts.labels(name, verdict.verdict).inc()
    station.note_verdict(product_id)
    return inspection


def _store_mask(station: Station, product_id: int, number: int, encoded: str) -> str:
    """Store a mask that a person drew, until `release` as one in use; return the hash of its file."""
    inspection = station.store.inspection(product_id, number)
    if len(encoded) > MAX_MASK_BYTES:
        raise InputError("the mask has more than 8 MB: send a PNG of two values")
    try:
        data = base64.b64decode(encoded.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the mask is not base64: send a PNG in base64") from None
    mask = uploads.normalize_mask(data, inspection["width"], inspection["height"], station.settings.limits)
    return station.files.keep(MASKS, mask, MASK_SUFFIX, hold=True)


@product_router.get("/review", response_model=schemas.WaitingInspections)
def review(
    name: str,
    request: Request,
    station: StationDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 20,
    after: RecordNumber = 0,
    reader: Annotated[
        str, Query(max_length=64, description="of several at a time, any text of its own")
    ] = "",
) -> Any:
    """List inspections that wait for a review, the oldest first, after the number `after`. Those that another
    reader was given in the last minutes come only where no others are left."""
    may_judge = has_role(request.scope[PERSON_KEY], OPERATOR)  # a viewer's reader takes none away
    return station.waiting(name, limit, after, reader if may_judge else "")


@product_router.get("/trends", response_model=schemas.Trends)
def trends(name: str, station: StationDep, since: str | None = None, until: str | None = None) -> Any:
    """Return scores over time: single inspections where they are few."""
    bounds = (parse_time(text) if text else None for text in (since, until))
    return station.trends(name, *bounds)


@product_router.get("/drift", response_model=schemas.DriftState)
def drift(name: str, station: StationDep) -> Any:
    """Return whether scores of good parts, the share of flagged pictures and the camera are as before."""
    return station.drift(name)


@product_router.post("/drift/acknowledge", response_model=schemas.DriftState)
def acknowledge_drift(name: str, station: StationDep, person: Engineer) -> Any:
    """Accept the present state as the new normal: drift and the camera's first pictures begin anew."""
    station.drift_monitor.acknowledge(station.product_id(name), person.name)
    return station.drift(name)


@product_router.get("/live", response_class=StreamingResponse)
async def live(name: str, request: Request, station: StationDep) -> StreamingResponse:
    """Stream server-sent events: `inspection` for each new one, `state` every second."""
    product_id = station.product_id(name)

    def state() -> dict[str, Any] | None:
        try:
            if not has_role(station.access.authenticate(request), VIEWER):  # signed out, or removed
                return None
            return {**station.current_state(name), "waiting": station.store.waiting_count(product_id)}
        except (StoreError, ExpiredError):  # the page asks for the reason, and connects again
            return None

    async def events() -> AsyncIterator[str]:
        async for message in station.live.stream(product_id, state):
            yield message

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


router.include_router(product_router)


def attachment(name: str) -> dict[str, str]:
    ascii_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return {"Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name)}"}
