"""A password that stands in a file of its own, beside the settings."""

from __future__ import annotations

from pathlib import Path

from flawscope.errors import InputError


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
