"""The store, on both data bases, against plain loops over the same rows."""

import itertools
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import func, select, text

from flawscope.errors import InputError
from flawscope_station.settings.station import Settings
from flawscope_station.store import search as search_module
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import HOUR, NewInspection, Store, parse_time
from flawscope_station.store.schema import hours, inspections, learnt_pixels
from flawscope_station.store.search import Filters, search, trends
from station_helpers import add_version, taken

pytestmark = pytest.mark.both_databases
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


@pytest.fixture
def filled(database):
    (product, one), (_, two) = (add_version(database, "plate", content) for content in "ab")
    other = add_version(database, "other")
    rng = random.Random(0)
    Store(database).record([random_one(rng, *other) for _ in range(20)])  # nobody should ever see them
    return Filled(database, product, (one, two), {}, {}, {})


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
    return Filters(**{name: wanted[name] for name in chosen}, limit=rng.choice([9, 50, 500]))


def matches(filled: Filled, number: int, wanted: Filters) -> bool:
    row, verdict = filled.rows[number], filled.verdicts[number]
    name = wanted.name or "*"
    tests = [
        wanted.since is None or row.at >= wanted.since,
        wanted.until is None or row.at < wanted.until,
        wanted.decision
        in (None, "within tolerance" if row.tolerated else ("good", "anomalous")[row.anomalous]),
        wanted.verdict in (None, verdict or "none"),
        wanted.review in (None, filled.reviews[number]),
        wanted.score_min is None or row.score >= wanted.score_min,
        wanted.score_max is None or row.score <= wanted.score_max,
        wanted.version in (None, row.version_id),
        row.name.startswith(name[:-1]) if name.endswith("*") else row.name == name,
    ]
    return all(tests)


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


def test_pages_are_complete_and_without_doubles_while_others_come(filled):
    fill(filled, 100)
    before, rng = filled.newest_first(), random.Random(3)
    times = [filled.rows[number].at for number in before]

    def come() -> None:
        """At any time: what waited long in the queue is older than what is there."""
        at = rng.choice([max(times) + rng.randrange(HOUR), rng.choice(times)])
        filled.store.record([random_one(rng, filled.product, filled.versions[0], at=at) for _ in range(3)])

    found = [one["id"] for one in pages(filled, Filters(limit=9), come)]
    assert len(found) == len(set(found))
    assert [number for number in found if number in filled.rows] == before


def test_a_removed_version_leaves_what_the_others_learnt(filled, tmp_path):
    database, (first, unused) = filled.database, filled.versions
    _, newest = add_version(database, "plate", "c")
    with database.writing() as connection:
        rows = [{"version_id": version, "pixels": "0" * 64} for version in (first, unused, newest)]
        connection.execute(learnt_pixels.insert(), rows)
    assert ModelRegistry(database, Files(tmp_path / "files")).remove(filled.product, unused)
    with database.reading() as connection:
        left = {*connection.execute(select(learnt_pixels.c.version_id)).scalars()}
    assert {first, newest} <= left
    assert unused not in left


def test_events_of_a_kind_are_those_alone(filled):
    for kind, product in (("light changed", filled.product), ("drift", filled.product), ("drift", None)):
        filled.store.note_event(kind, "anna", kind, product)
    assert [row.text for row in filled.store.events("drift", filled.product)] == ["drift"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "501", "x", "1e2", "9" * 5000)),
        *(("since", value) for value in ("yesterday", "2026-13-01", "9" * 30)),
        *(("score_min", value) for value in ("nan", "inf", "one")),
        *(("version", value) for value in ("-1", str(2**63), "1.5")),
        *(
            ("cursor", "x"),
            ("cursor", "===="),
            ("cursor", "ÄÖ"),
            ("cursor", "LTEuMg"),
            ("cursor", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LjE"),
            ("decision", "bad"),
            ("verdict", "skip"),
            ("review", "later"),
            ("name", "a\0b"),
        ),
    ],
)
def test_a_wrong_filter_is_one_line(name, value):
    with pytest.raises(InputError) as caught:
        Filters.from_query({name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


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


def test_verdicts_at_the_same_time_are_all_counted(filled):
    rng = random.Random(0)
    filled.add([random_one(rng, filled.product, filled.versions[0], at=BEGIN + k) for k in range(16)])
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: filled.store.add_verdict(filled.product, number, "defect", "anna"), filled.rows
            )
        )
    found = trends(filled.database, filled.product, BEGIN - DAY, BEGIN + DAY)["totals"]
    assert (found["inspections"], found["reviewed"], found["defects"]) == (16, 16, 16)


