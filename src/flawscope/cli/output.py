"""The pictures that a call wants judged, and what is printed and written of each: a line, a row of the table,
files in the results folder."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flawscope.cli import common
from flawscope.errors import FlawscopeError, InputError, pluralize, some

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.calibration.decision import Calibration
    from flawscope.pictures.decoding import Source
    from flawscope.results.prediction import Mismatch, Prediction
    from flawscope.results.run import Results
    from flawscope.results.table import Table, Unjudged


PIPED = "-"  # the name of a picture on stdin


@dataclass
class Asked:
    """The inputs that a call wants judged.

    sources: files, or one picture itself. total: how many; 0 where they come one by one.
    wrong: specs that mean nothing, by the number of sources before them. beside: files that are no pictures.
    several: files that turned out to hold more than the one picture that is judged.
    """

    sources: Iterable[Source]
    total: int = 0
    wrong: dict[int, list[Unjudged]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)


def asked_inputs(specs: list[str]) -> Asked:
    """InputError if nothing is meant."""
    from flawscope.pictures.listing import list_inputs
    from flawscope.results.table import Unjudged

    if specs == [PIPED]:
        return _piped(sys.stdin.buffer)
    if PIPED in specs:
        raise InputError("- stands alone: leave out the other pictures, or -; a file of this name is ./-")
    found: dict[Path, None] = {}  # each once
    asked = Asked(found)
    for spec in specs:
        try:
            inputs, beside = list_inputs(spec)
        except InputError as error:
            asked.wrong.setdefault(len(found), []).append(Unjudged(spec, str(error)))
        else:
            found |= dict.fromkeys(inputs)
            asked.beside += map(os.fspath, beside)
    if not found:
        raise InputError(asked.wrong[0][0].error)
    asked.total = len(found)
    return asked


def _piped(stream: IO[bytes]) -> Asked:
    """A picture, or a path a line."""
    from flawscope.pictures.decoding import is_encoded

    head = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    if b"\0" not in head:
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in stream)
        return Asked(Path(line) for line in lines if line.strip())
    if not is_encoded(head):
        raise InputError("what comes on stdin is neither a picture that can be read nor a list of paths")
    return Asked([stream.read()], 1)


def on_files(several: Sequence[str], beside: Sequence[str]) -> Iterator[str]:
    """several: files with more than one picture, and how many. beside: files that show nothing."""
    if several:
        files = pluralize(len(several), "file")
        yield f"{files} with several pictures; the first of each is taken: {some(several)}"
    if beside:
        yield f"{pluralize(len(beside), 'file')} beside the pictures not looked at: {some(beside)}"


# ------------------------------------------------------------------------------------------------- results


def line_of(found: Prediction) -> str:
    """One picture for a person; columns aligned."""
    return (
        f"{found.decision:<10} severity {found.severity:<+7.1f} score {found.score:<9.4g} "
        f"p {found.p_value:.3f}  {found.path}"
    )


def show_result(result: Prediction | Unjudged, *, as_json: bool, flush: bool) -> None:
    """A line of JSON, or a line for a person, who hears of what was not judged elsewhere."""
    from flawscope.results.table import Unjudged

    if as_json:
        common.show(json.dumps(result.to_dict(), allow_nan=False), flush=flush)
    elif not isinstance(result, Unjudged):
        common.show(line_of(result), flush=flush)


class Output:
    """Prints and writes results as the call asks. Where nothing more can be written, that is said once, and
    judging goes on.

    args: `json`, `out`, `maps`, `animation`, `only_anomalous`, `quiet`.
    at_once: whoever reads the lines waits for each of them.
    """

    def __init__(self, args: argparse.Namespace, root: Path | None, *, at_once: bool):
        from flawscope.results.run import Results
        from flawscope.results.table import Table

        self.args, self.at_once = args, at_once
        self.unwritten: dict[str, str] = {}  # what is no longer written, and why
        self.failures: list[str] = []
        self.results: Results | None = None
        self.table: Table | None = None
        if args.out and common.is_table(args.out):
            self.table = Table(args.out)
        elif args.out:
            say = common.say_for(args)
            maps, animation = args.maps or "png16", args.animation or "none"
            self.results = Results(Path(args.out), root, say, maps=maps, animation=animation)

    def add(self, result: Prediction | Unjudged, source: Source) -> None:
        from flawscope.results.table import Unjudged

        shown = isinstance(result, Unjudged) or result.is_anomalous or not self.args.only_anomalous
        if shown:
            show_result(result, as_json=self.args.json, flush=self.at_once)
        if isinstance(result, Unjudged):
            self.failures.append(result.error)
            if self.at_once:
                common.say(f"skipped: {result.error}")
        self._try("rows", lambda: self._write(result, details=shown))
        if shown and not isinstance(result, Unjudged):
            self._try("pictures", lambda: self._draw(result, source))

    def _try(self, what: str, write: Callable[[], None]) -> None:
        """Rows and files are small: they may still be written where pictures cannot."""
        if what in self.unwritten:
            return
        try:
            write()
        except FlawscopeError as error:
            self.unwritten[what] = str(error)
            common.say(f"{error}; no more {what} are written, the remaining inputs are judged")

    def _write(self, result: Prediction | Unjudged, *, details: bool) -> None:
        from flawscope.results.table import Row

        if self.table:
            self.table.add(Row.of(result))
        if self.results:
            self.results.add(result, details=details)

    def _draw(self, result: Prediction, source: Source) -> None:
        if self.results:
            self.results.pictures.add(Path(str(result.path)), result, source=source)

    def finish(self, facts: dict[str, Any], white: float | None = None) -> None:
        """Write what is written at the end, and say where it is.

        Args:
            white: the level of a deep picture that is shown white.
        """
        from flawscope.results.run import TABLE

        try:
            if self.table:
                self.table.close()
            if self.results:
                self.results.write_facts(facts)
                self.results.finish()
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
            self.unwritten["summary"] = str(error)

    def _write_page(self, results: Results, facts: dict[str, Any], white: float | None) -> None:
        """The page beside the table, where what it needs is installed."""
        from flawscope import report
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
        report.write(path, predictions_page(table, results.shown, facts, white, step))
        say(f"page: {path}")

    @property
    def code(self) -> int:
        """1 where an input was not judged, or something not written."""
        return common.report_failures(self.failures, named=self.at_once) or int(bool(self.unwritten))


def facts_of(
    args: argparse.Namespace, manifest: Manifest, calibration: Calibration, together: Mismatch, unjudged: int
) -> dict[str, Any]:
    """The document `results.json` on the run."""
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
    """Says how many are anomalous, and what was promised."""
    return (
        f"{together.anomalous} of {pluralize(together.count, 'picture')} anomalous; {calibration.promise()}"
    )


def remarks(several: Sequence[str], beside: Sequence[str], together: Mismatch) -> None:
    """Say which files were not looked at, or not wholly, and where the pictures are unlike those learnt."""
    for line in on_files(several, beside):
        common.say(line)
    if line := together.line():
        common.say(f"warning: {line}")
