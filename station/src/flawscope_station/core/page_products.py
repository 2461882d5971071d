"""Products that were made on the station's pages, which no settings need to name."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.files import Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import active_version, products, versions

MADE_ON_PAGES = "made on the station's pages"  # origin of versions whose product no settings need to name


def page_products(store: Store, files: Files, configured: Collection[str]) -> dict[str, ProductSettings]:
    """Return the settings of the products that went live on the pages, by name.

    Products that `configured` names are left out. The settings name the latest model from the pages.
    """
    query = (
        select(products.c.name, versions.c.file)
        .join(versions, versions.c.product_id == products.c.id)
        .where(versions.c.origin == MADE_ON_PAGES, active_version(products.c.id).is_not(None))
        .where(products.c.name.not_in(configured))
        .order_by(versions.c.id)
    )
    rows = store.database.rows(query)
    # a later version replaces the earlier ones of its product
    return {row.name: ProductSettings(str(files.folder / row.file)) for row in rows}
