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
    code = f"import {method.config.__module__}, sys; sys.exit('torch' in sys.modules)"
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False)
    must(done.returncode == 0, f"importing {method.config.__module__} fails, or loads torch")


def settings_are_checked(case: Case) -> None:
    """Every setting has a default, every preset builds, and wrong settings are InputErrors of one line.

    Settings of a model file that have since gone are ignored.
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
    """Copies count once, and what cannot be read is reported.

    A method that holds pictures out calibrates on none that it learns from; any other on all of them.
    """
    model = case.fitted()
    roles = {p.hash: p.role for p in model.manifest.pictures}
    used = [pixel_hash(decode(source)) for source in case.good_pictures]
    must(sorted(p.role for p in model.manifest.pictures).count("duplicate") == 1, "copies count once")
    failures = case.fit_result().failures
    broken = f"picture {len(case.good_pictures) + 1}"
    must(len(failures) == 1 and broken in failures[0], f"what cannot be read is not reported: {failures}")
    calibrated = [row.hash for row in _scored(model)]
    must(len(calibrated) == model.calibration.count == len(set(calibrated)), "scores without a picture")
    must(set(calibrated) <= set(used), "calibrated on other pictures")
    learnt = [digest for digest in used if roles.get(digest) in ("train", "duplicate")]
    if case.method.holds_out:
        must(not set(calibrated) & set(learnt), "calibrated on what was learnt from")
        must(calibrated and learnt, "nothing to learn from, or nothing to calibrate on")
    else:
        must(set(calibrated) == set(used), "not calibrated on all that was learnt from")


def calibration_is_honest(case: Case) -> None:
    """Calibration scores are answers for pictures that were not learnt from.

    They are this model's answers where pictures were held out, and otherwise near those of a model that is
    fitted without the pictures. Maxima and level of maps come from the pixels that count alone.
    """
    for variant in ("plain", "region", "padded"):
        model = case.fitted(variant)
        calibration = model.calibration
        rows = _scored(model)
        pictures = case.training_pictures(variant)
        sources = {pixel_hash(decode(s)): s for s in pictures if not isinstance(s, bytes)}
        shown = [sources[row.hash] for row in rows]
        scores_and_maxima = np.stack([calibration.scores, calibration.map_maxima])
        if case.method.holds_out:
            found = np.array([_score_and_map_levels(model, source) for source in shown]).T
            must_be_close(found[0], scores_and_maxima[0], f"{variant}: scores", 1e-4)
            must_be_close(found[1], scores_and_maxima[1], f"{variant}: maxima of maps", 1e-4)
            _must_have_level(model, found, f"{variant}: level of maps", 1e-3)
            continue
        parts = [row.unit for row in rows]
        refitted = []
        for i in range(0, len(shown), 3):
            rest = [s for s, part in zip(shown, parts, strict=True) if part != parts[i]]
            refitted.append(_score_and_map_levels(case.fit(rest, variant), shown[i]))
        found = np.array(refitted).T
        expected = scores_and_maxima[:, ::3]
        for row, name in enumerate(("scores", "maxima of maps")):
            must_be_close(found[row].mean(), expected[row].mean(), f"{variant}: {name}, refitted", 0.2)
            must_be_close(found[row], expected[row], f"{variant}: {name}, refitted", 0.4)
        _must_have_level(model, found, f"{variant}: level of maps", 0.1)
        left_out = [_left_out_score(model, source, part) for source, part in zip(shown, parts, strict=True)]
        pairs = [
            (place, score)
            for place, score in zip(left_out, scores_and_maxima[0], strict=True)
            if place is not None
        ]
        must(pairs or variant == "region", f"{variant}: `left_out` gives nothing")
        if pairs:
            left, stored = np.array(pairs).mean(0)
            must(left > 0.999 * stored, f"{variant}: `left_out` leaves nothing out")


def _scored(model: Predictor) -> list[Picture]:
    """Return the rows of the calibration's scores, in their order."""
    return [row for row in model.manifest.pictures if row.counted and row.score is not None]


