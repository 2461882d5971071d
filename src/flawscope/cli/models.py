"""Commands on a model file, each a function of its name: `info`, `calibrate`, `export`; and `backbones`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flawscope.artefact import files
from flawscope.cli import common, questions
from flawscope.errors import InputError, pluralize, require_installed
from flawscope.pictures.listing import relative_names

if TYPE_CHECKING:
    from flawscope.artefact.model_facts import ModelFacts
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.parts import KnownParts
    from flawscope.pictures.decoding import PictureSource
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.progress import Plan
    from flawscope.types import Json


# Facts of a model that `info` says first (`pages.report.words.model_facts`)
MAIN_FACTS = ("method", "decision", "simulated defects found")
SHORTEST_GAP = 2  # spaces between the titles and values of `info`


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope info` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file.")
    parser.add_argument("--verbose", action="store_true", help="Print all that the model file holds.")
    parser.add_argument("--self-test", action="store_true", help="Run the stored samples on this machine.")
    parser.add_argument("--json", action="store_true", help="Print the whole manifest.")
    common.add_engine(parser)


def info(args: argparse.Namespace) -> int:
    """Print the facts of a model: method, settings, threshold, origin of its weights and pictures."""
    from flawscope.predictor.router import read_facts

    facts = read_facts(args.model)
    if args.json:
        print(common.as_json(_facts_document(facts)))
    else:
        print("\n".join(_facts_lines(facts, args.verbose)))
        if not args.verbose:
            print("--verbose says the rest: network and licence, settings, pictures, notes, times, versions")
    if not args.self_test:
        return 0
    from flawscope.artefact.certificate import Certificate
    from flawscope.predictor.router import load

    model = load(args.model, engine=args.engine, device=args.device, threads=args.threads)
    result = model.self_test()
    # the model of a single product has one certificate, here under the name ""
    certificate_by_product = {"": result} if isinstance(result, Certificate) else result
    for name, certificate in certificate_by_product.items():
        prefix = f"{name}: " if name else ""
        outcome = "passed" if certificate.passed else "FAILED"
        common.say(f"{prefix}self-test {outcome}: {certificate.describe()}")
    return 0 if all(certificate.passed for certificate in certificate_by_product.values()) else 1


def _facts_document(facts: ModelFacts) -> Json:
    """Return the document of `info --json`.

    For the model of one product, the document is its manifest. For the model of several products or views,
    it has all manifests, by name.
    """
    if not facts.kind:  # one product, under the name ""
        return facts.manifests[""].to_dict()
    document: Json = {"products": {name: manifest.to_dict() for name, manifest in facts.manifests.items()}}
    if facts.views is not None:
        document["views"] = asdict(facts.views)
    return document


def _facts_lines(facts: ModelFacts, verbose: bool) -> list[str]:
    """Return the lines of `info` on a model; for a joint model, lines on each product or view.

    Args:
        facts: Facts of the model.
        verbose: Whether to return all facts that the model file holds.
    """
    from flawscope.artefact.rates import promise_of

    if not facts.kind:  # one product, under the name ""
        return manifest_lines(facts.manifests[""], verbose=verbose)
    lines = [f"joint model of {pluralize(len(facts.manifests), facts.kind)}: {', '.join(facts.manifests)}"]
    if facts.views is not None:
        lines.append(promise_of(facts).text)
    for name, manifest in facts.manifests.items():
        parts = None if facts.views is None else facts.parts_of(name)
        product_lines = manifest_lines(manifest, parts, verbose=verbose)
        lines.append(f"\n{name}")
        lines += [f"  {line}" for line in product_lines]
    return lines


def manifest_lines(
    manifest: Manifest, parts: KnownParts | None = None, *, verbose: bool = False
) -> list[str]:
    """Return the lines of `info` on a model: product, rate, self-test, and the next steps.

    Args:
        manifest: Manifest of the model.
        parts: Good parts that the models of all views were calibrated on together; None: the model is not of
            a view.
        verbose: Whether to return all facts that the model file holds.
    """
    from flawscope.evaluation.next_steps import advise_blind
    from flawscope.pages.report.words import model_facts

    facts = model_facts(manifest, parts)
    rows = [("product", manifest.category)] if manifest.category else []
    rows += [(title, value) for title, value in facts if title in MAIN_FACTS]
    rows.append(("self-test", f"{pluralize(len(manifest.samples), 'sample')}, which --self-test runs here"))
    rows += [("exported", line) for line in certificate_lines(manifest.facts)]
    rows += [("question", line) for line in manifest.questions]
    is_of_view = parts is not None
    if not is_of_view:
        rows += [("next", advice.line()) for advice in advise_blind(manifest)]
    if verbose:
        rows += [(title, value) for title, value in facts if title not in MAIN_FACTS]
        rows += _further_rows(manifest)
    width = max(len(title) for title, _ in rows) + SHORTEST_GAP
    return [f"{title:<{width}}{value}" for title, value in rows]


def _further_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the rows of `info` with a model file's notes, unusual pictures and format."""
    from flawscope.artefact.model_file import FORMAT

    rows = [("note", note) for note in manifest.notes]
    rows += [("look at", suspect.line()) for suspect in manifest.suspects]
    return [*rows, ("format", str(FORMAT))]


