"""Fitting PatchCore: features, coresets, memory banks, calibration; in memory or streamed."""

from __future__ import annotations

import gc
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.outliers import suspicious
from flawscope.errors import InputError, pluralize
from flawscope.machine import peak_memory
from flawscope.methods.detector import embed_pictures
from flawscope.methods.patchcore import coreset
from flawscope.methods.patchcore.bank_selection import (
    MemoryPlan,
    bank_size,
    plan_memory,
    select_bank,
    select_banks,
)
from flawscope.methods.patchcore.leave_one_out import (
    EXCESS,
    EXCESS_GROUPS,
    ONE_PART_METHOD,
    GoodValues,
    LeaveOutOfBanks,
    LeftOutPicture,
    calibrate,
    calibrate_one_part,
    leave_one_out,
    left_out_picture,
    measured_excess,
    score_left_out,
    scores_above,
    suspicion_fence,
)
from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.patches import (
    ExistingBank,
    FitJob,
    Patches,
    augment_name,
    choose_orientations,
    collect_patches,
    keep_helpful_copies,
)
from flawscope.methods.patchcore.selected_bank import SelectedBank
from flawscope.methods.task import Fitted, Task
from flawscope.methods.threads import workers
from flawscope.progress import FEATURES, Detail, ProgressCounter
from flawscope.types import Json

ROUNDS = 3  # of dropping suspects: defects of one kind hide each other until the first are gone


def fit(model: Model, task: Task) -> Fitted:
    """Fill `model` with the memory banks of good pictures, and calibrate it.

    In calibration a picture is never compared with its own group.
    """
    old = task.old
    job = FitJob(model, task, None if old is None else ExistingBank.read_all(old, model))
    job.orientations = choose_orientations(job)
    planned = plan_memory(model, task, task.count * (1 + len(job.orientations)))
    if planned.shards > 1 and job.orientations and job.config.augment == "auto" and old is None:
        job.orientations = ()  # `keep_helpful_copies` needs all features in memory
        planned = plan_memory(model, task, task.count)
    task.say(planned.describe())
    if planned.shards > 1 and task.drop_suspects:
        raise InputError(
            "--drop-suspects needs all features in memory: raise --set memory=GiB, or leave it out"
        )
    fitted = _fit_in_memory(job) if planned.shards == 1 else _fit_streamed(job, planned)
    if old is not None:
        _keep_old_facts(fitted, job, old)
    facts = fitted.facts
    facts |= {"augment": augment_name(job), "shards": planned.shards, "seconds": job.seconds()}
    facts |= {"memory_predicted": planned.peak, "memory_peak": peak_memory()}
    fitted.summary = _summarise(facts)
    return fitted


def _summarise(facts: Json) -> list[str]:
    """Return lines for people on the memory banks, and on the memory of their selection."""
    radii = ", ".join(f"{radius:.4g}" for radius in facts["covering_radius"])
    used = facts["memory_peak"] / 2**30
    predicted = facts["memory_predicted"] / 2**30
    return [
        f"memory bank: {facts['bank']} of {facts['patches']} patches, covering radius {radii}",
        f"memory: {used:.2f} GiB at the peak, {predicted:.2f} predicted",
    ]


def _require_pictures(used: Sequence[int]) -> None:
    if not used:
        raise InputError(
            "none of the pictures can be used: they cannot be read, or the model knows them; give others"
        )


def _draw_calibration(job: FitJob, used: Sequence[int]) -> list[int]:
    """Choose the pictures to calibrate on by the seed, and return their rows in `used`.

    All pictures of a part are chosen together, because they are judged together; single pictures are chosen
    where the caller calibrates again.
    """
    wanted = job.task.calibration_pictures
    count = job.task.count
    unit_of = np.arange(count) if wanted is not None else np.array(job.task.groups)
    most = job.config.calibration_pictures if wanted is None else wanted
    units = unit_of[[*used]]
    usable = np.unique(units)
    every = np.unique(unit_of)
    if len(usable) <= most:
        return [*range(len(used))]
    # of all pictures first: a streamed fit keeps the features of these before it knows which can be used
    rng = np.random.default_rng(job.config.seed)
    chosen = np.intersect1d(rng.choice(every, most, replace=False), usable)
    others = np.setdiff1d(usable, chosen)
    chosen = np.append(chosen, rng.choice(others, most - len(chosen), replace=False))
    return np.flatnonzero(np.isin(units, chosen)).tolist()


