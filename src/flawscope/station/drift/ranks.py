"""Ranks among many earlier numbers, one number after another."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort

BLOCK = 1024  # numbers in a block when it is split


class Ranks:
    """A sorted multiset of floats in blocks, 8 bytes each: some microseconds for a number, also among
    hundreds of thousands."""

    def __init__(self) -> None:
        self._blocks: list[array[float]] = []
        self._highest: list[float] = []  # of each block
        self._lengths: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, number: float) -> tuple[int, int]:
        """Put in a number that is not NaN; how many of all, itself among them, are greater, and how many are
        equal."""
        if not self._blocks:
            self._blocks, self._highest, self._lengths = [array("d", [number])], [number], [1]
            self._count = 1
            return 0, 1
        first = bisect_left(self._highest, number)  # the first block that can hold one as large
        place = min(first, len(self._blocks) - 1)
        block = self._blocks[place]
        before = sum(self._lengths[:place])
        low, high = bisect_left(block, number), bisect_right(block, number)
        less, not_more = before + low, before + high
        follows = place + 1  # equal numbers may go on in the next blocks
        while high == self._lengths[follows - 1] and follows < len(self._blocks):
            high = bisect_right(self._blocks[follows], number)
            if not high:
                break
            not_more += high
            follows += 1
        insort(block, number)
        self._highest[place] = block[-1]
        self._lengths[place] += 1
        self._count += 1
        if self._lengths[place] > BLOCK:
            self._split(place)
        return self._count - 1 - not_more, not_more - less + 1

    def _split(self, place: int) -> None:
        block = self._blocks[place]
        half = len(block) // 2
        self._blocks[place : place + 1] = [block[:half], block[half:]]
        self._highest[place : place + 1] = [block[half - 1], block[-1]]
        self._lengths[place : place + 1] = [half, len(block) - half]
