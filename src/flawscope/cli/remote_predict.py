"""Runs `predict` elsewhere: on a Ray cluster, or by a running station, which remembers the pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flawscope.cli import common
from flawscope.cli.output import Output, PictureInputs, run_facts, say_remarks, totals_line
from flawscope.errors import InputError, pluralize
from flawscope.progress import ignore_progress

# Options that do not go with --cluster, and why
UNSUPPORTED_ON_CLUSTER = {
    "json": "the rows are in the Parquet files below --out",
    "only_anomalous": "nothing is printed for a picture, and --overlays draws the anomalous ones only",
    "maps": "no maps are written",
    "labels": "no labels are written",
    "server": "the nodes judge by themselves",
    "product": "it takes a model of one product",
    "scale_mm": "its rows have no sizes",
    "tolerances": "its rows have no kinds and sizes",
}
STATION_SETTINGS = (
    "false_alarm_rate",
    "engine",
    "device",
    "threads",
    "scale_mm",
    "tolerances",
)  # not options with --server


class _ServerAction(argparse.Action):
    """Action of `--server`: the station has the model, so the argument MODEL is a picture too."""

    def __call__(
        self, parser: argparse.ArgumentParser, args: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        setattr(args, self.dest, value)
        for action in parser._actions:
            if action.dest == "pictures":  # the first one stands where the model would
                action.required = False
            elif action.dest == "model":
                action.metavar = "PICTURE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", metavar="URL", action=_ServerAction, help="a running station judges, instead of MODEL"
    )
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="of the station, if it has several; of a joint model, what all pictures show (default: it is "
        "recognised in each)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the station's token (default: $FLAWSCOPE_TOKEN, if it is set)",
    )
    common.add_cluster(parser)
    parser.add_argument(
        "--overlays",
        action="store_true",
        help="with --cluster: overlays of anomalous pictures, too; else --out DIR has them anyway",
    )


def check_options(args: argparse.Namespace) -> None:
    """Raises an InputError for options that do not go with `--server`, with `--cluster`, or without them."""
    if args.labels and args.server is not None:
        raise InputError("--labels is not for --server, which writes a table alone: leave it out")
    if args.labels and args.cluster is None and (not args.out or common.is_table(args.out)):
        raise InputError("--labels needs a folder for its files: add --out DIR")
    if args.server is None:
        if args.token_file:
            raise InputError("--token-file is for --server: leave it out")
    else:
        for name in STATION_SETTINGS:
            if getattr(args, name) not in (None, "auto"):
                raise InputError(f"{_option(name)} is the station's own with --server: leave it out")
        if args.out and not common.is_table(args.out):
            raise InputError(
                f"--out {args.out}: with --server only a table is written, FILE.csv; the station keeps "
                "the rest"
            )
    if args.cluster is None:
        if args.overlays:
            raise InputError("--overlays is for --cluster: leave it out, --out DIR holds overlays anyway")
        return
    for name, instead in UNSUPPORTED_ON_CLUSTER.items():
        if getattr(args, name):
            raise InputError(f"{_option(name)} is not for --cluster, {instead}: leave it out")
    if not args.out:
        raise InputError("--cluster needs --out, a folder or URL that all nodes reach: add it")
    if args.out.lower().endswith((".csv", ".parquet")):
        raise InputError(
            f"--out {args.out}: with --cluster the results are a folder of Parquet files: name a folder"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# ----------------------------------------------------------------------------------------------- on a cluster


def predict_on_cluster(args: argparse.Namespace) -> int:
    """Predicts on a cluster; prints no line for every picture."""
    from flawscope.cluster.listing import FileStore
    from flawscope.cluster.predict import predict
    from flawscope.results.run import SUMMARY_NAME

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
        step=common.progress_for(args),
        say=common.say_unless_quiet(args),
    )
    told = run_facts(args, {"": found.manifest}, found.totals, len(found.unjudged))
    unwritten = {"overlay": len(found.undrawn)} if found.undrawn else {}
    told |= {"complete": not unwritten, "unwritten": unwritten}
    told["seconds"] = round(time.monotonic() - began, 3)
    FileStore(args.out).write(SUMMARY_NAME, f"{json.dumps(told, indent=1, allow_nan=False)}\n".encode())
    if not args.quiet:
        common.say(f"results in {args.out}: a row for every input in parts, a summary in {SUMMARY_NAME}")
        if found.totals.count:
            common.say(totals_line(found.totals, found.manifest.calibration))
        say_remarks(found.multi_picture_files, found.side_files, found.totals)
    code = common.report_failures(found.unjudged)
    if more := len(found.unjudged) - len(found.unjudged.first):
        common.say(f"{more:,} of them are not named here: see the column error of the rows")
    for text in found.undrawn:
        common.say(f"skipped: {text}")
    if found.undrawn:
        code = 1
    return 3 if args.fail_on_anomaly and found.totals.anomalous else code


# ---------------------------------------------------------------------------------------------- by a station


def predict_on_server(args: argparse.Namespace, inputs: PictureInputs, judge: Callable[..., None]) -> int:
    """Predicts by a station. judge: the loop of `predict` over the pictures."""
    from flawscope.results.prediction import MismatchDetector

    open_model = common.load_entry_point("flawscope.servers", "station", "--server")
    with open_model(args.server, _read_token(args), args.product) as model:
        paths = [path for path in inputs.sources if isinstance(path, Path)] if inputs.total else None
        output = Output(args, None, inputs=paths)
        totals = MismatchDetector(model.rate)
        try:
            step = common.progress_for(args) if inputs.total else ignore_progress
            judge(inputs, model.stream, output, totals, step)
        except KeyboardInterrupt:
            done = pluralize(totals.count + len(output.failures), "input")
            raise KeyboardInterrupt(f"interrupted after {done}; the station keeps them") from None
        finally:
            output.finish({"complete": True})
    if not args.quiet:
        if not args.json and totals.count:
            common.say(f"{totals.anomalous} of {pluralize(totals.count, 'picture')} anomalous")
        say_remarks(inputs.multi_picture_files, inputs.side_files, totals)
    code = output.exit_code
    return 3 if args.fail_on_anomaly and totals.anomalous else code


def _read_token(args: argparse.Namespace) -> str | None:
    if not args.token_file:
        return None
    try:
        return Path(args.token_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot read --token-file {args.token_file}: {why}; check the path") from None
