"""Score pictures: a file, a folder, a pattern, several of them, or - for paths or a picture on stdin."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import cluster_predict, common, output
from flawscope.errors import InputError, failure_of, pluralize
from flawscope.progress import defer_interrupts, ignore_progress

if TYPE_CHECKING:
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.predictor.streaming import SourceResult
    from flawscope.progress import ProgressCallback
    from flawscope.types import Json

    Stream = Callable[..., Iterator[SourceResult]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope predict` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file.")
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE|FOLDER|GLOB|-",
        help="Pictures to score; - reads paths, or one picture, from stdin.",
    )
    common.add_rate(parser, "the model's")
    parser.add_argument(
        "--false-discovery-rate",
        type=common.parse_rate,
        metavar="RATE",
        help="Say of all pictures together up to which p-value they can be called defective so that on "
        "average at most this share of them is good, such as 10%%.",
    )
    parser.add_argument(
        "--json", action="store_true", help="Print one JSON line for every input, judged or not."
    )
    parser.add_argument(
        "--out",
        metavar="DIR|FILE.csv|FILE.xlsx",
        help="Write tables of results (CSV, Excel), a JSON file for every input, overlays, maps and masks; "
        "or a table alone, .csv or .xlsx.",
    )
    parser.add_argument(
        "--only-anomalous",
        action="store_true",
        help="Print and draw only anomalous pictures and what was not judged; the table has every input.",
    )
    common.add_force(parser)
    common.add_pictures(parser)
    parser.add_argument(
        "--labels",
        choices=("coco", "labelstudio", "yolo", "labelme"),
        help="Write the marked regions as labels with scores into --out DIR, too, to correct in a labelling "
        "tool; `evaluate` and `fit --seen` read its exports.",
    )
    common.add_scale(parser)
    parser.add_argument(
        "--tolerances",
        metavar="FILE.yaml",
        help="Rules of what is tolerated: kind, size, place and number of regions; an anomalous picture that "
        "keeps them is reported as within tolerance.",
    )
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help="Exit with 3 if any picture is anomalous, with 4 if some are within tolerance at best, or are "
        "called good though the false-alarm rate does not apply to them.",
    )
    common.add_engine(parser, threads="all cores; with --cluster 1")
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="Product of a joint model that all pictures show (default: it is recognised in each).",
    )
    common.add_cluster(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Judge pictures, and print and write their results; return the exit code."""
    _check_call(args)
    if args.cluster is not None:
        return cluster_predict.predict_on_cluster(args)
    common.check_output(args)
    inputs = _collect_inputs(args)
    # without a known number of inputs, there is no progress to show
    step = common.progress_for(args) if inputs.total else ignore_progress
    predictor = _load_model(args)
    summary = output.Summary(predictor)
    stream = common.stream_of(predictor, args.product)
    common.check_earlier_results(args, summary.product, inputs.paths)
    if args.false_discovery_rate is not None and summary.parts:
        raise InputError("--false-discovery-rate is of pictures, the model decides on parts: leave it out")
    if args.tolerances:
        stream = _apply_tolerances(args, predictor, stream, summary)
    _group_by_part(inputs, summary)
    results = _open_results(args, inputs, summary)
    facts = _judge_and_finish(args, inputs, stream, results, summary, step)
    if not args.quiet:
        _say_summary(args, inputs, results, summary, facts)
    code = results.report_failures()
    if not args.quiet:
        _advise_review(args, results, summary)
    return _exit_code(args, results, summary, code)


def _check_call(args: argparse.Namespace) -> None:
    """Raise an InputError for options that do not go together."""
    if args.labels and args.cluster is None and (not args.out or common.is_table(args.out)):
        raise InputError("--labels needs a folder for its files: add --out DIR")
    cluster_predict.check_options(args)


def _collect_inputs(args: argparse.Namespace) -> output.PictureInputs:
    """List the pictures of the call.

    Raises:
        InputError: There are no pictures, or two would share a file of `--labels`.
    """
    from flawscope.results.labels import require_own_files

    inputs = output.collect_inputs(args.pictures)
    if args.labels and inputs.paths is not None:
        require_own_files(args.labels, inputs.paths)
    return inputs


def _load_model(args: argparse.Namespace) -> Predictor | Router:
    """Load the model, with the scale of `--scale-mm` for each of its products."""
    model = common.load_model(args, args.model)
    if args.scale_mm is None:
        return model
    for name, predictor in model.products.items():
        model = model.with_product(name, predictor.with_scale(args.scale_mm))
    return model


def _apply_tolerances(
    args: argparse.Namespace, predictor: Predictor | Router, stream: Stream, summary: output.Summary
) -> Stream:
    """Read the rules of `--tolerances` into the summary; return the stream with the rules applied."""
    from flawscope.predictor.tolerating import tolerating
    from flawscope.results.tolerance import Tolerances

    summary.tolerances = Tolerances.read(Path(args.tolerances))
    return tolerating(predictor, stream, summary.tolerances)


