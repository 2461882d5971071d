"""The pages as the server renders them. Their scripts ask the JSON API for the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Protocol, TypedDict
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel

from flawscope import __version__, pages
from flawscope.calibration import near_threshold
from flawscope.errors import FlawscopeError, InputError
from flawscope_station.access.roles import LOCAL_PERSON, OPERATOR, PERSON_KEY, Person, has_role
from flawscope_station.core.extension import Menu, MenuLink
from flawscope_station.core.queries import Overview
from flawscope_station.settings.shifts import ShiftSettings, station_zone
from flawscope_station.settings.station import Settings
from flawscope_station.shifts.shift import Shift, ended_shifts
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.filters import BY_NAME, FILTERS, WITH_TRIALS
from flawscope_station.store.inspection import other_fields
from flawscope_station.store.line_alarms import compare_false_alarm_rates
from flawscope_station.store.product_facts import ProductState
from flawscope_station.store.records import iso, valid_id_or_zero
from flawscope_station.store.search import Filters, InspectionPage
from flawscope_station.web.api import live_state
from flawscope_station.web.components import (
    HealthDep,
    OverviewDep,
    PausesDep,
    RecordsDep,
    SettingsDep,
    StoreDep,
    VersionsDep,
    find_component,
)
from flawscope_station.web.local_times import query_in_utc, to_local_input
from flawscope_station.web.middleware import (
    FIRST_USER,
    NEW_PASSWORD,
    NEW_USER,
    NO_USER,
    require_role,
    user_command,
)
from flawscope_station.web.templates import COMMON_SECTIONS, PAGES

page_router = APIRouter(include_in_schema=False)

PROBLEMS_PAGE = "problems"  # no tab: the bar about problems leads there
RANGE_SECONDS = {"hour": 3600, "day": 86400, "week": 7 * 86400, "month": 30 * 86400, "all": None}
QUICK_RANGES = ("hour", "day", "week", "all")  # ranges in the history
RECENT_PICTURES = 16  # below the live one
PER_PAGE = 48  # inspections in the history; divides by 2, 3, 4, 6 and 8 columns


class PageFacts(Protocol):
    """Facts about a product that all of its pages show."""

    waiting: int
    problems: list[str]
    problem_products: list[str | None]


class RemovedProduct(BaseModel):
    """Facts about a removed product, whose records alone are shown."""

    waiting: int = 0
    problems: list[str] = []
    problem_products: list[str | None] = []
    found_at: str | None = None


class WaitingState(ProductState):
    """State of a product while the store is away."""

    waiting: int = 0


class Page:
    """Page of a request, with its person, language and product.

    Args:
        request: HTTP request.
        page: Name of the page, for the menu.
        product: Name of the product; None: the page has none.
        assets: Templates, texts and scripts of the page.
        root: Prefix of the paths of its static files.

    Attributes:
        product_id: Number of the product, set on a product's pages.
        is_removed: Whether the product is inspected no more, and only its records can be read.
    """

    product_id: int
    is_removed = False

    def __init__(
        self,
        request: Request,
        page: str,
        product: str | None = None,
        assets: pages.Pages = PAGES,
        root: str = "",
    ):
        self.request = request
        self.page = page
        self.product = product
        self.assets = assets
        self.root = root
        self.overview = find_component(request, Overview)
        cookie = request.cookies.get("language")
        accepted = request.headers.get("accept-language", "")
        self.texts: pages.Texts = assets.texts_for(cookie, accepted)
        self.person: Person | None = request.scope[PERSON_KEY]

    @property
    def return_path(self) -> str:
        """Path and query of the page, to return to after a form."""
        url = self.request.url
        return f"{quote(url.path)}?{url.query}" if url.query else quote(url.path)

    def render(
        self, template: str, status: int = 200, *, sections: Sequence[str] = (), **more: object
    ) -> Response:
        """Render the page as an HTML response.

        Args:
            template: Name of the template, without suffix.
            status: HTTP status.
            sections: Sections of the texts that the page's script needs.
            more: Values for the template; `data` is for the script.
        """
        product = self.product
        person = self.person
        settings = find_component(self.request, Settings)
        facts = self._product_facts(product) if product else None
        api = f"/api/v1/products/{quote(product, safe='')}" if product else ""
        texts = self.texts.sections(*COMMON_SECTIONS, *sections) if product or sections else {}
        script = {
            "texts": texts,
            "product": product,
            "api": api,
            "person": person.name if person else "",
            "data": more.pop("data", None),
            "over": self.is_removed,  # nothing is asked any more
        }
        bar = self._problem_bar(facts) if facts else ""
        html = self.assets.render(
            template,
            self.texts,
            script,
            theme=self.request.cookies.get("theme"),
            root=self.root,
            page=self.page,
            product=product,
            products=list(self.overview.addresses.products) if person else [],
            facts=facts,
            removed=self.is_removed,
            menu=self._menu_links(),
            bar=bar,
            person=person,
            may_judge=has_role(person, "operator") and not self.is_removed,
            may_audit=has_role(person, "admin"),
            may_change=has_role(person, "engineer"),
            account=person not in (None, LOCAL_PERSON),
            company=settings.openid is not None,
            user_commands=self._user_commands(settings),
            alone=False,
            api=api,
            here=self.return_path,
            query=self.request.query_params,
            **more,
        )
        return HTMLResponse(html, status, {"Content-Language": self.texts.language})

    def _menu_links(self) -> list[MenuLink]:
        """Return the links of the menu that the person sees on this page."""
        product = None if self.is_removed else self.product
        return [link for link in find_component(self.request, Menu) if link.is_shown(self.person, product)]

    def _user_commands(self, settings: Settings) -> list[str]:
        """Return the command lines for users: of the first one, or those of an administrator."""
        verbs = [FIRST_USER] if self.person == LOCAL_PERSON else [NEW_USER, NEW_PASSWORD, NO_USER]
        return [user_command(settings, os.path.abspath(settings.store), verb) for verb in verbs]

    def _product_facts(self, product: str) -> PageFacts:
        """Return the product's facts for the frame of a page.

        Of a removed product they are empty. While the store is away, the page of problems gets only the
        state; other pages raise StoreError.
        """
        if self.is_removed:
            return RemovedProduct()
        try:
            return self.overview.facts(product)
        except StoreError:
            if self.page != PROBLEMS_PAGE:
                raise
            return WaitingState.model_validate(self.overview.state(product).model_dump())

    def _problem_bar(self, facts: PageFacts) -> str:
        """Return the text of the bar about problems that nobody has acknowledged; "" where there are none."""
        kinds = facts.problems
        products = facts.problem_products
        if not kinds:
            return ""
        named = []
        for kind, product in zip(kinds, products, strict=True):
            title = self.texts.text_or(f"wrong.{kind}", "wrong.other")
            named.append(f"{product}: {title}" if product else title)
        return self.texts.count("problems.bar", len(kinds), what=" · ".join(dict.fromkeys(named)))


def error_page(request: Request, status: int, text: str, error: FlawscopeError | None = None) -> Response:
    """Render an error in one line, for addresses outside of /api.

    Only engineers see the reason of the station's own errors.
    """
    page = Page(request, "problem")
    if status == 404:
        text = page.texts("problem.missing")
    elif status == 403:
        text = page.texts("problem.not_allowed")
    elif status >= 500 and not has_role(page.person, "engineer"):
        text = page.texts("wrong.store_unreachable")
    title = page.texts("problem.title" if status == 404 else "problem.input")
    return page.render("problem", status, title=title, text=text)


def asset_response(assets: pages.Pages, name: str) -> Response:
    """Return an asset file by its name, else 404."""
    if (found := assets.static_files.get(name)) is None:
        return Response("not found", 404, media_type="text/plain")
    body, _, kind = found
    return Response(body, media_type=kind)


def html_router(role: str) -> APIRouter:
    """Make a router of pages for people with this role or a higher one."""
    return APIRouter(include_in_schema=False, dependencies=[Depends(require_role(role))])


def product_page(name: str, *, of_records: bool = False) -> object:
    """Make the dependency that opens a product's page.

    Args:
        name: Name of the page.
        of_records: Whether the page shows records, also of a removed product.

    Raises:
        NotFoundError: in a request, where there is no such product.
    """

    def open_page(request: Request, product: str) -> Page:
        page = Page(request, name, product)
        addresses = find_component(request, Overview).addresses
        page.product_id = addresses.records_id(product) if of_records else addresses.product_id(product)
        page.is_removed = product not in addresses
        return page

    return Depends(open_page)


@page_router.get("/")
def start_page(request: Request) -> Response:
    """Redirect to the first product; where there is none, engineers go to *New product*."""
    page = Page(request, "problem")
    if products := list(page.overview.addresses.products):
        return RedirectResponse(f"/{quote(products[0], safe='')}/live", 303)
    if has_role(page.person, "engineer"):
        return RedirectResponse("/-/new", 303)
    return error_page(request, 404, page.texts("problem.no_product"))


@page_router.get("/static/{name:path}")
def static_file(name: str) -> Response:
    """Return a known file of the pages' assets; other names get 404."""
    return asset_response(PAGES, name)


