"""Opens people's own folders: good beside bad, or a bare folder of pictures; and asks which of them are good.

A picture is good or defective by the name of its folder (`pictures.folder_words`), by its own name, and by
lists and labelling tools (`class_labels`). Where these differ, or cover some pictures alone, it is a
question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import MappingProxyType

from flawscope.datasets.class_labels import (
    MAX_LIST_BYTES,
    ClassLabels,
    read_class_labels,
    read_name_labels,
)
from flawscope.datasets.dataset import (
    Dataset,
    Item,
    SplitSettings,
    category_of,
    defect_item,
    split_dataset,
    split_of,
)
from flawscope.datasets.good_and_bad_folders import NAME_GOOD, FolderTree, folders_question
from flawscope.datasets.labels.tables import SUFFIXES
from flawscope.datasets.masks import GroundTruth
from flawscope.errors import InputError, data_checks, join_names, suggest_name
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import (
    GOOD,
    Said,
    is_mistake,
    read_side_by_side,
    read_words,
    says_good,
    says_only_bad,
    split_said,
)
from flawscope.pictures.listing import (
    known_formats,
    natural_key,
    not_pictures_in,
    pictures_in,
    subfolder,
    subfolders,
)
from flawscope.pictures.mask_files import MASK_FOLDERS, fold, is_mask_folder, is_picture_folder
from flawscope.pictures.name_words import PictureClass
from flawscope.pictures.other_files import other_remedies

ALL_GOOD = "all"  # names of folders of good pictures: every one


def open_bare(root: Path, settings: SplitSettings) -> Dataset:
    """Open a folder of good pictures alone, or of pictures each of which is called good or defective.

    A folder with signs of a split or of defects is refused, not trained on.
    """
    paths = pictures_in(root)
    if not paths:
        raise _no_pictures(root)
    if category_of(root).casefold() in MASK_FOLDERS:
        raise InputError(f"{root}: a folder of masks, by its name; give the folder that holds it")
    labels = read_class_labels(root, paths, by_marks=True)
    if labels.is_complete:
        return _open_labelled(root, labels, settings)
    _refuse_split(root, paths, labels)
    refuse_unknown(root, paths, labels=labels)
    return _all_good(root, paths, settings, labels.splits(paths))


def _no_pictures(root: Path) -> InputError:
    others = Counter(path.suffix.lower() for path in not_pictures_in(root) if path.suffix)
    other_files = join_names([f"{n} {suffix}" for suffix, n in others.most_common(3)])
    only = f", only {other_files}" if other_files else ""
    return InputError(
        f"{root}: no pictures and no known layout{only}; known formats: "
        f"{known_formats()}{other_remedies(others)}"
    )


def _refuse_split(root: Path, paths: Sequence[Path], labels: ClassLabels) -> None:
    """Raise InputError where folders hint at a split, and nothing says which of its pictures are good."""
    folders = [path.relative_to(root).parent.parts for path in paths]
    of_a_split = [parts for parts in folders if split_of(parts)]
    if not of_a_split:
        return
    if len(of_a_split) == len(folders):
        if len({_kind_folders(parts) for parts in folders}) > 1:
            raise split_question(root, paths)
        if labels.is_doubtful():  # marks decide, or it is a question
            raise labels.question(root, NAME_GOOD)
    reason = "the name hints at a split, but the folders around it follow no known layout"
    hint = "/".join(of_a_split[0])
    raise InputError(f"{root / hint}: {reason}; make it train/good and test/KIND, or good beside bad")


def _open_labelled(root: Path, labels: ClassLabels, settings: SplitSettings) -> Dataset:
    """Open pictures each of which a name or a list calls good or defective.

    Raises:
        InputError: None is good, or a folder whose name says "bad" has a good one.
    """
    good = [path for path in labels.by_picture if labels.class_of(path) is PictureClass.GOOD]
    if not good or any(_is_called_bad(root, path) for path in good):
        raise labels.question(root, NAME_GOOD)
    truth = GroundTruth(root)
    pictures = {*truth.pictures}  # without overlays
    called_good = {*good}
    test = []
    for path in labels.by_picture:
        if path in pictures and path not in called_good:
            test.append(defect_item(path, labels.kind(path), truth))
    learnt = [path for path in good if path in pictures]
    return split_dataset(root, "folder", root, learnt, test, settings, labels.splits(learnt))


def _is_called_bad(root: Path, path: Path) -> bool:
    """Whether a folder of a picture, or the root, says that it is not good."""
    folders = path.parent.relative_to(root).parts
    return any(says_good(name) is False for name in (category_of(root), *folders))


def open_folder(root: Path, settings: SplitSettings) -> Dataset:
    """Open good/ and bad/ (or ok and nok, ...); subfolders of bad/ are kinds; masks lie beside or inside.

    Other folders are not used beside a folder whose name says only "bad"; else they are a question.
    """
    truth = GroundTruth(root)
    labels = read_class_labels(root, truth.pictures, truth.labels)
    tree = FolderTree(root, truth.pictures)
    folders = _folders_by_said(tree)
    names = [name for several in folders.values() for name in several]
    has_unknown = bool(folders[Said.UNKNOWN] or folders[Said.SORTED])
    if Said.UNCLEAR in tree.found or (has_unknown and not any(map(says_only_bad, names))):
        raise tree.question()
    paths_of = subfolders(root)
    test = [item for name in folders[Said.BAD] for item in defects_in(paths_of[name], truth)]
    paths = good_pictures(root, tree.pictures(Said.GOOD), labels)
    # without defects there is no test: every good picture is for training
    share = settings if test else settings._replace(share=0)
    good = folders[Said.GOOD]
    alone = root / good[0] if len(good) == 1 else root
    return split_dataset(root, "folder", alone, paths, test, share, labels.splits(paths))


def _folders_by_said(tree: FolderTree) -> dict[Said, list[str]]:
    """Names of the folders in the root, in natural order, by their meaning."""
    folders: dict[Said, list[str]] = {said: [] for said in Said}
    for name in sorted({parts[0] for parts in tree.counts if parts}, key=natural_key):
        folders[tree.said[(name,)]].append(name)
    return folders


def open_named(root: Path, names: str, settings: SplitSettings) -> Dataset:
    """Open a folder whose good pictures the user named.

    They are named by their folders, by words in names and lists, or by the kinds of marks around good parts.
    A picture called defective stays defective, unless its folder's name says "good" and is named, or its word
    is named.

    Args:
        root: Folder of the pictures.
        names: Value of `--good`: names with commas, or `all`.
        settings: Settings of the drawn split.

    Raises:
        InputError: Nothing has one of the names.
    """
    named = split_names(names, "--good", "name folders of good pictures, or all")
    truth = GroundTruth(root, good_kinds=named)
    if named == (ALL_GOOD,):
        labels = read_class_labels(root, truth.pictures, truth.labels)
        return _all_good(root, truth.pictures, settings, labels.splits(truth.pictures, asks=False))
    labels = read_class_labels(root, truth.pictures, truth.labels, by_marks=True)
    choice = _NamedGood(root, named, truth.pictures, labels)
    choice.refuse_unknown()
    good = list[Path]()
    test = list[Item]()
    for path in truth.pictures:
        if choice.is_good(path):
            good.append(path)
        else:
            test.append(defect_item(path, choice.kind(path), truth))
    if not good:
        raise labels.question(root, NAME_GOOD)
    own_folder = root / named[0]
    alone = own_folder if len(named) == 1 and own_folder.is_dir() and named != (".",) else root
    share = settings if test else settings._replace(share=0)
    found = split_dataset(root, "folder", alone, good, test, share, labels.splits(good))
    return replace(found, good_kinds=named)


class _NamedGood:
    """Chooses the pictures that --good names: by their folders, else by words in names and lists.

    Attributes:
        named: Names in --good.
    """

    def __init__(self, root: Path, named: Sequence[str], pictures: Iterable[Path], labels: ClassLabels):
        self._root = root
        self.named = named
        self._labels = labels
        self._folders = {path: path.relative_to(root).parent for path in pictures}
        self._there = {name for folder in self._folders.values() for name in _names_of(folder)}
        self._folded = {fold(name) for name in named}
        self._words = self._folded - {fold(name) for name in self._there}  # that name no folder

    def refuse_unknown(self) -> None:
        """Raise InputError where no picture has one of the names."""
        for name in self.named:
            folded = fold(name)
            if folded not in self._words:
                continue
            if any(self._labels.is_named(path, {folded}) for path in self._folders):
                continue
            suggested = suggest_name(name, sorted(self._there | self._labels.words, key=natural_key))
            raise InputError(f"{self._root}: --good {name}: no pictures there; {suggested}")

    def is_good(self, path: Path) -> bool:
        """Whether a picture is named, by its folder unless something calls it defective, or by a word."""
        folders = [name for name in _names_of(self._folders[path]) if fold(name) in self._folded]
        if folders and not self._is_called_defective(path, folders):
            return True
        return self._labels.is_named(path, self._words)

    def _is_called_defective(self, path: Path, folders: list[str]) -> bool:
        """Whether something calls a picture of named folders defective, and no folder's name says good."""
        if self._labels.defect_source(path) and not any(map(says_good, folders)):
            return True
        # labels of unknown meaning may mark the defective pictures among those directly in the folder
        return folders == ["."] and self._labels.has_unknown and self._labels.is_labelled(path)

    def kind(self, path: Path) -> str:
        """Kind of a picture that is not named, by its folders, its labels, or the data set's name."""
        return _kind_of(self._folders[path].parts) or self._labels.kind(path) or category_of(self._root)


