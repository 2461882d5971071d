"""An administrator's page: people, tokens, sources and sinks of products that were made on the pages, and
limits, times of keeping and the broker where no settings file names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from plc_helpers import plugins_fixture, reels_fixture
from sink_helpers import Mosquitto
from station_helpers import INSPECTIONS, Opener, opened, until
from tablet import PHONE, Tablet, driver_fixture, needs_chromium, tablet_fixture

from flawscope.station.page_settings import MADE_ON_PAGES
from flawscope.station.settings.station import Limits, ProductSettings, RetentionSettings, Settings

__all__ = ["driver_fixture", "plugins_fixture", "reels_fixture", "tablet_fixture"]
HOME = "/api/v1/settings"
STATION = f"{HOME}/station"
NIGHT = (1400, 900, True)
PASSWORD = "correct horse battery"


@pytest.fixture(name="running")
def running_fixture(open_station: Opener, settings: Settings) -> Any:
    """A station with a product of its settings file, plate, and one that was made on the pages, disc. The
    file says nothing of limits."""
    running = open_station(limits=Settings.limits)
    running.station.sources.setdefault("disc", [])
    model = ProductSettings(settings.products["plate"].model)
    running.station.addresses.add_product("disc", model, MADE_ON_PAGES, "anna")
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
    made = http.post(f"{HOME}/tokens", json={"name": "line", "role": "engineer", "days": 30})
    secret = made.json()["secret"]
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


def of_station(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get(HOME).json()["station"]
    return found


def test_limits_and_times_are_changed_undone_and_stay(
    http: httpx.Client, running: Any, parts: list[bytes]
) -> None:
    """They hold at once and after a restart, where no settings file names them; what is refused changes
    nothing."""
    inspect = f"/api/v1/{INSPECTIONS}"
    before = of_station(http)
    assert (before["by_file"], before["mqtt"], before["undo"]) == ([], None, False)
    for section, lines, said in (
        ("limits", {"quue": 1}, "did you mean queue?"),
        ("limits", {"queue": "many"}, "queue: 'many' is not a whole number"),
        ("limits", {"upload": "1 KB"}, "no page could be used"),
        ("limits", {"stalled": 0}, "no page could be used"),
        ("keep", {"good": "soon"}, "keep: good: 'soon' is not a time"),
        ("keep", {"space": {}}, ""),
        ("keep", {"good": "9" * 400 + " years"}, "is not a time"),
        ("keep", {"space": "9" * 400 + " TB"}, "is not a size"),
        ("mqtt", {"broker": "http://x"}, "is not mqtt://host:1883"),
        ("mqtt", {"broker": "mqtt://x", "password": "x"}, "password_file wants a `user`"),
        ("mqtt", {"broker": "mqtt://x", "user": "u", "password_file": "/x"}, "does not stand here"),
        ("mqtt", {"broker": "mqtts://x", "ca_file": "ca.pem"}, "no whole path"),
        ("mqtt", {"broker": "mqtts://x", "ca_file": "/none.pem"}, "cannot read certificates"),
        ("host", {}, ""),
    ):
        refused = http.put(f"{STATION}/{section}", json=lines)
        assert (refused.status_code, of_station(http)) == (422, before), (section, lines)
        assert said in refused.json()["error"]
    assert http.post(f"{STATION}/undo").status_code == 422
    assert not list((running.station.files.folder / "secrets").glob("*"))

    assert http.put(f"{STATION}/limits", json={"pixels": "100", "upload": "64 KB"}).status_code == 204
    assert "megapixels" in http.post(inspect, content=parts[0]).json()["error"]
    assert http.post(inspect, content=bytes(65 * 1024)).status_code == 413
    assert http.post(f"{STATION}/undo").status_code == 204
    taken = http.post(inspect, content=parts[0]).json()
    assert http.get(f"{inspect}/{taken['id']}/picture").status_code == 200
    assert http.put(f"{STATION}/keep", json={"space": "1 KB", "good": None}).status_code == 204
    assert of_station(http)["keep"]["anomalous"] == "1 year"
    http.post(inspect, content=parts[1])  # for which there is no space
    until(lambda: http.get(f"{inspect}/{taken['id']}/picture").status_code == 404)
    assert http.delete(f"{STATION}/keep").status_code == 204
    assert of_station(http)["keep"] == before["keep"]
    assert http.post(f"{STATION}/undo").status_code == 204
    said = http.get("/api/v1/audit", params={"about": "settings"}).json()["entries"]
    kept = ["keep.good, keep.space changed"] * 3
    assert [one["text"] for one in said[:4]] == [*kept, "limits.pixels, limits.upload changed"]

    running.close()
    again = opened(running.station.page_settings.started_with)
    try:
        assert again.station.settings.keep == RetentionSettings(good=None, space="1 KB")
        assert not again.station.page_settings.by_file
    finally:
        again.close()
    named = opened(
        replace(running.station.page_settings.started_with, limits=Limits(), keep=RetentionSettings())
    )
    try:
        with httpx.Client(base_url=named.url) as other:
            assert of_station(other)["by_file"] == ["limits", "keep"]
            assert of_station(other)["keep"]["space"] is None
            refused = other.put(f"{STATION}/keep", json={})
            assert (refused.status_code, refused.json()["code"]) == (409, "name_taken")
            assert "disabled" in other.get("/-/settings").text
    finally:
        named.close()


@pytest.mark.skipif(Mosquitto.program() is None, reason="Mosquitto is not installed")
def test_a_broker_is_named_changed_and_taken_away(
    http: httpx.Client, running: Any, parts: list[bytes], tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    secrets, sinks = running.station.files.folder / "secrets", "/api/v1/products/plate"
    try:
        named = {"broker": broker.url, "user": "line", "password": "hunter2", "only": "all"}
        assert http.put(f"{STATION}/mqtt", json=named).status_code == 204
        http.post(f"/api/v1/{INSPECTIONS}", content=parts[0])
        until(lambda: [one["delivered"] for one in http.get(sinks).json()["sinks"]] == [1])
        (kept,) = secrets.glob("~*")
        assert kept.read_text() == "hunter2\n"
        assert "hunter2" not in http.get(HOME).text + http.get("/-/settings").text
        more = {"broker": broker.url, "user": "line", "topic": "hall"}
        assert http.put(f"{STATION}/mqtt", json=more).status_code == 204  # with the same password
        assert running.station.settings.mqtt.password() == "hunter2"
        other = {**more, "broker": "mqtt://127.0.0.1:1"}  # which does not get it
        assert http.put(f"{STATION}/mqtt", json=other).status_code == 204
        assert running.station.settings.mqtt.password() is None
        assert http.post(f"{STATION}/undo").status_code == 204
        http.post(f"/api/v1/{INSPECTIONS}", content=parts[1])
        until(lambda: [one["waiting"] for one in http.get(sinks).json()["sinks"]] == [0])
        until(lambda: not running.station.problems())
        kept.unlink()  # as after a backup was restored
        running.close()
        again = opened(running.station.page_settings.started_with)
        try:
            with httpx.Client(base_url=again.url) as back:
                assert "cannot read" in until(lambda: back.get(sinks).json()["sinks"][0]["error"])
                assert back.delete(f"{STATION}/mqtt").status_code == 204
                assert back.get(sinks).json()["sinks"] == []
                assert back.delete(f"{STATION}/mqtt").status_code == 204
        finally:
            again.close()
    finally:
        broker.kill()


def test_sources_and_sinks_of_packages_are_added(
    plugins: Path, http: httpx.Client, running: Any, reels: dict[str, Path], tmp_path: Path
) -> None:
    sources, sinks = f"{HOME}/products/disc/sources", f"{HOME}/products/disc/sinks"
    out = tmp_path / "out.csv"
    for path, lines, said in (
        (sources, {"plugin": "real", "settings": {}}, "no source called real"),
        (sources, {"plugin": "reel", "settings": {}}, "setting folder is missing"),
        (sources, {"plugin": "reel", "settings": {"folder": str(tmp_path / "none")}}, "no *.png in"),
        (sources, {"plugin": "reel", "settings": {"folder": "/x"}, "every": "1 s"}, "nothing beside it"),
        (sinks, {"plugin": "csv", "settings": {"file": "out.csv"}}, "no whole path"),
        (sinks, {"plugin": "csv", "settings": {"file": "/x", "password": "x"}}, "setting password_file"),
    ):
        refused = http.post(path, json=lines)
        assert refused.status_code == 422, lines
        assert said in refused.json()["error"]
    reel = {"plugin": "reel", "settings": {"folder": str(reels["mixed"])}}
    assert http.post(sources, json=reel).status_code == 204
    found = {"plugin": "csv", "settings": {"file": str(out)}, "only": "anomalous"}
    assert http.post(sinks, json=found).status_code == 204
    assert (shown(http)["sources"], shown(http)["sinks"]) == (["reel"], ["csv"])
    answers = [http.post(f"/api/v1/products/disc/trigger?part={n}").json() for n in range(4)]
    until(lambda: out.exists() and len(out.read_text().splitlines()) == 3)  # with the header
    assert [one["decision"] for one in answers] == ["good", "anomalous"] * 2
    page = http.get("/-/settings").text
    assert 'name="settings.folder"' in page
    assert 'name="settings.serial"' in page

    hook = {"webhook": "https://example.invalid/x", "secret": "whsec_" + "QUJD" * 8}
    assert http.post(sinks, json=hook).status_code == 204
    running.close()
    for path in (*reels["mixed"].iterdir(), *(running.station.files.folder / "secrets").iterdir()):
        path.unlink()
    again = opened(running.station.page_settings.started_with)  # it starts, and says what is missing
    try:
        with httpx.Client(base_url=again.url) as back:
            assert {one.kind for one in again.station.problems()} == {"camera_refused", "sink"}
            assert "no *.png in" in str(again.station.problems())
            assert back.delete(f"{sources}/1").status_code == 204
            assert back.delete(f"{sinks}/2").status_code == 204
            assert again.station.problems() == []
    finally:
        again.close()


@needs_chromium
def test_an_administrator_does_it_in_the_browser(plugins: Path, tablet: Tablet, tmp_path: Path) -> None:
    tablet.driver.get(f"{tablet.url}/-/settings")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
    tablet.js("for (const one of document.querySelectorAll('details')) one.open = true")
    assert tablet.unfit(PHONE, NIGHT) == []
    assert tablet.find("#of-1 [name='settings.serial']")
    tablet.js("document.querySelector('#of-1 form:has([name=folder]) input').focus()")
    tablet.press(str(tmp_path), "\n")
    tablet.wait(lambda: str(tmp_path) in tablet.text("#of-1 .links"))
    tablet.click("#of-1 [data-delete]")
    tablet.click("#sure [value=yes]")
    tablet.wait(lambda: not tablet.all("#of-1 .links"))
    tablet.click("#of-1 button[data-post]")
    tablet.wait(lambda: str(tmp_path) in tablet.text("#of-1 .links"))
    tablet.js("document.getElementById('keep').open = true")
    tablet.js("document.querySelector('#keep [name=good]').value = ''")
    tablet.js("document.querySelector('#keep [name=records]').focus()")
    tablet.press("2 years", "\n")
    tablet.wait(lambda: tablet.all("#of-station > p button"))
    keep = tablet.http.get(HOME).json()["station"]["keep"]
    assert (keep["good"], keep["anomalous"], keep["records"]) == (None, "1 year", "2 years")
    tablet.js("document.querySelector('[data-post=\"/tokens\"]').closest('details').open = true")
    tablet.js("document.querySelector('[data-post=\"/tokens\"] [name=name]').focus()")
    tablet.press("line", "\n")
    tablet.wait(lambda: tablet.text("#secret").startswith("fls_"))
    assert tablet.complaints() == []
