"""Reads the pictures of an export, and calibrates a reduced precision: it is another detector, calibrated
anew and compared with the trained one.

A picture that was learnt from is left out by both, and the difference is added to its score in the fit, which
had the other pictures' features at hand and so could leave it out more exactly (`LeaveOut`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

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
from flawscope.artefact.model_file import Artefact, Manifest, unpack_images
from flawscope.artefact.parts import stored_part_reader
from flawscope.calibration.outliers import find_unusual, settle
from flawscope.calibration.power import DefectScores
from flawscope.calibration.rows import calibrate, scored
from flawscope.calibration.threshold import Calibration
from flawscope.errors import ExcludedPictureError, InputError, pluralize
from flawscope.methods.good_pictures import add_defect
from flawscope.methods.task import LeaveOut
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource, error_reason, source_name
from flawscope.pictures.listing import relative_names
from flawscope.pictures.table import CALIBRATE, DUPLICATE, Picture, PictureTable, learnt_units
from flawscope.pictures.units import units_of
from flawscope.predictor import Predictor
from flawscope.predictor.scoring import Answers, Lights, RunOf, SessionPictures, score
from flawscope.progress import ProgressCallback
from flawscope.runtime import Run, Session
from flawscope.runtime.torch import TorchSession
from flawscope.types import Array

MAX_COMPARED = 32  # views, of as many pictures as there can be
MAX_DEFECTIVE = 8  # of them that are compared with a simulated defect, too
GOLDEN_SECTION = (5**0.5 - 1) / 2  # the fractional parts of its multiples lie evenly, however few

Images = NDArray[np.float32]  # [N, 3, H, W]
EmbedFn = Callable[[Images], NDArray[np.float32]]  # images to features


def with_defects(images: Images) -> Images:
    """Some of the images, spread evenly, each with a simulated defect."""
    rng = np.random.default_rng(0)
    return np.concatenate([add_defect(image[None], rng) for image in subset(images, MAX_DEFECTIVE)])


def subset(images: Images, most: int) -> Images:
    """Takes at most `most` of the images, spread evenly."""
    return images[:: -(-len(images) // most)]


@dataclass(frozen=True)
class ExportPictures:
    """Good pictures for an export of this artefact: those that are given, or else its samples.

    failures: gets a line for every picture that cannot be read.
    """

    artefact: Artefact
    sources: Sequence[PictureSource] = ()
    failures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sources)

    def probe_images(self) -> Images:
        """Views to compare on."""
        failures: list[str] = []
        if shown := [images(numbers) for images, numbers in self._sample_views(MAX_COMPARED, failures)]:
            return np.concatenate(shown)
        if failures:
            raise InputError(f"none of the pictures can be read; the first: {failures[0]}")
        return self.samples()

    def samples(self) -> NDArray[np.float32]:
        """Sample pictures of the artefact, `[N, 3, H, W]`."""
        packed = self.artefact.tensors.get("samples")
        if packed is None or not len(packed):
            raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
        return unpack_images(packed)

    def _sample_views(
        self, most: int, failures: list[str]
    ) -> Iterator[tuple[Callable[[Sequence[int]], Images], list[int]]]:
        """Yields of pictures, spread evenly, the function that gives views by their numbers, and the numbers
        of at most `most` in all. With tiles these are each picture's whole view and at least one tile, in
        another place than the last picture's. A picture that cannot be read becomes a line in `failures`.
        """
        how = self.artefact.manifest.preprocess
        each, place = 1 if how.tile is None else 2, 0
        few = self.sources[:: -(-len(self.sources) // max(1, most // each)) or 1]
        for source in few:
            name = source_name(source)
            try:
                views = how.views(source, name, self.artefact.counted)
                if views.unusable:
                    raise InputError(f"cannot use {name}: {views.unusable}; remove it")
            except (InputError, MemoryError) as error:
                failures.append(error_reason(error, name))
                continue
            views = views.with_roi(self.artefact.tensors.get("region"))
            first, *tiles = views.view_numbers()
            count = min(max(each, most // len(few)) - 1, len(tiles))
            turn, place = place * GOLDEN_SECTION % 1, place + 1  # of a step from one tile to the next
            chosen = [tiles[int((k + turn) * len(tiles) / count)] for k in range(count)]
            yield views.images, [first, *chosen]


# ---------------------------------------------------------------------------------------------- calibration


def engine_version(engine: str) -> str:
    """Version of an engine itself: packages of several names bring it. OpenVINO's commit is left out."""
    return str(import_module(engine).__version__).partition("-")[0]


@dataclass(frozen=True)
class ReducedModel:
    """Exported network in its engines, and its first step `embed` in the first of them: the trained model
    scores its features where a picture is left out.
    """

    precision: str
    sessions: Sequence[Session]
    embed: EmbedFn
    trained: TorchSession


