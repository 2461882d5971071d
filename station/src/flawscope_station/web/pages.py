"""The station's pages. The server renders them; their scripts get further data from the JSON API."""

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

PROBLEMS_PAGE = "problems"  # name of the page to which the bar about problems leads; it has no tab
RANGE_SECONDS = {"hour": 3600, "day": 86400, "week": 7 * 86400, "month": 30 * 86400, "all": None}
QUICK_RANGES = ("hour", "day", "week", "all")  # ranges in the history
RECENT_PICTURES = 16  # pictures below the newest on *Live*
PER_PAGE = 48  # inspections in the history; divides by 2, 3, 4, 6 and 8 columns


class PageFacts(Protocol):
    """Facts about a product that all of its pages show."""

    waiting: int
    problems: list[str]
    problem_products: list[str | None]


class RemovedProduct(BaseModel):
    """Facts about a removed product, of which pages show only the records."""

    waiting: int = 0
    problems: list[str] = []
    problem_products: list[str | None] = []
    found_at: str | None = None


class WaitingState(ProductState):
    """State of a product while the database is away, in place of the product's facts."""

    waiting: int = 0


class Page:
    """Page of a request, with its person, language and product.

    Args:
        request: HTTP request.
        page: Name of the page, for the menu.
        product: Name of the product; None: the page is of no product.
        assets: Templates, texts and scripts of the page.
        root: Path below which the page's static files are.

    Attributes:
        product_id: Number of the product, set on a product's pages.
        is_removed: Whether the product was removed, and only its records can be read.
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
        chosen_language = request.cookies.get("language")
        accepted_languages = request.headers.get("accept-language", "")
        self.texts: pages.Texts = assets.texts_for(chosen_language, accepted_languages)
        self.person: Person | None = request.scope[PERSON_KEY]

    @property
    def return_path(self) -> str:
        """Path and query of the page, to return to after a form."""
        url = self.request.url
        return f"{quote(url.path)}?{url.query}" if url.query else quote(url.path)

    def render(
        self, template: str, status: int = 200, *, sections: Sequence[str] = (), **values: object
    ) -> Response:
        """Render the page as an HTML response.

        Args:
            template: Name of the template, without suffix.
            status: HTTP status.
            sections: Sections of the texts that the page's script needs.
            values: Values for the template by name; `data` is the value for the script.
        """
        product = self.product
        person = self.person
        settings = find_component(self.request, Settings)
        facts = self._product_facts(product) if product else None
        api = f"/api/v1/products/{quote(product, safe='')}" if product else ""
        # a page with neither product nor sections has no script that shows texts
        texts = self.texts.sections(*COMMON_SECTIONS, *sections) if product or sections else {}
        script = {
            "texts": texts,
            "product": product,
            "api": api,
            "person": person.name if person else "",
            "data": values.pop("data", None),
            "over": self.is_removed,  # the script of a removed product's page requests nothing
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
            **values,
        )
        return HTMLResponse(html, status, {"Content-Language": self.texts.language})

    def _menu_links(self) -> list[MenuLink]:
        """Return the links of the menu that the person sees on this page."""
        product = None if self.is_removed else self.product
        return [link for link in find_component(self.request, Menu) if link.is_shown(self.person, product)]

    def _user_commands(self, settings: Settings) -> list[str]:
        """Return the command lines that the page shows to add, change and remove users.

        On a station without users, there is one to add the first user.
        """
        verbs = [FIRST_USER] if self.person == LOCAL_PERSON else [NEW_USER, NEW_PASSWORD, NO_USER]
        return [user_command(settings, os.path.abspath(settings.store), verb) for verb in verbs]

    def _product_facts(self, product: str) -> PageFacts:
        """Return the product's facts for the frame of the page; those of a removed product are empty.

        While the database is away, the page of problems gets only the product's state.

        Raises:
            StoreError: The database is away, and this is another page.
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
        """Return the text of the bar about unacknowledged problems; "" where there are none."""
        kinds = facts.problems
        products = facts.problem_products
        if not kinds:
            return ""
        titles = []
        for kind, product in zip(kinds, products, strict=True):
            title = self.texts.text_or(f"wrong.{kind}", "wrong.other")
            titles.append(f"{product}: {title}" if product else title)
        distinct_titles = dict.fromkeys(titles)
        return self.texts.count("problems.bar", len(kinds), what=" · ".join(distinct_titles))


