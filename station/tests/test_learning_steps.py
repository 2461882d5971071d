"""Learning without a model: what a product, the data base or the process does to the others and to itself."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from flawscope.calibration.judgement import DecisionCounts, Judgement
from flawscope.errors import FlawscopeError, InputError
from flawscope.results.review.pages import LANGUAGES
from flawscope_station.learning import activation, process
from flawscope_station.learning import candidate_plan as plans
from flawscope_station.learning import candidate_records as states
from flawscope_station.learning.activation import CannotLearnError, Learning
from flawscope_station.learning.candidate_records import Candidate, Candidates, advice, wait_reasons
from flawscope_station.learning.process import StoppedError, Worker, WorkerError, make_candidate
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.records import Store, verdict_stacks
from flawscope_station.store.schema import candidates, events, metadata, pictures, products, verdicts
from flawscope_station.web.templates import PAGES
from learning_helpers import echo
from station_helpers import add_version, taken, until


@pytest.fixture(autouse=True)
def spawned(monkeypatch):
    """Processes are started as in the station."""
    monkeypatch.setattr(process, "SPAWN_CONTEXT", multiprocessing.get_context("spawn"))


COUNTS = DecisionCounts(9, [3, 0.1, 0.7], [0, 0.0, 0.3])
FOUND = Judgement(how="extended", learnt=[5], good=COUNTS, defects=COUNTS)


class Kept(Candidates):
    """In the data base. fail: is asked before each change, and raises where it shall not happen."""

    def __init__(self, database: Database):
        super().__init__(database)
        self.fail: Callable[[str], None] = lambda status: None

    def change(self, number: int, status: str, **given: Any) -> bool:
        self.fail(status)
        return super().change(number, status, **given)

    def rows(self) -> list[Any]:
        """The oldest first."""
        with self.database.reading() as connection:
            return list(connection.execute(select(candidates).order_by(candidates.c.id)))

    def facts(self, number: int) -> dict[str, Any]:
        return dict(json.loads(self.rows()[number - 1].facts))

    def events(self) -> list[tuple[str, str]]:
        """What became of candidates."""
        query = select(events.c.kind, events.c.text).where(events.c.kind != states.EVENT_QUEUED)
        with self.database.reading() as connection:
            return [(row.kind, row.text) for row in connection.execute(query.order_by(events.c.id))]


class Versions:
    """Of each product version 1 is active, and 2 is what is made."""

    device = "cpu"

    def engine_for(self, path: Path) -> str | None:
        return None

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.now = database, {1: 1, 2: 1}
        self.files = SimpleNamespace(
            temporary_path=lambda name: folder / name, remove_temporary=lambda path: None
        )
        self.cannot: Exception | None = None

    def is_open(self, product_id: int) -> bool:
        return False  # no room is looked for

    def path(self, product_id: int, number: int) -> Path:
        return Path("model.safetensors")

    def number(self, product_id: int) -> int:
        return self.now[product_id]

    def add(self, *told: Any) -> int:
        return 2

    def activate(self, product_id: int, number: int, who: str, instead_of: int) -> bool:
        if self.cannot is not None:
            raise self.cannot
        if self.now[product_id] != instead_of:
            return False
        self.now[product_id] = number
        with self.database.writing() as connection:
            ours = products.update().where(products.c.id == product_id)
            connection.execute(ours.values(active_version_id=number))
        return True


class Made:
    """Learning of two products, with as many corrections as are asked for. said, reported: what it tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database):
        self.said: list[str] = []
        self.reported: dict[str, str | None] = {}
        self.unreadable: set[int] = set()
        self.asked = 0  # for all verdicts of a product
        self.unable = False
        self.full: StoreError | None = None
        self.versions, self.candidates = Versions(database, tmp_path), Kept(database)
        for name in ("one", "two"):
            add_version(database, name)
        learn = LearningSettings(rule="auto", after=1)
        self.learning = Learning(
            self.versions,
            {"one": 1, "two": 2},
            {"one": learn, "two": learn},
            self.reported.__setitem__,
            self.said.append,
        )
        correction = SimpleNamespace(number=5, verdict="good", verdict_id=1)
        words = SimpleNamespace(corrections=[correction], verdicts=[1], gone=[], contradictory=[])

        def words_of(product_id: int) -> Any:
            self.asked += 1
            return words

        def able(product_id: int) -> Any:
            if self.unable:
                raise CannotLearnError("version 1 is an export")
            if product_id in self.unreadable:
                raise InputError("model.safetensors is damaged; copy it again")
            return SimpleNamespace(number=1, file=Path("model.safetensors"), is_trained=True)

        plan = SimpleNamespace(learnt=[], start=1, verdicts=words, pictures=[])
        monkeypatch.setattr(activation, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(activation, "make_plan", lambda *told: plan)
        monkeypatch.setattr(self.learning, "_read_verdicts", words_of)
        monkeypatch.setattr(self.learning, "_check_can_learn", able)
        monkeypatch.setattr(self.learning, "_disk_full_error", lambda product_id: self.full)
        monkeypatch.setattr(self.learning, "candidates", self.candidates)
        monkeypatch.setattr(self.learning.worker, "run", lambda job, step: FOUND)

    def look(self, times: int = 1) -> None:
        """As often as in so many times ten seconds."""
        waits = iter([False] * times)
        self.learning._wait = lambda seconds=None: next(waits, True)
        self.learning._work()


@pytest.fixture
def made(monkeypatch, tmp_path, database):
    return Made(monkeypatch, tmp_path, database)


def test_a_model_that_cannot_be_read_is_that_products_problem_alone(made):
    made.unreadable.add(1)
    made.look()
    assert [(row.product_id, row.status) for row in made.candidates.rows()] == [(2, states.LIVE)]
    why = "no version can be made from corrections: model.safetensors is damaged; copy it again"
    assert made.reported == {"learning_model_1": why, "learning_model_2": None, "learning_2": None}
    made.unreadable.clear()
    made.look()
    assert made.reported["learning_model_1"] is None
    assert made.versions.now == {1: 2, 2: 2}


def test_an_unforeseen_fault_ends_its_candidate_alone(made, monkeypatch):
    """Else it is running for ever, and the product learns nothing more."""

    def run(job: Any, step: Any) -> Any:
        if made.candidates.rows()[0].status == states.RUNNING:
            raise KeyError("learnt")
        return FOUND

    monkeypatch.setattr(made.learning.worker, "run", run)
    made.look()
    assert [row.status for row in made.candidates.rows()] == [states.FAILED, states.LIVE]
    assert made.candidates.facts(1)["error"] == "KeyError: 'learnt'"
    assert made.reported["learning_1"] == "no version could be made from corrections: KeyError: 'learnt'"


def test_a_full_disk_makes_it_wait(made):
    made.full = StoreError("the disk is full; free some space", "disk_full")
    made.look(2)
    assert made.reported["learning_1"] == f"a version waits to be made from corrections: {made.full}"
    assert made.versions.now == {1: 1, 2: 1}
    made.full = None
    made.look()
    assert [row.status for row in made.candidates.rows()] == [states.LIVE, states.LIVE]


def test_a_station_that_ended_after_the_switch_knows_what_is_live(made):
    number, other = (made.candidates.add(product, product, "rule", {}) for product in (1, 2))
    for one in (number, other):
        made.candidates.change(one, states.READY, version_id=2)
    with made.candidates.database.writing() as connection:
        connection.execute(products.update().where(products.c.id == 1).values(active_version_id=2))
        connection.execute(products.update().where(products.c.id == 2).values(active_version_id=1))
    made.candidates.mark_live()
    assert [row.status for row in made.candidates.rows()] == [states.LIVE, states.READY]


def test_what_was_made_waits_for_a_store_that_is_away(made, monkeypatch):
    """Nothing is made twice, and a switch is not unsaid."""
    made.learning.settings[2] = None
    away = {states.READY: 1, states.LIVE: 1}
    settle = made.candidates.mark_live

    def fail(status: str) -> None:
        if away.get(status):
            away[status] -= 1
            raise StoreError("it is away", "store_unreachable")

    def settle_or_fail() -> None:
        if made.versions.now[1] == 2:
            fail(states.LIVE)
        settle()

    monkeypatch.setattr(made.candidates, "mark_live", settle_or_fail)
    made.candidates.fail = fail
    made.look(2)
    assert not any(away.values())
    (row,) = made.candidates.rows()
    assert (row.status, made.versions.now[1], made.candidates.facts(1)["waits"]) == (states.LIVE, 2, [])
    assert [kind for kind, _ in made.candidates.events()] == [states.EVENT_READY], "once, and nothing waits"


def test_a_version_that_cannot_be_opened_waits(made):
    """It was made and is kept: it has not failed, and is forgotten with the others that are not used."""
    made.versions.cannot = FlawscopeError("cannot open it")
    made.learning.settings[2] = None
    made.look()
    row = made.candidates.rows()[0]
    assert (row.status, row.version_id, made.candidates.facts(1)["waits"]) == (
        states.READY,
        2,
        ["not_opened"],
    )
    text = "candidate 1: version 2 does not go live by the rule (not_opened): cannot open it"
    assert made.candidates.events()[-1] == (states.EVENT_WAITS, text)


def test_verdicts_are_not_read_while_a_product_cannot_learn(made):
    made.unable = True
    made.look(5)
    assert made.asked == 0
    made.unable = False
    made.look()
    assert made.versions.now == {1: 2, 2: 2}


@pytest.fixture
def worker(monkeypatch):
    """Whose process gives back what it is given."""
    monkeypatch.setattr(process, "run_jobs", echo)
    made = Worker(make_candidate)
    yield made
    made.close()


def test_a_process_stays_for_the_next_job_for_a_while(worker, monkeypatch):
    steps: list[tuple[str, int, int]] = []
    assert worker.run({"number": 1}, lambda *step: steps.append(step)) == {"job": {"number": 1}}
    assert steps == [("echo", 1, 1)]
    first = worker.pid
    assert first is not None
    worker.end_if_idle()
    assert worker.run({"number": 2}, lambda *step: None) == {"job": {"number": 2}}
    assert worker.pid == first
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.0)
    worker.end_if_idle()
    assert worker.pid is None
    assert worker.run({"number": 3}, lambda *step: None) == {"job": {"number": 3}}


