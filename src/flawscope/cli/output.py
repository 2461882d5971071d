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


MOST_NAMED = 20  # files in a line
STDIN = "-"  # argument that means stdin, and the name of a picture from it


@dataclass
class PictureInputs:
    """Inputs to judge.

    Attributes:
        sources: Files, or the content of one picture.
        total: Number of inputs; 0 where paths come one by one from stdin.
        side_files: Files that are no pictures, and masks.
        errors: Reasons by the sources that do not exist.
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
    """List the inputs that the arguments mean.

    An argument that means none becomes a source with an error, reported in its place.

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
    sources: dict[Path, None] = {}  # each once
    beside: list[str] = []
    wrong: dict[Path, str] = {}
    for spec in specs:
        try:
            inputs, others = list_inputs(spec)
        except InputError as error:
            inputs = [Path(spec)]
            others = []
            wrong[Path(spec)] = str(error)
        sources |= dict.fromkeys(inputs)
        beside += map(os.fspath, others)
    masks = find_masks(path for path in sources if is_picture(path) and path not in wrong)
    for path in masks:  # of pictures that other arguments mean, as when a shell expands *.png
        del sources[path]
        beside.append(os.fspath(path))
    if len(wrong) == len(sources):
        raise InputError(next(iter(wrong.values()), f"no picture to judge, only {join_names(beside)}"))
    return PictureInputs([*sources], len(sources), beside, errors=wrong)


def _read_stdin(stream: IO[bytes]) -> PictureInputs:
    """Read stdin: one picture, or paths, one a line."""
    from flawscope.pictures.decoding import is_encoded
    from flawscope.pictures.text_files import UTF_16_MARKS, text_lines, unquoted

    head = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    if b"\0" not in head or head.startswith(UTF_16_MARKS):
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in text_lines(stream))
        return PictureInputs(Path(unquoted(line)) for line in lines if line.strip())
    if not is_encoded(head):
        raise InputError(
            "what comes on stdin is neither a picture that can be read nor a list of paths "
            "in UTF-8; save a list as UTF-8"
        )
    return PictureInputs([stream.read()], 1)


def file_remarks(beside: Sequence[str]) -> Iterator[str]:
    """Yield a remark on masks and files that are no pictures."""
    from flawscope.pictures.decoding import is_picture

    if beside:
        among = ", masks among them" if any(map(is_picture, beside[:])) else ""
        files = pluralize(len(beside), "file")
        yield f"{files} beside the pictures not looked at{among}: {join_names(beside, MOST_NAMED)}"


# ------------------------------------------------------------------------------------------------- results


def prediction_line(found: Prediction) -> str:
    """Return the line for a picture: decision, severity, score, p-value, path and remarks."""
    from flawscope.results.findings import severity_text
    from flawscope.results.prediction import NEAR_WORDS, Prediction

    p_value = "" if found.product_p_value is None else f", p {found.product_p_value:.3f}"
    recognised = found.product_name not in ("", Prediction.NO_PRODUCT_NAME)
    product = [f"{found.product_name}{p_value}"] if recognised else []
    kinds = [found.regions[0].kinds_text] if found.is_anomalous and found.region_kinds else []
    noticed = [finding.words for finding in found.findings]
    near = [NEAR_WORDS] if found.near else []
    words_beside = product + [text for text in kinds if text] + near + noticed
    remarks = "".join(f"  ({words})" for words in words_beside)
    return (
        f"{found.decision:<10} severity {severity_text(found.severity):<7} score {found.score:<9.4g} "
        f"p {found.p_value:.3f}  {found.path}{remarks}"
    )


def show_result(result: Prediction | Unjudged, *, as_json: bool, flush: bool) -> None:
    """Print a line of JSON, or a line for a person; for a person unjudged inputs are reported elsewhere."""
    from flawscope.results.table import Unjudged

    if as_json:
        common.show(json.dumps(result.to_dict(), allow_nan=False), flush=flush)
    elif not isinstance(result, Unjudged):
        common.show(prediction_line(result), flush=flush)


