"""Open models: every model that judges, and the last one that judged before.

The last one is for overlays of its inspections.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from flawscope.predictor import router
from flawscope_station.store.inspection import RefusalError

_MAX_SPARE = 1  # models that stay open although they judge nothing
Model = router.Model


class NoModelError(RefusalError):
    """No model of a product is open."""

    code = "no_model"

    def __init__(self, why: str = "no model of this product is open: activate a version that knows it"):
        super().__init__(why)


class ProductModel(NamedTuple):
    """Product with its active version and model, which may have a model for each view.

    Attributes:
        product_id: Number of the product.
        number: Number of the version.
        model: Opened model.
        name: Name at the station, where the product is recognised; else None.
    """

    product_id: int
    number: int
    model: Model
    name: str | None = None


class AddressModel(NamedTuple):
    """Model that judges the pictures of an address.

    Attributes:
        model: Opened model.
        products: Products of an entry, by their names in its joint model; a product itself, under "".
    """

    model: Model
    products: Mapping[str, ProductModel]

    @property
    def is_joint(self) -> bool:
        """Whether the model is a joint one, which finds the product of a picture."""
        return self.model.facts.is_joint

    @classmethod
    def single(cls, product: ProductModel) -> AddressModel:
        """Return the model of a product's own address, where nothing is recognised."""
        return cls(product.model, {"": product._replace(name=None)})


class ActiveModels(dict[int, AddressModel]):
    """Models that judge, by product or entry; a missing key raises NoModelError."""

    def __missing__(self, address: int) -> NoReturn:
        raise NoModelError


class OpenModels:
    """Open models. Thread-safe.

    Attributes:
        active: Models that judge. Each change replaces the mapping: reading needs no lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.active = ActiveModels()
        self._open: OrderedDict[str, Model] = OrderedDict()  # by the file's hash, the last used last

    def model_of_version(self, number: int) -> Model | None:
        """Return the model of the version with this number if it judges, else None."""
        products = (product for judging in self.active.values() for product in judging.products.values())
        return next((product.model for product in products if product.number == number), None)

    def get_or_load(self, digest: str, load: Callable[[], Model]) -> Model:
        """Return the model of the file with this hash, loaded unless it is open."""
        with self._lock:
            if digest in self._open:
                self._open.move_to_end(digest)
                return self._open[digest]
        model = load()
        with self._lock:
            model = self._open.setdefault(digest, model)
            self._trim()
        return model

    def activate(self, models: Mapping[int, AddressModel]) -> None:
        """Let models judge from now on; products that their entry's new model does not know lose theirs."""
        with self._lock:
            before = self._active_model_ids()
            active = ActiveModels(self.active)
            for activated in [active[address] for address in models if address in active]:
                for product in activated.products.values():
                    active.pop(product.product_id, None)
            active.update(models)
            self.active = active
            for digest in [digest for digest, model in self._open.items() if id(model) in before]:
                self._open.move_to_end(digest)
            self._trim()

    def deactivate(self, product_id: int) -> None:
        """Let a product's model judge no more."""
        with self._lock:
            self.active = ActiveModels(self.active)
            self.active.pop(product_id, None)
            self._trim()

    def _active_model_ids(self) -> set[int]:
        return {id(model.model) for model in self.active.values()}

    def _trim(self) -> None:
        used = self._active_model_ids()
        spare = [digest for digest, model in self._open.items() if id(model) not in used]
        for digest in spare[: max(0, len(spare) - _MAX_SPARE)]:
            del self._open[digest]
