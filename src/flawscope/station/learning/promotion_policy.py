"""The rule by which a candidate goes live without being asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
