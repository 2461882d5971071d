"""The tables as a person reads them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from string import ascii_lowercase
from typing import Any

from flawscope.benchmark import published
from flawscope.benchmark.grid import Grid
from flawscope.benchmark.published import Figure, Source
from flawscope.benchmark.tables import METRICS, Group, Results, Value, printed
from flawscope.machine import GIB
from flawscope.methods import registry
from flawscope.progress import counted, duration

RAISED = str.maketrans("0123456789RSMU", "⁰¹²³⁴⁵⁶⁷⁸⁹ᴿˢᴹᵁ")


class _Notes:
    """Remarks with a number each, the same for the same words."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def mark(self, lines: Iterable[str]) -> str:
        numbers = []
        for line in lines:
            if line not in self.lines:
                self.lines.append(line)
            numbers.append(self.lines.index(line) + 1)
        return " ".join(str(n).translate(RAISED) for n in sorted(set(numbers)))


def render(results: Results) -> str:
    """results.md."""
    notes = _Notes()
    letters = {s.id: f"[{ascii_lowercase[k]}]" for k, s in enumerate(s for s in results.sources if s.table)}
    tables = [_metric(results, metric, letters, notes) for metric in METRICS]
    costs = _costs(results, notes)
    return "\n\n".join(
        part
        for part in (
            "# Benchmark",
            _head(results),
            *tables,
            costs,
            _notes(notes),
            _published(results, letters),
            _settings(results),
            _machines(results),
        )
        if part
    ).rstrip() + ("\n")


def methods_and_seeds(grid: Grid) -> str:
    """`patchcore, prnet; seeds 0, 1`, or by method where they differ."""

    def words(seeds: Sequence[int]) -> str:
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"

    if len({*grid.seeds.values()}) == 1:
        return f"{', '.join(grid.methods)}; {words(grid.seeds[grid.methods[0]])}"
    return ", ".join(f"{method} ({words(grid.seeds[method])})" for method in grid.methods)


def _several(grid: Grid) -> bool:
    return any(len(seeds) > 1 for seeds in grid.seeds.values())


def _head(results: Results) -> str:
    grid = results.grid
    count = f"{len(results.done)} of {counted(len(grid.cells), 'cell')} done"
    if results.failed:
        count += f", {len(results.failed)} failed"
    lines = [
        f"{methods_and_seeds(grid)}; {count}.",
        "Shares from 0 to 1, higher is better"
        + ("; mean ± standard deviation over the seeds" if _several(grid) else "")
        + ". A blank was not measured; an average that does not cover all says how many it covers.",
    ]
    if results.sources:
        lines.append("Columns with a letter in brackets are [published figures](#published-figures).")
    return " ".join(lines)


# ------------------------------------------------------------------------------------------- the five metrics

EXPLAINED = {
    "image_auroc": "Area under the ROC curve of the pictures' scores.",
    "pixel_auroc": "The same for all pixels of all test pictures.",
    "pixel_f1": "The best F1 that any one threshold gives, found with the test's own masks: what the maps "
    "could do, not what a calibrated threshold does.",
    "au_pro": "Mean overlap with the defects' regions (8-connected, over the whole test set) against the "
    "rate of false pixels, up to 0.3.",
    "pixel_ap": "Average precision of all pixels of all test pictures.",
}


def _metric(results: Results, metric: str, letters: dict[str, str], notes: _Notes) -> str:
    methods, columns = results.grid.methods, results.columns(metric)
    header = ["category", *methods, *(_heading(s, metric, letters, notes) for s in columns)]
    rows = []
    for category in results.grid.rows:
        row = [_named(results, category, notes)]
        for method in methods:
            remarks = _remarks(results, method, category, metric)
            row.append(f"{_value(results.value(metric, method, category))} {notes.mark(remarks)}".strip())
        row += [_cell(source, metric, category, notes) for source in columns]
        rows.append(row)
    for group in results.groups:
        row = [f"**{group.label} ({len(group.categories)})**"]
        row += [_average(results.average(metric, method, group)) for method in methods]
        row += [_printed(source, metric, group) for source in columns]
        rows.append(row)
    return f"## {_title(metric)}\n\n{EXPLAINED[metric]}\n\n{_table(header, rows)}"


def _title(metric: str) -> str:
    return METRICS[metric][0].upper() + METRICS[metric][1:]


def _heading(source: Source, metric: str, letters: dict[str, str], notes: _Notes) -> str:
    note = source.notes.get(metric)
    remark = [_sentence(f"{source.label}, {METRICS[metric]}: {note}")] if note else []
    return f"{letters[source.id]} {source.label} {notes.mark(remark)}".strip()


