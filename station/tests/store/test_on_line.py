"""What was shown in a challenge, or tried by hand, counts nowhere: whoever learns, draws or counts answers
as without it."""

import re
from pathlib import Path

import pytest

import flawscope_station
from flawscope_station.drift.monitor import DriftMonitor
from flawscope_station.learning import candidate_plan
from flawscope_station.sinks.outbox import Outbox
from flawscope_station.store import line_alarms, search, throughput
from flawscope_station.store.database import now
from flawscope_station.store.records import Store
from flawscope_station.store.schema import challenge_parts, challenge_views, inspections, versions
from station_helpers import add_version, taken

HOUR = 3_600_000_000
ASKED = {
    "draw": lambda db, c, of: [row.id for row in candidate_plan.draw_good_pictures(c, of, 30, 0)],
    "learn": lambda db, c, of: candidate_plan.read_verdicts(c, of),
    "rate of the line": lambda db, c, of: round(throughput.pictures_a_day(db, of), 2),
    "defects": lambda db, c, of: throughput.reviewed_defects(db, of, [1, 2]),
    "drift begins": lambda db, c, of: monitor(db)._begin(of, 1).last,
    "drift": lambda db, c, of: monitor(db)._read_rows(of, monitor(db)._begin(of, 1)),
    "trends": lambda db, c, of: c.execute(search.inspection_counts(of)).all(),
    "last": lambda db, c, of: Store(db).last_at(of),
    "begun shift": lambda db, c, of: Store(db).counts_since(of, HOUR // 2),
    "totals": lambda db, c, of: (Store(db).totals(of), Store(db).waiting_count(of)),
    "shift": lambda db, c, of: search.summarize_period(db, of, 0, now()),
    "promise": lambda db, c, of: line_alarms.count_parts(db, of, 1),
    "sinks": lambda db, c, of: outbox(db, of).waiting(),
}


def monitor(database):
    made = DriftMonitor(Store(database), None, {1: "plate"}, lambda *given, **more: None)
    made.bounds[1] = 0.01
    return made


def outbox(database, product):
    box = Outbox(database, product, "plate", "webhook:1", station="s", sender="1", address=None)
    box.cursor = box.cursor._replace(inspection=0)
    return box


@pytest.fixture(name="line")
def line_fixture(database):
    """A product with 40 parts of the line, and what shows it 20 flagged and 5 missed challenge parts."""
    product, version = add_version(database)
    with database.writing() as connection:
        row = dict(connection.execute(versions.select()).mappings().one())
        connection.execute(versions.insert().values({**row, "id": 2, "hash": "1" * 64}))
    store, yesterday = Store(database), now() - 30 * HOUR

    def record(first, count, flagged, **given):
        own = [{"picture": f"{k:064}", "pixels": f"{k:064}"} for k in range(first, first + count)]
        made = [
            taken(product, version, anomalous=k % flagged == 0, at=k + yesterday, **one, **given)
            for k, one in enumerate(own, first)
        ]
        return [number for number, _ in store.record(made)]

    for number in record(0, 40, 10)[::10]:
        store.add_verdict(product, number, "good", "anna")

    def show(purpose):
        shown = record(100, 20, 1, purpose=purpose) + record(201, 5, 1000, purpose=purpose)
        with database.writing() as connection:
            of = inspections.update().where(inspections.c.id.in_(shown[:10]))
            connection.execute(of.values(version_id=2, verdict="defect"))

    return product, show


@pytest.mark.parametrize("purpose", ["challenge", "trial"])
@pytest.mark.parametrize("asked", ASKED)
def test_a_challenge_and_a_trial_change_no_answer(database, line, asked, purpose):
    product, show = line
    answers = []
    for begin in (lambda: None, lambda: show(purpose)):
        begin()
        with database.reading() as connection:
            answers.append(ASKED[asked](database, connection, product))
    assert answers[0] == answers[1]


def test_a_missed_defect_that_became_a_challenge_part_is_not_drawn(database, line):
    """It came with the line, and the model passed it; a person kept it as what a challenge shows."""
    product, _ = line
    part = {"id": 1, "product_id": product, "name": "d-1", "expected": "anomalous", "note": ""}
    view = {"part_id": 1, "view": "", "pixels": f"{7:064}", "boxes": "[]", "picture": b""}
    with database.writing() as connection:
        connection.execute(challenge_parts.insert().values(part))
        connection.execute(challenge_views.insert().values(view))
        drawn = candidate_plan.draw_good_pictures(connection, product, 100, 0)
    assert len(drawn) == 39
    assert f"{7:064}" not in {row.picture for row in drawn}


def test_no_query_forgets_it():
    """A query by product asks through `on_line`, but for those that are about every inspection."""
    every = "schema records search"  # one by number, or by key, and whatever a search asks for
    # how far a sink is, what may be removed
    every += " outbox removable retention model_registry clock"
    root = Path(flawscope_station.__file__).parent
    found = {
        path.stem
        for path in root.rglob("*.py")
        if path.parent.name != "challenge"
        if re.search(r"(?<!_)(inspections\.c|column)\.product_id ==", path.read_text("utf-8"))
    }
    assert found == {*every.split()}
