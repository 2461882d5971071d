"""Model versions: files that are kept unchanged, with one active version for each product.

`addresses` explains entries and joint models.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NotRequired, TypedDict, cast

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, or_, select, update

from flawscope.artefact import ModelFacts, files, rates
from flawscope.errors import InputError
from flawscope.predictor import router
from flawscope_station.store.database import Database, now, upsert
from flawscope_station.store.files import MODELS, Files, write_error
from flawscope_station.store.insert import add_product, lock_products
from flawscope_station.store.open_models import AddressModel, Model, OpenModels, ProductModel
from flawscope_station.store.records import REMOVED_EVENT, NotFoundError, add_event, iso
from flawscope_station.store.rows import CalledVersionRow, VersionRow
from flawscope_station.store.schema import (
    ACTIVE,
    IS_ACTIVE,
    IS_CHALLENGE,
    IS_KEPT,
    IS_TRIAL,
    MAKING,
    READY,
    REMOVED,
    RETIRED,
    active_version,
    challenges,
    events,
    hours,
    inspections,
    jobs,
    learnt,
    learnt_pixels,
    products,
    versions,
)

# events
VERSION_ADDED = "version added"
VERSION_ACTIVATED = "version activated"
QUESTION_ACCEPTED = "question accepted"  # event: a version without it was made
MAX_REMOVED = 1000  # rows of removed versions of a product that are kept
IS_THERE = versions.c.state.in_([READY, ACTIVE, RETIRED])  # condition: whoever asks for versions sees these
DRAFT = "draft"  # fact of a version that a draft of a new product went live as
RATE_OF = "rate_of"  # fact of a version that differs from another one, which this names, by its rate alone


class Switch(TypedDict):
    """Activation of a version, with its time and person."""

    at: str
    by: str


class VersionFacts(TypedDict):
    """Version as the API shows it: the fields that the station reads.

    Further fields are facts of its model; the version of an entry has none of these.

    Attributes:
        rate_of: Number of the version that it differs from by its rate alone.
        product: Name of the product in its joint model.
    """

    id: int
    file: str
    hash: str
    origin: str
    created_at: str
    active: bool
    switches: list[Switch]
    method: NotRequired[str]
    score_threshold: NotRequired[float]
    false_alarm_rate: NotRequired[float | None]
    rate_of: NotRequired[int]
    product: NotRequired[str]


class VersionList(TypedDict):
    """Versions of a product, the newest first.

    Attributes:
        versions: All versions.
        active: Number of the version that judges; None: no version does.
    """

    versions: list[VersionFacts]
    active: int | None


class DraftMark(TypedDict):
    """Draft that went live as a version.

    Attributes:
        begun: Time at which the draft was begun, which tells it from a later draft of its name.
        by: Person who took it live.
        learnt: Time at which its learning was asked for.
    """

    begun: str | None
    by: str
    learnt: int | None


class MadeVersion(TypedDict):
    """Version that was made at the station, with the facts that are asked for."""

    id: int
    state: str
    draft: NotRequired[DraftMark]


class ModelRegistry:
    """Model versions of all products, and their open models.

    A version is `making` until its file is kept and its maker calls it ready; then `ready`, `active` while it
    judges, and `retired` after that. A version that never judged can be `removed`. Each step is a single
    statement that names the states which it may come from: the second of two steps at once finds nothing to
    change. An index allows a product one active version at most.

    Args:
        database: Database of the station.
        files: Files of the station.
        device: Device for open models.
        threads: Threads for open models; None: the default.
        engine: Engine for open models; None: the default.

    Attributes:
        joint_entries: Numbers of entries whose settings name a joint model.
        rates: False-alarm rates that the settings name, by product.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        device: str = "auto",
        threads: int | None = None,
        engine: str | None = None,
    ):
        self.database = database
        self.files = files
        self.device = device
        self.threads = threads
        self.engine = engine
        self.models = OpenModels()
        self._switch_lock = threading.Lock()  # rows and open models are switched together
        self._removed: set[int] = set()  # products that were removed since the start
        self.joint_entries: set[int] = set()  # entries whose settings name a joint model
        self.rates: dict[int, float] = {}  # false-alarm rates that the settings name, by product

    # ---- adding and removing

    def add(
        self,
        product_id: int,
        model: str | os.PathLike[str],
        origin: str,
        who: str,
        facts: Mapping[str, object] = MappingProxyType({}),
        *,
        is_ready: bool = True,
    ) -> int:
        """Keep a copy of a model file as a version; return its number. Identical files are the same version.

        Args:
            product_id: Number of the product.
            model: Path of the model file.
            origin: Where the file came from, for a person.
            who: Person who adds it.
            facts: Facts beside those of the file.
            is_ready: Whether it is ready at once; otherwise it is `making` until `make_ready`, or until the
                station ends.

        Raises:
            InputError: the file is no model of a single product, or damaged.
            StoreError: the copy cannot be kept.
        """
        with self._copy(Path(model), origin) as (copy, file):
            described = router.read_facts(copy)
            if described.is_joint:
                raise files.several_products_error(copy)
            known = {**_version_facts(described), **facts}
            with self.database.writing() as connection:
                number = self._insert(connection, product_id, file, known, described)
                kept = connection.scalar(select(versions.c.file).where(versions.c.id == number))
            self._keep(copy, {"file": str(kept)})  # that of a known version may have been lost
            if is_ready:
                with self.database.writing() as connection:
                    make_ready(connection, number, who)
            return number

    def remove_unfinished(self) -> None:
        """Remove the versions that were being made when the station ended."""
        query = select(versions.c.id, versions.c.product_id).where(versions.c.state == MAKING)
        for row in self.database.rows(query):
            self.remove(row.product_id, row.id)

    def add_at_rate(self, product_id: int, number: int, rate: float, who: str) -> int:
        """Keep a version's model at another false-alarm rate as a version; return the new number.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the version's good pictures do not support the rate, or it is of a joint model.
            StoreError: the new version cannot be kept.
        """
        row = self._row(product_id, number)
        facts = json.loads(row.facts)
        if is_of_joint_model(facts):
            raise InputError(
                f"version {number} is of a joint model, which has its rate from its fit: fit anew"
            )
        try:
            model = self.open(product_id, number)
            rates.check_rate(model.facts, rate)
        except InputError as error:
            raise InputError(f"version {number}: {error}") from None
        origin = f"version {number} at a false-alarm rate of {100 * rate:g} %"
        with self._saved(model.with_rate(rate), row.file) as path:
            return self.add(product_id, path, origin, who, {RATE_OF: facts.get(RATE_OF, number)})

    def _at_configured_rate(self, product_id: int, number: int) -> int:
        """Return the version, or a new one at the rate of the settings; may raise as `add_at_rate` does."""
        rate = self.rates.get(product_id)
        if rate is None or router.read_facts(self.path(product_id, number)).rate == rate:
            return number
        return self.add_at_rate(product_id, number, rate, "station")

    def add_joint(
        self, entry_id: int, model: str | os.PathLike[str], names: Mapping[str, str], origin: str, who: str
    ) -> dict[int, int]:
        """Keep a copy of a joint model as a version of its entry and of each of its products.

        The products become the entry's. Errors are those of `add`.

        Args:
            entry_id: Number of the entry.
            model: Path of the model file.
            names: Names of the products at the station, by their names in the model.
            origin: Where the file came from, for a person.
            who: Person who adds it.

        Returns:
            The numbers of the versions, by product and entry.
        """
        with self._copy(Path(model), origin) as (copy, file):
            manifests = router.read_facts(copy).manifests
            if not names.keys() >= manifests.keys():
                raise InputError(f"{model} was replaced while it was read: add it again")
            self._keep(copy, file)
            with self.database.writing() as connection:
                self._lock_all(connection, [entry_id])
                facts: Mapping[str, object] = {"products": [*names.values()]}
                found = {entry_id: self._insert(connection, entry_id, file, facts)}
                for name, manifest in manifests.items():
                    number = add_product(connection, names[name], entry_id)
                    joint = ModelFacts.of(manifest)
                    facts = {**_version_facts(joint), "product": name}
                    found[number] = self._insert(connection, number, file, facts, joint)
                for version in found.values():
                    make_ready(connection, version, who)
        return found

    def _lock_all(self, connection: Connection, ids: Sequence[int]) -> None:
        """Lock products, and the products of entries among them, in the order of `insert_inspections`."""
        is_affected = or_(products.c.id.in_(ids), products.c.entry_id.in_(ids))
        lock_products(
            connection, connection.execute(select(products.c.id).where(is_affected)).scalars().all()
        )

    @contextmanager
    def _copy(self, path: Path, origin: str) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield a copy of a model file, which stays until the block ends, and its columns in `versions`.

        Hash and copy come from the same read: the file may be replaced meanwhile.
        """
        with ExitStack() as stack:
            digest = self._hold(stack, files.file_sha256(path))
            copy = self.files.model_folder(digest) / path.name
            if not copy.exists():
                copy = self.files.temporary_path(path.name)
                stack.callback(self.files.remove_temporary, copy)
                digest = self._hold(stack, self.files.copy(path, copy))
            file = f"{MODELS}/{self.files.model_folder(digest).name}/{path.name}"
            try:
                yield copy, {"hash": digest, "file": file, "origin": origin}
            except InputError as error:
                raise InputError(str(error).replace(str(copy), str(path))) from None

    def _hold(self, stack: ExitStack, digest: str) -> str:
        self.files.hold(digest)
        stack.callback(self.files.release, digest)
        return digest

    def _keep(self, copy: Path, file: Mapping[str, str]) -> None:
        """Move a temporary copy to its place; a file that is there already stays."""
        kept = self.files.folder / file["file"]
        if copy != kept and not kept.exists():
            self.files.move(copy, kept)

    def _insert(
        self,
        connection: Connection,
        product_id: int,
        file: Mapping[str, str],
        facts: Mapping[str, object],
        model: ModelFacts | None = None,
    ) -> int:
        """Add a version in the state `making` unless the product has the same file; return its number."""
        values = {**file, "product_id": product_id, "facts": json.dumps(facts), "created_at": now()}
        values["state"] = MAKING
        new = upsert(connection.dialect.name, versions).values(values).on_conflict_do_nothing()
        number = connection.execute(new.returning(versions.c.id)).scalar_one_or_none()
        if number is None:
            existing = select(versions.c.id).filter_by(product_id=product_id, hash=file["hash"])
            return int(connection.execute(existing.where(IS_KEPT)).scalar_one())
        pixels = {picture.hash for picture in model.pictures} if model else ()
        if pixel_rows := [{"version_id": number, "pixels": digest} for digest in sorted(pixels)]:
            connection.execute(learnt_pixels.insert(), pixel_rows)
        return int(number)

    def removable(self, product_id: int) -> list[int]:
        """Return the ready versions that never judged, that nothing names, and that are of no joint model."""
        query = select(versions).where(versions.c.product_id == product_id, _is_removable())
        rows = self.database.rows(query.where(versions.c.state == READY).order_by(versions.c.id))
        return [row.id for row in rows if not _is_joint(row)]

    def remove(self, product_id: int, number: int, who: str = "station") -> bool:
        """Remove a version that never judged, and its file unless another version needs it.

        Returns:
            Whether it was removed; False where it judged, something names it, or it is of a joint model, and
                so a
            version of other products, too.
        """
        row = self.database.row(select(versions).where(versions.c.id == number))
        if row is None or _is_joint(row):
            return False
        is_version = versions.c.id == number, versions.c.product_id == product_id
        with self.database.writing() as connection:
            change = update(versions).where(*is_version, _is_removable()).values(state=REMOVED)
            if connection.execute(change).rowcount == 0:
                return False
            connection.execute(delete(learnt_pixels).where(learnt_pixels.c.version_id == number))
            add_event(connection, REMOVED_EVENT, who, f"version {number}, which was never used", product_id)
            _forget_removed(connection, product_id)

        def is_unused() -> bool:
            with self.database.reading() as connection:
                query = select(versions.c.id).where(versions.c.hash == row.hash, IS_KEPT)
                return connection.execute(query).first() is None

        self.files.discard(self.files.model_folder(row.hash), row.hash, is_unused)
        return True

    # ---- the active version

    def number(self, product_id: int) -> int:
        """Return the number of the version that judges a product.

        Raises:
            NoModelError: no model of the product is open.
        """
        return self.active(product_id)[0]

    def activate(self, product_id: int, number: int, who: str, *, goes_live: bool = False) -> None:
        """Open a version and let it judge from now on, also the pictures that wait.

        A version of a joint model judges for all products of the model; products of the entry that the model
        does not know have none.

        Args:
            product_id: Number of the product or entry.
            number: Number of the version.
            who: Person who activates it.
            goes_live: Also activate it where the product was removed, which becomes a product of the station
                again.

        Raises:
            NotFoundError: the product has no such version, or somebody removed a version meanwhile.
            InputError: the model cannot be opened; the version before goes on.
        """
        number = self._at_configured_rate(product_id, number)
        rows = self._same_file_rows(product_id, number)
        models = self._load_models(rows)
        with self._switch_lock:
            if product_id in self._removed and not goes_live:
                raise NotFoundError(f"the product was removed: version {number} was not activated")
            with self.database.writing() as connection:
                self._lock_all(connection, [*models])
                _activate(connection, models.keys(), [row.id for row in rows])
                for row in rows:
                    add_event(connection, VERSION_ACTIVATED, who, str(row.id), row.product_id)
            self.models.activate(models)
            self._removed.discard(product_id)

    def deactivate(self, product_id: int, who: str, why: str) -> None:
        """Let no version of a product judge until it goes live again; an event keeps the reason `why`."""
        with self._switch_lock:
            with self.database.writing() as connection:
                is_active = versions.c.product_id == product_id, IS_ACTIVE
                connection.execute(update(versions).where(*is_active).values(state=RETIRED))
                add_event(connection, REMOVED_EVENT, who, why, product_id)
            self.models.deactivate(product_id)
            self._removed.add(product_id)

    def accept_questions(self, product_id: int, number: int, who: str) -> int:
        """Accept the open questions of a version's fit, for a person.

        Errors are those of `activate`, and StoreError.

        Returns:
            The number of the version without questions: the version itself where it has none, else a new
                version of
            the same model.
        """
        rows = self._same_file_rows(product_id, number)
        model, asked = router.accept_questions(self._load_model(rows[0]))
        if not asked:
            return number
        facts = json.loads(rows[0].facts)
        origin = rows[0].origin
        same = {name: facts[name] for name in (RATE_OF, DRAFT) if name in facts}
        with self._saved(model, rows[0].file) as path:
            if model.facts.is_joint:
                rows_by_product = {json.loads(row.facts).get("product"): row for row in rows}
                entry_row = rows_by_product.pop(None)  # the entry's own row names no product
                called = {name: str(row.called) for name, row in rows_by_product.items()}
                new = self.add_joint(entry_row.product_id, path, called, origin, who)[product_id]
            else:
                new = self.add(product_id, path, origin, who, same)
        with self.database.writing() as connection:
            for line in asked:
                text = f"version {new}: accepted of version {number}: {line}"
                add_event(connection, QUESTION_ACCEPTED, who, text, product_id)
        return new

    @contextmanager
    def _saved(self, model: Model, file: str) -> Iterator[Path]:
        """Yield a temporary file of a model, with the name of a version's file.

        Raises:
            StoreError: it cannot be written.
        """
        temporary = self.files.temporary_path(Path(file).name)
        try:
            temporary.parent.mkdir()
            model.save(temporary)
            yield temporary
        except OSError as error:
            raise write_error(temporary, error) from None
        finally:
            self.files.remove_temporary(temporary)

    def resume(self, product_id: int) -> int | None:
        """Open the version that was active when the station ended; return its number, or None."""
        with self.database.reading() as connection:
            number = _active_number(connection, product_id)
        if number is not None:
            rows = self._same_file_rows(product_id, number)
            is_active = all(row.state == ACTIVE for row in rows)
            before = number
            number = self._at_configured_rate(product_id, number)
            if is_active and before == number:
                self.models.activate(self._load_models(rows))
            else:  # a product had a model of its own meanwhile, or the settings name another rate
                self.activate(product_id, number, "station")
        return number

    def active_facts(self, product_id: int) -> dict[str, object]:
        """Return the facts of the version that was active last; empty: there is none.

        An entry's version has `products`, the version of a joint model's product `product`.
        """
        row = self.active_row(product_id)
        return {} if row is None else dict(json.loads(row.facts))

    def active_row(self, product_id: int) -> VersionRow | None:
        """Return the row of the version that was active last; None: there is none."""
        return self.database.row(select(versions).where(versions.c.product_id == product_id, IS_ACTIVE))

    def active(self, product_id: int) -> tuple[int, Model]:
        """Return number and model of the version that judges a product.

        Raises:
            NoModelError: no model of the product is open.
        """
        (product,) = self.models.active[product_id].products.values()
        return product.number, product.model

    def open(self, product_id: int, number: int) -> Model:
        """Return the model of a version, opened unless it is open."""
        if (found := self.models.model_of_version(number)) is not None:
            return found
        row = self._row(product_id, number)
        model = self._load_model(row)
        return model.product(json.loads(row.facts)["product"]) if model.facts.is_joint else model

    def _same_file_rows(self, product_id: int, number: int) -> Sequence[CalledVersionRow]:
        """Return the versions that are activated together, each with its product's name as `called`.

        It is the version alone; of a joint model it is the entry's version and those of all its products.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the settings name a model of the other kind.
        """
        found = self._row(product_id, number)
        query = select(versions, products.c.name.label("called")).where(IS_THERE)
        query = query.join(products, products.c.id == versions.c.product_id)
        is_joint = _is_joint(found)
        with self.database.reading() as connection:
            entry = connection.scalar(select(products.c.entry_id).where(products.c.id == product_id))
            entry = product_id if product_id in self.joint_entries else entry
            if is_joint != (entry in self.joint_entries):
                kind, other = ("a joint model", "a model") if is_joint else ("a model", "a joint model")
                raise InputError(
                    f"version {number} is of {kind}, and the settings name {other} for this product: name "
                    "the version's file there"
                )
            if not is_joint:
                return connection.execute(query.where(versions.c.id == number)).all()
            is_affected = or_(products.c.id == entry, products.c.entry_id == entry)
            return connection.execute(query.where(versions.c.hash == found.hash, is_affected)).all()

    def _load_models(self, rows: Sequence[CalledVersionRow]) -> dict[int, AddressModel]:
        """Return the opened model of versions of the same file, by product, and by entry of a joint model."""
        model = self._load_model(rows[0])
        if not model.facts.is_joint:
            found = (ProductModel(row.product_id, row.id, model) for row in rows)
            return {joint.product_id: AddressModel.single(joint) for joint in found}
        products = {
            name: ProductModel(row.product_id, row.id, model.product(name), row.called)
            for row in rows
            if (name := json.loads(row.facts).get("product")) is not None
        }
        if missing := [name for name in model.products if name not in products]:
            raise InputError(f"{missing[0]} has another model at this station: leave it out of the joint one")
        alone = {opened.product_id: AddressModel.single(opened) for opened in products.values()}
        entries = (row.product_id for row in rows if row.product_id not in alone)
        return {**alone, **dict.fromkeys(entries, AddressModel(model, products))}

    def _load_model(self, row: VersionRow) -> Model:
        """Return the opened model of a version's file; versions of the same file share it."""
        path = self.files.folder / str(row.file)
        engine = self.engine_for(path)
        how = partial(router.load, path, engine=engine, device=self.device, threads=self.threads)
        return self.models.get_or_load(row.hash, how)

    def engine_for(self, path: Path) -> str | None:
        """Return the engine to open a model file with; None: the default."""
        return None if path.suffix.lower() == files.TRAINED_SUFFIX else self.engine

    def made_as(self, product_id: int, origin: str) -> list[MadeVersion]:
        """Return number, state and facts of a product's versions of this origin, the newest first."""
        is_made_there = versions.c.product_id == product_id, versions.c.origin == origin, IS_THERE
        rows = self.database.rows(select(versions).where(*is_made_there).order_by(versions.c.id.desc()))
        return [_describe_made(row) for row in rows]

    def note_draft(self, number: int, mark: DraftMark) -> None:
        """Record with a version which draft went live as it.

        Raises:
            StoreError: the database cannot be written.
        """
        is_version = versions.c.id == number
        with self.database.writing() as connection:
            facts = json.loads(connection.execute(select(versions.c.facts).where(is_version)).scalar_one())
            changed = json.dumps({**facts, DRAFT: dict(mark)})
            connection.execute(update(versions).where(is_version).values(facts=changed))

    # ---- facts for people

    def path(self, product_id: int, number: int) -> Path:
        """Return the path of a version's model file.

        Raises:
            NotFoundError: the product has no such version.
        """
        return self.files.folder / str(self._row(product_id, number).file)

    def list_versions(self, product_id: int) -> VersionList:
        """Return all versions of a product as the API shows them, the newest first."""
        with self.database.reading() as connection:
            rows = connection.execute(
                select(versions)
                .where(versions.c.product_id == product_id, IS_THERE)
                .order_by(versions.c.id.desc())
            ).all()
            switches = _activations(connection, product_id)
        listed = [_describe_version(row, switches.get(row.id, [])) for row in rows]
        active = next((int(row.id) for row in rows if row.state == ACTIVE), None)
        return {"versions": listed, "active": active}

    def version(self, product_id: int, number: int) -> VersionFacts:
        """Return a version as the API shows it.

        Raises:
            NotFoundError: the product has no such version.
        """
        row = self._row(product_id, number)
        with self.database.reading() as connection:
            switches = _activations(connection, product_id, number).get(number, [])
        return _describe_version(row, switches)

    def previous_version(self, product_id: int, active: int | None) -> int | None:
        """Return the number of the version that was active before `active`; None: there was none."""
        query = (
            select(events.c.text)
            .where(events.c.kind == VERSION_ACTIVATED, events.c.product_id == product_id)
            .where(events.c.text != str(active))
            .order_by(events.c.id.desc())
            .limit(1)
        )
        with self.database.reading() as connection:
            number = connection.execute(query).scalar_one_or_none()
        return None if number is None else int(number)

    def _row(self, product_id: int, number: int) -> VersionRow:
        is_version = versions.c.product_id == product_id, versions.c.id == number
        row = self.database.row(select(versions).where(*is_version, IS_THERE))
        if row is None:
            raise NotFoundError(f"there is no version {number} of this product")
        return row


