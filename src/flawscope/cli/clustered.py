"""`predict --cluster`: the pictures are judged by the nodes of a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from flawscope.cli import common
from flawscope.cli.inputs import on_files
from flawscope.errors import InputError

if TYPE_CHECKING:
    from flawscope.cluster.manifest import Some

# Of the plain command, and where the same is found
NOT_THERE = {
    "json": "the rows are in the Parquet files below --out",
    "only_anomalous": "nothing is printed for a picture, and --overlays draws the anomalous ones only",
    "maps": "no maps are written",
    "animation": "no contact sheet is made",
    "server": "the nodes judge by themselves",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overlays",
        action="store_true",
        help="with --cluster: overlays of anomalous pictures, too; else --out DIR has them anyway",
    )


def check(args: argparse.Namespace) -> None:
    """InputError for options that mean nothing with, or without, a cluster."""
    if args.cluster is None:
        if args.overlays:
            raise InputError("--overlays is for --cluster: leave it out, --out DIR holds overlays anyway")
        return
    for name, instead in NOT_THERE.items():
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is not for --cluster, {instead}: leave it out")
    if not args.out:
        raise InputError("--cluster needs --out, a folder or URL that all nodes reach: add it")
    if args.out.lower().endswith((".csv", ".parquet")):
        raise InputError(
            f"--out {args.out}: with --cluster the results are a folder of Parquet files: name a folder"
        )


def run(args: argparse.Namespace) -> int:
    """Judge the pictures as `predict` does, without a line for every picture."""
    from flawscope.cli.output import all_together, facts_of
    from flawscope.cluster.predict import predict
    from flawscope.cluster.store import Store
    from flawscope.results.run import FACTS

    began = time.monotonic()
    found = predict(
        args.model,
        args.pictures,
        where=args.cluster,
        out=args.out,
        false_alarm_rate=args.false_alarm_rate,
        engine=args.engine,
        device=args.device,
        threads=args.threads or 1,
        overlays=args.overlays,
        stdin=sys.stdin.buffer,
        step=common.step_for(args),
        say=common.say_for(args),
    )
    summary = found.summary
    told = facts_of(args, found.manifest, found.calibration, found.together, summary.unjudged.count)
    told |= {"complete": True, "seconds": round(time.monotonic() - began, 3)}
    Store(args.out).write(FACTS, f"{json.dumps(told, indent=1, allow_nan=False)}\n".encode())
    if not args.quiet:
        common.say(f"results in {args.out}: a row for every input in parts, a summary in {FACTS}")
        if summary.judged:
            common.say(all_together(found.together, found.calibration))
        for line in on_files(_Named(summary.several), _Named(found.beside)):
            common.say(line)
        if line := found.together.line():
            common.say(f"warning: {line}")
    code = common.report_failures(_Named(summary.unjudged))
    if more := summary.unjudged.count - len(summary.unjudged.first):
        common.say(f"{more:,} of them are not named here: see the column error of the rows")
    for text in summary.undrawn.first:
        common.say(f"skipped: {text}")
    if summary.undrawn.count:
        code = 1
    return 3 if args.fail_on_anomaly and summary.anomalous else code


class _Named(Sequence[str]):
    """The first of many, with the length of all: remarks need no more."""

    def __init__(self, some: Some):
        self.some = some

    def __len__(self) -> int:
        return self.some.count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.some.first[index]
