"""Errors as HTTP responses: one line with a code, as JSON; as a page for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as PlainError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.access.users import ExpiredError
from flawscope.station.inspecting.capacity import BusyError
from flawscope.station.inspecting.picture import TooLargeError
from flawscope.station.inspecting.worker import LateError, ModelError
from flawscope.station.learning.learning import LosesError
from flawscope.station.setup.drafts import TakenError
from flawscope.station.sources.source import AwayError, NoFrameError
from flawscope.station.store.database import StoreError
from flawscope.station.store.inspection import KeyUsedError
from flawscope.station.store.open_models import NoModelError
from flawscope.station.store.records import NotFoundError

if TYPE_CHECKING:
    from flawscope.station.station import Station

_WAIT = 5  # seconds of Retry-After, unless the error has them
_KINDS: tuple[tuple[type[FlawscopeError], int, str], ...] = (
    (ExpiredError, 401, "token_expired"),
    (NotFoundError, 404, "not_found"),
    (BusyError, 503, "busy"),
    (LateError, 504, "late"),
    (ModelError, 503, "model_failed"),
    (NoModelError, 503, "no_model"),
    (AwayError, 503, "camera_away"),
    (NoFrameError, 504, "no_frame"),
    (TooLargeError, 422, "too_many_pixels"),
    (KeyUsedError, 409, "key_used"),
    (TakenError, 409, "name_taken"),
    (LosesError, 409, "loses_defects"),
    (InputError, 422, "invalid"),
)


class Refused(InputError, HTTPException):  # FastAPI passes an HTTPException on
    """A request that is not served.

    Attributes:
        status: of the answer. code: for programs.
    """

    __str__ = Exception.__str__

    def __init__(self, status: int, text: str, code: str):
        HTTPException.__init__(self, status, text)
        self.args = (text,)
        self.status, self.code = status, code


def said(error: FlawscopeError) -> tuple[int, str]:
    """HTTP status and code of an error."""
    if isinstance(error, Refused):
        return error.status, error.code
    if isinstance(error, StoreError):
        return {"disk_full": 507, "file_missing": 404}.get(error.code, 503), error.code
    return next(((status, code) for kind, status, code in _KINDS if isinstance(error, kind)), (503, "failed"))


def count(station: Station, name: str, error: FlawscopeError) -> str:
    """Count a picture of this product that was refused; return the code of the error."""
    code = said(error)[1]
    station.metrics.refused.labels(name if name in station.addresses else "", code).inc()
    return code


def refused(error: FlawscopeError) -> Response:
    """Response of the API to an error."""
    status, code = said(error)
    return JSONResponse({"error": str(error), "code": code}, status, headers_of(error))


def headers_of(error: FlawscopeError) -> dict[str, str]:
    status = said(error)[0]
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 503:
        return {"Retry-After": str(math.ceil(error.seconds) if isinstance(error, BusyError) else _WAIT)}
    return {"Connection": "close"} if status in (408, 413, 415) else {}  # the body stays unread


def install(app: FastAPI, page: Callable[[Request, int, str, FlawscopeError | None], Response]) -> None:
    """Install the error handler: outside of /api, who wanted to see something gets a page."""

    async def handle(request: Request, error: Exception) -> Response:
        found = error if isinstance(error, FlawscopeError) else _named(request, error)
        if request.method == "GET" and not request.url.path.startswith("/api/"):
            return page(request, said(found)[0], str(found), None if found is not error else found)
        answer = refused(found)
        answer.headers.update(getattr(error, "headers", None) or {})
        return answer

    for kind in (FlawscopeError, RequestValidationError, PlainError):
        app.add_exception_handler(kind, handle)


def _named(request: Request, error: Exception) -> Refused:
    """Error of FastAPI or Starlette as one of ours."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
        return Refused(422, " ".join(f"{where or 'the request'}: {first['msg']}".split()), "invalid")
    assert isinstance(error, PlainError)
    if error.status_code == 404:
        return Refused(404, f"there is nothing at {request.url.path:.200}", "not_found")
    code = "method_not_allowed" if error.status_code == 405 else "invalid"
    return Refused(error.status_code, str(error.detail), code)
