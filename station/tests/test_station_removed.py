"""A product that is removed while somebody asks for it: what is asked says that it is not there."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import flawscope_station
from flawscope_station.core.queries import Overview
from flawscope_station.store.records import NotFoundError
from station_helpers import NAME

HOME = Path(next(iter(flawscope_station.__path__)))
# where a product is looked up, while it is described
FILES = {str(HOME / one) for one in ("core/queries.py", "core/health.py", "store/addresses.py")}


class AtLine:
    """Does something in the middle of other functions: before the line of this number that they come to."""

    def __init__(self, number: int, act: Callable[[], None]):
        self.number, self.act, self.count = number, act, 0

    def __enter__(self) -> "AtLine":
        sys.settrace(self._begin)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _begin(self, frame: FrameType, kind: str, argument: object) -> Any:
        return self._note if frame.f_code.co_filename in FILES else None

    def _note(self, frame: FrameType, kind: str, argument: object) -> Any:
        if kind != "line":
            return self._note
        self.count += 1
        if self.count == self.number:
            sys.settrace(None)
            self.act()
        return self._note


@pytest.fixture
def overview(running):
    made = running.station.components[Overview]
    assert isinstance(made, Overview)
    return made


def test_a_product_that_goes_while_it_is_described_is_not_found(overview):
    """At every line on the way, one after another."""
    addresses = overview.addresses
    number, configured = addresses.products[NAME], addresses.configured[NAME]

    def remove() -> None:
        del addresses.products[NAME]
        addresses.configured.pop(NAME)

    with AtLine(0, remove) as counted:
        overview.facts(NAME)
    assert counted.count > 50
    missing = 0
    for place in range(1, counted.count + 1):
        with AtLine(place, remove):
            try:
                overview.facts(NAME)
            except NotFoundError:
                missing += 1
        addresses.products[NAME], addresses.configured[NAME] = number, configured
    assert 0 < missing < counted.count


def test_the_list_of_products_leaves_out_one_that_goes_meanwhile(overview, api, monkeypatch):
    def gone(name: str) -> object:
        raise NotFoundError(f"product {name} is removed")

    monkeypatch.setattr(overview, "facts", gone)
    assert api.get("products").json() == {"products": []}
