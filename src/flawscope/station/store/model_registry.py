"""Model versions: files that are kept unchanged, one of them active for each product."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, or_, select, update

from flawscope.artefact.files import digest_of
from flawscope.artefact.model_file import Manifest
from flawscope.errors import FlawscopeError
from flawscope.predictor import Predictor, load, read_manifest
from flawscope.runtime import EXPORTED
from flawscope.station.store.database import Database, now, upsert
from flawscope.station.store.files import MODELS, Files
from flawscope.station.store.records import REMOVED, add_event, iso, row_of
from flawscope.station.store.schema import candidates, events, inspections, learnt_pixels, products, versions

ADDED, ACTIVATED = "version added", "version activated"  # events
_SPARE = 1  # models of inactive versions that stay open, for overlays of their inspections


class NoModelError(FlawscopeError):
    """No model of a product is open."""


class Versions:
    """Model versions of all products, and their open models.

    Args:
        device, threads, engine: to open models with.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        device: str = "auto",
        threads: int | None = None,
        engine: str | None = None,
    ):
        self.database, self.files = database, files
        self.device, self.threads, self.engine = device, threads, engine
        self._lock = threading.RLock()
        self._switching = threading.Lock()  # one switch after another, in the data base and here
        self._active: dict[int, tuple[int, Predictor]] = {}  # by product: number of the version, model
        self._spare: OrderedDict[int, Predictor] = OrderedDict()

    # ---- adding and removing

    def add(self, product_id: int, model: str | os.PathLike[str], origin: str, who: str) -> int:
        """Keep a copy of a model file as a version; return its number. The same content is the same version.

        Raises:
            InputError: the file is no model, or damaged.
            StoreError: the copy cannot be kept.
        """
        path = Path(model)
        manifest = read_manifest(path)
        digest = digest_of(path)
        there = self._by_hash(product_id, digest)
        if there is not None:
            return there
        self.files.hold(digest)
        try:
            self.files.write(self.files.model_folder(digest) / path.name, path.read_bytes())
            self._insert(product_id, digest, path.name, origin, manifest, who)
        finally:
            self.files.release(digest)
        found = self._by_hash(product_id, digest)
        assert found is not None, "it was just written"
        return found

    def _insert(
        self, product_id: int, digest: str, name: str, origin: str, manifest: Manifest, who: str
    ) -> None:
        with self.database.writing() as connection:
            new = upsert(connection.dialect.name, versions).values(
                product_id=product_id,
                hash=digest,
                file=f"{MODELS}/{self.files.model_folder(digest).name}/{name}",
                origin=origin,
                facts=json.dumps(_facts(manifest)),
                created_at=now(),
            )
            number = connection.execute(
                new.on_conflict_do_nothing().returning(versions.c.id)
            ).scalar_one_or_none()
            if number is not None:
                learnt = {picture.hash for picture in manifest.pictures}
                told = [{"version_id": number, "pixels": pixels} for pixels in sorted(learnt)]
                if told:
                    connection.execute(learnt_pixels.insert(), told)
                add_event(connection, ADDED, who, f"version {number} from {origin}", product_id)

    def _by_hash(self, product_id: int, digest: str) -> int | None:
        query = select(versions.c.id).where(versions.c.product_id == product_id, versions.c.hash == digest)
        with self.database.reading() as connection:
            number = connection.execute(query).scalar_one_or_none()
        return None if number is None else int(number)

    def remove(self, product_id: int, number: int) -> bool:
        """Remove a version that was never used, and its file. False where it was used, or is the newest of
        all: SQLite would give its number to another version."""
        with self.database.writing() as connection:
            newest = connection.execute(select(func.max(versions.c.id))).scalar_one()
            used = exists().where(inspections.c.version_id == number)
            named = exists().where(
                or_(candidates.c.start_version_id == number, candidates.c.version_id == number)
            )
            query = select(versions).where(versions.c.product_id == product_id, versions.c.id == number)
            row = connection.execute(query.where(~used, ~named)).one_or_none()
            active = _active(connection, product_id)
            if row is None or number in (newest, active) or _switches(connection, product_id, number):
                return False
            connection.execute(delete(learnt_pixels).where(learnt_pixels.c.version_id == number))
            connection.execute(delete(versions).where(versions.c.id == number))
            add_event(connection, REMOVED, "station", f"version {number}, which was never used", product_id)
        with self._lock:
            self._spare.pop(number, None)

        def is_nobodys() -> bool:
            with self.database.reading() as connection:
                query = select(versions.c.id).where(versions.c.hash == row.hash)
                return connection.execute(query).first() is None

        return self.files.discard(self.files.model_folder(row.hash), row.hash, is_nobodys)

    # ---- the active version

    def number(self, product_id: int) -> int:
        """Number of the version that judges. NoModelError."""
        return self.active(product_id)[0]

    def activate(self, product_id: int, number: int, who: str, instead_of: int | None = None) -> bool:
        """Open a version and let it judge from now on, also the pictures that wait.

        Args:
            instead_of: number of the version that must be active until then; any other one stays active.

        Returns:
            Whether the version judges.

        Raises:
            NotFoundError: the product has no such version.
            InputError: the model cannot be opened; the version before goes on.
        """
        predictor = self.open(product_id, number)
        with self._switching:
            with self.database.writing() as connection:
                # `number` itself: an earlier call wrote it, and its answer was lost
                if instead_of is not None and _active(connection, product_id) not in (instead_of, number):
                    return False
                connection.execute(
                    update(products).where(products.c.id == product_id).values(active_version_id=number)
                )
                add_event(connection, ACTIVATED, who, str(number), product_id)
            with self._lock:
                before = self._active.get(product_id)
                self._active[product_id] = number, predictor
                self._spare.pop(number, None)
                if before is not None and before[0] != number:
                    self._put_by(*before)
        return True

    def resume(self, product_id: int) -> int | None:
        """Open the version that was active when the station ended; return its number, None without one."""
        with self.database.reading() as connection:
            number = _active(connection, product_id)
        if number is not None:
            predictor = self.open(product_id, number)
            with self._lock:
                self._active[product_id] = number, predictor
        return number

    def active(self, product_id: int) -> tuple[int, Predictor]:
        """Number and model of the version that judges. NoModelError where none could be opened."""
        with self._lock:
            if product_id not in self._active:
                raise NoModelError("no model of this product is open: activate a version")
            return self._active[product_id]

    def is_open(self, product_id: int) -> bool:
        return product_id in self._active

    def open(self, product_id: int, number: int) -> Predictor:
        """Model of a version, which is opened unless it is open."""
        with self._lock:
            for active, predictor in self._active.values():
                if active == number:
                    return predictor
            if number in self._spare:
                self._spare.move_to_end(number)
                return self._spare[number]
        path = self.path(product_id, number)
        predictor = load(path, engine=self.engine_for(path), device=self.device, threads=self.threads)
        with self._lock:
            self._put_by(number, predictor)
        return predictor

    def engine_for(self, path: Path) -> str | None:
        """Engine to open a model file with; None: the default."""
        return self.engine if path.suffix.lower() == EXPORTED else None

    def _put_by(self, number: int, predictor: Predictor) -> None:
        self._spare[number] = predictor
        while len(self._spare) > _SPARE:
            self._spare.popitem(last=False)

    # ---- facts for people

    def path(self, product_id: int, number: int) -> Path:
        """Path of a version's model file. NotFoundError."""
        return self.files.folder / str(self._row(product_id, number).file)

    def listed(self, product_id: int) -> dict[str, Any]:
        """All versions of a product as the API shows them, the newest first."""
        with self.database.reading() as connection:
            rows = connection.execute(
                select(versions).where(versions.c.product_id == product_id).order_by(versions.c.id.desc())
            ).all()
            active, switches = _active(connection, product_id), _switches(connection, product_id)
        return {
            "versions": [_shown(row, active, switches.get(row.id, [])) for row in rows],
            "active": active,
        }

    def version(self, product_id: int, number: int) -> dict[str, Any]:
        """A version as the API shows it. NotFoundError."""
        row = self._row(product_id, number)
        with self.database.reading() as connection:
            active, switches = _active(connection, product_id), _switches(connection, product_id, number)
        return _shown(row, active, switches.get(number, []))

    def before(self, product_id: int, active: int | None) -> int | None:
        """Number of the version that was active before `active`; None: there was none."""
        query = (
            select(events.c.text)
            .where(events.c.kind == ACTIVATED, events.c.product_id == product_id)
            .where(events.c.text != str(active))
            .order_by(events.c.id.desc())
            .limit(1)
        )
        with self.database.reading() as connection:
            number = connection.execute(query).scalar_one_or_none()
        return None if number is None else int(number)

    def _row(self, product_id: int, number: int) -> Row[Any]:
        return row_of(self.database, versions, product_id, number)


