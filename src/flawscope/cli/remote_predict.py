"""Runs `predict` elsewhere: on a Ray cluster, or by a running station, which remembers the pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flawscope.cli import common
from flawscope.cli.output import Output, PictureInputs, run_facts, say_remarks, totals_line
from flawscope.errors import InputError, pluralize
from flawscope.progress import ignore_progress

if TYPE_CHECKING:
    from flawscope.pictures.decoding import PictureSource
    from flawscope.results.prediction import Prediction
    from flawscope.station import Client
    from flawscope.station.store.inspection import Inspection

# Options that do not go with --cluster, and why
UNSUPPORTED_ON_CLUSTER = {
    "json": "the rows are in the Parquet files below --out",
    "only_anomalous": "nothing is printed for a picture, and --overlays draws the anomalous ones only",
    "maps": "no maps are written",
    "animation": "no contact sheet is made",
    "server": "the nodes judge by themselves",
}
MAX_CONCURRENCY = 4  # pictures sent to a station at a time
STATION_SETTINGS = ("false_alarm_rate", "engine", "device", "threads")  # not options with --server


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
    from flawscope.artefact import joint_file

    if args.server is None:
        if args.token_file:
            raise InputError("--token-file is for --server: leave it out")
        if args.product and not (os.path.isfile(args.model) and joint_file.is_joint(args.model)):
            raise InputError("--product is for --server and for joint models: leave it out")
    else:
        for name in STATION_SETTINGS:
            if getattr(args, name) not in (None, "auto"):
                raise InputError(f"{_option(name)} is the station's own with --server: leave it out")
        if args.out and not common.is_table(args.out):
            raise InputError(
                f"--out {args.out}: with --server only a table is written, FILE.csv or FILE.parquet; the "
                "station keeps the rest"
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
    told = run_facts(args, found.manifest, found.manifest.calibration, found.totals, len(found.unjudged))
    told |= {"complete": True, "seconds": round(time.monotonic() - began, 3)}
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


def predict_on_station(args: argparse.Namespace, inputs: PictureInputs, judge: Callable[..., None]) -> int:
    """Predicts by a station. judge: the loop of `predict` over the pictures."""
    from flawscope.results.prediction import MismatchDetector
    from flawscope.station import Client

    with Client(args.server, token=_read_token(args)) as client:
        address, rate = _find_product(client, args.product)
        output = Output(args, None, flush_each=not inputs.total)
        totals = MismatchDetector(rate)
        try:
            step = common.progress_for(args) if inputs.total else ignore_progress
            judge(inputs, StationModel(client, address, MAX_CONCURRENCY).stream, output, totals, step)
        except KeyboardInterrupt:
            done = pluralize(totals.count + len(output.failures), "input")
            raise KeyboardInterrupt(f"interrupted after {done}; the station keeps them") from None
        finally:
            output.finish({})
    if not args.quiet:
        if not args.json and totals.count:
            common.say(f"{totals.anomalous} of {pluralize(totals.count, 'picture')} anomalous")
        say_remarks(inputs.multi_picture_files, inputs.side_files, totals)
    code = output.exit_code
    return 3 if args.fail_on_anomaly and totals.anomalous else code


def _find_product(client: Client, name: str | None) -> tuple[str, float]:
    """Returns the name of the product, or of the joint model that finds it, and the largest target rate."""
    known = [one for one in client.products() if name in (None, one.name, one.found_at)]
    addresses = {name or one.found_at or one.name for one in known}
    if len(addresses) != 1:
        known = [client.product(name)]  # says which there are
        addresses = {known[0].name}
    return addresses.pop(), max(one.false_alarm_rate or 0.0 for one in known)


@dataclass(frozen=True)
class StationModel:
    """Stands in for a model in `predict`: a station judges the pictures."""

    client: Client
    product: str
    max_concurrency: int

    def stream(
        self, pictures: Iterable[PictureSource], *, batch: int | None = None
    ) -> Iterator[tuple[PictureSource, Prediction | InputError]]:
        """Yields each picture with the station's answer. batch: 1 where the next one waits for it."""
        workers = self.max_concurrency if batch is None else batch
        for source, found in self.client.inspect_many(pictures, self.product, workers):
            if isinstance(found, InputError):
                yield source, found
            else:  # it has everything that is printed and tabulated
                yield source, cast("Prediction", StationPrediction(found))


@dataclass(frozen=True)
class StationPrediction:
    """Wraps an inspection as a prediction, for printing; the fields are those that an inspection lacks."""

    inspection: Inspection
    path: str | None = None
    shifts: Sequence[float] = ()
    outside_light: bool | None = None
    part_p_value: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inspection, name)

    @property
    def product_name(self) -> str:
        """The product where it was recognised, or "none of these"; empty where it was asked for."""
        return self.shows or ""

    @property
    def remark(self) -> str:
        if self.found_parts is not None:
            return str(self.found_parts.remark)
        return "part not found" if self.part_found is False else ""

    def to_dict(self) -> dict[str, Any]:
        """The record that `predict --json` prints."""
        return {
            **{name: getattr(self, name) for name in ("path", "score", "p_value", "severity", "decision")},
            **{name: getattr(self, name) for name in ("is_anomalous", "score_threshold")},
            "regions": [region.to_dict() for region in self.regions],
            **{name: getattr(self, name) for name in ("id", "product", "version")},
            **({"shows": self.shows, "product_p_value": self.product_p_value} if self.shows else {}),
            **({} if self.part_found is None else self._part()),
        }

    def _part(self) -> dict[str, Any]:
        if self.found_parts is not None:
            return {"part_found": self.part_found, "found_parts": self.found_parts.to_dict()}
        pose = None if self.part_pose is None else self.part_pose.to_dict()
        return {"part_found": self.part_found, "part_pose": pose}


def _read_token(args: argparse.Namespace) -> str | None:
    if not args.token_file:
        return None
    try:
        return Path(args.token_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot read --token-file {args.token_file}: {why}; check the path") from None