@page_router.get("/{product}/live")
def live(
    product: str,
    page: Annotated[Page, product_page("live")],
    records: RecordsDep,
    overview: OverviewDep,
    settings: SettingsDep,
) -> Response:
    """Show the product live: newest inspections, state and counts."""
    product_id = page.product_id
    store = records.store
    newest = records.search(product_id, Filters(limit=RECENT_PICTURES)).inspections
    last = store.last_defective(product_id)
    facts = live_state(overview, settings.shifts, product)
    del facts["problem"]  # that is for engineers
    data = {"newest": newest, "anomalous": last, "facts": facts}
    return page.render("live", sections=("live", "refused", "capture"), data=data)


@page_router.post("/{product}/pause")
def pause(
    page: Annotated[Page, product_page("live")],
    pauses: PausesDep,
    person: Annotated[Person, Depends(require_role(OPERATOR))],
    paused: Annotated[bool, Form()],
) -> Response:
    """Pause a product, or take its parts again."""
    if paused:
        pauses.pause(page.product_id, person.name, "")
    else:
        pauses.resume(page.product_id, person.name)
    return RedirectResponse(f"/{quote(page.product or '', safe='')}/live", 303)


@page_router.get("/{product}/review")
def review(
    page: Annotated[Page, product_page("review")],
    store: StoreDep,
    settings: SettingsDep,
    only: int | None = None,
) -> Response:
    """Show the review.

    Args:
        page: The product's page.
        store: Records of inspections.
        settings: Settings of the station.
        only: Number of the only inspection to show, whether it waits or not; None: all that wait.
    """
    inspection = None if only is None else store.inspection(page.product_id, valid_id_or_zero(only))
    data = {"only": inspection, "near": near_threshold.near_share(settings.near)}
    return page.render("review", sections=("review",), data=data)


