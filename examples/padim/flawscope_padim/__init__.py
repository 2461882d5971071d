"""PaDiM for flawscope (Defard et al., ICPR 2020 workshops, arXiv 2011.08785)."""

from collections.abc import Iterable
from dataclasses import dataclass

from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import PatchSettings, Rule


@dataclass(frozen=True)
class Config(PatchSettings):
    """Section numbers are the paper's."""

    stages: tuple[int, ...] = (1, 2, 3)  # 3.1: the first three layers of a ResNet, strides 4, 8 and 16
    dimensions: int = 100  # features drawn by the seed (4.3)
    ridge: float = 0.01  # epsilon I of every covariance (3.2)

    def rules(self) -> Iterable[Rule]:
        yield self.dimensions >= 1, "dimensions must be at least 1"
        yield 0 < self.ridge <= 100, "ridge must be above 0 and at most 100"
        yield self.tile is None, "padim learns each place of the whole picture: leave out --tile"


METHOD = Method(
    name="padim",
    config=Config,
    create=deferred("flawscope_padim.model:Model.create"),
    rebuild=deferred("flawscope_padim.model:Model.rebuild"),
    create_like=deferred("flawscope_padim.model:Model.create_like"),
    fit=deferred("flawscope_padim.fit:fit"),
)
