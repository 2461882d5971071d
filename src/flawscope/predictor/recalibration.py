"""Calibrates a model on new good pictures, in each light where it keeps its false-alarm rate in a range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.goods import (
    CALIBRATION,
    Picture,
    Values,
    calibrate,
    judge,
    map_values,
    renumber,
)
from flawscope.calibration.outliers import odd, settle
from flawscope.calibration.power import DefectScores
from flawscope.errors import InputError, join_names, pluralize
from flawscope.pictures.appearance import APPEARANCE_KEY as APPEARANCE
from flawscope.pictures.appearance import FeatureValues, describe_shifts
from flawscope.pictures.decoding import PictureSource, pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_new_parts, nothing_shown
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results.findings import COUNT_WRONG
from flawscope.results.prediction import FAR_SHIFT, Prediction
from flawscope.views.light import within_range

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


class NewPicture(NamedTuple):
    """Picture with its number among those given, the hash of its pixels, and what it is compared by; judged,
    how far it is shifted, and its values in each light, its own first; NaN where its parts are lost or
    counted wrong."""

    number: int
    source: PictureSource
    digest: str
    look: Look | None
    shifts: FeatureValues = ()
    values: NDArray[np.float64] = np.empty((0, 3))

    @property
    def is_lost(self) -> bool:
        return bool(np.isnan(self.values).any())


def judge_new(
    predictor: Predictor,
    good: Sequence[PictureSource],
    known: Iterable[str] = (),
    step: ProgressCallback = ignore_progress,
) -> tuple[list[NewPicture], list[str]]:
    """Judges good pictures that a model has not learnt from, in each light in which it keeps its rate; and
    says why others cannot be used. known: hashes of pixels that are left out, as copies are."""
    seen, how, given, judged = {*known}, predictor.manifest.preprocess, list[NewPicture](), list[NewPicture]()
    failures = list[str]()

    def new_pictures() -> Iterator[PictureSource]:
        for number, source in enumerate(good):
            look = None
            try:
                picture = how.decode(source)
                digest, look = pixel_hash(picture), Look.of(how.first_picture(picture))
            except (InputError, MemoryError):
                digest = f"unreadable {number}"  # `stream` says why
            if digest not in seen:
                seen.add(digest)
                given.append(NewPicture(number, source, digest, look))
                yield source

    for done, (_, result) in enumerate(predictor.stream(new_pictures()), start=1):
        if done < len(good):
            step("calibration", done, len(good))
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        finding = next((one for one in result.findings if one.decides), None)
        if finding is not None and finding.code != COUNT_WRONG:
            name = result.path or "a picture"
            failures.append(f"cannot calibrate on {name}: {finding.words}; remove it")
            continue
        values = np.full((len(how.lights), 3), np.nan)
        if finding is None:
            values[0] = _values_of(predictor, result)
        judged.append(given[done - 1]._replace(shifts=result.shifts, values=values))
    for k, light in enumerate(how.lights[1:], start=1):
        found = [picture for picture in judged if not np.isnan(picture.values[0]).any()]
        shown = (light(how.decode(picture.source)) for picture in found)
        for picture, (_, result) in zip(found, predictor.stream(shown), strict=True):
            if isinstance(result, Exception):
                raise result
            if not any(one.decides for one in result.findings):
                picture.values[k] = _values_of(predictor, result)
    step("calibration", len(good), len(good))
    return judged, failures


def _values_of(predictor: Predictor, found: Prediction) -> Values:
    return map_values(found.score, found.map, predictor.valid_mask(found.geometry))


def recalibrate(
    predictor: Predictor,
    good: Sequence[PictureSource],
    step: ProgressCallback,
    force: bool,
    names: Sequence[str] = (),
) -> Predictor:
    """Returns the model with thresholds from new good pictures (`Predictor.calibrate`). names: of the
    pictures, which tell their parts; by default those of their files."""
    others = [row.forgotten() for row in predictor.manifest.pictures if row.learnt]
    how, before = predictor.manifest.preprocess, predictor.calibration
    every, failures = judge_new(predictor, good, (row.hash for row in others), step)
    usable = [picture for picture in every if not picture.is_lost]
    unlit = [one for one in every if one.is_lost and not np.isnan(one.values[0]).any()]
    if not usable and not unlit:
        why = "the model was fitted on all of them: give good pictures it has not seen"
        raise InputError(failures[0] if failures else why if good else "no good pictures given")
    if not usable:
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    left_out, own = len(good) - len(every) - len(failures), relative_names(good)
    names = [(names or own)[picture.number] for picture in every]
    notes = [f"calibrated anew on {pluralize(len(usable), 'good picture')}"]
    if unlit:
        lost = join_names([own[picture.number] for picture in unlit])
        notes.append(f"parts lost in some light, and so counted as anomalous: {lost}")
    looks, group = [picture.look for picture in every], predictor.manifest.facts.get("group")
    units = find_new_parts(looks, names, group, force=True, say=notes.append)
    if left_out:
        fitted = pluralize(left_out, "picture")
        notes.append(f"not calibrated with {fitted} that the model was fitted on, or copies")
    rows = [
        Picture(picture.digest, CALIBRATION, name, unit)
        for picture, name, unit in zip(every, names, units, strict=True)
    ]
    new_rows = judge(rows, np.array([picture.values for picture in every]))
    pictures = (*others, *renumber(new_rows, predictor.manifest.pictures))
    how_scored = before.to_dict() | {
        "method": f"held out{within_range(how.normalization)}",
        "runtime": predictor.session.runtime,
        "promised": True,
    }
    calibration = calibrate(pictures, **how_scored)
    defects = DefectScores.from_facts(predictor.manifest.facts)
    found = odd(
        pictures,
        calibration,
        defects,
        before=before,
        left_out=left_out,
        nothing=nothing_shown(looks, names),
        unlike=_unlike(usable, {one.number: name for one, name in zip(every, names, strict=True)}),
    )
    more, questions = settle(found, force)
    notes += more
    new = predictor.with_calibration(calibration, *notes)
    facts = dict(new.manifest.facts)
    if predictor.appearance is not None:  # pictures like these are expected from now on
        facts[APPEARANCE] = predictor.appearance.widen(one.shifts for one in usable).to_dict()
    manifest = replace(new.manifest, pictures=pictures, facts=facts).asking(*questions)
    new = type(predictor)(replace(predictor.artefact, manifest=manifest), predictor.session)
    new.failures = failures
    return new


def _unlike(pictures: Sequence[NewPicture], names: Mapping[int, str]) -> str | None:
    """Line on pictures that are unlike those learnt from, as a whole; None where there are none. names: of
    all that were given, by number."""
    far = [one for one in pictures if one.shifts and max(map(abs, one.shifts)) > FAR_SHIFT]
    if not far:
        return None
    return (
        f"unlike the pictures learnt from ({describe_shifts([one.shifts for one in far])}), from now on "
        f"expected: {join_names([names[one.number] for one in far])}"
    )
