"""Plugins of a station: sources, sinks and connections of installed packages, and their settings.

A package adds one through an entry point, name = "package.module:PLUGIN", in the group of its kind. In
`station.yaml` its settings stand under its name, and are checked by its own dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from flawscope.config import build_config
from flawscope.errors import InputError, one_line_message, suggest_name
from flawscope_station.settings.values import resolve_paths

SOURCE_GROUP, SINK_GROUP, CONNECTION_GROUP = "flawscope.sources", "flawscope.sinks", "flawscope.connections"


@dataclass(frozen=True)
class Plugin:
    """Source, sink or connection from outside; docs/adding-a-connection.md shows one of each.

    name: as in the entry point and in `station.yaml`.
    settings: a frozen dataclass; a text in the place of its `key: value` lines is its first field. It raises
    InputError where values do not fit each other.
    open: makes it, without starting anything. A source of `SourceContext`, settings and its number among the
    product's that are no folders; a sink of settings and `MessagePictures`; a connection of
    `ConnectionContext` and settings.
    paths: fields with paths, which are relative to `station.yaml`.
    """

    name: str
    settings: type[Any]
    open: Callable[..., Any]
    paths: tuple[str, ...] = ()

    def read(self, given: Any, home: Path) -> ConfiguredPlugin:
        """Read its settings; paths are relative to `home`. InputError."""
        first = fields(self.settings)[0].name if fields(self.settings) else ""
        values = given if isinstance(given, Mapping) else {} if given is None else {first: given}
        try:
            settings = resolve_paths(build_config(self.settings, values), home, *self.paths)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        return ConfiguredPlugin(self.name, settings, self.open)


@dataclass(frozen=True)
class ConfiguredPlugin:
    """Plugin with its settings, as `station.yaml` gives them."""

    name: str
    values: Any
    open: Callable[..., Any]


def plugin_names(group: str) -> list[str]:
    """Return the names of the installed plugins of a group."""
    return sorted({entry.name for entry in metadata.entry_points(group=group)})


def load_plugin(group: str, name: str) -> Plugin:
    """Load a plugin. InputError where it is not installed, or its package is broken."""
    kind = group.removeprefix("flawscope.").removesuffix("s")
    entry = next(iter(metadata.entry_points(group=group, name=name)), None)
    if entry is None:
        hint = suggest_name(name, plugin_names(group))
        raise InputError(f"no {kind} called {name:.60}: {hint}; others come with packages of their own")
    try:
        found = entry.load()
    except Exception as error:
        reason = one_line_message(error)
        text = f"{kind} {name} cannot be loaded from {entry.value} ({reason}): mend that package"
        raise InputError(text) from error
    if not isinstance(found, Plugin) or found.name != name:
        raise InputError(f"{entry.value} is not a {kind} called {name}: it must be a `Plugin` of that name")
    return found


def read_connections(given: Any, home: Path) -> tuple[ConfiguredPlugin, ...]:
    """Read the setting `connections` of a station. InputError."""
    entries = given or []
    if not isinstance(entries, list) or any(not isinstance(one, Mapping) or len(one) != 1 for one in entries):
        raise InputError("connections must be a list: write `- NAME:` and its settings below it")
    return tuple(
        load_plugin(CONNECTION_GROUP, str(name)).read(one[name], home) for one in entries for name in one
    )
