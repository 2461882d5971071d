"""Features that fits share: a search tries the same settings on some pictures, on more, and on all."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from torch import Tensor

from flawscope.methods.detector import Detector

MAX_BYTES = 2**29  # of features that are kept
Features = tuple[Tensor, Tensor | None]  # of an image, and its pixels that count (`StoreFeatures`)


class FeatureMemory:
    """Memory of the features of images on a CPU, each under the name of the settings that computed it.

    Once it holds `MAX_BYTES`, it takes no more.
    """

    def __init__(self) -> None:
        self._size, self._lock = 0, Lock()
        self._known = dict[str, dict[bytes, Features]]()
        self._name = ""

    @contextmanager
    def used_for(self, name: str) -> Iterator[None]:
        """Let fits in this context use the features that are kept under a name, and keep more."""
        self._name, token = name, _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def drop(self, *, keep: Collection[str]) -> None:
        """Forget the features under other names than these."""
        self._known = {name: kept for name, kept in self._known.items() if name in keep}
        self._size = sum(_size(feature) for kept in self._known.values() for feature in kept.values())

    def find(self, key: bytes) -> Features | None:
        """Return the features under the current name and a key (`key_of`); None: they are not kept."""
        return self._known.get(self._name, {}).get(key)

    def keep(self, key: bytes, found: Features) -> None:
        """Keep a copy of features under the current name and a key (`key_of`), while there is room."""
        with self._lock:
            if self._size + _size(found) <= MAX_BYTES:
                self._size += _size(found)
                features, inside = found
                copy = features.clone(), None if inside is None else inside.clone()
                self._known.setdefault(self._name, {})[key] = copy


_current = ContextVar[FeatureMemory | None]("features", default=None)


def current() -> FeatureMemory | None:
    """Return the memory that fits in this context use; None: there is none."""
    return _current.get()


def key_of(model: Detector, image: Tensor) -> bytes:
    """Return a digest of an image `[3, H, W]` on a CPU, the model's settings and its region of interest."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for tensor in (model.roi, image):
        digest.update(tensor.contiguous().numpy().data)
    return digest.digest()


def _size(found: Features) -> int:
    return sum(tensor.nbytes for tensor in found if tensor is not None)
