"""Whether to use a version that was made from corrections, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Advice(NamedTuple):
    """use: or rather not. reason: end of the text's key below `advice`. values: that the text names."""

    use: bool
    reason: str
    values: Mapping[str, int]


def advice(candidate: Mapping[str, Any], active: int | None) -> Advice | None:
    """What the facts say; None: it is not made yet, or nothing is known.

    Args:
        candidate: as the API shows it.
        active: the version in use.
    """
    judged = candidate["judgement"]
    if not judged:
        return None
    good = judged["good"]
    before, after = int(good["before"][0]), int(good["after"][0])
    numbers = {"before": before, "after": after, "n": int(good["count"])}
    if candidate["status"] == "ready" and candidate["compared_with"] != active:
        return Advice(False, "old", {"version": int(candidate["compared_with"])})
    for reason in ("lost", "weaker"):
        if judged[reason]:
            return Advice(False, reason, {"n": len(judged[reason])})
    if "simulated" in judged.get("refused", ()):
        found, still, count = judged["simulated"]
        return Advice(False, "simulated", {"before": found, "after": still, "n": count})
    if judged["found"]:
        return Advice(True, "finds", {"found": len(judged["found"]), **numbers})
    return Advice(after < before, "fewer" if after < before else "no_gain", numbers)
