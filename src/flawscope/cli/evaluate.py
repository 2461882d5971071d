"""Measure a model on the test pictures of a data set."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flawscope.artefact.files import MODEL_SUFFIXES
from flawscope.cli import common
from flawscope.errors import Failure, InputError, pluralize
from flawscope.pages import report
from flawscope.progress import format_duration

if TYPE_CHECKING:
    from flawscope.artefact.model_facts import ModelFacts
    from flawscope.artefact.model_file import Manifest
    from flawscope.datasets import Dataset, Item
    from flawscope.evaluation.result import Evaluation
    from flawscope.evaluation.robustness import Robustness
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.progress import ProgressCallback
    from flawscope.results.prediction import Prediction
    from flawscope.results.run import ResultsFolder, WriteErrors
    from flawscope.types import Facts, Json

    Documents = Mapping[str, Json]  # of `evaluate --json`, by category


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope evaluate` to its parser."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="Model file; for several categories the folder of CATEGORY.safetensors, or a joint model.",
    )
    common.add_data(parser, several=f"{common.SEVERAL_HELP}each by its own model, or by a joint one")
    common.add_good(parser)
    common.add_rate(parser, "the model's")
    common.add_figures(
        parser,
        "Write results, a report, overlays and maps; or the table of results alone, .csv or .xlsx (Excel); "
        "for several categories a folder for each, or a table with a row for each.",
        "DIR|FILE.csv|FILE.xlsx",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="Judge every picture in other light and out of focus too: false alarms, defects found (20 times "
        "the time).",
    )
    parser.add_argument(
        "--learning-curve",
        action="store_true",
        help="Say how many good pictures are enough: fit the model with fewer, half at most (takes a fit).",
    )
    common.add_pictures(parser)
    common.add_json(parser)
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Measure a model, or the models of several categories, and print the result; return the exit code."""
    from flawscope.predictor.router import is_router

    if is_router(args.model):
        return _run_each(args)
    if common.asks_several(args):
        if not Path(args.model).is_dir():
            raise InputError(
                f"--category {args.category} measures a model for each category: give the folder of "
                f"CATEGORY.safetensors that `fit` wrote, or a joint model, instead of {args.model}"
            )
        _check_table(args)
        return _run_several(args, common.selected_categories(args))

    def show(found: Evaluation) -> None:
        common.show_document(args, found.to_dict(), lambda: format_evaluation(found))

    return common.report_failures(evaluate_model(args, show)[1])


def evaluate_model(
    args: argparse.Namespace,
    show: Callable[[Evaluation], None] | None = None,
    predictor: Predictor | None = None,
    dataset: Dataset | None = None,
) -> tuple[Evaluation, list[str]]:
    """Evaluate one model and write the files that `--out` asks for.

    Args:
        args: Arguments of the call.
        show: Gets the evaluation before steps that may fail, such as on a full disk.
        predictor: The model, where it is open already.
        dataset: The data set, where it is open already.

    Returns:
        The evaluation; and the pictures that could not be judged or drawn.
    """
    from flawscope.predictor import read_manifest

    step = common.progress_for(args)
    if _results_folder(args):
        common.require_torch(args.model)  # whose extra brings what a report needs, too
        report.require_libraries()
    manifest = read_manifest(args.model) if predictor is None else predictor.manifest
    dataset = dataset or _open_dataset(args, manifest)
    common.check_output(args)
    common.keep_other_results(args, manifest.category, [item.path for item in dataset.test])
    predictor = predictor or common.load_single(args, args.model)
    result = _measure(args, predictor, dataset, step)
    if show:
        show(result)
    _say_remarks(args, result, dataset, manifest)
    failures = list(result.failures)
    if folder := _results_folder(args):
        failures += _write_results(args, folder, result, predictor, dataset, step)
    elif args.out:
        _write_table(args, result, predictor)
    return result, failures


def _results_folder(args: argparse.Namespace) -> Path | None:
    """The folder of `--out`; None: there is none, or a table alone."""
    return Path(args.out) if args.out and not common.is_table(args.out) else None


