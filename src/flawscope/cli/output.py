"""Lists the pictures to judge, and prints and writes their results.

A result is a printed line, a row of the table and files in the results folder.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flawscope.cli import common
from flawscope.errors import InputError, join_names, pluralize
from flawscope.pages import report

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.threshold import Calibration
    from flawscope.pictures.decoding import PictureSource
    from flawscope.pictures.levels import Levels
    from flawscope.predictor import Predictor
    from flawscope.predictor.parts import PartCollector
    from flawscope.predictor.router import Router
    from flawscope.results.part import PartPrediction
    from flawscope.results.prediction import MismatchDetector, Prediction
    from flawscope.results.result_workbook import ExcelTable
    from flawscope.results.run import ResultsFolder
    from flawscope.results.table import TableForm, TableWriter, Unjudged
    from flawscope.results.tolerance import Tolerances
    from flawscope.types import Facts, Json


MAX_NAMED_FILES = 20  # in a line
STDIN = "-"  # argument that means stdin, and the name of a picture from it
ANOMALY_EXIT_CODE = 3  # with `--fail-on-anomaly`
UNSURE_EXIT_CODE = 4
HEAD_SIZE = 64  # first bytes of stdin, which tell a picture from text


@dataclass
class PictureInputs:
    """Inputs to judge.

    Attributes:
        sources: Files, or the content of one picture.
        total: Number of inputs; 0: it is not known, since paths come one by one from stdin.
        side_files: Files that are no pictures, and masks.
        errors: Why a source is no picture, by the source; only such sources have an entry.
    """

    sources: Iterable[PictureSource]
    total: int = 0
    side_files: list[str] = field(default_factory=list)
    errors: dict[Path, str] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path] | None:
        """Files to judge; None: they come one by one, and are not known yet."""
        if not self.total:
            return None
        return [source for source in self.sources if isinstance(source, Path)]


def collect_inputs(specs: list[str]) -> PictureInputs:
    """List the inputs that the arguments of a call mean: files, folders, patterns, or `-` alone.

    An argument that names no picture is listed with its error, which is reported when its turn comes.

    Raises:
        InputError: No argument means a picture.
    """
    from flawscope.pictures.decoding import is_picture
    from flawscope.pictures.listing import list_inputs
    from flawscope.pictures.mask_files import find_masks

    if specs == [STDIN]:
        return _read_stdin(sys.stdin.buffer)
    if STDIN in specs:
        raise InputError("- stands alone: leave out the other pictures, or -; a file of this name is ./-")
    sources: dict[Path, None] = {}  # an ordered set
    side_files: list[str] = []
    errors: dict[Path, str] = {}
    for spec in specs:
        try:
            pictures, other_files = list_inputs(spec)
        except InputError as error:
            pictures = [Path(spec)]
            other_files = []
            errors[Path(spec)] = str(error)
        sources |= dict.fromkeys(pictures)
        side_files += map(os.fspath, other_files)
    # masks may be among the arguments, as when a shell expands *.png
    masks = find_masks(path for path in sources if is_picture(path) and path not in errors)
    for mask in masks:
        del sources[mask]
        side_files.append(os.fspath(mask))
    if errors and len(errors) == len(sources):
        first_error = next(iter(errors.values()))
        raise InputError(first_error)
    if not sources:
        raise InputError(f"no picture to judge, only {join_names(side_files)}")
    return PictureInputs([*sources], total=len(sources), side_files=side_files, errors=errors)


def _read_stdin(stream: IO[bytes]) -> PictureInputs:
    """Read stdin, which holds the bytes of one picture, or a path on each line.

    Raises:
        InputError: Stdin holds neither.
    """
    from flawscope.pictures.decoding import is_encoded
    from flawscope.pictures.text_files import UTF_16_MARKS, text_lines, unquoted

    head = b""
    if isinstance(stream, io.BufferedReader):
        head = stream.peek(HEAD_SIZE)[:HEAD_SIZE]  # `peek` may return more
    is_text = b"\0" not in head or head.startswith(UTF_16_MARKS)
    if is_text:
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in text_lines(stream))
        paths = (Path(unquoted(line)) for line in lines if line.strip())
        return PictureInputs(paths)
    if not is_encoded(head):
        raise InputError(
            "what comes on stdin is neither a picture that can be read nor a list of paths "
            "in UTF-8; save a list as UTF-8"
        )
    return PictureInputs([stream.read()], total=1)


def file_remarks(side_files: Sequence[str]) -> Iterator[str]:
    """Yield a remark on files beside the pictures, if there are any, such as masks."""
    from flawscope.pictures.decoding import is_picture

    if side_files:
        has_masks = any(map(is_picture, side_files))  # a picture beside the pictures is a mask
        masks = ", masks among them" if has_masks else ""
        files = pluralize(len(side_files), "file")
        names = join_names(side_files, MAX_NAMED_FILES)
        yield f"{files} beside the pictures not looked at{masks}: {names}"


# ------------------------------------------------------------------------------------------------- results


def prediction_line(prediction: Prediction) -> str:
    """Return the line for a picture: decision, severity, score, p-value, path and remarks."""
    from flawscope.results.findings import severity_text
    from flawscope.results.prediction import NEAR_WORDS, Prediction

    remarks = []
    product = prediction.product_name
    if product not in ("", Prediction.NO_PRODUCT_NAME):
        p_value = prediction.product_p_value
        remarks.append(product if p_value is None else f"{product}, p {p_value:.3f}")
    if prediction.is_anomalous and prediction.region_kinds:
        strongest_region = prediction.regions[0]
        remarks.append(strongest_region.kinds_text)
    if prediction.near:
        remarks.append(NEAR_WORDS)
    remarks += [finding.words for finding in prediction.findings]
    remarks_text = "".join(f"  ({remark})" for remark in remarks if remark)
    return (
        f"{prediction.decision:<10} severity {severity_text(prediction.severity):<7} "
        f"score {prediction.score:<9.4g} p {prediction.p_value:.3f}  {prediction.path}{remarks_text}"
    )


def show_result(result: Prediction | Unjudged, *, as_json: bool, flush: bool) -> None:
    """Print the line of an input: JSON, or text for a person.

    Without JSON, nothing is printed for an input that was not judged: `Output` reports it as skipped.
    """
    from flawscope.results.table import Unjudged

    if as_json:
        common.show(json.dumps(result.to_dict(), allow_nan=False), flush=flush)
    elif not isinstance(result, Unjudged):
        common.show(prediction_line(result), flush=flush)


class Output:
    """Prints and writes results as the call asks.

    A file that cannot be written is reported; the run goes on.

    Args:
        args: Arguments of the call: `json`, `out`, `maps`, `labels`, `only_anomalous`, `quiet`.
        root: Common folder of the inputs outside the working folder; None: it is not known.
        inputs: All inputs; None: they come one by one, and are not known yet.
        table_form: Columns of the tables, as `TableWriter` takes them: kinds, products, aligned, part_of,
            model.
        parts: Groups pictures into parts; pictures wait until all views of their part are there. None: there
            are no decisions on parts.
        count: Called with each prediction when it is printed; if there are parts, the prediction has the
            decision on its part.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        root: Path | None,
        *,
        inputs: Iterable[Path] | None,
        table_form: TableForm | None = None,
        parts: PartCollector | None = None,
        count: Callable[[Prediction], None],
    ):
        from flawscope.results.labels import LabelWriter
        from flawscope.results.result_workbook import open_table
        from flawscope.results.run import ResultsFolder, WriteErrors

        table_form = table_form or {}
        self.args = args
        self.parts = parts
        self.count = count
        self.has_products = table_form.get("products", False)
        # sources of the pictures whose part is not decided yet: by part, then by the picture's path
        self._waiting_sources: dict[str, dict[str, PictureSource]] = {}
        self._is_grouped = inputs is not None  # whether the pictures of a part follow each other
        self._last_part = ""  # name of the last picture's part
        self.total = 0  # number of inputs
        self.flush_each = inputs is None  # the sender of the paths may wait for each answer
        self.decided_parts: list[PartPrediction] = []
        self.unwritten = WriteErrors(common.say)
        self.failures: list[str] = []
        self.results: ResultsFolder | None = None
        self.table: TableWriter | ExcelTable | None = None
        self.labels: LabelWriter | None = None
        if args.out and common.is_table(args.out):
            self.table = open_table(args.out, decimal_comma=args.decimal_comma, **table_form)
        elif args.out:
            say = common.say_unless_quiet(args)
            maps = args.maps or "png16"
            self.results = ResultsFolder(
                Path(args.out),
                root,
                say,
                maps=maps,
                inputs=inputs,
                decimal_comma=args.decimal_comma,
                **table_form,
            )
            self.table = self.results.table
            if args.labels:
                self.labels = LabelWriter(args.labels, self.results.output)

    def add(self, result: Prediction | Unjudged, source: PictureSource) -> None:
        """Print and write the result of an input, or keep it until its part is decided."""
        from flawscope.results.table import Unjudged

        if self.parts is None or isinstance(result, Unjudged):
            self._report(result, source)
            return
        path = str(result.path)
        part_name = self.parts.name_part(path)
        if self._is_grouped and part_name != self._last_part:
            self.decide_incomplete()  # the earlier parts get no more pictures
        self._last_part = part_name
        # copied, since the map is a view: it would keep the maps of the whole batch in memory
        result_with_own_map = replace(result, map=result.map.copy())
        try:
            decided_part = self.parts.add(result_with_own_map)
        except InputError as error:
            self._report(Unjudged(path, str(error)), source)
            return
        self._waiting_sources.setdefault(part_name, {})[path] = source
        if decided_part is not None:
            self._report_part(decided_part)

    def decide_incomplete(self) -> None:
        """Decide on the parts that lack views, and print and write them; call it when no more views come."""
        if self.parts is None:
            return
        for part in self.parts.decide_incomplete():
            self._report_part(part)

    def _report(self, result: Prediction | Unjudged, source: PictureSource) -> None:
        """Print and write the result of an input, and count its prediction."""
        from flawscope.results.table import Unjudged

        self.total += 1
        is_shown = isinstance(result, Unjudged) or result.is_anomalous or not self.args.only_anomalous
        if is_shown:
            show_result(result, as_json=self.args.json, flush=self.flush_each)
        if isinstance(result, Unjudged):
            self._add_failure(result.error)
        if self.table:
            with self.unwritten.collect("row"):
                self.table.add_result(result)
        if self.results:
            # without its source, an input gets a row and no files
            self._write_to_folder(self.results, result, source if is_shown else None)
        if not isinstance(result, Unjudged):
            self.count(result)

    def _write_to_folder(
        self, results: ResultsFolder, result: Prediction | Unjudged, source: PictureSource | None
    ) -> None:
        """Write an input's files, and its row of the workbook.

        Args:
            results: The results folder.
            result: The input's prediction, or why it was not judged.
            source: The picture; None: only the row is written.
        """
        if source is not None:
            self._write_files(results, result, source)
        with self.unwritten.collect("row"):
            results.add_to_workbook(result)

    def _write_files(
        self, results: ResultsFolder, result: Prediction | Unjudged, source: PictureSource
    ) -> None:
        """Write the files of an input that the results folder has: details, drawings, labels."""
        from flawscope.results.table import Unjudged

        with self.unwritten.collect("JSON file"):
            results.add_details(result)
        if isinstance(result, Unjudged):
            return
        with self.unwritten.collect("picture"):
            results.pictures.add(Path(str(result.path)), result, source=source)
        if self.labels:
            self.labels.add(result)

    def _add_failure(self, error: str) -> None:
        """Keep the reason why an input was not judged; if `flush_each`, print it at once."""
        self.failures.append(error)
        if self.flush_each:
            common.say(f"skipped: {error}")

    def _report_part(self, part: PartPrediction) -> None:
        """Print and write a part's pictures, then print the part."""
        from flawscope.results.table import Unjudged

        sources = self._waiting_sources.pop(part.part)
        for picture in part.pictures().values():
            self._report(picture, sources.pop(str(picture.path)))
        # a source that is left was judged again, for another product, and could no longer be read
        for path, source in sources.items():
            self._report(Unjudged(path, f"{path}: it cannot be read any more"), source)
        # without their maps, which would fill the memory
        views_without_maps = {
            view: replace(prediction, map=prediction.map[:0]) for view, prediction in part.views.items()
        }
        self.decided_parts.append(replace(part, views=views_without_maps))
        if part.decision != "good" or not self.args.only_anomalous:
            line = json.dumps(part.to_dict(), allow_nan=False) if self.args.json else part.line()
            common.show(line, flush=self.flush_each)

    def finish(self, facts: Json, levels: Levels | None = None) -> None:
        """Write the final files, and say where they are.

        Args:
            facts: Facts on the run; if there is a results folder, `complete` and `unwritten` are set in them.
            levels: Levels at which pictures with more than 8 bits are shown.
        """
        from flawscope.results.result_workbook import run_totals

        rows_of_parts: list[Sequence[object]] = []
        if self.parts:
            rows_of_parts = [*part_rows(self.decided_parts, has_products=self.has_products)]
        workbook = self.results.workbook if self.results else None
        for table in (self.table, workbook):
            if table is None:
                continue
            with self.unwritten.collect("table"):
                table.close(run_totals(facts), rows_of_parts)
        if self.results:
            self._finish_folder(self.results, facts, levels, rows_of_parts)
        for line in self.unwritten.lines():
            common.say(line)

    def _finish_folder(
        self,
        results: ResultsFolder,
        facts: Json,
        levels: Levels | None,
        rows_of_parts: list[Sequence[object]],
    ) -> None:
        """Write the final files of the results folder; set `complete` and `unwritten` in the facts.

        Args:
            results: The results folder.
            facts: Facts on the run, for the summary.
            levels: Levels at which pictures with more than 8 bits are shown.
            rows_of_parts: Rows of the table of parts, the heading first.
        """
        if self.parts:
            self._write_parts_table(results, rows_of_parts)
        if self.labels:
            with self.unwritten.collect("file of labels"):
                self.labels.finish()
        overlay_failures = results.pictures.failures
        self.failures += overlay_failures
        if facts["complete"]:  # after Ctrl-C nobody waits for a page
            with self.unwritten.collect("page"):
                self._write_page(results, facts, levels)
        with self.unwritten.collect("summary"):
            unwritten_counts = dict(self.unwritten.counts)
            if overlay_failures:
                unwritten_counts["overlay"] = len(overlay_failures)
            is_complete = facts["complete"] and not unwritten_counts
            facts |= {"complete": is_complete, "unwritten": unwritten_counts}
            results.write_summary(facts)
        lacks_rows = self.unwritten.counts["row"] or self.unwritten.counts["table"]
        rows_text = "rows" if lacks_rows else "a row for every input"
        say = common.say_unless_quiet(self.args)
        say(f"results in {self.args.out}: {rows_text} in {' and '.join(results.tables)}")

    def _write_parts_table(self, results: ResultsFolder, rows: list[Sequence[object]]) -> None:
        """Write the CSV table of parts from the rows of `part_rows`."""
        from flawscope.results.excel import write_table
        from flawscope.results.run import PARTS_TABLE_NAME

        with self.unwritten.collect("table"):
            path = results.output.path(PARTS_TABLE_NAME)
            write_table(path, rows, decimal_comma=self.args.decimal_comma)

    def _write_page(self, results: ResultsFolder, facts: Json, levels: Levels | None) -> None:
        """Write the page beside the table, or print which library the page needs and this machine lacks."""
        from flawscope.pages.report.pages import predictions_page
        from flawscope.results.run import TABLE_NAME
        from flawscope.results.table import read_table

        say = common.say_unless_quiet(self.args)
        try:
            report.require_libraries(plots=False)
        except InputError as error:
            say(f"no page: {error}")
            return
        path = results.output.path(report.REPORT_NAME)
        table = read_table(results.out / TABLE_NAME)
        step = common.progress_for(self.args)
        page = predictions_page(table, results.severest, facts, levels, step, parts=self.decided_parts)
        report.write_page(path, page)
        say(f"page: {path}")

    @property
    def has_complete_folder(self) -> bool:
        """Whether there is a results folder, with all files written."""
        return self.results is not None and not self.unwritten.counts

    def report_failures(self) -> int:
        """Report skipped inputs; return 1 if an input was not judged or a result not written, else 0."""
        code = common.report_failures(self.failures, already_reported=self.flush_each, total=self.total)
        return code or int(bool(self.unwritten.counts))