def recalibrate(
    reduced: ReducedModel, pictures: ExportPictures, shown: Images, step: ProgressCallback
) -> tuple[Artefact, list[Certificate]]:
    """Calibrates the artefact for a reduced precision, and certifies each engine: pictures that it was fitted
    on are left out one by one, others are simply scored. The first engine's answers calibrate; every engine's
    answers in batches are compared with them, and the larger difference counts.

    Args:
        shown: pictures that the engines are compared on.

    Raises:
        InputError: no picture can be used.
    """
    artefact, session = pictures.artefact, reduced.sessions[0]
    manifest, before = artefact.manifest, artefact.manifest.calibration
    lit = manifest.preprocess.normalization is not None
    table = _read_pictures(pictures, step)
    asked = _rows_to_judge(table, manifest)
    learnt = {*learnt_units(manifest.pictures).values()}
    tensors = {name: torch.from_numpy(one) for name, one in artefact.tensors.items() if name != "samples"}
    models = _BothModels(
        reduced, artefact, table.pictures, LeaveOut(reduced.trained.model, learnt, tensors), step
    )
    run_of = _leave_out_learnt(manifest, _ReducedLeaveOut(reduced, learnt, tensors))
    judged = score(models, asked, run_of, manifest.preprocess.lights[:1])
    pictures.failures.extend(judged.answers.failures.values())
    if not judged.rows:
        raise _nothing_calibrates(reduced.precision, lit)
    given = {row.hash for row in table.rows.values()}
    rows = _merge_rows(manifest.pictures, judged.rows, given)
    known = {row.hash for row in manifest.pictures if row.learnt}
    fresh = [row.hash for row in judged.rows.values() if row.hash not in known]
    notes = list[str]()
    method = "held out" if len(fresh) == len(judged.rows) and not lit else before.method
    how = {"method": method, "runtime": session.runtime, "precision": reduced.precision}
    calibration = calibrate(rows, **before.to_dict() | how)
    defects = DefectScores.from_facts(manifest.facts)
    if defects is not None and before.precision == defects.precision:
        defects = replace(defects, precision=reduced.precision)  # its scores are near the trained model's
    questions = list[str]()
    if fresh:
        notes, questions = settle(find_unusual(rows, calibration, defects, fresh))
    now, then = (
        np.array([one.values[0] for one in several.values() if not one.is_lost]).T
        for several in (judged.answers.pictures, models.trained.pictures)
    )
    certificates = _certify_engines(reduced, shown, before, calibration, now, then)
    said = (*manifest.notes, _describe(len(judged.rows), len(fresh), reduced), *notes)
    manifest = replace(manifest, calibration=calibration, pictures=rows, notes=said).asking(*questions)
    return _update_samples(replace(artefact, manifest=manifest), session), certificates


def _nothing_calibrates(precision: str, lit: bool) -> InputError:
    """Error where no picture can calibrate a precision. lit: the model adapts to the light."""
    if lit:
        return InputError("in other light only good pictures of the fit can be calibrated on: give those")
    return InputError(
        f"none of the pictures can calibrate {precision}: the model was fitted on them and "
        "cannot leave them out, or they cannot be read; give good pictures that it has not seen"
    )


def _certify_engines(
    reduced: ReducedModel,
    shown: Images,
    before: Calibration,
    calibration: Calibration,
    now: NDArray[np.float64],
    then: NDArray[np.float64],
) -> list[Certificate]:
    """Certifies each engine of a reduced precision. now, then: scores, maxima and medians of the pictures by
    it and by the trained model, [3, N], which decide by `calibration` and `before`.
    """
    changed = int(np.count_nonzero(calibration.is_anomalous(now[0]) != before.is_anomalous(then[0])))
    (scores, maps), defective = run_one_by_one(reduced.sessions[0], shown), with_defects(shown)
    expected = run_one_by_one(reduced.trained, defective)[0].astype(np.float64)
    certificates = []
    for one in reduced.sessions:
        consistency = certify_session(one, shown, scores, maps, calibration)
        found = certify_reduced(consistency, before, (now[0], then[0]), (now[1], then[1]), changed)
        errors = np.abs(run_one_by_one(one, defective)[0].astype(np.float64) - expected)
        errors /= difference_scales(before.scores, before.score_threshold, expected)
        certificates.append(replace(found, simulated=float(np.nan_to_num(errors, nan=np.inf).max())))
    return certificates


def certify_session(
    session: Session,
    shown: Images,
    scores: Array,
    maps: Array,
    calibration: Calibration,
    ties: NDArray[np.bool_] | None = None,
) -> Certificate:
    """Compares a session's answers with the expected ones (`certificate.certify`)."""
    runtime = f"{session.runtime} {engine_version(session.runtime)}"
    return certify(session, shown, scores, maps, calibration=calibration, runtime=runtime, ties=ties)


def run_one_by_one(session: Session, shown: Images) -> tuple[Array, Array]:
    """Scores and maps of pictures, each alone in its batch."""
    parts = [session.run(image[None]) for image in shown]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def _read_pictures(pictures: ExportPictures, step: ProgressCallback) -> PictureTable:
    decoded = DecodedPictures(pictures.sources, pictures.artefact.manifest.preprocess.channels)
    table = PictureTable.read(decoded, relative_names(pictures.sources), CALIBRATE, step)
    pictures.failures.extend(table.failures.values())
    return table


