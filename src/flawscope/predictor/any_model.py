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
        """Pattern that reads the view from a file's name; None: `products` are not views."""
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
        """Word for a key of `products`: "product" or "view"; empty where there is a single model."""
        return self.facts.kind

    @property
    @abstractmethod
    def runner(self) -> Runner:
        """The engine, or engines, that compute pictures together."""

    def load(
        self, source: PictureSource | PictureOf, bgr: bool = False, leave_out: Collection[str] = ()
    ) -> tuple[PictureSource, LoadResult]:
        """Read and preprocess a picture.

        Args:
            source: The picture; a `PreparedPicture` has been read already.
            bgr: Whether the picture is a numpy array with the channels in OpenCV's order.
            leave_out: Hashes of decoded pixels; a picture with such a hash gets an `ExcludedPictureError`.

        Returns:
            The picture; and its views and appearance, or an `InputError` if it cannot be read.
        """
        if isinstance(source, PreparedPicture):
            return source.source, source.seen
        picture = source.source if isinstance(source, PictureOf) else source
        try:
            if isinstance(source, PictureOf):
                return self._load_as(picture, source.product)
            return picture, self._load(picture, bgr, leave_out)
        except Exception as error:  # libraries that read pictures may raise errors of any kind
            return picture, reading_error(error, picture)

    @abstractmethod
    def _load(self, source: PictureSource, bgr: bool, leave_out: Collection[str]) -> Loaded:
        """Read a picture for `load`; may raise errors of any kind."""

    @abstractmethod
    def judge(
        self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Callable[..., Any]
    ) -> list[SourceResult]:
        """Judge pictures that are computed together.

        Args:
            batch: Each picture, and what `load` returned for it.
            run: The method `run` or `run_alone` of the `runner`.
        """

    def parts(self) -> PartCollector | None:
        """Return a collector of predictions that decides on each part; None: the model has no parts.

        Raises:
            InputError: The model was calibrated on pictures whose names state no part.
        """
        return None if self.facts.parts is None else PartCollector(self.facts)

    def sort_by_view(self, pictures: Iterable[PictureSource]) -> dict[str, list[PictureSource]]:
        """Group pictures by the view that each file's name states; a model of one product: all under "".

        Raises:
            InputError: A name states no known view, or the model has several products.
        """
        if self.kind:
            raise InputError(f"name the product that the pictures show: {', '.join(self.products)}")
        return {"": [*pictures]}

    def _load_as(self, source: PictureSource, product: str) -> tuple[PictureSource, LoadResult]:
        """Read a picture of a product, or view, that the caller names."""
        return self.product(product).load(source)

    def product(self, name: str) -> One:
        """Return the model of a product, or view.

        Raises:
            InputError: There is no product or view of that name.
        """
        if name in self.products:
            return self.products[name]
        if not self.kind:
            raise InputError(f"the model has one product without a name: leave out product={name!s:.60}")
        names = ", ".join(self.products)
        raise InputError(f"the model has no {self.kind} {name!s:.60}: it knows {names}")

    def _of_product(self, result: SourceResult, product: str) -> SourceResult:
        """Complete the result for a picture whose product the caller named; the product's model judged it."""
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
        """Yield every picture, in order, with its prediction or the error that says why there is none.

        On a CPU, pictures are judged in parallel, each on one core, unless they are seen in tiles or there
        are fewer pictures than cores. Some pictures are decoded ahead; memory does not grow with the number
        of pictures.

        Args:
            pictures: Any number of pictures, also an endless iterator; or the path of a picture, or of a
                folder, whose subfolders are included.
            batch: Number of pictures that are computed together; None: the fastest number; 1: each result is
                yielded before the next picture is taken.
            product: Product, or view, that all pictures show. None: it is recognised, or read from the
                files' names.
            bgr: The pictures are numpy arrays with the channels in OpenCV's order.
            leave_out: Hashes of decoded pixels; a picture with such a hash gets an `ExcludedPictureError`.

        Raises:
            InputError: There is no such product or folder, or no picture in it.
        """
        if product is not None:
            answers = self.product(product).stream(pictures, batch, bgr=bgr, leave_out=leave_out)
            return (self._of_product(answer, product) for answer in answers)
        load = partial(self.load, bgr=bgr, leave_out=leave_out)
        is_tiled = any(model.manifest.preprocess.tile is not None for model in self.products.values())
        return stream_predictions(resolve_pictures(pictures), load, self.judge, self.runner, batch, is_tiled)

    def _recognise_picture(self, source: PictureSource, picture: NDArray[Any]) -> Recognition:
        """Recognise the product that a decoded picture shows by its look, or the view by its name.

        Raises:
            InputError: The name states no known view.
        """
        return Recognition("", "", 1.0)

    def recognise(
        self, pictures: Iterable[PictureSource] | PictureSource, *, bgr: bool = False
    ) -> Iterator[tuple[PictureSource, Recognition | InputError]]:
        """Yield every picture with the product, or view, that it shows; no picture is judged.

        If a picture cannot be read, an `InputError` takes the product's place. A model of one product
        recognises its product in every picture, with a p-value of 1.
        """
        for source in resolve_pictures(pictures):
            result: Recognition | InputError
            try:
                result = self._recognise_picture(source, read_picture(source, bgr))
            except Exception as error:  # libraries that read pictures may raise errors of any kind
                result = reading_error(error, source)
            yield source, result

    @check_arguments(unchecked=("picture",))
    def prepare(self, picture: PictureSource | PictureOf) -> PreparedPicture:
        """Decode a picture and recognise its product; `stream` accepts the result instead of the picture.

        The picture may also be a `HashedPicture` or a `PictureOf`.

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
        """Judge a part by pictures of its views; a view may be missing.

        Args:
            views: The picture of each view, by the view's name.
            part: The part's name.
            product: The part's product. None: it is recognised from all views together.

        Raises:
            InputError: The model was fitted without `part`, knows no such view or product, or a picture
                cannot be read.
        """
        parts = self.parts()
        if parts is None:
            raise no_parts_error()
        if self.kind == "view":
            predictions = {view: self.predict(picture, product=view) for view, picture in views.items()}
        else:
            in_order = self.predict([*views.values()], product=product)
            predictions = dict(zip(views, in_order, strict=True))
        return parts.decide(part, predictions, views)