def fail_on_anomaly(code: int, totals: MismatchDetector) -> int:
    """Return the exit code of `--fail-on-anomaly`.

    The first of these rules that applies gives the code:

    - 3: a picture is anomalous
    - `code`: it is not 0
    - 4: a picture is within tolerance, or is called good although the false-alarm rate does not hold for it
    - 0: none of these applies

    Args:
        code: Exit code of the run without `--fail-on-anomaly`.
        totals: Counts of the run.
    """
    if totals.anomalous:
        return ANOMALY_EXIT_CODE
    if code:
        return code
    is_unsure = totals.tolerated or totals.beyond_promise
    return UNSURE_EXIT_CODE if is_unsure else 0


def part_rows(parts: Iterable[PartPrediction], has_products: bool) -> Iterator[Sequence[object]]:
    """Yield the rows of the table of parts, the heading first; `has_products` adds the products."""
    heading = ["part", "decision", "p_value", "score", "worst", "missing", "severity"]
    if has_products:
        heading.append("product")
    yield heading
    for prediction in parts:
        row = [
            prediction.part,
            prediction.decision,
            prediction.p_value,
            prediction.score,
            prediction.worst,
            " ".join(prediction.missing),
            prediction.severity,
        ]
        if has_products:
            row.append(prediction.product_name)
        yield row


