"""Products that were made on the station's pages: their models, and the camera that went live with each.

The camera is kept as it would stand in `station.yaml`, so the same code reads and checks it. `live_products`
of `setup` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from flawscope.errors import InputError
from flawscope_station.settings.station import ProductSettings, read_product
from flawscope_station.store.files import Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import products, versions

MADE_ON_PAGES = "made on the station's pages"  # origin of versions whose product no settings need to name
RawDict = dict[str, Any]  # settings as in `station.yaml`: a station's, or below a product's name


class PageProduct(NamedTuple):
    """Product that was made here. model: file of the latest version that went live on the pages."""

    model: Path
    raw_settings: RawDict


class PageProducts:
    """Products that were made on the pages, each with at most one camera.

    Args:
        by_file: products that `station.yaml` names: what the pages say of them does not hold.
    """

    def __init__(self, store: Store, files: Files, by_file: Collection[str], say: Callable[[str], None]):
        self.store, self.files, self.by_file, self.say = store, files, by_file, say

    def all(self) -> dict[str, PageProduct]:
        """Return the products that went live on the pages, and that `station.yaml` does not name."""
        query = (
            select(products.c.name, versions.c.file, products.c.made)
            .join(versions, versions.c.product_id == products.c.id)
            .where(versions.c.origin == MADE_ON_PAGES, products.c.active_version_id.is_not(None))
            .where(products.c.name.not_in(self.by_file))
            .order_by(versions.c.id)
        )
        with self.store.database.reading() as connection:
            rows = connection.execute(query).all()
        home = self.files.folder
        return {name: PageProduct(home / file, _parse_settings(kept)) for name, file, kept in rows}

    def products(self) -> dict[str, ProductSettings]:
        """Return the settings of these products; a camera that is not allowed any more is left out."""
        found = {}
        for name, product in self.all().items():
            try:
                found[name] = self.read(name, product.model, product.raw_settings)
            except InputError as error:
                self.say(f"{name}: {error}; its camera from the pages is left out")
                found[name] = ProductSettings(str(product.model))
        return found

    def read(self, name: str, model: Path, raw: RawDict) -> ProductSettings:
        """Return the settings of a product, of what is kept of it. InputError."""
        return read_product(name, {"model": str(model), **raw}, Path(self.files.folder).absolute())


def _parse_settings(made: str | None) -> RawDict:
    now: RawDict = json.loads(made or "{}").get("now", {})
    return now
