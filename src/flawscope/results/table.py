"""Writes and reads files of a run's results.

They are the table, `results.csv`, with a row for every input, judged or not; and the list of the files that
flawscope wrote: only these are ever replaced or removed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from flawscope.artefact.files import CSV_ENCODING, check_replaceable, write_error
from flawscope.artefact.files import csv_cell as csv_cell
from flawscope.artefact.files import from_csv_cell as from_csv_cell
from flawscope.errors import InputError, pluralize
from flawscope.pictures.listing import OUTPUT_LIST, read_output_list
from flawscope.progress import Say
from flawscope.results.findings import measure_places
from flawscope.results.found_parts import PartSearch
from flawscope.results.prediction import Prediction

if TYPE_CHECKING:
    from flawscope.types import Json

# Suffixes of `--out` for a table alone
TABLE_SUFFIX = ".csv"
EXCEL_SUFFIX = ".xlsx"
MAX_HEADER_LENGTH = 10_000  # characters of a table's first line
DIGITS = 7  # of a number in a CSV file: as many as a float32 has


class Unjudged(NamedTuple):
    """Input without a prediction.

    Attributes:
        path: Path of its file.
        error: The reason, in one line.
    """

    path: str
    error: str

    def to_dict(self) -> Json:
        """The document that `predict --json` prints."""
        return {"path": self.path, "decision": None, "error": self.error}


PartOf = Callable[[str], str]


def file_stem(path: str) -> str:
    """Return a file's name without its suffix: the number of the part, if no other `part_of` is given."""
    return PurePath(path).stem


def file_time(path: str) -> str:
    """Return when a file was written last, in local time, 2026-11-22 14:30:00; empty: there is no file."""
    try:
        time = datetime.fromtimestamp(os.stat(path).st_mtime)
        return f"{time:%Y-%m-%d %H:%M:%S}"
    except (OSError, ValueError, OverflowError):
        return ""


@dataclass(frozen=True)
class ResultRow:
    """Row of a table: an input, or one of several parts that were found in it.

    Of an unjudged input only the path and the error are known.

    Attributes:
        threshold: The score threshold.
        decision: good or anomalous.
        regions: Boxes in the picture's pixels, x0 y0 x1 y1, the strongest first, with semicolons between
            them.
        kinds: Kinds of the regions' defects, such as "scratch; scratch or dent; something new"; only by a
            model that names kinds.
        product: Product by a joint model, also "none of these".
        part_found, part_mirrored: "true" or "false". The columns from `part_x` to `part_error` are fields of
            `PartPose`. Only a model that aligns parts has columns with `part_`.
        part_index: Number of the part in the picture, in the row of one of several parts.
        part_count: Number of parts that were found, where the model searches for several.
        near: "true" of a good picture that is near the threshold, else "false".
        part: Number of the part, by the file's name.
        places: Number of regions.
        largest_px, largest_mm, largest_x, largest_y: For the largest region: the longer side of its box in
            the picture's pixels, its length in mm if the scale is known, and its centre.
        time: Time when the file was written last, in local time.
        remark: Findings.
        model: File name of the model.
    """

    path: str
    score: float | None = None
    p_value: float | None = None
    severity: float | None = None
    decision: str = ""
    threshold: float | None = None
    regions: str = ""
    error: str = ""
    kinds: str = ""
    product: str = ""
    product_p_value: float | None = None
    part_found: str = ""
    part_p_value: float | None = None
    part_x: float | None = None
    part_y: float | None = None
    part_angle: float | None = None
    part_scale: float | None = None
    part_mirrored: str = ""
    part_error: float | None = None
    part_index: float | None = None
    part_count: float | None = None
    near: str = ""
    part: str = ""
    places: float | None = None
    largest_px: float | None = None
    largest_mm: float | None = None
    largest_x: float | None = None
    largest_y: float | None = None
    time: str = ""
    remark: str = ""
    model: str = ""

    @classmethod
    def from_result(
        cls, result: Prediction | Unjudged, *, part_of: PartOf = file_stem, model: str = ""
    ) -> ResultRow:
        """Return the row of an input.

        Args:
            result: The input's prediction, or why it was not judged.
            part_of: Returns the part's number for the file's path.
            model: File name of the model; empty: it is not known.
        """
        path = result.path or ""
        shared_columns: Json = {"part": part_of(path), "time": file_time(path), "model": model}
        if isinstance(result, Unjudged):
            return cls(path, error=result.error, **shared_columns)
        boxes = []
        for region in result.regions:
            boxes.append(" ".join(f"{side:.5g}" for side in region.box))
        kinds = [region.kinds_text for region in result.regions if region.kinds_text]
        return cls(
            path=path,
            score=result.score,
            p_value=result.p_value,
            severity=result.severity,
            decision=result.decision,
            threshold=result.score_threshold,
            regions="; ".join(boxes),
            kinds="; ".join(kinds),
            product=result.product_name,
            product_p_value=result.product_p_value,
            near=_true_or_false(result.near),
            remark=result.remark,
            **measure_places(result.regions),
            **shared_columns,
            **_part_columns(result.parts),
        )

    @classmethod
    def rows(
        cls, result: Prediction | Unjudged, *, part_of: PartOf = file_stem, model: str = ""
    ) -> Iterator[ResultRow]:
        """Yield the row of an input; if several parts were searched, then a row for each part found.

        Args:
            result: The input's prediction, or why it was not judged.
            part_of: Returns the part's number for the file's path.
            model: File name of the model; empty: it is not known.
        """
        row = cls.from_result(result, part_of=part_of, model=model)
        yield row
        shared_columns: Json = {"part": row.part, "time": row.time, "model": row.model}
        if isinstance(result, Prediction):
            for part_row in cls.part_rows(result):
                yield replace(part_row, **shared_columns)

    @classmethod
    def part_rows(cls, result: Prediction) -> Iterator[ResultRow]:
        """Yield a row for each part that was found, if several were searched; else nothing."""
        if result.found_parts is None:
            return
        for part in result.found_parts.parts:
            pose_columns = _part_columns(PartSearch(p_value=part.part_p_value, pose=part.part_pose))
            yield cls(
                path=result.path or "",
                score=part.score,
                p_value=part.p_value,
                severity=part.severity,
                decision=part.decision,
                threshold=result.score_threshold,
                part_index=part.part_index,
                **pose_columns,
            )

    @property
    def boxes(self) -> list[tuple[float, ...]]:
        """Boxes (x0, y0, x1, y1) of the regions, in pixels of the picture."""
        return [tuple(map(float, box.split())) for box in self.regions.split(";") if box.strip()]


