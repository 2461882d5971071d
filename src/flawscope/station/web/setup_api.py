"""Routes and pages of products that are being made: pictures, their check, learning, trying, going live."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import FileResponse

from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.station.access.roles import ADMIN, ENGINEER, has_role
from flawscope.station.inspecting.picture import Picture
from flawscope.station.inspecting.renderings import reduced, webp
from flawscope.station.setup.draft import READY, Draft
from flawscope.station.sources.source import Triggered
from flawscope.station.sources.trigger import shot_of
from flawscope.station.store.records import REMOVED, NotFoundError
from flawscope.station.web import schemas, setup_schemas, uploads
from flawscope.station.web.api import (
    SIDE,
    Admin,
    Called,
    Engineer,
    Here,
    Number,
    Side,
    attachment,
    file_body,
    refusals_of,
    routes,
)
from flawscope.station.web.models_api import receive
from flawscope.station.web.pages import Shown, pages_for
from flawscope.station.web.templates import standalone
from flawscope.station.web.uploads import Upload

ZIP = b"PK\x03\x04"
FRAME = 5.0  # seconds in which a camera must give a frame
WIDE = 640  # pixels of the longer side of what a camera shows

router = routes(409, prefix="/api/v1/new", role=ENGINEER)
page = pages_for(ENGINEER)


async def _draft_of(name: str, station: Here) -> Draft:
    return station.drafts.draft(name)


Of = Annotated[Draft, Depends(_draft_of)]


async def _learnt_of(draft: Of) -> Draft:
    if draft.stage != READY:
        raise NotFoundError(f"{draft.name} has no model yet: let it learn first")
    return draft


Learnt = Annotated[Draft, Depends(_learnt_of)]

# ----------------------------------------------------------------------------------------------------- drafts


@router.get("", response_model=setup_schemas.NewProducts)
def listed(station: Here) -> Any:
    """List the products that are being made, or were made here."""
    return {"products": [station.drafts.facts(one, looked_at=False) for one in station.drafts]}


@router.post("", status_code=201, response_model=setup_schemas.NewProductState)
def begin(wanted: setup_schemas.NewProduct, station: Here, person: Engineer) -> Any:
    """Begin a product, or return the one of this name that was begun."""
    drafts, made = station.drafts, station.made.all()
    others = [name for name in station.addresses.names.values() if name not in made]
    return drafts.facts(drafts.begin(wanted.name, person.name, others))


@router.get("/{name}", response_model=setup_schemas.NewProductState)
def one(draft: Of, station: Here) -> Any:
    return station.drafts.facts(draft)


@router.delete("/{name}", status_code=204)
def remove(name: str, station: Here, person: Engineer) -> None:
    """Remove a product that was begun, with its pictures. What went live stays."""
    station.drafts.remove(name)
    station.made.tidy(name)
    station.store.note_event(REMOVED, person.name, f"pictures of the new product {name}")


# --------------------------------------------------------------------------------------------------- pictures


@router.get("/{name}/pictures", response_model=setup_schemas.NewPictures)
def pictures(draft: Of) -> Any:
    """List the pictures to learn from, and those that were left out."""
    return {"pictures": draft.pictures(), "left_out": draft.left_out()}


@router.post(
    "/{name}/pictures",
    status_code=201,
    response_model=setup_schemas.TakenPictures,
    responses=refusals_of(408, 413, 415, 507),
    openapi_extra=file_body("image/*", "application/zip", several=True),
)
async def add(draft: Of, request: Request, station: Here, file: Called = "") -> Any:
    """Add pictures of good parts: the body is a picture or a zip of them; a form may hold several. Those that
    are kept are on the disk when the answer comes; the same content is kept once."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind in ("application/zip", "application/x-zip-compressed") or file.lower().endswith(".zip"):
        return {"results": [one._asdict() for one in await _zip(station, draft, request, file or "the zip")]}
    sent, _ = await uploads.read(request, file)
    found = [taken for upload in sent for taken in await asyncio.to_thread(_taken, station, draft, upload)]
    if len(found) == 1 and found[0].status == "refused":
        raise InputError(str(found[0].error))
    return {"results": [one._asdict() for one in found]}


