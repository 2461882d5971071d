"""What unit and end-to-end tests need: test_station_store.py, whole/test_station_store_whole.py."""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flawscope_station.store.database import Database
from flawscope_station.store.records import HOUR, NewInspection, Store, parse_time
from flawscope_station.store.search import Filters, search
from station_helpers import add_version, taken

BEGIN = parse_time("2026-11-20T22:17:00Z")
MINUTE, DAY = HOUR // 60, 24 * HOUR
NAMES = ("a12.png", "A12.png", "A120.png", "A1_.png", "A1%.png", "Ä9.png", "A", "B7.jpg", "ab.png", "Aa.png")


@dataclass
class Filled:
    """A store with a product of two versions, and what is in it as plain records."""

    database: Database
    product: int
    versions: tuple[int, int]
    rows: dict[int, NewInspection]
    verdicts: dict[int, str | None]
    reviews: dict[int, str]

    @property
    def store(self) -> Store:
        return Store(self.database)

    def add(self, several: list[NewInspection]) -> None:
        for (number, is_new), one in zip(self.store.record(several), several, strict=True):
            assert is_new
            self.rows[number] = one
            self.verdicts[number] = None
            self.reviews[number] = "waiting" if one.decision == "anomalous" or one.near else "none"

    def decide(self, number: int, verdict: str) -> None:
        self.store.add_verdict(self.product, number, verdict, "anna")
        self.verdicts[number] = None if verdict == "skip" else verdict
        self.reviews[number] = "skipped" if verdict == "skip" else "done"

    def newest_first(self) -> list[int]:
        """In the order in which they came, whatever their times."""
        return sorted(self.rows, reverse=True)


def random_one(rng: random.Random, product: int, version: int, **given: Any) -> NewInspection:
    """Few times and scores, so that many are alike."""
    score = rng.choice([rng.random() * 2, 0.5, 1.0, 1.5])
    usual: dict[str, Any] = {
        "picture": f"{rng.randrange(40):064x}",
        "at": BEGIN + rng.choice([rng.randrange(DAY), rng.randrange(4) * HOUR]),
        "name": rng.choice(NAMES),
        "regions": [{"box": [0, 0, 1, 1], "area": 1.0, "peak": score, "centroid": [0.5, 0.5]}],
    }
    usual |= {"score": score, "severity": score - 1, "score_threshold": 1.0}
    usual |= {"anomalous": score > 1.0, "near": 0.9 < score <= 1.0, "tolerated": score > 1.7}
    return taken(product, version, **usual | given)


def fill(filled: Filled, count: int, seed: int = 1) -> None:
    rng = random.Random(seed)
    filled.add([random_one(rng, filled.product, rng.choice(filled.versions)) for _ in range(count)])
    for number in rng.sample(sorted(filled.rows), count // 3):
        filled.decide(number, rng.choice(["good", "defect", "skip"]))


def pages(
    filled: Filled, wanted: Filters, between: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = search(filled.database, filled.product, wanted)
        assert len(page.inspections) <= wanted.limit
        assert page.inspections or not found, "the page before was the last one"
        found += page.inspections
        if page.next is None:
            return found
        assert len(page.inspections) == wanted.limit, "a page that is not the last one is full"
        wanted = replace(wanted, cursor=page.next)
        between()


def counted(filled: Filled, numbers: Iterable[int]) -> dict[str, int]:
    """Of these inspections, by the rows."""
    flagged = {n for n in numbers if filled.rows[n].anomalous and not filled.rows[n].tolerated}
    good = {n for n in numbers if filled.verdicts[n] == "good"}
    defect = {n for n in numbers if filled.verdicts[n] == "defect"}
    counts = {"inspected": len(list(numbers)), "anomalous": len(flagged), "reviewed": len(good | defect)}
    return counts | {
        "defects": len(defect),
        "false_alarms": len(flagged & good),
        "misses": len(defect - flagged),
        "within_tolerance": sum(filled.rows[n].tolerated for n in numbers),
    }


def points(filled: Filled, first: int, until: int) -> list[list[Any]]:
    rows = sorted((row.at, number) for number, row in filled.rows.items() if first <= row.at < until)
    return [
        [at / 1e6, row.score, 2 if row.tolerated else int(row.anomalous), filled.verdicts[n], n]
        for at, n in rows
        for row in [filled.rows[n]]
    ]


def buckets(filled: Filled, first: int, until: int, length: int) -> list[list[float]]:
    found = []
    inside = sorted((row.at // length, n) for n, row in filled.rows.items() if first <= row.at < until)
    for unit, group in itertools.groupby(inside, key=lambda pair: pair[0]):
        numbers = [number for _, number in group]
        scores, sums = [filled.rows[n].score for n in numbers], counted(filled, numbers)
        levels = min(scores), sum(scores) / len(scores), max(scores)
        counts = sums["inspected"], sums["anomalous"]
        more = (sums[name] for name in ("false_alarms", "misses", "within_tolerance"))
        found.append([unit * length / 1e6, *counts, *levels, *more])
    return found


def totals(filled: Filled, first: int, until: int) -> dict[str, int]:
    sums = counted(filled, [n for n, row in filled.rows.items() if first <= row.at < until])
    return {"unanswered": 0, "not_inspected": 0, "inspections": sums.pop("inspected"), **sums}


def near(found: Iterable[Iterable[Any]], expected: Iterable[Iterable[Any]]) -> None:
    for one, other in itertools.zip_longest(found, expected):
        assert one == pytest.approx(other)


@pytest.fixture(name="filled")
def filled_fixture(database):
    (product, one), (_, two) = (add_version(database, "plate", content) for content in "ab")
    other = add_version(database, "other")
    rng = random.Random(0)
    Store(database).record([random_one(rng, *other) for _ in range(20)])  # nobody should ever see them
    return Filled(database, product, (one, two), {}, {}, {})
