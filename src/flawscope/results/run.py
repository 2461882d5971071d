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
MAX_REPORTED = 5  # errors of a kind of files that are reported
MAX_MAP_BYTES = 256 << 20  # bytes of maps that are kept for a page, of the most severe predictions


def earlier_product(folder: Path) -> str:
    """Return the product of the results in a folder, as their summary names it.

    The result is empty if there are no results, or the summary names no product.
    """
    if SUMMARY_NAME not in read_output_list(folder):
        return ""
    try:
        summary = json.loads((folder / SUMMARY_NAME).read_bytes())
        return str(summary["product"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def earlier_paths(folder: Path) -> list[str]:
    """Return the inputs of the earlier run in a folder, from its table; [] if the folder has no table."""
    if TABLE_NAME not in read_output_list(folder):
        return []
    try:
        return [row.path for row in read_table(folder / TABLE_NAME)]
    except InputError:  # a damaged table may be replaced like any other
        return []


class WriteErrors:
    """Errors of files that could not be written. The run goes on and tries to write later files.

    These may succeed: an error may be due to the name of one file, and a full disk may have space again.

    Args:
        say: Called with a line for each new error, at most `MAX_REPORTED` for each kind of files; for a full
            disk with a single line.

    Attributes:
        counts: Number of files that could not be written, by their kind.
    """

    def __init__(self, say: Say):
        self.say = say
        self.counts = Counter[str]()
        self._reported_errors: dict[str, set[str]] = {}  # kind of files -> texts of errors
        self._has_reported_full_disk = False

    @contextmanager
    def collect(self, kind: str) -> Iterator[None]:
        """Within the block, catch a FlawscopeError: count and report it.

        Args:
            kind: What the block writes, such as "row" or "picture".
        """
        try:
            yield
        except FlawscopeError as error:
            self.counts[kind] += 1
            self._report_once(kind, error)

    def _report_once(self, kind: str, error: FlawscopeError) -> None:
        """Report an error, unless it was reported before, or `MAX_REPORTED` others of this kind were."""
        if isinstance(error, FullDiskError):
            if not self._has_reported_full_disk:
                self.say(str(error))
            self._has_reported_full_disk = True
            return
        reported = self._reported_errors.setdefault(kind, set())
        if str(error) not in reported and len(reported) < MAX_REPORTED:
            self.say(str(error))
        reported.add(str(error))

    def lines(self) -> list[str]:
        """Return a line with the numbers of unwritten files, by kind; [] if all were written."""
        texts = [pluralize(count, kind) for kind, count in self.counts.items() if count]
        return [f"could not be written: {', '.join(texts)}; all others are there"] if texts else []


class ResultsFolder:
    """Results folder of a run. Files of an earlier run are removed; other files stay.

    Args:
        out: The folder.
        root: Folder of the pictures: results are named by the paths relative to it; None: the working folder.
        say: Called with remarks, such as on the removed files.
        inputs: All pictures; None: they are not known yet.
        maps: Form of the maps, a key of `folder.MAPS`; "none": no maps are written.
        decimal_comma: Whether the table has decimal commas.
        form: Columns of the tables, as `TableWriter` takes them.

    Attributes:
        out: The folder.
        pictures: Writes overlays, maps and masks.
        output: Files of the folder that flawscope wrote.
        table: The table `results.csv`.
        workbook: The table `results.xlsx`.

    Raises:
        InputError: A file to write exists already, and flawscope did not write it.
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
        self.out = out
        self.pictures = PictureWriter(out, root, maps, inputs=inputs)
        self.output = self.pictures.output
        self.output.remove_earlier(say)
        self.output.path(SUMMARY_NAME)  # raises an error now, not after the work, if it cannot be written
        self.table = TableWriter(self.output.path(TABLE_NAME), decimal_comma=decimal_comma, **form)
        self.workbook = ExcelTable(self.output.path(WORKBOOK_NAME), **form)
        # heap of the most severe predictions: (severity, -number of the input, prediction); the number is
        # negative so that of equal severities the earlier input counts as more severe
        self._severest: list[tuple[float, int, Prediction]] = []
        self._prediction_count = 0
        self._map_bytes = 0  # bytes of the maps in the heap

    def add_details(self, result: Prediction | Unjudged) -> None:
        """Write an input's JSON file, and keep its prediction if it is among the most severe.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        if isinstance(result, Prediction):
            self._keep_severest(result)
        name = self.pictures.name(Path(result.path or "picture"))
        path = self.output.path(f"{PREDICTIONS_FOLDER}/{name}.json")
        try:
            path.write_text(f"{json.dumps(result.to_dict(), allow_nan=False)}\n", encoding="utf-8")
        except OSError as error:
            raise write_error(path, error) from None

    def add_to_workbook(self, result: Prediction | Unjudged) -> None:
        """Add an input to the workbook, with a link to its overlay if that is written.

        Raises:
            FlawscopeError: The row cannot be written.
        """
        name = self.pictures.name(Path(result.path or "picture"))
        overlay = f"overlays/{name}.png"
        link = quote(overlay) if overlay in self.output.names else ""
        self.workbook.add_result(result, link)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that were written."""
        return [name for name in (TABLE_NAME, WORKBOOK_NAME) if (self.out / name).is_file()]

    @property
    def severest(self) -> list[Prediction]:
        """Predictions for a page, with their maps, most severe first."""
        return [prediction for _, _, prediction in sorted(self._severest, reverse=True)]

    def write_summary(self, facts: Facts) -> None:
        """Write the summary, `results.json`."""
        with atomic_write(self.output.path(SUMMARY_NAME)) as file:
            file.write(f"{json.dumps(facts, indent=1, allow_nan=False)}\n".encode())

    def _keep_severest(self, prediction: Prediction) -> None:
        """Keep a prediction, and drop the least severe while the maps take more than `MAX_MAP_BYTES`."""
        self._prediction_count += 1
        own_map = prediction.map.copy()  # the map is a view, which keeps the maps of a whole batch in memory
        # the negative count: of equally severe predictions, the latest is dropped first
        entry = prediction.severity, -self._prediction_count, replace(prediction, map=own_map)
        heappush(self._severest, entry)
        self._map_bytes += own_map.nbytes
        while self._map_bytes > MAX_MAP_BYTES:
            _, _, dropped = heappop(self._severest)
            self._map_bytes -= dropped.map.nbytes