def test_what_is_not_there_is_said(filled):
    """Another product's is not there either."""
    with filled.database.reading() as connection:
        query = select(func.min(inspections.c.id)).where(inspections.c.product_id != filled.product)
        foreign = int(connection.execute(query).scalar_one())
    for number in (0, -1, 10**6, 2**63 - 1, foreign):
        for ask in (
            filled.store.inspection,
            filled.store.picture,
            lambda product, number: filled.store.add_verdict(product, number, "good", "anna"),
        ):
            with pytest.raises(InputError, match="there is no inspection"):
                ask(filled.product, number)


def test_a_key_is_taken_once_whoever_sends_it_and_when(filled):
    """In one group, in several, and by several threads at once; also beside ones without a key."""
    rng = random.Random(0)
    base = [
        random_one(rng, filled.product, filled.versions[0], key=f"k{k % 10}", at=BEGIN + k) for k in range(30)
    ]
    groups = [base[k : k + 6] for k in range(0, 30, 6)] * 3
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(filled.store.record, groups))
    numbers: dict[str | None, set[int]] = {}
    fresh = 0
    for group, answers in zip(groups, found, strict=True):
        for one, (number, is_new) in zip(group, answers, strict=True):
            numbers.setdefault(one.key, set()).add(number)
            fresh += is_new
    assert fresh == 10
    assert all(len(several) == 1 for several in numbers.values())
    with filled.database.reading() as connection:
        here = inspections.c.product_id == filled.product
        assert connection.execute(select(func.count()).where(here)).scalar_one() == 10
        counted = select(func.sum(hours.c.inspected)).where(hours.c.product_id == filled.product)
        assert connection.execute(counted).scalar_one() == 10
    there = {key: next(iter(several)) for key, several in numbers.items()}
    known = filled.store.known_files(filled.product, [*map(str, there), "k10"])
    assert {key: number for key, (number, _) in known.items()} == there
    without = [replace(base[0], key=None)] * 3
    assert len({number for number, is_new in filled.store.record(without) if is_new}) == 3


def test_a_group_is_recorded_whole_or_not_at_all(filled):
    rng = random.Random(0)
    good = random_one(rng, filled.product, filled.versions[0], picture="f" * 64)
    for group in ([good, replace(good, version_id=999)], [replace(good, product_id=999), good]):
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            filled.store.record(group)
    assert filled.store.totals(filled.product)["inspections"] == 0
    with filled.database.reading() as connection:
        there = connection.execute(text("SELECT count(*) FROM pictures WHERE hash = :h"), {"h": "f" * 64})
        assert there.scalar_one() == 0


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


def test_trends_of_all_time_and_of_nothing(filled):
    empty = trends(filled.database, filled.product)
    assert (empty["points"], empty["buckets"], empty["totals"]["inspections"]) == ([], [], 0)
    fill(filled, 60)
    found = trends(filled.database, filled.product)
    assert found["points"] == points(filled, 0, 2**60)
    assert found["totals"] == totals(filled, 0, 2**60)
    backwards = trends(filled.database, filled.product, BEGIN + DAY, BEGIN)
    assert (backwards["points"], backwards["totals"]["inspections"]) == ([], 0)
    last = trends(filled.database, filled.product, BEGIN + 3 * DAY, BEGIN + 4 * DAY)
    assert (last["points"], last["buckets"]) == ([], [])


def test_a_migrated_store_can_be_opened_by_several_at_once(database_url, tmp_path):
    url = Settings(store=str(tmp_path), database=database_url).url

    def opened(_: int) -> int:
        one = Database(url)
        try:
            one.migrate()
            return Store(one).add_product("plate")
        finally:
            one.close()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(8)))) == 1


def test_what_is_no_store_is_said_in_one_line(tmp_path, database_url):
    """A file that is none, a data base that is not there, and one with other tables."""
    settings = Settings(store=str(tmp_path), database=database_url)
    if database_url is None:
        (tmp_path / "station.sqlite").write_bytes(b"this is a letter to my aunt" * 100)
        wrong = [settings.url]
    else:
        other = Database(settings.url)
        with other.writing() as connection:
            connection.execute(text("CREATE TABLE products (what int)"))
        other.close()
        password = replace(settings, database="postgresql://me:secret@127.0.0.1:9/none")
        wrong = [
            settings.url,
            password.url,
            replace(settings, database=database_url.replace("/st", "/x")).url,
        ]
    for url in wrong:
        one = Database(url)
        with pytest.raises(InputError) as caught:
            one.migrate()
        one.close()
        said = str(caught.value)
        assert "\n" not in said
        assert "secret" not in said
        assert len(said) < 500


def test_a_data_base_that_has_not_all_letters_is_refused(postgres):
    refusal = pytest.raises(InputError, match="has the encoding LATIN1: make a data base with UTF8")
    with postgres.database("LATIN1") as url, refusal:
        Database(Settings(database=url).url).migrate()
