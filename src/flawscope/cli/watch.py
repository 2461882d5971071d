"""Judge pictures as they appear in a folder, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common

if TYPE_CHECKING:
    from flawscope.predictor.streaming import SourceResult
    from flawscope.predictor.watch import Arrivals, Commands
    from flawscope.results.by_product import ProductCounts
    from flawscope.results.prediction import Prediction
    from flawscope.results.table import ResultRow, TableWriter, Unjudged

INTERVAL = 0.5  # seconds between two scans of the folder
parse_seconds = common.time_parser("seconds", "0.5 or 30")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder that pictures appear in, with its subfolders"
    )
    parser.add_argument("model", metavar="MODEL", help="model file")
    parser.add_argument(
        "--existing", action="store_true", help="judge the pictures that are there already, too"
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="add a row for each picture; those that are in it are not judged again"
    )
    parser.add_argument(
        "--decimal-comma",
        action="store_true",
        help="--csv with semicolons and decimal commas, as `predict` has",
    )
    parser.add_argument(
        "--on-anomaly",
        metavar="COMMAND",
        help="run this for every anomalous picture, with its path and the decision as last arguments; "
        "no shell, in the background, a minute at most",
    )
    parser.add_argument(
        "--interval",
        type=parse_seconds,
        default=INTERVAL,
        metavar="SECONDS",
        help=f"between two looks at the folder (default: {INTERVAL:g})",
    )
    parser.add_argument(
        "--patience",
        type=parse_seconds,
        metavar="SECONDS",
        help="a file that cannot be read may be incomplete for so long, then it is reported (default: 30)",
    )
    parser.add_argument(
        "--settle",
        type=parse_seconds,
        metavar="SECONDS",
        help="bmp, tiff, webp, avif, heic and ppm do not show whether they are whole: they must not have "
        "changed for so long (default: 2)",
    )
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="what all pictures show, of a joint model (default: it is recognised in each)",
    )
    common.add_rate(parser, "the model's")
    parser.add_argument("--json", action="store_true", help="one JSON line a picture")
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.cli.output import Summary
    from flawscope.errors import InputError, pluralize
    from flawscope.predictor.watch import Arrivals, Commands
    from flawscope.results.table import TableWriter

    if os.path.isfile(args.folder) and os.path.isdir(args.model):
        raise InputError(f"the folder comes first: flawscope watch {args.model} {args.folder}")
    if args.csv and not args.csv.endswith(".csv"):
        raise InputError(f"--csv {args.csv} should end in .csv")
    if args.decimal_comma and not args.csv:
        raise InputError("--decimal-comma is for CSV: add --csv FILE, or leave it out")
    judged = _judged_before(args.csv)
    waits = {name: getattr(args, name) for name in ("patience", "settle") if getattr(args, name)}
    arrivals = Arrivals(args.folder, existing=args.existing, judged=judged, **waits)
    commands = Commands(args.on_anomaly, common.say) if args.on_anomaly else None
    predictor = common.load_model(args, args.model)
    summary, stream = Summary(predictor), common.stream_of(predictor, args.product)
    how = {"append": True, "decimal_comma": args.decimal_comma, **summary.columns}
    rows = PendingRows(TableWriter(args.csv, **how)) if args.csv else None
    say = common.say_unless_quiet(args)
    say(_start_line(arrivals, len(judged)))
    watching = WatchLoop(
        arrivals,
        stream,
        summary.totals,
        has_products=summary.products,
        rows=rows,
        commands=commands,
        as_json=args.json,
        say=say,
        count_pictures=common.picture_counter(predictor),
    )
    with ending() as end:
        watching.run_until(end, args.interval)
    if rows is not None:
        rows.write()
        rows.table.close()
    if commands is not None:
        commands.close()
    for line in watching.summary():
        say(line)
    if unwritten := 0 if rows is None else len(rows.rows):
        common.say(f"{pluralize(unwritten, 'row')} could not be written to {args.csv}")
    return int(unwritten > 0)


def _judged_before(path: str | None) -> list[str]:
    """Pictures with a decision in the table. A last row that was cut off is removed."""
    from flawscope.results.table import read_table

    if path is None or not os.path.exists(path) or not os.path.getsize(path):
        return []
    rows = read_table(path)
    with open(path, "rb+") as file:
        if not (data := file.read()).endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
            rows = rows[:-1]
    return [row.path for row in rows if row.decision]  # unjudged pictures are tried again


def _start_line(arrivals: Arrivals, judged: int) -> str:
    from flawscope.errors import pluralize

    text = f"watching {arrivals.folder}, Ctrl-C ends it"
    if judged:
        text += f"; {pluralize(judged, 'picture')} judged before"
    if arrivals.skipped:
        there = pluralize(arrivals.skipped, "picture")
        text += f"; {there} there already and not judged: --existing judges them"
    return text


@contextmanager
def ending() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C and SIGTERM set; the second Ctrl-C ends the command at once."""
    from flawscope.progress import defer_interrupts

    with defer_interrupts("") as end:
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield end
            return
        before = signal.signal(signal.SIGTERM, lambda number, frame: end.set())
        try:
            yield end
        finally:
            signal.signal(signal.SIGTERM, before)


