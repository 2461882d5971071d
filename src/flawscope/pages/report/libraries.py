"""Checks, when a page is written, that the libraries that it needs are installed."""

from __future__ import annotations

from flawscope.errors import InputError, require_installed


def require_libraries(*, plots: bool = True) -> None:
    """Raise an InputError where a library that a page needs is not installed.

    Args:
        plots: Whether the page has curves, which need matplotlib.
    """
    from PIL import features

    if plots:
        require_installed("a report", "matplotlib", extras="report")
    if not features.check("webp"):
        raise InputError("a report needs a Pillow with WebP: pip install --force-reinstall pillow")
