"""The unit of systemd and compose.yaml: what they start exists, and nothing runs with more rights than it
needs."""

import configparser
import importlib
import re
import shlex
from typing import Any

import yaml

from deploy_helpers import ROOT, UNIT, compose_fixture  # noqa: F401
from flawscope.cli.program import Parser, commands
from flawscope_station.settings.sinks import read_broker
from flawscope_station.settings.station import read_settings


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
