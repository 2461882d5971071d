"""Settings that pages of earlier versions made, and kept in the store: they are told, and not lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from flawscope.errors import InputError
from flawscope_station.assembly import open_station
from flawscope_station.page_products import MADE_ON_PAGES
from flawscope_station.settings.station import Limits, ProductSettings, Settings
from flawscope_station.store.schema import products, stations


@pytest.fixture
def stored(open_station, settings):
    """`stored(station=…, disc=…)`: settings of a station with these in its store, which no file names. plate
    is of the file, disc was made on the pages."""

    def store(station: dict[str, Any] | None = None, disc: dict[str, Any] | None = None) -> Settings:
        running = open_station(limits=Settings.limits, keep=Settings.keep)
        here, given = running.station, running.station.settings
        here.sources.setdefault("disc", [])
        here.addresses.add_product(
            "disc", ProductSettings(given.products["plate"].model), MADE_ON_PAGES, "anna"
        )
        with here.database.writing() as connection:
            kept = None if station is None else json.dumps({"now": station, "before": {}})
            connection.execute(update(stations).values(made=kept))
            change = update(products).where(products.c.name == "disc")
            connection.execute(change.values(made=json.dumps({"now": disc or {}, "before": None})))
        running.close()
        return Settings(products={"plate": given.products["plate"]}, store=given.store, threads=1)

    return store


def refusal(settings: Settings) -> str:
    """The reason of a station that refuses to start; "" of one that starts."""
    try:
        opened = open_station(settings)
    except InputError as error:
        return str(error)  # without its frames, which hold the folder's lock
    opened.close()
    return ""


def test_settings_of_pages_are_refused_by_name_until_the_file_has_them(stored):
    settings = stored({"limits": {"queue": 32}, "keep": {"good": "10 days"}}, {"sinks": [{"folder": "/srv"}]})
    why = refusal(settings)
    assert "\n" not in why
    assert why.endswith("such as station.yaml: limits, keep, products: disc")
    assert refusal(settings) == why, "nothing is forgotten by a start that is refused"
    limits, keep = Limits(queue=32), replace(Settings.keep, good="10 days")
    some = replace(settings, limits=limits)
    assert refusal(some).endswith("such as station.yaml: keep, products: disc")
    products = {**settings.products, "disc": settings.products["plate"]}
    assert refusal(replace(some, keep=keep, products=products)) == ""
    assert refusal(settings).endswith("such as station.yaml: products: disc")


def test_the_camera_of_a_product_stays(stored):
    camera = {"camera": "rtsp://192.0.2.20/stream", "every": "1 s"}
    opened = open_station(stored(None, {"sources": [camera]}))
    (source,) = opened.settings.products["disc"].sources
    assert getattr(source, "camera", "") == camera["camera"]
    opened.close()


@pytest.mark.parametrize(
    "disc",
    [
        {"sources": [{"folder": "/srv/in"}]},
        {"sources": [{"camera": "/dev/video0"}, {"camera": "/dev/video1"}]},
        {"sources": [{"basler": {"serial": "40012345"}}]},
        {"sinks": [{"webhook": "https://mes.example/x", "secret_file": "secrets/disc~3"}]},
        {"sources": [{"camera": "/dev/video0"}], "sinks": [{"webhook": "https://mes.example/x"}]},
    ],
)
def test_what_no_page_names_any_more_is_told(stored, disc):
    assert refusal(stored(None, disc)).endswith("products: disc")


def test_sections_that_the_file_names_are_its_own(stored):
    """Also where it says what is the default: then the pages' did not hold before, either."""
    settings = stored({"limits": {"queue": 32}})
    opened = open_station(Settings(products=settings.products, store=settings.store, limits=Limits()))
    assert opened.settings.limits.queue == 64
    opened.close()
