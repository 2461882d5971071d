"""Write a fitted model for ONNX Runtime and OpenVINO, which run it without torch, and prove that it answers
as before.
"""

from __future__ import annotations

import argparse

from flawscope.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file, .safetensors")
    parser.add_argument("--out", required=True, metavar="FILE", help="model file to write, .onnx")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16", "int8"],
        help="of the features; bf16 is OpenVINO's alone (default: fp32)",
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
    from flawscope.artefact.certificate import of_facts
    from flawscope.datasets import list_pictures
    from flawscope.errors import require_installed
    from flawscope.predictor import read_manifest, trained

    out = files.check_writable(args.out)
    step = common.step_for(args)
    artefact = trained(args.model)
    pictures = list_pictures(args.pictures) if args.pictures else []
    require_installed("export", "torch", extras="train,export")
    from flawscope.export.export import export

    failures: list[str] = []
    export(artefact, out, precision=args.precision, pictures=pictures, failures=failures, step=step)
    manifest = read_manifest(out)
    certificates = of_facts(manifest.facts)
    for certificate in certificates:
        common.show(certificate.line())
    if not args.quiet:
        if not any("openvino" in certificate.runtime for certificate in certificates):
            common.say("OpenVINO is not installed here: not compared with it")
        common.say(f"wrote {out}")
        if args.precision != "fp32":
            common.say(manifest.calibration.promise())
    return common.report_failures(failures)
