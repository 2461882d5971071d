"""The store, on both databases, against plain loops over the same rows."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text

from flawscope.errors import InputError
from flawscope_station.settings.station import Settings
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import HOUR, Store
from flawscope_station.store.schema import hours, inspections, learnt_pixels
from flawscope_station.store.search import Filters, trends
from station_helpers import add_version
from store_helpers import (  # noqa: F401
    BEGIN,
    DAY,
    fill,
    filled_fixture,
    pages,
    points,
    random_one,
    totals,
)

pytestmark = pytest.mark.both_databases


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
    """A file that is none, a database that is not there, and one with other tables."""
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
