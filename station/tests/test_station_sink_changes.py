"""What waits for a sink when the settings change: all of it is sent, or it is told how much is not."""

from flawscope_station.sinks import UNDELIVERED
from sink_changes_helpers import (
    A,
    B,
    floor_fixture,  # noqa: F401
    hook,
    receivers_fixture,  # noqa: F401
)
from sink_helpers import make_broker
from station_helpers import NAME


def test_one_of_several_changed_sinks_loses_nothing(floor):
    """Nobody knows which cursor was its: it goes on from the one that is furthest behind."""
    before = floor.open((A, B))
    floor.record()
    (_, first), (_, second) = before.for_product(NAME)
    first.advance(first.cursor._replace(inspection=90))
    first.save()
    assert (first.waiting(), second.waiting()) == (10, 100)
    (facts,) = floor.open((hook("http://192.0.2.7/b"),)).facts(NAME)
    assert facts["waiting"] == 100


def test_a_broker_that_goes_and_a_product_that_is_renamed_are_told(floor):
    floor.open((A,), make_broker(broker="mqtt://192.0.2.1"))
    floor.record()
    floor.open((A,))
    assert len(floor.told()) == 1
    assert "the mqtt sink of" in floor.told()[0]
    floor.open((A,), name="renamed")
    assert len(floor.told()) == 2
    assert UNDELIVERED in floor.problems, "of a product without pages"
