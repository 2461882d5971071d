"""How many files a change touches: a field that the library gains, one of the station's own, and a page."""

import csv
import io
import json
import shutil
from contextlib import closing
from pathlib import Path

import httpx

import flawscope_station
from flawscope import Prediction
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from sink_helpers import Receiver, make_sink
from station_helpers import NAME, Served, free_port, until

SOURCE = Path(flawscope_station.__file__).parent
FIELD = {
    "store/schema.py": (
        '    Column("challenge_part_id",',
        '    Column("belt", Name),\n    Column("challenge_part_id",',
    ),
    "store/insert.py": (
        "    unanswered: str | None = None\n",
        '    belt: str | None = "north"\n    unanswered: str | None = None\n',
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
    words = serve({"model": str(model_file), "sinks": [{"webhook": receiver.url}]}).words
    served = Served(words, free_port(), {"PYTHONPATH": str(package.parent)})
    with closing(served), httpx.Client(base_url=served.url, timeout=60) as http:
        served.start()
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


WEIGHT = {"mean": 12.5, "of": ["left", "right"]}


def test_a_field_of_the_library_needs_no_file_of_the_station(
    open_station, model_file, parts, tmp_path, monkeypatch
):
    document = Prediction.to_dict
    monkeypatch.setattr(
        Prediction,
        "to_dict",
        lambda self: {**document(self), "weight_g": WEIGHT, "source": "x", "note": "y"},
    )
    folder, receiver = tmp_path / "found", Receiver()
    sinks = make_sink(webhook=receiver.url), make_sink(folder=str(folder))
    running = open_station(products={NAME: ProductSettings(str(model_file), sinks=sinks)})
    with Client(running.url) as client, httpx.Client(base_url=running.url, timeout=60) as http:
        found = client.inspect(parts[-1], NAME)
        assert found.weight_g == WEIGHT
        assert (found.source, found.note) == ("http", ""), "the station's own words stay"
        assert client.inspection(found.id, NAME) == found
        page = http.get(f"/{NAME}/inspections/{found.id}").text
        assert "weight g</dt><dd>mean 12.5, of left, right</dd>" in page
        table = http.get(f"/api/v1/products/{NAME}/export").content.decode("utf-8-sig")
        (row,) = csv.DictReader(io.StringIO(table))
        assert json.loads(row["more"])["weight_g"] == WEIGHT
        until(lambda: receiver.taken)
        assert json.loads(receiver.taken[0].body)["data"]["weight_g"] == WEIGHT
        until(lambda: [*folder.glob("*/*.json")])
        (written,) = folder.glob("*/*.json")
        assert json.loads(written.read_text())["data"]["weight_g"] == WEIGHT