def _all_good(
    root: Path, paths: Sequence[Path], settings: SplitSettings, splits: Mapping[Path, str]
) -> Dataset:
    return split_dataset(root, "folder", root, paths, [], settings._replace(share=0), splits)


def _names_of(folder: Path) -> set[str]:
    """Return the names that mean a folder: each folder's of its path below the root, and the whole path."""
    return {"."} if folder == Path() else {*folder.parts, folder.as_posix()}


def good_folders(folder: Path) -> list[Path]:
    """Subfolders of good pictures; first of all the one that published data sets have."""
    first = subfolder(folder, *GOOD)
    path_of = {name: path for name, path in subfolders(folder).items() if not is_mask_folder(name)}
    said = read_side_by_side([*path_of])
    folders = [] if first is None else [first]
    folders += [path for name, path in path_of.items() if said[name] is Said.GOOD]
    return list(dict.fromkeys(folders))


def good_pictures(root: Path, paths: Sequence[Path], labels: ClassLabels, remedy: str = "") -> Sequence[Path]:
    """Return the pictures of folders of good ones.

    Raises:
        InputError: A picture's name, or a list, calls one defective, or has an unknown meaning for one.
    """
    for path in paths:
        if source := labels.defect_source(path):
            folder = path.relative_to(root).parts[0]
            by = "its name" if source == "name" else source
            remedy = remedy or f"move it, or name {folder} with --good where its pictures are good"
            line = f"{path}: not good by {by}, within {folder}; {remedy}"
            raise InputError(data_checks.DEFECT_IN_GOOD_FOLDER.coded(line))
    good_labels = labels.of_good(paths)
    if good_labels.has_unknown:
        raise good_labels.question(root, NAME_GOOD)
    return paths


