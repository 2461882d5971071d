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
from flawscope.station.inspecting.renderings import encode_webp, reduce_picture
from flawscope.station.setup.draft import READY, Draft
from flawscope.station.sources.source import TriggeredSource
from flawscope.station.sources.trigger import wait_for_shot
from flawscope.station.store.records import REMOVED_EVENT, NotFoundError
from flawscope.station.web import schemas, setup_schemas, uploads
from flawscope.station.web.api import (
    DEFAULT_SIDE,
    Admin,
    Engineer,
    PictureName,
    RecordNumber,
    Side,
    StationDep,
    api_router,
    attachment,
    file_body_schema,
    refusals,
)
from flawscope.station.web.models_api import save_body
from flawscope.station.web.pages import Page, html_router
from flawscope.station.web.templates import render_standalone
from flawscope.station.web.uploads import Upload

ZIP_SIGNATURE = b"PK\x03\x04"
FRAME_SECONDS = 5.0  # in which a camera must give a frame
PREVIEW_SIDE = 640  # pixels of the longer side

router = api_router(409, prefix="/api/v1/new", role=ENGINEER)
page_router = html_router(ENGINEER)


async def _get_draft(name: str, station: StationDep) -> Draft:
    return station.drafts.draft(name)


DraftDep = Annotated[Draft, Depends(_get_draft)]


async def _get_learnt_draft(draft: DraftDep) -> Draft:
    if draft.stage != READY:
        raise NotFoundError(f"{draft.name} has no model yet: let it learn first")
    return draft


LearntDraftDep = Annotated[Draft, Depends(_get_learnt_draft)]

# ----------------------------------------------------------------------------------------------------- drafts


@router.get("", response_model=setup_schemas.NewProducts)
def list_drafts(station: StationDep) -> Any:
    """List the products that are being made, or were made here."""
    return {"products": [station.drafts.facts(draft, looked_at=False) for draft in station.drafts]}


@router.post("", status_code=201, response_model=setup_schemas.NewProductState)
def begin_draft(body: setup_schemas.NewProduct, station: StationDep, person: Engineer) -> Any:
    """Begin a product, or return the one of this name that was begun."""
    drafts, page_products = station.drafts, station.page_products.all()
    other_products = [name for name in station.addresses.names.values() if name not in page_products]
    return drafts.facts(drafts.begin(body.name, person.name, other_products))


@router.get("/{name}", response_model=setup_schemas.NewProductState)
def draft_state(draft: DraftDep, station: StationDep) -> Any:
    return station.drafts.facts(draft)


@router.delete("/{name}", status_code=204)
def remove_draft(name: str, station: StationDep, person: Engineer) -> None:
    """Remove a product that was begun, with its pictures. What went live stays."""
    station.drafts.remove(name)
    station.page_products.remove_unused_secrets(name)
    station.store.note_event(REMOVED_EVENT, person.name, f"pictures of the new product {name}")


# --------------------------------------------------------------------------------------------------- pictures


@router.get("/{name}/pictures", response_model=setup_schemas.NewPictures)
def pictures(draft: DraftDep) -> Any:
    """List the pictures to learn from, and those that were left out."""
    return {"pictures": draft.pictures(), "left_out": draft.left_out()}


