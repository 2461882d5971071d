"""Inspections and verdicts in the data base."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from operator import attrgetter
from types import SimpleNamespace
from typing import NamedTuple, TypedDict, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    case,
    exists,
    func,
    literal_column,
    select,
    true,
    update,
)

from flawscope.errors import InputError
from flawscope_station.store.database import Database, now
from flawscope_station.store.filters import further_facts
from flawscope_station.store.insert import (
    WAITING,
    NewInspection,
    add_product,
    decision_of,
    insert_inspections,
    inspection_columns,
    is_at_address,
    review_state,
)
from flawscope_station.store.inspection import (
    Inspection,
    InspectionFacts,
    KeyedRequest,
    KeyUsedError,
    ViewFacts,
    format_time,
)
from flawscope_station.store.purposes import CHALLENGE, PRODUCTION, TRIAL
from flawscope_station.store.removed_files import find_file_keys
from flawscope_station.store.rows import (
    DecisionRow,
    EventRow,
    InspectionRow,
    KeyedInspectionRow,
    ProductRow,
    ShownInspectionRow,
    VerdictRow,
    ViewRow,
)
from flawscope_station.store.schema import (
    ANOMALOUS,
    HOUR,
    WITHIN,
    events,
    hours,
    inspections,
    on_line,
    pictures,
    products,
    removed_files,
    verdicts,
    views,
)

GOOD = "good"
DEFECT = "defect"
SKIP = "skip"
UNDO = "undo"
_NO_VERDICT = {  # why an inspection of this purpose gets none
    CHALLENGE: "shows a challenge part, whose answer is known",
    TRIAL: "was tried by hand and is no part of the line: nothing is learnt from it",
}
# a literal: a partial index serves only queries that state its condition
MAX_KIND_LENGTH = 100  # characters of a defect's kind
IS_WAITING = inspections.c.review == literal_column(f"'{WAITING}'")
MAX_FLAGGED = 64  # parts called anomalous, among which the last defective one is looked for
MAX_EVENTS = 500  # that are read or written at once
MAX_WAITING = 10_000  # inspections that wait for a review, as far as they are counted
COUNTED = ("inspected", "anomalous", "within_tolerance", "unanswered")  # columns of `hours` of all time
# events
VERDICT_EVENT = "verdict"
REMOVED_EVENT = "removed"
TOLERANCES_EVENT = "tolerances_changed"
# events
PAUSED_EVENT = "product_paused"
RESUMED_EVENT = "product_resumed"
# states of a review, beside those in `recording`
DONE = "done"
SKIPPED = "skipped"
MAX_NOTE_LENGTH = 2000  # characters
MAX_IDS_PER_QUERY = 10_000  # inspections that one query names; SQLite takes 32,766


def _unsaid_fields() -> dict[str, object]:
    """Return the default value of each field of an inspection."""
    values: dict[str, object] = {}
    for name, field in Inspection.model_fields.items():
        default = field.get_default()
        values[name] = [] if default == () else default  # as JSON has it
    return values


_UNSAID = _unsaid_fields()
_FURTHER = further_facts()
# Address of the current request's sender, for the events that it causes in any thread
SENDER_ADDRESS: ContextVar[str | None] = ContextVar("address", default=None)


class NotFoundError(InputError):
    """The product, inspection or version does not exist."""

    status = 404
    code = "not_found"


class DecidedError(InputError):
    """Another verdict holds than the verdict to be replaced: its giver has to decide anew.

    Attributes:
        details: Verdict that holds, as the API shows it; each value None where none holds any more.
    """

    status = 409
    code = "decided"

    def __init__(self, number: int, held: VerdictRow | None):
        self.details: dict[str, int | str | None]
        if held is None:
            text = f"inspection {number} has no verdict any more: send replaces=0 to give one"
            self.details = {"verdict_id": None, "verdict": None, "by": None, "at": None}
        else:
            text = (
                f"{held.who} said {held.verdict} on inspection {number} already: send replaces={held.id} to "
                "replace it"
            )
            self.details = {
                "verdict_id": held.id,
                "verdict": held.verdict,
                "by": held.who,
                "at": iso(held.at),
            }
        super().__init__(text)


class PictureRecord(NamedTuple):
    """Picture of an inspection.

    Attributes:
        hash: SHA-256 of the file.
        suffix: End of the file's name.
        removed_at: Time of the file's removal, microseconds since 1970; None: it is there.
        name: Name from the sender.
        version: Number of the version that judged.
        tolerated: Whether the part is within tolerance.
        view: View of a part in several views; else None.
    """

    hash: str
    suffix: str
    removed_at: int | None
    name: str
    version: int
    tolerated: bool
    view: str | None = None


class WaitingInspections(TypedDict):
    """Inspections that wait for a review, and the number of all that wait."""

    inspections: list[InspectionFacts]
    waiting: int


def iso(at: int) -> str:
    """Return a time, microseconds since 1970, as 2026-11-22T02:04:51.123Z."""
    return format_time(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at))


def parse_time(text: str, zone: tzinfo | None = UTC) -> int:
    """Return a date, or date and time, as microseconds since 1970.

    Args:
        text: Time in ISO format.
        zone: Zone of a time without an offset; None: this machine's.

    Raises:
        InputError: the text is no time.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return round(moment.timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise InputError(f"{text!r:.60} is not a time: write 2026-11-22 or 2026-11-22T14:30:00Z") from None


def valid_id_or_zero(number: int) -> int:
    """Return the number if a column can hold it, else 0, which no record has."""
    return number if 0 <= number < 2**63 else 0


class Store:
    """Products, pictures, inspections and verdicts in the database.

    Every method is a transaction and raises StoreError where the database cannot be used.
    """

    def __init__(self, database: Database):
        self.database = database
        self._counts: dict[int, Counter[str]] = {}  # of all hours, by product, as far as somebody asked
        self._counting = threading.Lock()
        self._writing = self._writes = 0  # under way, and done
        # verdicts are committed in the order of their numbers: sinks rely on it
        self._verdict_lock = threading.Lock()

    # ---- products

    def add_product(self, name: str, entry_id: int | None = None) -> int:
        """Add a product unless it is there; return its number.

        Args:
            name: Name of the product.
            entry_id: Number of the entry that finds it; None: it has its own model.
        """
        with self.database.writing() as connection:
            return add_product(connection, name, entry_id)

    def find_product(self, name: str) -> ProductRow | None:
        """Return the row of the product with this name, also of a removed one; None: there is none."""
        return self.database.row(select(products).where(products.c.name == name))

    def removed_products(self, present: Collection[int]) -> dict[str, int]:
        """Return the numbers, by name, of products with records that are not among `present`."""
        has_records = exists().where(inspections.c.product_id == products.c.id)
        query = select(products.c.name, products.c.id).where(products.c.id.not_in(present), has_records)
        return {row.name: int(row.id) for row in self.database.rows(query.order_by(products.c.name))}

    def product_names(self, numbers: Collection[int]) -> list[str]:
        """Return the names of the products with these numbers."""
        query = select(products.c.name).where(products.c.id.in_(numbers))
        return [row.name for row in self.database.rows(query.order_by(products.c.name))]

    def free_name(self, name: str, who: str) -> str:
        """Rename a removed product so that another may take its name; return the new name.

        Its records stay its own under the new name, which says when it was removed.
        """
        with self.database.writing() as connection:
            taken = {*connection.scalars(select(products.c.name))}
            stem = f"{name[:40]}.removed-{iso(now())[:10]}"
            free = (stem if n == 1 else f"{stem}-{n}" for n in count(1))
            new_name = next(candidate for candidate in free if candidate not in taken)
            renamed = update(products).where(products.c.name == name).values(name=new_name)
            number = connection.scalar(renamed.returning(products.c.id))
            text = (
                f"another product takes the name {name}: the records of the one before are under {new_name}"
            )
            add_event(connection, REMOVED_EVENT, who, text, number)
        return new_name

    def totals(self, product_id: int) -> dict[str, int]:
        """Return the number of inspections, and of those that wait for a review, up to `MAX_WAITING`."""
        count = self.counts(product_id)["inspected"]
        return {"inspections": count, "waiting": self.waiting_count(product_id)}

    def last_at(self, product_id: int) -> int | None:
        """Return the time of a product's last part on the line, microseconds since 1970, or None."""
        with self.database.reading() as connection:
            at = inspections.c.at
            latest = select(at).where(on_line(product_id)).order_by(at.desc()).limit(1)
            found: int | None = connection.execute(latest).scalar()
        return found

    def waiting_count(self, product_id: int) -> int:
        """Return the number of inspections that wait for a review, up to `MAX_WAITING`."""
        with self.database.reading() as connection:
            return _waiting_count(connection, product_id)

    def counts(self, product_id: int) -> Counter[str]:
        """Return the numbers of all inspections of a product, by `COUNTED`: read once, then kept current."""
        with self._counting:
            known = self._counts.get(product_id)
            if known is not None:
                return known.copy()
            before = self._writes
        found = Counter(self.counts_since(product_id, 0))
        with self._counting:
            if before == self._writes and not self._writing:  # else some would count twice, or not at all
                self._counts[product_id] = found.copy()
        return found

    def counts_since(self, product_id: int, since: int) -> dict[str, int]:
        """Return the numbers of inspections since a time, microseconds since 1970, by `COUNTED`."""
        first_hour = -(-since // HOUR)  # that is whole
        sums = [func.coalesce(func.sum(hours.c[name]), 0) for name in COUNTED]
        whole = select(*sums).where(hours.c.product_id == product_id, hours.c.hour >= first_hour)
        column = inspections.c
        is_anomalous = column.anomalous & ~column.tolerated
        conditions = (true(), is_anomalous, column.tolerated, column.unanswered.is_not(None))
        ones = [_count_where(holds) for holds in conditions]
        begun = select(*ones).where(on_line(product_id), column.at >= since, column.at < first_hour * HOUR)
        with self.database.reading() as connection:
            rows = [connection.execute(whole).one()]
            if since % HOUR:
                rows.append(connection.execute(begun).one())
        return {name: sum(int(row[place]) for row in rows) for place, name in enumerate(COUNTED)}

    @contextmanager
    def _counted(self, changes: Callable[[], Iterable[tuple[int, Mapping[str, int]]]]) -> Iterator[None]:
        """Update the kept counts when a write is done.

        Args:
            changes: Returns the changes of the counts, by product.
        """
        with self._counting:
            self._writing += 1
        done: Iterable[tuple[int, Mapping[str, int]]] = ()
        try:
            yield
            done = changes()
        finally:
            with self._counting:
                self._writing = self._writing - 1
                self._writes = self._writes + 1
                for product_id, change in done:
                    known = self._counts.get(product_id)
                    if known is not None:
                        known.update(change)

    # ---- inspections

    def record(self, several: Sequence[NewInspection]) -> list[tuple[int, bool]]:
        """Write inspections, all or none; return the number of each, and whether it is new.

        An inspection under a known key gets the number of the inspection that was recorded under the key
        before.
        """
        found: list[tuple[int, bool]] = []

        def changes() -> Iterator[tuple[int, Mapping[str, int]]]:
            for inspection, (_, is_new) in zip(several, found, strict=True):
                if is_new and inspection.purpose == PRODUCTION:
                    yield inspection.product_id, _counts_of(inspection)

        with self._counted(changes), self.database.writing() as connection:
            found += insert_inspections(connection, several)
        return found

    def find_recorded(self, several: Sequence[NewInspection]) -> list[int | None]:
        """Return the number of each inspection after a COMMIT whose answer was lost; None: not recorded.

        A part is known by its product, the microsecond of its picture, the picture and the key. Kept counts
        of the products are read anew.
        """
        found = list[int | None]()
        with self.database.reading() as connection:
            for inspection in several:
                values = {
                    name: getattr(inspection, name) for name in ("product_id", "at", "picture", "source")
                }
                query = (
                    select(inspections.c.id)
                    .filter_by(**values)
                    .where(inspections.c.key.is_not_distinct_from(inspection.key))
                )
                found.append(connection.execute(query.limit(1)).scalar_one_or_none())
        with self._counting:
            self._writes += 1
            for inspection in several:
                self._counts.pop(inspection.product_id, None)
        return found

    def known_files(self, product_id: int, keys: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Return the inspection's number and the picture's hash under each known key.

        Keys of a folder's files are known also where the record was removed, or where there was none
        (`GIVEN_UP`).
        """
        removed = find_file_keys(self.database, product_id, removed_files.c.key.in_(keys))
        of_part = is_at_address(product_id, views.c.product_id), views.c.key.in_(keys)
        seen = self.database.rows(select(views.c.key, views.c.inspection_id, views.c.picture).where(*of_part))
        known: dict[str, tuple[int, str]] = {}
        for row in (*removed, *seen):
            known[str(row.key)] = int(row.inspection_id), str(row.picture)
        for inspection in self.find_by_keys(product_id, keys):
            known.setdefault(str(inspection.key), (int(inspection.id), str(inspection.picture)))
        return known

    def find_by_keys(self, product_id: int, keys: Sequence[str]) -> Sequence[KeyedInspectionRow]:
        """Return the inspections under these keys, each with the hash of its request."""
        column = inspections.c
        query = select(column.id, column.key, column.picture, column.source, column.request_hash)
        return self.database.rows(query.where(is_at_address(product_id), column.key.in_(keys)))

    def find_answers(self, product_id: int, request: KeyedRequest) -> dict[int, int]:
        """Return the inspections that a request led to before: place of its part -> number.

        Raises:
            KeyUsedError: the key names another request.
        """
        rows = {str(row.key): row for row in self.find_by_keys(product_id, request.possible_keys())}
        for row in rows.values():
            if row.request_hash != request.hash:
                raise KeyUsedError(f"request, inspection {row.id}")
        return {place: int(rows[key].id) for place, key in enumerate(request.keys) if key in rows}

    def inspection(self, product_id: int, number: int) -> InspectionFacts:
        """Return an inspection of a product, or of an entry's products, as the API shows it.

        Raises:
            NotFoundError: there is no such inspection.
        """
        query = inspection_query().where(is_at_address(product_id), inspections.c.id == number)
        with self.database.reading() as connection:
            found = describe_inspections(connection, connection.execute(query).all())
        if not found:
            raise NotFoundError(f"there is no inspection {number}")
        return found[0]

    def inspections_by_number(self, product_id: int, numbers: Collection[int]) -> dict[int, InspectionFacts]:
        """Return inspections as the API shows them, by number; numbers without an inspection are left out."""
        query = inspection_query().where(
            inspections.c.product_id == product_id, inspections.c.id.in_(numbers)
        )
        with self.database.reading() as connection:
            found = describe_inspections(connection, connection.execute(query).all())
        return {inspection["id"]: inspection for inspection in found}

    def waiting(
        self, product_id: int, limit: int, after: int = 0, without: Sequence[int] = ()
    ) -> WaitingInspections:
        """Return the oldest inspections that wait for a review, and the number of all that wait.

        Args:
            product_id: Number of the product.
            limit: Largest number of inspections.
            after: Number of an inspection; later ones are returned.
            without: Numbers of inspections that are not returned.
        """
        where = inspections.c.product_id == product_id, IS_WAITING
        query = (
            inspection_query().where(*where, inspections.c.id > after).order_by(inspections.c.id).limit(limit)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query.where(inspections.c.id.not_in(without))).all()
            count = _waiting_count(connection, product_id)
            return {"inspections": describe_inspections(connection, rows), "waiting": count}

    def last_defective(self, product_id: int) -> InspectionFacts | None:
        """Return the last part that was called anomalous, as the API shows it.

        None where there is none, or where a person called the latest `MAX_FLAGGED` good.
        """
        column = inspections.c
        flagged = select(column.id, column.verdict).where(on_line(product_id), column.anomalous)
        latest = flagged.where(~column.tolerated).order_by(column.id.desc()).limit(MAX_FLAGGED).subquery()
        is_false_alarm = func.coalesce(latest.c.verdict, "") == GOOD
        with self.database.reading() as connection:
            number = connection.scalar(select(func.max(latest.c.id)).where(~is_false_alarm))
        return None if number is None else self.inspection(product_id, number)

    def has_picture(self, picture: str) -> bool:
        """Return whether this station has an inspection of the picture with this hash."""
        query = select(pictures.c.hash).where(pictures.c.hash == picture)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def picture(self, product_id: int, number: int, view: str | None = None) -> PictureRecord:
        """Return the picture of an inspection.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            view: View of the part; None: the inspection's own picture.

        Raises:
            NotFoundError: there is no such inspection or view.
        """
        of_picture = select(pictures.c.hash, pictures.c.suffix, pictures.c.removed_at)
        if view is None:
            query = of_picture.add_columns(
                inspections.c.name, inspections.c.version_id, inspections.c.tolerated, inspections.c.view
            )
            query = query.join_from(inspections, pictures)
        else:
            query = of_picture.add_columns(
                views.c.name, inspections.c.version_id, views.c.tolerated, views.c.view
            )
            query = query.select_from(views.join(inspections).join(pictures, _is_of(views)))
            query = query.where(views.c.view == view)
        row = self.database.row(
            query.where(inspections.c.product_id == product_id, inspections.c.id == number)
        )
        if row is None:
            seen = "" if view is None else f" with a view {view:.60}"
            raise NotFoundError(f"there is no inspection {number}{seen}")
        return PictureRecord(*tuple(row))

    def set_unanswered(self, number: int, why: str | None) -> None:
        """Record why an inspection's sender did not get the answer; None: the sender did get it after all."""
        changes = dict[int, dict[str, int]]()
        with self._counted(changes.items), self.database.writing() as connection:
            query = select(inspections).where(inspections.c.id == number).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None or row.unanswered == why or row.purpose != PRODUCTION:
                return
            connection.execute(update(inspections).where(inspections.c.id == number).values(unanswered=why))
            place = {"product_id": row.product_id, "version_id": row.version_id, "hour": row.at // HOUR}
            change = (why is not None) - (row.unanswered is not None)
            changed = {"unanswered": hours.c.unanswered + change}
            connection.execute(update(hours).filter_by(**place).values(changed))
            changes[row.product_id] = {"unanswered": change}

    # ---- verdicts

    def add_verdict(
        self,
        product_id: int,
        number: int,
        verdict: str,
        who: str,
        mask: str | None = None,
        note: str = "",
        key: str | None = None,
        kind: str = "",
        replaces: int | None = None,
    ) -> InspectionFacts:
        """Record a person's verdict on an inspection; `undo` takes the last verdict back.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            verdict: good, defect, skip or undo.
            who: Person who gives it.
            mask: SHA-256 of the file that holds the mask.
            note: Note of the person.
            key: Key from the sender; a verdict is recorded once under its key.
            kind: Kind of the defect, as the person names it; empty: not named.
            replaces: Number of the verdict that the person saw there, 0 for none; None: the person's own, or
                none.

        Returns:
            The inspection as the API shows it.

        Raises:
            NotFoundError: there is no such inspection.
            DecidedError: another verdict holds than the replaced one.
            KeyUsedError: the key was used for another verdict.
            InputError: the verdict is unknown, there is none to take back, the note is too long, the kind is
                no name or not of a defect, or the inspection shows a challenge part.
        """
        content = _verdict_content(verdict, mask, note, kind)
        with self._verdict_lock, self.database.writing() as connection:
            query = select(inspections).filter_by(product_id=product_id, id=number).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFoundError(f"there is no inspection {number}")
            if row.purpose != PRODUCTION:
                raise InputError(f"inspection {number} {_NO_VERDICT[row.purpose]}")
            if key is None or not _is_repeated(connection, number, key, content):
                last = last_verdicts(connection, [number]).get(number)
                if verdict == UNDO and last is None:
                    raise InputError(f"inspection {number} has no verdict to take back")
                _check_replaced(number, last, who, verdict, replaces)
                values = {
                    **content,
                    "inspection_id": number,
                    "product_id": product_id,
                    "at": now(),
                    "who": who,
                    "key": key,
                }
                connection.execute(verdicts.insert().values(values))
                text = f"{verdict} on inspection {number}{_replaced_text(verdict, last)}"
                add_event(connection, VERDICT_EVENT, who, text, product_id)
                _apply_verdicts(connection, row)
            rows = connection.execute(inspection_query().where(inspections.c.id == number)).all()
            return describe_inspections(connection, rows)[0]

    def mask_hash(self, number: int) -> str | None:
        """Return the SHA-256 of the last verdict's mask; None: it has none."""
        with self.database.reading() as connection:
            last = last_verdicts(connection, [number]).get(number)
        return None if last is None else last.mask

    # ---- events

    def note_event(self, kind: str, who: str, text: str, product_id: int | None = None) -> None:
        """Record an event."""
        self.note_events(kind, who, [text], product_id)

    def note_events(self, kind: str, who: str, texts: Sequence[str], product_id: int | None = None) -> None:
        """Record an event for each text, a few hundred in a transaction."""
        for start in range(0, len(texts), MAX_EVENTS):
            with self.database.writing() as connection:
                for text in texts[start : start + MAX_EVENTS]:
                    add_event(connection, kind, who, text, product_id)

    def note_new_events(self, kind: str, who: str, texts: Sequence[str], product_id: int) -> None:
        """Record an event for each text that no event of the kind and product has yet.

        Texts are compared before the transaction: reading keeps nobody from writing.
        """
        for start in range(0, len(texts), MAX_EVENTS):
            batch = texts[start : start + MAX_EVENTS]
            query = select(events.c.text).where(
                events.c.kind == kind, events.c.product_id == product_id, events.c.text.in_(batch)
            )
            with self.database.reading() as connection:
                known = {*connection.execute(query).scalars()}
            new = [text for text in dict.fromkeys(batch) if text not in known]
            self.note_events(kind, who, new, product_id)

    def events(self, kind: str, product_id: int | None = None) -> Sequence[EventRow]:
        """Return the latest 500 events of a kind and product, the latest first.

        Args:
            kind: Kind of the events.
            product_id: Number of the product; None: events of the station itself.
        """
        query = select(events).where(events.c.kind == kind, events.c.product_id == product_id)
        return self.database.rows(query.order_by(events.c.id.desc()).limit(MAX_EVENTS))


def _count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return the SQL expression for the number of rows that meet a condition."""
    ones = case((condition, 1), else_=0)
    return func.coalesce(func.sum(ones), 0)


def _waiting_count(connection: Connection, product_id: int) -> int:
    waiting = select(inspections.c.id).where(inspections.c.product_id == product_id, IS_WAITING)
    query = select(func.count()).select_from(waiting.limit(MAX_WAITING).subquery())
    return int(connection.execute(query).scalar_one())


def _counts_of(inspection: NewInspection) -> dict[str, int]:
    """Return the numbers that an inspection adds to `Store.counts`."""
    is_anomalous = inspection.decision == ANOMALOUS
    is_tolerated = inspection.decision == WITHIN
    is_unanswered = inspection.unanswered is not None
    counts = 1, int(is_anomalous), int(is_tolerated), int(is_unanswered)
    return dict(zip(COUNTED, counts, strict=True))


def add_event(
    connection: Connection,
    kind: str,
    who: str,
    text: str,
    product_id: int | None = None,
    *,
    address: str | None = None,
) -> None:
    """Record an event in the transaction of its cause.

    Args:
        connection: Connection of the transaction.
        kind: Kind of the event.
        who: Person who caused it.
        text: Text of the event.
        product_id: Number of the product; None: it is about the station.
        address: IP address of the person; None: that of the current request.
    """
    address = address or SENDER_ADDRESS.get()
    row = {"at": now(), "kind": kind, "who": who, "text": text, "product_id": product_id}
    connection.execute(events.insert().values(**row, address=address and address[:64]))


# --------------------------------------------------------------------------------------------------- verdicts


def _verdict_content(verdict: str, mask: str | None, note: str, kind: str) -> dict[str, str | None]:
    """Check a person's verdict; return it by column of `verdicts`.

    Raises:
        InputError: a part of it is invalid.
    """
    if verdict not in (GOOD, DEFECT, SKIP, UNDO):
        raise InputError(f"{verdict!r:.40} is not a verdict: good, defect, skip or undo")
    note = "".join(c for c in note if c == "\n" or unicodedata.category(c)[0] != "C")
    if len(note) > MAX_NOTE_LENGTH:
        raise InputError(f"the note has {len(note)} characters; {MAX_NOTE_LENGTH} at most")
    kind = kind.strip()
    if kind:
        _check_kind(kind, verdict)
    return {"verdict": verdict, "mask": mask, "note": note, "kind": kind or None}


def _check_kind(kind: str, verdict: str) -> None:
    """Raise InputError where a kind of defect is no name, or does not fit the verdict."""
    if len(kind) > MAX_KIND_LENGTH or not kind.isprintable():
        raise InputError(f"kind={kind!r:.60} has not 1 to {MAX_KIND_LENGTH} characters that can be printed")
    if verdict != DEFECT:
        raise InputError(f"kind={kind!r:.60} is of a defect: leave it out of the verdict {verdict}")


def _check_replaced(
    number: int, last: VerdictRow | None, who: str, verdict: str, replaces: int | None
) -> None:
    """Raise DecidedError where a verdict would replace a verdict that its giver has not seen.

    The inspection is locked, so that of two verdicts at the same moment the second sees the first. A skip
    decided nothing, and a verdict that agrees replaces nothing.
    """
    held = None if last is None or last.verdict == SKIP else last
    if replaces is None:
        is_expected = held is None or held.who == who or held.verdict == verdict
    else:
        is_expected = replaces == (0 if held is None else held.id)
    if not is_expected:
        raise DecidedError(number, held)


def _replaced_text(verdict: str, last: VerdictRow | None) -> str:
    """Return the audit's words about a verdict that is replaced or taken back; "": there is none."""
    if last is None:
        return ""
    return f", {'takes back' if verdict == UNDO else 'replaces'} {last.verdict} by {last.who}"


def _is_repeated(connection: Connection, number: int, key: str, content: Mapping[str, str | None]) -> bool:
    """Return whether this verdict came under this key before.

    Raises:
        KeyUsedError: another verdict came under the key.
    """
    query = select(verdicts).where(verdicts.c.inspection_id == number, verdicts.c.key == key)
    before = connection.execute(query).one_or_none()
    if before is None:
        return False
    if content != {name: before._mapping[name] for name in content}:
        raise KeyUsedError(f"verdict on inspection {number}, {before.verdict}")
    return True


def _in_parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the numbers in sequences that a query may name at once."""
    for start in range(0, len(numbers), MAX_IDS_PER_QUERY):
        yield numbers[start : start + MAX_IDS_PER_QUERY]


def verdict_stacks(
    connection: Connection, numbers: Sequence[int] | Select[tuple[object, ...]]
) -> dict[int, list[VerdictRow]]:
    """Return the verdicts that hold, by inspection, the oldest first; verdicts taken back are left out.

    Args:
        connection: Connection to the database.
        numbers: Numbers of the inspections, or a query of them.
    """
    stacks: dict[int, list[VerdictRow]] = defaultdict(list)
    chunks = [select(numbers.subquery())] if isinstance(numbers, Select) else _in_parts(numbers)
    for chunk in chunks:
        where = verdicts.c.inspection_id.in_(chunk)
        rows = connection.execute(select(verdicts).where(where)).all()
        for row in sorted(rows, key=attrgetter("id")):
            if row.verdict != UNDO:
                stacks[row.inspection_id].append(row)
            elif stacks[row.inspection_id]:
                stacks[row.inspection_id].pop()
    return {number: stack for number, stack in stacks.items() if stack}


def last_verdicts(connection: Connection, numbers: Sequence[int]) -> dict[int, VerdictRow]:
    """Return the last verdict that holds, by inspection; inspections without a verdict are left out."""
    return {number: stack[-1] for number, stack in verdict_stacks(connection, numbers).items()}


def _apply_verdicts(connection: Connection, before: InspectionRow) -> None:
    """Update an inspection, and the counts of its hour, to its verdicts."""
    last = last_verdicts(connection, [before.id]).get(before.id)
    verdict = None if last is None or last.verdict == SKIP else last.verdict
    review = DONE if verdict else SKIPPED
    if last is None:
        review = review_state(before)
    values = {"verdict": verdict, "review": review, "kind": last and last.kind}
    connection.execute(update(inspections).where(inspections.c.id == before.id).values(values))
    decision = decision_of(before)
    old_counts = _verdict_counts(decision, before.verdict)
    now_counts = _verdict_counts(decision, verdict)
    changes = {name: hours.c[name] + now_counts[name] - old_counts[name] for name in old_counts}
    place = {"product_id": before.product_id, "version_id": before.version_id, "hour": before.at // HOUR}
    connection.execute(update(hours).filter_by(**place).values(changes))


def _verdict_counts(decision: str, verdict: str | None) -> dict[str, int]:
    return {
        "reviewed": int(verdict is not None),
        "defects": int(verdict == DEFECT),
        "false_alarms": int(decision == ANOMALOUS and verdict == GOOD),
        "misses": int(decision != ANOMALOUS and verdict == DEFECT),
    }


# -------------------------------------------------------------------------------------------------- as shown


def inspection_query() -> Select[tuple[object, ...]]:
    """Return a query of the columns that `describe_inspections` needs."""
    of_picture = (pictures.c[name] for name in ("width", "height", "removed_at"))
    with_names = inspections.join(pictures).join(products, products.c.id == inspections.c.product_id)
    return select(inspections, *of_picture, products.c.name.label("product")).select_from(with_names)


def _is_of(table: Table) -> ColumnElement[bool]:
    """Return the condition that a row of a table is about a picture."""
    return (pictures.c.product_id == table.c.product_id) & (pictures.c.hash == table.c.picture)


def describe_new(number: int, taken: NewInspection, product: str) -> InspectionFacts:
    """Return an inspection that was just recorded, as the API shows it."""
    values = {field.name: getattr(taken, field.name) for field in fields(taken)}
    facts = {**values, **inspection_columns(taken), "id": number, "product": product, "removed_at": None}
    seen = [_describe_view(view, view.record, view.picture) for view in taken.views]
    row: ShownInspectionRow = SimpleNamespace(**facts, verdict=None, kind=None)
    return _describe(row, taken.record, None, seen)


def describe_inspections(connection: Connection, rows: Sequence[ShownInspectionRow]) -> list[InspectionFacts]:
    """Return inspections as the API shows them."""
    last = last_verdicts(connection, [row.id for row in rows if row.review in (DONE, SKIPPED)])
    seen: dict[int, list[ViewFacts]] = defaultdict(list)
    for view in find_views(connection, [row.id for row in rows if row.view is not None]):
        picture = None if view.removed_at else view.picture
        seen[view.inspection_id].append(_describe_view(view, json.loads(view.record), picture))
    return [_describe(row, json.loads(row.record), last.get(row.id), seen[row.id]) for row in rows]


def find_views(connection: Connection, numbers: Sequence[int]) -> list[ViewRow]:
    """Return the rows of `views` of inspections, in order, with columns of their pictures."""
    known = (pictures.c[name] for name in ("suffix", "width", "height", "removed_at", "pixels"))
    query = select(views, *known).select_from(views.join(pictures, _is_of(views)))
    query = query.order_by(views.c.inspection_id, views.c.place)
    found: list[ViewRow] = []
    for chunk in _in_parts(numbers):
        found += connection.execute(query.where(views.c.inspection_id.in_(chunk)))
    return found


_VIEW_FIELDS = ("view", "name", "width", "height", "score", "p_value", "severity", "score_threshold")


def _describe_view(row: DecisionRow, record: Mapping[str, object], picture: str | None) -> ViewFacts:
    """Return the fields of a `SeenView`, by name, and other facts of its record."""
    facts: dict[str, object] = {"regions": [], "findings": [], **record}
    facts.update({name: getattr(row, name) for name in _VIEW_FIELDS})
    facts.update({"decision": decision_of(row), "picture": picture})
    return cast(ViewFacts, facts)


def _describe(
    row: ShownInspectionRow,
    record: Mapping[str, object],
    last: VerdictRow | None,
    seen: list[ViewFacts],
) -> InspectionFacts:
    """Return the fields of an `Inspection`, by name, and other facts of its record.

    Args:
        row: Row of the inspection.
        record: Facts that no filter searches.
        last: Last verdict that holds; None: there is none.
        seen: Views of the part.
    """
    computed: dict[str, object] = {
        "views": seen,
        "version": row.version_id,
        "at": iso(row.at),
        "picture": None if row.removed_at else row.picture,
        "decision": decision_of(row),
        "near": bool(row.near),
        "note": "" if last is None else last.note,
        "has_mask": last is not None and bool(last.mask),
    }
    computed |= _describe_verdict(last if row.verdict else None)
    values = {name: getattr(row, name) for name in _UNSAID if name not in computed and hasattr(row, name)}
    values |= {name: getattr(row, name) for name in _FURTHER if name not in record}
    return cast(InspectionFacts, {**_UNSAID, **record, **values, **computed})


def _describe_verdict(verdict: VerdictRow | None) -> dict[str, object]:
    """Return the fields of `Inspection` about the verdict that holds."""
    if verdict is None:
        return {"verdict_id": None, "verdict_at": None, "verdict_by": None}
    return {"verdict_id": verdict.id, "verdict_at": iso(verdict.at), "verdict_by": verdict.who}
