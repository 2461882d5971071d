"""A PLC while challenge parts are shown: nothing is OK until they have passed."""

from __future__ import annotations

import httpx
import pytest

from flawscope_line.plc.handshake import Code
from flawscope_line.plc.line import error_code
from flawscope_station.inspecting.interlock import NotProductionError, NotReadyError
from flawscope_station.settings.station import read_settings
from plc_helpers import connection, plc_at
from plugin_helpers import settings_text
from station_helpers import NAME, again, free_port, opened, until

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.mark.parametrize("error", [NotReadyError, NotProductionError])
def test_a_refusal_of_an_interlock_has_its_code(error):
    assert error_code(error("x")) is Code.NOT_READY


def test_it_is_set_up_from_nothing_by_four_sources(settings, reels, model_file, judged, tmp_path):
    """By HTTP, a folder, a camera and a PLC parts are kept and shown, while parts of the line come by all of
    them: these are refused or wait, and none is lost."""
    port, path, under_camera = free_port(), tmp_path / "station.yaml", reels["good"] / "0.png"
    (incoming := tmp_path / "incoming").mkdir()
    text = settings_text(
        settings,
        {NAME: f"{model_file} {reels['good']}"},
        connection("modbus", port, {1: NAME}),
        {"challenge": "[]"},
    )
    then = f"        then: {tmp_path / 'seen'}\n"
    folder = f"      - folder: {incoming}\n{then}        pattern: (?P<part>[\\w-]+)\\.png\n"
    path.write_text(text.replace("    sources:\n", f"    sources:\n{folder}"))
    running = opened(read_settings(path))
    api, plc = f"{running.url}/api/v1/products/{NAME}", plc_at("modbus", port)
    told, passed = running.station.store.events, list[str]()

    def post(where: str, part: str, data: bytes | None = None) -> str:
        answer = httpx.post(f"{api}/{where}", params={"part": part}, content=data, timeout=60)
        return "recorded" if answer.status_code == 201 else str(answer.json()["error"])

    def by_http(part: str, data: bytes) -> str:
        return post("inspections", part, data)

    def by_camera(part: str, data: bytes) -> str:
        under_camera.write_bytes(data)
        return post("trigger", part)

    def by_plc(part: str, data: bytes) -> str:
        under_camera.write_bytes(data)
        plc.say(trigger=False, recipe=1, part=part)
        if part.startswith("P"):
            plc.until(lambda shown: shown["code"] == Code.NOT_READY)
        else:
            assert plc.ready(1) is not None, "it may be triggered"
        outcome, shown = plc.inspect(part)
        assert shown is not None
        assert outcome != "ok" or not shown["error"]
        if outcome in ("ok", "nok"):
            return "recorded"
        return "not ready" if shown["code"] == Code.NOT_READY else "?"

    def by_folder(part: str, data: bytes) -> str:
        (incoming / f"{part}.png").write_bytes(data)
        if part.startswith("P"):
            return "it waits"
        until(lambda: not (incoming / f"{part}.png").exists())
        return str(told("challenge_part_shown", running.station.products[NAME])[0].text)

    ways = {"http": by_http, "folder": by_folder, "camera": by_camera, "plc": by_plc}
    parts = dict(zip(("g-1", "d-1"), judged, strict=True))

    def others_come(name: str) -> None:
        """Parts of the line come, and are not answered."""
        for way, send in ways.items():
            said = send(f"P-{name}-{way}", again(judged[0]))
            assert said == {"folder": "it waits", "plc": "not ready"}.get(way, said)
            assert "recorded" not in said

    try:
        others_come("nothing")
        for (name, data), expected, way in zip(parts.items(), ("good", "defective"), ways, strict=False):
            new = {"name": name, "expected": expected}
            assert httpx.post(f"{api}/challenge/parts", json=new).status_code == 201
            ways[way](name, again(data))
            assert name in [one["name"] for one in httpx.get(f"{api}/challenge").json()["parts"]]
        for way, send in ways.items():
            others_come(way)
            for name, data in parts.items():
                said = send(name, again(data))
                assert ("not ready" if way == "plc" else f"{name} has passed") in said, (way, said)
            assert httpx.get(f"{api}/challenge").json()["ready"], way
            until(lambda: not list(incoming.iterdir()))
            for each in ("http", "camera", "plc"):
                assert ways[each](f"again-{way}-{each}", again(judged[0])) == "recorded"
                passed.append(f"again-{way}-{each}")
            httpx.post(f"{api}/challenge")
        waited = [f"P-{name}-folder" for name in ("nothing", *ways)]
        found = httpx.get(f"{api}/inspections", params={"limit": 100}).json()["inspections"]
        assert sorted(one["part"] for one in found) == sorted([*passed, *waited]), "each once, none lost"
        assert not told("unreadable", running.station.products[NAME])
    finally:
        plc.close()
        running.close()
