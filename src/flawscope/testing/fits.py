"""Checks of a method's record, its settings and its `fit`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawscope.methods import registry
from flawscope.methods.settings import PictureSettings
from flawscope.pictures.decoding import PictureSource, decode, pixel_hash
from flawscope.pictures.table import Picture
from flawscope.predictor import Predictor
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture
from flawscope.testing.case import (
    Case,
    must,
    must_be_close,
    must_refuse,
    predict_scores_and_maps,
    preprocess_pictures,
    torch_threads,
)
from flawscope.types import Json


def is_registered(case: Case) -> None:
    """The method is found by its name, and its record and settings load no torch."""
    method = case.method
    must(registry.method(method.name) is method, "the record under its name is another one")
    must("default" in method.presets, "there is no preset `default`")
    module = method.config.__module__
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    must(process.returncode == 0, f"importing {module} fails, or loads torch")


def settings_are_checked(case: Case) -> None:
    """Every setting has a default, every preset builds, and wrong settings are InputErrors of one line.

    If a model file has settings that the method does not have any more, they are ignored.
    """
    method = case.method
    for preset in method.presets:
        method.configure(preset)
    small: PictureSettings = method.configure(values=dict(case.settings))
    must_refuse(lambda: method.configure("no such preset"), "an unknown preset")
    wrong: list[Json] = [
        {"no_such_setting": 1},
        {"seed": -1},
        {"seed": "x"},
        {"size": "0"},
        {"size": "5000"},
        {"size": "large"},
        {"size": "256", "crop": (512, 512)},
        {"precision": "fp8"},
        {"keep_aspect": 3},
    ]
    if method.learns_in_steps:
        wrong += [{"steps": 0}, {"held_out": 0}, {"held_out": 0.6}, {"batch": 0}, {"rate": 0}, {"rate": 2}]
        wrong += [{"decay": -1}, {"memory": 0}, {"schedule": "x"}, {"training": "x"}]
    for values in wrong:
        must_refuse(lambda values=values: method.configure(values=values), str(values))  # type: ignore[misc]
    stored = json.loads(json.dumps(dataclasses.asdict(small)))
    must(
        method.parse_stored({**stored, "gone_since": 1}) == small,
        "settings change on their way through a file",
    )


def pictures_have_roles(case: Case) -> None:
    """Copies count once, and pictures that cannot be read are reported.

    A method that holds pictures out calibrates on the held-out pictures. Any other method calibrates on all
    pictures that it learns from.
    """
    model = case.fitted()
    role_by_hash = {row.hash: row.role for row in model.manifest.pictures}
    good_hashes = {pixel_hash(decode(source)) for source in case.good_pictures}
    copy_count = sum(row.role == "duplicate" for row in model.manifest.pictures)
    must(copy_count == 1, "copies count once")
    failures = case.fit_result().failures
    unreadable_name = f"picture {len(case.good_pictures) + 1}"
    must(
        len(failures) == 1 and unreadable_name in failures[0],
        f"what cannot be read is not reported: {failures}",
    )
    calibrated = [row.hash for row in _scored(model)]
    calibrated_set = set(calibrated)
    must(len(calibrated) == model.calibration.count == len(calibrated_set), "scores without a picture")
    must(calibrated_set <= good_hashes, "calibrated on other pictures")
    learnt = {digest for digest in good_hashes if role_by_hash.get(digest) in ("train", "duplicate")}
    if case.method.holds_out:
        must(not calibrated_set & learnt, "calibrated on what was learnt from")
        must(calibrated_set and learnt, "nothing to learn from, or nothing to calibrate on")
    else:
        must(calibrated_set == good_hashes, "not calibrated on all that was learnt from")


def calibration_is_honest(case: Case) -> None:
    """Calibration scores are scores of pictures that were not learnt from.

    If pictures were held out, they are this model's scores for them. Otherwise each is near the score by a
    model that is fitted without the picture. Maxima and level of maps come only from the pixels that count.
    """
    for variant in ("plain", "region", "padded"):
        model = case.fitted(variant)
        rows = _scored(model)
        source_by_hash = {}
        for source in case.training_pictures(variant):
            if not isinstance(source, bytes):  # the bytes are no picture
                source_by_hash[pixel_hash(decode(source))] = source
        sources = [source_by_hash[row.hash] for row in rows]
        if case.method.holds_out:
            _must_be_answers(model, sources, variant)
        else:
            units = [row.unit for row in rows]
            _must_be_near_refits(case, model, sources, units, variant)
            _must_leave_out(model, sources, units, variant)


def _must_be_answers(model: Predictor, sources: Sequence[PictureSource], variant: str) -> None:
    """Check that the stored scores and levels are those that the model itself gives for the pictures."""
    scores, maxima, medians = np.array([_score_and_map_levels(model, source) for source in sources]).T
    must_be_close(scores, model.calibration.scores, f"{variant}: scores", tolerance=1e-4)
    must_be_close(maxima, model.calibration.map_maxima, f"{variant}: maxima of maps", tolerance=1e-4)
    _must_have_level(model, medians, f"{variant}: level of maps", tolerance=1e-3)


def _must_be_near_refits(
    case: Case, model: Predictor, sources: Sequence[PictureSource], units: Sequence[int], variant: str
) -> None:
    """Check that a picture's stored score and levels are near those by a model fitted without its unit.

    Only every third picture is checked, because each needs a fit.

    Args:
        case: The case.
        model: The model.
        sources: Pictures that the model was calibrated on.
        units: Unit of each picture.
        variant: Variant of the model.
    """
    answers = []
    for i in range(0, len(sources), 3):
        others = [source for source, unit in zip(sources, units, strict=True) if unit != units[i]]
        refitted_model = case.fit(others, variant)
        answers.append(_score_and_map_levels(refitted_model, sources[i]))
    scores, maxima, medians = np.array(answers).T
    for name, values, stored in (
        ("scores", scores, model.calibration.scores),
        ("maxima of maps", maxima, model.calibration.map_maxima),
    ):
        expected = np.asarray(stored)[::3]
        must_be_close(values.mean(), expected.mean(), f"{variant}: {name}, refitted", tolerance=0.2)
        must_be_close(values, expected, f"{variant}: {name}, refitted", tolerance=0.4)
    _must_have_level(model, medians, f"{variant}: level of maps", tolerance=0.1)


def _must_leave_out(
    model: Predictor, sources: Sequence[PictureSource], units: Sequence[int], variant: str
) -> None:
    """Check that the mean score by `Detector.left_out` is not below the mean of the stored scores.

    For the variant "region", the method may give no such scores.
    """
    pairs = []  # score by `left_out`, and stored score
    for source, unit, stored in zip(sources, units, model.calibration.scores, strict=True):
        score = _left_out_score(model, source, unit)
        if score is not None:
            pairs.append((score, stored))
    must(pairs or variant == "region", f"{variant}: `left_out` gives nothing")
    if pairs:
        score_mean, stored_mean = np.array(pairs).mean(0)
        # a picture that is left out scores at least as high; the factor allows for rounding
        must(score_mean > 0.999 * stored_mean, f"{variant}: `left_out` leaves nothing out")


def _scored(model: Predictor) -> list[Picture]:
    """Return the rows of the pictures that were calibrated on, in the order of the calibration's scores."""
    return [row for row in model.manifest.pictures if row.counted and row.score is not None]


