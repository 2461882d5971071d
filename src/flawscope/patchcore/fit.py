"""Fitting PatchCore: features, coresets, memory banks, and a calibration that spends no good picture."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawscope.artefact import Artefact
from flawscope.calibration import Calibration, from_values, suspects
from flawscope.errors import InputError
from flawscope.features.extract import Load, embed_pictures
from flawscope.patchcore import coreset, memory
from flawscope.patchcore.config import Config
from flawscope.patchcore.memory import MAX_CALIBRATION, bank_size
from flawscope.patchcore.model import Model
from flawscope.patchcore.view import View
from flawscope.progress import Step, silent
from flawscope.workers import workers


@dataclass
class Fitted:
    """What fitting gives. `pictures[i]` is the index, among those given, of calibration score i."""

    model: Model
    calibration: Calibration
    pictures: list[int]
    used: list[int]
    dropped: list[int] = field(default_factory=list)
    suspects: dict[int, float] = field(default_factory=dict)  # with their scores, most suspicious first
    extra: dict[str, Tensor] = field(default_factory=dict)  # tensors kept beside the model's own
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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
    """The bank of a view that is being extended: elements [M, D], absolute, the group of each [M] (negative:
    numbers the new pictures do not have), and its covering radius: what is closer is nothing new."""

    bank: Tensor
    groups: Tensor
    radius: float

    @classmethod
    def of(cls, old: Artefact, model: Model) -> list[Start]:
        starts = []
        for v, view in enumerate(model.views):
            groups = torch.from_numpy(old.tensors[f"bank_groups.{v}"]).to(view.bank.device).long()
            groups = torch.where(groups < 0, groups, -1 - groups)
            radius = float(old.manifest.facts["covering_radius"][v])
            starts.append(cls(view.bank + view.centre, groups, radius))
        return starts


def fit(
    config: Config,
    model: Model,
    load: Load,
    count: int,
    groups: Sequence[int],
    *,
    rate: float,
    drop_suspects: bool = False,
    settle: Callable[[list[int]], list[int]] = list,
    old: Artefact | None = None,
    say: Callable[[str], None] = lambda line: None,
    step: Step = silent,
) -> Fitted:
    """Fill `model` with the memory banks of `count` good pictures and calibrate it.

    Args:
        load: picture i as [3, H, W] float32, or None where it must be left out (unreadable, a copy).
        groups: [count], pictures of one and the same part share a number; a picture is never compared with
            its own group in calibration.
        rate: target false-alarm rate.
        drop_suspects: leave out the pictures that do not look good, and select again.
        settle: gets the pictures that were loaded, in order, gives those to keep (no copies).
        old: the artefact `model` was rebuilt from, if it is being extended.
        say: gets lines for a person.
    """
    starts = None if old is None else Start.of(old, model)
    job = Job(config, model, load, groups, rate, drop_suspects, settle, starts, say, step)
    plan = memory.plan(config, model, count, job.device)
    say(plan.line())
    if plan.shards > 1 and drop_suspects:
        raise InputError(
            "--drop-suspects needs all features in memory: raise --set memory=GiB, or leave it out"
        )
    fitted = _in_memory(job, count) if plan.shards == 1 else _streamed(job, count, plan.shards)
    if old is not None:
        _join(fitted, old)
    fitted.facts |= {"memory_predicted": plan.peak, "memory_peak": memory.peak_rss()}
    return fitted


# ------------------------------------------------------------------------------- features and their coresets


def _collect(job: Job, indices: Sequence[int], stage: str) -> tuple[list[Tensor], list[int]]:
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
        _compact(features, [rows[i] for i in used])
    return [own[: len(used)] for own in features], used


def _compact(features: list[Tensor], keep: Sequence[int]) -> None:
    """Move the rows `keep` to the front, in place: a second copy may not fit in memory."""
    for own in features:
        for new, old in enumerate(keep):
            if new != old:
                own[new] = own[old]


def _select(job: Job, features: list[Tensor], seen: Tensor) -> tuple[list[coreset.Coreset], list[Tensor]]:
    """Per view a coreset, put into the model as its memory bank, and the group of every bank element."""
    results, bank_groups = [], []
    for v, (view, own) in enumerate(zip(job.views, features, strict=True)):
        points, groups = own.flatten(0, 1), seen.repeat_interleave(own.shape[1])
        stage = job.named("coreset", view)
        result = coreset.select(
            points,
            _picks(job, v, len(points)),
            groups=groups,
            progress=lambda done, total, stage=stage: job.step(stage, done, total),  # type: ignore[misc]
            **_start(job, v),
        )
        results.append(result)
        bank_groups.append(_install(job, v, points, groups, result.indices))
    return results, bank_groups


def _picks(job: Job, v: int, patches: int) -> int:
    """How many of so many new patches: all of the bank, or what its cap leaves where it is extended."""
    most = bank_size(job.config, v, patches)
    return most if job.starts is None else max(0, min(most, job.config.cap - len(job.starts[v].bank)))


def _start(job: Job, v: int) -> dict[str, Any]:
    if job.starts is None:
        return {}
    start = job.starts[v]
    return {"start": start.bank, "start_groups": start.groups, "until": start.radius}


def _install(job: Job, v: int, points: Tensor, groups: Tensor, indices: Tensor) -> Tensor:
    """Give the view the selected points [N, D]; returns the group of every element of its bank [M]."""
    if job.starts is None:
        job.views[v].set_bank(points[indices])
        return groups[indices]
    start = job.starts[v]
    job.views[v].bank = job.views[v].bank[: len(start.bank)]  # a second selection starts as the first did
    job.views[v].extend_bank(points[indices])
    return torch.cat([start.groups, groups[indices]])


# ----------------------------------------------------------------------------------------------- calibration

Raw = tuple[list[Tensor], list[Tensor]]  # of one picture: every view's image score, patch distances [P]


@dataclass(frozen=True)
class Good:
    """What calibration needs of the good pictures, [N] each."""

    scores: np.ndarray
    maxima: np.ndarray
    medians: np.ndarray


def _leave_one_out(
    job: Job, features: list[Tensor], seen: Tensor, results: list[coreset.Coreset], bank_groups: list[Tensor]
) -> Good:
    """Every picture against the banks without its own group's elements.

    The patch distances come from the coresets, which kept them beside their own; what is left is Eq. 7 for
    one patch a picture.
    """

    def raw(i: int) -> Raw:
        scores, distances = [], []
        for view, own, result, of in zip(job.views, features, results, bank_groups, strict=True):
            assert result.leave_out is not None
            mask = view.inside.bool()
            known = _spread(result.leave_out.view(own.shape[:2])[i], mask)
            score, known = view.without(_spread(own[i], mask), of == seen[i], known)
            scores.append(score)
            distances.append(known)
        return scores, distances

    with workers(job.device) as each:
        return _calibrate(job, each(raw, range(len(seen))))


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the patches inside the region, back at their places; 0 elsewhere."""
    if len(values) == len(mask):
        return values
    whole = values.new_zeros(len(mask), *values.shape[1:])
    whole[mask] = values
    return whole


