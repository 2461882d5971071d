"""Model of one product, as modules use it that stand below `Predictor`."""

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
    """Model of one product: its artefact, the session that runs it, and how it judges.

    `Predictor` is one, and describes the methods.
    """

    @property
    def artefact(self) -> Artefact: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def session(self) -> Session: ...

    def load(self, source: PictureSource | PictureOf) -> tuple[PictureSource, LoadResult]: ...

    def see(self, source: PictureSource, picture: PictureSource) -> Loaded: ...

    def judge(self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run) -> list[SourceResult]: ...

    def stream(
        self,
        pictures: Iterable[PictureSource] | PictureSource,
        batch: int | None = None,
        *,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[SourceResult]: ...

    def valid_mask(self, geometry: Geometry) -> NDArray[np.bool_]: ...
