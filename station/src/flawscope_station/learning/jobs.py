"""Queue of the models that are made, one after another, in a process of their own.

They are versions from corrections, and models of new products. Each job is a row of the database, so that a
station that was killed continues with it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Connection, Select, delete, func, or_, select, update
from typing_extensions import override

from flawscope_station.learning.process import STEP_SECONDS, JobFunction, StoppedError, Worker
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.model_registry import make_ready
from flawscope_station.store.records import NotFoundError, add_event
from flawscope_station.store.rows import CandidateRow, JobRow
from flawscope_station.store.schema import (
    IS_UNFINISHED,
    QUEUED,
    REMOVED,
    RUNNING,
    active_version,
    jobs,
    verdicts,
    versions,
)

T = TypeVar("T")

# kinds of jobs
CORRECTIONS = "corrections"  # makes a version from corrections
FIT = "fit"  # makes the model of a new product
# statuses of jobs; whether a model is in use is the state of its version
DONE = "done"
STOPPED = "stopped"
REJECTED = "rejected"
FAILED = "failed"
UNFINISHED = (QUEUED, RUNNING)
MAX_JOBS = 1000  # jobs of a product without a version that are kept, the latest
MAX_LATEST = 50  # latest jobs of a product that are listed
CHECK_INTERVAL = 60.0  # seconds between two looks for jobs
LATE_SECONDS = 5.0  # shortest time for which the estimated remaining time of a stage is shown
RETRY_SECONDS = 2.0  # seconds between two tries where the database is away
EVENT_QUEUED = "learning asked"


class JobStep(BaseModel):
    """Progress of a job."""

    stage: str
    done: int
    total: int
    left: float | None = Field(None, description="estimated seconds until this stage is done")


class Jobs:
    """Jobs in the database. Every method is one transaction and raises `StoreError` where it fails."""

    def __init__(self, database: Database):
        self.database = database

    def add(
        self,
        kind: str,
        who: str,
        facts: Mapping[str, object],
        *,
        product_id: int | None = None,
        start: int | None = None,
        draft: str | None = None,
    ) -> int:
        """Queue a job and return its number; remove old jobs of the product that have no version.

        Args:
            kind: Kind of the job: `CORRECTIONS` or `FIT`.
            who: User who requests it.
            facts: Facts that are stored with it, as JSON.
            product_id: Number of the product; None: the product is new.
            start: Number of the version that a candidate starts from; None: the job makes no candidate.
            draft: Name of the new product, whose earlier job of this kind is removed; None: no new product.
        """
        created_at = now()
        row = {
            "kind": kind,
            "product_id": product_id,
            "draft": draft,
            "start_version_id": start,
            "who": who,
            "created_at": created_at,
            "changed_at": created_at,
            "status": QUEUED,
            "facts": json.dumps(facts),
        }
        with self.database.writing() as connection:
            if draft is not None:
                connection.execute(delete(jobs).where(jobs.c.draft == draft, jobs.c.kind == kind))
            number = int(connection.execute(jobs.insert().values(row).returning(jobs.c.id)).scalar_one())
            if product_id is not None:
                text = f"candidate {number} on version {start}"
                add_event(connection, EVENT_QUEUED, who, text, product_id)
                _remove_old_jobs(connection, product_id)
        return number

    def change(
        self,
        number: int,
        status: str,
        *,
        kind: str = "",
        who: str = "",
        text: str = "",
        facts: Mapping[str, object] | None = None,
        only: tuple[str, ...] = (),
        **columns: int | None,
    ) -> bool:
        """Set a job's status and record an event; return whether the job was changed.

        Nothing is changed if the job was removed, or if its status is not in `only`. If the new status is
        DONE and `columns` has a `version_id`, this version becomes ready.

        Args:
            number: Number of the job.
            status: New status.
            kind: Kind of the event; "": no event is recorded.
            who: User of the event.
            text: Text of the event, after the candidate's number.
            facts: Facts that are added to those of the job.
            only: Statuses in which the job is changed; empty: in any.
            columns: Further values of the job's row, such as `version_id`.
        """
        with self.database.writing() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == number).with_for_update()).one_or_none()
            if row is None or (only and row.status not in only):
                return False
            all_facts = {**json.loads(row.facts), **(facts or {})}
            values = {"status": status, "changed_at": now(), "facts": json.dumps(all_facts), **columns}
            connection.execute(update(jobs).where(jobs.c.id == number).values(values))
            if status == DONE and (version := columns.get("version_id")) is not None:
                make_ready(connection, version, who)
            if kind:
                add_event(connection, kind, who, f"candidate {number}{text}", row.product_id)
        return True

    def replace_version(self, number: int, version: int) -> None:
        """Record that a job's version was replaced by a copy with another number."""
        self.database.change(update(jobs).where(jobs.c.id == number).values(version_id=version))

    def state(self, product_id: int) -> tuple[object, ...]:
        """Return the numbers of the active version and the last verdict, and the statuses of the latest jobs.

        As long as this state is unchanged, no new candidate can become due.
        """
        last_verdict = (
            select(verdicts.c.id)
            .where(verdicts.c.product_id == product_id)
            .order_by(verdicts.c.id.desc())
            .limit(1)
        )
        version_and_verdict = select(active_version(product_id), last_verdict.scalar_subquery())
        latest_jobs = (
            select(jobs.c.id, jobs.c.status)
            .where(jobs.c.product_id == product_id)
            .order_by(jobs.c.id.desc())
            .limit(MAX_LATEST)
        )
        with self.database.reading() as connection:
            job_states = [tuple(row) for row in connection.execute(latest_jobs)]
            version_id, verdict_id = connection.execute(version_and_verdict).one()
        return version_id, verdict_id, *job_states

    def next_unfinished(self) -> JobRow | None:
        """Return the oldest unfinished job; None: there is none.

        The job is queued, or was running when the station ended.
        """
        return self.database.row(select(jobs).where(IS_UNFINISHED).order_by(jobs.c.id).limit(1))

    def before(self, number: int) -> int:
        """Count the unfinished jobs that are older than the job `number`."""
        query = select(func.count()).where(IS_UNFINISHED, jobs.c.id < number)
        with self.database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def of_version(self, product_id: int, version: int) -> JobRow | None:
        """Return the last job that made a version; None: the version was not made by a job."""
        with self.database.reading() as connection:
            return job_of_version(connection, product_id, version)

    def by_version(self, product_id: int) -> dict[int, CandidateRow]:
        """Return for each version that a job made, by its number, the last job that made the version."""
        conditions = jobs.c.product_id == product_id, jobs.c.version_id.is_not(None)
        rows = self.database.rows(_with_version_state().where(*conditions).order_by(jobs.c.id))
        return {int(row.version_id): row for row in rows}  # later jobs replace earlier ones

    def row(self, product_id: int, number: int) -> CandidateRow:
        """Return a product's job, with the state of its version.

        Raises:
            NotFoundError: There is no such job.
        """
        row = self.database.row(
            _with_version_state().where(jobs.c.product_id == product_id, jobs.c.id == number)
        )
        if row is None:
            raise NotFoundError(f"there is no candidate {number} of this product")
        return row

    def latest(self, product_id: int, limit: int = MAX_LATEST) -> Sequence[CandidateRow]:
        """Return a product's latest jobs, newest first, each with the state of its version."""
        query = _with_version_state().where(jobs.c.product_id == product_id)
        return self.database.rows(query.order_by(jobs.c.id.desc()).limit(limit))

    def of_draft(self, name: str) -> JobRow | None:
        """Return the job that makes the model of a new product; None: there is none."""
        return self.database.row(select(jobs).where(jobs.c.draft == name, jobs.c.kind == FIT))

    def forget(self, number: int) -> None:
        """Remove a job."""
        self.database.change(delete(jobs).where(jobs.c.id == number))

    def forget_draft(self, name: str) -> None:
        """Remove the jobs of a new product."""
        self.database.change(delete(jobs).where(jobs.c.draft == name))


