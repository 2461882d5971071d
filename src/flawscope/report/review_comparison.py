"""The page of a review's before and after: what another model says of the pictures that a person judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flawscope.datasets.files import printable
from flawscope.progress import counted
from flawscope.report.page import HEAT, LINE, drawn, render
from flawscope.report.thumbnails import FULL, MOST_SIDE, Layers, flattened, thumbnails
from flawscope.report.words import size_of
from flawscope.results.evaluation_cache import Evaluated
from flawscope.results.prediction import RIGHT, Prediction, outcome

MOST_BEFORE = 300  # pictures with a drawing of before: the page stays below 20 MB
VIEWS = {
    "picture": ("Picture", ("photo",)),
    "before": ("Before", ("before",)),
    "after": ("After", ("photo", "heat", "line")),
}
PARTS = (("pictures", "Pictures"), ("meaning", "What this means"))


@dataclass(frozen=True)
class Reviewed:
    """A picture that a person judged, and what two models say of it.

    before: the drawing that the earlier run left, if it did. after: without its map. learnt: the new model
    was fitted or calibrated on it, so that what it says of it shows nothing about new pictures.
    """

    name: str
    defective: bool
    learnt: bool
    called_before: bool
    severity_before: float
    score_before: float
    before: Path | None
    after: Prediction

    def to_dict(self) -> dict[str, Any]:
        """What `review --after --json` prints of it."""

        def said(called: bool, severity: float, score: float) -> dict[str, Any]:
            return {"decision": "anomalous" if called else "good", "severity": severity, "score": score}

        return {
            "name": self.name,
            "reviewed": "defect" if self.defective else "good",
            "learnt": self.learnt,
            "before": said(self.called_before, self.severity_before, self.score_before),
            "after": said(self.after.is_anomalous, self.after.severity, self.after.score),
        }


class Count(NamedTuple):
    """Of some pictures, how many each model called anomalous."""

    pictures: int
    before: int
    after: int


def count_of(pictures: Iterable[Reviewed], *, defective: bool, learnt: bool | None = None) -> Count:
    """`learnt`: only pictures that the new model has learnt from, or only the others."""
    own = [one for one in pictures if one.defective == defective and learnt in (None, one.learnt)]
    return Count(len(own), sum(p.called_before for p in own), sum(p.after.is_anomalous for p in own))


def sentences_of(pictures: Sequence[Reviewed]) -> list[str]:
    """What came of it, for a person."""
    good = [one for one in pictures if not one.defective]
    alarms = count_of(pictures, defective=False).before
    gone = sum(one.called_before and not one.after.is_anomalous for one in good)
    new = sum(one.after.is_anomalous and not one.called_before for one in good)
    found = count_of(pictures, defective=True)
    lines = [
        f"{gone} of {counted(alarms, 'false alarm')} gone" + (f", {new} new" if new else ""),
        f"{found.after} of {counted(found.pictures, 'defect')} found, {found.before} before",
    ]
    for what, defective in (("good pictures", False), ("defects", True)):
        if learnt := count_of(pictures, defective=defective, learnt=True).pictures:
            lines.append(
                f"the new model has learnt from {learnt} of the {what}: that it is right about these "
                "says little about new ones"
            )
    return lines


def again_page(
    model: str, pictures: Sequence[Reviewed], seen: Sequence[Evaluated], white: float | None = None
) -> str:
    """The page: where the new model is wrong first. `seen`: the same pictures with their maps."""
    layers = thumbnails(seen, range(len(seen)), white)
    sentences = sentences_of(pictures)
    shown = [
        _picture(one, made, with_before=k < MOST_BEFORE)
        for k, (one, made) in enumerate(zip(pictures, layers, strict=True))
    ]
    order = sorted(range(len(shown)), key=lambda k: -shown[k]["weight"])
    return render(
        "again.html.j2",
        shown,
        ("pages.js",),
        title=f"{printable(model)}: before and after",
        parts=PARTS,
        toggles=(HEAT, LINE),
        views=VIEWS,
        headline="; ".join(sentences[:2]),
        sentences=sentences,
        good=count_of(pictures, defective=False),
        defects=count_of(pictures, defective=True),
        rows=shown,
        order=order,
        left_out=layers.count(FULL),
    )


def _picture(one: Reviewed, layers: Layers | str, *, with_before: bool) -> dict[str, Any]:
    before, after = (outcome(one.defective, called) for called in (one.called_before, one.after.is_anomalous))
    made = drawn(layers)
    if isinstance(made, dict) and one.before is not None and with_before:
        made["before"] = flattened(np.asarray(Image.open(one.before).convert("RGB")), MOST_SIDE)
    facts = [
        ("Reviewed as", "defect" if one.defective else "fine"),
        ("Before", f"{before}, severity {one.severity_before:+.1f}"),
        ("After", f"{after}, severity {one.after.severity:+.1f}"),
        *([("Note", "the new model has learnt from this picture")] if one.learnt else []),
    ]
    return {
        "name": printable(one.name),
        "size": size_of(one.after),
        "reviewed": "defect" if one.defective else "fine",
        "before": before,
        "after": after,
        "severity_before": one.severity_before,
        "severity_after": one.after.severity,
        "learnt": one.learnt,
        # wrong now is first, then what has changed, then the rest by its severity
        "weight": 1e9 * (after != RIGHT) + 1e6 * (before != after) + one.after.severity,
        "facts": facts,
        "layers": made,
    }