@router.post(
    "/{name}/pictures",
    status_code=201,
    response_model=setup_schemas.AddedPictures,
    responses=refusals(408, 413, 415, 507),
    openapi_extra=file_body_schema("image/*", "application/zip", allow_form=True),
)
async def add_pictures(draft: DraftDep, request: Request, station: StationDep, file: PictureName = "") -> Any:
    """Add pictures of good parts: the body is a picture or a zip of them; a form may hold several. Those that
    are kept are on the disk when the answer comes; the same content is kept once."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind in ("application/zip", "application/x-zip-compressed") or file.lower().endswith(".zip"):
        added = await _receive_zip(station, draft, request, file or "the zip")
        return {"results": [picture._asdict() for picture in added]}
    sent, _ = await uploads.read_uploads(request, file)
    added = [kept for upload in sent for kept in await asyncio.to_thread(_add_upload, station, draft, upload)]
    if len(added) == 1 and added[0].status == "refused":
        raise InputError(str(added[0].error))
    return {"results": [picture._asdict() for picture in added]}


@router.post(
    "/{name}/capture", status_code=201, response_model=setup_schemas.CapturedPictures, responses=refusals(504)
)
async def capture(draft: DraftDep, body: setup_schemas.CaptureRequest, station: StationDep) -> Any:
    """Add what a camera shows now, and say what the picture is like beside the latest ones."""
    picture = await _capture(station, draft, body.product, body.camera)
    (added,) = await asyncio.to_thread(station.drafts.add, draft, [(picture.name, picture.data)])
    comparison = None
    if added.status == "kept":
        comparison = await asyncio.to_thread(station.drafts.captures.compare, draft, picture.data, added.name)
    return {"results": [{**added._asdict(), "seen": comparison}]}


@router.get("/{name}/view", response_model=setup_schemas.CameraView, responses=refusals(504))
async def preview(
    draft: DraftDep, station: StationDep, product: str | None = None, camera: RecordNumber | None = None
) -> Any:
    """Return what a camera shows now, and what that is like beside the latest pictures; nothing is kept."""
    picture = await _capture(station, draft, product, camera)

    def preview_facts() -> dict[str, Any]:
        webp_bytes = encode_webp(reduce_picture(picture.data, picture.name, PREVIEW_SIDE, draft.memory))
        comparison = station.drafts.captures.compare(draft, picture.data)
        return {**comparison, "picture": base64.b64encode(webp_bytes).decode()}

    return await asyncio.to_thread(preview_facts)


async def _capture(station: StationDep, draft: Draft, product: str | None, number: int | None) -> Picture:
    """Take a picture with a camera: number `number` of a product, or the draft's own."""
    if product is None:
        camera: TriggeredSource = await asyncio.to_thread(station.drafts.captures.camera, draft)
    else:
        camera = station.camera(product, number)
    return await asyncio.to_thread(camera.picture, await wait_for_shot(camera, FRAME_SECONDS, None), None)


@router.put("/{name}/source", response_model=setup_schemas.NewProductState)
def set_source(draft: DraftDep, body: setup_schemas.SourceEntry, station: StationDep, person: Admin) -> Any:
    """Name a camera, a folder or a video file to take pictures from. A camera goes live with the product."""
    entry = body.model_dump(exclude_none=True)
    try:
        station.drafts.captures.set_source(draft, station.page_products.source_entry(draft.name, entry))
    finally:
        station.page_products.remove_unused_secrets(draft.name)  # also a password that was refused
    return station.drafts.facts(draft)


async def _receive_zip(station: StationDep, draft: Draft, request: Request, name: str) -> Any:
    """Add the pictures of a zip that is the body, which may be larger than other bodies."""
    temporary = station.files.temporary_path("pictures.zip")
    try:
        await save_body(request, temporary)
        return await asyncio.to_thread(station.drafts.add_zip, draft, temporary, uploads.clean_name(name))
    finally:
        await asyncio.to_thread(station.files.remove_temporary, temporary)


def _add_upload(station: StationDep, draft: Draft, upload: Upload) -> Sequence[Any]:
    if not upload.data.startswith(ZIP_SIGNATURE):
        return station.drafts.add(draft, [(upload.name, upload.data)])
    temporary = station.files.temporary_path("pictures.zip")
    try:
        station.files.write(temporary, upload.data, durable=False)
        return station.drafts.add_zip(draft, temporary, upload.name)
    finally:
        station.files.remove_temporary(temporary)


@router.get("/{name}/pictures/{picture}", response_class=Response)
def view(draft: DraftDep, picture: str, side: Side = DEFAULT_SIDE) -> Response:
    """Return a picture upright, as WebP."""
    data = draft.view(picture, side)
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=600"})


@router.post("/{name}/leave-out", response_model=setup_schemas.NewProductState)
def leave_out(draft: DraftDep, body: setup_schemas.LeaveOutRequest, station: StationDep) -> Any:
    """Leave pictures out, or with `undo` take them back."""
    station.drafts.move(draft, body.pictures, out=not body.undo)
    return station.drafts.facts(draft)


# --------------------------------------------------------------------------------------------------- learning


@router.post("/{name}/learn", response_model=setup_schemas.NewProductState)
def learn(draft: DraftDep, station: StationDep, body: setup_schemas.LearningOptions | None = None) -> Any:
    """Learn from the pictures, as `flawscope fit` does, when the products before it are done."""
    options = body or setup_schemas.LearningOptions.model_validate({})
    station.drafts.learn(draft, options.model_dump(exclude={"go_on"}), go_on=options.go_on)
    return station.drafts.facts(draft)


