"""Settings of sinks: `sinks` of a product, `mqtt` of the station."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from flawscope.config import build_config, keep_known_settings, redact_value
from flawscope.errors import InputError, suggest_name
from flawscope_station.settings.plugins import SINK_GROUP, ConfiguredPlugin, load_plugin, plugin_names
from flawscope_station.settings.values import redact_address, resolve_paths, secret

MessageFilter = Literal["all", "anomalous"]
PictureChoice = Literal["none", "picture", "overlay", "both"]
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
MAX_NAME_LENGTH = 60  # characters
_TOPIC = re.compile(r"[^/+#$\x00-\x1f][^+#\x00-\x1f]*")


@dataclass(frozen=True)
class SinkSettings:
    """Settings of a webhook or a folder.

    webhook: an address that gets a POST. folder: where files are written.
    name: identifies the sink's cursor in the records; a new name begins anew. None: its address or folder;
    where that changes, its place among the product's sinks.
    only: every inspection, or anomalous ones, without those within tolerance. verdicts: verdicts are sent,
    too, also those taken back.
    picture: pictures to send; None: none to a webhook, both into a folder.
    secret_file: lines `whsec_...` to sign with. ca_file: certificates to trust beside the usual.
    """

    webhook: str | None = None
    folder: str | None = None
    name: str | None = None
    only: MessageFilter = "all"
    verdicts: bool = True
    picture: PictureChoice | None = None
    secret_file: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if (self.webhook is None) == (self.folder is None):
            raise InputError("write either `webhook` or `folder` for each")
        if self.name is not None and not 0 < len(self.name) <= MAX_NAME_LENGTH:
            raise InputError(f"name: 1 to {MAX_NAME_LENGTH} characters")
        if self.webhook is None:
            if self.secret_file or self.ca_file:
                raise InputError("secret_file and ca_file are a webhook's: leave them out")
            return
        parts = _split_address(self.webhook, "webhook")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"webhook: {redact_address(self.webhook)!r} is not https://host/path")
        if parts.username is not None or parts.password is not None:
            why = "leave the password out of the address; `secret_file` signs what is sent"
            raise InputError(f"webhook: {why}")

    @property
    def label(self) -> str:
        """Name for people, without what may be secret in an address."""
        return self.name or (self.folder if self.webhook is None else redact_address(self.webhook)) or ""

    @property
    def kind(self) -> str:
        return "folder" if self.webhook is None else "webhook"

    @property
    def address(self) -> str:
        return self.webhook or self.folder or ""

    @property
    def cursor_name(self) -> str:
        """Name under which the sink's cursor is stored."""
        return self.name or self.address

    @property
    def pictures(self) -> PictureChoice:
        return self.picture or ("both" if self.webhook is None else "none")


@dataclass(frozen=True)
class PluginSinkSettings:
    """Settings of a sink of a plugin; name, only and verdicts as of `SinkSettings`."""

    name: str | None = None
    only: MessageFilter = "all"
    verdicts: bool = True
    plugin: ConfiguredPlugin | None = None

    @property
    def kind(self) -> str:
        return self.plugin.name if self.plugin else ""

    @property
    def label(self) -> str:
        return self.name or self.kind

    cursor_name = address = label


