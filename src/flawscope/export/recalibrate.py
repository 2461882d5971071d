"""Reads the pictures of an export, and calibrates a reduced precision: it is another detector, calibrated
anew and compared with the trained one.

A picture that was learnt from is left out by both, and the difference is added to its score in the fit, which
had the other pictures' features at hand and so could leave it out more exactly (`LeaveOut`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.certificate import (
    MAP_STRIDE,
    Certificate,
    certify,
    certify_reduced,
    difference_scales,
)
from flawscope.artefact.model_file import Artefact, unpack_images
from flawscope.calibration.goods import (
    CALIBRATION,
    Picture,
    Values,
    calibrate,
    judge,
    map_values,
    renumber,
    scored,
)
from flawscope.calibration.outliers import odd, settle
from flawscope.calibration.power import DefectScores
from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError, pluralize
from flawscope.methods.detector import Detector
from flawscope.methods.good_pictures import add_defect
from flawscope.methods.threads import workers
from flawscope.pictures.decoding import PictureSource, error_reason, pixel_hash, source_name
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_new_parts, nothing_shown
from flawscope.progress import ProgressCallback
from flawscope.runtime import Session
from flawscope.runtime.session import at_positions
from flawscope.runtime.torch import TorchSession
from flawscope.views.views import RunModel, Views

MAX_COMPARED = 32  # views, of as many pictures as there can be
MAX_DEFECTIVE = 8  # of them that are compared with a simulated defect, too
MAX_RANGED = 100  # views that the ranges of 8-bit numbers are measured on
POSITIONS_PER_SAMPLE = 4  # at which a sample is compared, where the model has positions
GOLDEN_SECTION = (5**0.5 - 1) / 2  # the fractional parts of its multiples lie evenly, however few

EmbedFn = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # images to features
TorchEmbedFn = Callable[[NDArray[np.float32]], Tensor]


class ProbeImages(NamedTuple):
    """Images `[N, 3, H, W]` for comparisons, and their positions `[N]` in their pictures."""

    images: NDArray[np.float32]
    positions: NDArray[np.int64]

    def subset(self, most: int) -> ProbeImages:
        """Chooses at most `most` pictures, spread evenly."""
        some = slice(None, None, -(-len(self.images) // most))
        return ProbeImages(self.images[some], self.positions[some])

    def with_defects(self) -> ProbeImages:
        """Some of the images, each with a simulated defect."""
        images, positions = self.subset(MAX_DEFECTIVE)
        rng = np.random.default_rng(0)
        return ProbeImages(np.concatenate([add_defect(image[None], rng) for image in images]), positions)


def whole_pictures(images: NDArray[np.float32]) -> ProbeImages:
    return ProbeImages(images, at_positions(images, None))


@dataclass(frozen=True)
class ExportPictures:
    """Good pictures for an export of this artefact: those that are given, or else its samples.

    failures: gets a line for every picture that cannot be read.
    """

    artefact: Artefact
    sources: Sequence[PictureSource] = ()
    failures: list[str] = field(default_factory=list)
    looks: dict[str, tuple[str, Look]] = field(
        default_factory=dict
    )  # and names, by their hash, as they are read

    def __len__(self) -> int:
        return len(self.sources)

    def probe_images(self) -> ProbeImages:
        """Views to compare on."""
        failures: list[str] = []
        chosen = self._sample_views(MAX_COMPARED, failures)
        shown = [
            (views.images(numbers), [views.position(number) for number in numbers])
            for views, numbers in chosen
        ]
        if shown:
            where = np.array([number for _, numbers in shown for number in numbers], np.int64)
            return ProbeImages(np.concatenate([images for images, _ in shown]), where)
        if failures:
            raise InputError(f"none of the pictures can be read; the first: {failures[0]}")
        samples, places = self.samples(), self.artefact.manifest.preprocess.positions
        if places is None:
            return whole_pictures(samples)
        # samples are whole pictures, and engines must agree on any image at any place
        spread = np.linspace(0, math.prod(places), POSITIONS_PER_SAMPLE * len(samples)).astype(np.int64)
        return ProbeImages(np.concatenate([samples] * POSITIONS_PER_SAMPLE), spread)

    def samples(self) -> NDArray[np.float32]:
        """Sample pictures of the artefact, `[N, 3, H, W]`."""
        packed = self.artefact.tensors.get("samples")
        if packed is None or not len(packed):
            raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
        return unpack_images(packed)

    def for_ranges(self) -> Iterator[NDArray[np.float32]]:
        """Views `[1, 3, H, W]` of good pictures, each without and with a simulated defect, to measure the
        ranges of 8-bit numbers on. Values beyond a range are cut off, and a range of good pictures alone ends
        where defects begin."""
        rng = np.random.default_rng(0)
        for views, numbers in self._sample_views(MAX_RANGED, []):
            for number in numbers:
                image = views.images([number])
                yield image
                yield add_defect(image, rng)

    def _sample_views(self, most: int, failures: list[str]) -> Iterator[tuple[Views, list[int]]]:
        """Yields pictures, spread evenly, and at most `most` of their views. With tiles these are each
        picture's whole view and at least one tile, in another place than the last picture's."""
        each = 1 if self.artefact.manifest.preprocess.tile is None else 2
        few = self.sources[:: -(-len(self.sources) // max(1, most // each)) or 1]
        for place, (_, views) in enumerate(self.read(few, failures)):
            first, *tiles = views.view_numbers()
            count = min(max(each, most // len(few)) - 1, len(tiles))
            turn = place * GOLDEN_SECTION % 1  # of a step from one tile to the next
            yield views, [first, *(tiles[int((k + turn) * len(tiles) / count)] for k in range(count))]

    def read(
        self, some: Sequence[PictureSource] | None = None, failures: list[str] | None = None
    ) -> Iterator[tuple[str, Views]]:
        """Yields the given pictures, or some of them, one at a time: the hash of the decoded pixels, and the
        views. What cannot be read becomes a line in `failures`; None: in the pictures' own."""
        how = self.artefact.manifest.preprocess
        for source in self.sources if some is None else some:
            name = source_name(source)
            try:
                picture = how.decode(source)
                digest = pixel_hash(picture)
                self.looks.setdefault(digest, (name, Look.of(how.first_picture(picture))))
                views = how.views(picture, name, self.artefact.counted)
                if views.unusable:
                    raise InputError(f"cannot use {name}: {views.unusable}; remove it")
            except (InputError, MemoryError) as error:
                (self.failures if failures is None else failures).append(error_reason(error, name))
                continue
            del picture  # a large one need not be held beside its tiles
            yield digest, views.with_roi(self.artefact.tensors.get("region"))


