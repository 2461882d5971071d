"""How many files a change touches: a field of the station's own and a page, made up in a copy of it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import httpx

import flawscope_station
from sink_helpers import Receiver
from station_helpers import NAME, until

SOURCE = Path(flawscope_station.__file__).parent
FIELD = {
    "store/schema.py": (
        '    Column("challenge_part_id",',
        '    Column("belt", Name),\n    Column("challenge_part_id",',
    ),
    "store/insert.py": (
        "    part_views: PartViews | None = field(",
        '    belt: str | None = "north"\n    part_views: PartViews | None = field(',
    ),
    "store/inspection.py": (
        '    purpose: Literal["production"',
        '    belt: str | None = Field(None, description="it came by")\n    purpose: Literal["production"',
    ),
}
PAGE_ROUTES = '''"""Page of the belt."""

from typing import Annotated

from fastapi import APIRouter, Response

from flawscope_station.web.pages import Page, product_page

page_router = APIRouter(include_in_schema=False)


@page_router.get("/{product}/belt")
def belt_page(page: Annotated[Page, product_page("belt")]) -> Response:
    """Show the belt."""
    return page.render("belt", speed=3)
'''
PAGE = {
    "web/belt_page.py": ("", PAGE_ROUTES),
    "web/assets/belt.html.j2": (
        "",
        '{% extends "base.html.j2" %}\n{% block main %}\n'
        '<p>{{ t("belt.title") }}: {{ speed }}</p>{% endblock %}',
    ),
    "web/assets/texts/belt.yaml": (
        "",
        "en: {belt: {title: Belt}}\nde: {belt: {title: Förderband}}\nfr: {belt: {title: Tapis}}\n",
    ),
    "assembly.py": (
        "    return Extension(routers=(shifts_api.router,))",
        "    from flawscope_station.web import belt_page\n\n"
        '    return Extension(routers=(shifts_api.router, belt_page.page_router), menu=("belt",))',
    ),
}


def test_a_field_touches_three_files_and_a_page_four(serve, model_file, parts, tmp_path):
    package = tmp_path / "source" / "flawscope_station"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in (FIELD | PAGE).items():
        text = (package / name).read_text() if old else ""
        assert text.count(old) == 1 or not old, name
        (package / name).write_text(text.replace(old, new) if old else new)
    assert (len(FIELD), len(PAGE)) == (3, 4)
    receiver = Receiver()
    served = serve({"model": str(model_file), "sinks": [{"webhook": receiver.url}]})
    served.environment["PYTHONPATH"] = str(package.parent)
    served.start()
    with httpx.Client(base_url=served.url, timeout=60) as http:
        api = f"/api/v1/products/{NAME}"
        found = http.post(f"{api}/inspections", content=parts[0]).json()
        assert found["belt"] == "north"
        assert http.get(f"{api}/inspections/{found['id']}").json()["belt"] == "north"
        assert '"belt"' in json.dumps(http.get("/api/v1/openapi.json").json())
        (row,) = csv.DictReader(io.StringIO(http.get(f"{api}/export").content.decode("utf-8-sig")))
        assert row["belt"] == "north"
        until(lambda: receiver.taken)
        assert json.loads(receiver.taken[0].body)["data"]["belt"] == "north"
        page = http.get(f"/{NAME}/belt", headers={"Accept-Language": "de"}).text
        assert "<p>Förderband: 3</p>" in page
        assert f'<a href="/{NAME}/belt">Belt</a>' in http.get(f"/{NAME}/live").text, "in the menu"