def _open_dataset(args: argparse.Namespace, model: Manifest | ModelFacts) -> Dataset:
    """Open the data set, split as for fitting the model."""
    from flawscope.datasets import open_dataset

    seed, group = common.seed_and_group(model)
    return open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)


def _measure(
    args: argparse.Namespace, predictor: Predictor, dataset: Dataset, step: ProgressCallback
) -> Evaluation:
    from flawscope.evaluation.evaluation import evaluate

    how: Json = {"full_resolution": args.full_resolution, "robust": args.robustness}
    if args.learning_curve:
        from flawscope.fitting.fewer_pictures import fit_fewer

        how["fewer"] = fit_fewer(predictor, dataset, step)
    return evaluate(predictor, dataset, step=step, **how)


def _say_remarks(args: argparse.Namespace, result: Evaluation, dataset: Dataset, manifest: Manifest) -> None:
    """Warn of masks that do not fit, and advise the next steps."""
    from flawscope.datasets.mask_remarks import mask_remarks
    from flawscope.evaluation.next_steps import advise_after

    for line in mask_remarks(dataset):
        common.say(f"warning: {line}")
    if args.json or args.quiet:
        return
    for advice in advise_after(result, manifest):
        common.say(common.next_step(advice))


def _write_table(args: argparse.Namespace, result: Evaluation, predictor: Predictor) -> None:
    """Write the table of results alone."""
    from flawscope.evaluation.result import all_results
    from flawscope.results.result_workbook import open_table

    table = open_table(args.out, decimal_comma=args.decimal_comma, **_table_form(args, result, predictor))
    for _, evaluation in all_results(result):
        table.add_result(evaluation)
    table.close(_totals(args, result))


def _write_results(
    args: argparse.Namespace,
    folder: Path,
    result: Evaluation,
    predictor: Predictor,
    dataset: Dataset,
    step: ProgressCallback,
) -> list[str]:
    """Write the results folder, figures and tables first; return the pictures that could not be drawn."""
    from flawscope.evaluation.result import all_results
    from flawscope.results.run import ResultsFolder, WriteErrors

    say = common.say_unless_quiet(args)
    inputs = [item.path for item, _ in all_results(result)]
    form = {**_table_form(args, result, predictor), "decimal_comma": args.decimal_comma}
    results = ResultsFolder(folder, dataset.root, say, inputs=inputs, maps=args.maps or "png16", **form)
    unwritten = WriteErrors(common.say)
    with unwritten.collect("summary"):
        results.write_summary(result.to_dict())
    part_rows = _write_tables(args, results, result, unwritten)
    for done, (item, prediction, *_) in enumerate(result.pictures, start=1):
        with unwritten.collect("picture"):
            results.pictures.add(item.path, prediction)
        step("pictures", done, len(result.pictures))
    with unwritten.collect("table"):
        for _, evaluation in all_results(result):
            results.add_to_workbook(evaluation)
        results.workbook.close(_totals(args, result), part_rows)
    with unwritten.collect("report"):
        path = results.own.path(report.REPORT_NAME)
        name = os.path.basename(args.model)
        report.write_report(path, result, predictor, dataset, model=name, step=step)
        say(f"report: {path}")
    return [*results.pictures.failures, *unwritten.lines()]


def _write_tables(
    args: argparse.Namespace, results: ResultsFolder, result: Evaluation, unwritten: WriteErrors
) -> list[Sequence[object]]:
    """Write the tables of pictures and of parts, and a JSON file for each picture.

    Returns:
        The rows of parts; none where only pictures are judged.
    """
    from flawscope.cli.output import part_rows
    from flawscope.evaluation.result import all_results
    from flawscope.results.excel import write_table
    from flawscope.results.run import PARTS_TABLE_NAME

    for _, evaluation in all_results(result):
        with unwritten.collect("row"):
            results.table.add_result(evaluation)
        with unwritten.collect("JSON file"):
            results.add_details(evaluation)
    with unwritten.collect("table"):
        results.table.close()
    if not result.judged_parts:
        return []
    rows = [*part_rows((part.prediction for part in result.judged_parts), products=False)]
    with unwritten.collect("table"):
        write_table(results.own.path(PARTS_TABLE_NAME), rows, decimal_comma=args.decimal_comma)
    return rows


