"""Pages of other packages: named in the settings, behind the same checks as all pages, each apart. That of
examples/line stands for what others write."""

import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from flawscope.errors import InputError
from flawscope_station.assembly import open_station
from flawscope_station.cli.check import find_faults
from flawscope_station.plugins import PluginPage
from flawscope_station.settings.plugins import ConfiguredPlugin
from flawscope_station.settings.shown import flatten_settings, mask_settings
from flawscope_station.settings.station import override_settings, read_settings
from flawscope_station.web.plugin_pages import MAX_REQUESTS
from flawscope_station.web.templates import PAGES
from plugin_helpers import LINE, Careless, plugins_fixture  # noqa: F401
from station_helpers import INSPECTIONS, NAME, opened, until

pytestmark = pytest.mark.usefixtures("plugins")
COUNTS = "/-/pages/counts"
ASSETS = LINE / "emulated_line/counts"


def page_of(name: str, fill: Callable[[APIRouter], object], **more: Any) -> ConfiguredPlugin:
    """A page whose routes `fill` adds."""

    def open_page(station: Any, settings: Any) -> PluginPage:
        router = APIRouter()
        fill(router)
        return PluginPage(**{"title": {"en": name}, "router": router, "assets": ASSETS, **more})

    return ConfiguredPlugin(name, None, open_page)


def with_pages(settings: Any, *pages: object) -> Any:
    return override_settings(settings, port=0, pages=[*pages])


def test_a_page_named_in_the_settings_is_in_the_menu_and_counts(settings, parts):
    running = opened(with_pages(settings, {"counts": {"letters": 1}}))
    try:
        with httpx.Client(base_url=running.url, timeout=60) as http:
            live = http.get(f"/{NAME}/live", headers={"Accept-Language": "de"}).text
            assert f'<a href="{COUNTS}?product={NAME}">Zählung nach Teilenummer</a>' in live
            assert (
                "Counts by part number" in http.get(f"/{NAME}/live", headers={"Accept-Language": "fr"}).text
            )
            assert "No part yet" in http.get(COUNTS).text
            for part in ("A1", "A2", "B1"):
                sent = http.post(f"/api/v1/{INSPECTIONS}?part={part}", content=parts[0])
                assert sent.status_code == 201
            page = http.get(f"{COUNTS}?product={NAME}", headers={"Accept-Language": "de"})
            rows = re.findall(r"<bdi>(\w)</bdi></th><td>(\d)</td><td>(\d)</td>", page.text)
            assert rows == [("A", "2", "0"), ("B", "1", "0")]
            assert "<h1>Zählung nach Teilenummer</h1>" in page.text
            assert (
                page.headers["Content-Security-Policy"] == PAGES.security_headers["Content-Security-Policy"]
            )
            (script,) = re.findall(rf'src="({COUNTS}/static/counts\.js\?v=\w+)"', page.text)
            assert http.get(script).headers["Content-Type"].startswith("text/javascript")
            assert http.get(f"{COUNTS}/static/__init__.py").status_code == 404
            assert http.get(f"{COUNTS}?product=lid").status_code == 404
            assert http.get(f"{COUNTS}/nothing").status_code == 404
            assert http.get("/-/pages/other").status_code == 404
    finally:
        running.close()


def test_a_page_asks_for_its_role(settings):
    running = opened(with_pages(settings, "counts"))
    try:
        with httpx.Client(base_url=running.url, timeout=60) as http:
            assert http.get(COUNTS).status_code == 200, "nobody has an account"
            for role, status in (("viewer", 403), ("operator", 200), ("sender", 403)):
                token = running.station.access.tokens.add(role, role)
                signed = {"Authorization": f"Bearer {token}"}
                for path in (COUNTS, f"{COUNTS}/static/counts.js"):
                    assert http.get(path, headers=signed).status_code == status, (role, path)
                if role != "sender":
                    shown = COUNTS in http.get(f"/{NAME}/live", headers=signed).text
                    assert shown == (status == 200), role
            away = http.get(COUNTS)
            assert away.status_code == 303
            assert away.headers["Location"].startswith("/sign-in")
    finally:
        running.close()


