"""Keys of a folder's files that have no record: the record was removed, or the file was given up.

A file with such a key that is still in the folder is not inspected again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from flawscope_station.store.database import Database, upsert
from flawscope_station.store.rows import FileKeyRow, RemovableRow
from flawscope_station.store.schema import products, removed_files

KEYS_PER_QUERY = 500
GIVEN_UP = 0  # stands in place of an inspection's number for a file that was not inspected


def keep_file_keys(connection: Connection, rows: Sequence[RemovableRow]) -> None:
    """Record the keys of inspections and views that are removed in this transaction.

    Args:
        connection: Connection of the transaction.
        rows: Removed inspections and views; those without a key are left out. A view's `id` is the number of
            its inspection.
    """
    values = [
        {"product_id": row.product_id, "key": row.key, "picture": row.hash, "inspection_id": row.id}
        for row in rows
        if row.key is not None
    ]
    if values:
        insert = upsert(connection.dialect.name, removed_files).on_conflict_do_nothing()
        connection.execute(insert, values)


def keep_given_up(database: Database, product_id: int, key: str, picture: str) -> None:
    """Record the key of a file that is not going to be inspected.

    Args:
        database: Database of the station.
        product_id: Number of the product.
        key: Key of the file.
        picture: SHA-256 of the file.
    """
    values = {"product_id": product_id, "key": key, "picture": picture, "inspection_id": GIVEN_UP}
    insert = upsert(database.engine.dialect.name, removed_files).values(**values)
    database.change(insert.on_conflict_do_nothing())


def find_file_keys(
    database: Database, address: int, *conditions: ColumnElement[bool]
) -> Sequence[FileKeyRow]:
    """Return the rows of `removed_files` that meet conditions.

    Args:
        database: Database of the station.
        address: Number of the product; or number of an entry: the rows of all its products are returned.
        conditions: SQL conditions on the rows.
    """
    query = select(removed_files).where(_is_at_address(address), *conditions)
    return database.rows(query)


def forget_file_keys(database: Database, address: int, prefix: str, present_endings: Collection[str]) -> None:
    """Delete the keys of files that no longer exist.

    Args:
        database: Database of the station.
        address: Number of the product or entry.
        prefix: Beginning of the keys.
        present_endings: Endings `:TIME:SIZE` of the keys of all files that exist.
    """
    rows = find_file_keys(database, address, removed_files.c.key.startswith(prefix, autoescape=True))
    stale_keys = [row.key for row in rows if _key_ending(row.key) not in present_endings]
    for start in range(0, len(stale_keys), KEYS_PER_QUERY):
        is_stale = removed_files.c.key.in_(stale_keys[start : start + KEYS_PER_QUERY])
        database.change(delete(removed_files).where(_is_at_address(address), is_stale))


def _key_ending(key: str) -> str:
    """Return the end `:TIME:SIZE` of a file's key."""
    _, time, size = key.rsplit(":", 2)
    return f":{time}:{size}"


def _is_at_address(address: int) -> ColumnElement[bool]:
    """Return the SQL condition that a row belongs to a product, or to any product of an entry."""
    is_of_address = or_(products.c.id == address, products.c.entry_id == address)
    return removed_files.c.product_id.in_(select(products.c.id).where(is_of_address))
