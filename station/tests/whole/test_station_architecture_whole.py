"""The packages of the station and the line: who may import whom. docs/architecture.md tells it in words."""

import ast
import importlib
import re
from pathlib import Path

from test_architecture import loaded_after

import flawscope
import flawscope_station
from import_graph import inner_arrows, modules_of

ROOT = Path(flawscope_station.__file__).parent
HOUSES = (ROOT, Path(__file__).parents[3] / "line/src/flawscope_line")

# part -> those that it imports, from the ground up. `station` is the core, `assembly` adds the rest.
STATION: dict[str, str] = {
    "background": "",
    "settings": "",
    "live": "",
    "store": "settings",
    "problems": "background store",
    "access": "settings store",
    "inspecting": "background settings store",
    "housekeeping": "background settings store problems access",
    "sources": "background settings store problems inspecting",
    "refusals": "live store inspecting",
    "sinks": "background settings store inspecting",
    "connections": "background settings store problems inspecting sources refusals",
    "extension": "background settings live inspecting",
    "page_products": "settings store",
    "health": "background store problems inspecting housekeeping sources",
    "queries": "live store inspecting sources sinks connections health",
    "station": "background settings live store problems access inspecting housekeeping sources sinks "
    "connections extension page_products health queries refusals",
    "shifts": "background settings store inspecting sinks",
    "learning": "background settings store access",
    "challenge": "background settings store access inspecting",
    "drift": "background settings store inspecting",
    "setup": "background settings store access inspecting sources page_products learning",
    "web": "settings live store access inspecting housekeeping sources refusals connections health queries "
    "station shifts learning challenge drift setup",
    "assembly": "settings sinks extension station shifts learning challenge drift setup web",
    "client": "settings store web",
    "cli": "background settings store access inspecting sources web assembly",
    "plugins": "background settings store problems inspecting sources sinks connections",
    "testing": "settings store inspecting sources station assembly",
}
FEATURES = {"shifts", "learning", "challenge", "drift", "setup"}


def test_everything_imports_only_what_stands_below():
    drawn = inner_arrows(ROOT)
    assert drawn == {(part, other) for part, others in STATION.items() for other in others.split()}
    order = list(STATION)
    assert all(order.index(other) < order.index(part) for part, other in drawn)


def test_the_core_does_not_know_its_features():
    """Nor does anything that it loads."""
    loaded = loaded_after("import flawscope_station.station")
    assert not {f"flawscope_station.{feature}" for feature in {*FEATURES, "web", "assembly"}} & loaded


def test_of_the_library_only_public_names_are_used():
    """Those that docs/api.md lists, each of which is used; also names in modules that are imported whole."""
    page = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(flawscope[\w.]*)` \| [^|]* \| (.*) \|$", page, re.M)
    public = {(module, name) for module, names in rows for name in re.findall(r"`(\w+)`", names)}
    library = {f"flawscope.{name}" for name in modules_of(Path(flawscope.__file__).parent)}
    imported, inside = set(), set()
    for path in [path for house in HOUSES for path in house.rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        import_nodes = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        names = {
            (str(node.module), alias.name, alias.asname or alias.name)
            for node in import_nodes
            if str(node.module).split(".")[0] == "flawscope"
            for alias in node.names
        }
        imported |= {(module, name) for module, name, _ in names}
        modules = {
            local: f"{module}.{name}" for module, name, local in names if f"{module}.{name}" in library
        }
        inside |= {
            (modules[node.value.id], node.attr)
            for node in nodes
            if isinstance(node, ast.Attribute)
            if isinstance(node.value, ast.Name)
            if node.value.id in modules
            if hasattr(importlib.import_module(modules[node.value.id]), node.attr)  # else it is a local's
        }
    assert imported | inside == public
    assert len({name for _, name in imported}) <= 50
    assert len({module for module, _ in imported}) <= 10


def test_a_client_loads_nothing_of_the_server():
    loaded = loaded_after("from flawscope_station import Client")
    assert not loaded & {"fastapi", "starlette", "sqlalchemy", "uvicorn", "torch"}