def _true_or_false(value: bool) -> str:
    return str(value).lower()


def _part_columns(search: PartSearch) -> Json:
    """Return the columns with `part_` for the result of a search; empty if parts were not searched."""
    if not search.searched:
        return {}
    count = None if search.several is None else len(search.several.parts)
    facts: Json = {"found": search.found, "p_value": search.p_value, "count": count}
    if search.pose:
        facts |= search.pose.to_dict()
    columns = {}
    for key, fact in facts.items():
        name = f"part_{key}"
        if name in PART_COLUMNS:
            columns[name] = _true_or_false(fact) if isinstance(fact, bool) else fact
    return columns


KIND_COLUMNS = ("kinds",)  # columns that only the table of a model that names kinds has
PRODUCT_COLUMNS = ("product", "product_p_value")  # columns that only a joint model's table has
# Columns that only an aligning model's table has
PART_COLUMNS = tuple(field.name for field in fields(ResultRow) if field.name.startswith("part_"))
MODEL_COLUMNS = ("model",)  # columns of a table that knows the model's file
_OPTIONAL_COLUMNS = KIND_COLUMNS + PRODUCT_COLUMNS + PART_COLUMNS + MODEL_COLUMNS
COLUMNS = tuple(field.name for field in fields(ResultRow) if field.name not in _OPTIONAL_COLUMNS)
# Columns by which a table of results is known; tables of other versions may lack the others, or have more
NEEDED_COLUMNS = ("path", "score", "severity", "decision")
FLOAT_COLUMNS = tuple(field.name for field in fields(ResultRow) if field.type == "float | None")


def table_columns(
    *, kinds: bool = False, products: bool = False, aligned: bool = False, model: str = ""
) -> tuple[str, ...]:
    """Return the names of a table's columns; the arguments are those of `TableWriter`."""
    columns = list(COLUMNS)
    if kinds:
        columns += KIND_COLUMNS
    if products:
        columns += PRODUCT_COLUMNS
    if aligned:
        columns += PART_COLUMNS
    if model:
        columns += MODEL_COLUMNS
    return tuple(columns)


