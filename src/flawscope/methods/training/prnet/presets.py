"""PRN's presets: for each name, the settings that differ from the defaults. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.types import Json

PRESETS: dict[str, Json] = {
    "default": {},
    # 4.1: ResNet-18, 64 pictures a step, 1e-4; 700 epochs of 200 good pictures and as many defective ones
    "paper": {
        "backbone": "resnet18",
        "batch": 64,
        "rate": 1e-4,
        "schedule": "constant",
        "noise": 0.0,
        "steps": 4400,
    },
}
