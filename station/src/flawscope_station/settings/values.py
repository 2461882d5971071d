"""Values of settings: numbers with units, paths, secrets in files, and addresses without secrets."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from flawscope.errors import InputError, one_line_message

T = TypeVar("T")

_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|seconds?|min|minutes?|h|hours?)\s*")
_AGE = re.compile(r"\s*(\d{1,5}(?:\.\d+)?)\s*(hours?|days?|weeks?|months?|years?|h|d|w)\s*", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", re.IGNORECASE)
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_SECONDS = {"h": 3600, "d": 86400, "w": 604800, "m": 30 * 86400, "y": 365 * 86400}
_HOST = re.compile(r"(?:\w[\w.-]*|\[[\w:.%]+\])?(?::\d{1,5})?")
MAX_TIME = 366 * 86400.0  # seconds of a setting that threads wait for, at most
_MIN_SECRET_LENGTH = 4  # letters; a part of an address with fewer is no secret


def time_of(text: str, what: str, right: str = "a time such as 5 s") -> float:
    """Return the seconds of `1 s`, `500 ms` or `2 min`: up to a year. InputError."""
    match = _TIME.fullmatch(str(text))
    unit = {"m": 60, "h": 3600, "s": 1}[match[2][0]] if match else 0
    seconds = float(match[1]) * (0.001 if match[2] == "ms" else unit) if match else 0.0
    if not 0 < seconds <= MAX_TIME:
        raise InputError(f"{what}: {text!r:.40} is not {right}")
    return seconds


def parse_age(text: str, what: str) -> float:
    """Return the seconds of `30 days`. A month has 30 days, a year 365. InputError."""
    match = _AGE.fullmatch(str(text))
    if not match:
        raise InputError(f"{what}: {text!r} is not a time; write for example 30 days or 1 year, or null")
    return float(match[1]) * _SECONDS[match[2][0].lower()]


def parse_size(text: str, what: str) -> int:
    """Return the bytes of `100 MB` or `2G`, in powers of 1024. InputError."""
    match = _SIZE.fullmatch(str(text))
    if not match:
        raise InputError(f"{what}: {text!r} is not a size; write for example 100 MB")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def parse_share(text: str, what: str) -> float:
    """Return the share of `1 %` or `0.01`: more than 0 and less than a half. InputError."""
    match = _SHARE.fullmatch(str(text))
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share < 0.5:
        raise InputError(f"{what}: {text!r} is not a share between 0 and 50 %; write 1 %, or null")
    return share


def resolve_paths(settings: T, home: Path, *names: str) -> T:
    """Return settings with the named paths resolved against `home`; None stays None."""
    given: dict[str, str | None] = {name: getattr(settings, name) for name in names}
    found: Any = {n: str(home / Path(path).expanduser()) for n, path in given.items() if path is not None}
    return replace(settings, **found)  # type: ignore[type-var]


def redact_address(address: str) -> str:
    """Return scheme, host and port of an address. The rest may be secret: user and password, path (of Slack's
    and Teams' webhooks), query, fragment. `…` stands in its place, also for the host where an @ leaves open
    which part that is."""
    scheme, found, rest = address.partition("://")
    if not found or not re.fullmatch(r"[a-zA-Z][\w+.-]*", scheme):
        return "…"
    authority, *more = re.split(r"[/?#\\]", rest, maxsplit=1)
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host) or "@" in "".join(more):
        return f"{scheme}://…"
    return f"{scheme}://{host}{'/…' if ''.join(more) else ''}"


def redact_text(text: str, address: str) -> str:
    """Replace in a text of the other side those parts of the address that are not `redact_address`."""
    redacted, parts = redact_address(address), set(re.split(r"[/?#\\&=;:@]", address.rpartition("://")[2]))
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _MIN_SECRET_LENGTH and part not in redacted:
            text = text.replace(part, "…")
    return text


def secret(path: str, what: str) -> str:
    """Return the line in a file, read anew each time: passwords change.

    Args:
        what: begins the error, such as "setting password_file".

    Raises:
        InputError: the file cannot be read, or holds nothing or more than a line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{what}: {path} is no text") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or not password.isprintable():
        content = "more than a line of text" if password else "nothing"
        raise InputError(f"{what}: {path} holds {content}: write the password into it, and no more")
    return password


def with_password(address: str, password: str, right: str) -> str:
    """Return `scheme://user@host/path` with the password. InputError where it has one, or no user.

    Args:
        right: begins the error with the right form, such as `password_file: write the address as ...`.
    """
    match = re.match(r"([a-z+]+://)([^:/@?]+)@", address)
    if match is None:
        raise InputError(f"{right}: a user and no password")
    return f"{match[1]}{match[2]}:{quote(password, safe='')}@{address[match.end() :]}"


def tls_context(
    ca_file: str | None, certificate_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return a TLS context that trusts the system and `ca_file`, with an own certificate. InputError."""
    context = ssl.create_default_context()
    try:
        if (file := ca_file) is not None:
            context.load_verify_locations(file)
        if (file := certificate_file) is not None:
            context.load_cert_chain(file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {file}: {error_text(error)}") from None
    return context


def error_text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line_message(error)
