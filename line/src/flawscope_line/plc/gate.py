"""Reject gate behind the camera: the parts at it, and whether they may pass. Pure, like `handshake`.

The PLC counts parts, or an encoder's steps, and says where it is; a part is where the count stood when it was
triggered. Only parts whose OK the PLC has read may pass. Whatever else stands at the gate, or nothing that is
known, may not: docs/station-plc.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flawscope_line.plc.handshake import Phase, State

COUNT_MODULUS = 2**32  # the count begins anew with 0 there


@dataclass(frozen=True)
class Gate:
    """Parts between the camera and the gate.

    distance: counts from the camera to the gate. width: counts to either side within which a part is at it.
    parts: whether they may pass, by their number among all triggers; each with its count. count: where the
    PLC is; None: it has not said.
    """

    distance: int
    width: int = 0
    parts: Mapping[int, tuple[int, bool]] = field(default_factory=dict)
    last: int = 0
    count: int | None = None

    @property
    def may_pass(self) -> bool:
        """Whether all parts at the gate may pass; False where there is none."""
        at_gate = [good for at, good in self.parts.values() if abs(self._counts_left(at)) <= self.width]
        return bool(at_gate) and all(at_gate)

    def with_count(self, count: int) -> Gate:
        """Return the gate at another count. One that went back is a new count: no part is known any more."""
        if self.count is not None and (count - self.count) % COUNT_MODULUS >= COUNT_MODULUS // 2:
            return replace(self, parts={}, count=count)
        moved = replace(self, count=count)
        left = {n: one for n, one in self.parts.items() if moved._counts_left(one[0]) >= -self.width}
        return replace(moved, parts=left)

    def with_new_part(self) -> Gate:
        """Return the gate with a part that was triggered, and may not pass."""
        number, count = self.last + 1, self.count or 0
        return replace(self, last=number, parts={**self.parts, number: (count, False)})

    def with_ok_read(self) -> Gate:
        """Return the gate after the PLC read the OK of the part that was triggered last, which may pass."""
        if self.last not in self.parts:  # it has passed already, or the count went back
            return self
        return replace(self, parts={**self.parts, self.last: (self.parts[self.last][0], True)})

    def _counts_left(self, at: int) -> int:
        """Counts until a part is at the gate; negative behind it."""
        assert self.count is not None
        passed = (self.count - at) % COUNT_MODULUS
        return self.distance - passed


def step(gate: Gate, before: State, after: State) -> Gate:
    """Return the gate after a step of the handshake."""
    if not after.is_alive or after.plc is None:
        return replace(gate, parts={}, count=None)
    gate = gate.with_count(after.plc.count)
    was_ok = before.phase is Phase.DONE and before.answer is not None and before.answer.good is True
    if was_ok and after.phase is not Phase.DONE:
        gate = gate.with_ok_read()
    is_new_part = after.is_triggered and after.phase in (Phase.BUSY, Phase.DONE)
    if is_new_part and (before.phase not in (Phase.BUSY, Phase.DONE) or after.job != before.job):
        gate = gate.with_new_part()
    return gate
