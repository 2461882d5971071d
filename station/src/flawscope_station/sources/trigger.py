"""Triggers: frames of cameras are taken and inspected as one part in a bounded time, for requests and for
connections such as that of a PLC."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from flawscope.errors import InputError
from flawscope_station.inspecting.admission import Inspector
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection, Waiter
from flawscope_station.sources.camera import SOURCE, LiveCamera, Shot
from flawscope_station.sources.source import ApartError, NoFrameError, State, StateOf, TriggeredSource
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.inspection import KeyedRequest, KeyUsedError, Label
from flawscope_station.store.records import Store
from flawscope_station.store.schema import UNANSWERED

MOST_APART = 1.0  # seconds between the exposures of the views of a part, where `part_deadline` is not less


class InspectingStation(Protocol):
    """Part of a station that inspects pictures on request."""

    addresses: Addresses
    inspector: Inspector
    store: Store
    state_of: StateOf


async def shoot(
    station: InspectingStation,
    name: str,
    find: Callable[[], Sequence[TriggeredSource]],
    label: Label,
    due: float,
    seconds: float = 5.0,
    request: KeyedRequest | None = None,
) -> RecordedInspection | int:
    """Inspect the part that lies under the cameras, by the first frame of each that is exposed from now on;
    return the inspection, which is on the disk, or the number of the one that answered the same request
    before.

    Args:
        name: of the product that it is judged as.
        find: returns the camera, or those of all views.
        due: deadline, as `time.monotonic` counts. seconds: within which the frames must come.
        request: the one that triggers, where it has a key.

    Raises:
        FlawscopeError: AwayError, NoFrameError, LateError, BusyError, NoModelError, ModelError, StoreError,
            KeyUsedError, and InputError where a picture cannot be read, or nobody knows when the camera's
            frames are exposed.
    """
    product_id = station.addresses.address_id(name)
    call = station.inspector.in_thread
    if request is not None:
        answered = await call(due, station.store.find_answers, product_id, request)
        if answered:
            return answered[0]
    cameras = find()
    for camera in cameras:
        check_triggers(camera)
    check_room(station, name, due, label.part, [camera.state for camera in cameras])
    left = min(seconds, due - time.monotonic())
    shots = await asyncio.gather(*(wait_for_shot(camera, left, request) for camera in cameras))
    check_together(shots, min(MOST_APART, station.addresses.settings_of(name).part_deadline))
    pictures = []
    for camera, shot in zip(cameras, shots, strict=True):
        picture = await call(due, camera.picture, shot)
        pictures.append(picture if label.view is None else replace(picture, view=label.view))
    key = None if request is None else request.part_keys()[0]
    triggers = max(getattr(shot, "triggers", 1) for shot in shots)  # other cameras answer each by itself
    number, batch = label.part, label.batch
    part = Part(product_id, tuple(pictures), SOURCE, number, batch, key, request, triggers, due)
    answered, answers = await submit_parts(station, product_id, request, [part], due)
    return answered[0] if answered else await wait_for_inspection(station, answers[0])


def check_room(
    station: InspectingStation,
    name: str,
    due: float = math.inf,
    number: str | None = None,
    cameras: Sequence[State] | None = (),
) -> None:
    """Check before a part is taken whether it could be judged, and whether there is place and time. It waits
    for nothing: neither disk nor data base is asked.

    Raises:
        FlawscopeError: why nothing of the product is judged (`Health.state_of`), BusyError, LateError.
    """
    stop = station.state_of(name, number, cameras)
    if stop is not None and stop.error is not None:
        raise stop.error
    station.inspector.check_room(station.addresses.address_id(name), due)


def check_triggers(camera: TriggeredSource) -> None:
    """Raise InputError for a camera of which nobody knows when a frame was exposed."""
    if isinstance(camera, LiveCamera) and camera.untimed is not None:
        raise InputError(camera.untimed)


def check_together(shots: Sequence[Any], most: float) -> None:
    """Raise ApartError where the first and the last frame of a part were exposed more than `most` seconds
    apart: on a belt they show two parts."""
    times = [shot.exposed_at for shot in shots if isinstance(shot, Shot)]
    apart = max(times, default=0.0) - min(times, default=0.0)
    if apart > most:
        raise ApartError(
            f"the views of this part were exposed {apart:.2g} s apart, {most:g} s are allowed: let each "
            "camera give frames more often, or trigger it by software"
        )


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


async def submit_parts(
    station: InspectingStation,
    product_id: int,
    request: KeyedRequest | None,
    parts: Sequence[Part],
    due: float,
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit the parts of a request that were not answered before, all or none; return the numbers of the
    inspections that answered the others, and who waits for those submitted, by place.

    Raises:
        KeyUsedError: another request has come under its key.
        LateError, StoreError: whether it was answered before is not known in time.
    """

    async def begin() -> tuple[dict[int, int], dict[int, Waiter]]:
        answered: dict[int, int] = {}
        if request is not None:
            find = station.store.find_answers
            answered = await station.inspector.in_thread(due, find, product_id, request)
        left = [place for place in range(len(parts)) if place not in answered]
        waiters = station.inspector.submit_all([parts[one] for one in left])
        return answered, dict(zip(left, waiters, strict=True))

    try:
        return await begin()
    except KeyUsedError:  # another request came under the key after ours had been recorded: ask again
        return await begin()


async def wait_for_inspection(station: InspectingStation, waiter: Waiter) -> RecordedInspection:
    """Wait for the inspection. LateError where it is not recorded by the waiter's deadline. A task that is
    cancelled with one of `schema.UNANSWERED` leaves for that reason."""
    waiting, call = asyncio.wrap_future(waiter), station.inspector.in_thread
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody asks
    seconds = None if waiter.due == math.inf else waiter.due - time.monotonic()
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
    except asyncio.CancelledError as cancelled:
        why = cancelled.args[0] if cancelled.args else None
        is_given = why in UNANSWERED and not waiter.leave(why)
        if is_given and waiter.done() and waiter.exception() is None:  # it was recorded a moment ago
            await call(math.inf, station.store.set_unanswered, waiter.result().number, why)
        raise
    if not done and (error := station.inspector.abandon(waiter)) is not None:
        raise error
    recorded = await waiting
    if recorded.inspection.unanswered is None or waiter.has_left:
        return recorded
    # all who had asked before had left when it was recorded
    await call(waiter.due, station.store.set_unanswered, recorded.number, None)
    return replace(recorded, inspection=replace(recorded.inspection, unanswered=None))
