"""Learning without a model: what a product, the database or the process does to the others and to itself."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from flawscope.pages.templates import LANGUAGES
from flawscope_station.learning import candidate_plan as plans
from flawscope_station.learning import candidate_records as states
from flawscope_station.learning import jobs
from flawscope_station.learning.candidate_records import Candidate, advice
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.database import StoreError
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import Store, verdict_stacks
from flawscope_station.store.schema import RUNNING, metadata, pictures, verdicts, versions
from flawscope_station.web.templates import PAGES
from learning_steps_helpers import FOUND, Made
from station_helpers import add_version, taken


@pytest.fixture
def made(monkeypatch, tmp_path, database):
    return Made(monkeypatch, tmp_path, database)


def test_a_model_that_cannot_be_read_is_that_products_problem_alone(made):
    made.unreadable.add(1)
    made.look()
    assert [(row.product_id, row.status) for row in made.candidates.rows()] == [(2, jobs.DONE)]
    why = "no version can be made from corrections: model.safetensors is damaged; copy it again"
    assert made.reported == {"learning_model_1": why, "learning_model_2": None, "learning_2": None}
    made.unreadable.clear()
    made.look()
    assert made.reported["learning_model_1"] is None
    assert made.candidates.statuses() == ["ready", "ready"]


def test_an_unforeseen_fault_ends_its_candidate_alone(made, monkeypatch):
    """Else it is running for ever, and the product learns nothing more."""

    def run(work: Any, job: Any, step: Any) -> Any:
        if made.candidates.rows()[0].status == RUNNING:
            raise KeyError("learnt")
        return FOUND

    monkeypatch.setattr(made.queue.worker, "run", run)
    made.look()
    assert [row.status for row in made.candidates.rows()] == [jobs.FAILED, jobs.DONE]
    assert made.candidates.facts(1)["error"] == "KeyError: 'learnt'"
    assert made.reported["learning_1"] == "no version could be made from corrections: KeyError: 'learnt'"


def test_a_product_that_is_removed_while_it_learns_leaves_no_version_and_no_problem(made, monkeypatch):
    """Its candidate has failed; nobody would ever end a problem of it."""
    add, added, number = made.versions.add, [], made.versions.number

    def removed(product_id: int) -> int:
        if product_id == 1:
            raise NoModelError()
        return number(product_id)

    monkeypatch.setattr(made.versions, "number", removed)
    monkeypatch.setattr(
        made.versions, "add", lambda one, *told, **how: added.append(one) or add(one, *told, **how)
    )
    made.look()
    assert [row.status for row in made.candidates.rows()] == [jobs.FAILED, jobs.DONE]
    assert (added, made.reported["learning_1"]) == ([2], None)


def test_a_version_that_is_being_made_tells_how_far_it_is(made, monkeypatch):
    seen: list[Any] = []

    def run(work: Any, job: Any, step: Any) -> Any:
        step("judging, plate", 3, 12)
        product_id = len(seen) + 1
        seen.append(made.learning.candidate(product_id, made.candidates.latest(product_id)[0].id).step)
        return FOUND

    monkeypatch.setattr(made.queue.worker, "run", run)
    made.look()
    assert [(one.stage, one.done, one.total) for one in seen] == [("judging", 3, 12)] * 2
    assert made.learning.candidate(1, made.candidates.latest(1)[0].id).step is None


def test_a_full_disk_makes_it_wait(made):
    made.full = StoreError("the disk is full; free some space", "disk_full")
    made.look(2)
    assert made.reported["learning_1"] == f"a version waits to be made from corrections: {made.full}"
    assert made.candidates.statuses() == ["running", "queued"]
    made.full = None
    made.look()
    assert made.candidates.statuses() == ["ready", "ready"]


def test_what_became_of_a_candidate_is_the_state_of_its_version(made):
    number = made.candidates.add("corrections", "anna", {}, product_id=1, start=1)
    _, version = add_version(made.versions.database, "one", "f" * 64, "making")
    made.candidates.change(number, jobs.DONE, version_id=version)
    assert (made.versions.state(version), made.candidates.statuses()) == ("ready", ["ready"])
    for state, status in (("active", "live"), ("retired", "live"), ("removed", "removed")):
        made.versions.put(1, "retired")
        made.versions.put(version, state)
        assert made.candidates.statuses() == [status]


def test_what_was_made_waits_for_a_store_that_is_away(made):
    """Nothing is made twice, and what was made is ready when its candidate says what it learnt."""
    made.learning.settings[2] = None
    away, states_seen = {jobs.DONE: 1}, list[str]()

    def fail(status: str) -> None:
        if away.get(status):
            away[status] -= 1
            states_seen.append(made.versions.state(3))
            raise StoreError("it is away", "store_unreachable")

    made.candidates.fail = fail
    made.look(2)
    assert not any(away.values())
    (row,) = made.candidates.rows()
    assert (made.candidates.statuses(), row.version_id) == (["ready"], 3)
    assert (states_seen, made.versions.state(3)) == (["making"], "ready")
    assert [kind for kind, _ in made.candidates.events()] == ["version added", states.EVENT_READY], "once"


def test_verdicts_are_not_read_while_a_product_cannot_learn(made):
    made.unable = True
    made.look(5)
    assert made.asked == 0
    made.unable = False
    made.look()
    assert made.candidates.statuses() == ["ready", "ready"]


def test_corrections_are_read_again_once_something_was_said_or_done(made):
    """Each minute, and after each verdict on any product, all products are looked at."""
    made.look(4)
    before = made.asked
    made.look(5)
    assert made.asked == before
    Store(made.versions.database).record([taken(2, 2)])
    made.look(5)
    assert made.asked == before
    Store(made.versions.database).add_verdict(2, 1, "good", "anna")
    made.look(5)
    assert made.asked == before + 1, "of the product that it is about"
    with made.candidates.database.writing() as connection:
        connection.execute(versions.update().where(versions.c.id == 1).values(state="retired"))
    made.look(5)
    assert made.asked == before + 2


def test_words_are_what_holds(database):
    """What is said twice is sure; what was taken back, is gone or contradicts itself is left out."""
    product, version = add_version(database)
    store = Store(database)
    flags = {"a": True, "b": True, "c": True, "d": False, "e": True, "f": True}
    made = [taken(product, version, picture=name * 64, anomalous=bad) for name, bad in flags.items()]
    a, b, c, d, e, f = (number for number, _ in store.record(made))
    ((again, _),) = store.record([taken(product, version, picture="c" * 64, anomalous=True)])
    said = {a: "good good", b: "good undo", c: "good", again: "defect", d: "defect", e: "defect", f: "good"}
    for number, several in said.items():
        for word in several.split():
            store.add_verdict(product, number, word, "anna")
    with database.writing() as connection:
        gone = pictures.update().where(pictures.c.hash == "f" * 64)
        connection.execute(gone.values(removed_at=1))
        words = plans.read_verdicts(connection, product)
    assert [(word.number, word.is_confirmed, word.is_correction) for word in words.usable_verdicts] == [
        (a, True, True),
        (d, False, True),
        (e, False, False),
    ]
    assert [word.number for word in words.corrections] == [a, d]
    assert (words.removed, words.contradictory) == ([f], [c, again])


def test_more_corrections_than_a_question_may_name():
    """SQLite ends at 32,766, where nobody built it with more."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        inner: Any = connection.connection.driver_connection
        inner.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
        said = ((1, "good"), (1, "undo"), (40_000, "good"), (40_000, "defect"), (41_000, "good"))
        row = {"product_id": 1, "at": 0, "who": "anna", "note": ""}
        for number, verdict in said:
            connection.execute(verdicts.insert().values(inspection_id=number, verdict=verdict, **row))
        found = verdict_stacks(connection, range(1, 40_001))
    assert {number: [one.verdict for one in stack] for number, stack in found.items()} == {
        40_000: ["good", "defect"]
    }


