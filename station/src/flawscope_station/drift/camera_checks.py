"""Checks of a camera by its pictures: dark, overexposed, the same again and again, of another size or form.

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
FROZEN_PICTURES = 10  # pictures in a row that came before are a frozen camera
RECENT_PICTURES = 3  # other ones, among which they came: buffers give their last ones in turn
REFUSED_PICTURES = 16  # that were refused, and are remembered
FROZEN_MICROSECONDS = 30_000_000  # least time from the first to the last of them
OTHER_FORM = "other_form"  # code of the library's finding
MANY = 3  # pictures in a row of another form, which are a problem
_WORDS = {
    DARK: "pictures are black: is the camera off, or the light out?",
    OVEREXPOSED: "pictures are white: is the lens blinded, or the exposure too long?",
    FROZEN: "the same picture comes again and again: start the camera or its program anew",
}


@dataclass
class _Repeats:
    """Pictures in a row that came before. recent: pixels of the last new ones. refused: of those that were
    refused: whoever held them back may send them when the camera is back."""

    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT_PICTURES))
    refused: deque[str] = field(default_factory=lambda: deque(maxlen=REFUSED_PICTURES))
    count: int = 0
    since: int = 0  # microseconds since 1970

    def note(self, pixels: str | None, at: int) -> tuple[bool, bool]:
        """Take note of a picture; return whether the camera is frozen, and whether the picture is refused."""
        if pixels is None or pixels not in (*self.recent, *self.refused):
            self.count, self.since = 0, at
            if pixels is not None:
                self.recent.append(pixels)
        self.count += 1
        is_frozen = self.count >= FROZEN_PICTURES and abs(at - self.since) >= FROZEN_MICROSECONDS
        if is_frozen and pixels is not None and pixels not in self.refused:
            self.refused.append(pixels)
        return is_frozen, is_frozen or pixels in self.refused


class CameraChecks:
    """Checks each new picture. A picture that clients or folders send again and again is not answered;
    cameras of the station know their frames themselves.

    Args:
        names: of the products that are checked, by number, which may grow.
        report: reports a problem, as `Problems.report`.
    """

    def __init__(self, names: Mapping[int, str], report: Callable[..., None]):
        self.names, self.report = names, report
        self._faults: dict[int, set[str]] = {}
        self._light: dict[tuple[int, str], int] = Counter()  # pictures in a row, by product and fault or ""
        self._in_row: Counter[int] = Counter()  # pictures of another form, by product
        self._repeats: dict[tuple[int, str | None], _Repeats] = {}  # by product and view
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
        """Raise FrozenError for a part with a picture that has the pixels of those before."""
        if record.product_id not in self.names or record.source == "camera":
            return record
        with self._lock:
            found = [
                self._repeats.setdefault((record.product_id, one.view), _Repeats()).note(
                    one.pixels, record.at
                )
                for one in record.pictures
            ]
            self._set_fault(record.product_id, FROZEN, any(is_frozen for is_frozen, _ in found))
        if any(is_refused for _, is_refused in found):
            raise FrozenError(f"{part.name}: {_WORDS[FROZEN]}")
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
