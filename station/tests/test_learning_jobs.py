"""Jobs in one queue: their order, what a stop and a kill leave, and how many are kept."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from flawscope_station.inspecting.memory import MemoryBudget
from flawscope_station.learning import jobs as jobs_module
from flawscope_station.learning.jobs import CORRECTIONS, DONE, FAILED, FIT, STOPPED, JobQueue
from flawscope_station.learning.process import StoppedError
from flawscope_station.settings.station import Limits
from flawscope_station.setup.draft import DRAFTS_FOLDER, STATE_FILE
from flawscope_station.setup.drafts import Drafts
from flawscope_station.store.files import Files
from flawscope_station.store.schema import QUEUED, RUNNING, jobs
from station_helpers import add_version

pytestmark = pytest.mark.both_databases


class Played:
    """A queue whose jobs are done at once by what a test says, in this thread."""

    def __init__(self, database: Any):
        self.queue, self.made = JobQueue(database), list[str]()
        self.meanwhile: Any = lambda row: None
        self.queue.makers = dict.fromkeys((CORRECTIONS, FIT), self.make)
        self.stopped = 0
        self.queue.worker = SimpleNamespace(  # type: ignore[assignment]
            stop=self.stop, end_if_idle=lambda: None, close=lambda: None
        )

    def stop(self) -> None:
        self.stopped += 1

    def make(self, row: Any) -> None:
        self.made.append(row.draft or row.kind)
        before = self.stopped
        self.meanwhile(row)
        if self.stopped > before:
            raise StoppedError("as the worker")
        self.queue.jobs.change(row.id, DONE, only=(RUNNING,))

    def look(self) -> None:
        self.queue._make_all()

    def statuses(self) -> list[str]:
        rows = self.queue.jobs.database.rows(jobs.select().order_by(jobs.c.id))
        return [row.status for row in rows]


@pytest.fixture(name="played")
def played_fixture(database):
    return Played(database)


def test_the_oldest_comes_first_whatever_it_is(played, database):
    product, version = add_version(database)
    played.queue.add(CORRECTIONS, "rule", {}, product_id=product, start=version)
    played.queue.add(FIT, "anna", {}, draft="cup")
    played.look()
    assert played.made == [CORRECTIONS, "cup"]
    assert played.statuses() == [DONE] * 2


def test_a_job_that_an_earlier_station_queued_and_nobody_makes_is_removed(played):
    played.queue.add("curve", "anna", {}, draft="lid")
    played.queue.add(FIT, "anna", {}, draft="cup")
    played.look()
    assert played.made == ["cup"]
    assert played.statuses() == [DONE]


def test_a_job_that_was_stopped_is_not_made_again_and_one_that_was_cut_off_is(played):
    first = played.queue.add(FIT, "anna", {}, draft="lid")
    played.meanwhile = lambda row: played.queue.stop_job(first)
    played.look()
    assert (played.made, played.statuses()) == (["lid"], [STOPPED])
    assert not played.queue.stop_job(first), "it is over"
    played.queue.add(FIT, "anna", {}, draft="lid")
    played.meanwhile = lambda row: played.queue._ended.set() or played.stop()
    played.look()
    assert played.statuses() == [RUNNING], "the station ended; of a product's fits the last is kept"
    again = Played(played.queue.jobs.database)
    again.look()
    assert (again.made, again.statuses()) == (["lid"], [DONE])


def test_how_far_a_job_is(played):
    number = played.queue.add(FIT, "anna", {}, draft="lid")
    seen, late = list[Any](), list[Any]()

    def going_on(row: Any) -> None:
        played.queue._note_step("training, step 3", 3, 9)
        seen.extend((played.queue.step(number), played.queue.step(number + 1)))
        played.queue._note_step("training, step 4", 4, 9)
        played.queue._estimate_end = 0.0  # it has stood still since
        late.append(played.queue.step(number))

    played.meanwhile = going_on
    played.look()
    step = seen[0]
    assert (step.stage, step.done, step.total, seen[1]) == ("training", 3, 9, None)
    assert step.left is not None
    assert (late[0].done, late[0].left) == (4, None)
    assert played.queue.step(number) is None


def test_jobs_that_became_no_version_are_bounded(played, database, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_JOBS", 3)
    product, version = add_version(database)
    _, gone = add_version(database, content="1" * 64, state="removed")
    kept = played.queue.jobs
    for number in range(8):
        new = kept.add(CORRECTIONS, "rule", {}, product_id=product, start=version)
        kept.change(new, FAILED, **({"version_id": {0: version, 1: gone}[number]} if number < 2 else {}))
    rows = kept.latest(product)
    assert [row.version_id for row in rows] == [None] * 3 + [version]


def test_what_an_earlier_flawscope_kept_of_a_new_product_is_a_job(database, tmp_path):
    state = {"stage": "learning", "by": "anna", "at": "2026", "method": "patchcore", "size": "64"}
    state |= {"asked_at": 7, "error": None, "learns_from": ["a.png"], "result": {"asked_at": 5}}
    homes = {"lid": state, "cup": {"stage": "collecting", "by": "bob"}, "pan": {**state, "stage": "failed"}}
    for name, one in homes.items():
        (home := tmp_path / DRAFTS_FOLDER / name).mkdir(parents=True)
        (home / STATE_FILE).write_text(json.dumps(one))
    for _ in range(2):  # the second time there is nothing to carry over
        queue = JobQueue(database)
        files, memory = Files(tmp_path), MemoryBudget(0)
        drafts = Drafts(queue, files, Limits(), memory, "cpu", lambda: False, lambda line: None)
        assert {one.name: drafts.stage(one) for one in drafts} == {
            "lid": QUEUED,
            "cup": "collecting",
            "pan": FAILED,
        }
        facts = json.loads(queue.jobs.of_draft("lid").facts)
        assert facts["options"] == {"method": "patchcore", "size": "64"}
        assert facts["learns_from"] == ["a.png"]
        kept = json.loads((tmp_path / DRAFTS_FOLDER / "lid" / STATE_FILE).read_text())
        assert kept == {"by": "anna", "at": "2026", "result": {"asked_at": 5}}
