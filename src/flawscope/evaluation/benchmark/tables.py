"""Builds the literature's tables from finished cells.

The tables hold means over seeds, averages over categories, and the remarks that single figures need. A
missing figure stays None; nothing is filled in.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope._version import __version__
from flawscope.artefact.files import csv_cell
from flawscope.config import build_config
from flawscope.datasets.layouts import MVTEC, OBJECTS, TEXTURES
from flawscope.evaluation.benchmark.grid import Cell, Grid
from flawscope.pictures.text_files import read_yaml

if TYPE_CHECKING:
    from flawscope.types import Json

# key in an evaluation -> its name in the literature
METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1": "pixel F1",
    "au_pro": "AU-PRO",
    "pixel_ap": "pixel AP",
    "au_pro_05": "AU-PRO .05",
    "pixel_f1_calibrated": "SegF1",
}
COSTS = ("fit_seconds", "evaluate_seconds", "peak_memory_mib", "threads", "jobs", "steps")  # of results.csv
DATA_SETS = {  # categories of the data sets that are averaged and have published means
    "MVTec AD": MVTEC,
    "VisA": (
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1"),
        *("macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    ),
    "BTAD": ("01", "02", "03"),
    "MPDD": ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"),
}
PUBLISHED_FILE = Path(__file__).with_name("published.yaml")  # which explains its fields
OTHER_METHOD = "none"  # the `method` of sources about methods that are not implemented here


@dataclass(frozen=True)
class Aggregate:
    """Mean of a metric over the seeds of a category, or over the categories of a group.

    Attributes:
        mean: The mean; None: no value is there.
        deviation: Standard deviation of a sample (n - 1), over seeds; None with fewer than two seeds.
        count: Number of seeds, or categories, with a value.
        of: Number of all seeds, or categories.
    """

    mean: float | None
    deviation: float | None
    count: int
    of: int


@dataclass(frozen=True)
class Group:
    """Categories that are averaged."""

    label: str
    categories: tuple[str, ...]


def category_groups(rows: Sequence[str]) -> list[Group]:
    """Return the groups of categories that are averaged.

    MVTec AD gives the textures if `rows` has any, the objects if it has any, and all categories if it has
    both. Each other data set is a group if `rows` has all its categories. The remaining categories are one
    group.
    """
    row_set = set(rows)
    parts_of_mvtec = [Group("textures", TEXTURES), Group("objects", OBJECTS)]
    groups = [group for group in parts_of_mvtec if not row_set.isdisjoint(group.categories)]
    if len(groups) == 2:
        groups.append(Group("all", MVTEC))
    for name, categories in DATA_SETS.items():
        if categories != MVTEC and row_set.issuperset(categories):
            groups.append(Group(name, categories))
    averaged = set(MVTEC)  # rows of MVTec AD are in one of the groups above
    for group in groups:
        averaged.update(group.categories)
    others = tuple(row for row in rows if row not in averaged)
    if others:
        groups.append(Group("others" if groups else "all", others))
    return groups


@dataclass(frozen=True)
class Results:
    """Results of a grid so far.

    Attributes:
        grid: The grid.
        done: Documents of finished cells by name.
        failed: Reasons of failed cells by name.
    """

    grid: Grid
    done: Mapping[str, Json]
    failed: Mapping[str, str]

    # ---- figures

    def document(self, cell: Cell) -> Json | None:
        """Return the document of a cell; None for a cell that is not done."""
        return self.done.get(cell.name)

    def documents(self, method: str, category: str) -> list[Json]:
        """Return the documents of the finished cells of a method and a category."""
        documents = map(self.document, self.cells.get((method, category), []))
        return [document for document in documents if document is not None]

    @cached_property
    def cells(self) -> dict[tuple[str, str], list[Cell]]:
        """Cells by method and category, one for each seed."""
        cells: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.grid.cells:
            cells.setdefault((cell.method, cell.category), []).append(cell)
        return cells

    def seeds(self, metric: str, method: str, category: str) -> dict[int, float]:
        """Return the value of a metric by seed; seeds without a value are left out."""
        values = {}
        for cell in self.cells.get((method, category), []):
            document = self.document(cell)
            value = None if document is None else document["evaluation"]["metrics"].get(metric)
            if value is not None:
                values[cell.seed] = float(value)
        return values

    def value(self, metric: str, method: str, category: str) -> Aggregate:
        """Return the mean of a metric over a method's seeds in a category, with its deviation."""
        values = list(self.seeds(metric, method, category).values())
        return Aggregate(
            mean=_mean(values),
            deviation=_deviation(values),
            count=len(values),
            of=len(self.grid.seeds[method]),
        )

    def average(self, metric: str, method: str, group: Group) -> Aggregate:
        """Return the mean of the categories' means, and its deviation over seeds.

        Categories without a value are left out. The deviation is over the seeds that have a value in each of
        the remaining categories.
        """
        values_of_categories: list[dict[int, float]] = []  # for each category, its values by seed
        for category in group.categories:
            values = self.seeds(metric, method, category)
            if values:
                values_of_categories.append(values)
        common_seeds: set[int] = set()
        if values_of_categories:
            common_seeds = set.intersection(*map(set, values_of_categories))
        seed_means = []
        for seed in sorted(common_seeds):
            seed_means.append(statistics.fmean(values[seed] for values in values_of_categories))
        category_means = [statistics.fmean(values.values()) for values in values_of_categories]
        return Aggregate(
            mean=_mean(category_means),
            deviation=_deviation(seed_means),
            count=len(values_of_categories),
            of=len(group.categories),
        )

    @cached_property
    def groups(self) -> list[Group]:
        """Groups of rows over which figures are averaged.

        If only some categories of MVTec AD are measured, a group of these is added, so that published figures
        can be averaged over the same categories.
        """
        groups = category_groups(self.grid.rows)
        measured = []
        for category in MVTEC:
            if any(self.seeds("image_auroc", method, category) for method in self.grid.methods):
                measured.append(category)
        is_new_group = all(set(measured) != set(group.categories) for group in groups)
        if measured and is_new_group:
            groups.append(Group("those measured here", tuple(measured)))
        return groups

    # ---- published results

    @cached_property
    def sources(self) -> list[Source]:
        """Published results of the grid's methods, on the data sets of the grid's rows."""
        data_sets = {group.label for group in self.groups}
        if set(self.grid.rows) & set(MVTEC):
            data_sets.add("MVTec AD")
        return [source for source in published_sources(self.grid.methods) if source.data_set in data_sets]

    def published_columns(self, metric: str) -> list[Source]:
        """Return the sources that are columns in the table of a metric."""
        columns = []
        for source in self.sources:
            has_figures = bool(source.cells.get(metric)) or metric in source.means
            if source.table and has_figures:
                columns.append(source)
        return columns

    # ---- on disk

    def to_dict(self) -> Json:
        """Return the document of results.json and `--json`."""
        seeds = {method: list(method_seeds) for method, method_seeds in self.grid.seeds.items()}
        cells = [self._cell(cell) for cell in self.grid.cells]
        return {
            "format": 1,
            "flawscope": __version__,
            "categories": list(self.grid.rows),
            "methods": list(self.grid.methods),
            "seeds": seeds,
            "missing": list(self.grid.missing),
            "unusable": dict(self.grid.unusable),
            "cells": cells,
            "tables": {metric: self._table(metric) for metric in METRICS},
            "published": [asdict(source) for source in self.sources],
            "marks": mark_meanings(),
        }

    def state(self, cell: Cell) -> str:
        """Return a cell's state: done, failed or not done."""
        if cell.name in self.done:
            return "done"
        return "failed" if cell.name in self.failed else "not done"

    def _cell(self, cell: Cell) -> Json:
        """Return a cell with its state and document, as values that JSON can hold."""
        return {
            "category": cell.category,
            "method": cell.method,
            "seed": cell.seed,
            "name": cell.name,
            "state": self.state(cell),
            "reason": self.failed.get(cell.name),
            "result": self.document(cell),
        }

    def _table(self, metric: str) -> Json:
        """Return a metric's means over seeds and averages over groups, as values that JSON can hold."""
        categories: Json = {}
        for category in self.grid.rows:
            values = {method: self.value(metric, method, category) for method in self.grid.methods}
            categories[category] = {method: asdict(value) for method, value in values.items()}
        averages = {group.label: self._averages(metric, group) for group in self.groups}
        return {"categories": categories, "averages": averages}

    def _averages(self, metric: str, group: Group) -> Json:
        """Return the measured and published averages over a group, as values that JSON can hold."""
        averages: Json = {"categories": list(group.categories)}
        for method in self.grid.methods:
            averages[method] = asdict(self.average(metric, method, group))
        published: Json = {}
        for source in self.published_columns(metric):
            published[source.id] = _figure_to_dict(published_average(source, metric, group))
        averages["published"] = published
        return averages

    def to_csv(self) -> str:
        """Return a CSV table with a row for each cell.

        A missing category has the same rows, without figures.
        """
        metrics = dict.fromkeys(METRICS)  # the keys are an ordered set of names
        for document in self.done.values():
            metrics |= dict.fromkeys(document["evaluation"]["metrics"])
        file = io.StringIO()
        columns = ["category", "method", "seed", "state", *metrics, *COSTS, "reason"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for category, method in itertools.product(self.grid.rows, self.grid.methods):
            cell_of_seed = {cell.seed: cell for cell in self.cells.get((method, category), [])}
            for seed in self.grid.seeds[method]:
                row = {"category": category, "method": method, "seed": seed}
                row |= self._csv_values(category, cell_of_seed.get(seed))
                writer.writerow({name: csv_cell(value) for name, value in row.items()})
        return file.getvalue()

    def _csv_values(self, category: str, cell: Cell | None) -> Json:
        """Return state, reason, metrics and costs of a cell, by column.

        Args:
            category: Category of the cell.
            cell: The cell; None if the category is missing or cannot be used.
        """
        if cell is None:
            reason = self.grid.unusable.get(category)
            return {"state": "failed" if reason else "missing", "reason": reason}
        values: Json = {"state": self.state(cell), "reason": self.failed.get(cell.name)}
        document = self.document(cell)
        if document:
            values |= document["evaluation"]["metrics"]
            values |= read_costs(document)
        return values


def read_costs(document: Json) -> dict[str, float | None]:
    """Return the costs in a cell's document, by the names of `COSTS`."""
    return {
        "fit_seconds": document["fit"]["seconds"],
        "evaluate_seconds": document["evaluate"]["seconds"],
        "peak_memory_mib": round(document["peak_memory"] / 2**20),
        "threads": document["threads"],
        "jobs": document["jobs"],
        "steps": document["settings"].get("steps"),
    }


def methods_and_seeds(grid: Grid) -> str:
    """Return methods and seeds as a text, such as `patchcore, prnet; seeds 0, 1`.

    If the methods have different seeds, the text is such as `patchcore (seeds 0, 1), prnet (seed 0)`.
    """

    def seed_text(method: str) -> str:
        seeds = grid.seeds[method]
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"

    have_same_seeds = len({*grid.seeds.values()}) == 1
    if have_same_seeds:
        return f"{', '.join(grid.methods)}; {seed_text(grid.methods[0])}"
    return ", ".join(f"{method} ({seed_text(method)})" for method in grid.methods)


def published_average(source: Source, metric: str, group: Group) -> tuple[Figure, int] | None:
    """Return the average of a source over a group, and the number of categories that it covers.

    The average that the source prints for a complete data set is returned as printed. Other averages are
    computed from the source's cells, and have no mark. The result is None if the source has no cell of the
    group.
    """
    if group.categories == DATA_SETS[source.data_set] and metric in source.means:
        return source.means[metric], len(group.categories)
    cells = source.cells.get(metric, {})
    values = [cells[category].value for category in group.categories if category in cells]
    if not values:
        return None
    return Figure(statistics.fmean(values), mark=""), len(values)


def _figure_to_dict(average: tuple[Figure, int] | None) -> Json | None:
    """Return an average and its number of categories as values that JSON can hold."""
    if average is None:
        return None
    figure, count = average
    return {**asdict(figure), "count": count}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


# ------------------------------------------------------------------------------------------ published figures


@dataclass(frozen=True)
class Figure:
    """Share in 0..1, and a mark that says how sure it is (`mark_meanings`)."""

    value: float
    mark: str


@dataclass(frozen=True)
class Source:
    """Published set of results.

    Attributes:
        method: Method of the results; "none" for a method that is not implemented here.
        table: Whether the source is a column beside the measured figures.
        decimals: Number of digits behind the point, of a share in 0..1.
        cells: Figures by metric and category.
        means: Figures by metric over all categories of `data_set`, as the source prints them.
    """

    id: str
    method: str
    label: str
    source: str
    conditions: str
    decimals: int
    table: bool
    data_set: str = "MVTec AD"
    cells: dict[str, dict[str, Figure]] = field(default_factory=dict)
    means: dict[str, Figure] = field(default_factory=dict)


def published_sources(methods: Iterable[str]) -> list[Source]:
    """Return the sources about `methods`, in the order of the methods, then those about other methods."""
    sources, _ = _read_published()
    return [source for method in (*methods, OTHER_METHOD) for source in sources if source.method == method]


def mark_meanings() -> dict[str, str]:
    """Return the meanings of the marks beside published figures, by mark."""
    _, meanings = _read_published()
    return meanings


@cache
def _read_published() -> tuple[list[Source], dict[str, str]]:
    """Return the sources in `PUBLISHED_FILE`, and the meanings of their marks."""
    data = read_yaml(PUBLISHED_FILE)
    assert isinstance(data, dict)
    return [_parse_source(**entry) for entry in data["sources"]], data["marks"]


def _parse_source(*, unit: str, metrics: Json, **facts: object) -> Source:
    """Return a source from its entry in `PUBLISHED_FILE`, with figures as shares in 0..1.

    Args:
        unit: Unit of the figures in the entry: "percent" or "fraction".
        metrics: Cells, mean and marks of each metric.
        **facts: The other fields of `Source`.
    """
    scale = {"percent": 100.0, "fraction": 1.0}[unit]
    source = build_config(Source, facts)
    for metric, entry in metrics.items():
        usual_mark = entry["mark"]
        marks = entry.get("marks", {})
        figures = {}
        for category, value in entry.get("cells", {}).items():
            figures[category] = Figure(float(value) / scale, marks.get(category, usual_mark))
        source.cells[metric] = figures
        if "mean" in entry:
            mean_mark = entry.get("mean_mark", usual_mark)
            source.means[metric] = Figure(float(entry["mean"]) / scale, mean_mark)
    return source
