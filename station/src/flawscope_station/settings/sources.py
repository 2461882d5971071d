"""Settings of sources, and addresses of cameras.

Addresses come only from the settings. A stream can send FFmpeg on to other protocols and files, so each kind
of address allows only the protocols that it needs.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic.dataclasses import dataclass

from flawscope.config import redact_value
from flawscope.errors import InputError, suggest_name
from flawscope_station.settings.plugins import SOURCE_GROUP, ConfiguredPlugin, load_plugin, plugin_names
from flawscope_station.settings.values import (
    CONFIG,
    FilePath,
    Section,
    read_as,
    redact_address,
    seconds_such_as,
    secret,
    time_of,
    with_password,
)

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
KEEP = "keep"  # what happens to a file that was inspected: it stays; or the name of a folder to move it to
REMOVAL = "`find FOLDER -type f -mtime +7 -delete` once a day"  # of inspected files
EVERY_FRAME = "frame"
ON_TRIGGER = "trigger"
MEASURE_LATENCY = "write `latency: 500 ms` below it, as measured"
_OPTIONS_OF_STATION = ("protocol_whitelist", "format_whitelist", "protocol_blacklist")


def _split_device(address: str) -> tuple[str, str] | None:
    """Return FFmpeg's name of the input device, and the address that it opens; None for other addresses."""
    name, found, rest = address.partition(":")
    if found and name in INPUT_DEVICES:
        return name, rest
    return ("v4l2", address) if re.match(r"/dev/(video|v4l/)", address) else None


def check_address(address: str) -> None:
    """Raise InputError unless this is the address of a stream or a device."""
    if not address or not address.isprintable():
        raise InputError("camera has no address: write rtsp://HOST/PATH or /dev/video0")
    if "://" in address:
        _check_stream(address)
        return
    device = _split_device(address)
    if device is None:
        raise InputError(
            "it is no stream and no device: write rtsp://HOST/PATH or /dev/video0; for a folder write "
            "`folder:`, and take single pictures out of a video"
        )
    if not device[1]:
        raise InputError(f"{address} names no device: write for example /dev/video0")


def _check_stream(address: str) -> None:
    """Raise InputError unless this is the address of a stream."""
    try:
        parts = urlsplit(address)
        is_valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if is_valid and parts.scheme not in ALLOWED_PROTOCOLS:
        known = ", ".join(ALLOWED_PROTOCOLS)
        raise InputError(f"{parts.scheme}:// is not understood: write one of {known}")
    if not is_valid:
        raise InputError(
            "it is no address: write for example rtsp://192.0.2.20/stream, and a password with signs such as "
            "# or @ into a file that `password_file` names"
        )


def quote_password(address: str) -> str:
    """Return a stream's address with the signs of its password quoted.

    As it stands, rtsp://admin:pa#ss@host/path would end at the #. An address that a program can read stays as
    it is.
    """
    match = re.fullmatch(r"([a-z]+://[^:/?#@]+:)(.+)@(.*)", address)
    if match is None:
        return address
    authority = re.split(r"[/?#]", match[2] + "@", maxsplit=1)[0]
    is_port = authority.isdecimal() and "#" not in match[2]
    if is_port or ("@" in authority and "#" not in match[2]):
        return address
    return f"{match[1]}{quote(match[2], safe='%')}@{match[3]}"


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


def _destination(then: str, info: ValidationInfo) -> str:
    if then == KEEP:
        return then
    if difflib.get_close_matches(then.lower(), ("delete", "remove"), n=1, cutoff=0.75):
        raise InputError(
            f"{then:.40}: a station deletes no files: name a folder that inspected files are moved to, and "
            f"let the system remove what is old there: {REMOVAL}; a folder of that name is written ./{then}"
        )
    if info.context is None:
        return then
    if not then or difflib.get_close_matches(then.lower(), (KEEP,), n=1, cutoff=0.75):
        raise InputError(
            f"{then!r:.40} is not keep or a folder; did you mean keep? A folder of that name is written "
            f"./{then or 'NAME'}"
        )
    folder = str(info.context / then)
    if os.path.realpath(folder) == os.path.realpath(info.data["folder"]):
        raise InputError("it is moved to the same folder; name another one, or keep")
    return folder


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise InputError(f"it is no regular expression: {error}") from None
    if not groups or groups.keys() - {"part", "batch", "view"}:
        right = "write (?P<part>...), (?P<batch>...) and (?P<view>...)"
        raise InputError(f"it groups {', '.join(groups) or 'none'}; {right}")
    return text


