"""Lists the pictures that a call wants judged, and prints and writes their results: a line, a row of the
table, files in the results folder."""

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
from flawscope.errors import FlawscopeError, InputError, pluralize, some

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.threshold import Calibration
    from flawscope.pictures.decoding import Source
    from flawscope.predictor import Predictor
    from flawscope.predictor.parts import Parts
    from flawscope.results.part import PartPrediction
    from flawscope.results.prediction import Mismatch, Prediction
    from flawscope.results.run import Results
    from flawscope.results.table import Table, Unjudged


PIPED = "-"  # the name of a picture on stdin


@dataclass
class Asked:
    """Inputs that a call wants judged.

    sources: files, or one picture itself. total: how many; 0 where they come one by one.
    beside: files that are no pictures. several: files that turned out to hold more than the one picture that
    is judged. wrong: words among the sources that mean nothing, and why.
    """

    sources: Iterable[Source]
    total: int = 0
    beside: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    wrong: dict[Path, str] = field(default_factory=dict)


def asked_inputs(specs: list[str]) -> Asked:
    """Lists the inputs that the words mean; a word that means none stays, to be told in its place. InputError
    if none means any."""
    from flawscope.pictures.listing import list_inputs

    if specs == [PIPED]:
        return _piped(sys.stdin.buffer)
    if PIPED in specs:
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
    return Asked(sources, len(sources), beside, wrong=wrong)


def _piped(stream: IO[bytes]) -> Asked:
    """Reads stdin: a picture, or paths, one a line."""
    from flawscope.pictures.decoding import is_encoded

    head = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    if b"\0" not in head:
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in stream)
        return Asked(Path(line) for line in lines if line.strip())
    if not is_encoded(head):
        raise InputError("what comes on stdin is neither a picture that can be read nor a list of paths")
    return Asked([stream.read()], 1)


def on_files(several: Sequence[str], beside: Sequence[str]) -> Iterator[str]:
    """Remarks on files. several: files with several pictures. beside: files that show nothing."""
    if several:
        files = pluralize(len(several), "file")
        yield f"{files} with several pictures; the first of each is taken: {some(several)}"
    if beside:
        yield f"{pluralize(len(beside), 'file')} beside the pictures not looked at: {some(beside)}"


# ------------------------------------------------------------------------------------------------- results


def line_of(found: Prediction) -> str:
    p_value = "" if found.product_p_value is None else f", p {found.product_p_value:.3f}"
    product = f"  ({found.product_name}{p_value})" if found.product_name else ""
    return (
        f"{found.decision:<10} severity {found.severity:<+7.1f} score {found.score:<9.4g} "
        f"p {found.p_value:.3f}  {found.path}{product}"
        f"{'  (light outside the range)' if found.outside_light else ''}"
        f"{f'  ({found.remark})' if found.remark else ''}"
    )


def show_result(result: Prediction | Unjudged, *, as_json: bool, flush: bool) -> None:
    """Prints a line of JSON, or one for a person, who is told of unjudged inputs elsewhere."""
    from flawscope.results.table import Unjudged

    if as_json:
        common.show(json.dumps(result.to_dict(), allow_nan=False), flush=flush)
    elif not isinstance(result, Unjudged):
        common.show(line_of(result), flush=flush)


