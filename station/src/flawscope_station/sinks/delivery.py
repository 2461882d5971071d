"""Delivery to a sink: messages are sent one after another, each until it is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from typing_extensions import override

from flawscope.errors import FlawscopeError, message_with_type, pluralize
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.monitoring.background import STOP_TIMEOUT, BackgroundThread, Backoff
from flawscope_station.sinks.outbox import MAX_COUNTED, Batch, Message, Outbox
from flawscope_station.store.database import StoreError
from flawscope_station.store.records import NotFoundError

T = TypeVar("T")

PICTURE_SIDE = 1280  # pixels of the longer side of a picture that is sent
PAGE_SIZE = 20  # messages that are read at once; then the sink's cursor is written
POLL_INTERVAL = 60.0  # seconds after which a sink looks for messages, even if nobody woke it
MIN_RETRY_DELAY = 1.0  # seconds before a message is sent again
MAX_RETRY_DELAY = 300.0  # seconds before a message is sent again after many failures
BEHIND_SECONDS = 30.0  # seconds after which messages that wait are a problem
SLOW_TEXT = "it takes them more slowly than they come"
MAX_REFUSALS = 6  # refusals of a message by the other side after which it is given up


class MessagePictures:
    """Pictures of messages, and the facts of the station that a sink may use.

    The methods return None where there is no picture: `missing_picture_fields` gives the receiver the reason.

    Attributes:
        renderings: Renders pictures of inspections.
        station: Name of the station.
        sender: Beginning of the ids of the station's messages.
        problems: Returns the present problems, as the API shows them.
        products: Numbers of the inspected products by name; they change.
        removed: Names of products that were inspected before the start, and are not any more.
    """

    def __init__(
        self,
        renderings: InspectionRenderer,
        station: str = "station",
        sender: str = "",
        problems: Callable[[], list[dict[str, object]]] = list,
        products: Mapping[str, int] | None = None,
        removed: Sequence[str] = (),
    ):
        self.renderings = renderings
        self.station = station
        self.sender = sender
        self.problems = problems
        self.products: Mapping[str, int] = {} if products is None else products
        self.removed = removed

    def original(self, message: Message, view: str | None = None) -> tuple[bytes, str] | None:
        """Return the file of a picture as it came, and the file's suffix; None: the picture is gone.

        Args:
            message: Message about the inspection.
            view: View of the part; None: the most unusual one, or the only picture.
        """
        picture = _read_or_none(lambda: self.renderings.picture(message.product_id, message.number, view))
        if picture is None:
            return None
        data, suffix, _ = picture
        return data, suffix

    def view(self, message: Message) -> bytes | None:
        """Return the picture as WebP."""
        view = self.renderings.view
        number = message.number
        return _read_or_none(lambda: view(message.product_id, number, PICTURE_SIDE, patient=True))

    def overlay(self, message: Message) -> bytes | None:
        """Return the picture with heat map and contours as WebP.

        Return None also for an inconspicuous picture: its map is not kept, and computing it again would delay
        inspections.
        """
        if not _is_suspicious(message):
            return None
        overlay = self.renderings.overlay
        number = message.number
        return _read_or_none(lambda: overlay(message.product_id, number, PICTURE_SIDE, patient=True))


def missing_picture_fields(
    message: Message, picture_fields: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Return a message's fields about missing pictures; empty where none is missing.

    Args:
        message: Message that gets the fields.
        picture_fields: Fields that the sink sends: `picture`, `overlay` or both, each with its value; None:
            the picture is missing.
    """
    if None not in picture_fields.values():
        return {}
    lacks_picture = "picture" in picture_fields and picture_fields["picture"] is None
    # a suspicious picture lacks its overlay only if the picture itself was removed
    if lacks_picture or _is_suspicious(message):
        return {"picture": None, "missing": "the picture was removed, as `keep` says"}
    return {"missing": "nothing stands out on the picture"}


def _is_suspicious(message: Message) -> bool:
    """Return whether an inspection is anomalous or near the threshold, so that its map is kept."""
    return message.data["decision"] != "good" or bool(message.data["near"])


def _read_or_none(read: Callable[[], T]) -> T | None:
    """Return the result of `read`; None where the inspection or its file is gone."""
    try:
        return read()
    except NotFoundError:
        return None
    except StoreError as error:
        if error.code == "file_missing":
            return None
        raise