@dataclass
class PendingRows:
    """Rows that cannot be written wait for the next picture. is_full: the last attempt failed."""

    table: TableWriter
    rows: deque[ResultRow] = field(default_factory=deque)
    is_full: bool = False

    def write(self, rows: Iterable[ResultRow] = ()) -> None:
        """Writes the rows that wait, and `rows`."""
        from flawscope.errors import FlawscopeError

        self.rows += rows
        try:
            while self.rows:
                self.table.add(self.rows[0])
                self.rows.popleft()
        except FlawscopeError as error:
            if not self.is_full:
                common.say(f"{error}; pictures are judged, and their rows wait")
            self.is_full = True
        else:
            self.is_full = False


@dataclass
class WatchLoop:
    """Judges the pictures as they come, and counts them."""

    arrivals: Arrivals
    stream: Callable[..., Iterator[SourceResult]]
    totals: ProductCounts
    has_products: bool
    rows: PendingRows | None
    commands: Commands | None
    as_json: bool
    say: Callable[[str], None]
    count_pictures: Callable[[str], int]
    unjudged: int = 0
    is_unreadable: bool = False
    warned: bool = False
    started: float = field(default_factory=time.monotonic)

    def run_until(self, end: threading.Event, interval: float) -> None:
        """Scans the folder every `interval` seconds until `end` is set."""
        from flawscope.predictor.watch import MIN_PAUSE_RATIO

        while not end.is_set():
            self._judge_new(end)
            end.wait(max(interval, MIN_PAUSE_RATIO * self.arrivals.took))

    def _judge_new(self, end: threading.Event) -> None:
        """Judges newly arrived pictures."""
        from flawscope.errors import InputError
        from flawscope.predictor.watch import judge
        from flawscope.results.prediction import Prediction

        try:
            for result in judge(self.arrivals, self.stream):
                self._handle(result)
                if end.is_set():  # nobody asks for the next result, by which this one would count as judged
                    if isinstance(result, Prediction):
                        self.arrivals.done(Path(str(result.path)))
                    break
        except InputError as error:  # of the folder
            if not self.is_unreadable:
                self.say(f"{error}; trying again")
            self.is_unreadable = True
            return
        if self.is_unreadable:
            self.say(f"{self.arrivals.folder} can be read again")
            self.is_unreadable = False
        self._say_remarks()

    def _handle(self, result: Prediction | Unjudged) -> None:
        from flawscope.cli.output import show_result
        from flawscope.results.prediction import Prediction
        from flawscope.results.table import ResultRow

        show_result(result, as_json=self.as_json, flush=True)
        if self.rows is not None:
            self.rows.write(ResultRow.rows(result))
        if not isinstance(result, Prediction):
            self.unjudged += 1
            common.say(f"skipped: {' '.join(result.error.split())}")
            return
        if (held := self.count_pictures(str(result.path))) > 1:
            self.say(f"{result.path} holds {held} pictures, the first is judged")
        self.totals.add(result)
        if result.is_anomalous and self.commands is not None:
            self.commands.run(result)

    def _say_remarks(self) -> None:
        """Prints remarks on vanished pictures, files that are passed over and unlike pictures, once each."""
        for path in self.arrivals.gone:
            self.unjudged += 1
            common.say(f"skipped: {path} went away before it could be judged")
        self.arrivals.gone.clear()
        self._name_passed_over(time.monotonic())
        if (line := self.totals.warning()) and not self.warned:
            self.say(f"warning: {line}")
        self.warned = bool(line)

    def _name_passed_over(self, now: float | None) -> None:
        """Names files that are not judged, each once; now: a file that still changes is not named yet."""
        from flawscope.pictures.decoding import is_picture

        for path, why in self.arrivals.passed_over(now).items():
            say = common.say if is_picture(path) else self.say  # that of a picture is no remark
            say(f"not judged: {path}: {why}")

    def summary(self) -> list[str]:
        from flawscope.errors import pluralize
        from flawscope.progress import format_duration

        self._name_passed_over(None)
        judged, anomalous = self.totals.count, self.totals.anomalous
        spent = format_duration(time.monotonic() - self.started)
        of = f": {self.totals.lines()}" if self.has_products and judged else ""
        lines = [f"watched for {spent}: {pluralize(judged, 'picture')} judged, {anomalous} anomalous{of}"]
        counts = (
            ("could not be judged", self.unjudged, "picture"),
            ("arrived and not judged yet", self.arrivals.waiting, "picture"),
            ("failed", self.commands.failures if self.commands else 0, "command"),
            ("in the folder, but not a picture", len(self.arrivals.others), "file"),
        )
        return lines + [f"{what}: {pluralize(number, thing)}" for what, number, thing in counts if number]
