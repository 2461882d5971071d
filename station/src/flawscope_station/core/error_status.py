"""HTTP status, code and text of an error for the sender of a request."""

from __future__ import annotations

from flawscope.errors import FlawscopeError, InputError
from flawscope.methods import options
from flawscope_station.store.database import StoreError


def status_and_code(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status of an error, and its code for programs."""
    if isinstance(error, options.ConflictError):
        return 422, "conflict"
    if isinstance(error, InputError):
        status, code = 422, "invalid"
    else:
        status, code = 503, "failed"
    if isinstance(error, FlawscopeError):  # an error may have a status and a code of its own
        status = getattr(error, "status", status)
        code = getattr(error, "code", code)
    return status, code


def sender_text(error: BaseException) -> str:
    """Return the text of an error for the sender of a request, without names of this machine."""
    return error.sender_text if isinstance(error, StoreError) else str(error)
