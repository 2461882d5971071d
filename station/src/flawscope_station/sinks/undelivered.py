"""Messages that the other side refused for good, which a person may send again."""

from __future__ import annotations

from typing import TypedDict

from sqlalchemy import ColumnElement, delete, func, select, update

from flawscope_station.store.database import Database, now, upsert
from flawscope_station.store.records import iso
from flawscope_station.store.rows import UndeliveredRow
from flawscope_station.store.schema import undelivered

MAX_KEPT = 1000  # latest messages that are remembered of each sink
NO_VERDICT = 0  # in place of a verdict's number: the message is about the inspection itself


class RefusedMessage(TypedDict):
    """Message that was refused for good, as the API shows it.

    Attributes:
        inspection: Number of the inspection.
        verdict: Number of the verdict that the message is about; None: it is about the inspection.
        why: Reason of the refusal.
        at: Time in ISO 8601.
        again: Whether a person wants it to be sent again.
    """

    inspection: int
    verdict: int | None
    why: str
    at: str
    again: bool


class RefusedBySink(RefusedMessage):
    """Refused message with the label of its sink."""

    sink: str


class Undelivered:
    """Messages of a product that a sink refused for good.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        key: Key of the sink's cursor.

    Raises:
        StoreError: The database cannot be used; every method may raise it.
    """

    def __init__(self, database: Database, product_id: int, key: str):
        self.database = database
        self.product_id = product_id
        self.key = key

    def keep(self, inspection: int, verdict: int | None, why: str) -> None:
        """Remember a message that was refused.

        Args:
            inspection: Number of the inspection.
            verdict: Number of the verdict; None: the message is about the inspection itself.
            why: Reason of the refusal.
        """
        values = {"at": now(), "why": why, "again": False}
        row = {**self._key_of(inspection, verdict), **values}
        with self.database.writing() as connection:
            insertion = upsert(connection.dialect.name, undelivered).values(**row)
            key_columns = [column.name for column in undelivered.primary_key]
            connection.execute(insertion.on_conflict_do_update(index_elements=key_columns, set_=values))
            newest_first = select(undelivered.c.at).where(*self._conditions).order_by(undelivered.c.at.desc())
            # time of the newest message that is not among the `MAX_KEPT` latest
            latest_dropped = connection.scalar(newest_first.offset(MAX_KEPT).limit(1))
            if latest_dropped is not None:
                connection.execute(
                    delete(undelivered).where(*self._conditions, undelivered.c.at <= latest_dropped)
                )

    def forget(self, inspection: int, verdict: int | None) -> None:
        """Forget a message that was finally taken, or whose record is gone."""
        key = self._key_of(inspection, verdict)
        conditions = [undelivered.c[name] == value for name, value in key.items()]
        self.database.change(delete(undelivered).where(*conditions))

    def request_again(self) -> int:
        """Mark all messages to be sent again; return their number."""
        self.database.change(update(undelivered).where(*self._conditions).values(again=True))
        return self.count()

    def count(self) -> int:
        """Return the number of messages that were refused."""
        with self.database.reading() as connection:
            query = select(func.count()).select_from(undelivered).where(*self._conditions)
            return int(connection.scalar(query) or 0)

    def requested(self, limit: int) -> list[tuple[int, int | None]]:
        """Return the messages to be sent again, the oldest first, as numbers of inspection and verdict."""
        query = select(undelivered).where(*self._conditions, undelivered.c.again.is_(True))
        rows = self.database.rows(query.order_by(undelivered.c.at).limit(limit))
        return [(int(row.inspection_id), row.verdict_id or None) for row in rows]

    def facts(self) -> list[RefusedMessage]:
        """Return the messages as the API shows them, the latest first."""
        query = select(undelivered).where(*self._conditions).order_by(undelivered.c.at.desc())
        return [_describe(row) for row in self.database.rows(query)]

    @property
    def _conditions(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """Conditions of the rows of this product and sink."""
        return undelivered.c.product_id == self.product_id, undelivered.c.sink == self.key

    def _key_of(self, inspection: int, verdict: int | None) -> dict[str, int | str]:
        """Return the primary key of a message's row, by column."""
        return {
            "product_id": self.product_id,
            "sink": self.key,
            "inspection_id": inspection,
            "verdict_id": verdict or NO_VERDICT,
        }


def _describe(row: UndeliveredRow) -> RefusedMessage:
    return {
        "inspection": row.inspection_id,
        "verdict": row.verdict_id or None,  # `NO_VERDICT` becomes None
        "why": row.why,
        "at": iso(row.at),
        "again": row.again,
    }