def error_page(request: Request, status: int, text: str, error: FlawscopeError | None = None) -> Response:
    """Render the page of an error, for paths that are not below /api.

    Only engineers see the text of an error with a status of 500 or more.

    Args:
        request: HTTP request.
        status: HTTP status.
        text: Text of the error, in one line.
        error: The error. It is not used; `install_error_handler` passes it to all functions of this kind.
    """
    page = Page(request, "problem")
    if status == 404:
        message = page.texts("problem.missing")
    elif status == 403:
        message = page.texts("problem.not_allowed")
    elif status >= 500 and not has_role(page.person, "engineer"):
        message = page.texts("wrong.store_unreachable")
    else:
        message = text
    title_key = "problem.title" if status == 404 else "problem.input"
    title = page.texts(title_key)
    return page.render("problem", status, title=title, text=message)


def asset_response(assets: pages.Pages, name: str) -> Response:
    """Return the response with a page's static file; 404: there is no file of this name."""
    file = assets.static_files.get(name)
    if file is None:
        return Response("not found", 404, media_type="text/plain")
    body, _, media_type = file
    return Response(body, media_type=media_type)


def html_router(role: str) -> APIRouter:
    """Make a router of pages for people with this role or a higher one."""
    return APIRouter(include_in_schema=False, dependencies=[Depends(require_role(role))])


def product_page(name: str, *, of_records: bool = False) -> object:
    """Make the FastAPI dependency that opens a product's page.

    In a request, the dependency raises NotFoundError if there is no such product.

    Args:
        name: Name of the page.
        of_records: Whether the page shows only records, so that it can be opened for a removed product, too.
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
    last_defective = store.last_defective(product_id)
    facts = live_state(overview, settings.shifts, product)
    del facts["problem"]  # its text is for engineers alone
    data = {"newest": newest, "anomalous": last_defective, "facts": facts}
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
        only: Number of the only inspection to show, even if it does not wait; None: show all that wait.
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
    path = f"/{quote(product, safe='')}/history"
    search = _search_query(query, zone)
    error = ""
    result = InspectionPage([], None)
    try:
        page_query = {"purpose": WITH_TRIALS, **search, "cursor": cursor, "limit": str(PER_PAGE)}
        result = records.search(page.product_id, Filters.from_query(page_query))
    except InputError as filter_error:
        error = str(filter_error)
    older_url = f"{path}?{urlencode({**query, 'cursor': result.next})}" if result.next else None
    newest_url = f"{path}?{urlencode(query)}" if cursor else None
    local_times = {name: to_local_input(query.get(name, ""), zone) for name in ("since", "until")}
    all_versions = versions.list_versions(page.product_id)["versions"]
    return page.render(
        "history",
        422 if error else 200,
        sections=("history",),
        items=result.inspections,
        error=error,
        older=older_url,
        newest=newest_url,
        filtered=bool(query.keys() - {"since"}),
        local=local_times,
        quick=_quick_links(path, query),
        form=_form_fields(page.texts, [version["id"] for version in all_versions]),
        export=f"/api/v1/products/{quote(product, safe='')}/export?{urlencode(_export_query(search))}",
    )


def _search_query(query: Mapping[str, str], zone: tzinfo | None) -> dict[str, str]:
    """Return a page's query in the form of a search: times in UTC, numbers with a decimal point."""
    number_filters = [filter_.name for filter_ in FILTERS if filter_.kind in ("least", "most")]
    search = query_in_utc(query, zone)
    for name in number_filters:
        if name in search:
            search[name] = search[name].replace(",", ".")
    return search


class Field(TypedDict):
    """Field of the history's form, in which a person sets a filter.

    Attributes:
        name: Name of the filter.
        kind: Kind of the filter.
        options: Values that a person can choose, each with its text; empty: a person types the value.
    """

    name: str
    kind: str
    options: list[tuple[object, str]]


