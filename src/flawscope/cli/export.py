"""Write a fitted model for ONNX Runtime or OpenVINO, which run it without torch, and prove that it answers as
before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flawscope.cli import common

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file, .safetensors")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="model file to write, .onnx, or .xml for OpenVINO"
    )
    parser.add_argument("--format", choices=list(FORMATS), help="default: by the name of FILE")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16", "fp16", "int8"],
        help="of the features; bf16 for OpenVINO alone (default: fp32)",
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help="good pictures to compare on (default: the samples in the model), and to calibrate on for a "
        "precision other than fp32; the training pictures will do",
    )
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.artefact import files
    from flawscope.datasets import list_pictures
    from flawscope.errors import InputError, require_installed
    from flawscope.predictor import read_manifest, trained

    suffix = Path(args.out).suffix.lower()
    if args.format and suffix != FORMATS[args.format]:
        raise InputError(f"--out {args.out} does not fit {args.format}: name it {FORMATS[args.format]}")
    out = files.check_writable(args.out)
    step = common.step_for(args)
    artefact = trained(args.model)
    pictures = list_pictures(args.pictures) if args.pictures else []
    require_installed("export", "torch", extras="train,export")
    from flawscope.export.export import export

    failures: list[str] = []
    certificate = export(
        *(artefact, out),
        precision=args.precision,
        pictures=pictures,
        failures=failures,
        step=step,
    )
    common.show(certificate.line())
    if not args.quiet:
        common.say(f"wrote {out}" + (f" and {out.with_suffix('.bin').name}" if suffix == ".xml" else ""))
        if args.precision != "fp32":
            common.say(read_manifest(out).calibration.promise())
    return common.report_failures(failures)
