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

VERSION_ADDED = "version added"  # kind of an event
VERSION_ACTIVATED = "version activated"  # kind of an event
QUESTION_ACCEPTED = "question accepted"  # kind of an event: a version without the open question was made
MAX_REMOVED = 1000  # rows of removed versions that are kept for each product
IS_LISTED = versions.c.state.in_([READY, ACTIVE, RETIRED])  # condition: versions that people see
DRAFT = "draft"  # name of a fact: the draft of a new product that went live as the version
RATE_OF = "rate_of"  # name of a fact: number of the version from which it differs by its rate alone


class Switch(TypedDict):
    """Activation of a version, with its time and person."""

    at: str
    by: str


class VersionFacts(TypedDict):
    """Version as the API shows it: the fields that the station reads.

    Further fields are facts of its model; the version of an entry has no such facts.

    Attributes:
        id: Number of the version.
        file: Name of the model file.
        hash: SHA-256 of the model file.
        origin: Where the file came from, for a person.
        created_at: Time at which the version was added.
        active: Whether the version judges.
        switches: Activations, the oldest first.
        method: Method of the model.
        score_threshold: Threshold of the score.
        false_alarm_rate: Expected false-alarm rate; None: it is not known.
        rate_of: Number of the version from which it differs by its rate alone.
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
        begun: Time at which the draft was begun: a later draft of the same name has another.
        by: Person who took the draft live.
        learnt: Time at which somebody asked for its learning.
    """

    begun: str | None
    by: str
    learnt: int | None


class MadeVersion(TypedDict):
    """Version that was made at the station.

    Attributes:
        id: Number of the version.
        state: State of the version, as in `ModelRegistry`.
        draft: Draft that went live as the version.
    """

    id: int
    state: str
    draft: NotRequired[DraftMark]


