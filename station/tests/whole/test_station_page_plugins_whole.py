"""Pages of other packages: true to the contract, and in a real browser, which refuses what is not of the
station. That of examples/line stands for what others write."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from flawscope_station.plugins import Plugin, PluginPage
from flawscope_station.settings.plugins import ConfiguredPlugin
from flawscope_station.settings.station import override_settings
from flawscope_station.testing import check_page
from plugin_helpers import LINE, plugins_fixture  # noqa: F401
from station_helpers import NAME, Listening, opened
from tablet import PHONE, SLATE, needs_chromium, tablet_at

pytestmark = pytest.mark.usefixtures("plugins")
ASSETS = LINE / "emulated_line/counts"
INLINE = """<!DOCTYPE html><html lang="en"><title>loose</title><p style="color: red" id="main">loose
<script>document.documentElement.dataset.inline = "yes"</script>
<script src="http://127.0.0.2:1/other.js"></script>"""


def loose(station: Any, settings: Any) -> PluginPage:
    """A page that tries to have its own way."""
    router = APIRouter()

    @router.get("/")
    def show(request: Request) -> HTMLResponse:
        return HTMLResponse(INLINE, headers={"Content-Security-Policy": "default-src * 'unsafe-inline'"})

    return PluginPage({"en": "Loose"}, router, ASSETS)


def test_the_example_keeps_the_contract(model_file):
    from emulated_line.counts import COUNTS

    check_page(COUNTS, {"letters": 2}, model_file)


def test_pages_that_do_not_are_found(model_file):
    from emulated_line.counts import COUNTS, CountSettings, open_counts

    def raising(station: Any, settings: Any) -> PluginPage:
        page = open_counts(station, settings)
        router = APIRouter()

        @router.get("/")
        def show(request: Request) -> None:
            raise ValueError("no parts")

        return PluginPage(page.title, router, page.assets)

    def bare(station: Any, settings: Any) -> PluginPage:
        page = open_counts(station, settings)
        router = APIRouter()

        @router.get("/")
        def show(request: Request) -> HTMLResponse:
            return HTMLResponse("<p>bare", headers={"Content-Language": "en"})

        return PluginPage(page.title, router, page.assets)

    for opens, said in (
        (raising, "viewer: 500 and not 200"),
        (bare, "extend base.html.j2"),
        (loose, "Content-Language|not in en"),
    ):
        with pytest.raises((AssertionError, KeyError), match=said):
            check_page(Plugin("counts", CountSettings, opens), {"letters": 2}, model_file)
    with pytest.raises(AssertionError, match="it is not a `Plugin`"):
        check_page(COUNTS.open, {}, model_file)


@pytest.fixture(name="with_pages")
def with_pages_fixture(settings) -> Iterator[Any]:
    pages = [{"counts": {"letters": 1}}, ConfiguredPlugin("loose", None, loose)]
    running = opened(override_settings(settings, port=0, pages=pages), Listening)
    yield running
    running.close()


@needs_chromium
def test_a_page_works_in_the_browser_and_one_that_is_loose_is_held(with_pages, driver, parts):
    with tablet_at(with_pages, driver) as tablet:
        for part, data in (("A1", parts[0]), ("A2", parts[-1]), ("B1", parts[0])):
            tablet.http.post(
                f"/api/v1/products/{NAME}/inspections?part={part}", content=data
            ).raise_for_status()
        tablet.open("live")
        tablet.click(".menu.settings summary")
        tablet.click("a[href^='/-/pages/counts']")
        tablet.wait(lambda: tablet.all("tr.most"))
        assert tablet.text("h1") == "Counts by part number"
        assert tablet.text("tr.most") == "A21"
        assert tablet.js("return getComputedStyle(document.querySelector('.counts td')).textAlign") == "end"
        assert tablet.text(".product bdi") == NAME
        assert tablet.unfit(PHONE, SLATE) == []
        assert tablet.complaints() == []
        tablet.driver.get(f"{with_pages.url}/-/pages/loose")
        tablet.wait(lambda: tablet.text("#main").startswith("loose"))
        assert tablet.js("return document.documentElement.dataset.inline") is None
        assert tablet.js("return getComputedStyle(document.querySelector('#main')).color") == "rgb(0, 0, 0)"
        complaints = tablet.complaints()
        for directive in ("script-src 'self'", "style-src 'self'"):
            assert any(directive in one for one in complaints), complaints
        assert any("other.js" in one for one in complaints), complaints
