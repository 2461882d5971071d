"""The pages as the server renders them. Their scripts ask the JSON API for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from flawscope.config import known
from flawscope.errors import FlawscopeError, InputError
from flawscope.station.access.roles import LOCAL_PERSON, PERSON_KEY, Person, has_role
from flawscope.station.learning.candidates import advice, trail
from flawscope.station.shifts import Shift, ended
from flawscope.station.store.database import StoreError, now
from flawscope.station.store.parts import last_decided, part_of
from flawscope.station.store.records import NotFoundError, holdable, iso
from flawscope.station.store.search import Filters
from flawscope.station.store.station_identity import others
from flawscope.station.web.middleware import needs
from flawscope.station.web.templates import WORDS, Texts, chosen, part, rendered, static_files, texts

if TYPE_CHECKING:
    from flawscope.station.station import Station

page = APIRouter(include_in_schema=False)

PROBLEMS = "problems"  # a page that is no tab: the bar leads there
RANGES = {"hour": 3600, "day": 86400, "week": 7 * 86400, "month": 30 * 86400, "all": None}  # seconds
QUICK = ("hour", "day", "week", "all")  # ranges in the history
STRIP = 16  # pictures below the live one
PER_PAGE = 48  # inspections in the history; divides by 2, 3, 4, 6 and 8 columns
ROLES = ("train", "calibration", "defect", "dropped")  # roles of pictures that the texts name
MOST_CANDIDATES, MOST_PICTURES = 12, 24  # candidates shown, and small pictures in a list
SHOWN = ("lost", "weaker", "unsure", "responsible")  # lists of a judgement with small pictures


class Shown:
    """Request for a page: person, language and product. number: of the product, on the product's pages."""

    number: int

    def __init__(self, request: Request, page: str, product: str | None = None):
        self.request, self.page, self.product = request, page, product
        self.station: Station = request.app.state.station
        self.texts: Texts = texts(
            chosen(request.cookies.get("language"), request.headers.get("accept-language", ""))
        )
        self.person: Person | None = request.scope[PERSON_KEY]

    @property
    def here(self) -> str:
        """Path and query of the page, to come back to."""
        url = self.request.url
        return f"{quote(url.path)}?{url.query}" if url.query else quote(url.path)

    def page_of(
        self, template: str, status: int = 200, *, words: Sequence[str] = (), **more: Any
    ) -> Response:
        """Render the page.

        Args:
            words: sections of the texts that the page's script needs.
            more: for the template; `data` is for the script.
        """
        product, person = self.product, self.person
        facts = self._facts(product) if product else None
        api = f"/api/v1/products/{part(product)}" if product else ""
        said = self.texts.sections(*WORDS, *words) if product or words else {}
        script = {"texts": said, "product": product, "person": person.name if person else "", "api": api}
        script["data"] = more.pop("data", None)
        text = rendered(
            template,
            self.texts,
            script,
            theme=self.request.cookies.get("theme"),
            page=self.page,
            product=product,
            products=list(self.station.products) if person else [],
            facts=facts,
            bar=self._bar(facts["problems"]) if facts else "",
            elsewhere=self._elsewhere() if product and person else [],
            person=person,
            may_judge=has_role(person, "operator"),
            may_audit=has_role(person, "admin"),
            may_change=has_role(person, "engineer"),
            account=person not in (None, LOCAL_PERSON),
            company=self.station.settings.openid is not None,
            alone=False,
            api=api,
            here=self.here,
            query=self.request.query_params,
            **more,
        )
        return HTMLResponse(text, status, {"Content-Language": self.texts.language})

    def _facts(self, product: str) -> dict[str, Any]:
        """Facts about the product. The page of problems is shown also while the store is away."""
        try:
            return self.station.product_facts(product)
        except StoreError:
            if self.page != PROBLEMS:
                raise
            return {"waiting": 0, **self.station.flow(product)}

    def _elsewhere(self) -> list[Any]:
        """Products of other stations; none while the store is away."""
        try:
            return list(others(self.station.database))
        except StoreError:
            return []

    def _bar(self, kinds: Sequence[str]) -> str:
        """Line on each page about the problems that nobody has acknowledged; "" where there are none."""
        titles = dict.fromkeys(self.texts.either(f"wrong.{kind}", "wrong.other") for kind in kinds)
        return self.texts.count("problems.bar", len(kinds), what=" · ".join(titles)) if kinds else ""