@router.post(
    "/{name}/capture",
    status_code=201,
    response_model=setup_schemas.CapturedPictures,
    responses=refusals_of(504),
)
async def capture(draft: Of, wanted: setup_schemas.Capture, station: Here) -> Any:
    """Add what a camera shows now, and say what the picture is like beside the latest ones."""
    picture = await _shown(station, draft, wanted.product, wanted.camera)
    (taken,) = await asyncio.to_thread(station.drafts.add, draft, [(picture.name, picture.data)])
    seen = None
    if taken.status == "kept":
        seen = await asyncio.to_thread(station.drafts.captures.seen, draft, picture.data, taken.name)
    return {"results": [{**taken._asdict(), "seen": seen}]}


@router.get("/{name}/view", response_model=setup_schemas.CameraView, responses=refusals_of(504))
async def look_through(
    draft: Of, station: Here, product: str | None = None, camera: Number | None = None
) -> Any:
    """Return what a camera shows now, and what that is like beside the latest pictures; nothing is kept."""
    picture = await _shown(station, draft, product, camera)

    def seen() -> dict[str, Any]:
        small = webp(reduced(picture.data, picture.name, WIDE, draft.memory))
        told = station.drafts.captures.seen(draft, picture.data)
        return {**told, "picture": base64.b64encode(small).decode()}

    return await asyncio.to_thread(seen)


async def _shown(station: Here, draft: Draft, product: str | None, number: int | None) -> Picture:
    """Picture of a camera: of a product, or the draft's own."""
    if product is None:
        camera: Triggered = await asyncio.to_thread(station.drafts.captures.camera, draft)
    else:
        camera = station.camera(product, number)
    return await asyncio.to_thread(camera.picture, await shot_of(camera, FRAME, None), None)


@router.put("/{name}/source", response_model=setup_schemas.NewProductState)
def where_from(draft: Of, wanted: setup_schemas.WhereFrom, station: Here, person: Admin) -> Any:
    """Name a camera, a folder or a video file to take pictures from. A camera goes live with the product."""
    given = wanted.model_dump(exclude_none=True)
    try:
        station.drafts.captures.name(draft, station.made.entry(draft.name, given))
    finally:
        station.made.tidy(draft.name)  # also a password that was refused
    return station.drafts.facts(draft)


async def _zip(station: Here, draft: Draft, request: Request, name: str) -> Any:
    """Keep the pictures of a zip that is the body: it may be larger than a picture."""
    temporary = station.files.temporary("pictures.zip")
    try:
        await receive(request, temporary)
        return await asyncio.to_thread(station.drafts.add_zip, draft, temporary, uploads.clean(name))
    finally:
        await asyncio.to_thread(station.files.drop, temporary)


def _taken(station: Here, draft: Draft, sent: Upload) -> Sequence[Any]:
    if not sent.data.startswith(ZIP):
        return station.drafts.add(draft, [(sent.name, sent.data)])
    temporary = station.files.temporary("pictures.zip")
    try:
        station.files.write(temporary, sent.data, durable=False)
        return station.drafts.add_zip(draft, temporary, sent.name)
    finally:
        station.files.drop(temporary)


@router.get("/{name}/pictures/{picture}", response_class=Response)
def view(draft: Of, picture: str, side: Side = SIDE) -> Response:
    """Return a picture upright, as WebP."""
    data = draft.view(picture, side)
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=600"})


@router.post("/{name}/leave-out", response_model=setup_schemas.NewProductState)
def leave_out(draft: Of, wanted: setup_schemas.LeaveOut, station: Here) -> Any:
    """Leave pictures out, or with `undo` take them back."""
    station.drafts.move(draft, wanted.pictures, out=not wanted.undo)
    return station.drafts.facts(draft)


# --------------------------------------------------------------------------------------------------- learning


@router.post("/{name}/learn", response_model=setup_schemas.NewProductState)
def learn(draft: Of, station: Here, how: setup_schemas.HowToLearn | None = None) -> Any:
    """Learn from the pictures, as `flawscope fit` does, when the products before it are done."""
    asked = how or setup_schemas.HowToLearn.model_validate({})
    station.drafts.learn(draft, asked.model_dump(exclude={"go_on"}), go_on=asked.go_on)
    return station.drafts.facts(draft)


