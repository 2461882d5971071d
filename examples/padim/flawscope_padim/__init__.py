"""PaDiM for flawscope (Defard et al., ICPR 2020 workshops, arXiv 2011.08785)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from flawscope.methods.features.weights import DEFAULT_BACKBONE
from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import PictureSettings, Rule


@dataclass(frozen=True)
class Config(PictureSettings):
    """Section numbers are the paper's."""

    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (1, 2, 3)  # 3.1: the first three layers of a ResNet, strides 4, 8 and 16
    weights: str | None = None
    neighbourhood: int = 3  # cells a side that a feature is the mean of; 1: as published, and less accurate
    dimensions: int = 100  # features drawn by the seed (4.3)
    ridge: float = 0.01  # epsilon I of every covariance (3.2)
    sigma: float = 4.0  # pixels of the Gaussian over maps (4.2)

    PATHS: ClassVar[tuple[str, ...]] = ("weights",)

    def rules(self) -> Iterable[Rule]:
        yield bool(self.stages) and min(self.stages) >= 0, "stages must be feature indices such as 1,2,3"
        yield self.neighbourhood in (1, 3, 5), "neighbourhood must be 1, 3 or 5"
        yield self.dimensions >= 1, "dimensions must be at least 1"
        yield 0 < self.ridge <= 100, "ridge must be above 0 and at most 100"
        yield 0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"
        yield self.tile is None, "padim learns each place of the whole picture: leave out --tile"


METHOD = Method(
    name="padim",
    paper="Defard et al., 2020",
    config=Config,
    create=deferred("flawscope_padim.model:create"),
    rebuild=deferred("flawscope_padim.model:Model.rebuild"),
    fit=deferred("flawscope_padim.fit:fit"),
)
