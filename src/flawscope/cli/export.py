"""Write a model as one .onnx file that needs no torch, and prove that it answers as before."""

from __future__ import annotations

import argparse

from flawscope.cli import common

MOST = 32  # pictures that are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file, .safetensors")
    parser.add_argument("--out", required=True, metavar="FILE", help="model file to write, .onnx")
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help=f"pictures to compare on, at most {MOST} are used (default: the samples in the model)",
    )
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope import artefact as artefacts
    from flawscope.errors import InputError
    from flawscope.runtime import is_onnx

    out = artefacts.check_writable(args.out, ".onnx")
    if is_onnx(args.model):
        raise InputError(f"{args.model} is an .onnx model already: name the .safetensors model it came from")
    artefact = artefacts.read(args.model)
    samples = None
    if args.pictures:
        import numpy as np

        from flawscope.datasets import list_pictures

        preprocess = artefact.manifest.preprocess
        samples = np.concatenate([preprocess(p)[0] for p in list_pictures(args.pictures)[:MOST]])
    try:
        from flawscope.export import export
    except ImportError:
        raise InputError("export needs torch: pip install 'flawscope[train,export]'") from None

    certificate = export(artefact, out, samples=samples)
    print(certificate.line())
    if not args.quiet:
        common.say(f"wrote {out}")
    return 0
