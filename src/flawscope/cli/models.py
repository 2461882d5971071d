"""Commands on a model file, each a function of its name: `info`, `calibrate`, `export`; and `backbones`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope info` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file.")
    parser.add_argument("--verbose", action="store_true", help="Say also all that the model file holds.")
    parser.add_argument("--self-test", action="store_true", help="Run the stored samples on this machine.")
    parser.add_argument("--json", action="store_true", help="Print the whole manifest.")
    common.add_engine(parser)


def info(args: argparse.Namespace) -> int:
    """Tell what a model is: method, settings, threshold, where its weights and pictures came from."""
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

    found = load(args.model, engine=args.engine, device=args.device, threads=args.threads).self_test()
    results = {"": found} if isinstance(found, Certificate) else found
    for name, result in results.items():
        of = f"{name}: " if name else ""
        common.say(f"{of}self-test {'passed' if result.passed else 'FAILED'}: {result.describe()}")
    return 0 if all(result.passed for result in results.values()) else 1


def _facts_document(facts: ModelFacts) -> Json:
    """The manifest of a model of one product, or those of all products or views."""
    if not facts.kind:
        return facts.manifests[""].to_dict()
    document: Json = {"products": {name: manifest.to_dict() for name, manifest in facts.manifests.items()}}
    return document if facts.views is None else {**document, "views": asdict(facts.views)}


def _facts_lines(facts: ModelFacts, verbose: bool) -> list[str]:
    """Return the lines of `info` on a model; of several products or views, for each.

    Args:
        facts: Facts of the model.
        verbose: Whether to give all that the model file holds.
    """
    from flawscope.artefact.rates import promise_of

    if not facts.kind:
        return manifest_lines(facts.manifests[""], verbose=verbose)
    lines = [f"joint model of {pluralize(len(facts.manifests), facts.kind)}: {', '.join(facts.manifests)}"]
    if facts.views is not None:
        lines.append(promise_of(facts).text)
    for name, manifest in facts.manifests.items():
        parts = None if facts.views is None else facts.parts_of(name)
        product_lines = manifest_lines(manifest, parts, verbose=verbose)
        lines += [f"\n{name}", *(f"  {line}" for line in product_lines)]
    return lines


def manifest_lines(
    manifest: Manifest, parts: KnownParts | None = None, *, verbose: bool = False
) -> list[str]:
    """Return the lines of `info` on a model: product, rate, self-test, and the next steps.

    Args:
        manifest: Manifest of the model.
        parts: Good parts, of a model of one view that decides with others.
        verbose: Whether to give all that the model file holds.
    """
    from flawscope.evaluation.next_steps import advise_blind
    from flawscope.pages.report.words import model_facts

    facts = model_facts(manifest, parts)
    rows = [("product", manifest.category)] if manifest.category else []
    rows += [(what, value) for what, value in facts if what in MAIN_FACTS]
    rows.append(("self-test", f"{pluralize(len(manifest.samples), 'sample')}, which --self-test runs here"))
    rows += [("exported", line) for line in certificate_lines(manifest.facts)]
    rows += [("question", line) for line in manifest.questions]
    if parts is None:
        rows += [("next", advice.line()) for advice in advise_blind(manifest)]
    if verbose:
        rows += [(what, value) for what, value in facts if what not in MAIN_FACTS]
        rows += _further_rows(manifest)
    width = max(len(what) for what, _ in rows) + 2
    return [f"{what:<{width}}{value}" for what, value in rows]


def _further_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the rows of `info` with a model file's notes, unusual pictures and format."""
    from flawscope.artefact.model_file import FORMAT

    rows = [("note", note) for note in manifest.notes]
    rows += [("look at", suspect.line()) for suspect in manifest.suspects]
    return [*rows, ("format", str(FORMAT))]


def certificate_lines(facts: Mapping[str, object]) -> list[str]:
    """Lines on the model's certificates, by engine."""
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
        help="Take the pictures as good, also where they are too few to promise what the model did, show "
        "nothing, are as far out as defects are, or lie in folders whose names do not say so; after a "
        "question: accept what the same call wrote.",
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
    call = questions.digest_call(args)
    if args.force and questions.accept(out, call):
        return 0
    pictures = [] if args.good is None else _list_good_pictures(args.good, args.force)
    model = load(args.model, engine=args.engine, device=args.device, threads=args.threads)
    lines = list[str]()
    failures = list[str]()
    model = _calibrate_products(args, model, pictures, lines, failures)
    questions.save(model, out, call, args.model)
    out = questions.written(out, args.model)
    say = common.say_unless_quiet(args)
    for line in [*lines, f"wrote {out}"]:
        say(line)
    return common.report_failures(failures) or questions.report(out, args.model)


