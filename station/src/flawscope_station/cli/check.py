"""`flawscope station check FILE`: find the reasons why a station with these settings cannot work.

Nothing is started, written or migrated, because a station may be running with the same settings.
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

from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import router, tolerating
from flawscope_station.settings.shown import flatten_settings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import DATABASE_FILE, ProductSettings, Settings
from flawscope_station.settings.values import error_text, redact_address
from flawscope_station.store.database import Database
from flawscope_station.store.migrations import UnknownVersionError, table_version
from flawscope_station.web.app import disk_full_text, has_disk_space
from flawscope_station.web.plugin_pages import check_page

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtmp": 1935, "mqtt": 1883, "mqtts": 8883}
# `database` has a check of its own, `public` is the station's own address: no connection is tried to either
UNCONNECTED_SETTINGS = ("database", "public")
# name of the checked thing, and the function that checks it, which raises an error for a fault
Check = tuple[str, Callable[[], object]]


def find_faults(settings: Settings) -> Iterator[str | None]:
    """Check all things that the settings name.

    Yield a value for each of them: the fault in one line, or None if there is no fault.
    """
    for name, check in _checks(settings):
        try:
            check()
        except (FlawscopeError, SQLAlchemyError, OSError) as error:
            yield f"{name}: {error_text(error)}"
        else:
            yield None


def _checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the store, the database, the pages, the products, the files and the addresses."""
    yield "store", lambda: _check_store(settings)
    yield "database", lambda: _check_database(settings)
    for page in settings.pages:
        yield "pages", partial(check_page, page, list(settings.products))
    for name, product in settings.products.items():
        for subject, check in _product_checks(product):
            yield f"product {name}: {subject}", check
    for setting_path, value in flatten_settings(asdict(settings)):  # such as `products.plate.sinks.1.webhook`
        if not isinstance(value, str):
            continue
        key = setting_path.rpartition(".")[2]
        if key.endswith("_file"):
            yield setting_path, partial(_check_readable, value)
        elif not setting_path.startswith(UNCONNECTED_SETTINGS):
            address = _parse_remote_address(key, value)
            if address is not None:
                yield f"{setting_path} {redact_address(value)}", partial(_connect, address)


def _check_store(settings: Settings) -> None:
    """Raise InputError if the store's folder cannot be written or made, or if its disk is full."""
    home = Path(settings.store).absolute()
    # the store's folder, or the nearest folder above it that exists
    existing_folder = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(existing_folder, os.W_OK):
        raise InputError(f"{existing_folder} cannot be written by this user")
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
    """Check that this release of flawscope can use or migrate the tables.

    Raises:
        InputError: The tables have a version that this release does not know.
        StoreError: The database cannot be read.
    """
    try:
        with database.reading() as connection:
            table_version(connection)  # raises where the version is unknown
    except UnknownVersionError as error:  # its text is a predicate, as "was made by another flawscope"
        raise InputError(f"it {error}: use the flawscope that made it, or restore a backup") from None


def _product_checks(product: ProductSettings) -> Iterator[Check]:
    """Yield the checks of a product's model, tolerances, learning and folders."""
    if product.model is not None:
        yield "model", partial(router.read_facts, product.model)
    if product.tolerances is not None:
        yield "tolerances", partial(tolerating.Tolerances.read, Path(product.tolerances))
    if product.learn is not None:
        for path in (product.learn.trained, product.learn.pictures):
            if path is not None:
                yield "learn", partial(os.stat, path)
    for source in product.all_sources:
        if isinstance(source, FolderSourceSettings):
            yield f"folder {source.folder}", partial(os.listdir, source.folder)


def _check_readable(path: str) -> None:
    """Raise OSError where the file cannot be opened."""
    with open(path, "rb"):
        pass


def _parse_remote_address(key: str, value: str) -> tuple[str, int] | None:
    """Return host and port of the address that a setting has; None: the value is no address.

    A value is an address if it has a scheme, as in `mqtt://broker`, or if the setting's key is `connect`, as
    in `connect: HOST:PORT`.

    Args:
        key: Name of the setting.
        value: Value of the setting.
    """
    if "://" in value:
        url = value
    elif key == "connect":
        url = f"//{value}"
    else:
        return None
    parts = urlsplit(url)
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:  # `parts.port` raises it where the port is no number: the value is no address
        return None
    if not parts.hostname or not port:
        return None
    return parts.hostname, port


def _connect(address: tuple[str, int]) -> None:
    """Raise OSError where nothing answers at the address."""
    with socket.create_connection(address, CONNECT_SECONDS):
        pass
