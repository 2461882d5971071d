"""Imports the names of a package when they are first used."""

from __future__ import annotations

# Type checkers take this constant for True. `typing.TYPE_CHECKING` would double the time of this import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def lazy_names(package: str, modules: dict[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package that imports names when they are first used.

    Args:
        package: Name of the package.
        modules: For each name, the module within the package that defines it.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get