def _score_and_map_levels(model: Predictor, source: PictureSource) -> tuple[float, float, float]:
    """Return a picture's score, and the maximum and median of its map inside the region that counts."""
    import torch

    detector = model.detector
    image = torch.from_numpy(preprocess_pictures(model, [source]))
    with torch.inference_mode():
        inside = detector.inside(image)
        scores, maps = detector.score(detector.embed(image), inside)
    drawn = maps[0][detector.roi if inside is None else inside[0]]
    return float(scores[0]), float(drawn.max()), float(drawn.median())


def _left_out_score(model: Predictor, source: PictureSource, group: int) -> float | None:
    """Return a picture's score by `Detector.left_out`; None where the method has none."""
    import torch

    detector = model.detector
    image = torch.from_numpy(preprocess_pictures(model, [source]))
    kept = {k: torch.from_numpy(np.asarray(v)) for k, v in model.artefact.tensors.items()}
    with torch.inference_mode():
        found = detector.left_out(detector.embed(image), group, kept, detector.inside(image))
    return None if found is None else float(found[0])


def _must_have_level(model: Predictor, found: NDArray[np.float64], text: str, tolerance: float) -> None:
    level = float(np.median(found[2]))
    reach = tolerance * float(np.abs(model.calibration.map_maxima).max())
    must(abs(level - model.calibration.map_level) <= reach, text)


def groups_stay_together(case: Case) -> None:
    """Pictures of one part (`--group`) are learnt from or held out together."""
    model = case.fitted("region")
    calibrated = {row.hash for row in _scored(model)}
    parts: dict[tuple[str | None, ...], list[bool]] = {}
    for item in model.manifest.pictures:
        if (match := re.search(case.pair_pattern, item.name)) and item.role != "duplicate":
            parts.setdefault(match.groups(), []).append(item.hash in calibrated)
    must(parts and all(len(set(held)) == 1 for held in parts.values()), f"a part is divided: {parts}")
    must(any(len(held) == 2 for held in parts.values()), f"no part has two pictures: {parts}")


def same_again(case: Case) -> None:
    """The same settings and pictures give the same tensors.

    For a method that does not learn in steps, this holds with any number of threads.
    """
    with torch_threads(2):
        _must_equal(case.fitted(), case.fit(), "fitted with two threads")


def _must_equal(first: Predictor, other: Predictor, text: str) -> None:
    must(first.artefact.tensors.keys() == other.artefact.tensors.keys(), f"{text}: other tensors")
    for name, values in first.artefact.tensors.items():
        must(values.tobytes() == other.artefact.tensors[name].tobytes(), f"{text}: {name} differs")
    must(first.calibration == other.calibration, f"{text}: another calibration")


def progress_and_interruption(case: Case) -> None:
    """Every stage of progress ends at its total, and an interrupted fit leaves no traces.

    It leaves neither threads nor another number of torch's threads.
    """

    def count_threads() -> int:
        """Return the number of threads, without flawscope's own that stay."""
        return sum(not thread.name.startswith("flawscope") for thread in threading.enumerate())

    stages: dict[str, tuple[int, int]] = {}
    for stage, done, total in case.fit_result().progress:
        stage = stage.partition(",")[0]  # what follows is the loss
        must(stages.get(stage, (0, total))[0] <= done <= total, f"{stage}: {done} of {total} after {stages}")
        stages[stage] = done, total
    must(stages and all(done == total for done, total in stages.values()), f"progress ends at {stages}")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = count_threads()
    with torch_threads(2):
        try:
            case.fit(case.good_pictures[:4], step=stop)
            must(False, "it went on")
        except KeyboardInterrupt:
            must(count_threads() == before, "threads are left")


# ---- what a method declares; what it does not is refused


