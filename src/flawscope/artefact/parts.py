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
    """Read a model's pattern of parts and views. None: it judges single pictures. InputError: damaged."""
    known = manifest.facts.get(PART)
    if known is None:
        return None
    try:
        return PartPattern(str(known["part"]), None if known["view"] is None else str(known["view"]))
    except (KeyError, TypeError):
        raise InputError("the model's parts are damaged: fit again") from None


def stored_part_reader(manifest: Manifest) -> PartReader | None:
    """Read a model's rule that reads a part from a picture's name; None: none. InputError: damaged."""
    pattern = stored_part_pattern(manifest)
    return group_reader(manifest.facts.get("group")) if pattern is None else pattern.part_key


def require_whole_part(views: Collection[str], pictures: Iterable[View]) -> None:
    """Check that good pictures show a part from all views: new parts are compared with such parts.

    Args:
        views: Names of all views.
        pictures: Part and view of each good picture of a calibration.

    Raises:
        InputError: No part has a picture of each view.
    """
    views_of: dict[str, set[str]] = {}
    for part, view in pictures:
        views_of.setdefault(part, set()).add(view)
    if not any(shown >= {*views} for shown in views_of.values()):
        raise InputError(
            f"no good part has pictures of all views ({', '.join(views)}), and new parts are compared with "
            "such: give pictures of all views of the same good parts"
        )


def part_calibration(manifest: Manifest, pattern: PartPattern) -> PartCalibration:
    """Return the calibration of parts: the calibration's scores, by the names of their pictures.

    Raises:
        InputError: The model was calibrated on pictures whose names tell no part.
    """
    return parts_of_rows(manifest.pictures, pattern, manifest.calibration.rate).calibration


def parts_of_rows(rows: Iterable[Picture], pattern: PartPattern, rate: float) -> KnownParts:
    """Return the good parts in the rows of a model's pictures. InputError: a name tells no part."""
    known = counted(rows)
    views = pattern.parse_all(row.name for row in known)
    drawn = [row.drawn for row in known]
    made = PartCalibration.from_views(views, ranking_scores(known), rate, drawn)
    return KnownParts(made, pattern.parse)


def parts_of_model(manifest: Manifest) -> KnownParts | None:
    """Return the good parts that a model was calibrated on; None: it judges single pictures.

    Raises:
        InputError: The model was calibrated on pictures whose names tell no part.
    """
    pattern = stored_part_pattern(manifest)
    if pattern is None:
        return None
    return parts_of_rows(manifest.pictures, pattern, manifest.calibration.rate)
