"""Products that are being made: drafts, checks of their pictures, and fits of their models."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from typing_extensions import override

from flawscope import machine
from flawscope.artefact import tried
from flawscope.errors import InputError, message_with_type, suggest_name
from flawscope.methods import options, registry
from flawscope_station.inspecting.memory import MemoryBudget, Turns
from flawscope_station.learning.jobs import DONE, FAILED, FIT, STOPPED, UNFINISHED, JobQueue
from flawscope_station.learning.process import (
    STEP_SECONDS,
    TRIAL_NICENESS,
    FullDiskWorkerError,
    StoppedError,
    Worker,
)
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.settings.station import Limits, check_product_name, find_namesake
from flawscope_station.setup import draft as draft_module
from flawscope_station.setup.draft import AddedPicture, Draft, read_zip
from flawscope_station.setup.job import run_job
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.files import Files
from flawscope_station.store.records import NotFoundError, iso
from flawscope_station.store.rows import JobRow
from flawscope_station.store.schema import QUEUED, READY, RUNNING

SETTLE_SECONDS = 0.7  # seconds without a new picture after which the pictures are checked
MIN_PICTURES = 2  # pictures that can be learnt from
DEFAULT_MINUTES = 30.0  # time for a method that learns in steps
FIT_OPTIONS = ("method", *(option.name for option in options.NEW_PRODUCT))
# options of a fit that change the input of the network
PICTURE_OPTIONS = tuple(
    option.name for option in options.NEW_PRODUCT if option.argument and option.changes_input
)
MAX_TRIED = 8  # pictures of a trial
MAX_TRIALS = 4  # trials that may wait for the running one
OPTION_PREFIX = re.compile(r"(?<![\w-])--(?=\w)")  # pages show `minutes` for `--minutes`
# runs the command line at the lowest priority
CHECK_CODE = "import os, sys; getattr(os, 'nice', int)(19); from flawscope import cli; cli.main(sys.argv[1:])"


class NameTakenError(InputError):
    """The name belongs to a product that was not made here."""

    status = 409
    code = "name_taken"


class LiveFacts(TypedDict):
    """Facts of the version of a product that was made when a draft went live.

    Attributes:
        version: Number of the version.
        by: User who let the draft go live.
        learnt: Time at which the fit of its model was requested, in microseconds since 1970; None: unknown.
    """

    version: int
    by: str
    learnt: int | None


class Drafts:
    """All drafts of the station, whose models are made by its queue of jobs.

    Args:
        queue: Queue of jobs.
        files: Files of the store.
        limits: Limits of pictures.
        memory: Memory for decoding large pictures.
        device: Device of the fits.
        is_busy: Returns whether the station inspects pictures at the moment.
        say: Writes a line to the log.

    Attributes:
        live_of: Returns the facts of the version that was made when a draft went live last; None: the draft
            is not live. `LiveProducts` sets it.
    """

    def __init__(
        self,
        queue: JobQueue,
        files: Files,
        limits: Limits,
        memory: MemoryBudget,
        device: str,
        is_busy: Callable[[], bool],
        say: Callable[[str], None],
    ):
        self.queue = queue
        self.jobs = queue.jobs
        self.files = files
        self.limits = limits
        self.memory = memory
        self.device = device
        self.is_busy = is_busy
        self.say = say
        self.work = run_job
        self.trier = Worker(TRIAL_NICENESS)
        self.checks = Checks(self)
        self.live_of: Callable[[Draft], LiveFacts | None] = lambda draft: None
        drafts_folder = files.folder / draft_module.DRAFTS_FOLDER
        state_paths = sorted(drafts_folder.glob(f"*/{draft_module.STATE_FILE}"))
        names = [state_path.parent.name for state_path in state_paths]
        self._drafts = {name: self._load_draft(name) for name in names}
        self._lock = threading.RLock()
        self._trials = Turns(1, MAX_TRIALS)
        self._ended_search = 0  # number of the job whose search for settings a person has stopped
        queue.makers[FIT] = self._fit

    def _load_draft(self, name: str) -> Draft:
        """Return a draft.

        If an earlier release stored a fit in the draft's state, the fit becomes a job.
        """
        draft = Draft(self.files, name, self.limits, self.memory)
        if "stage" in draft.state:
            earlier_job = draft.earlier_job()
            if earlier_job is not None:
                status, facts = earlier_job
                number = self.jobs.add(FIT, str(draft.state.get("by", "")), facts, draft=name)
                self.jobs.change(number, status)
            # `OLD_LIVE_KEYS` are kept: `LiveProducts` reads them later, and forgets them then
            draft.forget_earlier(*draft_module.OLD_LIVE_KEYS)
        return draft

    # ---- drafts

    def __iter__(self) -> Iterator[Draft]:
        return iter(list(self._drafts.values()))  # a copy: other threads may add and remove drafts

    def draft(self, name: str) -> Draft:
        """Return the draft called `name`.

        Raises:
            NotFoundError: There is no such draft; the message has the most similar name.
        """
        if name not in self._drafts:
            raise NotFoundError(
                f"no new product is called {name!r:.80}: {suggest_name(name, list(self._drafts))}"
            )
        return self._drafts[name]

    def begin(self, name: str, who: str, products: Sequence[str], reserved_names: Collection[str]) -> Draft:
        """Return the draft called `name`; if there is none, begin one.

        Args:
            name: Name of the product.
            who: User who begins it.
            products: Names of all products of the station.
            reserved_names: Names of the products that no draft can replace.

        Raises:
            InputError: The name is invalid.
            NameTakenError: Another product has the name, or a name that differs only in upper and lower case.
        """
        check_product_name(name)
        with self._lock:
            if namesake := find_namesake(name, [*self._drafts, *products]):
                raise NameTakenError(
                    f"{name} differs from the product {namesake} in capital letters alone: name it otherwise"
                )
            if name in self._drafts:
                return self._drafts[name]
            if name in reserved_names:
                raise NameTakenError(f"this station has a product {name} already: choose another name")
            draft = self._load_draft(name)
            draft.change(by=who, at=iso(now()))
            self._drafts[name] = draft
            return draft

    def remove(self, name: str) -> None:
        """Remove a draft with its pictures; a product that went live stays."""
        draft = self.draft(name)
        if (job := self.jobs.of_draft(name)) is not None:
            self.queue.stop_job(job.id)
        with self._lock:
            del self._drafts[name]
            draft.remove()
        self.jobs.forget_draft(name)
        self.checks.forget(draft)

    def add(self, draft: Draft, files: Sequence[tuple[str, bytes]]) -> list[AddedPicture]:
        """Store pictures, given as name and content, and return the result of each.

        Raises:
            StoreError: A picture cannot be written.
        """
        results = list(draft.add_all(files))
        self.checks.wake()
        return results

    def add_zip(self, draft: Draft, path: Path, name: str) -> list[AddedPicture]:
        """Store the pictures in a zip, and return the result of each.

        Args:
            draft: Draft that gets the pictures.
            path: Path of the zip.
            name: Name of the zip, for errors.

        Raises:
            InputError: The file is no zip, or has no files.
            StoreError: A picture cannot be written.
        """
        results = list(draft.add_all(read_zip(path, name, self.limits)))
        self.checks.wake()
        if not results:
            raise InputError(f"{name} holds no file: pack the pictures into it")
        return results

    def move(self, draft: Draft, names: Sequence[str], *, out: bool) -> None:
        """Leave pictures out, or take them back.

        Args:
            draft: Draft of the pictures.
            names: File names of the pictures.
            out: True: leave the pictures out; False: take them back.

        Raises:
            InputError: The model is being fitted to them.
        """
        if self.stage(draft) == RUNNING:
            raise InputError(
                f"{draft.name} is learning from its pictures: stop it first, or wait for the end"
            )
        draft.move(names, out=out)
        self.checks.wake()

    # ---- learning

    def stage(self, draft: Draft) -> str:
        """Return a draft's stage.

        It is `collecting` without a fit, `ready` after a successful fit, and else the status of the fit.
        """
        return _stage(self.jobs.of_draft(draft.name))

    def learn(
        self, draft: Draft, fit_options: dict[str, Any], who: str, *, go_on: bool, all_good: bool = False
    ) -> None:
        """Queue the fit of a draft's model; an earlier model stays until the fit is done.

        If a fit of the draft is queued or running already, nothing is queued.

        Args:
            draft: Draft with the pictures.
            fit_options: Options of `flawscope fit` (`FIT_OPTIONS`). `minutes` is for methods that learn in
                steps; `auto` is the number of minutes for trying settings of PatchCore.
            who: User who requests it.
            go_on: Whether to continue an interrupted training with the same options and pictures.
            all_good: Whether a person says that all pictures are good, whatever their names are.

        Raises:
            ConflictError: Options contradict each other.
            GoodQuestionError: Names leave open which pictures are good, and `all_good` is False.
            InputError: The method or its preset is unknown, or there are too few pictures.
        """
        method = registry.method(fit_options["method"])
        method.configure(fit_options["preset"] or "default")  # raises where the preset is unknown
        minutes = (fit_options["minutes"] or DEFAULT_MINUTES) if method.learns_in_steps else None
        all_options = {**fit_options, "minutes": minutes}
        if len(draft.pictures()) < MIN_PICTURES:
            raise InputError(f"{draft.name} has fewer than {MIN_PICTURES} pictures: give it more")
        if all_options["auto"] is not None and all_options["method"] != "patchcore":
            raise InputError(f"auto is for patchcore, not {all_options['method']}: leave it out")
        options.check_options(all_options)
        if not all_good:
            draft.refuse_unknown()
        with self._lock:
            last_job = self.jobs.of_draft(draft.name)
            if last_job is not None and last_job.status in UNFINISHED:
                return
            facts = {"options": all_options, "learns_from": draft.pictures()}
            last_facts = {} if last_job is None else json.loads(last_job.facts)
            is_same_fit = all(last_facts.get(key) == value for key, value in facts.items())
            if not (go_on and is_same_fit):
                draft.discard_training()
            self.queue.add(FIT, who, facts, draft=draft.name)

    def stop_learning(self, draft: Draft) -> None:
        """Stop the fit of a draft, which can go on later.

        While settings are being tried, the first call ends only the trials: the fit goes on with the best
        settings.
        """
        if (job := self.jobs.of_draft(draft.name)) is None:
            return
        step = self.queue.step(job.id)
        with self._lock:
            is_search = step is not None and step.stage.startswith(tried.TRYING)
            is_first_stop = self._ended_search != job.id
            self._ended_search = job.id
        if is_search and is_first_stop:
            self.queue.interrupt(job.id, tried.TRYING)
        else:
            self.queue.stop_job(job.id)

    def _run_fit(self, draft: Draft, fit_options: Mapping[str, Any]) -> dict[str, Any]:
        """Run a fit in the process that makes models, and return its results.

        Raises:
            WorkerError: The fit failed, or the process ended.
        """
        cores = machine.usable_cores()
        job = {
            "do": FIT,
            "pictures": str(draft.folder),
            "model": str(draft.model),
            "examples": str(draft.examples),
            "given": fit_options,
            "resume": draft.can_resume,
            "device": self.device,
            "threads": max(1, cores // 2) if self.is_busy() else cores,
        }
        results: dict[str, Any] = self.queue.run(self.work, job)
        return results

    def _fit(self, row: JobRow) -> None:
        """Make the model of a draft, and record the result or the failure.

        Raises:
            StoreError: The disk is full, or the database is away; the job stays in the queue.
            StoppedError: The job was stopped.
        """
        if (draft := self._drafts.get(row.draft)) is None:  # it was removed
            self.jobs.forget_draft(row.draft)
            return
        self.files.check_free_space(0)
        facts = json.loads(row.facts)
        pictures = draft.pictures()
        if facts["learns_from"] != pictures:  # they changed while the job waited
            draft.discard_training()
            self.jobs.change(row.id, RUNNING, facts={"learns_from": pictures}, only=(RUNNING,))
        fit_options = {key: value for key, value in facts["options"].items() if value is not None}
        try:
            results = self._run_fit(draft, fit_options)
        except (StoppedError, StoreError):
            raise
        except Exception as error:
            message = message_with_type(error)
            is_disk_full = isinstance(error, FullDiskWorkerError)
            shown_message = message.replace(str(draft.folder), draft.name)
            failure = {
                "error": OPTION_PREFIX.sub("", shown_message),
                "error_options": [] if is_disk_full else _options_behind(message, fit_options),
                "disk_full": is_disk_full,
            }
            self.jobs.change(row.id, FAILED, facts=failure, only=(RUNNING,))
            self.say(f"new product {draft.name}: {FAILED}")
            return
        with self._lock:
            job = self.jobs.of_draft(draft.name)
            if job is None or job.id != row.id or job.status != RUNNING:
                return  # a person stopped or removed it meanwhile
            fit_request = {"options": fit_options, "learns_from": pictures, "asked_at": row.created_at}
            draft.change(result={**results, **fit_request})
            self.jobs.change(row.id, DONE)
        self.say(f"new product {draft.name}: it has learnt")

    # ---- trying

    def try_model(self, draft: Draft, files: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """Return the results of judging pictures with a draft's model; nothing is stored.

        Args:
            draft: Draft with the model.
            files: Names and contents of the pictures.

        Raises:
            InputError: There is no model, or there are too many pictures.
            BusyError: Too many trials wait.
        """
        if draft.result is None:
            raise InputError(f"{draft.name} has no model yet: let it learn first")
        if len(files) > MAX_TRIED:
            raise InputError(f"{len(files)} pictures are too many at once: send {MAX_TRIED} or fewer")
        job: dict[str, Any] = {
            "do": "try",
            "model": str(draft.model),
            "sent": list(files),
            "device": self.device,
            "threads": max(1, machine.usable_cores() // 2),
        }
        with self._trials.take():
            answer = self.trier.run(self.work, job, lambda *step: None)  # nobody is shown the progress
        results: list[dict[str, Any]] = answer["results"]
        return results

    def end_trials(self) -> None:
        """End the running trial, and start no further one."""
        self.trier.close()

    # ---- reports

    def _waits_for_disk(self, stage: str) -> bool:
        """Whether the fit of a draft in this stage waits because the disk is full."""
        if stage not in UNFINISHED:
            return False
        try:
            self.files.check_free_space(0)
        except StoreError:
            return True
        return False

    def facts(self, draft: Draft, *, looked_at: bool = True) -> dict[str, Any]:
        """Return the state of a draft, in the form of the API's answer.

        Args:
            draft: Draft to describe.
            looked_at: Whether a person looks at this draft; if so, a check of its pictures is requested.
        """
        result = draft.result
        job = self.jobs.of_draft(draft.name)
        stage = _stage(job)
        job_facts: dict[str, Any] = {} if job is None else json.loads(job.facts)
        if looked_at:
            self.checks.request(draft)
        pictures = draft.pictures()
        live = self.live_of(draft)
        step = None if job is None else self.queue.step(job.id)
        if stage == FAILED:
            is_disk_full = job_facts.get("disk_full", False)
        else:
            is_disk_full = step is None and self._waits_for_disk(stage)
        is_accurate_advised = registry.wants_accurate(registry.DEFAULT, len(pictures))
        # a result is identified by the time at which its fit was requested
        is_result_live = result is not None and live is not None and live["learnt"] == result["asked_at"]
        return {
            "name": draft.name,
            "stage": stage,
            "version": draft.version,
            "pictures": len(pictures),
            "left_out": len(draft.left_out()),
            "least": MIN_PICTURES,
            "most": draft_module.MAX_PICTURES,
            "check": self.checks.findings(draft),
            "advised_preset": "accurate" if is_accurate_advised else None,
            **{key: job_facts.get("options", {}).get(key) for key in FIT_OPTIONS},
            "before": self.jobs.before(job.id) if job is not None and stage == QUEUED else 0,
            "step": step,
            "error": job_facts.get("error"),
            "error_options": job_facts.get("error_options", []),
            "disk_full": is_disk_full,
            "goes_on": stage == STOPPED and draft.can_resume,
            "result": None if result is None else draft_module.describe_result(result),
            "changed": result is not None and result["learns_from"] != pictures,
            "live": live,
            "live_is_this": is_result_live,
        }


def _stage(job: JobRow | None) -> str:
    """Return the stage of a draft.

    Args:
        job: Job of the draft's last fit; None: it has no fit.
    """
    if job is None:
        return draft_module.COLLECTING
    return READY if job.status == DONE else str(job.status)


def _options_behind(error: str, fit_options: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that may have caused the error of a fit.

    If the error names options, return these options; else return all options that change the network's input.

    Args:
        error: Message of the error.
        fit_options: Options of the fit by name.
    """
    named_options = []
    for name in fit_options:
        flag = f"--{name.replace('_', '-')}"
        is_possible_cause = name == "minutes" or name in PICTURE_OPTIONS
        if is_possible_cause and re.search(rf"{flag}(?![\w-])", error):  # not as the start of a longer flag
            named_options.append(name)
    if named_options:
        return named_options
    return [name for name in PICTURE_OPTIONS if name in fit_options]


