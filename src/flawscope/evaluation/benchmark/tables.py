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
        deviation: Standard deviation of a sample (n - 1), over seeds; None: it is missing.
        count: Number of seeds, or categories, that it covers.
        of: Number of seeds, or categories, that there are.
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

    They are MVTec AD's textures, objects and both; other data sets whose categories are all there; and the
    rest.
    """
    known = (("textures", TEXTURES), ("objects", OBJECTS))
    found = [Group(name, group) for name, group in known if not set(rows).isdisjoint(group)]
    if len(found) == 2:
        found.append(Group("all", MVTEC))
    found += [Group(n, c) for n, c in DATA_SETS.items() if c != MVTEC and set(c) <= set(rows)]
    averaged = set(MVTEC)
    for group in found:
        averaged.update(group.categories)
    others = tuple(row for row in rows if row not in averaged)
    if others:
        found.append(Group("others" if found else "all", others))
    return found


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
        """Return the document of a cell; None: it is not done."""
        return self.done.get(cell.name)

    def documents(self, method: str, category: str) -> list[Json]:
        """Documents of the finished cells of a method and a category."""
        found = map(self.document, self.cells.get((method, category), []))
        return [document for document in found if document is not None]

    @cached_property
    def cells(self) -> dict[tuple[str, str], list[Cell]]:
        """Cells by method and category, one for each seed."""
        found: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.grid.cells:
            found.setdefault((cell.method, cell.category), []).append(cell)
        return found

    def seeds(self, metric: str, method: str, category: str) -> dict[int, float]:
        """The metric of every seed that has one."""
        found = {}
        for cell in self.cells.get((method, category), []):
            document = self.document(cell)
            value = None if document is None else document["evaluation"]["metrics"].get(metric)
            if value is not None:
                found[cell.seed] = float(value)
        return found

    def value(self, metric: str, method: str, category: str) -> Aggregate:
        """Return the mean of a metric over a method's seeds in a category, with its deviation."""
        values = list(self.seeds(metric, method, category).values())
        return Aggregate(_mean(values), _deviation(values), len(values), len(self.grid.seeds[method]))

    def average(self, metric: str, method: str, group: Group) -> Aggregate:
        """The mean of the categories' means; its deviation over the seeds that cover all of them."""
        each = {c: self.seeds(metric, method, c) for c in group.categories}
        each = {category: seeds for category, seeds in each.items() if seeds}
        common = set.intersection(*map(set, each.values())) if each else set()
        runs = [statistics.fmean(seeds[s] for seeds in each.values()) for s in sorted(common)]
        means = [statistics.fmean(seeds.values()) for seeds in each.values()]
        return Aggregate(_mean(means), _deviation(runs), len(each), len(group.categories))

    @cached_property
    def groups(self) -> list[Group]:
        """Groups of the rows that are averaged.

        Where MVTec AD is not complete, its measured categories are a group: published figures can be averaged
        over the same.
        """
        found = category_groups(self.grid.rows)
        measured = tuple(c for c in MVTEC if any(self.seeds("image_auroc", m, c) for m in self.grid.methods))
        if measured and all(set(measured) != set(group.categories) for group in found):
            found.append(Group("those measured here", measured))
        return found

    # ---- published results

    @cached_property
    def sources(self) -> list[Source]:
        """Published results of the grid's methods, on the data sets of its rows."""
        shown = {group.label for group in self.groups}
        shown |= {"MVTec AD"} if set(self.grid.rows) & set(MVTEC) else set()
        return [source for source in published_sources(self.grid.methods) if source.data_set in shown]

    def published_columns(self, metric: str) -> list[Source]:
        """Sources with figures of a metric that stand in its table."""
        return [s for s in self.sources if s.table and (s.cells.get(metric) or metric in s.means)]

    # ---- on disk

    def to_dict(self) -> Json:
        """The document of results.json and `--json`."""
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
        categories: Json = {}
        for category in self.grid.rows:
            values = {method: self.value(metric, method, category) for method in self.grid.methods}
            categories[category] = {method: asdict(value) for method, value in values.items()}
        averages = {group.label: self._averages(metric, group) for group in self.groups}
        return {"categories": categories, "averages": averages}

    def _averages(self, metric: str, group: Group) -> Json:
        found: Json = {"categories": list(group.categories)}
        for method in self.grid.methods:
            found[method] = asdict(self.average(metric, method, group))
        published: Json = {}
        for source in self.published_columns(metric):
            published[source.id] = _figure_to_dict(published_average(source, metric, group))
        found["published"] = published
        return found

    def to_csv(self) -> str:
        """CSV table with a row for each cell; a missing category has rows too, without figures."""
        found = [key for document in self.done.values() for key in document["evaluation"]["metrics"]]
        metrics = dict.fromkeys([*METRICS, *found])
        file = io.StringIO()
        names = ["category", "method", "seed", "state", *metrics, *COSTS, "reason"]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for category, method in itertools.product(self.grid.rows, self.grid.methods):
            cells = {cell.seed: cell for cell in self.cells.get((method, category), [])}
            for seed in self.grid.seeds[method]:
                row = {"category": category, "method": method, "seed": seed}
                row |= self._csv_row(category, cells.get(seed))
                writer.writerow({name: csv_cell(value) for name, value in row.items()})
        return file.getvalue()

    def _csv_row(self, category: str, cell: Cell | None) -> Json:
        if cell is None:
            reason = self.grid.unusable.get(category)
            return {"state": "failed" if reason else "missing", "reason": reason}
        row: Json = {"state": self.state(cell), "reason": self.failed.get(cell.name)}
        if document := self.document(cell):
            row |= document["evaluation"]["metrics"]
            row |= read_costs(document)
        return row