def rate_root(connection: Connection, number: int) -> int:
    """Return the number in a version's `rate_of` fact, else the version's own number."""
    facts = connection.execute(select(versions.c.facts).where(versions.c.id == number)).scalar_one()
    return int(json.loads(facts).get(RATE_OF, number))


def _version_facts(model: ModelFacts) -> dict[str, object]:
    """Return facts of a model of a single product, as the API shows them.

    A product with a model for each view has no threshold of pictures: `score_threshold` and `spread` are
    None.
    """
    promise = rates.promise_of(model)
    manifests = list(model.manifests.values())
    only_calibration = manifests[0].calibration if len(manifests) == 1 else None
    return {
        "method": ", ".join(dict.fromkeys(manifest.method for manifest in manifests)),
        "category": ", ".join(dict.fromkeys(manifest.category for manifest in manifests)),
        "score_threshold": None if only_calibration is None else only_calibration.score_threshold,
        "spread": None if only_calibration is None else only_calibration.spread,
        "false_alarm_rate": promise.rate,
        "interval": [*promise.interval] if promise.is_made else None,
        "wanted_rate": model.rate,
        "promise": promise.text,
        "pictures": dict(Counter(picture.role for picture in model.pictures)),
        "size": list(max(manifest.preprocess.network_size for manifest in manifests)),
        "notes": list(dict.fromkeys(note for manifest in manifests for note in manifest.notes)),
        "program": manifests[0].versions.get("flawscope", ""),
    }


