"""Triggers: frames of cameras are taken and inspected as a part, in a bounded time.

They come from requests, and from connections such as that of a PLC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from flawscope.errors import InputError
from flawscope_station.inspecting.answers import (
    InspectingStation,
    check_room,
    submit_parts,
    wait_for_inspection,
)
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.sources.camera import SOURCE, LiveCamera, Shot
from flawscope_station.sources.source import ApartError, NoFrameError, ShotOf, TriggeredSource, lost_camera
from flawscope_station.store.inspection import KeyedRequest, Label

MOST_APART = 1.0  # most seconds between the exposures of a part's views, unless `part_deadline` is less


async def shoot(
    station: InspectingStation,
    name: str,
    find: Callable[[], Sequence[TriggeredSource]],
    label: Label,
    due: float,
    seconds: float = 5.0,
    request: KeyedRequest | None = None,
) -> RecordedInspection | int:
    """Inspect the part under the cameras, from the first frame that each camera exposes from now on.

    Args:
        station: Station that inspects.
        name: Name of the product or entry that judges it.
        find: Returns the cameras of all views, or a list of the only camera. It is called after the request's
            key was looked up.
        label: Number and batch of the part, and the view if the picture shows one.
        due: Deadline, as `time.monotonic` counts.
        seconds: Seconds within which the frames must come.
        request: Request that triggers; None: it has no key.

    Returns:
        The inspection, which is on the disk; or the number of the inspection that answered the same request
        before.

    Raises:
        FlawscopeError: AwayError, NoFrameError, LateError, BusyError, NoModelError, ModelError, StoreError,
            KeyUsedError, and InputError where a picture cannot be read, or nobody knows when the camera's
            frames are exposed.
    """
    product_id = station.addresses.address_id(name)
    in_thread = station.inspector.in_thread
    earlier_answers: dict[int, int] | None = None
    if request is not None:
        earlier_answers = await in_thread(due, station.store.find_answers, product_id, request)
        if earlier_answers:
            return earlier_answers[0]  # the request has one part, whose place is 0
    cameras = find()
    for camera in cameras:
        check_triggers(camera)
    check_room(station, name, due, label.part)
    check_present(cameras)
    seconds_left = min(seconds, due - time.monotonic())
    shots = await asyncio.gather(*(wait_for_shot(camera, seconds_left, request) for camera in cameras))
    check_together(shots, min(MOST_APART, station.addresses.settings_of(name).part_deadline))
    cameras_and_shots = zip(cameras, shots, strict=True)
    pictures = [await in_thread(due, camera.picture, shot) for camera, shot in cameras_and_shots]
    if label.view is not None:
        pictures = [replace(picture, view=label.view) for picture in pictures]
    key = None if request is None else request.key
    # the frames of a plugin's cameras have no `triggers`: they answer one trigger each
    triggers = max(getattr(shot, "triggers", 1) for shot in shots)
    part = Part(
        product_id,
        tuple(pictures),
        SOURCE,
        number=label.part,
        batch=label.batch,
        key=key,
        request=request,
        triggers=triggers,
        due=due,
    )
    answers, waiters = await submit_parts(station, [part], request)
    if answers:
        return answers[0]
    return await wait_for_inspection(station, waiters[0])


def check_triggers(camera: TriggeredSource) -> None:
    """Raise InputError where nobody knows when a camera's frames are exposed."""
    if isinstance(camera, LiveCamera) and camera.untimed is not None:
        raise InputError(camera.untimed)


def check_present(cameras: Sequence[TriggeredSource]) -> None:
    """Raise AwayError where a camera is away."""
    standstill = lost_camera([camera.state for camera in cameras])
    if standstill is not None and standstill.error is not None:
        raise standstill.error


def check_together(shots: Sequence[object], most: float) -> None:
    """Raise ApartError where the frames of a part were exposed more than `most` seconds apart.

    On a belt such frames show two parts.
    """
    # the frames of a plugin's cameras have no `exposed_at`
    times = [shot.exposed_at for shot in shots if isinstance(shot, Shot)]
    seconds_apart = max(times, default=0.0) - min(times, default=0.0)
    if seconds_apart > most:
        raise ApartError(
            f"the views of this part were exposed {seconds_apart:.2g} s apart, {most:g} s are allowed: "
            "let each camera give frames more often, or trigger it by software"
        )


async def wait_for_shot(
    camera: TriggeredSource[ShotOf], seconds: float, request: KeyedRequest | None
) -> ShotOf:
    """Return the first frame of a camera that is exposed from now on.

    Args:
        camera: Camera of any kind.
        seconds: Seconds within which the frame must come.
        request: Request that triggers; None: it has no key.

    Raises:
        NoFrameError: No frame came in time.
        AwayError: The camera is lost.
    """
    shot_future = camera.next_shot(request)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(shot_future), seconds)
    except TimeoutError:
        raise NoFrameError(
            f"camera {camera.number} gave no frame in {seconds:g} s: see that it is on, or allow more seconds"
        ) from None
    finally:
        camera.forget(shot_future)
