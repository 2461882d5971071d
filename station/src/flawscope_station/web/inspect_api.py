"""Routes that judge parts: pictures of a request, and the next frame of a camera."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Literal, TypedDict

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from typing_extensions import override

from flawscope.errors import FlawscopeError
from flawscope_station.access.roles import SENDER
from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.error_status import sender_text, status_and_code
from flawscope_station.inspecting.answers import (
    Asking,
    PartAnswer,
    SentPictures,
    describe_again,
    describe_recorded,
)
from flawscope_station.inspecting.memory import without_traceback
from flawscope_station.inspecting.picture import Picture
from flawscope_station.sources.trigger import shoot
from flawscope_station.store.inspection import (
    Inspection,
    InspectionFacts,
    Label,
    make_label,
    request_key,
    trigger_request,
)
from flawscope_station.store.purposes import TRIAL
from flawscope_station.store.schema import ABANDONED
from flawscope_station.web import schemas, uploads
from flawscope_station.web.api import Answer, PictureName, api_router, file_body_schema, key_header_schema
from flawscope_station.web.components import ContextDep, find_component
from flawscope_station.web.errors import RefusedError, error_response
from flawscope_station.web.middleware import ARRIVED_KEY

GONE = 499  # status of an answer to a client that has gone away
MAX_FRAME_SECONDS = 60.0  # longest time that a request may wait for a frame

Deadline = Annotated[
    int | None,
    Query(ge=1, le=600_000, description="milliseconds within which the answer must come", examples=[800]),
]
LabelDep = Annotated[Label, Depends(uploads.parse_label)]
Purpose = Annotated[
    Literal["production", "trial"],
    Query(description="trial: a try by hand, which is recorded, but counts in no figure, sink or shift"),
]
WRONG_REQUEST = "request"  # code of the refusal of a part whose request cannot be understood


class JudgingRoute(APIRoute):
    """Route that judges parts. It notes each part that is refused, even if FastAPI refuses the request."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """Return a handler that notes refused parts, and drops tracebacks of errors."""
        handle = super().get_route_handler()

        async def handle_and_note(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                is_stranger = isinstance(error, RefusedError) and error.status in (401, 403)
                is_trial = request.query_params.get("purpose") == TRIAL  # not from the production line
                if not (is_stranger or is_trial):
                    _note_refusal(request, error)
                if isinstance(error, FlawscopeError):
                    # not raised: its traceback would hold the pictures
                    return error_response(without_traceback(error))
                raise

        return handle_and_note


def _note_refusal(request: Request, error: Exception) -> None:
    """Note that a request's part is not judged, with the error that is the reason."""
    part = make_label(request.query_params.get("part"), None).part
    code = WRONG_REQUEST if isinstance(error, RequestValidationError) else ""
    picture = uploads.clean_name(request.query_params.get("name", ""))
    refusals = find_component(request, ConnectionContext).refusals
    refusals.note(request.path_params["name"], error, part, code, picture=picture)


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
    summary="Judge a part",
)
async def inspect(
    name: str,
    request: Request,
    response: Response,
    context: ContextDep,
    label: LabelDep,
    file: PictureName = "",
    deadline: Deadline = None,
    purpose: Purpose = "production",
) -> Answer | Response:
    """Judge a part: the body is its picture.

    Where the model judges parts in views, a form holds the pictures of all views. Else a form may hold
    several parts, whose results come in the form's order.

    The address of a joint model finds the product of each part, which the answer has in `product` and
    `shows`.

    A key names the request: sent again with the same bytes, part, batch and view, it gets the same answer,
    with others 409.

    The answer is sent when the inspection is on the disk. 503: nothing was recorded; try again after the
    seconds of Retry-After. 504: the part was not judged in time; if it was just being judged, it is recorded
    nevertheless.
    """
    address = context.addresses.find(name)
    due = address.due(deadline, request.scope.get(ARRIVED_KEY))  # time by which the answer must come
    context.inspector.intake.check(address.number, label.part, due)
    files, is_form = await uploads.read_uploads(request, file)
    pictures = tuple(Picture(sent_file.data, sent_file.name, label.view) for sent_file in files)
    key = uploads.idempotency_key(request)
    asking = Asking(context, SentPictures(address, pictures, is_form, label, key, due, purpose))
    watching = asyncio.create_task(_watch_client(request, partial(asking.leave, ABANDONED)))
    try:
        answers = await asyncio.create_task(asking.answers())
    finally:
        watching.cancel()
    return _respond(context, response, asking.sent, answers)