def make_ready(connection: Connection, number: int, who: str) -> None:
    """Change a version from `making` to `ready`; leave a version in another state unchanged."""
    change = update(versions).where(versions.c.id == number, versions.c.state == MAKING).values(state=READY)
    row = connection.execute(change.returning(versions.c.product_id, versions.c.origin)).one_or_none()
    if row is not None:
        add_event(connection, VERSION_ADDED, who, f"version {number} from {row.origin}", row.product_id)


def _activate(connection: Connection, product_ids: Collection[int], numbers: Sequence[int]) -> None:
    """Activate versions, and retire all other versions of their products and their entries' products.

    Raises:
        NotFoundError: a version was removed since its row was read.
    """
    products_of_entries = select(products.c.id).where(products.c.entry_id.in_(product_ids))
    is_affected = or_(versions.c.product_id.in_(product_ids), versions.c.product_id.in_(products_of_entries))
    # retire first: the index allows one active version at any moment, also within one UPDATE
    before = update(versions).where(is_affected, IS_ACTIVE, versions.c.id.not_in(numbers))
    connection.execute(before.values(state=RETIRED))
    to_activate = update(versions).where(versions.c.id.in_(numbers), IS_THERE)
    if connection.execute(to_activate.values(state=ACTIVE)).rowcount != len(numbers):
        raise NotFoundError(
            f"version {', '.join(map(str, numbers))} was removed while it was opened: choose another one"
        )


