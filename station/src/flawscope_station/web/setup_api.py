"""Routes and pages of products that are being made: pictures, checks, fits, trials and going live."""

from __future__ import annotations

import asyncio
import base64
from pathlib import PurePath
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.responses import FileResponse

from flawscope.artefact import rates
from flawscope.errors import InputError
from flawscope.methods import options, registry
from flawscope.pictures import still_frames
from flawscope_station.access.roles import ENGINEER
from flawscope_station.setup.draft import (
    AddedPicture,
    Draft,
    describe_result,
    refuse_defect_folder,
)
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.other_files import check_zip_name
from flawscope_station.sources.source import TriggeredSource
from flawscope_station.sources.trigger import wait_for_shot
from flawscope_station.store.files import Files
from flawscope_station.store.product_facts import Product
from flawscope_station.store.records import NotFoundError
from flawscope_station.store.throughput import pictures_a_day
from flawscope_station.web import setup_schemas, uploads
from flawscope_station.web.api import (
    DEFAULT_SIDE,
    Answer,
    Engineer,
    PictureName,
    Side,
    api_router,
    attachment,
    file_body_schema,
    refusals,
)
from flawscope_station.web.components import (
    AddressesDep,
    ContextDep,
    FilesDep,
    OverviewDep,
    RendererDep,
    component,
)
from flawscope_station.web.errors import RefusedError
from flawscope_station.web.models_api import LiveProductsDep, save_body
from flawscope_station.web.pages import Page, html_router
from flawscope_station.web.templates import PAGES
from flawscope_station.web.uploads import Upload

ZIP_SIGNATURE = b"PK\x03\x04"
FRAME_SECONDS = 5.0  # longest time until a camera's frame comes
STILL_FRAMES = 30  # frames from which a camera is measured

router = api_router(409, prefix="/api/v1/new", role=ENGINEER)
page_router = html_router(ENGINEER)


DraftsDep = Annotated[Drafts, component(Drafts)]


async def _get_draft(name: str, drafts: DraftsDep) -> Draft:
    """Return the draft of the name in the path. NotFoundError."""
    return drafts.draft(name)


DraftDep = Annotated[Draft, Depends(_get_draft)]


async def _get_learnt_draft(draft: DraftDep) -> Draft:
    """Return the draft of the name in the path. NotFoundError: there is none, or it has no model."""
    if draft.result is None:
        raise NotFoundError(f"{draft.name} has no model yet: let it learn first")
    return draft


LearntDraftDep = Annotated[Draft, Depends(_get_learnt_draft)]

# ----------------------------------------------------------------------------------------------------- drafts


@router.get("", response_model=setup_schemas.NewProducts, summary="New products")
def list_drafts(drafts: DraftsDep) -> Answer:
    """List the products that are being made, or were made here."""
    return {"products": [drafts.facts(draft, looked_at=False) for draft in drafts]}


@router.post("", status_code=201, response_model=setup_schemas.NewProductState, summary="Begin a new product")
def begin_draft(body: setup_schemas.NewProduct, live_products: LiveProductsDep, person: Engineer) -> Answer:
    """Begin a product, or return the product of this name that was begun before."""
    return live_products.drafts.facts(live_products.begin(body.name, person.name))


@router.get("/{name}", response_model=setup_schemas.NewProductState, summary="State of a new product")
def draft_state(draft: DraftDep, drafts: DraftsDep) -> Answer:
    """Return the state of a product that is being made."""
    return drafts.facts(draft)


@router.delete("/{name}", status_code=204, summary="Remove a new product")
def remove_draft(name: str, live_products: LiveProductsDep, person: Engineer) -> None:
    """Remove a product that is being made, with its pictures; versions that went live stay."""
    live_products.remove(name, person.name)


# --------------------------------------------------------------------------------------------------- pictures


@router.get("/{name}/pictures", response_model=setup_schemas.NewPictures, summary="Pictures of a new product")
def pictures(draft: DraftDep) -> Answer:
    """List the pictures to learn from, and those that were left out."""
    return {"pictures": draft.pictures(), "left_out": draft.left_out()}


