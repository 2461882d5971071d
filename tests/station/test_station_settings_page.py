"""An administrator's page: people, tokens, and sources and sinks of products that were made on the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from station_helpers import Opener, until
from tablet import PHONE, Tablet, driver_fixture, needs_chromium, tablet_fixture

from flawscope.station.settings.station import Product, Settings
from flawscope.station.store.made_here import MADE_HERE

__all__ = ["driver_fixture", "tablet_fixture"]
HOME = "/api/v1/settings"
NIGHT = (1400, 900, True)
PASSWORD = "correct horse battery"


@pytest.fixture(name="running")
def running_fixture(open_station: Opener, settings: Settings) -> Any:
    """A station with a product of its settings file, plate, and one that was made on the pages, disc."""
    running = open_station()
    running.station.sources.setdefault("disc", [])
    model = Product(settings.products["plate"].model)
    running.station.addresses.add_product("disc", model, MADE_HERE, "anna")
    return running


@pytest.fixture
def http(running: Any) -> Any:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def shown(http: httpx.Client, name: str = "disc") -> dict[str, Any]:
    products = http.get(HOME).json()["products"]
    return next(one for one in products if one["name"] == name)


def test_sources_and_sinks_are_added_removed_and_undone(
    http: httpx.Client, tmp_path: Path, parts: list[bytes]
) -> None:
    """While it runs, with the checks of the settings file; what is refused changes nothing."""
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    sources, sinks = f"{HOME}/products/disc/sources", f"{HOME}/products/disc/sinks"
    assert http.post(sources, json={"folder": str(inbox)}).status_code == 204
    assert http.post(sinks, json={"folder": str(out), "only": "all"}).status_code == 204
    (inbox / "one.png").write_bytes(parts[0])
    until(lambda: list(out.rglob("*.json")))
    before = shown(http)
    for path, entry, said in (
        (sources, {"camera": "gopher://x/y"}, "gopher:// is not understood"),
        (sources, {"folder": "in"}, "no whole path"),
        (sources, {"folder": str(inbox), "every": "1 s"}, "every"),
        (sources, {}, "neither `folder` nor `camera`"),
        (sinks, {"webhook": "https://anna:secret@example.invalid/"}, "leave the password out"),
        (sinks, {"folder": str(out)}, "is there twice"),
        (sinks, {"folder": str(inbox / "one.png")}, ""),
    ):
        refused = http.post(path, json=entry)
        assert refused.status_code == 422, entry
        assert said in refused.json()["error"]
        assert shown(http) == before
    (inbox / "two.png").write_bytes(parts[1])
    until(lambda: http.get("/api/v1/products/disc").json()["inspections"] == 2)

    hook = {"webhook": "https://example.invalid/T0KEN/x", "secret": "whsec_" + "QUJD" * 8}
    assert http.post(sinks, json=hook).status_code == 204
    everywhere = http.get(HOME).text + http.get("/-/settings").text + http.get("/api/v1/products/disc").text
    assert "example.invalid/…" in everywhere
    assert "T0KEN" not in everywhere
    assert hook["secret"] not in everywhere
    assert http.delete(f"{sinks}/9").status_code == 404
    assert http.delete(f"{sinks}/1").status_code == 204
    assert shown(http)["sinks"] == ["https://example.invalid/…"]
    assert http.post(f"{HOME}/products/disc/undo").status_code == 204
    assert len(shown(http)["sinks"]) == 2

    wrong = http.post(f"{HOME}/products/plate/sources", json={"folder": str(inbox)})
    assert (wrong.status_code, shown(http, "plate")["by_file"]) == (409, True)
    assert "change it in the settings file" in wrong.json()["error"]


def test_people_and_tokens_are_made_on_the_page_by_administrators_alone(http: httpx.Client) -> None:
    first = http.post(f"{HOME}/users", json={"name": "otto", "role": "viewer", "password": PASSWORD})
    assert "must be an administrator" in first.json()["error"]
    anna = {"name": "anna", "role": "admin", "password": PASSWORD}
    assert http.post(f"{HOME}/users", json=anna).status_code == 204
    assert http.get(HOME).status_code == 401
    signed = http.post("/sign-in", data={"name": "anna", "password": PASSWORD})
    assert signed.status_code == 303
    assert http.post(f"{HOME}/users", json={**anna, "name": "otto", "role": "engineer"}).status_code == 204
    assert http.post(f"{HOME}/users", json={**anna, "name": "eva", "password": "short"}).status_code == 422
    secret = http.post(f"{HOME}/tokens", json={"name": "line", "role": "engineer", "days": 30}).json()[
        "secret"
    ]
    assert secret not in http.get(HOME).text
    token = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=http.base_url) as program:
        assert program.get("/api/v1/products", headers=token).status_code == 200
        for path in (HOME, "/-/settings"):
            assert program.get(path, headers=token).status_code == 403
        assert http.delete(f"{HOME}/tokens/line").status_code == 204
        assert program.get("/api/v1/products", headers=token).status_code == 401
    assert "the last administrator" in http.delete(f"{HOME}/users/anna").json()["error"]
    assert http.delete(f"{HOME}/users/otto").status_code == 204
    assert [one["name"] for one in http.get(HOME).json()["users"]] == ["anna"]


@needs_chromium
def test_an_administrator_does_it_in_the_browser(tablet: Tablet, tmp_path: Path) -> None:
    tablet.driver.get(f"{tablet.url}/-/settings")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
    tablet.js("for (const one of document.querySelectorAll('details')) one.open = true")
    assert tablet.unfit(PHONE, NIGHT) == []
    tablet.js("document.querySelector('#of-1 form:has([name=folder]) input').focus()")
    tablet.press(str(tmp_path), "\n")
    tablet.wait(lambda: str(tmp_path) in tablet.text("#of-1 .links"))
    tablet.click("#of-1 [data-delete]")
    tablet.click("#sure [value=yes]")
    tablet.wait(lambda: not tablet.all("#of-1 .links"))
    tablet.click("#of-1 button[data-post]")
    tablet.wait(lambda: str(tmp_path) in tablet.text("#of-1 .links"))
    tablet.js("document.querySelector('[data-post=\"/tokens\"] [name=name]').focus()")
    tablet.js("document.querySelector('[data-post=\"/tokens\"]').closest('details').open = true")
    tablet.js("document.querySelector('[data-post=\"/tokens\"] [name=name]').focus()")
    tablet.press("line", "\n")
    tablet.wait(lambda: tablet.text("#secret").startswith("fls_"))
    assert tablet.complaints() == []
