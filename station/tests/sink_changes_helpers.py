"""For test_station_sink_changes.py and whole/test_station_sink_changes_whole.py."""

from pathlib import Path
from typing import Any

import pytest

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.sinks import UNDELIVERED, Sinks, delivery
from flawscope_station.store.database import Database
from flawscope_station.store.records import Store
from sink_helpers import Receiver, make_sink
from station_helpers import NAME, add_version, taken

MESSAGES = 100
SinkTuple = tuple[SinkSettings, ...]


class Floor:
    """A store with a product, whose sinks come and go."""

    def __init__(self, folder: Path):
        self.database = Database(f"sqlite:///{folder / 'station.sqlite'}")
        self.database.migrate()
        self.store, self.opened = Store(self.database), list[Sinks]()
        self.version = dict([add_version(self.database)])
        self.problems: dict[str, str | None] = {}

    def open(self, sinks: SinkTuple, mqtt: SinkSettings | None = None, name: str = NAME) -> Sinks:
        settings = Settings({name: ProductSettings("m.safetensors", sinks=sinks)}, mqtt=mqtt)
        numbers = {name: self.store.add_product(name)}
        pictures: Any = None
        given = settings, "f" * 32, numbers, self.store, pictures, self.problems.__setitem__, list
        self.opened.append(Sinks(*given))
        return self.opened[-1]

    def record(self, count: int = MESSAGES) -> None:
        ((product, version),) = self.version.items()
        self.store.record([taken(product, version, name=f"{one}.png") for one in range(count)])

    def told(self) -> list[str]:
        (product,) = self.version
        return [row.text for row in self.store.events(UNDELIVERED, product)]


def hook(address: str, **more: Any) -> SinkSettings:
    return make_sink(webhook=address, picture="none", **more)


A, B, NAMED = (
    hook("http://127.0.0.2:9/a?token=1"),
    hook("http://127.0.0.2:9/b"),
    hook("http://127.0.0.2:9/c", name="mes"),
)


@pytest.fixture(name="floor")
def floor_fixture(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "MIN_RETRY_DELAY", 0.05)
    made = Floor(tmp_path)
    yield made
    for one in made.opened:
        one.stop()
    made.database.close()


@pytest.fixture(name="receivers")
def receivers_fixture():
    made = [Receiver(), Receiver(), Receiver()]
    yield made
    for one in made:
        one.close()
