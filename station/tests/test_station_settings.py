"""What a file of settings may say, and passwords that are kept beside it."""

import re
import textwrap
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.settings.sinks import SinkSettings, read_broker, read_sinks
from flawscope_station.settings.sources import read_source
from flawscope_station.settings.station import Settings, read_settings, suggest_product_name
from flawscope_station.settings.values import redact_address, redact_text, time_of
from flawscope_station.sinks.folder import FolderSinkSettings
from flawscope_station.sinks.mqtt import MqttSettings
from flawscope_station.sinks.webhook import WebhookSettings
from flawscope_station.store.database import Database

URL = "postgresql://line@db.example/station?sslmode=require"
PASSWORD = "p@ss:/w%rd ä"


def with_file(text: str | bytes | None, folder: Path, database: str | None = URL) -> Settings:
    """Settings in a file, and the password beside them."""
    if text == "a folder":
        (folder / "secret").mkdir()
    elif text is not None:
        (folder / "secret").write_bytes(text.encode() if isinstance(text, str) else text)
    line = f"database: {database}\n" if database else ""
    (folder / "station.yaml").write_text(f"products: {{}}\n{line}password_file: secret\n")
    return read_settings(folder / "station.yaml")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_password_comes_from_the_file_beside_the_settings(tmp_path, end):
    settings = with_file(PASSWORD + end, tmp_path)
    assert settings.url == (
        "postgresql+psycopg://line:p%40ss%3A%2Fw%25rd%20%C3%A4@db.example/station?sslmode=require"
    )
    database = Database(settings.url)
    assert database.engine.url.password == PASSWORD
    assert PASSWORD not in database.name
    assert "p%40ss" not in database.name
    (tmp_path / "secret").write_text("another\r\n", "utf-16")  # as PowerShell's > writes it
    assert ":another@" in settings.url, "it is read again"


@pytest.mark.parametrize(
    ("text", "database", "why"),
    [
        (None, URL, r"cannot read .*secret: No such file"),
        ("a folder", URL, "secret: Is a directory"),
        ("", URL, r"secret holds nothing: write the password"),
        ("\n", URL, r"secret holds nothing"),
        ("one\ntwo\n", URL, r"secret holds more than a line of text"),
        (b"\xff\xfe", URL, r"secret holds nothing"),  # UTF-16
        (b"\xfc", URL, r"secret is no text: its letters are not UTF-8; save it as UTF-8"),
        ("secret", None, r"password_file is PostgreSQL's: name its `database`"),
        ("secret", "postgresql://line:here@db/x", r"a user and no password"),
        ("secret", "postgresql://db/x", r"write `database` as postgresql://user@host/name"),
        ("secret", "postgresql:///x?host=/run/line@home", r"write `database` as postgresql://user@host/name"),
    ],
)
def test_a_password_that_cannot_be_had_is_one_line(tmp_path, text, database, why):
    with pytest.raises(InputError, match=rf"station.yaml: setting .*{why}") as caught:
        with_file(text, tmp_path, database)
    assert "\n" not in str(caught.value)
    assert "here" not in str(caught.value)


