"""The page of challenge parts in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver")
from selenium.webdriver.support.ui import Select

from flawscope_station.settings.station import Settings
from station_helpers import NAME, Opener
from tablet import API, PHONE, SLATE, needs_chromium, tablet_at
from tablet import driver_fixture as driver_fixture
from test_station_challenge import again

pytestmark = needs_chromium


def test_a_person_keeps_parts_and_shows_them(
    open_station: Opener, settings: Settings, driver: Any, judged: tuple[bytes, bytes], tmp_path: Path
) -> None:
    before = open_station()
    with tablet_at(before, driver) as tablet:
        numbers = [tablet.post(data)["id"] for data in judged]
        for number, name, expected in zip(numbers, ("g-1", "d-1"), ("good", "anomalous"), strict=True):
            tablet.open("challenge")
            for field, text in (("inspection", str(number)), ("name", name), ("note", "scratched")):
                tablet.find(f"#add [name={field}]").send_keys(text)
            Select(tablet.find("#add [name=expected]")).select_by_value(expected)
            tablet.click("#add button")
            tablet.wait(lambda name=name: name in tablet.text("main"))
    before.close()
    asking = replace(settings.products[NAME], challenge=("06:00",))
    with tablet_at(open_station(products={NAME: asking}), driver) as tablet:
        for _ in range(2):
            for name, data in zip(("g-1", "d-1"), judged, strict=True):
                tablet.open("challenge")
                assert tablet.text("#ready") == "Not ready: nothing is answered"
                assert f"Now insert: {name}, scratched" in " ".join(tablet.text("section h3").split())
                assert tablet.js("return document.querySelector('section img').naturalWidth") > 0
                assert tablet.unfit(PHONE, SLATE) == []
                tablet.screen(1024, 768)
                (tmp_path / "new.png").write_bytes(again(data))
                tablet.find("#file").send_keys(str(tmp_path / "new.png"))
                tablet.wait(lambda name=name: tablet.text("#said") == f"{name}: passed")
            assert tablet.text("#ready") == "Ready: all challenge parts have passed"
            tablet.click("#begin")
            tablet.wait(lambda: tablet.text("#ready").startswith("Not ready"))
        assert [one.get_attribute("aria-label")[:21] for one in tablet.all("svg[role=img]")] == [
            "Scores of g-1, the la",
            "Scores of d-1, the la",
        ]
        for language, word in (("de", "Nicht bereit"), ("fr", "Pas prêt")):
            driver.add_cookie({"name": "language", "value": language})
            tablet.open("challenge")
            assert tablet.text("#ready").startswith(word)
            assert tablet.unfit(PHONE) == []
        tablet.screen(1024, 768)
        tablet.js("document.querySelector('#override').closest('details').open = true")
        tablet.find("#override [name=reason]").send_keys("d-1 verloren")
        tablet.click("#override button")
        tablet.wait(lambda: tablet.text("#ready").startswith("Bereit") or tablet.text("#ready")[:4] == "Prêt")
        assert tablet.http.post(f"{API}/inspections", content=again(judged[0])).status_code == 201
        assert all("409" in one for one in tablet.complaints()), "the answer to a challenge part"
