"""How far the networks' answers to good pictures are apart, direction by direction.

Along some directions of the teacher's outputs the student is often wrong on good pictures, along most hardly
ever. A defect shows in any. So differences are measured in units of their spread: a matrix, found at the end
of the training, which is multiplied into the last layers, so that the networks stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flawscope.methods.efficientad.model import Model, bordered
from flawscope.methods.efficientad.networks import normalised

LARGEST = 0.1  # share of a picture's outputs, those with the largest differences, that the spread is of
EVEN = 0.1  # times the mean spread, added to that of every direction


def spread(model: Model, images: Iterable[Tensor]) -> Tensor:
    """[2, C, C] float64: the second moments of the largest local and global differences on pictures
    [3, H, W]. Give some that were learnt from: those held out must stay unseen, for the threshold's sake."""
    moments = torch.zeros(2, model.channels, model.channels, dtype=torch.float64)
    for image in images:
        for total, difference in zip(moments, _differences(model, image), strict=True):
            large = _largest(difference).cpu().double()
            total += large.T @ large
    return moments


def weigh(model: Model, moments: Tensor) -> None:
    """Measure both kinds of differences in units of their spread."""
    of_student, of_autoencoder = (_weights(total).to(model.mean.device) for total in moments)
    with torch.no_grad():
        _multiply(model.teacher[-1], of_student / model.std, -of_student @ (model.mean / model.std))
        _multiply(model.student[-1], torch.block_diag(of_student, of_autoencoder))
        _multiply(model.autoencoder.last[-1], of_autoencoder)
        model.mean.zero_()
        model.std.fill_(1)


def _differences(model: Model, image: Tensor) -> tuple[Tensor, Tensor]:
    """Local and global ones [N, C] of the outputs that count."""
    image = image[None].to(model.mean.device)
    inside = model.inside(image) if model.config.pads else None
    counted = model.counted(inside)
    counted = counted[0] if counted.ndim == 3 else counted
    with torch.inference_mode():
        seen = normalised(model.filled(image)).contiguous(memory_format=torch.channels_last)
        mirrored = bordered(seen, model.config.border)
        learnt, taught = model.student(mirrored), model.standardised(model.teacher(mirrored))
        local = taught - learnt[:, : model.channels]
        distant = model.autoencoder(seen) - learnt[:, model.channels :]
    return local[0].permute(1, 2, 0)[counted], distant[0].permute(1, 2, 0)[counted]


def _largest(differences: Tensor) -> Tensor:
    count = max(1, round(LARGEST * len(differences)))
    return differences[differences.square().sum(1).topk(count).indices]


def _weights(moments: Tensor) -> Tensor:
    """[C, C] float32: turns differences so that their directions have one spread, about 1 on average."""
    spread, directions = torch.linalg.eigh(moments)
    mean = spread.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return (directions / (spread.clamp(min=0) / mean + EVEN).sqrt()).T.float()


def _multiply(layer: nn.Module, matrix: Tensor, more: Tensor | None = None) -> None:
    """The layer's outputs times a matrix [K, C], and something added."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    layer.weight.copy_(torch.einsum("kc,cihw->kihw", matrix, layer.weight))
    bias = matrix @ layer.bias
    layer.bias.copy_(bias if more is None else bias + more)