SINKS: tuple[tuple[Any, str], ...] = (
    ("https://mes.example", "sinks must be a list"),
    (["https://mes.example"], "write `- webhook: ADDRESS` or `- folder: DIR`"),
    ([{"webhok": "https://mes.example"}], "no sink called webhok: did you mean webhook?"),
    ([{"webhook": "https://mes.example", "folder": "found"}], "either `webhook` or `folder`"),
    ([{"only": "anomalous"}], "either `webhook` or `folder`"),
    ([{"webhook": "ftp://mes.example"}], "is not https://host/path"),
    ([{"webhook": "https://me:word@mes.example"}], "leave the password out"),
    ([{"webhook": "https://mes.example:x"}], "check host and port"),
    ([{"webhook": "https://mes.example", "secret": "word"}], "name that as secret_file"),
    ([{"webhook": "https://mes.example", "picture": "all"}], "one of none, picture, overlay, both"),
    ([{"folder": "found", "secret_file": "f"}], "unknown setting secret_file"),
    ([{"folder": "found"}, {"folder": "found"}], "is there twice: give each its own `name`"),
    ([{"folder": "found", "name": ""}], "1 to 60 characters"),
)
MQTT: tuple[tuple[Any, str], ...] = (
    ({}, "no broker"),
    ({"broker": "tcp://host"}, "is not mqtt://host:1883"),
    ({"broker": "mqtt://"}, "is not mqtt://host:1883"),
    ({"broker": "mqtt://host:x"}, "check host and port"),
    ({"broker": "mqtt://me:word@host"}, "password_file"),
    ({"broker": "mqtt://host", "brokers": 1}, "did you mean broker?"),
    ({"broker": "mqtt://host", "password": "word"}, "password_file"),
    ({"broker": "mqtt://host", "password_file": "f"}, "wants a `user`"),
    ({"broker": "mqtt://host", "ca_file": "f"}, "mqtts://"),
    ({"broker": "mqtts://host", "key_file": "f"}, "belong together"),
    ({"broker": "mqtt://host", "topic": "a/#"}, "cannot begin a topic"),
    ({"broker": "mqtt://host", "only": "good"}, "one of all, anomalous"),
    (3, "is not mqtt://host"),
)
SOURCES: tuple[tuple[Any, str], ...] = (
    ("incoming", "'incoming' is no source: write `- folder: DIR`"),
    ({}, "source with nothing: it names neither `folder` nor `camera`"),
    ({"foldr": "x"}, "source with foldr: did you mean folder?"),
    ({"camera": "a.mp4", "folder": "x"}, "a folder or a camera, not both"),
    ({"folder": "x", "then": "delete"}, "then: delete: a station deletes no files: name a folder that"),
    ({"folder": "x", "then": "Remove"}, "a folder of that name is written ./Rem"),
    ({"folder": "x", "then": "Keep"}, "then: 'Keep' is not keep or a folder; did you mean keep?"),
    ({"folder": "x", "then": "x"}, "moved to the same folder"),
    ({"folder": "x", "every": "1 s"}, "known: folder, then"),
    ({"camera": ""}, "camera has no address"),
    ({"camera": "rtsp://"}, "it is no address: write for example rtsp://"),
    ({"camera": "gopher://x/y"}, "gopher:// is not understood: write one of rtsp"),
    ({"camera": "v4l2:"}, "names no device"),
    ({"camera": "/dev/video0", "every": "often"}, "camera /dev/video0: every: 'often' is not frame"),
    ({"camera": "/dev/video0", "every": "0 s"}, "every: '0 s' is not"),
    ({"camera": "a.mp4"}, "camera a.mp4: it is no stream and no device"),
    ({"camera": "/srv/films/a.mkv", "every": "1 s"}, "take single pictures out of a video"),
    ({"camera": "192.0.2.20"}, "write rtsp://HOST/PATH"),
    ({"camera": "/dev/video0", "lost_after": "x"}, "lost_after: 'x' is not a time such as 5 s"),
    ({"camera": "/dev/video0", "password_file": "x"}, "write the address as rtsp://USER@HOST/PATH"),
    ({"camera": "rtsp://a:b@h/s", "password_file": "x"}, "a user and no password"),
    ({"camera": "/dev/video0", "options": [1]}, "options are not `name: value` lines"),
    ({"camera": "/dev/video0", "options": {"protocol_whitelist": "all"}}, "is the station's own"),
    ({"camera": "/dev/video0", "everyy": "1 s"}, "did you mean every?"),
)


DAY = {"early": "06:00", "late": "14:00"}
SHIFTS: tuple[tuple[Any, str], ...] = (
    ({}, "write `begin"),
    ([], "shifts: [] is not `key: value` lines"),
    ({"begin": {"early": "6 am"}}, "times of day"),
    ({"begin": {"early": 6}}, 'and not 6; write "06:00"'),
    ({"begin": {"early": "0600"}}, "times of day"),
    ({"begin": {"early": "24:00"}}, "times of day"),
    ({"begin": {"early": "06:00+02:00"}}, "times of day"),
    ({"begin": {"early": "06:00", "late": "06:00"}}, "same time"),
    ({"begin": {"a/b": "06:00"}}, "cannot be a name"),
    ({"begin": DAY, "zone": "Mars/Olympus"}, "zone 'Mars/Olympus' is unknown"),
    ({"begin": DAY, "folder": "reports"}, "shifts: folder is no setting any more: take it out;"),
    ({"begin": DAY, "webhook": "https://h/x"}, "fetches the reports of shifts, as in docs"),
    ({"begin": DAY, "folders": "reports"}, "folders"),
)
SHARE = "is not a share between 0 and 50 %"
NAMED = "write (?P<part>...), (?P<batch>...) and (?P<view>...)"
PATTERNS = {"(": "no regular expression", "a": "groups none", "(?P<prat>a)": NAMED}