def certificate_lines(facts: Mapping[str, object]) -> list[str]:
    """Return a line on each certificate of an exported model: how well an engine's answers match torch's."""
    from flawscope.artefact.certificate import certificates_from_facts

    try:
        return [certificate.describe() for certificate in certificates_from_facts(facts)]
    except (KeyError, TypeError, ValueError, OverflowError):
        return ["its certificate is damaged"]


def calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope calibrate` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file.")
    parser.add_argument(
        "--good",
        metavar="FOLDER",
        help="Good pictures that are new to the model; without them its own scores change the rate.",
    )
    parser.add_argument(
        "--out", required=True, metavar="MODEL2", help="Model file to write, of the same kind."
    )
    common.add_product(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="Use the pictures although they are too few for the model's rate, show nothing, differ as much "
        "as defects do, or lie in folders that are not named as good; after a question: accept the model "
        "that the same call wrote.",
    )
    common.add_rate(parser, "the model's")
    common.add_engine(parser)
    common.add_quiet(parser)


def calibrate(args: argparse.Namespace) -> int:
    """Make new thresholds from new good pictures, or for another false-alarm rate.

    They are needed where the camera or the light has changed. The network stays.
    """
    from flawscope.predictor.router import load

    out = files.check_writable(args.out, os.path.splitext(args.model)[1].lower())
    _check_calibration_call(args)
    call_digest = questions.digest_call(args)
    if args.force and questions.accept(out, call_digest):
        return 0
    pictures = [] if args.good is None else _list_good_pictures(args.good, args.force)
    model = load(args.model, engine=args.engine, device=args.device, threads=args.threads)
    calibrated = _calibrate_products(args, model, pictures)
    questions.save(calibrated.model, out, call_digest, args.model)
    saved_path = questions.saved_path(out, args.model)
    say = common.say_unless_quiet(args)
    for line in [*calibrated.lines, f"wrote {saved_path}"]:
        say(line)
    return common.report_failures(calibrated.failures) or questions.report(saved_path, args.model)


def _check_calibration_call(args: argparse.Namespace) -> None:
    """Raise an InputError if a call asks for nothing, or `--good` is the folder of a review."""
    from flawscope.datasets.layouts import is_review

    if args.good is None and args.false_alarm_rate is None:
        raise InputError("calibrate takes --good FOLDER with new good pictures, --false-alarm-rate, or both")
    if args.good is not None and is_review(args.good):
        raise InputError(
            f"{args.good} holds pictures that were flagged, which would set the threshold far too high: give "
            "good pictures as they come"
        )


def _list_good_pictures(folder: str, force: bool) -> list[Path]:
    """List the good pictures that a call names.

    Raises:
        InputError: `force` is not set, and names of folders or pictures do not say that all are good.
    """
    from flawscope.datasets import list_pictures
    from flawscope.datasets.own_folders import refuse_unknown

    pictures = list_pictures(folder)
    if os.path.isdir(folder) and not force:
        refuse_unknown(Path(folder), pictures, "give the folder of good ones alone, or add --force")
    return pictures


class _CalibratedModel(NamedTuple):
    """Outcome of a calibration.

    Attributes:
        model: The model with its new thresholds.
        lines: Remarks on each product.
        failures: Pictures that could not be used, a line each.
    """

    model: Predictor | Router
    lines: list[str]
    failures: list[str]


def _calibrate_products(
    args: argparse.Namespace, model: Predictor | Router, pictures: Sequence[PictureSource]
) -> _CalibratedModel:
    """Calibrate the products, or views, that a call names.

    Args:
        args: Arguments of the call.
        model: Model to calibrate.
        pictures: New good pictures; if there are none, thresholds come from the scores in the model file.
    """
    names = common.product_names(model, args)
    if args.false_alarm_rate is not None and model.views is not None and args.product is not None:
        raise InputError("the views decide together, at one false-alarm rate: leave out --product")
    pictures_by_product = _pictures_by_product(model, names, pictures)
    plan = common.CALIBRATE if len(names) == 1 else None
    has_several = len(pictures_by_product) > 1
    new_model = model
    lines = []
    failures = list[str]()
    for name in names:
        predictor = model.products[name]
        calibrated = _calibrate_product(args, predictor, pictures_by_product.get(name), plan)
        if name in pictures_by_product:
            lines += _describe_calibration(predictor, calibrated, product=name if has_several else "")
        else:  # only the rate changed
            prefix = f"{name}: " if name else ""
            lines.append(prefix + calibrated.calibration.promise())
        failures += calibrated.failures
        new_model = new_model.with_product(name, calibrated)
    # with new pictures of every view, the model also learns anew how the views look
    if pictures_by_product.keys() == model.products.keys():
        new_model = new_model.with_looks_of_views(pictures_by_product)
    return _CalibratedModel(new_model, lines, failures)


def _calibrate_product(
    args: argparse.Namespace,
    predictor: Predictor,
    pictures: Sequence[PictureSource] | None,
    plan: Plan | None,
) -> Predictor:
    """Return a product's model with the rate of the call, and with thresholds from new good pictures.

    Args:
        args: Arguments of the call; without a rate, the model keeps its own.
        predictor: Model of the product.
        pictures: New good pictures; None: there are none, and only the rate changes.
        plan: Stages for the progress.
    """
    if args.false_alarm_rate is not None:
        predictor = predictor.with_rate(args.false_alarm_rate)
    if pictures is None:
        return predictor
    step = common.progress_for(args, plan)
    return predictor.calibrate(pictures, step=step, force=args.force)


def _describe_calibration(before: Predictor, after: Predictor, product: str) -> list[str]:
    """Return lines on the false-alarm rates before and after a calibration, and the new notes.

    Args:
        before: Model before the calibration.
        after: Model after the calibration.
        product: Name of the product; empty: only one product is calibrated.
    """
    prefix = f"{product}, " if product else ""
    old_count = len(before.manifest.notes)
    new_notes = after.manifest.notes[old_count:]
    return [
        f"{prefix}before: {before.calibration.promise()}",
        f"{prefix}now:    {after.calibration.promise()}",
        *new_notes,
    ]


def _pictures_by_product(
    model: Predictor | Router, names: Sequence[str], pictures: Sequence[PictureSource]
) -> dict[str, list[PictureSource]]:
    """Sort new good pictures by the product or view that they show.

    Args:
        model: Model to calibrate.
        names: Products or views to calibrate.
        pictures: Pictures of one product, or of any views.

    Raises:
        InputError: Several products are to be calibrated, and no option says which one the pictures show; or
            no part has good pictures of all views.
    """
    if not pictures:
        return {}
    if len(names) == 1:
        (name,) = names
        pictures_by_product = {name: [*pictures]}
    elif model.views is not None:
        pictures_by_product = model.sort_by_view(pictures)
    else:
        raise InputError(f"--good has pictures of one product: name it with --product, {' or '.join(names)}")
    file_names = {name: relative_names(sources) for name, sources in pictures_by_product.items()}
    model.facts.check_whole_parts(file_names)
    return pictures_by_product


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope export` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file, .safetensors.")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="Model file to write, .onnx; of a joint model .zip, which holds an .onnx for each product.",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="{fp32,bf16}",
        help="Precision of the features; bf16 is OpenVINO's alone (default: fp32).",
    )
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="Product of a joint model that has --precision; the others have fp32.",
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help="Good pictures to compare on (default: the samples in the model), and to calibrate on for a "
        "precision other than fp32; the training pictures will do. Of a joint model the data root, or a "
        "folder with pictures of all products.",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="Take --pictures as good, whatever their names are; after a question: accept the model that the "
        "same call wrote.",
    )
    common.add_threads(parser)
    common.add_quiet(parser)