def _every(text: str) -> str:
    if text not in (EVERY_FRAME, ON_TRIGGER):
        time_of(text, "", "frame, trigger, or a time such as 1 s")
    return text


def _options(given: object) -> object:
    if isinstance(given, tuple):
        return given
    options = given or {}
    if not isinstance(options, Mapping):
        raise InputError("options are not `name: value` lines, such as `video_size: 1920x1080`")
    for name in options:
        if name in _OPTIONS_OF_STATION:
            raise InputError(f"option {name} is the station's own; leave it out")
    return tuple(sorted(options.items()))


@dataclass(frozen=True, config=CONFIG)
class FolderSourceSettings(Section):
    """Settings of a folder of pictures.

    Attributes:
        then: Whether a file is kept when its inspection is on the disk (`keep`), or the folder to move it to.
        pattern: A regular expression that is searched for in the path below the folder; its groups `part`,
            `batch` and `view` name the part of a picture, and the view of it.
        view: Of a part, which all its pictures show.
    """

    folder: FilePath
    then: Annotated[str, AfterValidator(_destination)] = KEEP
    pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    view: str | None = None


@dataclass(frozen=True, config=CONFIG)
class CameraSourceSettings(Section):
    """Settings of a camera.

    Attributes:
        camera: `rtsp://…`, `rtsps://…`, `http://…`, `https://…`, `udp://…`, `/dev/video0`,
            `avfoundation:NAME` or `dshow:video=NAME`.
        every: `frame`, a time such as `1 s`, or `trigger`.
        password_file: Holds the password that the address leaves out.
        lost_after: Seconds without a frame after which a camera is away.
        options: Of FFmpeg, such as `video_size: 1920x1080`.
        view: Of a part, which all frames show.
        latency: Seconds from the exposure of a frame until it is decoded, at most; None: not known, and no
            trigger is answered.
    """

    camera: str = field(repr=False)
    every: Annotated[str, AfterValidator(_every)] = EVERY_FRAME
    password_file: FilePath | None = None
    lost_after: Annotated[float, seconds_such_as("5 s")] = 5.0
    options: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_options)] = ()
    view: str | None = None
    latency: Annotated[float, seconds_such_as("500 ms")] | None = None

    @property
    def frame_interval(self) -> float | None:
        """Seconds between two frames that are taken; None: every frame, or by trigger."""
        return None if self.every in (EVERY_FRAME, ON_TRIGGER) else time_of(self.every, "every")

    @property
    def frame_timeout(self) -> float:
        """Seconds without a frame after which the camera is away."""
        return self.lost_after

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


def read_source(value: object, home: Path) -> SourceSettings:
    """Read an entry of the list `sources`; paths are relative to `home`. InputError."""
    if isinstance(value, SourceSettings):
        return value
    if not isinstance(value, Mapping):
        given = redact_value(f"{value!r:.80}")
        raise InputError(f"source {given} is no source: write `- folder: DIR` or `- camera: ADDRESS`")
    kind = _kind_of(value)
    if kind not in ("folder", "camera"):
        if len(value) > 1:
            raise InputError(f"{kind}: write its settings below it, and nothing beside it")
        return load_plugin(SOURCE_GROUP, kind).read(value[kind], home)
    address = quote_password(str(value[kind] or ""))
    shown = redact_camera_address(address) if kind == "camera" else address
    try:
        if kind == "folder":
            return read_as(FolderSourceSettings, value, home)
        found = read_as(CameraSourceSettings, {**value, "camera": address}, home)
        _check_camera(found)
        return found
    except InputError as error:
        raise InputError(f"{kind} {shown}: {error}") from None


def _kind_of(given: Mapping[object, object]) -> str:
    """Return what a source is: folder, camera, or the name of a plugin. InputError where it is none."""
    known = ("folder", "camera", *plugin_names(SOURCE_GROUP))
    kinds = [kind for kind in known if kind in given]
    if kinds[:2] == ["folder", "camera"]:
        raise InputError("a source is a folder or a camera, not both: make two of it, each with its own `-`")
    if kinds:
        return kinds[0]
    names = list(given)
    hint = suggest_name(str(names[0]), known) if names else "it names neither `folder` nor `camera`"
    shown = ", ".join(redact_value(name) for name in names)
    raise InputError(f"source with {shown or 'nothing'}: {hint}")


def _check_camera(given: CameraSourceSettings) -> None:
    check_address(given.camera)
    if given.every == ON_TRIGGER and given.latency is None:
        raise InputError(f"every: a trigger takes a frame that was exposed after it: {MEASURE_LATENCY}")
    if given.password_file is not None:
        with_password(given.camera, "", PASSWORD_HINT)
