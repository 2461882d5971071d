"""Pages of plugins, below `/-/pages/NAME`.

Each page is an application of its own, behind the checks of all requests. A page that raises answers 500 and
is a problem of the station until it works again; other pages are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flawscope import pages
from flawscope.errors import InputError, message_with_type, one_line_message
from flawscope_station.access.roles import ENGINEER, PERSON_KEY, ROLES, SENDER, VIEWER, Person, has_role
from flawscope_station.core.extension import MenuLink
from flawscope_station.core.plugin_pages import PluginPage
from flawscope_station.core.queries import Records
from flawscope_station.settings.plugins import ConfiguredPlugin
from flawscope_station.settings.values import check_names
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.filters import FILTERS
from flawscope_station.store.inspection import InspectionFacts
from flawscope_station.store.records import NotFoundError
from flawscope_station.store.search import MAX_PAGE_SIZE, Filters
from flawscope_station.web.errors import RefusedError, install_error_handler
from flawscope_station.web.middleware import check_role
from flawscope_station.web.pages import Page, asset_response, error_page
from flawscope_station.web.templates import PAGES, pages_with

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

ADDRESS = "/-/pages"
MAX_REQUESTS = 8  # requests of a page at a time: a page that hangs must not use up all threads
# name of each filter by its parameter in the API
_FILTER_BY_PARAMETER = {filter_.parameter or filter_.name: filter_.name for filter_ in FILTERS}


class StationForPage:
    """Part of the station that a plugin's page may use (`PageContext`).

    Args:
        name: Name of the page.
        addresses: Products and their addresses.
        records: Records of inspections.
    """

    def __init__(self, name: str, addresses: Addresses, records: Records):
        self.root = f"{ADDRESS}/{quote(name, safe='')}"
        self.assets = PAGES  # until the page is opened: then it gets its own assets
        self._addresses = addresses
        self._records = records

    def products(self) -> Sequence[str]:
        """Return the names of the products."""
        return list(self._addresses.products)

    def product(self, request: Request) -> str:
        """Return the product that the query parameter `product` names; without one, the first product.

        Raises:
            NotFoundError: There is no such product, or the station has none.
        """
        product = request.query_params.get("product") or next(iter(self.products()), None)
        if product is None:
            raise NotFoundError("the station has no product yet")
        self._addresses.product_id(product)  # raises where there is no such product
        return product

    def inspections(self, product: str, **filters: str) -> Iterator[InspectionFacts]:
        """Yield a product's inspections that match the filters, the newest first.

        Args:
            product: Name of the product.
            filters: Texts of the filters, by the names of their parameters in the API.
        """
        check_names(filters, _FILTER_BY_PARAMETER)
        product_id = self._addresses.product_id(product)
        query = {_FILTER_BY_PARAMETER[name]: text for name, text in filters.items()}
        page_filters = replace(Filters.from_query(query), limit=MAX_PAGE_SIZE)
        while True:
            page = self._records.search(product_id, page_filters)
            yield from page.inspections
            if page.next is None:
                return
            page_filters = replace(page_filters, cursor=page.next)

    def person(self, request: Request, role: str = VIEWER) -> Person:
        """Return the person who sent a request.

        Raises:
            RefusedError: The person's role is lower than `role` (403).
        """
        person: Person = request.scope[PERSON_KEY]
        check_role(person, role)
        return person

    def render(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        sections: Sequence[str] = (),
        **values: object,
    ) -> Response:
        """Render a page from a template of the plugin.

        Args:
            request: HTTP request.
            template: Name of the template, without suffix.
            status: HTTP status.
            sections: Sections of the texts that the page's script needs.
            values: Values for the template by name; `data` is the value for the script.
        """
        has_product = bool(request.query_params.get("product") or self.products())
        product = self.product(request) if has_product else None
        # "plugin" is the page's name in the menu
        page = Page(request, "plugin", product, self.assets, self.root)
        return page.render(template, status, sections=sections, **values)


class PluginPages:
    """All pages of plugins.

    Args:
        addresses: Products and their addresses.
        records: Records of inspections.
        components: Components of the station, for the frame of each page.
        report: Reports a problem of the station; called with its code and its text. The text None: the
            problem is over.

    Attributes:
        links: Links of the menu.
        router: Router of the pages.
    """

    def __init__(
        self,
        addresses: Addresses,
        records: Records,
        components: Mapping[type, object],
        report: Callable[[str, str | None], None],
    ):
        self._addresses = addresses
        self._records = records
        self._components = components
        self._report = report
        self._pages: dict[str, _GuardedPage] = {}
        self._failures: dict[tuple[str, str], str] = {}  # (page, function) -> text of the error
        self.links: list[MenuLink] = []
        self.router = APIRouter()
        # the address of each page, and all addresses below it
        self.router.routes += [Route(f"{ADDRESS}/{{page}}{below}", self) for below in ("", "/{path:path}")]

    def open(self, plugin: ConfiguredPlugin) -> None:
        """Open the page of a plugin.

        Raises:
            InputError: The page cannot be used.
        """
        name = plugin.name
        context = StationForPage(name, self._addresses, self._records)
        with _opening(name):
            page, assets = _open_page(plugin, context)
            context.assets = assets
            application = self._application(page.router, context)
        self._pages[name] = _GuardedPage(page.role, context.root, application)
        self.links.append(MenuLink(f"{context.root}?product={{product}}", page.title, page.role))

    def _application(self, router: APIRouter, context: StationForPage) -> FastAPI:
        """Return the application of a page, which finds the station's components."""
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        app.state.components = self._components
        install_error_handler(app, error_page)
        app.add_exception_handler(Exception, failed_page)

        @app.get("/static/{file:path}")
        def static_file(file: str) -> Response:
            return asset_response(context.assets, file)

        app.include_router(router)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of a page (ASGI).

        Raises:
            NotFoundError: There is no such page.
            RefusedError: The person's role is too low, or too many requests are being answered.
        """
        name = scope["path_params"]["page"]
        page = self._pages.get(name)
        if page is None:
            raise NotFoundError(f"there is no page {name!r:.80}")
        status = 0  # 0: no answer has begun
        page_scope = page.enter(scope)

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(PAGES.security_headers)  # a page cannot loosen them
            await send(message)

        error_text = None
        try:
            await page(page_scope, receive, send_guarded)
        except Exception as error:
            error_text = message_with_type(error)
        # a refused request (status 400 or more) does not show whether the page works
        if error_text is not None or status < 400:
            self._note(name, page_scope, error_text)

    def _note(self, name: str, scope: Scope, message: str | None) -> None:
        """Note whether a function of a page has failed; report the page's problems if they have changed.

        Args:
            name: Name of the page.
            scope: Scope of a request, which has the function that answered it as `endpoint`.
            message: Message of the error; None: the function works.
        """
        function = getattr(scope.get("endpoint"), "__qualname__", "")
        earlier_failures = self._failures.copy()
        self._failures.pop((name, function), None)
        if message is not None:
            place = f"page {name}, {function.rpartition('.')[2]}"
            # `one_line_message` makes one short line of an error's text
            self._failures[name, function] = one_line_message(RuntimeError(f"{place}: {message}"))
        if self._failures != earlier_failures:
            self._report("page_failed", "; ".join(self._failures.values()) or None)


class _GuardedPage:
    """Application of a page; it checks the sender's role, and limits the number of requests at a time.

    Args:
        role: Lowest role that may use the page.
        root: Path of the page.
        application: Application of the page.
    """

    def __init__(self, role: str, root: str, application: FastAPI):
        self._role = role
        self._root = root
        self._application = application
        self._open_requests = 0

    def enter(self, scope: Scope) -> Scope:
        """Check a request, and return its scope with the paths that the application expects.

        Raises:
            RefusedError: The person's role is too low, or too many requests are being answered.
        """
        check_role(scope[PERSON_KEY], self._role)
        if self._open_requests >= MAX_REQUESTS:
            text = f"{self._root}: {MAX_REQUESTS} requests are being answered: try again soon"
            raise RefusedError(503, text, "busy")
        path = scope["path"]
        if path == self._root:
            path = f"{self._root}/"
        return {**scope, "root_path": self._root, "path": path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._open_requests += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._open_requests -= 1


def check_page(plugin: ConfiguredPlugin, products: Sequence[str]) -> None:
    """Open the page of a plugin without a station, to check it.

    Raises:
        InputError: The page cannot be used.
    """
    with _opening(plugin.name):
        page, _ = _open_page(plugin, _NoStation(products))
        FastAPI().include_router(page.router)


class _NoStation:
    """Stand-in for the station (`PageContext`) while a page is only checked: it has only products' names."""

    def __init__(self, products: Sequence[str]):
        self._products = products

    def products(self) -> Sequence[str]:
        return self._products

    def __getattr__(self, name: str) -> object:
        raise InputError(f"its `open` asks the station for `{name}`: let its routes do so")


