"""Interface of a model of one product, for modules that stand below `Predictor`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.streaming import Loaded, LoadResult, PictureOf, SourceResult
from flawscope.runtime import Run, Session
from flawscope.views.geometry import Geometry


class ProductModel(Protocol):
    """Model of one product: its artefact, the session that runs it, and its judging. `Predictor` is one."""

    @property
    def artefact(self) -> Artefact:
        """Manifest and tensors, as the model file holds them."""

    @property
    def manifest(self) -> Manifest:
        """Facts and settings of the model."""

    @property
    def session(self) -> Session:
        """Engine with the model's network."""

    def load(self, source: PictureSource | PictureOf) -> tuple[PictureSource, LoadResult]:
        """Read a picture as the network sees it; return an `InputError` where it cannot be read."""

    def see(self, source: PictureSource, picture: PictureSource) -> Loaded:
        """Return the views and the appearance of `picture`; an InputError names `source`."""

    def judge(self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run) -> list[SourceResult]:
        """Judge pictures that are computed together by `run`."""

    def stream(
        self,
        pictures: Iterable[PictureSource] | PictureSource,
        batch: int | None = None,
        *,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[SourceResult]:
        """Yield every picture, in order, with its prediction or the reason why there is none."""

    def valid_mask(self, geometry: Geometry) -> NDArray[np.bool_]:
        """Mask [H, W] at the map's size: pixels of the picture, no border, in the region of interest."""