def _calibrate(job: Job, raw: list[Raw]) -> Good:
    """Bring the views to one scale, unless an earlier fit has done it, and combine them."""
    model = job.model
    with workers(job.device) as each:
        if len(job.views) > 1 and job.starts is None:
            for v, view in enumerate(job.views):
                moments = each(lambda r, v=v, view=view: _moments(view, r[1][v], model.roi), raw)  # type: ignore[misc]
                mean, square = torch.stack(moments).mean(0).tolist()
                scores = torch.stack([s[v] for s, _ in raw]).double()
                pairs = [
                    (mean, max(0.0, square - mean * mean) ** 0.5),  # rounding may bring it below 0
                    (float(scores.mean()), float(scores.std(correction=0))),
                ]
                model.normal[v] = torch.tensor(
                    [x for m, s in pairs for x in (m, max(s, 1e-6 * abs(m) + 1e-12))]
                )

        def one(picture: Raw) -> tuple[float, float, float]:
            score, drawn = model.combine([s[None] for s in picture[0]], [d[None] for d in picture[1]])
            return float(score), float(drawn.max()), float(drawn[0][model.roi].median())

        values = np.array(each(one, raw))
    return Good(*values.T)


def _moments(view: View, distances: Tensor, roi: Tensor) -> Tensor:
    """Mean and mean square of a map's values inside the region."""
    values = view.anomaly_map(distances[None])[0][roi].double()
    return torch.stack([values.mean(), (values * values).mean()])


