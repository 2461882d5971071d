"""Triggers: a frame of a camera is taken and inspected in a bounded time, for requests and for connections
such as that of a PLC."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from flawscope.errors import InputError
from flawscope_station.inspecting.admission import Inspector
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.writer import Answer, RecordedInspection
from flawscope_station.sources.camera import LiveCamera
from flawscope_station.sources.source import NoFrameError, TriggeredSource
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.inspection import KeyedRequest, KeyUsedError, Label
from flawscope_station.store.records import Store
from flawscope_station.store.schema import UNANSWERED


class InspectingStation(Protocol):
    """Part of a station that inspects pictures on request."""

    addresses: Addresses
    inspector: Inspector
    store: Store


async def shoot(
    station: InspectingStation,
    name: str,
    find: Callable[[], Sequence[TriggeredSource]],
    label: Label,
    due: float,
    seconds: float = 5.0,
    request: KeyedRequest | None = None,
) -> RecordedInspection | int:
    """Inspect the first frame of each camera that is exposed from now on; return the inspection, which is on
    the disk, or the number of the one that answered the same request before. Of several views it is the
    worst one's.

    Args:
        name: of the product that it is judged as.
        find: returns the camera, or those of all views.
        due: deadline, as `time.monotonic` counts. seconds: within which the frame must come.
        request: the one that triggers, where it has a key.

    Raises:
        FlawscopeError: AwayError, NoFrameError, LateError, BusyError, NoModelError, ModelError, StoreError,
            KeyUsedError, and InputError where the picture cannot be read, or nobody knows when the camera's
            frames are exposed.
    """
    product_id = station.addresses.address_id(name)
    call = station.inspector.in_thread
    for one in (
        () if request is None else (request, replace(request, is_form=True))
    ):  # of one or several cameras
        if answered := await call(station.store.find_answers, product_id, one):
            return answered[0]
    cameras = find()
    if request is not None and len(cameras) > 1:
        request = replace(request, is_form=True)
    for camera in cameras:
        check_triggers(camera)
    station.inspector.check_room(product_id, due, label.part)
    left = min(seconds, due - time.monotonic())
    shots = await asyncio.gather(*(wait_for_shot(camera, left, request) for camera in cameras))
    pictures = []
    for place, (camera, shot) in enumerate(zip(cameras, shots, strict=True)):
        picture = await call(camera.picture, shot, None if request is None else request.picture_key(place))
        pictures.append(replace(picture, product_id=product_id, request=request, due=due, **label.to_dict()))
    answered, answers = await submit_request(station, product_id, request, pictures)
    if answered:
        return answered[0]
    waiting = (wait_for_inspection(station, product_id, answer, due) for answer in answers)
    found = await asyncio.gather(*waiting)
    return next((one for one in found if _is_of_worst_view(one)), found[0])


def _is_of_worst_view(recorded: RecordedInspection) -> bool:
    part = recorded.inspection.part_views
    return part is not None and recorded.inspection.view == part.worst


def check_triggers(camera: TriggeredSource) -> None:
    """Raise InputError for a camera of which nobody knows when a frame was exposed."""
    if isinstance(camera, LiveCamera) and camera.untimed is not None:
        raise InputError(camera.untimed)


async def wait_for_shot(camera: TriggeredSource, seconds: float, request: KeyedRequest | None) -> Any:
    """Return the first frame of a camera from now on. NoFrameError, AwayError."""
    waiting = camera.next_shot(request)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(waiting), seconds)
    except TimeoutError:
        raise NoFrameError(
            f"camera {camera.number} gave no frame in {seconds:g} s: see that it is on, or allow more seconds"
        ) from None
    finally:
        camera.forget(waiting)


async def submit_request(
    station: InspectingStation, product_id: int, request: KeyedRequest | None, pictures: Sequence[Picture]
) -> tuple[dict[int, int], Iterator[Future[RecordedInspection]]]:
    """Submit the pictures of a request that were not answered before; return the numbers of inspections that
    answered the others, by place, and the futures of those submitted.

    Raises:
        KeyUsedError: another request has come under its key.
    """

    async def begin() -> tuple[dict[int, int], Iterator[Future[RecordedInspection]]]:
        find = station.store.find_answers
        answered = await station.inspector.in_thread(find, product_id, request) if request else {}
        left = [picture for place, picture in enumerate(pictures) if place not in answered]
        return answered, iter(station.inspector.submit(left))

    try:
        return await begin()
    except KeyUsedError:  # another request came under the key after ours had been recorded: ask again
        return await begin()


async def wait_for_inspection(
    station: InspectingStation, product_id: int, answer: Future[RecordedInspection], due: float
) -> RecordedInspection:
    """Wait for the inspection. LateError where it is not recorded in time. A task that is cancelled with one
    of `schema.UNANSWERED` gives it up for that reason."""
    waiting = asyncio.wrap_future(answer)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody asks
    try:
        done, _ = await asyncio.wait([waiting], timeout=None if due == math.inf else due - time.monotonic())
    except asyncio.CancelledError as cancelled:
        why = cancelled.args[0] if cancelled.args else None
        is_given = why in UNANSWERED and isinstance(answer, Answer) and not answer.give_up(why)
        if is_given and answer.done() and answer.exception() is None:  # it was recorded a moment ago
            mark = station.store.set_unanswered
            await station.inspector.in_thread(mark, answer.result().number, why)
        raise
    if not done and (error := station.inspector.abandon(answer, product_id)) is not None:
        raise error
    return await waiting
