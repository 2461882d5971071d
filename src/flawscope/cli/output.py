"""Lists the pictures to judge, and prints and writes their results: a line, a row of the table, files in the
results folder."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flawscope import report
from flawscope.cli import common
from flawscope.errors import FlawscopeError, InputError, join_names, pluralize

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.threshold import Calibration
    from flawscope.pictures.decoding import PictureSource
    from flawscope.predictor import Predictor
    from flawscope.predictor.parts import PartCollector
    from flawscope.results.part import PartPrediction
    from flawscope.results.prediction import MismatchDetector, Prediction
    from flawscope.results.run import ResultsFolder
    from flawscope.results.table import TableWriter, Unjudged


STDIN = "-"  # argument that means stdin, and the name of a picture from it


@dataclass
class PictureInputs:
    """Inputs to judge.

    sources: files, or the content of one picture. total: how many; 0 where paths come one by one from stdin.
    side_files: files that are not pictures. multi_picture_files: of several pictures, of which the first is
    judged; known after judging. errors: reasons by the sources that do not exist.
    """

    sources: Iterable[PictureSource]
    total: int = 0
    side_files: list[str] = field(default_factory=list)
    multi_picture_files: list[str] = field(default_factory=list)
    errors: dict[Path, str] = field(default_factory=dict)


def collect_inputs(specs: list[str]) -> PictureInputs:
    """Lists the inputs that the arguments mean; one that means none becomes a source with an error, reported
    in its place. InputError if all do."""
    from flawscope.pictures.listing import list_inputs

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
            inputs, others = [Path(spec)], []
            wrong[Path(spec)] = str(error)
        sources |= dict.fromkeys(inputs)
        beside += map(os.fspath, others)
    if len(wrong) == len(sources):
        raise InputError(next(iter(wrong.values())))
    return PictureInputs(sources, len(sources), beside, errors=wrong)


def _read_stdin(stream: IO[bytes]) -> PictureInputs:
    """Reads stdin: one picture, or paths, one a line."""
    from flawscope.pictures.decoding import is_encoded

    head = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    if b"\0" not in head:
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in stream)
        return PictureInputs(Path(line) for line in lines if line.strip())
    if not is_encoded(head):
        raise InputError("what comes on stdin is neither a picture that can be read nor a list of paths")
    return PictureInputs([stream.read()], 1)


def file_remarks(several: Sequence[str], beside: Sequence[str]) -> Iterator[str]:
    """Yields remarks. several: files with several pictures. beside: files that are not pictures."""
    if several:
        files = pluralize(len(several), "file")
        yield f"{files} with several pictures; the first of each is taken: {join_names(several)}"
    if beside:
        yield f"{pluralize(len(beside), 'file')} beside the pictures not looked at: {join_names(beside)}"


# ------------------------------------------------------------------------------------------------- results


def prediction_line(found: Prediction) -> str:
    p_value = "" if found.product_p_value is None else f", p {found.product_p_value:.3f}"
    product = f"  ({found.product_name}{p_value})" if found.product_name else ""
    return (
        f"{found.decision:<10} severity {found.severity:<+7.1f} score {found.score:<9.4g} "
        f"p {found.p_value:.3f}  {found.path}{product}"
        f"{'  (light outside the range)' if found.outside_light else ''}"
        f"{f'  ({found.remark})' if found.remark else ''}"
    )


def show_result(result: Prediction | Unjudged, *, as_json: bool, flush: bool) -> None:
    """Prints a line of JSON, or a line for a person; for a person unjudged inputs are reported elsewhere."""
    from flawscope.results.table import Unjudged

    if as_json:
        common.show(json.dumps(result.to_dict(), allow_nan=False), flush=flush)
    elif not isinstance(result, Unjudged):
        common.show(prediction_line(result), flush=flush)


class Output:
    """Prints and writes results as the call asks. A file that can no longer be written is reported once, and
    judging goes on.

    args: `json`, `out`, `maps`, `animation`, `only_anomalous`, `quiet`.
    flush_each: every line is flushed, for a reader that waits for it.
    products: the table has the product of each input. aligned: it has the pose of the parts.
    parts: groups pictures into parts; None: only pictures are decided on.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        root: Path | None,
        *,
        flush_each: bool,
        products: bool = False,
        aligned: bool = False,
        parts: PartCollector | None = None,
    ):
        from flawscope.results.run import ResultsFolder
        from flawscope.results.table import TableWriter

        self.args, self.flush_each, self.products, self.parts = args, flush_each, products, parts
        self.decided_parts: list[PartPrediction] = []
        self.unwritten = set[str]()  # kinds of files that failed, and are no longer written
        self.failures: list[str] = []
        self.results: ResultsFolder | None = None
        self.table: TableWriter | None = None
        if args.out and common.is_table(args.out):
            self.table = TableWriter(args.out, products=products, aligned=aligned)
        elif args.out:
            say = common.say_unless_quiet(args)
            maps, animation = args.maps or "png16", args.animation or "none"
            kinds = {"products": products, "aligned": aligned}
            self.results = ResultsFolder(Path(args.out), root, say, maps=maps, animation=animation, **kinds)

    def add(self, result: Prediction | Unjudged, source: PictureSource) -> None:
        from flawscope.results.table import Unjudged

        shown = isinstance(result, Unjudged) or result.is_anomalous or not self.args.only_anomalous
        if shown:
            show_result(result, as_json=self.args.json, flush=self.flush_each)
        if isinstance(result, Unjudged):
            self._fail(result.error)
        if table := self.table:
            self._try_write("rows", lambda: table.add_result(result))
        if results := self.results:
            self._try_write("rows", lambda: results.add(result, details=shown))
            if shown and not isinstance(result, Unjudged):
                name = Path(str(result.path))
                self._try_write("pictures", lambda: results.pictures.add(name, result, source=source))
        if self.parts and not isinstance(result, Unjudged):
            try:
                self._add_part(self.parts.add(replace(result, map=result.map[:0])))
            except InputError as error:
                self._fail(str(error))

    def _fail(self, error: str) -> None:
        self.failures.append(error)
        if self.flush_each:
            common.say(f"skipped: {error}")

    def _add_part(self, found: PartPrediction | None) -> None:
        if found is None:
            return
        self.decided_parts.append(found)
        if found.decision != "good" or not self.args.only_anomalous:
            line = json.dumps(found.to_dict(), allow_nan=False) if self.args.json else found.line()
            common.show(line, flush=self.flush_each)

    def _try_write(self, what: str, write: Callable[[], None]) -> None:
        """Writes files of one kind until that fails: rows may still fit on a disk where pictures do not."""
        if what in self.unwritten:
            return
        try:
            write()
        except FlawscopeError as error:
            self.unwritten.add(what)
            common.say(f"{error}; no more {what} are written, the remaining inputs are judged")

    def finish(self, facts: dict[str, Any], white: float | None = None) -> None:
        """Writes the final files, and says where they are.

        Args:
            white: the level of a deep picture that is shown white.
        """
        from flawscope.results.run import PARTS_TABLE_NAME, TABLE_NAME

        for found in self.parts.decide_incomplete() if self.parts else ():
            self._add_part(found)
        try:
            if self.table:
                self.table.close()
            if self.results:
                self.results.write_summary(facts)
                self.results.finish()
                if self.parts:
                    rows = part_rows(self.decided_parts, self.products)
                    common.write_csv(self.results.own.path(PARTS_TABLE_NAME), rows)
                sheet = self.results.pictures.finish("predictions")
                if not self.args.quiet:
                    overview = f", an overview in {sheet.name}" if sheet else ""
                    common.say(f"results in {self.args.out}: a row for every input in {TABLE_NAME}{overview}")
                self.failures += self.results.pictures.failures
                if facts["complete"]:  # after Ctrl-C nobody waits for a page
                    self._write_page(self.results, facts, white)
        except FlawscopeError as error:
            if not self.unwritten:
                common.say(str(error))
            self.unwritten.add("summary")

    def _write_page(self, results: ResultsFolder, facts: dict[str, Any], white: float | None) -> None:
        """Writes the page beside the table, where the libraries that it needs are installed."""
        from flawscope.report.pages import predictions_page
        from flawscope.results.run import TABLE_NAME
        from flawscope.results.table import read_table

        say = common.say_unless_quiet(self.args)
        try:
            report.require_libraries(plots=False)
        except InputError as error:
            say(f"no page: {error}")
            return
        path, table = results.own.path(report.REPORT_NAME), read_table(results.out / TABLE_NAME)
        step, parts = common.progress_for(self.args), self.decided_parts
        report.write_page(path, predictions_page(table, results.shown, facts, white, step, parts=parts))
        say(f"page: {path}")

    @property
    def exit_code(self) -> int:
        """Exit code: 1 where an input was not judged, or a result not written."""
        return common.report_failures(self.failures, named=self.flush_each) or int(bool(self.unwritten))