def _active_number(connection: Connection, product_id: int) -> int | None:
    number = connection.scalar(select(active_version(product_id)))
    return None if number is None else int(number)


def _is_removable() -> ColumnElement[bool]:
    """Return the condition of versions that never judged and that nothing names."""
    number = versions.c.id
    product_id = versions.c.product_id
    inspected = inspections.c.product_id == product_id, inspections.c.version_id == number
    uses = (
        exists().where(hours.c.product_id == product_id, hours.c.version_id == number),
        exists().where(*inspected, IS_CHALLENGE),
        # what was tried by hand counts in no hour; by an index of its own
        exists().where(inspections.c.version_id == number, IS_TRIAL),
        exists().where(challenges.c.product_id == product_id, challenges.c.version_id == number),
        exists().where(learnt.c.version_id == number),
        exists().where(jobs.c.product_id == product_id, jobs.c.start_version_id == number),
    )
    return and_(versions.c.state.in_([MAKING, READY]), ~or_(*uses))


def is_of_joint_model(facts: Mapping[str, object]) -> bool:
    """Return whether a version is of a joint model, by its facts.

    An entry's version has the facts `products`, a product's version `product`.
    """
    return "product" in facts or "products" in facts


def _is_joint(row: VersionRow) -> bool:
    return is_of_joint_model(json.loads(row.facts))


