"""deploy/grafana.json and deploy/prometheus.yml: what they ask for, a station has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from station_helpers import NAME, Opener

from flawscope.station.client import Client, RefusedError
from flawscope.station.settings.sinks import SinkSettings
from flawscope.station.settings.station import Product, Settings

pytestmark = pytest.mark.service
DEPLOY = Path(__file__).parents[2] / "deploy"
ASKED = re.compile(r"(flawscope_\w+)(?:\{([^}]*)\})?")  # a metric and the labels that choose


def test_a_station_has_every_metric_and_label_of_the_dashboard(
    settings: Settings, open_station: Opener, parts: list[bytes], tmp_path: Path
) -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    (tmp_path / "in").mkdir()
    model = settings.products[NAME].model
    sinks = (SinkSettings("http://127.0.0.1:9/hook"),)
    running = open_station(products={NAME: Product(model, folder=str(tmp_path / "in"), sinks=sinks)})
    with Client(running.url) as client:
        client.inspect(parts[0])
        with pytest.raises(RefusedError):
            client.inspect(b"none")
    text = httpx.get(f"{running.url}/metrics").text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, {"instance"}).update(sample.labels)
    for query in queries:
        metrics = ASKED.findall(query)
        assert metrics, query
        by = re.findall(r"by \(([^)]*)\)", query)
        for name, chosen in metrics:
            wanted = {*re.findall(r"(\w+)=~?\"", chosen), *(one for some in by for one in some.split(", "))}
            assert name in labels, f"{name} of {query}"
            assert wanted <= labels[name], query


def test_prometheus_takes_its_settings() -> None:
    path = DEPLOY / "prometheus.yml"
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    assert "metrics_path" not in job, "Prometheus asks for /metrics by itself, where the station answers"
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", "--syntax-only", path], check=True)