# ---------------------------------------------------------------------------------------------- calibration


def engine_version(engine: str) -> str:
    """Version of an engine itself: packages of several names bring it. OpenVINO's commit is left out."""
    return str(import_module(engine).__version__).partition("-")[0]


@dataclass(frozen=True)
class ReducedModel:
    """Exported network in its engines, and its first step `embed` in the first of them: the trained model
    scores its features where a picture is left out."""

    precision: str
    sessions: Sequence[Session]
    embed: EmbedFn
    trained: TorchSession
    layers: str | None = None  # the part of an int8 network in 8 bits, for a person


class AnswerPair(NamedTuple):
    """Answers of the reduced model and of the trained one; unseen: neither was fitted on the picture."""

    reduced: Values
    trained: Values
    unseen: bool


def recalibrate(
    reduced: ReducedModel, pictures: ExportPictures, shown: ProbeImages, step: ProgressCallback
) -> tuple[Artefact, list[Certificate]]:
    """Calibrates the artefact for a reduced precision, and certifies each engine: pictures that it was fitted
    on are left out one by one, others are simply scored. The first engine's answers calibrate; every engine's
    answers in batches are compared with them, and the larger difference counts.

    Args:
        shown: pictures that the engines are compared on.

    Raises:
        InputError: no picture can be used.
    """
    artefact = pictures.artefact
    answers = _answer_pictures(reduced, pictures, step)
    if not answers:
        if artefact.manifest.preprocess.normalization is not None:
            raise InputError("in other light only good pictures of the fit can be calibrated on: give those")
        raise InputError(
            f"none of the pictures can calibrate {reduced.precision}: the model was fitted on them and "
            "cannot leave them out, or they cannot be read; give good pictures that it has not seen"
        )
    session, before = reduced.sessions[0], artefact.manifest.calibration
    normalized = artefact.manifest.preprocess.normalization is not None
    held_out = all(pair.unseen for pair in answers.values()) and not normalized
    rows = _recalibrated_rows(pictures, answers)
    calibration = calibrate(
        rows,
        **before.to_dict()
        | {
            "method": "held out" if held_out else before.method,
            "runtime": session.runtime,
            "precision": reduced.precision,
        },
    )
    defects = DefectScores.from_facts(artefact.manifest.facts)
    if defects is not None and before.precision == defects.precision:
        defects = replace(defects, precision=reduced.precision)  # its scores are near the trained model's
    notes, questions = list[str](), list[str]()
    if any(pair.unseen for pair in answers.values()):
        names = dict(zip(answers, relative_names([pictures.looks[one][0] for one in answers]), strict=True))
        named = [replace(row, name=names.get(row.hash, row.name)) for row in rows]  # no path of this machine
        new = [row for row in named if row.hash in answers and answers[row.hash].unseen]
        nothing = nothing_shown([pictures.looks[row.hash][1] for row in new], [row.name for row in new])
        notes, questions = settle(odd(named, calibration, defects, nothing=nothing))
    now, then = (np.array([pair[k] for pair in answers.values()]).T for k in (0, 1))  # reduced, trained
    changed = int(np.count_nonzero(calibration.is_anomalous(now[0]) != before.is_anomalous(then[0])))
    (scores, maps), defective = run_one_by_one(session, shown), shown.with_defects()
    expected = run_one_by_one(reduced.trained, defective)[0].astype(np.float64)
    certificates = []
    for one in reduced.sessions:
        consistency = certify_session(one, shown, scores, maps, calibration)
        found = certify_reduced(consistency, before, (now[0], then[0]), (now[1], then[1]), changed)
        errors = np.abs(run_one_by_one(one, defective)[0].astype(np.float64) - expected)
        errors /= difference_scales(before.scores, before.score_threshold, expected)
        certificates.append(replace(found, simulated=float(np.nan_to_num(errors, nan=np.inf).max())))
    said = (*artefact.manifest.notes, _describe(answers, reduced), *notes)
    manifest = replace(artefact.manifest, calibration=calibration, pictures=rows, notes=said)
    manifest = manifest.asking(*questions)
    return _update_samples(replace(artefact, manifest=manifest), session), certificates


