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
    """Check that the tables are not those of another station, which may run; to be called before a migration.

    Raises:
        InputError: they are, or the database cannot be used.
    """
    if database.is_sqlite:  # its file is in the folder, which is locked
        return
    try:
        with database.reading() as connection:
            if not inspect(connection).has_table(stations.name):
                return
            known = connection.execute(select(stations.c.folder)).scalars().first()
    except StoreError as error:
        raise InputError(str(error)) from None
    _check_folder(database, files, known)


def _check_folder(database: Database, files: Files, known: str | None) -> None:
    """Raise InputError where a database knows another folder than the station's."""
    if known not in (None, files.identity()) and not database.is_sqlite:
        raise InputError(
            f"{database.name} is the data base of another station, whose folder is not {files.folder}: "
            f"make one for this station; or, where that folder is lost, write {known} into "
            f"{files.identity_path}"
        )


def claim_identity(database: Database, files: Files, name: str) -> None:
    """Claim the database for the station of this folder, which has this name from now on.

    Raises:
        InputError: the database is another station's, or the folder is another database's.
    """
    folder = files.identity()
    has_pictures = files.has_files(PICTURES)
    values = {"name": name, "folder": folder, "started_at": now()}
    with database.writing() as connection:
        database.lock_exclusively(connection)
        row = connection.execute(select(stations)).one_or_none()
        known = None if row is None else row.folder
        _check_folder(database, files, known)
        if has_pictures and (row is None or (known is None and not database.is_sqlite)):
            raise InputError(
                f"{files.folder} has pictures that {database.name} does not know: choose an empty `store`, "
                "or the `database` that they belong to"
            )
        change = insert(stations) if row is None else update(stations)
        connection.execute(change.values(**values))


def get_or_add_station(connection: Connection) -> int:
    """Return the number of the station, which is added where it was never started."""
    query = select(stations.c.id)
    if connection.execute(query).first() is None:
        new = upsert(connection.dialect.name, stations).values(name=DEFAULT_NAME)
        connection.execute(new.on_conflict_do_nothing())
    return int(connection.execute(query).scalar_one())


def public_address(settings: Settings) -> str | None:
    """Return the address at which others reach the pages; None: there is none."""
    bound = settings.host not in WILDCARD_HOSTS | LOOPBACK_HOSTS and settings.port
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    name = next(iter(settings.public), f"{host}:{settings.port}" if bound else None)
    if name is None:
        return None
    has_scheme = name.startswith(("http://", "https://"))
    return name.rstrip("/") if has_scheme else f"{'https' if settings.proxy else 'http'}://{name}"


CLOCK_CONFIRMED = "clock_confirmed"  # event
CLOCK_TOLERANCE = HOUR  # by which a clock may be set back
LONGEST_PAUSE = 21 * 24 * HOUR  # a longer one looks like a wrong clock


class Clock:
    """The computer's clock, and whether it can be right.

    It cannot be right where it lies more than an hour behind the last time at which it was right, or more
    than three weeks ahead of it.

    Args:
        database: Database of the station.
        wall: Returns the computer's time, microseconds since 1970.

    Attributes:
        at: Last time at which the clock was right, microseconds since 1970.
        jump: Microseconds by which the clock is ahead of `at`, below 0 where it is behind; 0 where it can be
            right.

    Raises:
        StoreError: the database cannot be used; methods raise it, too.
    """

    def __init__(self, database: Database, wall: Callable[[], int] = now):
        self.database = database
        self._wall = wall
        self.jump = 0
        # by age, the number of the first younger inspection, as it was found last
        self._young: dict[int, int] = {}
        with database.writing() as connection:
            get_or_add_station(connection)
            self.at: int = connection.scalar(select(stations.c.clock_at)) or wall()

    def check(self) -> None:
        """Check the clock; to be called every minute."""
        off = self._wall() - self.at
        self.jump = 0 if -CLOCK_TOLERANCE <= off <= LONGEST_PAUSE else off
        if not self.jump:
            self._save(self.at + max(0, off))

    def confirm(self) -> None:
        """Accept the clock as right."""
        self._save(self._wall())
        self._young.clear()
        self.jump = 0

    def newest_older_than(self, age: int) -> int:
        """Return the number of the newest inspection that is at least `age` microseconds old; 0: none is.

        Only inspections before the first younger one count: a wrong time makes no record old.
        """
        limit = self.at - age
        column = inspections.c
        # walks on in the order of the numbers from where it found one, now or for a longer age
        start = max((number for other, number in self._young.items() if other >= age), default=0)
        in_order = literal_column("+inspections.at", BigInteger)  # +: not by the index of times
        young = column.id >= start, in_order > limit, in_order <= self.at + CLOCK_TOLERANCE
        first = select(column.id).where(*young).order_by(column.id).limit(1)
        with self.database.reading() as connection:
            known = connection.scalars(select(products.c.id)).all()
            each = [connection.scalar(first.where(column.product_id == product)) for product in known]
            found = min(filter(None, each), default=None)
            old = select(func.max(column.id)).where(column.at <= limit)
            if found is None:
                return connection.scalar(old) or 0
            self._young[age] = found
            return connection.scalar(old.where(column.id < found)) or 0

    @property
    def problem(self) -> str:
        """Reason why the computer's clock cannot be right; "" where it can."""
        if not self.jump:
            return ""
        hours = abs(self.jump) / HOUR
        far = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
        return (
            f"the computer's clock is {far} {'ahead of' if self.jump > 0 else 'behind'} the newest records: "
            "set it, or confirm that it is right; until then nothing is removed for its age"
        )

    def _save(self, at: int) -> None:
        self.database.change(update(stations).values(clock_at=at))
        self.at = at
