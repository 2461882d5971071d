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
from flawscope.predictor.parts import named_as_another
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

SHOWN_SAMPLES = 3  # stored pictures that a notebook shows


def open_fitted(artefact: Artefact, device: str = "auto", detector: Detector | None = None) -> Predictor:
    """Open a fitted model in memory in torch.

    Args:
        artefact: The model.
        device: auto, cpu, cuda or mps.
        detector: The model's network. None: it is made from the artefact.
    """
    if detector is None:
        return Predictor(artefact, open_session(artefact, f"model{TRAINED_SUFFIX}", device=device))
    from flawscope.runtime.torch import TorchSession

    return Predictor(artefact, TorchSession(detector, device))


@check_arguments()
def fitted_artefact(model: str | os.PathLike[str] | Artefact | Predictor) -> Artefact:
    """Return the artefact of a fitted model, given its file, the artefact or an open predictor.

    Raises:
        InputError: The model is an exported one, or its file cannot be read.
    """
    if isinstance(model, Artefact):
        return model
    suffix = model.session.suffix if isinstance(model, Predictor) else os.path.splitext(model)[1].lower()
    if suffix in (EXPORTED_SUFFIX, ARCHIVE_SUFFIX):
        name = "this" if isinstance(model, Predictor) else os.fspath(model)
        raise exported_error(name)
    return model.artefact if isinstance(model, Predictor) else model_file.read(model)


