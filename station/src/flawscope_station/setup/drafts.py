"""Products that are being made: drafts, the check of their pictures, and the queue of what is learnt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flawscope import machine
from flawscope.calibration import tried
from flawscope.errors import FlawscopeError, InputError, message_with_type, suggest_name
from flawscope.methods import conflicts, registry
from flawscope.predictor import part_names
from flawscope_station.inspecting.capacity import MemoryBudget, Turns
from flawscope_station.learning.process import STEP_SECONDS, TRIAL_NICENESS, StoppedError, Worker
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.settings.station import Limits, check_product_name
from flawscope_station.setup import draft as draft_module
from flawscope_station.setup.draft import READY, WAITING, AddedPicture, Draft, read_zip
from flawscope_station.setup.job import run_job
from flawscope_station.store.database import now
from flawscope_station.store.files import Files
from flawscope_station.store.records import NotFoundError, iso

QUEUE_INTERVAL = 60.0  # seconds after which the queue is checked although nothing woke the thread
SETTLE_SECONDS = 0.7  # seconds without a new picture after which the pictures are checked
MIN_PICTURES = 2  # pictures that can be learnt from
DEFAULT_MINUTES = 30.0  # of a method that learns in steps
FIT_OPTIONS = (
    *("method", "auto", "minutes", "size", "roi", "min_defect", "light", "align", "several", "part", "view"),
    "false_alarm_rate",
)
PICTURE_OPTIONS = ("roi", "min_defect", "light", "align", "several", "part", "view")
MAX_TRIED = 8  # pictures that are tried at once
MAX_TRIALS = 4  # trials that wait for the one before
OPTION_PREFIX = re.compile(r"(?<![\w-])--(?=\w)")  # left out on a page, as of `more --minutes`
# the command line at the lowest priority
CHECK_CODE = "import os, sys; getattr(os, 'nice', int)(19); from flawscope import cli; cli.main(sys.argv[1:])"


class NameTakenError(InputError):
    """The name belongs to a product that was not made here."""

    status, code = 409, "name_taken"


class Drafts(BackgroundThread):
    """Drafts by name; models are learnt one after another, in a process beside the station.

    Args:
        is_busy: whether the station inspects.
        say: gets a line for the log.
    """

    def __init__(
        self,
        files: Files,
        limits: Limits,
        memory: MemoryBudget,
        device: str,
        is_busy: Callable[[], bool],
        say: Callable[[str], None],
    ):
        super().__init__("new products", is_lazy=True)
        self.files, self.limits, self.memory = files, limits, memory
        self.device, self.is_busy, self.say = device, is_busy, say
        self.worker, self.trier = Worker(run_job), Worker(run_job, TRIAL_NICENESS)
        self.checks = Checks(self)
        homes = sorted((files.folder / draft_module.DRAFTS_FOLDER).glob(f"*/{draft_module.STATE_FILE}"))
        self._drafts = {home.parent.name: self._load_draft(home.parent.name) for home in homes}
        self._lock = threading.RLock()
        self._trials = Turns(1, MAX_TRIALS)
        self._current: tuple[Draft, str] | None = None  # and its job: fit or worth
        self._progress: dict[str, Any] | None = None
        self._is_search_ended = False  # a person stopped the search for settings of the current job

    def _load_draft(self, name: str) -> Draft:
        return Draft(self.files, name, self.limits, self.memory)

    def start(self) -> None:
        """Go on with what was being learnt when the station ended."""
        if self._drafts:
            self.wake()
        super().start()

    def end(self) -> None:
        super().end()
        self.worker.close()
        self.end_trials()

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

    def begin(self, name: str, who: str, products: Sequence[str]) -> Draft:
        """Begin a product, or go on with the one of this name.

        Args:
            products: names that the station knows already.

        Raises:
            InputError: no product can be called so.
            TakenError: another product is.
        """
        check_product_name(name)
        with self._lock:
            alike = [one for one in self._drafts if one.lower() == name.lower()]  # one folder on some disks
            if alike:
                if alike[0] != name:
                    raise NameTakenError(f"there is a new product {alike[0]} already: choose another name")
                return self._drafts[name]
            if name in products:
                raise NameTakenError(f"this station has a product {name} already: choose another name")
            draft = self._load_draft(name)
            draft.change(stage=draft_module.COLLECTING, by=who, at=iso(now()))
            self._drafts[name] = draft
            return draft

    def remove(self, name: str) -> None:
        """Remove a draft with its pictures; a product that went live stays."""
        draft = self.draft(name)
        self.stop_learning(draft, keep_best=False)
        with self._lock:
            del self._drafts[name]
            draft.remove()
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
        if draft.stage == draft_module.LEARNING:
            raise InputError(
                f"{draft.name} is learning from its pictures: stop it first, or wait for the end"
            )
        draft.move(names, out=out)
        self.checks.wake()

    # ---- learning

    def learn(self, draft: Draft, given: dict[str, Any], *, go_on: bool, all_good: bool = False) -> None:
        """Queue a draft. What was learnt before stays until this is done.

        Raises:
            ConflictError: options do not go together.
            GoodQuestionError: names leave open which pictures are good, and nobody said that all are.
            InputError: the method is unknown, there is nothing to learn from, or the names tell no parts.

        Args:
            given: `FIT_OPTIONS` as `flawscope fit` takes them; `minutes` of a method that learns in steps;
                `auto`: minutes in which settings of PatchCore are tried.
            go_on: where a stopped training of the same settings left off.
            all_good: somebody says that all pictures are good, whatever they are called.
        """
        in_steps = registry.method(given["method"]).learns_in_steps
        given = {**given, "minutes": (given["minutes"] or DEFAULT_MINUTES) if in_steps else None}
        if len(draft.pictures()) < MIN_PICTURES:
            raise InputError(f"{draft.name} has fewer than {MIN_PICTURES} pictures: give it more")
        if given["auto"] is not None and given["method"] != "patchcore":
            raise InputError(f"auto is for patchcore, not {given['method']}: leave it out")
        conflicts.check_options(given)
        if given["part"] is not None:
            part_names.check_part_names(draft.pictures(), given["part"], given["view"])
        if not all_good:
            draft.refuse_unknown()
        with self._lock:
            if draft.stage in draft_module.BUSY_STAGES:
                return
            asked = {**given, "learns_from": draft.pictures()}
            if not go_on or any(draft.state.get(key) != value for key, value in asked.items()):
                draft.discard_training()
            draft.change(stage=WAITING, asked_at=now(), error=None, **asked)
            if self._current is not None and self._current[1] == "worth":
                self.worker.stop()  # it can be found out later
        self.wake()

    def stop_learning(self, draft: Draft, *, keep_best: bool = True) -> None:
        """Stop what is learnt of a draft; it can go on later. A search for settings ends at the first stop,
        and the best so far is learnt, unless it is not to be kept."""
        with self._lock:
            if self._current is not None and self._current[0] is draft:
                is_search = self._progress is not None and self._progress["stage"].startswith(tried.TRYING)
                if keep_best and is_search and not self._is_search_ended:
                    self._is_search_ended = True
                    self.worker.interrupt(tried.TRYING)
                    return
                self.worker.stop()
            if draft.stage in draft_module.BUSY_STAGES:
                draft.change(stage=draft_module.STOPPED)

    def _work(self) -> None:
        while not self._wait(QUEUE_INTERVAL):
            with suppress(FlawscopeError):
                self.worker.end_if_idle()
            while not self._ended.is_set() and (found := self._next_job()) is not None:
                try:
                    with self.threads[0].call(STEP_SECONDS):
                        self._run_job(*found)
                except FlawscopeError as error:  # a full disk: tried again at the next look
                    self.say(f"new product {found[0].name}: {message_with_type(error)}")
                    break

    def _next_job(self) -> tuple[Draft, str] | None:
        """Return the next draft to fit, those cut off first; else one that needs a learning curve."""
        with self._lock:
            waiting = [one for one in self if one.stage in draft_module.BUSY_STAGES]
            waiting.sort(key=lambda one: (one.stage == WAITING, one.state.get("asked_at", 0)))
            if waiting:
                self._current = waiting[0], "fit"
            else:
                self._current = next(((one, "worth") for one in self if _needs_learning_curve(one)), None)
            return self._current

    def _run_job(self, draft: Draft, what: str) -> None:
        with self._lock:
            self._is_search_ended = False
            if what == "fit":
                if draft.stage not in draft_module.BUSY_STAGES:  # a person stopped it a moment ago
                    self._current = None
                    return
                if draft.state.get("learns_from") != draft.pictures():  # more came while it waited
                    draft.discard_training()
                draft.change(stage=draft_module.LEARNING, learns_from=draft.pictures())
        state, result = draft.state, draft.result
        options = state if what == "fit" or result is None else result["options"]
        given = {key: options[key] for key in FIT_OPTIONS if options.get(key) is not None}
        if what == "worth" and result is not None and given.pop("auto", None) is not None:
            given |= result["search"]["options"]
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
        try:
            found = self.worker.run(job, self._note_progress)
        except StoppedError:
            return  # by a person, who said so in the state; or by the station's end: it goes on at the start
        except Exception as error:
            found = {"curve": {}, "tested": {}}
            text = message_with_type(error)
            said = OPTION_PREFIX.sub("", text.replace(str(draft.folder), draft.name))
            change: dict[str, Any] = {"stage": draft_module.FAILED, "error": said}
            change["error_options"] = _options_behind(text, given)
        else:
            of = {
                "options": given,
                "learns_from": state.get("learns_from"),
                "asked_at": state.get("asked_at"),
            }
            change = {"stage": READY, "result": {**found, **of}}
        finally:
            with self._lock:
                self._current = self._progress = None
        if what == "worth":
            change = {"result": {**(result or {}), **found}}
        with self._lock:
            is_there = self._drafts.get(draft.name) is draft
            if is_there and draft.stage == state["stage"]:  # else a person stopped or removed it meanwhile
                draft.change(**change)
        self.say(f"new product {draft.name}: {draft.stage}")

    def _note_progress(self, stage: str, done: int, total: int) -> None:
        self.threads[0].go_on()
        name, at = stage.partition(",")[0], time.monotonic()
        if self._progress is None or self._progress["stage"] != name:
            self._progress = {"stage": name, "begun": at}
        spent = at - self._progress["begun"]
        left = spent / done * (total - done) if done else None
        self._progress = {**self._progress, "done": done, "total": total, "left": left}

    # ---- trying

    def try_model(self, draft: Draft, sent: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """Judge pictures with the model of a draft; nothing is kept. InputError where there is no model;
        BusyError where too many wait."""
        if draft.result is None:
            raise InputError(f"{draft.name} has no model yet: let it learn first")
        if len(sent) > MAX_TRIED:
            raise InputError(f"{len(sent)} pictures are too many at once: send {MAX_TRIED} or fewer")
        job: dict[str, Any] = {"do": "try", "model": str(draft.model), "sent": list(sent)}
        job |= {"device": self.device, "threads": max(1, machine.usable_cores() // 2)}
        with self._trials.take():
            results: list[dict[str, Any]] = self.trier.run(job, lambda *step: None)["results"]
        return results

    def end_trials(self) -> None:
        """End the trial that runs, and begin no more."""
        self.trier.close()

    # ---- reports

    def facts(self, draft: Draft, *, looked_at: bool = True) -> dict[str, Any]:
        """Return the state of a draft, as the API shows it. looked_at: its pictures are to be checked."""
        state, stage, result = draft.state, draft.stage, draft.result
        with self._lock:
            step = self._progress if self._current is not None and self._current[0] is draft else None
            asked = [one.state.get("asked_at", 0) for one in self if one.stage in draft_module.BUSY_STAGES]
        if looked_at:
            self.checks.request(draft)
        pictures = draft.pictures()
        return {
            "name": draft.name,
            "stage": stage,
            "version": draft.version,
            "pictures": len(pictures),
            "left_out": len(draft.left_out()),
            "most": draft_module.MAX_PICTURES,
            "check": self.checks.findings(draft),
            **{key: state.get(key) for key in FIT_OPTIONS},
            "before": sum(at < state.get("asked_at", 0) for at in asked) if stage == WAITING else 0,
            "step": step and {key: step[key] for key in ("stage", "done", "total", "left")},
            "error": state.get("error"),
            "error_options": state.get("error_options", []),
            "goes_on": stage == draft_module.STOPPED and draft.can_resume,
            "result": None if result is None else draft_module.describe_result(result),
            "changed": result is not None and result["learns_from"] != pictures,
            "live": state.get("live"),
            "live_is_this": result is not None
            and (state.get("live") or {}).get("learnt") == result["asked_at"],
        }


def _options_behind(error: str, given: Mapping[str, Any]) -> list[str]:
    """Return the given options that an error of a fit is about: those that it names, else all that concern
    what is seen in the pictures."""
    named = [one for one in given if re.search(rf"--{one.replace('_', '-')}(?![\w-])", error)]
    known = ("minutes", *PICTURE_OPTIONS)
    return [one for one in named if one in known] or [one for one in PICTURE_OPTIONS if one in given]


def _needs_learning_curve(draft: Draft) -> bool:
    result = draft.result
    if draft.stage != READY or result is None or "curve" in result or not result["found"]:
        return False
    return result["learns_from"] == draft.pictures() and result["options"].get("minutes") is None


class Checks(BackgroundThread):
    """Thread that checks the pictures of drafts on request, as `flawscope data check` does."""

    def __init__(self, drafts: Drafts):
        super().__init__("checks of pictures", is_lazy=True)
        self._drafts = drafts
        self._requested: set[Draft] = set()
        self._findings: dict[Draft, tuple[int, dict[str, Any]]] = {}  # version of the pictures, findings
        self._process: subprocess.Popen[str] | None = None

    def end(self) -> None:
        super().end()
        if (process := self._process) is not None:
            process.kill()

    def request(self, draft: Draft) -> None:
        if self._findings.get(draft, (0, {}))[0] != draft.version:
            self._requested.add(draft)
            self.wake()

    def forget(self, draft: Draft) -> None:
        self._findings.pop(draft, None)

    def findings(self, draft: Draft) -> dict[str, Any] | None:
        """Return the last findings; `current`: of the present pictures. None: there are none yet."""
        version, found = self._findings.get(draft, (0, None))
        return None if found is None else {**found, "current": version == draft.version}

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
        existing, findings = set(draft.pictures()), []
        for one in report["findings"]:
            names = draft.odd_sizes() if one["code"] == "mixed-sizes" else [one["subject"], *one["others"]]
            told = {key: one[key] for key in ("severity", "code", "message", "remedy")}
            findings.append({**told, "pictures": [name for name in names if name in existing]})
        advised = (one["step"].partition("--align ")[2] for one in report["advice"])
        align = next(filter(None, advised), None)
        return {"findings": findings, "sizes": report["sizes"], "align": align}
