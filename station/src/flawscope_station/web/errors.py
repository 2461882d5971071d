"""Errors as HTTP responses: one line with a code as JSON, or a page for people."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as PlainError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flawscope.errors import FlawscopeError
from flawscope_station.core.error_status import sender_text, status_and_code
from flawscope_station.store.inspection import RefusalError

_DELAY = 5  # seconds of Retry-After, unless the error has its own


class RefusedError(RefusalError, HTTPException):  # FastAPI lets an HTTPException pass unchanged
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
    """Return the headers of an error's response, which depend on its status.

    401: how to sign in; 503: how long to wait; 408: the connection ends.
    """
    status, _ = status_and_code(error)
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status == 503:
        return {"Retry-After": str(math.ceil(getattr(error, "seconds", _DELAY)))}
    # After a timeout, the rest of the body may never come. After a body that is too large, the connection
    # stays: the rest is received and dropped, because a client whose writing fails would not read the answer.
    return {"Connection": "close"} if status == 408 else {}


def install_error_handler(app: FastAPI, render_page: Callable[..., Response]) -> None:
    """Let an application answer errors: with a page for a GET request outside /api, else with JSON.

    Args:
        app: Application.
        render_page: Renders the page. Its arguments are the request, the status, the text, and the error,
            which is None where FastAPI or Starlette raised it.
    """

    async def handle(request: Request, error: Exception) -> Response:
        flawscope_error = error if isinstance(error, FlawscopeError) else None
        shown_error = flawscope_error or _to_refused_error(request, error)
        if request.method == "GET" and not request.url.path.startswith("/api/"):
            status, _ = status_and_code(shown_error)
            return render_page(request, status, sender_text(shown_error), flawscope_error)
        response = error_response(shown_error)
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    for kind in (FlawscopeError, RequestValidationError, PlainError):
        app.add_exception_handler(kind, handle)


def _to_refused_error(request: Request, error: Exception) -> RefusedError:
    """Convert an error of FastAPI or Starlette to a RefusedError."""
    if isinstance(error, RequestValidationError):
        first_error = error.errors()[0]
        field = ".".join(str(part) for part in first_error["loc"] if part not in ("query", "body", "path"))
        text = f"{field or 'the request'}: {first_error['msg']}"
        return RefusedError(422, " ".join(text.split()), "invalid")
    assert isinstance(error, PlainError)
    if error.status_code == 404:
        return RefusedError(404, f"there is nothing at {request.url.path:.200}", "not_found")
    code = "method_not_allowed" if error.status_code == 405 else "invalid"
    return RefusedError(error.status_code, str(error.detail), code)
