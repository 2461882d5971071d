"""EfficientAD's settings. Torch-free, so that a wrong one is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flawscope.errors import InputError
from flawscope.methods.efficientad.recipe import RECEPTIVE_FIELD

SMALLEST = 256  # pixels a side that the autoencoder's 8x8 layer needs
PAPER_STEPS = 70_000
GENERATED, NONE = "generated", "none"  # what `natural` may be beside a folder


@dataclass(frozen=True)
class Config:
    """Everything that decides what `fit` makes.

    Section numbers are those of Batzner, Heckler and König, EfficientAD (WACV 2024).
    """

    teacher: str | None = None  # file; None: the packaged one
    network: Literal["s", "m"] | None = None  # None: the teacher's
    size: str = "256"  # the picture is scaled to: N or HxW, 256 at least on both sides
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    border: int = 16  # pixels by which the picture is mirrored outwards before a PDN sees it
    held_out: float = 0.1  # share of the good pictures kept for quantiles and threshold, 10 at least (4.6)
    steps: int | None = None  # None: what the device can do, or what --minutes allows
    batch: int = 1  # pictures a step (A.1)
    window: int | None = 157  # pixels a side that the students learn in a step; None: the whole picture
    rate: float = 1e-3  # Adam's largest learning rate
    schedule: Literal["drop", "one_cycle"] = "one_cycle"  # drop: a tenth of the rate after 95 % (A.1)
    decay: float = 1e-5  # Adam's weight decay
    hard: float = 0.99  # quantile of squared differences above which the student learns (3.2)
    natural: str = GENERATED  # pictures the student must not learn: a folder, `generated` or `none` (3.2)
    sigma: float = 4.0  # pixels of a Gaussian over both maps; 0: none, as published
    quantiles: tuple[float, float] = (0.9, 0.995)  # of good pictures' maps, mapped to 0 and 0.1 (3.4)
    training: Literal["auto", "fp32", "bf16"] = "auto"  # precision while it learns
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks afterwards
    memory: float = 2.0  # GiB of pictures and teacher outputs kept at a time
    seed: int = 0

    # settings that say where a file lies: no model tells
    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "natural")

    def __post_init__(self) -> None:
        low, high = self.quantiles
        for ok, text in (
            (
                all(SMALLEST <= n <= 4096 for n in self.network_size),
                f"size, or crop, must be between {SMALLEST} and 4096 pixels on both sides",
            ),
            (
                self.crop is None or all(c <= s for c, s in zip(self.crop, self.sizes[0], strict=True)),
                "crop must be no larger than size",
            ),
            (0 <= self.border <= 16 and self.border % 4 == 0, "border must be 0, 4, 8, 12 or 16 pixels"),
            (0 < self.held_out <= 0.5, "held_out must be above 0 and at most 0.5"),
            (self.steps is None or self.steps >= 1, "steps must be at least 1"),
            (self.batch >= 1, "batch must be at least 1"),
            (
                self.window is None or self.window >= RECEPTIVE_FIELD,
                f"window must be at least {RECEPTIVE_FIELD} pixels",
            ),
            (0 < self.rate <= 1, "rate must be above 0 and at most 1"),
            (0 <= self.decay <= 1, "decay must be between 0 and 1"),
            (0 <= self.hard < 1, "hard must be at least 0 and below 1"),
            (0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"),
            (bool(self.natural.strip()), f"natural must be a folder, {GENERATED} or {NONE}"),
            (0 <= low < high <= 1, "quantiles must be two rising shares such as 0.9,0.995"),
            (self.memory > 0, "memory must be a number of GiB above 0"),
            (self.seed >= 0, "seed must be at least 0"),
        ):
            if not ok:
                raise InputError(f"setting {text}")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) that the picture is scaled to, alone in a tuple."""
        numbers = self.size.strip().lower().split("x")
        if not 1 <= len(numbers) <= 2 or not all(n.strip().isdecimal() for n in numbers):
            raise InputError(f"setting size: {self.size!r} is not N or HxW; EfficientAD takes one size")
        return ((int(numbers[0]), int(numbers[-1])),)

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the images that the detector takes."""
        return self.crop or self.sizes[0]


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
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
