"""Pictures of a new product that the station takes itself, and the camera that goes live with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from flawscope.errors import InputError
from flawscope.predictor import watch
from flawscope_station.drift.camera_faults import measure_picture
from flawscope_station.setup.capture import quality_hints
from flawscope_station.setup.live_products import LiveProducts
from setup_helpers import NEW, begin, empty_fixture, empty_settings
from station_helpers import opened, until

__all__ = ["empty_fixture"]
PASSWORD = "s3cret&w@rd"
SHOWN = "rtsp://camera.invalid/…"


def camera(name: str) -> str:
    """Address of an emulated camera that shows another plate every fifth of a second."""
    return f"lavfi:{name}=size=96x64:rate=5,realtime"


@pytest.fixture
def http(empty):
    """With a product that was begun."""
    with httpx.Client(base_url=empty.url, timeout=120) as client:
        begin(client)
        yield client


def test_a_camera_for_a_machine_that_asks_says_how_far_it_is_behind(http):
    refused = named(http, camera=camera("testsrc2"), every="trigger")
    assert refused.status_code == 422
    assert "write `latency: 500 ms` below it" in refused.json()["error"]
    assert (
        "latency" in named(http, camera=camera("testsrc2"), every="trigger", latency="soon").json()["error"]
    )
    named(http, camera=camera("testsrc2"), every="trigger", latency="300 ms").raise_for_status()


def named(http: httpx.Client, **source: str) -> httpx.Response:
    return http.put(f"{NEW}/plate/source", json=source)


def taken(http: httpx.Client) -> dict[str, Any]:
    answer = http.post(f"{NEW}/plate/capture", json={})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()["results"][0]
    return found


@pytest.mark.slow
def test_a_camera_is_named_looked_through_and_goes_live(empty, http):
    """Also after a restart; another camera takes its place."""
    assert "no camera of its own" in http.get(f"{NEW}/plate/view").json()["error"]
    named(http, camera=camera("testsrc2"), every="200 ms").raise_for_status()
    first = http.get(f"{NEW}/plate/view").json()
    assert first["picture"]
    assert first["alike"] is None
    for _ in range(4):
        assert taken(http)["status"] == "kept"
    http.post(f"{NEW}/plate/learn", json={"size": "64"}).raise_for_status()
    until(lambda: http.get(f"{NEW}/plate").json()["stage"] == "ready")
    assert http.post(f"{NEW}/plate/live").json()["sources"][0]["kind"] == "camera"
    until(lambda: http.get("/api/v1/products/plate").json()["inspections"] > 2)
    assert http.get(f"{NEW}/plate").json()["source"] is None

    station = empty.station
    other = {"camera": camera("testsrc"), "every": "500 ms"}
    with pytest.raises(InputError, match="no stream and no device"):
        station.parts[LiveProducts].set_camera("plate", {"camera": "film.mp4"}, "anna")
    assert "testsrc2" in http.get("/api/v1/products/plate").json()["sources"][0]["place"]
    station.parts[LiveProducts].set_camera("plate", other, "anna")
    (source,) = http.get("/api/v1/products/plate").json()["sources"]
    assert source["place"] == other["camera"]
    said = http.get("/api/v1/audit", params={"about": "settings"}).json()["entries"]
    assert [one["text"] for one in said[:2]] == ["camera of plate changed"] * 2

    settings = empty.station.settings
    empty.close()
    again = opened(empty_settings(Path(settings.store)))
    try:
        with httpx.Client(base_url=again.url, timeout=60) as back:
            before = back.get("/api/v1/products/plate").json()["inspections"]
            until(lambda: back.get("/api/v1/products/plate").json()["inspections"] > before)
            (source,) = back.get("/api/v1/products/plate").json()["sources"]
            assert source["place"] == other["camera"]
    finally:
        again.close()


def test_a_folder_fills_the_draft(empty, http, tmp_path):
    """Each picture once; what is none is refused with a reason; the folder is left when somebody says so."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    assert "no whole path" in named(http, folder="incoming").json()["error"]
    assert "on the station's computer" in named(http, folder=str(tmp_path / "none")).json()["error"]
    assert "not both" in named(http, folder=str(folder), camera="/dev/video0").json()["error"]
    named(http, folder=str(folder)).raise_for_status()
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    until(lambda: http.get(f"{NEW}/plate").json()["pictures"] == 3)
    until(lambda: http.get(f"{NEW}/plate").json()["source"]["taken"] == 3)  # counted when it is kept
    named(http).raise_for_status()
    assert http.get(f"{NEW}/plate").json()["source"] is None
    assert "no stream and no device" in named(http, camera="/srv/parts.mp4").json()["error"]
    assert "no camera of its own" in http.get(f"{NEW}/plate/view").json()["error"]


