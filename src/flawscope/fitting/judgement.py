"""What a corrected model gains and loses, on reviewed pictures that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flawscope.calibration.simulated import wilson
from flawscope.fitting.corrected import Corrected
from flawscope.fitting.reviewed import Reviewed, Score

STAYS = 0.5  # of a known defect's severity: with less, it is said that it stands out less


def judgement(pictures: Sequence[Reviewed], made: Corrected) -> dict[str, Any]:
    """As JSON; lists are numbers of inspections.

    good, defects: how many were judged, what the model before and the next one say of them as [count, low,
    high], with the 95 % interval (Wilson) of their share. gained: false alarms that would pass. alarms: good
    ones that would be called anomalous and were not. lost: known defects that would not be found any more.
    found: missed ones that would be found. weaker: known defects that stand out less than half as much, and
    are no longer farther out than good pictures are (`Corrected.clear`; where it is not known, the half alone
    counts). missed: known defects that are not found, and the false-alarm rate that would find them. scores:
    of all that changed, before and after, each as [score, threshold].
    """
    good = [one for one in pictures if one.good and one.number in made.after]
    defects = [one for one in pictures if not one.good and one.number in made.after]

    def those(of: Sequence[Reviewed], was: bool, becomes: bool) -> list[int]:
        return [
            one.number
            for one in of
            if (made.before[one.number].anomalous, made.after[one.number].anomalous) == (was, becomes)
        ]

    lists = {
        "gained": those(good, True, False),
        "alarms": those(good, False, True),
        "lost": those(defects, True, False),
        "found": those(defects, False, True),
        "weaker": [
            number
            for number in those(defects, True, True)
            if made.after[number].severity < STAYS * made.before[number].severity
            and (made.clear is None or made.after[number].severity <= made.clear)
        ],
    }
    changed = sorted({number for several in lists.values() for number in several})
    return {
        "how": made.how,
        "good": _counts(good, made),
        "defects": _counts(defects, made),
        **lists,
        "missed": [
            {"id": one.number, "rate": made.after[one.number].p_value}
            for one in defects
            if not made.after[one.number].anomalous
        ],
        "scores": {
            str(number): {"before": _pair(made.before[number]), "after": _pair(made.after[number])}
            for number in changed
        },
        "cross_fitted": sum(score.learnt for score in made.after.values()),
        "learnt": made.learnt,
        "unsure": made.unsure,
        "contradictory": made.contradictory,
        "unreadable": made.unreadable,
        "inside": made.inside,
        "drawn": made.drawn,
        "kept": made.kept,
    }


def _counts(of: Sequence[Reviewed], made: Corrected) -> dict[str, Any]:
    found: dict[str, Any] = {"count": len(of)}
    for when, scores in (("before", made.before), ("after", made.after)):
        anomalous = sum(scores[one.number].anomalous for one in of)
        found[when] = [anomalous, *(round(end, 4) for end in wilson(anomalous, len(of)))]
    return found


def _pair(score: Score) -> list[float]:
    return [score.score, score.threshold]
