"""Base class of a model of one product and of a router: pictures in, answers out. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, overload

from numpy.typing import NDArray

from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.calibration.parts import PartPattern
from flawscope.errors import InputError, check_arguments
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.parts import PartCollector, no_parts_error
from flawscope.predictor.product_model import ProductModel
from flawscope.predictor.streaming import (
    Loaded,
    LoadResult,
    PictureOf,
    PreparedPicture,
    SourceResult,
    collect_predictions,
    read_picture,
    reading_error,
    resolve_pictures,
    stream_predictions,
)
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction, Recognition
from flawscope.runtime import Runner

One = TypeVar("One", bound=ProductModel)  # model of one product


class AnyModel(ABC, Generic[One]):
    """Model of one product, or of several.

    Attributes:
        products: The model of each product, or view, by its name; a single one under "".
    """

    products: Mapping[str, One]

    @property
    def views(self) -> PartPattern | None:
        """Pattern by which file names name the view; None where `products` are not views."""
        return None

    @property
    def facts(self) -> ModelFacts:
        """Facts about the model that its file holds."""
        return ModelFacts({name: product.manifest for name, product in self.products.items()}, self.views)

    @property
    @abstractmethod
    def mapping(self) -> ModelMapping:
        """The models as a file holds them."""

    @property
    def kind(self) -> str:
        """Word for an entry of `products`: product or view; empty where there is a single one."""
        return self.facts.kind

    @property
    @abstractmethod
    def runner(self) -> Runner:
        """The engine, or engines, that run pictures which are computed together."""

    def load(
        self, source: PictureSource | PictureOf, bgr: bool = False, leave_out: Collection[str] = ()
    ) -> tuple[PictureSource, LoadResult]:
        """Read a picture as the network sees it; return an `InputError` where it cannot be read."""
        if isinstance(source, PreparedPicture):
            return source.source, source.seen
        given = source.source if isinstance(source, PictureOf) else source
        try:
            if isinstance(source, PictureOf):
                return self._load_as(given, source.product)
            return given, self._load(given, bgr, leave_out)
        except Exception as error:  # also what a reader of pictures does not foresee: the model is fine
            return given, reading_error(error, given)

    @abstractmethod
    def _load(self, source: PictureSource, bgr: bool, leave_out: Collection[str]) -> Loaded:
        """Read a picture for `load`; may raise errors of any kind."""

    @abstractmethod
    def judge(
        self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Callable[..., Any]
    ) -> list[SourceResult]:
        """Judge pictures that are computed together.

        Args:
            batch: Each picture, and its result of `load`.
            run: `run` or `run_alone` of the `runner`.
        """

    def parts(self) -> PartCollector | None:
        """Return a collector of predictions that decides on each part.

        None where the model was fitted without `part`.

        Raises:
            InputError: The model was calibrated on pictures whose names tell no part.
        """
        return None if self.facts.parts is None else PartCollector(self.facts)

    def sort_by_view(self, pictures: Iterable[PictureSource]) -> dict[str, list[PictureSource]]:
        """Return the files of each view, by the view that a file's name names.

        A model of one product returns all under "".

        Raises:
            InputError: A name tells no known view, or the model has several products.
        """
        if self.kind:
            raise InputError(f"name the product that the pictures show: {', '.join(self.products)}")
        return {"": [*pictures]}

    def _load_as(self, source: PictureSource, product: str) -> tuple[PictureSource, LoadResult]:
        """Read a picture of a product, or view, that the caller names."""
        return self.product(product).load(source)

    def product(self, name: str) -> One:
        """Return the model of a product, or view. InputError where the model has none of that name."""
        if name in self.products:
            return self.products[name]
        if not self.kind:
            raise InputError(f"the model has one product without a name: leave out product={name!s:.60}")
        known = ", ".join(self.products)
        raise InputError(f"the model has no {self.kind} {name!s:.60}: it knows {known}")

    def _of_product(self, result: SourceResult, product: str) -> SourceResult:
        """Finish an answer that the model of a product gave because the caller named that product."""
        return result

    @overload
    def predict(
        self, pictures: PictureSource, *, product: str | None = None, bgr: bool = False
    ) -> Prediction: ...
    @overload
    def predict(
        self, pictures: list[PictureSource], *, product: str | None = None, bgr: bool = False
    ) -> list[Prediction]: ...
    @check_arguments()
    def predict(
        self, pictures: PictureSource | list[PictureSource], *, product: str | None = None, bgr: bool = False
    ) -> Prediction | list[Prediction]:
        """Judge pictures: a `Prediction` for one picture, a list for a list or a batch `[B, H, W, 3]` uint8.

        Args:
            pictures: A picture, a list of pictures, or a batch.
            product: Product, or view, that all pictures show. None: it is recognised, or read from the
                files' names.
            bgr: The pictures are numpy arrays with the channels in OpenCV's order.

        Raises:
            InputError: A picture cannot be read, or there is no such product. `stream` goes on instead.
        """
        return collect_predictions(pictures, partial(self.stream, product=product, bgr=bgr))

    @check_arguments(unchecked=("pictures",))
    def stream(
        self,
        pictures: Iterable[PictureSource] | PictureSource,
        batch: int | None = None,
        *,
        product: str | None = None,
        bgr: bool = False,
        leave_out: Collection[str] = (),
    ) -> Iterator[SourceResult]:
        """Yield every picture with its prediction, or with the reason why there is none, in order.

        On a CPU several pictures are judged side by side, one core each, unless they are seen in tiles or
        there are fewer pictures than cores. Some are decoded ahead; memory does not grow with their number.

        Args:
            pictures: Any number of pictures, also without an end; or a path, of a picture or of a folder with
                all pictures below it.
            batch: Number of pictures that are computed together; None: the fastest number; 1: each picture is
                answered as soon as it is given.
            product: Product, or view, that all pictures show. None: it is recognised, or read from the
                files' names.
            bgr: The pictures are numpy arrays with the channels in OpenCV's order.
            leave_out: Hashes of decoded pixels; a picture with such a hash gets an `ExcludedPictureError`.

        Raises:
            InputError: There is no such product or folder, or no picture in it.
        """
        if product is not None:
            known = self.product(product).stream(pictures, batch, bgr=bgr, leave_out=leave_out)
            return (self._of_product(answer, product) for answer in known)
        load = partial(self.load, bgr=bgr, leave_out=leave_out)
        tiled = any(model.manifest.preprocess.tile is not None for model in self.products.values())
        return stream_predictions(resolve_pictures(pictures), load, self.judge, self.runner, batch, tiled)

    def _recognise_picture(self, source: PictureSource, picture: NDArray[Any]) -> Recognition:
        """Recognise the product that a decoded picture shows by its look, or the view by its name.

        Raises:
            InputError: The name tells no known view.
        """
        return Recognition("", "", 1.0)

    def recognise(
        self, pictures: Iterable[PictureSource] | PictureSource, *, bgr: bool = False
    ) -> Iterator[tuple[PictureSource, Recognition | InputError]]:
        """Yield every picture with the product, or view, that it shows; no picture is judged.

        A picture that cannot be read comes with an `InputError`. A model of one product recognises it in
        every picture, with a p-value of 1.
        """
        for source in resolve_pictures(pictures):
            try:
                shown: Recognition | InputError = self._recognise_picture(source, read_picture(source, bgr))
            except Exception as error:
                shown = reading_error(error, source)
            yield source, shown

    @check_arguments(unchecked=("picture",))
    def prepare(self, picture: PictureSource | PictureOf) -> PreparedPicture:
        """Decode a picture and recognise its product; `stream` takes the result in the picture's place.

        Takes a `HashedPicture` and a `PictureOf`, too.

        Raises:
            InputError: The picture cannot be read.
        """
        source, loaded = self.load(picture)
        if isinstance(loaded, InputError):
            raise loaded
        return PreparedPicture(source, loaded)

    @check_arguments()
    def predict_part(
        self, views: Mapping[str, PictureSource], part: str = "", *, product: str | None = None
    ) -> PartPrediction:
        """Judge a part by pictures of its views, by their names. A view may be missing.

        Args:
            views: The picture of each view, by the view's name.
            part: The part's name.
            product: The part's product. None: it is recognised from all views together.

        Raises:
            InputError: The model was fitted without `part`, knows no such view or product, or a picture
                cannot be read.
        """
        if (parts := self.parts()) is None:
            raise no_parts_error()
        if self.kind == "view":
            found = {view: self.predict(picture, product=view) for view, picture in views.items()}
        else:
            found = dict(zip(views, self.predict([*views.values()], product=product), strict=True))
        return parts.decide(part, found, views)
