"""EfficientAD (Batzner, Heckler and König, WACV 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flawscope.config import build_config
from flawscope.errors import InputError
from flawscope.methods.features.weights import DEFAULT_BACKBONE
from flawscope.methods.method import Command, Method, Option, deferred
from flawscope.methods.settings import Rule, TrainingSettings, check_rules, training_rules

Size = Literal["xs", "s", "m"]  # of a PDN
# channels of a PDN's first layer: s and m as in the paper, xs a PDN-S with a fifth of its operations
WIDTHS = {"xs": 48, "s": 128, "m": 256}
RECEPTIVE_FIELD = 33  # pixels that decide one output of a PDN
STRIDE = 4  # of its outputs, in pixels
CHANNELS = 384  # of a teacher
FIRST_LAYERS = 6  # of a PDN: until its second pooling. A student that starts as the teacher keeps them
DEFAULT_STEPS = 6000
PDN_SIDE = 252  # pixels a side that a PDN sees of a picture of 256: see `targets`


@dataclass(frozen=True)
class Recipe:
    """Settings of a teacher. Section numbers are those of Batzner et al., EfficientAD (WACV 2024)."""

    size: Size = "s"
    width: int | None = None  # channels of the first layer, half of those that follow; None: the size's
    backbone: str = DEFAULT_BACKBONE
    stages: tuple[int, ...] = (2, 3)  # strides 8 and 16, as PatchCore's
    neighbourhood: int = 3  # patches of p x p features are averaged, as PatchCore's
    steps: int | None = None  # None: DEFAULT_STEPS, or what --minutes allows
    batch: int = 8
    crop: int = 157  # pixels a side, 32 x 32 outputs; without padding every output counts in full
    rate: float = 1e-3  # Adam's largest learning rate
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    decay: float = 1e-5  # Adam's weight decay
    grey: float = 0.1  # probability that a picture loses its colours (A.1)
    zoom: float = 0.7  # a view shows at least this share of each side of the picture
    flip: bool = True  # half of the views are mirrored
    reuse: int = 16  # crops cut from a view before it is replaced
    memory: float = 2.0  # GiB of views kept at a time
    statistics: int = 10_000  # pictures for the targets' mean and spread, at most
    held_out: float = 0.05  # share of pictures never trained on
    checks: int = 20  # measurements of the held-out loss, evenly spaced
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rules((*training_rules(self), *self.rules()))

    def rules(self) -> Iterable[Rule]:
        most = WIDTHS[self.size]
        yield self.width is None or 1 <= self.width <= most, f"width must be between 1 and {most} channels"
        yield bool(self.stages) and min(self.stages) >= 0, "stages must be feature indices such as 2,3"
        odd = self.neighbourhood >= 1 and self.neighbourhood % 2 == 1
        yield odd, "neighbourhood must be odd: 1, 3, 5"
        fits = RECEPTIVE_FIELD <= self.crop <= PDN_SIDE
        yield fits, f"crop must be between {RECEPTIVE_FIELD} and {PDN_SIDE} pixels"
        yield 0 <= self.grey <= 1, "grey must be a probability"
        yield 0.1 <= self.zoom <= 1, "zoom must be between 0.1 and 1"
        yield self.reuse >= 1, "reuse must be at least 1"
        yield 0.01 <= self.memory <= 4096, "memory must be a number of GiB, 0.01 at least"
        yield self.statistics >= 1, "statistics must be at least 1"
        yield self.checks >= 1, "checks must be at least 1"
        yield self.seed >= 0, "seed must be at least 0"

    @property
    def training(self) -> Literal["auto", "fp32", "bf16"]:
        """The setting `precision` under the name that other methods' settings have."""
        return self.precision


RECIPES: dict[str, dict[str, Any]] = {
    # for a CPU, measured with EfficientNet-Lite0 on 1,000 photographs
    "default": {},
    # 3.1 and A.1, on ImageNet: whole pictures, each seen once before the next ones. Unpadded all the same
    "paper": {
        "backbone": "wide_resnet101_2",
        "steps": 60_000,
        "batch": 16,
        "crop": PDN_SIDE,
        "rate": 1e-4,
        "schedule": "constant",
        "zoom": 1.0,
        "flip": False,
        "reuse": 1,
    },
}


def make_recipe(preset: str, values: Mapping[str, Any]) -> Recipe:
    """Settings of the preset, then `values`. InputError names what is wrong."""
    if preset not in RECIPES:
        raise InputError(f"there is no preset {preset}: choose of {', '.join(RECIPES)}")
    return build_config(Recipe, {**RECIPES[preset], **values})


PAPER_STEPS = 70_000
GENERATED, NONE = "generated", "none"  # what `natural` may be beside a folder


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
        low, high = self.quantiles
        yield 0 <= self.border <= 16 and self.border % 4 == 0, "border must be 0, 4, 8, 12 or 16 pixels"
        wide = self.window is None or self.window >= RECEPTIVE_FIELD
        yield wide, f"window must be at least {RECEPTIVE_FIELD} pixels"
        yield 0 <= self.hard < 1, "hard must be at least 0 and below 1"
        yield 0 <= self.defects <= 16, "defects must be between 0 and 16"
        yield 0 <= self.sigma <= 64, "sigma must be between 0 and 64 pixels"
        yield bool(self.natural.strip()), f"natural must be a folder, {GENERATED} or {NONE}"
        yield 0 <= low < high <= 1, "quantiles must be two rising shares such as 0.9,0.995"


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # For few steps, and parts at any angle: the student begins as the teacher and forgets (decision 0017)
    "quick": {"start": "teacher", "defects": 2, "natural": NONE, "weighed": True},
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


METHOD = Method(
    name="efficientad",
    paper="Batzner, Heckler and König, WACV 2024",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.efficientad.model:create"),
    rebuild=deferred("flawscope.methods.efficientad.model:Model.rebuild"),
    fit=deferred("flawscope.methods.efficientad.fit:fit"),
    learns_in_steps=True,
    holds_out=True,
    calibrated=("quantiles",),
    options=(
        Option("--teacher", "FILE", "another teacher; see `flawscope distill`"),
        Option(
            "--natural", "FOLDER|generated|none", "pictures of anything else, which must stay unknown to it"
        ),
    ),
    commands=(Command("distill", "make a teacher for EfficientAD", "flawscope.cli.method_commands"),),
)
