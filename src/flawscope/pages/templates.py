"""Templates, texts, scripts and styles of the review's pages; other pages add their own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from flawscope.errors import FlawscopeError
from flawscope.pictures.text_files import load_yaml
from flawscope.results import html
from flawscope.results.findings import Reason, Value

if TYPE_CHECKING:
    from jinja2 import Environment

LANGUAGES = {"en": "English", "de": "Deutsch", "fr": "Français"}
DEFAULT_LANGUAGE = "en"
# Numbers that take the singular, by language, as in CLDR; in other languages only 1 does
NUMBERS_OF_ONE = {"en": (1,), "de": (1,), "fr": (0, 1)}
THEMES = ("light", "dark")
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
ASSETS = resources.files(__package__) / "assets"


class Texts:
    """Texts of one language by key.

    Called with a key such as "live.hold" it returns the text, formatted with the values.

    Args:
        language: Code of the language.
        language_texts: Texts in the language, by key; keys may be missing.
        english: English texts of all keys, by key, which stand in for missing texts.

    Attributes:
        language: Code of the language.
        flat: Texts of all keys, by key.
        missing: Keys whose text is English because the language lacks it.
    """

    def __init__(self, language: str, language_texts: Mapping[str, str], english: Mapping[str, str]):
        self.language = language
        self.flat = {**english, **language_texts}
        self.missing = english.keys() - language_texts.keys()

    def __call__(self, key: str, /, **values: object) -> str:
        """Return the text of a key, formatted with the values.

        Raises:
            KeyError: The key is unknown.
        """
        return self.flat[key].format(**values)

    def text_or(self, key: str, other: str) -> str:
        """Return the text of `key`; if it is unknown, the text of `other`."""
        return self.flat.get(key, self.flat[other])

    def count(self, key: str, number: int, /, **values: object) -> str:
        """Return the text for a number of things, in the language's form for that number.

        Args:
            key: Key of the text without its ending, _one or _many.
            number: Number of things; the text may contain it as {n}.
            values: Further values of the text.
        """
        counted_key = _counted_key(self.language, key, number)
        if counted_key in self.missing:  # the text is English, and takes the English form
            counted_key = _counted_key(DEFAULT_LANGUAGE, key, number)
        return self(counted_key, n=number, **values)

    def sections(self, *names: str) -> dict[str, str]:
        """Return the texts of these sections, by key (SECTION.NAME), for a script."""
        return {key: text for key, text in self.flat.items() if key.split(".")[0] in names}

    def reason(self, reason: Reason) -> str:
        """Return the text of a finding's reason (`findings.Reason`)."""

        def value_text(value: Value) -> str:
            if value is None:  # the kind of the region is not known
                return self("common.region")
            return self.number(value, 4) if isinstance(value, float) else str(value)

        values = {name: value_text(value) for name, value in reason.items() if name != "code"}
        return self(f"common.reason_{reason['code']}", **values)

    def number(self, value: float | None, digits: int = 3) -> str:
        """Format a number with significant digits and the language's decimal mark; None gives a dash."""
        if value is None:
            return "–"
        text = f"{value:.{digits}g}"
        if "e+" in text:  # without exponent: 154.2 with two digits is 150, not 1.5e+02
            text = f"{float(text):.0f}"
        return text if self.language == "en" else text.replace(".", ",")

    def value(self, value: object) -> str:
        """Format a value of JSON; values in a list or a mapping are separated by commas."""
        if isinstance(value, dict):
            return ", ".join(f"{name} {self.value(item)}".replace("_", " ") for name, item in value.items())
        if isinstance(value, list):
            return ", ".join(map(self.value, value))
        if value is None or isinstance(value, float):
            return self.number(value)
        return str(value)


def _counted_key(language: str, key: str, number: int) -> str:
    """Return the key of the text for a number of things in a language."""
    numbers_of_one = NUMBERS_OF_ONE.get(language, (1,))
    return f"{key}_one" if number in numbers_of_one else f"{key}_many"


