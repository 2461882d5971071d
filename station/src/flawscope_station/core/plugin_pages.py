"""Pages of plugins: what a plugin says of its page, and what the page may use of the station."""

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
        title: Text of its link in the menu, by language; that of "en" is taken where a language is missing.
        router: Its routes; the path "/" is the page itself.
        assets: Folder of its templates (`NAME.html.j2`), scripts, styles, and texts (`texts/LANGUAGE.yaml`,
            the English ones complete).
        role: Lowest role of the people who may see it.
    """

    title: Mapping[str, str]
    router: APIRouter
    assets: Traversable
    role: str = VIEWER


class PageContext(Protocol):
    """Part of a station that a page of a plugin may use. Its script has the API beside it."""

    def products(self) -> Sequence[str]:
        """Return the names of the products."""

    def product(self, request: Request) -> str:
        """Return the product that a request names as `product`, else the first. NotFoundError."""

    def inspections(self, product: str, **filters: str) -> Iterator[InspectionFacts]:
        """Yield the inspections that a search finds, the newest first, as the API shows them.

        Args:
            product: its name.
            filters: as the API's parameters.

        Raises:
            NotFoundError: there is no such product.
            InputError: a filter is not allowed.
            StoreError: the data base cannot be used.
        """

    def person(self, request: Request, role: str = VIEWER) -> Person:
        """Return who sent a request; 403 where the role is lower."""

    def render(self, request: Request, template: str, *, status: int = 200, **values: object) -> Response:
        """Return a page that is rendered from a template of the plugin.

        Args:
            request: that asks for the page.
            template: its name without the suffix.
            status: HTTP status of the response.
            values: of the template; `data` among them is for the page's script.
        """
