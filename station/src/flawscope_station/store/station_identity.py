"""Identity of a station in its database."""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select, update

from flawscope.errors import InputError
from flawscope_station.settings.station import DEFAULT_NAME, Settings
from flawscope_station.settings.values import LOOPBACK_HOSTS, WILDCARD_HOSTS
from flawscope_station.store.database import Database, StoreError, now, upsert
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.schema import stations


def check_owner(database: Database, files: Files) -> None:
    """Check before a migration that the tables belong to this station: another one may be using them.

    Raises:
        InputError: the tables belong to another station, or the database cannot be used.
    """
    if database.is_sqlite:  # its file is in the station's own folder, which is locked
        return
    try:
        with database.reading() as connection:
            if not inspect(connection).has_table(stations.name):
                return
            recorded_identity = connection.execute(select(stations.c.folder)).scalars().first()
    except StoreError as error:
        raise InputError(str(error)) from None
    _check_folder(database, files, recorded_identity)


def _check_folder(database: Database, files: Files, recorded_identity: str | None) -> None:
    """Raise InputError if a PostgreSQL database belongs to a station with another folder.

    Args:
        database: Database of the station.
        files: Files of the station.
        recorded_identity: Identity of the folder in the database; None: none is recorded.
    """
    identity = files.identity()
    if database.is_sqlite or recorded_identity in (None, identity):
        return
    raise InputError(
        f"{database.name} is the database of another station, whose folder is not {files.folder}: "
        f"make one for this station; or, where that folder is lost, write {recorded_identity} into "
        f"{files.identity_path}"
    )


def claim_identity(database: Database, files: Files, name: str) -> None:
    """Record in the database that it belongs to the station of this folder.

    Args:
        database: Database of the station.
        files: Files of the station.
        name: Name of the station from now on.

    Raises:
        InputError: the database belongs to another station; or the database is new, and the folder has
            pictures already.
    """
    folder_identity = files.identity()
    has_pictures = files.has_files(PICTURES)
    values = {"name": name, "folder": folder_identity, "started_at": now()}
    with database.writing() as connection:
        database.lock_exclusively(connection)
        row = connection.execute(select(stations)).one_or_none()
        recorded_identity = None if row is None else row.folder
        _check_folder(database, files, recorded_identity)
        # SQLite's file lies in the folder of the station: its row needs no identity
        is_new_database = row is None or (recorded_identity is None and not database.is_sqlite)
        if has_pictures and is_new_database:
            raise InputError(
                f"{files.folder} has pictures that {database.name} does not know: choose an empty `store`, "
                "or the `database` that they belong to"
            )
        statement = insert(stations) if row is None else update(stations)
        connection.execute(statement.values(**values))


def get_or_add_station(connection: Connection) -> int:
    """Return the number of the station; add its row if no station has started on the database yet."""
    query = select(stations.c.id)
    if connection.execute(query).first() is None:
        insert_station = upsert(connection.dialect.name, stations).values(name=DEFAULT_NAME)
        connection.execute(insert_station.on_conflict_do_nothing())
    return int(connection.execute(query).scalar_one())


def public_address(settings: Settings) -> str | None:
    """Return the address at which others reach the pages; None: no such address is known.

    The first address of the setting `public` is returned. Without this setting, host and port are returned,
    if other machines can reach them.
    """
    if settings.public:
        address = next(iter(settings.public))
    elif settings.host in (WILDCARD_HOSTS | LOOPBACK_HOSTS) or not settings.port:
        return None
    else:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.port}"
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    scheme = "https" if settings.proxy else "http"
    return f"{scheme}://{address}"
