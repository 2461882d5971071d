"""Draws curves and histograms as SVG for the page.

Colours are names of CSS variables and follow the light or dark theme. Lines also differ in dashes, and groups
in their place: no difference is by colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flawscope.types import Array, Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flawscope.evaluation.robustness import Robustness

# What matplotlib draws with -> the CSS variable that takes its place.
INK = "#010101"
PALE = "#020202"
LINE = "#030303"
GOOD = "#040404"
BAD = "#050505"
VARIABLES = {INK: "--ink", PALE: "--pale", LINE: "--line", GOOD: "--good", BAD: "--bad"}
BINS = 40
# inches of 72 units; shown 350 to 500 CSS pixels wide
WIDTH = 3.9
HEIGHT = 3.1
ROW = 0.46  # inches a row of the histograms
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (5, 1, 1, 1)),
    (0, (8, 3)),
    (0, (3, 3)),
)
SETTINGS: Any = {  # whose keys matplotlib alone types
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "text.parse_math": False,  # a kind may be called $x$
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}


class Curve(NamedTuple):
    """Name and points of a line."""

    name: str
    x: Array
    y: Array


class Group(NamedTuple):
    """Scores of a kind of pictures, for a row of the histograms."""

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
    """Draw curves in the unit square, the first with a solid line.

    Args:
        name: Name of the plot, for its ids.
        curves: The curves.
        labels: Labels of the x axis and the y axis.
        mark: Point of the score threshold; None: none.
        limit: End of the x axis.
        chance: Whether to draw the diagonal, labelled "chance".
    """

    def draw(axes: Axes) -> None:
        if chance:
            axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=":", label="chance")
        for curve, colour, width, dashes in zip(curves, (GOOD, INK), (2, 1.3), DASHES, strict=False):
            axes.plot(curve.x, curve.y, color=colour, linewidth=width, linestyle=dashes, label=curve.name)
        if mark:
            axes.plot(*mark, "D", color=BAD, markersize=6, label="score threshold", clip_on=False, zorder=5)
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, limit), ylim=(0, 1.005))
        axes.grid()
        if len(curves) > 1 or mark:
            axes.legend(loc="best")

    return _render_svg(name, draw, (WIDTH, HEIGHT))


def histograms(name: str, groups: Sequence[Group], threshold: float) -> str:
    """Draw a row for each group on a common axis, with a histogram and ticks, and the threshold."""
    every = np.concatenate([*(group.scores for group in groups), [threshold]])
    edges = bin_edges(float(every.min()), float(every.max()), threshold)

    def draw(axes: Axes) -> None:
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(groups) - 0.3, -0.75), xlabel="score")
        for k, group in enumerate(groups):
            counts = bin_counts(group.scores, edges)
            base = k + 0.2
            colour = BAD if group.anomalous else GOOD
            heights = -0.34 * counts / max(counts.max(), 1)
            axes.axhline(base, color=LINE, linewidth=0.5)
            axes.bar(edges[:-1], heights, np.diff(edges), bottom=base, align="edge", color=colour, alpha=0.85)
            axes.plot(group.scores, np.full(len(group.scores), k + 0.29), "|", color=colour, markersize=4)
            words = f"{_trim(group.name)} ({len(group.scores)})"
            across = axes.get_yaxis_transform()
            axes.text(0.995, k - 0.36, words, color=INK, fontsize=8.5, ha="right", transform=across)
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.text(threshold, -0.8, "score threshold", color=INK, fontsize=8.5, ha="center", va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    return _render_svg(name, draw, (WIDTH, 0.75 + ROW * len(groups)))


def robustness_plot(name: str, lights: Sequence[Robustness]) -> str:
    """Draw the shares of false alarms and of defects found, a row for each light; empty without lights."""
    rows = range(len(lights))

    def draw(axes: Axes) -> None:
        alarms = _known_points([light.false_alarm_rate for light in lights])
        if alarms:
            axes.plot(*alarms, "o", clip_on=False, color=BAD, markersize=4, label="false alarms")
        found = _known_points([light.found_rate for light in lights])
        if found:  # hollow: it hides no other point
            axes.plot(
                *found, "D", clip_on=False, color=GOOD, markersize=9, fillstyle="none", label="defects found"
            )
        axes.set(xlim=(0, 1), ylim=(len(lights) - 0.5, -0.5), xlabel="share of the pictures")
        axes.set_yticks(rows, [light.light.name for light in lights])
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _render_svg(name, draw, (WIDTH * 1.6, 0.9 + 0.19 * len(lights))) if lights else ""


def _known_points(rates: Sequence[float | None]) -> tuple[list[float], list[int]] | None:
    """Return the rates that are known, and their rows; None: none are."""
    known = [(rate, row) for row, rate in enumerate(rates) if rate is not None]
    if not known:
        return None
    return [rate for rate, _ in known], [row for _, row in known]


def loss_plot(name: str, facts: Mapping[str, object]) -> str:
    """Draw the losses of a training by its steps, each line with its own name and dashes.

    Args:
        name: Name of the plot, for its ids.
        facts: Facts of a model file. The result is empty where they have no losses that can be drawn.
    """
    try:
        lines = [line for line in _loss_curves(facts) if len(line.x) > 1]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # a model file may hold anything
        return ""

    def draw(axes: Axes) -> None:
        for k, (line, dashes) in enumerate(zip(lines, DASHES, strict=False)):
            colour = (GOOD, BAD, INK)[k % 3]
            axes.plot(line.x, line.y, color=colour, linewidth=1.6, linestyle=dashes, label=_trim(line.name))
        axes.set(xlabel="step", ylabel="loss", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):  # matplotlib would write TeX, which pages show as it stands
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")
        axes.grid()
        axes.legend(loc="best")

    return _render_svg(name, draw, (WIDTH * 1.6, HEIGHT)) if lines else ""


def _loss_curves(facts: Facts) -> list[Curve]:
    curve = facts.get("curve") or []
    lines = []
    for key in dict.fromkeys(key for point in curve for key in point if key != "step"):
        x, y = np.array([(point["step"], point.get(key)) for point in curve], dtype=np.float64).T
        drawn = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)  # both scales are logarithmic
        lines.append(Curve(key.replace("_", " "), x[drawn], y[drawn]))
    return lines


def bin_edges(low: float, high: float, threshold: float) -> Array:
    """Return ascending edges of bins around low..high; one is the threshold: no bar is half anomalous."""
    step = (high - low) / BINS or 0.1
    below, above = (int(np.ceil(reach / step)) + 1 for reach in (threshold - low, high - threshold))
    return threshold + step * np.arange(-below, above + 1)


def bin_counts(scores: Array, edges: Array) -> Array:
    """Return the number of scores in each bin, its upper edge included: good at the threshold."""
    return np.histogram(-scores, -edges[::-1])[0][::-1]


def _trim(name: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 28 else f"{name[:27]}…"


def _render_svg(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Draw a plot as SVG to stand in an HTML page.

    It has no prologue, no addresses, no fonts and no rules that would hold for the whole page; its ids begin
    with the plot's name.
    """
    import matplotlib
    from matplotlib.figure import Figure

    defaults: Any = matplotlib.rcParamsDefault  # not the settings of this machine's user
    with matplotlib.rc_context({**defaults, **SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    svg = f'<svg {box[0] if box else ""} class="plot" aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'\bid="', f'id="{name}-', svg.replace("xlink:href", "href"))
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
