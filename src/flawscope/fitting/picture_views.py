"""Splits pictures into views that a method learns from like pictures of their own. Views of a picture are
held out or left out together, and results for views become results for pictures again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration import LEAST
from flawscope.fitting.training_pictures import Reader
from flawscope.methods.task import Fitted, Task
from flawscope.pictures.part_views import PartViews
from flawscope.pictures.views import Views

KEPT = 512 << 20  # bytes of pictures that stay decoded


@dataclass
class _Held:
    """Picture that is being decoded, or has been."""

    lock: Lock = field(default_factory=Lock)
    views: Views | None = None
    read: bool = False

    @property
    def bytes(self) -> int:
        if isinstance(self.views, PartViews):
            return self.views.every.nbytes
        return 0 if self.views is None or self.views.canvas is None else self.views.canvas.nbytes


class PictureViews:
    """Numbers the views of all pictures, those of a picture one after the other.

    views_of: number of each picture's views as it is judged.
    """

    def __init__(self, reader: Reader, counts: Sequence[int], views_of: Sequence[int]):
        """
        Args:
            counts: of each picture's views.
        """
        self.reader, self.views_of = reader, list(views_of)
        self.first: list[int] = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._kept: dict[int, bool] = {}  # pictures that were asked about: whether they are no copies
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def __len__(self) -> int:
        return int(self.first[-1])

    def judged(self) -> int:
        """Number of views, about, that calibration scores where a tenth of the pictures is held out."""
        held = max(LEAST, len(self.views_of) // 10)
        return round(held * sum(self.views_of) / max(1, len(self.views_of)))

    # ---- as a method sees them

    def picture(self, number: int) -> int:
        """Number of the picture that a view belongs to."""
        return int(np.searchsorted(self.first, number, side="right")) - 1

    def numbers(self, picture: int) -> range:
        return range(self.first[picture], self.first[picture + 1])

    def load(self, number: int) -> Tensor | None:
        """Loads a view, [3, H, W] float32 in 0..1; None where its picture cannot be read."""
        picture = self.picture(number)
        if (views := self.views(picture)) is None:
            return None
        return self.reader.shown(self.image(views, picture, number - self.first[picture]))

    def image(self, views: Views, picture: int, view: int) -> NDArray[np.float32]:
        """View of a picture, [3, H, W] float32 in 0..1, which may be written to."""
        image: NDArray[np.float32] = views.images([view])[0]
        return image

    def views(self, picture: int) -> Views | None:
        """Views of a picture; those of the last few pictures stay decoded."""
        with self._lock:
            held = self._held.setdefault(picture, _Held())
            self._held.move_to_end(picture)
        with held.lock:
            if not held.read:
                held.views, held.read = self.reader.views(picture), True
        with self._lock:
            room = KEPT
            for k, one in reversed(list(self._held.items())):
                room -= one.bytes
                if room < 0 and one is not held:
                    del self._held[k]
        return held.views

    def task(self, task: Task) -> Task:
        """Converts a task for pictures into one for their views."""
        pictures = [i for i in range(task.count) for _ in self.numbers(i)]
        return replace(
            task,
            load=self.load,
            count=len(self),
            groups=[task.groups[i] for i in pictures],
            reserved=[number for i in task.reserved for number in self.numbers(i)],
            settle=self._settled,
            views=len(self) / max(1, task.count),
        )

    def _settled(self, numbers: list[int]) -> list[int]:
        fresh = [picture for picture in self.pictures(numbers) if picture not in self._kept]
        if fresh:  # once each: its views may come in several parts
            kept = set(self.reader.without_copies(fresh))
            self._kept.update((picture, picture in kept) for picture in fresh)
        return [number for number in numbers if self._kept[self.picture(number)]]

    # ---- as pictures again

    def pictures(self, numbers: Iterable[int]) -> list[int]:
        """Numbers of the pictures that views belong to, each once, in their order."""
        return list(dict.fromkeys(self.picture(number) for number in numbers))

    def of_pictures(self, fitted: Fitted) -> Fitted:
        """Converts a fit's numbers of views into numbers of pictures; its calibration stays that of views."""
        suspects: dict[int, float] = {}
        for number, score in fitted.suspects.items():
            suspects.setdefault(self.picture(number), score)
        return replace(
            fitted,
            pictures=self.pictures(fitted.pictures),
            used=self.pictures(fitted.used),
            held={role: self.pictures(numbers) for role, numbers in fitted.held.items()},
            dropped=self.pictures(fitted.dropped),
            suspects=suspects,
        )