class Summary:
    """Facts on a model, of one product or of several, and counts of the pictures that it judges in a run."""

    def __init__(self, model: Predictor | Router):
        from flawscope.pictures.levels import widest
        from flawscope.results.by_product import ProductCounts

        self.kind = model.kind
        self.has_products = model.facts.is_joint
        self.manifests = {name: product.manifest for name, product in model.products.items()}
        self.product = _join_product_names(self.manifests, self.kind)
        preprocesses = [manifest.preprocess for manifest in self.manifests.values()]
        all_levels = [preprocess.levels for preprocess in preprocesses if preprocess.levels is not None]
        self.levels = widest(all_levels)
        self.parts = model.parts()
        self.table_form: TableForm = {
            "kinds": any(manifest.kinds is not None for manifest in self.manifests.values()),
            "products": self.has_products,
            "aligned": any(preprocess.reference is not None for preprocess in preprocesses),
        }
        if self.parts:
            self.table_form["part_of"] = self.parts.name_part
        self.tolerances: Tolerances | None = None  # rules of `--tolerances`
        if self.parts:
            expected_rate = self.parts.expected_rate
        else:
            expected_rate = max(manifest.calibration.expected_rate for manifest in self.manifests.values())
        self.totals = ProductCounts(expected_rate)
        self.p_values: list[float] = []  # of the pictures, by `Calibration.unit_p_values`
        self.promised = all(manifest.calibration.promised for manifest in self.manifests.values())

    def add(self, prediction: Prediction) -> None:
        """Count a picture's prediction, and keep its p-value (`Calibration.unit_p_values`)."""
        self.totals.add(prediction)
        manifest = self.manifests.get(prediction.product_name)
        if manifest is not None:
            self.p_values.append(float(manifest.calibration.unit_p_values(prediction.score)))

    def batch(self, rate: float) -> Json:
        """Return facts on the pictures that can be called defective together at a false discovery rate.

        Args:
            rate: The false discovery rate.

        Returns:
            `rate`; `p_value`, up to which pictures are called defective; `defective`, the number of these;
            `pictures`, the number of all; `least`, the smallest p-value that a picture can have; `promised`,
            whether the model promises its false-alarm rate.
        """
        from flawscope.calibration.promise import batch_limit

        limit = batch_limit(self.p_values, rate) if self.promised else 0.0
        # no p-value of a model with n good units is below 1 / (n + 1); where there are several models, the
        # one with the fewest units counts
        least = max(1 / (manifest.calibration.unit_count + 1) for manifest in self.manifests.values())
        return {
            "rate": rate,
            "p_value": limit,
            "defective": sum(p_value <= limit for p_value in self.p_values),
            "pictures": len(self.p_values),
            "least": least,
            "promised": self.promised,
        }

    def facts(self, args: argparse.Namespace, unjudged_count: int) -> Json:
        """Return the facts of the run for `results.json`.

        Args:
            args: Arguments of the call.
            unjudged_count: Number of inputs that were not judged.
        """
        facts = run_facts(args, self.manifests, self.totals, unjudged_count, self.kind)
        if self.parts is not None:
            facts |= {"promise": self.parts.promise(), "expected_rate": self.parts.expected_rate}
        if self.tolerances is not None:
            facts |= {"within_tolerance": self.totals.tolerated, "tolerances": self.tolerances.to_dict()}
        if self.has_products:
            facts["none_of_these"] = self.totals.unrecognised
            for name, product_facts in facts["products"].items():
                product_facts["pictures"] = self.totals.pictures_by_product[name]
                product_facts["anomalous"] = self.totals.anomalous_by_product[name]
        return facts

    def totals_text(self, decided_parts: Sequence[PartPrediction] = ()) -> str:
        """Return lines with the number of anomalous pictures, the expected false-alarm rate, and a legend.

        Args:
            decided_parts: The decided parts. A model that decides on parts counts these, not the pictures.
        """
        if self.parts is not None:
            return f"{parts_line(decided_parts, self.parts.promise())}\n{LEGEND}{self._beyond_text()}"
        if not self.kind:  # a single product, with the name ""
            calibration = self.manifests[""].calibration
            totals = totals_line(self.totals, calibration, has_tolerances=self.tolerances is not None)
            return totals + self._beyond_text()
        by_product = f": {self.totals.lines()}" if self.has_products else ""
        pictures = pluralize(self.totals.count, "picture")
        return f"{self.totals.anomalous} of {pictures} anomalous{by_product}{self._beyond_text()}"

    def _beyond_text(self) -> str:
        """Return a line break and the line on pictures for which the rate does not hold; "" without any."""
        line = self.totals.beyond_line()
        return f"\n{line}" if line else ""


