"""A fit of PatchCore: features, coresets, memory banks, calibration; in memory or streamed."""

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
    bank_size,
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
from flawscope.methods.patchcore.memory_plan import MemoryPlan, plan_memory
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

# Rounds of dropping suspects: pictures with the same defect hide each other until the first ones are dropped
ROUNDS = 3


def fit(model: Model, task: Task) -> Fitted:
    """Fill `model` with the memory banks of good pictures, and calibrate it.

    In calibration a picture is never compared with its own group.

    Raises:
        InputError: No picture can be used, settings are not possible, or memory does not suffice.
    """
    old = task.old
    existing_banks = None if old is None else ExistingBank.read_all(old, model)
    job = FitJob(model, task, existing_banks)
    job.orientations = choose_orientations(job)
    plan = plan_memory(model, task, task.count * (1 + len(job.orientations)))
    if plan.shards > 1 and job.orientations and job.config.augment == "auto" and old is None:
        job.orientations = ()  # `keep_helpful_copies` needs all features in memory
        plan = plan_memory(model, task, task.count)
    task.say(plan.describe())
    if plan.shards > 1 and task.drop_suspects:
        raise InputError(
            "--drop-suspects needs all features in memory: raise --set memory=GiB, or leave it out"
        )
    fitted = _fit_in_memory(job) if plan.shards == 1 else _fit_streamed(job, plan)
    if old is not None:
        _merge_old_facts(fitted, job, old)
    fitted.facts |= {
        "augment": augment_name(job),
        "shards": plan.shards,
        "seconds": job.seconds(),
        "memory_predicted": plan.peak,
        "memory_peak": peak_memory(),
    }
    fitted.summary = _summarise(fitted.facts)
    return fitted


def _summarise(facts: Json) -> list[str]:
    """Return lines for people on the memory banks, and on the memory of their selection."""
    radii = ", ".join(f"{radius:.4g}" for radius in facts["covering_radius"])
    peak_gib = facts["memory_peak"] / 2**30
    predicted_gib = facts["memory_predicted"] / 2**30
    return [
        f"memory bank: {facts['bank']} of {facts['patches']} patches, covering radius {radii}",
        f"memory: {peak_gib:.2f} GiB at the peak, {predicted_gib:.2f} predicted",
    ]


def _require_pictures(pictures: Sequence[int]) -> None:
    if not pictures:
        raise InputError(
            "none of the pictures can be used: they cannot be read, or the model knows them; give others"
        )


def _draw_calibration(job: FitJob, used: Sequence[int]) -> list[int]:
    """Draw the pictures to calibrate on.

    The pictures of a part are drawn together, because they are judged together. They are drawn one by one if
    the task gives `calibration_pictures`: then the caller calibrates again.

    Args:
        job: The fit, whose seed decides.
        used: Numbers of the pictures that can be used.

    Returns:
        Indices of the drawn pictures in `used`.
    """
    picture_limit = job.task.calibration_pictures
    if picture_limit is None:
        unit_of_picture = np.array(job.task.groups)
        limit = job.config.calibration_pictures
    else:
        unit_of_picture = np.arange(job.task.count)
        limit = picture_limit
    used_units = unit_of_picture[[*used]]
    usable_units = np.unique(used_units)
    if len(usable_units) <= limit:
        return [*range(len(used))]
    # First draw from the units of all pictures, usable or not: a streamed fit must choose the pictures whose
    # features it keeps before it knows which can be used
    rng = np.random.default_rng(job.config.seed)
    all_units = np.unique(unit_of_picture)
    first_units = np.intersect1d(rng.choice(all_units, limit, replace=False), usable_units)
    other_units = np.setdiff1d(usable_units, first_units)
    further_units = rng.choice(other_units, limit - len(first_units), replace=False)
    is_drawn = np.isin(used_units, np.append(first_units, further_units))
    return np.flatnonzero(is_drawn).tolist()


def _suspicion_limit(job: FitJob, good: GoodValues, numbers: Sequence[int]) -> float:
    """Return the score beyond which a good picture is suspicious.

    A model that is extended keeps its limit. If the task has views, a picture counts with the highest values
    of its views.

    Args:
        job: The fit.
        good: Leave-one-out values of pictures or views.
        numbers: Numbers of these pictures or views.
    """
    old_limit = None if job.task.old is None else job.task.old.manifest.suspicious_above
    if old_limit is not None:
        return old_limit
    strengths = good.strengths
    picture_of = job.task.views.picture_of
    if picture_of:
        # for each view, the row of its picture in the new `strengths`
        _, picture_rows = np.unique([picture_of[number] for number in numbers], return_inverse=True)
        strengths = np.full((picture_rows.max() + 1, strengths.shape[1]), -np.inf)
        np.maximum.at(strengths, picture_rows, good.strengths)
    return suspicion_fence(job.model, strengths)


