"""Routes that have pictures judged: pictures that are sent, and the next frame of a camera."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from flawscope.errors import FlawscopeError
from flawscope_station.access.roles import SENDER
from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.refusals import sender_text, status_and_code
from flawscope_station.inspecting.asking import submit_parts, wait_for_inspection
from flawscope_station.inspecting.capacity import without_traceback
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import RecordedInspection, Waiter
from flawscope_station.sources.trigger import shoot
from flawscope_station.store.inspection import (
    HTTP,
    Inspection,
    InspectionFacts,
    KeyedRequest,
    Label,
    make_label,
    trigger_request,
    upload_request,
)
from flawscope_station.store.purposes import TRIAL
from flawscope_station.store.records import describe_new
from flawscope_station.store.schema import ABANDONED
from flawscope_station.web import schemas, uploads
from flawscope_station.web.api import Answer, PictureName, api_router, file_body_schema, key_header_schema
from flawscope_station.web.components import FloorDep, find_component
from flawscope_station.web.errors import RefusedError, error_response
from flawscope_station.web.middleware import ARRIVED_KEY

GONE = 499  # status of an answer that nobody gets
MAX_FRAME_SECONDS = 60.0  # that a request may wait for a frame

Deadline = Annotated[
    int | None,
    Query(ge=1, le=600_000, description="milliseconds in which it must be answered", examples=[800]),
]
LabelDep = Annotated[Label, Depends(uploads.parse_label)]
Purpose = Annotated[
    Literal["production", "trial"],
    Query(description="trial: tried by hand; it is recorded, and counts in no figure, sink or shift"),
]
WRONG_REQUEST = "request"  # refusal, as pages show it, of a part whose request cannot be understood


class JudgingRoute(APIRoute):
    """Route of parts, which notes each that came and is not judged, whoever refuses it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def note(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                is_stranger = isinstance(error, RefusedError) and error.status in (401, 403)
                is_trial = request.query_params.get("purpose") == TRIAL  # the line misses nothing
                if not (is_stranger or is_trial):
                    part = make_label(request.query_params.get("part"), None).part
                    is_wrong = isinstance(error, RequestValidationError)
                    code = WRONG_REQUEST if is_wrong else ""
                    refusals = find_component(request, ConnectionContext).refusals
                    picture = uploads.clean_name(request.query_params.get("name", ""))
                    refusals.note(request.path_params["name"], error, part, code, picture=picture)
                if isinstance(error, FlawscopeError):  # raised, its traceback would hold the pictures
                    return error_response(without_traceback(error))
                raise

        return note


router = api_router(408, 409, 413, 504, 507, role=SENDER)
router.route_class = JudgingRoute


@router.post(
    "/inspections",
    status_code=201,
    response_model=Inspection | schemas.PartResults,
    response_model_exclude_unset=True,
    responses={200: {"model": Inspection}},
    openapi_extra={
        **file_body_schema("image/*", "application/octet-stream", allow_form=True),
        "parameters": key_header_schema("gives the same inspection"),
    },
)
async def inspect(
    name: str,
    request: Request,
    response: Response,
    floor: FloorDep,
    label: LabelDep,
    file: PictureName = "",
    deadline: Deadline = None,
    purpose: Purpose = "production",
) -> Answer | Response:
    """Judge a part: the body is its picture. Where the model judges parts in views, a form holds the pictures
    of all of them. Else a form may hold several parts, whose results come in its order.

    The address of a joint model finds the product of each part: `product` and `shows` of the answer.

    A key names the request: the same bytes, part, batch and view get the same answer, others 409.

    The answer is sent when the inspection is on the disk. 503: nothing was recorded; try again after the
    seconds of Retry-After. 504: the part was not judged in time; if it was just being judged, it is recorded
    nevertheless.
    """
    product_id = floor.addresses.address_id(name)
    due = floor.due(name, deadline, request.scope.get(ARRIVED_KEY))
    floor.inspector.intake.check(product_id, label.part, due)
    files, is_form = await uploads.read_uploads(request, file)
    is_several = is_form and not floor.inspector.judge.parts.takes_views(product_id)
    keyed, known = await _look_up(floor, name, request, files, is_form, is_several, label, due, purpose)
    parts = _parts_of(product_id, files, is_several, keyed, label, due, purpose)
    numbers, waiters = await submit_parts(floor, parts, keyed, known)
    watching = asyncio.create_task(_watch_client(request, partial(_leave, waiters.values())))
    try:
        results, first_error, is_new = await _results(floor, name, label, parts, numbers, waiters)
    finally:
        watching.cancel()
    if first_error is not None and not any("inspection" in result for result in results):
        if len(results) == 1:
            return error_response(first_error)  # not raised: the traceback would hold the picture
        response.status_code = status_and_code(first_error)[0]
        return {"results": results}
    response.status_code = 201 if is_new or is_form else 200
    return {"results": results} if is_form else results[0]["inspection"]


async def _look_up(
    floor: ConnectionContext,
    name: str,
    request: Request,
    files: Sequence[uploads.Upload],
    is_form: bool,
    is_several: bool,
    label: Label,
    due: float,
    purpose: str,
) -> tuple[KeyedRequest | None, dict[int, int]]:
    """Return the request under its sender's key, and the numbers of the inspections that answered it before,
    by place; None: it has no key."""
    if not (key := uploads.idempotency_key(request)):
        return None, {}
    product_id, scheme = floor.addresses.address_id(name), floor.addresses.scheme(name)

    def find() -> tuple[KeyedRequest, dict[int, int]]:
        data = [one.data for one in files]
        keyed = upload_request(key, data, is_form, is_several, label, scheme, purpose)
        return keyed, floor.store.find_answers(product_id, keyed)

    return await floor.inspector.in_thread(due, find)


def _parts_of(
    product_id: int,
    files: Sequence[uploads.Upload],
    is_several: bool,
    keyed: KeyedRequest | None,
    label: Label,
    due: float,
    purpose: str,
) -> list[Part]:
    """Return the parts of a request. is_several: each picture is one, else they are one part."""
    hashes = [""] * len(files) if keyed is None else keyed.pictures
    pictures = [
        Picture(one.data, one.name, label.view, hash=digest)
        for one, digest in zip(files, hashes, strict=True)
    ]
    groups = [(one,) for one in pictures] if is_several else [tuple(pictures)]
    keys = [None] * len(groups) if keyed is None else keyed.part_keys()
    return [
        Part(product_id, own, HTTP, label.part, label.batch, key, keyed, due=due, purpose=purpose)
        for own, key in zip(groups, keys, strict=True)
    ]


class PartResult(TypedDict, total=False):
    """Result of a part: its inspection, or why there is none. name: of the picture."""

    inspection: InspectionFacts
    name: str
    error: str
    code: str


async def _results(
    floor: ConnectionContext,
    name: str,
    label: Label,
    parts: Sequence[Part],
    numbers: Mapping[int, int],
    waiters: Mapping[int, Waiter],
) -> tuple[list[PartResult], FlawscopeError | None, bool]:
    """Return the result of each part, the first error, and whether an inspection is new. numbers: of those
    that were answered before, by place."""
    product_id = parts[0].product_id
    results: list[PartResult] = []
    first_error: FlawscopeError | None = None
    is_new = False
    for place, part in enumerate(parts):
        try:
            if place in numbers:
                inspection = await _answered_again(floor, product_id, numbers[place], part.due)
            else:
                recorded = await wait_for_inspection(floor, waiters[place])
                is_new |= recorded.is_new
                inspection = await inspection_answer(floor, product_id, recorded, part.due)
            results.append({"inspection": inspection})
        except FlawscopeError as error:
            first_error = first_error or error
            plain = without_traceback(error)
            is_trial = part.purpose == TRIAL
            picture = part.pictures[0].name
            note = partial(floor.refusals.note, picture=picture)
            code = status_and_code(plain)[1] if is_trial else note(name, plain, label.part)
            results.append({"name": picture, "error": sender_text(error), "code": code})
    return results, first_error, is_new


async def _watch_client(request: Request, leave: Callable[[], object]) -> None:
    """Leave for a client that goes away before it has its answers; what was sent is recorded."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    leave()


def _leave(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.leave(ABANDONED)


async def inspection_answer(
    floor: ConnectionContext, product_id: int, recorded: RecordedInspection, due: float
) -> InspectionFacts:
    """Return an inspection as the API answers it. product_id: of the product or joint model to which the
    request went. due: deadline of the request, as `time.monotonic` counts."""
    if recorded.is_new:
        name = floor.addresses.names[recorded.inspection.product_id]
        return describe_new(recorded.number, recorded.inspection, name)
    return await floor.inspector.in_thread(due, floor.store.inspection, product_id, recorded.number)


async def _answered_again(
    floor: ConnectionContext, product_id: int, number: int, due: float
) -> InspectionFacts:
    """Return the inspection that answered the same request before, which its sender gets now."""
    call = floor.inspector.in_thread
    inspection = await call(due, floor.store.inspection, product_id, number)
    if inspection["unanswered"] is None:
        return inspection
    await call(due, floor.store.set_unanswered, number, None)
    return {**inspection, "unanswered": None}


@router.post(
    "/trigger",
    status_code=201,
    response_model=Inspection,
    responses={200: {"model": Inspection}},
    openapi_extra={"parameters": key_header_schema("gives the same inspection")},
)
async def trigger(
    name: str,
    request: Request,
    response: Response,
    floor: FloorDep,
    label: LabelDep,
    camera: Annotated[
        int | None, Query(ge=1, le=1000, description="its number among the product's cameras", examples=[1])
    ] = None,
    seconds: Annotated[
        float, Query(gt=0, le=MAX_FRAME_SECONDS, description="in which the frame must come", examples=[5.0])
    ] = 5.0,
    deadline: Deadline = None,
) -> Answer | Response:
    """Judge what a camera shows now: the first frame that is decoded after the request. Where the model
    judges parts in views, it is a frame of each view's camera.

    The answer is sent when the inspection is on the disk, as for a picture that is sent. 503: the camera is
    away, or there is no room. 504: no frame came in time, or it was not judged in time. Then nothing is
    recorded, except a frame that was just being judged. A frame may answer several triggers that came before
    it: each is an inspection of its own, and `triggers` says how many.
    """
    product_id = floor.addresses.address_id(name)
    due = floor.due(name, deadline, request.scope.get(ARRIVED_KEY))
    key, scheme = uploads.idempotency_key(request), floor.addresses.scheme(name)
    keyed = trigger_request(key, camera, label, scheme) if key else None
    find_camera = partial(floor.cameras, name, camera)
    shooting = asyncio.ensure_future(shoot(floor, name, find_camera, label, due, seconds, keyed))
    watching = asyncio.create_task(_watch_client(request, partial(shooting.cancel, ABANDONED)))
    try:
        recorded = await shooting
    except asyncio.CancelledError:
        if not shooting.cancelled():
            raise
        return Response(status_code=GONE)
    finally:
        watching.cancel()
    if isinstance(recorded, int):
        response.status_code = 200
        return await _answered_again(floor, product_id, recorded, due)
    inspection = await inspection_answer(floor, product_id, recorded, due)
    response.status_code = 201 if recorded.is_new else 200
    return inspection
