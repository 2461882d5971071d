"""Make candidates from corrections, one after another, while inspections go on. A person activates them.

`flawscope.fitting.candidate` makes each candidate and compares it with the active version. It runs in the
process of `process.Worker`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flawscope import machine
from flawscope.artefact import judgement as judgements
from flawscope.errors import InputError, message_with_type, pluralize
from flawscope_station.learning import candidate_records as records
from flawscope_station.learning import jobs
from flawscope_station.learning.candidate_plan import (
    ActiveVersion,
    LearningWay,
    Plan,
    ValidVerdicts,
    find_unsure,
    make_plan,
    read_verdicts,
    reason_not_to_learn,
)
from flawscope_station.learning.jobs import JobQueue
from flawscope_station.learning.process import StoppedError, make_candidate
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.addresses import CANNOT_LEARN
from flawscope_station.store.database import StoreError
from flawscope_station.store.model_registry import ModelRegistry, is_of_joint_model
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.rows import JobRow
from flawscope_station.store.schema import QUEUED, READY, RUNNING

T = TypeVar("T")
STATION = "station"  # user name in events of jobs that the station queued by itself


MAX_NAMED = 20  # inspections that an error's text names


class DefectsLostError(InputError):
    """A version would lose known defects, or too many simulated ones.

    Attributes:
        lost: Numbers of the inspections of these defects, or of the corrections that are responsible.
    """

    status = 409
    code = "loses_defects"

    def __init__(self, version: int, lost: Sequence[int]):
        named_inspections = ", ".join(str(number) for number in lost[:MAX_NAMED])
        numbers = f"{named_inspections} ..." if len(lost) > MAX_NAMED else named_inspections
        super().__init__(
            f"version {version} finds fewer defects: look at inspections {numbers}, which it does not find "
            "any more or which are responsible, and name all of them as `losing` to use it all the same"
        )
        self.lost = list(lost)


class CannotLearnError(InputError):
    """The product cannot learn, or not in the way that was asked for."""


class Learning:
    """Makes candidates, and activates versions for a person.

    Args:
        queue: Queue of jobs that makes the candidates.
        versions: Versions of all products.
        products: Number of each product by name.
        settings: Settings of learning by name of the product; None: a candidate is made only on request.
        report: Reports a problem of the station; called with its code and its text. The text None: the
            problem is over.
        say: Writes a line to the log.
    """

    def __init__(
        self,
        queue: JobQueue,
        versions: ModelRegistry,
        products: Mapping[str, int],
        settings: Mapping[str, LearningSettings | None],
        report: Callable[[str, str | None], None],
        say: Callable[[str], None],
    ):
        self.database = versions.database
        self.files = versions.files
        self.versions = versions
        self.settings = {products[name]: learn for name, learn in settings.items()}
        self.report = report
        self.say = say
        self.queue = queue
        self.candidates = queue.jobs
        # by product: the state at the last look (`Jobs.state`), and whether corrections could be counted then
        self._last_looks: dict[int, tuple[object, bool]] = {}
        queue.makers[jobs.CORRECTIONS] = self._make
        queue.looks.append(self._look)

    def wake(self) -> None:
        """Look for corrections to learn from, soon."""
        self.queue.wake()

    def candidate(self, product_id: int, number: int) -> records.Candidate:
        """Return a product's candidate by its number, with its progress while it is made.

        Raises:
            NotFoundError: There is no such candidate.
        """
        return records.Candidate.of(self.candidates.row(product_id, number), self.queue.step(number))

    # ---- requests of people

    def request_candidate(self, product_id: int, who: str, how: LearningWay = "") -> records.Candidate:
        """Return the product's queued candidate; if there is none, queue a new one.

        Args:
            product_id: Number of the product.
            who: User who requests it.
            how: Way of making a new candidate.

        Raises:
            InputError: No candidate can be made.
        """
        active = self._learning_version(product_id, how)
        for row in self.candidates.latest(product_id):
            if row.status == QUEUED:
                return records.Candidate.of(row)
        if not self._read_verdicts(product_id).usable_verdicts:
            raise InputError("nobody has said what a picture is: review some first")
        number = self._queue(product_id, active.number, who, how)
        self.report(f"learning_{product_id}", None)  # its problem is over
        return self.candidate(product_id, number)

    def reject(self, product_id: int, number: int, who: str) -> records.Candidate:
        """Reject a candidate, and return it.

        Raises:
            InputError: The candidate is neither unfinished nor ready nor failed.
        """
        status = records.status_of(self.candidates.row(product_id, number))
        is_rejected = False
        if status in (*jobs.UNFINISHED, READY, jobs.FAILED):
            is_rejected = self.queue.stop_job(
                number,
                jobs.REJECTED,
                only=(*jobs.UNFINISHED, jobs.DONE, jobs.FAILED),  # the job of a ready candidate is done
                kind=records.EVENT_REJECTED,
                who=who,
            )
        if not is_rejected:
            raise InputError(f"candidate {number} is {status}: it cannot be rejected any more")
        self.report(f"learning_{product_id}", None)  # its problem is over
        return self.candidate(product_id, number)

    def activate(self, product_id: int, number: int, who: str, losing: Sequence[int] = ()) -> int:
        """Activate a version, and return the number of the active version.

        If the version has open questions, they count as accepted: a copy of the version without questions is
        activated, which has another number.

        Args:
            product_id: Number of the product.
            number: Number of the version.
            who: User who activates it.
            losing: Inspections of defects that the user accepts to be missed.

        Raises:
            DefectsLostError: `losing` does not name all inspections that are at risk.
        """
        at_risk = self.losses(product_id, [self.versions.version(product_id, number)])[number]
        if not_accepted := sorted({*at_risk} - {*losing}):
            raise DefectsLostError(number, not_accepted)
        active_number = self.versions.accept_questions(product_id, number, who)
        self.versions.activate(product_id, active_number, who)
        if (candidate := self.candidates.of_version(product_id, number)) is not None:
            self.candidates.replace_version(candidate.id, active_number)
        return active_number

    def losses(self, product_id: int, versions: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
        """Return for each version, by its number, the inspections that a person must name to activate it.

        A version that was active before has no such inspections, because a person agreed at that time.

        Args:
            product_id: Number of the product.
            versions: Versions, in the form of the API's answers.
        """
        job_by_version = self.candidates.by_version(product_id)
        inspections_by_version: dict[int, list[int]] = {}
        for version in versions:
            number = version["id"]
            was_active = bool(version["switches"])  # its activations
            if was_active or number not in job_by_version:
                inspections_by_version[number] = []
            else:
                inspections_by_version[number] = records.Candidate.of(job_by_version[number]).at_risk
        return inspections_by_version

    # ---- for the API

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return settings, corrections and candidates of a product, in the form of the API's answer."""
        learn = self.settings.get(product_id)
        rows = self.candidates.latest(product_id)
        valid = self._read_verdicts(product_id)
        why_no_learning = None
        unsure: list[int] = []
        try:
            active = self._learning_version(product_id)
            last_facts = json.loads(rows[0].facts) if rows else {}
            last_judgement = last_facts.get("judgement") or {}  # empty while the candidate is being made
            unsure = find_unsure(valid, active, last_judgement.get("unsure", ()))
        except InputError as error:
            why_no_learning = str(error)
        return {
            "why_not": why_no_learning,
            "after": None if learn is None else learn.after,
            "keep": (learn or LearningSettings()).keep,
            "false_alarms": sum(verdict.verdict == "good" for verdict in valid.corrections),
            "misses": sum(verdict.verdict == "defect" for verdict in valid.corrections),
            "new": self._count_new(valid, rows),
            "contradictory": valid.contradictory,
            "unsure": unsure,
            "candidates": [records.Candidate.of(row, self.queue.step(row.id)) for row in rows],
        }

    @staticmethod
    def _count_new(valid: ValidVerdicts, rows: Sequence[JobRow]) -> int:
        """Count the corrections that were given or taken back since the last candidate.

        Args:
            valid: The product's verdicts now.
            rows: Jobs of the candidates, newest first; a queued job has no verdicts yet.
        """
        last_ids: list[int] = []  # numbers of the verdicts when the last candidate was made
        for row in rows:
            verdict_ids = json.loads(row.facts).get("verdicts")
            if verdict_ids is not None:
                last_ids = verdict_ids
                break
        changed_ids = {*valid.verdicts} ^ {*last_ids}  # in only one of the two sets
        return len(changed_ids)

    def _read_verdicts(self, product_id: int) -> ValidVerdicts:
        with self.database.reading() as connection:
            return read_verdicts(connection, product_id)

    def _learning_version(self, product_id: int, how: LearningWay = "") -> ActiveVersion:
        """Return the product's active version, from which its candidates are made.

        Args:
            product_id: Number of the product.
            how: Way of making a candidate.

        Raises:
            CannotLearnError: The product cannot learn, or not in this way.
            InputError: The model cannot be read.
        """
        try:
            number = self.versions.number(product_id)
            if is_of_joint_model(self.versions.active_facts(product_id)):
                raise CannotLearnError(CANNOT_LEARN)
            active = ActiveVersion.read(number, self.versions.path(product_id, number))
        except NoModelError:
            raise CannotLearnError("no model is open: activate a version") from None
        reason = reason_not_to_learn(active, self.settings.get(product_id) or LearningSettings(), how)
        if reason is not None:
            raise CannotLearnError(reason)
        return active

    # ---- the work

    def _look(self) -> None:
        """Queue a candidate for each product that has enough new corrections.

        Reading all corrections of a product takes long. Therefore a product is examined only if it has a new
        verdict or a new model since the last look, or if its corrections could not be counted then.
        """
        for product_id, learn in self.settings.items():
            state = self.candidates.state(product_id)
            last_state, are_counted = self._last_looks.get(product_id, (None, False))
            if state != last_state or not are_counted:
                # without settings of learning, corrections need not be counted
                are_counted = learn is None or self._queue_if_enough(product_id, learn)
            self._last_looks[product_id] = state, are_counted

    def _queue(self, product_id: int, start: int, who: str, how: LearningWay = "") -> int:
        """Queue a candidate that starts from a version, and return its number."""
        facts = {"asked": how}
        return self.queue.add(jobs.CORRECTIONS, who, facts, product_id=product_id, start=start)

    def _queue_if_enough(self, product_id: int, learn: LearningSettings) -> bool:
        """Queue a candidate if there are enough new corrections.

        Return whether the corrections could be counted; if not, they are counted again at the next look. A
        model that cannot be read is reported as a problem.
        """
        problem = None
        are_counted = True
        try:
            rows = self.candidates.latest(product_id)
            if not any(row.status in jobs.UNFINISHED for row in rows):
                active = self._learning_version(product_id)  # before the verdicts, which take longer to read
                if self._count_new(self._read_verdicts(product_id), rows) >= learn.after:
                    self._queue(product_id, active.number, STATION)
        except StoreError:
            raise
        except CannotLearnError:
            are_counted = False
        except Exception as error:
            are_counted = False
            problem = f"no version can be made from corrections: {message_with_type(error)}"
        # another code than `learning_NUMBER`, the code of a problem with the last candidate
        self.report(f"learning_model_{product_id}", problem)
        return are_counted

    def _make(self, row: JobRow) -> None:
        """Make the candidate of a job, and report a failure.

        Raises:
            StoreError: The database is away or the disk is full; the candidate can be made later.
            StoppedError: The job was stopped.
        """
        product_id = row.product_id
        number = row.id
        learn = self.settings.get(product_id) or LearningSettings()
        start_time = time.monotonic()
        out = self.files.temporary_path("model")  # the file name is set when the model is known
        try:
            if (disk_error := self._disk_full_error(product_id)) is not None:
                raise disk_error
            active = self._learning_version(product_id)
            with self.database.reading() as connection:
                plan = make_plan(connection, product_id, active, self.files, seed=number)
            out = out.with_name(active.file.name)
            start_file = str(self.versions.path(product_id, plan.start))
            how = json.loads(row.facts).get("asked", "")
            job = {
                "active": str(active.file),
                # an export cannot be taught further: its trained model is named in the settings
                "trained": start_file if active.is_trained else learn.trained,
                "out": str(out),
                "how": how,
                "pictures": plan.pictures,
                "good": learn.pictures if how == "retrained" else None,
                "threads": max(1, machine.usable_cores() // 2),
                "engine": self.versions.engine_for(active.file),
                "device": self.versions.device,
            }
            worker_judgement: judgements.Judgement = self.queue.run(make_candidate, job)
            contradictory = {*worker_judgement.contradictory, *plan.verdicts.contradictory}
            judgement = replace(
                worker_judgement, contradictory=sorted(contradictory), gone=plan.verdicts.removed
            )
            self._add_version(row, plan, active, learn.keep, judgement, out, start_time)
        except StoppedError:
            raise
        except Exception as error:  # of any kind: the job's row must not stay in the status running
            store_error = error if isinstance(error, StoreError) else self._disk_full_error(product_id)
            if store_error is None:
                message_without_folder = message_with_type(error).replace(str(out.parent), "")
                self._record_failure(row, error, message_without_folder)
                return
            if store_error.code == "disk_full":
                problem = f"a version waits to be made from corrections: {store_error}"
                self._report(product_id, problem)
            raise store_error from None
        finally:
            self.files.remove_temporary(out)

    def _disk_full_error(self, product_id: int) -> StoreError | None:
        """Return an error if the disk has no room for a version and its temporary file; None: it has room."""
        try:
            path = self.versions.path(product_id, self.versions.number(product_id))
            self.files.check_free_space(2 * path.stat().st_size)
        except StoreError as error:
            return error
        except (NoModelError, OSError):  # the version's file is missing, which is reported when it is read
            pass
        return None

    def _record_failure(self, row: JobRow, error: Exception, message: str) -> None:
        """Set a running job to failed, and report the problem.

        If a person has rejected the job meanwhile, it stays rejected. If its version is ready already, the
        error is raised again.

        Args:
            row: Row of the job.
            error: Error that ended the job.
            message: Message of the error, without the folder of temporary files.
        """
        facts = {"error": message, "verdicts": self._read_verdicts(row.product_id).verdicts}
        is_changed = self.candidates.change(
            row.id, jobs.FAILED, kind=records.EVENT_FAILED, text=f": {message}", facts=facts, only=(RUNNING,)
        )
        if is_changed:
            self._report(row.product_id, f"no version could be made from corrections: {message}")
        elif self.candidates.row(row.product_id, row.id).status != jobs.REJECTED:
            raise error

    def _report(self, product_id: int, problem: str | None) -> None:
        """Report the problem of a product's last candidate; None: there is no problem.

        A product that was removed has no problem.
        """
        try:
            self.versions.number(product_id)  # raises where the product was removed
        except NoModelError:
            self.report(f"learning_{product_id}", None)
        else:
            self.report(f"learning_{product_id}", problem)

    def _retry_write(self, write: Callable[[], T]) -> T:
        """Call `write`, again and again while the database is away, and return the result of `write`.

        Making a candidate takes so long that it must not be lost because the database is away for a moment.

        Raises:
            StoreError: The disk is full.
            StoppedError: The station ends.
        """
        while True:
            try:
                return write()
            except StoreError as error:
                if error.code == "disk_full":  # waiting does not free space
                    raise
                if self.queue.pause(jobs.RETRY_SECONDS):
                    raise StoppedError("the station ends") from None

    def _add_version(
        self,
        row: JobRow,
        plan: Plan,
        active: ActiveVersion,
        keep: int,
        judgement: judgements.Judgement,
        out: Path,
        start_time: float,
    ) -> None:
        """Add the worker's model as a version, and remove unused versions beyond `keep`.

        One transaction sets the job to done, with the verdicts as its facts, and the version to ready.

        Args:
            row: Row of the job.
            plan: Plan of the candidate.
            active: Version that the candidate was compared with.
            keep: Number of unused versions that are kept.
            judgement: Judgement of the candidate.
            out: Model file of the candidate.
            start_time: Time at which the job began, by `time.monotonic`.
        """
        product_id = row.product_id
        valid = plan.verdicts
        learnt = sorted({*plan.learnt, *judgement.learnt})
        version_text = f"{pluralize(len(learnt), 'correction')}, on version {plan.start}"
        self.versions.number(product_id)  # raises NoModelError where the product was removed meanwhile
        version = self._retry_write(
            lambda: self.versions.add(product_id, out, version_text, row.who, is_ready=False)
        )
        seconds = round(time.monotonic() - start_time, 2)
        facts: dict[str, object] = {
            "how": judgement.how,
            "learnt": learnt,
            "verdicts": valid.verdicts,
            "corrections": [
                {"id": verdict.number, "verdict": verdict.verdict, "verdict_id": verdict.verdict_id}
                for verdict in valid.corrections
            ],
            "compared_with": active.number,
            "judgement": asdict(judgement),
            "seconds": {"total": seconds},
            "error": None,
        }
        record_done = partial(
            self.candidates.change,
            row.id,
            jobs.DONE,
            kind=records.EVENT_READY,
            who=row.who,
            text=f" became version {version}",
            facts=facts,
            # DONE: an earlier try has written it, and then lost the connection. A job that a person has
            # rejected is not changed.
            only=(RUNNING, jobs.DONE),
            version_id=version,
            start_version_id=plan.start,
        )
        is_recorded = self._retry_write(record_done)
        if not is_recorded:  # a person rejected the candidate meanwhile
            self.versions.remove(product_id, version)
            return
        self._report(product_id, None)
        self.say(f"version {version} was made from corrections in {seconds:.1f} s")
        with suppress(NoModelError):  # the product was removed meanwhile
            active_number = self.versions.number(product_id)
            # where another version became active meanwhile, the comparison is out of date
            if active_number not in (active.number, version):
                self._queue(product_id, active_number, STATION)
        self._remove_unused(product_id, keep)

    def _remove_unused(self, product_id: int, keep: int) -> None:
        """Remove versions that nobody used, except for the latest `keep`."""
        unused: list[int] = []  # numbers of versions, newest first
        for candidate in self.candidates.latest(product_id, limit=1000):
            if candidate.version_id is not None and records.status_of(candidate) in records.UNUSED:
                unused.append(candidate.version_id)
        for number in unused[keep:]:
            self.versions.remove(product_id, number)