def _suspicion_limit(job: FitJob, good: GoodValues, numbers: Sequence[int]) -> float:
    """Return the score beyond which a good picture is suspicious.

    A picture counts by its worst view. A model that is extended keeps its own limit.
    """
    known = None if job.task.old is None else job.task.old.manifest.suspicious_above
    if known is not None:
        return known
    strengths = good.strengths
    picture_of = job.task.views.picture_of
    if picture_of:
        _, unit = np.unique([picture_of[number] for number in numbers], return_inverse=True)
        strengths = np.full((unit.max() + 1, strengths.shape[1]), -np.inf)
        np.maximum.at(strengths, unit, good.strengths)
    return suspicion_fence(job.model, strengths)


def _find_suspects(job: FitJob, good: GoodValues, pictures: Sequence[int]) -> dict[int, float]:
    """Return the suspicious pictures among those for calibration, with their scores."""
    scores = zip(pictures, good.scores.tolist(), strict=True)
    return dict(suspicious(scores, _suspicion_limit(job, good, pictures)))


def _make_result(
    job: FitJob,
    good: GoodValues,
    pictures: list[int],
    used: list[int],
    selections: Sequence[SelectedBank],
) -> Fitted:
    """Make the result of a fit.

    Args:
        job: The fit.
        good: Leave-one-out values of the pictures for calibration.
        pictures: Numbers of these pictures.
        used: Numbers of the pictures learnt from.
        selections: The selected bank of each branch.
    """
    alone = len({job.task.groups[i] for i in used}) == len(used)
    limit = _suspicion_limit(job, good, pictures)
    facts = {
        "bank": sum(branch.norms.numel() for branch in job.branches),
        "suspicious_above": limit if np.isfinite(limit) else None,  # JSON has no infinity
    }
    extra = {f"bank_groups.{v}": selection.groups.int() for v, selection in enumerate(selections)}
    old = {} if job.task.old is None else job.task.old.tensors
    kept = {name: torch.from_numpy(old[name]) for name in (EXCESS, EXCESS_GROUPS) if name in old}
    extra |= measured_excess(good, [job.task.groups[i] for i in pictures], kept)
    cells = {number: job.cells[number] for number in used if number in job.cells}
    how = "leave-one-picture-out" if alone else "leave-one-group-out"
    values = dict(zip(pictures, good.values, strict=True))
    fitted = Fitted(values, used, how, cells=cells, extra=extra, facts=facts)
    fitted.leave_out = leave_out = LeaveOutOfBanks.of_fit(job.model, fitted, job.task)
    leave_out.selections = selections
    return fitted


def _keep_old_facts(fitted: Fitted, job: FitJob, old: Artefact) -> None:
    """Add the facts of the old pictures to those of a model that was extended.

    The old pictures' scores stay. With a bank that only grows, their patch distances can only shrink; their
    scores nearly always shrink too, though Eq. 7's weight may move either way.
    """
    before = old.manifest.calibration
    facts = old.manifest.facts
    radii = zip(fitted.facts["covering_radius"], facts["covering_radius"], strict=True)
    fitted.facts["covering_radius"] = [max(pair) for pair in radii]
    fitted.facts["patches"] += facts["patches"]
    kept = f"the scores of the {before.count} from before are kept: if anything, the threshold is too high"
    fitted.notes.append(Detail(f"extended by {job.task.pluralize(len(fitted.used))}; {kept}"))
    full = [branch for branch in job.branches if len(branch.bank) >= job.config.cap]
    if full:
        fitted.notes.append(
            f"the memory bank is full ({pluralize(len(full[0].bank), 'element')}): to learn more, fit anew "
            "with all pictures or with a larger cap"
        )


# ------------------------------------------------------------------------------------------------- in memory


