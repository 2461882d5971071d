"""Addresses of cameras: what they are, what may be reached from there, and how they are shown.

They come from the settings alone. FFmpeg can follow what a stream names to other protocols and files, so for
each kind of address only those are open that it needs.
"""

from __future__ import annotations

import re
import sys
from pathlib import PurePath
from urllib.parse import quote, urlsplit

from flawscope.errors import InputError
from flawscope.station.settings import secret

STREAM, DEVICE, VIDEO = "stream", "device", "video"  # kinds
PROTOCOLS = {  # scheme -> what FFmpeg may use for it
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsps,rtsp,rtp,tls,tcp,udp",
    "http": "http,tcp",
    "https": "https,tls,http,tcp",
    "udp": "udp,rtp",
    "rtp": "rtp,udp",
}
DEVICES = ("v4l2", "avfoundation", "dshow", "lavfi")  # FFmpeg's input devices; the last one draws pictures
# Containers and bare streams. Not those that name other files: playlists, concat, SDP.
FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,ivf,obu,flv,asf,ogg,mxf,nut,mjpeg,"
    "yuv4mpegpipe,gif,apng,dv,wtv,3gp"
)


def kind_of(address: str) -> str:
    if "://" in address:
        return STREAM
    return DEVICE if _device(address) else VIDEO


def _device(address: str) -> tuple[str, str] | None:
    """FFmpeg's name of the input device, and what is opened with it."""
    name, found, rest = address.partition(":")
    if found and name in DEVICES:
        return name, rest
    return ("v4l2", address) if re.match(r"/dev/(video|v4l/)", address) else None


def check(address: str) -> str:
    """Its kind. InputError where it cannot be one."""
    kind = kind_of(address)
    if not address or not address.isprintable():
        raise InputError("camera has no address: write rtsp://HOST/PATH, /dev/video0 or a video file")
    if kind != STREAM:
        device = _device(address)
        if device is not None and not device[1]:
            raise InputError(f"{address} names no device: write for example /dev/video0")
        return kind
    try:
        parts = urlsplit(address)
        right = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        right = False
    if right and parts.scheme not in PROTOCOLS:
        raise InputError(
            f"{parts.scheme}:// is not understood: write one of {', '.join(PROTOCOLS)}, or a file without any"
        )
    if not right:
        raise InputError("it is no address: write for example rtsp://192.0.2.20/stream")
    return kind


def shown(address: str) -> str:
    """For pages, problems and the log: a device's or file's name; of a stream only the host."""
    is_stream = kind_of(address) == STREAM or re.search(r":[^@]*@", address)  # a stream without its rtsp://
    return secret.shown(address) if is_stream else address


def name_of(address: str) -> str:
    """Of a video file, for names of its pictures."""
    return PurePath(shown(address)).name


def with_password(address: str, password: str) -> str:
    """`rtsp://user@host/path` with the password in it. InputError where it has one, or no user."""
    found = re.match(r"([a-z]+://)([^:/@?]+)@", address)
    if found is None:
        raise InputError("password_file: write the address as rtsp://USER@HOST/PATH: a user and no password")
    return f"{found[1]}{found[2]}:{quote(password, safe='')}@{address[found.end() :]}"


def opening(address: str, patience: float) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg opens: name, format where it has to be said, and options.

    Args:
        address: with the password.
        patience: seconds without a word after which a connection is lost.
    """
    device = _device(address) if "://" not in address else None
    if device is not None:
        return device[1], device[0], {}
    if kind_of(address) == VIDEO:
        name = address if sys.platform == "win32" else f"file:{address}"  # a colon in it is a part of it
        return name, None, {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    scheme = urlsplit(address).scheme
    micro = str(int(patience * 1e6))
    options = {"protocol_whitelist": PROTOCOLS[scheme], "fflags": "nobuffer"}
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": "tcp", "timeout": micro}
    elif scheme in ("http", "https"):
        options |= {"rw_timeout": micro}
    else:
        options |= {"timeout": micro}
    return address, None, options
