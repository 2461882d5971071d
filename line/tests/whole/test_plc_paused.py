"""A PLC and a folder while a person has paused the product: not ready, nothing lost, no fault."""

from __future__ import annotations

import time

import httpx
import pytest

from flawscope_line.plc.handshake import Code
from flawscope_station.settings.station import read_settings
from plc_helpers import connection, plc_at
from plugin_helpers import settings_text
from station_helpers import NAME, free_port, opened, until

WAIT_SECONDS = 4.0  # in which the folder has tried the file, and told a problem if there were one

pytestmark = pytest.mark.usefixtures("plugins")


def test_ready_falls_and_a_folder_waits_until_the_product_goes_on(
    settings, reels, model_file, judged, tmp_path
):
    port, path = free_port(), tmp_path / "station.yaml"
    (incoming := tmp_path / "incoming").mkdir()
    product = {NAME: f"{model_file} {reels['good']}"}
    text = settings_text(settings, product, connection("modbus", port, {1: NAME}))
    path.write_text(text.replace("    sources:\n", f"    sources:\n      - folder: {incoming}\n"))
    running = opened(read_settings(path))
    api, plc = f"{running.url}/api/v1", plc_at("modbus", port)
    try:
        assert plc.ready(1) is not None
        httpx.post(f"{api}/products/{NAME}/pause", json={}).raise_for_status()
        shown = plc.until(lambda shown: not shown["ready"])
        assert shown is not None
        assert shown["code"] == Code.NOT_READY
        (incoming / "waits.png").write_bytes(judged[0])
        time.sleep(WAIT_SECONDS)
        assert httpx.get(f"{api}/status").json()["problems"] == []
        httpx.post(f"{api}/products/{NAME}/resume").raise_for_status()
        assert plc.ready(1) is not None
        found = until(lambda: httpx.get(f"{api}/products/{NAME}/inspections").json()["inspections"])
        assert [one["name"] for one in found] == ["waits.png"]
    finally:
        plc.close()
        running.close()
