"""Templates, texts, scripts and styles of the station's pages: those of the library's review, and its own."""

from __future__ import annotations

from importlib import resources

from flawscope import pages

TABS = ("live", "review", "history", "trends", "models")
COMMON_SECTIONS = ("common", "nav", "state", "problems", "wrong")  # of the texts, that every script needs
PAGES = pages.Pages(resources.files(__package__) / "assets", tabs=TABS)
