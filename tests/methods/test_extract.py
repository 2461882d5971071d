import threading

import pytest
import torch
from torch import nn

from flawscope.methods.detector import PREFETCH, embed_pictures, process_blocks


class Rows(nn.Module):
    """Embeds a picture as its rows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("roi", torch.ones(2, 2, dtype=torch.bool))

    def embed(self, images):
        return images[:, 0]

    def inside(self, images):
        return None


def test_an_error_while_loading_comes_through():
    def broken(i):
        raise OSError("camera unplugged")

    embed_pictures(Rows(), lambda i: torch.zeros(3, 2, 2), range(4), lambda *_: None)  # its threads stay
    running = threading.active_count()
    with pytest.raises(OSError, match="camera unplugged"):
        embed_pictures(Rows(), broken, range(100), lambda *_: None)
    assert threading.active_count() == running


def test_for_a_device_threads_load_a_few_blocks_ahead_and_keep_the_order():
    loaded = []
    taken = []

    def load(item):
        loaded.append(item)
        return str(item)

    def work(block, words):
        assert len(loaded) <= 2 * (len(taken) + 1 + PREFETCH)
        return words

    process_blocks(range(39), 2, load, work, lambda block, words: taken.append(words), torch.device("meta"))
    assert [word for words in taken for word in words] == [str(i) for i in range(39)]
    assert sorted(loaded) == list(range(39))
