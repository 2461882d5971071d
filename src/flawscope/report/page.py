"""The page: template, style and script in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

from flawscope.progress import counted
from flawscope.report.thumbnails import FULL
from flawscope.report.words import headline, rates
from flawscope.results import drawing

if TYPE_CHECKING:
    from flawscope.calibration.decision import Calibration
    from flawscope.report.collect import Figures
    from flawscope.report.facts import Facts
    from flawscope.report.thumbnails import Layers

WORST = 12  # mistakes that are shown by themselves
CURVES = {  # name of the plot -> title, and what it says
    "roc": ("ROC", "Defects found against false alarms, for every threshold; the upper left is perfect."),
    "pr": ("Precision and recall", "How much of what is called anomalous is, against how much is found."),
    "pro": ("PRO", "How much of each defect's area is marked, against the good area marked with it."),
}


def page(
    title: str,
    found: Figures,
    summary: list[str],
    facts: Facts,
    thumbnails: list[Layers | str],
    calibration: Calibration,
    mismatch: str = "",
) -> str:
    """The whole page. All text is escaped; `thumbnails` are in the order of `found.rows`, or why there is
    none."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"rates": rates, "count": counted}
    script = _text("report.js")
    low, high = calibration.colour_range
    pictures = [
        {
            **asdict(row),
            "outcome": row.outcome,
            "verdict": row.verdict,
            "margin": row.margin,
            "layers": layers if isinstance(layers, str) else asdict(layers),
        }
        for row, layers in zip(found.rows, thumbnails, strict=True)
    ]
    return environment.from_string(_text("page.html.j2")).render(
        title=title,
        headline=headline(found.tally),
        summary=summary,
        mismatch=mismatch,
        found=found,
        facts=facts,
        curves=[(*CURVES[name], Markup(found.plots[name])) for name in CURVES if name in found.plots],
        histogram=Markup(found.plots["scores"]),
        worst=found.mistakes[:WORST],
        left_out=thumbnails.count(FULL),
        kinds=list(dict.fromkeys(row.kind for row in found.rows)),
        style=Markup(_text("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=Markup(for_script(pictures)),
        scale={"low": low, "middle": calibration.mask_threshold, "high": high},
        ramp=", ".join("rgb({} {} {})".format(*drawing.colour_table()[k]) for k in range(0, 256, 17)),
    )


def for_script(value: Any) -> str:
    """JSON that can stand inside <script>: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
