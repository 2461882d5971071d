"""Answers to senders: how a request over HTTP or of a PLC hands parts in, and waits for their answers.

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
from flawscope_station.inspecting.inspector import Inspector, retrieve_exception
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

    The check returns at once: neither disk nor database is asked.

    Args:
        station: Station that inspects.
        name: Name of the product or entry.
        due: Deadline of the part, as `time.monotonic` counts.
        number: Number of the part; None: not known.

    Raises:
        NotFoundError: There is no such product or entry.
        FlawscopeError: Errors of `Intake.check`.
    """
    station.inspector.intake.check(station.addresses.address_id(name), number, due)


async def submit_parts(
    station: InspectingStation,
    parts: Sequence[Part],
    request: KeyedRequest | None,
    answered: dict[int, int] | None = None,
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit those parts of a request that were not answered before: all of them, or none.

    Args:
        station: Station that inspects.
        parts: Parts of the same product or entry, with the same deadline.
        request: Request that sent the parts, with its key; None: it has no key.
        answered: Numbers of earlier inspections, by place of the part in the request
            (`Store.find_answers`); None: they are looked up.

    Returns:
        Two dictionaries, both by place of the part in the request: the numbers of earlier inspections, and
        the waiters of the parts submitted now.

    Raises:
        KeyUsedError: Another request has the same key.
        LateError, StoreError: The store did not say in time whether the request was answered before.
    """
    inspector = station.inspector
    address = parts[0].product_id
    due = parts[0].due
    if request is None:
        return {}, dict(enumerate(inspector.submit_all(parts)))
    if answered is not None:
        try:
            return _submit_unanswered(inspector, parts, answered)
        except KeyUsedError:
            pass  # another request under this key came since the store was asked: ask it again
    answered = await inspector.in_thread(due, station.store.find_answers, address, request)
    return _submit_unanswered(inspector, parts, answered)


def _submit_unanswered(
    inspector: Inspector, parts: Sequence[Part], answered: dict[int, int]
) -> tuple[dict[int, int], dict[int, Waiter]]:
    """Submit the parts that were not answered before.

    Args:
        inspector: Takes the parts.
        parts: All parts of a request.
        answered: Numbers of earlier inspections, by place of the part in `parts`.

    Returns:
        `answered` itself, and the waiters of the submitted parts by place.
    """
    open_places = [place for place in range(len(parts)) if place not in answered]
    waiters = inspector.submit_all([parts[place] for place in open_places])
    return answered, dict(zip(open_places, waiters, strict=True))


async def wait_for_inspection(station: InspectingStation, waiter: Waiter) -> RecordedInspection:
    """Wait for an inspection until its waiter's deadline, and return it.

    If the task is cancelled, and the message of `cancel` is one of `schema.UNANSWERED`, the waiter leaves for
    that reason.

    Raises:
        LateError: The inspection was not recorded by the deadline.
    """
    inspection_future = asyncio.wrap_future(waiter)
    inspection_future.add_done_callback(retrieve_exception)
    timeout = None if waiter.due_at == math.inf else waiter.due_at - time.monotonic()
    try:
        done, _ = await asyncio.wait([inspection_future], timeout=timeout)
    except asyncio.CancelledError as cancelled:
        message = cancelled.args[0] if cancelled.args else None
        await _withdraw(station, waiter, reason=message)
        raise
    if not done:
        error = station.inspector.abandon(waiter)
        if error is not None:
            raise error
    recorded = await inspection_future
    if recorded.inspection.unanswered is None or waiter.has_left:
        return recorded
    # all earlier waiters had left when it was recorded; this waiter gets the answer
    await station.inspector.in_thread(waiter.due_at, station.store.set_unanswered, recorded.number, None)
    return replace(recorded, inspection=replace(recorded.inspection, unanswered=None))


async def _withdraw(station: InspectingStation, waiter: Waiter, reason: object) -> None:
    """Let a waiter leave, because its sender is gone.

    A waiter cannot leave any more if the part is recorded, or is about to be. Then the reason is added to the
    record afterwards, but only if no other waiter has the answer.

    Args:
        station: Station that inspects.
        waiter: Waiter of the part.
        reason: Reason of `schema.UNANSWERED`; with any other value, the waiter does not leave.
    """
    if not isinstance(reason, str) or reason not in UNANSWERED:
        return
    if waiter.leave(reason):
        return
    try:
        recorded = await asyncio.wrap_future(waiter)
    except FlawscopeError:  # there is no record
        return
    if recorded.is_new and waiter.ticket.note_gone(waiter):  # no other waiter has the answer
        await station.inspector.in_thread(math.inf, station.store.set_unanswered, recorded.number, reason)


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
    """Return the inspection that answered the same request before, and note that its sender has it now.

    Args:
        station: Station that inspects.
        address: Number of the product or entry to which the request went.
        number: Number of the inspection.
        due: Deadline of the request, as `time.monotonic` counts.
    """
    in_thread = station.inspector.in_thread
    await in_thread(due, station.inspector.judge.recorder.note_answered, number)
    inspection = await in_thread(due, station.store.inspection, address, number)
    if inspection["unanswered"] is None:
        return inspection
    await in_thread(due, station.store.set_unanswered, number, None)
    return {**inspection, "unanswered": None}


# ------------------------------------------------------------------------------------- pictures that are sent


@dataclass(frozen=True)
class SentPictures:
    """Request that sends pictures.

    Attributes:
        address: Product or entry to which the request went.
        pictures: Pictures in the request's order.
        is_form: Whether the pictures came in a form.
        label: Label of the pictures.
        key: Key from the sender; None: the request has none.
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
        name: Name of the part's first picture.
        inspection: Inspection of the part; None: there is none.
        error: Why there is no inspection; else None.
        is_new: Whether the inspection was not recorded before.
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

    def leave(self, reason: str) -> None:
        """Let the sender leave for a reason of `schema.UNANSWERED`; its parts are judged all the same."""
        self.left = reason
        for waiter in self.waiters.values():
            waiter.leave(reason)

    async def answers(self) -> list[PartAnswer]:
        """Have the parts judged, and return their answers in order.

        Raises:
            FlawscopeError: No part is taken.
        """
        station = self.station
        sent = self.sent
        takes_views = station.inspector.judge.parts.takes_views(sent.address.number)
        is_part_each = sent.is_form and not takes_views  # each picture is a part of its own
        keyed = None  # the request with its key; None: it has no key
        answered = None  # numbers of inspections that the key already has, by place of their part
        if sent.key is not None:
            keyed, answered = await station.inspector.in_thread(
                sent.due, self._look_up_key, sent.key, is_part_each=is_part_each
            )
        parts = self._make_parts(keyed, is_part_each=is_part_each)
        earlier_numbers, self.waiters = await submit_parts(station, parts, keyed, answered)
        if self.left is not None:  # the sender left before there were waiters
            self.leave(self.left)
        answers = [
            await self._answer(place, part, earlier_numbers.get(place)) for place, part in enumerate(parts)
        ]
        if self.left is not None:
            for waiter in self.waiters.values():
                await _withdraw(station, waiter, self.left)
        return answers

    def _look_up_key(self, key: str, *, is_part_each: bool) -> tuple[KeyedRequest, dict[int, int]]:
        """Return the request with its key, and the numbers of earlier inspections by place of their part."""
        sent = self.sent
        data = [picture.data for picture in sent.pictures]
        idempotency_key = request_key(sent.address.scheme, key)
        keyed = upload_request(idempotency_key, data, sent.is_form, is_part_each, sent.label, sent.purpose)
        return keyed, self.station.store.find_answers(sent.address.number, keyed)

    def _make_parts(self, keyed: KeyedRequest | None, *, is_part_each: bool) -> list[Part]:
        """Return the parts of the request.

        Args:
            keyed: Request with its key; None: it has no key.
            is_part_each: Whether each picture is a part of its own; else all are views of the same part.
        """
        sent = self.sent
        pictures = self.sent.pictures
        if keyed is not None:
            hashed_pictures = zip(pictures, keyed.pictures, strict=True)
            pictures = tuple(replace(picture, hash=digest) for picture, digest in hashed_pictures)
        pictures_by_part = [(picture,) for picture in pictures] if is_part_each else [pictures]
        keys = [None] * len(pictures_by_part) if keyed is None else keyed.keys
        label = sent.label
        return [
            Part(
                product_id=sent.address.number,
                pictures=part_pictures,
                source=HTTP,
                number=label.part,
                batch=label.batch,
                key=key,
                request=keyed,
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
            number: Number of the earlier inspection that answers the part; None: the part was submitted now.
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
