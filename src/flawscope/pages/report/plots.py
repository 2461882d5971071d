"""Draws curves and histograms as SVG for the page.

Colours are names of CSS variables and follow the light or dark theme. Lines also differ in dashes, and groups
in their place: no difference is by colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flawscope.types import Array, Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flawscope.evaluation.robustness import Robustness

# Placeholder colours: in matplotlib's SVG they are replaced by CSS variables of the page
INK = "#010101"
PALE = "#020202"
LINE = "#030303"
GOOD = "#040404"
BAD = "#050505"
VARIABLES = {INK: "--ink", PALE: "--pale", LINE: "--line", GOOD: "--good", BAD: "--bad"}
BINS = 40  # between the lowest and the highest score
# Inches of 72 units; a page shows a plot 350 to 500 CSS pixels wide
WIDTH = 3.9
HEIGHT = 3.1
WIDE = 1.6 * WIDTH
ROW = 0.46  # inches of a row of the histograms
MAX_NAME_LENGTH = 28  # characters of a label
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (5, 1, 1, 1)),
    (0, (8, 3)),
    (0, (3, 3)),
)
SETTINGS: Any = {  # matplotlib has a type of its own for the keys
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
        mark: Point (x, y) of the model's score threshold; None: it is not drawn.
        limit: End of the x axis.
        chance: Whether to draw the diagonal, labelled "chance".
    """

    def draw(axes: Axes) -> None:
        if chance:
            axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=":", label="chance")
        # at most two curves, each with its colour, width and dashes
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
    """Draw a row for each group: a histogram, and a tick at each score. A line marks the threshold in all.

    Args:
        name: Name of the plot, for its ids.
        groups: The groups.
        threshold: The score threshold.
    """
    values = np.concatenate([*(group.scores for group in groups), [threshold]])
    edges = bin_edges(float(values.min()), float(values.max()), threshold)

    def draw(axes: Axes) -> None:
        # The y axis points down: row 0 is at the top, and bars of negative height point up. From the middle
        # of a row, its label lies 0.36 above, the bars' lower ends 0.2 below, and the ticks 0.29 below.
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(groups) - 0.3, -0.75), xlabel="score")
        for row, group in enumerate(groups):
            counts = bin_counts(group.scores, edges)
            base = row + 0.2  # y of the bars' lower ends
            colour = BAD if group.anomalous else GOOD
            heights = -0.34 * counts / max(counts.max(), 1)  # up to 0.34 of the row's height of 1
            axes.axhline(base, color=LINE, linewidth=0.5)
            axes.bar(edges[:-1], heights, np.diff(edges), bottom=base, align="edge", color=colour, alpha=0.85)
            axes.plot(group.scores, np.full(len(group.scores), row + 0.29), "|", color=colour, markersize=4)
            label = f"{_trim(group.name)} ({len(group.scores)})"
            width_share = axes.get_yaxis_transform()  # x as a share of the plot's width
            axes.text(0.995, row - 0.36, label, color=INK, fontsize=8.5, ha="right", transform=width_share)
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.text(threshold, -0.8, "score threshold", color=INK, fontsize=8.5, ha="center", va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    return _render_svg(name, draw, (WIDTH, 0.75 + ROW * len(groups)))


def robustness_plot(name: str, lights: Sequence[Robustness]) -> str:
    """Draw the shares of false alarms and of defects found, a row for each light.

    Args:
        name: Name of the plot, for its ids.
        lights: Result for each light; if there are none, the returned text is empty.
    """
    if not lights:
        return ""
    rows = range(len(lights))  # y of each light

    def draw(axes: Axes) -> None:
        alarms = _measured_points([result.false_alarm_rate for result in lights])
        if alarms:
            axes.plot(*alarms, "o", clip_on=False, color=BAD, markersize=4, label="false alarms")
        defects = _measured_points([result.found_rate for result in lights])
        if defects:  # hollow marks, which hide no other point
            axes.plot(
                *defects,
                "D",
                clip_on=False,
                color=GOOD,
                markersize=9,
                fillstyle="none",
                label="defects found",
            )
        axes.set(xlim=(0, 1), ylim=(len(lights) - 0.5, -0.5), xlabel="share of the pictures")
        axes.set_yticks(rows, [result.light.name for result in lights])
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _render_svg(name, draw, (WIDE, 0.9 + 0.19 * len(lights)))


def _measured_points(rates: Sequence[float | None]) -> tuple[list[float], list[int]] | None:
    """Return the rates that were measured (not None), and their rows; None if no rate was measured."""
    points = [(rate, row) for row, rate in enumerate(rates) if rate is not None]
    if not points:
        return None
    return [rate for rate, _ in points], [row for _, row in points]


def loss_plot(name: str, facts: Mapping[str, object]) -> str:
    """Draw the losses of a training by its steps, each line with its own name and dashes.

    Args:
        name: Name of the plot, for its ids.
        facts: Facts of a model file; if they have no losses that can be drawn, the returned text is empty.
    """
    try:
        lines = [line for line in _loss_curves(facts) if len(line.x) > 1]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # a model file may hold anything
        return ""
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        colours = cycle((GOOD, BAD, INK))
        for line, dashes, colour in zip(lines, DASHES, colours, strict=False):
            axes.plot(line.x, line.y, color=colour, linewidth=1.6, linestyle=dashes, label=_trim(line.name))
        axes.set(xlabel="step", ylabel="loss", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):  # plain numbers: a page cannot show matplotlib's TeX
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")
        axes.grid()
        axes.legend(loc="best")

    return _render_svg(name, draw, (WIDE, HEIGHT))


def _loss_curves(facts: Facts) -> list[Curve]:
    """Return the losses of a training by their steps, without points that a logarithmic scale cannot show."""
    points = facts.get("curve") or []
    keys = dict.fromkeys(key for point in points for key in point if key != "step")
    curves = []
    for key in keys:
        # a point without this loss (None) becomes NaN
        x, y = np.array([(point["step"], point.get(key)) for point in points], dtype=np.float64).T
        can_be_shown = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
        curves.append(Curve(key.replace("_", " "), x[can_be_shown], y[can_be_shown]))
    return curves


def bin_edges(low: float, high: float, threshold: float) -> Array:
    """Return ascending edges of bins of equal width that cover `low` to `high`.

    The threshold is one of the edges, so that each bar lies on one side of it.
    """
    step = (high - low) / BINS or 0.1  # if all scores are equal, any width will do
    bins_below = int(np.ceil((threshold - low) / step)) + 1
    bins_above = int(np.ceil((high - threshold) / step)) + 1
    return threshold + step * np.arange(-bins_below, bins_above + 1)


def bin_counts(scores: Array, edges: Array) -> Array:
    """Return the number of scores in each bin.

    A score at an edge belongs to the bin below, since a score at the threshold is good. In numpy it belongs
    to the bin above, so the signs are reversed.
    """
    reversed_counts, _ = np.histogram(-scores, -edges[::-1])
    return reversed_counts[::-1]


def _trim(name: str) -> str:
    """Return a name for a label, without control characters and at most `MAX_NAME_LENGTH` long."""
    printable_name = "".join(character if character.isprintable() else "?" for character in name)
    if len(printable_name) <= MAX_NAME_LENGTH:
        return printable_name
    return f"{printable_name[: MAX_NAME_LENGTH - 1]}…"


def _render_svg(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Draw a plot as SVG that can be a part of an HTML page.

    The SVG has no prologue, no addresses, no fonts, and no styles that would apply to the whole page. Its
    ids begin with the plot's name.

    Args:
        name: Name of the plot.
        draw: Draws the plot on the axes.
        size: Width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    defaults: Any = matplotlib.rcParamsDefault  # not the settings of this machine's user
    with matplotlib.rc_context({**defaults, **SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _embeddable_svg(buffer.getvalue(), name)


def _embeddable_svg(document: str, name: str) -> str:
    """Return matplotlib's SVG as an element of an HTML page; its ids begin with `name`."""
    svg = document[document.index("<svg") :]  # without the prologue
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    opening_tag, rest = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', opening_tag)
    svg = f'<svg {view_box[0] if view_box else ""} class="plot" aria-hidden="true" focusable="false">{rest}'
    svg = re.sub(r'\bid="', f'id="{name}-', svg.replace("xlink:href", "href"))
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)  # references to the ids
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
