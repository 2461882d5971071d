"""Kinds of defects at a station: in every answer, on its pages, in reports, and as a person names them."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

import flawscope
from flawscope.predictor.kinds import Example, learn_kinds
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.kinds import KindCounts, count_kinds
from sink_helpers import make_sink
from station_helpers import NAME, until

PERIOD = {"since": "2026-01-01", "until": "2027-01-01"}


def test_a_model_with_kinds_tells_them_everywhere(open_station, receive, model_path, drawn, tmp_path):
    folders = [path for path in (drawn / "plate/test").iterdir() if path.name != "good"]
    pictures = [path for folder in folders for path in sorted(folder.iterdir())]
    learnt = learn_kinds(flawscope.load(model_path), [Example(path, "defect") for path in pictures], 0.9)
    assert learnt.model.manifest.kinds is not None
    learnt.model.save(tmp_path / "named.safetensors")
    expected = learnt.model.predict(pictures[0])
    assert expected.regions[0].kinds is not None
    receiver, model = receive(), str(tmp_path / "named.safetensors")
    sinks = (make_sink(webhook=receiver.url),)
    running = open_station(products={NAME: ProductSettings(model, sinks=sinks)})
    with Client(running.url) as client:
        found = client.inspect(pictures[0])
        assert [region.to_dict() for region in found.regions] == [
            {**region.to_dict(), "peak": pytest.approx(region.peak, rel=1e-5)} for region in expected.regions
        ]
        assert client.inspection(found.id).regions == found.regions
        client.verdict(found.id, "defect", kind="dent")
    regions = [region.to_dict() for region in found.regions]
    with httpx.Client(base_url=f"{running.url}/api/v1/products/{NAME}/", timeout=60) as http:
        assert http.get(f"inspections/{found.id}").json()["regions"] == regions
        (row,) = csv.DictReader(io.StringIO(http.get("export").content.decode("utf-8-sig")))
        assert json.loads(row["regions"]) == regions
    until(lambda: len(receiver.taken) == 2)
    inspection, verdict = (one.json["data"] for one in receiver.taken)
    assert inspection["regions"] == verdict["regions"] == regions
    assert (verdict["kind"], verdict["said"]["kind"]) == ("dent", "dent")


def test_a_model_without_kinds_answers_as_before(client, http, parts):
    number = client.inspect(parts[-1], NAME).id
    shown = http.get(f"/api/v1/products/{NAME}/inspections/{number}").json()
    assert shown["regions"][0].keys() == {"box", "area", "peak", "centroid"}
    page = http.get(f"/{NAME}/inspections/{number}").raise_for_status().text
    assert '<datalist id="kinds"></datalist>' in page
    assert "Kind of defect</th>" not in page
    report = http.get(f"/api/v1/products/{NAME}/shift-report", params=PERIOD).raise_for_status().text
    assert "Kinds of defects" not in report


def test_pages_and_reports_show_kinds(client, http, parts, naming):
    api = f"/api/v1/products/{NAME}"
    number = client.inspect(parts[-1], NAME).id
    assert "<bdi>scratch</bdi>" in http.get(f"/{NAME}/history").text
    assert "<td><bdi>scratch</bdi></td>" in http.get(f"/{NAME}/inspections/{number}").text
    client.inspect(parts[0], NAME)
    naming.update(crack=0.5)
    several = client.inspect(parts[-1], NAME).id
    assert "<td><bdi>crack / scratch</bdi></td>" in http.get(f"/{NAME}/inspections/{several}").text
    naming.update(crack=0.01, scratch=0.01)
    new = client.inspect(parts[-1], NAME).id
    assert "<td><bdi>something new</bdi></td>" in http.get(f"/{NAME}/inspections/{new}").text
    counts = http.get(f"{api}/shift-report", params={**PERIOD, "format": "json"}).json()
    assert counts["kinds"] == {"named": {"scratch": 1}, "several": 1, "new": 1}
    page = http.get(f"{api}/shift-report", params=PERIOD).text
    for name in ("scratch", "several kinds fit", "something new"):
        assert f"<bdi>{name}</bdi></th><td>1</td>" in page
    client.verdict(new, "good", product=NAME)
    counts = http.get(f"{api}/shift-report", params={**PERIOD, "format": "json"}).json()
    assert counts["kinds"]["new"] == 0, "a person called it good"


def test_the_most_frequent_kind_is_the_first():
    def row(*kinds: str, named: str | None = None) -> tuple[str | None, list[dict[str, Any]]]:
        return named, [{"kinds": [*kinds]}, {"kinds": ["of a weaker region"]}]

    given = [row("b"), row("a"), row("c"), row("a", "b", named="c"), (None, []), (None, [{"peak": 1.0}])]
    counts = count_kinds([*given, row(), row("a", "b"), row("a", "b")])
    assert [*counts.named.items()] == [("c", 2), ("a", 1), ("b", 1)]
    assert (counts.several, counts.new, counts.most) == (2, 1, 2)
    assert count_kinds([]) == KindCounts({}, 0, 0)
    assert count_kinds([]).most == 0


def test_a_person_names_the_kind(client, http, parts, naming):
    api = f"/api/v1/products/{NAME}"

    def counts() -> dict[str, int]:
        report = http.get(f"{api}/shift-report", params={**PERIOD, "format": "json"}).json()
        return dict(report["kinds"]["named"])

    number = client.inspect(parts[-1], NAME).id
    assert client.inspection(number, NAME).kind is None
    page = http.get(f"/{NAME}/inspections/{number}").text
    assert '<option value="crack"></option><option value="scratch"></option>' in page
    assert counts() == {"scratch": 1}
    assert client.verdict(number, "defect", product=NAME, kind=" Öl <b> ").kind == "Öl <b>"
    assert client.inspection(number, NAME).kind == "Öl <b>"
    assert counts() == {"Öl <b>": 1}
    assert "<bdi>Öl &lt;b&gt;</bdi>" in http.get(f"/{NAME}/history").text
    assert 'value="Öl &lt;b&gt;"' in http.get(f"/{NAME}/inspections/{number}").text
    (row,) = csv.DictReader(io.StringIO(http.get(f"{api}/export").content.decode("utf-8-sig")))
    assert row["kind"] == "Öl <b>"
    client.verdict(number, "defect", product=NAME, kind="crack")
    assert counts() == {"crack": 1}
    client.verdict(number, "undo", product=NAME)
    assert counts() == {"Öl <b>": 1}
    client.verdict(number, "good", product=NAME)
    assert client.inspection(number, NAME).kind is None
    assert counts() == {}
    for body, said in (
        ({"verdict": "good", "kind": "crack"}, "leave it out"),
        ({"verdict": "defect", "kind": "x" * 101}, "1 to 100"),
        ({"verdict": "defect", "kind": "a\nb"}, "1 to 100"),
    ):
        refused = http.post(f"{api}/inspections/{number}/verdict", json=body)
        assert (refused.status_code, said in refused.json()["error"]) == (422, True)
