"""Renders the tables for a person."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from string import ascii_lowercase
from typing import TYPE_CHECKING

from flawscope.errors import pluralize
from flawscope.evaluation.benchmark.grid import Cell, base_method
from flawscope.evaluation.benchmark.tables import (
    METRICS,
    Aggregate,
    Figure,
    Group,
    Results,
    Source,
    mark_meanings,
    methods_and_seeds,
    published_average,
    read_costs,
)
from flawscope.machine import GIB
from flawscope.methods import registry
from flawscope.progress import format_duration
from flawscope.types import Facts

if TYPE_CHECKING:
    from flawscope.types import Json

SUPERSCRIPTS = str.maketrans("0123456789RSMU", "⁰¹²³⁴⁵⁶⁷⁸⁹ᴿˢᴹᵁ")
COST_COLUMNS = ("fit", "evaluate", "peak memory", "steps", "threads", "cells at a time")


class _Footnotes:
    """Numbered remarks; equal texts share a number."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def mark(self, lines: Iterable[str]) -> str:
        numbers = []
        for line in map(_sentence, lines):
            if line not in self.lines:
                self.lines.append(line)
            numbers.append(self.lines.index(line) + 1)
        return " ".join(str(n).translate(SUPERSCRIPTS) for n in sorted({*numbers}))

    def section(self) -> str:
        lines = [f"{str(k).translate(SUPERSCRIPTS)} {line}" for k, line in enumerate(self.lines, start=1)]
        return "## Notes\n\n" + "  \n".join(lines) if lines else ""


def render(results: Results) -> str:
    """Return the text of results.md."""
    notes = _Footnotes()
    letters = {s.id: f"[{ascii_lowercase[k]}]" for k, s in enumerate(s for s in results.sources if s.table)}
    parts = ["# Benchmark", _introduction(results)]
    parts += [_metric_section(results, metric, letters, notes) for metric in METRICS]
    parts.append(_light_section(results))
    parts += [_cost_section(results, notes), notes.section(), _published_section(results, letters)]
    parts += [_settings_section(results), _environment_section(results)]
    return "\n\n".join(filter(None, parts)).rstrip() + "\n"


def _introduction(results: Results) -> str:
    grid = results.grid
    count = f"{len(results.done)} of {pluralize(len(grid.cells), 'cell')} done"
    if results.failed:
        count += f", {len(results.failed)} failed"
    several = any(len(seeds) > 1 for seeds in grid.seeds.values())
    lines = [
        f"{methods_and_seeds(grid)}; {count}.",
        "Shares from 0 to 1, higher is better"
        + ("; mean ± standard deviation over the seeds" if several else "")
        + ". A blank was not measured; an average that does not cover all says how many it covers.",
        "The page on benchmarks in flawscope's documentation says how each figure is made.",
    ]
    if results.sources:
        lines.append("Columns with a letter in brackets are [published figures](#published-figures).")
    return " ".join(lines)


# ----------------------------------------------------------------------------------------- the five metrics


def _metric_section(results: Results, metric: str, letters: dict[str, str], notes: _Footnotes) -> str:
    methods = results.grid.methods
    columns = results.published_columns(metric)
    header = ["category", *methods]
    header += [f"{letters[source.id]} {source.label}" for source in columns]
    rows = []
    for category in results.grid.rows:
        row = [f"{category} {notes.mark(_faults(results, category))}".strip()]
        for method in methods:
            remarks = _remarks(results, method, category, metric)
            value = _format_value(results.value(metric, method, category), " seeds")
            row.append(f"{value} {notes.mark(remarks)}".strip())
        cells = (source.cells.get(metric, {}).get(category) for source in columns)
        row += [_format_figure(cell, source) for source, cell in zip(columns, cells, strict=True)]
        rows.append(row)
    for group in results.groups:
        row = [f"**{group.label} ({len(group.categories)})**"]
        row += [_format_value(results.average(metric, method, group)) for method in methods]
        rows.append(row + [_format_published(source, metric, group) for source in columns])
    name = METRICS[metric]
    return f"## {name[0].upper()}{name[1:]}\n\n{_table(header, rows)}"


def _faults(results: Results, category: str) -> list[str]:
    """Why a category was not measured; none: it was."""
    faults = []
    if category in results.grid.missing:
        faults.append("Not in the data.")
    if category in results.grid.unusable:
        faults.append(results.grid.unusable[category])
    return faults


