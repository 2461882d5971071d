"""Asking for inspections: how a request over HTTP or of a PLC hands parts in, and waits for their answers.

Both run in event loops, which wait for nothing else: what asks the store runs in a thread, with an end.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection, Waiter
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.inspection import KeyedRequest, KeyUsedError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import UNANSWERED


class InspectingStation(Protocol):
    """Part of a station that inspects pictures on request."""

    addresses: Addresses
    inspector: Inspector
    store: Store


def check_room(
    station: InspectingStation, name: str, due: float = math.inf, number: str | None = None
) -> None:
    """Check before a part is taken whether it could be judged, and whether there is place and time. It waits
    for nothing: neither disk nor data base is asked.

    Args:
        name: of the product or entry. due, number: deadline and number of the part.

    Raises:
        FlawscopeError: as of `Intake.check`; NotFoundError.
    """
    station.inspector.intake.check(station.addresses.address_id(name), number, due)


async def submit_parts(
    station: InspectingStation,
    parts: Sequence[Part],
    request: KeyedRequest | None,
    answered: dict[int, int] | None = None,
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit the parts of a request that were not answered before, all or none; return the numbers of the
    inspections that answered the others, and who waits for those submitted, by place.

    Args:
        parts: of one product or entry, and with one deadline.
        request: under whose key they came; None: under none.
        answered: as of `Store.find_answers`, where that is known already.

    Raises:
        KeyUsedError: another request has come under its key.
        LateError, StoreError: whether it was answered before is not known in time.
    """
    inspector, address, due = station.inspector, parts[0].product_id, parts[0].due
    if request is None:
        return {}, dict(enumerate(inspector.submit_all(parts)))
    if answered is not None:
        try:
            return _submit_others(inspector, parts, answered)
        except KeyUsedError:
            pass  # another request came under the key after ours had been recorded: ask again
    answered = await inspector.in_thread(due, station.store.find_answers, address, request)
    return _submit_others(inspector, parts, answered)


def _submit_others(
    inspector: Inspector, parts: Sequence[Part], answered: dict[int, int]
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit the parts that were not answered before."""
    left = [place for place in range(len(parts)) if place not in answered]
    waiters = inspector.submit_all([parts[one] for one in left])
    return answered, dict(zip(left, waiters, strict=True))


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
