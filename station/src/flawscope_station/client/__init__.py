"""Client of a station. It needs httpx and pydantic, and no package of the server.

with Client("http://line-3:8080", token="fls_...") as station:
    inspection = station.inspect("part.png")
    print(inspection.decision, inspection.severity)
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
MAX_WAIT = 60.0  # longest time between two tries, seconds, whatever the station's Retry-After says
FIRST_WAIT = 0.2  # seconds before the second try; the wait doubles with each further try
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
        code: Reason, for programs.
    """

    def __init__(self, text: str, status: int, code: str):
        super().__init__(text)
        self.status = status
        self.code = code


class Client:
    """Client of a station. Threads may share a client; `with` closes its connections.

    A repeated request has the same key: however often the connection breaks, a picture is inspected once, and
    a verdict is recorded once.

    `product` may be left out in all methods where the station has a single product. Pictures may also be sent
    without it where the station has a single joint model, which finds the product (`Inspection.product`), or
    with the name of a joint model as `product`.

    Args:
        url: Address of the station, such as https://station.example or http://127.0.0.1:8080.
        token: Token from `flawscope station token add`; None: that in the environment variable
            FLAWSCOPE_TOKEN, or no token.
        timeout: Seconds in which the station must send something.
        tries: Largest number of tries where the station cannot be reached, or has no room for a request.

    Raises:
        InputError: the address or the token is invalid. All methods raise `RefusedError` (an InputError)
            where the station refuses, and FlawscopeError where it cannot be reached.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0, tries: int = 5):
        self.url = normalize_url(url)
        self.tries = max(1, tries)
        if token is None:
            token = os.environ.get(TOKEN_VARIABLE) or None
        headers = {"User-Agent": f"flawscope/{__version__}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {check_token(token)}"
        transport = httpx.HTTPTransport(proxy=find_proxy(self.url))
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1/", headers=headers, timeout=timeout, transport=transport
        )
        # whether a joint model may be the default -> name of the default product
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
        """Send a part with a single picture, to be judged and recorded.

        Args:
            picture: Path of a file, encoded picture, PIL image, or array as `Predictor.predict` takes it.
            product: Name of the product; None: the only product.
            name: Name of the picture for the station; None: the name of the file.
            key: Any text that names this request, 184 characters at most; None: a new one. If the same
                picture of the same part is sent again with the same key, the answer is the same. The key is
                refused for any other request.
            part: Number of the part, 100 characters at most; a part may be inspected many times.
            batch: Batch of the part, 100 characters at most.
            view: Name of the view that the picture shows, if the model judges a single view with a name.
            deadline: Milliseconds in which the station must answer; None: no limit. A request with a limit
                is never repeated.

        Raises:
            FlawscopeError: the part was not judged before the deadline.
        """
        data, file_name = encode_picture(picture)
        query = {"name": name or file_name, "part": part, "batch": batch, "view": view, "deadline": deadline}
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
        """Send a part in several views, to be judged and recorded as a whole.

        Args:
            pictures: Picture of each view, by name of the view; each as `inspect` takes it.
            part: Number of the part, 100 characters at most; a part may be inspected many times.
            product: Name of the product; None: the only product.
            key: Any text that names this request, as for `inspect`.
            batch: Batch of the part, 100 characters at most.
            deadline: Milliseconds in which the station must answer, as for `inspect`.

        Raises:
            FlawscopeError: the part was not judged before the deadline.
        """
        query = {"part": part, "batch": batch, "deadline": deadline}
        files = []  # as httpx takes them: (name of the form's field, (name of the file, content))
        for view, picture in pictures.items():
            data, _ = encode_picture(picture)
            files.append(("files", (view, data)))
        path = f"{self._path(product)}/inspections"
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        tries = self.tries if deadline is None else 1
        answer = self._call("POST", path, query=query, tries=tries, files=files, headers=headers)
        result = answer["results"][0]  # the part; its views are in its inspection
        return parse(Inspection, result["inspection"])

    def _record(self, path: str, key: str | None, query: Query, data: bytes | None = None) -> Inspection:
        """Send a request for an inspection, and return the inspection.

        A request with a deadline is sent only once.

        Args:
            path: Path of the request.
            key: Key of the request; None: a new one.
            query: Parameters of the request; `deadline` must be among them, and may be None.
            data: Encoded picture; None: the request triggers a camera.
        """
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
        """Trigger a camera: the first frame that is decoded from now on is judged and recorded.

        Args:
            product: Name of the product; None: the only product.
            camera: Number of the camera among those of the product; None: the only camera.
            seconds: Seconds in which the frame must come, 60 at most.
            key: Any text that names this request, as for `inspect`.
            part: Number of the part, 100 characters at most.
            batch: Batch of the part, 100 characters at most.
            view: Name of the view that the picture shows, if the model judges a single view with a name.
            deadline: Milliseconds in which the station must answer, as for `inspect`.

        Raises:
            FlawscopeError: the part was not judged before the deadline.
        """
        query = {"camera": camera, "seconds": seconds, "part": part, "batch": batch, "view": view}
        query["deadline"] = deadline
        return self._record(f"{self._path(product, joint=True)}/trigger", key, query)

    # ---- inspections

    def inspection(self, number: int, product: str | None = None) -> Inspection:
        """Return the inspection with this number.

        Args:
            number: Number of the inspection.
            product: Name of the product; None: the only product.

        Raises:
            RefusedError: there is no such inspection.
        """
        return parse(Inspection, self._call("GET", f"{self._path(product)}/inspections/{number:d}"))

    def search(self, product: str | None = None, **filters: FilterValue) -> Iterator[Inspection]:
        """Yield all inspections that match, the newest first; they are fetched page by page.

        Args:
            product: Name of the product; None: the only product.
            filters: Query parameters of the API: since, until (exclusive; times without a zone are UTC),
                decision, verdict (good, defect or none), review, purpose, unanswered, score_min, score_max,
                version, file (name of the picture), part, batch. For a text, A12* matches all texts that
                begin with A12.
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
        """Return the picture of an inspection as it was sent.

        Args:
            number: Number of the inspection.
            product: Name of the product; None: the only product.
            view: View of the part; None: the most unusual view.

        Returns:
            The content of the file, and its suffix, such as `.png`; "": the suffix is unknown.
        """
        path = f"{self._path(product)}/inspections/{number:d}/picture"
        response = self._request("GET", path, query={"of": view})
        disposition = response.headers.get("Content-Disposition", "")
        match = re.search(r'filename="[^"]*(\.\w+)"', disposition)
        suffix = match[1] if match else ""
        return response.content, suffix

    def mask(self, number: int, product: str | None = None) -> bytes:
        """Return the mask of an inspection as a PNG file.

        It is the mask that a person drew; if there is none, it is the model's mask.

        Args:
            number: Number of the inspection.
            product: Name of the product; None: the only product.
        """
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
        """Give a verdict on an inspection.

        Args:
            number: Number of the inspection.
            verdict: Verdict: good, defect, skip, or undo, which takes the last verdict back.
            mask: Mask [H, W] bool at the picture's size, True where the defect is; None: no mask.
            note: Text for other people.
            product: Name of the product; None: the only product.
            kind: Kind of the defect; "": not named.
            replaces: `Inspection.verdict_id` of the verdict that this one replaces; 0: no verdict is
                replaced; None: only your own verdict may be replaced.

        Raises:
            RefusedError: the inspection has a verdict that `replaces` does not allow to be replaced.
        """
        encoded_mask = None if mask is None else encode_mask(mask)
        body: dict[str, object] = {"verdict": verdict, "mask": encoded_mask, "note": note, "kind": kind}
        if replaces is not None:
            body["replaces"] = replaces
        path = f"{self._path(product)}/inspections/{number:d}/verdict"
        # the key keeps a repeated request from recording the verdict twice: it would have to be undone twice
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return parse(Inspection, self._call("POST", path, json=body, headers=headers))

    # ---- products and their models

    def products(self) -> list[Product]:
        """Return all products of the station."""
        return [parse(Product, item) for item in self._call("GET", "products")["products"]]

    def product(self, name: str | None = None) -> Product:
        """Return the product with a name; None: the only product."""
        return parse(Product, self._call("GET", self._path(name)))

    def versions(self, product: str | None = None) -> list[Version]:
        """Return the model versions of a product, the newest first."""
        items = self._call("GET", f"{self._path(product)}/versions")["versions"]
        return [parse(Version, item) for item in items]

    def add_version(self, model: str | os.PathLike[str], product: str | None = None) -> Version:
        """Upload a model file as a version; it judges nothing until it is activated.

        Args:
            model: Path of the model file.
            product: Name of the product; None: the only product.
        """
        path = f"{self._path(product)}/versions"
        headers = {"Content-Type": "application/octet-stream"}
        name = os.path.basename(model)
        data = read_file(Path(model), "model")
        return parse(Version, self._call("POST", path, query={"name": name}, content=data, headers=headers))

    def activate(self, product: str | None, number: int, hash: str | None = None) -> Product:
        """Activate a version: it judges from now on.

        Args:
            product: Name of the product; None: the only product.
            number: Number of the version.
            hash: SHA-256 that the version's file must have; None: it is not checked.

        Raises:
            RefusedError: there is no such version, or its file has another hash.
        """
        body = {} if hash is None else {"hash": hash}
        path = f"{self._path(product)}/versions/{number:d}/activate"
        return parse(Product, self._call("POST", path, json=body))

    # ---- the station

    def read(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object with which the API answers a GET request; None: the answer is null.

        Args:
            path: Path below /api/v1, such as `status`.
        """
        return self._call("GET", path)

    # ---- requests

    def _product_name(self, product: str | None, joint: bool = False) -> str:
        """Return the name of the product for a request.

        Args:
            product: Name, which is returned unchanged; None: the station's only product.
            joint: Whether a joint model counts as a single product, under its own name.

        Raises:
            InputError: the product is None, and the station has no product, or several.
        """
        if product is not None:
            return product
        if joint not in self._default_products:  # not asked for yet
            names = []
            for listed_product in self.products():
                name = listed_product.found_at if joint and listed_product.found_at else listed_product.name
                if name not in names:
                    names.append(name)
            if len(names) != 1:
                problem = f"several products: name one of {', '.join(names)}" if names else "no product yet"
                raise InputError(f"{redact_address(self.url)} has {problem}")
            self._default_products[joint] = names[0]
        return self._default_products[joint]

    def _path(self, product: str | None, joint: bool = False) -> str:
        """Return the path of a product in the API; the arguments are those of `_product_name`."""
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
        """Send a request as `_request` does, and return the JSON object of the answer.

        Raises:
            FlawscopeError: the answer is no JSON.
        """
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
        """Send a request, and repeat it after a temporary failure.

        Repetition is safe: a request that arrives twice takes effect once.

        Args:
            method: HTTP method.
            path: Path below /api/v1.
            query: Parameters; those that are None are left out.
            tries: Largest number of tries; None: that of the client.
            message: Headers and body.

        Raises:
            RefusedError: the station refuses the request.
            FlawscopeError: the station cannot be reached, or fails.
        """
        params = {key: value for key, value in (query or {}).items() if value is not None}
        max_tries = tries or self.tries
        for try_number in range(1, max_tries + 1):
            is_last_try = try_number == max_tries
            try:
                response = self._http.request(method, path, params=params, **message)
            except httpx.TransportError as error:
                if is_last_try:
                    problem = f"cannot be reached ({one_line_message(error)[:160]})"
                    remedy = "check the address, http or https, and that `flawscope serve` runs"
                    raise FlawscopeError(f"{redact_address(self.url)} {problem}: {remedy}") from None
                retry_after = None
            else:
                if response.status_code not in _RETRY_STATUSES or is_last_try:
                    break
                retry_after = response.headers.get("Retry-After")
            time.sleep(_retry_wait(retry_after, earlier_failures=try_number - 1))
        if response.is_success:
            return response
        raise self._error_of(response)

    def _error_of(self, response: httpx.Response) -> FlawscopeError:
        """Return the error for a failed request, from the answer of a station or of its proxy."""
        status = response.status_code
        try:
            message = str(response.json()["error"])
            code = str(response.json().get("code", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            if status == 413:  # too large; without JSON, the answer is that of a proxy
                text = "the proxy in front of the station lets only smaller requests through: raise its limit"
                return RefusedError(f"{redact_address(self.url)}: {text}", status, "")
            remedy = "check the address"
            if response.is_redirect:
                remedy = f"it is at {response.headers.get('Location', '')[:200]}; {remedy}"
            message = f"it answers {status} {response.reason_phrase}: {remedy}"
            code = ""
        one_line = " ".join(message.split())
        text = f"{redact_address(self.url)}: {one_line}"
        return FlawscopeError(text) if status >= 500 else RefusedError(text, status, code)


def _retry_wait(retry_after: str | None, earlier_failures: int) -> float:
    """Return the seconds until the next try.

    The wait is `retry_after`, or else `FIRST_WAIT` doubled with each earlier failure. Up to a quarter is
    added at random, so that clients do not all come back at the same moment.

    Args:
        retry_after: Text of the station's header Retry-After; None: there is none.
        earlier_failures: Number of failed tries before the latest one.
    """
    try:
        min_wait = min(MAX_WAIT, max(0.0, float(retry_after or "")))
    except ValueError:  # no number, or no text at all
        min_wait = min(MAX_WAIT, FIRST_WAIT * 2.0**earlier_failures)
    return min_wait * (1 + random.random() / 4)