def of_plate(**given: Any) -> dict[str, Any]:
    return {"products": {"plate": {"model": "a.onnx", **given}}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        *((of_plate(sinks=given), said) for given, said in SINKS),
        *((of_plate(sources=[one]), said) for one, said in SOURCES),
        *((of_plate(sources=[{"folder": "in", "pattern": text}]), said) for text, said in PATTERNS.items()),
        *((of_plate() | {"mqtt": given}, said) for given, said in MQTT),
        *(({"shifts": given}, said) for given, said in SHIFTS),
        (of_plate(learn={"rule": "auto"}), "rule is no setting any more: a person activates a version"),
        *(
            (of_plate(**{name: text}), f"product plate: {name}: '{text}' {SHARE}")
            for name in ("drift", "false_alarm_rate")
            for text in ("often", "0 %", "60 %", "1", "-1 %", "")
        ),
        (of_plate(challenge=[6]), "plate: challenge: write times of day"),
        (of_plate(challenge=["06:00", "late"]), "plate: challenge: write times of day or names of shifts"),
        ({"name": "a/b"}, "name: 'a/b' cannot be a station's: use letters"),
        ({"public": "line3"}, "public: 'line3' is not a list: write `- VALUE` below it"),
        *(
            ({wrong: 1}, f"did you mean {right}?")
            for wrong, right in {"product": "products", "prt": "port"}.items()
        ),
    ],
)
def test_what_cannot_be_is_one_line(values, said, tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_settings(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert not [secret for secret in ("word@", "'word'", ":b@", "\n") if secret in text]


def test_what_stands_below_products_and_shifts_is_read(tmp_path):
    """Times of day need no quotes, and shares are written as one likes."""
    path = tmp_path / "station.yaml"
    path.write_text(
        "name: line.1\nshifts:\n  begin: {early: 06:00, late: 14:00}\n"
        "products:\n  one: a.onnx\n  two: {model: b.onnx, drift: 5 %, camera_checks: false}\n"
        "  three: {model: c.onnx, drift: null, false_alarm_rate: 2 %}\n"
        "  four: {model: d.onnx, drift: 2 %, false_alarm_rate: 0.02}\n"
        "  five: {model: e.onnx, challenge: [06:00, late], false_alarm_rate: null}\n"
    )
    settings = read_settings(path)
    assert (settings.name, settings.shifts.begin) == ("line.1", {"early": "06:00", "late": "14:00"})
    products = list(settings.products.values())
    assert [one.camera_checks for one in products] == [True, False, True, True, True]
    assert [one.drift for one in products] == pytest.approx([0.01, 0.05, None, 0.02, 0.01])
    assert [one.false_alarm_rate for one in products] == [None, None, 0.02, 0.02, None]
    assert [one.challenge for one in products] == [None, None, None, None, ("06:00", "late")]


def test_names_and_numbers_are_what_is_written(tmp_path):
    """YAML 1.1 makes numbers, minutes and truth of them, and of two such names one."""
    names = "0012345 12345 010 1.10 1.1 1_000 2026-11-29 on no 1e3 0x1F null"
    products = "".join(f"  {name}: {{model: a.onnx}}\n" for name in names.split())
    (tmp_path / "station.yaml").write_text(
        f"products:\n{products}  '1':\n    model: a.onnx\n    camera_checks: off\n"
        "    sources: [{folder: 007, view: 1.10}]\n    sinks: [{folder: 08, name: 010}]\n"
        "name: 1.10\nport: 0080\nnear: 1.50\nproxy: On\nthreads: 1\npublic: [no, 010]\n"
        "shifts: {begin: {1: 6:00, no: 14:00:30}}\n",
        encoding="utf-16",
    )
    read = read_settings(tmp_path / "station.yaml")
    one = read.products.pop("1")
    assert [*read.products] == names.split()
    assert (one.camera_checks, one.sources[0].view, one.sinks[0].name) == (False, "1.10", "010")
    assert [Path(path).name for path in (one.sources[0].folder, one.sinks[0].address)] == ["007", "08"]
    assert (read.name, read.port, read.near, read.proxy, read.public) == (
        "1.10",
        80,
        1.5,
        True,
        ("no", "010"),
    )
    assert {name: str(at) for name, at in read.shifts.times.items()} == {"1": "06:00:00", "no": "14:00:30"}
    for wrong, said in (
        ("12:30", "'12:30' cannot be a product's name"),
        ("a", "a stands twice, line 1"),
        ("A", "product a differs from A in capital letters alone: rename it"),
    ):
        (tmp_path / "station.yaml").write_text(f"products: {{a: x.onnx, {wrong}: y.onnx}}")
        with pytest.raises(InputError, match=said):
            read_settings(tmp_path / "station.yaml")


def test_paths_are_relative_to_the_file(tmp_path):
    given = [{"folder": "found"}, {"webhook": "https://mes.example", "secret_file": "a", "ca_file": "/b"}]
    folder, hook, home = (one.plugin.values for one in read_sinks([*given, {"folder": "~/found"}], tmp_path))
    assert folder.folder == str(tmp_path / "found")
    assert (hook.secret_file, hook.ca_file) == (str(tmp_path / "a"), "/b")
    assert home.folder == str(Path.home() / "found")
    assert read_broker("mqtt://host", tmp_path).plugin.values == MqttSettings("mqtt://host")
    assert MqttSettings("mqtt://host").connection == ("host", 1883, False)
    found = read_broker({"broker": "mqtts://host", "ca_file": "ca.pem"}, tmp_path).plugin.values
    assert (found.ca_file, found.connection) == (str(tmp_path / "ca.pem"), ("host", 8883, True))


def test_a_sinks_own_settings_stand_below_its_kind_or_beside_it(tmp_path):
    beside = {"webhook": "https://mes.example", "picture": "both", "only": "anomalous"}
    below = {"webhook": {"webhook": "https://mes.example", "picture": "both"}, "only": "anomalous"}
    assert read_sinks([beside], tmp_path) == read_sinks([below], tmp_path)
    assert read_sinks([beside], tmp_path)[0].only == "anomalous"


def test_a_setting_without_a_value_has_its_default(tmp_path):
    (tmp_path / "station.yaml").write_text("products:\nport:\nnear: null\nlimits: null\nmqtt:\n")
    assert read_settings(tmp_path / "station.yaml") == Settings(store=str(tmp_path / "station"))


def test_the_example_lists_every_setting_of_sinks():
    """configs/station.yaml, where they stand in comments."""
    root = Path(__file__).parents[2]
    lines = (root / "configs/station.yaml").read_text(encoding="utf-8").splitlines()[2:]
    lines = [line for line in lines if line.startswith(("# ", "#  "))]
    split = lines.index("# mqtt:")
    blocks = [[line.removeprefix("# ") for line in part] for part in (lines[:split], lines[split:])]
    found = [yaml.safe_load(textwrap.dedent("\n".join(block))) for block in blocks]
    hook, folder = found[0]["sinks"]
    common = {one.name for one in fields(SinkSettings)} - {"plugin"}
    own = {one.name for kind in (WebhookSettings, FolderSinkSettings) for one in fields(kind)}
    assert set(hook) | set(folder) == common | own
    assert read_sinks([hook, folder], root)
    assert set(found[1]["mqtt"]) == (common - {"name"}) | {one.name for one in fields(MqttSettings)}


@pytest.mark.parametrize("text", ["10000000000000000000000 s", "99999 h", f"{'9' * 400} s"])
def test_a_time_beyond_a_year_is_refused(text):
    assert time_of("168 h", "deadline") == 7 * 86400
    with pytest.raises(InputError, match="is not a time"):
        time_of(text, "deadline")
    for name in ("latency", "lost_after", "every"):
        with pytest.raises(InputError, match=name):
            read_source({"camera": "rtsp://192.0.2.20/stream", name: text}, Path())


def said(call: Any, *values: Any) -> str:
    """What it answers, or the error's text."""
    try:
        return repr(call(*values))
    except FlawscopeError as error:
        return str(error)


def test_host_and_port_are_shown():
    assert redact_address("https://hooks.slack.com/services/T0/B0/XX") == "https://hooks.slack.com/…"
    assert redact_address("mqtt://192.0.2.7:1883") == "mqtt://192.0.2.7:1883"
    assert (
        redact_text("no route to mes.example", "https://mes.example/a/example") == "no route to mes.example"
    )


@pytest.mark.parametrize(
    "line", ["camera: x: {}", "sinks: [{{webhook: {}}}", "near: [{}]", "{}: 1", "a: *{}"]
)
def test_a_settings_file_that_is_wrong_is_not_quoted(tmp_path, line):
    path = tmp_path / "station.yaml"
    path.write_text(line.format("https://anna:hunter2@mes.example/hunter2") + "\n")
    with suppress(FlawscopeError):
        read_settings(path)
    assert "hunter2" not in said(read_settings, path)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Deckel Linie 2", "Deckel-Linie-2"),
        ("Schlüssel, groß", "Schluessel-gross"),
        ("pièce n° 7", "piece-n-7"),
        ("Łódź ﬁn", "odz-fin"),
        ("部", "product"),
        ("API", "API-1"),
    ],
)
def test_a_product_of_a_model_file_has_the_nearest_name(said, name):
    assert suggest_product_name(said) == name
