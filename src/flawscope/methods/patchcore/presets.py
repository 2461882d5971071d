"""PatchCore's presets: for each name, the settings that differ from the defaults. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flawscope.methods.features.weights import TRANSFORMER

if TYPE_CHECKING:
    from flawscope.types import Json

PRESETS: dict[str, Json] = {
    "default": {},
    "small": {"size": "256+384", "ratio": 0.03},
    "accurate": {"second_backbone": TRANSFORMER},
    # 3.1 and the authors' code: torchvision's first ImageNet weights (timm's default are others), resize 256,
    # centre crop 224, 1024 numbers a patch
    "paper": {
        "backbone": "wide_resnet50_2.tv_in1k",
        "size": "256",
        "keep_aspect": True,
        "crop": 224,
        "dimensions": 1024,
        "score": "reweighted",
        "augment": "none",
    },
}
