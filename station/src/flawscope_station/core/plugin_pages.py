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

    title: text of its link in the menu, by language; that of "en" stands for those that are missing.
    router: its routes; the path "/" is the page itself.
    assets: folder of its templates (`NAME.html.j2`), scripts, styles, and texts (`texts/LANGUAGE.yaml`, the
    English ones complete).
    role: of people who may see it; higher ones may, too.
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
        """Yield the inspections that a search finds, the newest first, as the API shows them. filters: as the
        API's parameters. NotFoundError, InputError, StoreError.
        """

    def person(self, request: Request, role: str = VIEWER) -> Person:
        """Return who sent a request; 403 where the role is lower."""

    def render(self, request: Request, template: str, *, status: int = 200, **values: object) -> Response:
        """Render a page from a template of the plugin's, which is named without its suffix; `data` among the
        values is for the page's script.
        """
