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
        units: Units of all pictures whose pixels the model does not know.
        failures: A line for each picture that cannot be used, with the reason.
        left_out: Number of pictures of parts that the model has learnt from, and of copies.
    """

    scored: ScoredRows
    units: Units
    failures: list[str]
    left_out: int

    @property
    def rows(self) -> list[Picture]:
        return [*self.scored.rows.values()]

    @property
    def usable(self) -> list[Picture]:
        return self.scored.usable

    @property
    def lost(self) -> list[str]:
        """Names of the pictures that count as above all scores."""
        return [row.name for row in self.scored.lost.values()]

    def looks_of_views(self, manifest: Manifest) -> dict[str, list[NDArray[np.float32]]]:
        """Return the pictures' thumbnails by view of a part; empty where the model has no parts."""
        pattern = stored_part_pattern(manifest)
        found = dict[str, list[NDArray[np.float32]]]()
        for number, row in self.scored.rows.items():
            look = self.scored.answers.pictures[number].look
            if pattern is not None and look is not None:
                found.setdefault(pattern.parse(row.name).view, []).append(look)
        return found

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
            fitted = pluralize(self.left_out, "picture")
            copies = self.units.describe_copies()
            yield data_checks.KNOWN_PICTURES.coded(
                f"not calibrated with {fitted} that the model was fitted on, or copies"
                f"{f': {copies}' if copies else ''}"
            )


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
        names: Their names.
        known: Rows that the model has learnt from.
        step: Gets the progress.
    """
    table = PictureTable.read(good, names, CALIBRATE, step)
    hashes = {row.hash for row in known}
    fresh = [number for number in table.distinct() if table.rows[number].hash not in hashes]
    part_of = stored_part_reader(model.manifest)
    units = units_of([table.rows[number] for number in fresh], known, part_of)
    asked = {number: units.rows[k] for k, number in enumerate(fresh) if k not in units.copies}
    good_pictures = SessionPictures(model, good, step)
    run_of = leave_out_known(model, known)
    scored = score(good_pictures, asked, run_of, model.manifest.preprocess.lights)
    failures = [*table.failures.values(), *scored.answers.failures.values()]
    left_out = len(names) - len(scored.rows) - len(failures)
    return _NewPictures(scored, units, failures, left_out)


def _check_usable(new: _NewPictures, given: int) -> None:
    """Raise an InputError where none of the `given` pictures can be calibrated on."""
    if new.usable:
        return
    if new.lost:
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    if new.failures:
        raise InputError(new.failures[0])
    why = "the model was fitted on all of them: give good pictures it has not seen"
    copies = new.units.describe_copies()
    raise InputError((f"{why} ({copies})" if copies else why) if given else "no good pictures given")


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
        names: Names of the pictures, which tell their parts.
        step: Gets the progress.
        force: Whether the pictures are good without doubt: open questions become notes.

    Raises:
        InputError: No picture can be used, or no part would have all views.
    """
    manifest = model.manifest
    before = model.manifest.calibration
    pattern = stored_part_pattern(manifest)
    if pattern is not None:
        require_whole_part(part_calibration(manifest, pattern).views, pattern.parse_all(names))
    known = [row.forgotten() for row in manifest.pictures if row.learnt]
    new = _judge_new(model, good, names, known, step)
    _check_usable(new, len(names))
    rows = (*known, *new.rows)
    how = before.to_dict() | {
        "method": f"held out{within_range(manifest.preprocess.normalization)}",
        "runtime": model.session.runtime,
        "promised": True,
    }
    calibration = calibrate(rows, **how)
    expected = ExpectedPictures.from_facts(manifest.facts)
    found = find_unusual(
        rows,
        calibration,
        DefectScores.from_facts(manifest.facts),
        {row.hash for row in new.usable},
        before=before,
        appearance=expected.appearance,
        left_out=new.left_out,
    )
    remarks, questions = settle(found, force)
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
