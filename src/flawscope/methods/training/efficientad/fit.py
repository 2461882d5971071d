"""Fitting EfficientAD: holding out, training, quantiles, calibration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flawscope.calibration.holding_out import MIN_FOR_FULL_RATE, min_calibration_size
from flawscope.calibration.rows import Values
from flawscope.methods.good_pictures import measure_picture
from flawscope.methods.task import Fitted, Task
from flawscope.methods.threads import workers
from flawscope.methods.training.efficientad.model import Model, mirror_border
from flawscope.methods.training.efficientad.networks import normalise
from flawscope.methods.training.efficientad.record import GENERATED
from flawscope.methods.training.efficientad.trainer import Trainer
from flawscope.methods.training.efficientad.training_pictures import TeacherOutputs, natural_pictures
from flawscope.methods.training.fit import TrainedFit
from flawscope.methods.training.state import network_digest

WEIGHING_PICTURES = 24  # at most, by which differences are weighed
MIN_GAP = 1e-3  # between the quantiles of the local map, in spreads of the teacher's outputs
MIN_QUANTILE_PICTURES = 5  # if they are not the threshold's
POST_TRAINING = ("quantiles", "sigma", "weighed")  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on most good pictures, and calibrate it on the others, which are held out."""
    config = model.config
    run = TrainedFit("efficientad", model, task)
    other = natural_pictures(config.natural)
    unknown = ([other.name] if other else []) + (["simulated defects"] if config.defects else [])
    penalty = " and ".join(unknown) or "none"
    parts = run.divide(more=MIN_QUANTILE_PICTURES).parts
    learnt = run.images.numbers
    units = len({task.groups[i] for i in learnt}) + len(parts)
    held = split_held_out(parts, units, task.rate, task.reserved)
    task.say(
        f"{task.pluralize(len(learnt))} to learn from, {len(held.all)} held out ({held.purpose}); "
        f"penalty: {penalty}"
    )
    # the teacher's outputs on simulated defects cannot be kept
    room = 0 if config.defects else run.max_bytes - min(run.max_bytes // 2, run.images.bytes)
    taught = TeacherOutputs(model, run.images, learnt, room)
    taught.measure(task.step)
    trainer = Trainer(model, run.images, taught, other, task)

    def differ(numbers: Sequence[int]) -> Tensor:
        return difference_moments(model, (run.images[i] for i in numbers))

    def rehearse(some: Sequence[int]) -> None:
        if config.weighed:
            differ(learnt[: len(some)])
        calibrate(run, model, HeldOutSplit([*some], [*some]))

    run.train(trainer, rehearse, POST_TRAINING, teacher=network_digest(model.teacher), penalty=penalty)
    if config.weighed:
        whiten_outputs(model, differ(learnt[:: -(-len(learnt) // WEIGHING_PICTURES)]))
    said = f"{task.pluralize(len(learnt))}; penalty: {penalty}"
    fitted = run.finish(trainer, said, calibrate(run, model, held))
    fitted.held = {"quantile": [i for i in held.quantiles if i not in held.threshold]}
    fitted.facts["penalty"] = penalty
    shared = [SHARED.format(round(len(held.all) / task.views.per_picture))] if held.shared else []
    stand_in = [STAND_IN] if config.natural == GENERATED else []
    fitted.notes[:0] = shared + stand_in
    return fitted


STAND_IN = "no photographs were given for the penalty (--set natural=FOLDER): generated textures stood in"
SHARED = (
    "the maps' quantiles and the threshold come from the same {} held-out pictures: expect a little more "
    "false alarms than promised"
)


# ---------------------------------------------------------------------------------------------- holding out


@dataclass(frozen=True)
class HeldOutSplit:
    """Numbers of the pictures held out, in rising order; few pictures serve for both purposes.

    Attributes:
        quantiles: Numbers of the pictures for the quantiles of the maps.
        threshold: Numbers of the pictures for the threshold.
    """

    quantiles: list[int]
    threshold: list[int]

    @property
    def all(self) -> list[int]:
        """Numbers of all pictures held out, in rising order."""
        return sorted({*self.quantiles, *self.threshold})

    @property
    def shared(self) -> bool:
        """Whether the same pictures serve for both purposes."""
        return self.quantiles == self.threshold

    @property
    def purpose(self) -> str:
        """Purpose of the pictures in words, with their numbers."""
        if self.shared:
            return "for quantiles and threshold"
        return f"{len(self.quantiles)} for the quantiles, {len(self.threshold)} for the threshold"


def split_held_out(
    parts: list[list[int]], usable: int, rate: float, reserved: Collection[int]
) -> HeldOutSplit:
    """Divide the units held out: a fifth, at least five, for the quantiles, the rest for the threshold.

    Where units are too few, all serve for both.

    Args:
        parts: Numbers of the pictures of each unit held out.
        usable: Number of all units, with those that are learnt from.
        rate: Target false-alarm rate.
        reserved: Numbers of the pictures that the data set sets apart.
    """
    few = max(MIN_QUANTILE_PICTURES, len(parts) // 5)
    apart = not {*reserved}.isdisjoint(parts[0])
    enough = len(parts) - few >= min_calibration_size(rate) if apart else usable >= MIN_FOR_FULL_RATE
    everything = sorted(i for part in parts for i in part)
    if not enough or len(parts) < 2:
        return HeldOutSplit(everything, everything)
    needed = min(min_calibration_size(rate), len(parts) - 1)
    last = max(needed, len(parts) - few)
    for_threshold, for_quantiles = (
        sorted(i for part in some for i in part) for some in (parts[:last], parts[last:])
    )
    if not for_quantiles:
        return HeldOutSplit(everything, everything)
    return HeldOutSplit(for_quantiles, for_threshold)


# --------------------------------------------------------------------------------- quantiles and calibration


def calibrate(run: TrainedFit, model: Model, held: HeldOutSplit) -> dict[int, Values]:
    """Set the model's quantiles (3.4), and return the values of the threshold's pictures, by number."""
    found: dict[int, tuple[Tensor, Tensor | None]] = {}

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        found[index] = features, inside

    run.held.embed(model, held.all, store)
    for which in range(2):
        drawn = []
        for index in held.quantiles:
            features, inside = found[index]
            drawn.append(model.enlarge(features[which], inside)[model.region(inside)].cpu().numpy())
        low, high = np.quantile(np.concatenate(drawn), model.config.quantiles).tolist()
        # equal quantiles would divide by zero; a student that is still the teacher differs by rounding alone
        least = MIN_GAP if which == 0 and model.config.start == "teacher" else 1e-6 * max(abs(low), 1e-6)
        high = max(high, low + least)
        model.quantiles[which] = torch.tensor([low, high])
    with workers(model.roi.device) as each:
        values = each(lambda index: measure_picture(model, *found[index]), held.threshold)
    return dict(zip(held.threshold, values, strict=True))


LARGEST_SHARE = 0.1  # of a picture's outputs, those with the largest differences, that decide the moments
SPREAD_FLOOR = 0.1  # times the mean spread, added to that of every direction


def difference_moments(model: Model, images: Iterable[Tensor]) -> Tensor:
    """Return second moments `[2, C, C]` float64 of the largest local and global differences on pictures.

    Give pictures `[3, H, W]` that were learnt from: pictures held out must stay unseen for the threshold.
    """
    moments = torch.zeros(2, model.channels, model.channels, dtype=torch.float64)
    for image in images:
        for total, difference in zip(moments, _differences(model, image), strict=True):
            count = max(1, round(LARGEST_SHARE * len(difference)))
            large = difference[difference.square().sum(1).topk(count).indices].cpu().double()
            total += large.T @ large
    return moments


def whiten_outputs(model: Model, moments: Tensor) -> None:
    """Rescale the networks' outputs in place: both kinds of differences are then in units of their spread."""
    of_student, of_autoencoder = (_whitening_matrix(total).to(model.mean.device) for total in moments)
    with torch.no_grad():
        _multiply_outputs(model.teacher[-1], of_student / model.std, -of_student @ (model.mean / model.std))
        _multiply_outputs(model.student[-1], torch.block_diag(of_student, of_autoencoder))
        _multiply_outputs(model.autoencoder.last[-1], of_autoencoder)
        model.mean.zero_()
        model.std.fill_(1)


def _differences(model: Model, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return local and global differences `[N, C]` of the outputs that count."""
    image = image[None].to(model.mean.device)
    valid_mask = model.valid_mask(model.inside(image)).view(model.grid)
    with torch.inference_mode():
        seen = normalise(model.filled(image)).contiguous(memory_format=torch.channels_last)
        mirrored = mirror_border(seen, model.config.border)
        learnt = model.student(mirrored)
        taught = model.standardise(model.teacher(mirrored))
        local = taught - learnt[:, : model.channels]
        distant = model.autoencoder(seen) - learnt[:, model.channels :]
    return local[0].permute(1, 2, 0)[valid_mask], distant[0].permute(1, 2, 0)[valid_mask]


def _whitening_matrix(moments: Tensor) -> Tensor:
    """Return the whitening matrix `[C, C]` float32 of differences with these moments; scale about 1."""
    spread, directions = torch.linalg.eigh(moments)
    mean = spread.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return (directions / (spread.clamp(min=0) / mean + SPREAD_FLOOR).sqrt()).T.float()


def _multiply_outputs(layer: nn.Module, matrix: Tensor, more: Tensor | None = None) -> None:
    """Multiply a layer's outputs by a matrix `[K, C]` and add `more` `[K]`, in place."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    layer.weight.copy_(torch.einsum("kc,cihw->kihw", matrix, layer.weight))
    bias = matrix @ layer.bias
    layer.bias.copy_(bias if more is None else bias + more)
