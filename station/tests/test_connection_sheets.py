"""Each connection has a sheet, which says of every rule by which test it is kept, or why it is not meant."""

import importlib.util
import re
import tomllib
from pathlib import Path

from flawscope.datasets.labels import forms

ROOT = Path(__file__).parents[2]
GROUPS = ("flawscope.sources", "flawscope.sinks", "flawscope.connections")
OWN = {"folder", "camera", "webhook", "mqtt", "sink_folder"}  # of the station itself
DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.M)


def script():
    spec = importlib.util.spec_from_file_location("connections", ROOT / "station/connections.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULES, SHEETS = script().read_sheets()


def test_every_connection_has_a_sheet():
    points = set()
    for house in ("station", "line"):
        project = tomllib.loads((ROOT / house / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        points |= {name for group in GROUPS for name in project["entry-points"].get(group, ())}
    labels = {name for name, sheet in SHEETS.items() if sheet["kind"] == "label"}
    assert {*SHEETS} - labels == OWN | points
    assert len(labels) == len(re.split(", | or ", forms.EXPECTED))


def test_a_sheet_answers_every_rule_once_with_a_reason():
    for name, sheet in SHEETS.items():
        done, exempt = sheet["done"], sheet["exempt"]
        assert {*done} | {*exempt} == {*RULES[sheet["kind"]]}, name
        assert not {*done} & {*exempt}, name
        assert all(len(why) > 10 for why in exempt.values()), name


def test_each_test_and_page_that_a_sheet_names_is_there():
    houses = ("tests", "station/tests", "line/tests")
    tests = {
        found
        for house in houses
        for path in (ROOT / house).rglob("test_*.py")
        for found in DEFINED.findall(path.read_text(encoding="utf-8"))
    }
    for name, sheet in SHEETS.items():
        for rule, shown in sheet["done"].items():
            page, _, anchor = shown.partition("#")
            if page.startswith("docs/"):
                text = (ROOT / page).read_text(encoding="utf-8")
                heads = re.findall(r"^#+ (.+)$", text, re.M)
                slugs = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
                assert anchor in slugs, (name, rule, shown)
            else:
                assert shown in tests, (name, rule, shown)


def test_the_page_has_the_tables_of_the_sheets():
    module = script()
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.make_page(text) == text, "python station/connections.py"
