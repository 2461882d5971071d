"""Commands on a model file, each a function of its name: `info`, `calibrate`, `export`; and `backbones`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flawscope.artefact import files
from flawscope.cli import common
from flawscope.errors import InputError, pluralize, require_installed

if TYPE_CHECKING:
    from flawscope.artefact.joint_file import JointArtefact
    from flawscope.artefact.model_file import Manifest
    from flawscope.pictures.decoding import PictureSource


def info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument("--self-test", action="store_true", help="run the stored samples on this machine")
    parser.add_argument("--json", action="store_true", help="print the whole manifest")
    common.add_engine(parser)


def info(args: argparse.Namespace) -> int:
    """Tell what a model is: method, settings, threshold, where its weights and pictures came from."""
    from flawscope.artefact import joint_file
    from flawscope.predictor import read_manifest

    if joint_file.is_joint(args.model):
        _show_joint(args)
    else:
        manifest = read_manifest(args.model)
        print(common.as_json(manifest.to_dict()) if args.json else "\n".join(manifest_lines(manifest)))
    if not args.self_test:
        return 0
    from flawscope.predictor import Predictor
    from flawscope.predictor.joint import load

    model = load(args.model, engine=args.engine, device=args.device, threads=args.threads)
    results = {"": model.self_test()} if isinstance(model, Predictor) else model.self_test()
    for name, result in results.items():
        of = f"{name}: " if name else ""
        common.say(f"{of}self-test {'passed' if result.passed else 'FAILED'}: {result.describe()}")
    return 0 if all(result.passed for result in results.values()) else 1


def _show_joint(args: argparse.Namespace) -> None:
    """Tells what a joint model is, product by product."""
    from flawscope.artefact import joint_file
    from flawscope.predictor.parts import part_calibration

    manifests, views = joint_file.read_manifests(args.model), joint_file.read_views(args.model)
    if args.json:
        document: dict[str, Any] = {"products": {name: one.to_dict() for name, one in manifests.items()}}
        print(common.as_json(document if views is None else {**document, "views": asdict(views)}))
    else:
        of = pluralize(len(manifests), "product" if views is None else "view")
        print(f"joint model of {of}: {', '.join(manifests)}")
        if views is not None:
            print(part_calibration(manifests, views).promise())
        for name, manifest in manifests.items():
            print(f"\n{name}\n" + "\n".join(f"  {line}" for line in manifest_lines(manifest)))


def manifest_lines(manifest: Manifest) -> list[str]:
    from flawscope.report.words import model_facts

    rows = [
        *model_facts(manifest),
        *[("exported", line) for line in certificate_lines(manifest.facts)],
        *[("note", note) for note in manifest.notes],
        *[(f"test {k}", f"{v:.4f}") for k, v in manifest.metrics.items() if isinstance(v, float)],
        ("samples", f"{len(manifest.samples)} for --self-test"),
        ("format", str(manifest.format)),
    ]
    pad = max(len(k) for k, _ in rows) + 2
    return [f"{k:<{pad}}{v}" for k, v in rows]


def certificate_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines on the model's certificates, by engine."""
    from flawscope.artefact.certificate import certificates_from_facts

    try:
        return [certificate.describe() for certificate in certificates_from_facts(facts)]
    except (KeyError, TypeError, ValueError, OverflowError):
        return ["its certificate is damaged"]


def calibrate_arguments(parser: argparse.ArgumentParser) -> None:
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


def calibrate(args: argparse.Namespace) -> int:
    """Make new thresholds from new good pictures: the camera or the light has changed. The network stays."""
    from flawscope.datasets import list_pictures
    from flawscope.datasets.layouts import is_review
    from flawscope.predictor import read_manifest

    step = common.progress_for(args)
    out = files.check_writable(args.out, files.suffix_of(args.model))
    if is_review(args.good):
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


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model file, .safetensors")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="model file to write, .onnx, or of a joint model .safetensors",
    )
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
        "precision other than fp32; the training pictures will do. Of a joint model the data root, or a "
        "folder with pictures of all products",
    )
    common.add_quiet(parser)


