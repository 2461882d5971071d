"""Training the student and the autoencoder (Batzner, Heckler and König, EfficientAD, 3.2, 3.3 and A.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

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
from flawscope.methods.training.efficientad.presets import PAPER_STEPS
from flawscope.methods.training.efficientad.record import FIRST_LAYERS, RECEPTIVE_FIELD, STRIDE
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
    """Training data of a step: B pictures with a window each.

    Attributes:
        images: The pictures, `[B, 3, H, W]` float32 in 0..1; with simulated defects if there are any.
        recoloured: The pictures without defects in other colours, `[B, 3, H, W]`.
        targets: The teacher's outputs on the windows, `[B, C, n, m]` fp16, not standardised; None: they must
            be computed.
        natural: Pictures of other things at the window's size, `[B, 3, h, w]` uint8; None: none.
        cells: First output (row, column) of each window.
        valid_mask: The outputs of the windows that count, `[B, n, m]` bool; None: all of them.
        defect_outputs: The outputs `[B, n, m]` that see simulated defects; None: there are no defects.
    """

    images: Tensor
    recoloured: Tensor
    targets: Tensor | None
    natural: Tensor | None
    cells: list[tuple[int, int]]
    valid_mask: Tensor | None
    defect_outputs: DefectOutputs | None = None


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
        teacher_outputs: TeacherOutputs,
        natural: GeneratedPictures | NaturalPictures | None,
        task: Task,
    ):
        self.model = model
        self.images = images
        self.teacher_outputs = teacher_outputs
        self.natural = natural
        self.config = model.config
        self.training = teacher_outputs.learnt
        max_cells = max(model.grid) if self.config.window is None else count_outputs(self.config.window)
        self.window = min(max_cells, model.grid[0]), min(max_cells, model.grid[1])  # (height, width) in cells
        height, width = (RECEPTIVE_FIELD + STRIDE * (cells - 1) for cells in self.window)
        self.window_pixels = height, width
        self.defect_simulator = None
        if self.config.defects:
            region = model.roi.cpu().numpy()
            tiled = self.config.tile is not None
            self.defect_simulator = DefectSimulator(
                images, self.training, region, count=self.config.defects, tiled=tiled
            )
        super().__init__(
            (model.student, model.autoencoder), model.config, model.mean.device, task.say, task.step
        )
        self.initialise(Stream.EFFICIENTAD_WEIGHTS)
        if self.config.start == "teacher":
            self._start_from_teacher()

    def _start_from_teacher(self) -> None:
        """Copy the teacher's weights into the student, and exclude the student's first layers from learning.

        The first half of the student's outputs then equals the teacher's standardised outputs. The first
        layers are excluded because they take most of the time.
        """
        model = self.model
        student = self.model.student
        student_last = _last_layer(student)
        teacher_last = _last_layer(model.teacher)
        assert student_last.bias is not None
        assert teacher_last.bias is not None
        pairs = zip(student[:-1].parameters(), model.teacher[:-1].parameters(), strict=True)
        with torch.no_grad():
            for student_parameter, teacher_parameter in pairs:
                student_parameter.copy_(teacher_parameter)
            student_last.weight[: model.channels] = teacher_last.weight / model.std.view(-1, 1, 1, 1)
            student_last.bias[: model.channels] = (teacher_last.bias - model.mean) / model.std
        student[:FIRST_LAYERS].requires_grad_(False)

    # ---- a step

    def batch(self, step: int) -> Batch:
        """Make the batch of a step. Every picture comes once, in random order, before any comes again."""
        rng = self.rng(Stream.EFFICIENTAD_STEP, step)
        count = len(self.training)
        images = []
        recoloured = []
        targets = []
        natural = []
        cells = []
        valid_masks = []
        anywhere_masks = []
        within_masks = []
        first_number = step * self.config.batch  # the pictures of all steps are counted through
        for number in range(first_number, first_number + self.config.batch):
            place = self.drawn(Stream.EFFICIENTAD_ORDER, number, count)
            index = self.training[place]
            good_image = unmark(self.images[index])
            mask = self.teacher_outputs.valid_mask(place)
            image = good_image
            wanted_cells = mask  # outputs of which the window must hold one
            if self.defect_simulator is not None:
                image, defects = self.defect_simulator(index, rng)
                seeing = outputs_seeing(defects, self.config.border)
                counted = seeing.within if mask is None else seeing.within & mask
                if counted.any():
                    wanted_cells = counted
            y, x = self._draw_window(wanted_cells, rng)
            window = (slice(y, y + self.window[0]), slice(x, x + self.window[1]))
            if self.defect_simulator is None:
                (teacher_outputs,) = self.teacher_outputs[place]
                targets.append(teacher_outputs[:, *window])
            else:
                anywhere_masks.append(seeing.anywhere[window])
                within_masks.append(seeing.within[window])
            kind = int(rng.integers(3))  # brightness, contrast or saturation
            recoloured.append(recolour(good_image, kind, float(rng.uniform(0.8, 1.2))))
            images.append(image)
            cells.append((y, x))
            if mask is not None:
                valid_masks.append(mask[window])
            if self.natural is not None:
                pixels = self.natural.draw(self.window_pixels, rng)
                natural.append(torch.from_numpy(pixels).permute(2, 0, 1))
        defect_outputs = None
        if anywhere_masks:
            defect_outputs = DefectOutputs(torch.stack(anywhere_masks), torch.stack(within_masks))
        return Batch(
            images=torch.stack(images),
            recoloured=torch.stack(recoloured),
            targets=_stack_any(targets),
            natural=_stack_any(natural),
            cells=cells,
            valid_mask=_stack_any(valid_masks),
            defect_outputs=defect_outputs,
        )

    def _draw_window(self, wanted_cells: Tensor | None, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first cell (row, column) of a random window.

        Args:
            wanted_cells: Cells `[h, w]` bool of which the window must hold one; None: any window.
            rng: Random numbers.
        """
        height, width = self.window
        grid_height, grid_width = self.model.grid
        ys = _window_starts(grid_height, height)
        xs = _window_starts(grid_width, width)
        if wanted_cells is None:
            return ys[int(rng.integers(len(ys)))], xs[int(rng.integers(len(xs)))]
        starts = [(y, x) for y in ys for x in xs if wanted_cells[y : y + height, x : x + width].any()]
        return starts[int(rng.integers(len(starts)))]

    def _cut_windows(self, images: Tensor, cells: list[tuple[int, int]]) -> Tensor:
        """Cut the windows `[B, 3, h, w]` that the PDNs see.

        Args:
            images: The pictures, `[B, 3, H, W]`.
            cells: First cell (row, column) of each picture's window.
        """
        mirrored = mirror_border(images, self.config.border)
        height, width = self.window_pixels
        windows = []
        for image, (y, x) in zip(mirrored, cells, strict=True):
            top = STRIDE * y
            left = STRIDE * x
            windows.append(image[:, top : top + height, left : left + width])
        return torch.stack(windows)

    def losses(self, networks: Sequence[nn.Module], batch: Batch, step: int) -> list[Tensor]:
        """Return the losses of the paper (sections 3.2 and 3.3): L_hard, the penalty, L_AE and L_STAE."""
        student = cast(nn.Sequential, networks[0])
        autoencoder = networks[1]
        count = len(batch.images)
        images = normalise(state.upload(batch.images, self.device))
        recoloured = normalise(state.upload(batch.recoloured, self.device))
        windows = [self._cut_windows(images, batch.cells)]
        recoloured_windows = self._cut_windows(recoloured, batch.cells)
        if batch.natural is not None:
            windows.append(normalise(state.upload(batch.natural, self.device).float() / 255))
        all_windows = torch.cat([*windows, recoloured_windows]).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            outputs = self._forward(student, all_windows, batch)
            rebuilt = self._reconstruct(autoencoder, recoloured, step)
        valid_cells = self._cell_index(batch.valid_mask)
        student_outputs = outputs.first_half[:count]  # on the product's pictures
        if batch.defect_outputs is None:
            squares = _select((outputs.teacher - student_outputs).square(), valid_cells)
            hard_loss = _hard_loss(squares, self.config.hard)
            penalty = student_outputs.new_zeros(())
        else:
            hard_loss, penalty = self._student_losses(
                student_outputs, outputs.teacher, batch.valid_mask, batch.defect_outputs
            )
        if batch.natural is not None:
            penalty = penalty + outputs.first_half[count:].square().mean()
        height, width = self.window
        rebuilt_windows = torch.stack(
            [
                image[:, y : y + height, x : x + width]
                for image, (y, x) in zip(rebuilt, batch.cells, strict=True)
            ]
        ).float()
        predictions = _select(rebuilt_windows, valid_cells)
        autoencoder_loss = F.mse_loss(predictions, _select(outputs.recoloured_teacher, valid_cells))
        # the gradient of this loss reaches the autoencoder, too, as published
        student_autoencoder_loss = F.mse_loss(_select(outputs.second_half, valid_cells), predictions)
        return [hard_loss, penalty, autoencoder_loss, student_autoencoder_loss]

    def _forward(self, student: nn.Sequential, windows: Tensor, batch: Batch) -> _Outputs:
        """Compute the outputs of the student and of the teacher on windows.

        Args:
            student: The student.
            windows: Windows of `batch.images`, of pictures of other things, and of `batch.recoloured`, in
                this order.
            batch: The batch.
        """
        channels = self.model.channels
        count = len(batch.images)  # number of the first windows, and of the last, recoloured ones
        teacher = self.model.teacher
        shared_layers = FIRST_LAYERS if self.config.start == "teacher" else 0
        with torch.no_grad():
            shared_maps = teacher[:shared_layers](windows)
            if batch.targets is None:
                maps = torch.cat([shared_maps[:count], shared_maps[-count:]])
                teacher_outputs = teacher[shared_layers:](maps).float()
            else:
                recoloured_outputs = teacher[shared_layers:](shared_maps[-count:]).float()
                targets = state.upload(batch.targets, self.device).float()
                teacher_outputs = torch.cat([targets, recoloured_outputs])
        standardised = self.model.standardise(teacher_outputs)
        # the second half of the student's last layer gets the recoloured windows, the first half all others
        last_layer = _last_layer(student)
        student_maps = student[shared_layers:-1](shared_maps)
        assert last_layer.bias is not None
        first_half = F.conv2d(student_maps[:-count], last_layer.weight[:channels], last_layer.bias[:channels])
        second_half = F.conv2d(
            student_maps[-count:], last_layer.weight[channels:], last_layer.bias[channels:]
        )
        return _Outputs(
            first_half=first_half.float(),
            second_half=second_half.float(),
            teacher=standardised[:count],
            recoloured_teacher=standardised[count:],
        )

    def _student_losses(
        self,
        student_outputs: Tensor,
        teacher_outputs: Tensor,
        valid_mask: Tensor | None,
        defect_outputs: DefectOutputs,
    ) -> tuple[Tensor, Tensor]:
        """Return L_hard of outputs that see no defect, and the penalty of those centred on a defect.

        Args:
            student_outputs: The student's outputs, `[B, C, n, m]`.
            teacher_outputs: The teacher's standardised outputs, `[B, C, n, m]`.
            valid_mask: The outputs that count, `[B, n, m]` bool; None: all of them.
            defect_outputs: The outputs that see defects.
        """
        squares = (teacher_outputs - student_outputs).square()
        # masks on the CPU: `any` waits for no GPU
        is_good = ~defect_outputs.anywhere
        is_defective = defect_outputs.within
        if valid_mask is not None:
            is_good = is_good & valid_mask
            is_defective = is_defective & valid_mask
        hard_loss = student_outputs.new_zeros(())
        penalty = student_outputs.new_zeros(())
        if is_good.any():
            hard_loss = _hard_loss(_select(squares, self._cell_index(is_good)), self.config.hard)
        if is_defective.any():
            penalty = _select(student_outputs, self._cell_index(is_defective)).square().mean()
        return hard_loss, penalty

    def _cell_index(self, valid_mask: Tensor | None) -> CellIndex | None:
        """Return an index of the cells that count, for `_select`; None: all cells count.

        On a GPU it consists of indices: a mask would make the CPU wait until the GPU has counted its cells.
        """
        if valid_mask is None:
            return None
        if self.device.type != "cuda":
            return valid_mask.to(self.device)
        return tuple(state.upload(indices, self.device) for indices in valid_mask.nonzero(as_tuple=True))

    def _reconstruct(self, autoencoder: nn.Module, images: Tensor, step: int) -> Tensor:
        """Return the outputs of the autoencoder; its dropout depends only on the step."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.torch_seed(Stream.EFFICIENTAD_DROPOUT, step))
            rebuilt: Tensor = autoencoder(images.contiguous(memory_format=torch.channels_last))
        return rebuilt


class _Outputs(NamedTuple):
    """Outputs of student and teacher on the windows of a batch.

    Attributes:
        first_half: The student's first half, on the windows of the pictures and of pictures of other things.
        second_half: The student's second half, on the recoloured windows.
        teacher: The teacher, standardised, on the windows of the pictures.
        recoloured_teacher: The teacher, standardised, on the recoloured windows.
    """

    first_half: Tensor
    second_half: Tensor
    teacher: Tensor
    recoloured_teacher: Tensor


def _stack_any(tensors: Sequence[Tensor]) -> Tensor | None:
    """Stack tensors; return None if there are none."""
    return torch.stack(list(tensors)) if tensors else None


def _window_starts(cells: int, window: int) -> list[int]:
    """Cover all cells of an axis with the fewest windows, and return each window's first cell.

    With more windows, outer cells would be learnt less often.
    """
    count = -(-cells // window)  # rounded up
    if count == 1:
        return [0]
    # evenly spaced, from the first cell to the last place where a window fits
    return [round(k * (cells - window) / (count - 1)) for k in range(count)]


def _last_layer(network: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, cast(nn.Sequential, network)[-1])


def _select(values: Tensor, valid_mask: CellIndex | None) -> Tensor:
    """Return the values of `[B, C, h, w]` that count, as `[N, C]`; unchanged where all count."""
    return values if valid_mask is None else values.permute(0, 2, 3, 1)[valid_mask]


def _hard_loss(squares: Tensor, share: float) -> Tensor:
    """Return L_hard (3.2): the mean of the values at or above their `share`-quantile.

    `torch.quantile` takes too few values for this.
    """
    values = squares.flatten()
    # number of values at or above the quantile
    count = values.numel() - math.ceil(share * (values.numel() - 1))
    return values.topk(max(1, count), sorted=False).values.mean()
