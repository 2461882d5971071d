"""Settings that pages of earlier versions made, and kept in the store: they are told, and not lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select, update

from flawscope.errors import InputError
from flawscope_station.features import open_station
from flawscope_station.page_products import MADE_ON_PAGES
from flawscope_station.settings.station import Limits, ProductSettings, Settings, read_settings
from flawscope_station.store.schema import products, stations
from station_helpers import Opener

CAMERA = {"camera": "rtsp://anna@192.0.2.20/stream", "password_file": "secrets/disc~1", "every": "1 s"}


@pytest.fixture
def stored(open_station: Opener, settings: Settings) -> Any:
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


def refusal(settings: Settings) -> list[str]:
    """The lines that a station says which refuses to start, and the reason as the last one."""
    said: list[str] = []
    try:
        open_station(settings, said.append)
    except InputError as error:
        said.append(str(error))  # without its frames, which hold the folder's lock
    return said


def pasted(settings: Settings, lines: list[str], tmp_path: Path) -> Settings:
    path = tmp_path / "station.yaml"
    text = "\n".join(lines) + ("" if "products:" in lines else "\nproducts:")
    path.write_text(f"store: {settings.store}\n{text}\n  plate: {settings.products['plate'].model}\n")
    return read_settings(path)


def test_settings_of_pages_are_refused_with_the_lines_to_write(stored: Any, tmp_path: Path) -> None:
    station = {
        "limits": {"queue": 32},
        "keep": {"good": "10 days", "reviewed": None},
        "mqtt": {"broker": "mqtt://192.0.2.7", "user": "ötto", "password_file": "secrets/~2"},
    }
    settings = stored(station, {"sources": [CAMERA], "sinks": [{"folder": "/srv/out", "only": "all"}]})
    secrets = Path(settings.store) / "secrets"
    secrets.mkdir(exist_ok=True)
    for name in ("disc~1", "~2"):
        (secrets / name).write_text("geheim\n")
    *lines, why = refusal(settings)
    assert refusal(settings) == [*lines, why], "nothing is forgotten by a start that is refused"
    assert why.startswith("settings are no longer made on the pages: write the lines above")
    found = yaml.safe_load("\n".join(lines))
    assert found["limits"] == {"queue": 32}
    assert found["keep"] == station["keep"]
    assert found["mqtt"] == {**station["mqtt"], "password_file": str(secrets / "~2")}
    (source,) = found["products"]["disc"]["sources"]
    assert source == {**CAMERA, "password_file": str(secrets / "disc~1")}
    assert len(lines) == 5, "one for each setting, and `products:`"

    some = pasted(settings, lines[1:], tmp_path)  # one is forgotten
    assert refusal(some) == [lines[0], why]
    whole = pasted(settings, lines, tmp_path)
    opened = open_station(whole)
    assert opened.settings.products["disc"].sinks[0].folder == "/srv/out"  # type: ignore[union-attr]
    assert (opened.settings.keep.good, opened.settings.limits.queue) == ("10 days", 32)
    with opened.database.reading() as connection:
        assert connection.execute(select(stations.c.made)).scalar_one() is None
    opened.close()
    assert refusal(Settings(products=settings.products, store=settings.store))[:2] == lines[-2:], (
        "a product that the file does not name any more"
    )


def test_the_camera_of_a_product_stays(stored: Any) -> None:
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
def test_what_no_page_names_any_more_is_told(stored: Any, disc: dict[str, Any]) -> None:
    head, line, _ = refusal(stored(None, disc))
    assert head == "products:"
    told = yaml.safe_load(line)["disc"]
    assert Path(told.pop("model")).is_file()
    assert told.keys() == disc.keys()


def test_sections_that_the_file_names_are_its_own(stored: Any) -> None:
    """Also where it says what is the default: then the pages' did not hold before, either."""
    settings = stored({"limits": {"queue": 32}})
    opened = open_station(Settings(products=settings.products, store=settings.store, limits=Limits()))
    assert opened.settings.limits.queue == 64
    opened.close()