class ModelRegistry:
    """Model versions of all products, and their open models.

    A version is `making` until its file is kept and its maker calls it ready; then `ready`, `active` while it
    judges, and `retired` after that. A version that never judged can be `removed`. Each change of state is a
    single statement, with the earlier state as its condition: of two changes at the same time, the second
    finds nothing to change. An index allows a product one active version at most.

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
        self._removed_ids: set[int] = set()  # products that were removed since the start
        self.joint_entries: set[int] = set()
        self.rates: dict[int, float] = {}

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
        """Keep a copy of a model file as a version; return the number of the version.

        If the product has a version of an identical file already, the number is that of this version.

        Args:
            product_id: Number of the product.
            model: Path of the model file.
            origin: Where the file came from, for a person.
            who: Person who adds it.
            facts: Facts to record of the version, beside those in the model file.
            is_ready: Whether the version is ready at once. If False, it stays `making` until `make_ready`; if
                the station ends before that, the version is removed at the next start.

        Raises:
            InputError: the file is no model of a single product, or damaged.
            StoreError: the copy cannot be kept.
        """
        with self._copy(Path(model), origin) as (copy, file_columns):
            model_facts = router.read_facts(copy)
            if model_facts.is_joint:
                raise files.several_products_error(copy)
            version_facts = {**_version_facts(model_facts), **facts}
            with self.database.writing() as connection:
                number = self._insert(connection, product_id, file_columns, version_facts, model_facts)
                recorded_file = connection.scalar(select(versions.c.file).where(versions.c.id == number))
            self._keep(copy, {"file": str(recorded_file)})  # an existing version may have lost its file
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
        """Add a copy of a version with another false-alarm rate; return the number of the new version.

        Args:
            product_id: Number of the product.
            number: Number of the version to copy.
            rate: False-alarm rate of the new version.
            who: Person who adds it.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the version has too few good pictures for the rate, or it is of a joint model.
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
        with self._temporary_file(model.with_rate(rate), row.file) as path:
            original_number = facts.get(RATE_OF, number)  # a copy of a copy names the first version
            return self.add(product_id, path, origin, who, {RATE_OF: original_number})

    def _version_at_configured_rate(self, product_id: int, number: int) -> int:
        """Return the number of a version that has the false-alarm rate of the settings.

        The given version is returned if it has this rate, or if the settings name no rate. Otherwise
        `add_at_rate` adds a version, and may raise its errors.
        """
        rate = self.rates.get(product_id)
        if rate is None:
            return number
        model_rate = router.read_facts(self.path(product_id, number)).rate
        if model_rate == rate:
            return number
        return self.add_at_rate(product_id, number, rate, who="station")

    def add_joint(
        self, entry_id: int, model: str | os.PathLike[str], names: Mapping[str, str], origin: str, who: str
    ) -> dict[int, int]:
        """Keep a copy of a joint model as a version of its entry and of each of its products.

        The model's products become products of the entry. Errors are those of `add`.

        Args:
            entry_id: Number of the entry.
            model: Path of the model file.
            names: Name of a product in the model -> its name at the station.
            origin: Where the file came from, for a person.
            who: Person who adds it.

        Returns:
            Number of the product or entry -> number of its version.
        """
        with self._copy(Path(model), origin) as (copy, file_columns):
            manifests = router.read_facts(copy).manifests
            if not names.keys() >= manifests.keys():  # a product of the model has no name
                raise InputError(f"{model} was replaced while it was read: add it again")
            self._keep(copy, file_columns)
            with self.database.writing() as connection:
                self._lock_all(connection, [entry_id])
                entry_facts = {"products": [*names.values()]}
                version_by_address = {entry_id: self._insert(connection, entry_id, file_columns, entry_facts)}
                for name, manifest in manifests.items():
                    product_id = add_product(connection, names[name], entry_id)
                    model_facts = ModelFacts.of(manifest)
                    product_facts = {**_version_facts(model_facts), "product": name}
                    version_by_address[product_id] = self._insert(
                        connection, product_id, file_columns, product_facts, model_facts
                    )
                for version in version_by_address.values():
                    make_ready(connection, version, who)
        return version_by_address

    def _lock_all(self, connection: Connection, ids: Sequence[int]) -> None:
        """Lock products and entries by number, and all products of these entries, as `lock_products` does."""
        is_affected = or_(products.c.id.in_(ids), products.c.entry_id.in_(ids))
        affected_ids = connection.execute(select(products.c.id).where(is_affected)).scalars().all()
        lock_products(connection, affected_ids)

    @contextmanager
    def _copy(self, path: Path, origin: str) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield the path of a copy of a model file, and the copy's columns in `versions`.

        If the station has a file with this content and name, that file is the copy. Otherwise a temporary
        copy is made, which is removed after the block. It is hashed while it is written, because the original
        may be replaced meanwhile.

        Args:
            path: Path of the model file.
            origin: Where the file came from, for a person.
        """
        with ExitStack() as stack:
            # the station's own file is not removed while its hash is held
            digest = self._hold(stack, files.file_sha256(path))
            copy = self.files.model_folder(digest) / path.name
            if not copy.exists():
                copy = self.files.temporary_path(path.name)
                stack.callback(self.files.remove_temporary, copy)
                digest = self._hold(stack, self.files.copy(path, copy))
            relative_path = f"{MODELS}/{self.files.model_folder(digest).name}/{path.name}"
            try:
                yield copy, {"hash": digest, "file": relative_path, "origin": origin}
            except InputError as error:  # people know the path of the original file
                raise InputError(str(error).replace(str(copy), str(path))) from None

    def _hold(self, stack: ExitStack, digest: str) -> str:
        """Hold the file with this hash, as `Files.hold` does, until the stack is closed; return the hash."""
        self.files.hold(digest)
        stack.callback(self.files.release, digest)
        return digest

    def _keep(self, copy: Path, file: Mapping[str, str]) -> None:
        """Move a temporary copy to its place, unless a file is there already.

        Args:
            copy: Path from `_copy`.
            file: Columns in `versions`, from `_copy`; the column `file` is the place.
        """
        place = self.files.folder / file["file"]
        if copy != place and not place.exists():
            self.files.move(copy, place)

    def _insert(
        self,
        connection: Connection,
        product_id: int,
        file: Mapping[str, str],
        facts: Mapping[str, object],
        model: ModelFacts | None = None,
    ) -> int:
        """Add a version in the state `making`, unless the product has a version of the same file.

        Args:
            connection: Connection of the transaction.
            product_id: Number of the product or entry.
            file: Columns of the file, from `_copy`.
            facts: Content of the version's column `facts`.
            model: Facts of the product's model; the pictures in them are recorded as learnt. None: the
                version is that of an entry.

        Returns:
            The number of the new or existing version.
        """
        row = {
            **file,
            "product_id": product_id,
            "facts": json.dumps(facts),
            "created_at": now(),
            "state": MAKING,
        }
        insert = upsert(connection.dialect.name, versions).values(row).on_conflict_do_nothing()
        number = connection.execute(insert.returning(versions.c.id)).scalar_one_or_none()
        if number is None:
            existing = select(versions.c.id).filter_by(product_id=product_id, hash=file["hash"])
            return int(connection.execute(existing.where(IS_KEPT)).scalar_one())
        pixel_hashes = {picture.hash for picture in model.pictures} if model else set()
        pixel_rows = [{"version_id": number, "pixels": digest} for digest in sorted(pixel_hashes)]
        if pixel_rows:
            connection.execute(learnt_pixels.insert(), pixel_rows)
        return int(number)

    def removable(self, product_id: int) -> list[int]:
        """Return the numbers of the ready versions that were never used and are of no joint model."""
        query = select(versions).where(versions.c.product_id == product_id, _is_removable())
        rows = self.database.rows(query.where(versions.c.state == READY).order_by(versions.c.id))
        return [row.id for row in rows if not _is_joint(row)]

    def remove(self, product_id: int, number: int, who: str = "station") -> bool:
        """Remove a version that never judged; remove its file, too, unless another version needs the file.

        Args:
            product_id: Number of the product.
            number: Number of the version.
            who: Person who removes it.

        Returns:
            Whether the version was removed. It stays if it has judged, or if a record names it. It also stays
            if it is of a joint model, because other products have a version of the same file.
        """
        row = self.database.row(select(versions).where(versions.c.id == number))
        if row is None or _is_joint(row):
            return False
        is_version = (versions.c.id == number) & (versions.c.product_id == product_id)
        with self.database.writing() as connection:
            change = update(versions).where(is_version, _is_removable()).values(state=REMOVED)
            removed_count = connection.execute(change).rowcount
            if removed_count == 0:
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
        number, _ = self.active(product_id)
        return number

    def activate(self, product_id: int, number: int, who: str, *, goes_live: bool = False) -> None:
        """Open a version and let it judge from now on; it also judges pictures that are waiting.

        A version of a joint model judges for all products of the model. A product of the entry that the model
        does not know is left without an active version. If the settings name another false-alarm rate, a
        version with that rate is added and activated instead.

        Args:
            product_id: Number of the product or entry.
            number: Number of the version.
            who: Person who activates it.
            goes_live: Whether to activate it even if the product was removed: the product then belongs to
                the station again.

        Raises:
            NotFoundError: the product has no such version, or somebody has removed the product or the version
                meanwhile.
            InputError: the model cannot be opened; the version that was active stays active.
        """
        number = self._version_at_configured_rate(product_id, number)
        rows = self._same_file_rows(product_id, number)
        model_by_address = self._load_models(rows)
        with self._switch_lock:
            if product_id in self._removed_ids and not goes_live:
                raise NotFoundError(f"the product was removed: version {number} was not activated")
            with self.database.writing() as connection:
                self._lock_all(connection, [*model_by_address])
                _activate(connection, model_by_address.keys(), [row.id for row in rows])
                for row in rows:
                    add_event(connection, VERSION_ACTIVATED, who, str(row.id), row.product_id)
            self.models.activate(model_by_address)
            self._removed_ids.discard(product_id)

    def deactivate(self, product_id: int, who: str, why: str) -> None:
        """Deactivate the version of a removed product; no version judges until the product goes live again.

        Args:
            product_id: Number of the product.
            who: Person who removes the product.
            why: Text of the event that records the removal.
        """
        with self._switch_lock:
            with self.database.writing() as connection:
                is_active = (versions.c.product_id == product_id) & IS_ACTIVE
                connection.execute(update(versions).where(is_active).values(state=RETIRED))
                add_event(connection, REMOVED_EVENT, who, why, product_id)
            self.models.deactivate(product_id)
            self._removed_ids.add(product_id)

    def accept_questions(self, product_id: int, number: int, who: str) -> int:
        """Accept the open questions of a version's fit, for a person.

        Errors are those of `activate`, and StoreError.

        Args:
            product_id: Number of the product or entry.
            number: Number of the version.
            who: Person who accepts them.

        Returns:
            The number of a version without open questions. It is the given version if that has none;
            otherwise it is a new version with the same model.
        """
        rows = self._same_file_rows(product_id, number)
        model, questions = router.accept_questions(self._load_model(rows[0]))
        if not questions:
            return number
        facts = json.loads(rows[0].facts)
        origin = rows[0].origin
        retained_facts = {name: facts[name] for name in (RATE_OF, DRAFT) if name in facts}
        with self._temporary_file(model, rows[0].file) as path:
            if model.facts.is_joint:
                row_by_product = {json.loads(row.facts).get("product"): row for row in rows}
                entry_row = row_by_product.pop(None)  # the row of the entry names no product
                station_names = {name: str(row.called) for name, row in row_by_product.items()}
                version_ids = self.add_joint(entry_row.product_id, path, station_names, origin, who)
                new_number = version_ids[product_id]
            else:
                new_number = self.add(product_id, path, origin, who, retained_facts)
        with self.database.writing() as connection:
            for question in questions:
                text = f"version {new_number}: accepted of version {number}: {question}"
                add_event(connection, QUESTION_ACCEPTED, who, text, product_id)
        return new_number

    @contextmanager
    def _temporary_file(self, model: Model, file: str) -> Iterator[Path]:
        """Save a model to a temporary file, and yield its path; the file is removed after the block.

        Args:
            model: Model to save.
            file: Path of a version's file; the temporary file gets the same name.

        Raises:
            StoreError: the file cannot be written.
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
        """Open the version that was active when the station ended.

        Returns:
            The number of the opened version; None: no version was active. If the settings name another
            false-alarm rate, a version with that rate is opened.
        """
        with self.database.reading() as connection:
            number = _active_number(connection, product_id)
        if number is None:
            return None
        # the version, and those that are activated together with it
        rows = self._same_file_rows(product_id, number)
        are_all_active = all(row.state == ACTIVE for row in rows)
        number_at_rate = self._version_at_configured_rate(product_id, number)
        if are_all_active and number_at_rate == number:
            self.models.activate(self._load_models(rows))
        else:  # a product of the joint model had its own model meanwhile, or the settings name another rate
            self.activate(product_id, number_at_rate, who="station")
        return number_at_rate

    def active_facts(self, product_id: int) -> dict[str, object]:
        """Return the facts of the version that was active last; empty: no version was active."""
        row = self.active_row(product_id)
        return {} if row is None else dict(json.loads(row.facts))

    def active_row(self, product_id: int) -> VersionRow | None:
        """Return the row of the version that was active last; None: no version was active."""
        return self.database.row(select(versions).where(versions.c.product_id == product_id, IS_ACTIVE))

    def active(self, product_id: int) -> tuple[int, Model]:
        """Return number and model of the version that judges a product.

        Raises:
            NoModelError: no model of the product is open.
        """
        # the address of a single product has only that product
        (product,) = self.models.active[product_id].products.values()
        return product.number, product.model

    def open(self, product_id: int, number: int) -> Model:
        """Return the model of a version; open it if it is not open.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the model cannot be opened.
        """
        open_model = self.models.model_of_version(number)
        if open_model is not None:
            return open_model
        row = self._row(product_id, number)
        model = self._load_model(row)
        if model.facts.is_joint:
            return model.product(json.loads(row.facts)["product"])
        return model

    def _same_file_rows(self, product_id: int, number: int) -> Sequence[CalledVersionRow]:
        """Return the rows of a version, and of all versions that are activated together with it.

        A version of a joint model is activated together with the versions of its entry and of all its
        products. Any other version is activated alone. Each row has the name of its product in the column
        `called`.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the version is of a joint model, and the settings name none for the product; or vice
                versa.
        """
        version_row = self._row(product_id, number)
        query = select(versions, products.c.name.label("called")).where(IS_LISTED)
        query = query.join(products, products.c.id == versions.c.product_id)
        is_joint = _is_joint(version_row)
        with self.database.reading() as connection:
            if product_id in self.joint_entries:
                entry_id: int | None = product_id
            else:
                entry_id = connection.scalar(select(products.c.entry_id).where(products.c.id == product_id))
            is_joint_address = entry_id in self.joint_entries
            if is_joint != is_joint_address:
                kind, other = ("a joint model", "a model") if is_joint else ("a model", "a joint model")
                raise InputError(
                    f"version {number} is of {kind}, and the settings name {other} for this product: name "
                    "the version's file there"
                )
            if not is_joint:
                return connection.execute(query.where(versions.c.id == number)).all()
            is_affected = or_(products.c.id == entry_id, products.c.entry_id == entry_id)
            return connection.execute(query.where(versions.c.hash == version_row.hash, is_affected)).all()

    def _load_models(self, rows: Sequence[CalledVersionRow]) -> dict[int, AddressModel]:
        """Open the model file that versions share.

        Args:
            rows: Rows from `_same_file_rows`.

        Returns:
            Number of the address -> model. The addresses are the products and, for a joint model, its entry.

        Raises:
            InputError: the file cannot be opened, or a product of the joint model has another model.
        """
        model = self._load_model(rows[0])
        if not model.facts.is_joint:
            single_products = [ProductModel(row.product_id, row.id, model) for row in rows]
            return {product.product_id: AddressModel.single(product) for product in single_products}
        product_by_name: dict[str, ProductModel] = {}
        for row in rows:
            name = json.loads(row.facts).get("product")
            if name is not None:
                product_by_name[name] = ProductModel(row.product_id, row.id, model.product(name), row.called)
        missing_names = [name for name in model.products if name not in product_by_name]
        if missing_names:
            raise InputError(
                f"{missing_names[0]} has another model at this station: leave it out of the joint one"
            )
        model_by_address = {
            product.product_id: AddressModel.single(product) for product in product_by_name.values()
        }
        entry_ids = [row.product_id for row in rows if row.product_id not in model_by_address]
        for entry_id in entry_ids:
            model_by_address[entry_id] = AddressModel(model, product_by_name)
        return model_by_address

    def _load_model(self, row: VersionRow) -> Model:
        """Return the opened model of a version's file; versions of the same file share it."""
        path = self.files.folder / str(row.file)
        engine = self.engine_for(path)
        load = partial(router.load, path, engine=engine, device=self.device, threads=self.threads)
        return self.models.get_or_load(row.hash, load)

    def engine_for(self, path: Path) -> str | None:
        """Return the engine with which to open a model file; None: the default, which trained models need."""
        return None if path.suffix.lower() == files.TRAINED_SUFFIX else self.engine

    def made_as(self, product_id: int, origin: str) -> list[MadeVersion]:
        """Return number, state and facts of each version of a product with this origin, the newest first."""
        query = select(versions).where(versions.c.product_id == product_id, versions.c.origin == origin)
        rows = self.database.rows(query.where(IS_LISTED).order_by(versions.c.id.desc()))
        return [_describe_made(row) for row in rows]

    def note_draft(self, number: int, mark: DraftMark) -> None:
        """Record in the facts of a version from which draft it came.

        Args:
            number: Number of the version.
            mark: Draft that went live as this version.

        Raises:
            StoreError: the database cannot be written.
        """
        is_version = versions.c.id == number
        with self.database.writing() as connection:
            facts = json.loads(connection.execute(select(versions.c.facts).where(is_version)).scalar_one())
            facts[DRAFT] = dict(mark)
            connection.execute(update(versions).where(is_version).values(facts=json.dumps(facts)))

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
                .where(versions.c.product_id == product_id, IS_LISTED)
                .order_by(versions.c.id.desc())
            ).all()
            switches_by_version = _switches(connection, product_id)
        listed = [_describe_version(row, switches_by_version.get(row.id, [])) for row in rows]
        active = next((int(row.id) for row in rows if row.state == ACTIVE), None)
        return {"versions": listed, "active": active}

    def version(self, product_id: int, number: int) -> VersionFacts:
        """Return a version as the API shows it.

        Raises:
            NotFoundError: the product has no such version.
        """
        row = self._row(product_id, number)
        with self.database.reading() as connection:
            switches = _switches(connection, product_id, number).get(number, [])
        return _describe_version(row, switches)

    def previous_version(self, product_id: int, active: int | None) -> int | None:
        """Return the number of the version that was active before `active`; None: there was none.

        Args:
            product_id: Number of the product.
            active: Number of the active version; None: no version is active.
        """
        # the text of such an event is the number of the version
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
        """Return the row of a version; raise NotFoundError where the product has no such version."""
        is_version = (versions.c.product_id == product_id) & (versions.c.id == number)
        row = self.database.row(select(versions).where(is_version, IS_LISTED))
        if row is None:
            raise NotFoundError(f"there is no version {number} of this product")
        return row