@page_router.get("/{product}/history")
def history(
    product: str,
    page: Annotated[Page, product_page("history", of_records=True)],
    records: RecordsDep,
    versions: VersionsDep,
    settings: SettingsDep,
) -> Response:
    """Show a page of the inspections that the filters find."""
    zone = station_zone(settings.shifts)
    query = {key: value for key, value in page.request.query_params.items() if value.strip()}
    cursor = query.pop("cursor", "")
    base = f"/{quote(product, safe='')}/history"
    search = _search_query(query, zone)
    error = ""
    result = InspectionPage([], None)
    try:
        shown = {"purpose": WITH_TRIALS, **search, "cursor": cursor, "limit": str(PER_PAGE)}
        result = records.search(page.product_id, Filters.from_query(shown))
    except InputError as invalid:
        error = str(invalid)
    older = f"{base}?{urlencode({**query, 'cursor': result.next})}" if result.next else None
    newest = f"{base}?{urlencode(query)}" if cursor else None
    local_times = {name: to_local_input(query.get(name, ""), zone) for name in ("since", "until")}
    listed = versions.list_versions(page.product_id)["versions"]
    return page.render(
        "history",
        422 if error else 200,
        sections=("history",),
        items=result.inspections,
        error=error,
        older=older,
        newest=newest,
        filtered=bool(query.keys() - {"since"}),
        local=local_times,
        quick=_quick_links(base, query),
        form=_form_fields(page.texts, [version["id"] for version in listed]),
        export=f"/api/v1/products/{quote(product, safe='')}/export?{urlencode(_export_query(search))}",
    )


def _search_query(query: Mapping[str, str], zone: tzinfo | None) -> dict[str, str]:
    """Return a page's query as filters of a search: times in UTC, numbers with a point."""
    numbers = [filter_.name for filter_ in FILTERS if filter_.kind in ("least", "most")]
    search = query_in_utc(query, zone)
    for name in numbers:
        if name in search:
            search[name] = search[name].replace(",", ".")
    return search


class Field(TypedDict):
    """Field of the history's form.

    Attributes:
        name: Name of its filter.
        kind: Kind of its filter.
        options: Words of a choice with their texts; empty: the field is typed.
    """

    name: str
    kind: str
    options: list[tuple[object, str]]


def _form_fields(texts: pages.Texts, version_ids: Sequence[int]) -> list[Field]:
    """Return the fields of the history's form, one for each filter, in the filters' order."""
    form: list[Field] = []
    for filter_ in FILTERS:
        options: list[tuple[object, str]] = [
            (choice.word, texts(choice.text)) for choice in filter_.choices if choice.text
        ]
        if filter_.name == "version":
            options = [(number, str(number)) for number in version_ids]
        form.append({"name": filter_.name, "kind": filter_.kind, "options": options})
    return form