def _check_calibration_call(args: argparse.Namespace) -> None:
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
        InputError: Their folders' names do not say that they are good, and `force` is not set.
    """
    from flawscope.datasets import list_pictures
    from flawscope.datasets.own_folders import refuse_unknown

    pictures = list_pictures(folder)
    if os.path.isdir(folder) and not force:
        refuse_unknown(Path(folder), pictures, "give the folder of good ones alone, or add --force")
    return pictures


def _calibrate_products(
    args: argparse.Namespace,
    model: Predictor | Router,
    pictures: Sequence[PictureSource],
    lines: list[str],
    failures: list[str],
) -> Predictor | Router:
    """Calibrate the products, or views, that a call names, and return the new model.

    Args:
        args: Arguments of the call.
        model: Model to calibrate.
        pictures: New good pictures; none: its own scores give the thresholds.
        lines: Gets the remarks on each product.
        failures: Gets the pictures that cannot be used.
    """
    names = common.product_names(model, args)
    if args.false_alarm_rate is not None and model.views is not None and args.product is not None:
        raise InputError("the views decide together, at one false-alarm rate: leave out --product")
    given = _pictures_by_product(model, names, pictures)
    plan = common.CALIBRATE if len(names) == 1 else None
    for name in names:
        before = model.products[name]
        after = _calibrate_product(args, before, given.get(name), plan)
        if name not in given:
            lines.append(f"{name}: {after.calibration.promise()}".removeprefix(": "))
        else:
            lines += _describe_calibration(before, after, name if len(given) > 1 else "")
        failures += after.failures
        model = model.with_product(name, after)
    return model.with_looks_of_views(given) if {*given} == {*model.products} else model


def _calibrate_product(
    args: argparse.Namespace,
    predictor: Predictor,
    pictures: Sequence[PictureSource] | None,
    plan: Plan | None,
) -> Predictor:
    """Give a product the call's rate, and new thresholds where it has pictures."""
    if args.false_alarm_rate is not None:
        predictor = predictor.with_rate(args.false_alarm_rate)
    if pictures is None:
        return predictor
    step = common.progress_for(args, plan)
    return predictor.calibrate(pictures, step=step, force=args.force)


def _describe_calibration(before: Predictor, after: Predictor, product: str) -> list[str]:
    """Return lines on the rates that a model promised before and promises now, and on what is new to note.

    Args:
        before: Model before the calibration.
        after: Model after it.
        product: Name of the product; empty: the model has only one.
    """
    of = f"{product}, " if product else ""
    return [
        f"{of}before: {before.calibration.promise()}",
        f"{of}now:    {after.calibration.promise()}",
        *after.manifest.notes[len(before.manifest.notes) :],
    ]


def _pictures_by_product(
    model: Predictor | Router, names: Sequence[str], pictures: Sequence[PictureSource]
) -> dict[str, list[PictureSource]]:
    """Return the good pictures of each product, or view, that is calibrated on them.

    Raises:
        InputError: The call names no product, or no part would have good pictures of all views.
    """
    if not pictures:
        return {}
    if len(names) == 1:
        given = {names[0]: [*pictures]}
    elif model.views is not None:
        given = model.sort_by_view(pictures)
    else:
        raise InputError(f"--good has pictures of one product: name it with --product, {' or '.join(names)}")
    model.facts.check_whole_parts({name: relative_names(sources) for name, sources in given.items()})
    return given


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
        help="Take --pictures as good, whatever they are called; after a question: accept what the same call "
        "wrote.",
    )
    common.add_threads(parser)
    common.add_quiet(parser)


def export(args: argparse.Namespace) -> int:
    """Write a fitted model for ONNX Runtime and OpenVINO, which need no torch.

    The command proves that the new model answers as before.
    """
    from flawscope.predictor.router import load, read_facts

    out = files.check_writable(args.out)
    call = questions.digest_call(args)
    if args.force and questions.accept(out, call):
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
        questions.save(load(out), out, call, args.model)
    return common.report_failures(failures) or questions.report(out, args.model)


def _export_model(args: argparse.Namespace, out: Path, failures: list[str]) -> None:
    """Export a model of one product. `failures` gets the pictures that cannot be used."""
    from flawscope.predictor import fitted_artefact

    artefact = fitted_artefact(args.model)
    pictures = _list_good_pictures(args.pictures, args.force) if args.pictures else []
    require_installed("export", "torch", extras="train,export")
    from flawscope.export import export as exporting

    exporting.export(artefact, out, pictures=pictures, **_export_options(args, failures))


def _export_joint_model(args: argparse.Namespace, out: Path, failures: list[str]) -> None:
    """Export a model of several products. `failures` gets the pictures that cannot be used."""
    require_installed("export", "torch", extras="train,export")
    from flawscope.export.router_export import export_router

    options = _export_options(args, failures)
    export_router(args.model, out, pictures=_good_pictures(args), only=args.product, **options)


def _export_options(args: argparse.Namespace, failures: list[str]) -> Json:
    step = common.progress_for(args)
    return {"precision": args.precision, "threads": args.threads, "failures": failures, "step": step}


def _good_pictures(args: argparse.Namespace) -> dict[str, list[PictureSource]]:
    """Pictures of --pictures by product: of the products' folders, as in `fit`, else as recognised."""
    from flawscope.datasets import find_categories, list_pictures, open_dataset
    from flawscope.predictor.router import load

    if not args.pictures:
        return {}
    model = load(args.model)
    by_product: dict[str, list[PictureSource]] = {name: [] for name in model.products}
    if by_product.keys() <= {*find_categories(args.pictures)}:
        return {name: [item.path for item in open_dataset(args.pictures, name).train] for name in by_product}
    for source, shown in model.recognise(list_pictures(args.pictures)):
        if not isinstance(shown, InputError) and shown.product:
            by_product[shown.product].append(source)
    return by_product


def _say_exported(args: argparse.Namespace, manifests: Mapping[str, Manifest]) -> None:
    """Print the certificates of a model, or of each product of a joint one."""
    from flawscope.artefact.certificate import certificates_from_facts

    say = common.say_unless_quiet(args)
    engines = ""
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
    """Add the arguments of `flawscope backbones` to its parser."""
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
        documents = []
        for name, yes_or_no, licence, source in rows:
            document = {"name": name, "at_hand": yes_or_no == "yes", "licence": licence, "from": source}
            documents.append(document)
        print(json.dumps(documents, indent=1))
        return 0
    print(common.format_table(rows, ("backbone", "at hand", "licence", "from")))
    print(f"\nThe default is {DEFAULT_BACKBONE}. Any other timm model works with --backbone NAME:")
    print(
        "its weights are downloaded once, or given: --set weights=FILE (safetensors or a torch checkpoint)."
    )
    return 0
