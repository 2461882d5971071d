"""What a route does not ask for is refused, on every route of the API."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

OPEN = "/api/v1/openapi.json"
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@SQLITE
def test_every_route_refuses_what_it_does_not_know(running: Any, parts: list[bytes]) -> None:
    """Those that the description lists, so that a route that comes later is among them."""
    with httpx.Client(base_url=running.url, timeout=30) as api:
        paths = api.get(OPEN).json()["paths"]
        asked = [(method, path) for path, methods in paths.items() for method in methods]
        assert len(asked) > 20
        for method, path in asked:
            there = re.sub("{[a-z]+}", "1", path.replace("{name}", "plate"))
            answer = api.request(method, there, params={"serial_nr": "77"})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (method, path)
            assert "serial_nr" in answer.json()["error"], (method, path)
        found = api.get("/api/v1/products/plate/inspections", params={"verdikt": "good"})
        assert "did you mean verdict?" in found.json()["error"]
        assert api.get("/api/v1/products/plate/inspections?name=serial-77").status_code == 422
        sent = api.post("/api/v1/products/plate/inspections?serial=77", content=parts[0])
        assert sent.status_code == 422
        twice = api.post("/api/v1/products/plate/inspections?part=1&part=2", content=parts[0])
        assert twice.status_code == 422
        assert api.get("/api/v1/products/plate").json()["inspections"] == 0
