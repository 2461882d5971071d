"""What unit and end-to-end tests need: test_station_drift.py, whole/test_station_drift_whole.py."""

from typing import Any

import httpx

from station_helpers import until

API = "/api/v1/products/plate"


def drift(http: httpx.Client, pictures: int) -> dict[str, Any]:
    """What the API says once so many are counted."""

    def found() -> dict[str, Any] | None:
        answer = http.get(f"{API}/drift")
        assert answer.status_code == 200, answer.text
        facts: dict[str, Any] = answer.json()
        return facts if facts["ready"] and facts["pictures"] >= pictures else None

    return dict(until(found))
