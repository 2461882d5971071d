"""Checks that names imported from packages of the project exist: `python tests/imported_names.py PATH ...`.

mypy does so for the sources alone; what a page's script or a rare test imports fails when that runs. Nothing
is imported here: names are read from the sources.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSES = [ROOT / "src", ROOT / "station/src", ROOT / "line/src", *(ROOT / "examples").iterdir()]


@cache
def names_in(module: str) -> set[str] | None:
    """The names that a module has, and the modules in it; None: there is no such module."""
    for house in HOUSES:
        folder = house.joinpath(*module.split("."))
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if file.is_file():
            inside = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
            return inside | names_bound(ast.parse(file.read_text(encoding="utf-8")))
    return None


def names_bound(node: ast.AST) -> set[str]:
    """The names that a module binds, also below `if` and `try`, but not in functions and classes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.alias):
        return {node.asname or node.name}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return {node.id}
    return set().union(*map(names_bound, ast.iter_child_nodes(node)))


def missing(file: Path) -> Iterator[str]:
    """Yields a line for each name that a file imports and that does not exist."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).startswith("flawscope"):
            there = names_in(str(node.module)) or set()
            for one in node.names:
                if one.name not in there:
                    yield f"{file}:{node.lineno}: {node.module} has no {one.name}"


if __name__ == "__main__":
    paths = [Path(one) for one in sys.argv[1:]]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    kept = [file for file in files if "build" not in file.parts]  # left by an installation
    sys.exit("\n".join(line for file in kept for line in missing(file)) or 0)
