"""Descriptions of fields on the API's page, from the part `Attributes:` of docstrings.

Models of the API describe their fields by `Field(description=...)`. Data classes of the library and typed
dictionaries describe them in their docstrings, which pydantic takes as a whole for the description of a type.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from typing_extensions import override

SECTION = "\n\nAttributes:\n"
_ENTRY = re.compile(r" {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*)")  # `x, y: Middle of the square.`


class DescribedApp(FastAPI):
    """Application whose API page describes the fields of all types."""

    @override
    def openapi(self) -> dict[str, Any]:
        """Return the description of the API, which is made once."""
        is_new = self.openapi_schema is None
        document = super().openapi()
        if is_new:
            _describe_types(document.get("components", {}))
        return document


def _describe_types(node: object) -> None:
    """Apply `describe_fields` to all types in a part of the OpenAPI document, which is changed in place."""
    if isinstance(node, dict):
        if "properties" in node and isinstance(node.get("description"), str):
            describe_fields(node)
        for child in node.values():
            _describe_types(child)
    elif isinstance(node, list):
        for child in node:
            _describe_types(child)


def describe_fields(schema: dict[str, Any]) -> None:
    """Move the texts below `Attributes:` in a type's description to the descriptions of its fields.

    A field that has a description already keeps it.

    Args:
        schema: JSON schema of the type, which is changed in place.
    """
    summary, separator, section = schema.get("description", "").partition(SECTION)
    if not separator:
        return
    entries, _, other_sections = section.partition("\n\n")
    schema["description"] = "\n\n".join(text for text in (summary, other_sections) if text)
    properties = schema.get("properties", {})
    for names, text in _parse_entries(entries):
        for name in names:
            if name in properties:
                properties[name].setdefault("description", _as_field_description(text))


def _parse_entries(section: str) -> list[tuple[list[str], str]]:
    """Return the names and the text of each entry below `Attributes:`.

    The entry `x, y: Middle of the square.` has the names x and y.
    """
    entries: list[tuple[list[str], str]] = []  # names and text of each entry
    for line in section.splitlines():
        match = _ENTRY.fullmatch(line)
        if match is not None:
            entries.append((match["names"].split(", "), match["text"]))
        elif entries:  # a line that is indented more continues the entry before it
            names, text = entries[-1]
            entries[-1] = names, f"{text} {line.strip()}"
    return entries


def _as_field_description(text: str) -> str:
    """Return a text with a small first letter and without a full stop, like all other descriptions."""
    sentence = text.removesuffix(".")
    is_abbreviation = sentence[:2].isupper()
    return sentence if is_abbreviation else sentence[:1].lower() + sentence[1:]