@page_router.get("/{product}/trends")
def trends(
    page: Annotated[Page, product_page("trends")],
    settings: SettingsDep,
    versions: VersionsDep,
    range: str = "day",
) -> Response:
    """Show scores over time, reports, and the expected false-alarm rate beside the counted one."""
    chosen_range = range if range in RANGE_SECONDS else "day"
    data = {"range": chosen_range, "seconds": RANGE_SECONDS[chosen_range]}
    listed = versions.list_versions(page.product_id)["versions"]
    first_version_at = min((version["created_at"] for version in listed), default="")
    return page.render(
        "trends",
        sections=("trends", "drift", "promise"),
        range=chosen_range,
        ranges=list(RANGE_SECONDS),
        reports=_report_periods(settings.shifts, RANGE_SECONDS[chosen_range], first_version_at),
        false_alarm_rates=compare_false_alarm_rates(versions, page.product_id),
        data=data,
    )


def _report_periods(
    shifts: ShiftSettings | None, seconds: float | None, first_version_at: str
) -> list[dict[str, str]]:
    """Return the periods on offer for a report: the page's range, and the latest shifts.

    Args:
        shifts: Shifts of the settings.
        seconds: Length of the page's range; None: it has no beginning.
        first_version_at: Time of the product's first version, as text; shifts that ended before it have no
            report.
    """
    time = now()
    periods = [] if seconds is None else [Shift("", time - round(seconds * 1e6), time)]
    periods += [shift for shift in ended_shifts(shifts, time)[::-1] if iso(shift.until) > first_version_at]
    zone = station_zone(shifts)
    return [period.to_dict(zone) for period in periods]


@page_router.get("/{product}/problems")
def problems(page: Annotated[Page, product_page(PROBLEMS_PAGE)], health: HealthDep) -> Response:
    """Show all problems of the station."""
    problems = health.problems()
    entry_names = {number: name for name, number in health.addresses.entries.items()}
    names = health.addresses.names | entry_names
    rows = []
    for problem in problems:
        row = vars(problem) | {"since": iso(problem.since), "number": problem.number}
        row["title"] = page.texts.text_or(f"wrong.{problem.kind}", "wrong.other")
        row["remedy"] = page.texts.text_or(f"remedy.{problem.kind}", "remedy.other")
        row["product"] = names.get(problem.product or 0)
        rows.append(row)
    data = [[problem.code, problem.acknowledged_by] for problem in problems]
    return page.render(
        PROBLEMS_PAGE,
        problems=rows,
        data=data,
        settings_hash=page.overview.settings_hash(),
        release=__version__,
        undelivered=_undelivered(page),
    )


def _undelivered(page: Page) -> dict[str, list[Mapping[str, object]]]:
    """Return the messages that a receiver refused for good, by sink; empty while the store is away."""
    found: dict[str, list[Mapping[str, object]]] = {}
    with suppress(StoreError):
        for message in page.overview.sinks.undelivered(page.product or ""):
            found.setdefault(message["sink"], []).append(message)
    return found


@page_router.get("/{product}/inspections/{number}")
def inspection(
    number: int, page: Annotated[Page, product_page("inspection", of_records=True)], store: StoreDep
) -> Response:
    """Show an inspection."""
    item = store.inspection(page.product_id, valid_id_or_zero(number))
    data = {"id": number, "verdict_id": item["verdict_id"]}
    return page.render(
        "inspection", sections=("inspection", "review"), data=data, item=item, more=other_fields(item)
    )


def _export_query(query: dict[str, str]) -> dict[str, str]:
    """Return the filters of the history as a query, with the API's names."""
    return {filter_.parameter or name: query[name] for name, filter_ in BY_NAME.items() if name in query}


def _quick_links(base: str, given: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Return the links to the history's quick ranges: name, address, whether it is the present one."""
    other_filters = {key: text for key, text in given.items() if key not in ("since", "until", "period")}
    current = given.get("period", "all" if "since" not in given and "until" not in given else "")
    links = []
    for name in QUICK_RANGES:
        query = dict(other_filters)
        if seconds := RANGE_SECONDS[name]:
            since = datetime.now(UTC) - timedelta(seconds=seconds)
            query |= {"since": since.isoformat(timespec="seconds"), "period": name}
        links.append((name, f"{base}?{urlencode(query)}" if query else base, name == current))
    return links
