"""Routes of model versions, and of learning from corrections."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import FileResponse

from flawscope.artefact.files import SUFFIXES
from flawscope.errors import InputError
from flawscope.station.learning.candidates import shown, trail
from flawscope.station.store.files import unwritable
from flawscope.station.store.records import holdable
from flawscope.station.web import schemas, uploads
from flawscope.station.web.api import Engineer, Here, refusals_of, routes
from flawscope.station.web.refusals import Refused
from flawscope.station.web.uploads import body_of

MODEL_BYTES = 2 * 1024**3  # largest model file that may be sent

router = routes()


@router.get("/versions", response_model=schemas.Versions)
def versions(name: str, station: Here) -> Any:
    """List the model versions of a product, the newest first."""
    return station.versions.listed(station.product_id(name))


@router.post(
    "/versions",
    status_code=201,
    response_model=schemas.Version,
    responses=refusals_of(408, 413, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def add_version(
    name: str,
    request: Request,
    station: Here,
    person: Engineer,
    file: Annotated[str, Query(alias="name", max_length=200, description="part.safetensors or part.onnx")],
) -> Any:
    """Add a model file as a version, which judges nothing until it is activated."""
    station.product_id(name)
    called = uploads.clean(file)
    if PurePosixPath(called).suffix.lower() not in SUFFIXES or not re.fullmatch(r"\w[\w. -]*", called):
        raise InputError(f"name={file:.60} is not a model's: send {' or '.join(SUFFIXES)}")
    temporary = station.files.temporary(called)
    try:
        await receive(request, temporary)
        who = person.name
        return await asyncio.to_thread(station.add_version, name, temporary, f"sent by {who}", who)
    except Refused:
        raise
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), called)) from None
    finally:
        await asyncio.to_thread(station.files.drop, temporary)


async def receive(request: Request, path: Path) -> None:
    """Write the body to a new folder's file: it may be larger than the memory for all requests together."""
    body = body_of(request)
    body.most, body.is_kept = MODEL_BYTES, False
    try:
        path.parent.mkdir()
        with open(path, "xb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise unwritable(path, error) from None


@router.post("/versions/{number}/activate", response_model=schemas.Product)
def activate(
    name: str, number: int, station: Here, person: Engineer, wanted: schemas.Activation | None = None
) -> Any:
    """Activate a version, which judges from now on. If it cannot be opened, the version before goes on. One
    that was learnt from corrections and loses known defects is refused unless `losing` names all of their
    inspections."""
    losing = [] if wanted is None else wanted.losing
    station.learning.activate(station.product_id(name), holdable(number), person.name, losing)
    return station.product_facts(name)


@router.get("/versions/{number}/file", response_class=FileResponse)
def version_file(name: str, number: int, station: Here, person: Engineer) -> FileResponse:
    """Return the model file of a version."""
    path = station.versions.path(station.product_id(name), holdable(number))
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/learning", response_model=schemas.Learning)
def learning(name: str, station: Here) -> Any:
    """Return corrections, and the candidates that were made of them, the newest first."""
    return station.learning.facts(station.product_id(name))


@router.post("/learning", status_code=201, response_model=schemas.Candidate)
def learn(name: str, station: Here, person: Engineer, wanted: schemas.Learn | None = None) -> Any:
    """Make a candidate from verdicts, or return the one that waits already."""
    how = "" if wanted is None else wanted.how
    return station.learning.ask(station.product_id(name), person.name, how)


@router.get("/candidates/{number}", response_model=schemas.Candidate)
def candidate(name: str, number: int, station: Here) -> Any:
    return shown(station.learning.candidates.row(station.product_id(name), holdable(number)))


@router.post("/candidates/{number}/reject", response_model=schemas.Candidate)
def reject(name: str, number: int, station: Here, person: Engineer) -> Any:
    """Reject a candidate. Its version can still be activated."""
    return station.learning.reject(station.product_id(name), holdable(number), person.name)


@router.get("/trail", response_model=schemas.Trail)
def audit_trail(name: str, station: Here, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Any:
    """List who added and activated versions, made candidates and gave verdicts, the latest first."""
    return {"entries": trail(station.database, station.product_id(name), limit)}
