"""Checks for the libraries that a page needs, when one is written."""

from __future__ import annotations

from flawscope.errors import InputError, require_installed


def require_libraries(*, plots: bool = True) -> None:
    """InputError where a library that a page needs is not installed. plots: the page has curves."""
    from PIL import features

    if plots:
        require_installed("a report", "matplotlib", extras="report")
    if not features.check("webp"):
        raise InputError("a report needs a Pillow with WebP: pip install --force-reinstall pillow")
