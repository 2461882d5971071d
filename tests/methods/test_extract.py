from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from flawscope.methods.extract import embed_pictures, prefetch


class Rows(nn.Module):
    """Embeds a picture as its rows, and remembers which batches it was given."""

    def __init__(self):
        super().__init__()
        self.register_buffer("roi", torch.ones(2, 2, dtype=torch.bool))
        self.batches: list[int] = []

    def embed(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images[:, 0]

    def inside(self, images: Tensor) -> None:
        return None


def picture(i: int) -> Tensor | None:
    return None if i % 5 == 4 else torch.full((3, 2, 2), float(i))


def test_an_error_while_loading_comes_through():
    def broken(i: int) -> Tensor:
        raise OSError("camera unplugged")

    embed_pictures(Rows(), picture, range(4), lambda *_: None)  # its threads stay
    running = threading.active_count()
    with pytest.raises(OSError, match="camera unplugged"):
        embed_pictures(Rows(), broken, range(100), lambda *_: None)
    assert threading.active_count() == running


def test_prefetch_keeps_the_order_and_stays_a_few_batches_ahead():
    loaded: list[int] = []

    def load(batch):
        loaded.extend(batch)
        return [picture(i) for i in batch]

    batches = [[2 * k, 2 * k + 1] for k in range(20)]
    for position, (batch, images) in enumerate(prefetch(batches, load, ahead=3)):
        assert batch == batches[position]
        assert [None if im is None else int(im[0, 0, 0]) for im in images] == [
            None if i % 5 == 4 else i for i in batch
        ]
        assert len(loaded) <= 2 * (position + 4)
    assert sorted(loaded) == list(range(40))
