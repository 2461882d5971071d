"""A product that a person paused: its senders and PLCs are told, and nobody takes it for a fault."""

import httpx
import pytest

from flawscope_station.core.pauses import Pauses
from flawscope_station.inspecting.interlock import PausedError
from flawscope_station.store.records import Store
from station_helpers import INSPECTIONS, NAME

PRODUCT = f"products/{NAME}"


@pytest.fixture
def plate(database):
    """The store, and the number of a product in it."""
    store = Store(database)
    return store, store.add_product("plate")


def test_a_pause_holds_across_a_start_until_somebody_ends_it(plate):
    store, number = plate
    other = store.add_product("board")
    names = {number: "plate", other: "board"}
    pauses = Pauses(store, names)
    pauses.check(number, None)
    pauses.pause(number, "anna", "new tool")
    again = Pauses(store, names)
    with pytest.raises(PausedError, match="plate was paused by anna"):
        again.check(number, "4711")
    again.check(other, None)
    found = again.of(number)
    assert (found.by, found.reason) == ("anna", "new tool")
    again.resume(number, "bob")
    assert Pauses(store, names).of(number) is None
    again.resume(number, "bob")
    assert [row.who for row in store.events("product_resumed", number)] == ["bob"], (
        "it was not paused any more"
    )


def test_senders_are_refused_and_the_station_has_no_problem(running, parts):
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api:
        before = api.get("status").json()["problems"]
        paused = api.post(f"{PRODUCT}/pause", json={"reason": "new tool"}).json()
        assert (paused["paused"]["reason"], paused["stopped"]) == ("new tool", "paused")
        refused = api.post(INSPECTIONS, content=parts[0])
        assert (refused.status_code, refused.json()["code"]) == (503, "paused")
        assert "Retry-After" in refused.headers
        state = running.station.health.state_of(NAME)
        assert state.kind == "paused", "a PLC's Ready follows it"
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        metrics = httpx.get(f"{running.url}/metrics").text
        assert "flawscope_ready 1.0" in metrics
        assert 'flawscope_paused{product="plate"} 1.0' in metrics
        assert api.get("status").json()["problems"] == before
        audit = api.get("audit", params={"about": "pauses"}).json()["entries"]
        assert [one["text"] for one in audit] == ["new tool"]
        page = httpx.get(f"{running.url}/{NAME}/live").text
        assert "new tool" in page
        form = {"paused": "false"}
        assert httpx.post(f"{running.url}/{NAME}/pause", data=form).status_code == 303
        assert api.post(INSPECTIONS, content=parts[0]).status_code == 201
