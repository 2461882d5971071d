"""Messages that the other side refused for good, which a person may send again."""

from __future__ import annotations

from typing import TypedDict

from sqlalchemy import ColumnElement, delete, func, select, update

from flawscope_station.store.database import Database, now, upsert
from flawscope_station.store.records import iso
from flawscope_station.store.rows import UndeliveredRow
from flawscope_station.store.schema import undelivered

MAX_KEPT = 1000  # messages of a sink that are remembered, the latest
NO_VERDICT = 0  # in the place of a verdict's number: the message is about the inspection itself


class RefusedMessage(TypedDict):
    """Message that was refused for good, as the API shows it.

    Attributes:
        inspection: Its number.
        verdict: Number of the verdict that it is about; None: it is about the inspection.
        why: Reason of the refusal.
        at: Time in ISO 8601.
        again: A person wants it to be sent again.
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
    """Messages of one product that one sink refused for good. All methods raise StoreError.

    Args:
        key: of the sink's cursor.
    """

    def __init__(self, database: Database, product_id: int, key: str):
        self.database = database
        self.product_id = product_id
        self.key = key

    def keep(self, inspection: int, verdict: int | None, why: str) -> None:
        """Remember a message that was refused; without a verdict it is about the inspection itself."""
        row = {**self._key_of(inspection, verdict), "at": now(), "why": why, "again": False}
        values = {name: row[name] for name in ("at", "why", "again")}
        with self.database.writing() as connection:
            new = upsert(connection.dialect.name, undelivered).values(**row)
            key = [column.name for column in undelivered.primary_key]
            connection.execute(new.on_conflict_do_update(index_elements=key, set_=values))
            oldest = select(undelivered.c.at).where(*self._own).order_by(undelivered.c.at.desc())
            too_old = connection.scalar(oldest.offset(MAX_KEPT).limit(1))
            if too_old is not None:
                connection.execute(delete(undelivered).where(*self._own, undelivered.c.at <= too_old))

    def forget(self, inspection: int, verdict: int | None) -> None:
        """Forget a message that was taken at last, or whose record is gone."""
        key = self._key_of(inspection, verdict)
        same = [undelivered.c[name] == value for name, value in key.items()]
        self.database.change(delete(undelivered).where(*same))

    def request_again(self) -> int:
        """Mark all messages to be sent again; return their number."""
        self.database.change(update(undelivered).where(*self._own).values(again=True))
        return self.count()

    def count(self) -> int:
        """Return the number of messages that were refused."""
        with self.database.reading() as connection:
            query = select(func.count()).select_from(undelivered).where(*self._own)
            return int(connection.scalar(query) or 0)

    def wanted(self, limit: int) -> list[tuple[int, int | None]]:
        """Return inspection and verdict of messages that are to be sent again, the oldest first."""
        query = select(undelivered).where(*self._own, undelivered.c.again.is_(True))
        rows = self.database.rows(query.order_by(undelivered.c.at).limit(limit))
        return [(int(row.inspection_id), row.verdict_id or None) for row in rows]

    def facts(self) -> list[RefusedMessage]:
        """Return the messages as the API shows them, the latest first."""
        query = select(undelivered).where(*self._own).order_by(undelivered.c.at.desc())
        return [_describe(row) for row in self.database.rows(query)]

    @property
    def _own(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return undelivered.c.product_id == self.product_id, undelivered.c.sink == self.key

    def _key_of(self, inspection: int, verdict: int | None) -> dict[str, int | str]:
        return {
            "product_id": self.product_id,
            "sink": self.key,
            "inspection_id": inspection,
            "verdict_id": verdict or NO_VERDICT,
        }


def _describe(row: UndeliveredRow) -> RefusedMessage:
    return {
        "inspection": row.inspection_id,
        "verdict": row.verdict_id or None,
        "why": row.why,
        "at": iso(row.at),
        "again": row.again,
    }