class UndeliveredError(FlawscopeError):
    """The other side did not take a message.

    Attributes:
        blames_message: Whether the other side refuses this message alone, and may take others.
        retry_after: Seconds that the other side asks to wait.
    """

    def __init__(self, text: str, *, blames_message: bool = False, retry_after: float = 0.0):
        super().__init__(text)
        self.blames_message = blames_message
        self.retry_after = retry_after


def _blames_message(error: Exception) -> bool:
    """Return whether an error concerns a single message, and other messages may be taken.

    The other side refuses the message, or it cannot be made, for example because its picture is damaged.
    """
    if isinstance(error, UndeliveredError):
        return error.blames_message
    return isinstance(error, ValueError)


class Sink:
    """Contract of a sink. `send` and `refresh` are called from one thread.

    The station sets the attributes.

    Attributes:
        kind: Kind of the sink, as the API names it.
        label: Name for people, without secrets.
        outboxes: Outboxes of the products whose inspections the sink gets; products may be added.
    """

    kind: str
    label: str
    outboxes: Sequence[Outbox]

    def prepare(self, *, is_new: bool) -> None:
        """Get ready at the station's start.

        Args:
            is_new: Whether nothing was ever delivered to the sink.

        Raises:
            InputError: The sink cannot be used.
        """

    def send(self, message: Message) -> None:
        """Send a message; return when the other side has it.

        Raises:
            UndeliveredError: The other side did not take the message.
        """
        raise NotImplementedError

    def refresh(self) -> float:
        """Send states, which are not messages; return the seconds until the next call.

        The method is also called after each page of messages.

        Raises:
            UndeliveredError: The other side did not take the states.
        """
        return POLL_INTERVAL

    @property
    def remark(self) -> str | None:
        """Problem that a person should solve although messages are taken; None: there is none."""
        return None

    def close(self) -> None:
        """End the connection; nothing is sent any more."""