# ------------------------------------------------------------------------------------------------- in memory


def _in_memory(job: Job, count: int) -> Fitted:
    features, used = _collect(job, range(count), "features")
    _some(used)
    job.tick("features")
    seen = torch.tensor([job.groups[i] for i in used], device=job.device)
    results, bank_groups = _select(job, features, seen)
    job.tick("coreset")
    good = _leave_one_out(job, features, seen, results, bank_groups)
    found = suspects(good.scores)
    listed = {used[i]: float(good.scores[i]) for i in found}
    dropped: list[int] = []
    if job.drop_suspects and listed:
        dropped = sorted(listed)
        keep = sorted(set(range(len(used))) - set(found.tolist()))
        _compact(features, keep)
        features, used, seen = [own[: len(keep)] for own in features], [used[i] for i in keep], seen[keep]
        job.say(f"left out {len(dropped)} suspicious pictures; selecting again")
        results, bank_groups = _select(job, features, seen)
        good = _leave_one_out(job, features, seen, results, bank_groups)
    job.tick("calibration")
    radii = [result.radius for result in results]
    patches = sum(own.shape[0] * own.shape[1] for own in features)
    fitted = _fitted(job, good, used, used, bank_groups, radii, patches, 1)
    fitted.dropped, fitted.suspects = dropped, listed
    return fitted


def _some(used: Sequence[int]) -> None:
    if not used:
        raise InputError("none of the pictures can be used: see the reasons above, or give others")


def _fitted(
    job: Job,
    good: Good,
    pictures: list[int],
    used: list[int],
    bank_groups: list[Tensor],
    radii: list[float],
    patches: int,
    shards: int,
) -> Fitted:
    alone = len({job.groups[i] for i in used}) == len(used)
    return Fitted(
        job.model,
        from_values(
            good.scores,
            good.maxima,
            good.medians,
            rate=job.rate,
            method="leave-one-picture-out" if alone else "leave-one-group-out",
            precision=job.config.precision,
        ),
        pictures=pictures,
        used=used,
        extra={f"bank_groups.{v}": groups.int() for v, groups in enumerate(bank_groups)},
        facts={
            "bank": sum(len(view.bank) for view in job.views),
            "patches": patches,
            "covering_radius": radii,
            "shards": shards,
            "seconds": job.seconds(),
        },
    )


def _join(fitted: Fitted, old: Artefact) -> None:
    """Keep the old pictures' calibration: with a bank that only grows their patch distances can only shrink
    (their scores nearly so: Eq. 7's weight may move either way)."""
    before, now, facts = old.manifest.calibration, fitted.calibration, old.manifest.facts
    fitted.calibration = replace(
        now,
        scores=before.scores + now.scores,
        map_maxima=before.map_maxima + now.map_maxima,
        map_level=max(before.map_level, now.map_level),
    )
    radii = zip(fitted.facts["covering_radius"], facts["covering_radius"], strict=True)
    fitted.facts["covering_radius"] = [max(pair) for pair in radii]
    fitted.facts["patches"] += facts["patches"]
    fitted.notes.append(
        f"extended by {len(fitted.used)} pictures: the calibration scores of the {before.count} earlier ones "
        "were kept; their patch distances can only have shrunk, so expect fewer false alarms than promised"
    )
    full = [view for view in fitted.model.views if len(view.bank) >= fitted.model.config.cap]
    if full:
        fitted.notes.append(
            f"the memory bank is full ({len(full[0].bank)} elements): to learn more, fit anew with all "
            "pictures or with a larger cap"
        )


