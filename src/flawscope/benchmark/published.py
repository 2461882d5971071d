"""Figures that others have published for MVTec AD: `published.yaml` explains its fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("published.yaml")
OTHER = "none"  # the `method` of sources about methods that are not implemented here


@dataclass(frozen=True)
class Figure:
    """A share in 0..1, and how sure it is."""

    value: float
    mark: str


@dataclass(frozen=True)
class Source:
    """One set of results.

    method: the one it is about, "none" if that is not implemented here.
    table: stands as a column beside the measured figures.
    decimals: digits that it gives, as a share in 0..1.
    cells: by metric and category. means: by metric, over all 15 categories, as it prints them.
    """

    id: str
    method: str
    label: str
    source: str
    conditions: str
    decimals: int
    table: bool
    cells: dict[str, dict[str, Figure]]
    means: dict[str, Figure]


def sources(methods: Iterable[str]) -> list[Source]:
    """Sources about these methods, in their order, then those about methods that are not implemented here."""
    return [source for method in (*methods, OTHER) for source in _all() if source.method == method]


def marks() -> dict[str, str]:
    """The meaning of each mark."""
    return dict(_read()["marks"])


@cache
def _read() -> dict[str, Any]:
    import yaml

    data: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return data


@cache
def _all() -> tuple[Source, ...]:
    return tuple(_source(entry) for entry in _read()["sources"])


def _source(entry: dict[str, Any]) -> Source:
    scale = {"percent": 100.0, "fraction": 1.0}[entry["unit"]]
    cells: dict[str, dict[str, Figure]] = {}
    means: dict[str, Figure] = {}
    for metric, given in entry["metrics"].items():
        marks = given.get("marks", {})
        cells[metric] = {
            category: Figure(value / scale, marks.get(category, given["mark"]))
            for category, value in given.get("cells", {}).items()
        }
        if "mean" in given:
            means[metric] = Figure(given["mean"] / scale, given.get("mean_mark", given["mark"]))
    names = ("id", "method", "label", "source", "conditions", "decimals", "table")
    return Source(**{name: entry[name] for name in names}, cells=cells, means=means)
