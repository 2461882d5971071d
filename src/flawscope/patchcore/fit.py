"""Fitting PatchCore: features, coreset, memory bank, and a calibration that spends no good picture."""

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
from flawscope.calibration import Calibration, from_maps, suspects
from flawscope.errors import InputError
from flawscope.features.extract import Load, embed_pictures
from flawscope.patchcore import coreset, memory
from flawscope.patchcore.config import Config
from flawscope.patchcore.memory import MAX_CALIBRATION
from flawscope.patchcore.model import Model
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


@dataclass(frozen=True)
class Start:
    """The bank of a model that is being extended: elements [M, D], absolute, the group of each [M] (negative:
    numbers the new pictures do not have), and its covering radius: what is closer is nothing new."""

    bank: Tensor
    groups: Tensor
    radius: float

    @classmethod
    def of(cls, old: Artefact, model: Model) -> Start:
        groups = torch.from_numpy(old.tensors["bank_groups"]).to(model.bank.device).long()
        groups = torch.where(groups < 0, groups, -1 - groups)
        return cls(model.bank + model.centre, groups, float(old.manifest.facts["covering_radius"]))


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
    """Fill `model` with a memory bank of `count` good pictures and calibrate it.

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
    clock = {"start": time.perf_counter()}
    device = next(model.buffers()).device
    start = None if old is None else Start.of(old, model)
    plan = memory.plan(config, model, count, device)
    say(plan.line())
    if plan.shards == 1:
        fitted = _in_memory(
            config, model, load, count, groups, rate, drop_suspects, settle, start, say, step, clock
        )
    else:
        if drop_suspects:
            raise InputError(
                "--drop-suspects needs all features in memory: give --set memory=GiB, or leave it out"
            )
        fitted = _streamed(config, model, load, count, groups, rate, settle, start, plan, say, step, clock)
    if old is not None:
        _join(fitted, old)
    fitted.facts["memory_predicted"] = plan.peak
    fitted.facts["memory_peak"] = memory.peak_rss()
    return fitted


def bank_size(config: Config, patches: int) -> int:
    """How many of so many patches are kept."""
    wanted = config.count if config.count is not None else max(1, round(config.ratio * patches))
    return max(1, min(wanted, config.cap, patches))


def _picks(config: Config, patches: int, start: Start | None) -> int:
    """How many of so many new patches: all of the bank, or what its cap leaves where it is extended."""
    most = bank_size(config, patches)
    return most if start is None else max(0, min(most, config.cap - len(start.bank)))


def _left_out(groups: Sequence[int]) -> str:
    """The calibration's name, from the groups of the pictures that were used."""
    return "leave-one-group-out" if len(set(groups)) < len(groups) else "leave-one-picture-out"


def _unusable() -> InputError:
    return InputError("none of the pictures can be used: see the reasons above, or give others")


# ---------------------------------------------------------------------------------------------- in memory


def _in_memory(
    config: Config,
    model: Model,
    load: Load,
    count: int,
    groups: Sequence[int],
    rate: float,
    drop_suspects: bool,
    settle: Callable[[list[int]], list[int]],
    start: Start | None,
    say: Callable[[str], None],
    step: Step,
    clock: dict[str, float],
) -> Fitted:
    inside = model.inside.bool()
    features, used = _collect(model, load, range(count), inside, settle, step)
    if not used:
        raise _unusable()
    clock["features"] = time.perf_counter()
    seen = torch.tensor([groups[i] for i in used], device=features.device)
    result = _select(config, features, seen, start, step)
    dropped: list[int] = []
    of_patch = seen.repeat_interleave(features.shape[1])
    bank_groups = _install(model, features.flatten(0, 1), of_patch, result.indices, start)
    clock["coreset"] = time.perf_counter()
    scores, maps = _leave_one_out(model, features, seen, bank_groups, result, inside)
    suspicious = suspects(scores)
    listed = {used[i]: float(scores[i]) for i in suspicious}
    if drop_suspects and len(suspicious):
        if len(suspicious) >= len(used):
            raise InputError("every picture looks suspicious: check the folder of good pictures")
        dropped = [used[i] for i in suspicious]
        keep = sorted(set(range(len(used))) - set(suspicious.tolist()))
        for new, old in enumerate(keep):  # in place: a second copy of the features may not fit
            features[new] = features[old]
        features, used, seen = features[: len(keep)], [used[i] for i in keep], seen[keep]
        say(f"left out {len(dropped)} suspicious pictures; selecting again")
        if start is not None:  # as if the dropped ones had never been there
            model.bank = model.bank[: len(start.bank)]
        result = _select(config, features, seen, start, step)
        of_patch = seen.repeat_interleave(features.shape[1])
        bank_groups = _install(model, features.flatten(0, 1), of_patch, result.indices, start)
        scores, maps = _leave_one_out(model, features, seen, bank_groups, result, inside)
    clock["calibration"] = time.perf_counter()
    return Fitted(
        model,
        from_maps(scores, maps, rate=rate, method=_left_out(seen.tolist()), precision=config.precision),
        pictures=used,
        used=used,
        dropped=dropped,
        suspects=listed,
        extra={"bank_groups": bank_groups.int()},
        facts={
            "bank": len(model.bank),
            "patches": features.shape[0] * features.shape[1],
            "covering_radius": result.radius,
            "shards": 1,
            "seconds": _durations(clock),
        },
    )


