"""Products that are being made: drafts, the check of their pictures, and their learning."""

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
DEFAULT_MINUTES = 30.0  # of a method that learns in steps
FIT_OPTIONS = ("method", *(option.name for option in options.NEW_PRODUCT))
# Arguments of a fit by which pictures are seen
PICTURE_OPTIONS = tuple(
    option.name for option in options.NEW_PRODUCT if option.argument and option.changes_input
)
MAX_TRIED = 8  # pictures that are tried at once
MAX_TRIALS = 4  # trials that wait for the one before
OPTION_PREFIX = re.compile(r"(?<![\w-])--(?=\w)")  # left out on a page, as of `more --minutes`
# the command line at the lowest priority
CHECK_CODE = "import os, sys; getattr(os, 'nice', int)(19); from flawscope import cli; cli.main(sys.argv[1:])"


class NameTakenError(InputError):
    """The name belongs to a product that was not made here."""

    status = 409
    code = "name_taken"


class LiveFacts(TypedDict):
    """Version as which a draft went live, by whom, and when its learning was asked for."""

    version: int
    by: str
    learnt: int | None


class Drafts:
    """Drafts by name, whose models are made among the jobs of the station.

    Attributes:
        live_of: returns what of a draft went live, where it inspects (`LiveProducts.live_of`).

    Args:
        is_busy: whether the station inspects.
        say: gets a line for the log.
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
        self.work, self.trier = run_job, Worker(TRIAL_NICENESS)
        self.checks = Checks(self)
        self.live_of: Callable[[Draft], LiveFacts | None] = lambda draft: None
        homes = sorted((files.folder / draft_module.DRAFTS_FOLDER).glob(f"*/{draft_module.STATE_FILE}"))
        self._drafts = {home.parent.name: self._load_draft(home.parent.name) for home in homes}
        self._lock = threading.RLock()
        self._trials = Turns(1, MAX_TRIALS)
        self._ended_search = 0  # job whose search for settings a person has stopped
        queue.makers[FIT] = self._fit

    def _load_draft(self, name: str) -> Draft:
        draft = Draft(self.files, name, self.limits, self.memory)
        if "stage" in draft.state:
            if (old := draft.earlier_job()) is not None:
                status, facts = old
                number = self.jobs.add(FIT, str(draft.state.get("by", "")), facts, draft=name)
                self.jobs.change(number, status)
            draft.forget_earlier(*draft_module.OF_LIVE)  # `LiveProducts` looks at these
        return draft

    # ---- drafts

    def __iter__(self) -> Iterator[Draft]:
        return iter(list(self._drafts.values()))

    def draft(self, name: str) -> Draft:
        """Return the draft of a name. NotFoundError names the nearest."""
        if name not in self._drafts:
            raise NotFoundError(
                f"no new product is called {name!r:.80}: {suggest_name(name, list(self._drafts))}"
            )
        return self._drafts[name]

    def begin(self, name: str, who: str, products: Sequence[str], taken: Collection[str]) -> Draft:
        """Begin a product, or go on with the one of this name.

        Args:
            name: of the product.
            who: begins it.
            products: names that the station knows already.
            taken: those of products whose model is from elsewhere, which no draft can replace.

        Raises:
            InputError: no product can have this name.
            NameTakenError: another product has it.
        """
        check_product_name(name)
        with self._lock:
            if namesake := find_namesake(name, [*self._drafts, *products]):
                raise NameTakenError(
                    f"{name} differs from the product {namesake} in capital letters alone: name it otherwise"
                )
            if name in self._drafts:
                return self._drafts[name]
            if name in taken:
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

    def add(self, draft: Draft, sent: Sequence[tuple[str, bytes]]) -> list[AddedPicture]:
        """Keep pictures that were sent, and say what became of each. StoreError."""
        found = list(draft.add_all(sent))
        self.checks.wake()
        return found

    def add_zip(self, draft: Draft, path: Path, name: str) -> list[AddedPicture]:
        """Keep the pictures in a zip. InputError where it is none."""
        found = list(draft.add_all(read_zip(path, name, self.limits)))
        self.checks.wake()
        if not found:
            raise InputError(f"{name} holds no file: pack the pictures into it")
        return found

    def move(self, draft: Draft, names: Sequence[str], *, out: bool) -> None:
        """Leave pictures out, or take them back. InputError while the draft learns from them."""
        if self.stage(draft) == RUNNING:
            raise InputError(
                f"{draft.name} is learning from its pictures: stop it first, or wait for the end"
            )
        draft.move(names, out=out)
        self.checks.wake()

    # ---- learning

    def stage(self, draft: Draft) -> str:
        """Return how far a draft is: collecting, or the status of its fit, `ready` where that is done."""
        return _stage(self.jobs.of_draft(draft.name))

    def learn(
        self, draft: Draft, given: dict[str, Any], who: str, *, go_on: bool, all_good: bool = False
    ) -> None:
        """Queue a draft. What was learnt before stays until this is done.

        Raises:
            ConflictError: options do not go together.
            GoodQuestionError: names leave open which pictures are good, and nobody said that all are.
            InputError: the method or its preset is unknown, or there is nothing to learn from.

        Args:
            draft: with the pictures.
            who: asks for it.
            given: `FIT_OPTIONS` as `flawscope fit` takes them; `minutes` of a method that learns in steps;
                `auto`: minutes in which settings of PatchCore are tried.
            go_on: where a stopped training of the same settings left off.
            all_good: somebody says that all pictures are good, whatever they are called.
        """
        method = registry.method(given["method"])
        method.configure(given["preset"] or "default")
        in_steps = method.learns_in_steps
        given = {**given, "minutes": (given["minutes"] or DEFAULT_MINUTES) if in_steps else None}
        if len(draft.pictures()) < MIN_PICTURES:
            raise InputError(f"{draft.name} has fewer than {MIN_PICTURES} pictures: give it more")
        if given["auto"] is not None and given["method"] != "patchcore":
            raise InputError(f"auto is for patchcore, not {given['method']}: leave it out")
        options.check_options(given)
        if not all_good:
            draft.refuse_unknown()
        with self._lock:
            before = self.jobs.of_draft(draft.name)
            if before is not None and before.status in UNFINISHED:
                return
            facts = {"options": given, "learns_from": draft.pictures()}
            known = {} if before is None else json.loads(before.facts)
            if not go_on or any(known.get(key) != value for key, value in facts.items()):
                draft.discard_training()
            self.queue.add(FIT, who, facts, draft=draft.name)

    def stop_learning(self, draft: Draft) -> None:
        """Stop the learning of a draft; it can go on later.

        A search for settings ends at the first stop, and the best so far is learnt.
        """
        if (job := self.jobs.of_draft(draft.name)) is None:
            return
        step = self.queue.step(job.id)
        with self._lock:
            is_search = step is not None and step.stage.startswith(tried.TRYING)
            is_first = is_search and self._ended_search != job.id
            self._ended_search = job.id
        if is_first:
            self.queue.interrupt(job.id, tried.TRYING)
        else:
            self.queue.stop_job(job.id)

    def _run(self, draft: Draft, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the process beside the station finds. WorkerError."""
        job = {
            "do": what,
            "pictures": str(draft.folder),
            "model": str(draft.model),
            "examples": str(draft.examples),
            "given": given,
            "resume": draft.can_resume,
            "device": self.device,
            "threads": max(1, machine.usable_cores() // 2) if self.is_busy() else machine.usable_cores(),
        }
        found: dict[str, Any] = self.queue.run(self.work, job)
        return found

    def _fit(self, row: JobRow) -> None:
        """Make the model of a draft."""
        if (draft := self._drafts.get(row.draft)) is None:
            return self.jobs.forget_draft(row.draft)
        self.files.check_free_space(0)
        facts = json.loads(row.facts)
        pictures = draft.pictures()
        if facts["learns_from"] != pictures:  # more came while it waited
            draft.discard_training()
            self.jobs.change(row.id, RUNNING, facts={"learns_from": pictures}, only=(RUNNING,))
        given = {key: value for key, value in facts["options"].items() if value is not None}
        try:
            found = self._run(draft, FIT, given)
        except (StoppedError, StoreError):
            raise
        except Exception as error:
            text = message_with_type(error)
            said = OPTION_PREFIX.sub("", text.replace(str(draft.folder), draft.name))
            is_full = isinstance(error, FullDiskWorkerError)
            options = [] if is_full else _options_behind(text, given)
            why = {"error": said, "error_options": options, "disk_full": is_full}
            self.jobs.change(row.id, FAILED, facts=why, only=(RUNNING,))
            self.say(f"new product {draft.name}: {FAILED}")
            return
        with self._lock:
            job = self.jobs.of_draft(draft.name)
            if job is None or job.id != row.id or job.status != RUNNING:
                return  # a person stopped or removed it meanwhile
            of = {"options": given, "learns_from": pictures, "asked_at": row.created_at}
            draft.change(result={**found, **of})
            self.jobs.change(row.id, DONE)
        self.say(f"new product {draft.name}: it has learnt")

    # ---- trying

    def try_model(self, draft: Draft, sent: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """Judge pictures with the model of a draft; nothing is kept.

        InputError where there is no model; BusyError where too many wait.
        """
        if draft.result is None:
            raise InputError(f"{draft.name} has no model yet: let it learn first")
        if len(sent) > MAX_TRIED:
            raise InputError(f"{len(sent)} pictures are too many at once: send {MAX_TRIED} or fewer")
        job: dict[str, Any] = {"do": "try", "model": str(draft.model), "sent": list(sent)}
        job |= {"device": self.device, "threads": max(1, machine.usable_cores() // 2)}
        with self._trials.take():
            results: list[dict[str, Any]] = self.trier.run(self.work, job, lambda *step: None)["results"]
        return results

    def end_trials(self) -> None:
        """End the trial that runs, and begin no more."""
        self.trier.close()

    # ---- reports

    def _waits_for_room(self, stage: str) -> bool:
        """Whether a draft would learn if the disk had room."""
        if stage not in UNFINISHED:
            return False
        try:
            self.files.check_free_space(0)
        except StoreError:
            return True
        return False

    def facts(self, draft: Draft, *, looked_at: bool = True) -> dict[str, Any]:
        """Return the state of a draft, as the API shows it.

        Args:
            draft: of the product.
            looked_at: a person looks at it, for whom its pictures are checked.
        """
        result = draft.result
        job = self.jobs.of_draft(draft.name)
        stage = _stage(job)
        asked: dict[str, Any] = {} if job is None else json.loads(job.facts)
        if looked_at:
            self.checks.request(draft)
        pictures = draft.pictures()
        live = self.live_of(draft)
        step = None if job is None else self.queue.step(job.id)
        return {
            "name": draft.name,
            "stage": stage,
            "version": draft.version,
            "pictures": len(pictures),
            "left_out": len(draft.left_out()),
            "least": MIN_PICTURES,
            "most": draft_module.MAX_PICTURES,
            "check": self.checks.findings(draft),
            "advised_preset": "accurate"
            if registry.wants_accurate(registry.DEFAULT, len(pictures))
            else None,
            **{key: asked.get("options", {}).get(key) for key in FIT_OPTIONS},
            "before": self.jobs.before(job.id) if job is not None and stage == QUEUED else 0,
            "step": step,
            "error": asked.get("error"),
            "error_options": asked.get("error_options", []),
            "disk_full": asked.get("disk_full", False)
            if stage == FAILED
            else step is None and self._waits_for_room(stage),
            "goes_on": stage == STOPPED and draft.can_resume,
            "result": None if result is None else draft_module.describe_result(result),
            "changed": result is not None and result["learns_from"] != pictures,
            "live": live,
            "live_is_this": result is not None and live is not None and live["learnt"] == result["asked_at"],
        }


def _stage(job: JobRow | None) -> str:
    if job is None:
        return draft_module.COLLECTING
    return READY if job.status == DONE else str(job.status)


def _options_behind(error: str, given: Mapping[str, Any]) -> list[str]:
    """Return the given options that an error of a fit is about.

    These are the options that it names, else all that change how pictures are seen.
    """
    named = [option for option in given if re.search(rf"--{option.replace('_', '-')}(?![\w-])", error)]
    known = ("minutes", *PICTURE_OPTIONS)
    return [option for option in named if option in known] or [
        option for option in PICTURE_OPTIONS if option in given
    ]


class Checks(BackgroundThread):
    """Thread that checks the pictures of drafts on request, as `flawscope data check` does."""

    def __init__(self, drafts: Drafts):
        super().__init__("checks of pictures", is_lazy=True)
        self._drafts = drafts
        self._requested: set[Draft] = set()
        self._findings: dict[Draft, tuple[int, dict[str, Any]]] = {}  # version of the pictures, findings
        self._process: subprocess.Popen[str] | None = None

    @override
    def end(self) -> None:
        """End the thread, and the check that runs."""
        super().end()
        if (process := self._process) is not None:
            process.kill()

    def request(self, draft: Draft) -> None:
        """Ask for a check of a draft's pictures, unless the last one was of the same pictures."""
        if self._findings.get(draft, (0, {}))[0] != draft.version:
            self._requested.add(draft)
            self.wake()

    def forget(self, draft: Draft) -> None:
        """Forget the findings of a draft that is removed."""
        self._findings.pop(draft, None)

    def findings(self, draft: Draft) -> dict[str, Any] | None:
        """Return the last findings; `current`: of the present pictures. None: there are none yet."""
        version, found = self._findings.get(draft, (0, None))
        return None if found is None else {**found, "current": version == draft.version}

    @override
    def _work(self) -> None:
        while not self._wait():
            while self._requested and not self._ended.is_set():
                draft = self._requested.pop()
                version = draft.version
                if self._pause(SETTLE_SECONDS) or version != draft.version:
                    self._requested.add(draft)  # more are coming
                elif draft in list(self._drafts):
                    with self.threads[0].call(STEP_SECONDS):
                        self._findings[draft] = version, self._run_check(draft)

    def _run_check(self, draft: Draft) -> dict[str, Any]:
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
            report = json.loads(self._process.communicate()[0])
        except ValueError:  # it was killed
            return {"findings": [], "sizes": []}
        finally:
            self._process = None
        existing = set(draft.pictures())
        findings = []
        for finding in report["findings"]:
            names = [finding["subject"], *finding["others"]]
            texts = {key: finding[key] for key in ("severity", "code", "message", "remedy")}
            findings.append({**texts, "pictures": [name for name in names if name in existing]})
        advised = (step["step"].partition("--align ")[2] for step in report["advice"])
        align = next(filter(None, advised), None)
        return {"findings": findings, "sizes": report["sizes"], "align": align}
