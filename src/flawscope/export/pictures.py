"""The pictures that an export reads: to compare on, to measure ranges on, to calibrate on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact, unpack_images
from flawscope.errors import InputError
from flawscope.pictures.decoding import Source, decode, name_of, pixel_hash, reason, to_eight_bits
from flawscope.pictures.views import Views, unmarked
from flawscope.synthesis import simulate_defect

COMPARED = 32  # views at most, of as many pictures as there can be
SPOILT = 8  # of them that are compared with a simulated defect, too
RANGED = 100  # views that the ranges of 8-bit numbers are measured on
PLACES = 4  # at which a sample is compared, where places are told apart
TURN = (5**0.5 - 1) / 2  # the golden section: its multiples fall evenly, however few there are


class Compared(NamedTuple):
    """Images `[N, 3, H, W]`, and for a model that tells places apart where in pictures they lie, `[N]`."""

    images: NDArray[np.float32]
    positions: NDArray[np.int64] | None = None

    def few(self, most: int) -> Compared:
        """At most so many, spread over them."""
        some = slice(None, None, -(-len(self.images) // most))
        return Compared(self.images[some], None if self.positions is None else self.positions[some])

    def spoilt(self) -> Compared:
        """Some of them, each with a simulated defect."""
        images, positions = self.few(SPOILT)
        rng = np.random.default_rng(0)
        return Compared(np.concatenate([_spoilt(image[None], rng) for image in images]), positions)


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

    def read(self) -> Iterator[tuple[str, Views]]:
        """All that are given, one at a time: the hash of its decoded pixels, and as the network sees it."""
        return self._read(self.given, self.failures)

    def compared(self) -> Compared:
        """Views to compare on."""
        failures: list[str] = []
        shown = [(views.images(numbers), numbers) for views, numbers in self._some(COMPARED, failures)]
        places = self.artefact.manifest.preprocess.positions
        if shown:
            where = np.array([number for _, numbers in shown for number in numbers], np.int64)
            return Compared(np.concatenate([images for images, _ in shown]), where if places else None)
        if failures:
            raise InputError(f"none of the pictures can be read; the first: {failures[0]}")
        samples = self.samples()
        if places is None:
            return Compared(samples)
        # samples are whole pictures, and engines must agree on any image at any place
        spread = np.linspace(0, math.prod(places), PLACES * len(samples)).astype(np.int64)
        return Compared(np.concatenate([samples] * PLACES), spread)

    def samples(self) -> NDArray[np.float32]:
        """The artefact's own, `[N, 3, H, W]`."""
        packed = self.artefact.tensors.get("samples")
        if packed is None or not len(packed):
            raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
        return unpack_images(packed)

    def for_ranges(self) -> Iterator[NDArray[np.float32]]:
        """Views `[1, 3, H, W]` to measure the ranges of 8-bit numbers on: of good pictures, each without and
        with a simulated defect. What is beyond a range is cut off, and one of good pictures alone ends where
        defects begin."""
        rng = np.random.default_rng(0)
        for views, numbers in self._some(RANGED):
            for number in numbers:
                image = views.images([number])
                yield image
                yield _spoilt(image, rng)

    def _some(self, most: int, failures: list[str] | None = None) -> Iterator[tuple[Views, list[int]]]:
        """At most so many views, of pictures spread over those that are given. With tiles it is the whole of
        each and at least one tile, in another place than the last picture's."""
        each = 1 if self.artefact.manifest.preprocess.tile is None else 2
        few = self.given[:: -(-len(self.given) // max(1, most // each)) or 1]
        for place, (_, views) in enumerate(self._read(few, failures)):
            first, *tiles = views.numbers()
            count = min(max(each, most // len(few)) - 1, len(tiles))
            turn = place * TURN % 1  # of a step from one tile to the next
            yield views, [first, *(tiles[int((k + turn) * len(tiles) / count)] for k in range(count))]

    def _read(
        self, sources: Sequence[Source], failures: list[str] | None = None
    ) -> Iterator[tuple[str, Views]]:
        """They are read several times; what cannot be read is reported once."""
        for source in sources:
            name = name_of(source)
            try:
                picture = decode(source)
                digest = pixel_hash(picture)
                views = self.artefact.manifest.preprocess.views(picture, name)
            except (InputError, MemoryError) as error:
                if failures is not None:
                    failures.append(reason(error, name))
                continue
            del picture  # a large one need not be held beside its tiles
            yield digest, views.within(self.artefact.tensors.get("region"))


def _spoilt(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A view `[1, 3, H, W]` with a simulated defect."""
    shown, inside = unmarked(image)
    pixels = to_eight_bits(shown[0].transpose(1, 2, 0), white=1.0)
    bad = simulate_defect(pixels, rng).picture.transpose(2, 0, 1)[None].astype(np.float32) / 255.0
    return np.where(inside[:, None], bad, image)
