"""Identity of a station in its database, and the station's clock."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import BigInteger, Connection, func, insert, inspect, literal_column, select, update

from flawscope.errors import InputError
from flawscope_station.settings.station import DEFAULT_NAME, Settings
from flawscope_station.settings.values import LOOPBACK_HOSTS, WILDCARD_HOSTS
from flawscope_station.store.database import Database, StoreError, now, upsert
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.schema import HOUR, inspections, products, stations


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


CLOCK_CONFIRMED = "clock_confirmed"  # kind of an event
CLOCK_TOLERANCE = HOUR  # microseconds by which a clock may be set back
LONGEST_PAUSE = 21 * 24 * HOUR  # microseconds; a longer pause between two checks looks like a wrong clock


class Clock:
    """The computer's clock, and whether it can be right.

    The clock is wrong if it is more than an hour behind the last time at which it was right, or more than
    three weeks ahead of that time.

    Args:
        database: Database of the station.
        wall: Function that returns the computer's time, microseconds since 1970.

    Attributes:
        at: Last time at which the clock was right, microseconds since 1970.
        jump: Microseconds by which the clock is ahead of `at`, below 0 where it is behind; 0: it can be
            right.

    Raises:
        StoreError: the database cannot be used; methods raise it, too.
    """

    def __init__(self, database: Database, wall: Callable[[], int] = now):
        self.database = database
        self._wall = wall
        self.jump = 0
        # cache by age: number of the oldest inspection younger than this age, as last looked up
        self._first_younger: dict[int, int] = {}
        with database.writing() as connection:
            get_or_add_station(connection)
            self.at: int = connection.scalar(select(stations.c.clock_at)) or wall()

    def check(self) -> None:
        """Compare the computer's time with `at`, and update `jump` and `at`; to be called once a minute."""
        offset = self._wall() - self.at
        is_plausible = -CLOCK_TOLERANCE <= offset <= LONGEST_PAUSE
        self.jump = 0 if is_plausible else offset
        if is_plausible:
            self._save(self.at + max(0, offset))  # `at` never goes back

    def confirm(self) -> None:
        """Accept the computer's time as right, because a person confirmed it."""
        self._save(self._wall())
        self._first_younger.clear()
        self.jump = 0

    def newest_older_than(self, age: int) -> int:
        """Return the number of the newest inspection that is at least `age` microseconds old; 0: none is.

        Inspections are searched in the order of their numbers, up to the first younger one. Therefore a later
        one, which a wrong clock has recorded as old, is left out.
        """
        time_limit = self.at - age
        inspection = inspections.c
        # all inspections before the end of a search for this or a longer age are old enough: go on from there
        earlier_ends = [number for cached_age, number in self._first_younger.items() if cached_age >= age]
        start = max(earlier_ends, default=0)
        # the plus keeps SQLite from using the index of times: it shall read the rows in the order of numbers
        at = literal_column("+inspections.at", BigInteger)
        younger = select(inspection.id).where(
            inspection.id >= start, at > time_limit, at <= self.at + CLOCK_TOLERANCE
        )
        first_younger = younger.order_by(inspection.id).limit(1)
        with self.database.reading() as connection:
            first_younger_numbers = []
            for product_id in connection.scalars(select(products.c.id)).all():
                number = connection.scalar(first_younger.where(inspection.product_id == product_id))
                if number is not None:
                    first_younger_numbers.append(number)
            newest_older = select(func.max(inspection.id)).where(inspection.at <= time_limit)
            if first_younger_numbers:
                first_younger_number = min(first_younger_numbers)
                self._first_younger[age] = first_younger_number
                newest_older = newest_older.where(inspection.id < first_younger_number)
            return connection.scalar(newest_older) or 0

    @property
    def problem(self) -> str:
        """Reason why the computer's clock cannot be right; "": it can be right."""
        if not self.jump:
            return ""
        hours = abs(self.jump) / HOUR
        distance = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        direction = "ahead of" if self.jump > 0 else "behind"
        return (
            f"the computer's clock is {distance} {direction} the newest records: "
            "set it, or confirm that it is right; until then nothing is removed for its age"
        )

    def _save(self, at: int) -> None:
        """Record a time at which the clock was right."""
        self.database.change(update(stations).values(clock_at=at))
        self.at = at
