"""Pictures of a new product from a camera or a folder, and comparisons with earlier pictures.

A camera is open while somebody looks through it. A folder fills the draft until it is removed from it, or the
product goes live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flawscope.datasets.layouts import refuse_unknown
from flawscope.errors import FlawscopeError, InputError, message_with_type
from flawscope.pictures import near_duplicates
from flawscope.predictor import watch
from flawscope_station.background import BackgroundThread
from flawscope_station.drift.camera_faults import (
    BLUR_OCTAVES,
    MIN_BRIGHTNESS,
    PictureMeasurements,
    measure_picture,
)
from flawscope_station.inspecting.renderings import reduce_picture
from flawscope_station.settings.sources import (
    ON_TRIGGER,
    CameraSourceSettings,
    FolderSourceSettings,
    read_source,
)
from flawscope_station.settings.station import Limits
from flawscope_station.setup.draft import BUSY_STAGES, AddedPicture, Draft
from flawscope_station.sources.camera import FfmpegCamera
from flawscope_station.sources.source import SourceContext

SCAN_INTERVAL = 1.0  # seconds between two listings of folders
CAMERA_IDLE_SECONDS = 60.0  # after which a camera that nobody looks through is closed
CAMERA_STOP_SECONDS = 5.0  # in which a camera must end
RECENT_PICTURES = 24  # pictures that a new one is compared with
COMPARED_SIDE = 1024  # pixels of the longer side at which they are compared
DARK_BRIGHTNESS = 2 * MIN_BRIGHTNESS  # brightness below which a picture is dark, whatever the others are like
MAX_CLIPPED_SHARE = 0.2  # share of clipped pixels that are too many, where earlier pictures have none
BRIGHTNESS_TOLERANCE = 0.15  # share by which brightness may differ without a hint


class Measurements(NamedTuple):
    """Measurements of a picture. small: for the search for near duplicates."""

    look: PictureMeasurements
    small: near_duplicates.Look


@dataclass
class DraftFeed:
    """Folder that fills a draft. Masks and files that are no pictures are refused, each with its reason.

    taken: number of pictures. refused: number of files. why: of the last refusal, or why nothing comes.
    """

    source: FolderSourceSettings | None
    arrivals: watch.Arrivals | None = None
    taken: int = 0
    refused: int = 0
    why: str | None = None


class Captures(BackgroundThread):
    """Cameras and folders of drafts, and the latest pictures that new ones are compared with.

    Args:
        home: the station's folder, to which paths of passwords are relative.
        drafts: returns all drafts. add: keeps pictures of a draft.
        line: for cameras of no product: nothing is inspected.
    """

    def __init__(
        self,
        home: Path,
        drafts: Callable[[], Iterable[Draft]],
        add: Callable[[Draft, Sequence[tuple[str, bytes]]], list[AddedPicture]],
        line: SourceContext,
    ):
        super().__init__("pictures of new products", is_lazy=True)
        self.home, self.drafts, self.add, self.line = home.absolute(), drafts, add, line
        self._cameras: dict[Draft, tuple[FfmpegCamera, float]] = {}  # and when it was last looked through
        self._feeds: dict[Draft, DraftFeed] = {}
        self._measurements: dict[Draft, dict[str, Measurements]] = {}
        self._lock = threading.Lock()

    @property
    def limits(self) -> Limits:
        return self.line.share.limits

    # ---- the source of a draft

    def set_source(self, draft: Draft, given: Mapping[str, Any]) -> None:
        """Set the source of a draft's pictures; empty: none.

        Args:
            given: as an entry of `sources` in `station.yaml`.

        Raises:
            InputError: it is not allowed, or is no folder of this computer.
        """
        if given:
            found = self._read(given)
            if isinstance(found, FolderSourceSettings) and not Path(found.folder).exists():
                raise InputError(f"there is no {found.folder} on the station's computer: look at the path")
        draft.change(source=dict(given) or None)
        self.close(draft)
        self.wake()

    def _read(self, given: Mapping[str, Any]) -> FolderSourceSettings | CameraSourceSettings:
        settings = read_source(given, self.home)
        if not isinstance(settings, FolderSourceSettings | CameraSourceSettings):
            raise InputError("name a folder or a camera here")
        return settings

    def source(self, draft: Draft) -> FolderSourceSettings | CameraSourceSettings | None:
        """Return the source of a draft. InputError where it is not allowed any more."""
        given = draft.state.get("source")
        return self._read(given) if given else None

    def take_live_camera(self, draft: Draft) -> dict[str, Any] | None:
        """Close a draft's source; return its camera, as in `station.yaml`, for the product that goes live."""
        found = self.source(draft)
        self.close(draft)
        return draft.state["source"] if isinstance(found, CameraSourceSettings) else None

    def close(self, draft: Draft) -> None:
        """Close the camera, so that others can open it, and the folder."""
        with self._lock:
            camera = self._cameras.pop(draft, None)
            self._feeds.pop(draft, None)
        if camera is not None:
            camera[0].stop(CAMERA_STOP_SECONDS)

    def camera(self, draft: Draft) -> FfmpegCamera:
        """Open the camera of a draft and return it. InputError where it has none."""
        found = self.source(draft)
        if not isinstance(found, CameraSourceSettings):
            raise InputError(f"{draft.name} has no camera of its own: name one first")
        with self._lock:
            camera, _ = self._cameras.get(draft, (None, 0.0))
            if camera is None:
                camera = FfmpegCamera(self.line, replace(found, every=ON_TRIGGER), 1)
                camera.start()
            self._cameras[draft] = camera, time.monotonic()
        self.wake()
        return camera

    def facts(self, draft: Draft) -> dict[str, Any] | None:
        """Return the source of a draft, as the API shows it; None: it has none."""
        kind, place, feed = "camera", "", DraftFeed(None)
        try:
            found = self.source(draft)
        except InputError as error:
            feed.why = str(error)
        else:
            if found is None:
                return None
            feed = self._feeds.get(draft, feed)
            if isinstance(found, FolderSourceSettings):
                kind, place = "folder", found.folder
            else:
                place = found.display_name
        return {"kind": kind, "place": place, "taken": feed.taken, "refused": feed.refused, "why": feed.why}

    # ---- folders

    def end(self) -> None:
        super().end()
        for draft in list(self._cameras):
            self.close(draft)

    def _work(self) -> None:
        while not self._wait(SCAN_INTERVAL if self._cameras or self._feeds else None):
            for draft, (_, seen) in list(self._cameras.items()):
                if time.monotonic() - seen > CAMERA_IDLE_SECONDS:
                    self.close(draft)
            for draft in self.drafts():
                if draft.stage not in BUSY_STAGES and not self._ended.is_set():
                    self._fill_draft(draft)

    def _fill_draft(self, draft: Draft) -> None:
        """Add the new files of a folder."""
        try:
            found = self.source(draft)
        except InputError:
            return  # the page says it
        if not isinstance(found, FolderSourceSettings):
            return
        feed = self._feeds.get(draft)
        if feed is None or feed.source != found:  # another one may have been named since `close`
            feed = self._feeds[draft] = DraftFeed(found)
        try:
            self._take_files(draft, feed, found.folder)
            feed.why = feed.why if feed.refused else None
        except FlawscopeError as error:  # a folder that is away, a full disk: tried again
            feed.why = str(error)
        except Exception as error:
            feed.why = message_with_type(error)

    def _take_files(self, draft: Draft, feed: DraftFeed, folder: str) -> None:
        if feed.arrivals is None:
            feed.arrivals = watch.Arrivals(folder, existing=True)
        ready = feed.arrivals.scan(time.monotonic())
        for path, why in feed.arrivals.passed_over(time.monotonic()).items():
            feed.refused, feed.why = feed.refused + 1, f"{path.name}: {why}"
        if ready:
            refuse_unknown(feed.arrivals.folder, feed.arrivals.present, "name the folder of good ones alone")
        for path in ready:
            if self._ended.is_set() or self._feeds.get(draft) is not feed:
                return
            try:
                if path.stat().st_size > self.limits.upload_bytes:
                    raise InputError(f"{path.name} is larger than {self.limits.upload}")
                name = path.relative_to(feed.arrivals.folder).as_posix()
                self._add_picture(draft, feed, name, path.read_bytes())
            except (InputError, OSError) as error:
                if feed.arrivals.failed(path, time.monotonic()):
                    feed.refused, feed.why = feed.refused + 1, str(error)
            else:
                feed.arrivals.done(path)

    def _add_picture(self, draft: Draft, feed: DraftFeed, name: str, data: bytes) -> None:
        """Add a picture. InputError where it is refused."""
        (taken,) = self.add(draft, [(name, data)])
        if taken.status == "refused":
            raise InputError(str(taken.error))
        feed.taken += taken.status == "kept"

    def forget(self, draft: Draft) -> None:
        """Close the source of a draft that was removed, and forget its pictures."""
        self.close(draft)
        self._measurements.pop(draft, None)

    # ---- comparisons

    def compare(self, draft: Draft, data: bytes, name: str = "") -> dict[str, Any]:
        """Compare a picture with the latest ones of a draft, as the API shows it. InputError.

        Args:
            name: of the picture in the draft; "": it is not there.
        """
        now, earlier = self._measure(draft, data, name or "picture"), self._measure_recent(draft, name)
        measured, last = [*earlier.values(), now], len(earlier)
        pairs = near_duplicates.near_duplicates([one.small for one in measured], np.arange(len(measured)))
        alike = [(much, names) for *names, much in pairs if last in names]
        nearest = min(max(alike)[1]) if alike else None
        return {
            "brightness": now.look.brightness,
            "sharpness": now.look.sharpness,
            "hints": quality_hints(now.look, [one.look for one in earlier.values()]),
            "alike": None if nearest is None else list(earlier)[nearest],
        }

    def _measure(self, draft: Draft, data: bytes, name: str) -> Measurements:
        with draft.memory.turns.take():
            picture = reduce_picture(data, name, COMPARED_SIDE, draft.memory)
            return Measurements(measure_picture(Image.fromarray(picture)), near_duplicates.Look.of(picture))

    def _measure_recent(self, draft: Draft, excluded: str) -> dict[str, Measurements]:
        """Return the measurements of the latest pictures of a draft, each measured once."""
        measured, found = self._measurements.get(draft, {}), {}
        for name in [one for one in draft.pictures() if one != excluded][-RECENT_PICTURES:]:
            try:
                found[name] = measured.get(name) or self._measure(draft, draft.path(name).read_bytes(), name)
            except (FlawscopeError, OSError):
                continue  # it was just left out, or cannot be read: the check says it
        self._measurements[draft] = found
        return found


def quality_hints(now: PictureMeasurements, earlier: Sequence[PictureMeasurements]) -> list[str]:
    """Return faults of focus and light, compared with the earlier pictures: dark, glare, darker, brighter,
    softer, sharper (then the earlier ones were soft)."""
    if now.brightness < DARK_BRIGHTNESS:
        return ["dark"]
    if not earlier:
        return ["glare"] if now.white > MAX_CLIPPED_SHARE else []
    found = ["glare"] if now.white > max(MAX_CLIPPED_SHARE, 2 * max(one.white for one in earlier)) else []
    usual, spread = _median_and_range([one.brightness for one in earlier])
    if abs(now.brightness - usual) > max(spread, BRIGHTNESS_TOLERANCE * usual):
        found.append("brighter" if now.brightness > usual else "darker")
    usual, spread = _median_and_range([one.sharpness for one in earlier])
    if abs(now.sharpness - usual) > max(spread, BLUR_OCTAVES):
        found.append("sharper" if now.sharpness > usual else "softer")
    return found


def _median_and_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the range of values."""
    return float(np.median(values)), float(np.ptp(values))
