"""Rows of the filters: whatever lists them has all of them."""

import re
from pathlib import Path

import pytest

from flawscope_station.client import Client
from flawscope_station.store.filters import FILTERS, asked_columns
from flawscope_station.store.schema import inspections
from flawscope_station.web.export_api import COLUMNS
from flawscope_station.web.templates import PAGES

DOCS = Path(__file__).parents[2] / "docs"
PARAMETERS = [one.parameter or one.name for one in FILTERS]


def test_the_docs_name_every_parameter_of_a_search():
    row = next(
        line
        for line in (DOCS / "station-api.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `GET /products/NAME/inspections` |")
    )
    assert set(PARAMETERS) <= set(re.findall(r"`(\w+)`", row))
    said = " ".join((Client.search.__doc__ or "").split())
    assert [name for name in PARAMETERS if not re.search(rf"\b{name}\b", said)] == []


def test_the_api_describes_every_parameter(api):
    found = api.get("openapi.json").json()["paths"]["/api/v1/products/{name}/inspections"]["get"][
        "parameters"
    ]
    by_name = {one["name"]: one for one in found}
    for one in FILTERS:
        described = by_name[one.parameter or one.name]
        assert described.get("description", "") == one.says
        assert described["schema"].get("enum", [""]) == ["", *one.words]


@pytest.mark.parametrize("one", FILTERS, ids=lambda one: one.name)
def test_a_filter_has_an_index_a_text_and_a_column_in_tables(one):
    indexed = [{column.name for column in index.columns} for index in inspections.indexes]
    assert any({column.name for column in one.columns} | {"product_id"} <= names for names in indexed)
    for texts in PAGES.texts.values():
        assert texts(f"history.{one.name}")
    assert (one.fact or one.name) in COLUMNS


def test_a_column_is_asked_once():
    names = [column.name for column in asked_columns()]
    assert len(names) == len(set(names)) > 8
