"""Reads from a model its pattern of parts and views, and the calibration of parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flawscope.artefact.model_file import Manifest
from flawscope.calibration.parts import KnownParts, PartCalibration, PartPattern, View
from flawscope.calibration.rows import counted, ranking_scores
from flawscope.errors import InputError
from flawscope.pictures.table import Picture
from flawscope.pictures.units import PartReader, group_reader

PART = "part"  # in the manifest's facts


def stored_part_pattern(manifest: Manifest) -> PartPattern | None:
    """Read a model's pattern of parts and views; None: the model judges single pictures.

    Raises:
        InputError: The pattern is damaged.
    """
    patterns = manifest.facts.get(PART)
    if patterns is None:
        return None
    try:
        view_pattern = None if patterns["view"] is None else str(patterns["view"])
        return PartPattern(str(patterns["part"]), view_pattern)
    except (KeyError, TypeError):
        raise InputError("the model's parts are damaged: fit again") from None


def stored_part_reader(manifest: Manifest) -> PartReader | None:
    """Return the function that reads the part from a picture's name; None: the model has no rule for it.

    Raises:
        InputError: The rule is damaged.
    """
    pattern = stored_part_pattern(manifest)
    return group_reader(manifest.facts.get("group")) if pattern is None else pattern.part_key


def require_whole_part(views: Collection[str], pictures: Iterable[View]) -> None:
    """Check that at least one good part has pictures of all views, to compare new parts with.

    Args:
        views: Names of all views.
        pictures: Part and view of each good picture of a calibration.

    Raises:
        InputError: No part has a picture of each view.
    """
    views_by_part: dict[str, set[str]] = {}
    for part, view in pictures:
        views_by_part.setdefault(part, set()).add(view)
    if not any(part_views >= {*views} for part_views in views_by_part.values()):
        raise InputError(
            f"no good part has pictures of all views ({', '.join(views)}), and new parts are compared with "
            "such: give pictures of all views of the same good parts"
        )


def part_calibration(manifest: Manifest, pattern: PartPattern) -> PartCalibration:
    """Return the calibration of parts: a model's scores of good pictures, grouped by part.

    Raises:
        InputError: The model was calibrated on pictures whose names name no part.
    """
    return parts_of_rows(manifest.pictures, pattern, manifest.calibration.rate).calibration


def parts_of_rows(rows: Iterable[Picture], pattern: PartPattern, rate: float) -> KnownParts:
    """Return the good parts in the rows of a model's pictures.

    Args:
        rows: Rows of good pictures; rows that the calibration does not count are left out.
        pattern: Pattern of the names of part and view.
        rate: Target false-alarm rate.

    Raises:
        InputError: The name of a picture names no part.
    """
    counted_rows = counted(rows)
    views = pattern.parse_all(row.name for row in counted_rows)
    drawn = [row.drawn for row in counted_rows]
    calibration = PartCalibration.from_views(views, ranking_scores(counted_rows), rate, drawn=drawn)
    return KnownParts(calibration, pattern.parse)


def parts_of_model(manifest: Manifest) -> KnownParts | None:
    """Return the good parts that a model was calibrated on; None: the model judges single pictures.

    Raises:
        InputError: The model was calibrated on pictures whose names name no part.
    """
    pattern = stored_part_pattern(manifest)
    if pattern is None:
        return None
    return parts_of_rows(manifest.pictures, pattern, manifest.calibration.rate)
