"""Score pictures: a file, a folder, a pattern, several of them, or - for a list of paths on stdin."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from flawscope.cli import common


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
    from flawscope.results.folder import Pictures

    out = common.folder_for_pictures(args)
    paths = _paths(args.pictures)
    predictor = load(
        args.model, device=args.device, threads=args.threads, false_alarm_rate=args.false_alarm_rate
    )
    pictures = Pictures(out, maps=args.maps or "png16", animation=args.animation or "none") if out else None
    step = common.step_for(args)
    total = len(paths) if isinstance(paths, list) else 0
    failures: list[str] = []
    anomalous = count = 0
    for _, result in predictor.stream(paths, batch=None if total else 1):
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        count += 1
        anomalous += result.is_anomalous
        if args.json:
            print(json.dumps(result.to_dict(), allow_nan=False), flush=total == 0)
        else:
            verdict = "anomalous" if result.is_anomalous else "good"
            line = f"{verdict:<10} score {result.score:<9.4g} p {result.p_value:.3f}  {result.path}"
            print(line, flush=total == 0)
        if pictures:
            pictures.add(Path(str(result.path)), result)
        if total and (args.json or out) and not sys.stdout.isatty():
            step("prediction", count + len(failures), total)
    if pictures and (sheet := pictures.finish("predictions")) and not args.quiet:
        common.say(f"pictures in {out}, an overview in {sheet.name}")
    if not args.quiet and not args.json:
        common.say(f"{anomalous} of {count} pictures anomalous; {predictor.calibration.promise()}")
    code = common.report_failures(failures)
    if code == 0 and args.fail_on_anomaly and anomalous:
        return 3
    return code


def _paths(specs: list[str]) -> list[Path] | Iterator[Path]:
    from flawscope.datasets import list_pictures

    if specs == ["-"]:
        return (Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
    return list_pictures(specs)