@router.post(
    "/{name}/pictures",
    status_code=201,
    response_model=setup_schemas.AddedPictures,
    responses=refusals(408, 413, 507),
    openapi_extra=file_body_schema("image/*", "application/zip", allow_form=True),
)
async def add_pictures(
    draft: DraftDep, request: Request, drafts: DraftsDep, files: FilesDep, file: PictureName = ""
) -> Answer:
    """Add pictures of good parts: the body is a picture, a zip of pictures, or a form with several of both.

    Stored pictures are on the disk when the answer comes; identical files are stored once.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    refuse_defect_folder(file)
    has_zip_type = media_type in ("application/zip", "application/x-zip-compressed")
    is_zip = has_zip_type or file.lower().endswith(".zip")
    if is_zip:
        results = await _receive_zip(files, drafts, draft, request, file or "the zip")
        return {"results": [result._asdict() for result in results]}
    sent_files, _ = await uploads.read_uploads(request, file)
    results = list[AddedPicture]()
    for upload in sent_files:
        results += await asyncio.to_thread(_add_upload, files, drafts, draft, upload)
    if len(results) == 1 and results[0].status == "refused":
        raise RefusedError(422, str(results[0].error), results[0].code or "invalid")
    return {"results": [result._asdict() for result in results]}


@router.post(
    "/{name}/capture",
    status_code=201,
    response_model=setup_schemas.AddedPictures,
    responses=refusals(504, 507),
    summary="Add a camera's frame",
)
async def capture(
    draft: DraftDep,
    body: setup_schemas.CaptureRequest,
    drafts: DraftsDep,
    context: ContextDep,
    renderer: RendererDep,
) -> Answer:
    """Add the current frame of a camera, or the picture of an inspection."""
    if body.inspection is not None:
        product_id = context.addresses.product_id(body.product)
        data, _, name = await asyncio.to_thread(renderer.picture, product_id, body.inspection)
    else:
        camera = context.camera(body.product, body.camera)
        shot = await wait_for_shot(camera, FRAME_SECONDS, request=None)
        picture = await asyncio.to_thread(camera.picture, shot)
        data = picture.data
        name = picture.name
        if body.part is not None and picture.view is not None:
            # such as `plate-03_top.png`, with the part and its view
            name = f"{body.part}_{picture.view}{PurePath(name).suffix}"
    results = await asyncio.to_thread(drafts.add, draft, [(name, data)])
    return {"results": [result._asdict() for result in results]}


@router.post(
    "/{name}/still",
    response_model=setup_schemas.StillState,
    responses=refusals(504),
    summary="Measure a camera",
)
async def measure_camera(draft: DraftDep, body: setup_schemas.StillRequest, context: ContextDep) -> Answer:
    """Measure noise, light, movement and focus of a camera, from frames of a part that lies still."""
    camera = context.camera(body.product, body.camera)
    frames = list[bytes]()
    for _ in range(STILL_FRAMES):
        shot = await wait_for_shot(camera, FRAME_SECONDS, request=None)
        picture = await asyncio.to_thread(camera.picture, shot)
        frames.append(picture.data)
    report = await asyncio.to_thread(still_frames.check_still_frames, frames)
    return report.to_dict()


async def _receive_zip(
    files: Files, drafts: Drafts, draft: Draft, request: Request, name: str
) -> list[AddedPicture]:
    """Add the pictures of a zip that is the body of a request; a zip may be larger than other bodies.

    Args:
        files: Files of the store.
        drafts: Drafts of all new products.
        draft: Draft that gets the pictures.
        request: HTTP request.
        name: Name of the zip, for errors.
    """
    temporary = files.temporary_path("pictures.zip")
    try:
        await save_body(request, temporary)
        return await asyncio.to_thread(drafts.add_zip, draft, temporary, uploads.clean_name(name))
    finally:
        await asyncio.to_thread(files.remove_temporary, temporary)


def _add_upload(files: Files, drafts: Drafts, draft: Draft, upload: Upload) -> list[AddedPicture]:
    """Add a file of a request, which is a picture or a zip, and return the result of each picture."""
    if not upload.data.startswith(ZIP_SIGNATURE):
        return drafts.add(draft, [(upload.name, upload.data)])
    temporary = files.temporary_path("pictures.zip")
    try:
        check_zip_name(upload.name)
        files.write(temporary, upload.data, durable=False)
        return drafts.add_zip(draft, temporary, upload.name)
    except InputError as error:  # not raised, so that the other files of the request are added
        return [AddedPicture.refused(upload.name, error, text=str(error))]
    finally:
        files.remove_temporary(temporary)


@router.get("/{name}/pictures/{picture}", response_class=Response, summary="View of a picture")
def view(draft: DraftDep, picture: str, side: Side = DEFAULT_SIDE) -> Response:
    """Return a picture upright, as WebP."""
    data = draft.view(picture, side)
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=600"})


@router.post("/{name}/leave-out", response_model=setup_schemas.NewProductState, summary="Leave pictures out")
def leave_out(draft: DraftDep, body: setup_schemas.LeaveOutRequest, drafts: DraftsDep) -> Answer:
    """Leave pictures out, or with `undo` take them back."""
    drafts.move(draft, body.pictures, out=not body.undo)
    return drafts.facts(draft)


# --------------------------------------------------------------------------------------------------- learning


@router.post("/{name}/options", response_model=setup_schemas.Conflicts, summary="Check options of learning")
def check_options(draft: DraftDep, body: setup_schemas.LearningOptions) -> Answer:
    """Return the pairs of options that contradict each other; nothing is learnt."""
    fit_options = body.model_dump(exclude={"go_on", "all_good"})
    return {"conflicts": [conflict._asdict() for conflict in options.find_conflicts(fit_options)]}


@router.post("/{name}/learn", response_model=setup_schemas.NewProductState, summary="Learn from the pictures")
def learn(
    draft: DraftDep, drafts: DraftsDep, person: Engineer, body: setup_schemas.LearningOptions | None = None
) -> Answer:
    """Learn from the pictures, as `flawscope fit` does, when the products before this one are done.

    The answer is 409, `question`, where the pictures' names leave open which of them are good.
    """
    learning_options = body or setup_schemas.LearningOptions.model_validate({})
    go_on = learning_options.go_on
    all_good = learning_options.all_good
    fit_options = learning_options.model_dump(exclude={"go_on", "all_good"})
    drafts.learn(draft, fit_options, person.name, go_on=go_on, all_good=all_good)
    return drafts.facts(draft)


@router.post("/{name}/stop", response_model=setup_schemas.NewProductState, summary="Stop learning")
def stop(draft: DraftDep, drafts: DraftsDep) -> Answer:
    """Stop the learning.

    A method that learns in steps can go on later. The first stop in a search for settings ends only the
    search: learning goes on with the best settings found.
    """
    drafts.stop_learning(draft)
    return drafts.facts(draft)


@router.post(
    "/{name}/try",
    response_model=setup_schemas.TriedPictures,
    responses=refusals(408, 413),
    openapi_extra=file_body_schema("image/*", allow_form=True),
    summary="Try the model",
)
async def try_pictures(
    draft: DraftDep, request: Request, drafts: DraftsDep, file: PictureName = ""
) -> Answer:
    """Judge a few pictures with the learnt model; nothing is stored."""
    sent_files, _ = await uploads.read_uploads(request, file)
    pictures = [(upload.name, upload.data) for upload in sent_files]
    results = await asyncio.to_thread(drafts.try_model, draft, pictures)
    for result in results:
        if "overlay" in result:
            result["overlay"] = base64.b64encode(result["overlay"]).decode()
    return {"results": results}


@router.get("/{name}/examples/{file}", response_class=FileResponse, summary="Example of a simulated defect")
def example(draft: DraftDep, file: str) -> FileResponse:
    """Return a good picture with a simulated defect, as WebP."""
    examples = draft.result["examples"] if draft.result else []
    if file not in [example_facts["file"] for example_facts in examples]:
        raise NotFoundError(f"{draft.name} has no example {file!r:.40}")
    return FileResponse(draft.examples / file, media_type="image/webp")


@router.post("/{name}/live", summary="Let a product go live")
def go_live(name: str, live_products: LiveProductsDep, overview: OverviewDep, person: Engineer) -> Product:
    """Let the learnt model inspect from now on, as a product of the station."""
    live_products.go_live(name, person.name)
    return overview.facts(name)


@router.get("/{name}/model", response_class=FileResponse, summary="Model file of a new product")
def model(draft: LearntDraftDep) -> FileResponse:
    """Return the model file, .safetensors."""
    return FileResponse(draft.model, media_type="application/octet-stream", filename=draft.model.name)


@router.get("/{name}/report", response_class=Response, summary="Report of learning")
def report(draft: LearntDraftDep, request: Request) -> Response:
    """Return a report as an HTML file: results of learning, expected rates and missed defects."""
    page = Page(request, "new")
    assert draft.result is not None, "`LearntDraftDep` has a result"
    result = describe_result(draft.result)
    examples = []
    for example in result["examples"]:
        data = (draft.examples / example["file"]).read_bytes()
        examples.append({**example, "picture": base64.b64encode(data).decode()})
    document = PAGES.render_standalone(
        "new-report", page.texts, name=draft.name, result=result, shown=examples
    )
    return Response(document, media_type="text/html", headers=attachment(f"{draft.name}.html"))


# ------------------------------------------------------------------------------------------------------ pages


@page_router.get("/-/new")
def new_page(request: Request, drafts: DraftsDep, addresses: AddressesDep) -> Response:
    """Show the products that are being made, a form to begin another, and removed products."""
    facts = [drafts.facts(draft, looked_at=False) for draft in drafts]
    removed_names = list(addresses.removed())
    return Page(request, "new").render("new", sections=("new",), drafts=facts, gone=removed_names)


@page_router.get("/-/new/{name}")
def draft_page(
    name: str, request: Request, draft: DraftDep, drafts: DraftsDep, context: ContextDep
) -> Response:
    """Show a product that is being made."""
    page = Page(request, "new")
    state = drafts.facts(draft)
    learns_in_steps_by_method = {
        method.name: method.learns_in_steps for method in registry.loadable_methods()
    }
    cameras = []  # product, number and view of each camera
    for product, sources in context.sources.items():
        for source in sources:
            if isinstance(source, TriggeredSource):
                cameras.append((product, source.number, getattr(source, "view", None)))
    product_id = context.addresses.products.get(name)  # None: it did not go live
    daily_pictures = None if product_id is None else pictures_a_day(context.store.database, product_id)
    return page.render(
        "draft",
        sections=("new", "progress", "capture", "still", "promise", "rates"),
        data={"state": state, "day": daily_pictures},
        name=name,
        methods=learns_in_steps_by_method,
        options=options.NEW_PRODUCT,
        cameras=cameras,
        rates=rates.offered_rates(),
        few=registry.FEW,
        accurate_lacks=registry.missing_package("patchcore", "accurate"),
        day=daily_pictures,
    )
