"""Pictures in a zip file, which anybody may have made."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flawscope.errors import InputError
from flawscope.pictures.listing import is_litter
from flawscope.station.settings.station import Limits

SMALLEST, RATIO = 256 * 1024**2, 50  # bytes that every zip may unpack to; times its own size, of a larger one


def pictures_of(path: Path, name: str, limits: Limits) -> Iterator[tuple[str, bytes | InputError]]:
    """Yield each file with its name, or the reason why it is refused; nothing is unpacked to the disk.

    Args:
        name: as its sender calls the zip.

    Raises:
        InputError: it is no zip, or unpacks to far more than pictures do.
    """
    try:
        with zipfile.ZipFile(path) as file:
            found = [one for one in file.infolist() if not (one.is_dir() or _is_beside(one.filename))]
            size = sum(one.file_size for one in found)
            if size > max(SMALLEST, RATIO * path.stat().st_size):
                raise InputError(
                    f"{name} unpacks to {size / 1e9:.1f} GB, which pictures do not: pack the pictures alone"
                )
            for one in found:
                yield one.filename, _read(file, one, limits)
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise InputError(f"{name} is no zip file, or damaged: pack the pictures again") from None


def _is_beside(name: str) -> bool:
    """Whether the file is one that an operating system puts beside others."""
    return any(is_litter(part) and part not in ("..", ".") for part in PurePosixPath(name).parts)


def _read(file: zipfile.ZipFile, one: zipfile.ZipInfo, limits: Limits) -> bytes | InputError:
    name = one.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return InputError(f"{name:.80} leads out of the zip: pack the pictures' folder again")
    if one.flag_bits & 1:
        return InputError(f"{name:.80} is encrypted: pack the pictures without a password")
    try:
        with file.open(one) as part:
            data = part.read(limits.upload_bytes + 1)  # whatever the zip says of its size
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return InputError(f"{name:.80} is damaged in the zip: pack it again")
    if len(data) > limits.upload_bytes:
        return InputError(
            f"{name:.80} is larger than {limits.upload}: make it smaller, or raise `limits: upload`"
        )
    return data