def problem_page(request: Request, status: int, text: str, error: FlawscopeError | None = None) -> Response:
    """Page that tells an error in one line, for addresses outside of /api. Only engineers see the reason of
    the station's own errors."""
    asked = Shown(request, "problem")
    if isinstance(error, NotFoundError):
        text = asked.texts("problem.missing")
    elif status >= 500 and not has_role(asked.person, "engineer"):
        text = asked.texts("wrong.store_unreachable")
    title = asked.texts("problem.title" if status == 404 else "problem.input")
    return asked.page_of("problem", status, title=title, text=text)


def pages_for(role: str) -> APIRouter:
    """Router of pages for people with this role or a higher one."""
    return APIRouter(include_in_schema=False, dependencies=[Depends(needs(role))])


def asked_for(page: str) -> Any:
    """Dependency of a product's page. NotFoundError where there is no such product."""

    def asked(request: Request, product: str) -> Shown:
        found = Shown(request, page, product)
        found.number = found.station.product_id(product)
        return found

    return Depends(asked)


@page.get("/")
def first(request: Request) -> Response:
    asked = Shown(request, "problem")
    if products := list(asked.station.products):
        return RedirectResponse(f"/{part(products[0])}/live", 303)
    if has_role(asked.person, "engineer"):
        return RedirectResponse("/-/new", 303)
    return problem_page(request, 404, asked.texts("problem.no_product"))


@page.get("/static/{name:path}")
def static_file(name: str) -> Response:
    """Return a known file of the pages' assets; other names get 404."""
    if (found := static_files().get(name)) is None:
        return Response("not found", 404, media_type="text/plain")
    body, _, kind = found
    return Response(body, media_type=kind)


@page.get("/{product}/live")
def live(product: str, asked: Annotated[Shown, asked_for("live")]) -> Response:
    newest = asked.station.search(product, Filters(limit=STRIP)).inspections
    last = asked.station.search(product, Filters(limit=1, decision="anomalous")).inspections
    facts = {**asked.station.flow(product), "waiting": asked.station.store.waiting_count(asked.number)}
    del facts["problem"]  # that is for engineers
    views = asked.station.inspector.parts.views(asked.number)
    whole = last_decided(asked.station.database, asked.number) if views else None
    data: dict[str, Any] = {"newest": newest, "anomalous": last[0] if last else None, "facts": facts}
    data |= {"views": views, "part": whole}
    return asked.page_of("live", words=("live",), data=data)


@page.get("/{product}/review")
def review(product: str, asked: Annotated[Shown, asked_for("review")], only: int | None = None) -> Response:
    """Show the review; only: number of one inspection, whether it waits or not."""
    one = None if only is None else asked.station.inspection(product, holdable(only))
    return asked.page_of("review", words=("review",), data={"only": one})


@page.get("/{product}/history")
def history(product: str, asked: Annotated[Shown, asked_for("history")]) -> Response:
    given = {key: value for key, value in asked.request.query_params.items() if value.strip()}
    cursor = given.pop("cursor", "")
    base = f"/{part(product)}/history"
    error, found, older, sought = "", list[dict[str, Any]](), None, dict[str, str]()
    try:
        sought = {key: _zoned(text) if key in ("since", "until") else text for key, text in given.items()}
        sought |= {key: text.replace(",", ".") for key, text in given.items() if key.startswith("score_")}
        filters = Filters.from_query({**sought, "cursor": cursor, "limit": str(PER_PAGE)})
        page = asked.station.search(product, filters)
        found = page.inspections
        if page.next:
            older = f"{base}?{urlencode({**given, 'cursor': page.next})}"
    except InputError as wrong:
        error = str(wrong)
    return asked.page_of(
        "history",
        422 if error else 200,
        words=("history",),
        items=found,
        error=error,
        older=older,
        newest=f"{base}?{urlencode(given)}" if cursor else None,
        filtered=bool(given.keys() - {"since"}),
        local={key: _naive(given.get(key, "")) for key in ("since", "until")},
        quick=_quick(base, given),
        versions=[(one["id"], one["id"]) for one in asked.station.versions.listed(asked.number)["versions"]],
        export=f"/api/v1/products/{part(product)}/export?{urlencode(_named(sought))}",
    )


@page.get("/{product}/trends")
def trends(asked: Annotated[Shown, asked_for("trends")], range: str = "day") -> Response:
    chosen_range = range if range in RANGES else "day"
    data = {"range": chosen_range, "seconds": RANGES[chosen_range]}
    return asked.page_of(
        "trends",
        words=("trends", "drift"),
        range=chosen_range,
        ranges=list(RANGES),
        reports=_reports(asked.station, RANGES[chosen_range]),
        data=data,
    )


