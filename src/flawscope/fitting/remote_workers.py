"""Work on parts of a fit in other processes: their findings about the pictures come back with the result.

A part is worked on as if it were the only one. That gets one thing wrong, which is found here: a picture
whose pixels an earlier part has too. The part is then worked on once more, told of them. So the result is
that of one process that takes the parts one after the other.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flawscope.fitting.training_pictures import Reader
from flawscope.pictures.appearance import Measures
from flawscope.progress import Advance, Step

T = TypeVar("T")
R = TypeVar("R")


class Pool(Protocol):
    """Processes that work on calls.

    count: how many at once. memory: bytes that each may take; None: not known.
    """

    count: int
    memory: int | None

    def map(
        self, work: Callable[..., Any], held: bytes, parts: Sequence[Any], peak: int | None = None
    ) -> Iterator[Any]:
        """Call `work(held, part)` for every part, all at once, and give the answers in order. peak: bytes
        that a part takes at most."""


@dataclass(frozen=True)
class Notes:
    """The findings of one part about its pictures, by their number, as `Reader` has them."""

    hashes: dict[int, str]
    measured: dict[int, Measures]
    failures: dict[int, str]
    copies: list[int]


class RemoteWorkers:
    """`Task.workers` of a pool."""

    def __init__(self, pool: Pool, reader: Reader, step: Step):
        self.pool, self.reader, self.step = pool, reader, step
        self.count, self.memory = pool.count, pool.memory
        self.first: dict[str, int] = {}  # the first picture with these pixels

    def __call__(
        self, work: Callable[[T], R], parts: Sequence[T], stage: str, peak: int | None = None
    ) -> Iterator[R]:
        held = pickle.dumps((self.reader, work))
        advance = Advance(self.step, stage, len(parts))
        answers = self.pool.map(_work_on, held, [(part, ()) for part in parts], peak)
        for part, (found, notes) in zip(parts, answers, strict=True):
            if known := self._of_others(notes):
                found, notes = next(self.pool.map(_work_on, held, [(part, known)], peak))
            self._take(notes)
            advance()
            yield found

    def _of_others(self, notes: Notes) -> list[str]:
        """Pixels that other pictures had first, if this part has taken one of them for the first."""
        firsts = notes.hashes.keys() - {*notes.copies}
        if all(self.first.get(notes.hashes[index], index) == index for index in firsts):
            return []
        return [digest for digest, index in self.first.items() if index not in notes.hashes]

    def _take(self, notes: Notes) -> None:
        reader = self.reader
        reader.hashes |= notes.hashes
        reader.measured |= notes.measured
        reader.failures |= notes.failures
        reader.copies += [index for index in notes.copies if index not in reader.copies]
        for index in notes.hashes.keys() - {*notes.copies}:
            self.first.setdefault(notes.hashes[index], index)
            reader.known.add(notes.hashes[index])


def _work_on(held: bytes, part: tuple[Any, Sequence[str]]) -> tuple[Any, Notes]:
    """In a process of the pool. part: and pixels that earlier parts have."""
    reader, work = pickle.loads(held)
    reader.hashes, reader.measured, reader.failures, reader.copies = {}, {}, {}, []
    reader.known |= {*part[1]}
    found = work(part[0])
    return found, Notes(reader.hashes, reader.measured, reader.failures, reader.copies)
