"""`flawscope station check FILE`: what keeps a station with these settings from working.

Nothing is started, written or migrated: a station may be running with them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.predictor import router, tolerating
from flawscope_station.settings.shown import flatten_settings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import DATABASE_FILE, ProductSettings, Settings
from flawscope_station.settings.values import redact_address
from flawscope_station.store.database import Database
from flawscope_station.store.migrations import UnknownVersionError, table_version
from flawscope_station.web.app import disk_full_text, has_disk_space
from flawscope_station.web.plugin_pages import check_page

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtmp": 1935, "mqtt": 1883, "mqtts": 8883}
OWN = ("database", "public")  # settings whose addresses are looked at otherwise, or the station's own
Check = tuple[str, Callable[[], object]]  # what is looked at, and what raises an error where it is wrong


def find_faults(settings: Settings) -> Iterator[str | None]:
    """Yield the fault of each checked thing, in one line; None: it has none."""
    for what, check in _checks(settings):
        try:
            check()
        except (FlawscopeError, SQLAlchemyError, OSError) as error:
            why = (isinstance(error, OSError) and error.strerror) or one_line_message(error)
            yield f"{what}: {why}"
        else:
            yield None


def _checks(settings: Settings) -> Iterator[Check]:
    yield "store", lambda: _check_store(settings)
    yield "database", lambda: _check_database(settings)
    for page in settings.pages:
        yield "pages", partial(check_page, page, list(settings.products))
    for name, product in settings.products.items():
        yield from ((f"product {name}: {what}", check) for what, check in _product_checks(product))
    for place, value in flatten_settings(asdict(settings)):
        key = place.rpartition(".")[2]
        if key.endswith("_file") and isinstance(value, str):
            yield place, partial(_check_readable, value)
        elif not place.startswith(OWN) and (address := _remote(key, value)) is not None:
            yield f"{place} {redact_address(str(value))}", partial(_connect, address)


def _check_store(settings: Settings) -> None:
    home = Path(settings.store).absolute()
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} cannot be written by this user")
    if not has_disk_space(settings):
        raise InputError(disk_full_text(settings))


def _check_database(settings: Settings) -> None:
    if settings.database is None and not (Path(settings.store) / DATABASE_FILE).is_file():
        return  # the database is made at the first start
    database = Database(settings.url)
    try:
        check_database(database)
    finally:
        database.close()


def check_database(database: Database) -> None:
    """Raise InputError where this flawscope cannot use or migrate the tables; StoreError."""
    try:
        with database.reading() as connection:
            table_version(connection)
    except UnknownVersionError as unknown:
        raise InputError(f"it {unknown}: use the flawscope that made it, or restore a backup") from None


def _product_checks(product: ProductSettings) -> Iterator[Check]:
    if (model := product.model) is not None:
        yield "model", lambda: router.read_facts(model)
    if (rules := product.tolerances) is not None:
        yield "tolerances", lambda: tolerating.Tolerances.read(Path(rules))
    if product.learn is not None:
        for path in filter(None, (product.learn.trained, product.learn.pictures)):
            yield "learn", partial(os.stat, path)
    for source in product.all_sources:
        if isinstance(source, FolderSourceSettings):
            yield f"folder {source.folder}", partial(os.listdir, source.folder)


def _check_readable(path: str) -> None:
    with open(path, "rb"):
        pass


def _remote(key: str, value: object) -> tuple[str, int] | None:
    """Return host and port that a setting names, at which another side listens."""
    if not isinstance(value, str):
        return None
    parts = urlsplit(value if "://" in value else f"//{value}" if key == "connect" else "")
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:  # no address, but a text of another kind
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def _connect(address: tuple[str, int]) -> None:
    with socket.create_connection(address, CONNECT_SECONDS):
        pass
