"""What the steps of the migrations lack: test_station_migrations.py, whole/test_a_new_filter.py."""

from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from flawscope_station.store import migrations, schema

STORE = Path(__file__).parent / "store"  # tables as earlier versions made them


def missing_step(connection: Connection) -> str:
    """What the migrated tables lack of `schema`, and where to write it; "": nothing."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found = [difference(one) for one in compare_metadata(context, schema.metadata)]
    if not found:
        return ""
    last = migrations.newest_version()
    new = f"steps/v{int(last) + 1:04}_NAME.py after {last}, for: {'; '.join(sorted(found))}"
    return f"tables that were migrated are not those of `schema`: write {new}"


def difference(one: Any) -> str:
    """A difference as Alembic finds it, in words: `add_column inspections.colour`."""
    if isinstance(one, list):  # of a column that is there
        return "; ".join(f"{kind} {table}.{column}" for kind, _, table, column, *_ in one)
    kind, *_, thing = one
    table = getattr(getattr(thing, "table", None), "name", "")
    return f"{kind} {table}.{thing.name}".replace(" .", " ")