def _form_fields(texts: pages.Texts, version_ids: Sequence[int]) -> list[Field]:
    """Return the fields of the history's form, one for each filter, in the order of the filters.

    Args:
        texts: Texts of the page.
        version_ids: Numbers of the product's versions, which the filter `version` offers.
    """
    form_fields: list[Field] = []
    for filter_ in FILTERS:
        options: list[tuple[object, str]]
        if filter_.name == "version":
            options = [(number, str(number)) for number in version_ids]
        else:
            options = [(choice.word, texts(choice.text)) for choice in filter_.choices if choice.text]
        form_fields.append({"name": filter_.name, "kind": filter_.kind, "options": options})
    return form_fields


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
    all_versions = versions.list_versions(page.product_id)["versions"]
    first_version_at = min((version["created_at"] for version in all_versions), default="")
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
    """Return the periods for which the page offers a report: the range that it shows, and the latest shifts.

    Args:
        shifts: Settings of the shifts; None: there are no shifts.
        seconds: Length of the range; None: the range has no beginning, and no report.
        first_version_at: Time of the product's first version, in ISO format. Shifts that ended before have no
            report.
    """
    time_now = now()
    periods = []
    if seconds is not None:
        # "": this period is not a shift
        periods.append(Shift("", time_now - round(seconds * 1e6), time_now))
    for shift in reversed(ended_shifts(shifts, time_now)):
        if iso(shift.until) > first_version_at:  # ISO texts sort by time
            periods.append(shift)
    zone = station_zone(shifts)
    return [period.to_dict(zone) for period in periods]


@page_router.get("/{product}/problems")
def problems(page: Annotated[Page, product_page(PROBLEMS_PAGE)], health: HealthDep) -> Response:
    """Show all problems of the station."""
    problems = health.problems()
    entry_name_by_number = {number: name for name, number in health.addresses.entries.items()}
    name_by_number = health.addresses.names | entry_name_by_number
    rows = []
    for problem in problems:
        # the attributes of the problem, with its time as text, and its number, which is a property
        row = vars(problem) | {"since": iso(problem.since), "number": problem.number}
        row["title"] = page.texts.text_or(f"wrong.{problem.kind}", "wrong.other")
        row["remedy"] = page.texts.text_or(f"remedy.{problem.kind}", "remedy.other")
        # 0 is nobody's number: a problem without a product gets None as its name
        row["product"] = name_by_number.get(problem.product or 0)
        rows.append(row)
    # the page's script loads the page again when this list has changed
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
    """Return the messages that another system refused for good, by the name of the sink.

    While the database is away, there are none.
    """
    messages_by_sink: dict[str, list[Mapping[str, object]]] = {}
    with suppress(StoreError):
        for message in page.overview.sinks.undelivered(page.product or ""):
            messages_by_sink.setdefault(message["sink"], []).append(message)
    return messages_by_sink


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
    """Return the filters in the history's query as a query of the API, with the names that the API uses."""
    return {filter_.parameter or name: query[name] for name, filter_ in BY_NAME.items() if name in query}


def _quick_links(path: str, query: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Return a link for each range in `QUICK_RANGES`: name, address, and whether the page shows this range.

    Args:
        path: Path of the page.
        query: Query of the page; the links keep its other filters.
    """
    other_filters = {key: text for key, text in query.items() if key not in ("since", "until", "period")}
    if "period" in query:
        current_range = query["period"]
    elif "since" in query or "until" in query:
        current_range = ""  # times that a person has typed
    else:
        current_range = "all"
    links = []
    for name in QUICK_RANGES:
        link_query = dict(other_filters)
        if seconds := RANGE_SECONDS[name]:
            since = datetime.now(UTC) - timedelta(seconds=seconds)
            link_query |= {"since": since.isoformat(timespec="seconds"), "period": name}
        address = f"{path}?{urlencode(link_query)}" if link_query else path
        links.append((name, address, name == current_range))
    return links