def _named(results: Results, category: str, notes: _Notes) -> str:
    if category in results.grid.missing:
        return f"{category} {notes.mark(['Not in the data.'])}"
    if category in results.grid.unusable:
        return f"{category} {notes.mark([_sentence(results.grid.unusable[category])])}"
    return category


def _remarks(results: Results, method: str, category: str, metric: str) -> list[str]:
    """What must be said beside a method's figure of a category."""
    lines, absent, without = [], [], []
    for cell in results.cells.get((method, category), []):
        document = results.document(cell)
        if cell.name in results.failed:
            lines.append(_sentence(f"{cell.label} failed: {results.failed[cell.name]}"))
        elif document is None:
            absent.append(str(cell.seed))
        else:
            if document["evaluation"]["metrics"].get(metric) is None:
                without.append(str(cell.seed))
            skipped = document["skipped"]
            if skipped:
                lines.append(_sentence(f"{cell.label}: {len(skipped)} skipped or without mask: {skipped[0]}"))
            if document["evaluation"]["left_out"]:
                count = document["evaluation"]["left_out"]
                lines.append(
                    f"{category} {method}: left out of its figures, because it was learnt from: "
                    f"{counted(count, 'test picture')}."
                )
    if absent:
        lines.append(f"{category} {method}: seed {', '.join(absent)} is not done yet.")
    if without:
        lines.append(f"{category}: its test pictures do not give every metric, for want of masks or kinds.")
    return lines


def _value(value: Value) -> str:
    if value.mean is None:
        return ""
    text = f"{value.mean:.4f}" + ("" if value.deviation is None else f" ± {value.deviation:.4f}")
    return text if value.count == value.of else f"{text} ({value.count} of {value.of} seeds)"


def _average(value: Value) -> str:
    if value.mean is None:
        return ""
    text = f"{value.mean:.4f}" + ("" if value.deviation is None else f" ± {value.deviation:.4f}")
    return text if value.count == value.of else f"{text} ({value.count} of {value.of})"


def _figure(figure: Figure, decimals: int) -> str:
    return f"{figure.value:.{decimals}f}{figure.mark.translate(RAISED)}"


def _cell(source: Source, metric: str, category: str, notes: _Notes) -> str:
    figure = source.cells.get(metric, {}).get(category)
    if figure is None:
        return ""
    remark = [_sentence(f"{source.label}, {category}: {figure.note}")] if figure.note else []
    return f"{_figure(figure, source.decimals)} {notes.mark(remark)}".strip()


def _printed(source: Source, metric: str, group: Group) -> str:
    found = printed(source, metric, group)
    if found is None:
        return ""
    text = _figure(found[0], source.decimals)
    return text if found[1] == len(group.categories) else f"{text} ({found[1]} of {len(group.categories)})"


# ---------------------------------------------------------------------------------------- what stands beside


def _costs(results: Results, notes: _Notes) -> str:
    rows = []
    for category in results.grid.rows:
        for method in results.grid.methods:
            cells = results.cells.get((method, category), [])
            documents = [d for d in map(results.document, cells) if d is not None]
            if not documents:
                continue
            resumed = any(d["fit"]["resumed"] for d in documents)
            remark = ["Interrupted while it learnt, and resumed: that fit's time is not known."] * resumed
            rows.append(
                [
                    category,
                    method,
                    f"{_span(documents, _fit_seconds, duration)} {notes.mark(remark)}".strip(),
                    _span(documents, lambda d: d["evaluate"]["seconds"], duration),
                    _span(documents, lambda d: d["peak_memory"] / GIB, lambda v: f"{v:.2f} GiB"),
                    _span(documents, lambda d: d["settings"].get("steps"), lambda v: f"{v:,.0f}"),
                    _span(documents, lambda d: d["threads"], lambda v: f"{v:.0f}"),
                    _span(documents, lambda d: d["jobs"], lambda v: f"{v:.0f}"),
                ]
            )
    if not rows:
        return ""
    header = ["category", "method", "fit", "evaluate", "peak memory", "steps", "threads", "cells at a time"]
    kept = [k for k in range(len(header)) if k < 5 or any(row[k] for row in rows)]
    return (
        "## Time and memory\n\nOf a cell's process"
        + (", mean over its seeds" if _several(results.grid) else "")
        + ". Fit: reading, learning, calibrating. Evaluate: opening the model file, scoring all test "
        "pictures, metrics. Other cells may have run at the same time.\n\n"
        + _table([header[k] for k in kept], [[row[k] for k in kept] for row in rows], text=2)
    )