class Predictor(AnyModel["Predictor"]):
    """Fitted model that judges pictures: paths, bytes, PIL images, numpy `[H, W, 3]` uint8.

    Attributes:
        manifest: Facts and settings of the model.
        calibration: Score to p-value, severity and decision.
        appearance: Range of the training pictures' appearance as a whole; None in models without it.
        view_looks: Looks of good pictures of each view of a part; None: they are not known.
        known_sizes: Extreme sizes (H, W) of the training pictures; empty in models without them.
        mm_per_pixel: Length of a picture's pixel in millimetres; None: not known.
        size_bounds: Bounds on a defect's size beyond the area that the map marks.
        failures: Pictures that `fit` could not use, each with the reason.
    """

    def __init__(self, artefact: Artefact, session: Session, failures: Sequence[str] = ()):
        wanted = artefact.manifest.preprocess.network_size
        if tuple(wanted) != tuple(session.size):
            raise InputError(
                f"the model's manifest says pictures of {wanted[0]}x{wanted[1]}, its network takes "
                f"{session.size[0]}x{session.size[1]}: fit anew"
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
        """Open the model file of one product (`flawscope.load`). InputError for a model of several."""
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
        """Return `model`: it takes the place of the only product (`Router.with_product`)."""
        return model

    def with_looks_of_views(self, pictures: Mapping[str, Sequence[PictureSource]]) -> Predictor:
        """Return the model unchanged.

        A model of one product learns the looks of a part's views where it is fitted or calibrated; only a
        `Router` of views learns them here.
        """
        return self

    def __repr__(self) -> str:
        facts = dict(self._facts())
        return f"<Predictor {facts['model']}, {facts['pictures']}; {facts['decision']}>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield the main facts of the model, for a person."""
        manifest, (height, width) = self.manifest, self.session.size
        of = f" for {manifest.category}" if manifest.category else ""
        yield "model", f"{manifest.method}{of}, {height}x{width}, {self.session.runtime}"
        learnt = Counter(picture.role for picture in manifest.pictures)
        yield "pictures", ", ".join(f"{n} {role}" for role, n in learnt.items()) or "no pictures known"
        yield "decision", promise_of(self.manifest).text

    def _repr_html_(self) -> str:
        """Show a notebook the model's facts and the pictures that it holds."""
        found = describe_detection(self.manifest)
        rows = [*self._facts(), *([("simulated defects by size", found)] if found else [])]
        rows += [("note", note) for note in self.manifest.notes]
        samples = self.artefact.tensors.get("samples")
        pictures = [] if samples is None else [*unpack_images(samples[:SHOWN_SAMPLES])]
        shown = [(255 * p.transpose(1, 2, 0).clip(0, 1)).astype(np.uint8) for p in pictures]
        return html.table(rows) + "".join(html.image_tag(html.shrink(picture)) for picture in shown)

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
            source: Origin of the picture, which errors name.
            picture: The picture that `source` holds, decoded or not.

        Raises:
            InputError: The picture cannot be used.
        """
        counted = self.artefact.counted
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        views = self.manifest.preprocess.views(picture, name, counted)
        views.with_roi(self.artefact.tensors.get("region"))
        return views, measure_appearance(views.images([0])[0], counted)

    def _run_views(self, several: list[Views], run: Run) -> tuple[NDArray[Any], Sequence[NDArray[Any]]]:
        fusion = self.manifest.fusion
        if fusion is None and self.manifest.preprocess.channels is None:
            found, drawn = run(np.concatenate([views.images([0]) for views in several]))
            return found, list(drawn)
        scored_maps = (views.predict(run, fusion, self.session.batch) for views in several)
        scores, maps = zip(*scored_maps, strict=True)
        return np.array(scores), maps

    def judge(self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run) -> list[SourceResult]:
        """Judge pictures that are computed together."""
        good = [loaded for _, loaded in batch if not isinstance(loaded, InputError)]
        try:
            if self.manifest.preprocess.several is not None:
                return [(source, self._judge_parts(source, loaded, run)) for source, loaded in batch]
            scores, maps = self._run_views([loaded[0] for loaded in good], run) if good else (np.empty(0), [])
        except MemoryError as error:
            return memory_errors(batch, error)
        decided = self.decide(batch, scores, maps)
        return [
            (source, self._name_kinds(found, *loaded))
            for (source, found), loaded in zip(decided, batch, strict=True)
        ]

    def _name_kinds(
        self, found: Prediction | InputError, source: PictureSource, loaded: LoadResult
    ) -> Prediction | InputError:
        """Names the kinds of the regions' defects, where the model knows kinds."""
        if self.kind_classifier is None or isinstance(found, InputError) or isinstance(loaded, InputError):
            return found
        try:
            return name_kinds(self, self.kind_classifier, loaded[0], found)
        except (InputError, MemoryError) as error:
            return InputError(error_reason(error, f"{source!s:.200}"))

    def _judge_parts(self, source: PictureSource, loaded: LoadResult, run: Run) -> Prediction | InputError:
        """Judge a picture by its parts, which are computed together."""
        if isinstance(loaded, InputError) or not isinstance(views := loaded[0], PartFrameViews):
            return self.decide([(source, loaded)], np.empty(0), [])[0][1]
        fusion = self.manifest.fusion
        # tiles mark the region themselves
        batch, roi = (None, self.artefact.counted) if fusion is None else (self.session.batch, None)
        scores, drawn, numbers = views.predict_parts(run, fusion, batch, roi)
        found = self.decide([(source, loaded)], scores.max(keepdims=True), [drawn])[0][1]
        if isinstance(found, InputError):
            return found
        found = with_parts(found, views, scores, numbers, self.manifest.preprocess, self.calibration)
        return self._name_kinds(found, source, loaded)

    def decide(
        self,
        batch: Sequence[tuple[PictureSource, LoadResult]],
        scores: NDArray[Any],
        maps: Sequence[NDArray[Any]],
    ) -> list[SourceResult]:
        """Decide on pictures by the scores and maps of those that could be read."""
        c = self.calibration
        values = c.p_values(scores), c.severity(scores), c.is_anomalous(scores)
        judged = zip(scores, maps, *values, strict=True)  # of the pictures that could be read, in their order
        return [
            (
                source,
                loaded if isinstance(loaded, InputError) else self._prediction(source, loaded, *next(judged)),
            )
            for source, loaded in batch
        ]

    def _prediction(
        self,
        source: PictureSource,
        seen: Loaded,
        score: float,
        map_: NDArray[np.floating[Any]],
        p_value: float,
        severity: float,
        anomalous: bool,
    ) -> Prediction | InputError:
        views, measured = seen[:2]
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        if not math.isfinite(score):
            what = name or "a picture"
            return InputError(f"{what}: its score is not a number; fit with --set precision=fp32")
        pose = views.pose
        reference = self.manifest.preprocess.reference
        parts = NOT_SEARCHED
        if pose is not None and reference is not None:
            size = views.geometry.picture_size
            place = PartPose.from_pose(pose, reference, size) if pose.found else None
            parts = PartSearch(reference.p_value(pose.error), place)
        map_, geometry = self.manifest.preprocess.restored(map_, views.geometry)
        unlike, is_stretched = describe_other_form(geometry.picture_size, self.known_sizes)
        c = self.calibration
        nearby = PEAK_RADIUS * max(self.session.size) / max(map_.shape)
        found = Prediction(
            score=float(score),
            p_value=float(p_value),
            severity=float(severity),
            is_anomalous=bool(anomalous),
            map=map_,
            geometry=replace(geometry, mm_per_pixel=self.mm_per_pixel),
            levels=ScoreLevels(c.score_threshold, c.mask_threshold, c.colour_range, c.outline, nearby),
            path=name,
            shifts=() if self.appearance is None else self.appearance.shifts(measured),
            brightness=measured[0] if measured else None,
            outside_light=views.outside_light,
            parts=parts,
            look=thumbnail(views.images([0])[0]) if self._shows_a_view else None,
            size_bounds=self.size_bounds,
            near=not anomalous and is_near(float(p_value), c.expected_rate),
        ).noticing(
            *([outside_light()] if views.outside_light else []),
            *([other_form(unlike, decides=is_stretched)] if unlike else []),
            *parts.findings(),
        )
        return found if self.view_looks is None else named_as_another(self.manifest, self.view_looks, found)

    def with_calibration(self, calibration: Calibration, *notes: str) -> Predictor:
        """Return the model with another calibration, and with `notes` added to its own."""
        notes = (*self.manifest.notes, *notes)
        manifest = replace(self.manifest, calibration=calibration, notes=notes)
        return self.with_manifest(with_decided_defects(manifest))

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Good pictures learnt from that deserve a look, with the reason, most suspicious first."""
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

        Pictures that the model was fitted on would score too low, and copies would count twice: both are
        left out, found by their decoded pixels.

        Args:
            good: The pictures, or a folder of them, as for `stream`. Pictures of one part, by the model's
                pattern or as near-duplicates, count as one.
            step: Gets the progress.
            force: The pictures are good without doubt. Otherwise the new model has `questions` where they
                are too few to promise what the model promised, show nothing, or are as far out as defects.

        Raises:
            InputError: There are no pictures, or none could be read. Single failures are collected in
                `failures`.
        """
        pictures = list(resolve_pictures(good))
        refuse_masks(pictures)
        decoded = DecodedPictures(pictures, self.manifest.preprocess.channels)
        found = recalibrate(self, decoded, relative_names(pictures), step, force)
        return self.with_manifest(found.manifest).with_failures(found.failures)

    def valid_mask(self, geometry: Geometry) -> NDArray[np.bool_]:
        """Return the mask [H, W], at the size of a prediction's map, of the pixels that count.

        They show the picture, not a letterbox's border, and lie in the region of interest.
        """
        how = self.manifest.preprocess
        size = geometry.size
        if how.several is not None:
            return np.ones(size, np.bool_)  # where parts lie is not known here
        if (placed := geometry.corrected) is not None:
            return how.restored(self.valid_mask(placed).astype(np.float32), placed, 0.0)[0] > 0.5
        visible = geometry.visible_mask()
        counted = self.artefact.counted
        if how.tile is None or size == tuple(self.session.size):  # one view
            inside = np.ones(size, np.bool_) if counted is None else counted
            return inside & visible
        if (region := self.artefact.tensors.get("region")) is None:
            return visible
        whole = how.whole.geometry(how.frame_size(geometry.picture_size))
        return RegionOfInterest(region, whole, size, visible).window(0, 0, *size)

    def self_test(self) -> Certificate:
        """Run the artefact's sample pictures on this machine, and compare the answers with stored ones.

        The stored answers are the trained model's, or those that a model of reduced precision gave where it
        was exported.
        """
        return certify_samples(self.session, self.artefact)
