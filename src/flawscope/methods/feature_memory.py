"""Memory of features that fits share: a search tries the same settings on more and more pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from torch import Tensor

from flawscope.methods.detector import Detector

MAX_BYTES = 2**29  # bytes of features that a memory keeps
Features = tuple[Tensor, Tensor | None]  # features of an image, and its pixels that count (`StoreFeatures`)


class FeatureMemory:
    """Memory of the features of images on a CPU, each under the name of the settings that computed it.

    Once it holds `MAX_BYTES`, it takes no more.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = 0
        self._features = dict[
            str, dict[bytes, Features]
        ]()  # by the name of the settings, and the image's key
        self._name = ""

    @contextmanager
    def used_for(self, name: str) -> Iterator[None]:
        """Let fits in this context use the features kept under a name, and keep their own under this name."""
        self._name = name
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def drop(self, *, keep: Collection[str]) -> None:
        """Forget all features except those under the names `keep`."""
        self._features = {name: by_key for name, by_key in self._features.items() if name in keep}
        self._bytes = sum(
            _byte_count(features) for by_key in self._features.values() for features in by_key.values()
        )

    def find(self, key: bytes) -> Features | None:
        """Return the features under the current name and a key (`key_of`); None: they are not kept."""
        return self._features.get(self._name, {}).get(key)

    def keep(self, key: bytes, image_features: Features) -> None:
        """Keep a copy of features under the current name and a key (`key_of`), while there is room."""
        byte_count = _byte_count(image_features)
        with self._lock:
            if self._bytes + byte_count > MAX_BYTES:
                return
            self._bytes += byte_count
            features, inside = image_features
            copy = features.clone(), None if inside is None else inside.clone()
            self._features.setdefault(self._name, {})[key] = copy


_current = ContextVar[FeatureMemory | None]("features", default=None)


def current() -> FeatureMemory | None:
    """Return the memory that fits in this context use; None: there is none."""
    return _current.get()


def key_of(model: Detector, image: Tensor) -> bytes:
    """Return a digest of an image `[3, H, W]` on a CPU, a model's settings and its region of interest."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for tensor in (model.roi, image):
        digest.update(tensor.contiguous().numpy().data)
    return digest.digest()


def _byte_count(image_features: Features) -> int:
    return sum(tensor.nbytes for tensor in image_features if tensor is not None)