def rate_root(connection: Connection, number: int) -> int:
    """Return the number of the version that a version copies at another rate; if none, its own number."""
    facts = connection.execute(select(versions.c.facts).where(versions.c.id == number)).scalar_one()
    return int(json.loads(facts).get(RATE_OF, number))


def _version_facts(model: ModelFacts) -> dict[str, object]:
    """Return facts of a model of a single product, as the API shows them.

    If the product has a model for each view, `score_threshold` and `spread` are None: they differ by view.
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
    """Change a version from `making` to `ready`, and record that; a version in another state is not changed.

    Args:
        connection: Connection of the transaction.
        number: Number of the version.
        who: Person who added the version.
    """
    change = update(versions).where(versions.c.id == number, versions.c.state == MAKING).values(state=READY)
    row = connection.execute(change.returning(versions.c.product_id, versions.c.origin)).one_or_none()
    if row is not None:
        add_event(connection, VERSION_ADDED, who, f"version {number} from {row.origin}", row.product_id)


def _activate(connection: Connection, product_ids: Collection[int], numbers: Sequence[int]) -> None:
    """Activate versions, and retire the other active versions of these products and entries.

    Args:
        connection: Connection of the transaction.
        product_ids: Numbers of the products and entries; an entry also stands for all its products.
        numbers: Numbers of the versions to activate.

    Raises:
        NotFoundError: a version was removed since its row was read.
    """
    products_of_entries = select(products.c.id).where(products.c.entry_id.in_(product_ids))
    is_affected = or_(versions.c.product_id.in_(product_ids), versions.c.product_id.in_(products_of_entries))
    # retire first: the index allows only one active version of a product at any moment
    retire = update(versions).where(is_affected, IS_ACTIVE, versions.c.id.not_in(numbers))
    connection.execute(retire.values(state=RETIRED))
    activate = update(versions).where(versions.c.id.in_(numbers), IS_LISTED)
    activated_count = connection.execute(activate.values(state=ACTIVE)).rowcount
    if activated_count != len(numbers):
        raise NotFoundError(
            f"version {', '.join(map(str, numbers))} was removed while it was opened: choose another one"
        )


def _active_number(connection: Connection, product_id: int) -> int | None:
    """Return the number of a product's active version; None: it has none."""
    number = connection.scalar(select(active_version(product_id)))
    return None if number is None else int(number)


