"""Reads the pictures of an export, calibrates a reduced precision, and compares it with the trained model.

A model in a reduced precision is another detector. A picture that was learnt from is left out by both models,
and the difference of their scores is added to its score in the fit: the fit had the other pictures' features,
and could leave it out more exactly (`LeaveOut`).
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
    """Return some of the images, spread evenly, each with a simulated defect."""
    rng = np.random.default_rng(0)
    return np.concatenate([add_defect(image[None], rng) for image in subset(images, MAX_DEFECTIVE)])


def subset(images: Images, most: int) -> Images:
    """Return at most `most` of the images, spread evenly."""
    return images[:: -(-len(images) // most)]


@dataclass(frozen=True)
class ExportPictures:
    """Good pictures for the export of an artefact.

    Attributes:
        artefact: The artefact.
        sources: The given pictures; empty: the artefact's samples serve.
        failures: Gets a line for every picture that cannot be read.
    """

    artefact: Artefact
    sources: Sequence[PictureSource] = ()
    failures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sources)

    def probe_images(self) -> Images:
        """Return the images `[N, 3, H, W]` to compare on; raise InputError if there are none."""
        failures: list[str] = []
        if shown := [images(numbers) for images, numbers in self._sample_views(MAX_COMPARED, failures)]:
            return np.concatenate(shown)
        if failures:
            raise InputError(f"none of the pictures can be read; the first: {failures[0]}")
        return self.samples()

    def samples(self) -> NDArray[np.float32]:
        """Return the sample pictures of the artefact, `[N, 3, H, W]`; raise InputError if it has none."""
        packed = self.artefact.tensors.get("samples")
        if packed is None or not len(packed):
            raise InputError("the model holds no sample pictures to compare on: give some with --pictures")
        return unpack_images(packed)

    def _sample_views(
        self, most: int, failures: list[str]
    ) -> Iterator[tuple[Callable[[Sequence[int]], Images], list[int]]]:
        """Choose at most `most` views of pictures that are spread evenly.

        With tiles these are each picture's whole view and at least one tile, in another place than in the
        picture before. A picture that cannot be read becomes a line in `failures`.

        Yields:
            Of each picture, the function that gives views by their numbers, and the chosen numbers.
        """
        how = self.artefact.manifest.preprocess
        each = 1 if how.tile is None else 2
        place = 0
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
            # of a step from one tile to the next
            turn = place * GOLDEN_SECTION % 1
            place = place + 1
            chosen = [tiles[int((k + turn) * len(tiles) / count)] for k in range(count)]
            yield views.images, [first, *chosen]


# ---------------------------------------------------------------------------------------------- calibration


def engine_version(engine: str) -> str:
    """Return an engine's version, without OpenVINO's commit.

    It is the module's, because packages of several names bring an engine.
    """
    return str(import_module(engine).__version__).partition("-")[0]


@dataclass(frozen=True)
class ReducedModel:
    """Exported network in its engines, with the trained model.

    Attributes:
        precision: Precision of the network's features.
        sessions: The network in each of its engines; the first calibrates.
        embed: Computes the network's features in the first engine. Where a picture is left out, the trained
            model scores them.
        trained: The trained model.
    """

    precision: str
    sessions: Sequence[Session]
    embed: EmbedFn
    trained: TorchSession


def recalibrate(
    reduced: ReducedModel, pictures: ExportPictures, shown: Images, step: ProgressCallback
) -> tuple[Artefact, list[Certificate]]:
    """Calibrate the artefact for a reduced precision, and certify each engine.

    Pictures that it was fitted on are left out one by one; other pictures are simply scored. The first
    engine's answers calibrate. Every engine's answers in batches are compared with them, and the larger
    difference counts.

    Args:
        reduced: The exported network in its engines, and the trained model.
        pictures: Good pictures to calibrate on.
        shown: Images on which the engines are compared.
        step: Called with the stage, the steps done and the number of steps.

    Returns:
        The calibrated artefact, and the certificates in the order of the engines.

    Raises:
        InputError: No picture can be used.
    """
    artefact = pictures.artefact
    session = reduced.sessions[0]
    manifest = artefact.manifest
    before = artefact.manifest.calibration
    lit = manifest.preprocess.normalization is not None
    table = _read_pictures(pictures, step)
    asked = _rows_to_judge(table, manifest)
    learnt = {*learnt_units(manifest.pictures).values()}
    tensors = {
        name: torch.from_numpy(tensor) for name, tensor in artefact.tensors.items() if name != "samples"
    }
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
        np.array([scores.values[0] for scores in several.values() if not scores.is_lost]).T
        for several in (judged.answers.pictures, models.trained.pictures)
    )
    certificates = _certify_engines(reduced, shown, before, calibration, now, then)
    said = (*manifest.notes, _describe(len(judged.rows), len(fresh), reduced), *notes)
    manifest = replace(manifest, calibration=calibration, pictures=rows, notes=said).asking(*questions)
    return _update_samples(replace(artefact, manifest=manifest), session), certificates


def _nothing_calibrates(precision: str, lit: bool) -> InputError:
    """Return the error where no picture can calibrate a precision; `lit`: the model adapts to the light."""
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
    """Certify each engine of a reduced precision.

    Args:
        reduced: The exported network in its engines, and the trained model.
        shown: Images on which the engines are compared.
        before: Calibration of the trained model.
        calibration: Calibration of the reduced precision.
        now: Scores, maxima and medians of the pictures by the reduced precision, `[3, N]`.
        then: The same values by the trained model, `[3, N]`.
    """
    changed = int(np.count_nonzero(calibration.is_anomalous(now[0]) != before.is_anomalous(then[0])))
    (scores, maps), defective = run_one_by_one(reduced.sessions[0], shown), with_defects(shown)
    expected = run_one_by_one(reduced.trained, defective)[0].astype(np.float64)
    certificates = []
    for session in reduced.sessions:
        consistency = certify_session(session, shown, scores, maps, calibration)
        found = certify_reduced(consistency, before, (now[0], then[0]), (now[1], then[1]), changed)
        errors = np.abs(run_one_by_one(session, defective)[0].astype(np.float64) - expected)
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
    """Compare a session's answers with the expected scores and maps (`certificate.certify`)."""
    runtime = f"{session.runtime} {engine_version(session.runtime)}"
    return certify(session, shown, scores, maps, calibration=calibration, runtime=runtime, ties=ties)


