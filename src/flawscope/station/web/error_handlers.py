"""What an error is over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.inspecting.capacity import BusyError
from flawscope.station.inspecting.worker import LateError, ModelError, TooLargeError
from flawscope.station.learning.learning import LosesError
from flawscope.station.sources.camera import AwayError, NoFrameError
from flawscope.station.store.database import StoreError
from flawscope.station.store.inspection import KeyUsedError
from flawscope.station.store.model_registry import NoModelError
from flawscope.station.store.records import NotFoundError
from flawscope.station.web.uploads import UploadError

if TYPE_CHECKING:
    from flawscope.station.station import Station

Headers = Mapping[str, str] | None
_WAIT = 5  # seconds to try again after, where nobody knows


def said(error: FlawscopeError) -> tuple[int, str]:
    """Status and code."""
    if isinstance(error, UploadError):
        return error.status, error.code
    if isinstance(error, StoreError):
        status = {"disk_full": 507, "file_missing": 404}.get(error.code, 503)
        return status, error.code
    kinds: tuple[tuple[type[FlawscopeError], int, str], ...] = (
        (NotFoundError, 404, "not_found"),
        (BusyError, 503, "busy"),
        (LateError, 504, "late"),
        (ModelError, 503, "model_failed"),
        (NoModelError, 503, "no_model"),
        (AwayError, 503, "camera_away"),
        (NoFrameError, 504, "no_frame"),
        (TooLargeError, 422, "too_many_pixels"),
        (KeyUsedError, 409, "key_used"),
        (LosesError, 409, "loses_defects"),
        (InputError, 422, "invalid"),
    )
    return next(((status, code) for kind, status, code in kinds if isinstance(error, kind)), (503, "failed"))


def count(station: Station, name: str, error: FlawscopeError) -> str:
    """Count a picture of this product that was not taken; the error's code."""
    code = said(error)[1]
    station.metrics.refused.labels(name if name in station.products else "", code).inc()
    return code


def refused(error: FlawscopeError) -> Response:
    """What a program gets to see of an error."""
    status, code = said(error)
    return JSONResponse({"error": str(error), "code": code}, status, _headers(error, status))


def _headers(error: FlawscopeError, status: int) -> dict[str, str]:
    seconds = math.ceil(error.seconds) if isinstance(error, BusyError) else _WAIT
    headers = {"Retry-After": str(seconds)} if status == 503 else {}
    if status in (408, 413, 415):  # what was sent stays unread
        headers["Connection"] = "close"
    return headers


def _is_page(request: Request) -> bool:
    return request.method == "GET" and not request.url.path.startswith("/api/")


def install(app: FastAPI, page: Callable[[Request, int, str, FlawscopeError | None], Response]) -> None:
    """Every error becomes one line with a code; outside of /api a page that says it."""

    def answered(request: Request, status: int, text: str, code: str, headers: Headers = None) -> Response:
        if _is_page(request):
            return page(request, status, text, None)
        return JSONResponse({"error": text, "code": code}, status, headers)

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, FlawscopeError)
        if _is_page(request):
            return page(request, said(error)[0], str(error), error)
        return refused(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
        text = f"{where or 'the request'}: {first['msg']}"
        return answered(request, 422, " ".join(text.split()), "invalid")

    async def plain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        text = f"there is nothing at {request.url.path:.200}" if code == "not_found" else str(error.detail)
        return answered(request, error.status_code, text, code, error.headers)

    app.add_exception_handler(FlawscopeError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
