"""The versions of everything that decides a score."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata

from flawscope._version import __version__

PACKAGES = ("torch", "timm", "numpy", "pillow")


def versions() -> dict[str, str]:
    """flawscope, Python and the packages that are installed."""
    found = {"flawscope": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
