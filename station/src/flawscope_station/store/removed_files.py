"""Keys of a folder's files that have no record: the record was removed, or the file was given up.

A file with such a key that is still there is not inspected again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from flawscope_station.store.database import Database, upsert
from flawscope_station.store.rows import FileKeyRow, RemovableRow
from flawscope_station.store.schema import products, removed_files

KEYS_PER_QUERY = 500
GIVEN_UP = 0  # in the place of a record's number: there was none


def keep_file_keys(connection: Connection, rows: Sequence[RemovableRow]) -> None:
    """Keep the keys of records that are removed in this transaction.

    Args:
        connection: Connection of the transaction.
        rows: Removed records; those without a key are passed over.
    """
    values = [
        {"product_id": row.product_id, "key": row.key, "picture": row.hash, "inspection_id": row.id}
        for row in rows
        if row.key is not None
    ]
    if values:
        new = upsert(connection.dialect.name, removed_files).on_conflict_do_nothing()
        connection.execute(new, values)


def keep_given_up(database: Database, product_id: int, key: str, picture: str) -> None:
    """Keep the key of a file that is not inspected, and that was reported to people.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        key: Key of the file.
        picture: SHA-256 of the file.
    """
    values = {"product_id": product_id, "key": key, "picture": picture, "inspection_id": GIVEN_UP}
    database.change(
        upsert(database.engine.dialect.name, removed_files).values(**values).on_conflict_do_nothing()
    )


def find_file_keys(database: Database, address: int, *wanted: ColumnElement[bool]) -> Sequence[FileKeyRow]:
    """Return the rows of `removed_files` of a product, or of an entry's products, that meet conditions."""
    query = select(removed_files).where(_is_at_address(address), *wanted)
    return database.rows(query)


def forget_file_keys(database: Database, address: int, prefix: str, there: Collection[str]) -> None:
    """Forget the keys of files that are gone.

    Args:
        database: Database of the station.
        address: Number of the product or entry.
        prefix: Beginning of the keys.
        there: Endings of keys, `:TIME:SIZE`, of the files that are there.
    """
    rows = find_file_keys(database, address, removed_files.c.key.startswith(prefix, autoescape=True))
    endings = {row.key: ":" + ":".join(row.key.rsplit(":", 2)[1:]) for row in rows}
    gone = [key for key, ending in endings.items() if ending not in there]
    for start in range(0, len(gone), KEYS_PER_QUERY):
        keys = removed_files.c.key.in_(gone[start : start + KEYS_PER_QUERY])
        database.change(delete(removed_files).where(_is_at_address(address), keys))


def _is_at_address(address: int) -> ColumnElement[bool]:
    where = or_(products.c.id == address, products.c.entry_id == address)
    return removed_files.c.product_id.in_(select(products.c.id).where(where))