def _score_and_map_levels(model: Predictor, source: PictureSource) -> tuple[float, float, float]:
    """Return a picture's score, and the maximum and median of its map inside the region that counts."""
    import torch

    detector = model.detector
    image = torch.from_numpy(preprocess_pictures(model, [source]))
    with torch.inference_mode():
        inside = detector.inside(image)
        scores, maps = detector.score(detector.embed(image), inside)
    region = detector.roi if inside is None else inside[0]
    values = maps[0][region]
    return float(scores[0]), float(values.max()), float(values.median())


def _left_out_score(model: Predictor, source: PictureSource, group: int) -> float | None:
    """Return a picture's score by `Detector.left_out`, without what was learnt from its unit, `group`.

    The result is None if the method gives no such score.
    """
    import torch

    detector = model.detector
    image = torch.from_numpy(preprocess_pictures(model, [source]))
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in model.artefact.tensors.items()}
    with torch.inference_mode():
        answer = detector.left_out(detector.embed(image), group, tensors, detector.inside(image))
    return None if answer is None else float(answer[0])  # score, map


def _must_have_level(model: Predictor, medians: NDArray[np.float64], message: str, tolerance: float) -> None:
    """Check that the stored level of maps is the median of the medians of pictures' maps.

    Args:
        model: The model.
        medians: Median of the map of each picture.
        message: Text of the error.
        tolerance: Largest difference, as a share of the largest stored maximum of maps.
    """
    level = float(np.median(medians))
    largest_difference = tolerance * float(np.abs(model.calibration.map_maxima).max())
    must(abs(level - model.calibration.map_level) <= largest_difference, message)


