"""A station's client. Needs httpx and pydantic, nothing of the server.

with Client("http://line-3:8080", token="fls_...") as station:
    found = station.inspect("part.png")
    print(found.decision, found.severity)
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx

from flawscope._version import __version__
from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.pictures.decoding import Source
from flawscope.station.client.messages import (
    address,
    encoded,
    mask_png,
    read,
    read_file,
    time_text,
    token_text,
)
from flawscope.station.settings.values import shown
from flawscope.station.store.inspection import Inspection
from flawscope.station.web.schemas import Part, Product, Version, WholePart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["good", "defect", "skip", "undo"]
Query = Mapping[str, str | int | float | None]

TOKEN = "FLAWSCOPE_TOKEN"  # environment variable
PAGE = 500  # inspections that are fetched at once
LONGEST = 60.0  # most seconds that a station can make the client wait before a retry
FIRST_WAIT = 0.2  # seconds before the second try; each further one waits twice as long
_AGAIN = (408, 502, 503, 504)  # temporary failures of the station or its proxy
_OF_PICTURE = (413, 415, 422)  # the picture is at fault: the next one may be accepted


class RefusedError(InputError):
    """The station refused a request.

    Attributes:
        status: of HTTP. code: the station's word for the reason.
    """

    def __init__(self, text: str, status: int, code: str):
        super().__init__(text)
        self.status, self.code = status, code


class Client:
    """Client of a station. Threads may share one; `with` closes its connections.

    A picture is inspected once, however often the connection breaks, and a verdict recorded once: repeated
    requests have the same key. `product` can be left out wherever the station has only one; for pictures also
    where it has one joint model, which finds the product: `product` of the answer. They may also be sent to
    the joint model by its name, where there are others.

    Args:
        url: https://station.example, http://127.0.0.1:8080.
        token: of `flawscope station token add`; None: that of the environment, FLAWSCOPE_TOKEN, if it is set.
        timeout: seconds without a word from the station.
        tries: number of attempts where the station is not reached or has no room.

    Raises:
        InputError: the address or the token is invalid. All methods raise `RefusedError` (an InputError)
            where the station refuses, and FlawscopeError where it cannot be reached.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0, tries: int = 5):
        self.url, self.tries = address(url), max(1, tries)
        token = os.environ.get(TOKEN) or None if token is None else token
        headers = {"User-Agent": f"flawscope/{__version__}"}
        headers |= {} if token is None else {"Authorization": f"Bearer {token_text(token)}"}
        self._http = httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=timeout)
        self._only: dict[bool, str] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- inspecting

    def inspect(
        self,
        picture: Source,
        product: str | None = None,
        name: str | None = None,
        key: str | None = None,
        *,
        part: str | None = None,
        batch: str | None = None,
        view: str | None = None,
        deadline: int | None = None,
    ) -> Inspection:
        """Send a picture, to be judged and recorded.

        Args:
            picture: a file, an encoded picture, a PIL image, or an array as `Predictor.predict` takes it.
            name: of the picture, for the station; by default the file's name.
            key: names this request, of your own making; 184 characters at most. Sent again it gets the same
                answer; another picture or part under it is refused.
            part, batch: of the part, 100 characters each; a part may be inspected many times.
            view: of the part, where the model judges parts in several views.
            deadline: milliseconds in which the station must answer. The request is sent once; FlawscopeError
                where the part was not judged in time.
        """
        data, known = encoded(picture)
        query = {"name": name or known, "part": part, "batch": batch, "view": view, "deadline": deadline}
        return self._judged(f"{self._of(product, finding=True)}/inspections", key, query, data)

    def _judged(self, path: str, key: str | None, query: Query, data: bytes | None = None) -> Inspection:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        tries = self.tries if query["deadline"] is None else 1
        answer = self._json("POST", path, query=query, tries=tries, content=data, headers=headers)
        return read(Inspection, answer)

    def inspect_many(
        self, pictures: Iterable[Source], product: str | None = None, workers: int = 4
    ) -> Iterator[tuple[Source, Inspection | InputError]]:
        """Yields each picture with its inspection, in order; with an InputError where it is invalid or
        refused. `workers` pictures are on their way at a time; no more are taken from `pictures` before."""
        product = self._named(product, finding=True)
        waiting: deque[tuple[Source, Future[Inspection | InputError]]] = deque()
        pool = ThreadPoolExecutor(max(1, workers), "send")
        try:
            for picture in pictures:
                waiting.append((picture, pool.submit(self._try, picture, product)))
                if len(waiting) >= workers:
                    yield waiting[0][0], waiting.popleft()[1].result()
            while waiting:
                yield waiting[0][0], waiting.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _try(self, picture: Source, product: str) -> Inspection | InputError:
        try:
            return self.inspect(picture, product)
        except RefusedError as error:
            if error.status in _OF_PICTURE:
                return error
            raise
        except InputError as error:
            return error

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
            camera: its number among the product's; can be left out where there is one.
            seconds: in which the frame must come, 60 at most.
            key, part, batch, view, deadline: as for `inspect`.
        """
        query = {"camera": camera, "seconds": seconds, "part": part, "batch": batch, "view": view}
        query["deadline"] = deadline
        return self._judged(f"{self._of(product, finding=True)}/trigger", key, query)

    # ---- inspections

    def inspection(self, number: int, product: str | None = None) -> Inspection:
        return read(Inspection, self._json("GET", f"{self._of(product)}/inspections/{number:d}"))

    def search(
        self,
        product: str | None = None,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        decision: str | None = None,
        verdict: str | None = None,
        review: str | None = None,
        score_min: float | None = None,
        score_max: float | None = None,
        version: int | None = None,
        name: str | None = None,
        part: str | None = None,
        batch: str | None = None,
    ) -> Iterator[Inspection]:
        """All inspections that match, the newest first, fetched page by page.

        Args:
            since, until: times; `until` is exclusive. Without a zone they are UTC.
            verdict: good, defect or none. name: of the picture; A12* is any that begins with A12, also of
                part and batch.
        """
        query: dict[str, str | int | float | None] = {
            **{"since": time_text(since), "until": time_text(until), "decision": decision},
            **{"verdict": verdict, "review": review, "score_min": score_min, "score_max": score_max},
            **{"version": version, "file": name, "part": part, "batch": batch, "limit": PAGE},
        }
        for one in self._pages(f"{self._of(product)}/inspections", "inspections", query):
            yield read(Inspection, one)

    def _pages(self, path: str, name: str, query: dict[str, str | int | float | None]) -> Iterator[Any]:
        """Yield what is listed under this name, page by page."""
        while True:
            page = self._json("GET", path, query=query)
            yield from page[name]
            if not page["next"]:
                return
            query["cursor"] = page["next"]

    def parts(
        self, product: str | None = None, *, part: str | None = None, decision: str | None = None
    ) -> Iterator[Part]:
        """All parts that are seen in several views, the newest first, fetched page by page.

        Args:
            part: its number. decision: good, anomalous, incomplete, or open.
        """
        query: dict[str, str | int | float | None] = {"part": part, "decision": decision, "limit": PAGE}
        for one in self._pages(f"{self._of(product)}/parts", "parts", query):
            yield read(Part, one)

    def part(self, number: int, product: str | None = None) -> WholePart:
        """Part with its views' inspections. number: `id` of the part, `part_id` of its inspections."""
        return read(WholePart, self._json("GET", f"{self._of(product)}/parts/{number:d}"))

    def overlay(self, number: int, product: str | None = None, side: int = 1600) -> bytes:
        """WebP of the picture with heat map and outlines, the longer side at most `side` pixels."""
        path = f"{self._of(product)}/inspections/{number:d}/overlay"
        return self._send("GET", path, query={"side": side}).content

    def trends(
        self,
        product: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> dict[str, Any]:
        """Scores and numbers of inspections between two times, as the API gives them."""
        query = {"since": time_text(since), "until": time_text(until)}
        return dict(self._json("GET", f"{self._of(product)}/trends", query=query))

    # ---- verdicts

    def verdict(
        self,
        number: int,
        verdict: Verdict,
        mask: NDArray[np.bool_] | None = None,
        note: str = "",
        product: str | None = None,
    ) -> Inspection:
        """Give a verdict on an inspection.

        Args:
            mask: [H, W] bool at the picture's size, True where the defect is.
        """
        given = {"verdict": verdict, "mask": None if mask is None else mask_png(mask), "note": note}
        path = f"{self._of(product)}/inspections/{number:d}/verdict"
        headers = {"Idempotency-Key": uuid.uuid4().hex}  # a verdict recorded twice must be undone twice
        return read(Inspection, self._json("POST", path, json=given, headers=headers))

    # ---- products and their models

    def products(self) -> list[Product]:
        return [read(Product, one) for one in self._json("GET", "products")["products"]]

    def product(self, name: str | None = None) -> Product:
        """Product of this name; None: the only product."""
        return read(Product, self._json("GET", self._of(name)))

    def versions(self, product: str | None = None) -> list[Version]:
        """Model versions of a product, the newest first."""
        found = self._json("GET", f"{self._of(product)}/versions")["versions"]
        return [read(Version, one) for one in found]

    def add_version(self, model: str | os.PathLike[str], product: str | None = None) -> Version:
        """Upload a model file, .safetensors or .onnx, as a version, which judges when it is activated."""
        path, headers = f"{self._of(product)}/versions", {"Content-Type": "application/octet-stream"}
        name, data = os.path.basename(model), read_file(Path(model), "model")
        return read(Version, self._json("POST", path, query={"name": name}, content=data, headers=headers))

    def activate(self, product: str | None, number: int) -> Product:
        """Activate a version: it judges from now on."""
        return read(Product, self._json("POST", f"{self._of(product)}/versions/{number:d}/activate"))

    # ---- requests

    def _named(self, product: str | None, finding: bool = False) -> str:
        """Name of the product, or of the station's only one. finding: the name of a joint model will do."""
        if product is not None:
            return product
        if finding not in self._only:
            known = [(one.found_at if finding else None) or one.name for one in self.products()]
            names = list(dict.fromkeys(known))
            if len(names) != 1:
                several = f"several products: name one of {', '.join(names)}" if names else "no product yet"
                raise InputError(f"{shown(self.url)} has {several}")
            self._only[finding] = names[0]
        return self._only[finding]

    def _of(self, product: str | None, finding: bool = False) -> str:
        return f"products/{quote(self._named(product, finding), safe='')}"

    def _json(self, method: str, path: str, **request: Any) -> Any:
        response = self._send(method, path, **request)
        try:
            return response.json()
        except ValueError:
            text = f"{shown(self.url)} answers otherwise than a station: check the address"
            raise FlawscopeError(text) from None

    def _send(
        self, method: str, path: str, *, query: Query | None = None, tries: int | None = None, **request: Any
    ) -> httpx.Response:
        """Send a request, again where it fails: no request does harm if it arrives twice."""
        wanted = {key: value for key, value in (query or {}).items() if value is not None}
        tries = tries or self.tries
        for left in reversed(range(tries)):
            try:
                response = self._http.request(method, path, params=wanted, **request)
            except httpx.TransportError as error:
                if not left:
                    why = f"cannot be reached ({one_line(error)[:160]})"
                    remedy = "check the address, http or https, and that `flawscope serve` runs"
                    raise FlawscopeError(f"{shown(self.url)} {why}: {remedy}") from None
                wait = None
            else:
                if response.status_code not in _AGAIN or not left:
                    break
                wait = response.headers.get("Retry-After", "")
            time.sleep(_pause(wait, tries - 1 - left))
        if response.is_success:
            return response
        raise self._refused(response)

    def _refused(self, response: httpx.Response) -> FlawscopeError:
        status = response.status_code
        try:
            said, code = str(response.json()["error"]), str(response.json().get("code", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            moved = f"it is at {response.headers.get('Location', '')[:200]}; " if response.is_redirect else ""
            said, code = f"it answers {status} {response.reason_phrase}: {moved}check the address", ""
        text = f"{shown(self.url)}: {' '.join(said.split())}"
        return FlawscopeError(text) if status >= 500 else RefusedError(text, status, code)


def _pause(wait: str | None, failures: int) -> float:
    """Seconds to the next try, at random: at least what the station says, else longer every time."""
    try:
        least = min(LONGEST, max(0.0, float(wait or "")))
    except ValueError:
        least = min(LONGEST, FIRST_WAIT * 2.0**failures)
    return least * (1 + random.random() / 4)
