"""EfficientAD's record: its settings and abilities. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from flawscope.methods.method import Method, deferred
from flawscope.methods.settings import Rule, TrainingSettings
from flawscope.methods.training.efficientad.presets import NONE, PRESETS

Size = Literal["xs", "s", "m"]  # size of a PDN
# Channels of a PDN's first layer. s and m are the paper's; xs is a PDN-S with a fifth of its operations
WIDTHS = {"xs": 48, "s": 128, "m": 256}
RECEPTIVE_FIELD = 33  # pixels a side that decide one output of a PDN
STRIDE = 4  # pixels from one output of a PDN to the next
CHANNELS = 384  # number of a teacher's outputs
# Number of a PDN's layers up to its second pooling. A student that starts as the teacher keeps these layers
FIRST_LAYERS = 6


GENERATED = "generated"  # value of `natural`: generated pictures of other things


@dataclass(frozen=True)
class Config(TrainingSettings):
    """Settings of an EfficientAD model and its training.

    Section numbers are those of Batzner, Heckler and König, EfficientAD (WACV 2024).
    """

    teacher: str | None = None  # file; None: the packaged one
    network: Size | None = None  # None: the teacher's
    border: int = 16  # pixels by which the picture is mirrored outwards before a PDN sees it
    batch: int = 1  # pictures a step (A.1)
    window: int | None = 157  # pixels a side that the students learn in a step; None: the whole picture
    hard: float = 0.99  # quantile of squared differences above which the student learns (3.2)
    start: Literal["random", "teacher"] = "random"  # the student's first weights
    defects: int = 0  # simulated in a step, which the student must not learn either; 0: none
    natural: str = GENERATED  # pictures the student must not learn: a folder, `generated` or `none` (3.2)
    weighed: bool = False  # differences are measured in units of their spread on good pictures
    sigma: float = 4.0  # pixels of a Gaussian over both maps; 0: none, as published
    quantiles: tuple[float, float] = (0.9, 0.995)  # of good pictures' maps, mapped to 0 and 0.1 (3.4)

    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "natural")
    SMALLEST: ClassVar[int] = 256  # that the autoencoder's 8x8 layer needs

    def rules(self) -> Iterable[Rule]:
        """Return the rules of EfficientAD's own settings."""
        low, high = self.quantiles
        yield 0 <= self.border <= 16 and self.border % 4 == 0, "border must be 0, 4, 8, 12 or 16 pixels"
        is_wide = self.window is None or self.window >= RECEPTIVE_FIELD
        yield is_wide, f"window must be at least {RECEPTIVE_FIELD} pixels"
        yield 0 <= self.hard < 1, "hard must be at least 0 and below 1"
        yield 0 <= self.defects <= 16, "defects must be between 0 and 16"
        yield 0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"
        yield bool(self.natural.strip()), f"natural must be a folder, {GENERATED} or {NONE}"
        yield 0 <= low < high <= 1, "quantiles must be two rising shares such as 0.9,0.995"


METHOD = Method(
    name="efficientad",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.training.efficientad.model:create"),
    rebuild=deferred("flawscope.methods.training.efficientad.model:Model.rebuild"),
    create_like=deferred("flawscope.methods.training.efficientad.model:create_like"),
    fit=deferred("flawscope.methods.training.efficientad.fit:fit"),
    holds_out=True,
)
