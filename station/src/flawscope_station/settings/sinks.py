"""Settings of sinks: `sinks` of a product, `mqtt` of the station. The sinks themselves are plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from flawscope.config import redact_value
from flawscope.errors import InputError, suggest_name
from flawscope_station.settings.plugins import SINK_GROUP, ConfiguredPlugin, load_plugin, plugin_names
from flawscope_station.settings.values import (
    CONFIG,
    Section,
    check_names,
    field_names,
    name_validator,
    read_as,
)

BROKER = "mqtt"  # kind of the sink of all products, and name of the station's setting for it


@dataclass(frozen=True, config=CONFIG)
class SinkSettings(Section):
    """Settings of a sink.

    Attributes:
        plugin: Plugin of the sink's kind, with the settings of that kind.
        name: Name under which the database has the sink's cursor: the last inspection that was sent. After a
            change of the name, all inspections are sent anew. None: the sink's address or folder identifies
            the cursor. If that changes, its position among the product's sinks does.
        only: `all`: every inspection is sent; `anomalous`: those that are anomalous and not within tolerance.
        verdicts: Whether verdicts are sent, too, also when they are taken back.
    """

    plugin: ConfiguredPlugin
    name: Annotated[str, name_validator(r"(?s).{1,60}", "1 to 60 characters")] | None = None
    only: Literal["all", "anomalous"] = "all"
    verdicts: bool = True

    @property
    def kind(self) -> str:
        """Name of the sink's plugin, such as `webhook`."""
        return self.plugin.name

    @property
    def address(self) -> str:
        """Address or folder of the sink, which identifies it where it has no name."""
        return str(getattr(self.plugin.values, "address", self.kind))

    @property
    def label(self) -> str:
        """Name for people, without what may be secret in an address."""
        return self.name or str(getattr(self.plugin.values, "label", self.kind))

    @property
    def cursor_name(self) -> str:
        """Name under which the sink's cursor is stored."""
        return self.name or self.address


def read_sinks(value: object, home: Path) -> tuple[SinkSettings, ...]:
    """Read the setting `sinks` of a product.

    Args:
        value: Value of the setting, as in `station.yaml`.
        home: Folder that paths are relative to.

    Raises:
        InputError: The settings of a sink are wrong, or two sinks have the same name or address.
    """
    entries = value or []
    if not isinstance(entries, list | tuple):
        raise InputError("sinks must be a list: write `- webhook: ADDRESS` or `- folder: DIR` below it")
    sinks = tuple(entry if isinstance(entry, SinkSettings) else _read_sink(entry, home) for entry in entries)
    cursor_names = [sink.cursor_name for sink in sinks]
    for sink in sinks:
        if cursor_names.count(sink.cursor_name) > 1:
            raise InputError(f"{sink.label} is there twice: give each its own `name`")
    return sinks


def read_broker(value: object, home: Path) -> SinkSettings | None:
    """Read the setting `mqtt`.

    Args:
        value: Address of a broker, or a section with the address as `broker`; None: the result is None.
        home: Folder that paths are relative to.

    Raises:
        InputError: There is no broker, or another setting is wrong.
    """
    if value is None or isinstance(value, SinkSettings):
        return value
    if isinstance(value, str):
        return _read_sink_of_kind(BROKER, {BROKER: value}, home)
    if not isinstance(value, Mapping) or "broker" not in value:
        raise InputError("it has no broker: write `broker: mqtt://HOST` below it")
    return _read_sink_of_kind(BROKER, value, home)


def _read_sink(entry: object, home: Path) -> SinkSettings:
    """Read an entry of the list `sinks`.

    Raises:
        InputError: The entry is no mapping, or has not exactly one key that names a kind of sink.
    """
    if not isinstance(entry, Mapping):
        raise InputError("one is neither: write `- webhook: ADDRESS` or `- folder: DIR`")
    kinds = [name for name in plugin_names(SINK_GROUP) if name != BROKER]
    entry_kinds = [key for key in entry if key in kinds]
    uncommon_keys = [str(key) for key in entry if key not in field_names(SinkSettings)]
    if not entry_kinds and uncommon_keys:  # such a key is meant to name the kind of sink
        wrong_kind = uncommon_keys[0]
        raise InputError(f"no sink called {redact_value(wrong_kind)}: {suggest_name(wrong_kind, kinds)}")
    if len(entry_kinds) != 1:
        raise InputError(f"write either `{'` or `'.join(kinds)}` for each")
    return _read_sink_of_kind(entry_kinds[0], entry, home)


def _read_sink_of_kind(kind: str, entry: Mapping[object, object], home: Path) -> SinkSettings:
    """Read the settings of a sink: those that all sinks have, and those of its plugin.

    The settings of the plugin `webhook` may stand below the key `webhook` or beside it. In
    `- webhook: ADDRESS`, the value of the key is the plugin's first setting.

    Args:
        kind: Name of the plugin, which is a key of `entry`.
        entry: Settings of the sink, as in `station.yaml`.
        home: Folder that paths are relative to.
    """
    plugin = load_plugin(SINK_GROUP, kind)
    common_names = [name for name in field_names(SinkSettings) if name != "plugin"]
    settings_beside = {key: value for key, value in entry.items() if key not in common_names and key != kind}
    check_names(settings_beside, [*common_names, *field_names(plugin.settings)])
    kind_value = entry.get(kind, {})
    settings_below = kind_value if isinstance(kind_value, Mapping) else {plugin.first_setting: kind_value}
    settings: dict[str, object] = {"plugin": plugin.read({**settings_below, **settings_beside}, home)}
    for name in common_names:
        if name in entry:
            settings[name] = entry[name]
    return read_as(SinkSettings, settings, home)
