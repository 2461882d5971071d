"""JSON API below /api/v1."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from flawscope import __version__
from flawscope.errors import InputError, suggest_name
from flawscope_station.access.authenticator import Access, ExpiredError
from flawscope_station.access.roles import ENGINEER, OPERATOR, VIEWER, Person, has_role
from flawscope_station.core.event_broadcaster import EventBroadcaster
from flawscope_station.core.housekeeping import Housekeeping
from flawscope_station.core.queries import Overview
from flawscope_station.monitoring.threads import describe_threads, thread_stacks
from flawscope_station.settings.shifts import ShiftSettings, station_zone
from flawscope_station.shifts.shift import shift_begin
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.filters import FILTERS
from flawscope_station.store.inspection import Inspection, InspectionFacts
from flawscope_station.store.product_facts import Product
from flawscope_station.store.records import (
    NotFoundError,
    iso,
    parse_time,
    valid_id_or_zero,
)
from flawscope_station.store.search import MAX_PAGE_SIZE, Filters, Trends
from flawscope_station.web import schemas, uploads
from flawscope_station.web.components import (
    AccessDep,
    AddressesDep,
    HealthDep,
    OverviewDep,
    PausesDep,
    ProductId,
    RecordsDep,
    RecordsId,
    RendererDep,
    SettingsDep,
    StoreDep,
    component,
)
from flawscope_station.web.local_times import query_in_utc
from flawscope_station.web.middleware import require_role

Answer = Mapping[str, object]  # answer of a route, before its `response_model` checks it

DEFAULT_SIDE = 1600  # pixels of the longer side of a view
_CACHE_A_DAY = {"Cache-Control": "private, max-age=86400"}  # headers of answers that do not change
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".tif": "image/tiff",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".heic": "image/heic",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for statuses whose body is a `Refusal`."""
    return {status: {"model": schemas.Refusal} for status in statuses}


async def check_query_names(request: Request) -> None:
    """Refuse query parameters that the route does not declare, or that come twice.

    Every route depends on this check: without it, a misspelt filter would find all inspections.

    Raises:
        RequestValidationError: A parameter is wrong; the error names it, and the route's most similar one.
    """
    route_names = sorted(_query_names(request.scope["route"].dependant))
    request_names = [name for name, _ in request.query_params.multi_items()]
    for name in request_names:
        if request_names.count(name) > 1:
            fault = "the query parameter is given more than once: send one value"
        elif name not in route_names:
            fault = f"there is no such query parameter: {suggest_name(name, route_names)}"
        else:
            continue
        raise RequestValidationError([{"loc": ("query", f"{name:.60}"), "msg": fault}])


def _query_names(dependant: Dependant) -> set[str]:
    """Return the names of all query parameters of a route and its dependencies."""
    names = {parameter.alias for parameter in dependant.query_params}
    for dependency in dependant.dependencies:
        names |= _query_names(dependency)
    return names


def api_router(*statuses: int, prefix: str = "/api/v1/products/{name}", role: str = VIEWER) -> APIRouter:
    """Make a router of the API.

    Args:
        statuses: HTTP statuses of refusals, besides those that all routes have.
        prefix: Path before the paths of all routes.
        role: Lowest role of a sender that may use the routes.
    """
    responses = refusals(401, 403, 404, 421, 422, 503, *statuses)
    dependencies = [Depends(require_role(role)), Depends(check_query_names)]
    return APIRouter(prefix=prefix, dependencies=dependencies, responses=responses)


ViewName = Annotated[
    str | None, Query(alias="of", description="view of the part to show; left out: the most unusual one")
]
Side = Annotated[int, Query(ge=64, le=4096, description="largest length of the longer side, pixels")]
PictureName = Annotated[
    str, Query(alias="name", max_length=300, description="name of the picture, of your choice")
]