def read_costs(document: Json) -> dict[str, float | None]:
    """The costs in a cell's document, by the names of `COSTS`."""
    return {
        "fit_seconds": document["fit"]["seconds"],
        "evaluate_seconds": document["evaluate"]["seconds"],
        "peak_memory_mib": round(document["peak_memory"] / 2**20),
        "threads": document["threads"],
        "jobs": document["jobs"],
        "steps": document["settings"].get("steps"),
    }


def methods_and_seeds(grid: Grid) -> str:
    """`patchcore, prnet; seeds 0, 1`, or by method where they differ."""

    def words(seeds: Sequence[int]) -> str:
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"

    if len({*grid.seeds.values()}) == 1:
        return f"{', '.join(grid.methods)}; {words(grid.seeds[grid.methods[0]])}"
    return ", ".join(f"{method} ({words(grid.seeds[method])})" for method in grid.methods)


def published_average(source: Source, metric: str, group: Group) -> tuple[Figure, int] | None:
    """Return the average of a source over a group, and the number of categories that it covers; None: none.

    For a whole data set it is the printed average, where there is one, else it is computed from the source's
    cells, without a mark.
    """
    if group.categories == DATA_SETS[source.data_set] and metric in source.means:
        return source.means[metric], len(group.categories)
    cells = source.cells.get(metric, {})
    values = [cells[c].value for c in group.categories if c in cells]
    return (Figure(statistics.fmean(values), ""), len(values)) if values else None


def _figure_to_dict(found: tuple[Figure, int] | None) -> Json | None:
    if found is None:
        return None
    figure, count = found
    return {**asdict(figure), "count": count}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


# ------------------------------------------------------------------------------------------ published figures


@dataclass(frozen=True)
class Figure:
    """Share in 0..1, and a mark of its reliability."""

    value: float
    mark: str


@dataclass(frozen=True)
class Source:
    """Published set of results.

    Attributes:
        method: Method of the results; "none": it is not implemented here.
        table: Whether it stands as a column beside the measured figures.
        decimals: Digits that it gives, as a share in 0..1.
        cells: Figures by metric and category.
        means: Figures by metric, over all categories of `data_set`, as it prints them.
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
    """Sources about these methods, in their order, then those about methods that are not implemented here."""
    return [s for method in (*methods, OTHER_METHOD) for s in _read_published()[0] if s.method == method]


def mark_meanings() -> dict[str, str]:
    """Return the meanings of the marks beside published figures, by mark."""
    return _read_published()[1]


@cache
def _read_published() -> tuple[list[Source], dict[str, str]]:
    data = read_yaml(PUBLISHED_FILE)
    assert isinstance(data, dict)
    return [_parse_source(**entry) for entry in data["sources"]], data["marks"]


def _parse_source(*, unit: str, metrics: Json, **facts: object) -> Source:
    scale = {"percent": 100.0, "fraction": 1.0}[unit]
    source = build_config(Source, facts)
    for metric, given in metrics.items():
        marks = given.get("marks", {})
        source.cells[metric] = {
            category: Figure(float(value) / scale, marks.get(category, given["mark"]))
            for category, value in given.get("cells", {}).items()
        }
        if "mean" in given:
            source.means[metric] = Figure(float(given["mean"]) / scale, given.get("mean_mark", given["mark"]))
    return source