# -------------------------------------------------------------------------------------------------- streamed


def _streamed(job: Job, count: int, shards: int) -> Fitted:
    """Merge and reduce: a coreset of every shard of pictures, then a coreset of their union.

    A point is at most its shard's radius from the union and the union at most the last radius from the
    bank, so their sum bounds the covering radius.
    """
    kept: list[list[Tensor]] = [[] for _ in job.views]
    kept_groups: list[list[Tensor]] = [[] for _ in job.views]
    radii = [0.0] * len(job.views)
    used: list[int] = []
    patches = 0
    for shard in range(shards):
        indices = range(shard * count // shards, (shard + 1) * count // shards)
        features, got = _collect(job, indices, f"features {shard + 1}/{shards}")
        if not got:
            continue  # only copies, or nothing that can be read
        of = torch.tensor([job.groups[i] for i in got], device=job.device)
        for v, (view, own) in enumerate(zip(job.views, features, strict=True)):
            points = own.flatten(0, 1)
            final = bank_size(job.config, v, count * own.shape[1])
            stage = f"{job.named('coreset', view)} {shard + 1}/{shards}"
            result = coreset.select(
                points,
                min(final, len(points), -(-2 * final // shards)),  # the union holds twice the bank
                progress=lambda d, t, stage=stage: job.step(stage, d, t),  # type: ignore[misc]
            )
            kept[v].append(points[result.indices])
            kept_groups[v].append(of[result.indices // own.shape[1]])
            radii[v] = max(radii[v], result.radius)
            patches += len(points)
        used += got
        del features, own, points, result
        gc.collect()
    _some(used)
    job.tick("features")
    bank_groups = []
    for v, view in enumerate(job.views):
        union, groups = torch.cat(kept[v]), torch.cat(kept_groups[v])
        final = min(len(union), _picks(job, v, len(used) * int(view.inside.sum())))
        stage = job.named("coreset of coresets", view)
        result = coreset.select(
            union,
            final,
            progress=lambda d, t, stage=stage: job.step(stage, d, t),  # type: ignore[misc]
            **_start(job, v),
        )
        bank_groups.append(_install(job, v, union, groups, result.indices))
        radii[v] += result.radius
    job.tick("coreset")
    # The features are gone: calibrate on pictures read again, spread over all of them by the seed
    chosen = used
    if len(used) > MAX_CALIBRATION:
        rng = np.random.default_rng(job.config.seed)
        chosen = sorted(rng.choice(used, MAX_CALIBRATION, replace=False).tolist())
    found: dict[int, Raw] = {}

    def store(index: int, one: Tensor) -> None:
        parts = one.split(job.model.patches)
        scored = [
            view.without(part, of == job.groups[index])
            for view, part, of in zip(job.views, parts, bank_groups, strict=True)
        ]
        found[index] = ([s for s, _ in scored], [d for _, d in scored])

    embed_pictures(job.model, job.load, chosen, store, job.step, "calibration")
    good = _calibrate(job, [found[i] for i in chosen])
    job.tick("calibration")
    job.say(f"covering radius at most {', '.join(f'{r:.4g}' for r in radii)} ({shards} shards)")
    fitted = _fitted(job, good, chosen, used, bank_groups, radii, patches, shards)
    fitted.suspects = {chosen[i]: float(good.scores[i]) for i in suspects(good.scores)}
    return fitted
