"""Inspections and verdicts in the database."""

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
    Executable,
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
_NO_VERDICT = {  # purpose -> why an inspection of this purpose gets no verdict
    CHALLENGE: "shows a challenge part, whose answer is known",
    TRIAL: "was tried by hand and is no part of the line: nothing is learnt from it",
}
MAX_KIND_LENGTH = 100  # characters of a defect's kind
# a literal, not a parameter: a partial index serves only queries that state its condition
IS_WAITING = inspections.c.review == literal_column(f"'{WAITING}'")
MAX_FLAGGED = 64  # latest parts called anomalous among which the last defective part is searched
MAX_EVENTS = 500  # events that are read or written at once
MAX_WAITING = 10_000  # inspections that wait for a review are counted up to this number
COUNTED = ("inspected", "anomalous", "within_tolerance", "unanswered")  # columns of `hours` in `Store.counts`
# kinds of events
VERDICT_EVENT = "verdict"
REMOVED_EVENT = "removed"
TOLERANCES_EVENT = "tolerances_changed"
PAUSED_EVENT = "product_paused"
RESUMED_EVENT = "product_resumed"
# states of a review; those of inspections without a verdict are in `insert`
DONE = "done"
SKIPPED = "skipped"
MAX_NOTE_LENGTH = 2000  # characters
MAX_ADDRESS_LENGTH = 64  # characters of the column `events.address`
MAX_IDS_PER_QUERY = 10_000  # inspections that one query names; SQLite takes 32,766


def _default_fields() -> dict[str, object]:
    """Return the default value of each field of an inspection, as JSON has it."""
    values: dict[str, object] = {}
    for name, field in Inspection.model_fields.items():
        default = field.get_default()
        values[name] = [] if default == () else default  # JSON has lists
    return values


_DEFAULTS = _default_fields()
_FURTHER_FACTS = further_facts()
# Address of the sender of the current request; the threads that work for the request see it, too
SENDER_ADDRESS: ContextVar[str | None] = ContextVar("address", default=None)


class NotFoundError(InputError):
    """The product, inspection or version does not exist."""

    status = 404
    code = "not_found"


class DecidedError(InputError):
    """The present verdict is not the verdict that a person wants to replace: the person has to decide anew.

    Args:
        number: Number of the inspection.
        present_verdict: Present verdict; None: the inspection has no verdict any more.

    Attributes:
        details: Present verdict, as the API shows it; all values None: there is none.
    """

    status = 409
    code = "decided"

    def __init__(self, number: int, present_verdict: VerdictRow | None):
        self.details: dict[str, int | str | None]
        if present_verdict is None:
            text = f"inspection {number} has no verdict any more: send replaces=0 to give one"
            self.details = {"verdict_id": None, "verdict": None, "by": None, "at": None}
        else:
            text = (
                f"{present_verdict.who} said {present_verdict.verdict} on inspection {number} already: "
                f"send replaces={present_verdict.id} to replace it"
            )
            self.details = {
                "verdict_id": present_verdict.id,
                "verdict": present_verdict.verdict,
                "by": present_verdict.who,
                "at": iso(present_verdict.at),
            }
        super().__init__(text)