def _join_product_names(manifests: Mapping[str, Manifest], kind: str) -> str:
    """Return the names of a model's products or views; for a model of one product, its category."""
    return ", ".join(name if kind else manifest.category for name, manifest in manifests.items())


def run_facts(
    args: argparse.Namespace,
    manifests: Mapping[str, Manifest],
    totals: MismatchDetector,
    unjudged_count: int,
    kind: str = "",
) -> Json:
    """Return the facts of a run, for `results.json`.

    Args:
        args: Arguments of the call.
        manifests: Manifests of the model's products or views by name; a single product has the name "".
        totals: Counts of the judged pictures.
        unjudged_count: Number of inputs that were not judged.
        kind: "product" or "view"; empty: the model has a single product.
    """
    from flawscope._version import __version__

    calibration_by_name = {name: manifest.calibration for name, manifest in manifests.items()}
    rates_by_name = {}
    promises = []
    for name, calibration in calibration_by_name.items():
        rates_by_name[name] = {
            "target_rate": calibration.rate,
            "expected_rate": calibration.expected_rate,
            "score_threshold": calibration.score_threshold,
            "mask_threshold": calibration.mask_threshold,
            "promised": calibration.promised,
        }
        promises.append(f"{name}: {calibration.brief()}" if kind else calibration.brief())
    rates: Json = {f"{kind}s": rates_by_name} if kind else rates_by_name[""]  # "": the single product
    product = _join_product_names(manifests, kind)
    methods = dict.fromkeys(manifest.method for manifest in manifests.values())  # an ordered set
    expected_rate = max(calibration.expected_rate for calibration in calibration_by_name.values())
    promised = all(calibration.promised for calibration in calibration_by_name.values())
    return {
        "model": os.path.basename(args.model),
        "category": product,
        "product": product,
        "method": ", ".join(methods),
        "inputs": totals.count + unjudged_count,
        "judged": totals.count,
        "anomalous": totals.anomalous,
        "unjudged": unjudged_count,
        **rates,
        "expected_rate": expected_rate,
        "promise": "; ".join(promises),
        "promised": promised,
        "beyond_promise": dict(totals.beyond_promise),
        "warning": totals.warning() or None,
        "flawscope": __version__,
    }


