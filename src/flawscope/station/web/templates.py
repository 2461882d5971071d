"""Templates, scripts and styles of the pages. Needs nothing of the server: `flawscope review` shows its page
with them, too."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any
from urllib.parse import quote

from flawscope.results import html
from flawscope.station.web.texts import LANGUAGES, Texts

TABS = ("live", "review", "history", "trends", "models")
THEMES = ("light", "dark")
WORDS = ("common", "nav", "state", "problems", "wrong")  # sections of the texts that every script needs
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, browsers send forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_ASSETS = resources.files(__package__) / "assets"


def rendered(
    template: str,
    texts: Texts,
    script: Mapping[str, Any],
    /,
    *,
    root: str = "",
    theme: str | None,
    **context: Any,
) -> str:
    """The page of a template, which is named without its suffix.

    Args:
        script: what the page's script is given, beside the language.
        root: what addresses of static files begin with.
        theme: of `THEMES`; any other: as the browser has it.
    """
    found = _environment().get_template(f"{template}.html.j2")
    text: str = found.render(
        t=texts,
        static=lambda file: f"{root}/static/{file}?v={static_files()[file][1]}",
        script={"language": texts.language, **script},
        theme=theme if theme in THEMES else None,
        **context,
    )
    return text


@functools.cache
def static_files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> content, hash and media type of all files that the pages may ask for."""
    names = [item.name for item in _ASSETS.iterdir()]
    names += [f"vendored/uPlot/{item.name}" for item in (_ASSETS / "vendored" / "uPlot").iterdir()]
    found = {}
    for name in names:
        if kind := _KINDS.get(f".{name.rpartition('.')[2]}"):
            body = _ASSETS.joinpath(*name.split("/")).read_bytes()
            found[name] = body, hashlib.sha256(body).hexdigest()[:12], kind
    return found


def part(name: str | None) -> str:
    """A name as one part of an address."""
    return quote(name or "", safe="")


@functools.cache
def _environment() -> Any:
    made = html.environment(lambda name: (_ASSETS / name).read_text(encoding="utf-8"))
    made.filters["part"] = part
    made.globals |= {"tabs": TABS, "languages": LANGUAGES, "for_script": html.for_script}
    return made
