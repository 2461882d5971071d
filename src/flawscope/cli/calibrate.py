"""New thresholds from new good pictures: the camera or the light has changed. The network stays as it is."""

from __future__ import annotations

import argparse

from flawscope.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument(
        "--good", required=True, metavar="FOLDER", help="good pictures the model has not seen"
    )
    parser.add_argument(
        "--out", required=True, metavar="MODEL2", help="model file to write, of the same kind"
    )
    common.add_rate(parser, "the model's")
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.artefact import files
    from flawscope.datasets import list_pictures
    from flawscope.datasets.layouts import of_review
    from flawscope.errors import InputError
    from flawscope.predictor import read_manifest
    from flawscope.runtime import suffix_of

    step = common.step_for(args)
    out = files.check_writable(args.out, suffix_of(args.model))
    if of_review(args.good):
        raise InputError(
            f"{args.good} holds pictures that were flagged, which would set the threshold far too high: give "
            "good pictures as they come"
        )
    pictures = list_pictures(args.good)
    before = read_manifest(args.model).calibration  # `load_model` sets the rate that is asked for
    predictor = common.load_model(args, args.model)
    new = predictor.calibrate(pictures, step=step)
    new.save(out)
    if not args.quiet:
        common.say(f"before: {before.promise()}")
        common.say(f"now:    {new.calibration.promise()}")
        for note in new.manifest.notes[len(predictor.manifest.notes) :]:
            common.say(note)
        common.say(f"wrote {out}")
    return common.report_failures(new.failures)
