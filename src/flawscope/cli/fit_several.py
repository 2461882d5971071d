"""Fits several models in one call of `flawscope fit`: of categories, or of a router's products or views."""

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

Result = TypeVar("Result")  # value of a function that runs on a node
POLL_INTERVAL = 0.5  # seconds between checks of the cluster's tasks
HEADER = ("pictures", "score threshold", "false alarms expected", "time")  # titles of `Outcome.figures`


class Outcome(NamedTuple):
    """Outcome of a fit among several.

    Attributes:
        figures: The main figures, cells of a table.
        lines: Lines for a person.
        failed: Line on the failure; empty: the fit did not fail.
        skipped: Pictures that could not be used, a line each.
        open_model: The model's file, if the model has an open question; else empty.
    """

    figures: Sequence[str]
    lines: Sequence[str] = ()
    failed: str = ""
    skipped: Sequence[str] = ()
    open_model: str = ""


def run(args: argparse.Namespace) -> int:
    """Fit a model for each category, and return the exit code.

    A failure is reported and does not stop the other fits; with a failure, the exit code is 1.
    """
    names = common.selected_categories(args, file_word="models")
    if args.update:
        raise InputError("--update adds to one model: name one --category")
    calls = {name: category_call(fit_options.with_file(args, name), name, args.out) for name in names}
    outcomes = fit_each(args, calls, args.out, "model")
    rows = []
    for name, outcome in outcomes.items():
        file = "failed" if outcome.failed else Path(calls[name].out).name
        rows.append((name, file, *outcome.figures))
    say = common.say_unless_quiet(args)
    say(common.format_table(rows, ("category", "model", *HEADER)))
    return report_outcomes(outcomes)


def report_outcomes(outcomes: Mapping[str, Outcome]) -> int:
    """Report skipped pictures and open questions of several fits, and return the exit code.

    The exit code is 1 if a fit failed or pictures were skipped; else 2 if a model has an open question; else
    0.
    """
    skipped = [line for outcome in outcomes.values() for line in outcome.skipped]
    skipped_code = common.report_failures(skipped)
    question_code = 0
    for outcome in outcomes.values():
        if outcome.open_model:
            question_code = max(question_code, questions.report(outcome.open_model))
    if any(outcome.failed for outcome in outcomes.values()):
        return 1
    return skipped_code or question_code