def csv_line(values: Sequence[object], *, decimal_comma: bool = False) -> str:
    """Return a line of a CSV file.

    Args:
        values: Values of the cells.
        decimal_comma: Whether numbers have decimal commas, and semicolons separate the cells.
    """
    cells: list[object] = []
    for value in values:
        if not isinstance(value, float):
            cells.append(csv_cell(value))
            continue
        rounded = float(f"{value:.{DIGITS}g}")
        cells.append(str(rounded).replace(".", ",") if decimal_comma else rounded)
    text = io.StringIO()
    csv.writer(text, delimiter=";" if decimal_comma else ",", lineterminator="\n").writerow(cells)
    return text.getvalue()


class TableForm(TypedDict, total=False):
    """Columns of a table, as `TableWriter` takes them."""

    kinds: bool
    products: bool
    aligned: bool
    part_of: PartOf
    model: str


class TableWriter:
    """Writes a table, .csv; an earlier file is replaced. Each row is in the file as soon as it is added.

    Args:
        path: File of the table.
        decimal_comma: Whether numbers have decimal commas, and semicolons separate the columns, as Excel
            expects it in countries with decimal commas.
        kinds: Whether there are columns for the kinds of the regions' defects.
        products: Whether there are columns for the product that each input shows.
        aligned: Whether there are columns for the place of the part in each input.
        part_of: Returns the part's number for the file's path.
        model: File name of the model; empty: there is no column for it.

    Raises:
        InputError: The path has another suffix.
        FlawscopeError: The file cannot be written. `add` and `close` raise it, too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        decimal_comma: bool = False,
        kinds: bool = False,
        products: bool = False,
        aligned: bool = False,
        part_of: PartOf = file_stem,
        model: str = "",
    ):
        self.path = Path(path)
        self.decimal_comma = decimal_comma
        self.part_of = part_of
        self.model = model
        self.columns = table_columns(kinds=kinds, products=products, aligned=aligned, model=model)
        if self.path.suffix.lower() != TABLE_SUFFIX:
            raise InputError(f"{path}: a table ends in {TABLE_SUFFIX}")
        with self._report_errors():
            self.file = open(path, "wb", buffering=0)  # noqa: SIM115
            self._write(self.columns, mark=codecs.BOM_UTF8)

    def add_result(self, result: Prediction | Unjudged) -> None:
        """Add the row of an input; if several parts were searched, also a row for each part found."""
        for row in ResultRow.rows(result, part_of=self.part_of, model=self.model):
            self.add(row)

    def add(self, row: ResultRow) -> None:
        """Add a row.

        Raises:
            FlawscopeError: The file cannot be written.
        """
        with self._report_errors():
            self._write([getattr(row, name) for name in self.columns])

    def close(
        self, totals: Iterable[tuple[str, object]] = (), parts: Sequence[Sequence[object]] = ()
    ) -> None:
        """End the table. `totals` and `parts` are ignored: only a workbook has them (`ExcelTable.close`)."""
        with self._report_errors():
            self.file.close()

    def _write(self, values: Sequence[str | float | None], mark: bytes = b"") -> None:
        """Write a line, completely or not at all.

        Args:
            values: Values of the cells.
            mark: Bytes to write before the line, such as a byte order mark.
        """
        text = csv_line(values, decimal_comma=self.decimal_comma)
        # a file name that is not UTF-8 is written with escapes
        unwritten = mark + text.encode("utf-8", "backslashreplace")
        start = self.file.tell()
        try:
            while unwritten:  # one call may write only some of the bytes, as on a nearly full disk
                written_count = self.file.write(unwritten)
                unwritten = unwritten[written_count:]
        except OSError:  # remove what was written of the line
            with suppress(OSError):
                self.file.truncate(start)
                self.file.seek(start)
            raise

    @contextmanager
    def _report_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, error) from None


def read_table(path: str | os.PathLike[str]) -> list[ResultRow]:
    """Read the rows of inputs from a `results.csv`, in their order; rows of parts in them are left out.

    Raises:
        InputError: There is no such file, or it is no table of results.
    """
    try:
        with open(path, encoding=CSV_ENCODING, newline="") as file:
            header = file.readline()
            file.seek(0)
            decimal_comma = _has_decimal_commas(header)
            rows = csv.DictReader(file, delimiter=";" if decimal_comma else ",")
            columns = rows.fieldnames or ()
            if not set(NEEDED_COLUMNS).issubset(columns):
                needed = ", ".join(NEEDED_COLUMNS)
                raise InputError(f"{path} is no table of results: its columns are not {needed} and others")
            return [_parse_row(row, decimal_comma) for row in rows if not row.get("part_index")]
    except FileNotFoundError:
        raise InputError(
            f"there is no {path}: `predict --out DIR` and `evaluate --out DIR` write it"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}; run `predict --out` again") from None


def has_decimal_commas(path: str | os.PathLike[str]) -> bool:
    """Return whether a CSV file was written with decimal commas; False where there is no file."""
    try:
        with open(path, encoding=CSV_ENCODING, newline="") as file:
            return _has_decimal_commas(file.readline(MAX_HEADER_LENGTH))
    except (OSError, UnicodeDecodeError):
        return False


def _has_decimal_commas(header: str) -> bool:
    """Return whether a table has decimal commas: `csv_line` then separates its columns by semicolons."""
    return ";" in header and "," not in header


def _parse_row(values: dict[str, str | None], decimal_comma: bool) -> ResultRow:
    """Parse a row of a table.

    Args:
        values: Texts of the cells by the name of the column; unknown columns are left out.
        decimal_comma: Whether the numbers have decimal commas.
    """
    text_by_column: dict[str, str] = {}
    number_by_column: dict[str, float | None] = {}
    for column in fields(ResultRow):
        if column.name not in values:
            continue
        text = values[column.name] or ""
        if column.name not in FLOAT_COLUMNS:
            text_by_column[column.name] = from_csv_cell(text)
            continue
        number_text = text.replace(",", ".") if decimal_comma else text
        number_by_column[column.name] = float(number_text) if number_text else None
    return ResultRow(**text_by_column, **number_by_column)  # type: ignore[arg-type]


class OutputFiles:
    """Files that flawscope wrote to a folder. Their names are in the file `OUTPUT_LIST` in this folder.

    A name is listed before the file is written, so that the next run also knows files of an interrupted run.
    Listed pictures are never inputs: `pictures.listing.walked` leaves them out.

    Attributes:
        folder: The folder.
        names: Names of the listed files, with forward slashes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = set(read_output_list(folder))

    def remove_earlier(self, say: Say) -> None:
        """Remove the files of an earlier run.

        Args:
            say: Called with a line on the removed files, and with a line on files that stay.

        Raises:
            InputError: A file cannot be removed; then no file is removed.
        """
        self.check()
        removed_count = 0
        for name in sorted(self.names):
            removed_count += self._remove_file(name)
        folders = {parent for name in self.names for parent in Path(name).parents}
        folders -= {Path()}  # the results folder itself stays
        inner_first = sorted(folders, key=lambda folder: len(folder.parts), reverse=True)
        for folder in inner_first:
            with suppress(OSError):  # a folder with other files stays
                (self.folder / folder).rmdir()
        (self.folder / OUTPUT_LIST).unlink(missing_ok=True)
        self.names = set()
        if removed_count:
            say(f"{self.folder}: {pluralize(removed_count, 'file')} of an earlier run removed")
        other_count = sum(len(files) for _, _, files in os.walk(self.folder))
        if other_count:
            say(f"{self.folder}: {pluralize(other_count, 'other file')} left alone")

    def _remove_file(self, name: str) -> bool:
        """Remove a file, and return whether it existed."""
        try:
            (self.folder / name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.folder / name, error) from None
        return True

    def check(self, *names: str) -> None:
        """Check that the files of an earlier run can be replaced, and new ones be written; change nothing.

        Args:
            names: Names of new files; a file of such a name may exist only if flawscope wrote it.

        Raises:
            InputError: A file cannot be replaced, or flawscope did not write it.
        """
        for name in names:
            self._check_foreign(name)
        for name in sorted(self.names):
            check_replaceable(self.folder / name)

    def _check_foreign(self, name: str) -> None:
        """Raise an InputError if a file of this name exists that flawscope did not write."""
        if name not in self.names and os.path.lexists(self.folder / name):
            raise InputError(
                f"{self.folder / name} is there already, and no list says that flawscope wrote it: move it, "
                "or choose another --out"
            )

    def path(self, name: str) -> Path:
        """Return the path at which to write a file; make the file's folder, and list the file.

        Args:
            name: Name of the file in the folder, with forward slashes.

        Raises:
            InputError: The folder has a file of this name that flawscope did not write.
            FlawscopeError: The disk is full, or the folder cannot be written.
        """
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in self.names:
                self._check_foreign(name)
                with open(self.folder / OUTPUT_LIST, "a", encoding="ascii") as file:
                    file.write(json.dumps(name) + "\n")
                self.names.add(name)
        except OSError as error:
            raise write_error(path, error) from None
        return path
