"""What unit and end-to-end tests need: test_station_keeping.py, whole/test_station_keeping_whole.py."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from flawscope_station.core.station import Station
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store.database import Database
from flawscope_station.store.schema import (
    learnt_pixels,
)
from station_helpers import (
    started,
)

HOUR_OLD = RetentionSettings("1 hour", "1 hour", "1 hour", "1 hour")


def count(database: Database, table: Any) -> int:
    with database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def learn_from(database: Database, version: int, *pixels: str) -> None:
    with database.writing() as connection:
        rows = [{"version_id": version, "pixels": one} for one in pixels]
        connection.execute(learnt_pixels.insert(), rows)


@pytest.fixture(name="open_one")
def open_one_fixture(settings):
    """`open_one(keep=...)` starts a station that nobody reaches by HTTP."""
    from dataclasses import replace

    stations: list[Station] = []

    def one(**changes: Any) -> Station:
        for before in stations:
            before.close()
        stations[:] = [started(replace(settings, **changes))]
        return stations[0]

    yield one
    for station in stations:
        station.close()
