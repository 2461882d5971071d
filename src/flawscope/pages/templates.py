"""Templates, texts, scripts and styles of pages: of the review's own, which other pages add theirs to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, ClassVar
from urllib.parse import quote

from flawscope.errors import FlawscopeError
from flawscope.pictures.text_files import load_yaml
from flawscope.results import html
from flawscope.results.findings import Reason, Value

LANGUAGES = {"en": "English", "de": "Deutsch", "fr": "Français"}
DEFAULT_LANGUAGE = "en"
THEMES = ("light", "dark")
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
ASSETS = resources.files(__package__) / "assets"


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

    def reason(self, reason: Reason) -> str:
        """Return the text of a reason of a finding (`findings.Reason`)."""

        def shown(value: Value) -> str:
            if value is None:
                return self("common.region")
            return self.number(value, 4) if isinstance(value, float) else str(value)

        values = {name: shown(value) for name, value in reason.items() if name != "code"}
        return self(f"common.reason_{reason['code']}", **values)

    def number(self, value: float | None, digits: int = 3) -> str:
        """Format a number with so many significant digits, and the language's decimal mark."""
        if value is None:
            return "–"
        text = f"{value:.{digits}g}"
        if "e+" in text:  # 154.2 with two digits is 150, not 1.5e+02
            text = f"{float(text):.0f}"
        return text if self.language == "en" else text.replace(".", ",")

    def value(self, value: Any) -> str:
        """Format a value of JSON: numbers as `number` does, what a list or a mapping holds side by side."""
        if isinstance(value, dict):
            return ", ".join(f"{name} {self.value(one)}".replace("_", " ") for name, one in value.items())
        if isinstance(value, list):
            return ", ".join(map(self.value, value))
        return self.number(value) if isinstance(value, float) else "–" if value is None else str(value)


class Pages:
    """Pages from folders of assets: templates and static files by name, and texts, whose sections are joined:
    `texts/LANGUAGE.yaml`, or `texts/PAGE.yaml` with each language.

    Args:
        folders: of assets beside those of the review.
        partial: folder of assets of which another language than English may lack texts: it has the English
            ones there.
        more: names that every template knows.
    """

    security_headers: ClassVar[dict[str, str]] = {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",  # without any, browsers send forms with `Origin: null`
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    def __init__(self, *folders: Traversable, partial: Traversable | None = None, **more: Any):
        self._complete, self._partial, self._more = (ASSETS, *folders), partial, more
        self._folders = self._complete if partial is None else (*self._complete, partial)

    @functools.cached_property
    def texts(self) -> dict[str, Texts]:
        """Texts by language of `LANGUAGES`. FlawscopeError where a language lacks a key."""
        by_language = {name: _read_texts(self._complete, name) for name in LANGUAGES}
        for name, known in by_language.items():
            if different := known.keys() ^ by_language[DEFAULT_LANGUAGE].keys():
                raise FlawscopeError(
                    f"texts: {min(different)} is not in every language as in {name}; give each the same keys"
                )
        if self._partial is not None and (self._partial / "texts").is_dir():
            english = _read_texts([self._partial], DEFAULT_LANGUAGE)
            for name, known in by_language.items():
                known |= english | _read_texts([self._partial], name)
        return {language: Texts(language, flat) for language, flat in by_language.items()}

    def texts_for(self, chosen: str | None, accept_language: str = "") -> Texts:
        """Return the texts of the language that the person chose, else of the first in the header
        Accept-Language that there is, else English ones."""
        accepted = (part.split(";")[0].strip().lower()[:2] for part in accept_language.split(","))
        names = (name for name in (chosen, *accepted) if name in self.texts)
        return self.texts[next(names, None) or DEFAULT_LANGUAGE]

    def render(
        self,
        template: str,
        texts: Texts,
        script: Mapping[str, object],
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

        def static(file: str) -> str:
            return f"{root}/static/{file}?v={self.static_files[file][1]}"

        values = more | {
            "t": texts,
            "static": static,
            "script": {"language": texts.language} | dict(script),
            "theme": theme if theme in THEMES else None,
        }
        text: str = self._environment.get_template(f"{template}.html.j2").render(values)
        return text

    def render_standalone(self, template: str, texts: Texts, **context: Any) -> str:
        """Render a page as a file that needs no server: with its style, without scripts."""
        text = self.render(template, texts, {}, theme="light", **context)
        css = self.static_files["pages.css"][0].decode()
        return text.replace("</head>", f"<style>{css}</style></head>", 1)

    @functools.cached_property
    def static_files(self) -> dict[str, tuple[bytes, str, str]]:
        """Content, hash and media type, by name, of all files that the pages may ask for."""
        files = {}
        for folder in self._folders:
            for name, file in _walk(folder):
                if media_type := _MEDIA_TYPES.get(f".{name.rpartition('.')[2]}"):
                    body = file.read_bytes()
                    files[name] = body, hashlib.sha256(body).hexdigest()[:12], media_type
        return files

    @functools.cached_property
    def _environment(self) -> Any:
        environment = html.environment(self._read_template)
        environment.filters["part"] = lambda name: quote(name or "", safe="")  # one segment of a URL's path
        environment.globals |= {"for_script": html.script_json, "languages": LANGUAGES, **self._more}
        return environment

    def _read_template(self, name: str) -> str:
        file = next(file for folder in self._folders if (file := folder / name).is_file())
        return file.read_text(encoding="utf-8")


def _read_texts(folders: Sequence[Traversable], language: str) -> dict[str, str]:
    """Return the texts of one language in folders of assets, by key."""
    parts: list[Mapping[str, Mapping[str, object]]] = []
    for file in (file for folder in folders for file in (folder / "texts").iterdir()):
        stem = file.name.removesuffix(".yaml")
        if stem == language or stem not in LANGUAGES:
            part = load_yaml(file.read_text(encoding="utf-8"))
            parts.append(part if stem == language else part[language])
    sections = [section for part in parts for section in part.items()]
    return {f"{name}.{key}": str(text) for name, part in sections for key, text in part.items()}


def _walk(folder: Traversable, below: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield the files below a folder, with their paths below it."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _walk(item, f"{below}{item.name}/")
        else:
            yield f"{below}{item.name}", item


PAGES = Pages()  # of the review alone
