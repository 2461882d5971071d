"""What a file of settings says of sources."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flawscope.config import build, named
from flawscope.errors import InputError
from flawscope.station.settings import addresses
from flawscope.station.settings.secret import secret
from flawscope.station.settings.values import beside, time_of

KEEP, DELETE = "keep", "delete"  # what happens to a file that was inspected
FRAME, TRIGGER = "frame", "trigger"
_OWN = ("protocol_whitelist", "format_whitelist", "protocol_blacklist")  # options that stay ours


@dataclass(frozen=True)
class FolderOf:
    """A folder whose pictures are taken.

    then: what happens to a file when its inspection is on the disk: `keep`, `delete`, or a folder that it is
    moved to. pattern: a regular expression that is looked for in the path below the folder; its groups `part`
    and `batch` say of which part a picture is.
    """

    folder: str
    then: str = KEEP
    pattern: str | None = None


@dataclass(frozen=True)
class CameraOf:
    """A camera or a video file.

    camera: `rtsp://…`, `rtsps://…`, `http://…`, `https://…`, `udp://…`, `/dev/video0`,
    `avfoundation:NAME`, `dshow:video=NAME`, or a video file. every: `frame`, a time such as `1 s`, or
    `trigger`. password_file: holds the password that the address leaves out. lost_after: time without a frame
    after which a camera is away. options: of FFmpeg, such as `video_size: 1920x1080`.
    """

    camera: str = field(repr=False)
    every: str = FRAME
    password_file: str | None = None
    lost_after: str = "5 s"
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_video(self) -> bool:
        """A file, of which no frame is left out."""
        return addresses.kind_of(self.camera) == addresses.VIDEO

    @property
    def seconds(self) -> float | None:
        """Between two frames that are taken; None: every frame, or by trigger."""
        return None if self.every in (FRAME, TRIGGER) else time_of(self.every, "every")

    @property
    def patience(self) -> float:
        return time_of(self.lost_after, "lost_after")

    @property
    def shown(self) -> str:
        """The address as anybody may see it."""
        return addresses.shown(self.camera)

    @property
    def url(self) -> str:
        """With the password, read anew each time. InputError."""
        if self.password_file is None:
            return self.camera
        password = secret(self.password_file, f"camera {self.shown}: password_file")
        return addresses.with_password(self.camera, password)


def read_source(value: Any, home: Path) -> FolderOf | CameraOf:
    """One of the list `sources`; paths are relative to `home`. InputError."""
    if not isinstance(value, Mapping):
        given = named(f"{value!r:.80}")
        raise InputError(f"source {given} is no source: write `- folder: DIR` or `- camera: ADDRESS`")
    kinds = [kind for kind in ("folder", "camera") if kind in value]
    if len(kinds) == 2:
        raise InputError("a source is a folder or a camera, not both: make two of it, each with its own `-`")
    if not kinds:
        near = difflib.get_close_matches(str(next(iter(value), "")), ("folder", "camera"), n=1)
        hint = f"did you mean {near[0]}?" if near else "it names neither `folder` nor `camera`"
        raise InputError(f"source with {', '.join(map(named, value)) or 'nothing'}: {hint}")
    return _folder(value, home) if kinds == ["folder"] else _camera(value, home)


def _folder(value: Mapping[str, Any], home: Path) -> FolderOf:
    given = build(FolderOf, value)
    folder = str(home / given.folder)
    _check_pattern(given)
    if given.then in (KEEP, DELETE):
        return replace(given, folder=folder)
    near = difflib.get_close_matches(given.then.lower(), (KEEP, DELETE, "remove"), n=1, cutoff=0.75)
    if near or not given.then:
        meant = DELETE if near == ["remove"] else near[0] if near else KEEP
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


def _check_pattern(given: FolderOf) -> None:
    if given.pattern is None:
        return
    try:
        groups = re.compile(given.pattern).groupindex
    except re.error as error:
        raise InputError(f"folder {given.folder}: pattern is no regular expression: {error}") from None
    if not groups or groups.keys() - {"part", "batch"}:
        there = ", ".join(groups) or "none"
        raise InputError(
            f"folder {given.folder}: pattern has the groups {there}; write (?P<part>...) and (?P<batch>...)"
        )


def _camera(value: Mapping[str, Any], home: Path) -> CameraOf:
    address, options = str(value["camera"] or ""), value.get("options") or {}
    try:
        if not isinstance(options, Mapping):
            raise InputError("options are not `name: value` lines, such as `video_size: 1920x1080`")
        if own := [name for name in options if name in _OWN]:
            raise InputError(f"option {own[0]} is the station's own; leave it out")
        plain = {key: one for key, one in value.items() if key != "options"}
        given = build(CameraOf, {**plain, "camera": address})
        _check_camera(given)
    except InputError as error:
        raise InputError(f"camera {addresses.shown(address)}: {error}") from None
    pairs = tuple(sorted((str(name), str(text)) for name, text in options.items()))
    paths = ("camera", "password_file") if given.is_video else ("password_file",)
    return beside(replace(given, options=pairs), home, *paths)


def _check_camera(given: CameraOf) -> None:
    kind = addresses.check(given.camera)
    if given.every not in (FRAME, TRIGGER):
        time_of(given.every, "every", "frame, trigger, or a time such as 1 s")
    time_of(given.lost_after, "lost_after")
    if kind == addresses.VIDEO and given.every == TRIGGER:
        raise InputError("every: a video file waits for no trigger: write frame or a time such as 1 s")
    if given.password_file is not None:
        addresses.with_password(given.camera, "")
