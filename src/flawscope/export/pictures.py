"""The pictures that an export reads: to compare on, to measure ranges on, to calibrate on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.artefact.samples import unpack_images
from flawscope.errors import InputError
from flawscope.pictures.decoding import Source, decode, reason
from flawscope.pictures.eight_bits import to_eight_bits
from flawscope.pictures.preprocess import Views, unmarked
from flawscope.synthesis import simulate_defect

COMPARED = 32  # pictures at most
RANGED = 100  # pictures that the ranges of 8-bit numbers are measured on


@dataclass(frozen=True)
class Pictures:
    """Good pictures for an export of this artefact: those that are given, or else its samples.

    failures: gets a line for every picture that cannot be read.
    """

    artefact: Artefact
    given: Sequence[Source] = ()
    failures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.given)

    def read(self) -> Iterator[tuple[NDArray[Any], Views]]:
        """All that are given: decoded, and as the network sees them."""
        return self._read(self.given, self.failures)

    def compared(self) -> NDArray[np.float32]:
        """Pictures to compare on, `[N, 3, H, W]`."""
        few = self.given[:: -(-len(self.given) // COMPARED) or 1]
        images = [views.images(_some(views, COMPARED // len(few))) for _, views in self._read(few)]
        if images:
            return np.concatenate(images)
        if self.given:
            raise InputError(f"none of the pictures can be read: {self.given[0]!s:.200}")
        return self.samples()

    def samples(self) -> NDArray[np.float32]:
        """The artefact's own, `[N, 3, H, W]`."""
        packed = self.artefact.tensors.get("samples")
        if packed is None or not len(packed):
            raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
        return unpack_images(packed)

    def for_ranges(self) -> Iterator[NDArray[np.float32]]:
        """Pictures `[1, 3, H, W]`, or a few tiles of each, to measure the ranges of 8-bit numbers on: good
        ones, each without and with a simulated defect. What is beyond a range is cut off, and one of good
        pictures alone ends where defects begin."""
        rng = np.random.default_rng(0)
        few = self.given[:: -(-len(self.given) // RANGED)]
        for _, views in self._read(few):
            for number in _some(views, RANGED // len(few)):
                image = views.images([number])
                yield image
                shown, inside = unmarked(image)
                pixels = to_eight_bits(shown[0].transpose(1, 2, 0), white=1.0)
                bad = simulate_defect(pixels, rng).picture.transpose(2, 0, 1)[None].astype(np.float32) / 255.0
                yield np.where(inside[:, None], bad, image)

    def _read(
        self, sources: Sequence[Source], failures: list[str] | None = None
    ) -> Iterator[tuple[NDArray[Any], Views]]:
        """They are read several times; what cannot be read is reported once."""
        for source in sources:
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else "a picture"
            try:
                picture = decode(source)
                views = self.artefact.manifest.preprocess.views(picture, name)
            except (InputError, MemoryError) as error:
                if failures is not None:
                    failures.append(reason(error, name))
                continue
            yield picture, views.within(self.artefact.tensors.get("region"))


def _some(views: Views, count: int) -> list[int]:
    """At least one of a picture's views, spread over it."""
    numbers = views.numbers()
    return numbers[:: -(-len(numbers) // max(1, count))]