def _find_suspects(job: FitJob, good: GoodValues, pictures: Sequence[int]) -> dict[int, float]:
    """Return the suspicious pictures among those for calibration, with their scores."""
    scores = zip(pictures, good.scores.tolist(), strict=True)
    return dict(suspicious(scores, _suspicion_limit(job, good, pictures)))


def _make_result(
    job: FitJob,
    good: GoodValues,
    calibrated_numbers: list[int],
    used_numbers: list[int],
    selections: Sequence[SelectedBank],
) -> Fitted:
    """Make the result of a fit.

    Args:
        job: The fit.
        good: Leave-one-out values of the pictures for calibration.
        calibrated_numbers: Numbers of the pictures for calibration.
        used_numbers: Numbers of the pictures learnt from.
        selections: The selected bank of each branch.
    """
    limit = _suspicion_limit(job, good, calibrated_numbers)
    facts = {
        "bank": sum(branch.norms.numel() for branch in job.branches),
        "suspicious_above": limit if np.isfinite(limit) else None,  # JSON has no infinity
    }
    extra_tensors = {f"bank_groups.{v}": selection.groups.int() for v, selection in enumerate(selections)}
    old_tensors = {} if job.task.old is None else job.task.old.tensors
    old_excess = {
        name: torch.from_numpy(old_tensors[name]) for name in (EXCESS, EXCESS_GROUPS) if name in old_tensors
    }
    calibrated_groups = [job.task.groups[number] for number in calibrated_numbers]
    extra_tensors |= measured_excess(good, calibrated_groups, old_excess)
    cells = {number: job.cells[number] for number in used_numbers if number in job.cells}
    group_count = len({job.task.groups[number] for number in used_numbers})
    is_picture_a_group = group_count == len(used_numbers)
    fitted = Fitted(
        scored=dict(zip(calibrated_numbers, good.values, strict=True)),
        used=used_numbers,
        how="leave-one-picture-out" if is_picture_a_group else "leave-one-group-out",
        cells=cells,
        extra=extra_tensors,
        facts=facts,
    )
    leave_out = LeaveOutOfBanks.of_fit(job.model, fitted, job.task)
    leave_out.selections = selections
    fitted.leave_out = leave_out
    return fitted


def _merge_old_facts(fitted: Fitted, job: FitJob, old: Artefact) -> None:
    """Merge the old pictures' facts into the facts of an extended model, and add notes.

    The old pictures keep their scores. With the larger bank, their distances can only be smaller. Their new
    scores would be smaller, too, except in rare cases where the weight of Eq. 7 grows.
    """
    old_count = old.manifest.calibration.count
    old_facts = old.manifest.facts
    radii = zip(fitted.facts["covering_radius"], old_facts["covering_radius"], strict=True)
    fitted.facts["covering_radius"] = [max(radius, old_radius) for radius, old_radius in radii]
    fitted.facts["patches"] += old_facts["patches"]
    hint = f"the scores of the {old_count} from before are kept: if anything, the threshold is too high"
    fitted.notes.append(Detail(f"extended by {job.task.pluralize(len(fitted.used))}; {hint}"))
    full_banks = [branch.bank for branch in job.branches if len(branch.bank) >= job.config.cap]
    if full_banks:
        fitted.notes.append(
            f"the memory bank is full ({pluralize(len(full_banks[0]), 'element')}): to learn more, fit anew "
            "with all pictures or with a larger cap"
        )


# ------------------------------------------------------------------------------------------------- in memory


