"""Parts that are seen in several views: which models judge them, and the pictures of one part, which are
taken, judged and recorded together or not at all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flawscope.artefact import Manifest
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import PartCollector
from flawscope_station.inspecting.capacity import BusyError
from flawscope_station.inspecting.picture import Picture, with_part_and_view
from flawscope_station.store.insert import PartViews
from flawscope_station.store.model_registry import ModelRegistry

if TYPE_CHECKING:
    from flawscope_station.inspecting.writer import Answer, JudgedPicture, RecordedInspection

CACHE_SIZE = 32  # versions whose calibration is in memory


@dataclass(eq=False)
class PartSet(PartViews):
    """Pictures of one part on their way. count: of the pictures."""

    count: int = 0
    _answers: list[Answer] = field(default_factory=list)
    _judged: list[JudgedPicture] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def join(self, answer: Answer) -> None:
        """Let a picture's answer fail with the others'."""
        self._answers.append(answer)
        answer.add_done_callback(self._fail_with)

    def _fail_with(self, done: Future[RecordedInspection]) -> None:
        if (error := done.exception()) is not None:
            for answer in self._answers:
                answer.set_exception(error)

    def collect(self, judged: JudgedPicture) -> list[JudgedPicture]:
        """Add a judged picture; return all with the last one. InputError where they are not all views of one
        part; BusyError where another version has judged the first ones."""
        with self._lock:
            self._judged.append(judged)
            if len(self._judged) < self.count:
                return []
        seen = [one.inspection for one in self._judged]
        if len({(one.product_id, one.version_id) for one in seen}) > 1:
            raise BusyError(1.0, "its views were judged by different models")
        assert self.judge is not None
        check_views(self.judge.calibration.views, [(one.part, one.view) for one in seen])
        return self._judged


class PartsCache:
    """Cache of how versions decide on parts, by version; None for those that judge single pictures."""

    def __init__(self, versions: ModelRegistry):
        self.versions = versions
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, PartCollector | None] = OrderedDict()

    def for_version(
        self, product_id: int, version: int, manifest: Manifest | None = None
    ) -> PartCollector | None:
        """Return how a version decides on parts; None where it judges single pictures. InputError where the
        version's parts are damaged. manifest: of the version; None: its model is opened."""
        with suppress(KeyError):
            return self._cache[version]
        manifest = manifest or self.versions.open(product_id, version).manifest
        found = PartCollector.of(manifest)
        with self._lock:
            self._cache[version] = found
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return found

    def for_active_version(self, product_id: int) -> PartCollector | None:
        """Return how the version that judges decides on parts. NoModelError; InputError as `for_version`."""
        number, predictor = self.versions.active(product_id)
        return self.for_version(product_id, number, predictor.manifest)

    def views(self, product_id: int) -> list[str]:
        """Return the views in which the active version judges parts; none where it judges single pictures, or
        finds the product of each."""
        if product_id in self.versions.joint_entries:
            return []
        with suppress(FlawscopeError):  # no model is open
            judge = self.for_active_version(product_id)
            return [] if judge is None else list(judge.calibration.views)
        return []

    def named(self, picture: Picture) -> Picture:
        """Return a picture with its part and view, unless its product is yet to be recognised. InputError as
        `with_part_and_view`."""
        if picture.product_id in self.versions.joint_entries:
            return picture
        return with_part_and_view(picture, self.for_active_version(picture.product_id))

    def as_part(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Return the pictures of a request as those of one part, where the model judges parts. InputError
        where they are not all views of one part; of an entry that is known when they are judged."""
        product_id = pictures[0].product_id if pictures else 0
        views = self.views(product_id)
        if views:
            pictures = [self.named(one) for one in pictures]
            check_views(views, [(one.part, one.view) for one in pictures])
        elif not self._finds_parts(product_id):
            return [self.named(one) for one in pictures]
        part = PartSet(count=len(pictures))
        return [replace(one, set=part) for one in pictures]

    def _finds_parts(self, address: int) -> bool:
        """Whether a product that an entry may find is judged in views."""
        if address not in self.versions.joint_entries:
            return False
        known = self.versions.models.model_of(address).products.values()
        return any(self.for_version(one.product_id, one.number, one.predictor.manifest) for one in known)


def check_views(views: Sequence[str], given: Sequence[tuple[str | None, str | None]]) -> None:
    """Raise InputError unless pictures, given by part and view, are all views of one part."""
    parts = sorted({str(part) for part, _ in given})
    if len(parts) > 1:
        raise InputError(f"the pictures show parts {', '.join(parts):.100}: send those of one part together")
    seen = [view for _, view in given]
    if missing := [view for view in views if view not in seen]:
        raise InputError(
            f"part {parts[0]} lacks {', '.join(missing)}: send the pictures of all its views together"
        )
    if len(seen) > len(views):
        raise InputError(f"part {parts[0]} has a view twice: send each once")
