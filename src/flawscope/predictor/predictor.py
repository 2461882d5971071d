"""Model of one product, which judges pictures: preprocess, session, calibration.

Torch-free; the session brings its engine.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import model_file
from flawscope.artefact.certificate import Certificate, certify_samples
from flawscope.artefact.detection import describe_detection, with_decided_defects
from flawscope.artefact.expected import SCALE, ExpectedPictures
from flawscope.artefact.files import ARCHIVE_SUFFIX, EXPORTED_SUFFIX, TRAINED_SUFFIX, exported_error
from flawscope.artefact.model_file import Artefact, Manifest, unpack_images
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.artefact.parts import PART
from flawscope.artefact.rates import promise_of
from flawscope.calibration.near_threshold import is_near
from flawscope.calibration.outliers import Suspect
from flawscope.calibration.size_bounds import SizeBounds
from flawscope.calibration.threshold import Calibration, Rate
from flawscope.errors import InputError, check_arguments
from flawscope.pictures.appearance import measure_appearance
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource, error_reason
from flawscope.pictures.form import describe_other_form
from flawscope.pictures.listing import refuse_masks, relative_names
from flawscope.predictor.any_model import AnyModel
from flawscope.predictor.kind_classifier import KindClassifier
from flawscope.predictor.parts import compare_named_view
from flawscope.predictor.recalibration import recalibrate
from flawscope.predictor.region_kinds import name_kinds
from flawscope.predictor.several_parts import with_parts
from flawscope.predictor.streaming import (
    Loaded,
    LoadResult,
    SourceResult,
    from_bgr,
    memory_errors,
    read_picture,
    resolve_pictures,
)
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.results import html
from flawscope.results.findings import other_form, outside_light
from flawscope.results.found_parts import NOT_SEARCHED, PartSearch
from flawscope.results.prediction import PEAK_RADIUS, Prediction, ScoreLevels
from flawscope.runtime import Run, Runner, Session, open_session, read_one
from flawscope.views.frames import PartPose
from flawscope.views.geometry import Geometry
from flawscope.views.tiles import RegionOfInterest
from flawscope.views.view_looks import thumbnail
from flawscope.views.views import PartFrameViews, Views

if TYPE_CHECKING:
    from flawscope.runtime.torch import Detector, TorchSession

SHOWN_SAMPLES = 3  # stored pictures that a notebook displays


def open_fitted(artefact: Artefact, device: str = "auto", detector: Detector | None = None) -> Predictor:
    """Open a fitted model, which is in memory, in PyTorch.

    Args:
        artefact: The model.
        device: auto, cpu, cuda or mps.
        detector: The model's network; None: it is made from the artefact.
    """
    if detector is None:
        return Predictor(artefact, open_session(artefact, f"model{TRAINED_SUFFIX}", device=device))
    from flawscope.runtime.torch import TorchSession

    return Predictor(artefact, TorchSession(detector, device))


@check_arguments()
def fitted_artefact(model: str | os.PathLike[str] | Artefact | Predictor) -> Artefact:
    """Return the artefact of a fitted model, given as its file, an open predictor, or the artefact itself.

    Raises:
        InputError: The model is exported, or its file cannot be read.
    """
    if isinstance(model, Artefact):
        return model
    exported_suffixes = (EXPORTED_SUFFIX, ARCHIVE_SUFFIX)
    if isinstance(model, Predictor):
        if model.session.suffix in exported_suffixes:
            raise exported_error("this")
        return model.artefact
    if os.path.splitext(model)[1].lower() in exported_suffixes:
        raise exported_error(os.fspath(model))
    return model_file.read(model)


class Predictor(AnyModel["Predictor"]):
    """Fitted model that judges pictures: paths, bytes, PIL images, numpy `[H, W, 3]` uint8.

    Attributes:
        manifest: Facts and settings of the model.
        calibration: Thresholds, and how a score becomes p-value, severity and decision.
        appearance: Range of the training pictures' appearance as a whole; None in models without it.
        view_looks: Looks of good pictures of each view of a part; None: they are not known.
        known_sizes: Extreme sizes (H, W) of the training pictures; empty in models without them.
        mm_per_pixel: Length of a picture's pixel in millimetres; None: not known.
        size_bounds: Bounds on a defect's size beyond the area that the map marks.
        failures: Pictures that `fit` could not use, each with the reason.
    """

    def __init__(self, artefact: Artefact, session: Session, failures: Sequence[str] = ()):
        height, width = artefact.manifest.preprocess.network_size
        session_height, session_width = session.size
        if (height, width) != (session_height, session_width):
            raise InputError(
                f"the model's manifest says pictures of {height}x{width}, its network takes "
                f"{session_height}x{session_width}: fit anew"
            )
        self.artefact = artefact
        self.session = session
        kinds = artefact.manifest.kinds
        self.kind_classifier = KindClassifier(kinds, artefact.tensors["kinds"]) if kinds else None
        expected = ExpectedPictures.from_facts(artefact.manifest.facts)
        self.appearance = expected.appearance
        self.known_sizes = expected.sizes
        self.view_looks = expected.view_looks
        self.mm_per_pixel = expected.mm_per_pixel
        self.size_bounds = SizeBounds.from_facts(artefact.manifest.facts)
        self.failures = [*failures]

    @classmethod
    def opened(
        cls,
        path: str | os.PathLike[str],
        engine: str | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> Predictor:
        """Open the model file of one product, with the arguments of `flawscope.load`.

        Raises:
            InputError: The file cannot be read, or holds models of several products or views.
        """
        artefact = read_one(path)
        return cls(artefact, open_session(artefact, path, engine, device, threads))

    @property
    def manifest(self) -> Manifest:
        """Facts and settings of the model, as its file holds them."""
        return self.artefact.manifest

    @property
    def calibration(self) -> Calibration:
        """The thresholds, and the scores of the good pictures that they come from."""
        return self.artefact.manifest.calibration

    @property
    def _shows_a_view(self) -> bool:
        """Whether the model's pictures are views of a part, which may be exchanged."""
        return PART in self.manifest.facts or self.view_looks is not None

    @property
    def detector(self) -> Detector:
        """Network of a fitted model, in torch: a `flawscope.methods.detector.Detector`."""
        return cast("TorchSession", self.session).model

    @property
    def products(self) -> dict[str, Predictor]:  # type: ignore[override]
        """The model itself, under the name ""."""
        return {"": self}

    @property
    def mapping(self) -> ModelMapping:
        """The model as a mapping of one product, to be stored or opened like several."""
        return ModelMapping.of(self.artefact)

    @property
    def runner(self) -> Runner:
        """Runner of the network: its engine, its device and its threads."""
        return self.session

    def with_product(self, name: str, model: Predictor) -> Predictor:
        """Return `model`, which replaces the only product (`Router.with_product`)."""
        return model

    def with_looks_of_views(self, pictures: Mapping[str, Sequence[PictureSource]]) -> Predictor:
        """Return the model unchanged.

        Only a `Router` of views learns the looks of views here. A model of one product learns them when it is
        fitted or calibrated.
        """
        return self

    def __repr__(self) -> str:
        facts = dict(self._facts())
        return f"<Predictor {facts['model']}, {facts['pictures']}; {facts['decision']}>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield the main facts of the model, for a person."""
        manifest = self.manifest
        height, width = self.session.size
        category = f" for {manifest.category}" if manifest.category else ""
        yield "model", f"{manifest.method}{category}, {height}x{width}, {self.session.runtime}"
        role_counts = Counter(picture.role for picture in manifest.pictures)
        counts = [f"{count} {role}" for role, count in role_counts.items()]
        yield "pictures", ", ".join(counts) or "no pictures known"
        yield "decision", promise_of(self.manifest).text

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the model's facts, and its sample pictures."""
        rows = [*self._facts()]
        detection = describe_detection(self.manifest)
        if detection:
            rows.append(("simulated defects by size", detection))
        rows += [("note", note) for note in self.manifest.notes]
        parts = [html.table(rows)]
        samples = self.artefact.tensors.get("samples")
        images = () if samples is None else unpack_images(samples[:SHOWN_SAMPLES])
        for image in images:
            pixels = image.transpose(1, 2, 0).clip(0, 1)  # [H, W, 3]
            picture = (255 * pixels).astype(np.uint8)
            parts.append(html.image_tag(html.shrink(picture)))
        return "".join(parts)

    @check_arguments()
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically."""
        if os.path.splitext(os.fspath(path))[1].lower() != self.session.suffix:
            raise InputError(
                f"this model is saved as {self.session.suffix}; `flawscope export` makes the other kinds"
            )
        self.session.save(self.artefact, path)

    def _load(self, source: PictureSource, bgr: bool, leave_out: Collection[str]) -> Loaded:
        if len(leave_out) == 0:
            return self.see(source, from_bgr(source) if bgr else source)
        return self.see(source, read_picture(source, bgr, leave_out, self.manifest.preprocess.decode))

    def see(self, source: PictureSource, picture: PictureSource) -> Loaded:
        """Return a picture's views, and its appearance as a whole.

        Args:
            source: The picture as it was given; errors name it.
            picture: The same picture, decoded or not.

        Raises:
            InputError: The picture cannot be used.
        """
        counted = self.artefact.counted
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        views = self.manifest.preprocess.views(picture, name, counted)
        views.with_roi(self.artefact.tensors.get("region"))
        whole_view = views.images([0])[0]
        return views, measure_appearance(whole_view, counted)

    def _run_views(
        self, pictures_views: list[Views], run: Run
    ) -> tuple[NDArray[Any], Sequence[NDArray[Any]]]:
        """Run the network on pictures, given as their views; return their scores [n] and their maps."""
        if not pictures_views:
            return np.empty(0), []
        fusion = self.manifest.fusion
        if fusion is None and self.manifest.preprocess.channels is None:
            scores, maps = run(np.concatenate([views.images([0]) for views in pictures_views]))
            return scores, list(maps)
        results = (views.predict(run, fusion, self.session.batch) for views in pictures_views)
        picture_scores, picture_maps = zip(*results, strict=True)
        return np.array(picture_scores), picture_maps

    def judge(self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run) -> list[SourceResult]:
        """Judge pictures that are computed together."""
        try:
            if self.manifest.preprocess.several is not None:
                return [(source, self._judge_parts(source, loaded, run)) for source, loaded in batch]
            # the views (item 0) of the pictures that could be read
            readable = [loaded[0] for _, loaded in batch if not isinstance(loaded, InputError)]
            scores, maps = self._run_views(readable, run)
        except MemoryError as error:
            return memory_errors(batch, error)
        results = []
        without_kinds = self.decide(batch, scores, maps)
        for (source, result), (_, loaded) in zip(without_kinds, batch, strict=True):
            results.append((source, self._name_kinds(result, source, loaded)))
        return results

    def _name_kinds(
        self, result: Prediction | InputError, source: PictureSource, loaded: LoadResult
    ) -> Prediction | InputError:
        """Return the result with the kinds of the regions' defects, where the model knows kinds."""
        if self.kind_classifier is None or isinstance(result, InputError) or isinstance(loaded, InputError):
            return result
        try:
            return name_kinds(self, self.kind_classifier, loaded[0], result)
        except (InputError, MemoryError) as error:
            return InputError(error_reason(error, f"{source!s:.200}"))

    def _judge_parts(self, source: PictureSource, loaded: LoadResult, run: Run) -> Prediction | InputError:
        """Judge a picture of several parts by its worst part; the parts are computed together."""
        if isinstance(loaded, InputError):
            return loaded
        views = loaded[0]
        assert isinstance(views, PartFrameViews), "the preprocessing of several parts makes these"
        fusion = self.manifest.fusion
        if fusion is None:
            results = views.predict_parts(run, fusion, batch=None, roi=self.artefact.counted)
        else:  # tiles mark the region of interest themselves
            results = views.predict_parts(run, fusion, batch=self.session.batch, roi=None)
        scores, picture_map, part_numbers = results
        worst_score = scores.max(keepdims=True)
        [(_, result)] = self.decide([(source, loaded)], worst_score, [picture_map])
        if isinstance(result, InputError):
            return result
        preprocess = self.manifest.preprocess
        prediction = with_parts(result, views, scores, part_numbers, preprocess, self.calibration)
        return self._name_kinds(prediction, source, loaded)

    def decide(
        self,
        batch: Sequence[tuple[PictureSource, LoadResult]],
        scores: NDArray[Any],
        maps: Sequence[NDArray[Any]],
    ) -> list[SourceResult]:
        """Decide on pictures by their scores and maps.

        Args:
            batch: Each picture, and what `load` returned for it.
            scores: Scores of the pictures that could be read, in the order of `batch`.
            maps: Maps of the pictures that could be read, in the order of `batch`.
        """
        calibration = self.calibration
        p_values = calibration.p_values(scores)
        severities = calibration.severity(scores)
        decisions = calibration.is_anomalous(scores)
        values_of_readable = zip(scores, maps, p_values, severities, decisions, strict=True)
        results: list[SourceResult] = []
        for source, loaded in batch:
            if isinstance(loaded, InputError):
                results.append((source, loaded))
                continue
            score, map_, p_value, severity, anomalous = next(values_of_readable)
            prediction = self._make_prediction(source, loaded, score, map_, p_value, severity, anomalous)
            results.append((source, prediction))
        return results

    def _make_prediction(
        self,
        source: PictureSource,
        seen: Loaded,
        score: float,
        map_: NDArray[np.floating[Any]],
        p_value: float,
        severity: float,
        anomalous: bool,
    ) -> Prediction | InputError:
        """Return the prediction of a picture, or an error if its score is not a finite number.

        Args:
            source: The picture.
            seen: The picture's views and appearance.
            score: The picture's score.
            map_: [H, W], map of the corrected picture.
            p_value: p-value of the score.
            severity: Severity of the score.
            anomalous: Decision on the score.
        """
        views, appearance = seen[:2]  # a router adds the recognised product
        preprocess = self.manifest.preprocess
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        if not math.isfinite(score):
            name = path or "a picture"
            return InputError(f"{name}: its score is not a number; fit with --set precision=fp32")
        restored_map, geometry = preprocess.restored(map_, views.geometry)
        other_form_text, is_stretched = describe_other_form(geometry.picture_size, self.known_sizes)
        calibration = self.calibration
        # `PEAK_RADIUS` is in pixels of the network, `peak_radius` in pixels of the map
        peak_radius = PEAK_RADIUS * max(self.session.size) / max(restored_map.shape)
        levels = ScoreLevels(
            score_threshold=calibration.score_threshold,
            mask_threshold=calibration.mask_threshold,
            colour_range=calibration.colour_range,
            outline=calibration.outline,
            nearby=peak_radius,
        )
        parts = self._find_part(views)
        findings = []
        if views.outside_light:
            findings.append(outside_light())
        if other_form_text:
            findings.append(other_form(other_form_text, decides=is_stretched))
        findings += parts.findings()
        prediction = Prediction(
            score=float(score),
            p_value=float(p_value),
            severity=float(severity),
            is_anomalous=bool(anomalous),
            map=restored_map,
            geometry=replace(geometry, mm_per_pixel=self.mm_per_pixel),
            levels=levels,
            path=path,
            shifts=() if self.appearance is None else self.appearance.shifts(appearance),
            brightness=appearance[0] if appearance else None,
            outside_light=views.outside_light,
            parts=parts,
            look=thumbnail(views.images([0])[0]) if self._shows_a_view else None,
            size_bounds=self.size_bounds,
            near=not anomalous and is_near(float(p_value), calibration.expected_rate),
        ).noticing(*findings)
        if self.view_looks is None:
            return prediction
        return compare_named_view(self.manifest, self.view_looks, prediction)

    def _find_part(self, views: Views) -> PartSearch:
        """Return the place of a picture's part; `NOT_SEARCHED` for a model that does not align parts."""
        pose = views.pose
        reference = self.manifest.preprocess.reference
        if pose is None or reference is None:
            return NOT_SEARCHED
        place = None
        if pose.found:
            place = PartPose.from_pose(pose, reference, views.geometry.picture_size)
        return PartSearch(reference.p_value(pose.error), place)

    def with_calibration(self, calibration: Calibration, *notes: str) -> Predictor:
        """Return the model with another calibration, and with `notes` added to its own."""
        all_notes = (*self.manifest.notes, *notes)
        manifest = replace(self.manifest, calibration=calibration, notes=all_notes)
        return self.with_manifest(with_decided_defects(manifest))

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Good pictures that were learnt from but deserve a look, each with the reason, worst first."""
        return self.manifest.suspects

    @property
    def questions(self) -> tuple[str, ...]:
        """Open questions about pictures with which the model may be wrong; empty: none are open."""
        return self.manifest.questions

    def asking(self, *lines: str) -> Predictor:
        """Return the model with further open questions."""
        return self.with_manifest(self.manifest.asking(*lines))

    def accept(self) -> Predictor:
        """Return the model without open questions: a person has confirmed that the pictures are good."""
        return self.with_manifest(self.manifest.accepted())

    def with_manifest(self, manifest: Manifest) -> Predictor:
        """Return the model with another manifest, and the same network and `failures`."""
        return Predictor(replace(self.artefact, manifest=manifest), self.session, self.failures)

    def with_failures(self, failures: Sequence[str]) -> Predictor:
        """Return the model with `failures`: pictures that it could not use, each with the reason."""
        return Predictor(self.artefact, self.session, failures)

    def with_scale(self, mm_per_pixel: float) -> Predictor:
        """Return the model with the length of a pixel in millimetres, which gives regions a size."""
        return self.with_manifest(replace(self.manifest, facts={**self.manifest.facts, SCALE: mm_per_pixel}))

    def with_rate(self, false_alarm_rate: Rate) -> Predictor:
        """Return the model with another target false-alarm rate, 0.05 or "5%"."""
        return self.with_calibration(self.calibration.with_rate(false_alarm_rate))

    def calibrate(
        self,
        good: Iterable[PictureSource] | PictureSource,
        step: ProgressCallback = ignore_progress,
        *,
        force: bool = False,
    ) -> Predictor:
        """Return the model with thresholds from new good pictures, for a changed camera or light.

        Pictures that the model was fitted on would score too low, and copies would count twice. Both are
        recognised by their decoded pixels, and left out.

        Args:
            good: The pictures, or a folder of them, as for `stream`. Pictures of one part count as one: parts
                are recognised by the model's pattern of names, or as near-duplicates.
            step: Gets the progress.
            force: Whether the pictures are known to be good. If not, the new model has `questions` where
                pictures are too few for the promised rate, show nothing, or look like defects.

        Raises:
            InputError: There are no pictures, or none could be read. Single failures are collected in
                `failures`.
        """
        pictures = list(resolve_pictures(good))
        refuse_masks(pictures)
        decoded = DecodedPictures(pictures, self.manifest.preprocess.channels)
        result = recalibrate(self, decoded, relative_names(pictures), step, force)
        return self.with_manifest(result.manifest).with_failures(result.failures)

    def valid_mask(self, geometry: Geometry) -> NDArray[np.bool_]:
        """Return a mask [H, W] of a prediction's map: the pixels that count.

        Such pixels show the picture, not a letterbox's border, and lie in the region of interest.
        """
        preprocess = self.manifest.preprocess
        size = geometry.size
        if preprocess.several is not None:
            return np.ones(size, np.bool_)  # the places of parts are not known here
        if geometry.corrected is not None:
            corrected_mask = self.valid_mask(geometry.corrected).astype(np.float32)
            mask, _ = preprocess.restored(corrected_mask, geometry.corrected, fill=0.0)
            return mask > 0.5
        visible = geometry.visible_mask()
        is_single_view = preprocess.tile is None or size == tuple(self.session.size)
        if is_single_view:
            counted = self.artefact.counted
            return visible if counted is None else counted & visible
        region = self.artefact.tensors.get("region")
        if region is None:
            return visible
        frame_geometry = preprocess.whole.geometry(preprocess.frame_size(geometry.picture_size))
        height, width = size
        return RegionOfInterest(region, frame_geometry, size, visible).window(0, 0, height, width)

    def self_test(self) -> Certificate:
        """Run the artefact's sample pictures on this machine, and compare the results with stored ones.

        The stored results come from the trained model; for a model of reduced precision, from its export.
        """
        return certify_samples(self.session, self.artefact)