def _is_removable() -> ColumnElement[bool]:
    """Return the SQL condition that a version has never judged, and that no record names it."""
    number = versions.c.id
    product_id = versions.c.product_id
    is_of_product = inspections.c.product_id == product_id
    is_of_version = inspections.c.version_id == number
    uses = (
        # `hours` counts the inspections of the line; challenges and trials are searched by their own indexes
        exists().where(hours.c.product_id == product_id, hours.c.version_id == number),
        exists().where(is_of_product, is_of_version, IS_CHALLENGE),
        exists().where(is_of_version, IS_TRIAL),
        exists().where(challenges.c.product_id == product_id, challenges.c.version_id == number),
        exists().where(learnt.c.version_id == number),
        exists().where(jobs.c.product_id == product_id, jobs.c.start_version_id == number),
    )
    return and_(versions.c.state.in_([MAKING, READY]), ~or_(*uses))


def is_of_joint_model(facts: Mapping[str, object]) -> bool:
    """Return whether a version is of a joint model, by its facts.

    In a joint model, the version of the entry has the fact `products`, and that of a product `product`.
    """
    return "product" in facts or "products" in facts


def _is_joint(row: VersionRow) -> bool:
    """Return whether a version is of a joint model."""
    return is_of_joint_model(json.loads(row.facts))


