"""PRN's record: its settings and abilities. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from flawscope.methods.features.weights import DEFAULT_BACKBONE
from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import Rule, TrainingSettings
from flawscope.methods.training.prnet.presets import PRESETS

STRIDES = (4, 8, 16, 32)  # strides of the backbone's stages; the last stage has no prototypes
GENERATED = "generated"  # value of `textures` that is no folder


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of a PRN model and its training.

    Section numbers are those of Zhang et al., Prototypical Residual Networks (CVPR 2023).
    """

    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (1, 2, 3, 4)  # those of strides 4, 8, 16 and 32 (3.1)
    weights: str | None = None
    width: float = 1.0  # channels of the network, relative to the backbone's
    attention: bool = True  # multi-size self-attention (3.3)
    residuals: bool = True  # whether the network gets differences from the nearest prototype, too (3.2)
    textures: str = GENERATED  # material of simulated defects: a folder of textures, or `generated` (3.4)
    extended: float = 0.5  # share of the defective pictures that have seen defects, where there are any
    original: float = 0.5  # share of pictures with seen defects that are the seen pictures themselves
    decay: float = 1e-2  # weight decay, apart from Adam's gradients
    noise: float = 0.3  # standard deviation of noise on features in training; the authors' is 1
    top: int = 100  # number of the largest pixels whose mean is the score; 1: the maximum (3.5)

    PATHS: ClassVar[tuple[str, ...]] = ("weights", "textures")
    SMALLEST: ClassVar[int] = 2 * STRIDES[-1]
    MULTIPLE: ClassVar[int] = STRIDES[-1]

    def rules(self) -> Iterable[Rule]:
        """Return the rules of PRN's own settings."""
        yield (
            len(self.stages) == len(STRIDES) and min(self.stages) >= 0,
            "stages must be four feature indices, of strides 4, 8, 16 and 32, such as 1,2,3,4",
        )
        yield 0 < self.width <= 4, "width must be above 0 and at most 4"
        yield bool(self.textures.strip()), f"textures must be a folder or {GENERATED}"
        yield 0 <= self.extended <= 1, "extended must be between 0 and 1"
        yield 0 <= self.original <= 1, "original must be between 0 and 1"
        yield self.batch >= 2, "batch must be at least 2: a good picture and a defective one"
        yield 0 <= self.noise <= 10, "noise must be between 0 and 10"
        yield self.top >= 1, "top must be at least 1"


METHOD = Method(
    name="prnet",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.training.prnet.model:create"),
    rebuild=deferred("flawscope.methods.training.prnet.model:Model.rebuild"),
    create_like=deferred("flawscope.methods.training.prnet.model:create_like"),
    fit=deferred("flawscope.methods.training.prnet.fit:fit"),
    holds_out=True,
    takes_seen_defects=True,
)