def test_a_folder_that_is_not_known_to_be_good_is_asked_about_and_nothing_is_passed_over_untold(
    empty, http, tmp_path, monkeypatch
):
    monkeypatch.setitem(watch.Arrivals.__init__.__kwdefaults__, "patience", 0.5)
    rng = np.random.default_rng(0)

    def draw(name):
        path = tmp_path / "incoming" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)

    def source():
        return http.get(f"{NEW}/plate").json()["source"]

    for name in ("Gutteile/1.png", "pcb7_mask_top.png", "Charge/2.png"):
        draw(name)
    named(http, folder=str(tmp_path / "incoming")).raise_for_status()
    until(lambda: source()["why"])
    assert "which folders hold good pictures?" in source()["why"]
    assert "Charge (1)" in source()["why"]
    assert source()["taken"] == 0
    for name in ("Gutteile", "Charge"):
        shutil.move(tmp_path / "incoming" / name, tmp_path / name)
    draw("q1_seg1.png")
    (tmp_path / "incoming/capture.cr9").write_bytes(b"x")
    until(lambda: source()["taken"] == 2)
    until(lambda: source()["refused"] == 1)
    assert source()["why"] == "capture.cr9: .cr9 is not a picture's ending"


def test_passwords_are_kept_apart_and_never_shown(empty, http):
    """Also one that is pasted with the address; when nobody needs it, it is gone."""
    kept = empty.station.files.folder / "secrets"
    for source in (
        {"camera": f"rtsp://anna:{PASSWORD}@camera.invalid/one"},
        {"camera": "rtsp://anna@camera.invalid/two", "password": PASSWORD},
        {"camera": f"rtsp://anna:{PASSWORD}@camera.invalid/three"},
    ):
        answer = named(http, **source)
        assert answer.json()["source"]["place"] == SHOWN
        (path,) = kept.iterdir()
        assert path.read_text() == f"{PASSWORD}\n"
        state = (empty.station.files.folder / "new/plate/.draft.json").read_text()
        for text in (answer.text, state, http.get("/-/new/plate").text, http.get(f"{NEW}/plate").text):
            assert PASSWORD not in text
    pasted = named(http, camera=f"anna:{PASSWORD}@camera.invalid/four")
    assert pasted.status_code == 422
    assert PASSWORD not in pasted.text
    assert "a user and no password" in named(http, camera="rtsp://camera.invalid/x", password="x").text
    assert http.delete(f"{NEW}/plate").status_code == 204
    assert [*kept.iterdir()] == []


def test_administrators_name_cameras_and_engineers_use_them(empty, http):
    named(http, camera=camera("testsrc2")).raise_for_status()
    access = empty.station.access
    access.add_user("anna", "correct horse battery", "admin")
    token = {"Authorization": f"Bearer {access.add_token('line', 'engineer')}"}
    assert http.put(f"{NEW}/plate/source", json={}, headers=token).status_code == 403
    assert http.get(f"{NEW}/plate/view", headers=token).status_code == 200
    assert http.get(f"{NEW}/plate/view").status_code == 401


def test_focus_and_light_are_said_in_words():
    """By the earlier pictures; without them only what is wrong with any picture."""
    rng = np.random.default_rng(1)
    part = Image.fromarray(rng.integers(60, 180, (60, 80), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.NEAREST
    )
    usual = [measure_picture(part.point(lambda value, k=k: value + k)) for k in range(5)]
    blurred = part.filter(ImageFilter.GaussianBlur(4))
    assert quality_hints(usual[0], []) == quality_hints(usual[2], usual) == []
    assert quality_hints(measure_picture(part.point(lambda value: value // 2)), usual) == ["darker"]
    assert quality_hints(measure_picture(part.point(lambda value: value * 1.3)), usual) == ["brighter"]
    assert quality_hints(measure_picture(blurred), usual) == ["softer"]
    assert quality_hints(usual[0], [measure_picture(blurred)] * 3) == ["sharper"]
    assert quality_hints(measure_picture(part.point(lambda value: 0)), usual) == ["dark"]
    assert quality_hints(measure_picture(part.point(lambda value: 255 if value > 100 else value)), []) == [
        "glare"
    ]
