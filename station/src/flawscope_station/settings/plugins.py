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
# the station's own sinks, in the form in which the entry points of other packages are found
_BUILT_IN = [
    metadata.EntryPoint(name, f"flawscope_station.sinks.{name}:PLUGIN", SINK_GROUP)
    for name in ("webhook", "folder", "mqtt")
]


@dataclass(frozen=True)
class Plugin:
    """Source, sink, connection or page; docs/adding-a-connection.md shows an example of each.

    Attributes:
        name: Name in the entry point and in `station.yaml`.
        settings: Class of the settings, a frozen dataclass. It raises InputError if values contradict each
            other. If `station.yaml` has a text in place of `key: value` lines, the text is the value of the
            first field. The settings of a sink may have an `address`, which identifies a sink without a name,
            and a `label` for people, without secrets.
        open: Function that makes the plugin's object, without starting anything. Its arguments for a source:
            `SourceContext`, settings, and the source's number among the product's sources that are no
            folders. For a sink: settings and `MessagePictures`. For a connection: `ConnectionContext` and
            settings. For a page: `PageContext` and settings; the object is a `PluginPage`.
        paths: Names of the settings that are paths, which are relative to the folder of `station.yaml`.
    """

    name: str
    settings: type[Any]
    open: Callable[..., Any]
    paths: tuple[str, ...] = ()

    @property
    def first_setting(self) -> str:
        """Name of the first setting; "": the plugin has no settings."""
        return next((field.name for field in fields(self.settings)), "")

    def read(self, options: object, home: Path) -> ConfiguredPlugin:
        """Return the plugin with its settings.

        Args:
            options: Settings as in `station.yaml`: `key: value` lines, the value of the first setting, or
                None for the defaults.
            home: Folder that paths are relative to.

        Raises:
            InputError: A setting is unknown, or its value is wrong.
        """
        if options is None:
            values: Mapping[Any, object] = {}
        elif isinstance(options, Mapping):
            values = options
        else:
            values = {self.first_setting: options}
        try:
            check_names(values, field_names(self.settings))
            settings = build_config(self.settings, values)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        resolved_paths = {}
        for name in self.paths:
            path = getattr(settings, name)
            if path is not None:
                resolved_paths[name] = str(home / Path(path).expanduser())
        return ConfiguredPlugin(self.name, replace(settings, **resolved_paths), self.open)


@dataclass(frozen=True)
class ConfiguredPlugin:
    """Plugin with its settings.

    Attributes:
        name: Name of the plugin.
        values: Settings, an instance of `Plugin.settings`.
        open: Function that makes the plugin's object, as in `Plugin`.
    """

    name: str
    values: Any
    open: Callable[..., Any]


def plugin_names(group: str) -> list[str]:
    """Return the names of a group's plugins: first the station's own, then those of other packages."""
    built_in_names = [entry.name for entry in _BUILT_IN if entry.group == group]
    installed_names = {entry.name for entry in metadata.entry_points(group=group)}
    return built_in_names + sorted(installed_names - set(built_in_names))


def load_plugin(group: str, name: str) -> Plugin:
    """Return the plugin called `name` of a group.

    If both the station and another package have one, return the station's.

    Raises:
        InputError: The plugin is not installed, or its package is broken.
    """
    kind = group.removeprefix("flawscope.").removesuffix("s")  # such as "sink" for `flawscope.sinks`
    entries = [entry for entry in _BUILT_IN if (entry.group, entry.name) == (group, name)]
    entries += metadata.entry_points(group=group, name=name)
    if not entries:
        hint = suggest_name(name, plugin_names(group))
        raise InputError(f"no {kind} called {name:.60}: {hint}; others come with packages of their own")
    entry = entries[0]
    try:
        plugin = entry.load()
    except Exception as error:
        reason = one_line_message(error)
        text = f"{kind} {name} cannot be loaded from {entry.value} ({reason}): mend that package"
        raise InputError(text) from error
    if not isinstance(plugin, Plugin) or plugin.name != name:
        raise InputError(f"{entry.value} is not a {kind} called {name}: it must be a `Plugin` of that name")
    return plugin


def read_connections(value: object, home: Path) -> tuple[ConfiguredPlugin, ...]:
    """Read the setting `connections` of a station.

    Args:
        value: Value of the setting, as in `station.yaml`.
        home: Folder that paths are relative to.

    Raises:
        InputError: A connection is unknown, or its settings are wrong.
    """
    return tuple(_read_plugin(CONNECTION_GROUP, entry, home) for entry in _check_list(value))


def read_pages(value: object, home: Path) -> tuple[ConfiguredPlugin, ...]:
    """Read the setting `pages` of a station.

    Args:
        value: Value of the setting, as in `station.yaml`. An entry that is only a name is a page without
            settings.
        home: Folder that paths are relative to.

    Raises:
        InputError: A page is unknown or is there twice, or its settings are wrong.
    """
    pages: dict[str, ConfiguredPlugin] = {}
    for entry in _check_list(value):
        options_by_name = {entry: None} if isinstance(entry, str) else entry
        page = _read_plugin(PAGE_GROUP, options_by_name, home)
        if page.name in pages:
            raise InputError(f"{page.name} is there twice: name it once")
        pages[page.name] = page
    return tuple(pages.values())


def _check_list(value: object) -> Sequence[object]:
    """Return the list that is a setting's value; None becomes an empty list. InputError: it is no list."""
    entries = value or []
    if not isinstance(entries, list | tuple):
        raise InputError(_NO_LIST)
    return entries


def _read_plugin(group: str, entry: object, home: Path) -> ConfiguredPlugin:
    """Read an entry of a list of plugins.

    Args:
        group: Group of the plugins.
        entry: Mapping with a single item: the plugin's name, and its settings.
        home: Folder that paths are relative to.

    Raises:
        InputError: The entry has another form, or its settings are wrong.
    """
    if isinstance(entry, ConfiguredPlugin):
        return entry
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise InputError(_NO_LIST)
    [(name, options)] = entry.items()  # the only item
    return load_plugin(group, str(name)).read(options, home)