def _table_form(args: argparse.Namespace, result: Evaluation, predictor: Predictor) -> Json:
    """Return the form of the tables, as `TableWriter` takes it."""
    parts = predictor.parts()
    found = {"kinds": result.names_kinds, "aligned": result.aligned, "model": os.path.basename(args.model)}
    return {**found, **({"part_of": parts.name_part} if parts else {})}


def _totals(args: argparse.Namespace, result: Evaluation) -> list[tuple[str, str]]:
    """Return the totals of a workbook by their names."""
    found = [("Model", os.path.basename(args.model)), ("Method", result.method), ("Product", result.category)]
    found.append(("Pictures", result.counts()))
    found += [("Measured", line) for line in _decision_lines(result)]
    return found


def format_evaluation(result: Evaluation) -> str:
    """Return the text of an evaluation for a person: decisions, metrics, kinds and remarks."""
    from flawscope.evaluation.promise import describe_promise
    from flawscope.evaluation.result import METRIC_NAMES

    rows = [(METRIC_NAMES.get(k, k), f"{v:.4f}") for k, v in result.metrics.items() if v is not None]
    table = [common.format_table(rows, ("metric, 1 at best", "value"))] if rows else []
    parts = [
        f"{result.category}: {result.method}, {result.counts()} in {format_duration(result.seconds)}",
        "\n".join(_decision_lines(result)),
        "\n".join([*table, *result.remarks]),
    ]
    parts += ["\n".join(lines)] if (lines := describe_promise(result.false_alarms)) else []
    kinds = [
        (kind, v["images"], v["anomalous"], f"{v['mean_score']:.4g}", f"{v['median_severity']:+.1f}")
        for kind, v in result.kinds.items()
    ]
    header = (
        "kind",
        f"{result.noun}s",
        "called anomalous",
        "mean score",
        "median severity (anomalous: above 0)",
    )
    parts.append(common.format_table(kinds, header))
    if result.parts:
        parts.append(_parts_text(result.parts))
    if result.robustness:
        lights = [_light_row(robustness) for robustness in result.robustness]
        parts.append(common.format_table(lights, ("light", "false alarms", "defects found", "image AUROC")))
    if result.mismatch:
        parts.append(f"warning: {result.mismatch}")
    if result.left_out:
        parts.append(common.left_out_line(result, "the model"))
    return "\n\n".join(filter(None, parts))


def _decision_lines(result: Evaluation) -> Iterator[str]:
    """Yield what became of the defects and of the good pictures, each with its interval."""
    if (defects := result.defects)["images"]:
        low, high = defects["interval"]
        noun = "defective parts" if result.parts else "defects"
        yield f"{_found_text(defects)} {noun} found (95 %: {low:.0%} to {high:.0%} of such {noun})"
    alarms = result.false_alarms
    if alarms["measured"] is None:
        return
    low, high = alarms["interval"]
    promise = "no promise"
    if alarms["expected"] is not None:
        kept = "broken, see below" if alarms["broken"] else "kept"
        promise = f"promise of {alarms['expected']:.1%} {kept}"
    yield (
        f"false alarms: {round(alarms['measured'] * alarms['images'])} of "
        f"{pluralize(alarms['images'], f'good {result.noun}')} "
        f"(95 %: {low:.0%} to {high:.0%} of such); {promise}"
    )


def _found_text(defects: Mapping[str, object]) -> str:
    return f"{defects['found']} of {defects['images']}"


