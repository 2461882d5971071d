"""What tests of both floors need: test_station_keeping.py, whole/test_station_keeping_whole.py."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store.database import Database
from flawscope_station.store.schema import (
    learnt_pixels,
)

HOUR_OLD = RetentionSettings("1 hour", "1 hour", "1 hour", "1 hour")


def count(database: Database, table: Any) -> int:
    with database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def learn_from(database: Database, version: int, *pixels: str) -> None:
    with database.writing() as connection:
        rows = [{"version_id": version, "pixels": one} for one in pixels]
        connection.execute(learnt_pixels.insert(), rows)
