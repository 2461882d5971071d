"""Tolerances at a station: a third decision, told apart everywhere, and rules that change meanwhile."""

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

import flawscope
from flawscope.results import drawing
from flawscope_station.access import audit
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from flawscope_station.sinks.mqtt import MqttSink
from flawscope_station.store.records import TOLERANCES_EVENT
from flawscope_station.store.schema import REPORT_VIEW
from sink_helpers import Receiver, make_sink
from station_helpers import NAME, until

WITHIN = "within tolerance"
PERIOD = {"since": "2026-01-01", "until": "2027-01-01"}


def write(path: Path, version: int, length: float = 1e3, side: int = 32, more: str = "") -> Path:
    """A file of rules for square pictures."""
    rule = f"{{kind: any, length: {length}{more}}}"
    path.write_text(f"version: {version}\npicture: [{side}, {side}]\nrules: [{rule}]\n")
    return path


@pytest.mark.both_databases
def test_a_part_within_tolerance_is_told_apart_everywhere(open_station, model_file, judged, spot, tmp_path):
    predictor, scaled, good = flawscope.load(model_file).with_scale(0.1), tmp_path / "scaled.onnx", judged[0]
    predictor.save(scaled)
    side = predictor.predict(spot).geometry.picture_size[0]
    rules = write(tmp_path / "tolerances.yaml", 3, side=side)
    every, bad = Receiver(), Receiver()
    sinks = make_sink(webhook=every.url), make_sink(webhook=bad.url, only="anomalous")
    product = ProductSettings(str(scaled), tolerances=str(rules), sinks=sinks)
    running = open_station(products={NAME: product})
    force = running.station.tolerances.in_force(running.station.products[NAME])
    assert force is not None
    with Client(running.url) as client, httpx.Client(base_url=running.url, timeout=60) as http:
        api = f"/api/v1/products/{NAME}"

        def totals(*names: str) -> list[int]:
            counts = http.get(f"{api}/trends").json()["totals"]
            return [counts[name] for name in names]

        first, second = client.inspect(good, NAME), client.inspect(spot, NAME)
        assert (first.decision, first.is_anomalous, first.tolerances) == ("good", False, force)
        assert (second.decision, second.is_anomalous, second.tolerances) == (WITHIN, True, force)
        assert second.findings[0].code == "within_tolerance"
        assert client.inspection(second.id, NAME) == second
        for decision, ids in (("good", [first.id]), ("anomalous", []), (WITHIN, [second.id])):
            page = http.get(f"{api}/inspections", params={"decision": decision}).json()["inspections"]
            assert [one["id"] for one in page] == ids
        assert http.get(f"{api}/review").json()["inspections"] == [], "the rules have decided"
        assert http.get(api).json()["tolerances"] == force
        rows = [*csv.DictReader(io.StringIO(http.get(f"{api}/export").content.decode("utf-8-sig")))]
        assert {row["id"]: row["decision"] for row in rows} == {str(first.id): "good", str(second.id): WITHIN}
        assert all(force["sha256"] in row["tolerances"] for row in rows)
        metric = 'flawscope_inspections_total{decision="within tolerance",product="plate"} 1.0'
        assert metric in http.get("/metrics").text
        assert totals("anomalous", "within_tolerance") == [0, 1]
        report = http.get(f"{api}/shift-report", params={**PERIOD, "format": "json"}).json()
        assert (report["anomalous"], report["within_tolerance"], report["inspected"]) == (0, 1, 2)
        for language, words, why in (
            ("en", "Within", "Tolerated: region length [0-9.]+ mm, may be up to [0-9.]+ mm ≤ 1000 mm"),
            (
                "de",
                "Innerhalb der",
                "Toleriert: Bereich: Länge [0-9,]+ mm, vielleicht bis [0-9,]+ mm ≤ 1000 mm",
            ),
            ("fr", "Dans la", "Toléré: zone : longueur [0-9,]+ mm, peut-être jusqu.+à [0-9,]+ mm ≤ 1000 mm"),
        ):
            for page in ("history", f"inspections/{second.id}"):
                told = http.get(f"/{NAME}/{page}", headers={"Accept-Language": language}).text
                assert re.search(f'<span class="badge within-tolerance">.*{words} tol', told, re.I | re.S)
                assert re.search(why, told), (language, page)
        assert force["sha256"] in told
        assert "Kinds within tolerance" not in http.get(f"{api}/shift-report", params=PERIOD).text
        database = running.station.database
        with database.reading() as connection:
            by_sql = connection.execute(text(f"SELECT decision FROM {REPORT_VIEW} ORDER BY inspection"))
            assert [*by_sql.scalars()] == ["good", WITHIN]
        box: Any = SimpleNamespace(database=database, product_id=running.station.products[NAME])
        sink: Any = SimpleNamespace(_renderings=SimpleNamespace(store=running.station.store))
        state = MqttSink._product_state(sink, box)
        assert (state["decision"], state["anomalous"], state["within_tolerance"]) == (WITHIN, 0, 1)
        assert state["share_24_hours"] == 0
        for verdict, misses in (("defect", 1), ("good", 0)):
            client.verdict(second.id, verdict, product=NAME)
            assert totals("misses", "false_alarms") == [misses, 0], "the rules let it pass"
    running.close()

    write(rules, 4, 1e-3, side=side)
    running = open_station(products={NAME: product})
    with Client(running.url) as client:
        third = client.inspect(spot, NAME)
        overlays = f"{running.url}/api/v1/products/{NAME}/inspections"
        for inspection, within in ((second, True), (third, False)):  # one picture, one version, other rules
            shown = httpx.get(f"{overlays}/{inspection.id}/overlay").content
            drawn = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB")).astype(int)
            yellow = abs(drawn - drawing.WITHIN_COLOUR).max(2) < 60
            assert yellow.any() == within
        assert (third.decision, third.findings[0].code) == ("anomalous", "beyond_tolerance")
    events = audit.search(running.station.database, about="settings")
    said = [event["text"].split(", ")[1] for event in events if event["kind"] == TOLERANCES_EVENT]
    assert said == ["version 4", "version 3"]
    until(lambda: len(every.taken) == 5)
    until(lambda: len(bad.taken) == 3, "verdicts are sent, too")
    inspected = [one.json["data"] for one in bad.taken if "said" not in one.json["data"]]
    assert [data["id"] for data in inspected] == [third.id]