def defects_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Defective pictures in a folder and its subfolders, which are their kinds.

    Folders of good pictures are left out.
    """
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parts[:-1]
        if not any(map(says_good, parts)):
            kind = next((p for p in parts if not is_picture_folder(p) and not split_said(p)), folder.name)
            items.append(defect_item(path, kind, truth))
    return items


def kinds_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Return the pictures below a folder, without those in folders of good ones, each with its kind.

    The kind is the one that the picture's folders state; empty where they state none.
    """
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parts[:-1]
        if not any(map(says_good, parts)):
            items.append(defect_item(path, _kind_of(parts), truth))
    return items


def _kind_of(folders: Sequence[str]) -> str:
    """Return the kind of a defect: a folder's name that states a kind, else one that says "defective"."""
    named = [name for name in folders if not is_picture_folder(name) and not split_said(name)]
    telling = [name for name in named if read_words(name) is not Said.SORTED]
    return next((name for name in telling if not says_only_bad(name)), telling[-1] if telling else "")


def refuse_unknown(
    root: Path, paths: Iterable[Path], remedy: str = NAME_GOOD, labels: ClassLabels | None = None
) -> None:
    """Ask, by an InputError, where pictures below `root` are not known to be good.

    They are known to be good where all of their folders' names say so, or say only how good pictures are
    sorted (`FolderTree`), and no name or list says otherwise of a picture (`ClassLabels.is_doubtful`).

    Args:
        root: Folder of the pictures.
        paths: Pictures below `root`.
        remedy: End of the error's text.
        labels: Labels of the pictures, where they were read already.
    """
    paths = list(paths)
    if labels is None:
        labels = read_class_labels(root, paths, by_marks=True)
    category = category_of(root)
    tree = FolderTree(root, paths, Said.GOOD if says_good(category) else Said.SORTED)
    if tree.found == {Said.GOOD}:
        labels = labels.of_good(paths)
    is_known = tree.found in ({Said.GOOD}, {Said.SORTED}, set())
    if labels.is_doubtful() and (is_known or not labels.is_silent):
        raise labels.question(root, remedy)
    if says_only_bad(category) or (category and is_mistake(category)):
        raise folders_question(
            root.parent, Counter({(category,): len(paths)}), remedy, {(category,): read_words(category)}
        )
    if not is_known:
        raise tree.question(remedy)


