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

# of `--out` for a table alone
TABLE_SUFFIX = ".csv"
EXCEL_SUFFIX = ".xlsx"
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
    """Return the file's name without its ending: the part's number where there is no other."""
    return PurePath(path).stem


def file_time(path: str) -> str:
    """Return when a file was written last, in local time, 2026-11-22 14:30:00; empty: there is none."""
    try:
        return f"{datetime.fromtimestamp(os.stat(path).st_mtime):%Y-%m-%d %H:%M:%S}"
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
        part_found, part_mirrored: "true" or "false"; the columns of the part are those of `PartPose`, and
            only a model that aligns parts has them.
        part_index: Number of a part, in its row.
        part_count: Number of parts that were found, where the model searches for several.
        near: "true" of a good picture that is near the threshold, else "false".
        part: Number of the part, by the file's name.
        places: Number of regions.
        largest_px, largest_mm, largest_x, largest_y: Of the largest region the longer side of its box in the
            picture's pixels, its length in mm where the scale is known, and its centre.
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
            model: File name of the model.
        """
        path = result.path or ""
        known: Json = {"part": part_of(path), "time": file_time(path), "model": model}
        if isinstance(result, Unjudged):
            return cls(path, error=result.error, **known)
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
            **known,
            **_part_columns(result.parts),
        )

    @classmethod
    def rows(
        cls, result: Prediction | Unjudged, *, part_of: PartOf = file_stem, model: str = ""
    ) -> Iterator[ResultRow]:
        """Yield the row of an input, then a row for each of several parts in it.

        Args:
            result: The input's prediction, or why it was not judged.
            part_of: Returns the part's number for the file's path.
            model: File name of the model.
        """
        row = cls.from_result(result, part_of=part_of, model=model)
        yield row
        known: Json = {"part": row.part, "time": row.time, "model": row.model}
        for part in cls.part_rows(result) if isinstance(result, Prediction) else ():
            yield replace(part, **known)

    @classmethod
    def part_rows(cls, result: Prediction) -> Iterator[ResultRow]:
        """Yield a row for each part, where an input has several."""
        for part in result.found_parts.parts if result.found_parts else ():
            facts = (part.score, part.p_value, part.severity, part.decision, result.score_threshold)
            pose = _part_columns(PartSearch(part.part_p_value, part.part_pose))
            yield cls(result.path or "", *facts, part_index=part.part_index, **pose)

    @property
    def boxes(self) -> list[tuple[float, ...]]:
        """Boxes (x0, y0, x1, y1) of the regions, in pixels of the picture."""
        return [tuple(map(float, box.split())) for box in self.regions.split(";") if box.strip()]


def _true_or_false(value: bool) -> str:
    return str(value).lower()


def _part_columns(parts: PartSearch) -> Json:
    if not parts.searched:
        return {}
    count = parts.several and len(parts.several.parts)
    facts: Json = {"found": parts.found, "p_value": parts.p_value, "count": count}
    facts |= parts.pose.to_dict() if parts.pose else {}
    texts = {
        f"part_{key}": str(fact).lower() if isinstance(fact, bool) else fact for key, fact in facts.items()
    }
    return {name: text for name, text in texts.items() if name in PART_COLUMNS}


KIND_COLUMNS = ("kinds",)  # columns that only the table of a model that names kinds has
PRODUCT_COLUMNS = ("product", "product_p_value")  # columns that only a joint model's table has
# Columns that only an aligning model's table has
PART_COLUMNS = tuple(field.name for field in fields(ResultRow) if field.name.startswith("part_"))
MODEL_COLUMNS = ("model",)  # columns of a table that knows the model's file
_SOME_COLUMNS = KIND_COLUMNS + PRODUCT_COLUMNS + PART_COLUMNS + MODEL_COLUMNS  # not of every table
COLUMNS = tuple(field.name for field in fields(ResultRow) if field.name not in _SOME_COLUMNS)
# What a table must have to be one; the tables of another version may lack other columns, or have more
NEEDED_COLUMNS = ("path", "score", "severity", "decision")
FLOAT_COLUMNS = tuple(field.name for field in fields(ResultRow) if field.type == "float | None")


def table_columns(
    *, kinds: bool = False, products: bool = False, aligned: bool = False, model: str = ""
) -> tuple[str, ...]:
    """Columns of a table, as `TableWriter` has them."""
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
    """Return a line of a CSV file. `decimal_comma` writes it with semicolons and decimal commas."""
    text = io.StringIO()
    cells = [
        float(f"{value:.{DIGITS}g}") if isinstance(value, float) else csv_cell(value) for value in values
    ]
    if decimal_comma:
        cells = [str(cell).replace(".", ",") if isinstance(cell, float) else cell for cell in cells]
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
    """A table to write, .csv; an earlier file is replaced. A row is there as soon as it is added.

    Args:
        decimal_comma: with semicolons and decimal commas, as Excel reads it where people write so.
        kinds: it says the kinds of the regions' defects.
        products: it says which product each input shows.
        aligned: it says where the part of each input lies.
        part_of, model: as `ResultRow.from_result` takes them.

    Raises:
        InputError: another suffix.
        FlawscopeError: the file cannot be written; also of `add` and `close`.
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
            # a name that is not UTF-8 is written escaped
            self.file = open(path, "wb", buffering=0)  # noqa: SIM115
            self._write(self.columns, codecs.BOM_UTF8)

    def add_result(self, result: Prediction | Unjudged) -> None:
        """Add the row of an input, and one for each of several parts in it."""
        for row in ResultRow.rows(result, part_of=self.part_of, model=self.model):
            self.add(row)

    def add(self, row: ResultRow) -> None:
        """Add a row. FlawscopeError: the file cannot be written."""
        with self._report_errors():
            self._write([getattr(row, name) for name in self.columns])

    def close(
        self, totals: Iterable[tuple[str, object]] = (), parts: Sequence[Sequence[object]] = ()
    ) -> None:
        """End the table. `totals` and `parts` are for a workbook (`ExcelTable.close`); CSV only has rows."""
        with self._report_errors():
            self.file.close()

    def _write(self, values: Sequence[str | float | None], mark: bytes = b"") -> None:
        """Write a line, whole or not at all. `mark` stands before it."""
        text = csv_line(values, decimal_comma=self.decimal_comma)
        line = mark + text.encode("utf-8", "backslashreplace")
        start = self.file.tell()
        try:
            while line:  # of a disk that becomes full a part of it may be written
                line = line[self.file.write(line) :]
        except OSError:
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
    """Read the inputs' rows of a `results.csv`, as they were written.

    InputError: there is no such file, or it is no table of results.
    """
    try:
        with open(path, encoding=CSV_ENCODING, newline="") as file:
            header = file.readline()
            file.seek(0)
            comma = _has_commas(header)
            found = csv.DictReader(file, delimiter=";" if comma else ",")
            if not {*NEEDED_COLUMNS} <= {*(found.fieldnames or ())}:
                needed = ", ".join(NEEDED_COLUMNS)
                raise InputError(f"{path} is no table of results: its columns are not {needed} and others")
            return [_parse_row(values, comma) for values in found if not values.get("part_index")]
    except FileNotFoundError:
        raise InputError(
            f"there is no {path}: `predict --out DIR` and `evaluate --out DIR` write it"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}; run `predict --out` again") from None


