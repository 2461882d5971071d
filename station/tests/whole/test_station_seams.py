"""A field that the library gains reaches records, pages, exports and sinks without a file of the station."""

import csv
import io
import json

import httpx

from flawscope import Prediction
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from sink_helpers import Receiver, make_sink
from station_helpers import NAME, until

WEIGHT = {"mean": 12.5, "of": ["left", "right"]}


def test_a_field_of_the_library_needs_no_file_of_the_station(
    open_station, model_file, parts, tmp_path, monkeypatch
):
    document = Prediction.to_dict
    monkeypatch.setattr(
        Prediction,
        "to_dict",
        lambda self: {**document(self), "weight_g": WEIGHT, "source": "x", "note": "y"},
    )
    folder, receiver = tmp_path / "found", Receiver()
    sinks = make_sink(webhook=receiver.url), make_sink(folder=str(folder))
    running = open_station(products={NAME: ProductSettings(str(model_file), sinks=sinks)})
    with Client(running.url) as client, httpx.Client(base_url=running.url, timeout=60) as http:
        found = client.inspect(parts[-1], NAME)
        assert found.weight_g == WEIGHT
        assert (found.source, found.note) == ("http", ""), "the station's own words stay"
        assert client.inspection(found.id, NAME) == found
        page = http.get(f"/{NAME}/inspections/{found.id}").text
        assert "weight g</dt><dd>mean 12.5, of left, right</dd>" in page
        table = http.get(f"/api/v1/products/{NAME}/export").content.decode("utf-8-sig")
        (row,) = csv.DictReader(io.StringIO(table))
        assert json.loads(row["more"])["weight_g"] == WEIGHT
        until(lambda: receiver.taken)
        assert json.loads(receiver.taken[0].body)["data"]["weight_g"] == WEIGHT
        until(lambda: [*folder.glob("*/*.json")])
        (written,) = folder.glob("*/*.json")
        assert json.loads(written.read_text())["data"]["weight_g"] == WEIGHT
