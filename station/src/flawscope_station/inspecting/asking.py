"""Asking for inspections: how a request over HTTP or of a PLC hands parts in, and waits for their answers.

Both run in event loops, which must not block: calls of the store run in a thread, with a time limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import RecordedInspection, Waiter
from flawscope_station.store.addresses import Address, Addresses
from flawscope_station.store.inspection import (
    HTTP,
    InspectionFacts,
    KeyedRequest,
    KeyUsedError,
    Label,
    request_key,
    upload_request,
)
from flawscope_station.store.purposes import PRODUCTION
from flawscope_station.store.records import Store, describe_new
from flawscope_station.store.schema import UNANSWERED


class InspectingStation(Protocol):
    """Part of a station that inspects pictures on request."""

    addresses: Addresses
    inspector: Inspector
    store: Store


def check_room(
    station: InspectingStation, name: str, due: float = math.inf, number: str | None = None
) -> None:
    """Check, before a part is taken, whether it could be judged, and whether there is room and time.

    It waits for nothing: neither disk nor database is asked.

    Args:
        station: Station that inspects.
        name: Name of the product or entry.
        due: Deadline of the part, as `time.monotonic` counts.
        number: Number of the part; None: not known.

    Raises:
        NotFoundError: there is no such product or entry.
        FlawscopeError: errors of `Intake.check`.
    """
    station.inspector.intake.check(station.addresses.address_id(name), number, due)


async def submit_parts(
    station: InspectingStation,
    parts: Sequence[Part],
    request: KeyedRequest | None,
    answered: dict[int, int] | None = None,
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit the parts of a request that were not answered before, all or none.

    Args:
        station: Station that inspects.
        parts: Parts of the same product or entry, with the same deadline.
        request: Request with the key under which they came; None: they have no key.
        answered: Result of `Store.find_answers`, where it is known already.

    Returns:
        The number of the earlier inspection, and the waiter of each submitted part, both by place of the
            part.

    Raises:
        KeyUsedError: another request came under the key.
        LateError, StoreError: the store did not say in time whether the request was answered before.
    """
    inspector = station.inspector
    address = parts[0].product_id
    due = parts[0].due
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
    waiters = inspector.submit_all([parts[place] for place in left])
    return answered, dict(zip(left, waiters, strict=True))


async def wait_for_inspection(station: InspectingStation, waiter: Waiter) -> RecordedInspection:
    """Wait for an inspection until its waiter's deadline.

    A task that is cancelled with a reason of `schema.UNANSWERED` leaves for that reason.

    Raises:
        LateError: it was not recorded by the deadline.
    """
    waiting = asyncio.wrap_future(waiter)
    call = station.inspector.in_thread
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody asks
    seconds = None if waiter.due_at == math.inf else waiter.due_at - time.monotonic()
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
    except asyncio.CancelledError as cancelled:
        await _withdraw(station, waiter, cancelled.args[0] if cancelled.args else None)
        raise
    if not done and (error := station.inspector.abandon(waiter)) is not None:
        raise error
    recorded = await waiting
    if recorded.inspection.unanswered is None or waiter.has_left:
        return recorded
    # all who had asked before had left when it was recorded
    await call(waiter.due_at, station.store.set_unanswered, recorded.number, None)
    return replace(recorded, inspection=replace(recorded.inspection, unanswered=None))


async def _withdraw(station: InspectingStation, waiter: Waiter, why: object) -> None:
    """Let a waiter leave whose sender is gone.

    Where its part is recorded, or its waiters are about to get the answer, the record gets the reason
    afterwards, unless another waiter has the answer.

    Args:
        station: Station that inspects.
        waiter: Waiter of the part.
        why: Reason of `schema.UNANSWERED`; nothing happens for another value.
    """
    if not isinstance(why, str) or why not in UNANSWERED or waiter.leave(why):
        return
    try:
        recorded = await asyncio.wrap_future(waiter)
    except FlawscopeError:  # there is no record
        return
    if recorded.is_new and waiter.ticket.note_gone(waiter):
        await station.inspector.in_thread(math.inf, station.store.set_unanswered, recorded.number, why)


# ---------------------------------------------------------------------------------------------------- answers


async def describe_recorded(
    station: InspectingStation, address: int, recorded: RecordedInspection, due: float
) -> InspectionFacts:
    """Return an inspection as the API shows it.

    Args:
        station: Station that inspects.
        address: Number of the product or entry to which the request went.
        recorded: Inspection on the disk.
        due: Deadline of the request, as `time.monotonic` counts.
    """
    if recorded.is_new:
        name = station.addresses.names[recorded.inspection.product_id]
        return describe_new(recorded.number, recorded.inspection, name)
    return await station.inspector.in_thread(due, station.store.inspection, address, recorded.number)


