"""PatchCore's settings. Torch-free, so that a wrong one is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    size: str = (
        "256+384"  # the picture is scaled to: N, HxW, several joined by + and seen one by one, or auto
    )
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    neighbourhood: int = 3  # p (3.1)
    dimensions: int | None = None  # pool each patch to so many numbers; None: plain concatenation
    ratio: float = 0.1  # of all patches kept in the memory bank (3.2)
    fine_ratio: float = 0.03  # the same for the larger ones of several sizes
    count: int | None = None  # that many instead of a ratio
    cap: int = 30_000  # never more, at each size
    neighbours: int = 9  # b of Eq. 7; 1 turns the re-weighting off
    # Eq. 7, the farthest patch's distance, or the map's maximum
    score: Literal["reweighted", "maximum", "map"] = "reweighted"
    sigma: float = 4.0  # pixels (3.3)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the backbone
    memory: float | None = None  # GiB of features before they are streamed; None: 2, or half of what is free
    seed: int = 0

    # settings that say where a file lies: no model tells
    PATHS: ClassVar[tuple[str, ...]] = ("weights",)

    def __post_init__(self) -> None:
        if self.size.strip().lower() == "auto":
            object.__setattr__(self, "size", "auto")
            if self.crop is not None:
                raise InputError("setting size: auto and crop do not go together: name the size")
        for ok, text in (
            (self.stages and min(self.stages) >= 0, "stages must be feature indices such as 2,3"),
            (all(16 <= n <= 4096 for s in self.sizes for n in s), "size must be between 16 and 4096"),
            (len(set(self.sizes)) == len(self.sizes) <= 4, "size must name up to four different sizes"),
            (
                self.crop is None or all(16 <= c <= s for c, s in zip(self.crop, self.sizes[0], strict=True)),
                "crop must be at least 16 and no larger than size",
            ),
            (self.crop is None or len(self.sizes) == 1, "crop works with one size"),
            (
                all(max(self.sizes)[i] == max(s[i] for s in self.sizes) for i in (0, 1)),
                "size must name one that is the largest on both sides",
            ),
            (0 < self.fine_ratio <= 1, "fine_ratio must be above 0 and at most 1"),
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

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of each size, smallest first."""
        found: list[tuple[int, int]] = []
        if self.size == "auto":  # still to be chosen
            return Config().sizes
        for part in self.size.split("+"):
            numbers = part.strip().lower().split("x")
            if not 1 <= len(numbers) <= 2 or not all(n.strip().isdecimal() for n in numbers):
                raise InputError(f"setting size: {self.size!r} is not N, HxW, or several joined by +")
            found.append((int(numbers[0]), int(numbers[-1])))
        return tuple(sorted(found))

    @property
    def view_sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) that the network sees, smallest first."""
        return (self.crop,) if self.crop else self.sizes

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the images that the detector takes."""
        return self.view_sizes[-1]


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # 3.1 and the authors' code: resize 256, centre crop 224, 1024 numbers a patch
    "paper": {
        "backbone": "wide_resnet50_2",
        "size": "256",
        "keep_aspect": True,
        "crop": 224,
        "dimensions": 1024,
    },
}
