"""Follow the pictures through a fit: `python docs/follow_pictures.py` fits generated
ones, and prints the packages that they enter, in order, and how often they return to one that they had left.

A call counts where it is given pictures in any form: paths, pixels, views, or what holds these. Each call of
one function by another counts once, when it first comes. A place is a package; `--files`: a file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

import flawscope
from flawscope.fitting import simulated_defects
from flawscope.synthesis.demo.dataset import draw_dataset

ROOT = Path(flawscope.__file__).parent
KINDS: dict[str, dict[str, Any]] = {  # of fits: their options
    "plain": {},
    "tiles": {"tile": 64, "roi": "0,0,0.9,1"},
    "aligned, in a range of light": {"align": "auto", "light": 0.1, "roi": "0,0,0.9,1"},
}
LEAST = 24  # pixels a side of what is taken for a picture
SAMPLES = ((), (1,), (3,), (4,))  # a pixel has
DEPTH = 3  # how deep pictures may lie in an argument


def holds_pictures(value: Any, depth: int = DEPTH) -> bool:
    """Whether a value is a picture, its file, or holds such."""
    if isinstance(value, Path):
        return value.suffix == ".png"
    if isinstance(value, Image.Image):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        if value.dtype in (np.bool_, torch.bool) or not 2 <= value.ndim <= 4:
            return False
        if value.ndim > 2 and value.shape[-3] == 3:
            return min(value.shape[-2:]) >= LEAST
        return isinstance(value, np.ndarray) and min(value.shape[:2]) >= LEAST and value.shape[2:] in SAMPLES
    if depth == 0:
        return False
    if isinstance(value, list | tuple):
        return any(holds_pictures(one, depth - 1) for one in value[:2])
    if type(value).__module__.startswith("flawscope"):
        return any(holds_pictures(one, depth - 1) for one in getattr(value, "__dict__", {}).values())
    return False


class Follower:
    """Notes the calls that are given pictures, by place and function. files: places are files."""

    def __init__(self, files: bool):
        self.files, self.calls = files, list[tuple[str, str]]()
        self._known: set[tuple[CodeType | None, CodeType]] = set()

    def place_of(self, frame: FrameType | None) -> str | None:
        """The place of the code that runs; None: it is not flawscope's."""
        if frame is None or not frame.f_code.co_filename.startswith(f"{ROOT}/"):
            return None
        path = Path(frame.f_code.co_filename).relative_to(ROOT)
        return path.as_posix() if self.files else path.parts[0].removesuffix(".py")

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (place := self.place_of(frame)) is None or "<" in frame.f_code.co_name:
            return
        caller = frame.f_back
        while caller is not None and self.place_of(caller) is None:
            caller = caller.f_back
        call = (None if caller is None else caller.f_code, frame.f_code)
        if call not in self._known and any(map(holds_pictures, list(frame.f_locals.values()))):
            self._known.add(call)
            self.calls.append((place, frame.f_code.co_qualname.removesuffix(".__init__")))

    def stays(self) -> list[tuple[str, str]]:
        """Each stay in a place, one after the other: the place, and the functions there."""
        places = groupby(self.calls, itemgetter(0))
        return [(place, ", ".join(name for _, name in calls)) for place, calls in places]

    def places(self) -> set[str]:
        return {place for place, _ in self.stays()}

    def returns(self) -> int:
        """Number of stays in a place that the pictures had left."""
        return len(self.stays()) - len(self.places())

    def report(self) -> str:
        """Lines on the stays, and what they come to."""
        lines = [f"  {number:3} {place:12} {names}" for number, (place, names) in enumerate(self.stays(), 1)]
        return "\n".join([*lines, f"{len(self.places())} places entered, {self.returns()} returns"])


def follow(folder: Path, kind: str, files: bool) -> Follower:
    """Follows the pictures of a data set through a fit of a kind. files: places are files."""
    follower = Follower(files)
    threading.setprofile(follower)
    sys.setprofile(follower)
    try:
        flawscope.fit(os.fspath(folder), size=64, cap=200, device="cpu", **KINDS[kind])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return follower


def draw_pictures(folder: Path) -> None:
    draw_dataset(folder, category="plate", train=12, good=2, bad_per_kind=1, size=96, seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="a place is a file")
    parser.add_argument(
        "--kinds", default=";".join(KINDS), help=f"of fits, separated by ; ({'; '.join(KINDS)})"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # calls come in one order
    simulated_defects.MIN_SECONDS = 60.0  # and are the same on a busy machine
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder))
        for kind in args.kinds.split(";"):
            print(f"{kind}\n{follow(Path(folder), kind, args.files).report()}")


if __name__ == "__main__":
    main()