@router.post("/{name}/stop", response_model=setup_schemas.NewProductState)
def stop(draft: DraftDep, station: StationDep) -> Any:
    """Stop the learning. A method that learns in steps can go on later."""
    station.drafts.stop_learning(draft)
    return station.drafts.facts(draft)


@router.post(
    "/{name}/try",
    response_model=setup_schemas.TriedPictures,
    responses=refusals(408, 413, 415),
    openapi_extra=file_body_schema("image/*", allow_form=True),
)
async def try_pictures(draft: DraftDep, request: Request, station: StationDep, file: PictureName = "") -> Any:
    """Judge a few pictures with what was learnt; nothing is kept."""
    uploaded, _ = await uploads.read_uploads(request, file)
    return await _judge(station, draft, [(upload.name, upload.data) for upload in uploaded])


@router.post("/{name}/try-capture", response_model=setup_schemas.TriedPictures, responses=refusals(504))
async def try_capture(draft: DraftDep, body: setup_schemas.CaptureRequest, station: StationDep) -> Any:
    """Judge what a camera shows now with what was learnt; nothing is kept."""
    picture = await _capture(station, draft, body.product, body.camera)
    return await _judge(station, draft, [(picture.name, picture.data)])


async def _judge(station: StationDep, draft: Draft, pictures: list[tuple[str, bytes]]) -> dict[str, Any]:
    results = await asyncio.to_thread(station.drafts.try_model, draft, pictures)
    for result in results:
        if "overlay" in result:
            result["overlay"] = base64.b64encode(result["overlay"]).decode()
    return {"results": results}


@router.get("/{name}/examples/{file}", response_class=FileResponse)
def example(draft: DraftDep, file: str) -> FileResponse:
    """Return a good picture with a simulated defect, as WebP."""
    result = draft.state.get("result") or {"examples": []}
    if file not in [known["file"] for known in result["examples"]]:
        raise NotFoundError(f"{draft.name} has no example {file!r:.40}")
    return FileResponse(draft.examples / file, media_type="image/webp")


@router.post("/{name}/live", response_model=schemas.Product)
def go_live(name: str, station: StationDep, person: Engineer) -> Any:
    """Let what was learnt inspect from now on, as a product of the station."""
    return station.go_live(name, person.name)


@router.get("/{name}/model", response_class=FileResponse)
def model(draft: LearntDraftDep) -> FileResponse:
    """Return the model file, .safetensors."""
    return FileResponse(draft.model, media_type="application/octet-stream", filename=draft.model.name)


@router.get("/{name}/report", response_class=Response)
def report(draft: LearntDraftDep, request: Request) -> Response:
    """Return what was learnt, what it promises and what it would miss, as an HTML file."""
    page, result, name = Page(request, "new"), draft.state["result"], draft.name
    examples = [
        {**example, "picture": base64.b64encode((draft.examples / example["file"]).read_bytes()).decode()}
        for example in result["examples"]
    ]
    facts = {"name": name, "state": draft.state, "result": result, "shown": examples}
    text = render_standalone("new-report", page.texts, **facts)
    return Response(text, media_type="text/html", headers=attachment(f"{name}.html"))


# ------------------------------------------------------------------------------------------------------ pages


@page_router.get("/-/new")
def new_page(request: Request) -> Response:
    """Show the products that are being made, and begin another."""
    page = Page(request, "new")
    drafts = [page.station.drafts.facts(draft, looked_at=False) for draft in page.station.drafts]
    return page.render("new", sections=("new",), drafts=drafts)


@page_router.get("/-/new/{name}")
def draft_page(name: str, request: Request) -> Response:
    page = Page(request, "new")
    state = page.station.drafts.facts(page.station.drafts.draft(name))
    methods = {method.name: method.learns_in_steps for method in registry.loadable_methods()}
    cameras = [
        (product, source.number)
        for product, sources in page.station.sources.items()
        for source in sources
        if isinstance(source, TriggeredSource)
    ]
    facts: dict[str, Any] = {"name": name, "methods": methods, "cameras": cameras}
    facts["may_name"] = has_role(page.person, ADMIN)
    return page.render("draft", sections=("new", "capture"), data={"state": state}, **facts)
