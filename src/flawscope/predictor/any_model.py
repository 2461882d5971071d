"""The part that a model of one product and a router share: pictures in, answers out. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from flawscope.errors import InputError, check_arguments
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.parts import PartCollector, no_parts_error
from flawscope.predictor.streaming import (
    Loaded,
    LoadResult,
    PreparedPicture,
    SourceResult,
    collect_predictions,
    reading_error,
    resolve_pictures,
    stream_predictions,
)
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import Prediction
from flawscope.runtime import Runner

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


class AnyModel(ABC):
    """Model of one product, or of several.

    Attributes:
        products: the model of each product, or view, by its name; one alone has none.
        kind: the word for each of `products`; empty where there is one alone.
    """

    products: Mapping[str, Predictor]
    kind: str = ""

    @property
    @abstractmethod
    def runner(self) -> Runner:
        """The engine, or engines, that run pictures which are computed together."""

    def load(
        self, source: PictureSource, bgr: bool = False, leave_out: Collection[str] = ()
    ) -> tuple[PictureSource, LoadResult]:
        """Reads a picture as the network sees it, or says why it cannot be read."""
        if isinstance(source, PreparedPicture):
            return source.source, source.seen
        try:
            return source, self._load(source, bgr, leave_out)
        except Exception as error:  # also what a reader of pictures does not foresee: the model is fine
            return source, reading_error(error, source)

    @abstractmethod
    def _load(self, source: PictureSource, bgr: bool, leave_out: Collection[str]) -> Loaded:
        """Does as `load`, with errors of any kind."""

    @abstractmethod
    def judge(
        self, batch: Sequence[tuple[PictureSource, LoadResult]], run: Callable[..., Any]
    ) -> list[SourceResult]:
        """Judges pictures that are computed together. run: of the `runner`."""

    @abstractmethod
    def parts(self) -> PartCollector | None:
        """Returns a collector of predictions that decides on each part; None where the model was fitted
        without `part`. InputError: it was calibrated on pictures whose names tell no part."""

    def product(self, name: str) -> Predictor:
        """The model of one product, or view. InputError where there is no such one."""
        if name in self.products:
            return self.products[name]
        if not self.kind:
            raise InputError(f"the model has one product without a name: leave out product={name!s:.60}")
        known = ", ".join(self.products)
        raise InputError(f"the model has no {self.kind} {name!s:.60}: it knows {known}")

    def _of_product(self, result: SourceResult, product: str) -> SourceResult:
        """Finishes the answer of the model of a product that was named."""
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
        """Judges pictures: a `Prediction` for one picture, a list for a list or a batch `[B, H, W, 3]` uint8.

        Args:
            product: that all of them show, or view; None: it is recognised, or told by the files' names.
            bgr: the pictures are numpy arrays with the channels in OpenCV's order.

        Raises:
            InputError: a picture cannot be read, or there is no such product. `stream` goes on instead.
        """
        return collect_predictions(pictures, partial(self.stream, product=product, bgr=bgr))

    @check_arguments(but=("pictures",))
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

        On a CPU several pictures are judged side by side, one core each, unless they are seen in tiles or
        there are fewer pictures than cores. Some are decoded ahead; memory does not grow with their number.

        Args:
            pictures: any number of them, also without an end; or one path, a folder's with all pictures
                below it.
            batch: pictures that are computed together, by default as many as are fastest; with 1, each is
                answered as soon as it is given.
            product: as `predict` takes it.
            bgr: the pictures are numpy arrays with the channels in OpenCV's order.
            leave_out: pictures whose decoded pixels have one of these hashes get a `ExcludedPictureError`.

        Raises:
            InputError: there is no such product or folder, or no picture in it.
        """
        if product is not None:
            known = self.product(product).stream(pictures, batch, bgr=bgr, leave_out=leave_out)
            return (self._of_product(one, product) for one in known)
        load = partial(self.load, bgr=bgr, leave_out=leave_out)
        tiled = any(one.manifest.preprocess.tile is not None for one in self.products.values())
        return stream_predictions(resolve_pictures(pictures), load, self.judge, self.runner, batch, tiled)

    @check_arguments(but=("picture",))
    def prepare(self, picture: PictureSource) -> PreparedPicture:
        """Decodes a picture, and recognises its product, to be judged later: `stream` takes it in the
        picture's place. Takes a `HashedPicture`, too. InputError: the picture cannot be read."""
        source, loaded = self.load(picture)
        if isinstance(loaded, InputError):
            raise loaded
        return PreparedPicture(source, loaded)

    @check_arguments()
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
        if self.kind == "view":
            found = {view: self.predict(one, product=view) for view, one in views.items()}
        else:
            found = dict(zip(views, self.predict([*views.values()], product=product), strict=True))
        return parts.decide(part, found, views)
