"""Products that went live on the station's pages, and settings of them and of the station made there.

Settings are kept as they would stand in `station.yaml`, so they are read and checked by the same code.
Passwords are no part of them: they lie in files of the station's folder.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select, update

from flawscope.station.store.database import Database
from flawscope.station.store.files import Files
from flawscope.station.store.schema import products, stations, versions

MADE_HERE = "made on the station's pages"  # origin of versions whose product no settings need to name
SECRETS = "secrets"  # folder of passwords, below the station's
Lines = dict[str, Any]  # settings as in `station.yaml`: a station's, or below a product's name


class Made(NamedTuple):
    """Product that was made here. model: file of the latest version that went live on the pages. lines: its
    settings; before: those until the last change, which can be undone; None: there was none."""

    model: Path
    lines: Lines
    before: Lines | None


def made_here(database: Database, files: Files) -> dict[str, Made]:
    """Return the products that went live on the station's pages."""
    query = (
        select(products.c.name, versions.c.file, products.c.made)
        .join(versions, versions.c.product_id == products.c.id)
        .join(stations, stations.c.id == products.c.station_id)
        .where(stations.c.name == database.station)
        .where(versions.c.origin == MADE_HERE, products.c.active_version_id.is_not(None))
        .order_by(versions.c.id)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    made = {name: (files.folder / file, json.loads(kept or "{}")) for name, file, kept in rows}
    return {name: Made(file, kept.get("now", {}), kept.get("before")) for name, (file, kept) in made.items()}


def lines_of_station(database: Database) -> tuple[Lines, Lines | None]:
    """Return the station's settings that were made here, and those until the last change, as of `Made`."""
    query = select(stations.c.made).where(stations.c.name == database.station)
    with database.reading() as connection:
        kept = json.loads(connection.execute(query).scalar_one_or_none() or "{}")
    return kept.get("now", {}), kept.get("before")


def keep_lines(database: Database, product_id: int | None, lines: Lines, before: Lines) -> None:
    """Keep the settings of a product, None: of the station, and those until now. StoreError."""
    kept = json.dumps({"now": lines, "before": before})
    change = update(products).where(products.c.id == product_id)
    if product_id is None:
        change = update(stations).where(stations.c.name == database.station)
    with database.writing() as connection:
        connection.execute(change.values(made=kept))


def keep_secret(files: Files, product: str, password: str) -> str:
    """Write a password into a file of its own; return its path below the station's folder. StoreError.

    Args:
        product: "": the station's own.
    """
    name = f"{SECRETS}/{product}~{secrets.token_hex(8)}"  # no product has a tilde in its name
    files.write(files.folder / name, f"{password}\n".encode())
    return name


def forget_secrets(files: Files, product: str, *lines: object) -> None:
    """Remove the passwords of a product that none of these settings name."""
    named = json.dumps(lines)
    for path in (files.folder / SECRETS).glob(f"{product}~*"):
        if path.name not in named:
            path.unlink(missing_ok=True)