def resumes(case: Case) -> None:
    """A run that was stopped and resumed ends with the same tensors as a run without a stop.

    A run that was stopped after its last step does, too. The checkpoint of another run, or of other pictures,
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

        options = {k: v for k, v in case.fit_options("plain").items() if k not in ("method", "samples")}
        prepared = prepare(case.training_pictures("plain"), case.method, step=stop, **options)
        try:
            budget = Budget(checkpoint=path, checkpoint_interval=0.0)
            case.method.run_fit(prepared.model, replace(prepared.task, budget=budget))
            must(False, "no checkpoint is written, or no progress is reported after it")
        except KeyboardInterrupt:
            pass
        must_refuse(lambda: case.fit(checkpoint=path, resume=True, seed=1), "another seed")
        others = [np.array(decode(source))[::-1] for source in case.good_pictures]
        must_refuse(lambda: case.fit(others, checkpoint=path, resume=True), "other pictures")
        _must_equal(case.fitted(), case.fit(checkpoint=path), "resumed")
        _must_equal(case.fitted(), case.fit(checkpoint=path, resume=True), "resumed after its last step")


def says_what_it_would_miss(case: Case) -> None:
    """A fit measures the share of simulated defects that is found, on pictures that it has not learnt from.

    There are equally many defects of each size. The measurement can be left out, and nothing else with it.
    """
    model = case.fitted()
    key = "simulated_defects"
    found = model.manifest.facts.get(key, {})
    must(key in model.manifest.facts, "nothing is said about simulated defects, or `left_out` gives nothing")
    must(len({facts["defects"] for facts in found["sizes"].values()}) == 1, "not as many of each size")
    must(found["score_threshold"] == model.calibration.score_threshold, "another threshold")
    must(key not in case.fitted("padded").manifest.facts, "the check is not left out")


def extends(case: Case) -> None:
    """A model that was extended keeps its calibration scores and knows the new pictures.

    It passes its self-test, and pictures that it knew before are left out. A method that does not extend
    refuses.
    """
    from flawscope.fitting.fitting import partial_fit

    old = case.fitted()
    more = case.probes[:2]
    if not case.method.extends:
        must_refuse(lambda: partial_fit(old.artefact, more, device="cpu"), "extending")
        return
    new = partial_fit(old.artefact, [*more, case.good_pictures[1]], device="cpu")
    count = old.calibration.count
    must(new.calibration.scores[:count] == old.calibration.scores, "the old scores are not kept")
    must(
        new.calibration.count == count + len(more), "the new pictures are not calibrated on, or old ones are"
    )
    hashes = {p.hash for p in new.manifest.pictures if p.role != "duplicate"}
    given = [*more, *case.good_pictures]
    must(hashes >= {pixel_hash(decode(source)) for source in given}, "it does not know its pictures")
    must(new.self_test().passed, "the self-test fails")
    must_refuse(lambda: partial_fit(new.artefact, list(more), device="cpu"), "nothing but known pictures")


def finds_suspects(case: Case) -> None:
    """A defect among the good pictures is the first suspect and can be dropped; or dropping is refused."""
    if not case.method.finds_suspects:
        must_refuse(lambda: case.fit(drop_suspects=True), "dropping suspects")
        return
    pictures = [*case.good_pictures, case.defect]
    model = case.fit(pictures, drop_suspects=True, samples=0)
    must(
        model.suspects and model.suspects[0][0] == f"picture {len(case.good_pictures)}",
        f"found {model.suspects}",
    )
    roles = {p.hash: p.role for p in model.manifest.pictures}
    must(roles[pixel_hash(case.defect)] == "dropped", "it was not dropped")
    must(model.calibration.count == list(roles.values()).count("train"), "it was calibrated on")


def takes_seen_defects(case: Case) -> None:
    """Seen defects are remembered and change the model; or they are refused."""
    if not case.method.takes_seen_defects:
        must_refuse(lambda: case.fit(seen=1), "seen defects")
        return
    pairs = [
        draw_picture("plate", np.random.default_rng([8, k]), CATEGORIES["plate"].defects[k], 0.0, size=96)
        for k in range(2)
    ]
    model = case.fit(seen=pairs, samples=0)
    seen = {p.hash for p in model.manifest.pictures if p.role == "seen"}
    must(seen == {pixel_hash(picture) for picture, _ in pairs}, "they are not remembered")
    _, maps = predict_scores_and_maps(model, case.probes[:1])
    must(
        not np.array_equal(maps, predict_scores_and_maps(case.fitted(), case.probes[:1])[1]),
        "they change nothing",
    )


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
