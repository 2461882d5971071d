"""The page Models in a real browser: learn, look at gains and losses, use, go back."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium.webdriver")
pytest.importorskip("torch")
from tablet import PHONE, SLATE, Tablet, needs_chromium
from tablet import driver_fixture as driver_fixture
from tablet import tablet_fixture as tablet_fixture
from test_station_learning import Line

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def model_file(model_path: Path) -> Path:
    """The trained model itself."""
    return model_path


def test_learn_look_use_and_go_back(tablet: Tablet) -> None:
    line = Line(tablet.url)
    tablet.open("models")
    assert "Nobody has corrected the model yet" in tablet.text("[aria-labelledby=learn]")
    found = line.shift()
    tablet.open("models")
    assert "3 false alarms were corrected" in tablet.text("[aria-labelledby=learn]")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    tablet.click("#learn-now")
    tablet.wait(lambda: tablet.all("[data-status=ready]"), 90)
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    card = "[data-status=ready]"
    text = tablet.text(card)
    assert "Version 2" in text
    assert "Use it: of 3 reviewed good parts" in text
    assert len(tablet.all("[data-activate='2']")) == 1
    assert "waits for you" in text
    assert "False alarms that would pass" in text
    links = {one.get_attribute("href").rpartition("/")[2] for one in tablet.all(f"{card} a")}
    assert {str(number) for number in found["stained"]} <= links
    tablet.js("document.querySelector('[aria-labelledby=trail] details').open = true")
    assert "candidate ready" in tablet.text("[aria-labelledby=trail]")
    assert tablet.unfit(PHONE, SLATE) == []
    tablet.click(f"{card} [data-activate]")
    tablet.wait(lambda: tablet.find("#sure").is_displayed())
    assert tablet.text("#question") == "Use version 2 from now on?"
    tablet.click("#yes")
    tablet.wait(lambda: line.active() == 2)
    tablet.wait(lambda: tablet.all("#back"))
    assert tablet.all("[data-status=live]")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    tablet.click("#back")
    tablet.wait(lambda: tablet.find("#sure").is_displayed())
    tablet.click("#yes")
    tablet.wait(lambda: line.active() == 1)
    assert tablet.complaints() == []
