"""Plugins of a station: sources, sinks, connections and pages, and their settings.

A package adds one through an entry point, name = "package.module:PLUGIN", in the group of its kind. In
`station.yaml` its settings stand under its name, and are checked by its own dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from flawscope.config import build_config
from flawscope.errors import InputError, one_line_message, suggest_name
from flawscope_station.settings.values import check_names, field_names

SOURCE_GROUP = "flawscope.sources"
SINK_GROUP = "flawscope.sinks"
CONNECTION_GROUP = "flawscope.connections"
PAGE_GROUP = "flawscope.pages"

_NO_LIST = "it must be a list: write `- NAME:` and its settings below it"
# found as those of other packages are
_OWN = [
    metadata.EntryPoint(name, f"flawscope_station.sinks.{name}:PLUGIN", SINK_GROUP)
    for name in ("webhook", "folder", "mqtt")
]


@dataclass(frozen=True)
class Plugin:
    """Source, sink, connection or page; docs/adding-a-connection.md shows one of each.

    Attributes:
        name: As in the entry point and in `station.yaml`.
        settings: A frozen dataclass; a text in the place of its `key: value` lines is its first field. It
            raises InputError where values do not fit each other. The settings of a sink may have an
            `address`, which identifies it where it has no name, and a `label` for people, without secrets.
        open: Makes the plugin's object, without starting anything. For a source, its arguments are
            `SourceContext`, settings, and its number among the product's sources that are no folders; for a
            sink, settings and `MessagePictures`; for a connection, `ConnectionContext` and settings; for a
            page, `PageContext` and settings. A page's object is a `PluginPage`.
        paths: Fields with paths, which are relative to `station.yaml`.
    """

    name: str
    settings: type[Any]
    open: Callable[..., Any]
    paths: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """Name of the first setting; "" where there is none."""
        return next((field.name for field in fields(self.settings)), "")

    def read(self, given: object, home: Path) -> ConfiguredPlugin:
        """Read its settings; paths are relative to `home`. InputError."""
        values = given if isinstance(given, Mapping) else {self.first: given}
        if given is None:
            values = {}
        try:
            check_names(values, field_names(self.settings))
            settings = build_config(self.settings, values)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        paths = {}
        for name in self.paths:
            path = getattr(settings, name)
            if path is not None:
                paths[name] = str(home / Path(path).expanduser())
        return ConfiguredPlugin(self.name, replace(settings, **paths), self.open)


@dataclass(frozen=True)
class ConfiguredPlugin:
    """Plugin with its settings, as `station.yaml` gives them."""

    name: str
    values: Any
    open: Callable[..., Any]


def plugin_names(group: str) -> list[str]:
    """Return the names of the plugins of a group, the station's own first."""
    built_in = [entry.name for entry in _OWN if entry.group == group]
    installed = {entry.name for entry in metadata.entry_points(group=group)}
    return built_in + sorted(installed - set(built_in))


def load_plugin(group: str, name: str) -> Plugin:
    """Load a plugin. InputError where it is not installed, or its package is broken."""
    kind = group.removeprefix("flawscope.").removesuffix("s")
    built_in = [plugin for plugin in _OWN if (plugin.group, plugin.name) == (group, name)]
    entry = next(iter([*built_in, *metadata.entry_points(group=group, name=name)]), None)
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


def read_connections(given: object, home: Path) -> tuple[ConfiguredPlugin, ...]:
    """Read the setting `connections` of a station. InputError."""
    return tuple(_read_plugin(CONNECTION_GROUP, entry, home) for entry in _entries(given))


def read_pages(given: object, home: Path) -> tuple[ConfiguredPlugin, ...]:
    """Read the setting `pages` of a station; a name alone is a page without settings. InputError."""
    pages: dict[str, ConfiguredPlugin] = {}
    for entry in _entries(given):
        named = {entry: None} if isinstance(entry, str) else entry
        page = _read_plugin(PAGE_GROUP, named, home)
        if page.name in pages:
            raise InputError(f"{page.name} is there twice: name it once")
        pages[page.name] = page
    return tuple(pages.values())


def _entries(given: object) -> Sequence[object]:
    entries = given or []
    if not isinstance(entries, list | tuple):
        raise InputError(_NO_LIST)
    return entries


def _read_plugin(group: str, entry: object, home: Path) -> ConfiguredPlugin:
    """Read one plugin of a list: a mapping of its name to its settings."""
    if isinstance(entry, ConfiguredPlugin):
        return entry
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise InputError(_NO_LIST)
    [(name, options)] = entry.items()
    return load_plugin(group, str(name)).read(options, home)
