"""Checks of a camera by its pictures: dark, overexposed, the same again, of another size or form.

Each looks at what the inspection knows: nothing is decoded for them. The station's own cameras are known to
repeat a frame before that, where they are read (`sources.camera`).
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from flawscope_station.inspecting.interlock import FrozenError
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import CLOCK, MonotonicClock
from flawscope_station.store.insert import NewInspection, SeenPicture

DARK, OVEREXPOSED, FROZEN = FAULT_KINDS = "dark", "overexposed", "frozen"
# 0..1, beyond which a picture shows nothing
MIN_BRIGHTNESS = 0.02
MAX_BRIGHTNESS = 0.98
PICTURES_IN_ROW = 5  # that are dark or overexposed, or as usual again
RECENT_PICTURES = 64  # whose pixels are remembered: buffers give their last ones in turn
FROZEN_PICTURES = 3  # refused in a row, which are a problem
OTHER_FORM = "other_form"  # code of the library's finding
MANY = 3  # pictures in a row of another form, which are a problem
_WORDS = {
    DARK: "pictures are black: is the camera off, or the light out?",
    OVEREXPOSED: "pictures are white: is the lens blinded, or the exposure too long?",
    FROZEN: "the same picture comes again and again: start the camera or its program anew",
}
_REPEATED = (
    "it has the pixels of an earlier one: start the camera or its program anew; send a picture again under "
    "its key, or within a minute under its part number and batch"
)
SENT_AGAIN_SECONDS = 60.0  # after a picture was recorded, in which it may be sent again under its part number
REMEMBERED_LABELS = 4096  # numbers and batches of a view, of which it is known whether they come again

_Label = tuple[str | None, str | None]  # number of a part, and its batch


@dataclass
class _Shown:
    """Picture that was let pass.

    Attributes:
        key: Of its request.
        recorded_at: Seconds of the monotonic clock; None while it is not recorded: until then its sender may
            send it again.
        is_frozen: It came again as another part.
    """

    pixels: str
    key: str | None
    label: _Label
    recorded_at: float | None = None
    is_frozen: bool = False


@dataclass
class _Recent:
    """Last pictures of a sender's view.

    A sensor never gives the same pixels twice, so a picture with the pixels of an earlier one shows no other
    part.

    Number and batch of a part show that a picture is sent again only where they name a single part: those of
    nests, pallets and types of parts come again with other pictures.

    Attributes:
        comes_again: numbers and batches, the last ones last, and whether each had more than one picture.
        repeats: pictures in a row that were refused.
    """

    pictures: deque[_Shown] = field(default_factory=lambda: deque(maxlen=RECENT_PICTURES))
    comes_again: OrderedDict[_Label, bool] = field(default_factory=OrderedDict)
    repeats: int = 0

    def is_repeat(self, pixels: str | None, key: str | None, label: _Label, at: float) -> bool:
        """Whether a picture repeats the picture of another part, or of a part that nobody can name."""
        earlier = [picture for picture in self.pictures if picture.pixels == pixels]
        return bool(earlier) and not any(self._is_sent_again(picture, key, label, at) for picture in earlier)

    def _is_sent_again(self, first: _Shown, key: str | None, label: _Label, at: float) -> bool:
        if key is not None and key == first.key:
            return True
        is_soon = first.recorded_at is None or at - first.recorded_at <= SENT_AGAIN_SECONDS
        names_one_part = label[0] is not None and not self.comes_again.get(label, False)
        return label == first.label and names_one_part and is_soon and not first.is_frozen

    def refuse(self, pixels: str | None) -> None:
        """Note a repeat: from now on the number of a part is no reason to answer these pixels again."""
        self.repeats += 1
        for picture in self.pictures:
            picture.is_frozen |= picture.pixels == pixels

    def remember(self, pixels: str | None, key: str | None, label: _Label) -> None:
        """Remember a picture that is let pass, unless it was sent again."""
        if any(picture.pixels == pixels for picture in self.pictures):
            return
        self.repeats = 0
        if pixels is None:
            return
        self.pictures.append(_Shown(pixels, key, label))
        self.comes_again[label] = label in self.comes_again
        self.comes_again.move_to_end(label)
        if len(self.comes_again) > REMEMBERED_LABELS:
            self.comes_again.popitem(last=False)

    def note_recorded(self, pixels: str | None, at: float) -> None:
        """Note that a picture is recorded, and will be answered."""
        for picture in self.pictures:
            if picture.pixels == pixels and picture.recorded_at is None:
                picture.recorded_at = at


class CameraChecks:
    """Checks each new picture, as an observer and as an interlock.

    A client's or folder's picture with the pixels of an earlier part's is not answered.

    Args:
        products: names of the products that are checked, by number; more may be added.
        report: reports a problem, as `Problems.report`.
        clock: measures the time in which a picture may be sent again.
    """

    def __init__(
        self, products: Mapping[int, str], report: Callable[..., None], clock: MonotonicClock = CLOCK
    ):
        self.products = products
        self.report = report
        self._clock = clock
        self._faults: dict[int, set[str]] = {}
        self._light: dict[tuple[int, str], int] = Counter()  # pictures in a row, by product and fault or ""
        self._in_row: Counter[int] = Counter()  # pictures of another form, by product
        self._recent: dict[tuple[int, str | None], _Recent] = {}  # by product and view
        self._lock = threading.Lock()

    def facts(self, product_id: int) -> dict[str, object]:
        """Return the state of the camera, as the API shows it."""
        found = self._faults.get(product_id, set())
        return {
            "watched": product_id in self.products,
            "problems": [kind for kind in FAULT_KINDS if kind in found],
        }

    def _set_fault(self, product_id: int, kind: str, is_there: bool) -> None:
        found = self._faults.setdefault(product_id, set())
        if (kind in found) is not is_there:
            found ^= {kind}
            why = f"{self.products[product_id]}: {_WORDS[kind]}" if is_there else None
            self.report(f"camera_{kind}_{product_id}", why, stops=kind == FROZEN)

    # ---- interlock

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Return the record of a part whose pictures are new, or were sent again.

        Raises:
            FrozenError: a picture repeats the picture of another part, or of a part that nobody can name.
        """
        if record.product_id not in self.products or record.source == "camera":
            return record
        with self._lock:
            is_repeated = self._note_pictures(part, record)
            recents = [self._recent_of(record.product_id, picture.view) for picture in record.pictures]
            is_frozen = any(recent.repeats >= FROZEN_PICTURES for recent in recents)
            self._set_fault(record.product_id, FROZEN, is_frozen)
        if is_repeated:
            raise FrozenError(f"{part.name}: {_REPEATED}")
        return record

    def _note_pictures(self, part: Part, record: NewInspection) -> bool:
        """Return whether some pictures of a part came before as another part's; if not, remember all."""
        label = (record.part, record.batch)
        at = self._clock.monotonic()
        views = [(self._recent_of(record.product_id, picture.view), picture) for picture in record.pictures]
        repeated = []
        for recent, picture in views:
            if recent.is_repeat(picture.pixels, part.key or picture.key, label, at):
                repeated.append((recent, picture))
        for recent, picture in repeated:
            recent.refuse(picture.pixels)
        if repeated:
            return True
        for recent, picture in views:
            recent.remember(picture.pixels, part.key or picture.key, label)
        return False

    def _recent_of(self, product_id: int, view: str | None) -> _Recent:
        return self._recent.setdefault((product_id, view), _Recent())

    def recorded(self, found: RecordedInspection) -> None:
        """Answer every part that was released."""

    # ---- observer

    def observe(self, recorded: RecordedInspection) -> None:
        """Check brightness and form of a recorded inspection's pictures, and report faults of the camera."""
        found = recorded.inspection
        if found.product_id not in self.products:
            return
        with self._lock:
            for picture in found.pictures:
                self._recent_of(found.product_id, picture.view).note_recorded(
                    picture.pixels, self._clock.monotonic()
                )
        for seen, prediction in zip_longest(found.pictures, recorded.predictions):
            self._check_light(found.product_id, seen, () if prediction is None else prediction.shifts)
            self._check_form(found.product_id, seen)

    def _check_light(self, product_id: int, seen: SeenPicture, shifts: Sequence[float]) -> None:
        brightness = seen.brightness
        fault = ""
        if brightness is not None and not (shifts and shifts[0] == 0):  # else good parts look so
            fault = OVEREXPOSED if brightness > MAX_BRIGHTNESS else ""
            fault = DARK if brightness < MIN_BRIGHTNESS else fault
        for kind in ("", DARK, OVEREXPOSED):
            key = product_id, kind
            self._light[key] = self._light[key] + 1 if kind == fault else 0
            if self._light[key] >= PICTURES_IN_ROW:
                for code in (DARK, OVEREXPOSED):
                    self._set_fault(product_id, code, code == kind)

    def _check_form(self, product_id: int, found: SeenPicture) -> None:
        words = next((finding.words for finding in found.findings if finding.code == OTHER_FORM), None)
        before = self._in_row[product_id]
        self._in_row[product_id] = 0 if words is None else before + 1
        if self._in_row[product_id] >= MANY:
            why = f"{self.products[product_id]}: {MANY} pictures in a row: {words}"
            self.report(f"{OTHER_FORM}_{product_id}", why)
        elif before >= MANY:
            self.report(f"{OTHER_FORM}_{product_id}", None)
