"""Settings of sources, and addresses of cameras.

Addresses come only from the settings. A stream can direct FFmpeg to other protocols and to files, so each
kind of address allows only the protocols that it needs.
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
KEEP = "keep"  # value of `then`: an inspected file stays where it is
REMOVAL = "`find FOLDER -type f -mtime +7 -delete` once a day"  # advice on removing inspected files
EVERY_FRAME = "frame"  # value of `every`: each frame is inspected
ON_TRIGGER = "trigger"  # value of `every`: one frame is inspected after a trigger
MEASURE_LATENCY = "write `latency: 500 ms` below it, as measured"  # advice
_OPTIONS_OF_STATION = ("protocol_whitelist", "format_whitelist", "protocol_blacklist")


def _split_device(address: str) -> tuple[str, str] | None:
    """Split the address of a device into FFmpeg's input format, such as v4l2, and the device's own address.

    Return None where the address is not that of a device.
    """
    name, colon, device_address = address.partition(":")
    if colon and name in INPUT_DEVICES:
        return name, device_address
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
    _, device_address = device
    if not device_address:
        raise InputError(f"{address} names no device: write for example /dev/video0")


def _check_stream(address: str) -> None:
    """Raise InputError unless this is the address of a stream."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError where it is no number
        is_valid = bool(parts.hostname)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InputError(
            "it is no address: write for example rtsp://192.0.2.20/stream, and a password with signs such as "
            "# or @ into a file that `password_file` names"
        )
    if parts.scheme not in ALLOWED_PROTOCOLS:
        allowed_schemes = ", ".join(ALLOWED_PROTOCOLS)
        raise InputError(f"{parts.scheme}:// is not understood: write one of {allowed_schemes}")


def quote_password(address: str) -> str:
    """Return a stream's address in which the special characters of the password are percent-encoded.

    A URL parser would take the # in rtsp://admin:pa#ss@host/path for the end of the host. An address that a
    parser reads correctly is returned unchanged.
    """
    match = re.fullmatch(r"([a-z]+://[^:/?#@]+:)(.+)@(.*)", address)
    if match is None:
        return address
    user_part, password, host_part = match.groups()
    # what a URL parser reads of the password: it stops at / ? or #, which end the host
    part_read = re.split(r"[/?#]", password + "@", maxsplit=1)[0]
    is_read_to_end = "@" in part_read
    is_port = part_read.isdecimal()  # rtsp://host:554/path@2: there is no password
    # a # is taken for the password's, because a stream's address has no fragment
    if "#" not in password and (is_read_to_end or is_port):
        return address
    return f"{user_part}{quote(password, safe='%')}@{host_part}"


def redact_camera_address(address: str) -> str:
    """Return an address without secrets: a stream's scheme and host, or a device's whole address."""
    lacks_scheme = re.search(r":[^@]*@", address)  # user:password@host, where rtsp:// was forgotten
    is_stream = "://" in address or lacks_scheme
    return redact_address(address) if is_stream else address


def ffmpeg_input(address: str, timeout: float) -> tuple[str, str | None, dict[str, str]]:
    """Return FFmpeg's arguments for a camera: the input, its format, and the options.

    If the format is None, FFmpeg detects it.

    Args:
        address: Address of the camera, with the password.
        timeout: Seconds of silence after which a connection is lost.
    """
    device = _split_device(address) if "://" not in address else None
    if device is not None:
        input_format, device_address = device
        return device_address, input_format, {}
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


def _check_destination(then: str, info: ValidationInfo) -> str:
    """Return the value of the setting `then`: `keep`, or the resolved path of the folder to move files to.

    Raises:
        InputError: The value is similar to `delete`, `remove` or `keep`, or it is the inspected folder
            itself.
    """
    if then == KEEP:
        return then
    if difflib.get_close_matches(then.lower(), ("delete", "remove"), n=1, cutoff=0.75):
        raise InputError(
            f"{then:.40}: a station deletes no files: name a folder that inspected files are moved to, and "
            f"let the system remove what is old there: {REMOVAL}; a folder of that name is written ./{then}"
        )
    if info.context is None:  # not from a file: the path is resolved already
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


def _check_pattern(text: str) -> str:
    """Return the pattern unchanged.

    Raises:
        InputError: It is no regular expression, or has no group or others than part, batch and view.
    """
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise InputError(f"it is no regular expression: {error}") from None
    if not groups or groups.keys() - {"part", "batch", "view"}:
        remedy = "write (?P<part>...), (?P<batch>...) and (?P<view>...)"
        raise InputError(f"it groups {', '.join(groups) or 'none'}; {remedy}")
    return text


def _check_every(text: str) -> str:
    """Return the value of the setting `every` unchanged. InputError: it is not allowed."""
    if text not in (EVERY_FRAME, ON_TRIGGER):
        time_of(text, "", "frame, trigger, or a time such as 1 s")  # raises where it is no time
    return text


