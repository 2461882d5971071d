"""Measure a model on the test pictures of a data set."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from flawscope.cli import common

if TYPE_CHECKING:
    from flawscope.evaluation import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    common.add_data(parser)
    common.add_rate(parser, "the model's")
    parser.add_argument(
        "--full-resolution", action="store_true", help="pixel metrics at the pictures' size too"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write a report, overlays, maps, a contact sheet, results"
    )
    common.add_pictures(parser, animation="webp")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.datasets import open_dataset
    from flawscope.predictor import read_manifest

    if args.out:
        from flawscope import report

        report.require()
    manifest = read_manifest(args.model)
    seed, group = common.seed_of(manifest), common.group_of(manifest)  # split as it was for fitting
    dataset = open_dataset(args.data, args.category, seed=seed, group=group)
    out = common.folder_for_pictures(args)

    from flawscope.evaluation import evaluate
    from flawscope.predictor import load
    from flawscope.results.folder import Pictures

    predictor = load(
        args.model, device=args.device, threads=args.threads, false_alarm_rate=args.false_alarm_rate
    )
    pictures = None
    if out:
        pictures = Pictures(out, dataset.root, args.maps or "png16", args.animation or "webp")
    result = evaluate(
        predictor,
        dataset,
        full_resolution=args.full_resolution,
        take=pictures.take if pictures else None,
        step=common.step_for(args),
    )
    from flawscope.artefact.files import atomic

    document = json.dumps(result.to_dict(), indent=1, allow_nan=False)
    if out:
        with atomic(out / "results.json") as file:
            file.write(f"{document}\n".encode())
    print(document if args.json else lines(result), flush=True)  # before what may fail
    if pictures and out:
        pictures.finish(f"{dataset.category}: {predictor.manifest.method}")
        path = out / report.NAME
        name = os.path.basename(args.model)
        report.write_report(path, result, predictor, dataset, model=name, step=common.step_for(args))
        if not args.quiet:
            common.say(f"report: {path}")
    return common.report_failures([*result.failures, *(pictures.failures if pictures else ())])


def lines(result: Evaluation) -> str:
    """The table that a person reads."""
    from flawscope.evaluation import NAMES

    rows = [(NAMES.get(k, k), "n/a" if v is None else f"{v:.4f}") for k, v in result.metrics.items()]
    parts = [
        f"{result.category}: {result.method}, {result.images} test pictures in {result.seconds:.1f} s",
        common.table(rows, ("metric", "value")),
    ]
    alarms = result.false_alarms
    if alarms["measured"] is not None:
        low, high = alarms["interval"]
        parts.append(
            f"false alarms: {alarms['measured']:.1%} of {alarms['images']} good pictures "
            f"(expected {alarms['expected']:.1%}, target {alarms['target']:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%})"
        )
    kinds = [
        (kind, v["images"], v["anomalous"], f"{v['mean_score']:.4g}", f"{v['median_severity']:+.1f}")
        for kind, v in result.kinds.items()
    ]
    header = ("kind", "pictures", "called anomalous", "mean score", "median severity")
    parts.append(common.table(kinds, header))
    if result.mismatch:
        parts.append(f"warning: {result.mismatch}")
    if result.outside():
        parts.append(result.outside())
    if result.left_out:
        which = ", ".join(f"{n} {kind}" for kind, n in result.left_out.items())
        parts.append(f"left out, because the model was fitted or calibrated on them: {which}")
    return "\n\n".join(parts)
