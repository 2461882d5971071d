"""Jobs of the process beside the station that makes models and tries them: torch is loaded there alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawscope.station.learning.process import ProgressCallback

EXAMPLE_COUNT = 9  # pictures with simulated defects that are shown
UNUSUAL_COUNT = 8  # good pictures that look most unlike the others
SUBSET_STEPS = (4, 2)  # every 4th and every 2nd picture: the two subsets that are compared
COMPARED_DEFECTS = 36  # simulated defects by which the subsets are compared
MIN_SUBSET = 8  # pictures in a subset
INPUT_CHANGING_OPTIONS = ("light", "align", "part")  # models of other pictures get another input with them
OVERLAY_SIDE = 900  # pixels of the longer side of a picture that is tried


def run_job(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Run a job and return its results.

    Args:
        job: `do`: fit, worth or try; `threads`, `device`; the other keys as the functions below use them.

    Raises:
        InputError: it cannot be done.
    """
    from flawscope.methods.threads import set_thread_count

    set_thread_count(job["threads"])
    return {"fit": _fit, "worth": _learning_curve, "try": _try}[job["do"]](job, step)


def _fit(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Fit and save the model that `flawscope fit` of the same folder makes, and return its measurements."""
    from flawscope.artefact.state_file import checkpoint_path
    from flawscope.fitting import fitting

    checkpoint = checkpoint_path(job["model"])
    made = fitting.fit(
        job["pictures"],
        device=job["device"],
        checkpoint=checkpoint,
        resume=job["resume"],
        step=step,
        **job["given"],
    )
    made.save(job["model"])
    checkpoint.unlink(missing_ok=True)
    manifest, calibration = made.manifest, made.calibration
    names = {one.hash: one.name for one in manifest.pictures}
    hashes, scores = manifest.facts["calibration_pictures"], calibration.scores
    ranked = sorted(zip(scores, hashes, strict=False), reverse=True)[:UNUSUAL_COUNT]
    suspects = {name for name, _ in made.suspects}
    return {
        **_expected_false_alarms(made),
        "threshold": calibration.score_threshold,
        "wanted_rate": calibration.rate,
        "pictures": sum(one.role in ("train", "calibration") for one in manifest.pictures),
        "found": _found_by_size(made),
        "odd": [
            {"name": names[one], "score": score, "suspicious": names[one] in suspects}
            for score, one in ranked
            if one in names
        ],
        "failures": list(made.failures),
        "notes": list(manifest.notes),
        "seconds": manifest.facts["seconds_total"],
        "examples": _draw_examples(made, Path(job["examples"]), step),
    }


def _expected_false_alarms(predictor: Any) -> dict[str, Any]:
    """Return the expected rate of false alarms, and the number of good pictures, or parts, behind it."""
    from flawscope.predictor.parts import part_calibration, stored_part_pattern

    calibration, pattern = predictor.calibration, stored_part_pattern(predictor.manifest)
    if pattern is None:
        promised, count, missing = calibration.promised, calibration.count, calibration.pictures_missing
    else:
        calibration = part_calibration(predictor.manifest, pattern)
        promised, count, missing = (
            calibration.complete_count > 1,
            calibration.complete_count,
            calibration.parts_missing,
        )
    promise, rate = calibration.promise(), calibration.expected_rate
    return {"promise": promise, "promised": promised, "rate": rate, "calibrated": count, "missing": missing}


def _found_by_size(predictor: Any) -> dict[str, list[int]]:
    """Return found and all simulated defects, by size; empty where they were not measured."""
    sizes = predictor.manifest.facts.get("simulated_defects", {}).get("sizes", {})
    return {size: [one["found"], one["defects"]] for size, one in sizes.items()}


def _draw_examples(predictor: Any, folder: Path, step: ProgressCallback) -> list[dict[str, Any]]:
    """Draw simulated defects on pictures, each in a ring; return which the model finds, missed ones first."""
    import numpy as np
    from PIL import Image, ImageDraw

    from flawscope.fitting.simulated_defects import DEFECT_SIZES, defects_on_samples, score_with_models
    from flawscope.station.inspecting.renderings import encode_webp

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    defects = defects_on_samples(predictor.artefact, "cpu")
    if defects is None:
        return []
    scores = score_with_models(defects, [defects.model], range(EXAMPLE_COUNT), step)
    found = []
    for number, (score,) in scores.items():
        image, before = defects.load(number), defects.load_good(defects.picture_of(number))
        assert image is not None, "it was just scored"
        assert before is not None, "it was just scored"
        rows, columns = np.nonzero((image - before).abs().amax(0).numpy())
        picture = Image.fromarray((image.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        if len(rows):
            reach = 6
            box = columns.min() - reach, rows.min() - reach, columns.max() + reach, rows.max() + reach
            ImageDraw.Draw(picture).ellipse([int(value) for value in box], outline=(0, 216, 216), width=3)
        name = f"{number}.webp"
        (folder / name).write_bytes(encode_webp(np.asarray(picture)))
        is_found = not score <= predictor.calibration.score_threshold
        found.append({"file": name, "size": str(DEFECT_SIZES[number % len(DEFECT_SIZES)]), "found": is_found})
    return sorted(found, key=lambda one: one["found"])


def _learning_curve(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Measure what more pictures bring: models of a quarter and half of the pictures judge the same simulated
    defects on pictures that neither has learnt from. `curve`: share found at the same false-alarm rate, by
    number of pictures; `tested`: found and all by size, of the larger model at its own rate. Both are empty
    where the models cannot be compared."""
    from flawscope.fitting import fitting
    from flawscope.fitting.simulated_defects import (
        DEFECT_SIZES,
        SimulatedDefects,
        open_detector,
        score_with_models,
    )
    from flawscope.fitting.training_pictures import Reader
    from flawscope.pictures.listing import pictures_in

    if any(job["given"].get(one, "none") != "none" for one in INPUT_CHANGING_OPTIONS):
        return {"curve": {}, "tested": {}}
    paths = pictures_in(Path(job["pictures"]))
    unseen, models = paths[1::2], {}
    for stride in SUBSET_STEPS:
        if len(subset := paths[::stride]) >= MIN_SUBSET:
            options = {"device": job["device"], "samples": 0, "check": False, "step": step}
            models[len(subset)] = fitting.fit(subset, **options, **job["given"])
    detectors = [open_detector(one.artefact, "cpu") for one in models.values()]
    if not detectors or detectors[0].config.tile is not None:  # tiles are judged one by one
        return {"curve": {}, "tested": {}}
    first, (one, *_) = detectors[0], models.values()
    reader = Reader(
        [str(path) for path in unseen],
        one.manifest.preprocess,
        set(),
        roi=first.roi.numpy(),
        hidden=first.config.hidden,
        nearest=None if first.nearest is None else first.nearest.numpy(),
    )
    defects = SimulatedDefects(first, reader.load, range(len(unseen)))
    scores = score_with_models(defects, detectors, range(COMPARED_DEFECTS), step)
    calibrations = [one.calibration for one in models.values()]
    rate = max(one.expected_rate for one in calibrations)  # more false alarms would find more defects
    limits = [replace(one, rate=rate).score_threshold for one in calibrations]
    shares = [sum(not one[k] <= limit for one in scores.values()) for k, limit in enumerate(limits)]
    limit = calibrations[-1].score_threshold
    tested = {
        str(size): [not one[-1] <= limit for number, one in scores.items() if number % len(DEFECT_SIZES) == k]
        for k, size in enumerate(DEFECT_SIZES)
    }
    return {
        "curve": {str(n): share / len(scores) for n, share in zip(models, shares, strict=True)},
        "tested": {size: [sum(several), len(several)] for size, several in tested.items()},
    }


def _try(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Judge pictures with the model; return decisions, scores, and pictures with outlines."""
    from flawscope.errors import FlawscopeError
    from flawscope.predictor import load
    from flawscope.results import drawing
    from flawscope.station.inspecting.capacity import MemoryBudget
    from flawscope.station.inspecting.renderings import encode_webp, reduce_picture

    predictor, memory, found = load(job["model"], device=job["device"]), MemoryBudget(0), []
    for done, (name, data) in enumerate(job["sent"]):
        step("try", done, len(job["sent"]))
        try:
            result = predictor.predict(data)
            drawn = drawing.contour(*result.over(reduce_picture(data, name, OVERLAY_SIDE, memory)))
        except FlawscopeError as error:
            found.append({"name": name, "error": str(error).replace(f"({len(data)} bytes)", name)})
            continue
        told = {"decision": result.decision, "score": result.score, "severity": result.severity}
        found.append({"name": name, **told, "overlay": encode_webp(drawn)})
    return {"results": found}
