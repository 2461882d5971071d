"""Calibrates a model on new good pictures, in each light where it keeps its false-alarm rate in a range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flawscope.artefact.model_file import Picture
from flawscope.calibration.outliers import check_defect_like, check_enough, learnt_note, sole_note
from flawscope.calibration.power import DefectScores
from flawscope.calibration.threshold import envelope, from_values
from flawscope.errors import InputError, pluralize
from flawscope.pictures.appearance import APPEARANCE_KEY as APPEARANCE
from flawscope.pictures.decoding import PictureSource, decode, pixel_hash
from flawscope.pictures.light import Normalization, light_variations
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_new_parts
from flawscope.predictor.streaming import SourceResult
from flawscope.progress import ProgressCallback
from flawscope.results.findings import COUNT_WRONG
from flawscope.results.prediction import Prediction

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

CalibrationValues = list[tuple[float, float, float]]  # score, and the map's maximum and median
Stream = Callable[[Iterable[PictureSource]], Iterator[SourceResult]]


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
    known, hashes, how = {p.hash for p in others}, list[str](), predictor.manifest.preprocess

    def new_pictures() -> Iterator[PictureSource]:
        for number, source in enumerate(good):
            look = None
            try:
                picture = how.decode(source)
                digest, look = pixel_hash(picture), Look.of(how.first_picture(picture))
            except (InputError, MemoryError):
                digest = f"unreadable {len(hashes)}"  # `stream` says why
            if digest not in known:
                known.add(digest)
                hashes.append(digest)
                seen.append((number, look))
                yield source

    values, used, used_hashes, shifts, failures = [], list[PictureSource](), [], [], []
    seen, shown, uncounted = (
        list[tuple[int, Look | None]]() for _ in range(3)
    )  # with their places in `good`
    miscounted = 0
    for done, (source, result) in enumerate(predictor.stream(new_pictures()), start=1):
        if done < len(good):
            step("calibration", done, len(good))
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        if (finding := next((one for one in result.findings if one.decides), None)) is not None:
            if finding.code == COUNT_WRONG:
                miscounted += 1
                uncounted.append(seen[done - 1])
            else:
                name = result.path or "a picture"
                failures.append(f"cannot calibrate on {name}: {finding.words}; remove it")
            continue
        counted = result.map[predictor.valid_mask(result.geometry)]
        values.append((result.score, float(result.map.max()), float(np.median(counted))))
        used.append(source)
        used_hashes.append(hashes[done - 1])
        shown.append(seen[done - 1])
        shifts.append(result.shifts)
    step("calibration", len(good), len(good))
    if not values:
        why = "the model was fitted on all of them: give good pictures it has not seen"
        raise InputError(failures[0] if failures else why if good else "no good pictures given")
    places, looks = zip(*shown, *uncounted, strict=True)
    names = [names[k] for k in places] if names else relative_names([good[k] for k in places])
    notes = [f"calibrated anew on {pluralize(len(values), 'good picture')}"]
    units = find_new_parts(looks, names, predictor.manifest.facts.get("group"), force=force, say=notes.append)
    values, method = _calibrate_in_each_light(
        predictor.stream, used, values, units[: len(used)], predictor.manifest.preprocess.normalization
    )
    left_out = len(good) - len(values) - len(failures) - miscounted
    if left_out:
        fitted = pluralize(left_out, "picture")
        notes.append(f"not calibrated with {fitted} that the model was fitted on, or copies")
    calibration = from_values(
        *zip(*values, strict=True),
        rate=predictor.calibration.rate,
        method=method,
        runtime=predictor.session.runtime,
        precision=predictor.calibration.precision,
        outline=predictor.calibration.outline,
        miscounted=miscounted,
        units=units,
    )
    before = predictor.calibration
    check_enough(calibration, before, left_out, force=force)
    defects = DefectScores.from_facts(predictor.manifest.facts)
    notes += check_defect_like(calibration, names[: len(used)], defects, force=force, before=before)
    notes += filter(None, [sole_note(calibration, names[: len(used)]), learnt_note(calibration, before)])
    new = predictor.with_calibration(calibration, *notes)
    # groups are of pictures that were left out; these were not
    facts = {k: v for k, v in new.manifest.facts.items() if k != "calibration_groups"}
    facts["calibration_pictures"] = used_hashes
    if predictor.appearance is not None:  # pictures like these are expected from now on
        facts[APPEARANCE] = predictor.appearance.widen(shifts).to_dict()
    own = (Picture(h, "calibration", name) for h, name in zip(used_hashes, names[: len(used)], strict=True))
    manifest = replace(new.manifest, pictures=(*others, *own), facts=facts)
    new = type(predictor)(replace(predictor.artefact, manifest=manifest), predictor.session)
    new.failures = failures
    return new


def _calibrate_in_each_light(
    stream: Stream,
    pictures: Sequence[PictureSource],
    values: CalibrationValues,
    units: Sequence[int],
    normalization: Normalization | None,
) -> tuple[CalibrationValues, str]:
    """Returns the values for a calibration, and the calibration's method: with `normalization` the envelopes
    of scores and maxima over the lights of its range. InputError: a picture cannot be read again."""
    if normalization is None:
        return values, "held out"
    found = [[(score, maximum) for score, maximum, _ in values]]
    for light in light_variations(normalization.share)[1:]:
        results = stream(light(decode(one)) for one in pictures)
        found.append([_score_and_maximum(result) for _, result in results])
    scores, maxima = (envelope(part.T, units) for part in np.moveaxis(np.array(found), 2, 0))
    medians = [median for *_, median in values]
    together = list(zip(scores.tolist(), maxima.tolist(), medians, strict=True))
    return together, f"held out, in each light within {normalization.share:.0%}"


def _score_and_maximum(result: Prediction | InputError) -> tuple[float, float]:
    if isinstance(result, Exception):
        raise result
    if result.part_found is False or (result.found_parts is not None and result.found_parts.wrong):
        raise InputError("the parts of a good picture are not found in other light: fit without --align")
    return result.score, float(result.map.max())