def _open_results(
    args: argparse.Namespace, inputs: output.PictureInputs, summary: output.Summary
) -> output.Output:
    """Return the output of the run, with its tables and folder opened."""
    from flawscope.results.folder import common_folder

    paths = inputs.paths
    root = None
    if paths is not None:  # None: the paths come one by one from stdin
        root = common_folder([path for path in paths if path not in inputs.errors])
    table_form = summary.table_form
    table_form["model"] = os.path.basename(args.model)
    return output.Output(
        args, root, inputs=paths, table_form=table_form, parts=summary.parts, count=summary.add
    )


def _group_by_part(inputs: output.PictureInputs, summary: output.Summary) -> None:
    """Reorder the inputs so that pictures of one part follow each other; unknown inputs stay as they are."""
    if summary.parts is not None and inputs.paths:
        inputs.sources = summary.parts.group(inputs.paths)


def _judge_and_finish(
    args: argparse.Namespace,
    inputs: output.PictureInputs,
    stream: Stream,
    results: output.Output,
    summary: output.Summary,
    step: ProgressCallback,
) -> Json:
    """Judge the inputs, write the final files (also after Ctrl-C), and return the facts of the run."""
    from flawscope.pictures.listing import reason_not_judged

    start = time.monotonic()
    is_complete = False
    try:
        _judge(inputs, stream, results, summary, step)
        is_complete = True
    except KeyboardInterrupt:
        done = pluralize(summary.totals.count + len(results.failures), "input")
        total = f" of {inputs.total:,}" if inputs.total else ""
        place = f"; their results are in {args.out}" if args.out else ""
        raise KeyboardInterrupt(f"interrupted after {done}{total}{place}") from None
    finally:
        results.decide_incomplete()
        facts = summary.facts(args, unjudged_count=len(results.failures))
        if args.false_discovery_rate is not None:
            facts["batch"] = summary.batch(args.false_discovery_rate)
        facts |= {"complete": is_complete, "seconds": round(time.monotonic() - start, 3)}
        facts["not_judged"] = {path: reason_not_judged(path) for path in inputs.side_files}
        results.finish(facts, summary.levels)
    return facts


def _say_summary(
    args: argparse.Namespace,
    inputs: output.PictureInputs,
    results: output.Output,
    summary: output.Summary,
    facts: Json,
) -> None:
    """Print the totals of a run, the result of `--false-discovery-rate`, and remarks on files left out."""
    if not args.json and summary.totals.count:
        common.say(summary.totals_text(results.decided_parts))
    if "batch" in facts:
        common.say(output.batch_line(facts["batch"]))
    output.say_remarks(inputs.side_files, summary.totals)


def _advise_review(args: argparse.Namespace, results: output.Output, summary: output.Summary) -> None:
    """Print the command that reviews flagged pictures and good ones near the threshold.

    Nothing is printed if there are no such pictures, or if the results folder is not complete.
    """
    near_count = summary.totals.near
    if not results.has_complete_folder or not (summary.totals.anomalous or near_count):
        return
    command = shlex.join(["flawscope", "review", args.out])
    verb = "comes" if near_count == 1 else "come"
    near_text = f"; {near_count} near the threshold, called good, {verb} after them" if near_count else ""
    common.say(f"next: {command}   sorts flagged pictures into good and defective, to learn from{near_text}")


def _exit_code(args: argparse.Namespace, results: output.Output, summary: output.Summary, code: int) -> int:
    """Return the exit code of the run.

    Args:
        args: Arguments of the call.
        results: Output of the run.
        summary: Summary of the run.
        code: 1 if an input was not judged, or a result not written; else 0.
    """
    if not args.fail_on_anomaly:
        return code
    if results.parts and any(part.decision != "good" for part in results.decided_parts):
        return output.ANOMALY_EXIT_CODE
    return output.fail_on_anomaly(code, summary.totals)


def _judge(
    inputs: output.PictureInputs,
    stream: Stream,
    results: output.Output,
    summary: output.Summary,
    step: ProgressCallback,
) -> None:
    """Judge the inputs; Ctrl-C takes effect when the current input is counted, and its files are written."""
    from flawscope.results.table import Unjudged

    # without a total, paths come one by one from stdin, and each is answered at once
    batch_size = None if inputs.total else 1
    answers = stream(inputs.sources, batch=batch_size)
    for done, (source, result) in enumerate(answers, start=1):
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else output.STDIN
        with defer_interrupts("") as interrupted:  # "": Ctrl-C shows no line
            if isinstance(result, InputError):
                reason = inputs.errors.get(Path(name)) or failure_of(result)
                results.add(Unjudged(name, reason), source)
            else:
                results.add(replace(result, path=name), source)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if inputs.total:
            step("prediction", done, inputs.total)
