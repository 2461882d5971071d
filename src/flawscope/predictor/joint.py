"""Judges pictures of several products by one model, which recognises the product by itself."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any, overload

import numpy as np

from flawscope import predictor
from flawscope.artefact import joint_file
from flawscope.artefact.certificate import Certificate
from flawscope.artefact.joint_file import JointArtefact
from flawscope.artefact.model_file import unpack_images
from flawscope.calibration.recognition import Recognition
from flawscope.calibration.threshold import Rate
from flawscope.errors import InputError
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor import Predictor
from flawscope.predictor.parts import (
    JointParts,
    PartCollector,
    no_parts_error,
    stored_part_pattern,
    unknown_view_error,
)
from flawscope.predictor.streaming import (
    Loaded,
    LoadResult,
    PreparedPicture,
    SourceResult,
    collect_predictions,
    memory_errors,
    resolve_pictures,
    stream_predictions,
)
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import MIN_ANOMALOUS_SEVERITY, Prediction
from flawscope.runtime import JointSession, check_threads, open_joint_session

Run = Callable[..., Any]
Result = Prediction | InputError
RecognisedAnswer = tuple[Recognition, Loaded, Any, Any]  # product, picture as loaded, score, map


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    false_alarm_rate: Rate | None = None,
) -> Predictor | JointPredictor:
    """Opens a model file, .safetensors or .onnx: a `Predictor`, or of a joint model a `JointPredictor`.

    Args:
        engine: that runs an .onnx model, onnxruntime or openvino; None: ONNX Runtime, or OpenVINO where the
            model's precision is bf16. A .safetensors model runs in torch.
        device: auto, cpu, cuda or mps; in OpenVINO cpu, gpu or npu.
        threads: that compute one batch on a CPU, 1 or more; None leaves it to the engine. torch has one
            number for the whole process, so that of a .safetensors model holds for all that torch does.
        false_alarm_rate: another target than the one stored, 0.05 or "5%".

    Warns:
        UserWarning: the good pictures are too few for `false_alarm_rate`; the lowest rate that they allow,
            1 / (n + 1), is used.

    Raises:
        InputError: the file is missing, damaged, hostile or made by a newer version, or what runs it is not
            installed.
    """
    check_threads(threads)
    if not joint_file.is_joint(path):
        return predictor.load(
            path, engine=engine, device=device, threads=threads, false_alarm_rate=false_alarm_rate
        )
    artefact = joint_file.read(path)
    found = JointPredictor(artefact, open_joint_session(artefact, engine, device, threads))
    if false_alarm_rate is None:
        return found
    found = found.with_rate(false_alarm_rate)
    for name, one in found.products.items():
        if one.calibration.pictures_missing:
            warnings.warn(f"{name}: {one.calibration.promise()}", stacklevel=2)
    return found


class JointPredictor:
    """Fitted model of several products. It says which product a picture shows (`Recogniser` has the rule),
    and judges the picture as the model of that product alone does. Or of several views of a part: the name of
    a picture's file tells its view, whose own model judges it.

    Attributes:
        products: the model of each product, or view, by its name.
    """

    def __init__(self, artefact: JointArtefact, session: JointSession):
        self.artefact = artefact
        self.session = session
        self.products: Mapping[str, Predictor] = {
            name: Predictor(one, session.products[name]) for name, one in artefact.products.items()
        }
        self._first = next(iter(self.products.values())).without_light()

    def __repr__(self) -> str:
        method, (height, width) = self._first.manifest.method, self.session.size
        return f"<JointPredictor {method} for {', '.join(self.products)}, {height}x{width}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file, atomically."""
        if os.path.splitext(os.fspath(path))[1].lower() != joint_file.SUFFIX:
            raise InputError(f"a joint model is saved as {joint_file.SUFFIX}")
        self.session.save(self.artefact, path)

    @property
    def of_views(self) -> bool:
        """Whether `products` are views of a part."""
        return self.artefact.views is not None

    def product(self, name: str) -> Predictor:
        """The model of one product, or view. InputError where there is no such one."""
        self.artefact.product(name)
        return self.products[name]

    def prepare(self, picture: PictureSource) -> PreparedPicture:
        """Decodes a picture, to be judged later: `stream`, and that of each product's model, takes it in the
        picture's place. InputError: the picture cannot be read."""
        return self._first.prepare(picture)

    def recognising_predictor(self, name: str) -> RecognisingPredictor:
        """The model of one product, which recognises the products of pictures that show this one."""
        return RecognisingPredictor(self, name)

    def with_rate(self, false_alarm_rate: Rate) -> JointPredictor:
        """Returns the model with another target false-alarm rate for all products, 0.05 or "5%"."""
        parts = {name: one.with_rate(false_alarm_rate).artefact for name, one in self.products.items()}
        return JointPredictor(replace(self.artefact, products=parts), self.session)

    def self_test(self) -> dict[str, Certificate]:
        """Does with each product's samples as `Predictor.self_test`, and recognises them."""
        found = {}
        for name, one in self.products.items():
            certificate = one.self_test()
            if self.of_views:  # nothing is recognised
                found[name] = certificate
                continue
            shown, _, _ = self.session.run(unpack_images(one.artefact.tensors["samples"]))
            found[name] = replace(certificate, mistaken=sum(each.product != name for each in shown))
        return found

    @overload
    def predict(
        self, pictures: PictureSource, *, product: str | None = None, bgr: bool = False
    ) -> Prediction: ...
    @overload
    def predict(
        self, pictures: list[PictureSource], *, product: str | None = None, bgr: bool = False
    ) -> list[Prediction]: ...
    def predict(
        self, pictures: PictureSource | list[PictureSource], *, product: str | None = None, bgr: bool = False
    ) -> Prediction | list[Prediction]:
        """Judges pictures, as `Predictor.predict` does.

        Args:
            product: that all of them show, or view; None: it is recognised, or told by the files' names.

        Raises:
            InputError: a picture cannot be read, or there is no such product. `stream` goes on instead.
        """
        return collect_predictions(pictures, partial(self.stream, product=product, bgr=bgr))

    def stream(
        self,
        pictures: Iterable[PictureSource] | PictureSource,
        batch: int | None = None,
        *,
        product: str | None = None,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[SourceResult]:
        """Yields every picture with its prediction, or with the reason why there is none, in order.

        Args:
            product: as `predict` takes it.
            pictures, batch, bgr, leave_out: as `Predictor.stream` takes them.

        Raises:
            InputError: there is no such product or folder, or no picture in it.
        """
        if product is not None:
            known = self.product(product).stream(pictures, batch, bgr=bgr, leave_out=leave_out)
            if self.of_views:
                return ((source, self._check_view(source, result, product)) for source, result in known)
            return ((source, _with_product(result, product)) for source, result in known)
        # all products see pictures alike, up to their light
        load = partial(self._load if self.of_views else self._first.load, bgr=bgr, leave_out=leave_out)
        judge = self._judge_by_view if self.of_views else self._judge
        return stream_predictions(resolve_pictures(pictures), load, judge, self.session, batch, tiled=False)

    def _judge(self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run) -> list[SourceResult]:
        """Judges pictures that are computed together, each by the product that it is most like."""
        try:
            answers = iter(self._recognise([one for _, one in batch if not isinstance(one, InputError)], run))
        except MemoryError as error:
            return memory_errors(batch, error)
        judged: list[SourceResult] = []
        for source, one in batch:
            if isinstance(one, InputError):
                judged.append((source, one))
                continue
            shown, seen, score, drawn = next(answers)
            of_nearest = self.products[shown.nearest].decide([(source, seen)], np.array([score]), [drawn])
            judged.append((source, _with_recognition(of_nearest[0][1], shown)))
        return judged

    def _recognise(self, pictures: Sequence[Loaded], run: Run) -> list[RecognisedAnswer]:
        """Recognises pictures in their own light, and scores each by the product that it is most like, in the
        light of that product: where it has one, the network runs once more."""
        if not pictures:
            return []
        found, scores, maps = run(np.concatenate([views.images([0]) for views, _ in pictures]))
        answers = list(zip(found, pictures, scores, maps, strict=True))
        for name in {one.nearest for one in found}:
            product = self.products[name]
            if product.manifest.preprocess.normalization is None:
                continue
            rows = [k for k, one in enumerate(found) if one.nearest == name]
            lit = [product.normalize_light(pictures[k]) for k in rows]
            again = self._run_for(run, name)(np.concatenate([views.images([0]) for views, _ in lit]))
            for k, *answer in zip(rows, lit, *again, strict=True):
                answers[k] = (found[k], *answer)
        return answers

    def _run_for(self, run: Run, name: str) -> Run:
        """The product's own `run`, or `run_alone` where `run` is the joint session's."""
        own = self.session.products[name]
        return own.run_alone if run == self.session.run_alone else own.run

    def _view(self, source: PictureSource) -> str:
        """View that a picture shows, by its name. InputError where the name tells none that is known."""
        assert self.artefact.views is not None
        if not isinstance(source, str | os.PathLike):
            raise InputError("the model knows views by the names of files: say which it is, product=VIEW")
        name = PurePath(source).as_posix()
        view = self.artefact.views.parse(name).view
        if view not in self.products:
            raise unknown_view_error(name, view, self.products)
        return view

    def _check_view(self, source: PictureSource, result: Result, view: str) -> Result:
        """The result, or an error where the picture's name tells another view than was said."""
        try:
            told = self._view(source) if isinstance(source, str | os.PathLike) else view
        except InputError:  # the name tells none
            return result
        said = f"{source!s:.200} shows view {told}, and product={view} was said: leave it out"
        return result if told == view else InputError(said)

    def _load(self, source: PictureSource, **how: Any) -> tuple[PictureSource, LoadResult]:
        try:
            return self.products[self._view(source)].load(source, **how)
        except InputError as error:
            return source, error

    def _judge_by_view(
        self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Run
    ) -> list[SourceResult]:
        """Judges pictures that are computed together, each by the model of its view."""
        judged: dict[int, SourceResult] = {}
        rows: dict[str, list[int]] = {}
        for k, (source, one) in enumerate(batch):
            if isinstance(one, InputError):
                judged[k] = (source, one)
            else:
                rows.setdefault(self._view(source), []).append(k)
        for view, own in rows.items():
            found = self.products[view].judge([batch[k] for k in own], self._run_for(run, view))
            judged |= zip(own, found, strict=True)
        return [judged[k] for k in range(len(batch))]

    def parts(self) -> PartCollector | None:
        """Returns a collector of predictions that decides on each part, as `Predictor.parts` does."""
        manifests = {name: one.manifest for name, one in self.products.items()}
        if self.artefact.views is not None:
            return PartCollector(manifests, self.artefact.views)
        if stored_part_pattern(self._first.manifest) is None:
            return None
        again = lambda picture, product: self.predict(picture, product=product)  # noqa: E731
        return JointParts(manifests, self.artefact.recogniser, again)

    def predict_part(
        self, views: Mapping[str, PictureSource], part: str = "", *, product: str | None = None
    ) -> PartPrediction:
        """Judges a part by pictures of its views, by their names. A view may be missing.

        Args:
            product: that the part is; None: it is recognised from all views together.

        Raises:
            InputError: the model was fitted without `part`, knows no such view or product, or a picture
                cannot be read.
        """
        if (parts := self.parts()) is None:
            raise no_parts_error()
        if self.of_views:
            found = {view: self.predict(one, product=view) for view, one in views.items()}
        else:
            pictures = self.predict([*views.values()], product=product)
            found = dict(zip(views, pictures, strict=True))
        return parts.decide(part, found, views)


def _with_product(result: Prediction | InputError, product: str) -> Prediction | InputError:
    return replace(result, product=product) if isinstance(result, Prediction) else result


def _with_recognition(result: Prediction | InputError, shown: Recognition) -> Prediction | InputError:
    """The prediction with the product that was recognised. What is none of the products is no good part."""
    if not isinstance(result, Prediction):
        return result
    result = replace(
        result,
        product=shown.product,
        product_p_value=shown.p_value,
        product_distances=shown.distances,
        nearest=shown.nearest,
    )
    if shown.product is not None:
        return result
    return replace(result, is_anomalous=True, severity=max(result.severity, MIN_ANOMALOUS_SEVERITY))


class RecognisingPredictor(Predictor):
    """Model of one product, whose `stream` recognises the products of pictures that are known to show this
    one, and judges those that are mistaken for another as this product's.

    Attributes:
        seen: number of pictures that were judged.
        mistaken: how many of them were taken for each other product, or for none of these.
    """

    def __init__(self, joint: JointPredictor, name: str):
        known = joint.product(name)
        super().__init__(known.artefact, known.session)
        self.joint, self.name = joint, name
        self.seen, self.mistaken = 0, Counter[str]()

    def to_dict(self) -> dict[str, Any]:
        """The counts, for `evaluate --json`."""
        return {"pictures": self.seen, "mistaken": dict(self.mistaken)}

    def stream(
        self,
        pictures: Iterable[PictureSource] | PictureSource,
        batch: int | None = None,
        *,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[SourceResult]:
        for source, result in self.joint.stream(pictures, batch, bgr=bgr, leave_out=leave_out):
            if not isinstance(result, Prediction):
                yield source, result
                continue
            self.seen += 1
            if result.product == self.name:
                yield source, result
                continue
            self.mistaken[result.product_name] += 1
            yield from super().stream([source], bgr=bgr)