def file_body_schema(*media_types: str, allow_form: bool = False) -> dict[str, object]:
    """Describe a request's body for OpenAPI.

    Args:
        media_types: Media types of a body that is a file.
        allow_form: Whether the body may also be a form with several files.
    """
    binary = {"schema": {"type": "string", "format": "binary"}}
    content: dict[str, object] = dict.fromkeys(media_types, binary)
    if allow_form:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"type": "object", "required": ["files"], "properties": {"files": files}}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def key_header_schema(effect: str) -> list[dict[str, object]]:
    """Describe the header with the sender's key for OpenAPI.

    Args:
        effect: Words after "the same key": the effect of sending it again.
    """
    schema = {"type": "string", "maxLength": uploads.MAX_KEY_LENGTH}
    text = f"key of the request: the same key {effect}, however often it is sent"
    return [
        {"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema, "description": text}
    ]


Operator = Annotated[Person, Depends(require_role(OPERATOR))]
Engineer = Annotated[Person, Depends(require_role(ENGINEER))]

router = api_router(prefix="/api/v1")
product_router = APIRouter(prefix="/products/{name}")

# --------------------------------------------------------------------------------------------------- products


@router.get("/products", response_model=schemas.Products)
def products(overview: OverviewDep) -> Answer:
    """List the products that are inspected here."""
    facts = []
    for name in list(overview.addresses.products):
        with suppress(NotFoundError):  # it was removed meanwhile
            facts.append(overview.facts(name))
    return {"products": facts}


@router.get("/removed-products", response_model=schemas.RemovedProducts)
def removed_products(addresses: AddressesDep) -> Answer:
    """List the names of removed products.

    Under these names their inspections can be searched, viewed and exported as long as they are kept.
    """
    return {"products": list(addresses.removed())}


@product_router.get("", summary="State of a product")
def one_product(name: str, overview: OverviewDep) -> Product:
    """Return a product's state and facts."""
    return overview.facts(name)


@product_router.post("/pause")
def pause_product(
    name: str,
    product_id: ProductId,
    overview: OverviewDep,
    pauses: PausesDep,
    person: Operator,
    body: schemas.PauseRequest | None = None,
) -> Product:
    """Pause a product; it stays paused when the station restarts.

    Its parts are refused with 503 `paused`, and a PLC sees the product as not ready. A pause is no problem of
    the station.
    """
    pauses.pause(product_id, person.name, "" if body is None else body.reason)
    return overview.facts(name)


@product_router.post("/resume")
def resume_product(
    name: str, product_id: ProductId, overview: OverviewDep, pauses: PausesDep, person: Operator
) -> Product:
    """End the pause of a product: parts are taken again."""
    pauses.resume(product_id, person.name)
    return overview.facts(name)


@product_router.get(
    "/undelivered", response_model=schemas.UndeliveredMessages, summary="Undelivered messages"
)
def undelivered(name: str, product_id: ProductId, overview: OverviewDep) -> Answer:
    """List the messages that a sink refused for good."""
    return {"messages": overview.sinks.undelivered(name)}


@product_router.post(
    "/undelivered/again",
    response_model=schemas.UndeliveredMessages,
    summary="Send undelivered messages again",
)
def send_again(name: str, product_id: ProductId, overview: OverviewDep, person: Engineer) -> Answer:
    """Send all messages again that a sink refused for good."""
    overview.sinks.send_again(name, person.name)
    return {"messages": overview.sinks.undelivered(name)}


@router.get("/status", response_model=schemas.Status, summary="State of the station")
def status(health: HealthDep, overview: OverviewDep) -> Answer:
    """Return the station's state, problems, version, settings hash and queue."""
    problems = [problem.to_dict() for problem in health.problems()]
    return {
        "state": "degraded" if problems else "ok",
        "problems": problems,
        "version": __version__,
        "settings": overview.settings_hash(),
        "queue": {"waiting": health.inspector.backlog(), "most": health.inspector.limits.queue},
    }


@router.get("/settings", response_model=schemas.SettingsInForce, summary="Current settings")
def settings_in_force(overview: OverviewDep, person: Engineer) -> Answer:
    """Return the settings in force, with those of products that were made on the pages.

    Parts of an address that may be secret are left out; passwords stand in files of their own.
    """
    return overview.settings()


@router.get("/threads", response_model=schemas.Threads, summary="Threads of the station")
async def threads(health: HealthDep, person: Engineer) -> Answer:  # async: threads of the pool may hang
    """Return the station's threads, each with its current place in the program."""
    return {"watched": describe_threads(health.watch.list_threads()), "stacks": thread_stacks()}


@router.post("/problems/{code}/acknowledge", response_model=schemas.Problem)
def acknowledge_problem(code: str, health: HealthDep, person: Engineer) -> Answer:
    """Acknowledge a problem: the bar on the pages leaves it out until it is over."""
    return health.acknowledge(code, person.name).to_dict()


@router.post("/clock/confirm", response_model=schemas.Status, summary="Confirm the clock")
def confirm_clock(
    housekeeping: Annotated[Housekeeping, component(Housekeeping)],
    health: HealthDep,
    overview: OverviewDep,
    person: Engineer,
) -> Answer:
    """Confirm the computer's clock after a jump, so that the removal of old pictures goes on."""
    housekeeping.confirm_clock(person.name)
    return status(health, overview)


@router.post("/keep/confirm", response_model=schemas.Status, summary="Confirm the removal of many pictures")
def confirm_keep(
    housekeeping: Annotated[Housekeeping, component(Housekeeping)],
    health: HealthDep,
    overview: OverviewDep,
    person: Engineer,
) -> Answer:
    """Confirm that the setting `keep` may remove more than a tenth of the stored pictures at once."""
    housekeeping.confirm_keep(person.name)
    return status(health, overview)


# ------------------------------------------------------------------------------------------------ inspections


def parse_filters(
    request: Request,
    settings: SettingsDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    cursor: Annotated[str, Query(description="`next` of the page before")] = "",
    **texts: str,
) -> Filters:
    """Return a request's query as the filters of a search.

    Args:
        request: HTTP request.
        settings: Settings of the station; times without an offset are of its zone.
        limit: Number of inspections of a page.
        cursor: `next` of the page before; empty: the first page.
        texts: Text of each filter, by the name of its parameter in `_filter_parameters`; an empty text: the
            filter is not used.
    """
    query = {}
    for filter_ in FILTERS:
        text = texts[f"{PREFIX}{filter_.name}"]
        if text:
            query[filter_.name] = text
    query = query_in_utc(query, station_zone(settings.shifts))
    return Filters.from_query({**query, "cursor": cursor, "limit": str(limit)})


def _filter_parameters() -> Iterator[inspect.Parameter]:
    """Yield the parameter of `parse_filters` for each filter.

    The parameters' names begin with `PREFIX`, because the filter `name` would collide with the product's name
    in the path.
    """
    for filter_ in FILTERS:
        # a filter with a fixed list of words allows only these, or no text
        choices = ("", *filter_.words)
        annotation = Literal.__getitem__(choices) if filter_.words else str
        query = Query("", alias=filter_.parameter or filter_.name, description=filter_.says or None)
        kind = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(f"{PREFIX}{filter_.name}", kind, default=query, annotation=annotation)


PREFIX = "filter_"
# FastAPI reads and describes the query by the signature: a parameter for each filter replaces `texts`
_signature = inspect.signature(parse_filters, eval_str=True)
_written_parameters = [
    parameter
    for parameter in _signature.parameters.values()
    if parameter.kind != inspect.Parameter.VAR_KEYWORD
]
_parameters = [*_written_parameters, *_filter_parameters()]
setattr(parse_filters, "__signature__", _signature.replace(parameters=_parameters))  # noqa: B010


FiltersDep = Annotated[Filters, Depends(parse_filters)]


@product_router.get("/inspections", response_model=schemas.Inspections)
def find_inspections(product_id: RecordsId, records: RecordsDep, filters: FiltersDep) -> Answer:
    """Search a product's inspections, the newest first."""
    page = records.search(product_id, filters)
    return {"inspections": page.inspections, "next": page.next}


@product_router.get("/inspections/{number}", response_model=Inspection, summary="An inspection")
def one_inspection(product_id: RecordsId, number: int, store: StoreDep) -> InspectionFacts:
    """Return an inspection."""
    return store.inspection(product_id, valid_id_or_zero(number))


# --------------------------------------------------------------------------------------------------- pictures


@product_router.get(
    "/inspections/{number}/picture", response_class=Response, summary="Picture file of an inspection"
)
def picture(
    product_id: RecordsId, number: int, renderer: RendererDep, view_name: ViewName = None
) -> Response:
    """Return the picture file as it was sent."""
    data, suffix, sent_name = renderer.picture(product_id, valid_id_or_zero(number), view_name)
    stem = PurePosixPath(sent_name).stem or str(number)
    # a browser that opens the file as a page runs no script of it
    headers = {**attachment(f"{stem}{suffix}"), "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=_MEDIA_TYPES.get(suffix, "application/octet-stream"), headers=headers)


@product_router.get(
    "/inspections/{number}/view", response_class=Response, summary="Upright view of the picture"
)
def view(
    product_id: RecordsId,
    number: int,
    renderer: RendererDep,
    side: Side = DEFAULT_SIDE,
    view_name: ViewName = None,
) -> Response:
    """Return the picture upright, as WebP."""
    data = renderer.view(product_id, valid_id_or_zero(number), side, view_name)
    return Response(data, media_type="image/webp", headers=_CACHE_A_DAY)


@product_router.get(
    "/inspections/{number}/overlay", response_class=Response, summary="Picture with heat map and contours"
)
def overlay(
    product_id: RecordsId,
    number: int,
    renderer: RendererDep,
    side: Side = DEFAULT_SIDE,
    view_name: ViewName = None,
) -> Response:
    """Return the picture with heat map and contours, as WebP."""
    data = renderer.overlay(product_id, valid_id_or_zero(number), side, view_name)
    return Response(data, media_type="image/webp", headers=_CACHE_A_DAY)


@product_router.get("/inspections/{number}/map", response_class=Response)
def anomaly_map(product_id: RecordsId, number: int, renderer: RendererDep) -> Response:
    """Return the anomaly map at the network's size, as 16-bit greyscale PNG.

    The headers X-Map-Low and X-Map-High are the values of 0 and 65535.
    """
    data, low, high = renderer.map(product_id, valid_id_or_zero(number))
    headers = {"X-Map-Low": repr(low), "X-Map-High": repr(high), **_CACHE_A_DAY}
    return Response(data, media_type="image/png", headers=headers)


@product_router.get("/inspections/{number}/mask", response_class=Response, summary="Mask of the defect")
def mask(product_id: RecordsId, number: int, renderer: RendererDep) -> Response:
    """Return the defect's mask at the picture's size, as PNG: 255 where the defect is.

    It is the mask that a person drew, else the model's.
    """
    data = renderer.mask(product_id, valid_id_or_zero(number))
    return Response(data, media_type="image/png")


# ----------------------------------------------------------------------------------------------------- trends


@product_router.get("/trends", response_model=schemas.Trends, summary="Scores over time")
def trends(
    product_id: ProductId,
    records: RecordsDep,
    settings: SettingsDep,
    since: str | None = None,
    until: str | None = None,
) -> Trends:
    """Return scores over time: of single inspections if there are few, else of intervals of time.

    Days begin at midnight in the time zone of `shifts`.
    """
    zone = station_zone(settings.shifts)
    begin = parse_time(since, zone) if since else None
    end = parse_time(until, zone) if until else None
    return records.trends(product_id, zone, begin, end)


# ------------------------------------------------------------------------------------------------------- live

LIVE_TEXT = (
    "Stream server-sent events: `inspection` for each new inspection, `refusal` for each part or trigger "
    "that is not judged, and `state` every second, with the time as `at` and the counts of the shift. Each "
    "event names its `product`."
)
MAX_LIVE_PRODUCTS = 100  # products of a stream
EventsDep = Annotated[EventBroadcaster, component(EventBroadcaster)]


def live_state(overview: Overview, shifts: ShiftSettings | None, name: str) -> dict[str, object]:
    """Return a product's current state, for the stream and the page *Live*.

    Raises:
        NotFoundError: There is no such product.
    """
    product_id = overview.addresses.product_id(name)
    time_now = now()
    begin = shift_begin(shifts, time_now)
    counts = {"since": iso(begin), **overview.store.counts_since(product_id, begin)}
    waiting = overview.store.waiting_count(product_id)
    state = overview.state(name).model_dump()  # last, so that it is not older than the counts
    return {**state, "product": name, "waiting": waiting, "counts": counts, "at": iso(time_now)}


def _stream(
    request: Request,
    names: Sequence[str],
    overview: Overview,
    access: Access,
    shifts: ShiftSettings | None,
    broadcaster: EventBroadcaster,
) -> StreamingResponse:
    """Return a response that streams the events of products.

    The stream ends when the sender is signed out or removed, or when no product of the stream is left.
    """

    def states() -> list[dict[str, object]]:
        """Return the states of the products; an empty list ends the stream."""
        try:
            if not has_role(access.authenticate(request), VIEWER):  # signed out, or removed
                return []
            remaining_names = [name for name in names if name in overview.addresses.products]
            return [live_state(overview, shifts, name) for name in remaining_names]
        except (StoreError, ExpiredError, NotFoundError):  # the page asks for the reason, and connects again
            return []

    product_ids = [overview.addresses.product_id(name) for name in names]

    async def events() -> AsyncIterator[str]:
        async for message in broadcaster.stream(product_ids, states):
            yield message

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get(
    "/live", response_class=StreamingResponse, description=LIVE_TEXT, summary="Stream of several products"
)
async def live_products(
    request: Request,
    overview: OverviewDep,
    access: AccessDep,
    settings: SettingsDep,
    broadcaster: EventsDep,
    products: Annotated[
        str, Query(min_length=1, description="names of the products, with commas between them")
    ],
) -> StreamingResponse:
    """Stream the events of several products."""
    names = list(dict.fromkeys(products.split(",")))
    if len(names) > MAX_LIVE_PRODUCTS:
        raise InputError(f"a stream is of {MAX_LIVE_PRODUCTS} products at most: open several")
    return _stream(request, names, overview, access, settings.shifts, broadcaster)


@product_router.get(
    "/live", response_class=StreamingResponse, description=LIVE_TEXT, summary="Stream of a product"
)
async def live(
    name: str,
    request: Request,
    overview: OverviewDep,
    access: AccessDep,
    settings: SettingsDep,
    broadcaster: EventsDep,
) -> StreamingResponse:
    """Stream the events of a product."""
    return _stream(request, [name], overview, access, settings.shifts, broadcaster)


router.include_router(product_router)


def attachment(name: str) -> dict[str, str]:
    """Return the HTTP header that makes a browser save an answer as a file called `name`."""
    ascii_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return {"Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name)}"}