def test_a_page_that_raises_is_a_problem_until_it_works_and_harms_nobody(settings):
    working = threading.Event()

    def fill(router: APIRouter) -> None:
        @router.get("/")
        def show(request: Request) -> HTMLResponse:
            if not working.is_set():
                raise ZeroDivisionError("the second\nline")
            return HTMLResponse("<p>works", headers={"Content-Security-Policy": "default-src *"})

        @router.get("/fine")
        def fine() -> str:
            return "fine"

        @router.get("/cut")
        def cut() -> StreamingResponse:
            def pieces():
                yield b"a"
                raise ValueError("cut")

            return StreamingResponse(pieces())

        @router.post("/refused")
        def refused() -> str:
            raise HTTPException(409, "not now")

    running = opened(with_pages(settings, page_of("odd", fill), "counts"))
    told = lambda: [one.text for one in running.station.problems() if one.code == "page_failed"]  # noqa: E731
    try:
        with httpx.Client(base_url=running.url, timeout=60) as http:
            failed = http.get("/-/pages/odd")
            assert failed.status_code == 500
            assert "ZeroDivisionError: the second line" in failed.text
            assert "A page of a plugin fails" in failed.text
            assert told() == ["page odd, show: ZeroDivisionError: the second line"]
            token = running.station.access.tokens.add("reader", "viewer")
            hidden = http.get("/-/pages/odd", headers={"Authorization": f"Bearer {token}"})
            assert (hidden.status_code, "ZeroDivision" in hidden.text) == (500, False)
            admin = running.station.access.tokens.add("admin", "admin")
            http.headers["Authorization"] = f"Bearer {admin}"
            for path in (COUNTS, f"/{NAME}/live", "/-/pages/odd/fine"):
                assert http.get(path).status_code == 200
            assert http.post("/-/pages/odd/refused").status_code == 409
            assert told(), "another function of the page works, that one does not"
            with pytest.raises((httpx.HTTPError, AssertionError)):
                http.get("/-/pages/odd/cut")
            until(lambda: "page odd, cut: ValueError: cut" in "".join(told()))
            assert "A page of a plugin fails" in http.get(f"/{NAME}/problems").text
            working.set()
            page = http.get("/-/pages/odd")
            assert page.text == "<p>works"
            assert (
                page.headers["Content-Security-Policy"] == PAGES.security_headers["Content-Security-Policy"]
            )
            until(lambda: told() == ["page odd, cut: ValueError: cut"])
    finally:
        running.close()


def test_a_page_that_hangs_does_not_take_the_threads_of_others(settings):
    going = threading.Event()

    def fill(router: APIRouter) -> None:
        @router.get("/")
        def show() -> str:
            going.wait(60)
            return "late"

    running = opened(with_pages(settings, page_of("slow", fill), "counts"))
    answers: list[int] = []
    try:
        with httpx.Client(base_url=running.url, timeout=60, limits=httpx.Limits(max_connections=50)) as http:
            ask = lambda: answers.append(http.get("/-/pages/slow").status_code)  # noqa: E731
            threads = [threading.Thread(target=ask) for _ in range(MAX_REQUESTS + 4)]
            for thread in threads:
                thread.start()
            until(lambda: answers == [503] * 4)
            assert http.get(COUNTS).status_code == 200
            going.set()
            for thread in threads:
                thread.join()
            assert sorted(answers) == [200] * MAX_REQUESTS + [503] * 4
            assert http.get("/-/pages/slow").status_code == 200
    finally:
        going.set()
        running.close()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("pages: counts", "pages: it must be a list"),
        ("pages: [[counts]]", "pages: it must be a list"),
        ("pages: [count]", "no page called count: did you mean counts?"),
        ("pages: [{counts: {letter: 1}}]", "counts: unknown setting letter; did you mean letters?"),
        ("pages: [{counts: {letters: 0}}]", "counts: letters: 1 or more"),
        ("pages: [counts, {counts: {letters: 2}}]", "counts is there twice: name it once"),
    ],
)
def test_a_wrong_page_in_the_settings_is_a_line(setting, said, tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(setting)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def _raising(station: Any, settings: Any) -> None:
    raise RuntimeError("no\nroom")


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (ConfiguredPlugin("odd", None, _raising), "page odd cannot be opened: RuntimeError: no room"),
        (ConfiguredPlugin("odd", None, lambda *_: 3), "it must return a `PluginPage`"),
        (page_of("odd", str, router=None), "page odd cannot be opened: "),
        (page_of("odd", str, role="sender"), "role 'sender': choose viewer, operator"),
        (page_of("odd", str, title={"de": "Seite"}), "title has no English text"),
        (page_of("odd", str, assets=ASSETS / "none"), "its assets are no folder"),
    ],
)
def test_a_page_that_cannot_be_opened_ends_the_start_with_a_line(page, said, settings):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        open_station(with_pages(settings, page)).close()
    assert "\n" not in str(caught.value)


def test_a_check_says_which_page_cannot_be_opened(settings):
    """No station is there: a page that asks one while it is opened says so."""
    asks = ConfiguredPlugin("asks", None, lambda station, _: station.inspections(NAME))
    odd = page_of("odd", str, assets=ASSETS / "none")
    checked = with_pages(settings, "counts", odd, asks)
    first, second = [line for line in find_faults(checked) if line is not None and line.startswith("pages: ")]
    assert first.startswith("pages: page odd cannot be opened: its assets are no folder")
    assert second.startswith(
        "pages: page asks cannot be opened: its `open` asks the station for `inspections`"
    )


def test_nothing_that_is_installed_shows_a_page_by_itself(settings):
    assert settings.pages == ()
    running = opened(settings)
    try:
        assert httpx.get(f"{running.url}{COUNTS}", timeout=60).status_code == 404
    finally:
        running.close()


def test_settings_of_a_page_are_shown_and_compared_by_its_name(tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text("pages: [{counts: {letters: 2}}]")
    from dataclasses import asdict

    values = asdict(read_settings(path))
    assert mask_settings(values)["pages"] == [{"counts": {"letters": 2}}]
    assert ("pages.1.letters", 2) in [*flatten_settings(values)]
