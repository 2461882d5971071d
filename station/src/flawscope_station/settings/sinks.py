"""Settings of sinks: `sinks` of a product, `mqtt` of the station. What a sink is lies with its plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from flawscope.config import redact_value
from flawscope.errors import InputError, suggest_name
from flawscope_station.settings.plugins import SINK_GROUP, ConfiguredPlugin, load_plugin, plugin_names
from flawscope_station.settings.values import CONFIG, Section, check_names, field_names, named, read_as

BROKER = "mqtt"  # the sink of all products, a setting of its own


@dataclass(frozen=True, config=CONFIG)
class SinkSettings(Section):
    """Settings of a sink.

    Attributes:
        plugin: Its kind, with the settings of that kind.
        name: Identifies the sink's cursor in the records; a new name begins anew. None: its address or
            folder; where that changes, its place among the product's sinks.
        only: Every inspection, or anomalous ones, without those within tolerance.
        verdicts: Verdicts are sent, too, also those taken back.
    """

    plugin: ConfiguredPlugin
    name: Annotated[str, named(r"(?s).{1,60}", "1 to 60 characters")] | None = None
    only: Literal["all", "anomalous"] = "all"
    verdicts: bool = True

    @property
    def kind(self) -> str:
        """Return the name of its plugin, such as `webhook`."""
        return self.plugin.name

    @property
    def address(self) -> str:
        """Identifies the sink where it has no name."""
        return str(getattr(self.plugin.values, "address", self.kind))

    @property
    def label(self) -> str:
        """Name for people, without what may be secret in an address."""
        return self.name or str(getattr(self.plugin.values, "label", self.kind))

    @property
    def cursor_name(self) -> str:
        """Name under which the sink's cursor is stored."""
        return self.name or self.address


def read_sinks(given: object, home: Path) -> tuple[SinkSettings, ...]:
    """Read the setting `sinks` of a product; paths are relative to `home`. InputError."""
    entries = given or []
    if not isinstance(entries, list | tuple):
        raise InputError("sinks must be a list: write `- webhook: ADDRESS` or `- folder: DIR` below it")
    found = tuple(entry if isinstance(entry, SinkSettings) else _read_sink(entry, home) for entry in entries)
    places = [sink.cursor_name for sink in found]
    for sink, place in zip(found, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{sink.label} is there twice: give each its own `name`")
    return found


def read_broker(given: object, home: Path) -> SinkSettings | None:
    """Read the setting `mqtt`; a text is the broker. InputError."""
    if given is None or isinstance(given, SinkSettings):
        return given
    if not (isinstance(given, str) or (isinstance(given, Mapping) and "broker" in given)):
        raise InputError("it has no broker: write `broker: mqtt://HOST` below it")
    return _sink_of(BROKER, {BROKER: given} if isinstance(given, str) else given, home)


def _read_sink(given: object, home: Path) -> SinkSettings:
    if not isinstance(given, Mapping):
        raise InputError("one is neither: write `- webhook: ADDRESS` or `- folder: DIR`")
    kinds = [name for name in plugin_names(SINK_GROUP) if name != BROKER]
    named = [key for key in given if key in kinds]
    wrong = next((str(key) for key in given if key not in field_names(SinkSettings)), None)
    if not named and wrong is not None:
        raise InputError(f"no sink called {redact_value(wrong)}: {suggest_name(wrong, kinds)}")
    if len(named) != 1:
        raise InputError(f"write either `{'` or `'.join(kinds)}` for each")
    return _sink_of(named[0], given, home)


def _sink_of(kind: str, given: Mapping[object, object], home: Path) -> SinkSettings:
    """Read a sink. Its own settings stand below its kind or, where that is one value, beside it."""
    plugin = load_plugin(SINK_GROUP, kind)
    common = [name for name in field_names(SinkSettings) if name != "plugin"]
    beside = {key: value for key, value in given.items() if key not in common and key != kind}
    check_names(beside, [*common, *field_names(plugin.settings)])
    below = given.get(kind, {})
    below = below if isinstance(below, Mapping) else {plugin.first: below}
    settings: dict[str, object] = {"plugin": plugin.read({**below, **beside}, home)}
    for name in common:
        if name in given:
            settings[name] = given[name]
    return read_as(SinkSettings, settings, home)