def _fit_seconds(document: dict[str, Any]) -> float | None:
    seconds: float | None = document["fit"]["seconds"]
    return seconds


def _span(
    documents: Sequence[dict[str, Any]], get: Callable[[dict[str, Any]], Any], show: Callable[[float], str]
) -> str:
    values = [value for value in map(get, documents) if value is not None]
    return show(statistics.fmean(values)) if values else ""


def _notes(notes: _Notes) -> str:
    if not notes.lines:
        return ""
    lines = [f"{str(k).translate(RAISED)} {line}" for k, line in enumerate(notes.lines, start=1)]
    return "## Notes\n\n" + "  \n".join(lines)


def _published(results: Results, letters: dict[str, str]) -> str:
    if not results.sources:
        return ""
    lines = [f"**{letters[s.id]}** {_described(s)}" for s in results.sources if s.table]
    others = [s for s in results.sources if not s.table]
    used = {f.mark for s in results.sources for f in (*s.means.values(), *_all_cells(s))}
    legend = "; ".join(f"{m.translate(RAISED)} {text}" for m, text in published.marks().items() if m in used)
    parts = [
        "## Published figures",
        "Copied, not measured here. Their conditions differ from each other and from these runs.",
        "\n".join(f"- {line}" for line in lines),
        f"How sure they are: {legend}. An average without such a mark was computed from the column.",
    ]
    if others:
        shown = [m for m in METRICS if any(m in s.means for s in others)]
        rows = [
            [s.label, *(_figure(s.means[m], s.decimals) if m in s.means else "" for m in shown)]
            for s in others
        ]
        parts += [
            "Further ones, means over all 15 categories as printed:",
            _table(["", *(METRICS[m] for m in shown)], rows),
            "\n".join(f"- {_described(s)}" for s in others),
        ]
    absent = "; ".join(f"{entry['name']}: {entry['note']}" for entry in published.without_figures())
    return "\n\n".join([*parts, f"Without figures: {absent}."])


def _described(source: Source) -> str:
    """Where a source's figures are from, and what must be known about them."""
    conditions = source.conditions[0].upper() + source.conditions[1:]
    notes = [source.note, *(f"{METRICS[m]} {note}" for m, note in source.notes.items() if not source.table)]
    words = "; ".join(filter(None, notes))
    return f"{source.label}: {source.source}. {conditions}." + (f" Note: {words}." if words else "")


def _all_cells(source: Source) -> list[Figure]:
    return [figure for cells in source.cells.values() for figure in cells.values()]


def _settings(results: Results) -> str:
    lines = []
    for method in results.grid.methods:
        found: dict[str, list[str]] = {}
        for category in results.grid.rows:
            for cell in results.cells.get((method, category), []):
                document = results.document(cell)
                if document is not None:
                    text = _changed(method, document["settings"])
                    if category not in found.setdefault(text, []):
                        found[text].append(category)
        for text, categories in found.items():
            where = "" if len(found) == 1 else f" ({', '.join(categories)})"
            lines.append(f"- {method}{where}: {text}")
    return "## Settings\n\n" + "\n".join(lines) if lines else ""


def _changed(method: str, settings: dict[str, Any]) -> str:
    """Settings that are not the defaults. Seeds and steps stand elsewhere."""
    defaults = {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(registry.method(method).config)
    }
    found = [
        f"`{key}: {value}`"
        for key, value in settings.items()
        if key not in ("seed", "steps") and _listed(value) != _listed(defaults.get(key))
    ]
    return f"{', '.join(found)}; all else as by default" if found else "as by default"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _machines(results: Results) -> str:
    found: dict[str, int] = {}
    for document in results.done.values():
        machine, versions = document["machine"], document["versions"]
        memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
        text = (
            f"{machine['cpu']}, {counted(machine['cores'], 'core')}{memory}, {machine['system']}; "
            f"computed on {document['device']}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        )
        found[text] = found.get(text, 0) + 1
    if not found:
        return ""
    lines = [f"- {text}" + ("" if len(found) == 1 else f" ({n} cells)") for text, n in found.items()]
    return "## Environment\n\n" + "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ text


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Markdown that is aligned in a plain editor too; all but the first `text` columns to the right."""
    cells = [[c.replace("|", "\\|") for c in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[k]) for row in cells)) for k in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if k < text else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w if k < text else "-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])