def _collect(
    model: Model,
    load: Load,
    indices: Sequence[int],
    inside: Tensor,
    settle: Callable[[list[int]], list[int]],
    step: Step,
) -> tuple[Tensor, list[int]]:
    """Features [N, P, D] of the pictures to be used (patches inside the region), and which these are."""
    rows = {index: row for row, index in enumerate(indices)}
    everything = bool(inside.all())
    patches = int(inside.sum())
    features = torch.empty(len(indices), patches, model.embedding.width, device=inside.device)
    got: list[int] = []

    def store(index: int, one: Tensor) -> None:
        if not bool(one.sum().isfinite()):
            raise InputError(
                f"the backbone overflows in {model.config.precision}: choose another --set precision, "
                "or check its weights"
            )
        features[rows[index]] = one if everything else one[inside]
        got.append(index)

    embed_pictures(model, load, list(indices), store, step)
    used = settle(sorted(got))
    if len(used) < len(indices):
        for new, index in enumerate(used):
            features[new] = features[rows[index]]
    return features[: len(used)], used


def _select(
    config: Config, features: Tensor, groups: Tensor, start: Start | None, step: Step
) -> coreset.Coreset:
    patches = features.shape[0] * features.shape[1]
    return coreset.select(
        features.flatten(0, 1),
        _picks(config, patches, start),
        groups=groups.repeat_interleave(features.shape[1]),
        start=None if start is None else start.bank,
        start_groups=None if start is None else start.groups,
        until=0.0 if start is None else start.radius,
        progress=lambda done, total: step("coreset", done, total),
    )


def _install(model: Model, points: Tensor, groups: Tensor, indices: Tensor, start: Start | None) -> Tensor:
    """Give the model the selected points [N, D]; returns the group of every element of its bank [M]."""
    if start is None:
        model.set_bank(points[indices])
        return groups[indices]
    model.extend_bank(points[indices])
    return torch.cat([start.groups, groups[indices]])


def _join(fitted: Fitted, old: Artefact) -> None:
    """Keep the old pictures' calibration: with a bank that only grows their patch distances can only shrink
    (their scores nearly so: Eq. 7's weight may move either way)."""
    before, now = old.manifest.calibration, fitted.calibration
    fitted.calibration = replace(
        now,
        scores=before.scores + now.scores,
        map_maxima=before.map_maxima + now.map_maxima,
        map_level=max(before.map_level, now.map_level),
    )
    facts = old.manifest.facts
    fitted.facts["covering_radius"] = max(fitted.facts["covering_radius"], facts["covering_radius"])
    fitted.facts["patches"] += facts["patches"]
    fitted.notes.append(
        f"extended by {len(fitted.used)} pictures: the calibration scores of the {before.count} earlier ones "
        "were kept; their patch distances can only have shrunk, so expect fewer false alarms than promised"
    )
    if len(fitted.model.bank) >= fitted.model.config.cap:
        fitted.notes.append(
            f"the memory bank is full ({len(fitted.model.bank)} elements): to learn more, fit anew with all "
            "pictures or with a larger cap"
        )