# What the numbers of `prediction_line` mean
LEGEND = (
    "severity: above 0 is anomalous, 3 is clear, - is anomalous by what stands in parentheses; p: the share "
    "of good pictures that score as high"
)


def totals_line(totals: MismatchDetector, calibration: Calibration, has_tolerances: bool = False) -> str:
    """Return lines with the number of anomalous pictures, the expected rate, and a legend of the numbers.

    Args:
        totals: Counts of the run.
        calibration: Calibration of the model.
        has_tolerances: Whether tolerances are applied.
    """
    tolerated = f", {totals.tolerated} within tolerance" if has_tolerances else ""
    pictures = pluralize(totals.count, "picture")
    return f"{totals.anomalous} of {pictures} anomalous{tolerated}\n{calibration.brief()}\n{LEGEND}"


def batch_line(batch: Facts) -> str:
    """Return the line on the result of `--false-discovery-rate`; `batch` is the value of `Summary.batch`."""
    pictures = pluralize(batch["pictures"], "picture")
    if batch["defective"]:
        return (
            f"{batch['defective']} of {pictures} can be called defective, those of p {batch['p_value']:.3g} "
            f"or less: on average at most {batch['rate']:.1%} of them are good, if each picture shows "
            "another part"
        )
    if not batch["promised"]:
        return "the model promises nothing: no picture can be called defective at a false discovery rate"
    return (
        f"none of {pictures} can be called defective at a false discovery rate of {batch['rate']:.1%}: p is "
        f"{batch['least']:.2g} at least, more good pictures in the model would lower that"
    )