def has_decimal_commas(path: str | os.PathLike[str]) -> bool:
    """Whether a CSV file was written with decimal commas; False where there is none."""
    try:
        with open(path, encoding=CSV_ENCODING, newline="") as file:
            return _has_commas(file.readline(10_000))
    except (OSError, UnicodeDecodeError):
        return False


def _has_commas(header: str) -> bool:
    return ";" in header and "," not in header  # as `csv_line` writes them


def _parse_row(values: dict[str, str | None], comma: bool) -> ResultRow:
    """Read a line of a table. `comma` says that its numbers have a decimal comma."""
    texts: dict[str, str] = {}
    numbers: dict[str, float | None] = {}
    for column in fields(ResultRow):
        if column.name not in values:
            continue
        text = values[column.name] or ""
        if column.name not in FLOAT_COLUMNS:
            texts[column.name] = from_csv_cell(text)
            continue
        number = text.replace(",", ".") if comma else text
        numbers[column.name] = float(number) if number else None
    return ResultRow(**texts, **numbers)  # type: ignore[arg-type]


class OutputFiles:
    """Files that flawscope wrote to a folder, by the list `OUTPUT_LIST` in it.

    A file is listed before it is written, so that the next run also knows those of an interrupted run. Listed
    pictures are nobody's input: `pictures.listing.walked` passes them over.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.known = set(read_output_list(folder))

    def remove_earlier(self, say: Say) -> None:
        """Remove an earlier run's files; `say` gets a line where the folder is not empty.

        InputError: one cannot be removed, and all are there as before.
        """
        self.check()
        removed = sum(self._remove_file(name) for name in sorted(self.known))
        folders = {parent for name in self.known for parent in Path(name).parents} - {Path()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # other files lie in it
                (self.folder / folder).rmdir()
        (self.folder / OUTPUT_LIST).unlink(missing_ok=True)
        self.known = set()
        if removed:
            say(f"{self.folder}: {pluralize(removed, 'file')} of an earlier run removed")
        if others := sum(len(files) for _, _, files in os.walk(self.folder)):
            say(f"{self.folder}: {pluralize(others, 'other file')} left alone")

    def _remove_file(self, name: str) -> bool:
        """Remove a file; False: there is none."""
        try:
            (self.folder / name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.folder / name, error) from None
        return True

    def check(self, *names: str) -> None:
        """Raise InputError where files of an earlier run cannot be replaced; nothing is changed.

        It raises it, too, where a name of `names` is that of a file which flawscope did not write.
        """
        for name in names:
            self._refuse_foreign(name)
        for name in sorted(self.known):
            check_replaceable(self.folder / name)

    def _refuse_foreign(self, name: str) -> None:
        if name not in self.known and os.path.lexists(self.folder / name):
            raise InputError(
                f"{self.folder / name} is there already, and no list says that flawscope wrote it: move it, "
                "or choose another --out"
            )

    def path(self, name: str) -> Path:
        """Path for a new file of this name (with forward slashes); its folder is made.

        InputError: the folder has a file of this name that flawscope did not write. FlawscopeError: the disk
        is full, or the folder cannot be written.
        """
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in self.known:
                self._refuse_foreign(name)
                with open(self.folder / OUTPUT_LIST, "a", encoding="ascii") as file:
                    file.write(json.dumps(name) + "\n")
                self.known.add(name)
        except OSError as error:
            raise write_error(path, error) from None
        return path
