"""What an error is over HTTP."""

from __future__ import annotations

import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.database import StoreError
from flawscope.station.inspector import BusyError, ModelError, TooLargeError
from flawscope.station.store import NotFoundError
from flawscope.station.uploads import UploadError

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
        (ModelError, 503, "model_failed"),
        (TooLargeError, 422, "too_many_pixels"),
        (InputError, 422, "invalid"),
    )
    return next(((status, code) for kind, status, code in kinds if isinstance(error, kind)), (503, "failed"))


def install(app: FastAPI) -> None:
    """Every error becomes one line with a code."""
    app.add_exception_handler(FlawscopeError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FlawscopeError)
    status, code = said(error)
    seconds = math.ceil(error.seconds) if isinstance(error, BusyError) else _WAIT
    headers = {"Retry-After": str(seconds)} if status == 503 else {}
    if status in (408, 413, 415):  # what was sent stays unread
        headers["Connection"] = "close"
    return JSONResponse({"error": str(error), "code": code}, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    text = f"{where or 'the request'}: {first['msg']}"
    return JSONResponse({"error": " ".join(text.split()), "code": "invalid"}, 422)


async def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
    text = str(error.detail)
    if error.status_code == 404:
        text = f"there is nothing at {request.url.path:.200}"
    return JSONResponse({"error": text, "code": code}, error.status_code, error.headers)