def parts_line(parts: Sequence[PartPrediction], promise: str) -> str:
    """Return the line with the numbers of anomalous and incomplete parts, and the expected rate."""
    from flawscope.results.part import ANOMALOUS
    from flawscope.results.prediction import INCOMPLETE

    counts = Counter(part.decision for part in parts)
    incomplete = f", {counts[INCOMPLETE]} incomplete" if counts[INCOMPLETE] else ""
    return f"{counts[ANOMALOUS]} of {pluralize(len(parts), 'part')} anomalous{incomplete}; {promise}"


def say_remarks(side_files: Sequence[str], totals: MismatchDetector) -> None:
    """Print remarks on files beside the pictures, and a warning if the pictures do not fit the model.

    Args:
        side_files: Files that were not judged; a `TruncatedList` names only the first.
        totals: Counts of the run.
    """
    from flawscope.pictures.decoding import is_picture
    from flawscope.pictures.listing import reason_not_judged

    named_files = side_files[:]  # a slice of a `TruncatedList` has only the files that it names
    for path in named_files:
        if is_picture(path):
            common.say(f"not judged: {path}: {reason_not_judged(path)}")
    for line in file_remarks([path for path in named_files if not is_picture(path)]):
        common.say(line)
    unnamed_count = len(side_files) - len(named_files)
    if unnamed_count:
        common.say(f"{pluralize(unnamed_count, 'file')} more beside the pictures are not named here")
    if warning := totals.warning():
        common.say(f"warning: {warning}")
