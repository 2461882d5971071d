"""Errors as HTTP responses: one line with a code, as JSON; as a page for people."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as PlainError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flawscope.errors import FlawscopeError
from flawscope_station.core.refusals import sender_text, status_and_code
from flawscope_station.store.inspection import RefusalError

_DELAY = 5  # seconds of Retry-After, unless the error has its own


class RefusedError(RefusalError, HTTPException):  # FastAPI passes an HTTPException on
    """Request that is not served.

    Attributes:
        status: HTTP status of the answer.
        code: Name of the reason, for programs.
    """

    __str__ = Exception.__str__

    def __init__(self, status: int, text: str, code: str):
        HTTPException.__init__(self, status, text)
        self.args = (text,)
        self.status = status
        self.code = code


def error_response(error: FlawscopeError) -> Response:
    """Return the API's response to an error, with its `details` where it has some."""
    status, code = status_and_code(error)
    details = getattr(error, "details", {})
    body = {"error": sender_text(error), "code": code, **details}
    return JSONResponse(body, status, error_headers(error))


def error_headers(error: FlawscopeError) -> dict[str, str]:
    """Return an error response's headers: how to sign in, how long to wait, or end the connection."""
    status = status_and_code(error)[0]
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 503:
        return {"Retry-After": str(math.ceil(getattr(error, "seconds", _DELAY)))}
    # The rest of a body that is too large is received and forgotten: a client that still writes would be
    # reset, and never read the answer.
    return {"Connection": "close"} if status == 408 else {}


def install_error_handler(app: FastAPI, render_page: Callable[..., Response]) -> None:
    """Answer errors with JSON; GET outside of /api with `render_page(request, status, text, error)`.

    `error` is the program's own error, or None where FastAPI or Starlette raised it.
    """

    async def handle(request: Request, error: Exception) -> Response:
        known_error = error if isinstance(error, FlawscopeError) else _to_refused_error(request, error)
        if request.method == "GET" and not request.url.path.startswith("/api/"):
            own_error = known_error if known_error is error else None
            return render_page(request, status_and_code(known_error)[0], sender_text(known_error), own_error)
        response = error_response(known_error)
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    for kind in (FlawscopeError, RequestValidationError, PlainError):
        app.add_exception_handler(kind, handle)


def _to_refused_error(request: Request, error: Exception) -> RefusedError:
    """Convert an error of FastAPI or Starlette."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
        return RefusedError(422, " ".join(f"{field or 'the request'}: {first['msg']}".split()), "invalid")
    assert isinstance(error, PlainError)
    if error.status_code == 404:
        return RefusedError(404, f"there is nothing at {request.url.path:.200}", "not_found")
    code = "method_not_allowed" if error.status_code == 405 else "invalid"
    return RefusedError(error.status_code, str(error.detail), code)