def test_a_job_that_fails_and_one_that_is_cut_off(worker):
    with pytest.raises(WorkerError, match="this one cannot be done"):
        worker.run({"fail": True}, lambda *step: None)
    with pytest.raises(WorkerError, match="it was killed, perhaps for want of memory; learn again"):
        worker.run({"wait": True}, lambda *step: os.kill(worker.pid or 0, signal.SIGKILL))
    with pytest.raises(StoppedError):
        worker.run({"wait": True}, lambda *step: worker.stop())
    assert worker.run({}, lambda *step: None) == {"job": {}}
    with pytest.raises(StoppedError):
        worker.run({"wait": True}, lambda *step: worker.close())
    with pytest.raises(StoppedError):
        worker.run({}, lambda *step: None)


def test_the_process_ends_with_the_station():
    code = (
        "import os; from flawscope_station.learning.process import Worker, make_candidate; "
        "made = Worker(make_candidate); made._ensure_started(); print(made.pid, flush=True); os._exit(1)"
    )
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    until(lambda: not Path(f"/proc/{told.stdout.strip()}/cmdline").exists())


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
    assert [(word.number, word.is_confirmed, word.is_correction) for word in words.judged] == [
        (a, True, True),
        (d, False, True),
        (e, False, False),
    ]
    assert [word.number for word in words.corrections] == [a, d]
    assert (words.gone, words.contradictory) == ([f], [c, again])


