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
        help="Write what is marked as labels with scores into --out DIR, too, to correct in a labelling "
        "tool; `evaluate` and `fit --seen` read what it exports.",
    )
    common.add_scale(parser)
    parser.add_argument(
        "--tolerances",
        metavar="FILE.yaml",
        help="Rules of what is tolerated: kind, size, place and number of regions; an anomalous picture that "
        "keeps them is told as within tolerance.",
    )
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help="Exit with 3 if any picture is anomalous, with 4 if some are within tolerance at best, or are "
        "called good and the rate is not promised for them.",
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
    step = common.progress_for(args) if inputs.total else ignore_progress
    predictor = _load_model(args)
    summary = output.Summary(predictor)
    stream = common.stream_of(predictor, args.product)
    common.keep_other_results(args, summary.product, inputs.paths)
    if args.false_discovery_rate is not None and summary.parts:
        raise InputError("--false-discovery-rate is of pictures, the model decides on parts: leave it out")
    if args.tolerances:
        stream = _apply_tolerances(args, predictor, stream, summary)
    _group_by_part(inputs, summary)
    written = _open_results(args, inputs, summary)
    facts = _judge_and_finish(args, inputs, stream, written, summary, step)
    if not args.quiet:
        _say_summary(args, inputs, written, summary, facts)
    code = written.exit_code
    if not args.quiet:
        _advise_review(args, written, summary)
    return _exit_code(args, written, summary, code)


def _check_call(args: argparse.Namespace) -> None:
    if args.labels and args.cluster is None and (not args.out or common.is_table(args.out)):
        raise InputError("--labels needs a folder for its files: add --out DIR")
    cluster_predict.check_options(args)


def _collect_inputs(args: argparse.Namespace) -> output.PictureInputs:
    """List the pictures. InputError where `--labels` cannot be written beside them."""
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
    """Return the stream whose predictions are held against the rules of `--tolerances`."""
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
    if paths is not None:
        root = common_folder([path for path in paths if path not in inputs.errors])
    table_form = summary.table_form
    table_form["model"] = os.path.basename(args.model)
    return output.Output(
        args, root, inputs=paths, table_form=table_form, parts=summary.parts, count=summary.add
    )


def _group_by_part(inputs: output.PictureInputs, summary: output.Summary) -> None:
    """Reorder the inputs, where they are known, so that pictures of one part follow each other."""
    if summary.parts is not None and inputs.paths:
        inputs.sources = summary.parts.group(inputs.paths)


def _judge_and_finish(
    args: argparse.Namespace,
    inputs: output.PictureInputs,
    stream: Stream,
    written: output.Output,
    summary: output.Summary,
    step: ProgressCallback,
) -> Json:
    """Judge the inputs, and write the final files, after Ctrl-C, too. Return the facts of the run."""
    from flawscope.pictures.listing import reason_not_judged

    began = time.monotonic()
    complete = False
    try:
        _judge(inputs, stream, written, summary, step)
        complete = True
    except KeyboardInterrupt:
        of = f" of {inputs.total:,}" if inputs.total else ""
        kept = f"; their results are in {args.out}" if args.out else ""
        judged = pluralize(summary.totals.count + len(written.failures), "input")
        raise KeyboardInterrupt(f"interrupted after {judged}{of}{kept}") from None
    finally:
        written.decide_incomplete()
        facts = summary.facts(args, unjudged=len(written.failures))
        if args.false_discovery_rate is not None:
            facts["batch"] = summary.batch(args.false_discovery_rate)
        facts |= {"complete": complete, "seconds": round(time.monotonic() - began, 3)}
        facts["not_judged"] = {path: reason_not_judged(path) for path in inputs.side_files}
        written.finish(facts, summary.levels)
    return facts


def _say_summary(
    args: argparse.Namespace,
    inputs: output.PictureInputs,
    written: output.Output,
    summary: output.Summary,
    facts: Json,
) -> None:
    """Say, for a person, the totals of a run, the verdict on a batch, and which files were left out."""
    if not args.json and summary.totals.count:
        common.say(summary.line(written.decided_parts))
    if "batch" in facts:
        common.say(output.batch_line(facts["batch"]))
    output.say_remarks(inputs.side_files, summary.totals)


def _advise_review(args: argparse.Namespace, written: output.Output, summary: output.Summary) -> None:
    """Say how flagged pictures, and good ones near the threshold, are reviewed.

    It says nothing where there are none, or where the results folder is not complete.
    """
    near = summary.totals.near
    if not written.folder_is_complete or not (summary.totals.anomalous or near):
        return
    words = shlex.join(["flawscope", "review", args.out])
    verb = "comes" if near == 1 else "come"
    beside = f"; {near} near the threshold, called good, {verb} after them" if near else ""
    common.say(f"next: {words}   sorts flagged pictures into good and defective, to learn from{beside}")


def _exit_code(args: argparse.Namespace, written: output.Output, summary: output.Summary, code: int) -> int:
    """Return the exit code of the run.

    Args:
        args: Arguments of the call.
        written: Output of the run.
        summary: Summary of the run.
        code: 1 where an input was not judged, or a result not written; else 0.
    """
    if not args.fail_on_anomaly:
        return code
    if written.parts and any(part.decision != "good" for part in written.decided_parts):
        return 3
    if not written.parts and summary.totals.anomalous:
        return 3
    return output.fail_on_anomaly(code, summary.totals)


def _judge(
    inputs: output.PictureInputs,
    stream: Stream,
    written: output.Output,
    summary: output.Summary,
    step: ProgressCallback,
) -> None:
    """Judge the inputs. Ctrl-C waits until an input has been counted and its row and files are written."""
    from flawscope.results.table import Unjudged

    answers = stream(inputs.sources, batch=None if inputs.total else 1)
    for done, (source, result) in enumerate(answers, start=1):
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else output.STDIN
        with defer_interrupts("") as interrupted:
            if isinstance(result, InputError):
                why = inputs.errors.get(Path(name)) or failure_of(result)
                written.add(Unjudged(name, why), source)
            else:
                written.add(replace(result, path=name), source)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if inputs.total:
            step("prediction", done, inputs.total)
