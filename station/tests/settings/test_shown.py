"""Settings that hold, as others may see them: no secret, and a hash that any change changes."""

import json
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from flawscope_station.settings.shown import hash_settings, mask_settings
from flawscope_station.settings.station import read_settings

SETTINGS = """
database: postgresql://line:pass-word@db.example/station?sslmode=require
mqtt: mqtt://broker.example
products:
  plate:
    model: plate.onnx
    sources:
      - camera: rtsp://user:pass-word@192.0.2.20/live
    sinks:
      - webhook: https://hub.example/pass-word
        only: anomalous
"""


def read(folder: Path, text: str = SETTINGS) -> dict:
    (folder / "station.yaml").write_text(text)
    return asdict(read_settings(folder / "station.yaml"))


def test_no_secret_is_shown_and_all_else_is(tmp_path):
    shown = mask_settings(read(tmp_path))
    assert "pass-word" not in json.dumps(shown)
    plate = shown["products"]["plate"]
    assert plate["model"] == str(tmp_path / "plate.onnx")
    assert plate["sinks"][0]["webhook"]["webhook"] == "https://hub.example/…"
    assert plate["sinks"][0]["only"] == "anomalous"
    assert plate["sources"][0]["camera"] == "rtsp://192.0.2.20/…"
    assert shown["mqtt"]["mqtt"]["broker"] == "mqtt://broker.example"
    assert shown["database"] == "postgresql://db.example/…"
    assert shown["limits"]["queue"] == 64, "defaults hold, too"


@pytest.mark.parametrize("name", ["password", "api_token", "client_secret"])
def test_a_secret_in_the_settings_of_a_plugin_is_masked_and_the_name_of_its_file_is_not(name):
    assert mask_settings({name: "hush", f"{name}_file": "/etc/hush"}) == {
        name: "…",
        f"{name}_file": "/etc/hush",
    }


@pytest.mark.parametrize(
    ("before", "after"), [("anomalous", "all"), ("/pass-word", "/word-pass"), ("plate:", "bolt:")]
)
def test_every_change_changes_the_hash_also_of_what_is_masked(tmp_path, before, after):
    values = read(tmp_path)
    assert hash_settings(values) == hash_settings(read(tmp_path))
    assert hash_settings(values) != hash_settings(read(tmp_path, SETTINGS.replace(before, after)))


def test_a_station_tells_them_and_their_hash_at_every_place(common):
    with httpx.Client(base_url=common.url, timeout=30) as http:
        told = http.get("/api/v1/settings").json()
        assert told["settings"]["products"]["plate"]["model"].endswith(".onnx")
        assert http.get("/api/v1/status").json()["settings"] == told["hash"]
        assert f'flawscope_settings{{hash="{told["hash"]}"}} 1.0' in http.get("/metrics").text
        assert told["hash"] in http.get("/plate/problems").text