def _read_options(value: object) -> object:
    """Return the options that FFmpeg gets for a camera, as sorted pairs of name and value.

    Raises:
        InputError: The value is no mapping, or has an option that the station sets itself.
    """
    if isinstance(value, tuple):
        return value
    options = value or {}
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
        folder: Folder whose pictures are inspected.
        then: `keep`, or the folder that a file is moved to when its inspection is stored.
        pattern: Regular expression that is searched for in a picture's path relative to the folder. Its
            groups `part`, `batch` and `view` match the part, its batch, and the view of the part.
        view: View that all pictures of the folder show; None: `pattern` finds it, or parts have one view.
    """

    folder: FilePath
    then: Annotated[str, AfterValidator(_check_destination)] = KEEP
    pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    view: str | None = None


@dataclass(frozen=True, config=CONFIG)
class CameraSourceSettings(Section):
    """Settings of a camera.

    Attributes:
        camera: Address: `rtsp://…`, `rtsps://…`, `http://…`, `https://…`, `udp://…`, `/dev/video0`,
            `avfoundation:NAME` or `dshow:video=NAME`.
        every: Inspected frames: each `frame`, one in a time such as `1 s`, or one after a `trigger`.
        password_file: File with the password, which the address leaves out.
        lost_after: Seconds without a frame after which a camera is away.
        options: Options of FFmpeg, such as `video_size: 1920x1080`.
        view: View of a part that all frames show; None: parts have one view.
        latency: Longest time from the exposure of a frame until it is decoded, in seconds; None: unknown, so
            that the camera cannot be triggered.
    """

    camera: str = field(repr=False)
    every: Annotated[str, AfterValidator(_check_every)] = EVERY_FRAME
    password_file: FilePath | None = None
    lost_after: Annotated[float, seconds_such_as("5 s")] = 5.0
    options: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_read_options)] = ()
    view: str | None = None
    latency: Annotated[float, seconds_such_as("500 ms")] | None = None

    @property
    def frame_interval(self) -> float | None:
        """Seconds between two inspected frames; None: every frame is inspected, or triggers choose frames."""
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
        """Address with the password, which is read anew each time.

        Raises:
            InputError: The password cannot be read, or has no place in the address.
        """
        if self.password_file is None:
            return self.camera
        password = secret(self.password_file, f"camera {self.display_name}: password_file")
        return with_password(self.camera, password, PASSWORD_HINT)


SourceSettings = FolderSourceSettings | CameraSourceSettings | ConfiguredPlugin


def read_source(value: object, home: Path) -> SourceSettings:
    """Read an entry of the setting `sources`.

    Args:
        value: Entry as in `station.yaml`, or settings that were read already.
        home: Folder that paths are relative to.

    Raises:
        InputError: The entry is no source, or its settings are wrong.
    """
    if isinstance(value, SourceSettings):
        return value
    if not isinstance(value, Mapping):
        redacted_value = redact_value(f"{value!r:.80}")
        raise InputError(
            f"source {redacted_value} is no source: write `- folder: DIR` or `- camera: ADDRESS`"
        )
    kind = _kind_of(value)
    if kind not in ("folder", "camera"):
        if len(value) > 1:
            raise InputError(f"{kind}: write its settings below it, and nothing beside it")
        return load_plugin(SOURCE_GROUP, kind).read(value[kind], home)
    address = quote_password(str(value[kind] or ""))  # the folder's path, or the camera's address
    redacted_address = redact_camera_address(address) if kind == "camera" else address
    try:
        if kind == "folder":
            return read_as(FolderSourceSettings, value, home)
        camera = read_as(CameraSourceSettings, {**value, "camera": address}, home)
        _check_camera(camera)
        return camera
    except InputError as error:
        raise InputError(f"{kind} {redacted_address}: {error}") from None


def _kind_of(source: Mapping[object, object]) -> str:
    """Return the kind of a source: `folder`, `camera`, or a plugin's name.

    Raises:
        InputError: It has no kind, or is both a folder and a camera.
    """
    all_kinds = ("folder", "camera", *plugin_names(SOURCE_GROUP))
    source_kinds = [kind for kind in all_kinds if kind in source]
    if "folder" in source and "camera" in source:
        raise InputError("a source is a folder or a camera, not both: make two of it, each with its own `-`")
    if source_kinds:
        return source_kinds[0]
    keys = list(source)
    hint = suggest_name(str(keys[0]), all_kinds) if keys else "it names neither `folder` nor `camera`"
    redacted_keys = ", ".join(redact_value(key) for key in keys)
    raise InputError(f"source with {redacted_keys or 'nothing'}: {hint}")


def _check_camera(camera: CameraSourceSettings) -> None:
    """Raise InputError where the address is wrong, or settings of the camera do not fit each other."""
    check_address(camera.camera)
    if camera.every == ON_TRIGGER and camera.latency is None:
        raise InputError(f"every: a trigger takes a frame that was exposed after it: {MEASURE_LATENCY}")
    if camera.password_file is not None:
        # raises where the address has no user, or has a password
        with_password(camera.camera, "", PASSWORD_HINT)
