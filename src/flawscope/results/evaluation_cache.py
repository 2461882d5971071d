"""Evaluated pictures, kept for metrics and report: the first ones' maps in memory, the others' in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets import Item
from flawscope.errors import FlawscopeError
from flawscope.pictures.geometry import Geometry
from flawscope.results.prediction import Prediction, outcome

MEMORY = 512 << 20  # bytes of maps in memory; a thousand pictures at 360 pixels

T = TypeVar("T")


class Evaluated(NamedTuple):
    """One test picture: what it is, what was predicted, its ground truth [H, W] bool at the map's size (all
    False for a good picture, None where a defective one has no mask), and which pixels count, [H, W] bool
    (None: all)."""

    item: Item
    prediction: Prediction
    truth: NDArray[np.bool_] | None
    valid: NDArray[np.bool_] | None = None

    @property
    def outcome(self) -> str:
        """right, missed or false alarm."""
        return outcome(self.item.anomalous, self.prediction.is_anomalous)


class Column(Sequence[T], Generic[T]):
    """Something of every picture, made when it is asked for."""

    def __init__(self, get: Callable[[int], T], count: int):
        self._get, self._count = get, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        chosen = range(self._count)[place]
        return self._get(chosen) if isinstance(chosen, int) else [self._get(k) for k in chosen]


class Spool:
    """Arrays that are read back as they were: the first `MEMORY` bytes lie in memory, the others in a
    temporary file, which the system removes. Reading is safe from several threads."""

    def __init__(self) -> None:
        self._places: list[NDArray[Any] | tuple[int, tuple[int, ...], np.dtype[Any]]] = []
        self._bytes = self._end = 0
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the spool)
        self._lock = Lock()

    def append(self, array: NDArray[Any]) -> None:
        """FlawscopeError where the disk is full."""
        self._bytes += array.nbytes
        if self._bytes <= MEMORY:
            self._places.append(array)
            return
        try:
            with self._lock:
                self._file.seek(self._end)
                self._file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise FlawscopeError(
                f"cannot keep anomaly maps in {folder}: {error.strerror}; free some space, or set TMPDIR"
            ) from None
        self._places.append((self._end, array.shape, array.dtype))
        self._end += array.nbytes

    def __getitem__(self, index: int) -> NDArray[Any]:
        place = self._places[index]
        if isinstance(place, np.ndarray):
            return place
        start, shape, dtype = place
        array = np.empty(shape, dtype)
        with self._lock:
            self._file.seek(start)
            self._file.readinto(array.data.cast("B"))
        return array


class Kept:
    """Evaluated pictures, in order. `items` and `predictions` are at hand, the latter without maps.

    valid: [H, W] bool at the network's size for a geometry: the pixels that count.
    """

    def __init__(self, valid: Callable[[Geometry], NDArray[np.bool_]]) -> None:
        self.items: list[Item] = []
        self.predictions: list[Prediction] = []
        self._maps, self._truths = Spool(), Spool()
        self._without_mask: set[int] = set()
        self._valid = lru_cache(maxsize=16)(lambda geometry: _unless_all(valid(geometry)))

    def append(self, item: Item, prediction: Prediction, truth: NDArray[np.bool_] | None) -> None:
        if truth is None:
            self._without_mask.add(len(self.items))
        nothing = truth is None or not truth.any()  # such as of good pictures
        self._truths.append(np.empty(0, np.uint8) if truth is None or nothing else np.packbits(truth))
        self._maps.append(prediction.map)
        self.items.append(item)
        self.predictions.append(replace(prediction, map=np.empty((0, 0), np.float32)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def without_mask(self) -> int:
        """Defective pictures without a usable mask."""
        return len(self._without_mask)

    @property
    def pictures(self) -> Sequence[Evaluated]:
        return self._column(
            lambda i: Evaluated(self.items[i], self.whole(i), self._truth(i), self._valid_of(i))
        )

    @property
    def maps(self) -> Sequence[NDArray[np.float32]]:
        return self._column(self._maps.__getitem__)

    @property
    def truths(self) -> Sequence[NDArray[np.bool_] | None]:
        return self._column(self._truth)

    @property
    def valid(self) -> Sequence[NDArray[np.bool_] | None]:
        return self._column(self._valid_of)

    def whole(self, index: int) -> Prediction:
        """The prediction with its map."""
        return replace(self.predictions[index], map=self._maps[index])

    def _column(self, get: Callable[[int], T]) -> Column[T]:
        return Column(get, len(self))

    def _valid_of(self, index: int) -> NDArray[np.bool_] | None:
        return self._valid(self.predictions[index].geometry)

    def _truth(self, index: int) -> NDArray[np.bool_] | None:
        if index in self._without_mask:
            return None
        size, bits = self.predictions[index].geometry.size, self._truths[index]
        if not bits.size:
            return np.zeros(size, np.bool_)
        return np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(np.bool_)


def _unless_all(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return None if mask.all() else mask
