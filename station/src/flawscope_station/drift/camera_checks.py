"""Checks of a camera by its pictures: dark, overexposed, the same again, of another size or form.

Each looks at what the inspection knows: nothing is decoded for them.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from flawscope_station.inspecting.interlock import FrozenError
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.writer import RecordedInspection
from flawscope_station.store.insert import NewInspection, SeenPicture

DARK, OVEREXPOSED, FROZEN = FAULT_KINDS = "dark", "overexposed", "frozen"
MIN_BRIGHTNESS, MAX_BRIGHTNESS = 0.02, 0.98  # 0..1, beyond which a picture shows nothing
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
    "its key or part number"
)


@dataclass
class _Recent:
    """Last pictures of a sender: their pixels, keys and part numbers. A sensor never gives the same pixels
    twice, so what has those of an earlier picture shows no other part.

    Attributes:
        repeats: pictures in a row that were refused.
    """

    pictures: deque[tuple[str, str | None, str | None]] = field(
        default_factory=lambda: deque(maxlen=RECENT_PICTURES)
    )
    repeats: int = 0

    def is_repeat(self, pixels: str | None, key: str | None, part: str | None) -> bool:
        """Whether a picture repeats that of another part, among which it is remembered otherwise."""
        earlier = [one for one in self.pictures if one[0] == pixels]
        is_sent_again = any(
            (key is not None and key == one[1]) or (part is not None and part == one[2]) for one in earlier
        )
        if earlier and not is_sent_again:
            self.repeats += 1
            return True
        self.repeats = 0
        if pixels is not None and not earlier:
            self.pictures.append((pixels, key, part))
        return False


class CameraChecks:
    """Checks each new picture. One with which clients or folders repeat that of an earlier part is not
    answered; cameras of the station know their frames themselves.

    Args:
        names: of the products that are checked, by number, which may grow.
        report: reports a problem, as `Problems.report`.
    """

    def __init__(self, names: Mapping[int, str], report: Callable[..., None]):
        self.names, self.report = names, report
        self._faults: dict[int, set[str]] = {}
        self._light: dict[tuple[int, str], int] = Counter()  # pictures in a row, by product and fault or ""
        self._in_row: Counter[int] = Counter()  # pictures of another form, by product
        self._recent: dict[tuple[int, str | None], _Recent] = {}  # by product and view
        self._lock = threading.Lock()

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return the state of the camera, as the API shows it."""
        found = self._faults.get(product_id, set())
        return {
            "watched": product_id in self.names,
            "problems": [kind for kind in FAULT_KINDS if kind in found],
        }

    def _set_fault(self, product_id: int, kind: str, is_there: bool) -> None:
        found = self._faults.setdefault(product_id, set())
        if (kind in found) is not is_there:
            found ^= {kind}
            why = f"{self.names[product_id]}: {_WORDS[kind]}" if is_there else None
            self.report(f"camera_{kind}_{product_id}", why, stops=kind == FROZEN)

    # ---- interlock

    def check(self, product_id: int, part: str | None) -> None:
        """Let every picture pass: nothing is known of one before it is decoded."""

    def release(self, part: Part, record: NewInspection) -> NewInspection:
        """Raise FrozenError for a part with a picture that has the pixels of an earlier one of another part,
        or of nobody knows which."""
        if record.product_id not in self.names or record.source == "camera":
            return record
        with self._lock:
            is_repeat = is_frozen = False
            for one in record.pictures:
                recent = self._recent.setdefault((record.product_id, one.view), _Recent())
                is_repeat |= recent.is_repeat(one.pixels, part.key, record.part)
                is_frozen |= recent.repeats >= FROZEN_PICTURES
            self._set_fault(record.product_id, FROZEN, is_frozen)
        if is_repeat:
            raise FrozenError(f"{part.name}: {_REPEATED}")
        return record

    def recorded(self, found: RecordedInspection) -> None:
        """Answer every part that was released."""

    # ---- observer

    def observe(self, recorded: RecordedInspection) -> None:
        found = recorded.inspection
        if found.product_id not in self.names:
            return
        for seen, prediction in zip_longest(found.pictures, recorded.predictions):
            self._check_light(found.product_id, seen, () if prediction is None else prediction.shifts)
            self._check_form(found.product_id, seen)

    def _check_light(self, product_id: int, seen: SeenPicture, shifts: Sequence[float]) -> None:
        brightness, fault = seen.brightness, ""
        if brightness is not None and not (shifts and shifts[0] == 0):  # else good parts look so
            fault = OVEREXPOSED if brightness > MAX_BRIGHTNESS else ""
            fault = DARK if brightness < MIN_BRIGHTNESS else fault
        for kind in ("", DARK, OVEREXPOSED):
            key = product_id, kind
            self._light[key] = self._light[key] + 1 if kind == fault else 0
            if self._light[key] >= PICTURES_IN_ROW:
                for one in (DARK, OVEREXPOSED):
                    self._set_fault(product_id, one, one == kind)

    def _check_form(self, product_id: int, found: SeenPicture) -> None:
        words = next((one.words for one in found.findings if one.code == OTHER_FORM), None)
        self._in_row[product_id] = 0 if words is None else self._in_row[product_id] + 1
        if words is None or self._in_row[product_id] >= MANY:
            why = words and f"{self.names[product_id]}: {MANY} pictures in a row: {words}"
            self.report(f"{OTHER_FORM}_{product_id}", why)