def _fit_in_memory(job: FitJob) -> Fitted:
    """Fit with the features of all pictures in memory; drop suspects in rounds if the task wants it."""
    patches = collect_patches(job, range(job.task.count), FEATURES)
    _require_pictures(patches.pictures)
    if job.orientations and job.config.augment == "auto" and job.task.old is None:
        patches = keep_helpful_copies(job, patches)
    job.record_time("features")
    all_suspects: dict[int, float] = {}
    dropped: list[int] = []
    for round_number in range(1, ROUNDS + 2):  # the banks are selected once more after the last round
        selections = select_banks(job, patches)
        job.record_time("coreset")
        is_single_part = job.existing_banks is None and len(patches.groups.unique()) == 1
        good, calibrated_numbers = _calibrate(job, patches, selections, is_single_part)
        job.record_time("calibration")
        if round_number > ROUNDS or job.task.calibration_pictures is not None:
            break
        suspects = _find_all_suspects(job, good, calibrated_numbers, patches, selections)
        all_suspects |= suspects
        if not job.task.drop_suspects or not suspects:
            break
        round_dropped = _pictures_of_parts(job, patches, suspects)
        dropped += round_dropped
        remaining_rows = [i for i, picture in enumerate(patches.pictures) if picture not in round_dropped]
        patches = patches.keep(remaining_rows)
        counts = job.task.pluralize(len(suspects), "suspicious")
        other_count = len(round_dropped) - len(suspects)
        if other_count > 0:
            counts += f" and {job.task.pluralize(other_count, 'other')} of their parts"
        job.task.say(f"round {round_number}: left out {counts}; selecting again")
    fitted = _make_result(job, good, calibrated_numbers, patches.pictures, selections)
    radii = [selection.result.radius for selection in selections]
    fitted.facts |= {"patches": patches.patch_count, "covering_radius": radii}
    if is_single_part:
        fitted.promised = False
        fitted.how = ONE_PART_METHOD
    fitted.dropped = sorted(dropped)
    fitted.suspects = all_suspects
    return fitted


def _find_all_suspects(
    job: FitJob,
    good: GoodValues,
    calibrated_numbers: Sequence[int],
    patches: Patches,
    selections: list[SelectedBank],
) -> dict[int, float]:
    """Return the scores of all suspicious pictures by number, highest first, also outside the calibration.

    Args:
        job: The fit.
        good: Leave-one-out values of the pictures for calibration.
        calibrated_numbers: Numbers of the pictures for calibration.
        patches: Patches of all pictures.
        selections: The selected bank of each branch.
    """
    suspects = _find_suspects(job, good, calibrated_numbers)
    calibrated_set = {*calibrated_numbers}
    other_rows = [i for i, number in enumerate(patches.pictures) if number not in calibrated_set]
    limit = _suspicion_limit(job, good, calibrated_numbers)
    suspects |= scores_above(limit, job.model, patches, selections, other_rows)
    return dict(sorted(suspects.items(), key=lambda item: -item[1]))


def _pictures_of_parts(job: FitJob, patches: Patches, suspects: Iterable[int]) -> list[int]:
    """Return all pictures of the parts that suspicious pictures show, because each may show the fault.

    Args:
        job: The fit.
        patches: Patches of all pictures.
        suspects: Numbers of the suspicious pictures.
    """
    groups = job.task.groups
    parts = {groups[picture] for picture in suspects}
    return [picture for picture in patches.pictures if groups[picture] in parts]


def _calibrate(
    job: FitJob, patches: Patches, selections: list[SelectedBank], is_single_part: bool
) -> tuple[GoodValues, list[int]]:
    """Calibrate in memory, and return the values and the numbers of the pictures for calibration.

    Args:
        job: The fit.
        patches: Patches of all pictures.
        selections: The selected bank of each branch.
        is_single_part: Whether all pictures show a single part.
    """
    if is_single_part:
        return calibrate_one_part(job, patches, selections), patches.pictures
    chosen_rows = _draw_calibration(job, patches.pictures)
    good = leave_one_out(job, patches, selections, chosen_rows)
    return good, [patches.pictures[row] for row in chosen_rows]


# -------------------------------------------------------------------------------------------------- streamed


def _fit_streamed(job: FitJob, plan: MemoryPlan) -> Fitted:
    """Select a coreset of every shard of pictures, then the bank as a coreset of their union.

    The covering radius is at most the largest radius of a shard plus the radius of the last selection. The
    union is twice as large as the bank for any number of shards. Therefore a further level of coresets would
    save nothing, and add its radius.
    """
    # `_draw_calibration` returns indices in the range of all pictures, which are the pictures' numbers
    drawn = {*_draw_calibration(job, range(job.task.count))[: plan.kept]}
    all_shards = (_select_shard(job, plan.shards, shard=k, drawn=drawn) for k in range(plan.shards))
    shards = [shard for shard in all_shards if shard is not None]
    used = [picture for shard in shards for picture in shard.pictures]
    _require_pictures(used)
    job.record_time("features")
    selections = []
    radii = []
    patch_counts = [sum(shard.patch_counts[v] for shard in shards) for v in range(len(job.branches))]
    for v, patch_count in enumerate(patch_counts):
        chosen = [shard.chosen[v] for shard in shards]
        union = torch.cat([elements for elements, _ in chosen])
        groups = torch.cat([element_groups for _, element_groups in chosen])
        selection = select_bank(job, v, union, groups, patches=patch_count, stage="coreset of coresets")
        selections.append(selection)
        radii.append(max(shard.radii[v] for shard in shards) + selection.result.radius)
    job.record_time("coreset")
    calibrated_numbers, good = _calibrate_streamed(job, used, selections, [shard.kept for shard in shards])
    job.record_time("calibration")
    radius_texts = ", ".join(f"{radius:.4g}" for radius in radii)
    job.task.say(Detail(f"covering radius at most {radius_texts} ({pluralize(plan.shards, 'shard')})"))
    fitted = _make_result(job, good, calibrated_numbers, used, selections)
    fitted.facts |= {"patches": sum(patch_counts), "covering_radius": radii}
    fitted.suspects = _find_suspects(job, good, calibrated_numbers)
    if len(calibrated_numbers) < len(used):
        fitted.notes.append(
            f"{len(calibrated_numbers)} of {len(used)} pictures were looked at for suspicious ones"
        )
    return fitted


