"""Frames of a camera that freezes in eight ways, for tests of cameras and of senders."""

from typing import Any

import numpy as np
from av import VideoFrame

WAYS = [  # each with its first frame that is a repeat; None: none is seen, as the documentation says
    *(("same", 11), ("two", 12), ("three", 13), ("its file", 74), ("black", 11)),
    *(("replayed", None), ("clock", None), ("half", None)),
]


def frame_of(array: np.ndarray[Any, Any], kind: str) -> VideoFrame:
    if kind == "gray16le":  # FFmpeg's conversion to it leaves rows of so small frames unwritten, now and then
        return VideoFrame.from_ndarray(array.astype(np.uint16).sum(-1, dtype=np.uint16), format=kind)
    return VideoFrame.from_ndarray(array, format="rgb24").reformat(format=kind)


def shown(way: str, number: int) -> VideoFrame:
    """A frame of a camera that froze after its tenth, in one of eight ways."""
    rng = np.random.default_rng(min(number, 9))  # noise: no two exposures are equal
    frozen, new = rng.integers(0, 200, (8, 8, 3)), np.random.default_rng(number).integers(0, 200, (8, 8, 3))
    turns = {"same": 1, "two": 2, "three": 3, "its file": 64, "replayed": 65}.get(way)
    if turns and number >= 10:
        frozen = np.random.default_rng(10 + (number - 10) % turns).integers(0, 200, (8, 8, 3))
    elif way == "clock" and number >= 10:
        frozen[0, :, 0] = number % 256, number // 256, 1, 2, 3, 4, 5, 6
    elif way == "half" and number >= 10:
        frozen[4:] = new[4:]
    elif way == "black" and number >= 10:
        frozen[:] = 0
    return frame_of(frozen.astype(np.uint8), "rgb24")