def _remarks(results: Results, method: str, category: str, metric: str) -> list[str]:
    lines = []
    absent = []
    without = []
    for cell in results.cells.get((method, category), []):
        document = results.document(cell)
        if cell.name in results.failed:
            lines.append(f"{cell.label} failed: {results.failed[cell.name]}")
        elif document is None:
            absent.append(str(cell.seed))
        else:
            if document["evaluation"]["metrics"].get(metric) is None:
                without.append(str(cell.seed))
            lines += _cell_remarks(cell, document, metric)
    if absent:
        lines.append(f"{category} {method}: seed {', '.join(absent)} is not done yet")
    if without:
        lines.append(f"{category}: its test pictures do not give every metric, for want of masks or kinds")
    return lines


def _cell_remarks(cell: Cell, document: Json, metric: str) -> list[str]:
    """Remarks on the figures of a cell that is done."""
    lines = []
    evaluation = document["evaluation"]
    if not metric.startswith("image"):  # cells of earlier versions have no remarks
        lines += [f"{cell.label}: {line}" for line in evaluation.get("remarks", ())]
    if skipped := document["skipped"]:
        lines.append(f"{cell.label}: {len(skipped)} skipped or without mask: {skipped[0]}")
    if count := evaluation["left_out"]:
        lines.append(
            f"{cell.category} {cell.method}: left out of its figures, because it was learnt from: "
            f"{pluralize(count, 'test picture')}"
        )
    return lines


def _format_value(value: Aggregate, unit: str = "") -> str:
    if value.mean is None:
        return ""
    text = f"{value.mean:.4f}" + ("" if value.deviation is None else f" ± {value.deviation:.4f}")
    return text if value.count == value.of else f"{text} ({value.count} of {value.of}{unit})"


def _format_figure(figure: Figure | None, source: Source) -> str:
    return f"{figure.value:.{source.decimals}f}{figure.mark.translate(SUPERSCRIPTS)}" if figure else ""


def _format_published(source: Source, metric: str, group: Group) -> str:
    figure, count = published_average(source, metric, group) or (None, 0)
    covers = f" ({count} of {len(group.categories)})" if 0 < count < len(group.categories) else ""
    return _format_figure(figure, source) + covers


# --------------------------------------------------------------------------------------- beside the figures


def _light_section(results: Results) -> str:
    """Table of false alarms and defects found in each light of a range."""
    rows = []
    lights = dict[str, None]()
    for category, method in itertools.product(results.grid.rows, results.grid.methods):
        found = (document["evaluation"].get("robustness") for document in results.documents(method, category))
        tables = [*filter(None, found)]
        shown = []
        for same in zip(*tables, strict=True):
            count = {
                key: sum(row[key] for row in same) for key in ("false_alarms", "good", "found", "defective")
            }
            lights[same[0]["name"]] = None
            shown.append("{false_alarms} of {good}, {found} of {defective}".format(**count))
        if shown:
            rows.append([category, method, *shown])
    text = "False alarms, and defects found, at the models' own thresholds, over all seeds."
    return _section("In other light", text, [*lights], rows)


def _cost_section(results: Results, notes: _Footnotes) -> str:
    rows = []
    for category, method in itertools.product(results.grid.rows, results.grid.methods):
        if not (documents := results.documents(method, category)):
            continue
        row = [category, method]
        row += _mean_costs(documents)
        if any(document["fit"]["resumed"] for document in documents):
            remark = "Interrupted while it learnt, and resumed: that fit's time is not known."
            row[2] = f"{row[2]} {notes.mark([remark])}".strip()
        rows.append(row)
    text = (
        "Of a cell's process, mean over its seeds. Fit: reading, learning, calibrating. Evaluate: "
        "opening the model file, scoring all test pictures, metrics. Other cells may have run at the same "
        "time."
    )
    return _section("Time and memory", text, [*COST_COLUMNS], rows)


def _mean_costs(documents: Sequence[Json]) -> list[str]:
    """The means over cells that `COST_COLUMNS` names."""
    costs = [read_costs(document) for document in documents]

    def mean(name: str) -> float | None:
        values = [cost[name] for cost in costs]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    def show(value: float | None, form: str) -> str:
        return "" if value is None else form.format(value)

    def show_duration(seconds: float | None) -> str:
        return "" if seconds is None else format_duration(seconds)

    peaks = [document["peak_memory"] / GIB for document in documents]
    return [
        show_duration(mean("fit_seconds")),
        show_duration(mean("evaluate_seconds")),
        show(statistics.fmean(peaks) if peaks else None, "{:.2f} GiB"),
        show(mean("steps"), "{:,.0f}"),
        show(mean("threads"), "{:.0f}"),
        show(mean("jobs"), "{:.0f}"),
    ]