class PictureRecord(NamedTuple):
    """Picture of an inspection.

    Attributes:
        hash: SHA-256 of the file.
        suffix: End of the file's name.
        removed_at: Time of the file's removal, microseconds since 1970; None: the file exists.
        name: Name from the sender.
        version: Number of the version that judged.
        tolerated: Whether the part is within tolerance.
        view: View of the part; None: the part has a single picture.
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
    """Return a time in microseconds since 1970 as text, such as 2026-11-22T02:04:51.123Z."""
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
    """Return the number if it fits a column of 64 bits; otherwise return 0, which no record has."""
    return number if 0 <= number < 2**63 else 0


class Store:
    """Products, pictures, inspections and verdicts in the database.

    Every method is a transaction and raises StoreError where the database cannot be used.
    """

    def __init__(self, database: Database):
        self.database = database
        self._counts: dict[int, Counter[str]] = {}  # product -> cached result of `counts`
        self._counts_lock = threading.Lock()
        self._pending_writes = 0  # writes under way that change counts
        self._finished_writes = 0
        # verdicts are committed in the order of their numbers: sinks rely on it
        self._verdict_lock = threading.Lock()

    # ---- products

    def add_product(self, name: str, entry_id: int | None = None) -> int:
        """Add a product unless it exists; return its number.

        Args:
            name: Name of the product.
            entry_id: Number of the entry whose joint model has the product; None: it has its own model.
        """
        with self.database.writing() as connection:
            return add_product(connection, name, entry_id)

    def find_product(self, name: str) -> ProductRow | None:
        """Return the row of the present or removed product with this name; None: there is no such product."""
        return self.database.row(select(products).where(products.c.name == name))

    def removed_products(self, present: Collection[int]) -> dict[str, int]:
        """Return name -> number of the products that have records, without the numbers in `present`."""
        has_records = exists().where(inspections.c.product_id == products.c.id)
        query = select(products.c.name, products.c.id).where(products.c.id.not_in(present), has_records)
        return {row.name: int(row.id) for row in self.database.rows(query.order_by(products.c.name))}

    def product_names(self, numbers: Collection[int]) -> list[str]:
        """Return the names of the products with these numbers."""
        query = select(products.c.name).where(products.c.id.in_(numbers))
        return [row.name for row in self.database.rows(query.order_by(products.c.name))]

    def free_name(self, name: str, who: str) -> str:
        """Rename a removed product so that another may take its name; return the new name.

        The new name has the date of the renaming. The records of the product stay with it.

        Args:
            name: Name of the removed product.
            who: Person for whom the other product is added.
        """
        with self.database.writing() as connection:
            existing_names = set(connection.scalars(select(products.c.name)))
            today = iso(now())[:10]
            stem = f"{name[:40]}.removed-{today}"
            new_name = stem
            for number in count(2):  # the first free name of STEM, STEM-2, STEM-3 ...
                if new_name not in existing_names:
                    break
                new_name = f"{stem}-{number}"
            rename = update(products).where(products.c.name == name).values(name=new_name)
            product_id = connection.scalar(rename.returning(products.c.id))
            text = (
                f"another product takes the name {name}: the records of the one before are under {new_name}"
            )
            add_event(connection, REMOVED_EVENT, who, text, product_id)
        return new_name

    def totals(self, product_id: int) -> dict[str, int]:
        """Return a product's number of `inspections`, and the number of those `waiting` for a review."""
        inspected = self.counts(product_id)["inspected"]
        return {"inspections": inspected, "waiting": self.waiting_count(product_id)}

    def last_at(self, product_id: int) -> int | None:
        """Return the time of a product's last part on the line, microseconds since 1970; None: none came."""
        with self.database.reading() as connection:
            at = inspections.c.at
            query = select(at).where(on_line(product_id)).order_by(at.desc()).limit(1)
            last_time: int | None = connection.execute(query).scalar()
        return last_time

    def waiting_count(self, product_id: int) -> int:
        """Return the number of inspections that wait for a review, up to `MAX_WAITING`."""
        with self.database.reading() as connection:
            return _waiting_count(connection, product_id)

    def counts(self, product_id: int) -> Counter[str]:
        """Return the count of all inspections of a product for each name in `COUNTED`.

        The counts are read from the database only once; then each write updates the cached counts.
        """
        with self._counts_lock:
            cached = self._counts.get(product_id)
            if cached is not None:
                return cached.copy()
            finished_before = self._finished_writes
        counts = Counter(self.counts_since(product_id, 0))
        with self._counts_lock:
            # if something was written during the reading, nobody knows whether the counts contain it
            is_undisturbed = finished_before == self._finished_writes and not self._pending_writes
            if is_undisturbed:
                self._counts[product_id] = counts.copy()
        return counts

    def counts_since(self, product_id: int, since: int) -> dict[str, int]:
        """Return the count of inspections since a time for each name in `COUNTED`.

        Full hours are summed up from the table `hours`. Inspections before the first full hour are counted in
        the table `inspections`.

        Args:
            product_id: Number of the product.
            since: Time, microseconds since 1970.
        """
        first_full_hour = -(-since // HOUR)  # rounded up
        hour_sums = [func.coalesce(func.sum(hours.c[name]), 0) for name in COUNTED]
        in_full_hours = select(*hour_sums).where(
            hours.c.product_id == product_id, hours.c.hour >= first_full_hour
        )
        inspection = inspections.c
        is_anomalous = inspection.anomalous & ~inspection.tolerated
        # in the order of `COUNTED`
        conditions = (true(), is_anomalous, inspection.tolerated, inspection.unanswered.is_not(None))
        inspection_counts = [_count_where(condition) for condition in conditions]
        before_full_hours = select(*inspection_counts).where(
            on_line(product_id), inspection.at >= since, inspection.at < first_full_hour * HOUR
        )
        totals: Counter[str] = Counter()
        with self.database.reading() as connection:
            totals.update(_counts_by_name(connection, in_full_hours))  # a Counter adds the counts
            if since % HOUR:  # the time lies within an hour
                totals.update(_counts_by_name(connection, before_full_hours))
        return dict(totals)

    @contextmanager
    def _updated_counts(
        self, read_changes: Callable[[], Iterable[tuple[int, Mapping[str, int]]]]
    ) -> Iterator[None]:
        """Update the cached counts after a block that writes to the database, if the block succeeds.

        Args:
            read_changes: Function that is called after the block. It returns pairs of the number of a product
                and the changes of its counts, by name.
        """
        with self._counts_lock:
            self._pending_writes += 1
        changes: Iterable[tuple[int, Mapping[str, int]]] = ()
        try:
            yield
            changes = read_changes()
        finally:
            with self._counts_lock:
                self._pending_writes -= 1
                self._finished_writes += 1
                for product_id, change in changes:
                    cached = self._counts.get(product_id)
                    if cached is not None:
                        cached.update(change)  # a Counter adds the changes

    # ---- inspections

    def record(self, new_inspections: Sequence[NewInspection]) -> list[tuple[int, bool]]:
        """Write inspections, all or none.

        Returns:
            For each inspection, its number and whether it is new. If its key was recorded already, it is not
            new, and the number is that of the earlier inspection.
        """
        results: list[tuple[int, bool]] = []  # filled below; `changed_counts` reads it after the block

        def changed_counts() -> Iterator[tuple[int, Mapping[str, int]]]:
            for inspection, (_, is_new) in zip(new_inspections, results, strict=True):
                if is_new and inspection.purpose == PRODUCTION:
                    yield inspection.product_id, _counts_of(inspection)

        with self._updated_counts(changed_counts), self.database.writing() as connection:
            results += insert_inspections(connection, new_inspections)
        return results

    def find_recorded(self, new_inspections: Sequence[NewInspection]) -> list[int | None]:
        """Find out which inspections were recorded, after the answer to a COMMIT was lost.

        An inspection is recognised by product, time, picture, source and key. The cached counts of its
        product are dropped, because they may lack the inspection.

        Returns:
            For each inspection its number; None: it was not recorded.
        """
        numbers = list[int | None]()
        with self.database.reading() as connection:
            for inspection in new_inspections:
                query = select(inspections.c.id).where(
                    inspections.c.product_id == inspection.product_id,
                    inspections.c.at == inspection.at,
                    inspections.c.picture == inspection.picture,
                    inspections.c.source == inspection.source,
                    inspections.c.key.is_not_distinct_from(inspection.key),
                )
                numbers.append(connection.execute(query.limit(1)).scalar_one_or_none())
        with self._counts_lock:
            self._finished_writes += 1  # `counts` then does not cache what it is reading
            for inspection in new_inspections:
                self._counts.pop(inspection.product_id, None)
        return numbers

    def known_files(self, product_id: int, keys: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Return a dictionary: recorded key of a file -> number of its inspection, and hash of its picture.

        The key stays recorded when the inspection is removed. If the file was given up, there is no
        inspection, and the number is `GIVEN_UP`.

        Args:
            product_id: Number of the product or entry.
            keys: Keys of files; a key that is not recorded is missing in the result.
        """
        removed_rows = find_file_keys(self.database, product_id, removed_files.c.key.in_(keys))
        view_query = select(views.c.key, views.c.inspection_id, views.c.picture)
        view_query = view_query.where(is_at_address(product_id, views.c.product_id), views.c.key.in_(keys))
        view_rows = self.database.rows(view_query)
        recorded_by_key: dict[str, tuple[int, str]] = {}
        for row in (*removed_rows, *view_rows):
            recorded_by_key[str(row.key)] = int(row.inspection_id), str(row.picture)
        # an inspection counts only where no view and no removed file has its key
        for inspection in self.find_by_keys(product_id, keys):
            recorded_by_key.setdefault(str(inspection.key), (int(inspection.id), str(inspection.picture)))
        return recorded_by_key

    def find_by_keys(self, product_id: int, keys: Sequence[str]) -> Sequence[KeyedInspectionRow]:
        """Return the inspections under these keys, each with the hash of its request.

        Args:
            product_id: Number of the product or entry.
            keys: Keys as they are stored.
        """
        inspection = inspections.c
        query = select(
            inspection.id, inspection.key, inspection.picture, inspection.source, inspection.request_hash
        )
        return self.database.rows(query.where(is_at_address(product_id), inspection.key.in_(keys)))

    def find_answers(self, product_id: int, request: KeyedRequest) -> dict[int, int]:
        """Return the inspections that were recorded when the same request came before.

        Args:
            product_id: Number of the product or entry.
            request: Request under a key.

        Returns:
            Position of the part in the request -> number of its inspection.

        Raises:
            KeyUsedError: the key names another request.
        """
        # not only `request.keys`: another request under the sender's key may have had another number of parts
        rows = self.find_by_keys(product_id, request.possible_keys())
        row_by_key = {str(row.key): row for row in rows}
        for row in row_by_key.values():
            if row.request_hash != request.hash:
                raise KeyUsedError(f"request, inspection {row.id}")
        return {
            position: int(row_by_key[key].id)
            for position, key in enumerate(request.keys)
            if key in row_by_key
        }

    def inspection(self, product_id: int, number: int) -> InspectionFacts:
        """Return an inspection as the API shows it.

        Args:
            product_id: Number of the product or entry.
            number: Number of the inspection.

        Raises:
            NotFoundError: there is no such inspection.
        """
        query = inspection_query().where(is_at_address(product_id), inspections.c.id == number)
        with self.database.reading() as connection:
            matches = describe_inspections(connection, connection.execute(query).all())
        if not matches:
            raise NotFoundError(f"there is no inspection {number}")
        (match,) = matches
        return match

    def inspections_by_number(self, product_id: int, numbers: Collection[int]) -> dict[int, InspectionFacts]:
        """Return inspections as the API shows them, by number; numbers without an inspection are left out."""
        query = inspection_query().where(
            inspections.c.product_id == product_id, inspections.c.id.in_(numbers)
        )
        with self.database.reading() as connection:
            matches = describe_inspections(connection, connection.execute(query).all())
        return {inspection["id"]: inspection for inspection in matches}

    def waiting(
        self, product_id: int, limit: int, after: int = 0, without: Sequence[int] = ()
    ) -> WaitingInspections:
        """Return the oldest inspections that wait for a review, and the number of all that wait.

        Args:
            product_id: Number of the product.
            limit: Largest number of inspections.
            after: Number of an inspection; only later ones are returned. 0: begin with the oldest.
            without: Numbers of inspections to leave out.
        """
        query = inspection_query().where(inspections.c.product_id == product_id, IS_WAITING)
        query = query.where(inspections.c.id > after, inspections.c.id.not_in(without))
        query = query.order_by(inspections.c.id).limit(limit)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
            waiting_count = _waiting_count(connection, product_id)
            return {"inspections": describe_inspections(connection, rows), "waiting": waiting_count}

    def last_defective(self, product_id: int) -> InspectionFacts | None:
        """Return the last part that the model called anomalous and that no person called good.

        Returns:
            The inspection as the API shows it; None: there is no such part among the latest `MAX_FLAGGED`
            parts that the model called anomalous.
        """
        inspection = inspections.c
        flagged = select(inspection.id, inspection.verdict).where(on_line(product_id), inspection.anomalous)
        latest = (
            flagged.where(~inspection.tolerated).order_by(inspection.id.desc()).limit(MAX_FLAGGED).subquery()
        )
        is_false_alarm = func.coalesce(latest.c.verdict, "") == GOOD
        with self.database.reading() as connection:
            number = connection.scalar(select(func.max(latest.c.id)).where(~is_false_alarm))
        return None if number is None else self.inspection(product_id, number)

    def has_picture(self, picture: str) -> bool:
        """Return whether the station has recorded the picture with this hash."""
        query = select(pictures.c.hash).where(pictures.c.hash == picture)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def picture(self, product_id: int, number: int, view: str | None = None) -> PictureRecord:
        """Return the picture of an inspection.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            view: View of the part; None: the picture of the inspection itself.

        Raises:
            NotFoundError: there is no such inspection or view.
        """
        # the columns in the order of the fields of `PictureRecord`
        picture_columns = select(pictures.c.hash, pictures.c.suffix, pictures.c.removed_at)
        if view is None:
            query = picture_columns.add_columns(
                inspections.c.name, inspections.c.version_id, inspections.c.tolerated, inspections.c.view
            )
            query = query.join_from(inspections, pictures)
        else:
            query = picture_columns.add_columns(
                views.c.name, inspections.c.version_id, views.c.tolerated, views.c.view
            )
            query = query.select_from(views.join(inspections).join(pictures, _is_about_picture(views)))
            query = query.where(views.c.view == view)
        row = self.database.row(
            query.where(inspections.c.product_id == product_id, inspections.c.id == number)
        )
        if row is None:
            view_words = "" if view is None else f" with a view {view:.60}"
            raise NotFoundError(f"there is no inspection {number}{view_words}")
        return PictureRecord(*tuple(row))

    def set_unanswered(self, number: int, why: str | None) -> None:
        """Record whether the sender of an inspection got the answer.

        If the inspection is not of the production, nothing is changed.

        Args:
            number: Number of the inspection.
            why: Reason, of `schema.UNANSWERED`, why the sender did not get the answer; None: the sender got
                it.
        """
        changes_by_product = dict[int, dict[str, int]]()  # filled below, and read after the block
        with self._updated_counts(changes_by_product.items), self.database.writing() as connection:
            query = select(inspections).where(inspections.c.id == number).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None or row.unanswered == why or row.purpose != PRODUCTION:
                return
            connection.execute(update(inspections).where(inspections.c.id == number).values(unanswered=why))
            change = int(why is not None) - int(row.unanswered is not None)  # -1, 0 or 1
            new_count = hours.c.unanswered + change
            connection.execute(update(hours).where(_is_hour_of(row)).values(unanswered=new_count))
            changes_by_product[row.product_id] = {"unanswered": change}

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
        """Record a person's verdict on an inspection; the verdict `undo` takes the last one back.

        Args:
            product_id: Number of the product.
            number: Number of the inspection.
            verdict: Verdict: good, defect, skip or undo.
            who: Person who gives the verdict.
            mask: SHA-256 of the file that holds the mask.
            note: Note of the person.
            key: Key from the sender, under which the verdict is recorded once; None: the sender gave no key.
            kind: Kind of the defect, as the person names it; "": not named.
            replaces: Number of the verdict that the person saw, and wants to replace; 0: the person saw no
                verdict; None: only a verdict of the same person may be replaced.

        Returns:
            The inspection as the API shows it.

        Raises:
            NotFoundError: there is no such inspection.
            DecidedError: the present verdict is not the one that the person may replace.
            KeyUsedError: the key was used for another verdict.
            InputError: verdict, note or kind is invalid; or there is no verdict to take back; or the
                inspection is a challenge or a trial.
        """
        content = _verdict_columns(verdict, mask, note, kind)
        with self._verdict_lock, self.database.writing() as connection:
            query = select(inspections).filter_by(product_id=product_id, id=number).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFoundError(f"there is no inspection {number}")
            if row.purpose != PRODUCTION:
                raise InputError(f"inspection {number} {_NO_VERDICT[row.purpose]}")
            is_repeated = key is not None and _is_recorded(connection, number, key, content)
            if not is_repeated:
                last_verdict = last_verdicts(connection, [number]).get(number)
                if verdict == UNDO and last_verdict is None:
                    raise InputError(f"inspection {number} has no verdict to take back")
                _check_replaced(number, last_verdict, who, verdict, replaces)
                values = {
                    **content,
                    "inspection_id": number,
                    "product_id": product_id,
                    "at": now(),
                    "who": who,
                    "key": key,
                }
                connection.execute(verdicts.insert().values(values))
                text = f"{verdict} on inspection {number}{_replaced_text(verdict, last_verdict)}"
                add_event(connection, VERDICT_EVENT, who, text, product_id)
                _apply_verdicts(connection, row)
            rows = connection.execute(inspection_query().where(inspections.c.id == number)).all()
            (inspection,) = describe_inspections(connection, rows)
            return inspection

    def mask_hash(self, number: int) -> str | None:
        """Return the SHA-256 of the mask of an inspection's last verdict; None: there is no mask."""
        with self.database.reading() as connection:
            last_verdict = last_verdicts(connection, [number]).get(number)
        return None if last_verdict is None else last_verdict.mask

    # ---- events

    def note_event(self, kind: str, who: str, text: str, product_id: int | None = None) -> None:
        """Record an event, as `add_event` does, in a transaction of its own."""
        self.note_events(kind, who, [text], product_id)

    def note_events(self, kind: str, who: str, texts: Sequence[str], product_id: int | None = None) -> None:
        """Record an event for each text, `MAX_EVENTS` in a transaction."""
        for start in range(0, len(texts), MAX_EVENTS):
            with self.database.writing() as connection:
                for text in texts[start : start + MAX_EVENTS]:
                    add_event(connection, kind, who, text, product_id)

    def note_new_events(self, kind: str, who: str, texts: Sequence[str], product_id: int) -> None:
        """Record an event for each text that no event of this kind and product has yet.

        The existing texts are read before the transaction, so that other threads can write meanwhile.
        """
        for start in range(0, len(texts), MAX_EVENTS):
            batch = texts[start : start + MAX_EVENTS]
            query = select(events.c.text).where(
                events.c.kind == kind, events.c.product_id == product_id, events.c.text.in_(batch)
            )
            with self.database.reading() as connection:
                existing_texts = set(connection.execute(query).scalars())
            # `fromkeys` leaves each text once
            new_texts = [text for text in dict.fromkeys(batch) if text not in existing_texts]
            self.note_events(kind, who, new_texts, product_id)

    def events(self, kind: str, product_id: int | None = None) -> Sequence[EventRow]:
        """Return the latest `MAX_EVENTS` events of a kind and product, the latest first.

        Args:
            kind: Kind of the events.
            product_id: Number of the product; None: events of the station itself.
        """
        query = select(events).where(events.c.kind == kind, events.c.product_id == product_id)
        return self.database.rows(query.order_by(events.c.id.desc()).limit(MAX_EVENTS))


def _count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Return the SQL expression for the number of rows that meet a condition."""
    one_or_zero = case((condition, 1), else_=0)
    return func.coalesce(func.sum(one_or_zero), 0)


def _counts_by_name(connection: Connection, query: Executable) -> dict[str, int]:
    """Return the only row of a query as a dictionary; its columns are those of `COUNTED`, in this order."""
    row = connection.execute(query).one()
    return {name: int(count) for name, count in zip(COUNTED, row, strict=True)}


def _is_hour_of(row: InspectionRow) -> ColumnElement[bool]:
    """Return the SQL condition that a row of `hours` is the one in which an inspection counts."""
    is_of_version = (hours.c.product_id == row.product_id) & (hours.c.version_id == row.version_id)
    return is_of_version & (hours.c.hour == row.at // HOUR)


def _waiting_count(connection: Connection, product_id: int) -> int:
    """Return the number of inspections that wait for a review, up to `MAX_WAITING`."""
    waiting = select(inspections.c.id).where(inspections.c.product_id == product_id, IS_WAITING)
    query = select(func.count()).select_from(waiting.limit(MAX_WAITING).subquery())
    return int(connection.execute(query).scalar_one())


def _counts_of(inspection: NewInspection) -> dict[str, int]:
    """Return what a new inspection adds to `Store.counts`, by name."""
    is_anomalous = inspection.decision == ANOMALOUS
    is_within = inspection.decision == WITHIN
    counts = (1, is_anomalous, is_within, inspection.unanswered is not None)  # in the order of `COUNTED`
    return {name: int(count) for name, count in zip(COUNTED, counts, strict=True)}


def add_event(
    connection: Connection,
    kind: str,
    who: str,
    text: str,
    product_id: int | None = None,
    *,
    address: str | None = None,
) -> None:
    """Record an event in a transaction, which also makes the change that the event is about.

    Args:
        connection: Connection of the transaction.
        kind: Kind of the event.
        who: Person who caused it.
        text: Text of the event.
        product_id: Number of the product; None: the event is about the station.
        address: IP address of the person; None: that of the current request, if there is one.
    """
    sender_address = address or SENDER_ADDRESS.get()
    if sender_address is not None:
        sender_address = sender_address[:MAX_ADDRESS_LENGTH]
    row = {"at": now(), "kind": kind, "who": who, "text": text, "product_id": product_id}
    connection.execute(events.insert().values(**row, address=sender_address))


# --------------------------------------------------------------------------------------------------- verdicts


def _verdict_columns(verdict: str, mask: str | None, note: str, kind: str) -> dict[str, str | None]:
    """Check a person's verdict, note and kind of defect; return their columns in `verdicts`.

    Control characters in the note are removed, except for line breaks.

    Raises:
        InputError: verdict, note or kind is invalid.
    """
    if verdict not in (GOOD, DEFECT, SKIP, UNDO):
        raise InputError(f"{verdict!r:.40} is not a verdict: good, defect, skip or undo")
    characters = [
        character for character in note if character == "\n" or not _is_control_character(character)
    ]
    if len(characters) > MAX_NOTE_LENGTH:
        raise InputError(f"the note has {len(characters)} characters; {MAX_NOTE_LENGTH} at most")
    kind_name = kind.strip()
    if kind_name:
        _check_kind(kind_name, verdict)
    return {"verdict": verdict, "mask": mask, "note": "".join(characters), "kind": kind_name or None}


def _is_control_character(character: str) -> bool:
    """Return whether a character is in a category C of Unicode, such as control, format or unassigned."""
    return unicodedata.category(character).startswith("C")


def _check_kind(kind: str, verdict: str) -> None:
    """Raise InputError if the kind of a defect cannot be a name, or if the verdict is not "defect"."""
    if len(kind) > MAX_KIND_LENGTH or not kind.isprintable():
        raise InputError(f"kind={kind!r:.60} has not 1 to {MAX_KIND_LENGTH} characters that can be printed")
    if verdict != DEFECT:
        raise InputError(f"kind={kind!r:.60} is of a defect: leave it out of the verdict {verdict}")


def _check_replaced(
    number: int, last_verdict: VerdictRow | None, who: str, verdict: str, replaces: int | None
) -> None:
    """Raise DecidedError if a person would replace a verdict that this person has not seen.

    A skip decides nothing: it may always be replaced. The caller holds a lock on the inspection. Of two
    verdicts at the same moment, the second therefore sees the first.

    Args:
        number: Number of the inspection.
        last_verdict: Last verdict; None: there is none.
        who: Person who gives the new verdict.
        verdict: New verdict.
        replaces: Number of the verdict that the person has seen; 0: the person has seen none; None: not
            known. If it is not known, the new verdict must be equal to the last one, or the last one must be
            by the same person.
    """
    present_verdict = None if last_verdict is None or last_verdict.verdict == SKIP else last_verdict
    if replaces is None:
        is_expected = (
            present_verdict is None or present_verdict.who == who or present_verdict.verdict == verdict
        )
    else:
        present_id = 0 if present_verdict is None else present_verdict.id
        is_expected = replaces == present_id
    if not is_expected:
        raise DecidedError(number, present_verdict)


def _replaced_text(verdict: str, last_verdict: VerdictRow | None) -> str:
    """Return the words of an event about the last verdict, replaced or taken back; "": there is none."""
    if last_verdict is None:
        return ""
    action = "takes back" if verdict == UNDO else "replaces"
    return f", {action} {last_verdict.verdict} by {last_verdict.who}"


def _is_recorded(connection: Connection, number: int, key: str, content: Mapping[str, str | None]) -> bool:
    """Return whether a verdict with this content is recorded under a key.

    Args:
        connection: Connection of the transaction.
        number: Number of the inspection.
        key: Key from the sender.
        content: Columns from `_verdict_columns`.

    Raises:
        KeyUsedError: another verdict is recorded under the key.
    """
    query = select(verdicts).where(verdicts.c.inspection_id == number, verdicts.c.key == key)
    recorded = connection.execute(query).one_or_none()
    if recorded is None:
        return False
    recorded_content = {name: recorded._mapping[name] for name in content}
    if recorded_content != content:
        raise KeyUsedError(f"verdict on inspection {number}, {recorded.verdict}")
    return True


def _chunks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the numbers in parts of `MAX_IDS_PER_QUERY` at most."""
    for start in range(0, len(numbers), MAX_IDS_PER_QUERY):
        yield numbers[start : start + MAX_IDS_PER_QUERY]


def verdict_stacks(
    connection: Connection, numbers: Sequence[int] | Select[tuple[object, ...]]
) -> dict[int, list[VerdictRow]]:
    """Return a dictionary: number of an inspection -> its verdicts, the oldest first.

    A verdict `undo` removes the verdict before it, and is left out itself. Inspections of which no verdict
    remains are left out.

    Args:
        connection: Connection to the database.
        numbers: Numbers of the inspections, or a query that returns the numbers.
    """
    stack_by_number: dict[int, list[VerdictRow]] = defaultdict(list)
    chunks = [select(numbers.subquery())] if isinstance(numbers, Select) else _chunks(numbers)
    for chunk in chunks:
        query = select(verdicts).where(verdicts.c.inspection_id.in_(chunk))
        rows = connection.execute(query).all()
        for row in sorted(rows, key=attrgetter("id")):
            if row.verdict != UNDO:
                stack_by_number[row.inspection_id].append(row)
            elif stack_by_number[row.inspection_id]:
                stack_by_number[row.inspection_id].pop()
    return {number: stack for number, stack in stack_by_number.items() if stack}


def last_verdicts(connection: Connection, numbers: Sequence[int]) -> dict[int, VerdictRow]:
    """Return number -> last verdict that was not taken back, for the inspections that have such a verdict."""
    return {number: stack[-1] for number, stack in verdict_stacks(connection, numbers).items()}


def _apply_verdicts(connection: Connection, old_row: InspectionRow) -> None:
    """Update an inspection, and the counts of its hour, after its last verdict has changed.

    Args:
        connection: Connection of the transaction.
        old_row: Row of the inspection before the update.
    """
    last_verdict = last_verdicts(connection, [old_row.id]).get(old_row.id)
    verdict = None if last_verdict is None or last_verdict.verdict == SKIP else last_verdict.verdict
    if last_verdict is None:
        review = review_state(old_row)
    else:
        review = SKIPPED if last_verdict.verdict == SKIP else DONE
    values = {
        "verdict": verdict,
        "review": review,
        "kind": None if last_verdict is None else last_verdict.kind,
    }
    connection.execute(update(inspections).where(inspections.c.id == old_row.id).values(values))
    decision = decision_of(old_row)
    old_counts = _verdict_counts(decision, old_row.verdict)
    new_counts = _verdict_counts(decision, verdict)
    new_hour_values = {name: hours.c[name] + new_counts[name] - old_counts[name] for name in old_counts}
    connection.execute(update(hours).where(_is_hour_of(old_row)).values(new_hour_values))


def _verdict_counts(decision: str, verdict: str | None) -> dict[str, int]:
    """Return the counts that an inspection with this decision and verdict adds to the columns of its hour."""
    return {
        "reviewed": int(verdict is not None),
        "defects": int(verdict == DEFECT),
        "false_alarms": int(decision == ANOMALOUS and verdict == GOOD),
        "misses": int(decision != ANOMALOUS and verdict == DEFECT),
    }


# --------------------------------------------------------------------------------------- inspections as JSON


def inspection_query() -> Select[tuple[object, ...]]:
    """Return a query of the columns that `describe_inspections` needs."""
    columns = (
        inspections,
        pictures.c.width,
        pictures.c.height,
        pictures.c.removed_at,
        products.c.name.label("product"),
    )
    joined = inspections.join(pictures).join(products, products.c.id == inspections.c.product_id)
    return select(*columns).select_from(joined)


def _is_about_picture(table: Table) -> ColumnElement[bool]:
    """Return the SQL condition that joins a table, such as `views`, to its row of `pictures`."""
    return (pictures.c.product_id == table.c.product_id) & (pictures.c.hash == table.c.picture)


def describe_new(number: int, inspection: NewInspection, product: str) -> InspectionFacts:
    """Return an inspection that was just recorded, as the API shows it.

    Args:
        number: Number of the inspection.
        inspection: Inspection as it was recorded.
        product: Name of the product.
    """
    columns = {field.name: getattr(inspection, field.name) for field in fields(inspection)}
    columns |= inspection_columns(inspection)
    columns |= {"id": number, "product": product, "removed_at": None, "verdict": None, "kind": None}
    # stands for the row that `inspection_query` would return
    row: ShownInspectionRow = SimpleNamespace(**columns)
    view_facts = [_describe_view(view, view.record, view.picture) for view in inspection.views]
    return _describe(row, inspection.record, last_verdict=None, view_facts=view_facts)


def describe_inspections(connection: Connection, rows: Sequence[ShownInspectionRow]) -> list[InspectionFacts]:
    """Return inspections as the API shows them, from rows of `inspection_query` and in the same order."""
    reviewed_ids = [row.id for row in rows if row.review in (DONE, SKIPPED)]
    verdict_by_id = last_verdicts(connection, reviewed_ids)
    ids_with_views = [row.id for row in rows if row.view is not None]
    views_by_id: dict[int, list[ViewFacts]] = defaultdict(list)
    for view in find_views(connection, ids_with_views):
        picture = None if view.removed_at else view.picture
        views_by_id[view.inspection_id].append(_describe_view(view, json.loads(view.record), picture))
    return [
        _describe(row, json.loads(row.record), verdict_by_id.get(row.id), views_by_id[row.id]) for row in rows
    ]


def find_views(connection: Connection, numbers: Sequence[int]) -> list[ViewRow]:
    """Return the views of the inspections with these numbers, each row with columns of its picture."""
    picture_columns = [pictures.c[name] for name in ("suffix", "width", "height", "removed_at", "pixels")]
    query = select(views, *picture_columns).select_from(views.join(pictures, _is_about_picture(views)))
    query = query.order_by(views.c.inspection_id, views.c.place)
    rows: list[ViewRow] = []
    for chunk in _chunks(numbers):
        rows += connection.execute(query.where(views.c.inspection_id.in_(chunk)))
    return rows


_VIEW_FIELDS = ("view", "name", "width", "height", "score", "p_value", "severity", "score_threshold")


def _describe_view(row: DecisionRow, record: Mapping[str, object], picture: str | None) -> ViewFacts:
    """Return a view as the API shows it: the fields of `SeenView`, and all facts of its record.

    Args:
        row: View with the fields `_VIEW_FIELDS`.
        record: Recorded facts without a column of their own, by name.
        picture: SHA-256 of the picture; None: it was removed.
    """
    facts: dict[str, object] = {"regions": [], "findings": [], **record}
    for name in _VIEW_FIELDS:
        facts[name] = getattr(row, name)
    facts["decision"] = decision_of(row)
    facts["picture"] = picture
    return cast(ViewFacts, facts)


def _describe(
    row: ShownInspectionRow,
    record: Mapping[str, object],
    last_verdict: VerdictRow | None,
    view_facts: list[ViewFacts],
) -> InspectionFacts:
    """Return an inspection as the API shows it: the fields of `Inspection`, and all facts of its record.

    Args:
        row: Row of the inspection.
        record: Recorded facts without a column of their own, by name.
        last_verdict: Last verdict that was not taken back; None: there is none.
        view_facts: Views of the part, from `_describe_view`.
    """
    computed: dict[str, object] = {
        "views": view_facts,
        "version": row.version_id,
        "at": iso(row.at),
        "picture": None if row.removed_at else row.picture,
        "decision": decision_of(row),
        "near": bool(row.near),
        "note": "" if last_verdict is None else last_verdict.note,
        "has_mask": last_verdict is not None and bool(last_verdict.mask),
    }
    computed |= _describe_verdict(last_verdict if row.verdict else None)  # `row.verdict` is None after a skip
    # fields with a column of the same name
    columns = {name: getattr(row, name) for name in _DEFAULTS if name not in computed and hasattr(row, name)}
    columns |= {name: getattr(row, name) for name in _FURTHER_FACTS if name not in record}
    # if a name is in several of these dictionaries, its value in the last one counts
    return cast(InspectionFacts, {**_DEFAULTS, **record, **columns, **computed})


def _describe_verdict(verdict: VerdictRow | None) -> dict[str, object]:
    """Return the fields of `Inspection` about its verdict.

    Args:
        verdict: Verdict; None: the inspection has no verdict, or was skipped.
    """
    if verdict is None:
        return {"verdict_id": None, "verdict_at": None, "verdict_by": None}
    return {"verdict_id": verdict.id, "verdict_at": iso(verdict.at), "verdict_by": verdict.who}
