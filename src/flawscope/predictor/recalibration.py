"""Calibrates a model on new good pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.detection import with_decided_defects
from flawscope.artefact.expected import ExpectedPictures
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import (
    part_calibration,
    require_whole_part,
    stored_part_pattern,
    stored_part_reader,
)
from flawscope.calibration.outliers import find_unusual, settle
from flawscope.calibration.power import DefectScores
from flawscope.calibration.rows import calibrate
from flawscope.errors import InputError, data_checks, join_names, pluralize
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.table import CALIBRATE, Picture, PictureTable
from flawscope.pictures.units import Units, units_of
from flawscope.predictor.product_model import ProductModel
from flawscope.predictor.scoring import ScoredRows, SessionPictures, leave_out_known, lost_note, score
from flawscope.progress import ProgressCallback
from flawscope.views.light import within_range


@dataclass(frozen=True)
class Recalibration:
    """Result of a calibration on new good pictures.

    Attributes:
        manifest: The model's manifest with the new thresholds.
        failures: Pictures that cannot be used, each with the reason.
    """

    manifest: Manifest
    failures: list[str]


@dataclass(frozen=True)
class _NewPictures:
    """New good pictures of a calibration.

    Attributes:
        scored: The pictures that were scored.
        units: Units of the pictures whose pixels the model has not learnt from.
        failures: A line for each picture that cannot be used, with the reason.
        left_out: Number of pictures that were left out: pictures that the model was fitted on, and copies.
    """

    scored: ScoredRows
    units: Units
    failures: list[str]
    left_out: int

    @property
    def rows(self) -> list[Picture]:
        """Rows of the scored pictures."""
        return [*self.scored.rows.values()]

    @property
    def usable(self) -> list[Picture]:
        """Rows of the pictures with a score."""
        return self.scored.usable

    @property
    def lost(self) -> list[str]:
        """Names of the lost pictures: they count as pictures with a score above all others."""
        return [row.name for row in self.scored.lost.values()]

    def looks_of_views(self, manifest: Manifest) -> dict[str, list[NDArray[np.float32]]]:
        """Return the pictures' thumbnails by view of a part; empty where the model has no parts."""
        pattern = stored_part_pattern(manifest)
        looks = dict[str, list[NDArray[np.float32]]]()
        if pattern is None:
            return looks
        for number, row in self.scored.rows.items():
            look = self.scored.answers.pictures[number].look
            if look is not None:
                looks.setdefault(pattern.parse(row.name).view, []).append(look)
        return looks

    def notes(self) -> Iterator[str]:
        """Yield the new model's notes on the pictures of its calibration."""
        yield f"calibrated anew on {pluralize(len(self.usable), 'good picture')}"
        if self.lost:
            yield lost_note(self.lost)
        yield from self.units.remarks
        if self.units.further:
            names = join_names([self.units.rows[k].name for k in self.units.further])
            line = f"judged without what the model has learnt of their parts, which names tell: {names}"
            yield data_checks.JUDGED_WITHOUT_PART.coded(line)
        if self.left_out:
            pictures = pluralize(self.left_out, "picture")
            line = f"not calibrated with {pictures} that the model was fitted on, or copies"
            copies = self.units.describe_copies()
            if copies:
                line += f": {copies}"
            yield data_checks.KNOWN_PICTURES.coded(line)


def _judge_new(
    model: ProductModel,
    good: DecodedPictures,
    names: Sequence[str],
    known: Sequence[Picture],
    step: ProgressCallback,
) -> _NewPictures:
    """Judge the good pictures that a model has not learnt from.

    Args:
        model: The model.
        good: The pictures, decoded.
        names: Names of the pictures.
        known: Rows that the model has learnt from.
        step: Gets the progress.
    """
    table = PictureTable.read(good, names, CALIBRATE, step)
    known_hashes = {row.hash for row in known}
    new_numbers = [number for number in table.distinct() if table.rows[number].hash not in known_hashes]
    part_of = stored_part_reader(model.manifest)
    new_rows = [table.rows[number] for number in new_numbers]
    units = units_of(new_rows, known, part_of)
    rows_to_score = {}
    for k, number in enumerate(new_numbers):  # `units` counts the new pictures in this order
        if k not in units.copies:
            rows_to_score[number] = units.rows[k]
    good_pictures = SessionPictures(model, good, step)
    run_of = leave_out_known(model, known)
    scored = score(good_pictures, rows_to_score, run_of, model.manifest.preprocess.lights)
    failures = [*table.failures.values(), *scored.answers.failures.values()]
    left_out = len(names) - len(scored.rows) - len(failures)
    return _NewPictures(scored, units, failures, left_out)


def _check_usable(new: _NewPictures, count: int) -> None:
    """Raise InputError if none of the `count` given pictures is usable."""
    if new.usable:
        return
    if new.lost:
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    if new.failures:
        raise InputError(new.failures[0])
    if not count:
        raise InputError("no good pictures given")
    copies = new.units.describe_copies()
    example = f" ({copies})" if copies else ""
    raise InputError(f"the model was fitted on all of them: give good pictures it has not seen{example}")


def recalibrate(
    model: ProductModel,
    good: DecodedPictures,
    names: Sequence[str],
    step: ProgressCallback,
    force: bool,
) -> Recalibration:
    """Calibrate a model on new good pictures, as `Predictor.calibrate` does.

    Args:
        model: The model.
        good: The pictures, decoded.
        names: Names of the pictures; a name may state the part that the picture shows.
        step: Gets the progress.
        force: Whether the pictures are known to be good. Open questions then become notes.

    Raises:
        InputError: No picture can be used, or no part would have all views.
    """
    manifest = model.manifest
    old_calibration = model.manifest.calibration
    pattern = stored_part_pattern(manifest)
    if pattern is not None:
        require_whole_part(part_calibration(manifest, pattern).views, pattern.parse_all(names))
    learnt_rows = [row.forgotten() for row in manifest.pictures if row.learnt]
    new = _judge_new(model, good, names, learnt_rows, step)
    _check_usable(new, len(names))
    rows = (*learnt_rows, *new.rows)
    # the new calibration has the old one's settings
    settings = old_calibration.to_dict() | {
        "method": f"held out{within_range(manifest.preprocess.normalization)}",
        "runtime": model.session.runtime,
        "promised": True,
    }
    calibration = calibrate(rows, **settings)
    expected = ExpectedPictures.from_facts(manifest.facts)
    unusual = find_unusual(
        rows,
        calibration,
        defects=DefectScores.from_facts(manifest.facts),
        new={row.hash for row in new.usable},
        before=old_calibration,
        appearance=expected.appearance,
        left_out=new.left_out,
    )
    remarks, questions = settle(unusual, force)
    notes = *new.notes(), *expected.scale_notes(new.usable), *remarks
    widened = expected.widened(new.usable).with_views(new.looks_of_views(manifest))
    changed = replace(
        manifest,
        calibration=calibration,
        notes=(*manifest.notes, *notes),
        pictures=rows,
        facts=widened.to_facts(manifest.facts),
    )
    return Recalibration(with_decided_defects(changed).asking(*questions), new.failures)
