"""Fitting PaDiM: a Gaussian at every position, and calibration by leaving each picture out."""

import torch
from torch import Tensor

from flawscope.calibration.rows import Values
from flawscope.errors import InputError
from flawscope.methods.detector import embed_pictures
from flawscope.methods.task import Fitted, Task
from flawscope.methods.threads import workers
from flawscope_padim.model import Model, without

BLOCK = 64  # positions worked on at once
LEAST = 3  # pictures of a Gaussian: without one of them, a covariance must be left


def fit(model: Model, task: Task) -> Fitted:
    found: dict[int, tuple[Tensor, Tensor]] = {}  # features, and the pixels that count

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        found[index] = features, model.region(inside)

    embed_pictures(model, task.load, range(task.count), store, task.step)
    used = task.settle(sorted(found))
    groups = torch.tensor([task.groups[i] for i in used])
    if (parts := len(groups.unique())) < LEAST:
        raise InputError(f"padim needs good pictures of at least {LEAST} parts: give more")
    features, inside = (torch.stack([found[i][k] for i in used]) for k in (0, 1))
    scores, maps = model.drawn(gaussians(model, features, model.valid_mask(inside), groups), inside)
    values = [
        Values(float(score), float(score), float(drawn[region].median()))  # a score is its map's maximum
        for score, drawn, region in zip(scores, maps, inside, strict=True)
    ]
    how = f"leave-one-{'picture' if parts == len(used) else 'group'}-out"
    return Fitted(dict(zip(used, values, strict=True)), used, how, extra={"groups": groups.int()})


def gaussians(model: Model, features: Tensor, valid_mask: Tensor, groups: Tensor) -> Tensor:
    """Fill the model with the Gaussians of features [N, P, d] where they are `counted` [N, P], 1 or 0 (3.2).
    Returns every picture's distances [N, P] to the Gaussians without its group."""
    members = [(groups == g).nonzero()[:, 0] for g in groups.unique()]

    def block(start: int) -> Tensor:
        part = slice(start, start + BLOCK)
        mask = valid_mask[:, part]
        number = mask.sum(0)[:, None]  # n, [p, 1]
        values = features[:, part].double() * mask[..., None]
        mean = values.sum(0) / number.clamp(min=1)
        away = (values - mean) * mask[..., None]
        scatter = away.permute(1, 2, 0) @ away.permute(1, 0, 2)
        spread, vectors = torch.linalg.eigh(scatter / (number[..., None] - 1).clamp(min=1))
        scale = (spread.clamp(min=0) + model.config.ridge).rsqrt() * (number >= LEAST)
        gaussian = scale[..., None] * vectors.mT, number[:, 0]
        model.mean[part], model.whitening[part], model.count[part] = mean, *gaussian
        found = torch.zeros(mask.shape, device=mask.device)
        for rows in members:
            found[rows] = without(away[rows], mask[rows], *gaussian, model.config.ridge)
        return found

    with workers(features.device) as each:
        return torch.cat(each(block, range(0, features.shape[1], BLOCK)), 1)
