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

# Files and folders that operating systems leave in folders of pictures. `is_ignored` also knows names that
# begin with a dot, or with ~$, by which Office locks open files.
IGNORED_NAMES = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
    | {".ds_store"}
)

# Files that lie beside pictures and show no part: labels, notes, tables, models
COMPANION_SUFFIXES = frozenset(
    {*TEXT_SUFFIXES, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md"}
    | {".html", ".log", ".safetensors", ".onnx", ".bin", ".parquet", ".py", ".sh", ".part"}
    | {*TABLE_SUFFIXES, ".aae", ".xmp", ".crdownload"}
)
OUTPUT_LIST = ".flawscope"  # file in a folder of results that lists flawscope's files, a JSON string a line
RESULTS = ("results.csv", "results.json", "predictions")  # further files of a folder of results
RESULT_PICTURES = ["overlays", "maps", "masks"]  # folders of pictures in it

StrPath = str | os.PathLike[str]
AnyPath = TypeVar("AnyPath", bound=StrPath)
NaturalKey = tuple[tuple[tuple[tuple[int, str], ...], str], ...]


def natural_key(path: str | Path) -> NaturalKey:
    """Return a key by which paths are sorted in natural order, as people do.

    For each folder and the file it compares digits as numbers and letters without case. If these are equal,
    the exact name decides.
    """
    key = []
    for part in Path(path).as_posix().split("/"):
        name = unicodedata.normalize("NFC", part)
        piece_keys: list[tuple[int, str]] = []
        for k, piece in enumerate(re.split(r"([0-9]+)", name)):
            is_number = k % 2 == 1  # texts and numbers alternate
            piece_keys.append((int(piece), "") if is_number else (-1, piece.casefold()))
        key.append((tuple(piece_keys), name))
    return tuple(key)


def is_ignored(name: str) -> bool:
    """Whether a name is litter of an operating system or of Office, or begins with a dot."""
    return name.startswith((".", "~$")) or name.casefold() in IGNORED_NAMES


def is_hidden_picture(path: StrPath) -> bool:
    """Whether a file is a picture by its suffix and hidden by its name.

    Files such as `._a.png`, which macOS makes, hold no picture.
    """
    name = os.path.basename(path)
    return name.startswith(".") and not name.startswith("._") and is_picture(name)


def reason_not_judged(path: StrPath) -> str:
    """Return the reason, in words, why a file or folder in a folder of pictures is not judged."""
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
    """Return the entries of a folder in natural order, without those whose names are to be ignored.

    Args:
        folder: The folder.
        hidden: Whether to include hidden pictures, whose names are otherwise ignored.

    Raises:
        InputError: The folder cannot be read.
    """
    entries = []
    try:
        with os.scandir(folder) as all_entries:
            for entry in all_entries:
                is_included = not is_ignored(entry.name)
                if hidden and is_hidden_picture(entry.name) and not _is_folder(entry):
                    is_included = True
                if is_included:
                    entries.append(entry)
    except OSError as error:
        raise folder_error(folder, error) from error
    return sorted(entries, key=lambda entry: natural_key(entry.name))


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
    """Return the folders directly inside a folder, by name, in natural order."""
    return {entry.name: Path(folder, entry.name) for entry in list_entries(folder) if _is_folder(entry)}


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return a subfolder that has one of some names; None where there is none, or the folder is missing.

    A subfolder with the exact spelling of a name is preferred to one with other capitals. Of several with an
    exact spelling, the first of `names` counts.

    Raises:
        InputError: The folder cannot be read.
    """
    if not folder.is_dir():
        return None
    path_by_name = subfolders(folder)
    for name in names:
        if name in path_by_name:
            return path_by_name[name]
    folded_names = {name.casefold() for name in names}
    for name, path in path_by_name.items():
        if name.casefold() in folded_names:
            return path
    return None


def printable(name: str) -> str:
    """Return the name of a file for a page: bytes that are not text are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_output_list(folder: Path) -> list[str]:
    """Return the relative paths of the files that flawscope wrote to a folder, according to its hidden list.

    Paths that lead out of the folder are left out. A folder without a list gives an empty result.
    """
    try:
        lines = (folder / OUTPUT_LIST).read_text(encoding="ascii").splitlines()
        names = [json.loads(line) for line in lines]
    except (OSError, ValueError):  # there is no list, or another program wrote the file
        return []
    return [name for name in names if isinstance(name, str) and name and _stays_inside(folder, name)]


def written_below(folder: Path) -> frozenset[Path]:
    """Return the paths that flawscope wrote to a folder of results; empty for any other folder.

    If the folder was copied without its hidden list, these are the paths of its folders of pictures.
    """
    names = read_output_list(folder)
    if not names and all((folder / name).exists() for name in RESULTS):
        names = RESULT_PICTURES
    return frozenset(folder / name for name in names)


def _stays_inside(folder: Path, name: str) -> bool:
    """Whether a path of the hidden list stays inside its folder, since anybody may have written the list."""
    parent = os.path.realpath((folder / name).parent)
    return not os.path.isabs(name) and ".." not in Path(name).parts and _is_below(parent, folder)


def _is_below(path: str, folder: Path) -> bool:
    """Whether a real path is a folder's real path or lies below it."""
    return Path(path).is_relative_to(os.path.realpath(folder))


def walk_files(folder: Path, *, own: bool = False, hidden: bool = False) -> Iterator[Path]:
    """Yield every file below `folder`, in natural order of the relative path.

    Links to folders elsewhere are followed, but no folder is visited twice. Files that flawscope wrote to
    folders of results are left out.

    Args:
        folder: The folder.
        own: Whether to yield also what flawscope wrote to `folder` itself, such as pictures that a review
            sorted. What it wrote to folders of results inside of `folder` is always left out.
        hidden: Whether to yield hidden pictures, too.
    """
    visited: set[str] = set()  # real paths of folders

    def walk(current: Path, written_above: frozenset[Path]) -> Iterator[Path]:
        """Yield the files below a folder.

        Args:
            current: The folder.
            written_above: Files that flawscope wrote, according to the lists of the folders above it.
        """
        visited.add(os.path.realpath(current))
        written = written_above
        leaves_out_written = current != folder or not own  # `own` keeps what lies in `folder` itself
        if leaves_out_written:
            written |= written_below(current)
        for entry in list_entries(current, hidden=hidden):
            path = Path(current, entry.name)
            if path in written:
                continue
            if not _is_folder(entry):
                if _is_file(entry):
                    yield path
                continue
            real_path = os.path.realpath(path)
            # a link to a folder below `folder` is left out: the folder itself is visited
            is_inner_link = entry.is_symlink() and _is_below(real_path, folder)
            if real_path not in visited and not is_inner_link:
                yield from walk(path, written)

    return walk(folder, frozenset())


def picture_files_in(folder: Path, *, own: bool = False) -> list[Path]:
    """Return the files below a folder that are pictures or masks by their suffix, in natural order.

    Args:
        folder: The folder.
        own: Whether to return the files that flawscope wrote to `folder` itself, too (`walk_files`).
    """
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

    Pictures of a folder are in natural order. No picture is listed twice, and masks of listed pictures are
    left out. A file whose own path is given is listed whatever its suffix.

    Raises:
        InputError: There is no picture.
    """
    files = []
    for path, is_named in _unique_files(spec):
        if is_named or (is_picture(path) and not is_hidden_picture(path)):
            files.append(path)
    masks = find_masks(filter(is_picture, files))
    return [path for path in files if path not in masks]


def list_inputs(spec: StrPath | Iterable[StrPath]) -> tuple[list[Path], list[Path]]:
    """List files as `list_pictures` does, and separate those that may show a part from those beside them.

    Returns:
        Two lists:

        - Files that may show a part: pictures, and files of an unknown format, whose fault is reported when
          they are read.
        - Files beside them: masks, hidden pictures, and files with one of `COMPANION_SUFFIXES`.
    """
    inputs: list[Path] = []
    beside: list[Path] = []
    for path, is_beside in _split_inputs(_unique_files(spec)):
        if is_beside:
            beside.append(path)
        else:
            inputs.append(path)
    return inputs, beside


def iter_inputs(spec: StrPath) -> Iterator[tuple[Path, bool]]:
    """Yield each file of a file, folder or pattern, and whether it only lies beside pictures (`list_inputs`).

    A pattern may yield a file twice.
    """
    return _split_inputs(_expand_spec(spec))


def _split_inputs(files: Iterable[tuple[Path, bool]]) -> Iterator[tuple[Path, bool]]:
    """Yield each file, and whether it only lies beside pictures (`list_inputs`).

    Args:
        files: Each file, and whether its own path was given; otherwise it was found in a folder or by a
            pattern.
    """
    all_files = list(files)
    masks = find_masks(path for path, _ in all_files if is_picture(path))
    for path, is_named in all_files:
        is_companion = path.suffix.lower() in COMPANION_SUFFIXES or is_hidden_picture(path)
        is_only_beside = path in masks or (is_companion and not is_named)
        yield path, is_only_beside


def _unique_files(spec: StrPath | Iterable[StrPath]) -> Iterable[tuple[Path, bool]]:
    """Return each file once, and whether its own path was given (`_split_inputs`).

    Raises:
        InputError: There is no picture.
    """
    specs = [spec] if isinstance(spec, str | os.PathLike) else list(spec)
    if not specs:
        raise InputError("no pictures given; name a picture, a folder or a pattern such as 'parts/*.png'")
    is_named_by_path: dict[Path, bool] = {}
    for single_spec in specs:
        is_named_by_path.update(_expand_spec(single_spec))
    return is_named_by_path.items()


def _expand_spec(spec: StrPath) -> Iterator[tuple[Path, bool]]:
    """Yield each file of a file, folder or pattern, and whether its own path was given."""
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


# Address such as http://..., of which `Path` keeps a single slash. A name of one letter is a Windows drive.
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):[/\\]{1,2}")


def _missing(path: StrPath, what: str) -> InputError:
    """Return the error of a missing path. An address is not repeated in it, since it may hold a password.

    Args:
        path: The path.
        what: Words for what is missing, such as "folder".
    """
    address = _ADDRESS.match(os.fspath(path))
    if address:
        return InputError(
            f"an address ({address[1]}://...) is no {what}: save the pictures in a folder and name that; "
            "to take pictures with a camera, use the station (docs/station-cameras.md)"
        )
    return InputError(f"{path}: no such {what}; check the path")


def require_picture(files: Iterator[AnyPath], text: str) -> Iterator[AnyPath]:
    """Yield all of the files, if at least one of them is a picture.

    Args:
        files: The files.
        text: Beginning of the error's message.

    Raises:
        InputError: No file is a picture; in this case nothing was yielded.
    """
    files_before: list[AnyPath] = []
    for path in files:
        if is_picture(path) and not is_hidden_picture(path):
            yield from files_before
            yield path
            yield from files
            return
        files_before.append(path)
    raise _no_pictures(text, files_before)


def _no_pictures(text: str, other_files: Sequence[StrPath]) -> InputError:
    """Return an InputError with the names of the files that are there instead of pictures."""
    names = ""
    if other_files:
        names = f", only {join_names([os.path.basename(path) for path in other_files])}"
    suffixes = (os.path.splitext(path)[1].lower() for path in other_files)
    remedies = other_remedies(suffixes)
    return InputError(f"{text}{names}; known formats: {known_formats()}{remedies}")


def known_formats() -> str:
    """Return the suffixes of the picture formats that are read, without dots, separated by blanks."""
    return " ".join(sorted(suffix.lstrip(".") for suffix in PICTURE_SUFFIXES))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file, or a broken link; opening the link will report its fault."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def refuse_masks(sources: Sequence[PictureSource]) -> None:
    """Raise InputError where a file is the mask of another file."""
    paths = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    for mask, picture in find_masks(filter(is_picture, paths)).items():
        kind = f"the mask of {picture}" if picture else "a mask"
        raise InputError(f"{mask} is {kind}, no picture: leave masks out of the list, or give the folder")


def picture_names(sources: Sequence[PictureSource], names: Sequence[str] = ()) -> list[str]:
    """Return the names of pictures: `names`, where they are given, or else the names of their files.

    Raises:
        InputError: There are more names than pictures, or fewer.
    """
    if not len(names):
        return relative_names(sources)
    check_one_each(len(sources), name=names)
    return [*names]


def relative_names(sources: Sequence[PictureSource]) -> list[str]:
    """Return a name for each picture: its path relative to the files' common folder.

    A source that is no file is named by its place, such as "picture 3".
    """
    path_by_number = {
        number: Path(source).absolute()
        for number, source in enumerate(sources)
        if isinstance(source, str | os.PathLike)
    }
    common = os.path.commonpath([path.parent for path in path_by_number.values()]) if path_by_number else ""
    names = []
    for number in range(len(sources)):
        path = path_by_number.get(number)
        names.append(f"picture {number}" if path is None else path.relative_to(common).as_posix())
    return names