@dataclass(frozen=True)
class MqttSettings:
    """Settings of the station's broker.

    broker: `mqtt://host:1883`, or `mqtts://host:8883` with TLS.
    user, password_file: the station's credentials.
    ca_file: certificates to trust beside the usual.
    certificate_file, key_file: the station's own.
    topic: begins all topics.
    only, verdicts: as of `SinkSettings`.
    """

    broker: str
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    topic: str = "flawscope"
    only: MessageFilter = "all"
    verdicts: bool = True

    def __post_init__(self) -> None:
        parts = _split_address(self.broker, "broker")
        if parts.username is not None or parts.password is not None:
            raise InputError("broker: write `user` and `password_file` instead of a password in the address")
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
            raise InputError(
                f"broker: {redact_address(self.broker)!r} is not mqtt://host:1883 or mqtts://host:8883"
            )
        if self.password_file is not None and self.user is None:
            raise InputError("password_file wants a `user`")
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("certificate_file and key_file belong together: write both, or none")
        if parts.scheme == "mqtt" and (self.ca_file or self.certificate_file):
            raise InputError("certificates are TLS's: write broker as mqtts://, or leave them out")
        if not _TOPIC.fullmatch(self.topic) or self.topic.endswith("/"):
            raise InputError(f"topic: {self.topic!r:.60} cannot begin a topic: leave out +, #, $ and outer /")

    kind: ClassVar[str] = "mqtt"
    name: ClassVar[None] = None

    @property
    def address(self) -> str:
        return self.broker

    cursor_name = address

    @property
    def connection(self) -> tuple[str, int, bool]:
        """Host, port, and whether TLS is used."""
        parts = urlsplit(self.broker)
        return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts"

    @property
    def label(self) -> str:
        return redact_address(self.broker)

    def password(self) -> str | None:
        """Return the line in `password_file`. InputError."""
        return None if self.password_file is None else secret(self.password_file, "mqtt: password_file")


def read_sinks(given: Any, home: Path) -> tuple[SinkSettings | PluginSinkSettings, ...]:
    """Read the setting `sinks` of a product; paths are relative to `home`. InputError."""
    if not isinstance(given or [], list):
        raise InputError("sinks must be a list: write `- webhook: ADDRESS` or `- folder: DIR` below it")
    try:
        found = tuple(_read_sink(one, home) for one in given or ())
        places = [one.cursor_name for one in found]
        for one, place in zip(found, places, strict=True):
            if places.count(place) > 1:
                raise InputError(f"{one.label} is there twice: give each its own `name`")
    except InputError as error:
        raise InputError(f"sinks: {error}") from None
    return found


def _read_sink(given: Any, home: Path) -> SinkSettings | PluginSinkSettings:
    if not isinstance(given, dict):
        raise InputError("one is neither: write `- webhook: ADDRESS` or `- folder: DIR`")
    _check_keys(given)
    own = {"webhook", "folder"} & given.keys()
    if not own and (name := next((name for name in plugin_names(SINK_GROUP) if name in given), None)):
        common = build_config(PluginSinkSettings, {key: one for key, one in given.items() if key != name})
        return replace(common, plugin=load_plugin(SINK_GROUP, name).read(given[name], home))
    settings = keep_known_settings(SinkSettings, given)
    if not own and (wrong := next((str(key) for key in given if key not in settings), None)):
        hint = suggest_name(wrong, ["webhook", "folder", *plugin_names(SINK_GROUP)])
        raise InputError(f"no sink called {redact_value(wrong)}: {hint}")
    return resolve_paths(build_config(SinkSettings, given), home, "folder", "secret_file", "ca_file")


def read_mqtt(given: Any, home: Path) -> MqttSettings | None:
    """Read the setting `mqtt`; a text is the broker. InputError."""
    if given is None:
        return None
    values = {"broker": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or "broker" not in values:
        raise InputError("mqtt has no broker: write `broker: mqtt://HOST` below it")
    try:
        _check_keys(values)
        found = build_config(MqttSettings, values)
    except InputError as error:
        raise InputError(f"mqtt: {error}") from None
    return resolve_paths(found, home, "password_file", "ca_file", "certificate_file", "key_file")


def _split_address(address: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port
        return parts
    except ValueError:
        raise InputError(f"{name}: it is not an address: check host and port") from None


def _check_keys(values: dict[Any, Any]) -> None:
    """Raise InputError where a secret stands in the settings."""
    for key in ("password", "secret", "token"):
        if key in values:
            raise InputError(f"{key} does not stand here: write it into a file, and name that as {key}_file")
