"""A filter of the search is one row: a copy of the station has one more, its step, and its texts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flawscope_station
from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.store.migrations import newest_version
from station_helpers import NAME, opened

TESTS = Path(__file__).parents[1]
ROW = '    *bounds("brightness", Column("brightness", Double), "mean of its pixels, 0 to 1"),\n'
STEP = """
import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{last}"


def upgrade() -> None:
    op.add_column("inspections", sa.Column("brightness", sa.Double))
    op.drop_index("inspections_search", "inspections")
    columns = "product_id id at anomalous tolerated verdict review purpose unanswered score brightness"
    op.create_index("inspections_search", "inspections", [*columns.split(), "version_id"])
"""
TEXT = '  brightness_min: "Brightness from"\n  brightness_max: "Brightness to"\n'
# what is asked of the copy, as JSON
ASK = """
import json, sys
import httpx
from flawscope_station.settings.station import ProductSettings, Settings
from learning_helpers import drawn_part
from station_helpers import NAME, Listening, opened

store, model = sys.argv[1:]
settings = Settings(store=store, port=0, products={NAME: ProductSettings(model)})
running = opened(settings, Listening)
api = f"{running.url}/api/v1/products/{NAME}"
parts = [drawn_part(seed, stained=seed % 2 == 1) for seed in range(6)]
for k, part in enumerate(parts):
    httpx.post(f"{api}/inspections", params={"name": f"{k}.png"}, content=part, timeout=60)
every = httpx.get(f"{api}/inspections", timeout=60).json()["inspections"]
bright = sorted(one["brightness"] for one in every if one["brightness"] is not None)
middle = str(bright[len(bright) // 2])
found = httpx.get(f"{api}/inspections", params={"brightness_min": middle}, timeout=60).json()["inspections"]
comma = {"brightness_min": middle.replace(".", ",")}
page = httpx.get(f"{running.url}/{NAME}/history", params=comma, timeout=60)
schema = httpx.get(f"{running.url}/api/v1/openapi.json", timeout=60).json()
search = schema["paths"]["/api/v1/products/{name}/inspections"]["get"]["parameters"]
sheet = httpx.get(f"{api}/export", params={"format": "xlsx", "brightness_min": middle}, timeout=60)
open(f"{store}/found.xlsx", "wb").write(sheet.content)
with running.station.database.reading() as connection:
    plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT id FROM inspections WHERE product_id = 1 AND"
        " brightness >= 0.5 ORDER BY id DESC LIMIT 50").all()[0][-1]
print(json.dumps({
    "all": [one["brightness"] for one in every], "middle": float(middle),
    "found": [one["brightness"] for one in found],
    "csv": httpx.get(f"{api}/export", timeout=60).text.splitlines(),
    "page": [page.status_code, page.text], "plan": plan,
    "parameters": {one["name"]: one.get("description") for one in search},
}))
running.close()
"""
LACKS = """
import sys
from sqlalchemy import create_engine
from migrations_helpers import missing_step
from flawscope_station.store.database import Database

database = Database(f"sqlite:///{sys.argv[1]}/station.sqlite")
database.migrate()
with database.reading() as connection:
    print(missing_step(connection))
"""


@pytest.fixture(name="copy")
def copy_fixture(tmp_path):
    """The station's package with one more row."""
    package = tmp_path / "src/flawscope_station"
    shutil.copytree(next(iter(flawscope_station.__path__)), package)
    rows = package / "store/filters.py"
    text, end = rows.read_text(), ")\nBY_NAME"
    assert text.count(end) == 1
    rows.write_text(text.replace('    Filter("version"', f'{ROW}    Filter("version"'))
    return package


def run(copy: Path, code: str, *words: object) -> str:
    environment = os.environ | {"PYTHONPATH": f"{copy.parent}:{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
    call = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(name="store")
def store_fixture(tmp_path, model_file):
    """A store that the station of today made."""
    folder = tmp_path / "store"
    opened(Settings(store=str(folder), products={NAME: ProductSettings(str(model_file))})).close()
    return folder


def test_a_row_without_its_step_is_told_by_what_it_lacks(copy, store):
    said = run(copy, LACKS, store)
    last = newest_version()
    assert f"write steps/v{int(last) + 1:04}_NAME.py after {last}, for: " in said
    assert "add_column inspections.brightness" in said
    assert "inspections_search" in said


def test_a_new_filter_is_a_row_a_step_and_its_texts(copy, store, model_file):
    last = newest_version()
    step = copy / f"store/steps/v{int(last) + 1:04}_brightness.py"
    step.write_text(STEP.format(next=f"{int(last) + 1:04}", last=last))
    for language in ("en", "de", "fr"):
        texts = copy / f"web/assets/texts/{language}.yaml"
        texts.write_text(texts.read_text().replace("\nhistory:\n", f"\nhistory:\n{TEXT}"))
    assert run(copy, LACKS, store).strip() == ""
    said = json.loads(run(copy, ASK, store, model_file).splitlines()[-1])
    wanted = [one for one in said["all"] if one is not None and one >= said["middle"]]
    assert said["found"] == wanted
    assert 0 < len(wanted) < len(said["all"])
    header, first, *_ = said["csv"]
    assert "brightness" in header.split(",")
    assert re.search(r",0\.\d+,", first)
    code, page = said["page"]
    assert code == 200
    assert page.count('<li class="card">') == len(wanted), "with a decimal comma"
    assert "Brightness from<input" in page
    assert said["parameters"]["brightness_max"] == "mean of its pixels, 0 to 1"
    assert "inspections_search" in said["plan"]
    openpyxl = pytest.importorskip("openpyxl")
    rows = list(openpyxl.load_workbook(store / "found.xlsx")["Judged"].values)
    assert rows[0][-1] == "Brightness"
    assert sorted(row[-1] for row in rows[1:]) == pytest.approx(sorted(wanted))
