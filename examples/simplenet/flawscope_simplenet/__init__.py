"""SimpleNet for flawscope (Liu et al., CVPR 2023, arXiv 2303.15140)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import PatchSettings, Rule, TrainingSettings


@dataclass(frozen=True)
class Config(PatchSettings, TrainingSettings):
    """Section numbers are the paper's."""

    rate: float = 2e-4  # of the discriminator (4.2)
    adaptor_rate: float = 1e-4
    schedule: Literal["constant", "drop", "one_cycle"] = "constant"
    noise: float = 0.25  # standard deviation added to features whose own is 1 (3.3)
    margin: float = 0.5  # th of the truncated L1 loss (3.5)

    def rules(self) -> Iterable[Rule]:
        yield 0 < self.adaptor_rate <= 1, "adaptor_rate must be above 0 and at most 1"
        yield self.noise > 0, "noise must be above 0"
        yield self.margin > 0, "margin must be above 0"


METHOD = Method(
    name="simplenet",
    config=Config,
    create=deferred("flawscope_simplenet.model:Model.create"),
    rebuild=deferred("flawscope_simplenet.model:Model.rebuild"),
    create_like=deferred("flawscope_simplenet.model:Model.create_like"),
    fit=deferred("flawscope_simplenet.fit:fit"),
    holds_out=True,
)