def _rows_to_judge(table: PictureTable, manifest: Manifest) -> dict[int, Picture]:
    """Chooses the rows to judge, by number: known ones with scores, and new ones that are no near-duplicates
    of pictures learnt from.
    """
    with_scores = {row.hash: row for row in scored(manifest.pictures)}
    learnt = {row.hash for row in manifest.pictures if row.learnt}
    rows, new = dict[int, Picture](), list[int]()
    for number in table.distinct():
        digest = table.rows[number].hash
        if digest in with_scores:
            rows[number] = with_scores[digest]
        elif digest not in learnt:
            new.append(number)
    part_of = stored_part_reader(manifest)
    units = units_of([table.rows[number] for number in new], manifest.pictures, part_of)
    for k, number in enumerate(new):
        copied = units.copies.get(k)
        if copied is None or not copied.learnt:
            rows[number] = units.rows[k]
    return dict(sorted(rows.items()))


def _merge_rows(
    known: Sequence[Picture], judged: Mapping[int, Picture], given: Collection[str]
) -> tuple[Picture, ...]:
    """Rows of the model: known ones as they were judged, those that were not without scores, and new ones.

    Args:
        given: hashes of the pictures. Lost ones among them stay lost; others do not count beside these.
    """
    now = {row.hash: row for row in judged.values()}
    rows = list[Picture]()
    for row in known:
        if row.role != DUPLICATE and row.hash in now:
            rows.append(now.pop(row.hash))
        elif row.is_lost and row.hash in given:
            rows.append(row)
        elif row.learnt:
            rows.append(row.forgotten())
    return (*rows, *now.values())


@dataclass
class _BothModels:
    """Pictures of an export, as the reduced and as the trained model answer on them.

    Of one that was learnt from, the trained model's answer is that of the fit, and the difference is the
    same.

    trained: the trained model's answers, once they were asked for.
    """

    reduced: ReducedModel
    artefact: Artefact
    pictures: DecodedPictures
    leave_out: LeaveOut
    step: ProgressCallback
    trained: Answers = field(default_factory=Answers)

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Lights) -> Answers:
        manifest = self.artefact.manifest
        lit = manifest.preprocess.normalization is not None
        known = {row.hash: row for row in scored(manifest.pictures)}
        reduced, trained = (
            Predictor(self.artefact, one) for one in (self.reduced.sessions[0], self.reduced.trained)
        )
        new = SessionPictures(reduced, self.pictures, self.step).answers(rows, run_of, lights)
        left_out = _leave_out_learnt(manifest, self.leave_out)
        old = self.trained = SessionPictures(trained, self.pictures).answers(rows, left_out, lights)
        for number, now in new.pictures.items():
            row, then = known.get(rows[number].hash), old.pictures[number]
            if row is not None and (row.learnt or lit):
                moved = np.array([row.score, row.maximum], np.float64) - then.values[0, :2]
                now.values[0, :2] += moved
                then.values[0, :2] += moved
        return new


def _leave_out_learnt(manifest: Manifest, leave_out: LeaveOut) -> RunOf:
    """Returns what gives a picture that was learnt from the run without its part."""
    known = {row.hash for row in scored(manifest.pictures)}
    lit = manifest.preprocess.normalization is not None

    def run_of(row: Picture) -> Run | None:
        if lit and row.hash not in known:  # what a picture scores in other light is known from the fit alone
            raise ExcludedPictureError("it was not learnt from")
        return leave_out.run(row.unit) if row.unit in leave_out.learnt else None

    return run_of


class _ReducedLeaveOut(LeaveOut):
    """Leaves out what was learnt from, with the reduced model's features."""

    def __init__(self, reduced: ReducedModel, learnt: set[int], tensors: Mapping[str, Tensor]):
        super().__init__(reduced.trained.model, learnt, tensors)
        self._embed = reduced.embed

    def embed(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._embed(images.numpy()))


def _describe(count: int, fresh: int, reduced: ReducedModel) -> str:
    """Note on what a reduced precision is calibrated on: so many pictures, and how many it had not seen."""
    note = f"{reduced.precision}: calibrated anew on {pluralize(count, 'good picture')}"
    if 0 < fresh < count:
        left_out, others = count - fresh, pluralize(fresh, "other")
        note += f", {left_out} that it was fitted on and left out one by one, {others}"
    return note


def _update_samples(artefact: Artefact, session: Session) -> Artefact:
    """Replaces the samples' answers, with which another machine's self-test compares, by this session's."""
    if "samples" not in artefact.tensors:
        return artefact
    scores, maps = run_one_by_one(session, ExportPictures(artefact).samples())
    answers = zip(artefact.manifest.samples, scores, maps, strict=True)
    kept = tuple({**s, "score": float(x), "map_maximum": float(m.max())} for s, x, m in answers)
    tensors = {**artefact.tensors, "sample_maps": np.ascontiguousarray(maps[:, ::MAP_STRIDE, ::MAP_STRIDE])}
    return Artefact(replace(artefact.manifest, samples=kept), tensors)
