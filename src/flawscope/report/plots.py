"""Draws curves and histograms as SVG for the page. Colours are names of CSS variables, so that they follow
light and dark; lines also differ in dashes and groups in their place, so that no difference is by colour
alone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What matplotlib draws with -> the CSS variable that takes its place.
INK, PALE, LINE, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", PALE: "--pale", LINE: "--line", GOOD: "--good", BAD: "--bad"}
MOST_POINTS = 400  # of a curve: more cannot be seen
BINS = 40
WIDTH, HEIGHT = 3.9, 3.1  # inches of 72 units; shown 350 to 500 CSS pixels wide
ROW = 0.46  # inches a row of the histograms
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 3)), (0, (3, 3)))

Array = NDArray[Any]


class Curve(NamedTuple):
    """Points and name of a line."""

    name: str
    x: Array
    y: Array


class Group(NamedTuple):
    """Scores of one kind of pictures for the histograms."""

    name: str
    scores: Array
    anomalous: bool


def curve_plot(
    name: str,
    curves: Sequence[Curve],
    labels: tuple[str, str],
    *,
    mark: tuple[float, float] | None = None,
    limit: float = 1.0,
    chance: bool = False,
) -> str:
    """Draws curves in the unit square, the first one solid; `mark` is the point of the score threshold."""

    def draw(axes: Axes) -> None:
        if chance:
            axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=":", label="chance")
        for k, curve in enumerate(curves):
            x, y = thinned(curve.x, curve.y)
            style = {"color": GOOD, "linewidth": 2} if k == 0 else {"color": INK, "linewidth": 1.3}
            axes.plot(x, y, linestyle="-" if k == 0 else (0, (5, 2)), label=curve.name, **style)  # type: ignore[arg-type]
        if mark:
            axes.plot(*mark, "D", color=BAD, markersize=6, label="score threshold", clip_on=False, zorder=5)
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, limit), ylim=(0, 1.005))
        axes.grid(color=LINE, linewidth=0.5)
        if len(curves) > 1 or mark:
            axes.legend(loc="best", frameon=False, fontsize=8.5, labelcolor=INK)

    return _svg(name, draw, (WIDTH, HEIGHT))


def histograms(name: str, groups: Sequence[Group], threshold: float) -> str:
    """Draws a histogram row for each group on a common axis, ticks for its pictures, and the threshold."""
    every = np.concatenate([*(group.scores for group in groups), [threshold]])
    edges = bin_edges(float(every.min()), float(every.max()), threshold)

    def draw(axes: Axes) -> None:
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(groups) - 0.3, -0.75), xlabel="score")
        for k, group in enumerate(groups):
            counts = bin_counts(group.scores, edges)
            colour = BAD if group.anomalous else GOOD
            axes.axhline(k + 0.2, color=LINE, linewidth=0.5)
            heights = 0.34 * counts / max(counts.max(), 1)
            axes.bar(
                edges[:-1], -heights, np.diff(edges), bottom=k + 0.2, align="edge", color=colour, alpha=0.85
            )
            axes.plot(group.scores, np.full(len(group.scores), k + 0.29), "|", color=colour, markersize=4)
            words = f"{_short(group.name)} ({len(group.scores)})"
            across = axes.get_yaxis_transform()
            axes.text(0.995, k - 0.36, words, color=INK, fontsize=8.5, ha="right", transform=across)
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.text(threshold, -0.8, "score threshold", color=INK, fontsize=8.5, ha="center", va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    return _svg(name, draw, (WIDTH, 0.75 + ROW * len(groups)))


def loss_plot(name: str, curve: Sequence[Mapping[str, object]]) -> str:
    """Draws the losses of a training by its steps, each line named and dashed in its own way.

    curve: points with `step` and the losses' values, as a model file keeps them; values that are not positive
    are passed over. Empty where fewer than two points are left.
    """
    points = [p for p in curve if isinstance(p, Mapping) and _positive(p.get("step"))]
    keys = [key for key in dict.fromkeys(k for p in points for k in p) if key != "step"]
    lines = []
    for key in keys[: len(DASHES)]:
        own = [(float(p["step"]), float(p[key])) for p in points if _positive(p.get(key))]  # type: ignore[arg-type]
        if len(own) > 1:
            lines.append(Curve(str(key).replace("_", " "), *np.array(own).T))
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for k, (line, dashes) in enumerate(zip(lines, DASHES, strict=False)):
            colour = (GOOD, BAD, INK)[k % 3]
            axes.plot(line.x, line.y, color=colour, linewidth=1.6, linestyle=dashes, label=_short(line.name))
        axes.set(xlabel="step", ylabel="loss", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):  # matplotlib would write TeX, which pages show as it stands
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")
        axes.grid(color=LINE, linewidth=0.5)
        axes.legend(loc="best", frameon=False, fontsize=8.5, labelcolor=INK)

    return _svg(name, draw, (WIDTH * 1.6, HEIGHT))


def _positive(value: object) -> bool:
    """Whether a value has a place on a logarithmic axis."""
    return isinstance(value, int | float) and 0 < value < float("inf")


def bin_edges(low: float, high: float, threshold: float) -> Array:
    """Rising edges of bins around low..high, one of them the threshold: no bar is half anomalous."""
    step = (high - low) / BINS or 0.1
    below, above = (int(np.ceil(reach / step)) + 1 for reach in (threshold - low, high - threshold))
    return threshold + step * np.arange(-below, above + 1)


def bin_counts(scores: Array, edges: Array) -> Array:
    """Number of scores in each bin, its upper edge included: a score at the threshold is good."""
    return np.histogram(-scores, -edges[::-1])[0][::-1]


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """Thins a curve to about `MOST_POINTS` points at most, evenly along its length, with both ends."""
    if len(x) <= MOST_POINTS:
        return x, y
    along = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    wanted = np.searchsorted(along, np.linspace(0, along[-1], MOST_POINTS))
    chosen = np.unique(np.concatenate([[0], np.clip(wanted, 0, len(x) - 1), [len(x) - 1]]))
    return x[chosen], y[chosen]


def _short(name: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 28 else f"{name[:27]}…"


def _svg(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,
        "font.size": 9,
        "text.parse_math": False,  # a kind may be called $x$
        "axes.unicode_minus": True,
        "axes.edgecolor": PALE,
        "axes.labelcolor": INK,
        "xtick.color": PALE,
        "ytick.color": PALE,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    defaults: Any = matplotlib.rcParamsDefault  # not the settings of this machine's user
    with matplotlib.rc_context({**defaults, **settings}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return for_page(buffer.getvalue(), name)


def for_page(svg: str, name: str) -> str:
    """Turns matplotlib's file into a part of an HTML page: no prologue, no addresses, no fonts and rules that
    would hold for the whole page, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box[0] if box else ""} class="plot" aria-hidden="true" focusable="false">{rest}'
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
