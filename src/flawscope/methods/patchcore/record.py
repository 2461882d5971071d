"""PatchCore's record: its settings and abilities. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from flawscope.methods.method import Method, Option, deferred
from flawscope.methods.patchcore.presets import PRESETS
from flawscope.methods.settings import (
    TRANSFORMER_BLOCKS,
    BranchSpec,
    PatchSettings,
    Rule,
    patch_in_name,
    round_to_patches,
)
from flawscope.pictures.form import STEP


@dataclass(frozen=True)
class Config(PatchSettings):
    """Settings of a PatchCore model.

    Section numbers are those of Roth et al., Towards Total Recall in Industrial Anomaly Detection.
    """

    # as `PictureSettings` has it; several are seen one by one
    size: str = "256+512"
    dimensions: int | None = None  # pool each patch to so many numbers; None: plain concatenation
    ratio: float = 0.1  # of all patches kept in the memory bank (3.2)
    fine_ratio: float = 0.003  # the same for the larger ones of several sizes
    count: int | None = None  # that many instead of a ratio
    cap: int = 30_000  # never more, at each size
    # turned and mirrored copies of good pictures in the bank; auto: of few, where it brings others nearer
    augment: Literal["none", "turn", "mirror", "all", "auto"] = "auto"
    # another backbone, whose maps are joined with the others': a transformer sees the picture with as many
    # patches as the largest size has steps of 16 pixels
    second_backbone: str | None = None
    second_stages: tuple[int, ...] = TRANSFORMER_BLOCKS
    second_weights: str | None = None
    neighbours: int = 9  # b of Eq. 7; 1 turns the re-weighting off
    score: Literal["reweighted", "map"] = "map"  # Eq. 7, or the map's maximum
    memory: float | None = None  # GiB of features before they are streamed; None: 2, or half of what is free
    shards: int | None = None  # that pictures are streamed in; None: as memory asks
    calibration_pictures: int = 300  # at most, or parts of several pictures; drawn by the seed

    SIZES: ClassVar[int] = 4
    PATHS: ClassVar[tuple[str, ...]] = ("weights", "second_weights")
    FIXED: ClassVar[Mapping[str, object]] = {"layers": "apart", "fusion": "sizes", "positions": "shared"}

    def rules(self) -> Iterable[Rule]:
        """Return the rules of PatchCore's own settings."""
        yield 0 < self.fine_ratio <= 1, "fine_ratio must be above 0 and at most 1"
        yield self.dimensions is None or self.dimensions >= 1, "dimensions must be at least 1"
        yield 0 < self.ratio <= 1, "ratio must be above 0 and at most 1"
        yield self.count is None or self.count >= 1, "count must be at least 1"
        yield self.cap >= 1, "cap must be at least 1"
        yield bool(self.second_stages), "second_stages must be feature indices such as 6"
        yield self.neighbours >= 1, "neighbours must be at least 1"
        yield self.memory is None or self.memory > 0, "memory must be a number of GiB above 0"
        yield self.shards is None or self.shards >= 1, "shards must be at least 1"
        yield self.calibration_pictures >= 1, "calibration_pictures must be at least 1"

    @property
    def branch_specs(self) -> tuple[BranchSpec, ...]:
        """Size and stages of each branch: smallest size, each stage of larger sizes, second backbone."""
        smallest, *larger = super().branch_specs
        # stages are joined to one vector at the smallest size; at larger ones each has a bank of its own
        apart = [BranchSpec(branch.size, (stage,)) for branch in larger for stage in branch.stages]
        return (smallest, *apart, *self._second_branch())

    def _second_branch(self) -> Iterator[BranchSpec]:
        if self.second_backbone is not None:
            patch = patch_in_name(self.second_backbone)
            size = self.network_size if patch is None else round_to_patches(self.network_size, patch, STEP)
            yield BranchSpec(size, tuple(sorted(self.second_stages)), second=True)


METHOD = Method(
    name="patchcore",
    config=Config,
    presets=PRESETS,
    create=deferred("flawscope.methods.patchcore.model:Model.create"),
    rebuild=deferred("flawscope.methods.patchcore.model:Model.rebuild"),
    create_like=deferred("flawscope.methods.patchcore.model:Model.create_like"),
    fit=deferred("flawscope.methods.patchcore.fit:fit"),
    finds_suspects=True,
    extends=True,
    predict_peak=deferred("flawscope.methods.patchcore.memory_plan:predict_peak"),
    options=(
        Option("--augment", "none|turn|mirror|all|auto", "copies of the good pictures in the memory bank"),
    ),
)
