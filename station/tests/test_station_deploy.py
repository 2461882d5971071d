"""The unit of systemd and compose.yaml: what they start exists, and nothing runs with more rights than it
needs."""

import configparser
import importlib
import json
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flawscope.cli import Parser, commands
from flawscope_station.client import Client, RefusedError
from flawscope_station.settings.sinks import read_broker
from flawscope_station.settings.station import ProductSettings, read_settings
from sink_helpers import make_sink
from station_helpers import NAME, free_port, until

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/flawscope-station.service"


@pytest.fixture(scope="module")
def compose():
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def parsed(words: list[str]) -> Any:
    """As the command line takes them. InputError where it does not."""
    parser = Parser(prog=words[0])
    importlib.import_module(commands()[words[0]].module).add_arguments(parser)
    return parser.parse_args(words[1:])


def test_the_settings_of_the_containers_are_settings(compose, tmp_path):
    text = (ROOT / "deploy/station.yaml").read_text()
    (name,) = compose["secrets"]
    assert f"password_file: /run/secrets/{name}" in text
    (tmp_path / "secret").write_text("word")
    (tmp_path / "station.yaml").write_text(text.replace(f"/run/secrets/{name}", "secret"))
    settings = read_settings(tmp_path / "station.yaml")
    assert list(settings.products) == ["plate"]
    assert settings.url == "postgresql+psycopg://flawscope:word@database/flawscope"
    assert settings.store == "/data/station"


def test_the_station_is_started_and_watched(compose):
    station = compose["services"]["station"]
    assert parsed(station["command"]).model == "/line/station.yaml"
    assert "entrypoint" not in station, "that of the image: signals reach it"
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert station["build"]["target"] in stages
    code = station["healthcheck"]["test"][-1]
    compile(code, "healthcheck", "exec")
    assert "http://127.0.0.1:8080/readyz" in code
    assert station["depends_on"]["database"]["condition"] == "service_healthy"


def test_containers_have_no_more_rights_than_they_need(compose):
    more = yaml.safe_load((ROOT / "compose.mqtt.yaml").read_text())
    station, database = (compose["services"][name] for name in ("station", "database"))
    mosquitto = more["services"]["mosquitto"]
    assert station["cap_drop"] == ["ALL"]
    for service, volumes in (
        (station, compose["volumes"]),
        (database, compose["volumes"]),
        (mosquitto, more["volumes"]),
    ):
        assert service is database or service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        named = [v.split(":")[0] for v in service["volumes"] if not v.startswith("./")]
        assert set(named) <= set(volumes), "what is kept survives `down`"
        own = [v.split(":") for v in service["volumes"] if v.startswith("./")]
        assert all(mode == "ro" for *_, mode in own)
    assert "ports" not in database
    assert all(port.startswith("127.0.0.1:") for port in (*station["ports"], *mosquitto["ports"]))
    assert database["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] is True
    assert set(mosquitto["networks"]) <= set(compose["networks"])


def test_compose_stands_mosquitto_beside_the_station(compose, tmp_path):
    more = yaml.safe_load((ROOT / "compose.mqtt.yaml").read_text())
    station, mosquitto = more["services"]["station"], more["services"]["mosquitto"]
    assert station["depends_on"]["mosquitto"]["condition"] == "service_healthy"
    assert mosquitto["healthcheck"]["test"][0] == "CMD"
    assert set(compose["services"]["station"]["secrets"]) < set(station["secrets"])
    assert {*station["secrets"], *mosquitto["secrets"]} == set(more["secrets"]) | set(compose["secrets"])
    page = (ROOT / "docs/station-mqtt.md").read_text(encoding="utf-8")
    assert mosquitto["image"] in page
    blocks = [yaml.safe_load(one)["mqtt"] for one in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    found = {one["broker"]: read_broker(one, tmp_path).plugin.values for one in blocks}
    assert getattr(found["mqtt://mosquitto"], "password_file", "") == "/run/secrets/mqtt_password"


def test_the_password_is_in_the_secret_alone(compose):
    (name,) = compose["secrets"]
    assert "file" in compose["secrets"][name]
    for service in compose["services"].values():
        assert service["secrets"] == [name]
        environment = service.get("environment", {})
        assert [key for key in environment if "PASSWORD" in key and not key.endswith("_FILE")] == []


def test_pg_dump_is_as_new_as_the_server(compose):
    """Debian 12, which the image is made from, has 15."""
    assert "slim-bookworm" in (ROOT / "Dockerfile").read_text()
    assert re.fullmatch(r"postgres:15\.\d+-bookworm", compose["services"]["database"]["image"])


def test_the_unit_starts_a_station_as_nobody_special():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    service = dict(unit["Service"])
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/flawscope")
    assert parsed(words).model == "/etc/flawscope/station.yaml"
    assert service["User"] not in ("root", "0")
    assert service["CapabilityBoundingSet"] == ""
    assert (service["ProtectSystem"], service["NoNewPrivileges"]) == ("strict", "yes")
    assert service["KillSignal"] == "SIGTERM"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
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


DEPLOY = Path(__file__).parents[2] / "deploy"
ASKED = re.compile(r"(flawscope_\w+)(?:\{([^}]*)\})?")  # a metric and the labels that choose


@pytest.fixture
def running(settings, open_station, tmp_path):
    """With a folder and a sink, whose metrics others lack."""
    (tmp_path / "in").mkdir()
    model, sinks = settings.products[NAME].model, (make_sink(webhook="http://127.0.0.1:9/hook"),)
    return open_station(products={NAME: ProductSettings(model, folder=str(tmp_path / "in"), sinks=sinks)})


def asked(variables: bool = False) -> list[str]:
    """Queries of the dashboard."""
    board = json.loads((DEPLOY / "grafana.json").read_text())
    more = [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + more * variables


def test_a_station_has_every_metric_and_label_of_the_dashboard(running, parts):
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


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
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
