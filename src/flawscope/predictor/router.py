"""Recognises the product of a picture, or reads its view from its name, and runs that model on it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.certificate import Certificate
from flawscope.artefact.model_facts import ONE
from flawscope.artefact.model_file import unpack_images
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.calibration.parts import PartPattern
from flawscope.calibration.threshold import Rate
from flawscope.errors import InputError, check_arguments
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.listing import relative_names
from flawscope.predictor.any_model import AnyModel
from flawscope.predictor.looks_of_views import with_looks_of_views
from flawscope.predictor.parts import PartCollector, RoutedParts, compare_view, unknown_view_error
from flawscope.predictor.predictor import Predictor
from flawscope.predictor.recognition import Recogniser
from flawscope.predictor.streaming import (
    Loaded,
    LoadResult,
    SourceResult,
    read_picture,
)
from flawscope.results.findings import no_product
from flawscope.results.prediction import Prediction, Recognition
from flawscope.runtime import (
    Describe,
    OpenModel,
    Run,
    Session,
    check_threads,
    is_router,
    open_model,
    read_facts,
    read_fitted,
    read_manifest,
    save_router,
)

Result = Prediction | InputError


@check_arguments()
def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    false_alarm_rate: Rate | None = None,
) -> Predictor | Router:
    """Open a model file: a `Predictor`, or a `Router` for several products or views.

    Args:
        path: File that ends in .safetensors or .onnx, or .zip of an exported router.
        engine: Engine of an exported model, onnxruntime or openvino; None: ONNX Runtime, or OpenVINO where
            the model's precision is bf16. A .safetensors model runs in torch.
        device: auto, cpu, cuda or mps; in OpenVINO cpu, gpu or npu.
        threads: Number of threads, 1 or more, that compute one batch on a CPU; None: the engine's default.
            For a .safetensors model this sets torch's number of threads for the whole process.
        false_alarm_rate: Target rate instead of the stored one, 0.05 or "5%".

    Warns:
        UserWarning: The good pictures are too few for `false_alarm_rate`; the lowest rate that they allow,
            1 / (n + 1), is used.

    Raises:
        InputError: The file is missing, damaged, hostile or made by a newer version, or its engine is not
            installed.
    """
    check_threads(threads)
    model = _wrap(open_model(path, engine, device, threads))
    if false_alarm_rate is None:
        return model
    model = model.with_rate(false_alarm_rate)
    for name, product in model.products.items():
        if product.calibration.pictures_missing:
            promise = product.calibration.promise()
            warnings.warn(f"{name}: {promise}" if name else promise, stacklevel=2)
    return model


def open_models(mapping: ModelMapping, device: str = "auto") -> Predictor | Router:
    """Open fitted models, which are in memory, in PyTorch."""
    return _wrap(open_model(mapping, device=device))


def _wrap(model: OpenModel) -> Predictor | Router:
    """Return the `Predictor` of an open model of one product, or the `Router` of several models."""
    if model.mapping.kind == ONE:
        return Predictor(model.mapping.products[ONE], model.sessions[ONE])
    return Router.opened(model)


def open_joined(
    mapping: ModelMapping,
    device: str = "auto",
    failures: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Router:
    """Open a router, whose models are in memory, in PyTorch.

    Args:
        mapping: The models.
        device: auto, cpu, cuda or mps.
        failures: Lines on pictures that could not be used, by the model's name.

    Raises:
        InputError: The models were calibrated on pictures whose names state no part.
    """
    router = Router.opened(open_model(mapping, device=device))
    for name, lines in failures.items():
        router = router.with_product(name, router.products[name].with_failures(lines))
    router.parts()  # raises where names state no part
    return router


def accept_questions(model: Predictor | Router) -> tuple[Predictor | Router, list[str]]:
    """Return the model without open questions (`Predictor.accept`), and the questions, each once."""
    questions = [line for product in model.products.values() for line in product.questions]
    for name, product in model.products.items():
        model = model.with_product(name, product.accept())
    return model, list(dict.fromkeys(questions))


class Router(AnyModel[Predictor]):
    """Models of several products, or of several views of a part.

    The router recognises which product a picture shows (`Recogniser` has the rule), and that product's own
    model judges the picture. With views, the name of a picture's file names the view.

    Attributes:
        products: The model of each product, or view, by its name.
        views: Pattern by which file names name the view; None: `products` are products.
    """

    def __init__(self, artefact: ModelMapping, products: Mapping[str, Predictor], describe: Describe | None):
        self._artefact = artefact
        self._describe = describe
        self.products = dict(products)
        self._recogniser = Recogniser(artefact.recognition.known if artefact.recognition else {})

    @classmethod
    def opened(cls, model: OpenModel) -> Router:
        """Make the router of an opened model file."""
        mapping, sessions, describe = model
        products = {name: Predictor(artefact, sessions[name]) for name, artefact in mapping.products.items()}
        return cls(mapping, products, describe)

    @property
    def artefact(self) -> ModelMapping:
        """The router as its file holds it: all products' models, and the data that recognise products."""
        artefacts = {name: product.artefact for name, product in self.products.items()}
        return replace(self._artefact, products=artefacts)

    @property
    def mapping(self) -> ModelMapping:
        """The models as a file holds them; the same as `artefact`."""
        return self.artefact

    @property
    def views(self) -> PartPattern | None:
        """Pattern that reads part and view from a file's name; None: the models are not of views."""
        return self._artefact.views

    @property
    def failures(self) -> list[str]:
        """Pictures that could not be used when the models were fitted, each with the reason."""
        return [line for product in self.products.values() for line in product.failures]

    @property
    def runner(self) -> _Runner:
        """Runner of the networks of all products: their engines and devices."""
        return _Runner([product.session for product in self.products.values()])

    def __repr__(self) -> str:
        return f"<Router to {len(self.products)} {self.kind}s: {', '.join(self.products)}>"

    @check_arguments()
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, atomically: .safetensors, or .zip of an exported router.

        Raises:
            InputError: The models cannot be in one file: they do not fit together, or would decide on no
                whole part.
        """
        self.facts.check()
        save_router(self.artefact, {name: product.session for name, product in self.products.items()}, path)

    def with_product(self, name: str, model: Predictor) -> Router:
        """Return the router with another model for one product, such as a model that was calibrated anew."""
        self.product(name)
        return Router(self._artefact, {**self.products, name: model}, self._describe)

    def with_looks_of_views(self, pictures: Mapping[str, Sequence[PictureSource]]) -> Router:
        """Return the router of views with models that have learnt the looks of all views.

        Args:
            pictures: Good pictures by view; at most 24 of each view are used.
        """
        return Router(self._artefact, with_looks_of_views(self.products, pictures), self._describe)

    def sort_by_view(self, pictures: Iterable[PictureSource]) -> dict[str, list[PictureSource]]:
        """Group pictures by the view that each file's name states.

        Raises:
            InputError: A name states no known view, or the router's models are not of views.
        """
        if self.views is None:
            return super().sort_by_view(pictures)
        pictures_by_view: dict[str, list[PictureSource]] = {}
        for picture in pictures:
            pictures_by_view.setdefault(self._read_view(picture), []).append(picture)
        return pictures_by_view

    def check_whole_parts(self, new: Mapping[str, Sequence[PictureSource]]) -> None:
        """Check that good parts will have pictures of all views after some views are calibrated anew.

        Args:
            new: New good pictures, by view, for the views that are calibrated anew. Other views keep their
                pictures.

        Raises:
            InputError: No part would have all views, or names state no part.
        """
        self.facts.check_whole_parts({view: relative_names(pictures) for view, pictures in new.items()})

    def with_rate(self, false_alarm_rate: Rate) -> Router:
        """Return the router with another target false-alarm rate for all products, 0.05 or "5%"."""
        products = {name: product.with_rate(false_alarm_rate) for name, product in self.products.items()}
        return Router(self._artefact, products, self._describe)

    def self_test(self) -> dict[str, Certificate]:
        """Run each product's `Predictor.self_test`, and count samples that are recognised as another product.

        Returns:
            The certificate of each product, by the product's name. The count is its `mistaken`, which is None
            if the models judge views of a part.
        """
        certificates = {}
        recognition = self._artefact.recognition
        for name, product in self.products.items():
            try:
                certificate = product.self_test()
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            if recognition is not None:
                samples = unpack_images(recognition.samples.get(name, np.empty(0)))
                mistaken = sum(self._recognise(image[None]).product != name for image in samples)
                certificate = replace(certificate, mistaken=mistaken)
            certificates[name] = certificate
        return certificates

    # ---- the product of a picture

    def _recognise(self, images: NDArray[np.float32]) -> Recognition:
        """Recognise the product that one picture [1, 3, H, W] shows."""
        assert self._describe is not None
        return self._recogniser.recognise(self._describe(images))[0]

    def _recognise_picture(self, source: PictureSource, picture: NDArray[Any]) -> Recognition:
        recognition = self._artefact.recognition
        if recognition is not None:
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
            return self._recognise(recognition.preprocess.views(picture, name).images([0]))
        view = self._read_view(source)
        return Recognition(view, view, 1.0)

    def _read_view(self, source: PictureSource) -> str:
        """Read the view from the name of a picture's file.

        Raises:
            InputError: The picture is no file, or the name states no known view.
        """
        assert self.views is not None
        if not isinstance(source, str | os.PathLike):
            raise InputError("the model knows views by the names of files: say which it is, product=VIEW")
        name = PurePath(source).as_posix()
        view = self.views.parse(name).view
        if view not in self.products:
            raise unknown_view_error(name, view, self.products)
        return view

    # ---- judging

    def _load_as(self, source: PictureSource, product: str) -> tuple[PictureSource, LoadResult]:
        source, loaded = super()._load_as(source, product)
        if isinstance(loaded, InputError):
            return source, loaded
        return source, (*loaded[:2], Recognition(product, product, 1.0))

    def _load(self, source: PictureSource, bgr: bool, leave_out: Collection[str]) -> Loaded:
        if self.views is not None:
            view = self._read_view(source)
            return (*self.products[view]._load(source, bgr, leave_out)[:2], Recognition(view, view, 1.0))
        picture = read_picture(source, bgr, leave_out)
        recognition = self._recognise_picture(source, picture)
        return (*self.products[recognition.nearest].see(source, picture)[:2], recognition)

    def judge(
        self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Callable[[Session], Run]
    ) -> list[SourceResult]:
        """Judge pictures that are computed together, each by the model of its product."""
        results: dict[int, SourceResult] = {}  # by place in the batch
        numbers_by_product: dict[str, list[int]] = {}
        recognitions: dict[int, Recognition] = {}
        for number, (source, loaded) in enumerate(batch):
            if isinstance(loaded, InputError):
                results[number] = (source, loaded)
                continue
            # `load` of a router adds the recognition as the last item
            recognition: Recognition = loaded[-1]  # type: ignore[assignment]
            recognitions[number] = recognition
            numbers_by_product.setdefault(recognition.nearest, []).append(number)
        for name, numbers in numbers_by_product.items():
            product = self.products[name]
            product_batch = [batch[number] for number in numbers]
            product_results = product.judge(product_batch, run(product.session))
            for number, (source, result) in zip(numbers, product_results, strict=True):
                results[number] = (source, self._add_recognition(result, recognitions[number]))
        return [results[number] for number in range(len(batch))]

    def _add_recognition(self, result: Result, recognition: Recognition) -> Result:
        """Add the recognised product to a result; for views, add a finding if views were exchanged."""
        if self.views is None:
            return _with_recognition(result, recognition)
        if isinstance(result, InputError):
            return result
        view = recognition.nearest
        return compare_view(self.products[view].view_looks, view, result)

    def _of_product(self, result: SourceResult, product: str) -> SourceResult:
        source, answer = result
        if self.views is not None:
            answer = self._check_view(source, answer, product)
        return source, self._add_recognition(answer, Recognition(product, product, 1.0))

    def _check_view(self, source: PictureSource, result: Result, view: str) -> Result:
        """Return the result, or an error if the picture's name states another view than the caller named."""
        if not isinstance(source, str | os.PathLike):
            return result
        try:
            named_view = self._read_view(source)
        except InputError:
            return result  # the name states no view
        if named_view == view:
            return result
        return InputError(
            f"{source!s:.200} shows view {named_view}, and product={view} was said: leave it out"
        )

    # ---- parts

    def parts(self) -> PartCollector | None:
        """Return a collector that decides on each part; None: the models were fitted without `part`.

        With several products, the collector recognises a part's product from all views of the part together.
        """
        if self.views is not None or self.facts.parts is None:
            return super().parts()

        def judge_as(picture: PictureSource, product: str) -> Prediction:
            return self.predict(picture, product=product)

        return RoutedParts(self.facts, self._recogniser, judge_as)


class _Runner:
    """Runner of a router's products.

    `run` and `run_alone` take a product's session, and return the session's method of the same name.
    """

    runtime = "router"
    size = (0, 0)

    def __init__(self, sessions: Sequence[Session]):
        self.batch = min(session.batch for session in sessions)
        self.lanes = min(session.lanes for session in sessions)

    def run(self, session: Session) -> Run:
        return session.run

    def run_alone(self, session: Session) -> Run:
        return session.run_alone


def _with_recognition(result: Result, recognition: Recognition) -> Result:
    """Add the recognised product to a prediction; a picture without a product becomes anomalous."""
    if not isinstance(result, Prediction):
        return result
    prediction = replace(result, recognition=recognition)
    if recognition.product is not None:
        return prediction
    return prediction.noticing(no_product(Prediction.NO_PRODUCT_NAME, prediction.product_p_value))


Model = Predictor | Router

__all__ = ["Model", "Router", "is_router", "load", "read_facts", "read_fitted", "read_manifest"]
