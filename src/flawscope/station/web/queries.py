"""Query parameters that a route does not declare are refused: a misspelt filter would find everything."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant

from flawscope.errors import InputError, nearest


async def check_query(request: Request) -> None:
    """A dependency of every route below /api/v1. InputError names the nearest right parameter."""
    known = sorted(_declared(request.scope["route"].dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if given.count(name) > 1:
            raise InputError(f"query parameter {name:.60} is given more than once: send one value")
        if name not in known:
            raise InputError(f"there is no query parameter {name!r:.60}: {nearest(name, known)}")


def _declared(dependant: Dependant) -> set[str]:
    """Names of the query parameters of a route and of what it depends on."""
    own = {one.alias for one in dependant.query_params}
    return own.union(*map(_declared, dependant.dependencies))