def groups_stay_together(case: Case) -> None:
    """Pictures of one part (`--group`) are either all learnt from, or all held out."""
    model = case.fitted("region")
    calibrated = {row.hash for row in _scored(model)}
    flags_by_part: dict[tuple[str | None, ...], list[bool]] = {}  # is each picture calibrated on?
    for row in model.manifest.pictures:
        match = re.search(case.pair_pattern, row.name)
        if match and row.role != "duplicate":
            flags_by_part.setdefault(match.groups(), []).append(row.hash in calibrated)
    is_together = all(len(set(flags)) == 1 for flags in flags_by_part.values())
    must(flags_by_part and is_together, f"a part is divided: {flags_by_part}")
    must(
        any(len(flags) == 2 for flags in flags_by_part.values()), f"no part has two pictures: {flags_by_part}"
    )


def same_again(case: Case) -> None:
    """The same settings and pictures give the same tensors.

    For a method that does not learn in steps, this holds with any number of threads.
    """
    with torch_threads(2):
        _must_equal(case.fitted(), case.fit(), "fitted with two threads")


def _must_equal(first: Predictor, other: Predictor, text: str) -> None:
    """Check that two models have the same tensors, bit for bit, and the same calibration."""
    must(first.artefact.tensors.keys() == other.artefact.tensors.keys(), f"{text}: other tensors")
    for name, values in first.artefact.tensors.items():
        must(values.tobytes() == other.artefact.tensors[name].tobytes(), f"{text}: {name} differs")
    must(first.calibration == other.calibration, f"{text}: another calibration")


def progress_and_interruption(case: Case) -> None:
    """Every stage of progress ends at its total, and an interrupted fit leaves no traces.

    It leaves no threads running and does not change torch's thread count.
    """

    def count_threads() -> int:
        """Return the number of threads, without those of flawscope that are meant to stay."""
        return sum(not thread.name.startswith("flawscope") for thread in threading.enumerate())

    stages: dict[str, tuple[int, int]] = {}  # last `done` and `total` of each stage
    for text, done, total in case.fit_result().progress:
        stage, _, _ = text.partition(",")  # after a comma, there is the loss
        last_done, _ = stages.get(stage, (0, total))
        must(last_done <= done <= total, f"{stage}: {done} of {total} after {stages}")
        stages[stage] = done, total
    must(stages and all(done == total for done, total in stages.values()), f"progress ends at {stages}")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    count_before = count_threads()
    with torch_threads(2):
        try:
            case.fit(case.good_pictures[:4], step=stop)
            must(False, "it went on")
        except KeyboardInterrupt:
            must(count_threads() == count_before, "threads are left")


# ---- features that a method declares; other methods refuse them


def resumes(case: Case) -> None:
    """A run that was stopped and resumed ends with the same tensors as a run without a stop.

    This is also so if it was stopped after its last step. A checkpoint of another run, or of other pictures,
    is refused. A method that does not learn in steps refuses `minutes` and `resume`.
    """
    from flawscope.fitting.preparation import prepare
    from flawscope.methods.task import Budget

    if not case.method.learns_in_steps:
        must_refuse(lambda: case.fit(minutes=1), "minutes")
        must_refuse(lambda: case.fit(resume=True), "resume")
        return

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"

        def stop(*_: object) -> None:
            if path.exists():
                raise KeyboardInterrupt

        options = case.fit_options("plain")
        # arguments of `fit` that `prepare` does not take
        del options["method"], options["samples"]
        prepared = prepare(case.training_pictures("plain"), case.method, step=stop, **options)
        try:
            budget = Budget(checkpoint=path, checkpoint_interval=0.0)
            case.method.run_fit(prepared.model, replace(prepared.task, budget=budget))
            must(False, "no checkpoint is written, or no progress is reported after it")
        except KeyboardInterrupt:
            pass
        must_refuse(lambda: case.fit(checkpoint=path, resume=True, seed=1), "another seed")
        flipped = [np.array(decode(source))[::-1] for source in case.good_pictures]
        must_refuse(lambda: case.fit(flipped, checkpoint=path, resume=True), "other pictures")
        # a checkpoint of the same run is also continued without `resume`
        _must_equal(case.fitted(), case.fit(checkpoint=path), "resumed")
        _must_equal(case.fitted(), case.fit(checkpoint=path, resume=True), "resumed after its last step")


