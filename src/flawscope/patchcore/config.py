"""PatchCore's settings. Torch-free, so that a wrong one is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flawscope.errors import InputError
from flawscope.features.weights import DEFAULT_BACKBONE


@dataclass(frozen=True)
class Config:
    """Everything that decides what `fit` makes.

    Section numbers are those of Roth et al., Towards Total Recall in Industrial Anomaly Detection.
    """

    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (2, 3)  # strides 8 and 16 (3.1)
    weights: str | None = None
    size: tuple[int, int] = (256, 256)  # H, W the picture is scaled to
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    neighbourhood: int = 3  # p (3.1)
    dimensions: int | None = None  # pool each patch to so many numbers; None: plain concatenation
    ratio: float = 0.1  # of all patches kept in the memory bank (3.2)
    count: int | None = None  # that many instead of a ratio
    cap: int = 30_000  # never more
    neighbours: int = 9  # b of Eq. 7; 1 turns the re-weighting off
    score: Literal["reweighted", "maximum"] = "reweighted"  # Eq. 7, or the farthest patch's distance
    sigma: float = 4.0  # pixels (3.3)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the backbone
    memory: float | None = None  # GiB for features before they are streamed; None: half of what is free
    seed: int = 0

    def __post_init__(self) -> None:
        for ok, text in (
            (self.stages and min(self.stages) >= 0, "stages must be feature indices such as 2,3"),
            (min(self.size) >= 16, "size must be at least 16"),
            (max(self.size) <= 4096, "size must be at most 4096"),
            (
                self.crop is None or all(16 <= c <= s for c, s in zip(self.crop, self.size, strict=True)),
                "crop must be at least 16 and no larger than size",
            ),
            (self.neighbourhood >= 1 and self.neighbourhood % 2 == 1, "neighbourhood must be odd: 1, 3, 5"),
            (self.dimensions is None or self.dimensions >= 1, "dimensions must be at least 1"),
            (0 < self.ratio <= 1, "ratio must be above 0 and at most 1"),
            (self.count is None or self.count >= 1, "count must be at least 1"),
            (self.cap >= 1, "cap must be at least 1"),
            (self.neighbours >= 1, "neighbours must be at least 1"),
            (0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"),
            (self.memory is None or self.memory > 0, "memory must be a number of GiB above 0"),
        ):
            if not ok:
                raise InputError(f"setting {text}")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # 3.1 and the authors' code: resize 256, centre crop 224, 1024 numbers a patch
    "paper": {
        "backbone": "wide_resnet50_2",
        "size": 256,
        "keep_aspect": True,
        "crop": 224,
        "dimensions": 1024,
    },
}
