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
DEFAULT = "en"
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


class Texts:
    """Texts of one language. Called with a key such as "live.hold" it returns the text, with the values put
    in where the text names them in braces.

    Args:
        flat: key -> text.
    """

    def __init__(self, language: str, flat: Mapping[str, str]):
        self.language = language
        self.flat = dict(flat)

    def __call__(self, key: str, /, **values: object) -> str:
        return self.flat[key].format(**values)

    def either(self, key: str, other: str) -> str:
        """The text of a key that may be unknown, else that of another one."""
        return self.flat.get(key, self.flat[other])

    def count(self, key: str, number: int, /, **values: object) -> str:
        """The text for one thing or for several: the keys end with _one and _many."""
        return self(f"{key}_{'one' if number == 1 else 'many'}", n=number, **values)

    def sections(self, *names: str) -> dict[str, str]:
        """The texts of these sections, for a script."""
        return {key: text for key, text in self.flat.items() if key.split(".")[0] in names}

    def number(self, value: float | None, digits: int = 3) -> str:
        """A number with so many significant digits, in the language's way of writing."""
        if value is None:
            return "–"
        text = f"{value:.{digits}g}"
        return text if self.language == "en" else text.replace(".", ",")


@functools.cache
def texts(language: str) -> Texts:
    """The texts of a language of `LANGUAGES`. Raises FlawscopeError if a language lacks a key."""
    read = {name: _flat(name) for name in LANGUAGES}
    for name, found in read.items():
        if odd := found.keys() ^ read[DEFAULT].keys():
            raise FlawscopeError(
                f"texts/{name}.yaml: {min(odd)} is not in every language; give each file the same keys"
            )
    return Texts(language, read[language])


def chosen(wanted: str | None, accepted: str) -> str:
    """Language to speak: the one that the person chose, else the first known one of Accept-Language."""
    if wanted in LANGUAGES:
        return wanted
    for part in accepted.split(","):
        if (name := part.split(";")[0].strip().lower()[:2]) in LANGUAGES:
            return name
    return DEFAULT


def _flat(language: str) -> dict[str, str]:
    path = resources.files(__package__) / "assets" / "texts" / f"{language}.yaml"
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{section}.{key}": str(text) for section, part in found.items() for key, text in part.items()}


def rendered(
    template: str,
    texts: Texts,
    script: Mapping[str, Any],
    /,
    *,
    theme: str | None,
    root: str = "",
    **more: Any,
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
        **more,
    )
    return text


def standalone(template: str, texts: Texts, **context: Any) -> str:
    """The page of a template as a file that is read where there is no station: with its style, without
    scripts."""
    text = rendered(template, texts, {}, theme="light", **context)
    css = static_files()["station.css"][0].decode()
    return text.replace("</head>", f"<style>{css}</style></head>", 1)


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
    """Name, quoted as one part of a URL's path."""
    return quote(name or "", safe="")


@functools.cache
def _environment() -> Any:
    made = html.environment(lambda name: (_ASSETS / name).read_text(encoding="utf-8"))
    made.filters["part"] = part
    made.globals |= {"tabs": TABS, "languages": LANGUAGES, "for_script": html.for_script}
    return made