async def describe_again(
    station: InspectingStation, address: int, number: int, due: float
) -> InspectionFacts:
    """Return the inspection that answered the same request before, and note that its sender has it now."""
    call = station.inspector.in_thread
    await call(due, station.inspector.judge.recorder.note_answered, number)
    inspection = await call(due, station.store.inspection, address, number)
    if inspection["unanswered"] is None:
        return inspection
    await call(due, station.store.set_unanswered, number, None)
    return {**inspection, "unanswered": None}


# ------------------------------------------------------------------------------------- pictures that are sent


@dataclass(frozen=True)
class SentPictures:
    """Request that sends pictures.

    Attributes:
        address: Product or entry to which it went.
        pictures: Pictures in the request's order.
        is_form: Whether they came in a form.
        label: Label of the pictures.
        key: Key from the sender; None: it has none.
        due: Deadline of the answer, as `time.monotonic` counts.
        purpose: Purpose of the inspections.
    """

    address: Address
    pictures: tuple[Picture, ...] = field(repr=False)
    is_form: bool
    label: Label
    key: str | None
    due: float
    purpose: str = PRODUCTION


class PartAnswer(NamedTuple):
    """Answer to a part of a request.

    Attributes:
        name: Name of its picture.
        inspection: Its inspection; None: there is none.
        error: Why there is no inspection; else None.
        is_new: Whether it was not recorded before.
    """

    name: str
    inspection: InspectionFacts | None
    error: FlawscopeError | None = None
    is_new: bool = False


@dataclass
class Asking:
    """Request that sends pictures, from its key to its answers.

    Attributes:
        station: Station that inspects.
        sent: Pictures with their label and key.
        waiters: Waiters by place of their part, filled when the parts are taken.
        left: Why the sender has left; None: it has not.
    """

    station: InspectingStation
    sent: SentPictures
    waiters: dict[int, Waiter] = field(default_factory=dict)
    left: str | None = None

    def leave(self, why: str) -> None:
        """Let the sender leave for a reason of `schema.UNANSWERED`; its parts are judged all the same."""
        self.left = why
        for waiter in self.waiters.values():
            waiter.leave(why)

    async def answers(self) -> list[PartAnswer]:
        """Have the parts judged, and return their answers in order.

        Raises:
            FlawscopeError: no part is taken.
        """
        station = self.station
        sent = self.sent
        is_several = sent.is_form and not station.inspector.judge.parts.takes_views(sent.address.number)
        keyed = None
        answered = None
        if sent.key is not None:
            keyed, answered = await station.inspector.in_thread(
                sent.due, self._look_up, sent.key, is_several=is_several
            )
        parts = self._parts(keyed, is_several=is_several)
        numbers, self.waiters = await submit_parts(station, parts, keyed, answered)
        if self.left is not None:
            self.leave(self.left)
        answers = [await self._answer(place, part, numbers.get(place)) for place, part in enumerate(parts)]
        if self.left is not None:
            for waiter in self.waiters.values():
                await _withdraw(station, waiter, self.left)
        return answers

    def _look_up(self, key: str, *, is_several: bool) -> tuple[KeyedRequest, dict[int, int]]:
        """Return the request under its key, and its earlier answers from `Store.find_answers`."""
        sent = self.sent
        data = [picture.data for picture in sent.pictures]
        idempotency_key = request_key(sent.address.scheme, key)
        keyed = upload_request(idempotency_key, data, sent.is_form, is_several, sent.label, sent.purpose)
        return keyed, self.station.store.find_answers(sent.address.number, keyed)

    def _parts(self, keyed: KeyedRequest | None, *, is_several: bool) -> list[Part]:
        """Return the parts of the request.

        Args:
            keyed: Request under its key; None: it has none.
            is_several: Whether each picture is a part of its own; else all are views of the same part.
        """
        sent = self.sent
        pictures = self.sent.pictures
        if keyed is not None:
            hashes = zip(pictures, keyed.pictures, strict=True)
            pictures = tuple(replace(picture, hash=digest) for picture, digest in hashes)
        pictures_by_part = [(picture,) for picture in pictures] if is_several else [pictures]
        keys = [None] * len(pictures_by_part) if keyed is None else keyed.keys
        label = sent.label
        number = sent.address.number
        return [
            Part(
                number,
                part_pictures,
                HTTP,
                label.part,
                label.batch,
                key,
                keyed,
                due=sent.due,
                purpose=sent.purpose,
            )
            for part_pictures, key in zip(pictures_by_part, keys, strict=True)
        ]

    async def _answer(self, place: int, part: Part, number: int | None) -> PartAnswer:
        """Return the answer to a part.

        Args:
            place: Place of the part in the request.
            part: Part as it was submitted.
            number: Number of the inspection that answered it before; None: there is none.
        """
        station = self.station
        address = part.product_id
        name = part.pictures[0].name
        try:
            if number is not None:
                return PartAnswer(name, await describe_again(station, address, number, part.due))
            recorded = await wait_for_inspection(station, self.waiters[place])
            inspection = await describe_recorded(station, address, recorded, part.due)
            return PartAnswer(name, inspection, is_new=recorded.is_new)
        except FlawscopeError as error:
            return PartAnswer(name, None, error)
