"""One fit of PatchCore as a piece of work: its pictures' features, and the coresets of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.methods.extract import Load, embed_pictures
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.config import Config
from flawscope.methods.patchcore.memory_bank import View
from flawscope.methods.patchcore.memory_plan import bank_size
from flawscope.methods.patchcore.model import Model
from flawscope.progress import Step


@dataclass
class Job:
    """One fit: what it works on, and whom it tells."""

    config: Config
    model: Model
    load: Load
    groups: Sequence[int]
    rate: float
    drop_suspects: bool
    settle: Callable[[list[int]], list[int]]
    starts: list[Start] | None  # one per view, if a model is being extended
    say: Callable[[str], None]
    step: Step
    clock: dict[str, float] = field(default_factory=lambda: {"start": time.perf_counter()})

    @property
    def views(self) -> list[View]:
        return list(self.model.views)

    @property
    def device(self) -> torch.device:
        return self.model.roi.device

    def tick(self, stage: str) -> None:
        self.clock[stage] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        names, times = list(self.clock), list(self.clock.values())
        return {n: round(t - s, 3) for n, s, t in zip(names[1:], times, times[1:], strict=False)}

    def named(self, stage: str, view: View) -> str:
        """The stage's name, with the size where there are several."""
        return stage if len(self.views) == 1 else f"{stage} at {view.size[0]}"


@dataclass(frozen=True)
class Start:
    """The bank of a view that is being extended: elements [M, D], absolute, the group of each [M] (numbers
    that the new pictures do not have), and its covering radius: what is closer is nothing new."""

    bank: Tensor
    groups: Tensor
    radius: float

    @classmethod
    def of(cls, old: Artefact, model: Model) -> list[Start]:
        starts = []
        for v, view in enumerate(model.views):
            groups = torch.from_numpy(old.tensors[f"bank_groups.{v}"]).to(view.bank.device)
            radius = float(old.manifest.facts["covering_radius"][v])
            starts.append(cls(view.bank + view.centre, groups.long(), radius))
        return starts


def collect(job: Job, indices: Sequence[int], stage: str) -> tuple[list[Tensor], list[int]]:
    """Per view the features [N, P, D] of the patches inside the region, and the pictures they are of."""
    inside = [view.inside.bool() for view in job.views]
    rows = {index: row for row, index in enumerate(indices)}
    features = [
        torch.empty(len(indices), int(mask.sum()), view.embedding.width, device=job.device)
        for view, mask in zip(job.views, inside, strict=True)
    ]
    got: list[int] = []

    def store(index: int, one: Tensor) -> None:
        if not bool(one.sum().isfinite()):
            raise InputError(
                f"the backbone overflows in {job.config.precision}: choose another --set precision, "
                "or check its weights"
            )
        for own, part, mask in zip(features, one.split(job.model.patches), inside, strict=True):
            own[rows[index]] = part if own.shape[1] == len(part) else part[mask]
        got.append(index)

    embed_pictures(job.model, job.load, list(indices), store, job.step, stage)
    used = job.settle(sorted(got))
    if len(used) < len(indices):
        compact(features, [rows[i] for i in used])
    return [own[: len(used)] for own in features], used


def compact(features: list[Tensor], keep: Sequence[int]) -> None:
    """Move the rows `keep` to the front, in place: a second copy may not fit in memory."""
    for own in features:
        for new, old in enumerate(keep):
            if new != old:
                own[new] = own[old]


def select(job: Job, features: list[Tensor], seen: Tensor) -> tuple[list[coreset.Coreset], list[Tensor]]:
    """Per view a coreset, put into the model as its memory bank, and the group of every bank element."""
    results, bank_groups = [], []
    for v, (view, own) in enumerate(zip(job.views, features, strict=True)):
        points, groups = own.flatten(0, 1), seen.repeat_interleave(own.shape[1])
        stage = job.named("coreset", view)
        result = coreset.select(
            points,
            picks(job, v, len(points)),
            groups=groups,
            progress=lambda done, total, stage=stage: job.step(stage, done, total),  # type: ignore[misc]
            **start_of(job, v),
        )
        results.append(result)
        bank_groups.append(install(job, v, points, groups, result.indices))
    return results, bank_groups


def picks(job: Job, v: int, patches: int) -> int:
    """How many of so many new patches: all of the bank, or what its cap leaves where it is extended."""
    most = bank_size(job.config, v, patches)
    return most if job.starts is None else max(0, min(most, job.config.cap - len(job.starts[v].bank)))


def start_of(job: Job, v: int) -> dict[str, Any]:
    if job.starts is None:
        return {}
    start = job.starts[v]
    return {"start": start.bank, "start_groups": start.groups, "until": start.radius}


def install(job: Job, v: int, points: Tensor, groups: Tensor, indices: Tensor) -> Tensor:
    """Give the view the selected points [N, D]; returns the group of every element of its bank [M]."""
    if job.starts is None:
        job.views[v].set_bank(points[indices])
        return groups[indices]
    start = job.starts[v]
    job.views[v].bank = job.views[v].bank[: len(start.bank)]  # a second selection starts as the first did
    job.views[v].extend_bank(points[indices])
    return torch.cat([start.groups, groups[indices]])