def certify_session(
    session: Session,
    shown: ProbeImages,
    scores: NDArray[Any],
    maps: NDArray[Any],
    calibration: Calibration,
    ties: NDArray[np.bool_] | None = None,
) -> Certificate:
    """Compares a session's answers with the expected ones (`certificate.certify`)."""
    runtime = f"{session.runtime} {engine_version(session.runtime)}"
    images, positions = shown
    how: dict[str, Any] = {"calibration": calibration, "runtime": runtime, "ties": ties}
    return certify(session, images, scores, maps, positions=positions, **how)


def run_one_by_one(session: Session, shown: ProbeImages) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores and maps of pictures, each alone in its batch."""
    images, where = shown
    rows = [slice(k, k + 1) for k in range(len(images))]
    parts = [session.run(images[one], where[one]) for one in rows]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def _answer_pictures(
    reduced: ReducedModel, pictures: ExportPictures, step: ProgressCallback
) -> dict[str, AnswerPair]:
    """Answers for the pictures that can be used, by their hashes."""
    artefact, answers, model = pictures.artefact, dict[str, AnswerPair](), reduced.trained.model
    fitted = {row.hash for row in artefact.manifest.pictures if row.learnt}
    known = {row.hash: row for row in scored(artefact.manifest.pictures)}
    kept = {k: torch.from_numpy(v) for k, v in artefact.tensors.items() if k != "samples"}
    fusion = artefact.manifest.fusion
    lit = artefact.manifest.preprocess.normalization is not None
    sessions: tuple[Session, ...] = reduced.sessions[0], reduced.trained
    embeds: tuple[TorchEmbedFn, ...] = (
        lambda images: torch.from_numpy(reduced.embed(images)),
        lambda images: model.embed(torch.from_numpy(images)),
    )

    def as_fitted(row: Picture, new: Values, old: Values) -> tuple[Values, Values]:
        """Answers in which the trained model's is that of the fit, and the difference is the same."""
        score, maximum = float(row.score or 0.0), float(row.maximum or 0.0)
        moved = Values(score + new.score - old.score, maximum + new.maximum - old.maximum, new.median)
        return moved, Values(score, maximum, old.median)

    def answer(picture: tuple[str, Views]) -> AnswerPair | None:
        """Answers for a picture; None: it is unusable."""
        digest, views = picture
        inside = views.valid_mask()
        if inside.shape == model.roi.shape:
            inside = inside & model.roi.numpy()

        def answered(*runs: tuple[RunModel, int]) -> tuple[Values, Values]:
            new, old = (map_values(*views.predict(run, fusion, batch), inside) for run, batch in runs)
            return new, old

        row = known.get(digest)
        if row is not None and row.learnt:
            with suppress(_CannotLeaveOutError):
                pair = answered(*((_leave_one_out_run(model, e, row.unit, kept), 1) for e in embeds))
                return AnswerPair(*as_fitted(row, *pair), unseen=False)
        if digest in fitted or (lit and row is None):
            return None  # what a picture scores in other light is known from the fit alone
        pair = answered(*((session.run, session.batch) for session in sessions))
        return AnswerPair(*(as_fitted(row, *pair) if lit and row is not None else pair), unseen=True)

    done, seen = 0, pictures.read()
    # several at once, one core each; of large pictures one, for its tiles take all memory
    together = torch.get_num_threads() if artefact.manifest.preprocess.tile is None else 1
    with workers() as each:
        while some := list(islice(seen, together)):
            step("calibration", done, len(pictures))
            done += len(some)
            asked = list({digest: views for digest, views in some if digest not in answers}.items())
            found = each(answer, asked) if len(asked) > 1 else map(answer, asked)
            answers |= {of[0]: one for of, one in zip(asked, found, strict=True) if one is not None}
    step("calibration", len(pictures), len(pictures))
    return answers


