"""A station's client. Needs httpx and pydantic, nothing of the server.

with Client("http://line-3:8080", token="fls_...") as station:
    found = station.inspect("part.png")
    print(found.decision, found.severity)
"""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack
from urllib.parse import quote

import httpx

from flawscope import __version__
from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.pictures import PictureSource
from flawscope_station.client.messages import (
    check_token,
    encode_mask,
    encode_picture,
    normalize_url,
    parse,
    read_file,
)
from flawscope_station.settings.proxies import find_proxy
from flawscope_station.settings.values import redact_address
from flawscope_station.store.inspection import Inspection, format_time
from flawscope_station.store.product_facts import Product
from flawscope_station.web.schemas import Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["good", "defect", "skip", "undo"]
Query = Mapping[str, str | int | float | None]
FilterValue = str | int | float | datetime | None

TOKEN_VARIABLE = "FLAWSCOPE_TOKEN"  # environment variable
PAGE_SIZE = 500  # inspections in one answer
MAX_WAIT = 60.0  # seconds of a station's Retry-After that the client obeys, at most
FIRST_WAIT = 0.2  # seconds before the second try; each further one waits twice as long
_RETRY_STATUSES = (408, 502, 503, 504)  # temporary failures of a station or its proxy


class _Message(TypedDict, total=False):
    """Headers and body of a request, as httpx takes them."""

    headers: dict[str, str]
    content: bytes | None
    files: list[tuple[str, tuple[str, bytes]]]
    json: Mapping[str, object]


class RefusedError(InputError):
    """The station refused a request.

    Attributes:
        status: HTTP status.
        code: the station's word for the reason.
    """

    def __init__(self, text: str, status: int, code: str):
        super().__init__(text)
        self.status = status
        self.code = code


