"""Whether a candidate goes live by the rule, and whether a person should use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SWITCHED, NOT_OPENED = "switched", "not_opened"


def waits(judgement: Mapping[str, Any], corrections: int, after: int, is_active: bool = True) -> list[str]:
    """Why a candidate waits for a person; empty: it goes live.

    It finds all known defects that the active version finds (`lost`) and 98 % of the simulated ones
    (`simulated`), none stands out less than half as much and no more than odd good pictures do (`weaker`),
    it has fewer false alarms (`no_gain`), as many were corrected as was asked for (`few`), and it was
    compared with the version that is still active (`switched`). What the rule lets through and cannot be
    opened then waits, too (`not_opened`).

    Args:
        judgement: as the worker gives it.
        corrections: how many there are.
    """
    good = judgement["good"]
    reasons = {
        "lost": bool(judgement["lost"]),
        "simulated": "simulated" in judgement.get("refused", []),
        "weaker": bool(judgement["weaker"]),
        "no_gain": good["after"][0] >= good["before"][0],
        "few": corrections < after,
        SWITCHED: not is_active,
    }
    return [reason for reason, holds in reasons.items() if holds]


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