def refuse_unknown_names(
    name: str,
    inside: Iterable[str],
    read: Mapping[str, Callable[[], bytes]] = MappingProxyType({}),
    remedy: str = NAME_GOOD,
) -> None:
    """Ask, by an InputError, where pictures of a zip are not known to be good.

    They are known by their paths, their names and the lists beside them.

    Args:
        name: Name of the zip.
        inside: Paths of its files, with forward slashes; those that lead out of it are passed over.
        read: Functions that read a file, by its path: lists are read.
        remedy: End of the error's text.
    """
    pictures = list[PurePosixPath]()
    others = list[str]()
    for inner in dict.fromkeys(inside):
        path = PurePosixPath(inner)
        if {"..", "/"} & {*path.parts} or ":" in inner:
            continue
        if is_picture(path):
            pictures.append(path)
        else:
            others.append(inner)
    if not others:
        virtual = [Path(name, path) for path in pictures]
        refuse_unknown(Path(name), virtual, remedy, read_name_labels(virtual))
        return
    with TemporaryDirectory() as unpacked:
        root = Path(unpacked, "in", "pictures")
        _unpack_lists(root, others, read)
        labels = read_class_labels(root, [root / path for path in pictures], by_marks=True)
    named = {Path(name, path.relative_to(root)): said for path, said in labels.by_picture.items()}
    refuse_unknown(Path(name), named, remedy, ClassLabels(named, unread=labels.unread))


def _unpack_lists(root: Path, paths: Iterable[str], read: Mapping[str, Callable[[], bytes]]) -> None:
    """Write files of a zip below `root`: possible lists with their content, the others empty.

    Lists beyond `MAX_LIST_BYTES` in total are written empty, too: then their names alone count.
    """
    root.mkdir(parents=True)
    left = MAX_LIST_BYTES
    for path in paths:
        may_tell = path in read and PurePosixPath(path).suffix.lower() in SUFFIXES
        content = read[path]() if may_tell else b""
        left -= len(content)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if left >= 0 else b"")


def split_question(root: Path, paths: Iterable[Path]) -> InputError:
    """Return the question which kinds of a split data set are good."""
    counts = Counter(_kind_folders(path.relative_to(root).parts[:-1]) for path in paths)
    tops = read_side_by_side(sorted({parts[0] for parts in counts if parts}))
    return folders_question(root, counts, NAME_GOOD, {parts: tops[parts[0]] for parts in counts if parts})


def _kind_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """Return the folders without those whose name states a split."""
    return tuple(name for name in folders if not split_said(name))


def split_names(text: str, option: str, remedy: str) -> tuple[str, ...]:
    """Return the words between commas, each once.

    Raises:
        InputError: There is no word; the message ends with `remedy`.
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{option} is empty: {remedy}")
    return words