class Output:
    """Prints and writes results as the call asks.

    A file that cannot be written is reported, and judging and writing go on.

    Args:
        args: `json`, `out`, `maps`, `labels`, `only_anomalous`, `quiet`.
        root: Folder that inputs outside the working folder share; None: not known.
        inputs: All inputs, where they are known; None where they come one by one.
        table_form: As `TableWriter` takes it: kinds, products, aligned, part_of, model.
        parts: Groups pictures into parts, each of which waits until all its views are there; None: only
            pictures are decided on.
        count: Gets each prediction when it is printed, with the decision on its part.
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
        self.products = table_form.get("products", False)
        # sources of pictures whose part is not decided yet, by its name and their paths
        self._waiting: dict[str, dict[str, PictureSource]] = {}
        self._is_grouped = inputs is not None  # `PartCollector.group` has put the pictures of a part together
        self._part = ""  # of the last picture
        self.total = 0  # inputs
        self.flush_each = inputs is None  # somebody may wait for every line
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
                self.labels = LabelWriter(args.labels, self.results.own)

    def add(self, result: Prediction | Unjudged, source: PictureSource) -> None:
        """Print and write an input, or keep it until its part is decided."""
        from flawscope.results.table import Unjudged

        if self.parts is None or isinstance(result, Unjudged):
            self._report(result, source)
            return
        part = self.parts.name_part(str(result.path))
        if self._is_grouped and part != self._part:
            self.decide_incomplete()  # of the parts before no more pictures come
        self._part = part
        copied = replace(result, map=result.map.copy())  # a view into a batch would keep all of it
        try:
            decided = self.parts.add(copied)
        except InputError as error:
            self._report(Unjudged(str(result.path), str(error)), source)
            return
        self._waiting.setdefault(part, {})[str(result.path)] = source
        if decided is not None:
            self._report_part(decided)

    def decide_incomplete(self) -> None:
        """Print and write the parts that lack views: no more pictures of them come."""
        for found in self.parts.decide_incomplete() if self.parts else ():
            self._report_part(found)

    def _report(self, result: Prediction | Unjudged, source: PictureSource) -> None:
        """Print and write an input, and count its prediction."""
        from flawscope.results.table import Unjudged

        self.total += 1
        is_shown = isinstance(result, Unjudged) or result.is_anomalous or not self.args.only_anomalous
        if is_shown:
            show_result(result, as_json=self.args.json, flush=self.flush_each)
        if isinstance(result, Unjudged):
            self._fail(result.error)
        if self.table:
            with self.unwritten.collect("row"):
                self.table.add_result(result)
        if self.results:
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

    def _fail(self, error: str) -> None:
        self.failures.append(error)
        if self.flush_each:
            common.say(f"skipped: {error}")

    def _report_part(self, found: PartPrediction) -> None:
        """Print and write a part's pictures, then print the part."""
        from flawscope.results.table import Unjudged

        sources = self._waiting.pop(found.part)
        for picture in found.pictures().values():
            self._report(picture, sources.pop(str(picture.path)))
        for path, source in sources.items():  # another product's, and gone when it was judged anew
            self._report(Unjudged(path, f"{path}: it cannot be read any more"), source)
        views = {
            view: replace(prediction, map=prediction.map[:0]) for view, prediction in found.views.items()
        }
        self.decided_parts.append(replace(found, views=views))
        if found.decision != "good" or not self.args.only_anomalous:
            line = json.dumps(found.to_dict(), allow_nan=False) if self.args.json else found.line()
            common.show(line, flush=self.flush_each)

    def finish(self, facts: Json, levels: Levels | None = None) -> None:
        """Write the final files, and say where they are.

        Args:
            facts: Facts on the run; their `complete` is true only where all was judged and written.
            levels: Levels at which deep pictures are shown.
        """
        from flawscope.results.result_workbook import run_totals

        rows = [*part_rows(self.decided_parts, self.products)] if self.parts else []
        for table in (self.table, self.results.workbook if self.results else None):
            if table is None:
                continue
            with self.unwritten.collect("table"):
                table.close(run_totals(facts), rows)
        if self.results:
            self._finish_folder(self.results, facts, levels, rows)
        for line in self.unwritten.lines():
            common.say(line)

    def _finish_folder(
        self, results: ResultsFolder, facts: Json, levels: Levels | None, part_rows: list[Sequence[object]]
    ) -> None:
        """Write the final files of the results folder; its summary says what could not be written."""
        if self.parts:
            self._write_parts_table(results, part_rows)
        if self.labels:
            with self.unwritten.collect("file of labels"):
                self.labels.finish()
        undrawn = results.pictures.failures
        self.failures += undrawn
        if facts["complete"]:  # after Ctrl-C nobody waits for a page
            with self.unwritten.collect("page"):
                self._write_page(results, facts, levels)
        with self.unwritten.collect("summary"):
            counts = dict(self.unwritten.counts)
            if undrawn:
                counts["overlay"] = len(undrawn)
            facts |= {"complete": facts["complete"] and not counts, "unwritten": counts}
            results.write_summary(facts)
        missing = self.unwritten.counts["row"] or self.unwritten.counts["table"]
        what = "rows" if missing else "a row for every input"
        say = common.say_unless_quiet(self.args)
        say(f"results in {self.args.out}: {what} in {' and '.join(results.tables)}")

    def _write_parts_table(self, results: ResultsFolder, rows: list[Sequence[object]]) -> None:
        from flawscope.results.excel import write_table
        from flawscope.results.run import PARTS_TABLE_NAME

        with self.unwritten.collect("table"):
            path = results.own.path(PARTS_TABLE_NAME)
            write_table(path, rows, decimal_comma=self.args.decimal_comma)

    def _write_page(self, results: ResultsFolder, facts: Json, levels: Levels | None) -> None:
        """Write the page beside the table, where the libraries that it needs are installed."""
        from flawscope.pages.report.pages import predictions_page
        from flawscope.results.run import TABLE_NAME
        from flawscope.results.table import read_table

        say = common.say_unless_quiet(self.args)
        try:
            report.require_libraries(plots=False)
        except InputError as error:
            say(f"no page: {error}")
            return
        path = results.own.path(report.REPORT_NAME)
        table = read_table(results.out / TABLE_NAME)
        step = common.progress_for(self.args)
        parts = self.decided_parts
        report.write_page(path, predictions_page(table, results.shown, facts, levels, step, parts=parts))
        say(f"page: {path}")

    @property
    def folder_is_complete(self) -> bool:
        """Whether there is a results folder, with all files written."""
        return self.results is not None and not self.unwritten.counts

    @property
    def exit_code(self) -> int:
        """Exit code: 1 where an input was not judged, or a result not written."""
        code = common.report_failures(self.failures, named=self.flush_each, total=self.total)
        return code or int(bool(self.unwritten.counts))


