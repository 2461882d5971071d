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

WEIGHING_PICTURES = 24  # largest number of pictures by which differences are weighed
MIN_GAP = 1e-3  # smallest gap between the quantiles of the local map, in spreads of the teacher's outputs
MIN_QUANTILE_PICTURES = 5  # smallest number of pictures that are held out only for the quantiles
POST_TRAINING = ("quantiles", "sigma", "weighed")  # settings that training does not depend on


def fit(model: Model, task: Task) -> Fitted:
    """Train `model` on most good pictures, and calibrate it on the others, which are held out."""
    config = model.config
    run = TrainedFit("efficientad", model, task)
    other_pictures = natural_pictures(config.natural)
    penalties = []
    if other_pictures:
        penalties.append(other_pictures.name)
    if config.defects:
        penalties.append("simulated defects")
    penalty = " and ".join(penalties) or "none"
    parts = run.divide(more=MIN_QUANTILE_PICTURES).parts
    learnt_numbers = run.images.numbers
    unit_count = len({task.groups[i] for i in learnt_numbers}) + len(parts)
    held_out = split_held_out(parts, unit_count, task.rate, task.reserved)
    task.say(
        f"{task.pluralize(len(learnt_numbers))} to learn from, {len(held_out.all)} held out "
        f"({held_out.purpose}); penalty: {penalty}"
    )
    # the memory that the pictures leave, but at least half of all. With simulated defects no outputs are
    # kept, because the teacher's outputs differ in every step
    max_bytes = 0 if config.defects else run.max_bytes - min(run.max_bytes // 2, run.images.bytes)
    teacher_outputs = TeacherOutputs(model, run.images, learnt_numbers, max_bytes)
    teacher_outputs.measure(task.step)
    trainer = Trainer(model, run.images, teacher_outputs, other_pictures, task)

    def moments_of(numbers: Sequence[int]) -> Tensor:
        return difference_moments(model, (run.images[i] for i in numbers))

    def do_later_work(numbers: Sequence[int]) -> None:
        # only to measure the time: the moments of as many pictures as `numbers`, which are held out
        if config.weighed:
            moments_of(learnt_numbers[: len(numbers)])
        calibrate(run, model, HeldOutSplit(quantiles=[*numbers], threshold=[*numbers]))

    run.train(
        trainer,
        calibrate=do_later_work,
        later=POST_TRAINING,
        teacher=network_digest(model.teacher),
        penalty=penalty,
    )
    if config.weighed:
        stride = -(-len(learnt_numbers) // WEIGHING_PICTURES)  # rounded up
        whiten_outputs(model, moments_of(learnt_numbers[::stride]))
    description = f"{task.pluralize(len(learnt_numbers))}; penalty: {penalty}"
    fitted = run.finish(trainer, learnt=description, scored=calibrate(run, model, held_out))
    fitted.held = {"quantile": [i for i in held_out.quantiles if i not in held_out.threshold]}
    fitted.facts["penalty"] = penalty
    first_notes = []
    if held_out.shared:
        first_notes.append(SHARED.format(round(len(held_out.all) / task.views.per_picture)))
    if config.natural == GENERATED:
        first_notes.append(STAND_IN)
    fitted.notes[:0] = first_notes
    return fitted


STAND_IN = "no photographs were given for the penalty (--set natural=FOLDER): generated textures stood in"
SHARED = (
    "the maps' quantiles and the threshold come from the same {} held-out pictures: expect a little more "
    "false alarms than promised"
)


# ---------------------------------------------------------------------------------------------- holding out


@dataclass(frozen=True)
class HeldOutSplit:
    """Numbers of the pictures held out, in rising order. If they are few, all serve for both purposes.

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
        """Text that says for which purpose how many pictures serve."""
        if self.shared:
            return "for quantiles and threshold"
        return f"{len(self.quantiles)} for the quantiles, {len(self.threshold)} for the threshold"


def split_held_out(
    parts: list[list[int]], usable: int, rate: float, reserved: Collection[int]
) -> HeldOutSplit:
    """Divide the units held out: a fifth, but at least five, for the quantiles; the others for the threshold.

    If there are too few units, all of them serve for both purposes.

    Args:
        parts: Numbers of the pictures of each unit held out; units with reserved pictures come first.
        usable: Number of all units, those learnt from and those held out.
        rate: Target false-alarm rate.
        reserved: Numbers of the pictures that the data set sets apart.
    """
    quantile_count = max(MIN_QUANTILE_PICTURES, len(parts) // 5)
    has_reserved = not {*reserved}.isdisjoint(parts[0])  # units with reserved pictures come first
    if has_reserved:
        is_enough = len(parts) - quantile_count >= min_calibration_size(rate)
    else:
        is_enough = usable >= MIN_FOR_FULL_RATE
    everything = sorted(i for part in parts for i in part)
    if not is_enough or len(parts) < 2:
        return HeldOutSplit(everything, everything)
    min_threshold_count = min(min_calibration_size(rate), len(parts) - 1)
    threshold_count = max(min_threshold_count, len(parts) - quantile_count)
    threshold_numbers = sorted(i for part in parts[:threshold_count] for i in part)
    quantile_numbers = sorted(i for part in parts[threshold_count:] for i in part)
    if not quantile_numbers:
        return HeldOutSplit(everything, everything)
    return HeldOutSplit(quantiles=quantile_numbers, threshold=threshold_numbers)


# --------------------------------------------------------------------------------- quantiles and calibration


def calibrate(run: TrainedFit, model: Model, held: HeldOutSplit) -> dict[int, Values]:
    """Set the model's quantiles (section 3.4), and return the threshold pictures' values by number."""
    # by the picture's number: its features, and its pixels that count
    embedded: dict[int, tuple[Tensor, Tensor | None]] = {}

    def store(index: int, features: Tensor, inside: Tensor | None) -> None:
        embedded[index] = features, inside

    run.held.embed(model, held.all, store)
    for row in range(2):  # the local and the global map
        pixel_values = []
        for index in held.quantiles:
            features, inside = embedded[index]
            enlarged = model.enlarge(features[row], inside)
            pixel_values.append(enlarged[model.region(inside)].cpu().numpy())
        low, high = np.quantile(np.concatenate(pixel_values), model.config.quantiles).tolist()
        # `score` divides by the gap, which must be more than rounding errors. The local map may consist of
        # nothing else where the student started as the teacher, and has hardly changed
        may_be_rounding = row == 0 and model.config.start == "teacher"
        min_gap = MIN_GAP if may_be_rounding else 1e-6 * max(abs(low), 1e-6)
        model.quantiles[row] = torch.tensor([low, max(high, low + min_gap)])

    def measure(index: int) -> Values:
        features, inside = embedded[index]
        return measure_picture(model, features, inside)

    with workers(model.roi.device) as map_indices:
        values = map_indices(measure, held.threshold)
    return dict(zip(held.threshold, values, strict=True))


LARGEST_SHARE = 0.1  # share of a picture's outputs, those with the largest differences, for the moments
SPREAD_FLOOR = 0.1  # share of the mean variance that is added to the variance of every direction


def difference_moments(model: Model, images: Iterable[Tensor]) -> Tensor:
    """Return second moments `[2, C, C]` float64 of the largest local and global differences on pictures.

    Args:
        model: The trained model.
        images: Pictures `[3, H, W]` that were learnt from; those held out must stay unseen for the threshold.
    """
    moments = torch.zeros(2, model.channels, model.channels, dtype=torch.float64)
    for image in images:
        for second_moment, differences in zip(moments, _differences(model, image), strict=True):
            count = max(1, round(LARGEST_SHARE * len(differences)))
            largest = differences.square().sum(1).topk(count).indices
            large_differences = differences[largest].cpu().double()
            second_moment += large_differences.T @ large_differences
    return moments


def whiten_outputs(model: Model, moments: Tensor) -> None:
    """Rescale the networks' outputs in place: local and global differences are then in units of their spread.

    Args:
        model: The trained model.
        moments: Second moments of the differences (`difference_moments`).
    """
    local_moments, global_moments = moments
    device = model.mean.device
    local_matrix = _whitening_matrix(local_moments).to(device)
    global_matrix = _whitening_matrix(global_moments).to(device)
    with torch.no_grad():
        # the teacher's last layer also standardises its outputs, and `standardise` does nothing from now on
        _multiply_outputs(
            model.teacher[-1],
            matrix=local_matrix / model.std,
            shift=-local_matrix @ (model.mean / model.std),
        )
        _multiply_outputs(model.student[-1], torch.block_diag(local_matrix, global_matrix))
        _multiply_outputs(model.autoencoder.last[-1], global_matrix)
        model.mean.zero_()
        model.std.fill_(1)


def _differences(model: Model, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return local and global differences `[N, C]` of a picture `[3, H, W]`, at the outputs that count."""
    images = image[None].to(model.mean.device)
    valid_mask = model.valid_mask(model.inside(images)).view(model.grid)
    with torch.inference_mode():
        inputs = normalise(model.filled(images)).contiguous(memory_format=torch.channels_last)
        mirrored = mirror_border(inputs, model.config.border)
        student_outputs = model.student(mirrored)
        teacher_outputs = model.standardise(model.teacher(mirrored))
        local_map = teacher_outputs - student_outputs[:, : model.channels]
        global_map = model.autoencoder(inputs) - student_outputs[:, model.channels :]
    local_differences = local_map[0].permute(1, 2, 0)[valid_mask]
    global_differences = global_map[0].permute(1, 2, 0)[valid_mask]
    return local_differences, global_differences


def _whitening_matrix(moments: Tensor) -> Tensor:
    """Return the matrix `[C, C]` float32, of scale about 1, that whitens differences with these moments."""
    variances, directions = torch.linalg.eigh(moments)
    mean = variances.mean().clamp(min=torch.finfo(torch.float64).tiny)
    relative_variances = variances.clamp(min=0) / mean + SPREAD_FLOOR
    return (directions / relative_variances.sqrt()).T.float()


def _multiply_outputs(layer: nn.Module, matrix: Tensor, shift: Tensor | None = None) -> None:
    """Change a layer in place: multiply its outputs by a matrix `[K, C]`, then add `shift`, `[K]`."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    layer.weight.copy_(torch.einsum("kc,cihw->kihw", matrix, layer.weight))
    bias = matrix @ layer.bias
    layer.bias.copy_(bias if shift is None else bias + shift)
