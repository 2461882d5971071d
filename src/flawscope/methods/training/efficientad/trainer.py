"""Training the student and the autoencoder (Batzner, Heckler and König, EfficientAD, 3.2, 3.3 and A.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.calibration.streams import Stream
from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.task import Task
from flawscope.methods.training import state, trainer
from flawscope.methods.training.efficientad.model import Model, mirror_border
from flawscope.methods.training.efficientad.networks import count_outputs, normalise
from flawscope.methods.training.efficientad.record import FIRST_LAYERS, PAPER_STEPS, RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.efficientad.training_pictures import (
    DefectOutputs,
    DefectSimulator,
    GeneratedPictures,
    NaturalPictures,
    TeacherOutputs,
    outputs_seeing,
    recolour,
)
from flawscope.methods.training.pictures import unmark

CellIndex = Tensor | tuple[Tensor, ...]  # [B, h, w] bool, or the numbers of its true elements


@dataclass
class Batch:
    """Training data of a step."""

    images: Tensor  # [B, 3, H, W] float32 in 0..1
    recoloured: Tensor  # the same, without defects, in other colours
    # [B, C, n, m] fp16: the teacher's outputs on the windows, not standardised; None: not known
    targets: Tensor | None
    natural: Tensor | None  # [B, 3, h, w] uint8: pictures of other things, of the window's size
    cells: list[tuple[int, int]]  # where each window begins, in outputs
    valid_mask: Tensor | None  # [B, n, m] bool: the outputs that count; None: all of them
    defect_outputs: DefectOutputs | None = (
        None  # outputs [B, n, m] that see simulated defects; None: there are none
    )


class Trainer(trainer.Trainer[Batch]):
    """Trainer of the student and the autoencoder together."""

    NETWORKS = ("student", "autoencoder")
    LOSSES = ("hard", "penalty", "autoencoder", "student_autoencoder")
    CPU_STEPS = 6000
    GPU_STEPS = PAPER_STEPS

    def __init__(
        self,
        model: Model,
        images: GoodPictures,
        taught: TeacherOutputs,
        other: GeneratedPictures | NaturalPictures | None,
        task: Task,
    ):
        self.model = model
        self.images = images
        self.teacher_outputs = taught
        self.natural = other
        self.config = model.config
        self.training = taught.learnt
        most = max(model.grid) if self.config.window is None else count_outputs(self.config.window)
        self.window = min(most, model.grid[0]), min(most, model.grid[1])  # cells
        height, width = (RECEPTIVE_FIELD + STRIDE * (n - 1) for n in self.window)
        self.window_pixels = height, width
        self.defect_simulator = None
        if self.config.defects:
            region = model.roi.cpu().numpy()
            tiled = self.config.tile is not None
            self.defect_simulator = DefectSimulator(images, self.training, region, self.config.defects, tiled)
        super().__init__(
            (model.student, model.autoencoder), model.config, model.mean.device, task.say, task.step
        )
        self.initialise(Stream.EFFICIENTAD_WEIGHTS)
        if self.config.start == "teacher":
            self._start_from_teacher()

    def _start_from_teacher(self) -> None:
        """Copy the teacher's weights into the student. The first layers, which cost most, do not learn."""
        model = self.model
        student = self.model.student
        last = _last_layer(student)
        taught = _last_layer(model.teacher)
        assert last.bias is not None
        assert taught.bias is not None
        with torch.no_grad():
            for mine, known in zip(student[:-1].parameters(), model.teacher[:-1].parameters(), strict=True):
                mine.copy_(known)
            last.weight[: model.channels] = taught.weight / model.std.view(-1, 1, 1, 1)
            last.bias[: model.channels] = (taught.bias - model.mean) / model.std
        student[:FIRST_LAYERS].requires_grad_(False)

    # ---- a step

    def batch(self, step: int) -> Batch:
        """Make the batch of a step. Every picture comes once, in random order, before any comes again."""
        rng = self.rng(Stream.EFFICIENTAD_STEP, step)
        count = len(self.training)
        images = []
        changed = []
        taught = []
        other = []
        cells = []
        valid_mask = []
        spoilt = []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            place = self.drawn(Stream.EFFICIENTAD_ORDER, number, count)
            index = self.training[place]
            image = unmark(self.images[index])
            mask = self.teacher_outputs.valid_mask(place)
            shown = image
            places = mask
            if self.defect_simulator is not None:
                shown, defects = self.defect_simulator(index, rng)
                found = outputs_seeing(defects, self.config.border)
                places = found.within if mask is None else found.within & mask
                places = places if places.any() else mask
            y, x = self._draw_window(places, rng)
            window = (slice(y, y + self.window[0]), slice(x, x + self.window[1]))
            if self.defect_simulator is None:
                taught.append(self.teacher_outputs[place][0][:, *window])
            else:
                spoilt.append((found.anywhere[window], found.within[window]))
            changed.append(recolour(image, int(rng.integers(3)), float(rng.uniform(0.8, 1.2))))
            images.append(shown)
            cells.append((y, x))
            if mask is not None:
                valid_mask.append(mask[window])
            if self.natural is not None:
                other.append(torch.from_numpy(self.natural.draw(self.window_pixels, rng)).permute(2, 0, 1))
        defects_of_batch = None
        if spoilt:
            anywhere = torch.stack([picture for picture, _ in spoilt])
            within = torch.stack([where for _, where in spoilt])
            defects_of_batch = DefectOutputs(anywhere, within)
        return Batch(
            torch.stack(images),
            torch.stack(changed),
            _stack_any(taught),
            _stack_any(other),
            cells,
            _stack_any(valid_mask),
            defects_of_batch,
        )

    def _draw_window(self, valid_mask: Tensor | None, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first cell (row, column) of a random window in which some cell counts."""
        ys, xs = (_window_starts(n, m) for n, m in zip(self.model.grid, self.window, strict=True))
        if valid_mask is None:
            return ys[int(rng.integers(len(ys)))], xs[int(rng.integers(len(xs)))]
        height, width = self.window
        places = [(y, x) for y in ys for x in xs if valid_mask[y : y + height, x : x + width].any()]
        return places[int(rng.integers(len(places)))]

    def _cut_windows(self, images: Tensor, cells: list[tuple[int, int]]) -> Tensor:
        """Cut from pictures `[B, 3, H, W]` the windows `[B, 3, h, w]` that the PDNs see."""
        seen = mirror_border(images, self.config.border)
        height, width = self.window_pixels
        parts = [
            image[:, STRIDE * y : STRIDE * y + height, STRIDE * x : STRIDE * x + width]
            for image, (y, x) in zip(seen, cells, strict=True)
        ]
        return torch.stack(parts)

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """Return L_hard, the penalty, L_AE and L_STAE (3.2 and 3.3)."""
        student = cast(nn.Sequential, networks[0])
        autoencoder = networks[1]
        count = len(batch.images)
        images = normalise(state.upload(batch.images, self.device))
        changed = normalise(state.upload(batch.recoloured, self.device))
        windows, changed_windows = (self._cut_windows(part, batch.cells) for part in (images, changed))
        seen = [windows]
        if batch.natural is not None:
            seen.append(normalise(state.upload(batch.natural, self.device).float() / 255))
        together = torch.cat([*seen, changed_windows]).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            first, second, taught, changed_taught = self._forward(student, together, batch)
            rebuilt = self._reconstruct(autoencoder, changed, step)
        valid_mask = self._cell_index(batch.valid_mask)
        learnt = first[:count]
        if batch.defect_outputs is None:
            squares = _select((taught - learnt).square(), valid_mask)
            hard = _hard_loss(squares, self.config.hard)
            penalty = learnt.new_zeros(())
        else:
            hard, penalty = self._student_losses(learnt, taught, batch.valid_mask, batch.defect_outputs)
        if batch.natural is not None:
            penalty = penalty + first[count:].square().mean()
        height, width = self.window
        rebuilt = torch.stack(
            [
                image[:, y : y + height, x : x + width]
                for image, (y, x) in zip(rebuilt, batch.cells, strict=True)
            ]
        ).float()
        goals = _select(rebuilt, valid_mask)
        of_autoencoder = F.mse_loss(goals, _select(changed_taught, valid_mask))
        # its gradient reaches the autoencoder too, as published
        of_student = F.mse_loss(_select(second, valid_mask), goals)
        return [hard, penalty, of_autoencoder, of_student]

    def _forward(
        self, student: nn.Sequential, windows: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the outputs of the student and of the teacher on windows.

        Args:
            student: The student.
            windows: Windows of `batch.images`, of pictures of other things, and of `batch.recoloured`.
            batch: The batch.

        Returns:
            Outputs of the student's first half on all windows except the recoloured ones; of its second half
            on the recoloured windows; of the teacher on the windows of `batch.images`; and of the teacher on
            the recoloured windows.
        """
        channels = self.model.channels
        count = len(batch.images)
        teacher = self.model.teacher
        same = FIRST_LAYERS if self.config.start == "teacher" else 0
        with torch.no_grad():
            begun = teacher[:same](windows)
            known = batch.targets
            asked = begun[-count:] if known is not None else torch.cat([begun[:count], begun[-count:]])
            answers = teacher[same:](asked).float()
        if known is not None:
            answers = torch.cat([state.upload(known, self.device).float(), answers])
        taught = self.model.standardise(answers)
        # the last layer's two halves see different windows
        last = _last_layer(student)
        described = student[same:-1](begun)
        assert last.bias is not None
        first = F.conv2d(described[:-count], last.weight[:channels], last.bias[:channels])
        second = F.conv2d(described[-count:], last.weight[channels:], last.bias[channels:])
        return first.float(), second.float(), taught[:count], taught[count:]

    def _student_losses(
        self, learnt: Tensor, taught: Tensor, valid_mask: Tensor | None, spoilt: DefectOutputs
    ) -> tuple[Tensor, Tensor]:
        """Return the hard-feature loss where there are no defects, and the penalty where there are."""
        squares = (taught - learnt).square()
        none = learnt.new_zeros(())
        good, bad = ~spoilt.anywhere, spoilt.within  # on the CPU: `any` waits for no GPU
        if valid_mask is not None:
            good, bad = good & valid_mask, bad & valid_mask
        hard = _hard_loss(_select(squares, self._cell_index(good)), self.config.hard) if good.any() else none
        return hard, _select(learnt, self._cell_index(bad)).square().mean() if bad.any() else none

    def _cell_index(self, valid_mask: Tensor | None) -> CellIndex | None:
        """Return an index of the cells that count, for `_select`.

        A GPU gets their indices: with a mask the CPU would wait until the GPU has counted its elements.
        """
        if valid_mask is None or self.device.type != "cuda":
            return None if valid_mask is None else valid_mask.to(self.device)
        return tuple(state.upload(part, self.device) for part in valid_mask.nonzero(as_tuple=True))

    def _reconstruct(self, autoencoder: nn.Module, images: Tensor, step: int) -> Tensor:
        """Return the outputs of the autoencoder; its dropout depends on the step alone."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.torch_seed(Stream.EFFICIENTAD_DROPOUT, step))
            rebuilt: Tensor = autoencoder(images.contiguous(memory_format=torch.channels_last))
        return rebuilt


def _stack_any(tensors: Sequence[Tensor]) -> Tensor | None:
    """Stack the tensors of a batch; None where it has none."""
    return torch.stack(list(tensors)) if tensors else None


def _window_starts(cells: int, window: int) -> list[int]:
    """Return the first cells of the fewest windows that cover all cells: with more, outer cells are rarer."""
    count = -(-cells // window)
    if count == 1:
        return [0]
    return [round(k * (cells - window) / (count - 1)) for k in range(count)]


def _last_layer(network: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, cast(nn.Sequential, network)[-1])


def _select(values: Tensor, valid_mask: CellIndex | None) -> Tensor:
    """Return the values `[N, C]` of `[B, C, h, w]` where they count."""
    return values if valid_mask is None else values.permute(0, 2, 3, 1)[valid_mask]


def _hard_loss(squares: Tensor, share: float) -> Tensor:
    """Return L_hard (3.2): the mean of the values at or above their `share`-quantile.

    `torch.quantile` takes too few values for this.
    """
    values = squares.flatten()
    count = values.numel() - math.ceil(share * (values.numel() - 1))
    return values.topk(max(1, count), sorted=False).values.mean()
