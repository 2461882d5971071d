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
    from flawscope.pictures.decoding import PictureSource
    from flawscope.progress import ProgressCallback
    from flawscope.results.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE|FOLDER|GLOB|-",
        help="what to score; - reads paths, or one picture, from stdin",
    )
    common.add_rate(parser, "the model's")
    parser.add_argument(
        "--false-discovery-rate",
        type=common.parse_rate,
        metavar="RATE",
        help="say, of all pictures together, up to which p-value they can be called defective so that on "
        "average at most this share of them is good, such as 10%%",
    )
    parser.add_argument("--json", action="store_true", help="one JSON line for every input, judged or not")
    parser.add_argument(
        "--out",
        metavar="DIR|FILE.csv|FILE.xlsx",
        help="write tables of results (CSV, Excel), a JSON file for every input, overlays, maps and masks; "
        "or a table alone, .csv or .xlsx",
    )
    parser.add_argument(
        "--only-anomalous",
        action="store_true",
        help="print and draw only anomalous pictures and what was not judged; the table has every input",
    )
    common.add_force(parser)
    common.add_pictures(parser)
    parser.add_argument(
        "--labels",
        choices=("coco", "labelstudio", "yolo", "labelme"),
        help="with --out DIR: write what is marked as labels with scores, too, to correct in a labelling "
        "tool; `evaluate` and `fit --seen` read what it exports",
    )
    common.add_scale(parser)
    parser.add_argument(
        "--tolerances",
        metavar="FILE.yaml",
        help="rules of what is tolerated: kind, size, place and number of regions; an anomalous picture that "
        "keeps them is told as within tolerance",
    )
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help="exit with 3 if any picture is anomalous, with 4 if some are within tolerance at best, or are "
        "called good and the rate is not promised for them",
    )
    common.add_engine(parser, threads="all cores; with --cluster 1")
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="of a joint model: what all pictures show (default: it is recognised in each)",
    )
    common.add_cluster(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.pictures.listing import why_passed_over
    from flawscope.predictor.tolerating import tolerating
    from flawscope.results.folder import common_folder
    from flawscope.results.labels import require_own_files
    from flawscope.results.tolerance import Tolerances

    if args.labels and args.cluster is None and (not args.out or common.is_table(args.out)):
        raise InputError("--labels needs a folder for its files: add --out DIR")
    cluster_predict.check_options(args)
    if args.cluster is not None:
        return cluster_predict.predict_on_cluster(args)
    common.check_output(args)
    inputs = output.collect_inputs(args.pictures)
    if args.labels and inputs.total:
        require_own_files(args.labels, (path for path in inputs.sources if isinstance(path, Path)))
    step = common.progress_for(args) if inputs.total else ignore_progress
    predictor = common.load_model(args, args.model)
    if (scale := args.scale_mm) is not None:
        for name, one in predictor.products.items():
            predictor = predictor.with_product(name, one.with_scale(scale))
    summary, stream = output.Summary(predictor), common.stream_of(predictor, args.product)
    known = [one for one in inputs.sources if isinstance(one, Path)] if inputs.total else None
    common.keep_other_results(args, summary.product, known)
    if args.false_discovery_rate is not None and summary.parts:
        raise InputError("--false-discovery-rate is of pictures, the model decides on parts: leave it out")
    if args.tolerances:
        summary.tolerances = Tolerances.read(Path(args.tolerances))
        stream = tolerating(predictor, stream, summary.tolerances)
    root, paths = None, None
    if inputs.total:
        paths = [path for path in inputs.sources if isinstance(path, Path)]
        root = common_folder([path for path in paths if path not in inputs.errors])
    form = summary.form
    form["model"] = os.path.basename(args.model)
    if summary.parts is not None and paths:
        inputs.sources = summary.parts.group(paths)
    results = output.Output(args, root, inputs=paths, form=form, parts=summary.parts, count=summary.add)
    totals = summary.totals
    began, complete = time.monotonic(), False
    try:
        _judge(inputs, stream, results, summary, step)
        complete = True
    except KeyboardInterrupt:
        of = f" of {inputs.total:,}" if inputs.total else ""
        kept = f"; their results are in {args.out}" if args.out else ""
        judged = pluralize(totals.count + len(results.failures), "input")
        raise KeyboardInterrupt(f"interrupted after {judged}{of}{kept}") from None
    finally:
        results.decide_incomplete()
        unjudged = len(results.failures)
        facts = summary.facts(args, unjudged)
        if args.false_discovery_rate is not None:
            facts["batch"] = summary.batch(args.false_discovery_rate)
        facts |= {"complete": complete, "seconds": round(time.monotonic() - began, 3)}
        facts["not_judged"] = {path: why_passed_over(path) for path in inputs.side_files}
        results.finish(facts, summary.levels)
    if not args.quiet:
        if not args.json and totals.count:
            common.say(summary.line(results.decided_parts))
        if "batch" in facts:
            common.say(output.batch_line(facts["batch"]))
        output.say_remarks(inputs.side_files, totals)
    code = results.exit_code
    is_whole = results.results is not None and not results.unwritten.counts
    if not args.quiet and totals.anomalous and is_whole:
        words = shlex.join(["flawscope", "review", args.out])
        common.say(f"next: {words}   sorts flagged pictures into good and defective, to learn from")
    bad = {part.decision for part in results.decided_parts} - {"good"} if results.parts else totals.anomalous
    if not args.fail_on_anomaly:
        return code
    return 3 if bad else output.fail_on_anomaly(code, totals)


def _judge(
    inputs: output.PictureInputs,
    stream: Callable[..., Iterator[tuple[PictureSource, Prediction | InputError]]],
    results: output.Output,
    summary: output.Summary,
    step: ProgressCallback,
) -> None:
    """Judges the inputs. Ctrl-C waits until an input has been counted and its row and files are written."""
    from flawscope.results.table import Unjudged

    answers = stream(inputs.sources, batch=None if inputs.total else 1)
    for done, (source, result) in enumerate(answers, start=1):
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else output.STDIN
        with defer_interrupts("") as interrupted:
            if isinstance(result, InputError):
                why = inputs.errors.get(Path(name)) or failure_of(result)
                results.add(Unjudged(name, why), source)
            else:
                results.add(replace(result, path=name), source)
        if interrupted.is_set():
            raise KeyboardInterrupt
        if inputs.total:
            step("prediction", done, inputs.total)
