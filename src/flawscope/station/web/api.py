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
from flawscope.errors import InputError, nearest
from flawscope.station.access.roles import ADMIN, ENGINEER, OPERATOR, PERSON_KEY, VIEWER, Person, has_role
from flawscope.station.access.users import ExpiredError
from flawscope.station.station import Station
from flawscope.station.store.database import StoreError
from flawscope.station.store.files import MASK, MASKS
from flawscope.station.store.inspection import SENT, Inspection
from flawscope.station.store.records import holdable, microseconds
from flawscope.station.store.search import MOST, Filters
from flawscope.station.web import schemas, uploads
from flawscope.station.web.middleware import needs

SIDE = 1600  # pixels of the longer side of a picture as it is shown
MASK_BYTES = 8 * 1024**2  # largest mask in base64
_OFTEN = {"Cache-Control": "private, max-age=86400"}  # the answers do not change
_TYPES = {
    **{".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff", ".bmp": "image/bmp"},
    **{".webp": "image/webp", ".gif": "image/gif", ".avif": "image/avif", ".heic": "image/heic"},
}


def refusals_of(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": schemas.Refusal} for code in codes}


async def check_query(request: Request) -> None:
    """Refuse query parameters that a route does not declare, since a misspelt filter would find everything; a
    dependency of every route. InputError names the nearest right parameter."""
    known = sorted(_declared(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if given.count(name) > 1:
            raise InputError(f"query parameter {name:.60} is given more than once: send one value")
        if name not in known:
            raise InputError(f"there is no query parameter {name!r:.60}: {nearest(name, known)}")


def _declared(dependant: Dependant) -> set[str]:
    """Names of the query parameters of a route and of what it depends on."""
    own = {one.alias for one in dependant.query_params}
    return own.union(*map(_declared, dependant.dependencies))


def routes(*codes: int, prefix: str = "/api/v1/products/{name}", role: str = VIEWER) -> APIRouter:
    """Router for people and programs with this role or a higher one. codes: of refusals beside the usual."""
    refusals = refusals_of(401, 403, 404, 421, 422, 503, *codes)
    passed = [Depends(needs(role)), Depends(check_query)]
    return APIRouter(prefix=prefix, dependencies=passed, responses=refusals)


Side = Annotated[int, Query(ge=64, le=4096, description="pixels of the longer side, at most")]
Called = Annotated[str, Query(alias="name", max_length=300, description="what you call the picture")]
Number = Annotated[int, Query(ge=0, lt=2**63)]


async def station_of(request: Request) -> Station:  # async: FastAPI calls others in another thread
    station: Station = request.app.state.station
    return station


def file_body(*types: str, several: bool = False) -> dict[str, Any]:
    """Description of a body that is a file of these media types, or a form with several."""
    content: dict[str, Any] = {one: {"schema": {"type": "string", "format": "binary"}} for one in types}
    if several:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"type": "object", "required": ["files"], "properties": {"files": files}}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def keyed(what: str) -> list[dict[str, Any]]:
    """Description of the header with the sender's key. what: the effect of the key."""
    schema = {"type": "string", "maxLength": uploads.MOST_KEY}
    text = f"the same key {what}, however often it is sent"
    return [
        {"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema, "description": text}
    ]


Here = Annotated[Station, Depends(station_of)]
Operator = Annotated[Person, Depends(needs(OPERATOR))]
Engineer = Annotated[Person, Depends(needs(ENGINEER))]
Admin = Annotated[Person, Depends(needs(ADMIN))]

router = routes(prefix="/api/v1")
product = APIRouter(prefix="/products/{name}")

# --------------------------------------------------------------------------------------------------- products


@router.get("/products", response_model=schemas.Products)
def products(station: Here) -> Any:
    """List the products that are inspected here."""
    return {"products": [station.product_facts(name) for name in station.products]}


@product.get("", response_model=schemas.Product)
def one_product(name: str, station: Here) -> Any:
    return station.product_facts(name)


@router.get("/status", response_model=schemas.Status)
def status(station: Here) -> Any:
    """Return the state of the station, with its problems."""
    problems = [problem.to_dict() for problem in station.problems()]
    return {
        "state": "degraded" if problems else "ok",
        "problems": problems,
        "version": __version__,
        "queue": {"waiting": station.inspector.backlog(), "most": station.settings.limits.queue},
    }


@router.post("/problems/{code}/acknowledge", response_model=schemas.Problem)
def acknowledge_problem(code: str, station: Here, person: Engineer) -> Any:
    """Acknowledge a problem: the bar on the pages leaves it out until it is over."""
    return station.acknowledge(code, person.name).to_dict()


@router.post("/clock/confirm", response_model=schemas.Status)
def confirm_clock(station: Here, person: Engineer) -> Any:
    """Confirm the computer's clock, which jumped: pictures are removed for their age again."""
    station.confirm_clock(person.name)
    return status(station)


# ------------------------------------------------------------------------------------------------ inspections


def filters_of(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
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


Wanted = Annotated[Filters, Depends(filters_of)]


@product.get("/inspections", response_model=schemas.Inspections)
def find(name: str, station: Here, wanted: Wanted) -> Any:
    """Search inspections, the newest first."""
    page = station.search(name, wanted)
    return {"inspections": page.inspections, "next": page.next}


@product.get("/inspections/{number}", response_model=Inspection)
def one_inspection(name: str, number: int, station: Here) -> Any:
    return station.inspection(name, holdable(number))


# --------------------------------------------------------------------------------------------------- pictures


@product.get("/inspections/{number}/picture", response_class=Response)
def picture(name: str, number: int, station: Here) -> Response:
    """Return the picture file as it was sent."""
    data, suffix, called = station.shown.picture(station.product_id(name), holdable(number))
    stem = PurePosixPath(called).stem or str(number)
    headers = {**attachment(f"{stem}{suffix}"), "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=_TYPES.get(suffix, "application/octet-stream"), headers=headers)


@product.get("/inspections/{number}/view", response_class=Response)
def view(name: str, number: int, station: Here, side: Side = SIDE) -> Response:
    """Return the picture upright, as WebP."""
    data = station.shown.view(station.product_id(name), holdable(number), side)
    return Response(data, media_type="image/webp", headers=_OFTEN)


@product.get("/inspections/{number}/overlay", response_class=Response)
def overlay(name: str, number: int, station: Here, side: Side = SIDE) -> Response:
    """Return the picture with heat map and outlines, as WebP."""
    data = station.shown.overlay(station.product_id(name), holdable(number), side)
    return Response(data, media_type="image/webp", headers=_OFTEN)


@product.get("/inspections/{number}/map", response_class=Response)
def map_of(name: str, number: int, station: Here) -> Response:
    """Return the anomaly map at the network's size, as 16-bit PNG; X-Map-Low and X-Map-High are the values of
    0 and 65535."""
    data, low, high = station.shown.map(station.product_id(name), holdable(number))
    headers = {"X-Map-Low": repr(low), "X-Map-High": repr(high), **_OFTEN}
    return Response(data, media_type="image/png", headers=headers)


@product.get("/inspections/{number}/mask", response_class=Response)
def mask(name: str, number: int, station: Here) -> Response:
    """Return the mask as PNG as large as the picture, 255 where the defect is: as a person drew it, else as
    the model outlined it."""
    data = station.shown.mask(station.product_id(name), holdable(number))
    return Response(data, media_type="image/png")


# --------------------------------------------------------------------------------------------------- verdicts


@product.post(
    "/inspections/{number}/verdict",
    response_model=Inspection,
    responses=refusals_of(409),
    openapi_extra={"parameters": keyed("is one verdict")},
)
def decide(
    name: str, number: int, request: Request, verdict: schemas.Verdict, station: Here, person: Operator
) -> Any:
    """Give a verdict on an inspection; `undo` takes the last verdict back."""
    product_id, number, key = station.product_id(name), holdable(number), uploads.key_of(request)
    drawn = None
    if verdict.mask is not None:
        drawn = _mask(station, product_id, number, verdict.mask)
    try:
        said = verdict.verdict, person.name, drawn, verdict.note, key and f"{SENT}{key}"
        found = station.store.decide(product_id, number, *said)
    finally:
        if drawn is not None:
            station.files.release(drawn)
    station.metrics.verdicts.labels(name, verdict.verdict).inc()
    station.spoken(product_id)
    return found


def _mask(station: Station, product_id: int, number: int, sent: str) -> str:
    """Keep and hold a mask that a person drew; return the hash of its file."""
    about = station.store.inspection(product_id, number)
    if len(sent) > MASK_BYTES:
        raise InputError("the mask has more than 8 MB: send a PNG of two values")
    try:
        data = base64.b64decode(sent.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the mask is not base64: send a PNG in base64") from None
    mask = uploads.mask_of(data, about["width"], about["height"], station.settings.limits)
    return station.files.keep(MASKS, mask, MASK, hold=True)


@product.get("/review", response_model=schemas.Waiting)
def review(
    name: str,
    request: Request,
    station: Here,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 20,
    after: Number = 0,
    reader: Annotated[
        str, Query(max_length=64, description="of several at a time, any text of its own")
    ] = "",
) -> Any:
    """List inspections that wait for a review, the oldest first, after the number `after`. Those that another
    reader was given in the last minutes come only where no others are left."""
    judges = has_role(request.scope[PERSON_KEY], OPERATOR)  # viewers take nothing from those who judge
    return station.waiting(name, limit, after, reader if judges else "")


@product.get("/trends", response_model=schemas.Trends)
def trends(name: str, station: Here, since: str | None = None, until: str | None = None) -> Any:
    """Return scores over time: single inspections where they are few."""
    ends = (microseconds(text) if text else None for text in (since, until))
    return station.trends(name, *ends)


@product.get("/drift", response_model=schemas.Drift)
def drift(name: str, station: Here) -> Any:
    """Return whether good parts score as before, as many pictures are flagged, the camera is as it was."""
    return station.drift(name)


@product.post("/drift/acknowledge", response_model=schemas.Drift)
def acknowledge(name: str, station: Here, person: Engineer) -> Any:
    """Accept the present state as the new normal: drift and the camera's first pictures begin anew."""
    station.drifts.acknowledge(station.product_id(name), person.name)
    return station.drift(name)


@product.get("/live", response_class=StreamingResponse)
async def live(name: str, request: Request, station: Here) -> StreamingResponse:
    """Stream server-sent events: `inspection` for each new one, `state` every second."""
    product_id = station.product_id(name)

    def state() -> dict[str, Any] | None:
        try:
            if not has_role(station.access.authenticate(request), VIEWER):  # signed out, or removed
                return None
            return {**station.flow(name), "waiting": station.store.waiting_count(product_id)}
        except (StoreError, ExpiredError):  # the page asks why, and listens again when it is over
            return None

    async def events() -> AsyncIterator[str]:
        async for message in station.live.stream(product_id, state):
            yield message

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


router.include_router(product)


def attachment(name: str) -> dict[str, str]:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"}
