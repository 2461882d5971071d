"""Pages of plugins: the record that describes such a page, and the part of the station that it may use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Protocol

from flawscope_station.access.roles import VIEWER, Person
from flawscope_station.store.inspection import InspectionFacts

if TYPE_CHECKING:
    from fastapi import APIRouter, Request, Response


@dataclass(frozen=True)
class PluginPage:
    """Page of a plugin, which the plugin's `open` returns.

    Attributes:
        title: Text of the page's link in the menu, by language; "en" serves where a language is missing.
        router: Routes of the page; the path "/" is the page itself.
        assets: Folder of the page's templates (`NAME.html.j2`), scripts, styles, and texts
            (`texts/LANGUAGE.yaml`, of which the English must be complete).
        role: Lowest role of the people who may see the page.
    """

    title: Mapping[str, str]
    router: APIRouter
    assets: Traversable
    role: str = VIEWER


class PageContext(Protocol):
    """Part of a station that a page of a plugin may use. The page's script may also use the API."""

    def products(self) -> Sequence[str]:
        """Return the names of the products."""

    def product(self, request: Request) -> str:
        """Return the product that a request names as `product`, else the first product.

        Raises:
            NotFoundError: There is no such product.
        """

    def inspections(self, product: str, **filters: str) -> Iterator[InspectionFacts]:
        """Yield the inspections that a search finds, the newest first, as the API shows them.

        Args:
            product: Name of the product.
            filters: Filters, as the API's parameters.

        Raises:
            NotFoundError: There is no such product.
            InputError: A filter is not allowed.
            StoreError: The database cannot be used.
        """

    def person(self, request: Request, role: str = VIEWER) -> Person:
        """Return the person who sent a request; answer the request with 403 where the role is lower."""

    def render(self, request: Request, template: str, *, status: int = 200, **values: object) -> Response:
        """Return a page that is rendered from a template of the plugin.

        Args:
            request: Request for the page.
            template: Name of the template without its suffix.
            status: HTTP status of the response.
            values: Values of the template; `data` among them is for the page's script.
        """
