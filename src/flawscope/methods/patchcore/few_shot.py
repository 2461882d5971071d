"""Few good pictures: whether turned and mirrored copies help, and calibration where all show one part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.patchcore.leave_one_out import (
    GoodValues,
    LeftOutPicture,
    SelectedBank,
    calibrate,
    valid_mask_of,
)
from flawscope.methods.patchcore.patches import FitJob, Patches, orient
from flawscope.methods.threads import workers

ONE_PART_METHOD = "compared with itself elsewhere"  # how one part alone is calibrated
FEW_PICTURES = 10  # pictures up to which `auto` tries copies
COMPARED_PATCHES = 1024  # patches of a left-out picture, at most
FARTHEST_PATCHES = 64  # of them, whose distances are compared
# From which share on copies are kept. Products whose parts always lie alike have 0 to 0.07, and copies do not
# change what is found there; where parts lie any way round it is 0.3 (docs/patchcore.md)
MIN_GAIN = 0.08
SURROUNDINGS = 1 / 8  # of a side: what is nearer to a patch in its own picture shows the same
BLOCK_ROWS = 512  # patches compared at once
# A way to turn a picture, 1 to 7: its bits mirror the rows, mirror the columns, and, first, swap both
ORIENTATIONS: dict[str, tuple[int, ...]] = {
    "none": (),
    "turn": (3, 5, 6),
    "mirror": (1, 2),
    "all": (1, 2, 3, 4, 5, 6, 7),
}


# ------------------------------------------------------------------------------------------------- copies


def choose_orientations(job: FitJob) -> tuple[int, ...]:
    """Ways in which pictures are turned and mirrored for the bank: those of the setting; with `auto` those of
    the model that is extended; or, of few pictures, every way, until `keep_helpful_copies` has decided, and
    none where parts are turned upright. Only ways that keep the sides' lengths and the region of interest;
    none where places are learnt apart.

    Raises:
        InputError: the setting names ways, and none is possible.
    """
    old, roi, augment = job.task.old, job.model.roi, job.config.augment
    if job.task.views.positions is not None:
        return ()
    if augment == "auto":
        few = job.task.count <= FEW_PICTURES if old is None else old.manifest.facts.get("augment") == "all"
        return possible_orientations("all" if few and not job.config.upright else "none", roi)
    found = possible_orientations(augment, roi)
    if not found and augment != "none":
        raise InputError(
            f"setting augment: {augment} is not possible: a copy does not fit the picture size or the region "
            "of interest; take a square --size, a symmetric --roi, or augment: none"
        )
    return found


def possible_orientations(augment: str, roi: Tensor) -> tuple[int, ...]:
    """The ways that leave a region of interest [H, W] bool as it is."""
    return tuple(way for way in ORIENTATIONS[augment] if torch.equal(orient(roi, way), roi))


def augment_name(job: FitJob) -> str:
    """Name of the setting that describes the copies in the bank."""
    if job.config.augment != "auto":
        return job.config.augment
    return "all" if job.orientations else "none"


def keep_helpful_copies(job: FitJob, patches: Patches) -> Patches:
    """Keep the copies only where they bring left-out pictures nearer, or where one part is all there is."""
    one_part = len(patches.groups.unique()) == 1
    if not one_part and (gain := distance_gain(patches)) < MIN_GAIN:
        job.orientations = ()
        return patches.keep_rows(range(len(patches.pictures)))
    why = ", which --augment none leaves out" if one_part else f": left-out pictures are {gain:.0%} nearer"
    job.task.say(f"turned and mirrored copies are in the bank too{why}")
    return patches


def distance_gain(patches: Patches) -> float:
    """Mean share by which copies reduce the farthest patches' distances, at the smallest size."""
    features, originals = patches.features[0], len(patches.pictures)
    gains = []

    def counting(i: int) -> Tensor:
        return features[i] if patches.valid_mask is None else features[i][patches.valid_mask[0][i]]

    def away(points: Tensor, rows: Iterable[int]) -> Tensor:
        return torch.stack([_nearest_distance(points, counting(j)) for j in rows if len(counting(j))]).amin(0)

    for i in range(originals):
        others = (patches.groups != patches.groups[i]).nonzero().flatten().tolist()
        own = counting(i)
        if not len(own):
            continue
        own = own[:: 1 + (len(own) - 1) // COMPARED_PATCHES]
        alone = away(own, (j for j in others if j < originals))
        far = alone.topk(min(FARTHEST_PATCHES, len(own))).indices
        copied = away(own[far], (j for j in others if j >= originals))
        after = torch.minimum(alone[far], copied)
        gains.append(1 - float(after.sum()) / max(float(alone[far].sum()), 1e-12))
    return sum(gains) / max(1, len(gains))


def _nearest_distance(points: Tensor, others: Tensor) -> Tensor:
    """Distances [N] from points [N, D] to the nearest of others [K, D]."""
    return torch.cat([torch.cdist(part, others).amin(1) for part in points.split(BLOCK_ROWS)])


# ------------------------------------------------------------------------------------------- one part alone


def calibrate_one_part(job: FitJob, patches: Patches, selections: Sequence[SelectedBank]) -> GoodValues:
    """Calibrate where all pictures show one part. Each patch is compared with all pictures but for its own
    surroundings, and is at least as far away as from the bank, so that no picture that was learnt from is
    anomalous."""
    count = len(patches.pictures)
    learnt = [patches.scatter_values(v, one.result.distances) for v, one in enumerate(selections)]

    def raw(i: int) -> LeftOutPicture:
        inside, found = patches.pixel_mask(i), []
        for view, own, known in zip(job.views, patches.features, learnt, strict=True):
            region = view.inside.bool()
            away = distances_elsewhere([own[j] for j in range(count)], view.grid, region, i)
            away[region] = torch.maximum(away[region], known[i])
            away = away * valid_mask_of(view, inside)
            # without Eq. 7's weight, which is at most 1: its neighbours would be of the patch itself
            found.append((away.amax(), away))
        return LeftOutPicture(found, inside)

    with workers(job.device) as each:
        return calibrate(job, each(raw, range(count)))


def distances_elsewhere(
    features: Sequence[Tensor], grid: tuple[int, int], region: Tensor, picture: int
) -> Tensor:
    """Distances [P] from each patch of one picture to the nearest of all pictures, but for those around it; 0
    outside the region, and where there is no other patch.

    Args:
        features: of every picture [K, D], of the patches in the region.
        grid: patches in a column and in a row.
        region: [P] bool.
        picture: number of the picture.
    """
    places = region.nonzero().flatten()
    at = torch.stack([places // grid[1], places % grid[1]], 1)
    reach = torch.tensor([side * SURROUNDINGS for side in grid], device=at.device)
    found = []
    for rows in torch.arange(len(at), device=at.device).split(BLOCK_ROWS):
        own = torch.cdist(features[picture][rows], features[picture])
        around = ((at[rows, None] - at).abs() <= reach).all(2)
        near = own.masked_fill(around, torch.inf).amin(1)
        for other, points in enumerate(features):
            if other != picture:
                near = torch.minimum(near, torch.cdist(features[picture][rows], points).amin(1))
        found.append(near)
    whole = torch.zeros(len(region), device=at.device)
    whole[region] = torch.cat(found).nan_to_num(posinf=0.0)
    return whole