@pytest.mark.parametrize(
    ("judged", "active", "use", "reason"),
    [
        ({}, 1, True, "fewer"),
        ({"found": [4]}, 1, True, "finds"),
        ({"good": {"before": [1, 0, 1], "after": [1, 0, 1], "count": 9}}, 1, False, "no_gain"),
        ({"lost": [3, 4], "found": [5]}, 1, False, "lost"),
        ({"weaker": [3], "found": [5]}, 1, False, "weaker"),
        ({"refused": ["simulated"], "simulated": [90, 60, 100], "responsible": [3]}, 1, False, "simulated"),
        ({}, 2, False, "old"),  # it was compared with another version
    ],
)
def test_a_version_that_loses_something_is_not_advised(judged, active, use, reason):
    good = {"before": [7, 0.6, 1.0], "after": [1, 0.0, 0.5], "count": 9}
    judgement = {"how": "extended", "learnt": [], "good": good, "defects": good, **judged}
    made = {"id": 1, "start": 1, "version": 2, "by": "anna", "created_at": "", "changed_at": ""}
    made |= {"status": "ready", "compared_with": 1}
    found = advice(Candidate.model_validate({**made, "judgement": judgement}), active)
    assert found[:2] == (use, reason)
    for language in LANGUAGES:
        texts = PAGES.texts[language]
        if reason in ("lost", "weaker"):
            assert texts.count(f"advice.{reason}", found.values["n"])
        else:
            assert texts(f"advice.{reason}", **found.values)
    assert advice(Candidate.model_validate({**made, "status": "running"}), active) is None


@pytest.mark.parametrize(("how", "may"), [("recalibrated", True), ("extended", False), ("", False)])
def test_an_export_of_another_precision_is_recalibrated_but_makes_no_new_export(how, may):
    active = plans.ActiveVersion(1, Path("part.onnx"), "patchcore", "bf16")
    why = plans.reason_not_to_learn(active, LearningSettings(trained="part.safetensors"), how)
    assert (why is None) is may, why
