"""Reads texts that people write beside pictures: settings, lists, secrets.

They have the encodings of editors and shells. YAML leaves every value as it is written: the setting's type
decides its meaning.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from flawscope.errors import one_line_message

if TYPE_CHECKING:
    import yaml

# the values within are of these types, too
YamlValue: TypeAlias = dict[str, Any] | list[Any] | str | None
# Settings have three levels; the longest hold names of 1,000 kinds
MAX_YAML_LENGTH = 100_000
MAX_YAML_DEPTH = 20
MAX_YAML_ALIASES = 30
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell's `>` writes one
QUOTES = {"'": "'", '"': '"', "‘": "’", "“": "”", "„": "“"}  # closing quote by opening quote
# A path in double quotes. In YAML a letter after \ there means another sign: C:\new is a line break and "ew"
_PATH_IN_QUOTES = re.compile(r'"(?:[A-Za-z]:\\(?!\\)|\\\\[A-Za-z0-9])')
_QUOTE_REMEDY = "write a path in single quotes, or with /"
_NULL, _MERGE, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "merge", "str"))


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text: UTF-8 with or without a mark, UTF-16 with one.

    Raises:
        OSError: The file cannot be read.
        ValueError: The text has another encoding; the message has the reason and the remedy.
    """
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """Decode the content of a text as `read_text` does."""
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("its letters are not UTF-8; save it as UTF-8") from None
    if "\0" in text:  # UTF-16 without a mark, or UTF-32
        raise ValueError("it is no text in UTF-8; save it as UTF-8")
    return text


def text_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text in UTF-8, without its byte order mark.

    Lines of UTF-8 are yielded as soon as they are there. A text in UTF-16 is first read to its end.
    """
    first = stream.readline().removeprefix(codecs.BOM_UTF8)
    if first.startswith(UTF_16_MARKS):
        yield from decode_text(first + stream.read()).encode().splitlines(keepends=True)
    elif first:
        yield first
        yield from stream


def unquoted(text: str) -> str:
    """Return the name of a file without quotes around it; unchanged if a file has the name with the quotes.

    Such quotes come from "Copy as path" of Windows, from its shell cmd, which does not remove single quotes,
    or from a text program.
    """
    is_quoted = len(text) > 1 and QUOTES.get(text[0]) == text[-1]
    return text[1:-1] if is_quoted and not os.path.lexists(text) else text


def read_yaml(path: str | os.PathLike[str]) -> YamlValue:
    """Read a file as `load_yaml` does.

    Raises:
        OSError: The file cannot be read.
        ValueError: As in `read_text` and `load_yaml`.
    """
    return load_yaml(read_text(path))


def load_yaml(text: str) -> YamlValue:
    """Read YAML as lists, mappings and texts; a value null becomes None.

    Values such as 010, 1.10, 12:30, no and 1_000 stay texts as they are written. Names in mappings are always
    texts, also the name null.

    Raises:
        ValueError: The text is no YAML, or has a name twice. Or it is so long or deep, or has so many
            aliases, that reading it would take minutes. The message does not quote the line, which may hold a
            password.
    """
    import yaml

    if len(text) > MAX_YAML_LENGTH:
        raise ValueError(f"it has more than {MAX_YAML_LENGTH:,} characters")
    try:
        _check_events(text)
        loader = _loader()(text)
        try:
            document: YamlValue = loader.get_single_data()
            return document
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        remedy = f"; {_QUOTE_REMEDY}" if "escape" in str(error.problem) else ""
        raise ValueError(f"{error.problem}{line}{remedy}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(one_line_message(error)) from None


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that is too deep, has too many aliases, or wrong quotes."""
    import yaml

    depth = 0
    alias_count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            alias_count += 1
        elif isinstance(event, yaml.ScalarEvent):
            _check_quotes(text, event)
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")
    if alias_count > MAX_YAML_ALIASES:
        raise ValueError(f"it has more than {MAX_YAML_ALIASES} aliases")


def _check_quotes(text: str, event: yaml.ScalarEvent) -> None:
    r"""Raise ValueError for curly quotes, and for a path in double quotes, where \ is YAML's escape."""
    mark = event.start_mark
    assert mark is not None  # the parser marks where each value begins
    line = f"line {mark.line + 1}"
    if event.style == '"' and _PATH_IN_QUOTES.match(text, mark.index):
        raise ValueError(f"in double quotes \\ is no part of a path, {line}; {_QUOTE_REMEDY}")
    if event.style is None and event.value[:1] in QUOTES:
        raise ValueError(f"{event.value[0]} is no quote of YAML, {line}; write ' or \"")


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return the loader class of `load_yaml`; it is made only when PyYAML is needed."""
    import yaml

    class Loader(yaml.SafeLoader):
        # a resolver is a tag and a pattern
        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first_letter: [resolver for resolver in resolvers if resolver[0] in (_NULL, _MERGE)]
            for first_letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
            """Read a mapping. Refuse a name that occurs twice, since it is not clear which value counts."""
            node = super().compose_mapping_node(anchor)
            names = set[str]()
            for key, _ in node.value:
                problem = ""
                if not isinstance(key, yaml.ScalarNode):
                    problem = "a name is no text"
                elif key.value in names:
                    # an address may hold a password, and is not repeated in the error
                    name = "a name" if "://" in key.value or "@" in key.value else f"{key.value:.60}"
                    problem = f"{name} stands twice"
                if problem:
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                names.add(key.value)
                if key.tag != _MERGE:
                    key.tag = _TEXT  # a name such as 5 or null becomes a text, too
            return node

    return Loader