class Delivery(BackgroundThread):
    """Thread that sends a sink the stored messages that it did not get yet, a page at a time.

    Args:
        sink: Sink that gets the messages.
        outboxes: Outboxes of the products whose inspections are sent; products may be added.
        report: Reports the sink's problem; None: it is over.
        note_refused: Gets a message that was given up, and the reason.
        report_remark: Gets the sink's remark; None: it has none.

    Attributes:
        error: Why the last try failed; None: it went well.
    """

    def __init__(
        self,
        sink: Sink,
        outboxes: list[Outbox],
        report: Callable[[str | None], None],
        note_refused: Callable[[Message, str], None] = lambda message, why: None,
        report_remark: Callable[[str | None], None] = lambda why: None,
    ):
        super().__init__(f"sink-{sink.kind}")
        self.sink = sink
        self.outboxes = outboxes
        self.report = report
        self._note_refused = note_refused
        self._report_remark = report_remark
        self.error: str | None = None
        self._backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY, spread=0.25)
        self._refusal_counts: dict[str, int] = {}  # by id of the message
        self._behind_since: float | None = None  # start of the time in which some message has always waited
        self._polled_at = time.monotonic()  # when all outboxes were read last, even if none was due

    @override
    def stop(self, seconds: float | None = STOP_TIMEOUT) -> None:
        """End the thread; a message that is not taken within `seconds` is sent after the next start."""
        super().stop(seconds)
        self.sink.close()

    def waiting(self) -> int:
        """Return the number of messages that wait, up to `MAX_COUNTED`.

        Raises:
            StoreError: The store cannot be used.
        """
        return min(MAX_COUNTED, sum(box.waiting() for box in self.outboxes))

    # ---- again and again

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            requested_pause = 0.0
            try:
                pause = self._deliver_pages()
                self._backoff.reset()
                if pause:
                    self._wait(pause)
                continue
            except UndeliveredError as error:
                requested_pause = error.retry_after
                self._report_error(str(error))
            except Exception as error:  # the store may be away; inspections go on
                self._report_error(message_with_type(error))
            self._pause(max(requested_pause, self._backoff.next()))

    def _deliver_pages(self) -> float:
        """Deliver a page of each outbox that may have messages; return the seconds until the next round.

        Return 0 where there are more messages. Every `POLL_INTERVAL`, all outboxes are read: an outbox may
        have messages although nobody woke its sink.
        """
        is_complete = True
        is_poll = time.monotonic() - self._polled_at >= POLL_INTERVAL
        if is_poll:
            self._polled_at = time.monotonic()
        for box in self.outboxes:
            if is_poll or box.is_due:
                is_complete &= self._deliver_page(box)
        with self.threads[0].call():
            pause = self.sink.refresh()
        self._report_remark(getattr(self.sink, "remark", None))  # a plugin's sink may lack the attribute
        if is_complete and not self._ended.is_set():
            self._behind_since = None
            self._report_error(None)
            return pause
        self._report_if_behind()
        return 0.0

    def _deliver_page(self, box: Outbox) -> bool:
        """Deliver a page of an outbox; return whether it was the last."""
        box.is_due = False  # set before reading: a message that comes meanwhile is read in the next round
        try:
            self._send_again(box)
            batch = box.read_batch(PAGE_SIZE)
            self._deliver_batch(box, batch)
        except BaseException:  # some libraries' errors are no Exception
            box.is_due = True
            raise
        if not batch.is_last:
            box.is_due = True
        return batch.is_last

    def _send_again(self, box: Outbox) -> None:
        """Send those refused messages that a person wants to be sent again.

        A message that is refused once more is not requested any more.
        """
        undelivered = box.undelivered
        while requested_messages := undelivered.requested(PAGE_SIZE):
            for inspection, verdict in requested_messages:
                if self._ended.is_set():
                    return
                message = box.message(inspection, verdict)
                if message is None:
                    undelivered.forget(inspection, verdict)
                elif self._send_message(box, message):
                    undelivered.forget(inspection, verdict)
                    box.advance(box.cursor, delivered=1)
                    box.save()

    def _report_if_behind(self) -> None:
        """Report a sink for which messages have waited without a pause for more than `BEHIND_SECONDS`.

        This is also called after each message of a page, as a message may take long.
        """
        self._behind_since = self._behind_since or time.monotonic()
        if time.monotonic() - self._behind_since > BEHIND_SECONDS:
            self.report(self._waiting_text(SLOW_TEXT))

    def _deliver_batch(self, box: Outbox, batch: Batch) -> None:
        """Send a page of messages, and move the cursor.

        If a message is not taken, its error is raised, and the next page begins with this message.
        """
        try:
            for message in batch.messages:
                if self._ended.is_set():
                    return
                is_taken = self._send_message(box, message)
                self._backoff.reset()
                box.advance(box.cursor_after(message), delivered=int(is_taken), refused=int(not is_taken))
                self._report_if_behind()
            box.advance(batch.end)
        finally:
            # A batch without messages only moves the cursor past records that the sink does not want. The
            # cursor is then saved only if the stored one is old (`is_behind`).
            if batch.messages or box.is_behind:
                box.save()

    def _send_message(self, box: Outbox, message: Message) -> bool:
        """Send a message; return whether it was taken; False: it was refused for good.

        Raises:
            Exception: The message was not taken, and is to be sent again.
        """
        try:
            with self.threads[0].call():
                self.sink.send(message)
        except Exception as error:
            box.failed += 1
            if not _blames_message(error):
                raise
            refusal_count = self._refusal_counts.get(message.id, 0) + 1
            self._refusal_counts[message.id] = refusal_count
            if refusal_count < MAX_REFUSALS:
                raise
            self._note_refused(message, str(error))
            box.undelivered.keep(message.number, message.verdict, str(error))
            del self._refusal_counts[message.id]
            return False
        self._refusal_counts.pop(message.id, None)
        if self.error is not None:
            self._report_error(None)
        return True

    # ---- reports

    def _report_error(self, error_text: str | None) -> None:
        """Keep and report the error of the last try; None: it went well."""
        self.error = None if error_text is None else " ".join(error_text.split())[:300]
        self.report(None if self.error is None else self._waiting_text(self.error))

    def _waiting_text(self, reason: str) -> str:
        """Return how many messages wait, as far as the store can count them, and for which reason."""
        try:
            count = self.waiting()
        except StoreError:
            text = "messages wait"
        else:
            if count >= MAX_COUNTED:
                text = f"{MAX_COUNTED:,} messages or more wait"
            else:
                text = f"{pluralize(count, 'message')} {'waits' if count == 1 else 'wait'}"
        return f"{text} for {self.sink.label}: {reason}"
