"""Writes files whole or not at all, and opens them with errors of one line."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flawscope.errors import CheckpointError, FlawscopeError, InputError

TRAINED_SUFFIX = ".safetensors"
EXPORTED_SUFFIX = ".onnx"
ARCHIVE_SUFFIX = ".zip"  # an exported router, which holds an .onnx file for each product
MODEL_SUFFIXES = (TRAINED_SUFFIX, EXPORTED_SUFFIX, ARCHIVE_SUFFIX)
ENGINES = ("onnxruntime", "openvino")  # run exported models; torch runs the trained ones
PARTIAL_SUFFIX = ".part"  # a file that is being written
CSV_ENCODING = "utf-8-sig"  # writes the mark by which Excel recognises UTF-8; reads tables without it, too
_PROCESS = secrets.token_hex(2)  # part of the name of each file that this process is writing


def _renew_process() -> None:
    """Give a forked process a new name: files that its parent was writing are not its own."""
    global _PROCESS
    _PROCESS = secrets.token_hex(2)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_process)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FOLDER_ERRORS = (errno.EROFS, errno.EIO)  # the disk is at fault, not the file
# Spreadsheets compute a cell with this beginning; some read full-width signs as the plain ones
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?")  # a plain number, which is harmless


def is_computed(text: str) -> bool:
    """Whether a spreadsheet would take a text for a formula."""
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def csv_cell(value: object) -> object:
    """Return a value for a CSV cell: a text that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and is_computed(value) else value


def from_csv_cell(text: str) -> str:
    """Return the text of a CSV cell without the apostrophe that `csv_cell` put in front."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def partial_name(name: str) -> str:
    """Return a unique name for a file while it is being written.

    The name contains the name of this process, for `is_being_written`.
    """
    return f".{name}.{_PROCESS}{secrets.token_hex(2)}{PARTIAL_SUFFIX}"


def is_being_written(name: str) -> bool:
    """Whether `partial_name` made this name in this process, so that the file may still be being written."""
    return re.fullmatch(rf"\..*\.{_PROCESS}[0-9a-f]{{4}}{re.escape(PARTIAL_SUFFIX)}", name) is not None


@contextmanager
def replace_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` only when the block ends without an error.

    Args:
        path: Path of the file.
        durable: Whether to wait until the content is on the disk; `sync_folder` waits for the file's name.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.parent / partial_name(path.name)
    try:
        with open(temporary, "xb") as file:  # gets the rights that the umask leaves
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):  # after a success the file has its new name
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk; on Windows this is not needed."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` only when the block ends without an error.

    Raises:
        FlawscopeError: The file cannot be written.
    """
    path = Path(path)
    try:
        with replace_file(path) as file:
            yield file
    except OSError as error:
        raise write_error(path, error) from None


class FullDiskError(FlawscopeError):
    """Error of a file for which the disk has no space left: other files cannot be written either."""


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or an error that caused it, means that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, FullDiskError) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_error(path: Path, error: OSError) -> FlawscopeError:
    """Return the error for a file that cannot be written.

    If the disk is the cause and not the file, the message names the folder.
    """
    if error.errno in _FULL:
        remedy = "free some space or choose another --out"
        return FullDiskError(f"cannot write to {path.parent}: {error.strerror}; {remedy}")
    if error.errno in _FOLDER_ERRORS:
        return FlawscopeError(f"cannot write to {path.parent}: {error.strerror}; choose another --out")
    remedy = "shorten its name" if error.errno == errno.ENAMETOOLONG else "choose another --out"
    return FlawscopeError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def check_replaceable(path: Path) -> None:
    """Check, before long work, that a file can be replaced if it exists. Nothing is changed.

    Raises:
        InputError: Its folder cannot be written, or on Windows a program such as Excel has the file open.
    """
    try:
        path.rename(path)  # fails on Windows where replacing the file would fail
        changed_path = path if os.name == "nt" else path.parent  # elsewhere only the folder is changed
        if not os.access(changed_path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"cannot replace {path}: {reason}; close it where it is open, or choose another --out"
        ) from None


def check_writable(path: str | os.PathLike[str], suffix: str | None = None) -> Path:
    """Check before long work that `path` can be written, without making a file.

    Args:
        path: Path of the file to write.
        suffix: Ending that the path must have; None: any.

    Raises:
        InputError: The path has another ending, is a folder, or cannot be written.
    """
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise InputError(f"--out {path} should end in {suffix}")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder: name a file in it")
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK):
        raise InputError(f"--out {path}: folder {parent} cannot be written; choose another")
    check_replaceable(path)
    return path


def reject_constant(name: str) -> float:
    """Raise a ValueError for a constant that JSON does not have, such as NaN.

    For the argument `parse_constant` of `json.loads`.
    """
    raise ValueError(f"{name} is not JSON")


@contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """Open a model file for reading, and close it at the end.

    Raises:
        InputError: The file is missing, cannot be read, or is a folder, a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder: name a model file")
        if not stat.S_ISREG(mode):  # opening a pipe could wait forever
            raise InputError(f"{path} is not an ordinary file: name a model file")
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise InputError(
            f"there is no model {path}: check the path, or make one with `flawscope fit`"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read model {path}: {error.strerror}; check the path") from None
    with file:
        yield file


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a model file. InputError where it cannot be read."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def several_products_error(path: object) -> InputError:
    """Return the error for a joint model where a model of a single product is needed."""
    take_out = "flawscope.load(MODEL).products[NAME].save(FILE) takes one out"
    return unusable_file_error(
        path, f"it is a joint model of several products, and this wants one: {take_out}"
    )


def exported_error(name: object) -> InputError:
    """Return the error for an exported model where a fitted one is needed."""
    return InputError(f"{name} is an exported model: name the .safetensors file that it was made from")


def damaged_error(path: object, reason: str) -> InputError:
    """Return the error for a damaged model file, with the reason and the remedy."""
    return unusable_file_error(path, f"{reason}; copy it again or fit anew")


def unusable_file_error(path: object, reason: str, kind: str = "model") -> InputError:
    """Return the error for a file that cannot be used: a `CheckpointError` where `kind` is "checkpoint"."""
    error_class = CheckpointError if kind == "checkpoint" else InputError
    return error_class(f"cannot use {kind} {path}: {reason}")


def checkpoint_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of the checkpoint of a training that writes `out`, which exists until it ends."""
    return Path(out).with_suffix(".checkpoint.safetensors")


def training_log_path(checkpoint: Path) -> Path:
    """Return the path of a training's log, beside its checkpoint."""
    name = checkpoint.name.removesuffix(".safetensors").removesuffix(".checkpoint")
    return checkpoint.with_name(f"{name}.training.csv")


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a model file, one of `MODEL_SUFFIXES`.

    Raises:
        InputError: The file has another suffix, or cannot be opened.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in MODEL_SUFFIXES:
        with open_file(path):  # raises a more helpful error where there is no such file, or it is a folder
            pass
        if suffix == ".xml":
            raise unusable_file_error(
                path, "OpenVINO runs .onnx models now; export the .safetensors model as .onnx"
            )
        raise unusable_file_error(
            path, f"models are {' or '.join(MODEL_SUFFIXES[:2])} files; name one of these"
        )
    return suffix
