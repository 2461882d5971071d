"""EfficientAD's presets: for each name, the settings that differ from the defaults. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.types import Json

NONE = "none"  # value of `natural`: no pictures of other things
PAPER_STEPS = 70_000  # of the preset `paper`; A.1

PRESETS: dict[str, Json] = {
    "default": {},
    # For few steps, and parts at any angle: the student begins as the teacher and forgets (decision 0017)
    "quick": {"start": "teacher", "defects": 2, "natural": NONE, "weighed": True},
    # A.1: one whole picture a step, no border, 70,000 steps. Give --set natural=FOLDER as well
    "paper": {
        "border": 0,
        "sigma": 0.0,
        "steps": PAPER_STEPS,
        "window": None,
        "rate": 1e-4,
        "schedule": "drop",
        "hard": 0.999,
    },
}