def _parts_text(parts_found: Json) -> str:
    low, high = parts_found["interval"]
    text = (
        f"{parts_found['promise']}\n"
        f"parts: {parts_found['false_alarms']} of {parts_found['good']} good called anomalous "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    if parts_found["broken"]:
        text += ", more than promised"
    text += f", {parts_found['found']} of {parts_found['defective']} defective found"
    if parts_found["incomplete"]:
        text += f", {parts_found['incomplete']} incomplete"
    if parts_found["auroc"] is not None:
        text += f", AUROC {parts_found['auroc']:.4f}"
    return text


def _light_row(robustness: Robustness) -> tuple[str, ...]:
    def rate(count: int, total: int) -> str:
        return f"{count / total:.1%} ({count} of {total})" if total else "n/a"

    area = "n/a" if robustness.image_auroc is None else f"{robustness.image_auroc:.4f}"
    return (
        robustness.light.name,
        rate(robustness.false_alarms, robustness.good),
        rate(robustness.found, robustness.defective),
        area,
    )


# -------------------------------------------------------------------------------------- several categories


def _run_each(args: argparse.Namespace) -> int:
    """Evaluate each product of a model of several, and how it is recognised; or views and parts."""
    from flawscope.datasets import find_categories

    model = common.load_model(args, args.model)
    if datasets := _view_datasets(args, model):
        names = tuple(datasets)
    elif args.category:
        names = common.selected_categories(args) if common.asks_several(args) else (args.category,)
    else:
        names = tuple(name for name in find_categories(args.data) if name in model.products)
    if not names:
        raise InputError(f"{args.data} has none of the products {', '.join(model.products)}: give another")
    for name in names:
        model.product(name)
    _check_table(args)
    return _run_several(args, names, model, datasets)


def _view_datasets(args: argparse.Namespace, model: Predictor | Router) -> dict[str, Dataset]:
    """Return the test pictures of each view; empty for a model of several products."""
    from flawscope.datasets.dataset import split_by_view

    if (pattern := model.views) is None:
        return {}
    if common.asks_several(args):
        raise InputError("the model is of one product's views: name one --category")
    dataset = _open_dataset(args, model.facts)
    splits = ("test", "train") if dataset.drawn_split else ("test",)
    return split_by_view(dataset, pattern, *splits)


def _recognition(model: Predictor | Router, name: str, result: Evaluation) -> Json:
    """Count a product's test pictures, and those that the router takes for another product.

    Returns:
        `pictures`, the number of them; `mistaken`, numbers by the other product, or by none.
    """
    from flawscope.results.prediction import Prediction

    paths = [os.fspath(picture.item.path) for picture in result.pictures]
    shown = [
        recognition for _, recognition in model.recognise(paths) if not isinstance(recognition, InputError)
    ]
    mistaken = Counter(
        recognition.product or Prediction.NO_PRODUCT_NAME
        for recognition in shown
        if recognition.product != name
    )
    return {"pictures": len(shown), "mistaken": dict(mistaken)}


def _run_several(
    args: argparse.Namespace,
    names: Sequence[str],
    model: Predictor | Router | None = None,
    datasets: Mapping[str, Dataset] = MappingProxyType({}),
) -> int:
    """Evaluate several models, or a model of several, and print and write one table, averages last.

    Args:
        args: Arguments of the call.
        names: Categories, products or views.
        model: Model of several; None: each category has a model of its own.
        datasets: Data sets by view, of a router of views; empty for others.

    Returns:
        The exit code.
    """
    from flawscope.evaluation.decided import judge_parts
    from flawscope.evaluation.evaluation import part_statistics
    from flawscope.results.excel import write_table
    from flawscope.results.run import TABLE_NAME
    from flawscope.results.table import OutputFiles

    say = common.say_unless_quiet(args)
    folder = _results_folder(args)
    if folder:
        output = OutputFiles(common.prepare_output_folder(args.out))
        output.check(TABLE_NAME)
    found: dict[str, Json] = {}
    pictures: list[tuple[Item, Prediction]] = []  # of all views

    def work(name: str) -> int:
        alone = {"category": name, "out": str(folder / name) if folder else None}
        if model is None:
            alone["model"] = str(_model_path(args.model, name))
        call = argparse.Namespace(**{**vars(args), **alone})
        predictor = None if model is None else model.products[name]
        result, failures = evaluate_model(call, None, predictor, datasets.get(name))
        found[name] = result.to_dict()
        if model is not None and not datasets:
            found[name]["products"] = _recognition(model, name, result)
        if datasets:
            pictures.extend((picture.item, picture.prediction) for picture in result.pictures)
        say(f"{name}: {result.counts()} in {format_duration(result.seconds)}")
        return common.report_failures(failures)

    code, failed = common.run_for_each(names, work, debug=args.debug)
    if not found:
        return code
    kind = "category" if model is None else model.kind
    document = {"categories": found, "mean": _means(found), "failed": failed}
    unread = list[Failure]()
    if model is not None and datasets:
        document["parts"] = part_statistics(model, judge_parts(model, pictures, unread))
    common.show_document(args, document, lambda: _several_text(document, kind))
    if args.out:
        rows = _several_rows(document, kind)
        path = output.path(TABLE_NAME) if folder else Path(args.out)
        write_table(path, rows, decimal_comma=args.decimal_comma)
    return max(code, common.report_failures(unread))


def _check_table(args: argparse.Namespace) -> None:
    if not args.out or common.is_table(args.out):
        common.check_output(args)


def _model_path(folder: str, category: str) -> Path:
    """The category's model file, the trained one first."""
    for suffix in MODEL_SUFFIXES:
        if (path := Path(folder) / f"{category}{suffix}").is_file():
            return path
    raise InputError(f"{folder} has no {category}{MODEL_SUFFIXES[0]}: fit it with --category {category}")


def _means(found: Documents) -> dict[str, float | None]:
    """Mean of each metric over the categories that have it; None where none has."""
    known: dict[str, list[float]] = {}
    for document in found.values():
        for metric, value in document["metrics"].items():
            values = known.setdefault(metric, [])
            if value is not None:
                values.append(value)
    return {metric: sum(values) / len(values) if values else None for metric, values in known.items()}


def _count_mistaken(found: Documents, names: Iterable[str]) -> int:
    """Number of pictures that were taken for another product, or for none."""
    return sum(sum(found[name]["products"]["mistaken"].values()) for name in names)


def _several_text(document: Facts, kind: str) -> str:
    """Text for a person: the table of the papers' metrics, and the decisions on parts."""
    from flawscope.evaluation.benchmark.tables import METRICS

    found = document["categories"]
    has_products = kind == "product"

    def cells(metrics: Mapping[str, float | None]) -> list[str]:
        values = [metrics.get(name) for name in METRICS]
        return ["n/a" if value is None else f"{value:.4f}" for value in values]

    def mistaken(names: Sequence[str]) -> str:
        judged = sum(found[name]["products"]["pictures"] for name in names)
        return f"{_count_mistaken(found, names)} of {judged}"

    header = [kind, *METRICS.values(), "false alarms", "defects found"]
    rows: list[list[str]] = []
    for name, figures in found.items():
        rate = figures["false_alarms"]["measured"]
        alarms = "" if rate is None else f"{rate:.1%}"
        shown = _found_text(figures["defects"]) if figures["defects"]["images"] else ""
        rows.append([name, *cells(figures["metrics"]), alarms, shown])
    rows.append([f"mean of {len(found)}", *cells(document["mean"]), "", ""])
    if has_products:
        header.append("mistaken")
        for row, name in zip(rows, found, strict=False):
            row.append(mistaken([name]))
        rows[-1].append(mistaken(list(found)))
    texts = [common.format_table(rows, header)]
    texts += [f"{name}: {line}" for name, figures in found.items() for line in figures["remarks"]]
    texts += [
        f"{name}: {_parts_text(figures['parts'])}" for name, figures in found.items() if figures.get("parts")
    ]
    if document.get("parts"):
        texts.append(_parts_text(document["parts"]))
    return "\n\n".join(texts)


def _several_rows(document: Facts, kind: str) -> Iterator[Sequence[object]]:
    found = document["categories"]
    has_products = kind == "product"

    metrics = list(document["mean"])
    counts = ["false_alarms", "false_alarms_expected", "good_pictures", "defects_found", "defective_pictures"]
    heading = ["category", "method", "pictures", *metrics, *counts]
    if has_products:
        heading.append("mistaken")
    yield heading
    for name, figures in found.items():
        row = [name, figures["method"], figures["images"]]
        row += [figures["metrics"].get(metric) for metric in metrics]
        row += [figures["false_alarms"][key] for key in ("measured", "expected", "images")]
        row += [figures["defects"][key] for key in ("found", "images")]
        if has_products:
            row.append(_count_mistaken(found, [name]))
        yield row
    last = [f"mean of {len(found)}", "", "", *document["mean"].values()]
    last += [""] * len(counts)
    if has_products:
        last.append(_count_mistaken(found, list(found)))
    yield last
