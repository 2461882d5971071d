"""Routes of reviews: a person's verdict on an inspection, and the inspections that wait for one."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import Query, Request

from flawscope.errors import InputError
from flawscope_station.access.roles import OPERATOR, PERSON_KEY, has_role
from flawscope_station.settings.station import Limits
from flawscope_station.store.files import MASK_SUFFIX, MASKS
from flawscope_station.store.inspection import HTTP, Inspection, InspectionFacts, request_key
from flawscope_station.store.records import WaitingInspections, valid_id_or_zero
from flawscope_station.store.search import MAX_PAGE_SIZE
from flawscope_station.web import schemas, uploads
from flawscope_station.web.api import Operator, api_router, key_header_schema
from flawscope_station.web.components import FilesDep, MetricsDep, ProductId, RecordsDep, SettingsDep

MAX_MASK_BYTES = 8 * 1024**2  # largest size of a mask in base64

router = api_router()

RecordNumber = Annotated[int, Query(ge=0, lt=2**63)]
Reader = Annotated[
    str,
    Query(
        max_length=64, description="name of your page or program, where several review at a time: any text"
    ),
]


@router.post(
    "/inspections/{number}/verdict",
    response_model=Inspection,
    responses={409: {"model": schemas.DecidedRefusal}},
    openapi_extra={"parameters": key_header_schema("is one verdict")},
    summary="Record a verdict",
)
def decide(
    name: str,
    product_id: ProductId,
    number: int,
    request: Request,
    verdict: schemas.Verdict,
    records: RecordsDep,
    files: FilesDep,
    settings: SettingsDep,
    metrics: MetricsDep,
    person: Operator,
    reader: Reader = "",
) -> InspectionFacts:
    """Record a person's verdict on an inspection; `undo` takes the last verdict back.

    The answer is 409 where somebody else decided meanwhile, and names the person and the verdict; send the
    request again with `replaces` to replace that verdict.
    """
    store = records.store
    inspection_id = valid_id_or_zero(number)
    key = uploads.idempotency_key(request)
    mask_hash = None
    if verdict.mask is not None:
        mask = _read_mask(verdict.mask, store.inspection(product_id, inspection_id), settings.limits)
        # held until the verdict refers to it, because housekeeping removes files that no record names
        mask_hash = files.keep(MASKS, mask, MASK_SUFFIX, hold=True)
    try:
        inspection = store.add_verdict(
            product_id,
            inspection_id,
            verdict.verdict,
            person.name,
            mask=mask_hash,
            note=verdict.note,
            key=None if key is None else request_key(HTTP, key),
            kind=verdict.kind,
            replaces=verdict.replaces,
        )
    finally:
        if mask_hash is not None:
            files.release(mask_hash)
    metrics.verdicts.labels(name, verdict.verdict).inc()
    records.note_verdict(product_id, inspection_id, reader)
    return inspection


def _read_mask(encoded: str, inspection: InspectionFacts, limits: Limits) -> bytes:
    """Decode a mask that a person drew, and convert it to its stored form.

    Args:
        encoded: PNG in base64, perhaps as a data URL.
        inspection: Inspection of the picture.
        limits: Limits of pictures.

    Raises:
        InputError: The mask is too large, no PNG in base64, or not of the picture's shape.
    """
    if len(encoded) > MAX_MASK_BYTES:
        raise InputError("the mask has more than 8 MB: send a PNG of two values")
    try:
        data = base64.b64decode(encoded.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the mask is not base64: send a PNG in base64") from None
    return uploads.normalize_mask(data, inspection["width"], inspection["height"], limits)


@router.get(
    "/review", response_model=schemas.WaitingInspections, summary="Inspections that wait for a review"
)
def review(
    product_id: ProductId,
    request: Request,
    records: RecordsDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 20,
    after: RecordNumber = 0,
    reader: Reader = "",
) -> WaitingInspections:
    """List inspections that wait for a review, the oldest first.

    The list begins after the number `after`.

    With a `reader` the inspections are lent to it: no other reader gets them until five minutes after this
    reader's last verdict. When few are left, a reader gets half of them. `waiting` counts all, also those
    that are lent.
    """
    may_judge = has_role(request.scope[PERSON_KEY], OPERATOR)  # nothing is lent to a viewer
    return records.waiting(product_id, limit, after, reader if may_judge else "")


@router.post("/review/release", status_code=204, summary="Give back lent inspections")
def release_review(product_id: ProductId, records: RecordsDep, person: Operator, reader: Reader) -> None:
    """Give back the inspections that were lent to a reader."""
    records.release(reader)
