"""A folder that every machine of a run sees: a shared one, or one of an object store, through fsspec."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from flawscope.artefact.files import atomic
from flawscope.errors import FlawscopeError, InputError

# Where a file is there only when all of it is; elsewhere it is renamed when it is whole
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "memory"})


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
    except ValueError as error:  # of a kind that nobody knows
        raise InputError(
            f"{url}: {reason(error)}; name a folder, or a URL such as s3://BUCKET/PATH"
        ) from None
    return files, str(path)


def reason(error: BaseException) -> str:
    """What is wrong, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


class Store:
    """Files below a folder or URL, by names with forward slashes; each is written whole or not at all.

    on_disk: it is a folder, `root`, of this machine or one that is mounted here.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/") or url
        self.files, self.root = filesystem(self.url)
        kinds = self.files.protocol
        self.kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        self.on_disk = "file" in self.kinds

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str = "") -> bool:
        """FlawscopeError where that cannot be told."""
        return bool(self._try("read", name, lambda: self.files.exists(self.path(name).rstrip("/"))))

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, without order; nothing where it is not there."""

        def found() -> list[str]:
            try:
                inside = self.files.ls(self.path(folder), detail=False)
            except FileNotFoundError:
                return []
            return [str(path).rstrip("/").rpartition("/")[2] for path in inside]

        return cast("list[str]", self._try("read", folder, found))

    def read(self, name: str) -> bytes:
        return cast(bytes, self._try("read", name, lambda: self.files.cat_file(self.path(name))))

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._try("read", name, lambda: self.files.open(self.path(name), "rb")))

    def write(self, name: str, data: bytes) -> None:
        """FlawscopeError where it cannot be written; what was there before is then still there."""
        path = self.path(name)
        if self.on_disk:
            self._try("write", name, lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
            with atomic(path) as file:
                file.write(data)
        elif self.kinds & OBJECT_STORES:
            self._try("write", name, lambda: self.files.pipe_file(path, data))
        else:
            self._try("write", name, lambda: self._rename(path, data))

    def _rename(self, path: str, data: bytes) -> None:
        folder, _, last = path.rpartition("/")
        temporary = f"{folder}/.{last}.{secrets.token_hex(4)}.part"
        self.files.makedirs(folder, exist_ok=True)
        try:
            self.files.pipe_file(temporary, data)
            self.files.mv(temporary, path)
        except Exception:
            with suppress(Exception):
                self.files.rm_file(temporary)
            raise

    def remove(self, name: str) -> None:
        self._try("write", name, lambda: self.files.rm_file(self.path(name)))

    def _try(self, what: str, name: str, work: Any) -> Any:
        try:
            return work()
        except Exception as error:  # each library has its own
            where = f"{self.url}/{name}".rstrip("/")
            remedy = (
                "check the path, and that it can be reached"
                if what == "read"
                else ("free some space, or choose another --out")
            )
            raise FlawscopeError(f"cannot {what} {where}: {reason(error)}; {remedy}") from None

    def lies_in(self, folder: str | os.PathLike[str]) -> bool:
        """Whether it is a folder of the disk, or lies in it."""
        if not self.on_disk:
            return False
        top = os.path.realpath(folder)
        return (os.path.realpath(self.root) + os.sep).startswith(top.rstrip(os.sep) + os.sep)
