"""Where inspections go, on the page, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver")
from station_helpers import free_port
from tablet import Tablet, needs_chromium
from tablet import database_url_fixture as database_url_fixture
from tablet import driver_fixture as driver_fixture
from tablet import judged_fixture as judged_fixture
from tablet import tablet_fixture as tablet_fixture
from test_station_looks import axe

from flawscope.station.settings.sinks import SinkSettings
from flawscope.station.settings.station import Product, Settings

pytestmark = needs_chromium
LONG = "a-very-long-address-without-any-room-to-break"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With a folder, and a webhook that nobody listens to."""
    (name,) = settings.products
    sinks = (
        SinkSettings(folder=str(tmp_path / "found"), picture="none", name="found"),
        SinkSettings(f"http://127.0.0.1:{free_port()}/", name=LONG),
    )
    return replace(settings, products={name: Product(settings.products[name].model, sinks=sinks)})


def test_live_names_sinks_and_what_is_wrong_with_them(
    tablet: Tablet, running: Any, judged: tuple[bytes, bytes], tmp_path: Path
) -> None:
    tablet.post(judged[0])
    tablet.wait(lambda: len(list((tmp_path / "found").glob("*/*.json"))) == 1)
    tablet.wait(lambda: running.station.problems())
    spec = find_spec("axe_core_python")
    script = (Path(str(spec.origin)).parent / "axe.min.js").read_text(encoding="utf-8") if spec else ""
    for width, height, dark in ((390, 844, False), (820, 1180, True), (1280, 800, False)):
        tablet.screen(width, height, dark)
        tablet.open("live")
        tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
        assert tablet.js("return document.documentElement.scrollWidth") <= width
        found, hook = (one.text for one in tablet.all(".sinks li"))
        assert found == "found: 1 delivered"
        assert LONG in hook
        assert "0 delivered, 1 waiting" in hook
        assert "Another system does not get the results" in tablet.text(".sinks li:last-child")
        assert "cannot be reached" not in hook  # that is said to engineers
        if script:
            tablet.js(script)
            assert axe(tablet) == []
    assert tablet.complaints() == []
