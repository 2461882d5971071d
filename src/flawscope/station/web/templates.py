"""Templates, texts, scripts and styles of the pages. Needs nothing of the server: `flawscope review` uses
them, too."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any
from urllib.parse import quote

import yaml

from flawscope.errors import FlawscopeError
from flawscope.results import html

LANGUAGES = {"en": "English", "de": "Deutsch", "fr": "Français"}
DEFAULT_LANGUAGE = "en"
TABS = ("live", "review", "history", "trends", "models")
THEMES = ("light", "dark")
COMMON_SECTIONS = ("common", "nav", "state", "problems", "wrong")  # of the texts, that every script needs
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, browsers send forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
_ASSETS = resources.files(__package__) / "assets"


class Texts:
    """Texts of one language by key. Called with a key such as "live.hold" it returns the text, formatted with
    the values."""

    def __init__(self, language: str, flat: Mapping[str, str]):
        self.language = language
        self.flat = dict(flat)

    def __call__(self, key: str, /, **values: object) -> str:
        return self.flat[key].format(**values)

    def text_or(self, key: str, other: str) -> str:
        """Return the text of a key, or of the other key where the first is unknown."""
        return self.flat.get(key, self.flat[other])

    def count(self, key: str, number: int, /, **values: object) -> str:
        """Return the text for a number of things, 1 or other: its key ends with _one or _many."""
        return self(f"{key}_{'one' if number == 1 else 'many'}", n=number, **values)

    def sections(self, *names: str) -> dict[str, str]:
        """Return the texts of these sections by key, for a script."""
        return {key: text for key, text in self.flat.items() if key.split(".")[0] in names}

    def number(self, value: float | None, digits: int = 3) -> str:
        """Format a number with so many significant digits, and the language's decimal mark."""
        if value is None:
            return "–"
        text = f"{value:.{digits}g}"
        return text if self.language == "en" else text.replace(".", ",")


@functools.cache
def texts(language: str) -> Texts:
    """Return the texts of a language of `LANGUAGES`. FlawscopeError where a language lacks a key."""
    by_language = {name: _read_texts(name) for name in LANGUAGES}
    for name, known in by_language.items():
        if different := known.keys() ^ by_language[DEFAULT_LANGUAGE].keys():
            raise FlawscopeError(
                f"texts/{name}.yaml: {min(different)} is not in every language; give each file the same keys"
            )
    return Texts(language, by_language[language])


def choose_language(cookie: str | None, accept_language: str) -> str:
    """Return the language that the person chose, by the cookie, else the first known of Accept-Language."""
    if cookie in LANGUAGES:
        return cookie
    for part in accept_language.split(","):
        if (name := part.split(";")[0].strip().lower()[:2]) in LANGUAGES:
            return name
    return DEFAULT_LANGUAGE


def _read_texts(language: str) -> dict[str, str]:
    path = resources.files(__package__) / "assets" / "texts" / f"{language}.yaml"
    sections: Mapping[str, Mapping[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{name}.{key}": str(text) for name, part in sections.items() for key, text in part.items()}


def render(
    template: str,
    texts: Texts,
    script: Mapping[str, Any],
    /,
    *,
    theme: str | None,
    root: str = "",
    **more: Any,
) -> str:
    """Render a page from a template, which is named without its suffix.

    Args:
        script: data for the page's script, beside the language.
        root: prefix of the paths of static files.
        theme: of `THEMES`; any other: that of the browser.
    """
    jinja_template = _environment().get_template(f"{template}.html.j2")
    text: str = jinja_template.render(
        t=texts,
        static=lambda file: f"{root}/static/{file}?v={static_files()[file][1]}",
        script={"language": texts.language, **script},
        theme=theme if theme in THEMES else None,
        **more,
    )
    return text


def render_standalone(template: str, texts: Texts, **context: Any) -> str:
    """Render a page as a file that needs no station: with its style, without scripts."""
    text = render(template, texts, {}, theme="light", **context)
    css = static_files()["station.css"][0].decode()
    return text.replace("</head>", f"<style>{css}</style></head>", 1)


@functools.cache
def static_files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, hash and media type, by name, of all files that the pages may ask for."""
    names = [item.name for item in _ASSETS.iterdir()]
    names += [f"vendored/uPlot/{item.name}" for item in (_ASSETS / "vendored" / "uPlot").iterdir()]
    files = {}
    for name in names:
        if media_type := _MEDIA_TYPES.get(f".{name.rpartition('.')[2]}"):
            body = _ASSETS.joinpath(*name.split("/")).read_bytes()
            files[name] = body, hashlib.sha256(body).hexdigest()[:12], media_type
    return files


def quote_segment(name: str | None) -> str:
    """Quote a name as one segment of a URL's path."""
    return quote(name or "", safe="")


@functools.cache
def _environment() -> Any:
    environment = html.environment(lambda name: (_ASSETS / name).read_text(encoding="utf-8"))
    environment.filters["part"] = quote_segment
    environment.globals |= {"tabs": TABS, "languages": LANGUAGES, "for_script": html.script_json}
    return environment