def run_one_by_one(session: Session, shown: Images) -> tuple[Array, Array]:
    """Return scores `[N]` and maps `[N, H, W]` of images, each alone in its batch."""
    parts = [session.run(image[None]) for image in shown]
    scores, maps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, maps


def _read_pictures(pictures: ExportPictures, step: ProgressCallback) -> PictureTable:
    decoded = DecodedPictures(pictures.sources, pictures.artefact.manifest.preprocess.channels)
    table = PictureTable.read(decoded, relative_names(pictures.sources), CALIBRATE, step)
    pictures.failures.extend(table.failures.values())
    return table


def _rows_to_judge(table: PictureTable, manifest: Manifest) -> dict[int, Picture]:
    """Choose the rows to judge, and return them by their numbers in the table.

    They are the model's rows with scores, and new rows that are no near-duplicates of pictures learnt from.
    """
    with_scores = {row.hash: row for row in scored(manifest.pictures)}
    learnt = {row.hash for row in manifest.pictures if row.learnt}
    rows = dict[int, Picture]()
    new = list[int]()
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
    """Return the rows of the model after judging.

    A known row takes its new scores. If it was not judged and the model was learnt from it, its scores are
    removed. A lost row stays if its picture is among the given ones. New rows follow.

    Args:
        known: Rows of the model.
        judged: Judged rows by their numbers.
        given: Hashes of the given pictures.
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
    """Pictures of an export, judged by the reduced and by the trained model.

    For a picture that was learnt from, the trained model's score is replaced by that of the fit, and the
    reduced model's score is moved by the same difference.

    Attributes:
        reduced: Both models.
        artefact: The artefact of the trained model.
        pictures: The decoded pictures.
        leave_out: Leaves pictures out of the trained model.
        step: Called with the stage, the steps done and the number of steps.
        trained: The trained model's answers; empty until `answers` is called.
    """

    reduced: ReducedModel
    artefact: Artefact
    pictures: DecodedPictures
    leave_out: LeaveOut
    step: ProgressCallback
    trained: Answers = field(default_factory=Answers)

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Lights) -> Answers:
        """Return the reduced model's answers, and keep the trained model's.

        Args:
            rows: Rows to judge, by their numbers.
            run_of: Returns the run of the reduced model that judges a row.
            lights: Lights in which pictures are judged.
        """
        manifest = self.artefact.manifest
        lit = manifest.preprocess.normalization is not None
        known = {row.hash: row for row in scored(manifest.pictures)}
        reduced, trained = (
            Predictor(self.artefact, session) for session in (self.reduced.sessions[0], self.reduced.trained)
        )
        new = SessionPictures(reduced, self.pictures, self.step).answers(rows, run_of, lights)
        left_out = _leave_out_learnt(manifest, self.leave_out)
        old = self.trained = SessionPictures(trained, self.pictures).answers(rows, left_out, lights)
        for number, now in new.pictures.items():
            row = known.get(rows[number].hash)
            then = old.pictures[number]
            if row is not None and (row.learnt or lit):
                moved = np.array([row.score, row.maximum], np.float64) - then.values[0, :2]
                now.values[0, :2] += moved
                then.values[0, :2] += moved
        return new


def _leave_out_learnt(manifest: Manifest, leave_out: LeaveOut) -> RunOf:
    """Return a function that gives a row's run: without the part of a picture that was learnt from."""
    known = {row.hash for row in scored(manifest.pictures)}
    lit = manifest.preprocess.normalization is not None

    def run_of(row: Picture) -> Run | None:
        if lit and row.hash not in known:  # what a picture scores in other light is known from the fit alone
            raise ExcludedPictureError("it was not learnt from")
        return leave_out.run(row.unit) if row.unit in leave_out.learnt else None

    return run_of


