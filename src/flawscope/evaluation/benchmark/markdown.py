"""Renders the tables for a person."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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

    def add(self, lines: Iterable[str]) -> str:
        """Add remarks, and return their numbers as superscripts."""
        numbers = set()
        for line in map(_sentence, lines):
            if line not in self.lines:
                self.lines.append(line)
            numbers.add(self.lines.index(line) + 1)
        return " ".join(_superscript(number) for number in sorted(numbers))

    def section(self) -> str:
        """Return the section with all remarks; empty without remarks."""
        if not self.lines:
            return ""
        lines = [f"{_superscript(number)} {line}" for number, line in enumerate(self.lines, start=1)]
        return "## Notes\n\n" + "  \n".join(lines)


def _superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def render(results: Results) -> str:
    """Return the text of results.md."""
    notes = _Footnotes()
    columns = [source for source in results.sources if source.table]
    letters = {source.id: f"[{ascii_lowercase[k]}]" for k, source in enumerate(columns)}
    parts = [
        "# Benchmark",
        _introduction(results),
        *(_metric_section(results, metric, letters, notes) for metric in METRICS),
        _light_section(results),
        _cost_section(results, notes),
        notes.section(),
        _published_section(results, letters),
        _settings_section(results),
        _environment_section(results),
    ]
    return "\n\n".join(filter(None, parts)).rstrip() + "\n"


def _introduction(results: Results) -> str:
    """Return the text before the tables: methods, seeds, and how to read the figures."""
    grid = results.grid
    state = f"{len(results.done)} of {pluralize(len(grid.cells), 'cell')} done"
    if results.failed:
        state += f", {len(results.failed)} failed"
    has_deviations = any(len(seeds) > 1 for seeds in grid.seeds.values())
    deviations = "; mean ± standard deviation over the seeds" if has_deviations else ""
    lines = [
        f"{methods_and_seeds(grid)}; {state}.",
        f"Shares from 0 to 1, higher is better{deviations}. A blank was not measured; an average that does "
        "not cover all says how many it covers.",
        "The page on benchmarks in flawscope's documentation says how each figure is made.",
    ]
    if results.sources:
        lines.append("Columns with a letter in brackets are [published figures](#published-figures).")
    return " ".join(lines)


# ----------------------------------------------------------------------------------------- the five metrics


def _metric_section(results: Results, metric: str, letters: dict[str, str], notes: _Footnotes) -> str:
    """Return the table of a metric: a row for each category and each group, then the published columns.

    Args:
        results: The results.
        metric: Name of the metric.
        letters: Letter of each published column, by the source's id.
        notes: Footnotes, to which remarks on single figures are added.
    """
    methods = results.grid.methods
    columns = results.published_columns(metric)
    header = ["category", *methods]
    header += [f"{letters[source.id]} {source.label}" for source in columns]
    rows = []
    for category in results.grid.rows:
        fault_numbers = notes.add(_faults(results, category))
        row = [f"{category} {fault_numbers}".strip()]
        for method in methods:
            remarks = _remarks(results, method, category, metric)
            value = _format_value(results.value(metric, method, category), unit=" seeds")
            row.append(f"{value} {notes.add(remarks)}".strip())
        for source in columns:
            figure = source.cells.get(metric, {}).get(category)
            row.append(_format_figure(figure, source))
        rows.append(row)
    for group in results.groups:
        row = [f"**{group.label} ({len(group.categories)})**"]
        row += [_format_value(results.average(metric, method, group)) for method in methods]
        row += [_format_published(source, metric, group) for source in columns]
        rows.append(row)
    name = METRICS[metric]
    return f"## {name[0].upper()}{name[1:]}\n\n{_table(header, rows)}"


def _faults(results: Results, category: str) -> list[str]:
    """Return why a category was not measured; empty for a measured category."""
    faults = []
    if category in results.grid.missing:
        faults.append("Not in the data.")
    if category in results.grid.unusable:
        faults.append(results.grid.unusable[category])
    return faults


def _remarks(results: Results, method: str, category: str, metric: str) -> list[str]:
    """Return the remarks on a method's figure in a category."""
    lines = []
    unfinished_seeds = []
    is_incomplete = False
    for cell in results.cells.get((method, category), []):
        document = results.document(cell)
        if cell.name in results.failed:
            lines.append(f"{cell.label} failed: {results.failed[cell.name]}")
        elif document is None:
            unfinished_seeds.append(str(cell.seed))
        else:
            is_incomplete |= document["evaluation"]["metrics"].get(metric) is None
            lines += _cell_remarks(cell, document, metric)
    if unfinished_seeds:
        lines.append(f"{category} {method}: seed {', '.join(unfinished_seeds)} is not done yet")
    if is_incomplete:
        lines.append(f"{category}: its test pictures do not give every metric, for want of masks or kinds")
    return lines