def _recalibrated_rows(pictures: ExportPictures, answers: Mapping[str, AnswerPair]) -> tuple[Picture, ...]:
    """Rows of the model as the answers score them. Pictures counted wrong count as before, and those that the
    model did not know are new rows."""
    manifest = pictures.artefact.manifest
    known = [
        row if row.counted and row.score is None else row.forgotten()
        for row in manifest.pictures
        if row.learnt or row.hash in answers or (row.counted and row.score is None)
    ]
    there = {row.hash for row in known}
    others = {digest: k for k, digest in enumerate(answers) if digest not in there}
    names, looks = zip(*(pictures.looks[one] for one in others), strict=True) if others else ((), ())
    group = manifest.facts.get("group")
    units = find_new_parts(looks, names, group, force=True, say=lambda line: None)
    new = [
        Picture(digest, CALIBRATION, f"picture {others[digest]}", unit)
        for digest, unit in zip(others, units, strict=True)
    ]
    rows = [*known, *renumber(new, manifest.pictures)]
    places = {row.hash: k for k, row in reversed([*enumerate(rows)]) if row.role != "duplicate"}
    values = np.array([[pair.reduced] for pair in answers.values()])
    for row in judge([rows[places[digest]] for digest in answers], values):
        rows[places[row.hash]] = row
    return tuple(rows)


class _CannotLeaveOutError(Exception):
    """The method cannot score a picture as if it had not been learnt from."""


def _leave_one_out_run(
    model: Detector, embed: TorchEmbedFn, group: int, kept: Mapping[str, Tensor]
) -> RunModel:
    """Scores and maps of a picture's views, one at a time, as if its group had not been learnt from."""

    def run(
        images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        own_model = model.at_position(0 if positions is None else int(positions[0]))
        with torch.inference_mode():
            found = own_model.left_out(embed(images), group, kept, own_model.inside(torch.from_numpy(images)))
        if found is None:
            raise _CannotLeaveOutError
        return found[0].numpy(), found[1].numpy()

    return run


def _describe(answers: Mapping[str, AnswerPair], reduced: ReducedModel) -> str:
    """Note on what a reduced precision is calibrated on."""
    fresh = sum(one.unseen for one in answers.values())
    note = f"{reduced.precision}: calibrated anew on {pluralize(len(answers), 'good picture')}"
    if 0 < fresh < len(answers):
        left_out, others = len(answers) - fresh, pluralize(fresh, "other")
        note += f", {left_out} that it was fitted on and left out one by one, {others}"
    if reduced.layers is not None:
        note += f"; some of them also gave the ranges of its 8-bit numbers: {reduced.layers}"
    return note


def _update_samples(artefact: Artefact, session: Session) -> Artefact:
    """Replaces the samples' answers, with which another machine's self-test compares, by this session's."""
    if "samples" not in artefact.tensors:
        return artefact
    scores, maps = run_one_by_one(session, whole_pictures(ExportPictures(artefact).samples()))
    answers = zip(artefact.manifest.samples, scores, maps, strict=True)
    kept = tuple({**s, "score": float(x), "map_maximum": float(m.max())} for s, x, m in answers)
    tensors = {**artefact.tensors, "sample_maps": np.ascontiguousarray(maps[:, ::MAP_STRIDE, ::MAP_STRIDE])}
    return Artefact(replace(artefact.manifest, samples=kept), tensors)