def _fit_in_memory(job: FitJob) -> Fitted:
    patches = collect_patches(job, range(job.task.count), FEATURES)
    _require_pictures(patches.pictures)
    if job.orientations and job.config.augment == "auto" and job.task.old is None:
        patches = keep_helpful_copies(job, patches)
    job.record_time("features")
    suspected: dict[int, float] = {}
    dropped: list[int] = []
    for round_ in range(ROUNDS + 1):
        selections = select_banks(job, patches)
        job.record_time("coreset")
        alone = job.existing_banks is None and len(patches.groups.unique()) == 1
        good, calibrated = _calibrate(job, patches, selections, alone)
        job.record_time("calibration")
        if round_ == ROUNDS or job.task.calibration_pictures is not None:
            break
        found = _find_all_suspects(job, good, calibrated, patches, selections)
        suspected |= found
        if not job.task.drop_suspects or not found:
            break
        gone = _pictures_of_parts(job, patches, found)
        dropped += gone
        patches = patches.keep([i for i, picture in enumerate(patches.pictures) if picture not in gone])
        without = job.task.pluralize(len(found), "suspicious")
        if len(gone) > len(found):
            without += f" and {job.task.pluralize(len(gone) - len(found), 'other')} of their parts"
        job.task.say(f"round {round_ + 1}: left out {without}; selecting again")
    fitted = _make_result(job, good, calibrated, patches.pictures, selections)
    radii = [selection.result.radius for selection in selections]
    fitted.facts |= {"patches": patches.patch_count, "covering_radius": radii}
    if alone:
        fitted.promised = False
        fitted.how = ONE_PART_METHOD
    fitted.dropped = sorted(dropped)
    fitted.suspects = suspected
    return fitted


def _find_all_suspects(
    job: FitJob,
    good: GoodValues,
    calibrated: Sequence[int],
    patches: Patches,
    selections: list[SelectedBank],
) -> dict[int, float]:
    """Return the scores of suspicious pictures, highest first, also of pictures outside calibration."""
    found = _find_suspects(job, good, calibrated)
    others = [i for i, picture in enumerate(patches.pictures) if picture not in {*calibrated}]
    limit = _suspicion_limit(job, good, calibrated)
    found |= scores_above(limit, job.model, patches, selections, others)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _pictures_of_parts(job: FitJob, patches: Patches, found: Iterable[int]) -> list[int]:
    """Return the pictures of the same parts as those found: a part's other pictures show its fault too."""
    groups = job.task.groups
    parts = {groups[picture] for picture in found}
    return [picture for picture in patches.pictures if groups[picture] in parts]


def _calibrate(
    job: FitJob, patches: Patches, selections: list[SelectedBank], alone: bool
) -> tuple[GoodValues, list[int]]:
    """Calibrate, and return the pictures used for it; `alone`: all pictures show a single part."""
    if alone:
        return calibrate_one_part(job, patches, selections), patches.pictures
    chosen = _draw_calibration(job, patches.pictures)
    return leave_one_out(job, patches, selections, chosen), [patches.pictures[i] for i in chosen]


# -------------------------------------------------------------------------------------------------- streamed


def _fit_streamed(job: FitJob, planned: MemoryPlan) -> Fitted:
    """Merge and reduce: select a coreset of every shard of pictures, then a coreset of their union.

    A point is at most its shard's radius from the union, and the union at most the last radius from the bank:
    their sum bounds the covering radius. The union is twice the bank for any number of shards: another level
    between them would add a radius and save nothing.
    """
    drawn = {*_draw_calibration(job, range(job.task.count))[: planned.kept]}
    selected = (_select_shard(job, planned.shards, shard, drawn) for shard in range(planned.shards))
    shards = [shard for shard in selected if shard is not None]
    used = [picture for shard in shards for picture in shard.pictures]
    _require_pictures(used)
    job.record_time("features")
    selections = []
    radii = []
    patches = [sum(shard.patches[v] for shard in shards) for v in range(len(job.branches))]
    for v, count in enumerate(patches):
        parts = zip(*(shard.chosen[v] for shard in shards), strict=True)
        union, groups = (torch.cat(part) for part in parts)
        selections.append(select_bank(job, v, union, groups, count, "coreset of coresets"))
        radii.append(max(shard.radii[v] for shard in shards) + selections[v].result.radius)
    job.record_time("coreset")
    calibrated, good = _calibrate_streamed(job, used, selections, [shard.kept for shard in shards])
    job.record_time("calibration")
    radius = ", ".join(f"{r:.4g}" for r in radii)
    job.task.say(Detail(f"covering radius at most {radius} ({pluralize(planned.shards, 'shard')})"))
    fitted = _make_result(job, good, calibrated, used, selections)
    fitted.facts |= {"patches": sum(patches), "covering_radius": radii}
    fitted.suspects = _find_suspects(job, good, calibrated)
    if len(calibrated) < len(used):
        fitted.notes.append(f"{len(calibrated)} of {len(used)} pictures were looked at for suspicious ones")
    return fitted


