"""Score pictures: a file, a folder, a pattern, several of them, or - for a list of paths on stdin."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common

if TYPE_CHECKING:
    from flawscope.results.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE|FOLDER|GLOB|-", help="what to score; - reads paths from stdin"
    )
    common.add_rate(parser, "the model's")
    parser.add_argument("--json", action="store_true", help="one JSON line a picture")
    parser.add_argument("--out", metavar="DIR", help="write overlays, maps, masks and a contact sheet")
    common.add_pictures(parser, animation="none")
    parser.add_argument(
        "--fail-on-anomaly", action="store_true", help="exit with 3 if any picture is anomalous"
    )
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.errors import InputError
    from flawscope.predictor import load
    from flawscope.results.folder import Pictures, folder_of
    from flawscope.results.mismatch import Mismatch

    out = common.folder_for_pictures(args)
    failures: list[str] = []
    paths = _paths(args.pictures, failures)
    predictor = load(
        args.model, device=args.device, threads=args.threads, false_alarm_rate=args.false_alarm_rate
    )
    pictures = None
    if out:
        root = folder_of(paths) if isinstance(paths, list) else None
        pictures = Pictures(out, root, args.maps or "png16", args.animation or "none")
    step = common.step_for(args)
    total = len(paths) if isinstance(paths, list) else 0
    together = Mismatch(predictor.calibration.expected_rate)
    for done, (_, result) in enumerate(predictor.stream(paths, batch=None if total else 1), start=1):
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        together.add(result)
        if args.json:
            print(json.dumps(result.to_dict(), allow_nan=False), flush=total == 0)
        else:
            print(_line(result), flush=total == 0)
        if pictures:
            pictures.add(Path(str(result.path)), result)
        if total and (args.json or out) and not sys.stdout.isatty():
            step("prediction", done, total)
    if pictures and (sheet := pictures.finish("predictions")) and not args.quiet:
        common.say(f"pictures in {out}, an overview in {sheet.name}")
    if not args.quiet and not args.json:
        promise = predictor.calibration.promise()
        common.say(f"{together.anomalous} of {together.count} pictures anomalous; {promise}")
    if not args.quiet and (line := together.line()):
        common.say(f"warning: {line}")
    code = common.report_failures([*failures, *(pictures.failures if pictures else ())])
    if code == 0 and args.fail_on_anomaly and together.anomalous:
        return 3
    return code


def _line(found: Prediction) -> str:
    """One picture for a person; columns aligned."""
    verdict = "anomalous" if found.is_anomalous else "good"
    return (
        f"{verdict:<10} severity {found.severity:<+7.1f} score {found.score:<9.4g} p {found.p_value:.3f}  "
        f"{found.path}"
    )


def _paths(specs: list[str], failures: list[str]) -> list[Path] | Iterator[Path]:
    """The pictures that are meant; what is wrong with single specs goes to `failures`. InputError if that
    leaves none."""
    from flawscope.datasets import list_pictures
    from flawscope.errors import InputError

    if specs == ["-"]:
        return (Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
    found: list[Path] = []
    for spec in specs:
        try:
            found += list_pictures(spec)
        except InputError as error:
            failures.append(str(error))
    if not found:
        raise InputError(failures[0])
    return list(dict.fromkeys(found))
