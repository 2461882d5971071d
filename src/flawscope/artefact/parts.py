"""Reads from a model which part and view a picture shows, and the calibration of parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from flawscope.artefact.model_file import Manifest
from flawscope.calibration.goods import scored
from flawscope.calibration.parts import PartCalibration, PartPattern, View
from flawscope.errors import InputError

PART = "part"  # in the manifest's facts
Manifests = Manifest | Mapping[str, Manifest]  # a model's, or where each view has its own, by view


def stored_part_pattern(manifest: Manifest) -> PartPattern | None:
    """Pattern by which a model tells parts and views apart; None: it judges single pictures."""
    known = manifest.facts.get(PART)
    if known is None:
        return None
    try:
        return PartPattern(str(known["part"]), None if known["view"] is None else str(known["view"]))
    except (KeyError, TypeError):
        raise InputError("the model's parts are damaged: fit again") from None


def check_whole_parts(views: Collection[str], pictures: Iterable[View]) -> None:
    """Checks that good pictures show a part from all views: new parts are compared with such.

    Args:
        views: names of all views.
        pictures: part and view of each good picture that is to calibrate.

    Raises:
        InputError: no part has a picture of each view.
    """
    views_of: dict[str, set[str]] = {}
    for part, view in pictures:
        views_of.setdefault(part, set()).add(view)
    if not any(shown >= {*views} for shown in views_of.values()):
        raise InputError(
            f"no good part has pictures of all views ({', '.join(views)}), and new parts are compared with "
            "such: give pictures of all views of the same good parts"
        )


def part_calibration(models: Manifests, pattern: PartPattern) -> PartCalibration:
    """Calibration of parts: the calibrations' scores, by the names of their pictures.

    Raises:
        InputError: a model was calibrated on pictures whose names tell no part.
    """
    if isinstance(models, Manifest):
        rows = scored(models.pictures)
        views = pattern.parse_all(row.name for row in rows)
        return PartCalibration.from_views(views, models.calibration.scores, models.calibration.rate)
    every, scores = list[View](), list[float]()
    for view, manifest in models.items():
        every += [View(pattern.parse_part(row.name), view) for row in scored(manifest.pictures)]
        scores += manifest.calibration.scores
    return PartCalibration.from_views(every, scores, next(iter(models.values())).calibration.rate)
