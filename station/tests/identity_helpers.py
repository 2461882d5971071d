"""What unit and end-to-end tests need: test_station_identity.py, whole/test_station_identity_whole.py."""

import httpx

from station_helpers import INSPECTIONS

PRODUCT = "products/plate"


def count(api: httpx.Client) -> int:
    return int(api.get(PRODUCT).json()["inspections"])


def post(api: httpx.Client, *data: bytes, key: str = "", form: bool = False, **query: str) -> httpx.Response:
    """One picture in the body, or several in a form."""
    headers = {"Idempotency-Key": key} if key else {}
    if form:
        files = [("files", (f"{place}.png", one)) for place, one in enumerate(data)]
        return api.post(INSPECTIONS, files=files, headers=headers, params=query)
    return api.post(INSPECTIONS, content=data[0], headers=headers, params=query)


def used(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and answer.json()["code"] == "key_used"