class Client:
    """Client of a station. Threads may share one; `with` closes its connections.

    A picture is inspected once, however often the connection breaks, and a verdict recorded once: repeated
    requests have the same key. `product` can be left out wherever the station has only one; for pictures also
    where it has one joint model, which finds the product: `product` of the answer. They may also be sent to
    the joint model by its name, where there are others.

    Args:
        url: https://station.example, http://127.0.0.1:8080.
        token: of `flawscope station token add`; None: that of the environment, FLAWSCOPE_TOKEN, if it is set.
        timeout: seconds in which the station must send something.
        tries: number of attempts where the station is not reached or has no room.

    Raises:
        InputError: the address or the token is invalid. All methods raise `RefusedError` (an InputError)
            where the station refuses, and FlawscopeError where it cannot be reached.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0, tries: int = 5):
        self.url, self.tries = normalize_url(url), max(1, tries)
        token = os.environ.get(TOKEN_VARIABLE) or None if token is None else token
        headers = {"User-Agent": f"flawscope/{__version__}"}
        headers |= {} if token is None else {"Authorization": f"Bearer {check_token(token)}"}
        transport = httpx.HTTPTransport(proxy=find_proxy(self.url))
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1/", headers=headers, timeout=timeout, transport=transport
        )
        self._default_products: dict[bool, str] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the station; the client cannot be used afterwards."""
        self._http.close()

    # ---- inspecting

    def inspect(
        self,
        picture: PictureSource,
        product: str | None = None,
        name: str | None = None,
        key: str | None = None,
        *,
        part: str | None = None,
        batch: str | None = None,
        view: str | None = None,
        deadline: int | None = None,
    ) -> Inspection:
        """Send a part of one picture, to be judged and recorded.

        Args:
            picture: a file, an encoded picture, a PIL image, or an array as `Predictor.predict` takes it.
            product: its name; None: the only one.
            name: of the picture, for the station; by default the file's name.
            key: any text that names this request, 184 characters at most. Repeated with the same picture and
                part it gets the same answer; with others it is refused.
            part: its number, 100 characters at most; a part may be inspected many times.
            batch: of the part, 100 characters at most.
            view: of the part, where the model judges it by one named view.
            deadline: milliseconds in which the station must answer. The request is sent once; FlawscopeError
                where the part was not judged in time.
        """
        data, default = encode_picture(picture)
        query = {"name": name or default, "part": part, "batch": batch, "view": view, "deadline": deadline}
        return self._record(f"{self._path(product, joint=True)}/inspections", key, query, data)

    def inspect_part(
        self,
        pictures: Mapping[str, PictureSource],
        part: str,
        product: str | None = None,
        key: str | None = None,
        *,
        batch: str | None = None,
        deadline: int | None = None,
    ) -> Inspection:
        """Send a part of several views, to be judged and recorded whole or not at all.

        Args:
            pictures: of all its views, by the view's name; each as `inspect` takes it.
            part: its number, 100 characters at most; a part may be inspected many times.
            product: its name; None: the only one.
            key: any text that names this request, as for `inspect`.
            batch: of the part, 100 characters at most.
            deadline: milliseconds in which the station must answer, as for `inspect`.
        """
        query = {"part": part, "batch": batch, "deadline": deadline}
        files = [("files", (view, encode_picture(picture)[0])) for view, picture in pictures.items()]
        path = f"{self._path(product)}/inspections"
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        tries = self.tries if deadline is None else 1
        answer = self._call("POST", path, query=query, tries=tries, files=files, headers=headers)
        return parse(Inspection, answer["results"][0]["inspection"])

    def _record(self, path: str, key: str | None, query: Query, data: bytes | None = None) -> Inspection:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        tries = self.tries if query["deadline"] is None else 1
        answer = self._call("POST", path, query=query, tries=tries, content=data, headers=headers)
        return parse(Inspection, answer)

    def trigger(
        self,
        product: str | None = None,
        camera: int | None = None,
        seconds: float = 5.0,
        key: str | None = None,
        *,
        part: str | None = None,
        batch: str | None = None,
        view: str | None = None,
        deadline: int | None = None,
    ) -> Inspection:
        """Trigger a camera: its next frame, the first that is decoded from now on, is judged and recorded.

        Args:
            product: its name; None: the only one.
            camera: its number among the product's; can be left out where there is one.
            seconds: in which the frame must come, 60 at most.
            key: any text that names this request, as for `inspect`.
            part: its number, 100 characters at most.
            batch: of the part, 100 characters at most.
            view: of the part, where the model judges it by one named view.
            deadline: milliseconds in which the station must answer, as for `inspect`.
        """
        query = {"camera": camera, "seconds": seconds, "part": part, "batch": batch, "view": view}
        query["deadline"] = deadline
        return self._record(f"{self._path(product, joint=True)}/trigger", key, query)

    # ---- inspections

    def inspection(self, number: int, product: str | None = None) -> Inspection:
        """Return the inspection of this number. RefusedError where there is none."""
        return parse(Inspection, self._call("GET", f"{self._path(product)}/inspections/{number:d}"))

    def search(self, product: str | None = None, **filters: FilterValue) -> Iterator[Inspection]:
        """Yield all inspections that match, the newest first, fetched page by page.

        Args:
            product: its name; None: the only one.
            filters: query parameters of the API: since, until (exclusive; times without a zone are UTC),
                decision, verdict (good, defect or none), review, purpose, unanswered, score_min, score_max,
                version, file (name of the picture), part, batch; A12* is any that begins with A12.
        """
        query = {
            key: format_time(value) if isinstance(value, datetime) else value
            for key, value in filters.items()
        }
        query["limit"] = PAGE_SIZE
        while True:
            page = self._call("GET", f"{self._path(product)}/inspections", query=query)
            yield from (parse(Inspection, item) for item in page["inspections"])
            if not page["next"]:
                return
            query["cursor"] = page["next"]

    def picture(self, number: int, product: str | None = None, view: str | None = None) -> tuple[bytes, str]:
        """Return the picture file of an inspection as it was sent, and its ending, such as `.png`.

        Args:
            number: of the inspection.
            product: its name; None: the only one.
            view: of the part; None: the most unusual one.
        """
        path = f"{self._path(product)}/inspections/{number:d}/picture"
        response = self._request("GET", path, query={"of": view})
        found = re.search(r'filename="[^"]*(\.\w+)"', response.headers.get("Content-Disposition", ""))
        return response.content, found[1] if found else ""

    def mask(self, number: int, product: str | None = None) -> bytes:
        """Return the mask that a person drew, else that of the model, as PNG."""
        return self._request("GET", f"{self._path(product)}/inspections/{number:d}/mask").content

    # ---- verdicts

    def verdict(
        self,
        number: int,
        verdict: Verdict,
        mask: NDArray[np.bool_] | None = None,
        note: str = "",
        product: str | None = None,
        kind: str = "",
        replaces: int | None = None,
    ) -> Inspection:
        """Give a verdict on an inspection. RefusedError where another person's verdict would be replaced.

        Args:
            number: of the inspection.
            verdict: good, defect, skip, or undo, which takes the last verdict back.
            mask: [H, W] bool at the picture's size, True where the defect is.
            note: text for other people.
            product: its name; None: the only one.
            kind: of the defect.
            replaces: `verdict_id` of the inspection as it was seen, 0 where it had none; None: one's own
                verdict, or none.
        """
        drawn = None if mask is None else encode_mask(mask)
        body: dict[str, object] = {"verdict": verdict, "mask": drawn, "note": note, "kind": kind}
        if replaces is not None:
            body["replaces"] = replaces
        path = f"{self._path(product)}/inspections/{number:d}/verdict"
        headers = {"Idempotency-Key": uuid.uuid4().hex}  # a verdict recorded twice must be undone twice
        return parse(Inspection, self._call("POST", path, json=body, headers=headers))

    # ---- products and their models

    def products(self) -> list[Product]:
        """Return all products of the station."""
        return [parse(Product, item) for item in self._call("GET", "products")["products"]]

    def product(self, name: str | None = None) -> Product:
        """Return the product of this name; None: the only product."""
        return parse(Product, self._call("GET", self._path(name)))

    def versions(self, product: str | None = None) -> list[Version]:
        """Return the model versions of a product, the newest first."""
        items = self._call("GET", f"{self._path(product)}/versions")["versions"]
        return [parse(Version, item) for item in items]

    def add_version(self, model: str | os.PathLike[str], product: str | None = None) -> Version:
        """Upload a model file as a version, which judges when it is activated."""
        path = f"{self._path(product)}/versions"
        headers = {"Content-Type": "application/octet-stream"}
        name = os.path.basename(model)
        data = read_file(Path(model), "model")
        return parse(Version, self._call("POST", path, query={"name": name}, content=data, headers=headers))

    def activate(self, product: str | None, number: int, hash: str | None = None) -> Product:
        """Activate a version: it judges from now on.

        Args:
            product: its name; None: the only one.
            number: of the version.
            hash: SHA-256 that its file must have, else it is refused; None: any.
        """
        body = {} if hash is None else {"hash": hash}
        path = f"{self._path(product)}/versions/{number:d}/activate"
        return parse(Product, self._call("POST", path, json=body))

    # ---- the station

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object that the API answers to GET; None where it answers null.

        Args:
            path: below /api/v1, such as `status`.
        """
        return self._call("GET", path)

    # ---- requests

    def _product_name(self, product: str | None, joint: bool = False) -> str:
        """Return a product's name, by default the only one; with `joint`, also that of a joint model."""
        if product is not None:
            return product
        if joint not in self._default_products:
            names = [(item.found_at if joint else None) or item.name for item in self.products()]
            names = list(dict.fromkeys(names))
            if len(names) != 1:
                problem = f"several products: name one of {', '.join(names)}" if names else "no product yet"
                raise InputError(f"{redact_address(self.url)} has {problem}")
            self._default_products[joint] = names[0]
        return self._default_products[joint]

    def _path(self, product: str | None, joint: bool = False) -> str:
        return f"products/{quote(self._product_name(product, joint), safe='')}"

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        tries: int | None = None,
        **message: Unpack[_Message],
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the answer."""
        response = self._request(method, path, query=query, tries=tries, **message)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:
            text = f"{redact_address(self.url)} answers otherwise than a station: check the address"
            raise FlawscopeError(text) from None
        return answer

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        tries: int | None = None,
        **message: Unpack[_Message],
    ) -> httpx.Response:
        """Send a request, again where it fails: no request does harm if it arrives twice."""
        params = {key: value for key, value in (query or {}).items() if value is not None}
        tries = tries or self.tries
        for tries_left in reversed(range(tries)):
            try:
                response = self._http.request(method, path, params=params, **message)
            except httpx.TransportError as error:
                if not tries_left:
                    problem = f"cannot be reached ({one_line_message(error)[:160]})"
                    remedy = "check the address, http or https, and that `flawscope serve` runs"
                    raise FlawscopeError(f"{redact_address(self.url)} {problem}: {remedy}") from None
                wait = None
            else:
                if response.status_code not in _RETRY_STATUSES or not tries_left:
                    break
                wait = response.headers.get("Retry-After", "")
            time.sleep(_retry_wait(wait, tries - 1 - tries_left))
        if response.is_success:
            return response
        raise self._error_of(response)

    def _error_of(self, response: httpx.Response) -> FlawscopeError:
        status = response.status_code
        try:
            message = str(response.json()["error"])
            code = str(response.json().get("code", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            if status == 413:  # a station answers with JSON
                text = "the proxy in front of the station lets only smaller requests through: raise its limit"
                return RefusedError(f"{redact_address(self.url)}: {text}", status, "")
            moved = f"it is at {response.headers.get('Location', '')[:200]}; " if response.is_redirect else ""
            message = f"it answers {status} {response.reason_phrase}: {moved}check the address"
            code = ""
        text = f"{redact_address(self.url)}: {' '.join(message.split())}"
        return FlawscopeError(text) if status >= 500 else RefusedError(text, status, code)


def _retry_wait(wait: str | None, failures: int) -> float:
    """Return seconds until the next try, in part random: the station's Retry-After, else longer each time."""
    try:
        min_wait = min(MAX_WAIT, max(0.0, float(wait or "")))
    except ValueError:
        min_wait = min(MAX_WAIT, FIRST_WAIT * 2.0**failures)
    return min_wait * (1 + random.random() / 4)