def _forget_removed(connection: Connection, product_id: int) -> None:
    """Remove the rows of the oldest removed versions; the newest stay, so that no number is given again."""
    is_removed = versions.c.product_id == product_id, versions.c.state == REMOVED
    kept = (
        select(versions.c.id).where(*is_removed).order_by(versions.c.id.desc()).offset(MAX_REMOVED).limit(1)
    )
    if (last := connection.scalar(kept)) is not None:
        is_named = exists().where(jobs.c.product_id == product_id, jobs.c.version_id == versions.c.id)
        connection.execute(delete(versions).where(*is_removed, versions.c.id <= last, ~is_named))


def _activations(
    connection: Connection, product_id: int, number: int | None = None
) -> dict[int, list[Switch]]:
    """Return time and person of each activation, by version.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        number: Number of the only version wanted; None: all.
    """
    query = select(events.c.text, events.c.at, events.c.who).where(
        events.c.kind == VERSION_ACTIVATED, events.c.product_id == product_id
    )
    if number is not None:
        query = query.where(events.c.text == str(number))
    found: dict[int, list[Switch]] = {}
    for text, at, who in connection.execute(query.order_by(events.c.id)):
        switch: Switch = {"at": iso(at), "by": who}
        found.setdefault(int(text), []).append(switch)
    return found


def _describe_version(row: VersionRow, switches: list[Switch]) -> VersionFacts:
    facts: dict[str, object] = {
        "id": row.id,
        "file": Path(row.file).name,
        "hash": row.hash,
        "origin": row.origin,
        "created_at": iso(row.created_at),
        "active": row.state == ACTIVE,
        "switches": switches,
        **json.loads(row.facts),
    }
    return cast(VersionFacts, facts)


def _describe_made(row: VersionRow) -> MadeVersion:
    facts: dict[str, object] = {**json.loads(row.facts), "id": row.id, "state": row.state}
    return cast(MadeVersion, facts)
