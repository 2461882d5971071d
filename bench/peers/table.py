"""The README's table of flawscope beside anomalib, from the results alone. Needs only Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = tuple[str, str, str, str]
HEADER: Row = ("what", "flawscope", "anomalib 2.7.0", "flawscope is")
JUDGED = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
MIB = "MiB"


def table(document: dict[str, Any]) -> str:
    """Markdown; a row for everything that was measured of both, whoever wins it."""
    rows = list(_rows(document["cells"]))
    lines = [f"| {' | '.join(row)} |" for row in (HEADER, ("---",) * 4, *rows)]
    return "\n".join(lines)


def shown(page: str) -> str:
    """The table that a page has; ValueError where it has none."""
    lines = page.splitlines()
    start = lines.index(f"| {' | '.join(HEADER)} |")
    end = next((k for k in range(start, len(lines)) if not lines[k].startswith("|")), len(lines))
    return "\n".join(lines[start:end])


def replaced(page: str, new: str) -> str:
    """The page with another table in that place."""
    return page.replace(shown(page), new)


def less(ours: float, theirs: float) -> str:
    """Of a cost: how many times less, or behind."""
    times = max(ours, theirs) / min(ours, theirs) if min(ours, theirs) > 0 else None
    if ours == theirs:
        return "equal"
    if times is None:
        return "ahead" if ours < theirs else "behind"
    if times > 1000:
        return f"{'ahead' if ours < theirs else '**behind**'} by more than 1,000 times"
    shown = f"{times:.0f}" if times >= 9.95 else f"{times:.2g}" if times >= 1.095 else f"{times:.3f}"
    return f"{'ahead' if ours < theirs else '**behind**'} by {shown} times"


def more(ours: float, theirs: float, digits: int) -> str:
    """Of something good: by how much ahead or behind, as the digits that are shown have it."""
    difference = round(ours, digits) - round(theirs, digits)
    if round(difference, digits) == 0:
        return "equal"
    return f"{'ahead' if difference > 0 else '**behind**'} by {abs(difference):.{digits}f}"


def seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 999.5 else f"{value:.0f} s"


def small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def cost(what: str, ours: float, theirs: float, unit: str = "") -> Row:
    if unit == "s":
        return what, seconds(ours), seconds(theirs), less(ours, theirs)
    shown = [f"{v:,.0f}" if v >= 100 or v == int(v) else f"{v:.1f}" for v in (ours, theirs)]
    return what, *(f"{v} {unit}".strip() for v in shown), less(ours, theirs)


def _rows(cells: dict[str, Any]) -> Iterator[Row]:
    yield from _install(cells)
    if cell := cells.get("start"):
        median = {name: t["median"] for name, t in cell["seconds"].items()}
        yield cost("`--help`", median["flawscope --help"], median["anomalib --help"], "s")
        yield cost("`import` of the package", median["import flawscope"], median["import anomalib"], "s")
        pair = (median["flawscope, all for a fit"], median["anomalib, all for a fit"])
        yield cost("import of all that a fit needs", *pair, "s")
    if {"job/shell", "job/Python", "job/anomalib"} <= set(cells):
        shell, python, theirs = (cells[f"job/{name}"] for name in ("shell", "Python", "anomalib"))
        yield cost("main job: lines in a shell, anomalib's in Python", shell["lines"], theirs["lines"])
        yield cost("main job: lines in Python", python["lines"], theirs["lines"])
        yield cost("main job, all of it", shell["seconds"], theirs["seconds"], "s")
    names = [name.split("/")[1] for name in cells if name.startswith("patchcore/") and name.endswith("/fit")]
    for category in names:
        yield from _patchcore(cells, category)
    for category in names:
        yield from _after(cells, category)


def _install(cells: dict[str, Any]) -> Iterator[Row]:
    pairs = (
        ("to fit and export", "flawscope", "anomalib"),
        ("to predict", "flawscope core", "anomalib, to predict"),
    )
    for what, ours, theirs in pairs:
        if f"install/{ours}" not in cells or f"install/{theirs}" not in cells:
            continue
        a, b = cells[f"install/{ours}"], cells[f"install/{theirs}"]
        took = [c.get("whole_seconds", c["seconds"]) for c in (a, b)]
        yield cost(f"install {what}", *took, "s")
        yield cost(f"install {what}: on disk", a["mib"], b["mib"], MIB)
        yield cost("the same without torch and CUDA", a["mib_without_torch"], b["mib_without_torch"], MIB)
        yield cost(f"install {what}: packages", a["distributions"], b["distributions"])


def _patchcore(cells: dict[str, Any], category: str) -> Iterator[Row]:
    if fit := cells.get(f"patchcore/{category}/fit"):
        pair = [fit["seconds"][p]["median"] for p in ("flawscope", "anomalib")]
        yield cost(f"{category}: fit, whole process", *pair, "s")
        yield cost(
            f"{category}: fit, peak memory", *(fit["peak_mib"][p] for p in ("flawscope", "anomalib")), MIB
        )
        yield cost(f"{category}: trained file", *(fit["file_mib"][p] for p in ("flawscope", "anomalib")), MIB)
    if (cell := cells.get(f"patchcore/{category}/test")) is None:
        return
    a, b = cell["flawscope"], cell["anomalib"]
    for key, name in JUDGED.items():
        digits = 3 if key == "au_pro" else 4
        shown = [f"{c[key]:.{digits}f}" for c in (a, b)]
        yield f"{category}: {name}", *shown, more(a[key], b[key], digits)
    shown = [f"{c['found']} of {c['defects']}" for c in (a, b)]
    yield f"{category}: defects found", *shown, more(a["found"], b["found"], 0)
    shown = [f"{c['false_alarms']} of {c['good']}" for c in (a, b)]
    yield f"{category}: false alarms", *shown, more(b["false_alarms"], a["false_alarms"], 0)


def _after(cells: dict[str, Any], category: str) -> Iterator[Row]:
    if cell := cells.get(f"export/{category}"):
        a, b = cell["flawscope"], cell["anomalib"]
        yield cost("exported file (OpenVINO)", a["file_mib"], b["file_mib"], MIB)
        ours = a["as shipped"]
        for what, theirs in (("as shipped", b["as shipped"]), ("both in fp32", b["f32"])):
            pair = [p["largest"] / p["score_range"] for p in (ours, theirs)]
            yield f"exported scores off by, {what}", *map(small, pair), less(*pair)
        pair = [p["decisions_differ"] for p in (ours, b["as shipped"])]
        counts = [f"{n} of {p['pictures']}" for n, p in zip(pair, (ours, b["as shipped"]), strict=True)]
        yield "exported: decisions changed", *counts, more(pair[1], pair[0], 0)
    if cell := cells.get(f"latency/{category}"):
        median = {name: t["median"] for name, t in cell["seconds"].items()}
        yield cost("path to answer, torch", median["torch/flawscope"], median["torch/anomalib"], "s")
        ours = median["openvino/flawscope"]
        yield cost("path to answer, OpenVINO in fp32", ours, median["openvino/anomalib"], "s")
        shipped = cell["precision"]["openvino as shipped/anomalib"]
        name = f"path to answer, OpenVINO as shipped (fp32; {shipped})"
        yield cost(name, ours, median["openvino as shipped/anomalib"], "s")
    if cell := cells.get(f"one picture/{category}"):
        pair = [cell["seconds"][p]["median"] for p in ("flawscope", "anomalib")]
        yield cost("process that predicts one picture, exported", *pair, "s")
        yield cost("the same: peak memory", *(cell["peak_mib"][p] for p in ("flawscope", "anomalib")), MIB)
