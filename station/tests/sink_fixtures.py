"""Stations that send to sinks, and try again at once."""

from typing import Any

import pytest

from flawscope_station.settings.sinks import SinkSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.sinks import delivery
from station_helpers import NAME


@pytest.fixture(name="soon", autouse=True)
def soon_fixture(monkeypatch):
    """What failed is tried again at once."""
    monkeypatch.setattr(delivery, "MIN_RETRY_DELAY", 0.05)


@pytest.fixture(name="with_sinks")
def with_sinks_fixture(settings, open_station):
    """`with_sinks(make_sink(webhook=...))`: a station on either database."""
    model = settings.products[NAME].model

    def one(*sinks: SinkSettings, **more: Any) -> Any:
        return open_station(products={NAME: ProductSettings(model, sinks=sinks)}, **more)

    return one