def export(args: argparse.Namespace) -> int:
    """Write a fitted model for ONNX Runtime and OpenVINO, which need no torch, and prove that it answers as
    before."""
    from flawscope.artefact import joint_file
    from flawscope.datasets import list_pictures
    from flawscope.predictor import fitted_artefact, read_manifest

    out = files.check_writable(args.out)
    failures: list[str] = []
    options: dict[str, Any] = {"precision": args.precision, "failures": failures}
    if joint_file.is_joint(args.model):
        joint = joint_file.read(args.model)
        require_installed("export", "torch", extras="train,export")
        from flawscope.export.joint_export import export_joint

        good = _good_pictures(args, joint)
        export_joint(joint, out, pictures=good, step=common.progress_for(args), **options)
        _say_exported(args, joint_file.read_manifests(out))
        return common.report_failures(failures)
    artefact = fitted_artefact(args.model)
    pictures = list_pictures(args.pictures) if args.pictures else []
    require_installed("export", "torch", extras="train,export")
    from flawscope.export import export as exporting

    exporting.export(artefact, out, pictures=pictures, step=common.progress_for(args), **options)
    _say_exported(args, {"": read_manifest(out)})
    return common.report_failures(failures)


def _good_pictures(args: argparse.Namespace, joint: JointArtefact) -> dict[str, list[PictureSource]]:
    """Pictures of --pictures by product: of the products' folders, as in `fit`, else as recognised."""
    from flawscope.datasets import find_categories, list_pictures, open_dataset
    from flawscope.predictor.joint import load as load_joint
    from flawscope.results.prediction import Prediction

    of: dict[str, list[PictureSource]] = {name: [] for name in joint.products}
    if not args.pictures:
        return of
    if of.keys() <= {*find_categories(args.pictures)}:
        return {name: [item.path for item in open_dataset(args.pictures, name).train] for name in of}
    for source, found in load_joint(args.model).stream(list_pictures(args.pictures)):
        if not isinstance(found, Prediction):
            continue
        shown = found.product if joint.views is None else joint.views.parse(str(found.path)).view
        if shown:
            of[shown].append(source)
    return of


def _say_exported(args: argparse.Namespace, manifests: Mapping[str, Manifest]) -> None:
    """Prints the certificates of a model, or of each product of a joint one."""
    from flawscope.artefact.certificate import certificates_from_facts

    say, engines = common.say_unless_quiet(args), ""
    for name, manifest in manifests.items():
        for certificate in certificates_from_facts(manifest.facts):
            common.show(f"{name}: {certificate.describe()}" if name else certificate.describe())
            engines += certificate.runtime
    if "openvino" not in engines:
        say("OpenVINO is not installed here: not compared with it")
    say(f"wrote {args.out}")
    for name, manifest in manifests.items():
        if manifest.calibration.precision != "fp32":
            promise = manifest.calibration.promise()
            say(f"{name}: {promise}" if name else promise)


def backbones_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_json(parser)


def backbones(args: argparse.Namespace) -> int:
    """List the feature extractors whose weights are on this machine, and how to get the others."""
    from flawscope.methods.features.weights import DEFAULT_BACKBONE, PACKAGED, cached_models

    rows = []
    for name, packaged in PACKAGED.items():
        at_hand = packaged.find() is not None
        rows.append((name, "yes" if at_hand else "no", packaged.licence, packaged.install))
    rows += [(name, "yes", "see the model's page", "in the local hub cache") for name in cached_models()]
    if args.json:
        keys = ("name", "at_hand", "licence", "from")
        print(
            json.dumps(
                [{**dict(zip(keys, r, strict=True)), "at_hand": r[1] == "yes"} for r in rows], indent=1
            )
        )
        return 0
    print(common.format_table(rows, ("backbone", "at hand", "licence", "from")))
    print(f"\nThe default is {DEFAULT_BACKBONE}. Any other timm model works with --backbone NAME:")
    print(
        "its weights are downloaded once, or given with --weights FILE (safetensors or a torch checkpoint)."
    )
    return 0
