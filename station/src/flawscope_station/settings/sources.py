"""Settings of sources, and addresses of cameras.

Addresses come only from the settings. A stream can send FFmpeg on to other protocols and files, so each kind
of address allows only the protocols that it needs.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flawscope.config import build_config, redact_value
from flawscope.errors import InputError, suggest_name
from flawscope_station.settings.plugins import SOURCE_GROUP, ConfiguredPlugin, load_plugin, plugin_names
from flawscope_station.settings.values import redact_address, resolve_paths, secret, time_of, with_password

PASSWORD_HINT = "password_file: write the address as rtsp://USER@HOST/PATH"
ALLOWED_PROTOCOLS = {  # scheme -> protocols that FFmpeg may use
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsps,rtsp,rtp,tls,tcp,udp",
    "http": "http,tcp",
    "https": "https,tls,http,tcp",
    "udp": "udp,rtp",
    "rtp": "rtp,udp",
}
INPUT_DEVICES = ("v4l2", "avfoundation", "dshow", "lavfi")  # FFmpeg's input devices; lavfi generates pictures
KEEP, DELETE = "keep", "delete"  # what happens to a file that was inspected
EVERY_FRAME, ON_TRIGGER = "frame", "trigger"
MEASURE_LATENCY = "write `latency: 500 ms` below it, and measure it with `flawscope station latency`"
_OPTIONS_OF_STATION = ("protocol_whitelist", "format_whitelist", "protocol_blacklist")


def _split_device(address: str) -> tuple[str, str] | None:
    """Return FFmpeg's name of the input device, and the address that it opens; None for other addresses."""
    name, found, rest = address.partition(":")
    if found and name in INPUT_DEVICES:
        return name, rest
    return ("v4l2", address) if re.match(r"/dev/(video|v4l/)", address) else None


def check_address(address: str) -> None:
    """Raise InputError for what is no address of a stream or a device."""
    if not address or not address.isprintable():
        raise InputError("camera has no address: write rtsp://HOST/PATH or /dev/video0")
    if "://" not in address:
        device = _split_device(address)
        if device is None:
            raise InputError(
                "it is no stream and no device: write rtsp://HOST/PATH or /dev/video0; for a folder write "
                "`folder:`, and take single pictures out of a video"
            )
        if not device[1]:
            raise InputError(f"{address} names no device: write for example /dev/video0")
        return
    try:
        parts = urlsplit(address)
        is_valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if is_valid and parts.scheme not in ALLOWED_PROTOCOLS:
        known = ", ".join(ALLOWED_PROTOCOLS)
        raise InputError(f"{parts.scheme}:// is not understood: write one of {known}")
    if not is_valid:
        raise InputError("it is no address: write for example rtsp://192.0.2.20/stream")


def redact_camera_address(address: str) -> str:
    """Return an address without secrets: a device's name; of a stream only the host."""
    # a stream without its rtsp://
    is_stream = "://" in address or re.search(r":[^@]*@", address)
    return redact_address(address) if is_stream else address


def ffmpeg_input(address: str, timeout: float) -> tuple[str, str | None, dict[str, str]]:
    """Return the name that FFmpeg opens, its format (None: FFmpeg finds it), and options.

    Args:
        address: with the password.
        timeout: seconds of silence after which a connection is lost.
    """
    device = _split_device(address) if "://" not in address else None
    if device is not None:
        return device[1], device[0], {}
    scheme = urlsplit(address).scheme
    microseconds = str(int(timeout * 1e6))
    options = {"protocol_whitelist": ALLOWED_PROTOCOLS[scheme], "fflags": "nobuffer"}
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": "tcp", "timeout": microseconds}
    elif scheme in ("http", "https"):
        options |= {"rw_timeout": microseconds}
    else:
        options |= {"timeout": microseconds}
    return address, None, options


@dataclass(frozen=True)
class FolderSourceSettings:
    """Settings of a folder of pictures.

    then: what happens to a file when its inspection is on the disk: `keep`, `delete`, or a folder to move to.
    pattern: a regular expression that is searched for in the path below the folder; its groups `part`,
    `batch` and `view` name the part of a picture, and the view of it.
    view: of a part, which all its pictures show.
    """

    folder: str
    then: str = KEEP
    pattern: str | None = None
    view: str | None = None


@dataclass(frozen=True)
class CameraSourceSettings:
    """Settings of a camera.

    camera: `rtsp://…`, `rtsps://…`, `http://…`, `https://…`, `udp://…`, `/dev/video0`, `avfoundation:NAME` or
    `dshow:video=NAME`.
    every: `frame`, a time such as `1 s`, or `trigger`.
    password_file: holds the password that the address leaves out.
    lost_after: time without a frame after which a camera is away.
    options: of FFmpeg, such as `video_size: 1920x1080`.
    view: of a part, which all frames show.
    latency: time from the exposure of a frame until it is decoded, at most; None: not known, and no trigger
    is answered.
    """

    camera: str = field(repr=False)
    every: str = EVERY_FRAME
    password_file: str | None = None
    lost_after: str = "5 s"
    options: tuple[tuple[str, str], ...] = ()
    view: str | None = None
    latency: str | None = None

    @property
    def frame_interval(self) -> float | None:
        """Seconds between two frames that are taken; None: every frame, or by trigger."""
        return None if self.every in (EVERY_FRAME, ON_TRIGGER) else time_of(self.every, "every")

    @property
    def frame_timeout(self) -> float:
        return time_of(self.lost_after, "lost_after")

    @property
    def latency_seconds(self) -> float:
        """Seconds from the exposure of a frame until it is decoded, at most; 0 where that is not known."""
        return 0.0 if self.latency is None else time_of(self.latency, "latency", "a time such as 500 ms")

    @property
    def display_name(self) -> str:
        """Address without secrets."""
        return redact_camera_address(self.camera)

    @property
    def url(self) -> str:
        """Address with the password, which is read anew each time. InputError."""
        if self.password_file is None:
            return self.camera
        password = secret(self.password_file, f"camera {self.display_name}: password_file")
        return with_password(self.camera, password, PASSWORD_HINT)


