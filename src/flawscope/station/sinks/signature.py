"""Signatures of webhooks as Standard Webhooks has them (standardwebhooks.com, specification 1.0.0, "Signature
scheme"): HMAC-SHA256 of `id.timestamp.body`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from flawscope.errors import InputError

PREFIX = "whsec_"
LEAST, MOST = 24, 64  # bytes of a secret, as the specification says


def read_secrets(path: str) -> list[bytes]:
    """The keys in a file, one a line: while a secret is changed there are two.

    Raises:
        InputError: it cannot be read, or holds something else. No message shows what it holds.
    """
    try:
        lines = Path(path).read_text(encoding="ascii").split()
    except OSError as error:
        raise InputError(f"secret_file: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        lines = [""]
    keys = [_key(line) for line in lines]
    if not keys or None in keys:
        raise InputError(
            f"secret_file: {path} must hold a line `{PREFIX}` and base64 of {LEAST} to {MOST} random bytes"
        )
    return [key for key in keys if key is not None]


def signed(keys: list[bytes], id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: `v1,` and base64 for each key, with a space between.

    Args:
        timestamp: seconds since 1970, the header `webhook-timestamp`.
    """
    content = f"{id}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{one}" for one in made)


def _key(line: str) -> bytes | None:
    if not line.startswith(PREFIX):
        return None
    try:
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return None
    return key if LEAST <= len(key) <= MOST else None
