"""Lists the pictures of a folder, in the same order on every machine."""

from __future__ import annotations

import glob
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from flawscope.errors import InputError, check_one_each, join_names
from flawscope.pictures.decoding import PICTURE_SUFFIXES, PictureSource, is_picture
from flawscope.pictures.mask_files import find_masks
from flawscope.pictures.other_files import OTHER_FILES, TABLE_SUFFIXES, TEXT_SUFFIXES, other_remedies

# What systems leave behind in folders of pictures; names that begin with a dot are left out anyway, and those
# with ~$, by which Office locks what is open.
IGNORED_NAMES = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
    | {".ds_store"}
)

# What lies beside pictures and shows no part: labels, notes, tables, models
COMPANION_SUFFIXES = frozenset(
    {*TEXT_SUFFIXES, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md"}
    | {".html", ".log", ".safetensors", ".onnx", ".bin", ".parquet", ".py", ".sh", ".part"}
    | {*TABLE_SUFFIXES, ".aae", ".xmp", ".crdownload"}
)
OUTPUT_LIST = ".flawscope"  # in a folder of results: flawscope's files there, a JSON string a line
RESULTS = ("results.csv", "results.json", "predictions")  # beside it
RESULT_PICTURES = ["overlays", "maps", "masks"]

StrPath = str | os.PathLike[str]
AnyPath = TypeVar("AnyPath", bound=StrPath)
NaturalKey = tuple[tuple[tuple[tuple[int, str], ...], str], ...]


def natural_key(path: str | Path) -> NaturalKey:
    """Return a sort key: part by part, digits as numbers, case folded, the exact name last."""
    key = []
    for part in Path(path).as_posix().split("/"):
        name = unicodedata.normalize("NFC", part)
        pieces = re.split(r"([0-9]+)", name)
        key.append((tuple((int(p), "") if k % 2 else (-1, p.casefold()) for k, p in enumerate(pieces)), name))
    return tuple(key)


def is_ignored(name: str) -> bool:
    """Whether a name is litter of an operating system or of Office, or begins with a dot."""
    return name.startswith((".", "~$")) or name.casefold() in IGNORED_NAMES


def is_hidden_picture(path: StrPath) -> bool:
    """Whether a file is a picture by its suffix and hidden by its name; macOS' `._a.png` holds no picture."""
    name = os.path.basename(path)
    return name.startswith(".") and not name.startswith("._") and is_picture(name)


def reason_not_judged(path: StrPath) -> str:
    """Return why a file in a folder of pictures, or a folder in it, is not judged."""
    if os.path.isdir(path):
        return "it is a folder that is hidden, or the system's: what lies in it is not looked at"
    if not os.path.isfile(path):
        return "it is no file, or a link that leads nowhere"
    if is_hidden_picture(path):
        return "it is hidden: its name begins with a point"
    if is_ignored(os.path.basename(path)):
        return "it is hidden, or a file of the system"
    if is_picture(path):
        return "it is the mask of a picture, by its name and its look"
    suffix = os.path.splitext(path)[1].lower()
    return f"{suffix} is not a picture's ending" if suffix else "its name has no ending of a picture"


def list_entries(folder: Path, *, hidden: bool = False) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, without litter, in natural order.

    Args:
        folder: The folder.
        hidden: Whether to include hidden pictures.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with os.scandir(folder) as listing:
            kept = (
                e
                for e in listing
                if not is_ignored(e.name) or (hidden and is_hidden_picture(e.name) and not _is_folder(e))
            )
            return sorted(kept, key=lambda e: natural_key(e.name))
    except OSError as error:
        raise folder_error(folder, error) from error


def folder_error(folder: Path, error: OSError) -> InputError:
    """Return the error of a folder that cannot be read, with the reason and the remedy."""
    if isinstance(error, FileNotFoundError):
        return _missing(folder, "folder")
    if isinstance(error, NotADirectoryError):
        kind = OTHER_FILES.get(folder.suffix.lower())
        remedy = kind.remedy.format("it") if kind else "give the folder of pictures"
        return InputError(f"{folder}: a file, not a folder; {remedy}")
    reason = error.strerror or type(error).__name__
    return InputError(f"{folder}: the folder cannot be read ({reason}); check its permissions")


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders directly inside, by name, in natural order."""
    return {e.name: Path(folder, e.name) for e in list_entries(folder) if _is_folder(e)}


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first subfolder with one of these names, exact spelling before any other, or None.

    A missing folder has no subfolders; an unreadable one is an error.
    """
    if not folder.is_dir():
        return None
    present = subfolders(folder)
    for name in names:
        if name in present:
            return present[name]
    wanted = {name.casefold() for name in names}
    return next((path for name, path in present.items() if name.casefold() in wanted), None)


def printable(name: str) -> str:
    """Return the name of a file for a page: bytes that are not text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_output_list(folder: Path) -> list[str]:
    """Return the relative paths of the files that flawscope wrote to a folder of results, by its list.

    Paths that lead out of the folder are left out. Empty for any other folder.
    """
    try:
        lines = (folder / OUTPUT_LIST).read_text(encoding="ascii").splitlines()
        names = [json.loads(line) for line in lines]
    except (OSError, ValueError):  # there is none, or it is not ours
        return []
    return [name for name in names if isinstance(name, str) and name and _stays_inside(folder, name)]


def written_below(folder: Path) -> frozenset[Path]:
    """Return the paths below a folder of results that flawscope wrote; empty for any other folder.

    Of a copy whose hidden list was left behind, these are the folders of pictures.
    """
    names = read_output_list(folder)
    if not names and all((folder / name).exists() for name in RESULTS):
        names = RESULT_PICTURES
    return frozenset(folder / name for name in names)


def _stays_inside(folder: Path, name: str) -> bool:
    """Whether a path of the list, which anybody may have written, leads to a place below the folder."""
    parent = os.path.realpath((folder / name).parent)
    return not os.path.isabs(name) and ".." not in Path(name).parts and _is_below(parent, folder)


def _is_below(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(os.path.realpath(folder))


def walk_files(folder: Path, *, own: bool = False, hidden: bool = False) -> Iterator[Path]:
    """Yield every file below `folder`, in natural order of the relative path.

    Links to folders elsewhere are followed, each real folder once. Flawscope's own files in folders of
    results are passed over.

    Args:
        folder: The folder.
        own: Whether to yield flawscope's own files of `folder` itself, such as the pictures that a review
            sorted.
        hidden: Whether to yield hidden pictures.
    """
    entered: set[str] = set()

    def walk(here: Path, written: frozenset[Path]) -> Iterator[Path]:
        entered.add(os.path.realpath(here))
        if here != folder or not own:
            written |= written_below(here)
        for entry in list_entries(here, hidden=hidden):
            path = Path(here, entry.name)
            if not _is_folder(entry):
                if path not in written and _is_file(entry):
                    yield path
                continue
            real = os.path.realpath(path)
            if (
                path not in written
                and real not in entered
                and not (entry.is_symlink() and _is_below(real, folder))
            ):
                yield from walk(path, written)

    return walk(folder, frozenset())


def picture_files_in(folder: Path, *, own: bool = False) -> list[Path]:
    """Return the pictures below a folder and their masks, by suffix, in natural order (`walk_files`)."""
    return [path for path in walk_files(folder, own=own) if is_picture(path)]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures below a folder, without their masks, in natural order."""
    files = picture_files_in(folder)
    masks = find_masks(files)
    return [path for path in files if path not in masks]


def masks_in(folder: Path) -> list[Path]:
    """Return the masks below a folder, in natural order."""
    files = picture_files_in(folder)
    masks = find_masks(files)
    return [path for path in files if path in masks]


def not_pictures_in(folder: Path) -> list[Path]:
    """Return the files below a folder that are no pictures by their suffix, in natural order."""
    return [path for path in walk_files(folder) if not is_picture(path)]


def list_pictures(spec: StrPath | Iterable[StrPath]) -> list[Path]:
    """Return the pictures of a file, a folder with its subfolders, a glob pattern, or several of these.

    Pictures of a folder are in natural order. None is listed twice, and masks of listed pictures are left
    out. A file named outright is taken whatever its suffix.

    Raises:
        InputError: There is no picture.
    """
    files = [
        path
        for path, outright in _unique_files(spec)
        if outright or (is_picture(path) and not is_hidden_picture(path))
    ]
    masks = find_masks(filter(is_picture, files))
    return [path for path in files if path not in masks]


def list_inputs(spec: StrPath | Iterable[StrPath]) -> tuple[list[Path], list[Path]]:
    """Return the files that may show a part, whatever their suffix, and the files beside them.

    Files are listed as in `list_pictures`. Those of an unknown format may show a part: reading them reports
    their fault. Files beside them are `COMPANION_SUFFIXES`, masks and hidden pictures.
    """
    inputs: list[Path] = []
    beside: list[Path] = []
    for path, aside in _split_inputs(_unique_files(spec)):
        (beside if aside else inputs).append(path)
    return inputs, beside


def iter_inputs(spec: StrPath) -> Iterator[tuple[Path, bool]]:
    """Yield the files of one file, folder or pattern, each with whether it lies beside pictures.

    See `list_inputs`; a pattern may yield a file twice.
    """
    return _split_inputs(_expand_spec(spec))


def _split_inputs(files: Iterable[tuple[Path, bool]]) -> Iterator[tuple[Path, bool]]:
    """Yield files with whether they lie beside pictures.

    Args:
        files: Each file with whether it is named outright.
    """
    every = list(files)
    masks = find_masks(path for path, _ in every if is_picture(path))
    for path, outright in every:
        aside = path.suffix.lower() in COMPANION_SUFFIXES or is_hidden_picture(path)
        yield path, path in masks or (not outright and aside)


def _unique_files(spec: StrPath | Iterable[StrPath]) -> Iterable[tuple[Path, bool]]:
    """Yield files, each once, with whether they are named outright."""
    specs = [spec] if isinstance(spec, str | os.PathLike) else list(spec)
    if not specs:
        raise InputError("no pictures given; name a picture, a folder or a pattern such as 'parts/*.png'")
    return {path: outright for pattern in specs for path, outright in _expand_spec(pattern)}.items()


def _expand_spec(spec: StrPath) -> Iterator[tuple[Path, bool]]:
    path = Path(spec)
    if path.is_dir():
        inside = require_picture(walk_files(path, hidden=True), f"{path}: no pictures in this folder")
        yield from ((file, False) for file in inside)
    elif os.path.lexists(path):
        yield path, True
    elif glob.has_magic(str(spec)) and not _ADDRESS.match(str(spec)):
        inside = require_picture(_matching_files(spec), f"{spec}: the pattern matches no picture")
        yield from ((file, False) for file in inside)
    else:
        raise _missing(spec, "file or folder")


def _matching_files(pattern: StrPath) -> Iterator[Path]:
    """Yield files that a pattern matches, and those in the folders that it matches."""
    matches = sorted((Path(match) for match in glob.glob(str(pattern), recursive=True)), key=natural_key)
    for match in matches:
        if is_ignored(match.name):
            continue
        if match.is_dir():
            yield from walk_files(match, hidden=True)
        else:
            yield match


# Address of the web, a camera or a store: `Path` keeps one of its slashes; a drive has one letter
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):[/\\]{1,2}")


