"""`fit --category all|objects|textures|a,b`: one model for each category, in one folder."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope.cli import common, fit_one, several
from flawscope.cluster import connect, tasks
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.methods import registry
from flawscope.progress import Running, Step, counted, duration, silent, some

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest

EVERY = 0.5  # seconds between looks at the cluster's tasks


class Done(NamedTuple):
    """A row of the table: the outcome of a category."""

    category: str
    model: str = ""
    pictures: str = ""
    threshold: str = ""
    alarms: str = ""
    time: str = ""


class Outcome(NamedTuple):
    """The outcome of a category: `lines` for a person, the line that names a failure, skipped pictures."""

    done: Done
    lines: Sequence[str] = ()
    failed: str = ""
    skipped: Sequence[str] = ()


def run(args: argparse.Namespace) -> int:
    """Fit them one after the other, or with `--cluster` on its nodes. One that fails is reported and does not
    stop the others; the exit code is 1 then. With `--resume`, models that are there already are kept."""
    names = several.asked(args)
    say = common.say_for(args)
    if args.update:
        raise InputError("--update adds to one model: name one --category")
    several.check_out(args, "models")
    calls = {name: _call(args, name) for name in names}
    for call in calls.values():
        fit_one.checked(call)
    common.folder_for_results(args.out)
    say(f"{counted(len(names), 'model')}, in {args.out}: {', '.join(names)}")
    found: dict[str, Outcome] = {}

    def take(name: str, outcome: Outcome) -> None:
        found[name] = outcome
        for line in outcome.lines:
            say(line)
        if outcome.failed:
            common.say(outcome.failed)

    try:
        if args.cluster is None:
            for name, call in calls.items():
                take(name, _one(call, _step(call)))
        else:
            _on_nodes(args, calls, take, say)
    except KeyboardInterrupt as error:
        running = [name for name in names if name not in found][: None if args.cluster else 1]
        text = str(error) or f"interrupted during {some(running)}; go on with --resume"
        raise KeyboardInterrupt(f"{len(found)} of {len(names)} models done; {text}") from None
    outcomes = [found[name] for name in names]
    header = ("category", "model", "pictures", "score threshold", "false alarms expected", "time")
    say(common.table([one.done for one in outcomes], header))
    code = common.report_failures([line for one in outcomes for line in one.skipped])
    return 1 if any(one.failed for one in outcomes) else code


def _call(args: argparse.Namespace, category: str) -> argparse.Namespace:
    """The call for this category alone."""
    out = str(Path(args.out) / f"{category}.safetensors")
    board = args.tensorboard and str(Path(args.tensorboard) / category)
    own = {"category": category, "out": out, "tensorboard": board, "cluster": None}
    return argparse.Namespace(**{**vars(args), **own})


def _one(call: argparse.Namespace, step: Step) -> Outcome:
    """Fit one category."""
    from flawscope.predictor import read_manifest

    began, name = time.monotonic(), call.category
    try:
        if _is_kept(call):
            found = _described(call, read_manifest(call.out))
            return Outcome(found, [f"{name}: kept, it is there already"])
        predictor = fit_one.learnt(_resuming(call), lambda line: None, step)
    except Exception as error:
        reason = several.reason_of(error, debug=call.debug)
    else:
        found = _described(call, predictor.manifest)._replace(time=duration(time.monotonic() - began))
        pictures = counted(len(predictor.manifest.pictures), "picture")
        line = f"{name}: {pictures} in {found.time}; {predictor.calibration.promise()}"
        notes = [f"  {note}" for note in predictor.manifest.notes]
        return Outcome(found, [line, *notes], skipped=predictor.failures)
    return _failed(name, reason, duration(time.monotonic() - began))


def _is_kept(call: argparse.Namespace) -> bool:
    return call.resume and Path(call.out).is_file()


def _failed(name: str, reason: str, took: str = "") -> Outcome:
    return Outcome(Done(name, "failed", time=took), failed=f"{name}: failed: {reason}")


def _on_nodes(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    take: Callable[[str, Outcome], None],
    say: fit_one.Say,
) -> None:
    """Fit each category in a task of the cluster."""
    left = {}
    for name, call in calls.items():
        if _is_kept(call):
            take(name, _one(call, silent))
        else:
            left[name] = call
    if not left:
        return
    live = Running(say, common.say, terminal=sys.stderr.isatty() and not args.quiet)
    fits = {name: _predicted(call) for name, call in left.items()}
    how = len(left), args.threads, args.device
    with (
        connect.connected(args.cluster),
        tasks.tasks_for("fit", fits, args.data, args.out, live, *how) as pool,
    ):
        for name, call in left.items():
            call.threads = pool.share.threads
            pool.start(name, _on_node, call)
        while pool.running:
            for name, found in pool.ended(EVERY):
                live.jobs.pop(name, None)
                if isinstance(found, FlawscopeError):
                    if args.debug and found.__cause__:  # with the traceback of the node's process
                        raise found
                    found = _failed(name, one_line(found))
                take(name, found)
            live.show()


def _on_node(call: argparse.Namespace, tell: Callable[[str], None]) -> Outcome:
    return _one(call, lambda stage, done, total: tell(f"{stage} {done} of {total}"))


def _predicted(call: argparse.Namespace) -> dict[str, Any]:
    """The fit as `predicted_peak` takes it."""
    options = {"method": fit_one.method_of(call), **fit_one.checked(call)}
    given = {"category": call.category, "roi": call.roi, "group": call.group, "min_defect": call.min_defect}
    return {"images": os.path.abspath(call.data), "device": call.device, **given, **options}


def _resuming(call: argparse.Namespace) -> argparse.Namespace:
    """--resume is for methods that learn in steps; for others a category is the step."""
    learns = registry.method(fit_one.method_of(call)).learns_in_steps
    return argparse.Namespace(**{**vars(call), "resume": call.resume and learns})


def _step(call: argparse.Namespace) -> Step:
    """Progress on a terminal; elsewhere the line of each category is enough."""
    return common.step_for(call) if sys.stderr.isatty() else silent


def _described(call: argparse.Namespace, manifest: Manifest) -> Done:
    calibration = manifest.calibration
    return Done(
        call.category,
        Path(call.out).name,
        str(len(manifest.pictures)),
        f"{calibration.score_threshold:.4g}",
        f"{calibration.expected_rate:.1%}" if calibration.promised else "no promise",
    )