def _cell_remarks(cell: Cell, document: Json, metric: str) -> list[str]:
    """Return the remarks on a metric of a cell that is done."""
    lines = []
    evaluation = document["evaluation"]
    if not metric.startswith("image"):  # remarks are on pixel metrics
        remarks = evaluation.get("remarks", ())  # documents of earlier versions have none
        lines += [f"{cell.label}: {line}" for line in remarks]
    skipped = document["skipped"]
    if skipped:
        lines.append(f"{cell.label}: {len(skipped)} skipped or without mask: {skipped[0]}")
    left_out_count = evaluation["left_out"]
    if left_out_count:
        lines.append(
            f"{cell.category} {cell.method}: left out of its figures, because it was learnt from: "
            f"{pluralize(left_out_count, 'test picture')}"
        )
    return lines


def _format_value(value: Aggregate, unit: str = "") -> str:
    """Return mean and deviation as a text, such as "0.9876 ± 0.0012 (2 of 3 seeds)".

    The part in brackets is there only if some values are missing; `unit`, such as " seeds", is its end.
    """
    if value.mean is None:
        return ""
    text = f"{value.mean:.4f}"
    if value.deviation is not None:
        text += f" ± {value.deviation:.4f}"
    if value.count < value.of:
        text += f" ({value.count} of {value.of}{unit})"
    return text


def _format_figure(figure: Figure | None, source: Source) -> str:
    """Return a published figure with its mark; empty without a figure."""
    if figure is None:
        return ""
    return f"{figure.value:.{source.decimals}f}{figure.mark.translate(SUPERSCRIPTS)}"


def _format_published(source: Source, metric: str, group: Group) -> str:
    """Return a published average as a text; if it does not cover all categories, with "(COUNT of ALL)"."""
    average = published_average(source, metric, group)
    if average is None:
        return ""
    figure, count = average
    text = _format_figure(figure, source)
    if count < len(group.categories):
        text += f" ({count} of {len(group.categories)})"
    return text


# --------------------------------------------------------------------------------------- beside the figures


def _light_section(results: Results) -> str:
    """Return the table of false alarms and defects found in each light; empty without such results."""
    rows = []
    light_names = dict[str, None]()  # the keys are an ordered set of names
    for category, method in itertools.product(results.grid.rows, results.grid.methods):
        tables = []  # one for each seed, with a row for each light
        for document in results.documents(method, category):
            table = document["evaluation"].get("robustness")
            if table:
                tables.append(table)
        cells = []
        for rows_of_light in zip(*tables, strict=True):  # the rows of one light, one of each seed
            light_names[rows_of_light[0]["name"]] = None
            sums = {}
            for key in ("false_alarms", "good", "found", "defective"):
                sums[key] = sum(row[key] for row in rows_of_light)
            cells.append(f"{sums['false_alarms']} of {sums['good']}, {sums['found']} of {sums['defective']}")
        if cells:
            rows.append([category, method, *cells])
    text = "False alarms, and defects found, at the models' own thresholds, over all seeds."
    return _section("In other light", text, [*light_names], rows)


def _cost_section(results: Results, notes: _Footnotes) -> str:
    """Return the table of times and memory; a remark on resumed fits is added to `notes`."""
    rows = []
    for category, method in itertools.product(results.grid.rows, results.grid.methods):
        documents = results.documents(method, category)
        if not documents:
            continue
        fit_duration, *other_costs = _mean_costs(documents)
        has_resumed_fit = any(document["fit"]["resumed"] for document in documents)
        if has_resumed_fit:
            remark = "Interrupted while it learnt, and resumed: that fit's time is not known."
            fit_duration = f"{fit_duration} {notes.add([remark])}".strip()
        rows.append([category, method, fit_duration, *other_costs])
    text = (
        "Of a cell's process, mean over its seeds. Fit: reading, learning, calibrating. Evaluate: "
        "opening the model file, scoring all test pictures, metrics. Other cells may have run at the same "
        "time."
    )
    return _section("Time and memory", text, [*COST_COLUMNS], rows)


def _mean_costs(documents: Sequence[Json]) -> list[str]:
    """Return the mean of each cost over cells, as texts in the order of `COST_COLUMNS`.

    A cost without a value is an empty text. `documents` has at least one cell.
    """
    costs = [read_costs(document) for document in documents]

    def mean_text(name: str, show: Callable[[float], str]) -> str:
        """Return the mean of the cost `name`, formatted by `show`; empty where no cell has it."""
        values = [cost[name] for cost in costs]
        known_values = [value for value in values if value is not None]
        return show(statistics.fmean(known_values)) if known_values else ""

    peak = statistics.fmean(document["peak_memory"] / GIB for document in documents)
    return [
        mean_text("fit_seconds", format_duration),
        mean_text("evaluate_seconds", format_duration),
        f"{peak:.2f} GiB",
        mean_text("steps", "{:,.0f}".format),
        mean_text("threads", "{:.0f}".format),
        mean_text("jobs", "{:.0f}".format),
    ]


