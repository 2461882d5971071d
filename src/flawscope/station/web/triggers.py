"""A request that takes the next frame of a camera."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query, Request, Response

from flawscope.errors import FlawscopeError
from flawscope.station.access.roles import SENDER
from flawscope.station.inspecting.memory import light
from flawscope.station.sources.camera import Camera, NoFrameError, Shot
from flawscope.station.store import identity
from flawscope.station.store.identity import UNANSWERED, KeyUsedError, triggered
from flawscope.station.store.inspection import Inspection
from flawscope.station.web import uploads
from flawscope.station.web.api import Deadline, Here, LabelOf, in_time, inspection_of, keyed, routes
from flawscope.station.web.error_handlers import count, refused

LONGEST = 60.0  # seconds that a request may wait for a frame

router = routes(409, 504, 507, role=SENDER)


@router.post(
    "/trigger",
    status_code=201,
    response_model=Inspection,
    responses={200: {"model": Inspection}},
    openapi_extra={"parameters": keyed("gives the same inspection")},
)
async def trigger(
    name: str,
    request: Request,
    response: Response,
    station: Here,
    label: LabelOf,
    camera: Annotated[
        int | None,
        Query(ge=1, le=1000, description="its number among the product's cameras", examples=[1]),
    ] = None,
    seconds: Annotated[
        float, Query(gt=0, le=LONGEST, description="in which the frame must come", examples=[5.0])
    ] = 5.0,
    deadline: Deadline = None,
) -> Any:
    """Judge what a camera shows now: the first frame that is decoded after the request.

    The answer is sent when the inspection is on the disk, as for a picture that is sent. 503: the camera is
    away, or there is no room; 504: no frame came in time, or it was not judged in time. Of these nothing was
    taken, but for a frame that was just being judged. A frame may answer several triggers that came before
    it: each is an inspection of its own, and `triggers` says how many.
    """
    begun = time.perf_counter()
    try:
        product_id, due = station.product_id(name), station.due(name, deadline)
        asked = triggered(key, camera, label) if (key := uploads.key_of(request)) else None
        with station.inspector.claimed(product_id, asked) as is_free:
            there = await asyncio.to_thread(station.store.answered, product_id, asked) if asked else {}
            if there:
                response.status_code = 200
                return await asyncio.to_thread(station.inspection, name, there[0])
            if not is_free:
                raise KeyUsedError(UNANSWERED)
            found = station.camera(name, camera)
            station.inspector.check_room(product_id, due)
            shot = await _shot(found, min(seconds, due - time.monotonic()), asked)
            picture = await asyncio.to_thread(found.picture, shot, None if asked is None else asked.key_of(0))
            sent = replace(picture, request=asked, due=due, **label._asdict())
            (answer,) = station.inspector.submit([sent])
        recorded = await in_time(station, product_id, answer, due)
        inspection = await inspection_of(station, name, recorded)
    except FlawscopeError as error:
        count(station, name, error)
        return refused(light(error))  # raised, it would hold this frame, and with it the picture
    station.metrics.seconds.labels(name).observe(time.perf_counter() - begun)
    response.status_code = 201 if recorded.is_new else 200
    return inspection


async def _shot(camera: Camera, seconds: float, asked: identity.Request | None) -> Shot:
    waiting = camera.next_shot(asked)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(waiting), seconds)
    except TimeoutError:
        raise NoFrameError(
            f"camera {camera.number} gave no frame in {seconds:g} s: see that it is on, or allow more seconds"
        ) from None
    finally:
        camera.forget(waiting)