def fail_on_anomaly(code: int, totals: MismatchDetector) -> int:
    """Return the exit code of `--fail-on-anomaly`.

    It is 3 where a picture is anomalous. It is 4 where none is, and some are within tolerance, or called good
    beyond what the rate is promised for. Else it is that of the run.
    """
    if totals.anomalous:
        return 3
    is_unsure = totals.tolerated or totals.beyond_promise
    return 4 if is_unsure and not code else code


def part_rows(found: Iterable[PartPrediction], products: bool) -> Iterator[Sequence[object]]:
    """Yield the rows of the table of parts, its heading first. `products` adds a column of products."""
    heading = ["part", "decision", "p_value", "score", "worst", "missing", "severity"]
    if products:
        heading.append("product")
    yield heading
    for part in found:
        missing = " ".join(part.missing)
        row = [part.part, part.decision, part.p_value, part.score, part.worst, missing, part.severity]
        if products:
            row.append(part.product_name)
        yield row


class Summary:
    """Summary of a run of a model, of one product or of several."""

    def __init__(self, model: Predictor | Router):
        from flawscope.pictures.levels import widest
        from flawscope.results.by_product import ProductCounts

        self.kind = model.kind
        self.products = model.facts.is_joint
        self.manifests = {name: product.manifest for name, product in model.products.items()}
        self.product = _product_of(self.manifests, self.kind)
        seen = [manifest.preprocess for manifest in self.manifests.values()]
        self.levels = widest([levels for preprocess in seen if (levels := preprocess.levels) is not None])
        self.parts = model.parts()
        has_kinds = any(manifest.kinds is not None for manifest in self.manifests.values())
        aligned = any(preprocess.reference is not None for preprocess in seen)
        self.table_form: TableForm = {
            "kinds": has_kinds,
            "products": self.products,
            "aligned": aligned,
        }
        if self.parts:
            self.table_form["part_of"] = self.parts.name_part
        self.tolerances: Tolerances | None = None  # a person's rules, where some are applied
        rates = [manifest.calibration.expected_rate for manifest in self.manifests.values()]
        self.totals = ProductCounts(self.parts.expected_rate if self.parts else max(rates))
        self.p_values: list[float] = []  # among units (`Calibration.unit_p_values`)
        self.promised = all(manifest.calibration.promised for manifest in self.manifests.values())

    def add(self, found: Prediction) -> None:
        """Count a picture's prediction, and keep its p-value among the units of its product's model."""
        self.totals.add(found)
        if (manifest := self.manifests.get(found.product_name)) is not None:
            self.p_values.append(float(manifest.calibration.unit_p_values(found.score)))

    def batch(self, rate: float) -> Json:
        """Return facts on the pictures that can be called defective together at a false discovery rate.

        Returns:
            `rate`; `p_value`, the largest of a defective picture; `defective` and `pictures`, their numbers;
            `least`, the smallest p-value that there can be; `promised`, whether the model promises its rate.
        """
        from flawscope.calibration.promise import batch_limit

        limit = batch_limit(self.p_values, rate) if self.promised else 0.0
        least = max(1 / (manifest.calibration.unit_count + 1) for manifest in self.manifests.values())
        called = sum(p <= limit for p in self.p_values)
        found = {"rate": rate, "p_value": limit, "defective": called, "pictures": len(self.p_values)}
        return {**found, "least": least, "promised": self.promised}

    def facts(self, args: argparse.Namespace, unjudged: int) -> Json:
        """Return the facts of the run for `results.json`. `unjudged` counts inputs that were not judged."""
        found = run_facts(args, self.manifests, self.totals, unjudged, self.kind)
        if self.parts is not None:
            found |= {"promise": self.parts.promise(), "expected_rate": self.parts.expected_rate}
        if self.tolerances is not None:
            found |= {"within_tolerance": self.totals.tolerated, "tolerances": self.tolerances.to_dict()}
        if self.products:
            found["none_of_these"] = self.totals.unrecognised
            for name, facts in found["products"].items():
                facts["pictures"] = self.totals.pictures_by_product[name]
                facts["anomalous"] = self.totals.anomalous_by_product[name]
        return found

    def line(self, parts: Sequence[PartPrediction] = ()) -> str:
        """Return lines with the number of anomalous pictures, the promised rate, and a legend.

        Where the model decides on parts, the lines count these.
        """
        if self.parts is not None:
            return f"{parts_line(parts, self.parts.promise())}\n{LEGEND}{self._beyond()}"
        if not self.kind:
            tolerates = self.tolerances is not None
            return totals_line(self.totals, self.manifests[""].calibration, tolerates) + self._beyond()
        by_product = f": {self.totals.lines()}" if self.products else ""
        of = pluralize(self.totals.count, "picture")
        return f"{self.totals.anomalous} of {of} anomalous{by_product}{self._beyond()}"

    def _beyond(self) -> str:
        """Line on pictures for which the rate is not promised, after a line's end; empty: there are none."""
        return f"\n{line}" if (line := self.totals.beyond_line()) else ""