def _facts(manifest: Manifest) -> dict[str, Any]:
    calibration = manifest.calibration
    return {
        "method": manifest.method,
        "category": manifest.category,
        "score_threshold": calibration.score_threshold,
        "false_alarm_rate": calibration.expected_rate,
        "promise": calibration.promise(),
        "pictures": dict(Counter(picture.role for picture in manifest.pictures)),
        "size": list(manifest.preprocess.network_size),
        "notes": list(manifest.notes),
        "program": manifest.versions.get("flawscope", ""),
    }


def _active(connection: Connection, product_id: int) -> int | None:
    query = select(products.c.active_version_id).where(products.c.id == product_id)
    number = connection.execute(query).scalar_one()
    return None if number is None else int(number)


def _switches(
    connection: Connection, product_id: int, number: int | None = None
) -> dict[int, list[dict[str, str]]]:
    """Time and person of each activation by version; number: of this version alone."""
    query = select(events.c.text, events.c.at, events.c.who).where(
        events.c.kind == ACTIVATED, events.c.product_id == product_id
    )
    if number is not None:
        query = query.where(events.c.text == str(number))
    found: dict[int, list[dict[str, str]]] = {}
    for text, at, who in connection.execute(query.order_by(events.c.id)):
        found.setdefault(int(text), []).append({"at": iso(at), "by": who})
    return found


def _shown(row: Row[Any], active: int | None, switches: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "id": row.id,
        "file": Path(row.file).name,
        "hash": row.hash,
        "origin": row.origin,
        "created_at": iso(row.created_at),
        "active": row.id == active,
        "switches": switches,
        **json.loads(row.facts),
    }
