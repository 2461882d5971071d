"""The imports of a package, read from its code: which module names which."""

import ast
from functools import cache

from durations import apart


def modules_of(root):
    """Modules below a package's folder by their names within it; "": its own face."""
    return {_name(path, root): path for path in sorted(root.rglob("*.py"))}


def _name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def names_taken_by(path):
    """Full names of all that the file imports, also inside functions."""
    found = set()
    with apart("import graph"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def imported_by(path):
    """Every module that the file names in an import, also inside functions; full names."""
    taken = names_taken_by(path)
    return taken | {name.rpartition(".")[0] for name in taken if "." in name}


def inner_arrows(root, package=""):
    """Imports between the modules and folders directly in a package, named from the root's folder on."""
    prefix, within = ".".join(filter(None, (root.name, package))), f"{package}." if package else ""
    own = {n.removeprefix(within): p for n, p in modules_of(root).items() if n.startswith(within) and n}
    found = set()
    for module, path in own.items():
        for name in imported_by(path):
            other = name.removeprefix(f"{prefix}.").split(".")[0]
            if name.startswith(f"{prefix}.") and any(m.split(".")[0] == other for m in own):
                found.add((module.split(".")[0], other))
    return {(one, other) for one, other in found if one != other}


def module_arrows(root):
    """Imports between the modules of a package, at any depth, named from the root's folder on; "": its own
    face. A name that is no module is the package's that it is taken from."""
    own = modules_of(root)
    found = set()
    for module, path in own.items():
        for name in names_taken_by(path):
            if name.split(".")[0] != root.name:
                continue
            while (inside := name.removeprefix(root.name).removeprefix(".")) not in own:
                name = name.rpartition(".")[0]
            found.add((module, inside))
    return {(one, other) for one, other in found if one != other}


def arrows_to_own_face(root):
    """Imports of a name from the face of a package that the module itself lies in."""
    own = modules_of(root)
    found = set()
    for module, path in own.items():
        for name in names_taken_by(path):
            inside = name.removeprefix(f"{root.name}.")
            package = inside.rpartition(".")[0]
            if not name.startswith(f"{root.name}.") or inside in own:
                continue
            if not package or module.startswith(f"{package}."):
                found.add((module, inside))
    return found


def packages_of(root):
    """Packages below the root, by their names within it; "": the root."""
    return sorted(_name(path, root) for path in root.rglob("__init__.py"))


def circle(arrows):
    """Arrows that are left when those to leaves are taken away again and again; empty: no circle."""
    left = set(arrows)
    while left and (leaves := {other for _, other in left} - {one for one, _ in left}):
        left = {(one, other) for one, other in left if other not in leaves}
    return left
