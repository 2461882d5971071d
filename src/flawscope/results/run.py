"""Writes the results folder of a run: a table, a JSON file for each input, a summary, and pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Unpack
from urllib.parse import quote

from flawscope.artefact.files import FullDiskError, atomic_write, write_error
from flawscope.errors import FlawscopeError, InputError, pluralize
from flawscope.pictures.listing import read_output_list
from flawscope.progress import Say
from flawscope.results.folder import PictureWriter
from flawscope.results.prediction import Prediction
from flawscope.results.result_workbook import ExcelTable
from flawscope.results.table import TableForm, TableWriter, Unjudged, read_table
from flawscope.types import Facts

PREDICTIONS_FOLDER = "predictions"
TABLE_NAME = "results.csv"
SUMMARY_NAME = "results.json"
WORKBOOK_NAME = "results.xlsx"
PARTS_TABLE_NAME = "parts.csv"  # a row for each part, where the model decides on parts
MAX_REPORTED = 5  # different errors of a kind of files that are reported
MAX_MAP_BYTES = 256 << 20  # bytes of maps that are kept for a page, of the most severe predictions


def earlier_product(folder: Path) -> str:
    """Return the product whose model wrote the results in a folder, by their summary.

    It is empty where there are none, or the product is not known.
    """
    try:
        found = json.loads((folder / SUMMARY_NAME).read_bytes())
        return str(found["product"]) if SUMMARY_NAME in read_output_list(folder) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def earlier_paths(folder: Path) -> list[str]:
    """Inputs whose results a run wrote to a folder, by its table; none where there is no such table."""
    if TABLE_NAME not in read_output_list(folder):
        return []
    try:
        return [row.path for row in read_table(folder / TABLE_NAME)]
    except InputError:  # it is replaced whatever it holds
        return []


class WriteErrors:
    """Errors of files that cannot be written, where the files after them are tried all the same.

    The error may be of a single name, or the disk may have space again.

    Args:
        say: Gets a line for each new error, at most `MAX_REPORTED` for a kind of files, and a single line for
            a full disk.

    Attributes:
        counts: Number of files by their kind.
    """

    def __init__(self, say: Say):
        self.say, self.counts, self._reported = say, Counter[str](), dict[str, set[str]]()
        self._is_full = False

    @contextmanager
    def collect(self, kind: str) -> Iterator[None]:
        """Catch a FlawscopeError of a file. `kind` is the kind of file, such as "row" or "picture"."""
        try:
            yield
        except FlawscopeError as error:
            self.counts[kind] += 1
            if self._is_new(kind, error):
                self.say(str(error))

    def _is_new(self, kind: str, error: FlawscopeError) -> bool:
        """Whether an error is to be reported; it is known from then on."""
        if isinstance(error, FullDiskError):
            was_full = self._is_full
            self._is_full = True
            return not was_full
        reported = self._reported.setdefault(kind, set())
        is_new = str(error) not in reported and len(reported) < MAX_REPORTED
        reported.add(str(error))
        return is_new

    def lines(self) -> list[str]:
        """Return a line on how many files of which kind could not be written; none: all are there."""
        missing = [pluralize(count, kind) for kind, count in self.counts.items() if count]
        return [f"could not be written: {', '.join(missing)}; all others are there"] if missing else []


class ResultsFolder:
    """Results folder of a run.

    Files of an earlier run are removed, and `say` gets a line on them; other files stay. InputError: another
    file has the name of a file that is to be written.

    Args:
        out: The folder.
        root: Folder whose inner paths name the results; None: the working folder.
        say: Gets remarks.
        inputs: All pictures, where they are known beforehand.
        maps: Form of the maps, of `folder.MAPS`, or none.
        decimal_comma: Whether the table has decimal commas.
        form: Columns of the tables, as `TableWriter` takes them.
    """

    def __init__(
        self,
        out: Path,
        root: Path | None,
        say: Say,
        *,
        inputs: Iterable[Path] | None = None,
        maps: str = "png16",
        decimal_comma: bool = False,
        **form: Unpack[TableForm],
    ):
        self.out, self.pictures = out, PictureWriter(out, root, maps, inputs=inputs)
        self.own = self.pictures.own
        self.own.remove_earlier(say)
        self.own.path(SUMMARY_NAME)  # refused now if it cannot be written
        self.table = TableWriter(self.own.path(TABLE_NAME), decimal_comma=decimal_comma, **form)
        self.workbook = ExcelTable(self.own.path(WORKBOOK_NAME), **form)
        self._severe: list[tuple[float, int, Prediction]] = []
        self._count = self._bytes = 0

    def add_details(self, result: Prediction | Unjudged) -> None:
        """Write an input's JSON file; its row is the table's. FlawscopeError: it cannot be written."""
        if isinstance(result, Prediction):
            self._keep_severest(result)
        name = self.pictures.name(Path(result.path or "picture"))
        path = self.own.path(f"{PREDICTIONS_FOLDER}/{name}.json")
        try:
            path.write_text(f"{json.dumps(result.to_dict(), allow_nan=False)}\n", encoding="utf-8")
        except OSError as error:
            raise write_error(path, error) from None

    def add_to_workbook(self, result: Prediction | Unjudged) -> None:
        """Add an input to the workbook, with a link to its overlay where one is written. FlawscopeError."""
        overlay = f"overlays/{self.pictures.name(Path(result.path or 'picture'))}.png"
        self.workbook.add_result(result, quote(overlay) if overlay in self.own.known else "")

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there: what could not be written is not named."""
        return [name for name in (TABLE_NAME, WORKBOOK_NAME) if (self.out / name).is_file()]

    @property
    def shown(self) -> list[Prediction]:
        """Predictions for a page, with their maps, most severe first."""
        return [prediction for _, _, prediction in sorted(self._severe, reverse=True)]

    def write_summary(self, facts: Facts) -> None:
        """Write the summary, `results.json`."""
        with atomic_write(self.own.path(SUMMARY_NAME)) as file:
            file.write(f"{json.dumps(facts, indent=1, allow_nan=False)}\n".encode())

    def _keep_severest(self, prediction: Prediction) -> None:
        self._count += 1
        alone = prediction.map.copy()  # a view into a batch would keep all of it
        heappush(self._severe, (prediction.severity, -self._count, replace(prediction, map=alone)))
        self._bytes += alone.nbytes
        while self._bytes > MAX_MAP_BYTES:
            self._bytes -= heappop(self._severe)[2].map.nbytes