class _ReducedLeaveOut(LeaveOut):
    """Trained model that leaves pictures out and scores the reduced model's features."""

    def __init__(self, reduced: ReducedModel, learnt: set[int], tensors: Mapping[str, Tensor]):
        super().__init__(reduced.trained.model, learnt, tensors)
        self._embed = reduced.embed

    def embed(self, images: Tensor) -> Tensor:
        """Return the reduced model's features of images `[B, 3, H, W]`."""
        return torch.from_numpy(self._embed(images.numpy()))


def _describe(count: int, fresh: int, reduced: ReducedModel) -> str:
    """Return a note on the calibration of a reduced precision.

    Args:
        count: Number of judged pictures.
        fresh: Number of those that the model was not fitted on.
        reduced: The model.
    """
    note = f"{reduced.precision}: calibrated anew on {pluralize(count, 'good picture')}"
    if 0 < fresh < count:
        left_out = count - fresh
        others = pluralize(fresh, "other")
        note += f", {left_out} that it was fitted on and left out one by one, {others}"
    return note


def _update_samples(artefact: Artefact, session: Session) -> Artefact:
    """Replace the samples' expected answers, which a self-test compares with its own, by this session's."""
    if "samples" not in artefact.tensors:
        return artefact
    scores, maps = run_one_by_one(session, ExportPictures(artefact).samples())
    answers = zip(artefact.manifest.samples, scores, maps, strict=True)
    kept = tuple({**s, "score": float(x), "map_maximum": float(m.max())} for s, x, m in answers)
    tensors = {**artefact.tensors, "sample_maps": np.ascontiguousarray(maps[:, ::MAP_STRIDE, ::MAP_STRIDE])}
    return Artefact(replace(artefact.manifest, samples=kept), tensors)
