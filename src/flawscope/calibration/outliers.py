"""Judges the good pictures that a threshold comes from: which one sets it alone, and which are as far out as
defects are. One rule for fits, updates, new calibrations and reduced precisions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flawscope.calibration import min_calibration_size
from flawscope.calibration.power import DefectScores
from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError, join_names, pluralize

FORCE = "go on with --force"
MIN_CHANCE = 0.01  # with which unseen pictures score so low


def sole_note(calibration: Calibration, names: Sequence[str]) -> str | None:
    """Note on the picture that alone sets the threshold; None where there is none. names: of the scores'
    pictures, in their order."""
    found = calibration.sole_threshold() if calibration.promised else None
    if found is None:
        return None
    place, without = found
    return (
        f"{names[place]} alone sets the score threshold: {calibration.score_threshold:.4g}, without it "
        f"{without:.4g}; look whether it is good"
    )


def check_defect_like(
    calibration: Calibration,
    names: Sequence[str],
    defects: DefectScores | None,
    *,
    force: bool,
    before: Calibration | None = None,
    remedy: str = FORCE,
) -> list[str]:
    """Notes on pictures that score apart from the others and as high as half of the clear simulated defects
    of middle and large size: with them the model would call such defects good.

    Args:
        names: of the scores' pictures, in their order.
        defects: of the same network; None: nothing is known of defects.
        before: the calibration that this one replaces, if any.

    Raises:
        InputError: there are such pictures, and nobody says with `force` that they are good.
    """
    usual = _middle_defect(defects, calibration.precision)
    if usual is None or not calibration.promised:
        return []
    far = [place for place in calibration.far_out() if calibration.scores[place] >= usual]
    # a model that cannot tell defects from good pictures says nothing about the pictures
    if before is not None and before.score_threshold < usual <= float(np.median(calibration.scores)):
        far, several = list(range(len(names))), "most of the pictures are"
    else:
        several = f"{join_names([names[place] for place in far])} {'is' if len(far) == 1 else 'are'}"
    rest = calibration.without_units(far)
    # without them the model would find such defects; else it is not these pictures that hide them
    if not far or (rest is not calibration and rest.score_threshold >= usual):
        return []
    text = (
        f"{several} as far out as defects are: half of the clear simulated ones score less than {usual:.4g}"
    )
    if rest is not calibration:
        text += (
            f"; without it the score threshold is {rest.score_threshold:.4g} instead of "
            f"{calibration.score_threshold:.4g}"
        )
    if not force:
        raise InputError(f"{text}: take out what is not good, or {remedy}")
    return [text]


def learnt_note(new: Calibration, before: Calibration) -> str | None:
    """Note where all scores of new pictures are lower than chance lets those of unseen ones be: copies of
    pictures learnt from are, saved anew and so unknown by their pixels."""
    above = int(sum(score > max(new.scores) for score in before.scores))
    count, others = len(before.scores), len(new.scores)
    chance = math.comb(count, above) / math.comb(count + others, above)  # the highest of both are the earlier
    if not before.promised or chance >= MIN_CHANCE:
        return None
    return (
        f"none scores above {max(new.scores):.4g}, as {above} of {count} did before: are they copies of "
        "pictures that the model has learnt from? If so, new parts will be called anomalous more often"
    )


def check_enough(new: Calibration, before: Calibration, left_out: int, *, force: bool) -> None:
    """InputError where a new calibration can promise neither the rate nor as much as the one before, unless
    `force` says that it may. left_out: pictures that the model had learnt from, and copies."""
    needed = min_calibration_size(new.rate)
    if force or not before.promised or new.unit_count >= min(needed, before.unit_count):
        return
    parts = pluralize(new.unit_count, "picture") if not new.has_shared_units else new.describe_pictures()
    learnt = f", {left_out} others were learnt from or are copies" if left_out else ""
    raise InputError(
        f"{parts} can calibrate{learnt}: {new.rate:.1%} needs {needed}, and only "
        f"{new.effective_rate:.1%} could be promised, before it was {before.effective_rate:.1%}; give more "
        f"good pictures that the model has not seen, or {FORCE}"
    )


def _middle_defect(defects: DefectScores | None, precision: str) -> float | None:
    """Middle score of the clear simulated defects, small ones aside; None where nothing is known."""
    if defects is None or defects.precision != precision:
        return None
    scores = [score for size in [*defects.scores][1:] for score in defects.clear_scores(size)]
    return float(np.median(scores)) if scores else None
