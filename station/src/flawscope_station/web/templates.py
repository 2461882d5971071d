"""Templates, texts, scripts and styles of the station's pages, with those of the library's review."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from flawscope import pages

TABS = ("live", "review", "history", "trends", "models")
COMMON_SECTIONS = ("common", "nav", "state", "problems", "wrong")  # sections of texts for every script
ASSETS = resources.files(__package__) / "assets"
PAGES = pages.Pages(ASSETS, tabs=TABS)


def pages_with(assets: Traversable) -> pages.Pages:
    """Return the station's templates, texts and scripts, together with those of a plugin's page."""
    return pages.Pages(ASSETS, assets, tabs=TABS)