def test_the_drawn_pictures_are_a_fair_sample(database):
    """False alarms have their share of the line among them, also while some wait for a review."""
    store = Store(database)
    product_id, version = add_version(database)
    made = [taken(product_id, version, picture=f"{k:064}", anomalous=k % 10 == 0) for k in range(1000)]
    numbers = [number for number, _ in store.record(made)]
    flagged = numbers[::10]
    for number in flagged[:50]:  # half of them are reviewed yet
        store.add_verdict(product_id, number, "good", "anna")
    store.add_verdict(product_id, numbers[1], "defect", "anna")
    with database.reading() as connection:
        draws = [plans.draw_good_pictures(connection, product_id, 200, seed) for seed in range(20)]
        rows = [row for drawn in draws for row in drawn]
    assert len(rows) == 20 * 200
    share = sum(row.anomalous for row in rows) / len(rows)
    assert 0.08 < share < 0.12
    assert numbers[1] not in {row.id for row in rows}
    assert not {row.id for row in rows} & set(flagged[50:])


def test_more_corrections_than_a_question_may_name():
    """SQLite ends at 32,766, where nobody built it with more."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        inner: Any = connection.connection.driver_connection
        inner.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
        said = ((1, "good"), (1, "undo"), (40_000, "good"), (40_000, "defect"), (41_000, "good"))
        row = {"at": 0, "who": "anna", "note": ""}
        for number, verdict in said:
            connection.execute(verdicts.insert().values(inspection_id=number, verdict=verdict, **row))
        found = verdict_stacks(connection, range(1, 40_001))
    assert {number: [one.verdict for one in stack] for number, stack in found.items()} == {
        40_000: ["good", "defect"]
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, []),
        ({"lost": [3]}, ["lost"]),
        ({"weaker": [3]}, ["weaker"]),
        ({"questions": []}, []),
        ({"refused": ["simulated"], "responsible": [4]}, ["simulated"]),
        ({"good": DecisionCounts(9, [2], [2])}, ["no_gain"]),
        ({"good": DecisionCounts(9, [2], [3]), "lost": [1]}, ["lost", "no_gain"]),
    ],
)
def test_the_rule(changes, why):
    judgement = replace(FOUND, **changes)
    assert wait_reasons(judgement, 5, 5) == why
    assert wait_reasons(judgement, 4, 5) == [*why, "few"]
    assert wait_reasons(replace(judgement, questions=["a"]), 5, 5) == [*why, "asked"]
    assert wait_reasons(judgement, 5, 5, is_active=False) == [*why, "switched"]


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