@router.post("/{name}/stop", response_model=setup_schemas.NewProductState)
def stop(draft: Of, station: Here) -> Any:
    """Stop the learning. A method that learns in steps can go on later."""
    station.drafts.stop_learning(draft)
    return station.drafts.facts(draft)


@router.post(
    "/{name}/try",
    response_model=setup_schemas.TriedPictures,
    responses=refusals_of(408, 413, 415),
    openapi_extra=file_body("image/*", several=True),
)
async def attempt(draft: Of, request: Request, station: Here, file: Called = "") -> Any:
    """Judge a few pictures with what was learnt; nothing is kept."""
    sent, _ = await uploads.read(request, file)
    return await _judged(station, draft, [(one.name, one.data) for one in sent])


@router.post("/{name}/try-capture", response_model=setup_schemas.TriedPictures, responses=refusals_of(504))
async def attempt_capture(draft: Of, wanted: setup_schemas.Capture, station: Here) -> Any:
    """Judge what a camera shows now with what was learnt; nothing is kept."""
    picture = await _shown(station, draft, wanted.product, wanted.camera)
    return await _judged(station, draft, [(picture.name, picture.data)])


async def _judged(station: Here, draft: Draft, given: list[tuple[str, bytes]]) -> dict[str, Any]:
    found = await asyncio.to_thread(station.drafts.tried, draft, given)
    for one in found:
        if "overlay" in one:
            one["overlay"] = base64.b64encode(one["overlay"]).decode()
    return {"results": found}


@router.get("/{name}/examples/{file}", response_class=FileResponse)
def example(draft: Of, file: str) -> FileResponse:
    """Return a good picture with a simulated defect, as WebP."""
    result = draft.state.get("result") or {"examples": []}
    if file not in [one["file"] for one in result["examples"]]:
        raise NotFoundError(f"{draft.name} has no example {file!r:.40}")
    return FileResponse(draft.examples / file, media_type="image/webp")


@router.post("/{name}/live", response_model=schemas.Product)
def go_live(name: str, station: Here, person: Engineer) -> Any:
    """Let what was learnt inspect from now on, as a product of the station."""
    return station.go_live(name, person.name)


@router.get("/{name}/model", response_class=FileResponse)
def model(draft: Learnt) -> FileResponse:
    """Return the model file, .safetensors."""
    return FileResponse(draft.model, media_type="application/octet-stream", filename=draft.model.name)


@router.get("/{name}/report", response_class=Response)
def report(draft: Learnt, request: Request) -> Response:
    """Return what was learnt, what it promises and what it would miss, as an HTML file."""
    asked, result, name = Shown(request, "new"), draft.state["result"], draft.name
    shown = [
        {**one, "picture": base64.b64encode((draft.examples / one["file"]).read_bytes()).decode()}
        for one in result["examples"]
    ]
    text = standalone("new-report", asked.texts, name=name, state=draft.state, result=result, shown=shown)
    return Response(text, media_type="text/html", headers=attachment(f"{name}.html"))


# ------------------------------------------------------------------------------------------------------ pages


@page.get("/-/new")
def new_page(request: Request) -> Response:
    """Show the products that are being made, and begin another."""
    asked = Shown(request, "new")
    found = [asked.station.drafts.facts(one, looked_at=False) for one in asked.station.drafts]
    return asked.page_of("new", words=("new",), drafts=found)


@page.get("/-/new/{name}")
def draft_page(name: str, request: Request) -> Response:
    asked = Shown(request, "new")
    state = asked.station.drafts.facts(asked.station.drafts.draft(name))
    in_steps = {one.name: one.learns_in_steps for one in registry.loadable()}
    cameras = [
        (product, source.number)
        for product, several in asked.station.sources.items()
        for source in several
        if isinstance(source, Triggered)
    ]
    facts: dict[str, Any] = {"name": name, "methods": in_steps, "cameras": cameras}
    facts["may_name"] = has_role(asked.person, ADMIN)
    return asked.page_of("draft", words=("new", "capture"), data={"state": state}, **facts)
