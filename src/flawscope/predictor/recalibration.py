"""Calibrates a model on new good pictures, in each light where it keeps its false-alarm rate in a range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress, repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Picture
from flawscope.calibration.outliers import (
    defect_like_question,
    flagged_note,
    learnt_note,
    sole_note,
    too_few_question,
)
from flawscope.calibration.power import DefectScores
from flawscope.calibration.threshold import envelope, from_values
from flawscope.errors import InputError, join_names, pluralize
from flawscope.pictures.appearance import APPEARANCE_KEY as APPEARANCE
from flawscope.pictures.appearance import FeatureValues, describe_shifts
from flawscope.pictures.decoding import PictureSource, pixel_hash
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_new_parts, nothing_shown
from flawscope.progress import ProgressCallback
from flawscope.results.findings import COUNT_WRONG
from flawscope.results.prediction import FAR_SHIFT
from flawscope.views.light import Light, within_range

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


def recalibrate(
    predictor: Predictor,
    good: Sequence[PictureSource],
    step: ProgressCallback,
    force: bool,
    names: Sequence[str] = (),
) -> Predictor:
    """Returns the model with thresholds from new good pictures (`Predictor.calibrate`). names: of the
    pictures, which tell their parts; by default those of their files."""
    others = tuple(p for p in predictor.manifest.pictures if p.role != "calibration")
    known, how, before = {p.hash for p in others}, predictor.manifest.preprocess, predictor.calibration
    given, usable, lost, failures = list[_Picture](), list[_Picture](), list[_Picture](), list[str]()

    def new_pictures() -> Iterator[PictureSource]:
        for number, source in enumerate(good):
            look = None
            try:
                picture = how.decode(source)
                digest, look = pixel_hash(picture), Look.of(how.first_picture(picture))
            except (InputError, MemoryError):
                digest = f"unreadable {number}"  # `stream` says why
            if digest not in known:
                known.add(digest)
                given.append(_Picture(number, source, digest, look))
                yield source

    for done, (_, result) in enumerate(predictor.stream(new_pictures()), start=1):
        if done < len(good):
            step("calibration", done, len(good))
        if isinstance(result, InputError):
            failures.append(str(result))
        elif (finding := next((one for one in result.findings if one.decides), None)) is None:
            median = float(np.median(result.map[predictor.valid_mask(result.geometry)]))
            pair = result.score, float(result.map.max())
            usable.append(given[done - 1]._replace(values=pair, median=median, shifts=result.shifts))
        elif finding.code == COUNT_WRONG:
            lost.append(given[done - 1])
        else:
            name = result.path or "a picture"
            failures.append(f"cannot calibrate on {name}: {finding.words}; remove it")
    step("calibration", len(good), len(good))
    if not usable:
        why = "the model was fitted on all of them: give good pictures it has not seen"
        raise InputError(failures[0] if failures else why if good else "no good pictures given")
    left_out = len(good) - len(usable) - len(lost) - len(failures)
    lit = values_in_lights(predictor, [picture.source for picture in usable], how.lights[1:])
    values = np.concatenate([[[picture.values] for picture in usable], lit], axis=1)
    gone = np.asarray(np.isnan(values).any(axis=(1, 2)))
    if gone.all():
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    lost += compress(usable, gone)
    usable, values = [*compress(usable, ~gone)], values[~gone]
    every = [*usable, *lost]
    names = [names[k.number] for k in every] if names else relative_names([good[k.number] for k in every])
    notes = [f"calibrated anew on {pluralize(len(usable), 'good picture')}"]
    if gone.any():
        named = [relative_names(good)[picture.number] for picture in lost[-int(gone.sum()) :]]
        notes.append(f"parts lost in some light, and so counted as anomalous: {join_names(named)}")
    looks, group = [picture.look for picture in every], predictor.manifest.facts.get("group")
    units = find_new_parts(looks, names, group, force=True, say=notes.append)
    names, lost_names = names[: len(usable)], names[len(usable) :]
    if left_out:
        fitted = pluralize(left_out, "picture")
        notes.append(f"not calibrated with {fitted} that the model was fitted on, or copies")
    scores, maxima = (envelope(part, units[: len(usable)]) for part in np.moveaxis(values, 2, 0))
    calibration = from_values(
        scores,
        maxima,
        [picture.median for picture in usable],
        rate=before.rate,
        method=f"held out{within_range(how.normalization)}",
        runtime=predictor.session.runtime,
        precision=before.precision,
        outline=before.outline,
        miscounted=len(lost),
        units=units,
    )
    defects = DefectScores.from_facts(predictor.manifest.facts)
    questions = [
        *filter(None, [too_few_question(calibration, before, left_out)]),
        *filter(None, [nothing_shown(looks, [*names, *lost_names])]),
        *filter(None, [defect_like_question(calibration, names, defects, before=before)]),
    ]
    if force:
        notes, questions = [*notes, *questions], []
    flagged = flagged_note(calibration, before, names) or sole_note(calibration, names)
    other = _other_look_note([picture.shifts for picture in usable], names)
    notes += filter(None, [flagged, other, learnt_note(calibration, before)])
    new = predictor.with_calibration(calibration, *notes)
    # groups are of pictures that were left out; these were not
    facts = {k: v for k, v in new.manifest.facts.items() if k != "calibration_groups"}
    facts["calibration_pictures"] = [picture.digest for picture in usable]
    if predictor.appearance is not None:  # pictures like these are expected from now on
        facts[APPEARANCE] = predictor.appearance.widen(picture.shifts for picture in usable).to_dict()
    own = map(Picture, facts["calibration_pictures"], repeat("calibration"), names)
    manifest = replace(new.manifest, pictures=(*others, *own), facts=facts).asking(*questions)
    new = type(predictor)(replace(predictor.artefact, manifest=manifest), predictor.session)
    new.failures = failures
    return new


def _other_look_note(shifts: Sequence[FeatureValues], names: Sequence[str]) -> str | None:
    """Note on pictures that are unlike those learnt from, as a whole; None where there are none. shifts: of
    the pictures, empty where nothing is known."""
    far = [k for k, one in enumerate(shifts) if one and max(map(abs, one)) > FAR_SHIFT]
    if not far:
        return None
    return (
        f"unlike the pictures learnt from ({describe_shifts([shifts[k] for k in far])}), from now on "
        f"expected: {join_names([names[k] for k in far])}"
    )


class _Picture(NamedTuple):
    """Picture with its number among those given, the hash of its pixels, and what it is compared by; judged,
    with its score and its map's maximum, the map's median, and how far the picture is shifted."""

    number: int
    source: PictureSource
    digest: str
    look: Look | None
    values: tuple[float, float] = (np.nan, np.nan)
    median: float = np.nan
    shifts: FeatureValues = ()


def values_in_lights(
    predictor: Predictor, pictures: Sequence[PictureSource], lights: Sequence[Light]
) -> NDArray[np.float64]:
    """Scores and maxima of the maps [N, lights, 2] of pictures in lights; NaN where their parts are lost or
    counted wrong in one. InputError: a picture cannot be read again."""
    how, values = predictor.manifest.preprocess, np.full((len(pictures), len(lights), 2), np.nan)
    for k, light in enumerate(lights):
        for row, (_, result) in enumerate(predictor.stream(light(how.decode(one)) for one in pictures)):
            if isinstance(result, Exception):
                raise result
            if not any(finding.decides for finding in result.findings):
                values[row, k] = result.score, float(result.map.max())
    return values
