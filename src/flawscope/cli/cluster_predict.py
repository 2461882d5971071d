"""Runs `predict` on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time

from flawscope.cli import common
from flawscope.cli.output import fail_on_anomaly, run_facts, say_remarks, totals_line
from flawscope.config import flag_of
from flawscope.errors import InputError

# Options that do not go with --cluster, with the reason
UNSUPPORTED_ON_CLUSTER = {
    "json": "the rows are in the Parquet files below --out",
    "only_anomalous": "nothing is printed or drawn for a picture",
    "maps": "no maps are written",
    "labels": "no labels are written",
    "product": "it takes a model of one product",
    "false_discovery_rate": "it prints no totals of p-values",
    "scale_mm": "its rows have no sizes",
    "tolerances": "its rows have no kinds and sizes",
    "decimal_comma": "its tables are Parquet files",
}


def check_options(args: argparse.Namespace) -> None:
    """Raise an InputError for options that do not go with `--cluster`."""
    if args.cluster is None:
        return
    for name, reason in UNSUPPORTED_ON_CLUSTER.items():
        if getattr(args, name):
            raise InputError(f"{flag_of(name)} is not for --cluster, {reason}: leave it out")
    if not args.out:
        raise InputError("--cluster needs --out, a folder that all nodes reach: add it")
    if args.out.lower().endswith((".csv", ".xlsx", *common.NO_FOLDERS)):
        raise InputError(
            f"--out {args.out}: with --cluster the results are a folder of Parquet files: name a folder"
        )


def predict_on_cluster(args: argparse.Namespace) -> int:
    """Judge pictures on a cluster, write the summary, and print the totals but no lines on single pictures.

    Returns:
        The exit code.
    """
    from flawscope.cluster.listing import FileStore
    from flawscope.cluster.predict import predict
    from flawscope.pictures.listing import reason_not_judged
    from flawscope.predictor import read_manifest
    from flawscope.results.run import SUMMARY_NAME

    start = time.monotonic()
    results = predict(
        args.model,
        read_manifest(args.model),
        args.pictures,
        where=args.cluster,
        out=args.out,
        false_alarm_rate=args.false_alarm_rate,
        engine=args.engine,
        device=args.device,
        threads=args.threads or 1,
        stdin=sys.stdin.buffer,
        step=common.progress_for(args),
        say=common.say_unless_quiet(args),
    )
    manifest_by_product = {"": results.manifest}  # the single product has the name ""
    facts = run_facts(args, manifest_by_product, results.totals, unjudged_count=len(results.unjudged))
    facts |= {"complete": True, "unwritten": {}}
    named_files = results.side_files[:]  # a slice of a `TruncatedList` has only the files that it names
    facts["not_judged"] = {path: reason_not_judged(path) for path in named_files}
    facts["seconds"] = round(time.monotonic() - start, 3)
    FileStore(args.out).write(SUMMARY_NAME, f"{json.dumps(facts, indent=1, allow_nan=False)}\n".encode())
    if not args.quiet:
        common.say(f"results in {args.out}: a row for every input in parts, a summary in {SUMMARY_NAME}")
        if results.totals.count:
            common.say(totals_line(results.totals, results.manifest.calibration))
            if line := results.totals.beyond_line():
                common.say(line)
        say_remarks(results.side_files, results.totals)
    code = common.report_failures(results.unjudged)
    unnamed_count = len(results.unjudged) - len(results.unjudged.first)
    if unnamed_count:
        common.say(f"{unnamed_count:,} of them are not named here: see the column error of the rows")
    return fail_on_anomaly(code, results.totals) if args.fail_on_anomaly else code