def _reports(station: Station, seconds: float | None) -> list[dict[str, str]]:
    """Times that a report can be of: the one that is shown, and the last shifts."""
    at = now()
    known = [] if seconds is None else [Shift("", at - round(seconds * 1e6), at)]
    return [one.to_dict() for one in (*known, *ended(station.settings.shifts, at)[::-1])]


@page.get("/{product}/models")
def models(asked: Annotated[Shown, asked_for("models")]) -> Response:
    station, number = asked.station, asked.number
    found = station.versions.listed(number)
    active = next((one for one in found["versions"] if one["id"] == found["active"]), None)
    learning = station.learning.facts(number)
    candidates = learning["candidates"][:MOST_CANDIDATES]
    offered = {one["version"] for one in candidates if one["status"] == "ready"}
    judgements = [one["judgement"] for one in candidates if one["judgement"]]
    named = {n for one in judgements for key in SHOWN for n in one.get(key, ())[:MOST_PICTURES]}
    return asked.page_of(
        "models",
        words=("models", "learning"),
        learning=learning,
        candidates=candidates,
        newest=candidates[0]["id"] if candidates else None,
        trail=trail(station.database, number, 100),
        active=active,
        others=[one for one in found["versions"] if one is not active and one["id"] not in offered],
        advice={one["id"]: advice(one, found["active"]) for one in candidates},
        known=station.store.several(number, named),
        MOST=MOST_PICTURES,
        previous=station.versions.before(number, found["active"]),
        roles=ROLES,
    )


@page.get("/{product}/problems")
def problems(asked: Annotated[Shown, asked_for(PROBLEMS)]) -> Response:
    """Show all problems of the station."""
    found = asked.station.problems()
    names = {number: name for name, number in asked.station.products.items()}
    either = asked.texts.either
    shown = [
        {
            **{**vars(one), "since": iso(one.since), "number": one.number},
            "title": either(f"wrong.{one.kind}", "wrong.other"),
            "remedy": either(f"remedy.{one.kind}", "remedy.other"),
            "product": names.get(one.product or 0),
        }
        for one in found
    ]
    data = [[one.code, one.acknowledged_by] for one in found]
    return asked.page_of(PROBLEMS, problems=shown, data=data)


@page.get("/{product}/inspections/{number}")
def inspection(product: str, number: int, asked: Annotated[Shown, asked_for("inspection")]) -> Response:
    item = asked.station.inspection(product, holdable(number))
    whole = part_of(asked.station.database, asked.number, item["part_id"]) if item["part_id"] else None
    return asked.page_of("inspection", words=("inspection",), item=item, whole=whole, data={"id": number})


@page.get("/{product}/compare")
def compare(product: str, asked: Annotated[Shown, asked_for("compare")]) -> Response:
    """Compare two inspections: a and b, or `id` twice, which the history's boxes send without a script."""
    query = asked.request.query_params
    texts = [query.get("a", ""), query.get("b", ""), *query.getlist("id")]
    numbers = [holdable(int(text)) for text in texts if text.isdecimal() and len(text) < 20][:2]
    pair = [asked.station.inspection(product, number) for number in numbers]
    return asked.page_of("compare", words=("inspection",), pair=pair if len(pair) == 2 else None)


def _named(sought: dict[str, str]) -> dict[str, str]:
    """Filters as the API's parameters: there `name` is the product's."""
    return {"file" if key == "name" else key: text for key, text in known(Filters, sought).items()}


def _quick(base: str, given: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Periods of the history: name, address, and whether the period is shown."""
    rest = {key: text for key, text in given.items() if key not in ("since", "until", "period")}
    shown = given.get("period", "all" if "since" not in given and "until" not in given else "")
    found = []
    for name in QUICK:
        query = dict(rest)
        if seconds := RANGES[name]:
            since = datetime.now(UTC) - timedelta(seconds=seconds)
            query |= {"since": since.isoformat(timespec="seconds"), "period": name}
        found.append((name, f"{base}?{urlencode(query)}" if query else base, name == shown))
    return found


def _zoned(text: str) -> str:
    """Time in UTC, by default from the station's zone; other text stays, for the search to refuse."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat()
    except ValueError:
        return text


def _naive(text: str) -> str:
    """Time for a form, in the station's zone; the script converts it to the browser's."""
    try:
        return datetime.fromisoformat(text).astimezone().replace(tzinfo=None).isoformat(timespec="minutes")
    except ValueError:
        return ""