def export(args: argparse.Namespace) -> int:
    """Write a fitted model for ONNX Runtime and OpenVINO, which need no torch.

    The command proves that the new model answers as before.
    """
    from flawscope.predictor.router import load, read_facts

    out = files.check_writable(args.out)
    call_digest = questions.digest_call(args)
    if args.force and questions.accept(out, call_digest):
        return 0
    failures: list[str] = []
    if read_facts(args.model).kind:
        _export_joint_model(args, out, failures)
    elif args.product:
        raise InputError("--product is for joint models: leave it out")
    else:
        _export_model(args, out, failures)
    _say_exported(args, read_facts(out).manifests)
    if questions.new_questions(out, args.model):
        # saved again with the digest of the call, by which `--force` accepts the model
        questions.save(load(out), out, call_digest, args.model)
    return common.report_failures(failures) or questions.report(out, args.model)


def _export_model(args: argparse.Namespace, out: Path, failures: list[str]) -> None:
    """Export a model of one product; add lines on pictures that cannot be used to `failures`."""
    from flawscope.predictor import fitted_artefact

    artefact = fitted_artefact(args.model)
    pictures = _list_good_pictures(args.pictures, args.force) if args.pictures else []
    require_installed("export", "torch", extras="train,export")
    from flawscope.export import export as exporting

    exporting.export(artefact, out, pictures=pictures, **_export_options(args, failures))


