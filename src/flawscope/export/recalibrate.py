"""A model of reduced precision is another detector: it is calibrated anew, and compared with the trained
one.

A picture that was learnt from is left out by both, and the difference is added to what `fit` found. `fit` had
the other pictures' features at hand, so that it could leave a picture out more truly (`Fitted.left_out`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.certificate import STRIDE, Certificate, compare, of_pairs, ways
from flawscope.artefact.model_file import Artefact, Manifest, Picture
from flawscope.calibration.decision import Calibration, from_values
from flawscope.errors import InputError
from flawscope.export.eight_bits import Reduction
from flawscope.export.engines import Embed, Engine
from flawscope.export.pictures import Compared, Pictures
from flawscope.methods.detector import Detector
from flawscope.methods.threads import workers
from flawscope.pictures.views import Run, Views
from flawscope.progress import Step, counted
from flawscope.runtime import Session


class Answer(NamedTuple):
    """A picture's score, and its map's maximum and median where something counts."""

    score: float
    maximum: float
    median: float


@dataclass(frozen=True)
class Reduced:
    """The exported network: whole in its engine, and as `embed`, whose features `model` scores."""

    precision: str
    engine: Engine
    embed: Embed
    model: Detector
    layers: Reduction | None = None  # of int8

    def left_out(
        self,
        image: NDArray[np.float32],
        position: NDArray[np.int64] | None = None,
        *,
        group: int,
        kept: Mapping[str, Tensor],
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Score and map of a picture as if its group had not been learnt from; None where that cannot be."""
        return _left_out(_at(self.model, position), torch.from_numpy(self.embed(image)), image, group, kept)


@dataclass
class Answers:
    """Of the trained model (`then`) and of the reduced one (`now`) for the same pictures, by their hashes."""

    now: list[Answer] = field(default_factory=list)
    then: list[Answer] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    fresh: list[Picture] = field(default_factory=list)  # those that no model was fitted on

    @property
    def left_out(self) -> int:
        return len(self.hashes) - len(self.fresh)


def recalibrated(
    trained: Session, model: Detector, reduced: Reduced, pictures: Pictures, shown: Compared, step: Step
) -> tuple[Artefact, Certificate]:
    """The artefact with the calibration of another precision, and how far that is from its own: pictures that
    it was fitted on are left out one by one, others are simply scored.

    Args:
        trained, model: the trained model.
        shown: what both are compared on.

    Raises:
        InputError: no picture can be used.
    """
    artefact = pictures.artefact
    answers = _answers(trained, model, reduced, pictures, step)
    if not answers.hashes:
        raise InputError(
            f"none of the pictures can calibrate {reduced.precision}: the model was fitted on them and "
            "cannot leave them out, or they cannot be read; give good pictures that it has not seen"
        )
    session, before = reduced.engine.session, artefact.manifest.calibration
    calibration = from_values(
        *zip(*answers.now, strict=True),
        rate=before.rate,
        method=before.method if answers.left_out else "held out",
        runtime=session.runtime,
        precision=reduced.precision,
        outline=before.outline,
    )
    scores, maps = one_by_one(session, shown)
    consistency = compare(
        session,
        shown.images,
        scores,
        maps,
        calibration=calibration,
        runtime=reduced.engine.name,
        positions=shown.positions,
    )
    certificate = _certificate(consistency, before, calibration, answers)
    certificate = replace(certificate, simulated=_of_defects(trained, session, before, shown.spoilt()))
    manifest = _manifest(artefact.manifest, calibration, answers, reduced)
    return _with_samples(replace(artefact, manifest=manifest), session), certificate


