"""`flawscope station report`: write one archive for a person who helps from afar.

The pieces of the archive are read from the store, from the computer, and from the running station. Each piece
has a thread of its own and a limit of time, so that a station, a disk or a database that hangs holds up no
other piece. The archive's `missing.txt` lists the missing pieces with the reasons. No piece has secrets.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

from sqlalchemy import select

from flawscope import machine
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope_station.access import audit
from flawscope_station.client import Client
from flawscope_station.settings.shown import hash_settings, mask_settings
from flawscope_station.settings.station import Settings
from flawscope_station.settings.values import WILDCARD_HOSTS
from flawscope_station.store.database import Database
from flawscope_station.store.schema import products, versions

PIECE_SECONDS = 20.0  # time limit of a piece
ASK_SECONDS = 5.0  # time limit of an answer of the running station
MAX_EVENTS = 1000  # events of the archive, the latest
API_PATHS = ("status", "threads", "settings", "products")  # the running station is asked for these
MISSING_FILE = "missing.txt"


def write_report(settings: Settings, target: str | os.PathLike[str]) -> list[str]:
    """Write the archive; return a line for each piece that is missing in it.

    Args:
        settings: Settings of the station.
        target: File to write, which must not exist yet.

    Raises:
        InputError: The file exists.
        FlawscopeError: The file cannot be written.
    """
    path = Path(target)
    if path.exists():
        raise InputError(f"{path} exists, and is not overwritten: choose another name")
    texts, missing = _make_all(_pieces(settings))
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
            archive.writestr(MISSING_FILE, "".join(f"{line}\n" for line in missing))
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror}; choose another folder") from None
    return missing


def _pieces(settings: Settings) -> dict[str, Callable[[], str]]:
    """Return for each file of the archive, by its name, a function that returns the file's text."""
    station_pieces = {f"running/{path}.json": partial(_ask_station, settings, path) for path in API_PATHS}
    return {
        "settings.json": partial(_settings_text, settings),
        "machine.json": _machine_text,
        "packages.txt": _packages_text,
        "disk.json": partial(_disk_text, settings),
        "events.json": partial(_read_store, settings, _events),
        "versions.json": partial(_read_store, settings, _versions),
        **station_pieces,
    }


def _make_all(pieces: dict[str, Callable[[], str]]) -> tuple[dict[str, str], list[str]]:
    """Make the text of each piece, all in parallel.

    Return the texts that are made within `PIECE_SECONDS`, by name, and a line with the reason for each
    missing piece.

    Args:
        pieces: Functions that return the text of a piece, by the piece's name.
    """
    texts: dict[str, str] = {}  # name of the piece -> its text
    failures: dict[str, str] = {}  # name of the piece -> reason why it is missing

    def make(name: str, make_text: Callable[[], str]) -> None:
        try:
            texts[name] = make_text()
        except Exception as error:
            failures[name] = message_with_type(error)

    threads = [
        threading.Thread(target=make, args=(name, make_text), daemon=True)
        for name, make_text in pieces.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PIECE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # threads that hang may still write into both dictionaries
    timely_texts = texts.copy()
    timely_failures = failures.copy()
    late_reason = f"it did not come in {PIECE_SECONDS:.0f} s"
    missing_names = [name for name in pieces if name not in timely_texts]
    missing_lines = [f"{name}: {timely_failures.get(name, late_reason)}" for name in missing_names]
    return timely_texts, missing_lines


# ------------------------------------------------------------------------------------------------ the pieces


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def _settings_text(settings: Settings) -> str:
    """Return the settings of the settings file with their hash, as JSON, without secrets.

    A running station may still have other settings, if the file was changed after its start. Those are in the
    archive's `running/settings.json`.
    """
    values = asdict(settings)
    return _json({"hash": hash_settings(values), "settings": mask_settings(values)})


def _machine_text() -> str:
    """Return the operating system, Python, cores and memory of this computer."""
    total_bytes, available_bytes = machine.system_memory() or (None, None)
    facts = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version,
        "cores": machine.usable_cores(),
        "memory_bytes": total_bytes,
        "memory_available_bytes": available_bytes,
    }
    return _json(facts)


def _packages_text() -> str:
    """Return the installed Python packages, a line for each."""
    lines = {f"{distribution.name}=={distribution.version}" for distribution in metadata.distributions()}
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def _disk_text(settings: Settings) -> str:
    """Return size and free space of the store's disk, and the sizes of the files in the store's folder."""
    home = Path(settings.store)
    usage = shutil.disk_usage(home)
    facts = {
        "folder": str(home.absolute()),
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "files": {path.name: path.stat().st_size for path in home.iterdir() if path.is_file()},
    }
    return _json(facts)


def _read_store(settings: Settings, read: Callable[[Database], object]) -> str:
    """Call `read` with the station's database, and return the result as JSON.

    Raises:
        InputError: The database has no tables.
    """
    database = Database(settings.url)
    try:
        if not database.check_tables():
            raise InputError(f"there is no station in {database.name}")
        return _json(read(database))
    finally:
        database.close()


def _events(database: Database) -> list[audit.AuditEvent]:
    return audit.search(database, limit=MAX_EVENTS)


def _versions(database: Database) -> list[dict[str, object]]:
    """Return the rows of all versions, each with the product's name."""
    query = select(versions, products.c.name.label("product"))
    rows = database.rows(query.join(products, products.c.id == versions.c.product_id))
    return [dict(row._mapping) for row in rows]


def _ask_station(settings: Settings, path: str) -> str:
    """Return the running station's answer at a path of its API, as JSON.

    The environment variable FLAWSCOPE_TOKEN has the token.
    """
    host = "127.0.0.1" if settings.host in WILDCARD_HOSTS else settings.host
    url_host = f"[{host}]" if ":" in host else host  # an IPv6 address stands in brackets
    with Client(f"http://{url_host}:{settings.port}", timeout=ASK_SECONDS, tries=1) as station:
        return _json(station.read(path))