def _product_of(manifests: Mapping[str, Manifest], kind: str) -> str:
    """Names of a model's products, or of its views."""
    return ", ".join(name if kind else manifest.category for name, manifest in manifests.items())


def run_facts(
    args: argparse.Namespace,
    manifests: Mapping[str, Manifest],
    totals: MismatchDetector,
    unjudged: int,
    kind: str = "",
) -> Json:
    """Return the facts of a run, for `results.json`.

    Args:
        args: Arguments of the call.
        manifests: Manifests of the model's products or views by name; a single product has the name "".
        totals: Counts of the judged pictures.
        unjudged: Number of inputs that were not judged.
        kind: "product" or "view"; empty: the model has a single product.
    """
    from flawscope._version import __version__

    each = {}
    known = {name: manifest.calibration for name, manifest in manifests.items()}
    for name, calibration in known.items():
        each[name] = {
            "target_rate": calibration.rate,
            "expected_rate": calibration.expected_rate,
            "score_threshold": calibration.score_threshold,
            "mask_threshold": calibration.mask_threshold,
            "promised": calibration.promised,
        }
    products_facts: Json = {f"{kind}s": each} if kind else each[""]
    product = _product_of(manifests, kind)
    methods = dict.fromkeys(manifest.method for manifest in manifests.values())
    promises = [
        f"{name}: {calibration.brief()}" if kind else calibration.brief()
        for name, calibration in known.items()
    ]
    expected_rate = max(calibration.expected_rate for calibration in known.values())
    promised = all(calibration.promised for calibration in known.values())
    return {
        "model": os.path.basename(args.model),
        "category": product,
        "product": product,
        "method": ", ".join(methods),
        "inputs": totals.count + unjudged,
        "judged": totals.count,
        "anomalous": totals.anomalous,
        "unjudged": unjudged,
        **products_facts,
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


def totals_line(totals: MismatchDetector, calibration: Calibration, tolerances: bool = False) -> str:
    """Return lines with the number of anomalous pictures, the promised rate, and a legend of the numbers.

    Args:
        totals: Counts of the run.
        calibration: Calibration of the model.
        tolerances: Whether tolerances are applied.
    """
    within = f", {totals.tolerated} within tolerance" if tolerances else ""
    pictures = pluralize(totals.count, "picture")
    return f"{totals.anomalous} of {pictures} anomalous{within}\n{calibration.brief()}\n{LEGEND}"


def batch_line(batch: Facts) -> str:
    """Line on the pictures that can be called defective together, from `Summary.batch`."""
    of = f"of {pluralize(batch['pictures'], 'picture')}"
    if batch["defective"]:
        return (
            f"{batch['defective']} {of} can be called defective, those of p {batch['p_value']:.3g} or less: "
            f"on average at most {batch['rate']:.1%} of them are good, if each picture shows another part"
        )
    if not batch["promised"]:
        return "the model promises nothing: no picture can be called defective at a false discovery rate"
    return (
        f"none {of} can be called defective at a false discovery rate of {batch['rate']:.1%}: p is "
        f"{batch['least']:.2g} at least, more good pictures in the model would lower that"
    )


def parts_line(decided: Sequence[PartPrediction], promise: str) -> str:
    """Line with the number of anomalous and incomplete parts, and the promised rate."""
    from flawscope.results.part import ANOMALOUS
    from flawscope.results.prediction import INCOMPLETE

    counts = Counter(part.decision for part in decided)
    incomplete = f", {counts[INCOMPLETE]} incomplete" if counts[INCOMPLETE] else ""
    of = pluralize(len(decided), "part")
    return f"{counts[ANOMALOUS]} of {of} anomalous{incomplete}; {promise}"


def say_remarks(beside: Sequence[str], totals: MismatchDetector) -> None:
    """Names pictures that were passed over, and prints remarks on other files beside them.

    A warning follows where the pictures are unlike those learnt.
    """
    from flawscope.pictures.decoding import is_picture
    from flawscope.pictures.listing import reason_not_judged

    named = [path for path in beside[:] if is_picture(path)]
    for path in named:
        common.say(f"not judged: {path}: {reason_not_judged(path)}")
    for line in file_remarks([path for path in beside[:] if not is_picture(path)]):
        common.say(line)
    if more := len(beside) - len(beside[:]):
        common.say(f"{pluralize(more, 'file')} more beside the pictures are not named here")
    if line := totals.warning():
        common.say(f"warning: {line}")
