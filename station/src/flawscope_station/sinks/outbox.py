"""Outbox of a sink: the records that it has not had yet, a page at a time, and its cursor among them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from sqlalchemy import ColumnElement, Connection, func, select, update

from flawscope_station.sinks.cursors import cursor_conditions
from flawscope_station.sinks.undelivered import Undelivered
from flawscope_station.store.database import Database, upsert
from flawscope_station.store.inspection import InspectionFacts
from flawscope_station.store.records import describe_inspections, inspection_query, iso, parse_time
from flawscope_station.store.rows import VerdictRow
from flawscope_station.store.schema import deliveries, inspections, on_line, verdicts

INSPECTION = "inspection.created"  # type of a message
VERDICT = "verdict.given"  # type of a message
MAX_COUNTED = 1000  # waiting messages are counted up to this number: each page and scrape asks for it
SAVE_INTERVAL = 60.0  # seconds after which a cursor is stored if it passed no record that the sink wants


class MessageData(InspectionFacts):
    """Inspection that a message is about.

    Attributes:
        station: Name of the station.
        link: Address of the inspection's page; None: other computers cannot reach it.
    """

    station: str
    link: str | None


class VerdictData(MessageData):
    """Inspection with the verdict that a message is about."""

    said: SaidFacts


class SaidFacts(TypedDict):
    """Verdict that a message is about."""

    id: int
    verdict: str
    at: str
    by: str
    note: str
    kind: str | None
    has_mask: bool


@dataclass(frozen=True)
class Message:
    """Message about an inspection or a verdict.

    Attributes:
        id: Unique id, the same whenever the message is sent again.
        type: `INSPECTION` or `VERDICT`.
        at: Time of the inspection or the verdict, microseconds since 1970.
        product_id: Number of the product.
        number: Number of the inspection.
        verdict: Number of the verdict; None: the message is about an inspection.
        data: Content for the other side.
    """

    id: str
    type: str
    at: int
    product_id: int
    number: int
    verdict: int | None
    data: MessageData | VerdictData

    def envelope(self, **extra_data: object) -> dict[str, object]:
        """Return the body as Standard Webhooks has it: type, timestamp, and data with `extra_data` added.

        The body also has the id, for receivers that do not see headers.
        """
        return {
            "id": self.id,
            "type": self.type,
            "timestamp": iso(self.at),
            "data": {**self.data, **extra_data},
        }


class Cursor(NamedTuple):
    """Numbers of the last inspection and the last verdict that a sink had."""

    inspection: int
    verdict: int


class Batch(NamedTuple):
    """Page of messages, oldest first.

    Attributes:
        messages: Messages of the page.
        end: Cursor after the page.
        is_last: Whether no more messages wait now.
    """

    messages: list[Message]
    end: Cursor
    is_last: bool


class Outbox:
    """Messages of a product that a sink did not get yet. A new sink begins with records from now on.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        product: Name of the product.
        key: Key of the sink's cursor.
        only: Selection of inspections, as `SinkSettings.only`.
        verdicts: Whether verdicts are messages, too.
        station: Name of the station, which every message has.
        sender: Part of the messages' ids that differs between stations.
        address: Address of the station's pages; None: other computers cannot reach them.

    Attributes:
        cursor: Cursor of the sink.
        delivered: Number of messages that were ever taken.
        refused: Number of messages that were ever refused for good.
        failed: Number of failed tries since the start.
        undelivered: Messages that were refused for good.
        is_due: Whether there may be messages that were not read yet.

    Raises:
        StoreError: The cursor cannot be read.
    """

    def __init__(
        self,
        database: Database,
        product_id: int,
        product: str,
        key: str,
        *,
        only: str = "all",
        verdicts: bool = True,
        station: str,
        sender: str,
        address: str | None,
    ):
        self.database = database
        self.product_id = product_id
        self.product = product
        self.key = key
        self.only = only
        self.wants_verdicts = verdicts
        self.station = station
        self.sender = sender
        self.address = address
        self.failed = 0
        self.is_due = True
        self.undelivered = Undelivered(database, product_id, key)
        with database.writing() as connection:
            newest = self._newest_cursor(connection)
            insertion = upsert(connection.dialect.name, deliveries).values(
                product_id=product_id, sink=key, delivered=0, refused=0, **_cursor_columns(newest)
            )
            connection.execute(insertion.on_conflict_do_nothing())
            row = connection.execute(select(deliveries).where(*cursor_conditions(product_id, key))).one()
        self.cursor = Cursor(row.inspection_id, row.verdict_id)
        self.delivered = row.delivered
        self.refused = row.refused
        self._saved_progress = self._progress
        self._saved_at = time.monotonic()

    @property
    def _progress(self) -> dict[str, int]:
        """Columns that change as messages are delivered."""
        return {**_cursor_columns(self.cursor), "delivered": self.delivered, "refused": self.refused}

    @property
    def is_behind(self) -> bool:
        """Whether the stored cursor differs from this one, and was stored `SAVE_INTERVAL` ago or earlier.

        The station does not remove records that the stored cursor has not passed.
        """
        has_changed = self._progress != self._saved_progress
        return has_changed and time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def read_batch(self, limit: int) -> Batch:
        """Return the next messages, up to `limit`; a verdict comes after the inspection that it is about.

        Raises:
            StoreError: The database cannot be used.
        """
        cursor = self.cursor
        with self.database.reading() as connection:
            query = inspection_query().where(*self._inspection_conditions(cursor))
            rows = connection.execute(query.order_by(inspections.c.id).limit(limit)).all()
            messages = [
                self._inspection_message(inspection) for inspection in describe_inspections(connection, rows)
            ]
            if len(rows) == limit:
                return Batch(messages, cursor._replace(inspection=rows[-1].id), is_last=False)
            # all inspections are read: the cursor passes those that the sink does not want, too
            newest = self._newest_cursor(connection)
            end = cursor._replace(inspection=max(cursor.inspection, newest.inspection))
            verdict_limit = limit - len(rows)
            verdict_messages: list[Message] = []
            if self.wants_verdicts:
                verdict_messages = self._read_verdicts(connection, cursor, verdict_limit)
            are_all_read = len(verdict_messages) < verdict_limit
            last_verdict = newest.verdict if are_all_read else verdict_messages[-1].verdict or 0
            end = end._replace(verdict=max(cursor.verdict, last_verdict))
            return Batch(messages + verdict_messages, end, is_last=are_all_read)

    def message(self, inspection: int, verdict: int | None) -> Message | None:
        """Return the message about an inspection, or about a verdict on it; None: the record is gone.

        Args:
            inspection: Number of the inspection.
            verdict: Number of the verdict; None: the message is about the inspection.

        Raises:
            StoreError: The database cannot be used.
        """
        with self.database.reading() as connection:
            if verdict is not None:
                rows = connection.execute(select(verdicts).where(verdicts.c.id == verdict)).all()
                messages = self._verdict_messages(connection, rows)
            else:
                query = inspection_query().where(inspections.c.id == inspection)
                descriptions = describe_inspections(connection, connection.execute(query).all())
                messages = [self._inspection_message(facts) for facts in descriptions]
        return messages[0] if messages else None

    def cursor_after(self, message: Message) -> Cursor:
        """Return the cursor after a message."""
        if message.verdict is None:
            return self.cursor._replace(inspection=max(self.cursor.inspection, message.number))
        return self.cursor._replace(verdict=max(self.cursor.verdict, message.verdict))

    def waiting(self) -> int:
        """Return the number of messages to be delivered, up to `MAX_COUNTED`.

        Raises:
            StoreError: The database cannot be used.
        """
        cursor = self.cursor
        queries = [select(inspections.c.id).where(*self._inspection_conditions(cursor))]
        if self.wants_verdicts:
            queries.append(select(verdicts.c.id).where(*self._verdict_conditions(cursor)))
        subqueries = [query.limit(MAX_COUNTED).subquery() for query in queries]
        with self.database.reading() as connection:
            counts = [
                connection.scalar(select(func.count()).select_from(subquery)) or 0 for subquery in subqueries
            ]
        return min(MAX_COUNTED, sum(counts))

    def advance(self, cursor: Cursor, delivered: int = 0, refused: int = 0) -> None:
        """Set the cursor, and add to the numbers of messages; `save` writes them."""
        self.cursor = cursor
        self.delivered += delivered
        self.refused += refused

    def save(self) -> None:
        """Write the cursor and the counts where they changed; when this returns, they survive a power cut.

        Raises:
            StoreError: The database cannot be used.
        """
        progress = self._progress
        if progress != self._saved_progress:
            row_conditions = cursor_conditions(self.product_id, self.key)
            self.database.change(update(deliveries).where(*row_conditions).values(progress))
        self._saved_progress = progress
        self._saved_at = time.monotonic()

    # ---- queries

    def _inspection_conditions(self, cursor: Cursor) -> list[ColumnElement[bool]]:
        conditions = [on_line(self.product_id), inspections.c.id > cursor.inspection]
        if self.only != "all":
            conditions += [inspections.c.anomalous.is_(True), inspections.c.tolerated.is_(False)]
        return conditions

    def _verdict_conditions(self, cursor: Cursor) -> list[ColumnElement[bool]]:
        return [verdicts.c.product_id == self.product_id, verdicts.c.id > cursor.verdict]

    def _read_verdicts(self, connection: Connection, cursor: Cursor, limit: int) -> list[Message]:
        query = select(verdicts).where(*self._verdict_conditions(cursor)).order_by(verdicts.c.id)
        return self._verdict_messages(connection, connection.execute(query.limit(limit)).all())

    def _verdict_messages(self, connection: Connection, verdict_rows: Sequence[VerdictRow]) -> list[Message]:
        is_inspection_of_verdict = inspections.c.id.in_({row.inspection_id for row in verdict_rows})
        inspection_rows = connection.execute(inspection_query().where(is_inspection_of_verdict)).all()
        inspection_by_id = {
            inspection["id"]: inspection for inspection in describe_inspections(connection, inspection_rows)
        }
        return [self._verdict_message(row, inspection_by_id[row.inspection_id]) for row in verdict_rows]

    def _newest_cursor(self, connection: Connection) -> Cursor:
        """Return the cursor after all records."""
        newest = select(func.max(inspections.c.id)).where(inspections.c.product_id == self.product_id)
        inspection = connection.execute(newest).scalar_one()
        verdict = connection.execute(select(func.max(verdicts.c.id))).scalar_one()
        return Cursor(int(inspection or 0), int(verdict or 0))

    # ---- messages

    def _inspection_message(self, inspection: InspectionFacts) -> Message:
        number = int(inspection["id"])
        created_at = parse_time(inspection["at"])
        id = self._message_id("inspection", number, created_at)
        data = self._message_data(inspection)
        return Message(
            id=id,
            type=INSPECTION,
            at=created_at,
            product_id=self.product_id,
            number=number,
            verdict=None,
            data=data,
        )

    def _verdict_message(self, row: VerdictRow, inspection: InspectionFacts) -> Message:
        verdict_facts: SaidFacts = {
            "id": row.id,
            "verdict": row.verdict,
            "at": iso(row.at),
            "by": row.who,
            "note": row.note,
            "kind": row.kind,
            "has_mask": row.mask is not None,
        }
        data: VerdictData = {**self._message_data(inspection), "said": verdict_facts}
        id = self._message_id("verdict", row.id, row.at)
        return Message(
            id=id,
            type=VERDICT,
            at=row.at,
            product_id=self.product_id,
            number=int(row.inspection_id),
            verdict=int(row.id),
            data=data,
        )

    def _message_id(self, kind: str, number: int, at: int) -> str:
        """Return an id with the time in milliseconds: a restored database assigns some numbers again."""
        parts = [kind, self.sender, str(number), str(at // 1000)]
        return "-".join(part for part in parts if part)

    def _message_data(self, inspection: InspectionFacts) -> MessageData:
        link = None
        if self.address is not None:
            link = f"{self.address}/{self.product}/inspections/{inspection['id']}"
        return {**inspection, "station": self.station, "link": link}


def _cursor_columns(cursor: Cursor) -> dict[str, int]:
    return {"inspection_id": cursor.inspection, "verdict_id": cursor.verdict}
