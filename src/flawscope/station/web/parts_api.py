"""Routes of parts that are seen in several views."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query

from flawscope.errors import InputError
from flawscope.station.store.parts import part_of, search_parts
from flawscope.station.store.records import holdable
from flawscope.station.store.search import MOST
from flawscope.station.web import schemas
from flawscope.station.web.api import Here, routes

router = routes()


@router.get("/parts", response_model=schemas.Parts)
def find(
    name: str,
    station: Here,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    cursor: Annotated[str, Query(description="`next` of the page before")] = "",
    part: Annotated[str, Query(description="its number")] = "",
    decision: Literal["", "good", "anomalous", "incomplete", "open"] = "",
) -> Any:
    """List parts that are seen in several views, the newest first. `open`: not decided yet."""
    here = station.database, station.product_id(name)
    if "\0" in part:
        raise InputError("part holds a character that no number has")
    found, more = search_parts(*here, part=part, decision=decision, cursor=cursor, limit=limit)
    return {"parts": found, "next": more}


@router.get("/parts/{number}", response_model=schemas.WholePart)
def one_part(name: str, number: int, station: Here) -> Any:
    """Return a part with its views' inspections, by its id."""
    return part_of(station.database, station.product_id(name), holdable(number))