def part_rows(found: Iterable[PartPrediction], products: bool) -> Iterator[Sequence[Any]]:
    """Yields the rows of the table of parts, its heading first. products: with a column of products."""
    yield ["part", "decision", "p_value", "score", "worst", "missing", *(["product"] if products else [])]
    for one in found:
        row = [one.part, one.decision, one.p_value, one.score, one.worst, " ".join(one.missing)]
        yield [*row, *([one.product_name] if products else [])]


class Summary:
    """Summary of a run of a model of one product."""

    products = False  # the table has no column of products

    def __init__(self, model: Predictor):
        from flawscope.results.prediction import MismatchDetector

        self.model, self.white_level = model, model.manifest.preprocess.white_level
        self.totals = MismatchDetector(model.calibration.expected_rate)
        self.parts = model.parts()
        self.aligned = model.manifest.preprocess.reference is not None

    def facts(self, args: argparse.Namespace, unjudged: int) -> dict[str, Any]:
        return run_facts(args, self.model.manifest, self.model.calibration, self.totals, unjudged)

    def line(self) -> str:
        return totals_line(self.totals, self.model.calibration)


def run_facts(
    args: argparse.Namespace,
    manifest: Manifest,
    calibration: Calibration,
    totals: MismatchDetector,
    unjudged: int,
) -> dict[str, Any]:
    from flawscope._version import __version__

    return {
        "model": os.path.basename(args.model),
        "category": manifest.category,
        "method": manifest.method,
        "inputs": totals.count + unjudged,
        "judged": totals.count,
        "anomalous": totals.anomalous,
        "unjudged": unjudged,
        "target_rate": calibration.rate,
        "expected_rate": calibration.expected_rate,
        "score_threshold": calibration.score_threshold,
        "mask_threshold": calibration.mask_threshold,
        "promise": calibration.promise(),
        "promised": calibration.promised,
        "warning": totals.warning() or None,
        "flawscope": __version__,
    }


def totals_line(totals: MismatchDetector, calibration: Calibration) -> str:
    """Line with the number of anomalous pictures, and the promised rate."""
    return f"{totals.anomalous} of {pluralize(totals.count, 'picture')} anomalous; {calibration.promise()}"


def parts_line(decided: Sequence[PartPrediction], promise: str) -> str:
    """Line with the number of anomalous and incomplete parts, and the promised rate."""
    from flawscope.results.part import ANOMALOUS, INCOMPLETE

    counts = Counter(one.decision for one in decided)
    incomplete = f", {counts[INCOMPLETE]} incomplete" if counts[INCOMPLETE] else ""
    of = pluralize(len(decided), "part")
    return f"{counts[ANOMALOUS]} of {of} anomalous{incomplete}; {promise}"


def say_remarks(several: Sequence[str], beside: Sequence[str], totals: MismatchDetector) -> None:
    """Prints remarks on unread files, and a warning where the pictures are unlike those learnt."""
    for line in file_remarks(several, beside):
        common.say(line)
    if line := totals.warning():
        common.say(f"warning: {line}")
