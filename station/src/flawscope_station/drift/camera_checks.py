"""Checks of a camera by its pictures: dark, overexposed, repeated, of another size or form.

The checks use facts of the inspection: no picture is decoded for them. A repeated frame of the station's own
cameras is found earlier, when the frame is read (`sources.camera`).
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

DARK = "dark"
OVEREXPOSED = "overexposed"
FROZEN = "frozen"
FAULT_KINDS = (DARK, OVEREXPOSED, FROZEN)
MIN_BRIGHTNESS = 0.02  # mean brightness, 0 to 1, below which a picture is dark
MAX_BRIGHTNESS = 0.98  # mean brightness, 0 to 1, above which a picture is overexposed
PICTURES_IN_ROW = 5  # dark or overexposed pictures in a row are a fault; as many usual pictures end it
# pictures whose pixels are remembered: the buffer of a frozen camera may give its last frames in turn
RECENT_PICTURES = 64
FROZEN_PICTURES = 3  # refused pictures in a row that are a fault
OTHER_FORM = "other_form"  # code of the library's finding
MANY = 3  # pictures of another form in a row that are a problem
_WORDS = {
    DARK: "pictures are black: is the camera off, or the light out?",
    OVEREXPOSED: "pictures are white: is the lens blinded, or the exposure too long?",
    FROZEN: "the same picture comes again and again: start the camera or its program anew",
}
_REPEATED = (
    "it has the pixels of an earlier one: start the camera or its program anew; send a picture again under "
    "its key, or within a minute under its part number and batch"
)
SENT_AGAIN_SECONDS = 60.0  # time after its record in which a picture may be sent again under its part number
REMEMBERED_LABELS = 4096  # numbers and batches that are remembered for each view

_Label = tuple[str | None, str | None]  # number of a part, and its batch


@dataclass
class _AcceptedPicture:
    """Picture that was not refused.

    Attributes:
        pixel_hash: Hash of its pixels.
        key: Key of its request; None: it had no key.
        label: Number and batch of its part.
        recorded_at: Time of its record, seconds of the monotonic clock; None: it is not recorded yet, and its
            sender may send it again.
        is_frozen: Whether the same pixels came again as another part.
    """

    pixel_hash: str
    key: str | None
    label: _Label
    recorded_at: float | None = None
    is_frozen: bool = False


@dataclass
class _RecentPictures:
    """Latest pictures of a view of a product.

    A sensor never gives the same pixels twice. A picture with the pixels of an earlier one was therefore sent
    again, or its camera is frozen.

    A label shows that a picture was sent again only if it names a single part. Numbers of nests, pallets and
    types of parts do not: they come again with other pictures.

    Attributes:
        pictures: Latest accepted pictures.
        is_label_shared: Label -> whether it came with more than one picture, the latest labels last.
        refused_in_row: Number of pictures that were refused one after another.
    """

    pictures: deque[_AcceptedPicture] = field(default_factory=lambda: deque(maxlen=RECENT_PICTURES))
    is_label_shared: OrderedDict[_Label, bool] = field(default_factory=OrderedDict)
    refused_in_row: int = 0

    def is_repeat(self, pixel_hash: str | None, key: str | None, label: _Label, at: float) -> bool:
        """Return whether a new picture repeats the pixels of an earlier one.

        A picture that its sender has merely sent again is no repeat.

        Args:
            pixel_hash: Hash of the picture's pixels; None: unknown.
            key: Key of the request; None: it has no key.
            label: Number and batch of the part.
            at: Present time of the monotonic clock, seconds.
        """
        earlier_pictures = [picture for picture in self.pictures if picture.pixel_hash == pixel_hash]
        if not earlier_pictures:
            return False
        return not any(self._is_sent_again(earlier, key, label, at) for earlier in earlier_pictures)

    def _is_sent_again(self, earlier: _AcceptedPicture, key: str | None, label: _Label, at: float) -> bool:
        """Return whether a picture with the pixels of an earlier one was only sent again.

        True if both have the same key. Also True if both have the same label, which names a single part, no
        repeat of the earlier picture was refused, and the earlier picture is not recorded yet or was recorded
        at most `SENT_AGAIN_SECONDS` ago.
        """
        if key is not None and key == earlier.key:
            return True
        number, _ = label
        names_one_part = number is not None and not self.is_label_shared.get(label, False)
        if label != earlier.label or not names_one_part or earlier.is_frozen:
            return False
        return earlier.recorded_at is None or at - earlier.recorded_at <= SENT_AGAIN_SECONDS

    def refuse(self, pixel_hash: str | None) -> None:
        """Record that a picture was refused: its pixels are accepted again only under the same key."""
        self.refused_in_row += 1
        for picture in self.pictures:
            if picture.pixel_hash == pixel_hash:
                picture.is_frozen = True

    def remember(self, pixel_hash: str | None, key: str | None, label: _Label) -> None:
        """Remember an accepted picture, unless it was sent again."""
        if any(picture.pixel_hash == pixel_hash for picture in self.pictures):
            return
        self.refused_in_row = 0
        if pixel_hash is None:
            return
        self.pictures.append(_AcceptedPicture(pixel_hash, key, label))
        has_come_before = label in self.is_label_shared
        self.is_label_shared[label] = has_come_before  # shared from its second picture on
        self.is_label_shared.move_to_end(label)
        if len(self.is_label_shared) > REMEMBERED_LABELS:
            self.is_label_shared.popitem(last=False)

    def note_recorded(self, pixel_hash: str | None, at: float) -> None:
        """Note the time `at` at which a picture was recorded; its sender gets an answer from then on."""
        for picture in self.pictures:
            if picture.pixel_hash == pixel_hash and picture.recorded_at is None:
                picture.recorded_at = at


class CameraChecks:
    """Check of each new picture, as an observer and as an interlock.

    A picture of a client or a folder is not answered if it has the pixels of another part's picture.

    Args:
        products: Names of the products that are checked, by number; products may be added.
        report: Function that reports a problem, as `Problems.report`.
        clock: Clock for the time in which a picture may be sent again.
    """

    def __init__(
        self, products: Mapping[int, str], report: Callable[..., None], clock: MonotonicClock = CLOCK
    ):
        self.products = products
        self.report = report
        self._clock = clock
        self._faults: dict[int, set[str]] = {}  # product -> present kinds of faults
        # product, and fault ("": usual light) -> number of such pictures in a row
        self._light_in_row: dict[tuple[int, str], int] = Counter()
        # product -> number of pictures in a row that have another form
        self._other_form_in_row: Counter[int] = Counter()
        # product and view -> latest pictures
        self._recent: dict[tuple[int, str | None], _RecentPictures] = {}
        self._lock = threading.Lock()

    def facts(self, product_id: int) -> dict[str, object]:
        """Return the state of the camera, as the API shows it."""
        faults = self._faults.get(product_id, set())
        return {
            "watched": product_id in self.products,
            "problems": [kind for kind in FAULT_KINDS if kind in faults],
        }

    def _set_fault(self, product_id: int, kind: str, *, is_present: bool) -> None:
        """Report that a fault of a product's camera has begun or ended, unless that is known already."""
        faults = self._faults.setdefault(product_id, set())
        was_present = kind in faults
        if was_present == is_present:
            return
        if is_present:
            faults.add(kind)
            text = f"{self.products[product_id]}: {_WORDS[kind]}"
        else:
            faults.remove(kind)
            text = None  # the fault is over
        self.report(f"camera_{kind}_{product_id}", text, stops=(kind == FROZEN))

    # ---- interlock

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Refuse a part with a repeated picture; return the inspection of any other part unchanged.

        Pictures of the station's own cameras are not checked here.

        Args:
            part: Part with its pictures.
            record: Inspection of the part.

        Raises:
            FrozenError: A picture has the pixels of an earlier one, and was not just sent again. The camera
                counts as frozen only after `FROZEN_PICTURES` such pictures in a row.
        """
        if record.product_id not in self.products or record.source == "camera":
            return record
        with self._lock:
            is_accepted = self._accept_pictures(part, record)
            recent_of_views = [
                self._recent_pictures(record.product_id, picture.view) for picture in record.pictures
            ]
            is_frozen = any(recent.refused_in_row >= FROZEN_PICTURES for recent in recent_of_views)
            self._set_fault(record.product_id, FROZEN, is_present=is_frozen)
        if not is_accepted:
            raise FrozenError(f"{part.name}: {_REPEATED}")
        return record

    def _accept_pictures(self, part: Part, record: NewInspection) -> bool:
        """Remember the pictures of a part, or refuse the repeated ones.

        Returns:
            True if no picture is repeated; False if the part is refused.
        """
        label = (record.part, record.batch)
        at = self._clock.monotonic()
        # recent pictures of a view, and its new picture
        views = [(self._recent_pictures(record.product_id, new.view), new) for new in record.pictures]
        repeated = [
            (recent, new)
            for recent, new in views
            if recent.is_repeat(new.pixels, part.key or new.key, label, at)
        ]
        if repeated:
            for recent, new in repeated:
                recent.refuse(new.pixels)
            return False
        for recent, new in views:
            recent.remember(new.pixels, part.key or new.key, label)
        return True

    def _recent_pictures(self, product_id: int, view: str | None) -> _RecentPictures:
        """Return the latest pictures of a product's view."""
        return self._recent.setdefault((product_id, view), _RecentPictures())

    def recorded(self, recorded: RecordedInspection) -> None:
        """Do nothing: each part that was released is answered."""

    # ---- observer

    def observe(self, recorded: RecordedInspection) -> None:
        """Note the pictures of a recorded inspection, check their brightness and form, and report faults."""
        inspection = recorded.inspection
        product_id = inspection.product_id
        if product_id not in self.products:
            return
        with self._lock:
            for picture in inspection.pictures:
                recent = self._recent_pictures(product_id, picture.view)
                recent.note_recorded(picture.pixels, self._clock.monotonic())
        # there may be no predictions: then each is None
        for picture, prediction in zip_longest(inspection.pictures, recorded.predictions):
            shifts = () if prediction is None else prediction.shifts
            self._check_light(product_id, picture, shifts)
            self._check_form(product_id, picture)

    def _check_light(self, product_id: int, picture: SeenPicture, shifts: Sequence[float]) -> None:
        """Report that pictures are dark or overexposed, or no longer are.

        Either is reported after `PICTURES_IN_ROW` such pictures in a row.

        Args:
            product_id: Number of the product.
            picture: Judged picture.
            shifts: `Prediction.shifts` of the picture; the first is about brightness. Empty: unknown.
        """
        has_usual_light = bool(shifts) and shifts[0] == 0  # as dark or bright as the model's good parts
        fault = ""  # usual light
        if picture.brightness is not None and not has_usual_light:
            if picture.brightness < MIN_BRIGHTNESS:
                fault = DARK
            elif picture.brightness > MAX_BRIGHTNESS:
                fault = OVEREXPOSED
        # a picture lengthens the row of its own kind, and ends the rows of the other kinds
        for kind in ("", DARK, OVEREXPOSED):
            key = product_id, kind
            self._light_in_row[key] = self._light_in_row[key] + 1 if kind == fault else 0
            if self._light_in_row[key] >= PICTURES_IN_ROW:
                self._set_fault(product_id, DARK, is_present=kind == DARK)
                self._set_fault(product_id, OVEREXPOSED, is_present=kind == OVEREXPOSED)

    def _check_form(self, product_id: int, picture: SeenPicture) -> None:
        """Report that `MANY` pictures in a row have another form, or that such a row has ended."""
        words = next((finding.words for finding in picture.findings if finding.code == OTHER_FORM), None)
        count_before = self._other_form_in_row[product_id]
        count = 0 if words is None else count_before + 1
        self._other_form_in_row[product_id] = count
        if count >= MANY:
            text = f"{self.products[product_id]}: {MANY} pictures in a row: {words}"
            self.report(f"{OTHER_FORM}_{product_id}", text)
        elif count_before >= MANY:
            self.report(f"{OTHER_FORM}_{product_id}", None)
