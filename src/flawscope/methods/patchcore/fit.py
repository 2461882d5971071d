"""Fitting PatchCore: features, coresets, memory banks, calibration; in memory or streamed."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.decision import from_values, suspects
from flawscope.errors import InputError
from flawscope.machine import peak_memory
from flawscope.methods.extract import Load, embed_pictures
from flawscope.methods.patchcore import coreset, memory_plan
from flawscope.methods.patchcore.config import Config
from flawscope.methods.patchcore.leave_out import Good, Raw, calibrate, leave_one_out
from flawscope.methods.patchcore.memory_plan import MAX_CALIBRATION, bank_size
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.selection import (
    Job,
    Start,
    collect,
    compact,
    install,
    picks,
    select,
    start_of,
)
from flawscope.methods.task import Fitted, Task

ROUNDS = 3  # of dropping suspects: defects of one kind hide each other until the first are gone


def fit(config: Config, model: Model, load: Load, count: int, groups: Sequence[int], task: Task) -> Fitted:
    """Fill `model` with the memory banks of `count` good pictures and calibrate it.

    Args:
        load: picture i as [3, H, W] float32, or None where it must be left out (unreadable, a copy).
        groups: [count], pictures of one and the same part share a number; a picture is never compared with
            its own group in calibration.
    """
    old = task.old
    starts = None if old is None else Start.of(old, model)
    job = Job(
        *(
            config,
            model,
            load,
            groups,
            task.rate,
            task.drop_suspects,
            task.settle,
            starts,
            task.say,
            task.step,
        )
    )
    plan = memory_plan.plan(config, model, count, job.device, task.decoded)
    task.say(plan.line())
    if plan.shards > 1 and task.drop_suspects:
        raise InputError(
            "--drop-suspects needs all features in memory: raise --set memory=GiB, or leave it out"
        )
    fitted = _in_memory(job, count, old) if plan.shards == 1 else _streamed(job, count, plan.shards, old)
    if old is not None:
        _join(fitted, model, old)
    fitted.facts |= {"memory_predicted": plan.peak, "memory_peak": peak_memory()}
    fitted.summary = _summary(fitted.facts)
    return fitted


def _summary(facts: dict[str, Any]) -> list[str]:
    peak, predicted = facts["memory_peak"] / 2**30, facts["memory_predicted"] / 2**30
    radii = ", ".join(f"{radius:.4g}" for radius in facts["covering_radius"])
    return [
        f"memory bank: {facts['bank']} of {facts['patches']} patches, covering radius {radii}",
        f"memory: {peak:.2f} GiB at the peak, {predicted:.2f} predicted",
    ]


# ------------------------------------------------------------------------------------------------- in memory


def _in_memory(job: Job, count: int, old: Artefact | None) -> Fitted:
    features, used = collect(job, range(count), "features")
    _some(used)
    job.tick("features")
    seen = torch.tensor([job.groups[i] for i in used], device=job.device)
    results, bank_groups = select(job, features, seen)
    job.tick("coreset")
    good = leave_one_out(job, features, seen, results, bank_groups)
    listed: dict[int, float] = {}
    dropped: list[int] = []
    for round_ in range(ROUNDS):
        found = suspects(good.scores, _limit(good, old))
        listed |= {used[i]: float(good.scores[i]) for i in found}
        if not job.drop_suspects or not len(found):
            break
        dropped += [used[i] for i in found]
        keep = sorted(set(range(len(used))) - set(found.tolist()))
        compact(features, keep)
        features, used, seen = [own[: len(keep)] for own in features], [used[i] for i in keep], seen[keep]
        job.say(f"round {round_ + 1}: left out {len(found)} suspicious pictures; selecting again")
        results, bank_groups = select(job, features, seen)
        good = leave_one_out(job, features, seen, results, bank_groups)
    job.tick("calibration")
    radii = [result.radius for result in results]
    patches = sum(own.shape[0] * own.shape[1] for own in features)
    fitted = _fitted(job, good, used, used, bank_groups, radii, patches, 1)
    fitted.dropped, fitted.suspects = sorted(dropped), listed
    fitted.facts["suspicious_above"] = _finite(_limit(good, old))
    return fitted


def _limit(good: Good, old: Artefact | None) -> float:
    """The score beyond which a good picture is suspicious; an extended model keeps its own."""
    known = None if old is None else old.manifest.facts.get("suspicious_above")
    return good.fence if known is None else float(known)


def _finite(limit: float) -> float | None:
    """For JSON, which has no infinity."""
    return limit if np.isfinite(limit) else None


def _some(used: Sequence[int]) -> None:
    if not used:
        raise InputError(
            "none of the pictures can be used: they cannot be read, or the model knows them; give others"
        )


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


def _join(fitted: Fitted, model: Model, old: Artefact) -> None:
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
    full = [view for view in model.views if len(view.bank) >= model.config.cap]
    if full:
        fitted.notes.append(
            f"the memory bank is full ({len(full[0].bank)} elements): to learn more, fit anew with all "
            "pictures or with a larger cap"
        )


# -------------------------------------------------------------------------------------------------- streamed


def _streamed(job: Job, count: int, shards: int, old: Artefact | None) -> Fitted:
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
        features, got = collect(job, indices, f"features {shard + 1}/{shards}")
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
        final = min(len(union), picks(job, v, len(used) * int(view.inside.sum())))
        stage = job.named("coreset of coresets", view)
        result = coreset.select(
            union,
            final,
            progress=lambda d, t, stage=stage: job.step(stage, d, t),  # type: ignore[misc]
            **start_of(job, v),
        )
        bank_groups.append(install(job, v, union, groups, result.indices))
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
    good = calibrate(job, [found[i] for i in chosen])
    job.tick("calibration")
    job.say(f"covering radius at most {', '.join(f'{r:.4g}' for r in radii)} ({shards} shards)")
    fitted = _fitted(job, good, chosen, used, bank_groups, radii, patches, shards)
    limit = _limit(good, old)
    fitted.suspects = {chosen[i]: float(good.scores[i]) for i in suspects(good.scores, limit)}
    fitted.facts["suspicious_above"] = _finite(limit)
    if len(chosen) < len(used):
        fitted.notes.append(f"{len(chosen)} of {len(used)} pictures were looked at for suspicious ones")
    return fitted