class Checks(BackgroundThread):
    """Thread that runs `flawscope data check` on the pictures of drafts, on request."""

    def __init__(self, drafts: Drafts):
        super().__init__("checks of pictures", is_lazy=True)
        self._drafts = drafts
        self._requested: set[Draft] = set()
        self._findings: dict[Draft, tuple[int, dict[str, Any]]] = {}  # checked version, its findings
        self._process: subprocess.Popen[str] | None = None

    @override
    def end(self) -> None:
        """End the thread, and the running check."""
        super().end()
        if (process := self._process) is not None:
            process.kill()

    def request(self, draft: Draft) -> None:
        """Request a check of a draft's pictures, unless they are unchanged since the last check."""
        # versions begin at 1; 0: there was no check yet
        checked_version, _ = self._findings.get(draft, (0, {}))
        if checked_version != draft.version:
            self._requested.add(draft)
            self.wake()

    def forget(self, draft: Draft) -> None:
        """Forget the findings of a draft that is removed."""
        self._findings.pop(draft, None)

    def findings(self, draft: Draft) -> dict[str, Any] | None:
        """Return the findings of the last check of a draft's pictures; None: there was no check yet.

        The key `current` says whether the pictures are unchanged since the check.
        """
        checked = self._findings.get(draft)  # asked once, since another thread may forget the draft
        if checked is None:
            return None
        version, findings = checked
        return {**findings, "current": version == draft.version}

    @override
    def _work(self) -> None:
        while True:
            is_ending = self._wait()  # until a check is requested, or the station ends
            if is_ending:
                return
            while self._requested and not self._ended.is_set():
                draft = self._requested.pop()
                version = draft.version
                is_ending = self._pause(SETTLE_SECONDS)
                if is_ending or version != draft.version:  # more pictures are coming
                    self._requested.add(draft)
                    continue
                is_removed = draft not in list(self._drafts)  # a person may have removed it meanwhile
                if not is_removed:
                    with self.threads[0].call(STEP_SECONDS):
                        self._findings[draft] = version, self._run_check(draft)

    def _run_check(self, draft: Draft) -> dict[str, Any]:
        """Check a draft's pictures with `flawscope data check` in a process of its own.

        Return a dictionary of the findings, the pictures' sizes, and the advised value of `--align`.
        """
        if not draft.pictures():
            return {"findings": [], "sizes": []}
        arguments = ["data", "check", "--data", str(draft.folder), "--good", "all", "--json", "--quiet"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHECK_CODE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            output, _ = self._process.communicate()
            report = json.loads(output)
        except ValueError:  # the process was killed
            return {"findings": [], "sizes": []}
        finally:
            self._process = None
        existing_names = set(draft.pictures())
        findings = []
        for finding in report["findings"]:
            names = [finding["subject"], *finding["others"]]
            texts = {key: finding[key] for key in ("severity", "code", "message", "remedy")}
            findings.append({**texts, "pictures": [name for name in names if name in existing_names]})
        # the text after `--align` in each advised step; "" for a step without it
        align_values = [step["step"].partition("--align ")[2] for step in report["advice"]]
        align = next((value for value in align_values if value), None)
        return {"findings": findings, "sizes": report["sizes"], "align": align}