def fit_each(
    args: argparse.Namespace, calls: Mapping[str, argparse.Namespace], folder: str, kind: str
) -> dict[str, Outcome]:
    """Fit a model for each call, and write each to its own file.

    The fits run one after the other; with `--cluster`, at the same time on its nodes. With `--resume`,
    existing files are kept.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        folder: Folder of the files; it is made if it is missing.
        kind: Noun for the models in messages, such as "category" or "view".

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
    outcome_by_name: dict[str, Outcome] = {}

    def add_outcome(name: str, outcome: Outcome) -> None:
        outcome_by_name[name] = outcome
        for line in outcome.lines:
            say(line)
        if outcome.failed:
            common.say(outcome.failed)

    try:
        if args.cluster is None:
            for number, (name, call) in enumerate(calls.items(), start=1):
                say(f"{name}: {number} of {len(names)}")
                add_outcome(name, _fit_call(call, common.progress_for(args)))
        else:
            _fit_each_on_cluster(args, calls, folder, add_outcome, say)
    except KeyboardInterrupt as error:
        unfinished = [name for name in names if name not in outcome_by_name]
        running = unfinished if args.cluster else unfinished[:1]  # here, only one fit runs at a time
        text = str(error) or f"interrupted during {join_names(running)}; go on with --resume"
        raise KeyboardInterrupt(f"{len(outcome_by_name)} of {len(names)} models done; {text}") from None
    return {name: outcome_by_name[name] for name in names}


def category_call(args: argparse.Namespace, name: str, folder: str, **changes: object) -> argparse.Namespace:
    """Return the arguments for a single category, whose model is a file in the folder.

    Args:
        args: Arguments of the command.
        name: Name of the category.
        folder: Folder of the models.
        **changes: Further arguments, which replace the command's.
    """
    file_name = f"{name.replace('/', '%2F')}.safetensors"
    model_changes = {
        "called": name,
        "category": name,
        "out": str(Path(folder) / file_name),
        "cluster": None,
    }
    return argparse.Namespace(**{**vars(args), **model_changes, **changes})


def _fit_call(call: argparse.Namespace, step: ProgressCallback) -> Outcome:
    """Fit one of several models, unless an existing file is accepted or kept. The outcome holds any error."""
    start = time.monotonic()
    try:
        if call.force and questions.accept(call.out, call.call_digest):
            return _unfitted_outcome(call, "accepted")
        if _is_done(call):
            return _unfitted_outcome(call, "kept, it is there already")
        resume = call.resume
        if resume:  # a fit goes on from its checkpoint if the method learns in steps; else it begins anew
            resume = registry.method(fit_one.read_fit_settings(call).method).learns_in_steps
        model_call = argparse.Namespace(**{**vars(call), "resume": resume})
        predictor = fit_one.fit_and_save(model_call, discard, step)
    except Exception as error:
        duration = format_duration(time.monotonic() - start)
        return _failure(call.called, common.reason_of(error, debug=call.debug), duration)
    return _fitted_outcome(call, predictor, format_duration(time.monotonic() - start))


def _unfitted_outcome(call: argparse.Namespace, reason: str) -> Outcome:
    """Return the outcome of a call whose model exists already; `reason` is why it was not fitted."""
    from flawscope.predictor import read_manifest

    return Outcome(_figures(read_manifest(call.out), duration=""), [f"{call.called}: {reason}"])


def _fitted_outcome(call: argparse.Namespace, predictor: Predictor, duration: str) -> Outcome:
    """Return the outcome of a call whose model was fitted."""
    from flawscope.artefact.detection import describe_found
    from flawscope.artefact.rates import promise_of

    manifest = predictor.manifest
    pictures = pluralize(len(manifest.pictures), "picture")
    lines = [f"{call.called}: {pictures} in {duration}; {promise_of(manifest).text}"]
    # views decide together, so what the model of one view finds says little
    if not call.each_view:
        lines += [f"  {line}" for line in describe_found(manifest)]
    lines += [f"  {line}" for line in manifest.notes]
    lines += [f"  question: {line}" for line in manifest.questions]
    # the questions of models that are joined are reported once, for the joint file
    is_joined = call.joint or call.each_view
    has_open_file = manifest.questions and not is_joined
    return Outcome(
        _figures(manifest, duration),
        lines,
        skipped=predictor.failures,
        open_model=call.out if has_open_file else "",
    )


def _is_done(call: argparse.Namespace) -> bool:
    """Return whether the model of a call exists and is kept, by `--resume`."""
    return call.resume and Path(call.out).is_file()


def _figures(manifest: Manifest, duration: str) -> list[str]:
    """Return a model's main figures, as `HEADER` names them."""
    calibration = manifest.calibration
    alarms = f"{calibration.expected_rate:.1%}" if calibration.promised else "no promise"
    return [str(len(manifest.pictures)), f"{calibration.score_threshold:.4g}", alarms, duration]


def _failure(name: str, reason: str, duration: str = "") -> Outcome:
    return Outcome(["", "", "", duration], failed=f"{name}: failed: {reason}")


# --------------------------------------------------------------------------------------------- on a cluster


def _fit_each_on_cluster(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    folder: str,
    add_outcome: Callable[[str, Outcome], None],
    say: Say,
) -> None:
    """Fit a model for each call in tasks of a cluster.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        folder: Folder of the files.
        add_outcome: Called with the name and the outcome of each fit when it ends. Models that exist already
            come first.
        say: Prints a remark.
    """

    def add_result(name: str, result: Outcome | FlawscopeError) -> None:
        if not isinstance(result, FlawscopeError):
            add_outcome(name, result)
            return
        if args.debug and result.__cause__:  # the cause has the traceback of the node's process
            raise result
        add_outcome(name, _failure(name, one_line_message(result)))

    calls_to_run = {}
    for name, call in calls.items():
        if _is_done(call):  # `_fit_call` returns the outcome of the kept model, and fits nothing
            add_outcome(name, _fit_call(call, ignore_progress))
        else:
            calls_to_run[name] = call
    _fit_on_cluster(args, calls_to_run, function=_fit_call, out=folder, add_result=add_result, say=say)