def says_what_it_would_miss(case: Case) -> None:
    """A fit measures the share of simulated defects that is found, on pictures that it has not learnt from.

    There are equally many defects of each size. The measurement can be switched off on its own.
    """
    model = case.fitted()
    key = "simulated_defects"
    must(key in model.manifest.facts, "nothing is said about simulated defects, or `left_out` gives nothing")
    facts = model.manifest.facts[key]
    defect_counts = {row["defects"] for row in facts["sizes"].values()}
    must(len(defect_counts) == 1, "not as many of each size")
    must(facts["score_threshold"] == model.calibration.score_threshold, "another threshold")
    must(key not in case.fitted("padded").manifest.facts, "the check is not left out")


def extends(case: Case) -> None:
    """A model that was extended keeps its calibration scores and knows the new pictures.

    It passes its self-test. If it is given pictures that it knew before, they are left out. A method that
    cannot extend models refuses to.
    """
    from flawscope.fitting.fitting import partial_fit

    model = case.fitted()
    new_pictures = case.probes[:2]
    if not case.method.extends:
        must_refuse(lambda: partial_fit(model.artefact, new_pictures, device="cpu"), "extending")
        return
    extended = partial_fit(model.artefact, [*new_pictures, case.good_pictures[1]], device="cpu")
    count = model.calibration.count
    must(extended.calibration.scores[:count] == model.calibration.scores, "the old scores are not kept")
    must(
        extended.calibration.count == count + len(new_pictures),
        "the new pictures are not calibrated on, or old ones are",
    )
    hashes = {row.hash for row in extended.manifest.pictures if row.role != "duplicate"}
    all_pictures = [*new_pictures, *case.good_pictures]
    must(hashes >= {pixel_hash(decode(source)) for source in all_pictures}, "it does not know its pictures")
    must(extended.self_test().passed, "the self-test fails")
    must_refuse(
        lambda: partial_fit(extended.artefact, list(new_pictures), device="cpu"),
        "nothing but known pictures",
    )


def finds_suspects(case: Case) -> None:
    """A defect among the good pictures is the first suspect, and can be dropped.

    A method that finds no suspects refuses to drop them.
    """
    if not case.method.finds_suspects:
        must_refuse(lambda: case.fit(drop_suspects=True), "dropping suspects")
        return
    pictures = [*case.good_pictures, case.defect]
    model = case.fit(pictures, drop_suspects=True, samples=0)
    suspect_names = [name for name, *_ in model.suspects]
    must(suspect_names[:1] == [f"picture {len(case.good_pictures)}"], f"found {model.suspects}")
    role_by_hash = {row.hash: row.role for row in model.manifest.pictures}
    must(role_by_hash[pixel_hash(case.defect)] == "dropped", "it was not dropped")
    must(model.calibration.count == list(role_by_hash.values()).count("train"), "it was calibrated on")


def takes_seen_defects(case: Case) -> None:
    """Seen defects are remembered and change the model; a method that does not take them refuses them."""
    if not case.method.takes_seen_defects:
        must_refuse(lambda: case.fit(seen=1), "seen defects")
        return
    pairs = []  # pictures with their masks
    for k, defect in enumerate(CATEGORIES["plate"].defects[:2]):
        # difficulty 0: a defect that is easy to see
        pairs.append(draw_picture("plate", np.random.default_rng([8, k]), defect, 0.0, size=96))
    model = case.fit(seen=pairs, samples=0)
    seen_hashes = {row.hash for row in model.manifest.pictures if row.role == "seen"}
    must(seen_hashes == {pixel_hash(picture) for picture, _ in pairs}, "they are not remembered")
    _, maps = predict_scores_and_maps(model, case.probes[:1])
    _, plain_maps = predict_scores_and_maps(case.fitted(), case.probes[:1])
    must(not np.array_equal(maps, plain_maps), "they change nothing")


CHECKS: Sequence[Callable[[Case], None]] = (
    is_registered,
    settings_are_checked,
    pictures_have_roles,
    calibration_is_honest,
    groups_stay_together,
    progress_and_interruption,
    resumes,
    says_what_it_would_miss,
    extends,
    finds_suspects,
    takes_seen_defects,
)
