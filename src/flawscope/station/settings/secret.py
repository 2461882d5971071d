"""Passwords in files of their own, and addresses without what may be secret in them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from flawscope.errors import InputError

_HOST = re.compile(r"(?:\w[\w.-]*|\[[\w:.%]+\])?(?::\d{1,5})?")
_SHORT = 4  # letters; a part of an address that has fewer is no secret


def shown(address: str) -> str:
    """Scheme, host and port. All the rest may be secret: user and password, path (of Slack's and Teams'
    webhooks), query, fragment. `…` stands in its place, and for a host too, where an @ leaves open which
    part that is."""
    scheme, found, rest = address.partition("://")
    if not found or not re.fullmatch(r"[a-zA-Z][\w+.-]*", scheme):
        return "…"
    authority, *more = re.split(r"[/?#\\]", rest, maxsplit=1)
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host) or "@" in "".join(more):
        return f"{scheme}://…"
    return f"{scheme}://{host}{'/…' if ''.join(more) else ''}"


def hidden(text: str, address: str) -> str:
    """What another side says, without the parts of the address that are not `shown`: many repeat them."""
    known, parts = shown(address), set(re.split(r"[/?#\\&=;:@]", address.rpartition("://")[2]))
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _SHORT and part not in known:
            text = text.replace(part, "…")
    return text


def secret(path: str, what: str) -> str:
    """What the file holds, read anew each time: passwords change.

    Args:
        what: begins the error, such as "setting password_file".

    Raises:
        InputError: it cannot be read, or holds nothing or more than a line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{what}: {path} is no text") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or not password.isprintable():
        held = "more than a line of text" if password else "nothing"
        raise InputError(f"{what}: {path} holds {held}: write the password into it, and no more")
    return password
