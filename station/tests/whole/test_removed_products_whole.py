"""A product that was removed keeps its records, which can be read; another part of its name gets none of
them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flawscope_station.setup.live_products import LiveProducts
from flawscope_station.store.records import iso
from setup_helpers import empty_fixture, http_fixture  # noqa: F401

AT = "2026-11-30T08:00:00.000Z"


def draft(model: Any, **state: Any) -> SimpleNamespace:
    """A draft that has learnt: its pictures, and what it knows of itself."""
    made = SimpleNamespace(name="flask", result={"asked_at": AT}, model=model, state=state)
    made.change = lambda **more: made.state.update(more)
    return made


@pytest.fixture(name="live")
def live_fixture(empty, model_file, monkeypatch):
    """`live(draft)` lets the product of a draft inspect; gives its number."""
    live_products = empty.station.components[LiveProducts]

    def begin(made: SimpleNamespace) -> int:
        monkeypatch.setattr(live_products.drafts, "draft", lambda name: made)
        live_products.go_live("flask", "anna")
        return int(empty.station.products["flask"])

    return begin


def inspect(http: httpx.Client, part: bytes, count: int) -> None:
    for _ in range(count):
        assert http.post("/api/v1/products/flask/inspections", content=part).status_code == 201


def found(http: httpx.Client, name: str) -> list[int]:
    answer = http.get(f"/api/v1/products/{name}/inspections")
    return [one["id"] for one in answer.json().get("inspections", [])]


def test_records_of_a_removed_product_are_read_and_another_part_of_the_name_has_none(
    empty, http, live, model_file, parts
):
    first_draft = draft(model_file, at=AT)
    first = live(first_draft)
    inspect(http, parts[0], 2)
    empty.station.components[LiveProducts].remove_live("flask", "anna")
    assert http.get("/api/v1/removed-products").json() == {"products": ["flask"]}
    assert len(found(http, "flask")) == 2
    number = found(http, "flask")[0]
    assert http.get(f"/api/v1/products/flask/inspections/{number}/view").status_code == 200
    page = http.get("/flask/history").text
    assert "Removed product: its records alone" in page
    assert f"/flask/inspections/{number}" in page
    assert http.get(f"/flask/inspections/{number}").status_code == 200
    assert "/flask/history" in http.get("/-/new").text
    assert http.get("/flask/live").status_code == 404, "nothing is inspected"
    assert http.post("/api/v1/products/flask/inspections", content=parts[0]).status_code == 404

    assert live(first_draft) == first, "the same pictures: it is the same product"
    assert len(found(http, "flask")) == 2
    empty.station.components[LiveProducts].remove_live("flask", "anna")

    later = iso(2_000_000_000_000_000)  # another part of the name, begun after that product was made
    assert live(draft(model_file, at=later)) != first
    assert found(http, "flask") == []
    (name,) = http.get("/api/v1/removed-products").json()["products"]
    assert name.startswith("flask.removed-20")
    assert len(found(http, name)) == 2
    assert "Removed product" in http.get(f"/{name}/history").text
    inspect(http, parts[0], 1)
    assert len(found(http, "flask")) == 1
