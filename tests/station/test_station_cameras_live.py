"""A camera that is gone, on the page, in a real browser."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver")
from camera_helpers import PASSWORD, Rtsp, with_sources
from camera_helpers import rtsp_fixture as rtsp_fixture
from station_helpers import until
from tablet import Tablet, needs_chromium
from tablet import database_url_fixture as database_url_fixture
from tablet import driver_fixture as driver_fixture
from tablet import tablet_fixture as tablet_fixture
from test_station_looks import axe

from flawscope.station.settings.sources import CameraOf
from flawscope.station.settings.station import Settings

pytestmark = needs_chromium


@pytest.fixture
def running(open_station: Any, settings: Settings, rtsp: Rtsp, tmp_path: Path) -> Any:
    """A station with a camera."""
    (tmp_path / "secret").write_text(PASSWORD)
    (tmp_path / "incoming").mkdir()
    camera = CameraOf(f"rtsp://anna@{rtsp.host}/stream", "500 ms", str(tmp_path / "secret"), "2 s")
    return open_station(products=with_sources(settings, camera))


def test_a_camera_that_is_gone_is_seen_from_afar(tablet: Tablet, running: Any, rtsp: Rtsp) -> None:
    """In the band, in the problem line and in the list, until it is back; other pictures do not hide it."""
    spec = find_spec("axe_core_python")
    script = (Path(str(spec.origin)).parent / "axe.min.js").read_text(encoding="utf-8") if spec else ""
    tablet.open("live")
    band = "return document.querySelector('#band').dataset.state"
    tablet.wait(lambda: tablet.js(band) in ("good", "anomalous"))
    tablet.wait(lambda: "camera1 runs, last picture" in tablet.text("#sources"))
    assert not tablet.find("#since").is_displayed()
    rtsp.kill()
    tablet.wait(lambda: tablet.js(band) == "away")
    assert tablet.text("#word") == "Camera away"
    assert tablet.find("#since").is_displayed()
    assert tablet.text("#since").startswith("Last picture ")
    assert "camera1 is away, last picture" in tablet.text("#sources")
    tablet.wait(lambda: "A camera sends no pictures" in tablet.text("#problem"))
    part = running.station.search("plate", _filters()).inspections[0]
    data = running.station.shown.picture(1, part["id"])[0]
    tablet.post(data + b"another", "sent.png")
    tablet.wait(lambda: tablet.text("#name") == "sent.png")
    assert tablet.js(band) == "away"
    for width, height, dark in ((390, 844, False), (820, 1180, True)):
        tablet.screen(width, height, dark)
        tablet.open("live")
        tablet.wait(lambda: tablet.js(band) == "away")
        assert tablet.js("return document.documentElement.scrollWidth") <= width
        if script:
            tablet.js(script)
            assert axe(tablet) == []
    tablet.driver.add_cookie({"name": "language", "value": "de"})
    tablet.open("live")
    tablet.wait(lambda: tablet.text("#word") == "Kamera fehlt")
    assert "camera1 fehlt, letztes Bild" in tablet.text("#sources")
    rtsp.start()
    tablet.wait(lambda: tablet.js(band) in ("good", "anomalous"), 60)
    until(lambda: not tablet.find("#problem").is_displayed())
    assert tablet.complaints() == []


def _filters() -> Any:
    from flawscope.station.store.search import Filters

    return Filters(limit=1)