SourceSettings = FolderSourceSettings | CameraSourceSettings | ConfiguredPlugin


def read_source(value: Any, home: Path) -> SourceSettings:
    """Read an entry of the list `sources`; paths are relative to `home`. InputError."""
    if not isinstance(value, Mapping):
        given = redact_value(f"{value!r:.80}")
        raise InputError(f"source {given} is no source: write `- folder: DIR` or `- camera: ADDRESS`")
    kinds = [kind for kind in ("folder", "camera") if kind in value]
    if len(kinds) == 2:
        raise InputError("a source is a folder or a camera, not both: make two of it, each with its own `-`")
    if not kinds and (name := next((key for key in value if key in plugin_names(SOURCE_GROUP)), None)):
        if len(value) > 1:
            raise InputError(f"{name}: write its settings below it, and nothing beside it")
        return load_plugin(SOURCE_GROUP, name).read(value[name], home)
    if not kinds:
        known = ("folder", "camera", *plugin_names(SOURCE_GROUP))
        hint = (
            suggest_name(str(next(iter(value))), known) if value else "it names neither `folder` nor `camera`"
        )
        raise InputError(f"source with {', '.join(map(redact_value, value)) or 'nothing'}: {hint}")
    return _read_folder(value, home) if kinds == ["folder"] else _read_camera(value, home)


def _read_folder(value: Mapping[str, Any], home: Path) -> FolderSourceSettings:
    given = build_config(FolderSourceSettings, value)
    folder = str(home / given.folder)
    _check_pattern(given)
    if given.then in (KEEP, DELETE):
        return replace(given, folder=folder)
    matches = difflib.get_close_matches(given.then.lower(), (KEEP, DELETE, "remove"), n=1, cutoff=0.75)
    if matches or not given.then:
        meant = DELETE if matches == ["remove"] else matches[0] if matches else KEEP
        raise InputError(
            f"folder {given.folder}: then: {given.then!r:.40} is not keep, delete or a folder; did you mean "
            f"{meant}? A folder of that name is written ./{given.then or 'NAME'}"
        )
    then = str(home / given.then)
    if os.path.realpath(then) == os.path.realpath(folder):
        raise InputError(
            f"folder {given.folder}: then: it is moved to the same folder; name another one, or keep"
        )
    return replace(given, folder=folder, then=then)


def _check_pattern(given: FolderSourceSettings) -> None:
    if given.pattern is None:
        return
    try:
        groups = re.compile(given.pattern).groupindex
    except re.error as error:
        raise InputError(f"folder {given.folder}: pattern is no regular expression: {error}") from None
    if not groups or groups.keys() - {"part", "batch", "view"}:
        names = ", ".join(groups) or "none"
        raise InputError(
            f"folder {given.folder}: pattern has the groups {names}; write (?P<part>...), (?P<batch>...) and "
            "(?P<view>...)"
        )


def _read_camera(value: Mapping[str, Any], home: Path) -> CameraSourceSettings:
    address, options = str(value["camera"] or ""), value.get("options") or {}
    try:
        if not isinstance(options, Mapping):
            raise InputError("options are not `name: value` lines, such as `video_size: 1920x1080`")
        if own := [name for name in options if name in _OPTIONS_OF_STATION]:
            raise InputError(f"option {own[0]} is the station's own; leave it out")
        plain = {key: one for key, one in value.items() if key != "options"}
        given = build_config(CameraSourceSettings, {**plain, "camera": address})
        _check_camera(given)
    except InputError as error:
        raise InputError(f"camera {redact_camera_address(address)}: {error}") from None
    pairs = tuple(sorted((str(name), str(text)) for name, text in options.items()))
    return resolve_paths(replace(given, options=pairs), home, "password_file")


def _check_camera(given: CameraSourceSettings) -> None:
    check_address(given.camera)
    if given.every not in (EVERY_FRAME, ON_TRIGGER):
        time_of(given.every, "every", "frame, trigger, or a time such as 1 s")
    time_of(given.lost_after, "lost_after")
    _ = given.latency_seconds
    if given.every == ON_TRIGGER and given.latency is None:
        raise InputError(f"every: a trigger takes a frame that was exposed after it: {MEASURE_LATENCY}")
    if given.password_file is not None:
        with_password(given.camera, "", PASSWORD_HINT)