@dataclass
class _ShardCoresets:
    """Coresets of a shard of the pictures, per branch.

    Attributes:
        pictures: Numbers of the shard's pictures.
        kept: All patches of the pictures for calibration.
        chosen: Elements `[M, D]` of each branch, with their groups `[M]`.
        radii: Covering radius of each branch.
        patches: Number of patches of each branch from which the elements were selected.
    """

    pictures: list[int]
    kept: Patches
    chosen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)


def _select_shard(job: FitJob, shards: int, shard: int, drawn: Container[int]) -> _ShardCoresets | None:
    """Select the coresets of a shard, and keep the patches of the pictures for calibration.

    Args:
        job: The fit.
        shards: Number of equal shards of the pictures.
        shard: Number of this shard.
        drawn: Numbers of the pictures for calibration.

    Returns:
        The coresets; None where no picture of the shard is used.
    """
    count = job.task.count
    indices = range(shard * count // shards, (shard + 1) * count // shards)
    patches = collect_patches(job, indices, f"features {shard + 1}/{shards}")
    if not patches.pictures:
        return None
    kept = [row for row, picture in enumerate(patches.pictures) if picture in drawn]  # copies come last
    found = _ShardCoresets(patches.pictures, patches.select(kept))
    for v, branch in enumerate(job.branches):
        points, groups = patches.points(v)
        final = bank_size(job.config, v, count * (1 + len(job.orientations)) * patches.features[v].shape[1])
        result = coreset.select(
            points,
            min(final, len(points), -(-2 * final // shards)),  # the union holds twice the bank
            progress=job.progress(f"{job.stage_name('coreset', branch)} {shard + 1}/{shards}"),
        )
        found.chosen.append((points[result.indices], groups[result.indices]))
        found.radii.append(result.radius)
        found.patches.append(len(points))
        del points, groups, result
    del patches
    gc.collect()
    return found


def _calibrate_streamed(
    job: FitJob, used: list[int], selections: list[SelectedBank], kept: Sequence[Patches]
) -> tuple[list[int], GoodValues]:
    """Calibrate on pictures chosen by the seed.

    Args:
        job: The fit.
        used: Numbers of the pictures that the banks are selected from.
        selections: The selected bank of each branch.
        kept: Patches of chosen pictures; the other chosen pictures are read again.

    Returns:
        Numbers of the pictures, without those that can no longer be read, and their values.
    """
    found: dict[int, LeftOutPicture] = {}
    unknown_distances = [None] * len(selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", sum(len(patches.numbers) for patches in kept))

    def leave_out(patches: Patches, i: int) -> None:
        found[patches.numbers[i]] = left_out_picture(job.model, patches, i, selections, unknown_distances)
        advance()

    with workers(job.device) as each:
        for patches in kept:
            each(partial(leave_out, patches), range(len(patches.numbers)))
    chosen = [used[i] for i in _draw_calibration(job, used)]
    again = [picture for picture in chosen if picture not in found]
    groups = dict(zip(again, job.groups_of(again).tolist(), strict=True))

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        found[index] = score_left_out(job.model, selections, features, groups[index], inside)

    if again:
        embed_pictures(job.model, job.task.load, again, store, job.task.step, "calibration")
    readable = [picture for picture in chosen if picture in found]
    return readable, calibrate(job, [found[picture] for picture in readable])