def _fit_on_cluster(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    function: Callable[[argparse.Namespace, ProgressCallback], Result],
    out: str,
    add_result: Callable[[str, Result | FlawscopeError], None],
    say: Say,
) -> None:
    """Run `function(call, step)` for each call, each in a task of the cluster; wait until all have ended.

    Args:
        args: Arguments of the command.
        calls: Arguments of each fit, by the model's name.
        function: Fits a model.
        out: Folder of the results.
        add_result: Called when a task ends, with its name and its result: the function's value, or the
            FlawscopeError that it raised.
        say: Prints a remark.
    """
    if not calls:
        return
    live = JobsProgress(say, common.say, terminal=sys.stderr.isatty() and not args.quiet)
    memory_arguments_by_name = {name: _peak_arguments(call) for name, call in calls.items()}
    with (
        connect.cluster_connection(args.cluster),
        tasks.task_pool(
            "fit",
            memory_arguments_by_name,
            fit_one.predict_memory,
            data=args.data,
            out=out,
            live=live,
            most=len(calls),
            threads=args.threads,
            device=args.device,
        ) as pool,
    ):
        for name, call in calls.items():
            call.threads = pool.resources.threads
            pool.start(name, function, call)
        while pool.running:
            for name, result in pool.ended(POLL_INTERVAL):
                live.job_stages.pop(name, None)
                # the pool does not know the type of the function's value
                add_result(name, cast("Result | FlawscopeError", result))
            live.show()


class TaskFit(NamedTuple):
    """Outcome of a fit in a task, beside the model's file.

    Attributes:
        lines: Lines for a person.
        failures: Pictures that were skipped, a line each.
        has_test: Whether the data have test pictures.
    """

    lines: list[str]
    failures: list[str]
    has_test: bool


def _fit_and_report(call: argparse.Namespace, step: ProgressCallback) -> TaskFit:
    """Fit one model in a task."""
    lines: list[str] = []
    predictor = fit_one.fit_and_save(call, lines.append, step)
    return TaskFit(lines, predictor.failures, call.has_test)


def fit_in_task(args: argparse.Namespace, say: Say) -> Predictor:
    """Fit one model in a single task of the cluster, and open it.

    Also set `args.has_test`: whether the data have test pictures.
    """
    from flawscope.artefact.files import checkpoint_path
    from flawscope.predictor import Predictor

    if args.update:
        raise InputError("--update adds to a model on this machine: leave out --cluster")
    out = os.path.abspath(args.out)
    call = argparse.Namespace(**{**vars(args), "out": out, "cluster": None})
    method = registry.method(fit_one.read_fit_settings(call).method)
    checkpoint = checkpoint_path(out) if method.learns_in_steps else None
    name = args.category or Path(os.path.abspath(args.data)).name
    fits: list[TaskFit] = []  # `add_fit` adds the only one

    def add_fit(_name: str, result: TaskFit | FlawscopeError) -> None:
        """Print the lines of the fit and keep it, or raise its error."""
        if isinstance(result, FlawscopeError):
            raise result
        for line in result.lines:
            say(line)
        fits.append(result)

    with fit_one.report_kept_steps(checkpoint):
        _fit_on_cluster(
            args,
            {name: call},
            function=_fit_and_report,
            out=os.path.dirname(out),
            add_result=add_fit,
            say=say,
        )
    predictor = Predictor.opened(out, device="cpu")
    (fit,) = fits
    predictor.failures = fit.failures
    args.has_test = fit.has_test
    return predictor


def _peak_arguments(call: argparse.Namespace) -> Json:
    """Return the arguments with which `fit_one.predict_memory` predicts the memory of a fit."""
    arguments = fit_one.memory_arguments(call, fit_one.read_fit_settings(call))
    return {"images": os.path.abspath(call.data), "good": call.good, **arguments}