class Pages:
    """Pages from folders of assets.

    A folder holds templates, static files, and texts. Texts are in `texts/LANGUAGE.yaml`, or, for all
    languages, in `texts/PAGE.yaml`. The texts of a section may come from several files.

    Args:
        folders: Further folders of assets, beside that of the review.
        languages: Names of the languages, each in the language itself, by code; missing texts are shown in
            English.
        more: Values that every template can use, by name.
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

    def __init__(self, *folders: Traversable, languages: Mapping[str, str] = LANGUAGES, **more: object):
        self._folders = (ASSETS, *folders)
        self.languages = languages
        self._more = more

    @functools.cached_property
    def texts(self) -> dict[str, Texts]:
        """Texts by language.

        Raises:
            FlawscopeError: A language has a key that English lacks.
        """
        english = self._read_texts(DEFAULT_LANGUAGE)
        texts_by_language = {}
        for language in self.languages:
            language_texts = self._read_texts(language)
            unknown_keys = language_texts.keys() - english.keys()
            if unknown_keys:
                key = min(unknown_keys)
                raise FlawscopeError(
                    f"texts: {key} is in {language} and not in English; mend it, or add it there"
                )
            texts_by_language[language] = Texts(language, language_texts, english)
        return texts_by_language

    @property
    def missing_texts(self) -> list[str]:
        """A line for each language with missing texts, which says how many are missing."""
        lines = []
        for language, texts in self.texts.items():
            if not texts.missing:
                continue
            name = self.languages[language]
            count = len(texts.missing)
            lines.append(f"{name}: {count} of {len(texts.flat)} texts missing, shown in English")
        return lines

    def texts_for(self, chosen: str | None, accept_language: str = "") -> Texts:
        """Return the texts of the language that a person chose, or that the browser asks for, or of English.

        Args:
            chosen: Code of the language that the person chose; None: the person has chosen none.
            accept_language: Header Accept-Language of the browser; the first language with texts is taken.
        """
        if chosen is not None and chosen in self.texts:
            return self.texts[chosen]
        for part in accept_language.split(","):
            language_tag, *_ = part.split(";")  # such as de-AT;q=0.8
            language = language_tag.strip().lower()[:2]
            if language in self.texts:
                return self.texts[language]
        return self.texts[DEFAULT_LANGUAGE]

    def _read_texts(self, language: str) -> dict[str, str]:
        """Return the texts of a language by key; keys that the language lacks are left out."""
        text_by_key: dict[str, str] = {}
        for file in self._text_files():
            stem = file.name.removesuffix(".yaml")  # code of a language, or name of a page
            if stem in self.languages and stem != language:
                continue
            content = load_yaml(file.read_text(encoding="utf-8")) or {}
            assert isinstance(content, dict)
            # a page's file has the sections of each language by its code
            sections = content if stem == language else content.get(language) or {}
            text_by_key |= _flat_texts(sections)
        return text_by_key

    def _text_files(self) -> Iterator[Traversable]:
        """Yield the files of texts in all folders."""
        for folder in self._folders:
            texts = folder / "texts"
            if texts.is_dir():
                yield from texts.iterdir()

    def render(
        self,
        template: str,
        texts: Texts,
        script: Mapping[str, object],
        /,
        *,
        theme: str | None,
        root: str = "",
        **more: object,
    ) -> str:
        """Render a page from a template.

        Args:
            template: Name of the template without its suffix.
            texts: Texts of the page's language.
            script: Data for the page's script. The language, and the keys of its missing texts, are added.
            theme: A name of `THEMES`; any other value: the browser's theme.
            root: Prefix of the paths of static files.
            **more: Further values of the template.
        """

        def static(file: str) -> str:
            _, digest, _ = self.static_files[file]
            return f"{root}/static/{file}?v={digest}"

        values = more | {
            "t": texts,
            "static": static,
            "script": {"language": texts.language, "missing": sorted(texts.missing)} | dict(script),
            "theme": theme if theme in THEMES else None,
        }
        text: str = self._environment.get_template(f"{template}.html.j2").render(values)
        return text

    def render_standalone(self, template: str, texts: Texts, **context: object) -> str:
        """Render a page that needs no server: the style is inside the page, and there are no scripts."""
        text = self.render(template, texts, {}, theme="light", root="", **context)
        css, _, _ = self.static_files["pages.css"]
        return text.replace("</head>", f"<style>{css.decode()}</style></head>", 1)

    @functools.cached_property
    def static_files(self) -> dict[str, tuple[bytes, str, str]]:
        """Content, hash and media type of all files that the pages may ask for, by name."""
        files = {}
        for folder in self._folders:
            for name, file in _walk(folder):
                media_type = _MEDIA_TYPES.get(PurePosixPath(name).suffix)
                if media_type is not None:
                    body = file.read_bytes()
                    files[name] = body, hashlib.sha256(body).hexdigest()[:12], media_type
        return files

    @functools.cached_property
    def _environment(self) -> Environment:
        environment = html.environment(self._read_template)
        environment.filters["part"] = lambda name: quote(name or "", safe="")  # one segment of a URL's path
        environment.globals |= {"for_script": html.script_json, "languages": self.languages}
        environment.globals |= {"texts_of": self.texts, **self._more}
        return environment

    def _read_template(self, name: str) -> str:
        """Return the text of a template, from the first folder that has it."""
        files = (folder / name for folder in self._folders)
        template = next(file for file in files if file.is_file())
        return template.read_text(encoding="utf-8")


def _flat_texts(sections: Mapping[str, Mapping[str, object] | None]) -> dict[str, str]:
    """Return the texts of all sections, by `SECTION.KEY`."""
    text_by_key = {}
    for name, section in sections.items():
        for key, text in (section or {}).items():
            if text not in (None, ""):
                text_by_key[f"{name}.{key}"] = str(text)
    return text_by_key


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield `prefix` + the relative path, and the file, for each file below a folder."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _walk(item, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item


PAGES = Pages()  # the pages of the review alone
