"""Parts of a fit that other processes work on: what they learn about the pictures comes back with the result.

A part is worked on as if it were the only one. What that gets wrong is found here: a picture whose pixels an
earlier part has too. The part is then worked on once more, told of them. So the result is that of one process
that takes the parts one after the other.
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

    def keep(self, data: bytes) -> Any:
        """Have every process know some data; gives what stands for them."""

    def submit(self, work: Callable[..., Any], held: Any, *values: Any, peak: int | None) -> Any:
        """Have `work(data, *values)` done, where `held` stands for the data. peak: bytes that it takes at
        most. Gives what stands for the answer."""

    def answers(self, asked: Sequence[Any], done: Callable[[], None]) -> Iterator[Any]:
        """The answers in order; `done` is called for each as it is there."""


@dataclass(frozen=True)
class Notes:
    """What one part has found out about pictures, by their number, as `Reader` has it."""

    hashes: dict[int, str]
    measured: dict[int, Measures]
    failures: dict[int, str]
    copies: list[int]


class Elsewhere:
    """`Task.workers` of a pool."""

    def __init__(self, pool: Pool, reader: Reader, step: Step):
        self.pool, self.reader, self.step = pool, reader, step
        self.count, self.memory = pool.count, pool.memory
        self.first: dict[str, int] = {}  # the first picture with these pixels

    def __call__(
        self, work: Callable[[T], R], parts: Sequence[T], stage: str, peak: int | None = None
    ) -> Iterator[R]:
        held = self.pool.keep(pickle.dumps((self.reader, work)))
        asked = [self.pool.submit(_part, held, part, (), peak=peak) for part in parts]
        advance = Advance(self.step, stage, len(parts))
        for part, (found, notes) in zip(parts, self.pool.answers(asked, advance), strict=True):
            if known := self._of_others(notes):
                again = [self.pool.submit(_part, held, part, known, peak=peak)]
                found, notes = next(iter(self.pool.answers(again, _nothing)))
            self._take(notes)
            yield found

    def _of_others(self, notes: Notes) -> list[str]:
        """Pixels that other pictures had first, if this part has taken one of them for the first."""
        copies = {*notes.copies}
        if not any(
            self.first.get(digest, index) != index
            for index, digest in notes.hashes.items()
            if index not in copies
        ):
            return []
        return [digest for digest, index in self.first.items() if index not in notes.hashes]

    def _take(self, notes: Notes) -> None:
        reader, copies = self.reader, {*notes.copies}
        reader.hashes |= notes.hashes
        reader.measured |= notes.measured
        reader.failures |= notes.failures
        reader.copies += [index for index in notes.copies if index not in reader.copies]
        for index, digest in notes.hashes.items():
            if index not in copies:
                self.first.setdefault(digest, index)
                reader.known.add(digest)


def _part(held: bytes, part: Any, known: Sequence[str]) -> tuple[Any, Notes]:
    """In a pool's process."""
    reader, work = pickle.loads(held)
    reader.hashes, reader.measured, reader.failures, reader.copies = {}, {}, {}, []
    reader.known |= {*known}
    found = work(part)
    return found, Notes(reader.hashes, reader.measured, reader.failures, reader.copies)


def _nothing() -> None:
    """The part was counted before."""
