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

    Documents = Mapping[str, Json]  # documents of `evaluate --json` by category


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope evaluate` to its parser."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="Model file; for several categories the folder of CATEGORY.safetensors, or a joint model.",
    )
    common.add_data(parser, more_meanings=f"{common.SEVERAL_HELP}each by its own model, or by a joint one")
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
    if common.has_several_categories(args):
        if not Path(args.model).is_dir():
            raise InputError(
                f"--category {args.category} measures a model for each category: give the folder of "
                f"CATEGORY.safetensors that `fit` wrote, or a joint model, instead of {args.model}"
            )
        _check_table(args)
        return _run_several(args, common.selected_categories(args))

    def show(evaluation: Evaluation) -> None:
        common.show_document(args, evaluation.to_dict(), lambda: format_evaluation(evaluation))

    _, failures = evaluate_model(args, show)
    return common.report_failures(failures)


def evaluate_model(
    args: argparse.Namespace,
    show: Callable[[Evaluation], None] | None = None,
    predictor: Predictor | None = None,
    dataset: Dataset | None = None,
) -> tuple[Evaluation, list[str]]:
    """Evaluate one model and write the files that `--out` asks for.

    Args:
        args: Arguments of the call.
        show: Called with the evaluation before files are written, since writing may fail.
        predictor: The model; None: the one that the call names is loaded.
        dataset: The data set; None: the one that the call names is opened.

    Returns:
        The evaluation; and lines on pictures that could not be judged or drawn.
    """
    from flawscope.predictor import read_manifest

    step = common.progress_for(args)
    if _results_folder(args):
        common.require_torch(args.model)  # first, since its remedy also installs what a report needs
        report.require_libraries()
    manifest = read_manifest(args.model) if predictor is None else predictor.manifest
    dataset = dataset or _open_dataset(args, manifest)
    common.check_output(args)
    common.check_earlier_results(args, manifest.category, [item.path for item in dataset.test])
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
    """Return the results folder of `--out`; None: the call has no output, or only a table."""
    return Path(args.out) if args.out and not common.is_table(args.out) else None


def _open_dataset(args: argparse.Namespace, model: Manifest | ModelFacts) -> Dataset:
    """Open the data set, split as for fitting the model."""
    from flawscope.datasets import open_dataset

    seed, group = common.seed_and_group(model)
    return open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)


def _measure(
    args: argparse.Namespace, predictor: Predictor, dataset: Dataset, step: ProgressCallback
) -> Evaluation:
    """Evaluate a model, with the additional measurements that the call asks for."""
    from flawscope.evaluation.evaluation import evaluate

    models_of_fewer_pictures: Sequence[Predictor] = ()
    if args.learning_curve:
        from flawscope.fitting.fewer_pictures import fit_fewer

        models_of_fewer_pictures = fit_fewer(predictor, dataset, step)
    return evaluate(
        predictor,
        dataset,
        step=step,
        full_resolution=args.full_resolution,
        robust=args.robustness,
        fewer=models_of_fewer_pictures,
    )


def _say_remarks(args: argparse.Namespace, result: Evaluation, dataset: Dataset, manifest: Manifest) -> None:
    """Warn of masks that do not fit, and advise the next steps."""
    from flawscope.datasets.mask_remarks import mask_remarks
    from flawscope.evaluation.next_steps import advise_after

    for line in mask_remarks(dataset):
        common.say(f"warning: {line}")
    if args.json or args.quiet:
        return
    for advice in advise_after(result, manifest):
        common.say(common.format_advice(advice))


def _write_table(args: argparse.Namespace, result: Evaluation, predictor: Predictor) -> None:
    """Write the table of results, where `--out` names a table instead of a folder."""
    from flawscope.evaluation.result import all_results
    from flawscope.results.result_workbook import open_table

    table = open_table(args.out, decimal_comma=args.decimal_comma, **_table_form(args, result, predictor))
    for _, picture_result in all_results(result):
        table.add_result(picture_result)
    table.close(_totals(args, result))


def _write_results(
    args: argparse.Namespace,
    folder: Path,
    result: Evaluation,
    predictor: Predictor,
    dataset: Dataset,
    step: ProgressCallback,
) -> list[str]:
    """Write the results folder: first the summary and the tables, then the pictures and the report.

    Returns:
        Lines on pictures that could not be drawn, and on files that could not be written.
    """
    from flawscope.evaluation.result import all_results
    from flawscope.results.run import ResultsFolder, WriteErrors

    say = common.say_unless_quiet(args)
    inputs = [item.path for item, _ in all_results(result)]
    results = ResultsFolder(
        folder,
        dataset.root,
        say,
        inputs=inputs,
        maps=args.maps or "png16",
        decimal_comma=args.decimal_comma,
        **_table_form(args, result, predictor),
    )
    unwritten = WriteErrors(common.say)
    with unwritten.collect("summary"):
        results.write_summary(result.to_dict())
    rows_of_parts = _write_tables(args, results, result, unwritten)
    for done, picture in enumerate(result.pictures, start=1):
        with unwritten.collect("picture"):
            results.pictures.add(picture.item.path, picture.prediction)
        step("pictures", done, len(result.pictures))
    with unwritten.collect("table"):
        for _, picture_result in all_results(result):
            results.add_to_workbook(picture_result)
        results.workbook.close(_totals(args, result), rows_of_parts)
    with unwritten.collect("report"):
        path = results.output.path(report.REPORT_NAME)
        model_name = os.path.basename(args.model)
        report.write_report(path, result, predictor, dataset, model=model_name, step=step)
        say(f"report: {path}")
    return [*results.pictures.failures, *unwritten.lines()]


def _write_tables(
    args: argparse.Namespace, results: ResultsFolder, result: Evaluation, unwritten: WriteErrors
) -> list[Sequence[object]]:
    """Write the tables of pictures and of parts, and a JSON file for each picture.

    Returns:
        The rows of the table of parts, the heading first; [] if only pictures are judged.
    """
    from flawscope.cli.output import part_rows
    from flawscope.evaluation.result import all_results
    from flawscope.results.excel import write_table
    from flawscope.results.run import PARTS_TABLE_NAME

    for _, picture_result in all_results(result):
        with unwritten.collect("row"):
            results.table.add_result(picture_result)
        with unwritten.collect("JSON file"):
            results.add_details(picture_result)
    with unwritten.collect("table"):
        results.table.close()
    if not result.judged_parts:
        return []
    parts = [part.prediction for part in result.judged_parts]
    rows = [*part_rows(parts, has_products=False)]
    with unwritten.collect("table"):
        write_table(results.output.path(PARTS_TABLE_NAME), rows, decimal_comma=args.decimal_comma)
    return rows


def _table_form(args: argparse.Namespace, result: Evaluation, predictor: Predictor) -> Json:
    """Return the arguments of `TableWriter` that state the columns and contents of the tables."""
    form: Json = {
        "kinds": result.names_kinds,
        "aligned": result.aligned,
        "model": os.path.basename(args.model),
    }
    if parts := predictor.parts():
        form["part_of"] = parts.name_part
    return form


def _totals(args: argparse.Namespace, result: Evaluation) -> list[tuple[str, str]]:
    """Return the titles and values of a workbook's totals."""
    totals = [
        ("Model", os.path.basename(args.model)),
        ("Method", result.method),
        ("Product", result.category),
        ("Pictures", result.counts()),
    ]
    totals += [("Measured", line) for line in _decision_lines(result)]
    return totals


def format_evaluation(result: Evaluation) -> str:
    """Return the text of an evaluation for a person: decisions, metrics, kinds and remarks."""
    from flawscope.evaluation.promise import describe_promise
    from flawscope.evaluation.result import METRIC_NAMES

    metric_rows = []
    for key, value in result.metrics.items():
        if value is not None:
            metric_rows.append((METRIC_NAMES.get(key, key), f"{value:.4f}"))
    metric_lines = list(result.remarks)
    if metric_rows:
        metric_lines.insert(0, common.format_table(metric_rows, ("metric, 1 at best", "value")))
    paragraphs = [
        f"{result.category}: {result.method}, {result.counts()} in {format_duration(result.seconds)}",
        "\n".join(_decision_lines(result)),
        "\n".join(metric_lines),
        "\n".join(describe_promise(result.false_alarms)),
        _kinds_table(result),
    ]
    if result.parts:
        paragraphs.append(_parts_text(result.parts))
    if result.robustness:
        light_rows = [_light_row(robustness) for robustness in result.robustness]
        header = ("light", "false alarms", "defects found", "image AUROC")
        paragraphs.append(common.format_table(light_rows, header))
    if result.mismatch:
        paragraphs.append(f"warning: {result.mismatch}")
    if result.left_out:
        paragraphs.append(common.left_out_line(result, "the model"))
    return "\n\n".join(filter(None, paragraphs))


def _kinds_table(result: Evaluation) -> str:
    """Return the table of an evaluation with a row for each kind of pictures."""
    rows = []
    for kind, figures in result.kinds.items():
        mean_score = f"{figures['mean_score']:.4g}"
        median_severity = f"{figures['median_severity']:+.1f}"
        rows.append((kind, figures["images"], figures["anomalous"], mean_score, median_severity))
    header = (
        "kind",
        f"{result.noun}s",
        "called anomalous",
        "mean score",
        "median severity (anomalous: above 0)",
    )
    return common.format_table(rows, header)


def _decision_lines(result: Evaluation) -> Iterator[str]:
    """Yield a line on the found defects and a line on the false alarms, each with its 95 % interval."""
    defects = result.defects
    if defects["images"]:
        low, high = defects["interval"]
        noun = "defective parts" if result.parts else "defects"
        yield f"{_found_text(defects)} {noun} found (95 %: {low:.0%} to {high:.0%} of such {noun})"
    alarms = result.false_alarms
    if alarms["measured"] is None:
        return
    low, high = alarms["interval"]
    promise = "no promise"
    if alarms["expected"] is not None:
        outcome = "broken, see below" if alarms["broken"] else "kept"
        promise = f"promise of {alarms['expected']:.1%} {outcome}"
    alarm_count = round(alarms["measured"] * alarms["images"])
    good_pictures = pluralize(alarms["images"], f"good {result.noun}")
    yield (
        f"false alarms: {alarm_count} of {good_pictures} (95 %: {low:.0%} to {high:.0%} of such); {promise}"
    )


def _found_text(defects: Mapping[str, object]) -> str:
    """Return the number of found defects, and of how many."""
    return f"{defects['found']} of {defects['images']}"


def _parts_text(statistics: Json) -> str:
    """Return the text of how well parts are judged; `statistics` is the value of `part_statistics`."""
    low, high = statistics["interval"]
    text = (
        f"{statistics['promise']}\n"
        f"parts: {statistics['false_alarms']} of {statistics['good']} good called anomalous "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    if statistics["broken"]:
        text += ", more than promised"
    text += f", {statistics['found']} of {statistics['defective']} defective found"
    if statistics["incomplete"]:
        text += f", {statistics['incomplete']} incomplete"
    if statistics["auroc"] is not None:
        text += f", AUROC {statistics['auroc']:.4f}"
    return text


def _light_row(robustness: Robustness) -> tuple[str, ...]:
    """Return the cells of a light: its name, false alarms, defects found, image AUROC."""

    def rate_text(count: int, total: int) -> str:
        return f"{count / total:.1%} ({count} of {total})" if total else "n/a"

    auroc_text = "n/a" if robustness.image_auroc is None else f"{robustness.image_auroc:.4f}"
    return (
        robustness.light.name,
        rate_text(robustness.false_alarms, robustness.good),
        rate_text(robustness.found, robustness.defective),
        auroc_text,
    )


# -------------------------------------------------------------------------------------- several categories


def _run_each(args: argparse.Namespace) -> int:
    """Evaluate a model of several products or views; return the exit code.

    For a model of products, also measure how well each is recognised; for views, how well parts are judged.
    """
    from flawscope.datasets import find_categories

    model = common.load_model(args, args.model)
    if datasets := _view_datasets(args, model):
        names = tuple(datasets)
    elif args.category:
        has_several = common.has_several_categories(args)
        names = common.selected_categories(args) if has_several else (args.category,)
    else:
        names = tuple(name for name in find_categories(args.data) if name in model.products)
    if not names:
        raise InputError(f"{args.data} has none of the products {', '.join(model.products)}: give another")
    for name in names:
        model.product(name)  # raises InputError if the model lacks it
    _check_table(args)
    return _run_several(args, names, model, datasets)


def _view_datasets(args: argparse.Namespace, model: Predictor | Router) -> dict[str, Dataset]:
    """Return the test pictures of each view; empty for a model of several products."""
    from flawscope.datasets.dataset import split_by_view

    pattern = model.views
    if pattern is None:
        return {}
    if common.has_several_categories(args):
        raise InputError("the model is of one product's views: name one --category")
    dataset = _open_dataset(args, model.facts)
    # in a split that the program made, training pictures that this model has not learnt are tested, too
    splits = ("test", "train") if dataset.drawn_split else ("test",)
    return split_by_view(dataset, pattern, *splits)


def _recognition(model: Predictor | Router, name: str, result: Evaluation) -> Json:
    """Count a product's test pictures, and those that the model takes for another product.

    Returns:
        `pictures`, the number of readable test pictures; and `mistaken`: for each other product, or "none of
        these", the number of the pictures that were taken for it.
    """
    from flawscope.results.prediction import Prediction

    paths = [os.fspath(picture.item.path) for picture in result.pictures]
    picture_count = 0
    mistaken = Counter[str]()
    for _, recognition in model.recognise(paths):
        if isinstance(recognition, InputError):
            continue
        picture_count += 1
        if recognition.product != name:
            mistaken[recognition.product or Prediction.NO_PRODUCT_NAME] += 1
    return {"pictures": picture_count, "mistaken": dict(mistaken)}


def _run_several(
    args: argparse.Namespace,
    names: Sequence[str],
    model: Predictor | Router | None = None,
    datasets: Mapping[str, Dataset] = MappingProxyType({}),
) -> int:
    """Evaluate one model for each category, or a joint model; print and write one table, averages last.

    Args:
        args: Arguments of the call.
        names: Names of the categories, products or views.
        model: Model of several products or views; None: each category has a model of its own.
        datasets: Data sets by view, if the model is of views; else empty.

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
    document_by_category: dict[str, Json] = {}
    judged_pictures: list[tuple[Item, Prediction]] = []  # test pictures of all views, with their predictions

    def evaluate_category(name: str) -> int:
        """Evaluate a category, product or view, add its document, and return the exit code."""
        changes = {"category": name, "out": str(folder / name) if folder else None}
        if model is None:
            changes["model"] = str(_model_path(args.model, name))
        call = argparse.Namespace(**{**vars(args), **changes})
        predictor = None if model is None else model.products[name]
        result, failures = evaluate_model(call, predictor=predictor, dataset=datasets.get(name))
        document_by_category[name] = result.to_dict()
        if model is not None and not datasets:  # a model of products
            document_by_category[name]["products"] = _recognition(model, name, result)
        if datasets:
            judged_pictures.extend((picture.item, picture.prediction) for picture in result.pictures)
        say(f"{name}: {result.counts()} in {format_duration(result.seconds)}")
        return common.report_failures(failures)

    code, reason_by_name = common.run_for_each(names, evaluate_category, debug=args.debug)
    if not document_by_category:
        return code
    kind = "category" if model is None else model.kind
    document = {
        "categories": document_by_category,
        "mean": _means(document_by_category),
        "failed": reason_by_name,
    }
    unread_failures = list[Failure]()
    if model is not None and datasets:  # a model of views
        parts = judge_parts(model, judged_pictures, unread_failures)
        document["parts"] = part_statistics(model, parts)
    common.show_document(args, document, lambda: _categories_text(document, kind))
    if args.out:
        rows = _category_rows(document, kind)
        path = output.path(TABLE_NAME) if folder else Path(args.out)
        write_table(path, rows, decimal_comma=args.decimal_comma)
    return max(code, common.report_failures(unread_failures))


def _check_table(args: argparse.Namespace) -> None:
    """Check the options on output, unless `--out` is a folder: folders of categories are checked later."""
    if not args.out or common.is_table(args.out):
        common.check_output(args)


def _model_path(folder: str, category: str) -> Path:
    """Return a category's model file in a folder; the fitted model comes before an exported one.

    Raises:
        InputError: The folder has no model of the category.
    """
    for suffix in MODEL_SUFFIXES:
        path = Path(folder) / f"{category}{suffix}"
        if path.is_file():
            return path
    raise InputError(f"{folder} has no {category}{MODEL_SUFFIXES[0]}: fit it with --category {category}")


def _means(documents: Documents) -> dict[str, float | None]:
    """Return the mean of each metric over the categories that have it; None if no category has it."""
    values_by_metric: dict[str, list[float]] = {}
    for document in documents.values():
        for metric, value in document["metrics"].items():
            values = values_by_metric.setdefault(metric, [])
            if value is not None:
                values.append(value)
    return {
        metric: sum(values) / len(values) if values else None for metric, values in values_by_metric.items()
    }


def _count_mistaken(documents: Documents, names: Iterable[str]) -> int:
    """Return the number of pictures of these products that were taken for another product, or for none."""
    total = 0
    for name in names:
        counts_by_wrong_product = documents[name]["products"]["mistaken"]
        total += sum(counts_by_wrong_product.values())
    return total


def _categories_text(document: Facts, kind: str) -> str:
    """Return the text of several evaluations: the table of metrics, remarks, and how well parts are judged.

    Args:
        document: The document of `evaluate --json`.
        kind: "category", "product" or "view".
    """
    document_by_category = document["categories"]
    texts = [_metrics_table(document, kind)]
    for name, category_document in document_by_category.items():
        texts += [f"{name}: {line}" for line in category_document["remarks"]]
    for name, category_document in document_by_category.items():
        if category_document.get("parts"):
            texts.append(f"{name}: {_parts_text(category_document['parts'])}")
    if document.get("parts"):
        texts.append(_parts_text(document["parts"]))
    return "\n\n".join(texts)


def _metrics_table(document: Facts, kind: str) -> str:
    """Return the table of metrics with a row for each category, and the means last."""
    from flawscope.evaluation.benchmark.tables import METRICS

    document_by_category = document["categories"]

    def metric_cells(metrics: Mapping[str, float | None]) -> list[str]:
        values = [metrics.get(name) for name in METRICS]
        return ["n/a" if value is None else f"{value:.4f}" for value in values]

    def mistaken_cell(names: Iterable[str]) -> str:
        picture_count = sum(document_by_category[name]["products"]["pictures"] for name in names)
        return f"{_count_mistaken(document_by_category, names)} of {picture_count}"

    header = [kind, *METRICS.values(), "false alarms", "defects found"]
    rows: list[list[str]] = []
    for name, category_document in document_by_category.items():
        rate = category_document["false_alarms"]["measured"]
        alarms = "" if rate is None else f"{rate:.1%}"
        defects = _found_text(category_document["defects"]) if category_document["defects"]["images"] else ""
        rows.append([name, *metric_cells(category_document["metrics"]), alarms, defects])
    mean_row = [f"mean of {len(document_by_category)}", *metric_cells(document["mean"]), "", ""]
    if kind == "product":
        header.append("mistaken")
        for row, name in zip(rows, document_by_category, strict=True):
            row.append(mistaken_cell([name]))
        mean_row.append(mistaken_cell(names=document_by_category))
    return common.format_table([*rows, mean_row], header)


def _category_rows(document: Facts, kind: str) -> Iterator[Sequence[object]]:
    """Yield the rows of the table of several evaluations: a heading, a row for each category, the means.

    Args:
        document: The document of `evaluate --json`.
        kind: "category", "product" or "view".
    """
    document_by_category = document["categories"]
    has_products = kind == "product"

    metrics = list(document["mean"])
    count_columns = [
        "false_alarms",
        "false_alarms_expected",
        "good_pictures",
        "defects_found",
        "defective_pictures",
    ]
    heading = ["category", "method", "pictures", *metrics, *count_columns]
    if has_products:
        heading.append("mistaken")
    yield heading
    for name, category_document in document_by_category.items():
        row = [name, category_document["method"], category_document["images"]]
        row += [category_document["metrics"].get(metric) for metric in metrics]
        row += [category_document["false_alarms"][key] for key in ("measured", "expected", "images")]
        row += [category_document["defects"][key] for key in ("found", "images")]
        if has_products:
            row.append(_count_mistaken(document_by_category, [name]))
        yield row
    means = document["mean"].values()
    blank_counts = [""] * len(count_columns)
    mean_row = [f"mean of {len(document_by_category)}", "", "", *means, *blank_counts]
    if has_products:
        mean_row.append(_count_mistaken(document_by_category, names=document_by_category))
    yield mean_row