def _forget_removed(connection: Connection, product_id: int) -> None:
    """Delete the rows of removed versions of a product, except the newest `MAX_REMOVED`.

    The newest stay, so that their numbers are not used again. Versions that a job names stay, too.
    """
    is_removed = (versions.c.product_id == product_id) & (versions.c.state == REMOVED)
    newest_first = select(versions.c.id).where(is_removed).order_by(versions.c.id.desc())
    newest_deleted = connection.scalar(newest_first.offset(MAX_REMOVED).limit(1))  # newest row to delete
    if newest_deleted is None:
        return
    is_named = exists().where(jobs.c.product_id == product_id, jobs.c.version_id == versions.c.id)
    connection.execute(delete(versions).where(is_removed, versions.c.id <= newest_deleted, ~is_named))


def _switches(connection: Connection, product_id: int, number: int | None = None) -> dict[int, list[Switch]]:
    """Return a dictionary: number of a version -> the switches to it, the oldest first.

    Args:
        connection: Connection to the database.
        product_id: Number of the product.
        number: Number of a version; None: all versions.
    """
    query = select(events.c.text, events.c.at, events.c.who).where(
        events.c.kind == VERSION_ACTIVATED, events.c.product_id == product_id
    )
    if number is not None:
        query = query.where(events.c.text == str(number))
    switches_by_version: dict[int, list[Switch]] = {}
    for text, at, who in connection.execute(query.order_by(events.c.id)):  # `text` is the version's number
        switch: Switch = {"at": iso(at), "by": who}
        switches_by_version.setdefault(int(text), []).append(switch)
    return switches_by_version


def _describe_version(row: VersionRow, switches: list[Switch]) -> VersionFacts:
    """Return a version as the API shows it."""
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
    """Return number, state and facts of a version."""
    facts: dict[str, object] = {**json.loads(row.facts), "id": row.id, "state": row.state}
    return cast(MadeVersion, facts)
