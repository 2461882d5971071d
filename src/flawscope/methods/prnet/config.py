"""PRN's settings. Torch-free, so that a wrong one is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flawscope.errors import InputError
from flawscope.features.weights import DEFAULT_BACKBONE

STRIDES = (4, 8, 16, 32)  # of the backbone's stages; the last has no prototypes
GENERATED = "generated"  # what `textures` may be beside a folder


@dataclass(frozen=True)
class Config:
    """Everything that decides what `fit` makes.

    Section numbers are those of Zhang et al., Prototypical Residual Networks (CVPR 2023).
    """

    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (1, 2, 3, 4)  # those of strides 4, 8, 16 and 32 (3.1)
    weights: str | None = None
    size: str = "256"  # the picture is scaled to: N or HxW, multiples of 32
    keep_aspect: bool = False
    crop: tuple[int, int] | None = None
    prototypes: str | None = None  # file of `flawscope prototypes`; None: found while fitting (3.2)
    width: float = 1.0  # channels of the network, relative to the backbone's
    attention: bool = True  # multi-size self-attention (3.3)
    residuals: bool = True  # what a picture has more or less than the nearest prototype (3.2)
    textures: str = GENERATED  # what simulated defects are made of: a folder, or generated (3.4)
    extended: float = 0.5  # share of the defective pictures whose defects were seen, where there are any
    original: float = 0.5  # share of those that are the seen pictures themselves
    held_out: float = 0.1  # share of the good pictures kept for the threshold, 10 at least
    steps: int | None = None  # None: what the device can do, or what --minutes allows
    batch: int = 8  # pictures a step, half of them good
    rate: float = 1e-3  # Adam's largest learning rate
    schedule: Literal["constant", "drop", "one_cycle"] = "one_cycle"
    decay: float = 1e-2  # weight decay, apart from Adam's gradients
    noise: float = 0.3  # deviation of what is added to features while it learns; theirs is 1
    top: int = 100  # pixels whose mean is the score; 1: the maximum (3.5)
    training: Literal["auto", "fp32", "bf16"] = "auto"  # precision while it learns
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks afterwards
    memory: float = 2.0  # GiB of pictures and features kept at a time
    seed: int = 0

    # settings that say where a file lies: no model tells
    PATHS: ClassVar[tuple[str, ...]] = ("weights", "textures", "prototypes")

    def __post_init__(self) -> None:
        stride = STRIDES[-1]
        near = "x".join(str(max(1, round(side / stride)) * stride) for side in self.network_size)
        for ok, text in (
            (
                len(self.stages) == len(STRIDES) and min(self.stages) >= 0,
                "stages must be four feature indices, of strides 4, 8, 16 and 32, such as 1,2,3,4",
            ),
            (
                all(side % stride == 0 and 2 * stride <= side <= 4096 for side in self.network_size),
                f"size, or crop, must be multiples of {stride} between {2 * stride} and 4096: {near} is near",
            ),
            (
                self.crop is None or all(c <= s for c, s in zip(self.crop, self.sizes[0], strict=True)),
                "crop must be no larger than size",
            ),
            (0 < self.width <= 4, "width must be above 0 and at most 4"),
            (bool(self.textures.strip()), f"textures must be a folder or {GENERATED}"),
            (0 <= self.extended <= 1, "extended must be between 0 and 1"),
            (0 <= self.original <= 1, "original must be between 0 and 1"),
            (0 < self.held_out <= 0.5, "held_out must be above 0 and at most 0.5"),
            (self.steps is None or self.steps >= 1, "steps must be at least 1"),
            (self.batch >= 2, "batch must be at least 2: a good picture and a defective one"),
            (0 < self.rate <= 1, "rate must be above 0 and at most 1"),
            (0 <= self.decay <= 1, "decay must be between 0 and 1"),
            (0 <= self.noise <= 10, "noise must be between 0 and 10"),
            (self.top >= 1, "top must be at least 1"),
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
            raise InputError(f"setting size: {self.size!r} is not N or HxW; PRN takes one size")
        return ((int(numbers[0]), int(numbers[-1])),)

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the images that the detector takes."""
        return self.crop or self.sizes[0]


PRESETS: dict[str, dict[str, Any]] = {
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
