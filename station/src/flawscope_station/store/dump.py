"""Copying the data base to one file, and restoring it from there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, MetaData, inspect, make_url, text

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.settings.station import DATABASE_FILE, Settings
from flawscope_station.settings.values import redact_address
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.schema import REPORT_VIEW

POSTGRES_COPY = "station.pgdump"  # in pg_dump's custom format
COPY_NAMES = (DATABASE_FILE, POSTGRES_COPY)


@contextmanager
def copy_database(settings: Settings, folder: Path) -> Iterator[tuple[Path, Connection]]:
    """Copy the data base to a file in the folder, while others read and write.

    Yields:
        Path of the copy; connection that sees what the copy holds.

    Raises:
        InputError: the data base cannot be copied.
        FlawscopeError: pg_dump failed.
    """
    if settings.database is None:
        path = folder / DATABASE_FILE
        _copy_sqlite(Path(settings.store) / DATABASE_FILE, path)
        copy = Database(f"sqlite:///{path.absolute()}")
        try:
            copy.check_current()
            with copy.reading() as connection:
                yield path, connection
        finally:
            copy.close()
        return
    path = folder / POSTGRES_COPY
    database = Database(settings.url)
    try:
        with _reading_or_input_error(database):
            database.check_current()
        with _reading_or_input_error(database) as connection:
            snapshot = str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())
            _run_program(settings, "pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}")
            yield path, connection
    finally:
        database.close()


def check_empty(settings: Settings, copy: str) -> None:
    """Raise InputError unless a copy of this name can be restored to the data base of these settings."""
    if settings.database is None:
        if copy == POSTGRES_COPY:
            raise InputError(
                "this backup is of PostgreSQL: name an empty data base as `database` in a file for --settings"
            )
        return
    name = redact_address(settings.database)
    if copy != POSTGRES_COPY:
        raise InputError(f"this backup is of SQLite, and the settings name {name}: leave `database` out")
    _find_program("pg_restore")
    database = Database(settings.url)
    try:
        with _reading_or_input_error(database) as connection:
            if inspect(connection).get_table_names():
                raise InputError(f"{name} is not empty: nothing is overwritten, make a new data base")
    finally:
        database.close()


def restore_database(settings: Settings, copy: Path) -> None:
    """Restore the data base from a copy. InputError where damaged, FlawscopeError where pg_restore fails."""
    if settings.database is None:
        _check_sqlite(copy)
        os.replace(copy, Path(settings.store) / DATABASE_FILE)
        return
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run_program(settings, "pg_restore", *options, str(copy))
    copy.unlink()


def drop_tables(settings: Settings) -> None:
    """Undo `restore_database`: drop all tables of PostgreSQL. An SQLite file is removed with its folder."""
    if settings.database is None:
        return
    database = Database(settings.url)
    try:
        with database.writing() as connection:
            connection.execute(text(f"DROP VIEW IF EXISTS {REPORT_VIEW}"))
            tables = MetaData()
            tables.reflect(connection)
            tables.drop_all(connection)
    finally:
        database.close()


# ----------------------------------------------------------------------------------------------------- SQLite


def _copy_sqlite(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
    except sqlite3.Error as error:
        raise InputError(f"cannot copy {source}: {error}; check the disk, or restore a backup") from None
    _check_sqlite(target)


def _check_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        raise InputError(f"the data base is damaged ({result:.100}): take an older backup")


# ------------------------------------------------------------------------------------------------- PostgreSQL


@contextmanager
def _reading_or_input_error(database: Database) -> Iterator[Connection]:
    try:
        with database.reading() as connection:
            yield connection
    except StoreError as error:
        raise InputError(f"{error}; check `database` and that it is running") from None


def _find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InputError(f"PostgreSQL's {name} is not installed: apt-get install postgresql-client")
    return found


def _run_program(settings: Settings, name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL. Its environment has the password, where other users do not see it."""
    url = make_url(settings.url)
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    secret = {} if url.password is None else {"PGPASSWORD": str(url.password)}
    finished = subprocess.run(
        [_find_program(name), "--no-password", f"--dbname={address}", *arguments],
        env={**os.environ, **secret, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if finished.returncode:
        lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no reason")
        remedy = "; its version must be the server's or newer" if "version mismatch" in why else ""
        raise FlawscopeError(f"{name} failed: {why:.200}{remedy}")
