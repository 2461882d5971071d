"""Reads the pictures of an export, calibrates a reduced precision, and compares it with the trained model.

A model in a reduced precision is another detector. A picture that was learnt from is left out by both models,
and the difference of the two scores is added to its score in the fit. The fit had the features of the other
pictures, so that it could leave the picture out more exactly (`LeaveOut`).
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

MAX_COMPARED = 32  # number of views to compare on, at most
MAX_DEFECTIVE = 8  # number of these views that are compared with a simulated defect, too
GOLDEN_SECTION = (5**0.5 - 1) / 2  # the fractional parts of its multiples lie evenly in 0..1, few or many

Images = NDArray[np.float32]  # [N, 3, H, W]
EmbedFn = Callable[[Images], NDArray[np.float32]]  # images to features


def with_defects(images: Images) -> Images:
    """Return up to `MAX_DEFECTIVE` of the images, spread evenly, each with a simulated defect."""
    rng = np.random.default_rng(0)
    return np.concatenate([add_defect(image[None], rng) for image in subset(images, MAX_DEFECTIVE)])


def subset(images: Images, most: int) -> Images:
    """Return up to `most` of the images, spread evenly."""
    step = -(-len(images) // most)  # rounded up
    return images[::step]


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
        batches = [read_views(numbers) for read_views, numbers in self._sample_views(MAX_COMPARED, failures)]
        if batches:
            return np.concatenate(batches)
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

        With tiles, these are the whole view and at least one tile of each picture, and the tiles' places
        differ from picture to picture. For a picture that cannot be read, a line is added to `failures`.

        Yields:
            For each picture, a function that returns views by their numbers, and the numbers of chosen views.
        """
        preprocess = self.artefact.manifest.preprocess
        min_views = 1 if preprocess.tile is None else 2  # the whole view of a picture, and a tile
        max_pictures = max(1, most // min_views)
        step = -(-len(self.sources) // max_pictures) or 1  # rounded up; 1 where there are no sources
        sources = self.sources[::step]
        picture_number = 0
        for source in sources:
            name = source_name(source)
            try:
                views = preprocess.views(source, name, self.artefact.counted)
                if views.unusable:
                    raise InputError(f"cannot use {name}: {views.unusable}; remove it")
            except (InputError, MemoryError) as error:
                failures.append(error_reason(error, name))
                continue
            views = views.with_roi(self.artefact.tensors.get("region"))
            full_view, *tiles = views.view_numbers()
            max_views = max(min_views, most // len(sources))  # views of this picture
            tile_count = min(max_views - 1, len(tiles))
            # The tiles are spread evenly, with another offset for each picture, so that other tiles are taken
            offset = picture_number * GOLDEN_SECTION % 1
            picture_number += 1
            sampled_tiles = [tiles[int((k + offset) * len(tiles) / tile_count)] for k in range(tile_count)]
            yield views.images, [full_view, *sampled_tiles]


# ---------------------------------------------------------------------------------------------- calibration


def engine_version(engine: str) -> str:
    """Return an engine's version, without OpenVINO's commit.

    The module gives the version, not a package, because packages of several names contain an engine.
    """
    return str(import_module(engine).__version__).partition("-")[0]


@dataclass(frozen=True)
class ReducedModel:
    """Exported network in its engines, with the trained model.

    Attributes:
        precision: Precision of the network's features.
        sessions: The network in each of its engines; the first calibrates.
        embed: Computes the network's features in the first engine. If a picture is left out, the trained
            model computes its score from these features.
        trained: The trained model.
    """

    precision: str
    sessions: Sequence[Session]
    embed: EmbedFn
    trained: TorchSession


def recalibrate(
    reduced: ReducedModel, pictures: ExportPictures, probe_images: Images, step: ProgressCallback
) -> tuple[Artefact, list[Certificate]]:
    """Calibrate the artefact for a reduced precision, and certify each engine.

    Pictures that the model was fitted on are left out one by one; other pictures get their ordinary scores.
    The calibration uses the first engine's answers. Each certificate has the larger of two differences:
    between the first engine and the trained model, and between the certificate's own engine, with images in
    batches, and the first engine.

    Args:
        reduced: The exported network in its engines, and the trained model.
        pictures: Good pictures to calibrate on.
        probe_images: Images on which the engines are compared.
        step: Called with the stage, the steps done and the number of steps.

    Returns:
        The calibrated artefact, and the certificates in the order of the engines.

    Raises:
        InputError: No picture can be used.
    """
    artefact = pictures.artefact
    session = reduced.sessions[0]
    manifest = artefact.manifest
    old_calibration = artefact.manifest.calibration
    adapts_to_light = manifest.preprocess.normalization is not None
    table = _read_pictures(pictures, step)
    rows_to_judge = _rows_to_judge(table, manifest)
    learnt = {*learnt_units(manifest.pictures).values()}  # numbers of the units that the model learnt from
    tensors = {
        name: torch.from_numpy(tensor) for name, tensor in artefact.tensors.items() if name != "samples"
    }
    leave_out = LeaveOut(reduced.trained.model, learnt, tensors)
    models = _BothModels(reduced, artefact, table.pictures, leave_out, step)
    run_of = _leave_out_learnt(manifest, _ReducedLeaveOut(reduced, learnt, tensors))
    judged = score(models, rows_to_judge, run_of, manifest.preprocess.lights[:1])
    pictures.failures.extend(judged.answers.failures.values())
    if not judged.rows:
        raise _no_picture_error(reduced.precision, adapts_to_light)
    hashes = {row.hash for row in table.rows.values()}
    rows = _merge_rows(manifest.pictures, judged.rows, hashes)
    learnt_hashes = {row.hash for row in manifest.pictures if row.learnt}
    new_hashes = [row.hash for row in judged.rows.values() if row.hash not in learnt_hashes]
    are_all_new = len(new_hashes) == len(judged.rows)
    method = "held out" if are_all_new and not adapts_to_light else old_calibration.method
    changes = {"method": method, "runtime": session.runtime, "precision": reduced.precision}
    calibration = calibrate(rows, **old_calibration.to_dict() | changes)
    defects = DefectScores.from_facts(manifest.facts)
    if defects is not None and old_calibration.precision == defects.precision:
        # the trained model's scores of defects are kept: those of the reduced model are near them
        defects = replace(defects, precision=reduced.precision)
    notes = list[str]()
    questions = list[str]()
    if new_hashes:
        notes, questions = settle(find_unusual(rows, calibration, defects, new_hashes))

    def values_of(answers: Answers) -> NDArray[np.float64]:
        """Return scores, maxima and medians `[3, N]` of the pictures, in the first light."""
        return np.array([scores.values[0] for scores in answers.pictures.values() if not scores.is_lost]).T

    certificates = _certify_engines(
        reduced,
        probe_images,
        old_calibration,
        calibration,
        reduced_values=values_of(judged.answers),
        trained_values=values_of(models.trained),
    )
    new_notes = (*manifest.notes, _describe(len(judged.rows), len(new_hashes), reduced), *notes)
    manifest = replace(manifest, calibration=calibration, pictures=rows, notes=new_notes).asking(*questions)
    return _update_samples(replace(artefact, manifest=manifest), session), certificates


def _no_picture_error(precision: str, adapts_to_light: bool) -> InputError:
    """Return the error where no picture can calibrate a precision."""
    if adapts_to_light:
        return InputError("in other light only good pictures of the fit can be calibrated on: give those")
    return InputError(
        f"none of the pictures can calibrate {precision}: the model was fitted on them and "
        "cannot leave them out, or they cannot be read; give good pictures that it has not seen"
    )


def _certify_engines(
    reduced: ReducedModel,
    probe_images: Images,
    old_calibration: Calibration,
    calibration: Calibration,
    reduced_values: NDArray[np.float64],
    trained_values: NDArray[np.float64],
) -> list[Certificate]:
    """Certify each engine of a reduced precision.

    Args:
        reduced: The exported network in its engines, and the trained model.
        probe_images: Images on which the engines are compared.
        old_calibration: Calibration of the trained model.
        calibration: Calibration of the reduced precision.
        reduced_values: `[3, N]`, score, map maximum and map median of each picture, by the reduced precision.
        trained_values: The same values by the trained model, `[3, N]`.
    """
    reduced_scores, reduced_maxima, _ = reduced_values
    trained_scores, trained_maxima, _ = trained_values
    decisions = calibration.is_anomalous(reduced_scores)
    is_changed = decisions != old_calibration.is_anomalous(trained_scores)
    first_scores, first_maps = run_one_by_one(reduced.sessions[0], probe_images)
    defective = with_defects(probe_images)
    trained_defect_scores, _ = run_one_by_one(reduced.trained, defective)
    expected_scores = trained_defect_scores.astype(np.float64)
    certificates = []
    for session in reduced.sessions:
        consistency = certify_session(session, probe_images, first_scores, first_maps, calibration)
        certificate = certify_reduced(
            consistency,
            old_calibration,
            scores=(reduced_scores, trained_scores),
            maxima=(reduced_maxima, trained_maxima),
            decisions=int(np.count_nonzero(is_changed)),
        )
        defect_scores, _ = run_one_by_one(session, defective)
        errors = np.abs(defect_scores.astype(np.float64) - expected_scores)
        errors /= difference_scales(old_calibration.scores, old_calibration.score_threshold, expected_scores)
        largest_error = float(np.nan_to_num(errors, nan=np.inf).max())
        certificates.append(replace(certificate, simulated=largest_error))
    return certificates


def certify_session(
    session: Session,
    images: Images,
    scores: Array,
    maps: Array,
    calibration: Calibration,
    ties: NDArray[np.bool_] | None = None,
) -> Certificate:
    """Compare a session's answers for images with the expected scores and maps (`certificate.certify`)."""
    runtime = f"{session.runtime} {engine_version(session.runtime)}"
    return certify(session, images, scores, maps, calibration=calibration, runtime=runtime, ties=ties)


def run_one_by_one(session: Session, images: Images) -> tuple[Array, Array]:
    """Return scores `[N]` and maps `[N, H, W]` of images, each in a batch of its own."""
    answers = [session.run(image[None]) for image in images]
    scores = np.concatenate([image_scores for image_scores, _ in answers])
    maps = np.concatenate([image_maps for _, image_maps in answers])
    return scores, maps


def _read_pictures(pictures: ExportPictures, step: ProgressCallback) -> PictureTable:
    decoded = DecodedPictures(pictures.sources, pictures.artefact.manifest.preprocess.channels)
    table = PictureTable.read(decoded, relative_names(pictures.sources), CALIBRATE, step)
    pictures.failures.extend(table.failures.values())
    return table


def _rows_to_judge(table: PictureTable, manifest: Manifest) -> dict[int, Picture]:
    """Choose the rows to judge, and return them by their numbers in the table.

    These are the model's rows with scores, and new rows that are no near-duplicates of pictures learnt from.
    """
    scored_rows = {row.hash: row for row in scored(manifest.pictures)}
    learnt_hashes = {row.hash for row in manifest.pictures if row.learnt}
    rows = dict[int, Picture]()
    new_numbers = list[int]()
    for number in table.distinct():
        picture_hash = table.rows[number].hash
        if picture_hash in scored_rows:
            rows[number] = scored_rows[picture_hash]
        elif picture_hash not in learnt_hashes:
            new_numbers.append(number)
    new_rows = [table.rows[number] for number in new_numbers]
    units = units_of(new_rows, manifest.pictures, part_of=stored_part_reader(manifest))
    for index, number in enumerate(new_numbers):
        original = units.copies.get(index)  # the picture that the new one nearly duplicates
        if original is None or not original.learnt:
            rows[number] = units.rows[index]  # the row with its unit
    return dict(sorted(rows.items()))


def _merge_rows(
    model_rows: Sequence[Picture], judged: Mapping[int, Picture], hashes: Collection[str]
) -> tuple[Picture, ...]:
    """Return the rows of the model after judging, and after them the new rows.

    A judged row of the model gets its new scores. A row that counts without a score (`is_lost`) stays as it
    is if its picture was given for the export. Of the other rows, those that the model learnt from lose their
    scores, and the rest is dropped.

    Args:
        model_rows: Rows of the model.
        judged: Judged rows by their numbers.
        hashes: Hashes of the pictures given for the export.
    """
    judged_rows = {row.hash: row for row in judged.values()}
    rows = list[Picture]()
    for row in model_rows:
        if row.role != DUPLICATE and row.hash in judged_rows:
            rows.append(judged_rows.pop(row.hash))
        elif row.is_lost and row.hash in hashes:
            rows.append(row)
        elif row.learnt:
            rows.append(row.forgotten())
    return (*rows, *judged_rows.values())


@dataclass
class _BothModels:
    """Pictures of an export, judged by the reduced and by the trained model.

    If a picture was learnt from, the score that it got in the fit replaces the trained model's score. The
    difference of these two is also added to the reduced model's score.

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
        adapts_to_light = manifest.preprocess.normalization is not None
        fit_rows = {row.hash: row for row in scored(manifest.pictures)}
        reduced = Predictor(self.artefact, self.reduced.sessions[0])
        trained = Predictor(self.artefact, self.reduced.trained)
        reduced_answers = SessionPictures(reduced, self.pictures, self.step).answers(rows, run_of, lights)
        trained_run_of = _leave_out_learnt(manifest, self.leave_out)
        self.trained = SessionPictures(trained, self.pictures).answers(rows, trained_run_of, lights)
        for number, reduced_answer in reduced_answers.pictures.items():
            fit_row = fit_rows.get(rows[number].hash)
            trained_answer = self.trained.pictures[number]
            if fit_row is None or not (fit_row.learnt or adapts_to_light):
                continue
            # In the first light, the trained model's score and map maximum are replaced by those of the fit;
            # the reduced model's are moved by the same differences.
            fit_values = np.array([fit_row.score, fit_row.maximum], np.float64)
            correction = fit_values - trained_answer.values[0, :2]
            reduced_answer.values[0, :2] += correction
            trained_answer.values[0, :2] += correction
        return reduced_answers


def _leave_out_learnt(manifest: Manifest, leave_out: LeaveOut) -> RunOf:
    """Return a function that returns the run that judges a row.

    A row of a part that the model learnt from gets a run without this part. Other rows get None: the
    ordinary session judges them.
    """
    fit_hashes = {row.hash for row in scored(manifest.pictures)}
    adapts_to_light = manifest.preprocess.normalization is not None

    def run_of(row: Picture) -> Run | None:
        # only the fit knows the score of a picture in other light
        if adapts_to_light and row.hash not in fit_hashes:
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


def _describe(count: int, new_count: int, reduced: ReducedModel) -> str:
    """Return a note on the calibration of a reduced precision.

    Args:
        count: Number of judged pictures.
        new_count: Number of judged pictures that the model was not fitted on.
        reduced: The model.
    """
    note = f"{reduced.precision}: calibrated anew on {pluralize(count, 'good picture')}"
    if 0 < new_count < count:
        left_out_count = count - new_count
        new_pictures = pluralize(new_count, "other")
        note += f", {left_out_count} that it was fitted on and left out one by one, {new_pictures}"
    return note


def _update_samples(artefact: Artefact, session: Session) -> Artefact:
    """Replace the answers that a self-test expects for the sample pictures by the answers of a session."""
    if "samples" not in artefact.tensors:
        return artefact
    scores, maps = run_one_by_one(session, ExportPictures(artefact).samples())
    samples = tuple(
        {**sample, "score": float(sample_score), "map_maximum": float(sample_map.max())}
        for sample, sample_score, sample_map in zip(artefact.manifest.samples, scores, maps, strict=True)
    )
    coarse_maps = np.ascontiguousarray(maps[:, ::MAP_STRIDE, ::MAP_STRIDE])
    tensors = {**artefact.tensors, "sample_maps": coarse_maps}
    return Artefact(replace(artefact.manifest, samples=samples), tensors)