@dataclass
class _ShardCoresets:
    """Coresets of a shard of the pictures, per branch.

    Attributes:
        pictures: Numbers of the shard's pictures.
        kept: All patches of the shard's pictures that were drawn for calibration.
        chosen: For each branch, the elements `[M, D]` of its coreset, and their groups `[M]`.
        radii: Covering radius of each branch.
        patch_counts: Number of patches of each branch from which the elements were selected.
    """

    pictures: list[int]
    kept: Patches
    chosen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)
    patch_counts: list[int] = field(default_factory=list)


def _select_shard(job: FitJob, shard_count: int, shard: int, drawn: Container[int]) -> _ShardCoresets | None:
    """Select the coresets of a shard, and keep the patches of the pictures for calibration.

    Args:
        job: The fit.
        shard_count: Into how many equal shards the pictures are split.
        shard: Number of this shard, from 0.
        drawn: Numbers of the pictures for calibration.

    Returns:
        The coresets; None where no picture of the shard is used.
    """
    count = job.task.count
    indices = range(shard * count // shard_count, (shard + 1) * count // shard_count)
    patches = collect_patches(job, indices, f"features {shard + 1}/{shard_count}")
    if not patches.pictures:
        return None
    # `pictures` has no copies, whose rows follow those of the pictures
    drawn_rows = [row for row, picture in enumerate(patches.pictures) if picture in drawn]
    coresets = _ShardCoresets(patches.pictures, patches.select(drawn_rows))
    image_count = count * (1 + len(job.orientations))
    for v, branch in enumerate(job.branches):
        points, groups = patches.points(v)
        final_size = bank_size(job.config, v, image_count * patches.features[v].shape[1])
        # a shard's share, rounded up: the union of all shards has twice the final size
        shard_size = -(-2 * final_size // shard_count)
        result = coreset.select(
            points,
            count=min(final_size, len(points), shard_size),
            progress=job.progress(f"{job.stage_name('coreset', branch)} {shard + 1}/{shard_count}"),
        )
        coresets.chosen.append((points[result.indices], groups[result.indices]))
        coresets.radii.append(result.radius)
        coresets.patch_counts.append(len(points))
        del points, groups, result
    del patches
    gc.collect()
    return coresets


def _calibrate_streamed(
    job: FitJob, used: list[int], selections: list[SelectedBank], kept: Sequence[Patches]
) -> tuple[list[int], GoodValues]:
    """Calibrate on drawn pictures (`_draw_calibration`).

    Args:
        job: The fit.
        used: Numbers of the pictures that the banks are selected from.
        selections: The selected bank of each branch.
        kept: For each shard, patches of those drawn pictures that are still in memory. The other drawn
            pictures are read again.

    Returns:
        Numbers of the drawn pictures, and their values. Pictures that can no longer be read are left out.
    """
    picture_by_number: dict[int, LeftOutPicture] = {}
    unknown_distances = [None] * len(selections)
    advance = ProgressCounter(job.task.step, "leave-one-out", sum(len(patches.numbers) for patches in kept))

    def leave_out(patches: Patches, i: int) -> None:
        number = patches.numbers[i]
        picture_by_number[number] = left_out_picture(job.model, patches, i, selections, unknown_distances)
        advance()

    with workers(job.device) as map_rows:
        for patches in kept:
            map_rows(partial(leave_out, patches), range(len(patches.numbers)))
    drawn = [used[i] for i in _draw_calibration(job, used)]
    unread = [number for number in drawn if number not in picture_by_number]
    group_by_picture = dict(zip(unread, job.groups_of(unread).tolist(), strict=True))

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        group = group_by_picture[number]
        picture_by_number[number] = score_left_out(job.model, selections, features, group, inside)

    if unread:
        embed_pictures(job.model, job.task.load, unread, store, job.task.step, stage="calibration")
    readable = [number for number in drawn if number in picture_by_number]
    return readable, calibrate(job, [picture_by_number[number] for number in readable])