def _with_version_state() -> Select[tuple[object, ...]]:
    """Return the query of all jobs, each with the column `version_state`; NULL: the job has no version."""
    with_versions = jobs.outerjoin(versions, versions.c.id == jobs.c.version_id)
    return select(jobs, versions.c.state.label("version_state")).select_from(with_versions)


def _remove_old_jobs(connection: Connection, product_id: int) -> None:
    """Remove a product's finished jobs that have no version, except for the latest `MAX_JOBS`."""
    removed_versions = select(versions.c.id).where(
        versions.c.product_id == product_id, versions.c.state == REMOVED
    )
    lacks_version = or_(jobs.c.version_id.is_(None), jobs.c.version_id.in_(removed_versions))
    conditions = jobs.c.product_id == product_id, lacks_version
    newest_surplus = select(jobs.c.id).where(*conditions).order_by(jobs.c.id.desc()).offset(MAX_JOBS).limit(1)
    # number of the newest job that is not among the latest `MAX_JOBS`; None: there are not so many
    newest_surplus_id = connection.scalar(newest_surplus)
    if newest_surplus_id is not None:
        is_finished = ~IS_UNFINISHED
        connection.execute(delete(jobs).where(*conditions, jobs.c.id <= newest_surplus_id, is_finished))


def job_of_version(connection: Connection, product_id: int, version: int) -> JobRow | None:
    """Return the last job that made a version; None: the version was not made by a job."""
    query = (
        select(jobs)
        .where(jobs.c.product_id == product_id, jobs.c.version_id == version)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).one_or_none()