def _published_section(results: Results, letters: dict[str, str]) -> str:
    if not results.sources:
        return ""
    others = [source for source in results.sources if not source.table]
    meanings = "; ".join(f"{mark.translate(SUPERSCRIPTS)} {text}" for mark, text in mark_meanings().items())
    parts = [
        "## Published figures",
        "Copied, not measured here. Their conditions differ from each other and from these runs; some "
        "metrics are not the same ones. The page on benchmarks in flawscope's documentation says which.",
        "\n".join(f"- **{letters[s.id]}** {_describe_source(s)}" for s in results.sources if s.table),
        f"How sure they are: {meanings}. An average without such a mark was computed from the column.",
    ]
    if others:
        parts.append("Further ones, means over all 15 categories as printed:")
        parts.append(_means_table(others))
        parts.append("\n".join(f"- {_describe_source(source)}" for source in others))
    return "\n\n".join(parts)


def _means_table(sources: Sequence[Source]) -> str:
    """Table of published means: a row for each source, a column for each metric that one has."""
    metrics = [metric for metric in METRICS if any(metric in source.means for source in sources)]
    rows = []
    for source in sources:
        figures = [_format_figure(source.means.get(metric), source) for metric in metrics]
        rows.append([source.label, *figures])
    return _table(["", *(METRICS[metric] for metric in metrics)], rows)


def _describe_source(source: Source) -> str:
    conditions = source.conditions[0].upper() + source.conditions[1:]
    return f"{source.label}: {source.source}. {conditions}."


def _settings_section(results: Results) -> str:
    lines = []
    for method in results.grid.methods:
        found: dict[str, list[str]] = {}
        for category in results.grid.rows:
            for document in results.documents(method, category):
                categories = found.setdefault(_changed_settings(method, document["settings"]), [])
                categories += [category] * (category not in categories)
        for text, categories in found.items():
            where = "" if len(found) == 1 else f" ({', '.join(categories)})"
            lines.append(f"- {method}{where}: {text}")
    return "## Settings\n\n" + "\n".join(lines) if lines else ""


def _changed_settings(method: str, settings: Facts) -> str:
    """Describe the settings that differ from the defaults, without seeds and steps, which have columns."""
    default = registry.method(base_method(method)).config()
    defaults = json.loads(json.dumps(asdict(default)))
    found = [
        f"`{key}: {value}`"
        for key, value in settings.items()
        if key not in ("seed", "steps") and value != defaults.get(key)
    ]
    return f"{', '.join(found)}; all else as by default" if found else "as by default"


def _environment_section(results: Results) -> str:
    found = Counter(map(_describe_machine, results.done.values()))
    lines = [f"- {text}" + ("" if len(found) == 1 else f" ({n} cells)") for text, n in found.items()]
    return "## Environment\n\n" + "\n".join(lines) if lines else ""


def _describe_machine(document: Json) -> str:
    machine = document["machine"]
    memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    cores = pluralize(machine["cores"], "core")
    here = f"{machine['cpu']}, {cores}{memory}, {machine['system']}"
    return f"{here}; computed on {document['device']}; {versions}"


# ----------------------------------------------------------------------------------------------------- text


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def _section(title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Section with a row for each category and method; empty without rows."""
    if not rows:
        return ""
    return f"## {title}\n\n{text}\n\n{_table(['category', 'method', *columns], rows, text=2)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Markdown table that is aligned in a plain editor too; all but the first `text` columns to the right."""
    columns = []
    for place, title in enumerate(header):
        cells = [title, *(row[place] for row in rows)]
        cells = [cell.replace("|", "\\|") for cell in cells]
        width = max(3, *(len(cell) for cell in cells))
        if place < text:
            padded = [cell.ljust(width) for cell in cells]
            rule = "-" * width
        else:
            padded = [cell.rjust(width) for cell in cells]
            rule = "-" * (width - 1) + ":"
        columns.append([padded[0], rule, *padded[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))
