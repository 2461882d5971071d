"""The store, on both databases, against plain loops over the same rows."""

import random
from typing import Any

import pytest

from flawscope.errors import InputError
from flawscope_station.settings.station import Settings
from flawscope_station.store import search as search_module
from flawscope_station.store.database import Database
from flawscope_station.store.records import HOUR
from flawscope_station.store.search import Filters, trends
from store_helpers import (  # noqa: F401
    BEGIN,
    DAY,
    MINUTE,
    NAMES,
    Filled,
    buckets,
    fill,
    filled_fixture,
    near,
    pages,
    points,
    totals,
)

pytestmark = pytest.mark.both_databases


def choices(rng: random.Random, filled: Filled) -> Filters:
    """Some filters, at random."""
    wanted: dict[str, Any] = {
        "since": BEGIN + rng.randrange(DAY),
        "until": BEGIN + rng.choice([rng.randrange(DAY), HOUR, DAY]),
        "decision": rng.choice(["good", "anomalous", "within tolerance"]),
        "verdict": rng.choice(["good", "defect", "none"]),
        "review": rng.choice(["none", "waiting", "done", "skipped"]),
        "score_min": rng.choice([0.5, 1.0, rng.random() * 2]),
        "score_max": rng.choice([0.5, 1.0, rng.random() * 2]),
        "version": rng.choice([*filled.versions, 999]),
        "name": rng.choice([*NAMES, "A1*", "A*", "a*", "Ä*", "A1_*", "A1%*", "*", "z*"]),
    }
    chosen = rng.sample(sorted(wanted), rng.choice([0, 1, 1, 2, 2, 3]))
    return Filters({name: wanted[name] for name in chosen}, limit=rng.choice([9, 50, 500]))


def matches(filled: Filled, number: int, wanted: Filters) -> bool:
    row, verdict, asked = filled.rows[number], filled.verdicts[number], wanted.values
    name = str(asked.get("name", "*"))
    tests = [
        row.at >= asked.get("since", row.at),
        row.at < asked.get("until", row.at + 1),
        asked.get("decision")
        in (None, "within tolerance" if row.tolerated else ("good", "anomalous")[row.anomalous]),
        asked.get("verdict") in (None, verdict or "none"),
        asked.get("review") in (None, filled.reviews[number]),
        row.score >= asked.get("score_min", row.score),
        row.score <= asked.get("score_max", row.score),
        asked.get("version") in (None, row.version_id),
        row.name.startswith(name[:-1]) if name.endswith("*") else row.name == name,
    ]
    return all(tests)


def test_every_filter_finds_what_a_loop_finds(filled):
    fill(filled, 120)
    rng, order = random.Random(2), filled.newest_first()
    some = 0
    for _ in range(100):
        wanted = choices(rng, filled)
        expected = [number for number in order if matches(filled, number, wanted)]
        some += bool(expected)
        assert [one["id"] for one in pages(filled, wanted)] == expected, wanted
    assert some > 40, "most of the filters find nothing: the test would not fail"


@pytest.mark.parametrize(
    ("unit", "since", "until"),
    [
        ("inspection", 5 * HOUR + 7, 7 * HOUR),
        ("minute", 2 * HOUR + 61_000_001, 4 * HOUR + 123),
        ("hour", 0, DAY + 1),
        ("hour", 3 * HOUR + 17, DAY - HOUR + 17),
        ("day", 0, 40 * DAY),
    ],
)
def test_trends_are_what_a_loop_counts(filled, monkeypatch, unit, since, until):
    """Hours and days are whole at both ends, the others are as they are asked for."""
    monkeypatch.setattr(search_module, "MAX_POINTS", 20)
    fill(filled, 150)
    fill(filled, 50, seed=5)  # into hours that are there
    first, last = BEGIN + since, BEGIN + until
    found = trends(filled.database, filled.product, first, last)
    assert found["unit"] == unit
    assert found["threshold"] == 1.0
    assert [one["id"] for one in found["versions"]] == sorted(filled.versions)
    if unit in ("hour", "day"):
        first, last = first // HOUR * HOUR, -(-last // HOUR) * HOUR
    assert found["totals"] == totals(filled, first, last)
    if unit == "inspection":
        assert found["points"] == points(filled, first, last)
        assert len(found["points"]) > 2
        assert found["buckets"] == []
    else:
        length = {"minute": MINUTE, "hour": HOUR, "day": DAY}[unit]
        near(found["buckets"], buckets(filled, first, last, length))
        assert len(found["buckets"]) > 1
        assert sum(bucket[1] for bucket in found["buckets"]) == found["totals"]["inspections"]
        assert found["points"] == []


def test_a_data_base_that_has_not_all_letters_is_refused(postgres):
    refusal = pytest.raises(InputError, match="has the encoding LATIN1: make a database with UTF8")
    with postgres.database("LATIN1") as url, refusal:
        Database(Settings(database=url).url).migrate()