class Maker(Protocol):
    """Function that makes the jobs of a kind."""

    def __call__(self, row: JobRow) -> object:
        """Make a job with `JobQueue.run` and set its status.

        Raises:
            StoreError: The database is away or the disk is full; the job stays in the queue.
            StoppedError: The job was stopped.
        """


class JobQueue(BackgroundThread):
    """Thread that makes one job after the other.

    Attributes:
        makers: Functions that make the jobs, by the kind of job.
        looks: Functions that may queue jobs. They are called each time before the queue looks for jobs.
    """

    def __init__(self, database: Database):
        super().__init__("learning")
        self.jobs = Jobs(database)
        self.worker = Worker()
        self.makers: dict[str, Maker] = {}
        self.looks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._current: JobRow | None = None
        self._step: JobStep | None = None
        self._stage_start = 0.0  # time at which the current stage began
        self._estimate_end = 0.0  # time until which the estimated remaining time of a step is shown

    @override
    def start(self) -> None:
        """Start the thread, which looks for unfinished jobs at once."""
        self.wake()
        super().start()

    @override
    def end(self) -> None:
        """End the thread; a running job is made anew at the next start."""
        super().end()
        self.worker.close()

    def add(
        self,
        kind: str,
        who: str,
        facts: Mapping[str, object],
        *,
        product_id: int | None = None,
        start: int | None = None,
        draft: str | None = None,
    ) -> int:
        """Queue a job, and return its number.

        Args:
            kind: Kind of the job, for which there is a maker.
            who: User who requests it.
            facts: Facts that are stored with it, as JSON.
            product_id: Number of the product; None: the product is new.
            start: Number of the version that a candidate starts from; None: the job makes no candidate.
            draft: Name of the new product, whose earlier job of this kind is removed; None: no new product.
        """
        number = self.jobs.add(kind, who, facts, product_id=product_id, start=start, draft=draft)
        self.wake()
        return number

    def step(self, number: int) -> JobStep | None:
        """Return the progress of a job; None: it is not running.

        If a step takes much longer than estimated, the estimated remaining time (`left`) is None.
        """
        with self._lock:
            is_running = self._current is not None and self._current.id == number
            step = self._step if is_running else None
            is_late = time.monotonic() > self._estimate_end
        if step is not None and step.left is not None and is_late:
            return step.model_copy(update={"left": None})
        return step

    def stop_job(
        self,
        number: int,
        status: str = STOPPED,
        *,
        only: tuple[str, ...] = UNFINISHED,
        kind: str = "",
        who: str = "",
    ) -> bool:
        """Set a job's status and end its work; return whether the job was changed.

        Args:
            number: Number of the job.
            status: New status.
            only: Statuses in which the job is changed.
            kind: Kind of the event that is recorded; "": no event.
            who: User of the event.
        """
        is_changed = self.jobs.change(number, status, kind=kind, who=who, only=only)
        if is_changed:
            self._if_current(number, self.worker.stop)
        return is_changed

    def interrupt(self, number: int, stage_prefix: str) -> None:
        """End a running job's current stage if the stage's name has the prefix (`Worker.interrupt`)."""
        self._if_current(number, lambda: self.worker.interrupt(stage_prefix))

    def _if_current(self, number: int, action: Callable[[], object]) -> None:
        """Call `action` if the job `number` is running."""
        with self._lock:
            if self._current is not None and self._current.id == number:
                action()

    def run(self, work: JobFunction[T], job: dict[str, Any]) -> T:
        """Call `work` with the job in the worker's process, and return its result.

        Raises:
            WorkerError: The job cannot be done, or the process ended.
        """
        return self.worker.run(work, job, self._note_step)

    def pause(self, seconds: float) -> bool:
        """Wait for `seconds`, or until the station ends; return whether the station ends."""
        return self._pause(seconds)

    @override
    def _work(self) -> None:
        while True:
            is_ending = self._wait(CHECK_INTERVAL)
            if is_ending:
                return
            try:
                with self.threads[0].call(STEP_SECONDS):
                    self._make_all()
            except StoreError:  # the station reports it; the jobs stay in the queue for the next look
                self._pause(RETRY_SECONDS)
                self.wake()

    def _make_all(self) -> None:
        """Make all unfinished jobs, the oldest first."""
        self.worker.end_if_idle()
        for look in self.looks:
            look()
        while not self._ended.is_set() and (row := self.jobs.next_unfinished()) is not None:
            self._make(row)

    def _make(self, row: JobRow) -> None:
        """Make a job. If its kind is unknown, remove it."""
        if row.kind not in self.makers:  # another release of the station queued it
            self.jobs.forget(row.id)
            return
        with self._lock:
            self._current = row
        try:
            is_unfinished = self.jobs.change(row.id, RUNNING, only=UNFINISHED)
            if is_unfinished:  # else a person has stopped it a moment ago
                self.makers[row.kind](row)
        except StoppedError:  # a person stopped it (and its row has that status), or the station ends
            pass
        finally:
            with self._lock:
                self._current = self._step = None

    def _note_step(self, stage: str, done: int, total: int) -> None:
        """Note the progress of the running job, and estimate the seconds until its stage is done.

        Args:
            stage: Name of the stage; details may follow after a comma.
            done: Number of steps that are done.
            total: Number of all steps of the stage.
        """
        self.threads[0].go_on()
        stage_name = stage.partition(",")[0]
        time_now = time.monotonic()
        with self._lock:
            if self._step is None or self._step.stage != stage_name:
                self._stage_start = time_now
            seconds_left = None
            if done:
                seconds_per_step = (time_now - self._stage_start) / done
                seconds_left = seconds_per_step * (total - done)
            # the estimate is shown for twice the time that it names, or until the next step
            self._estimate_end = time_now + max(LATE_SECONDS, 2 * (seconds_left or 0.0))
            self._step = JobStep(stage=stage_name, done=done, total=total, left=seconds_left)
