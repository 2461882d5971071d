"""Products that were made on the station's pages: their models, and the camera that went live with each.

The camera is kept as it would stand in `station.yaml`, so the same code reads and checks it. `live_products`
of `setup` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select, update

from flawscope.errors import InputError
from flawscope_station.settings.station import ProductSettings, Settings, read_product
from flawscope_station.store.files import Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import products, stations, versions

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


# ------------------------------------------------------------- settings that pages of earlier versions made


def refuse_kept_settings(page_products: PageProducts, given: Settings) -> None:
    """Refuse a store in which an earlier version kept settings that pages made. Those that `station.yaml`
    names are not used any more, and forgotten.

    Raises:
        InputError: there are such settings.
    """
    database = page_products.store.database
    with database.reading() as connection:
        made = connection.execute(select(stations.c.made)).scalar_one_or_none()
    # a section that nobody named is the default itself; one of the same values was named
    kept = [name for name in _parse_settings(made) if getattr(given, name) is getattr(Settings, name)]
    kept += [
        f"products: {name}"
        for name, product in page_products.all().items()
        if not _is_camera_alone(product.raw_settings)
    ]
    if kept:
        raise InputError(
            "settings are no longer made on the pages, and this store has some that an earlier version kept: "
            f"write them into the settings file, such as station.yaml: {', '.join(kept)}"
        )
    if made is not None:
        with database.writing() as connection:
            connection.execute(update(stations).values(made=None))


def _is_camera_alone(raw: RawDict) -> bool:
    sources = raw.get("sources", [])
    return not raw.get("sinks") and len(sources) < 2 and all("camera" in source for source in sources)