def _missing(path: StrPath, what: str) -> InputError:
    """Return the error of a path that is not there; an address may hold a password, and is not repeated."""
    if address := _ADDRESS.match(os.fspath(path)):
        return InputError(
            f"an address ({address[1]}://...) is no {what}: save the pictures in a folder and name that; "
            "those of a camera the station takes (docs/station-cameras.md)"
        )
    return InputError(f"{path}: no such {what}; check the path")


def require_picture(files: Iterator[AnyPath], text: str) -> Iterator[AnyPath]:
    """Yield the files unchanged.

    Raises:
        InputError: None is a picture; the message is `text`.
    """
    before = []
    for path in files:
        before.append(path)
        if is_picture(path) and not is_hidden_picture(path):
            break
    else:
        raise _no_pictures(text, before)
    yield from before
    yield from files


def _no_pictures(text: str, others: Sequence[StrPath]) -> InputError:
    """Return an InputError with the names of the files that are there instead."""
    found = f", only {join_names([os.path.basename(path) for path in others])}" if others else ""
    remedies = other_remedies(os.path.splitext(path)[1].lower() for path in others)
    return InputError(f"{text}{found}; known formats: {known_formats()}{remedies}")


def known_formats() -> str:
    """Return the suffixes of the picture formats that are read, without dots, separated by blanks."""
    return " ".join(sorted(suffix.lstrip(".") for suffix in PICTURE_SUFFIXES))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file, or a link that leads nowhere: opening it reports that."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def refuse_masks(sources: Sequence[PictureSource]) -> None:
    """Raise InputError where one of the files is the mask of another one."""
    paths = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    for mask, picture in find_masks(filter(is_picture, paths)).items():
        of = f"the mask of {picture}" if picture else "a mask"
        raise InputError(f"{mask} is {of}, no picture: leave masks out of the list, or give the folder")


def picture_names(sources: Sequence[PictureSource], names: Sequence[str] = ()) -> list[str]:
    """Return the names of pictures: those given, one each, or else those of their files.

    Raises:
        InputError: There are more names than pictures, or fewer.
    """
    if not len(names):
        return relative_names(sources)
    check_one_each(len(sources), name=names)
    return [*names]


def relative_names(sources: Sequence[PictureSource]) -> list[str]:
    """Return paths of files, relative to their common folder; "picture 3" for a source that is no file."""
    paths = {k: Path(s).absolute() for k, s in enumerate(sources) if isinstance(s, str | os.PathLike)}
    common = os.path.commonpath([path.parent for path in paths.values()]) if paths else ""
    return [
        paths[k].relative_to(common).as_posix() if k in paths else f"picture {k}" for k in range(len(sources))
    ]
