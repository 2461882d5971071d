"""The unit of systemd and compose.yaml: what they start exists, and nothing runs with more rights than it
needs."""

import json
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy_helpers import ROOT, UNIT, compose_fixture  # noqa: F401
from flawscope_station.client import Client, RefusedError
from flawscope_station.core import queries
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.files import BACKUP_FILE
from sink_helpers import make_sink
from station_helpers import NAME, free_port, until


def test_pg_dump_is_as_new_as_the_server(compose):
    """Debian 12, which the image is made from, has 15."""
    assert "slim-bookworm" in (ROOT / "Dockerfile").read_text()
    assert re.fullmatch(r"postgres:15\.\d+-bookworm", compose["services"]["database"]["image"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd: apt-get install systemd")
def test_systemd_understands_the_unit(tmp_path):
    """All but the program, which is not installed here."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/flawscope/current/bin/flawscope", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert UNIT.name not in done.stderr, done.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "Failed to" not in rated.stderr:
        assert rated.returncode == 0, "less protected than it was"


DEPLOY = Path(__file__).parents[3] / "deploy"
ASKED = re.compile(r"(flawscope_\w+)(?:\{([^}]*)\})?")  # a metric and the labels that choose


@pytest.fixture
def running(settings, open_station, tmp_path):
    """With a folder and a sink, whose metrics others lack."""
    (tmp_path / "in").mkdir()
    model, sinks = settings.products[NAME].model, (make_sink(webhook="http://127.0.0.1:9/hook"),)
    return open_station(products={NAME: ProductSettings(model, folder=str(tmp_path / "in"), sinks=sinks)})


def asked(variables: bool = False) -> list[str]:
    """Queries of the dashboard, and of the alert rules where something can be told of."""
    board = json.loads((DEPLOY / "grafana.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    alerts = [one["expr"] for one in rules if "flawscope_" in one["expr"]]
    more = [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + (
        more + alerts
    ) * variables


def test_a_station_has_every_metric_and_label_of_the_dashboard(running, parts, monkeypatch):
    """And of the alert rules."""
    (running.station.files.folder / BACKUP_FILE).touch()
    until(lambda: running.station.machine.state.disk.backup_at)
    running.station.report("camera_away_1_1", "the cable is out")
    monkeypatch.setattr(queries, "compare_false_alarm_rates", lambda versions, number: {"state": "kept"})
    with Client(running.url) as client:
        client.inspect(parts[0])
        with pytest.raises(RefusedError):
            client.inspect(b"none")
    text = httpx.get(f"{running.url}/metrics").text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, {"instance"}).update(sample.labels)
    for query in asked(variables=True):
        metrics = ASKED.findall(query)
        assert metrics, query
        by = re.findall(r"by \(([^)]*)\)", query)
        for name, chosen in metrics:
            wanted = {*re.findall(r"(\w+)=~?\"", chosen), *(one for some in by for one in some.split(", "))}
            assert name in labels, f"{name} of {query}"
            assert wanted <= labels[name], query


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus: apt-get install prometheus")
@pytest.mark.listens
def test_a_real_prometheus_reads_the_station_and_answers_every_query(running, judged, tmp_path):
    """With its settings of deploy/, another target and interval, and a token."""
    access = running.station.access
    (tmp_path / "flawscope-token").write_text(access.tokens.add("prometheus", "viewer"))
    given = (DEPLOY / "prometheus.yml").read_text()
    given = given.replace("127.0.0.1:8080", running.url.removeprefix("http://")).replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(given)
    waiting = {one.replace("$product", ".+").replace("$station", ".+") for one in asked()}
    port = free_port()
    own = ("--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}")
    process = subprocess.Popen(["prometheus", *own], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        server, line = f"http://127.0.0.1:{port}/api/v1", access.tokens.add("line", "operator")
        with httpx.Client(base_url=server) as http, Client(running.url, token=line) as client:

            def is_answered(query: str) -> bool:
                try:
                    answer = http.get("/query", params={"query": query})
                except httpx.TransportError:  # it starts
                    return False
                assert answer.status_code in (200, 503), f"{query}: {answer.text}"
                return answer.status_code == 200 and bool(answer.json()["data"]["result"])

            def all_answered() -> bool:
                for part in judged:
                    client.inspect(part)
                with suppress(RefusedError):
                    client.inspect(b"none")
                waiting.difference_update({one for one in waiting if is_answered(one)})
                return not waiting

            until(all_answered)
    finally:
        process.terminate()
        process.wait(20)
