"""`flawscope station report`: one archive for whoever helps from afar.

The store and the computer are read, and the running station is asked, each piece by a thread of its own with
a limit of time: a station, a disk or a data base that hangs keeps no other piece from the archive, whose
`missing.txt` says what did not come, and why. Secrets are in none of them.
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

PIECE_SECONDS = 20.0  # in which a piece must be there
ASK_SECONDS = 5.0  # in which the running station must say something
MAX_EVENTS = 1000  # the latest
ASKED = ("status", "threads", "settings", "products")  # of the running station's API
MISSING_FILE = "missing.txt"


def write_report(settings: Settings, target: str | os.PathLike[str]) -> list[str]:
    """Write the archive; return a line for each piece that is missing in it.

    Raises:
        InputError: there is such a file, or no store.
        FlawscopeError: the file cannot be written.
    """
    path = Path(target)
    if path.exists():
        raise InputError(f"{path} exists, and is not overwritten: choose another name")
    pieces = _pieces(settings)
    found, missing = _collect(pieces)
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in found.items():
                archive.writestr(name, text)
            archive.writestr(MISSING_FILE, "".join(f"{line}\n" for line in missing))
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror}; choose another folder") from None
    return missing


def _pieces(settings: Settings) -> dict[str, Callable[[], str]]:
    """Return the function that makes each file of the archive."""
    asked = {f"running/{name}.json": partial(_ask_station, settings, name) for name in ASKED}
    return {
        "settings.json": partial(_settings_text, settings),
        "machine.json": _machine_text,
        "packages.txt": _packages_text,
        "disk.json": partial(_disk_text, settings),
        "events.json": partial(_read_store, settings, _events),
        "versions.json": partial(_read_store, settings, _versions),
        **asked,
    }


def _collect(pieces: dict[str, Callable[[], str]]) -> tuple[dict[str, str], list[str]]:
    """Make all pieces at once; return the pieces that came in time, and a line on each other piece."""
    found: dict[str, str] = {}
    failures: dict[str, str] = {}

    def make(name: str, piece: Callable[[], str]) -> None:
        try:
            found[name] = piece()
        except Exception as error:
            failures[name] = message_with_type(error)

    threads = [threading.Thread(target=make, args=piece, daemon=True) for piece in pieces.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + PIECE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    made = found.copy()
    why = failures.copy()
    hanging = f"it did not come in {PIECE_SECONDS:.0f} s"
    return made, [f"{name}: {why.get(name, hanging)}" for name in pieces if name not in made]


# ------------------------------------------------------------------------------------------------ the pieces


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def _settings_text(settings: Settings) -> str:
    """Return the settings of the file, which hold from the next start on.

    The archive's `running/settings.json` has the settings of the running station.
    """
    values = asdict(settings)
    return _json({"hash": hash_settings(values), "settings": mask_settings(values)})


def _machine_text() -> str:
    memory = machine.system_memory()
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts = {"system": system, "python": sys.version, "cores": machine.usable_cores()}
    total, available = memory or (None, None)
    return _json({**facts, "memory_bytes": total, "memory_available_bytes": available})


def _packages_text() -> str:
    lines = {f"{distribution.name}=={distribution.version}" for distribution in metadata.distributions()}
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def _disk_text(settings: Settings) -> str:
    home = Path(settings.store)
    usage = shutil.disk_usage(home)
    files = {path.name: path.stat().st_size for path in home.iterdir() if path.is_file()}
    facts = {"folder": str(home.absolute()), "total_bytes": usage.total, "free_bytes": usage.free}
    return _json({**facts, "files": files})


def _read_store(settings: Settings, read: Callable[[Database], object]) -> str:
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
    query = select(versions, products.c.name.label("product"))
    rows = database.rows(query.join(products, products.c.id == versions.c.product_id))
    return [dict(row._mapping) for row in rows]


def _ask_station(settings: Settings, path: str) -> str:
    """Ask the station at the address of the settings, with the token of the environment."""
    host = "127.0.0.1" if settings.host in WILDCARD_HOSTS else settings.host
    host = f"[{host}]" if ":" in host else host
    with Client(f"http://{host}:{settings.port}", timeout=ASK_SECONDS, tries=1) as station:
        return _json(station.read(path))
