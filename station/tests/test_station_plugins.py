"""Sources, sinks and connections of other packages: found by their entry points, checked by their records,
true to the contract. Those of examples/line stand for what others write."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml

from flawscope.errors import InputError
from flawscope_station.access.audit import search
from flawscope_station.settings.plugins import (
    Plugin,
)
from flawscope_station.settings.station import read_settings
from plugin_helpers import LINE, Careless, ids, plugins_fixture, reels_fixture, settings_text  # noqa: F401
from station_helpers import INSPECTIONS, NAME, opened, until

pytestmark = pytest.mark.usefixtures("plugins")
DOCUMENTED = Path(__file__).parents[2] / "docs/adding-a-connection.md"


def test_a_line_of_plugins_works_in_a_station(settings, reels, model_file, tmp_path):
    """The camera is triggered by the API, and the sink gets anomalous ones alone; its file is beside
    station.yaml."""
    path = tmp_path / "station.yaml"
    text = settings_text(settings, {NAME: f"{model_file} {reels['mixed'].name}"}, "")
    sinks = "    sinks: [{csv: {file: found.csv}, only: anomalous, verdicts: false}]\n    sources:"
    path.write_text(text.replace("    sources:", sinks))
    running = opened(read_settings(path))
    try:
        there = f"{running.url}/api/v1/products/{NAME}"
        answers = [httpx.post(f"{there}/trigger?part={n}", timeout=60).json() for n in range(4)]
        assert [one["decision"] for one in answers] == ["good", "anomalous"] * 2
        assert [one["triggers"] for one in answers] == [1] * 4
        assert httpx.get(there, timeout=60).json()["sources"][0]["kind"] == "camera"
        until(lambda: httpx.get(there, timeout=60).json()["sinks"][0]["delivered"] == 2)
        sink = httpx.get(there, timeout=60).json()["sinks"][0]
        assert (sink["name"], sink["kind"]) == ("csv", "csv")
        assert len(ids(tmp_path / "found.csv")) == 2
        assert httpx.post(f"{running.url}/api/v1/{INSPECTIONS}", content=b"x", timeout=60).status_code == 422
    finally:
        running.close()
    again = opened(read_settings(path))
    try:
        assert not search(again.station.database, about="settings"), "the same settings are no change"
        assert len(ids(tmp_path / "found.csv")) == 2
    finally:
        again.close()


@pytest.mark.parametrize(
    ("of_product", "of_station", "said"),
    [
        ("sources: [{real: x}]", "", "source with real: did you mean reel?"),
        ("sources: [{reel: {folder: x}, view: top}]", "", "reel: write its settings below it, and nothing"),
        ("sources: [{reel: {foldr: x}}]", "", "reel: unknown setting foldr; did you mean folder?"),
        ("sources: [{reel: }]", "", "reel: setting folder is missing"),
        ("sinks: [{csv: x, only: good}]", "", "one of all, anomalous"),
        ("sinks: [{csv: x}, {csv: y}]", "", "csv is there twice: give each its own `name`"),
        ("sinks: [{csv: {fil: x}}]", "", "csv: unknown setting fil; did you mean file?"),
        ("sinks: [{csvv: x}]", "", "no sink called csvv: did you mean csv?"),
        ("sinks: [{only: all}]", "", "either `webhook` or `folder`"),
        ("", "connections: {modbus: 1}", "connections: it must be a list"),
        ("", "connections: [modbus]", "connections: it must be a list"),
        ("", "connections: [{profinet: {}}]", "no connection called profinet: known: "),
        ("", "connections: [{modbuss: {}}]", "no connection called modbuss: did you mean modbus?"),
    ],
)
def test_a_wrong_plugin_setting_is_a_line(of_product, of_station, said, tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(f"products: {{{NAME}: {{model: a.onnx, {of_product}}}}}\n{of_station}")
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_broken_is_one_line(tmp_path, monkeypatch):
    entry = SimpleNamespace(value="nowhere:X", load=Callable)
    for load, said in (
        (lambda: __import__("no_such_package"), "source belt cannot be loaded from nowhere:X"),
        (lambda: 3, "nowhere:X is not a source called belt"),
        (lambda: Plugin("other", Careless, Careless), "it must be a `Plugin` of that name"),
    ):
        entry.load, entry.name = load, "belt"
        monkeypatch.setattr("flawscope_station.settings.plugins.metadata.entry_points", lambda **_: [entry])
        path = tmp_path / "station.yaml"
        path.write_text(f"products: {{{NAME}: {{model: a.onnx, sources: [{{belt: x}}]}}}}")
        with pytest.raises(InputError, match=re.escape(said)):
            read_settings(path)


def test_a_connection_of_a_product_that_is_not_there_ends_the_start(settings, reels, model_file, tmp_path):
    from flawscope.errors import FlawscopeError

    path = tmp_path / "station.yaml"
    setting = "connections: [{modbus: {listen: '127.0.0.1:5020', recipes: {1: lid}}}]"
    path.write_text(settings_text(settings, {NAME: f"{model_file} {reels['good']}"}, setting))
    with pytest.raises(FlawscopeError, match="there is no product 'lid'"):
        opened(read_settings(path))


def test_the_guide_shows_the_examples_as_they_are():
    blocks = re.findall(r"^```python\n# (emulated_line/\S+)\n(.*?)^```", DOCUMENTED.read_text(), re.M | re.S)
    assert [name for name, _ in blocks] == [
        f"emulated_line/{name}.py" for name in ("csv_file", "reel", "mail", "counts/__init__")
    ]
    for name, text in blocks:
        assert text == (LINE / name).read_text().partition('"""\n\n')[2], name
    assert yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", DOCUMENTED.read_text(), re.M | re.S)[0])
