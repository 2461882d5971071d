"""Fits several models from one call of `flawscope fit`: of categories, or of a router's products or views."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from flawscope.cli import common, fit_one, fit_options, questions
from flawscope.cluster import connect, tasks
from flawscope.errors import FlawscopeError, InputError, join_names, one_line_message, pluralize
from flawscope.methods import registry
from flawscope.progress import JobsProgress, ProgressCallback, Say, discard, format_duration, ignore_progress

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.predictor import Predictor
    from flawscope.types import Json

Result = TypeVar("Result")  # of a call that runs on a node
POLL_INTERVAL = 0.5  # seconds between checks of the cluster's tasks
HEADER = ("pictures", "score threshold", "false alarms expected", "time")  # of an outcome's figures


class Outcome(NamedTuple):
    """Outcome of a fit among several.

    Attributes:
        figures: The main figures, cells of a table.
        lines: Lines for a person.
        failed: Line on the failure; empty: it did not fail.
        skipped: Pictures that could not be used.
        asked: The model's file, where it has an open question; else empty.
    """

    figures: Sequence[str]
    lines: Sequence[str] = ()
    failed: str = ""
    skipped: Sequence[str] = ()
    asked: str = ""


def run(args: argparse.Namespace) -> int:
    """Fit a model for each category.

    A failure is reported and does not stop the others; the exit code is 1 then.
    """
    names = common.selected_categories(args, "models")
    if args.update:
        raise InputError("--update adds to one model: name one --category")
    calls = {name: category_call(fit_options.with_file(args, name), name, args.out) for name in names}
    outcomes = fit_each(args, calls, args.out, "model")
    files = {
        name: "failed" if outcome.failed else Path(calls[name].out).name for name, outcome in outcomes.items()
    }
    rows = [(name, files[name], *outcome.figures) for name, outcome in outcomes.items()]
    common.say_unless_quiet(args)(common.format_table(rows, ("category", "model", *HEADER)))
    return exit_code(outcomes)


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    """Report skipped pictures and open questions; 1 where pictures were skipped or a fit failed."""
    code = common.report_failures([line for outcome in outcomes.values() for line in outcome.skipped])
    asked = [questions.report(outcome.asked) for outcome in outcomes.values() if outcome.asked]
    return 1 if any(outcome.failed for outcome in outcomes.values()) else code or max(asked, default=0)


def fit_each(
    args: argparse.Namespace, calls: Mapping[str, argparse.Namespace], folder: str, kind: str
) -> dict[str, Outcome]:
    """Fit by several calls, each into its own file, one after the other, or with `--cluster` on its nodes.

    With `--resume`, existing files are kept.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        folder: Folder of the files, which is made.
        kind: The word for what is fitted, such as "category".

    Returns:
        The outcome of each fit by the model's name, in the order of the calls.
    """
    say = common.say_unless_quiet(args)
    names = [*calls]
    for call in calls.values():
        fit_one.read_fit_settings(call)
    fit_one.require_training()
    common.prepare_output_folder(folder)
    say(f"{pluralize(len(names), kind)}, in {args.out}: {', '.join(names)}")
    found: dict[str, Outcome] = {}

    def take(name: str, outcome: Outcome) -> None:
        found[name] = outcome
        for line in outcome.lines:
            say(line)
        if outcome.failed:
            common.say(outcome.failed)

    try:
        if args.cluster is None:
            for number, (name, call) in enumerate(calls.items(), start=1):
                say(f"{name}: {number} of {len(names)}")
                take(name, _fit_call(call, common.progress_for(args)))
        else:
            _fit_each_on_cluster(args, calls, folder, take, say)
    except KeyboardInterrupt as error:
        running = [name for name in names if name not in found][: None if args.cluster else 1]
        text = str(error) or f"interrupted during {join_names(running)}; go on with --resume"
        raise KeyboardInterrupt(f"{len(found)} of {len(names)} models done; {text}") from None
    return {name: found[name] for name in names}


def category_call(args: argparse.Namespace, name: str, folder: str, **changes: object) -> argparse.Namespace:
    """Return the arguments for a single category, whose model is a file in the folder.

    Args:
        args: Arguments of the command.
        name: Name of the category.
        folder: Folder of the models.
        **changes: Further arguments, which replace the command's.
    """
    out = str(Path(folder) / f"{name.replace('/', '%2F')}.safetensors")
    changes = {"called": name, "category": name, "out": out, "cluster": None, **changes}
    return argparse.Namespace(**{**vars(args), **changes})


def _fit_call(call: argparse.Namespace, step: ProgressCallback) -> Outcome:
    began = time.monotonic()
    try:
        if call.force and questions.accept(call.out, call.call_digest):
            return _kept_outcome(call, "accepted")
        if _is_kept(call):
            return _kept_outcome(call, "kept, it is there already")
        # of a method that does not learn in steps --resume goes on with the next one
        resume = call.resume and registry.method(fit_one.read_fit_settings(call).method).learns_in_steps
        own_call = argparse.Namespace(**{**vars(call), "resume": resume})
        predictor = fit_one.fit_and_save(own_call, discard, step)
    except Exception as error:
        took = format_duration(time.monotonic() - began)
        return _failure(call.called, common.reason_of(error, debug=call.debug), took)
    return _fitted_outcome(call, predictor, format_duration(time.monotonic() - began))


def _kept_outcome(call: argparse.Namespace, what: str) -> Outcome:
    """Return the outcome of a call whose model is there already. `what` says why it was not fitted."""
    from flawscope.predictor import read_manifest

    return Outcome(_figures(read_manifest(call.out), ""), [f"{call.called}: {what}"])


def _fitted_outcome(call: argparse.Namespace, predictor: Predictor, took: str) -> Outcome:
    from flawscope.artefact.detection import describe_found
    from flawscope.artefact.rates import promise_of

    manifest = predictor.manifest
    pictures = pluralize(len(manifest.pictures), "picture")
    lines = [f"{call.called}: {pictures} in {took}; {promise_of(manifest).text}"]
    if not call.each_view:  # else its views decide together
        lines += [f"  {line}" for line in describe_found(manifest)]
    lines += [f"  {line}" for line in manifest.notes]
    lines += [f"  question: {line}" for line in manifest.questions]
    is_alone = not (call.joint or call.each_view)  # else they are asked once, for the one file
    return Outcome(
        _figures(manifest, took),
        lines,
        skipped=predictor.failures,
        asked=call.out if is_alone and manifest.questions else "",
    )


def _is_kept(call: argparse.Namespace) -> bool:
    return call.resume and Path(call.out).is_file()


def _figures(manifest: Manifest, took: str) -> list[str]:
    """Main figures of a model."""
    calibration = manifest.calibration
    alarms = f"{calibration.expected_rate:.1%}" if calibration.promised else "no promise"
    return [str(len(manifest.pictures)), f"{calibration.score_threshold:.4g}", alarms, took]


def _failure(name: str, reason: str, took: str = "") -> Outcome:
    return Outcome(["", "", "", took], failed=f"{name}: failed: {reason}")


# --------------------------------------------------------------------------------------------- on a cluster


def _fit_each_on_cluster(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    folder: str,
    take: Callable[[str, Outcome], None],
    say: Say,
) -> None:
    """Fit by several calls on a cluster.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        folder: Folder of the files.
        take: Gets each name with its outcome, kept models first.
        say: Prints a remark.
    """

    def take_result(name: str, result: Outcome | FlawscopeError) -> None:
        if isinstance(result, FlawscopeError):
            if args.debug and result.__cause__:  # with the traceback of the node's process
                raise result
            result = _failure(name, one_line_message(result))
        take(name, result)

    left = {name: call for name, call in calls.items() if not _is_kept(call)}
    for name, call in calls.items():
        if name not in left:
            take(name, _fit_call(call, ignore_progress))
    _fit_on_cluster(args, left, _fit_call, folder, take_result, say)


def _fit_on_cluster(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    function: Callable[[argparse.Namespace, ProgressCallback], Result],
    out: str,
    take: Callable[[str, Result | FlawscopeError], None],
    say: Say,
) -> None:
    """Call `function(call, step)` for each call in a task of the cluster.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        function: Fits a model.
        out: Folder of the results.
        take: Gets each name when its call ends, with the value or the FlawscopeError that was raised.
        say: Prints a remark.
    """
    if not calls:
        return
    live = JobsProgress(say, common.say, terminal=sys.stderr.isatty() and not args.quiet)
    fits = {name: _peak_arguments(call) for name, call in calls.items()}
    how = len(calls), args.threads, args.device
    with (
        connect.cluster_connection(args.cluster),
        tasks.task_pool("fit", fits, fit_one.predict_memory, args.data, out, live, *how) as pool,
    ):
        for name, call in calls.items():
            call.threads = pool.resources.threads
            pool.start(name, function, call)
        while pool.running:
            for name, found in pool.ended(POLL_INTERVAL):
                live.job_stages.pop(name, None)
                take(name, cast("Result | FlawscopeError", found))  # that of the function
            live.show()


class TaskFit(NamedTuple):
    """Outcome of the fit of one model, with what the model's file does not say.

    Attributes:
        lines: Lines for a person.
        failures: Pictures that were skipped, a line each.
        has_test: Whether the data have test pictures.
    """

    lines: list[str]
    failures: list[str]
    has_test: bool


def _fit_and_report(call: argparse.Namespace, step: ProgressCallback) -> TaskFit:
    lines: list[str] = []
    predictor = fit_one.fit_and_save(call, lines.append, step)
    return TaskFit(lines, predictor.failures, call.has_test)


def fit_in_task(args: argparse.Namespace, say: Say) -> Predictor:
    """Fit one model, whole, in a task of the cluster, and open it."""
    from flawscope.artefact.files import checkpoint_path
    from flawscope.predictor import Predictor

    if args.update:
        raise InputError("--update adds to a model on this machine: leave out --cluster")
    out = os.path.abspath(args.out)
    call = argparse.Namespace(**{**vars(args), "out": out, "cluster": None})
    in_steps = registry.method(fit_one.read_fit_settings(call).method).learns_in_steps
    name = args.category or Path(os.path.abspath(args.data)).name
    made: list[TaskFit] = []

    def take(_: str, result: TaskFit | FlawscopeError) -> None:
        if isinstance(result, FlawscopeError):
            raise result
        for line in result.lines:
            say(line)
        made.append(result)

    with fit_one.report_kept_steps(checkpoint_path(out) if in_steps else None):
        _fit_on_cluster(args, {name: call}, _fit_and_report, os.path.dirname(out), take, say)
    predictor = Predictor.opened(out, device="cpu")
    (fit,) = made
    predictor.failures = fit.failures
    args.has_test = fit.has_test
    return predictor


def _peak_arguments(call: argparse.Namespace) -> Json:
    """The fit, as `fit_one.predict_memory` takes it."""
    given = fit_one.memory_arguments(call, fit_one.read_fit_settings(call))
    return {"images": os.path.abspath(call.data), "good": call.good, **given}