def _export_joint_model(args: argparse.Namespace, out: Path, failures: list[str]) -> None:
    """Export a model of several products; add lines on pictures that cannot be used to `failures`."""
    require_installed("export", "torch", extras="train,export")
    from flawscope.export.router_export import export_router

    options = _export_options(args, failures)
    export_router(args.model, out, pictures=_good_pictures(args), only=args.product, **options)


def _export_options(args: argparse.Namespace, failures: list[str]) -> Json:
    """Return arguments that both kinds of export share; an export adds unusable pictures to `failures`."""
    step = common.progress_for(args)
    return {"precision": args.precision, "threads": args.threads, "failures": failures, "step": step}


def _good_pictures(args: argparse.Namespace) -> dict[str, list[PictureSource]]:
    """Return the pictures of `--pictures` by product; empty without the option.

    If every product has a folder, the folder shows the product, as in `fit`. Otherwise, the model recognises
    the product of each picture.
    """
    from flawscope.datasets import find_categories, list_pictures, open_dataset
    from flawscope.predictor.router import load

    if not args.pictures:
        return {}
    model = load(args.model)
    pictures_by_product: dict[str, list[PictureSource]] = {name: [] for name in model.products}
    has_all_folders = pictures_by_product.keys() <= {*find_categories(args.pictures)}
    if has_all_folders:
        return {
            name: [item.path for item in open_dataset(args.pictures, name).train]
            for name in pictures_by_product
        }
    for source, recognition in model.recognise(list_pictures(args.pictures)):
        if not isinstance(recognition, InputError) and recognition.product:
            pictures_by_product[recognition.product].append(source)
    return pictures_by_product


def _say_exported(args: argparse.Namespace, manifests: Mapping[str, Manifest]) -> None:
    """Print the certificates of an exported model, or of each product of a joint one, and the file."""
    from flawscope.artefact.certificate import certificates_from_facts

    say = common.say_unless_quiet(args)
    prefix_by_name = {name: f"{name}: " if name else "" for name in manifests}
    is_compared_with_openvino = False
    for name, manifest in manifests.items():
        for certificate in certificates_from_facts(manifest.facts):
            common.show(prefix_by_name[name] + certificate.describe())
            if "openvino" in certificate.runtime:
                is_compared_with_openvino = True
    if not is_compared_with_openvino:
        say("OpenVINO is not installed here: not compared with it")
    say(f"wrote {args.out}")
    for name, manifest in manifests.items():
        if manifest.calibration.precision != "fp32":
            say(prefix_by_name[name] + manifest.calibration.promise())


def backbones_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope backbones` to its parser."""
    common.add_json(parser)


def backbones(args: argparse.Namespace) -> int:
    """List the feature extractors whose weights are on this machine, and how to get the others."""
    from flawscope.methods.features.weights import DEFAULT_BACKBONE, PACKAGED, cached_models

    documents = []
    for name, packaged in PACKAGED.items():
        is_at_hand = packaged.find() is not None
        documents.append(
            {"name": name, "at_hand": is_at_hand, "licence": packaged.licence, "from": packaged.install}
        )
    for name in cached_models():
        licence = "see the model's page"
        documents.append(
            {"name": name, "at_hand": True, "licence": licence, "from": "in the local hub cache"}
        )
    if args.json:
        print(json.dumps(documents, indent=1))
        return 0
    rows = []
    for document in documents:
        at_hand = "yes" if document["at_hand"] else "no"
        rows.append((document["name"], at_hand, document["licence"], document["from"]))
    print(common.format_table(rows, ("backbone", "at hand", "licence", "from")))
    print(f"\nThe default is {DEFAULT_BACKBONE}. Any other timm model works with --backbone NAME:")
    print(
        "its weights are downloaded once, or given: --set weights=FILE (safetensors or a torch checkpoint)."
    )
    return 0