def _leave_one_out(
    model: Model,
    features: Tensor,
    groups: Tensor,
    bank_groups: Tensor,
    result: coreset.Coreset,
    inside: Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] and maps [N, H, W] of every picture against the bank without its own group's elements.

    The patch distances come from the coreset, which kept them beside its own; what is left is Eq. 7 for one
    patch a picture.
    """
    assert result.leave_out is not None
    distances = result.leave_out.view(features.shape[:2])
    if not bool(inside.all()):
        whole = torch.zeros(len(features), len(inside), device=features.device)
        whole[:, inside] = distances
        distances = whole

    def one(i: int) -> tuple[float, np.ndarray]:
        patches = features[i]
        if len(inside) != len(patches):
            patches = torch.zeros(len(inside), patches.shape[1], device=patches.device)
            patches[inside] = features[i]
        score, drawn = model.score_without(patches, bank_groups == groups[i], distances[i])
        return float(score), drawn.cpu().numpy()

    return _gather(one, range(len(features)), features.device)


def _gather(
    one: Callable[[int], tuple[float, np.ndarray]], indices: Sequence[int], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    with workers(device) as each:
        scored = each(one, indices)
    return np.array([s for s, _ in scored]), np.stack([m for _, m in scored])


# ----------------------------------------------------------------------------------------------- streamed


def _streamed(
    config: Config,
    model: Model,
    load: Load,
    count: int,
    groups: Sequence[int],
    rate: float,
    settle: Callable[[list[int]], list[int]],
    start: Start | None,
    plan: memory.Plan,
    say: Callable[[str], None],
    step: Step,
    clock: dict[str, float],
) -> Fitted:
    """Merge and reduce: a coreset of every shard of pictures, then a coreset of their union.

    A point is at most its shard's radius from the union and the union at most the last radius from the
    bank, so their sum bounds the covering radius.
    """
    inside = model.inside.bool()
    patches = int(inside.sum())
    per_shard = -(-2 * bank_size(config, count * patches) // plan.shards)
    parts, part_groups, used = [], [], []
    radius = 0.0
    for shard in range(plan.shards):
        indices = range(shard * count // plan.shards, (shard + 1) * count // plan.shards)
        features, got = _collect(
            model, load, indices, inside, settle, _named(step, f"features {shard + 1}/{plan.shards}")
        )
        if not got:
            continue  # only copies, or nothing that can be read
        flat = features.flatten(0, 1)
        result = coreset.select(
            flat,
            min(per_shard, len(flat)),
            progress=lambda d, t, s=shard: step(f"coreset {s + 1}/{plan.shards}", d, t),  # type: ignore[misc]
        )
        parts.append(flat[result.indices].clone())
        of = torch.tensor([groups[i] for i in got], device=flat.device)
        part_groups.append(of[result.indices // features.shape[1]])
        radius = max(radius, result.radius)
        used += got
        del features, flat, result
        gc.collect()
    if not used:
        raise _unusable()
    clock["features"] = time.perf_counter()
    union, union_groups = torch.cat(parts), torch.cat(part_groups)
    del parts
    result = coreset.select(
        union,
        min(_picks(config, len(used) * patches, start), len(union)),
        start=None if start is None else start.bank,
        until=0.0 if start is None else start.radius,
        progress=lambda d, t: step("coreset of coresets", d, t),
    )
    bank_groups = _install(model, union, union_groups, result.indices, start)
    clock["coreset"] = time.perf_counter()
    # The features are gone: calibrate on pictures read again, spread over all of them by the seed
    chosen = used
    if len(used) > MAX_CALIBRATION:
        rng = np.random.default_rng(config.seed)
        chosen = sorted(rng.choice(used, MAX_CALIBRATION, replace=False).tolist())
    found: dict[int, tuple[float, np.ndarray]] = {}

    def store(index: int, one: Tensor) -> None:
        score, drawn = model.score_without(one, bank_groups == groups[index])
        found[index] = (float(score), drawn.cpu().numpy())

    embed_pictures(model, load, chosen, store, step, "calibration")
    scores = np.array([found[i][0] for i in chosen])
    maps = np.stack([found[i][1] for i in chosen])
    clock["calibration"] = time.perf_counter()
    say(f"covering radius at most {radius + result.radius:.4g} ({plan.shards} shards)")
    return Fitted(
        model,
        from_maps(
            scores, maps, rate=rate, method=_left_out([groups[i] for i in used]), precision=config.precision
        ),
        pictures=chosen,
        used=used,
        suspects={chosen[i]: float(scores[i]) for i in suspects(scores)},
        extra={"bank_groups": bank_groups.int()},
        facts={
            "bank": len(model.bank),
            "patches": len(used) * patches,
            "covering_radius": radius + result.radius,
            "shards": plan.shards,
            "seconds": _durations(clock),
        },
    )


def _named(step: Step, stage: str) -> Step:
    return lambda _, done, total: step(stage, done, total)


def _durations(clock: dict[str, float]) -> dict[str, float]:
    names, times = list(clock), list(clock.values())
    return {n: round(t - s, 3) for n, s, t in zip(names[1:], times, times[1:], strict=False)}
