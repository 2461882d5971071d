"""Open models: all models that judge, and the model that judged last before them.

That model stays open for overlays of its inspections.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from flawscope.predictor import router
from flawscope_station.store.inspection import RefusalError

_MAX_SPARE = 1  # number of models that stay open although they judge nothing
Model = router.Model


class NoModelError(RefusalError):
    """No model of a product is open."""

    code = "no_model"

    def __init__(self, reason: str = "no model of this product is open: activate a version that knows it"):
        super().__init__(reason)


class ProductModel(NamedTuple):
    """Product with its active version and model, which may have a model for each view.

    Attributes:
        product_id: Number of the product.
        number: Number of the version.
        model: Opened model.
        name: Name at the station, for a product that a joint model recognises; None: the address names it.
    """

    product_id: int
    number: int
    model: Model
    name: str | None = None


class AddressModel(NamedTuple):
    """Model that judges the pictures of an address.

    Attributes:
        model: Opened model.
        products: Products of an entry, by their names in its joint model; for the address of a single
            product, that product under "".
    """

    model: Model
    products: Mapping[str, ProductModel]

    @property
    def is_joint(self) -> bool:
        """Whether the model is a joint one, which finds the product of a picture."""
        return self.model.facts.is_joint

    @classmethod
    def single(cls, product: ProductModel) -> AddressModel:
        """Return the `AddressModel` of a product's own address, at which no product has to be recognised."""
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
        self._open: OrderedDict[str, Model] = OrderedDict()  # by hash of the file; the latest used is last

    def model_of_version(self, number: int) -> Model | None:
        """Return the model of a version that judges; None: the version with this number does not judge."""
        for address_model in self.active.values():
            for product in address_model.products.values():
                if product.number == number:
                    return product.model
        return None

    def get_or_load(self, digest: str, load: Callable[[], Model]) -> Model:
        """Return the model of a file; load it if it is not open.

        Args:
            digest: SHA-256 of the file.
            load: Function that loads the model.
        """
        with self._lock:
            if digest in self._open:
                self._open.move_to_end(digest)
                return self._open[digest]
        model = load()
        with self._lock:
            model = self._open.setdefault(digest, model)  # another thread may have loaded it meanwhile
            self._trim()
        return model

    def activate(self, models: Mapping[int, AddressModel]) -> None:
        """Let models judge from now on.

        An entry is the address of a joint model, which has several products. A product that the new model of
        the entry lacks is left without a model.

        Args:
            models: Number of the product or entry -> its model.
        """
        with self._lock:
            earlier_model_ids = self._active_model_ids()
            active = ActiveModels(self.active)
            replaced_models = [active[address] for address in models if address in active]
            for address_model in replaced_models:
                for product in address_model.products.values():
                    active.pop(product.product_id, None)
            active.update(models)
            self.active = active
            # models that judged until now count as used last: `_trim` keeps one of them as the spare
            earlier_digests = [
                digest for digest, model in self._open.items() if id(model) in earlier_model_ids
            ]
            for digest in earlier_digests:
                self._open.move_to_end(digest)
            self._trim()

    def deactivate(self, product_id: int) -> None:
        """Take a product's model out of use."""
        with self._lock:
            self.active = ActiveModels(self.active)
            self.active.pop(product_id, None)
            self._trim()

    def _active_model_ids(self) -> set[int]:
        """Return the `id` of each model that judges."""
        return {id(address_model.model) for address_model in self.active.values()}

    def _trim(self) -> None:
        """Close the models that judge nothing, except the `_MAX_SPARE` models that were used last."""
        active_model_ids = self._active_model_ids()
        spare_digests = [digest for digest, model in self._open.items() if id(model) not in active_model_ids]
        close_count = max(0, len(spare_digests) - _MAX_SPARE)
        for digest in spare_digests[:close_count]:
            del self._open[digest]
