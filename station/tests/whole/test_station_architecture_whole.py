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

# room -> those that it imports, from the ground up; `assembly` adds the features to the core
STATION: dict[str, str] = {
    "settings": "",
    "store": "settings",
    "monitoring": "store",
    "access": "settings store",
    "inspecting": "settings store monitoring",
    "sources": "settings store monitoring inspecting",
    "sinks": "settings store monitoring inspecting",
    "core": "settings store monitoring access inspecting sources sinks",
    "shifts": "settings store inspecting",
    "learning": "settings store monitoring",
    "challenge": "settings store monitoring inspecting",
    "drift": "settings store monitoring inspecting",
    "setup": "settings store monitoring inspecting sources core learning",
    "web": "settings store monitoring access inspecting sources core shifts learning challenge drift setup",
    "assembly": "settings access core learning challenge drift setup web",
    "client": "settings store web",
    "cli": "settings store monitoring access inspecting web assembly client",
    "plugins": "settings store monitoring inspecting sources sinks core",
    "testing": "settings store access inspecting sources core web assembly",
}
FEATURES = {"shifts", "learning", "challenge", "drift", "setup"}


def test_everything_imports_only_what_stands_below():
    drawn = inner_arrows(ROOT)
    assert drawn == {(room, other) for room, others in STATION.items() for other in others.split()}
    order = list(STATION)
    assert all(order.index(other) < order.index(room) for room, other in drawn)


def test_the_core_does_not_know_its_features():
    """Nor does anything that it loads."""
    loaded = loaded_after("import flawscope_station.core.station")
    assert not {f"flawscope_station.{feature}" for feature in {*FEATURES, "web", "assembly"}} & loaded


def test_of_the_library_only_public_names_are_used():
    """Those of station/library-names.md, each of which is used; also names in modules imported whole."""
    page = (Path(__file__).parents[3] / "station/library-names.md").read_text(encoding="utf-8")
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
    assert len({name for _, name in imported}) <= 52
    assert len({module for module, _ in imported}) <= 11


def test_a_client_loads_nothing_of_the_server():
    loaded = loaded_after("from flawscope_station import Client")
    assert not loaded & {"fastapi", "starlette", "sqlalchemy", "uvicorn", "torch"}
