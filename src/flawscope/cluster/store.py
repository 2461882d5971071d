"""A folder that every machine of a run sees: a shared one, or one of an object store, through fsspec."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from flawscope.artefact.files import atomic
from flawscope.errors import FlawscopeError, InputError

T = TypeVar("T")
REMEDIES = {
    "read": "check the path, and that it can be reached",
    "write": "free some space, or choose another --out",
}


def is_url(text: str) -> bool:
    return "://" in text


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it. Nothing is asked of it yet.

    Raises:
        InputError: there is no such kind, or the library for it is missing.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:  # "Install s3fs to access S3"
        raise InputError(f"{url}: {reason(error)}") from None
    except ValueError as error:  # an unknown kind
        raise InputError(
            f"{url}: {reason(error)}; name a folder, or a URL such as s3://BUCKET/PATH"
        ) from None
    return files, str(path)


def reason(error: BaseException) -> str:
    """The reason of an error, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


class Store:
    """Files below a folder or URL, by names with forward slashes; each is written whole or not at all: on
    disk it is renamed when it is whole, in an object store it appears so.

    on_disk: it is a folder, `root`, of this machine or one that is mounted here.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/") or url
        self.files, self.root = filesystem(self.url)
        kinds = self.files.protocol
        self.on_disk = "file" in ({kinds} if isinstance(kinds, str) else {*kinds})

    def exists(self, name: str) -> bool:
        """FlawscopeError where that cannot be told."""
        return self._try("read", name, lambda: bool(self.files.exists(f"{self.root}/{name}")))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without order; none where it is not there."""

        def found() -> list[str]:
            try:
                inside = self.files.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return [str(path).rstrip("/").rpartition("/")[2] for path in inside]

        return self._try("read", folder, found)

    def read(self, name: str) -> bytes:
        return self._try("read", name, lambda: bytes(self.files.cat_file(f"{self.root}/{name}")))

    def open(self, name: str) -> IO[bytes]:
        opened: IO[bytes] = self._try("read", name, lambda: self.files.open(f"{self.root}/{name}", "rb"))
        return opened

    def write(self, name: str, data: bytes) -> None:
        """FlawscopeError where it cannot be written; an earlier file of this name is then still there."""
        path = f"{self.root}/{name}"
        if self.on_disk:
            self._try("write", name, lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
            with atomic(path) as file:
                file.write(data)
        else:
            self._try("write", name, lambda: self.files.pipe_file(path, data))

    def _try(self, what: str, name: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:  # each library has its own
            raise FlawscopeError(
                f"cannot {what} {self.url}/{name}: {reason(error)}; {REMEDIES[what]}"
            ) from None

    def lies_in(self, folder: str | os.PathLike[str]) -> bool:
        """Tell whether it is a folder of the disk, or lies in it."""
        if not self.on_disk:
            return False
        top = os.path.realpath(folder)
        return (os.path.realpath(self.root) + os.sep).startswith(top.rstrip(os.sep) + os.sep)