@contextmanager
def _opening(name: str) -> Iterator[None]:
    """Convert any error to InputError with one line that names the page and the reason."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else message_with_type(error)
        raise InputError(f"page {name} cannot be opened: {' '.join(reason.split())}") from error


def _open_page(plugin: ConfiguredPlugin, context: object) -> tuple[PluginPage, pages.Pages]:
    """Open the page of a plugin, and read its templates and texts."""
    page: PluginPage = plugin.open(context, plugin.values)
    _check_page(page)
    assets = pages_with(page.assets)
    _ = assets.texts, assets.static_files  # reads them, which raises where one is wrong
    return page, assets


def _check_page(page: object) -> None:
    """Raise InputError where a plugin's page cannot be shown."""
    if not isinstance(page, PluginPage):
        raise InputError("it must return a `PluginPage`")
    if page.role not in ROLES or page.role == SENDER:  # SENDER is the first of ROLES
        raise InputError(f"role {page.role!r:.40}: choose {', '.join(ROLES[1:])}")
    if "en" not in page.title:
        raise InputError("title has no English text: write it under `en`")
    if not page.assets.is_dir():
        raise InputError(f"its assets are no folder: {page.assets}")


async def failed_page(request: Request, error: Exception) -> Response:
    """Render the answer of a plugin's page that raised an error; only engineers see the reason."""
    page = Page(request, "problem")
    text = message_with_type(error) if has_role(page.person, ENGINEER) else page.texts("problem.page_failed")
    return page.render("problem", 500, title=page.texts("wrong.page_failed"), text=text)