def _respond(
    context: ConnectionContext, response: Response, sent: SentPictures, answers: Sequence[PartAnswer]
) -> Answer | Response:
    """Make the answer to a request from the answers to its parts.

    Args:
        context: Components of the station that judge parts.
        response: Response whose status this function sets.
        sent: Pictures of the request.
        answers: Answer to each part.
    """
    results = [_part_result(context, sent, answer) for answer in answers]
    if all(answer.inspection is None for answer in answers):
        first_error = answers[0].error
        assert first_error is not None, "a part has an inspection or an error"
        if len(results) == 1:
            return error_response(first_error)  # not raised: the traceback would hold the picture
        response.status_code = status_and_code(first_error)[0]
        return {"results": results}
    is_created = sent.is_form or any(answer.is_new for answer in answers)
    response.status_code = 201 if is_created else 200
    return {"results": results} if sent.is_form else results[0]["inspection"]


class PartResult(TypedDict, total=False):
    """Result of a part: its inspection, or the reason why there is none, with the picture's `name`."""

    inspection: InspectionFacts
    name: str
    error: str
    code: str


def _part_result(context: ConnectionContext, sent: SentPictures, answer: PartAnswer) -> PartResult:
    """Return the result of a part for its sender.

    A part that is not judged is noted as a refusal, except for a trial.
    """
    if answer.inspection is not None:
        return {"inspection": answer.inspection}
    assert answer.error is not None, "a part has an inspection or an error"
    error = without_traceback(answer.error)
    if sent.purpose == TRIAL:
        _, code = status_and_code(error)
    else:
        code = context.refusals.note(sent.address.name, error, sent.label.part, picture=answer.name)
    return {"name": answer.name, "error": sender_text(error), "code": code}


async def _watch_client(request: Request, leave: Callable[[], object]) -> None:
    """Wait until the client goes away, then call `leave`. Parts that are recorded by then stay recorded."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            break
    leave()


@router.post(
    "/trigger",
    status_code=201,
    response_model=Inspection,
    responses={200: {"model": Inspection}},
    openapi_extra={"parameters": key_header_schema("gives the same inspection")},
    summary="Judge the next frame of a camera",
)
async def trigger(
    name: str,
    request: Request,
    response: Response,
    context: ContextDep,
    label: LabelDep,
    camera: Annotated[
        int | None,
        Query(
            ge=1,
            le=1000,
            description="number of the camera among the product's; left out: the only one",
            examples=[1],
        ),
    ] = None,
    seconds: Annotated[
        float,
        Query(
            gt=0, le=MAX_FRAME_SECONDS, description="seconds within which the frame must come", examples=[5.0]
        ),
    ] = 5.0,
    deadline: Deadline = None,
) -> Answer | Response:
    """Judge the next frame of a camera: the first that is decoded after the request.

    Where the model judges parts in views, it gets a frame of each view's camera.

    The answer is sent when the inspection is on the disk, as for a picture that is sent. 503: the camera is
    away, or there is no room. 504: no frame came in time, or it was not judged in time. After either nothing
    is recorded, except a frame that was just being judged. A frame may answer several triggers that came
    before it: each is an inspection of its own, and `triggers` says how many.
    """
    address = context.addresses.find(name)
    due = address.due(deadline, request.scope.get(ARRIVED_KEY))
    key = uploads.idempotency_key(request)
    keyed_request = None
    if key is not None:
        keyed_request = trigger_request(request_key(address.scheme, key), camera, label)
    find_camera = partial(context.cameras, name, camera)
    shooting = asyncio.ensure_future(shoot(context, name, find_camera, label, due, seconds, keyed_request))
    watching = asyncio.create_task(_watch_client(request, partial(shooting.cancel, ABANDONED)))
    try:
        outcome = await shooting
    except asyncio.CancelledError:
        has_client_left = shooting.cancelled()  # by `_watch_client`
        if not has_client_left:  # the station ends
            raise
        return Response(status_code=GONE)
    finally:
        watching.cancel()
    if isinstance(outcome, int):  # number of the inspection that an earlier request with the key made
        response.status_code = 200
        return await describe_again(context, address.number, outcome, due)
    inspection = await describe_recorded(context, address.number, outcome, due)
    response.status_code = 201 if outcome.is_new else 200
    return inspection