def one_by_one(session: Session, shown: Compared) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores and maps of pictures, each alone in its batch."""
    images, where = shown
    each = [slice(k, k + 1) for k in range(len(images))]
    parts = [session.run(images[one], None if where is None else where[one]) for one in each]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def _answers(trained: Session, model: Detector, reduced: Reduced, pictures: Pictures, step: Step) -> Answers:
    artefact, answers = pictures.artefact, Answers()
    groups: dict[str, int] = artefact.manifest.facts.get("calibration_groups", {})
    fitted = {p.hash for p in artefact.manifest.pictures if p.role != "calibration"}
    kept = {k: torch.from_numpy(v) for k, v in artefact.tensors.items() if k != "samples"}
    places = {digest: i for i, digest in enumerate(artefact.manifest.facts.get("calibration_pictures", []))}
    fit = artefact.manifest.calibration
    fusion = artefact.manifest.fusion

    def answer(picture: tuple[str, Views]) -> tuple[Answer, Answer, bool] | None:
        """The reduced model's and the trained one's, and whether the picture is fresh; None where it cannot
        be used."""
        digest, views = picture
        now: tuple[Run, int]  # and how many views at a time
        then: tuple[Run, int]
        known = digest in groups
        first = reduced.left_out(views.images([0]), group=groups[digest], kept=kept) if known else None
        if first is not None:
            group = groups[digest]
            now = _resumed(first, partial(reduced.left_out, group=group, kept=kept)), 1
            then = partial(_trained, model, group=group, kept=kept), 1
        elif digest in fitted:
            return None
        else:
            now, then = ((one.run, one.batch) for one in (reduced.engine.session, trained))
        inside = views.counted()
        if views.grid is None:
            inside = inside & model.roi.numpy()
        new, old = (_answer(*views.answer(run, fusion, batch), inside) for run, batch in (now, then))
        if known and digest in places:
            score, maximum = fit.scores[places[digest]], fit.map_maxima[places[digest]]
            new = Answer(score + new.score - old.score, maximum + new.maximum - old.maximum, new.median)
            old = Answer(score, maximum, old.median)
        return new, old, first is None

    done, seen = 0, pictures.read()
    # several at once, one core each; of large pictures one, whose tiles take what memory there is
    together = torch.get_num_threads() if artefact.manifest.preprocess.tile is None else 1
    with workers() as each:
        while some := list(islice(seen, together)):
            step("calibration", done, len(pictures))
            done += len(some)
            asked = list({digest: views for digest, views in some if digest not in answers.hashes}.items())
            found = each(answer, asked) if len(asked) > 1 else map(answer, asked)
            for (digest, _), one in zip(asked, found, strict=True):
                if one is None:
                    continue
                if one[2]:
                    answers.fresh.append(Picture(digest, "calibration", f"picture {len(answers.hashes)}"))
                answers.hashes.append(digest)
                answers.now.append(one[0])
                answers.then.append(one[1])
    step("calibration", len(pictures), len(pictures))
    return answers


def _resumed(first: Any, run: Run) -> Run:
    """`run`, whose answer for what comes first is known."""
    known = [first]
    return lambda images, positions: known.pop() if known else run(images, positions)


def _left_out(
    model: Detector, features: Tensor, image: NDArray[np.float32], group: int, kept: Mapping[str, Tensor]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    with torch.inference_mode():
        found = model.left_out(features, group, kept, model.inside(torch.from_numpy(image)))
    return None if found is None else (found[0].numpy(), found[1].numpy())


def _trained(
    model: Detector,
    image: NDArray[np.float32],
    position: NDArray[np.int64] | None,
    *,
    group: int,
    kept: Mapping[str, Tensor],
) -> tuple[NDArray[Any], NDArray[Any]]:
    with torch.inference_mode():
        features = model.embed(torch.from_numpy(image))
    found = _left_out(_at(model, position), features, image, group, kept)
    assert found is not None
    return found


def _at(model: Detector, position: NDArray[np.int64] | None) -> Detector:
    return model if position is None else model.at(int(position[0]))


def _answer(score: float, drawn: NDArray[Any], inside: NDArray[np.bool_]) -> Answer:
    """Of a large map, some pixels tell the middle one."""
    some = slice(None, None, max(1, isqrt(drawn.size >> 20)))
    return Answer(score, float(drawn.max()), float(np.median(drawn[some, some][inside[some, some]])))


def _of_defects(trained: Session, reduced: Session, before: Calibration, shown: Compared) -> float:
    """The largest difference of the scores of simulated defects, as `Certificate.simulated`."""
    then, now = (one_by_one(session, shown)[0].astype(np.float64) for session in (trained, reduced))
    away = np.abs(now - then) / ways(before.scores, before.score_threshold, then)
    return float(np.nan_to_num(away, nan=np.inf).max())


def _certificate(
    consistency: Certificate, before: Calibration, calibration: Calibration, answers: Answers
) -> Certificate:
    now, then = np.array(answers.now).T, np.array(answers.then).T
    changed = np.count_nonzero(calibration.is_anomalous(now[0]) != before.is_anomalous(then[0]))
    return of_pairs(consistency, before, (now[0], then[0]), (now[1], then[1]), int(changed))


def _manifest(manifest: Manifest, calibration: Calibration, answers: Answers, reduced: Reduced) -> Manifest:
    note = f"{reduced.precision}: calibrated anew on {counted(len(answers.hashes), 'good picture')}"
    if answers.fresh and answers.left_out:
        others = counted(len(answers.fresh), "other")
        note += f", {answers.left_out} that it was fitted on and left out one by one, {others}"
    if reduced.layers is not None:
        note += f"; some of them also gave the ranges of its 8-bit numbers: {reduced.layers.line()}"
    facts = {k: v for k, v in manifest.facts.items() if k != "calibration_groups"}
    return replace(
        manifest,
        calibration=calibration,
        facts={**facts, "calibration_pictures": answers.hashes},
        notes=(*manifest.notes, note),
        pictures=(*(p for p in manifest.pictures if p.role != "calibration"), *answers.fresh),
    )


def _with_samples(artefact: Artefact, session: Session) -> Artefact:
    """What another machine's self-test compares with: what this session says, not the trained model."""
    if "samples" not in artefact.tensors:
        return artefact
    scores, maps = one_by_one(session, Compared(Pictures(artefact).samples()))
    said = zip(artefact.manifest.samples, scores, maps, strict=True)
    kept = tuple({**s, "score": float(x), "map_maximum": float(m.max())} for s, x, m in said)
    tensors = {**artefact.tensors, "sample_maps": np.ascontiguousarray(maps[:, ::STRIDE, ::STRIDE])}
    return Artefact(replace(artefact.manifest, samples=kept), tensors)