class Output:
    """Prints and writes results as the call asks. A file that can no longer be written is reported once, and
    judging goes on.

    args: `json`, `out`, `maps`, `animation`, `only_anomalous`, `quiet`.
    at_once: whoever reads the lines waits for each of them.
    products: the table says which product each input shows. aligned: it says where the parts lie.
    parts: collects the views of parts; None: only pictures are decided on.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        root: Path | None,
        *,
        at_once: bool,
        products: bool = False,
        aligned: bool = False,
        parts: Parts | None = None,
    ):
        from flawscope.results.run import Results
        from flawscope.results.table import Table

        self.args, self.at_once, self.products, self.parts = args, at_once, products, parts
        self.decided: list[PartPrediction] = []
        self.unwritten = set[str]()  # kinds of files that are no longer written
        self.failures: list[str] = []
        self.results: Results | None = None
        self.table: Table | None = None
        if args.out and common.is_table(args.out):
            self.table = Table(args.out, products=products, aligned=aligned)
        elif args.out:
            say = common.say_for(args)
            maps, animation = args.maps or "png16", args.animation or "none"
            kinds = {"products": products, "aligned": aligned}
            self.results = Results(Path(args.out), root, say, maps=maps, animation=animation, **kinds)

    def add(self, result: Prediction | Unjudged, source: Source) -> None:
        from flawscope.results.table import Unjudged

        shown = isinstance(result, Unjudged) or result.is_anomalous or not self.args.only_anomalous
        if shown:
            show_result(result, as_json=self.args.json, flush=self.at_once)
        if isinstance(result, Unjudged):
            self._fail(result.error)
        if table := self.table:
            self._try("rows", lambda: table.take(result))
        if results := self.results:
            self._try("rows", lambda: results.add(result, details=shown))
            if shown and not isinstance(result, Unjudged):
                name = Path(str(result.path))
                self._try("pictures", lambda: results.pictures.add(name, result, source=source))
        if self.parts and not isinstance(result, Unjudged):
            try:
                self._add_part(self.parts.add(replace(result, map=result.map[:0])))
            except InputError as error:
                self._fail(str(error))

    def _fail(self, error: str) -> None:
        self.failures.append(error)
        if self.at_once:
            common.say(f"skipped: {error}")

    def _add_part(self, found: PartPrediction | None) -> None:
        if found is None:
            return
        self.decided.append(found)
        if found.decision != "good" or not self.args.only_anomalous:
            line = json.dumps(found.to_dict(), allow_nan=False) if self.args.json else found.line()
            common.show(line, flush=self.at_once)

    def _try(self, what: str, write: Callable[[], None]) -> None:
        """Writes files of one kind until that fails: rows are small, and may still fit where pictures do
        not."""
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
        from flawscope.results.run import PARTS, TABLE

        for found in self.parts.rest() if self.parts else ():
            self._add_part(found)
        try:
            if self.table:
                self.table.close()
            if self.results:
                self.results.write_facts(facts)
                self.results.finish()
                if self.parts:
                    common.write_csv(self.results.own.path(PARTS), part_rows(self.decided, self.products))
                sheet = self.results.pictures.finish("predictions")
                if not self.args.quiet:
                    overview = f", an overview in {sheet.name}" if sheet else ""
                    common.say(f"results in {self.args.out}: a row for every input in {TABLE}{overview}")
                self.failures += self.results.pictures.failures
                if facts["complete"]:  # who interrupts does not want to wait for a page
                    self._write_page(self.results, facts, white)
        except FlawscopeError as error:
            if not self.unwritten:
                common.say(str(error))
            self.unwritten.add("summary")

    def _write_page(self, results: Results, facts: dict[str, Any], white: float | None) -> None:
        """Writes the page beside the table, where the libraries that it needs are installed."""
        from flawscope.report.pages import predictions_page
        from flawscope.results.run import TABLE
        from flawscope.results.table import read_table

        say = common.say_for(self.args)
        try:
            report.require(plots=False)
        except InputError as error:
            say(f"no page: {error}")
            return
        path, table = results.own.path(report.NAME), read_table(results.out / TABLE)
        step = common.step_for(self.args)
        report.write(path, predictions_page(table, results.shown, facts, white, step, parts=self.decided))
        say(f"page: {path}")

    @property
    def code(self) -> int:
        """Exit code: 1 where an input was not judged, or a result not written."""
        return common.report_failures(self.failures, named=self.at_once) or int(bool(self.unwritten))


def part_rows(found: Iterable[PartPrediction], products: bool) -> Iterator[Sequence[Any]]:
    """Table of parts, its heading first. products: a column names each part's."""
    yield ["part", "decision", "p_value", "score", "worst", "missing", *(["product"] if products else [])]
    for one in found:
        row = [one.part, one.decision, one.p_value, one.score, one.worst, " ".join(one.missing)]
        yield [*row, *([one.product_name] if products else [])]


class Summary:
    """Summary of a run of a model of one product."""

    products = False  # no row of the table names one

    def __init__(self, model: Predictor):
        from flawscope.results.prediction import Mismatch

        self.model, self.white_level = model, model.manifest.preprocess.white_level
        self.together = Mismatch(model.calibration.expected_rate)
        self.parts = model.parts()
        self.aligned = model.manifest.preprocess.reference is not None

    def facts(self, args: argparse.Namespace, unjudged: int) -> dict[str, Any]:
        return facts_of(args, self.model.manifest, self.model.calibration, self.together, unjudged)

    def line(self) -> str:
        return all_together(self.together, self.model.calibration)


def facts_of(
    args: argparse.Namespace, manifest: Manifest, calibration: Calibration, together: Mismatch, unjudged: int
) -> dict[str, Any]:
    from flawscope._version import __version__

    return {
        "model": os.path.basename(args.model),
        "category": manifest.category,
        "method": manifest.method,
        "inputs": together.count + unjudged,
        "judged": together.count,
        "anomalous": together.anomalous,
        "unjudged": unjudged,
        "target_rate": calibration.rate,
        "expected_rate": calibration.expected_rate,
        "score_threshold": calibration.score_threshold,
        "mask_threshold": calibration.mask_threshold,
        "promise": calibration.promise(),
        "promised": calibration.promised,
        "warning": together.line() or None,
        "flawscope": __version__,
    }


def all_together(together: Mismatch, calibration: Calibration) -> str:
    """Line with the number of anomalous pictures, and the promised rate."""
    return (
        f"{together.anomalous} of {pluralize(together.count, 'picture')} anomalous; {calibration.promise()}"
    )


def parts_together(decided: Sequence[PartPrediction], promise: str) -> str:
    """Line with the number of anomalous and incomplete parts, and the promised rate."""
    from flawscope.results.part import ANOMALOUS, INCOMPLETE

    counts = Counter(one.decision for one in decided)
    incomplete = f", {counts[INCOMPLETE]} incomplete" if counts[INCOMPLETE] else ""
    of = pluralize(len(decided), "part")
    return f"{counts[ANOMALOUS]} of {of} anomalous{incomplete}; {promise}"


def remarks(several: Sequence[str], beside: Sequence[str], together: Mismatch) -> None:
    """Says which files were not read, or not wholly, and whether the pictures are unlike those learnt."""
    for line in on_files(several, beside):
        common.say(line)
    if line := together.line():
        common.say(f"warning: {line}")