def _published_section(results: Results, letters: dict[str, str]) -> str:
    """Return the section on published figures: where each column comes from, and further sources."""
    if not results.sources:
        return ""
    columns = [source for source in results.sources if source.table]
    others = [source for source in results.sources if not source.table]
    meanings = "; ".join(f"{mark.translate(SUPERSCRIPTS)} {text}" for mark, text in mark_meanings().items())
    parts = [
        "## Published figures",
        "Copied, not measured here. Their conditions differ from each other and from these runs; some "
        "metrics are not the same ones. The page on benchmarks in flawscope's documentation says which.",
        "\n".join(f"- **{letters[source.id]}** {_describe_source(source)}" for source in columns),
        f"How sure they are: {meanings}. An average without such a mark was computed from the column.",
    ]
    if others:
        parts.append("Further ones, means over all 15 categories as printed:")
        parts.append(_means_table(others))
        parts.append("\n".join(f"- {_describe_source(source)}" for source in others))
    return "\n\n".join(parts)


def _means_table(sources: Sequence[Source]) -> str:
    """Return a table of published means: a row for each source, a column for each metric with a mean."""
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
    """Return the section with each method's settings; if they differ by category, with the categories."""
    lines = []
    for method in results.grid.methods:
        # settings in words -> the categories with these settings, in order, as the keys of a dict
        categories_of_text: dict[str, dict[str, None]] = {}
        for category in results.grid.rows:
            for document in results.documents(method, category):
                text = _changed_settings(method, document["settings"])
                categories_of_text.setdefault(text, {})[category] = None
        for text, categories in categories_of_text.items():
            place = "" if len(categories_of_text) == 1 else f" ({', '.join(categories)})"
            lines.append(f"- {method}{place}: {text}")
    if not lines:
        return ""
    return "## Settings\n\n" + "\n".join(lines)


def _changed_settings(method: str, settings: Facts) -> str:
    """Describe the settings that differ from the defaults.

    Seed and steps are left out: the tables have columns for them.
    """
    default = registry.method(base_method(method)).config()
    # `settings` come from JSON, which has lists in place of tuples
    defaults = json.loads(json.dumps(asdict(default)))
    changes = []
    for key, value in settings.items():
        if key not in ("seed", "steps") and value != defaults.get(key):
            changes.append(f"`{key}: {value}`")
    return f"{', '.join(changes)}; all else as by default" if changes else "as by default"


def _environment_section(results: Results) -> str:
    """Return the section with the machines and versions that the cells ran on."""
    cell_counts = Counter(map(_describe_machine, results.done.values()))
    lines = []
    for text, count in cell_counts.items():
        cells = "" if len(cell_counts) == 1 else f" ({count} cells)"
        lines.append(f"- {text}{cells}")
    if not lines:
        return ""
    return "## Environment\n\n" + "\n".join(lines)


def _describe_machine(document: Json) -> str:
    """Return machine, device and versions of a cell as a text."""
    machine = document["machine"]
    memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    cores = pluralize(machine["cores"], "core")
    hardware = f"{machine['cpu']}, {cores}{memory}, {machine['system']}"
    return f"{hardware}; computed on {document['device']}; {versions}"


# ----------------------------------------------------------------------------------------------------- text


def _sentence(text: str) -> str:
    """Return a text on one line, with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith(".") else f"{line}."


def _section(title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a section with a row for each category and method; empty without rows."""
    if not rows:
        return ""
    return f"## {title}\n\n{text}\n\n{_table(['category', 'method', *columns], rows, text_columns=2)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Return a Markdown table with padded columns, which is readable in a plain editor, too.

    Args:
        header: Titles of the columns.
        rows: Cells of each row.
        text_columns: Number of columns, from the first, that are aligned to the left. The others are aligned
            to the right.
    """
    columns = []
    for column_index, title in enumerate(header):
        texts = [title, *(row[column_index] for row in rows)]
        cells = [text.replace("|", "\\|") for text in texts]
        width = max(3, *(len(cell) for cell in cells))  # Markdown needs three dashes
        if column_index < text_columns:
            padded = [cell.ljust(width) for cell in cells]
            rule = "-" * width
        else:
            padded = [cell.rjust(width) for cell in cells]
            rule = "-" * (width - 1) + ":"
        title_cell, *other_cells = padded
        columns.append([title_cell, rule, *other_cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))
