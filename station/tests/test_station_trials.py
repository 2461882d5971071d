"""A picture that somebody tries by hand is no part of the line: it is answered, kept and labelled, and
nothing else of the station hears of it."""

from __future__ import annotations

import httpx
import pytest

from api_helpers import PRODUCT
from flawscope_station.core.event_broadcaster import EventBroadcaster
from flawscope_station.store.records import HOUR, Store
from flawscope_station.web import api as api_module
from station_helpers import INSPECTIONS, NAME, add_version, taken


def attempt(api: httpx.Client, data: bytes, name: str = "try.png") -> httpx.Response:
    return api.post(INSPECTIONS, params={"name": name, "purpose": "trial"}, content=data)


def test_a_trial_is_answered_and_no_part_of_the_line(api, running, parts):
    product, heard = running.station.products[NAME], []
    running.station.observers.append(heard.append)
    sent = [attempt(api, parts[-1]) for _ in range(4)]  # a frozen sender would be refused from the second on
    assert [(one.status_code, one.json()["purpose"]) for one in sent] == [(201, "trial")] * 4
    first = sent[0].json()
    assert (first["decision"], first["review"]) == ("anomalous", "none")
    assert attempt(api, b"no picture").status_code == 422
    assert running.station.refusals.last(product) is None, "no page shows that it was not judged"
    assert heard == [], "no sink, page or counter hears of it"
    assert running.station.problems() == []
    facts = api.get(PRODUCT).json()
    assert (facts["inspections"], facts["waiting"]) == (0, 0)
    assert running.station.store.last_at(product) is None


def test_a_trial_answers_no_part_of_the_line_under_its_key(api, parts):
    """The line's part would have no record, and no interlock would have seen it."""
    for first, second in (("trial", "production"), ("production", "trial")):
        key = {"Idempotency-Key": first}
        sent = [
            api.post(INSPECTIONS, params={"purpose": purpose}, content=parts[0] + b"\0", headers=key)
            for purpose in (first, first, second)
        ]
        assert [one.status_code for one in sent] == [201, 200, 409]
        assert sent[0].json()["id"] == sent[1].json()["id"]


def test_a_trial_is_found_where_it_is_asked_for_and_gets_no_verdict(api, parts):
    line = api.post(INSPECTIONS, params={"name": "line.png"}, content=parts[0]).json()["id"]
    tried = attempt(api, parts[-1]).json()["id"]

    def found(**filters: str) -> list[int]:
        return [one["id"] for one in api.get(INSPECTIONS, params=filters).json()["inspections"]]

    assert found() == [line]
    assert found(purpose="trial") == [tried]
    assert found(purpose="with trials") == [tried, line]
    refused = api.post(f"{INSPECTIONS}/{tried}/verdict", json={"verdict": "good"})
    assert (refused.status_code, "tried by hand" in refused.json()["error"]) == (422, True)
    assert api.get(f"{INSPECTIONS}/{tried}").json()["purpose"] == "trial"


# ------------------------------------------------------------------------------------------------ a new shift


def test_the_counts_of_a_shift_begin_at_its_minute(database):
    """Not at its hour; also in zones that are half an hour off."""
    product, version = add_version(database)
    store, begin = Store(database), 500_000 * HOUR
    minutes = (-90, -31, -30, -1, 0, 20, 29, 30, 61)
    flagged = {"score": 3.0, "anomalous": True}
    store.record([taken(product, version, at=begin + k * HOUR // 60, **flagged) for k in minutes])
    for since in (-90, -30, 0, 20, 30, 62):
        expected = sum(minute >= since for minute in minutes)
        counts = store.counts_since(product, begin + since * HOUR // 60)
        assert (counts["inspected"], counts["anomalous"]) == (expected, expected), since


def test_the_page_is_told_the_counts_of_the_present_shift(running, monkeypatch):
    """Each second, also days later: a screen that hangs for weeks begins anew with each shift."""
    station, shifts = running.station, object()
    begins = iter([5 * HOUR, 13 * HOUR])
    monkeypatch.setattr(api_module, "shift_begin", lambda given, at: next(begins) if given is shifts else 0)
    monkeypatch.setattr(station.store, "counts_since", lambda of, since: {"inspected": since // HOUR})
    told = [api_module.live_state(station.overview, shifts, NAME)["counts"] for _ in range(2)]
    assert [one["inspected"] for one in told] == [5, 13]
    assert [one["since"][11:16] for one in told] == ["05:00", "13:00"]


# ------------------------------------------------------------------------------------ one stream of several


def test_a_stream_of_several_products_hears_of_each_and_of_no_other():
    import asyncio

    pages = EventBroadcaster()

    async def listen() -> list[str]:
        stream = pages.stream([1, 3], lambda: [{"product": "a"}, {"product": "c"}])
        found = [await anext(stream), await anext(stream)]
        for number in (1, 2, 3):
            pages.publish(number, {"id": number})
        found += [await anext(stream), await anext(stream)]
        await stream.aclose()
        return found

    told = [message.split("data: ")[1].strip() for message in asyncio.run(listen())]
    assert told == ['{"product": "a"}', '{"product": "c"}', '{"id": 1}', '{"id": 3}']


@pytest.mark.parametrize("products", ["", "none", "plate,none", ",".join(["plate"] * 2 + ["x" * 70])])
def test_a_stream_of_products_that_are_not_there_is_one_line(api, products):
    refused = api.get("live", params={"products": products})
    assert refused.status_code in (404, 422)
    assert "\n" not in refused.json()["error"]
