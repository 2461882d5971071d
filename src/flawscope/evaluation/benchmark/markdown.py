"""Renders the tables for a person."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from string import ascii_lowercase
from typing import Any

from flawscope.errors import pluralize
from flawscope.evaluation.benchmark.grid import base_method
from flawscope.evaluation.benchmark.tables import (
    COSTS,
    METRICS,
    Aggregate,
    Figure,
    Group,
    Results,
    Source,
    mark_meanings,
    methods_and_seeds,
    published_average,
)
from flawscope.machine import GIB
from flawscope.methods import registry
from flawscope.progress import format_duration

SUPERSCRIPTS = str.maketrans("0123456789RSMU", "⁰¹²³⁴⁵⁶⁷⁸⁹ᴿˢᴹᵁ")
# title of a cost -> its value in a cell's document, and how it is formatted
COST_COLUMNS: dict[str, tuple[Callable[[dict[str, Any]], float | None], Callable[[float], str]]] = {
    "fit": (COSTS["fit_seconds"], format_duration),
    "evaluate": (COSTS["evaluate_seconds"], format_duration),
    "peak memory": (lambda document: document["peak_memory"] / GIB, "{:.2f} GiB".format),
    "steps": (COSTS["steps"], "{:,.0f}".format),
    "threads": (COSTS["threads"], "{:.0f}".format),
    "cells at a time": (COSTS["jobs"], "{:.0f}".format),
}


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
    """Returns the text of results.md."""
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
    methods, columns = results.grid.methods, results.published_columns(metric)
    header = ["category", *methods, *(f"{letters[source.id]} {source.label}" for source in columns)]
    rows = []
    for category in results.grid.rows:
        missing = ["Not in the data."] if category in results.grid.missing else []
        unusable = [results.grid.unusable[category]] if category in results.grid.unusable else []
        row = [f"{category} {notes.mark([*missing, *unusable])}".strip()]
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


def _remarks(results: Results, method: str, category: str, metric: str) -> list[str]:
    lines, absent, without = [], [], []
    for cell in results.cells.get((method, category), []):
        document = results.document(cell)
        if cell.name in results.failed:
            lines.append(f"{cell.label} failed: {results.failed[cell.name]}")
        elif document is None:
            absent.append(str(cell.seed))
        else:
            if document["evaluation"]["metrics"].get(metric) is None:
                without.append(str(cell.seed))
            if not metric.startswith("image"):  # cells of earlier versions have no remarks
                lines += [f"{cell.label}: {line}" for line in document["evaluation"].get("remarks", ())]
            if skipped := document["skipped"]:
                lines.append(f"{cell.label}: {len(skipped)} skipped or without mask: {skipped[0]}")
            if count := document["evaluation"]["left_out"]:
                lines.append(
                    f"{category} {method}: left out of its figures, because it was learnt from: "
                    f"{pluralize(count, 'test picture')}"
                )
    if absent:
        lines.append(f"{category} {method}: seed {', '.join(absent)} is not done yet")
    if without:
        lines.append(f"{category}: its test pictures do not give every metric, for want of masks or kinds")
    return lines


def _format_value(value: Aggregate, of: str = "") -> str:
    if value.mean is None:
        return ""
    text = f"{value.mean:.4f}" + ("" if value.deviation is None else f" ± {value.deviation:.4f}")
    return text if value.count == value.of else f"{text} ({value.count} of {value.of}{of})"


def _format_figure(figure: Figure | None, source: Source) -> str:
    return f"{figure.value:.{source.decimals}f}{figure.mark.translate(SUPERSCRIPTS)}" if figure else ""


def _format_published(source: Source, metric: str, group: Group) -> str:
    figure, count = published_average(source, metric, group) or (None, 0)
    covers = f" ({count} of {len(group.categories)})" if 0 < count < len(group.categories) else ""
    return _format_figure(figure, source) + covers


# --------------------------------------------------------------------------------------- beside the figures


def _light_section(results: Results) -> str:
    """Table of false alarms and defects found in each light of a range."""
    rows, lights = [], dict[str, None]()
    for category, method in itertools.product(results.grid.rows, results.grid.methods):
        found = (document["evaluation"].get("robustness") for document in results.documents(method, category))
        tables = [*filter(None, found)]
        shown = []
        for same in zip(*tables, strict=True):
            count = {
                key: sum(one[key] for one in same) for key in ("false_alarms", "good", "found", "defective")
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
        for cost, show in COST_COLUMNS.values():
            values = [value for value in map(cost, documents) if value is not None]
            row.append(show(statistics.fmean(values)) if values else "")
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
        shown = [metric for metric in METRICS if any(metric in source.means for source in others)]
        rows = [[s.label, *(_format_figure(s.means.get(metric), s) for metric in shown)] for s in others]
        parts += [
            "Further ones, means over all 15 categories as printed:",
            _table(["", *(METRICS[metric] for metric in shown)], rows),
            "\n".join(f"- {_describe_source(source)}" for source in others),
        ]
    return "\n\n".join(parts)


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


def _changed_settings(method: str, settings: dict[str, Any]) -> str:
    """Describes the settings that differ from the defaults, without seeds and steps, which have columns."""
    defaults = json.loads(json.dumps(asdict(registry.method(base_method(method)).config())))
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


def _describe_machine(document: dict[str, Any]) -> str:
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
    cells = [[c.replace("|", "\\|") for c in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[k]) for row in cells)) for k in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if k < text else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w if k < text else "-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])
