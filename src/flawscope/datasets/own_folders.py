"""Opens people's own folders: good beside bad, or a bare folder of pictures; and asks which of them are good.

A picture is good or defective by the name of its folder (`pictures.folder_words`), by its own name, and by
lists and labelling tools (`class_labels`). If these contradict each other, or cover only some pictures, the
user is asked.
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
    NAME,
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
    """Open a folder of only good pictures, or of pictures that labels call good or defective.

    If folders' names hint at a split or at defects, and labels do not settle it, an error refuses the folder.
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
    """Return the error for a folder without pictures, with the most frequent suffixes of its files."""
    suffix_counts = Counter(path.suffix.lower() for path in not_pictures_in(root) if path.suffix)
    other_files = join_names([f"{count} {suffix}" for suffix, count in suffix_counts.most_common(3)])
    only = f", only {other_files}" if other_files else ""
    return InputError(
        f"{root}: no pictures and no known layout{only}; known formats: "
        f"{known_formats()}{other_remedies(suffix_counts)}"
    )


def _refuse_split(root: Path, paths: Sequence[Path], labels: ClassLabels) -> None:
    """Raise InputError if the names of some folders state a split.

    If all pictures lie in folders of splits, and have several kinds or doubtful labels, the error asks which
    pictures are good. Otherwise it asks for a known layout.
    """
    folders = [path.relative_to(root).parent.parts for path in paths]
    split_folders = [parts for parts in folders if split_of(parts)]
    if not split_folders:
        return
    if len(split_folders) == len(folders):
        has_several_kinds = len({_kind_folders(parts) for parts in folders}) > 1
        if has_several_kinds:
            raise split_question(root, paths)
        if labels.is_doubtful():
            raise labels.question(root, NAME_GOOD)
    reason = "the name hints at a split, but the folders around it follow no known layout"
    hint = "/".join(split_folders[0])
    raise InputError(f"{root / hint}: {reason}; make it train/good and test/KIND, or good beside bad")


def _open_labelled(root: Path, labels: ClassLabels, settings: SplitSettings) -> Dataset:
    """Open pictures that all are called good or defective by a name or a list.

    Raises:
        InputError: No picture is called good, or one lies in a folder whose name says "bad".
    """
    good = [path for path in labels.by_picture if labels.class_of(path) is PictureClass.GOOD]
    if not good or any(_is_called_bad(root, path) for path in good):
        raise labels.question(root, NAME_GOOD)
    truth = GroundTruth(root)
    pictures = {*truth.pictures}  # without overlays, which are copies of pictures
    good_set = {*good}
    defects = []
    for path in labels.by_picture:
        if path in pictures and path not in good_set:
            defects.append(defect_item(path, labels.kind(path), truth))
    good_pictures_left = [path for path in good if path in pictures]
    splits = labels.splits(good_pictures_left)
    return split_dataset(
        root,
        "folder",
        good=root,
        paths=good_pictures_left,
        bad=defects,
        settings=settings,
        listed=splits,
    )


def _is_called_bad(root: Path, path: Path) -> bool:
    """Whether the name of a picture's folder, or of the root, says "not good"."""
    folders = path.parent.relative_to(root).parts
    return any(says_good(name) is False for name in (category_of(root), *folders))


def open_folder(root: Path, settings: SplitSettings) -> Dataset:
    """Open a folder with good/ and bad/, or names like these, such as ok/ and nok/.

    The subfolders of bad/ are kinds of defects. Masks lie beside bad/ or in it. If a folder's name says only
    "bad", folders of unknown meaning are left out; otherwise the user is asked about them.
    """
    truth = GroundTruth(root)
    labels = read_class_labels(root, truth.pictures, truth.labels)
    tree = FolderTree(root, truth.pictures)
    names_by_meaning = _folders_by_meaning(tree)
    names = [name for same_meaning in names_by_meaning.values() for name in same_meaning]
    has_unknown = bool(names_by_meaning[Said.UNKNOWN] or names_by_meaning[Said.SORTED])
    has_bad_folder = any(map(says_only_bad, names))
    if Said.UNCLEAR in tree.meanings or (has_unknown and not has_bad_folder):
        raise tree.question()
    path_of = subfolders(root)
    defects = [item for name in names_by_meaning[Said.BAD] for item in defects_in(path_of[name], truth)]
    paths = good_pictures(root, tree.pictures(Said.GOOD), labels)
    good_names = names_by_meaning[Said.GOOD]
    good_folder = root / good_names[0] if len(good_names) == 1 else root
    splits = labels.splits(paths)
    split_settings = _with_test_share(settings, defects)
    return split_dataset(root, "folder", good_folder, paths, defects, split_settings, splits)


def _with_test_share(settings: SplitSettings, defects: Sequence[Item]) -> SplitSettings:
    """Return the settings of the split; without defects, with a share of 0: nothing could be tested."""
    return settings if defects else settings._replace(share=0)


def _folders_by_meaning(tree: FolderTree) -> dict[Said, list[str]]:
    """Return the names of the folders directly in the root by meaning, in natural order."""
    folders: dict[Said, list[str]] = {meaning: [] for meaning in Said}
    for name in sorted({parts[0] for parts in tree.counts if parts}, key=natural_key):
        meaning = tree.meaning_of[(name,)]
        folders[meaning].append(name)
    return folders


def open_named(root: Path, names: str, settings: SplitSettings) -> Dataset:
    """Open a folder whose good pictures the user named.

    They are named by their folders, by words in names and lists, or by the kinds of marks around good parts.
    If a label calls a picture of a named folder defective, the picture counts as defective, unless the
    folder's name says "good" or the user named the label's word.

    Args:
        root: Folder of the pictures.
        names: Value of `--good`: names with commas, or `all`.
        settings: Settings of the split.

    Raises:
        InputError: No picture has one of the names.
    """
    good_names = split_names(names, "--good", "name folders of good pictures, or all")
    truth = GroundTruth(root, good_kinds=good_names)
    if good_names == (ALL_GOOD,):
        labels = read_class_labels(root, truth.pictures, truth.labels)
        # a user who answered "all" is not asked about a list that states only some splits
        return _all_good(root, truth.pictures, settings, labels.splits(truth.pictures, asks=False))
    labels = read_class_labels(root, truth.pictures, truth.labels, by_marks=True)
    choice = _NamedGood(root, good_names, truth.pictures, labels)
    choice.refuse_unknown()
    good = list[Path]()
    defects = list[Item]()
    for path in truth.pictures:
        if choice.is_good(path):
            good.append(path)
        else:
            defects.append(defect_item(path, choice.kind(path), truth))
    if not good:
        raise labels.question(root, NAME_GOOD)
    good_folder = root
    if len(good_names) == 1 and good_names != (".",) and (root / good_names[0]).is_dir():
        good_folder = root / good_names[0]
    split_settings = _with_test_share(settings, defects)
    dataset = split_dataset(root, "folder", good_folder, good, defects, split_settings, labels.splits(good))
    return replace(dataset, good_kinds=good_names)


class _NamedGood:
    """Chooses the pictures that --good names, by their folders or by words in names and lists.

    Attributes:
        good_names: Names in --good.
    """

    def __init__(self, root: Path, good_names: Sequence[str], pictures: Iterable[Path], labels: ClassLabels):
        self._root = root
        self.good_names = good_names
        self._labels = labels
        self._folders = {path: path.relative_to(root).parent for path in pictures}
        self._folder_names = {name for folder in self._folders.values() for name in _names_of(folder)}
        self._folded_names = {fold(name) for name in good_names}
        # names in --good that no folder has: they must be words of labels
        self._label_words = self._folded_names - {fold(name) for name in self._folder_names}

    def refuse_unknown(self) -> None:
        """Raise InputError if a name in --good is neither a folder's nor a label's."""
        for name in self.good_names:
            folded_name = fold(name)
            if folded_name not in self._label_words:
                continue
            if any(self._labels.is_named(path, {folded_name}) for path in self._folders):
                continue
            choices = sorted(self._folder_names | self._labels.words, key=natural_key)
            suggestion = suggest_name(name, choices)
            raise InputError(f"{self._root}: --good {name}: no pictures there; {suggestion}")

    def is_good(self, path: Path) -> bool:
        """Whether --good names a picture.

        A picture is named if one of its labels is in --good; or if one of its folders is in --good, and no
        label calls the picture defective.
        """
        folders = [name for name in _names_of(self._folders[path]) if fold(name) in self._folded_names]
        if folders and not self._is_called_defective(path, folders):
            return True
        return self._labels.is_named(path, self._label_words)

    def _is_called_defective(self, path: Path, folders: list[str]) -> bool:
        """Whether labels call a picture defective although it lies in a folder of --good.

        A label that calls the picture defective does not count if a folder's name says good.

        Args:
            path: The picture.
            folders: Names of its folders that are in --good.
        """
        if self._labels.defect_source(path) and not any(map(says_good, folders)):
            return True
        # If labels have an unknown meaning, and only the root itself is in --good, then the pictures with
        # labels may be the defective ones.
        return folders == ["."] and self._labels.has_unknown and self._labels.is_labelled(path)

    def kind(self, path: Path) -> str:
        """Return the kind of a defective picture, from its folders, else its labels, else the root's name."""
        return _kind_of(self._folders[path].parts) or self._labels.kind(path) or category_of(self._root)


def _all_good(
    root: Path, paths: Sequence[Path], settings: SplitSettings, splits: Mapping[Path, str]
) -> Dataset:
    """Make a data set of only good pictures, of which none is held out for testing.

    Args:
        root: Folder of the pictures.
        paths: The pictures.
        settings: Settings of the split.
        splits: Split of each picture as a list states it; empty where there is no list.
    """
    return split_dataset(
        root,
        "folder",
        good=root,
        paths=paths,
        bad=[],
        settings=_with_test_share(settings, defects=[]),
        listed=splits,
    )


def _names_of(folder: Path) -> set[str]:
    """Return the names by which --good may name a folder.

    These are its path and the name of each folder on the path; "." for the root.

    Args:
        folder: The folder, relative to the root.
    """
    return {"."} if folder == Path() else {*folder.parts, folder.as_posix()}


def good_folders(folder: Path) -> list[Path]:
    """Return the subfolders of good pictures; a subfolder named as in published data sets comes first."""
    published_folder = subfolder(folder, *GOOD)
    path_of = {name: path for name, path in subfolders(folder).items() if not is_mask_folder(name)}
    meaning_of = read_side_by_side([*path_of])
    folders = [] if published_folder is None else [published_folder]
    folders += [path for name, path in path_of.items() if meaning_of[name] is Said.GOOD]
    return list(dict.fromkeys(folders))


def good_pictures(root: Path, paths: Sequence[Path], labels: ClassLabels, remedy: str = "") -> Sequence[Path]:
    """Return `paths`, after a check that no label calls one of these pictures defective.

    Args:
        root: Folder of the data set, or of its split.
        paths: Pictures below `root` in folders whose names say good.
        labels: Labels of the pictures.
        remedy: End of the error on a defective picture; empty for the usual one.

    Raises:
        InputError: A picture's name, or a list, calls a picture defective, or has a word of unknown meaning.
    """
    for path in paths:
        source = labels.defect_source(path)
        if source:
            folder = path.relative_to(root).parts[0]
            source_words = "its name" if source == NAME else source
            advice = remedy or f"move it, or name {folder} with --good where its pictures are good"
            line = f"{path}: not good by {source_words}, within {folder}; {advice}"
            raise InputError(data_checks.DEFECT_IN_GOOD_FOLDER.coded(line))
    good_labels = labels.of_good(paths)
    if good_labels.has_unknown:
        raise good_labels.question(root, NAME_GOOD)
    return paths


def defects_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Return the pictures in a folder of defects; the names of its subfolders are the kinds.

    Subfolders of good pictures are left out.
    """
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parent.parts
        if not any(map(says_good, parts)):
            kinds = _kind_names(parts)
            kind = kinds[0] if kinds else folder.name
            items.append(defect_item(path, kind, truth))
    return items


def _kind_names(folders: Sequence[str]) -> list[str]:
    """Return the names of folders that may state a kind, without those of splits and names like images."""
    return [name for name in folders if not is_picture_folder(name) and not split_said(name)]


def kinds_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Return the pictures below a folder, each with the kind that its folders state.

    Pictures in folders of good ones are left out. The kind is empty where the folders state none.
    """
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parent.parts
        if not any(map(says_good, parts)):
            items.append(defect_item(path, _kind_of(parts), truth))
    return items


def _kind_of(folders: Sequence[str]) -> str:
    """Return the kind of a defect: the first of its folders' names that states a kind.

    If no name does, it is the last name that says only "defective"; empty without such a name.
    """
    names = [name for name in _kind_names(folders) if read_words(name) is not Said.SORTED]
    for name in names:
        if not says_only_bad(name):
            return name
    return names[-1] if names else ""


def refuse_unknown(
    root: Path, paths: Iterable[Path], remedy: str = NAME_GOOD, labels: ClassLabels | None = None
) -> None:
    """Raise a question, as an InputError, where pictures below `root` are not known to be good.

    They are known to be good if both are true: the names of all folders say good, or say only how pictures
    are sorted (`FolderTree`); and no picture is made doubtful by its name or a list
    (`ClassLabels.is_doubtful`).

    Args:
        root: Folder of the pictures.
        paths: Pictures below `root`.
        remedy: End of the error's text.
        labels: Labels of the pictures; None: they are read here.

    Raises:
        InputError: The question which pictures, or which folders, are good.
    """
    pictures = list(paths)
    if labels is None:
        labels = read_class_labels(root, pictures, by_marks=True)
    category = category_of(root)
    meaning_of_root = Said.GOOD if says_good(category) else Said.SORTED
    tree = FolderTree(root, pictures, meaning_of_root)
    if tree.meanings == {Said.GOOD}:
        labels = labels.of_good(pictures)
    # an empty set: there are no pictures
    are_folders_good = tree.meanings in ({Said.GOOD}, {Said.SORTED}, set())
    # The question is about the labels, unless the folders are not good either, and the labels are only words
    # of unknown meaning: then it is plainer to ask about the folders.
    if labels.is_doubtful() and (are_folders_good or not labels.is_silent):
        raise labels.question(root, remedy)
    # the root's own name may say that its pictures are not good
    if says_only_bad(category) or (category and is_mistake(category)):
        folder: tuple[str, ...] = (category,)
        meaning_of = {folder: read_words(category)}
        raise folders_question(root.parent, {folder: len(pictures)}, remedy, meaning_of)
    if not are_folders_good:
        raise tree.question(remedy)


def refuse_unknown_names(
    name: str,
    inside: Iterable[str],
    read: Mapping[str, Callable[[], bytes]] = MappingProxyType({}),
    remedy: str = NAME_GOOD,
) -> None:
    """Raise a question, as an InputError, where pictures of a zip are not known to be good.

    The pictures' folders, their names and the lists beside them say whether they are good.

    Args:
        name: Name of the zip.
        inside: Paths of the files in the zip, with forward slashes. Paths that lead out of it are left out.
        read: Functions that return the content of a file, by its path; only those of lists are called.
        remedy: End of the error's text.

    Raises:
        InputError: The question which pictures, or which folders, are good.
    """
    pictures = list[PurePosixPath]()
    other_files = list[str]()
    for inner in dict.fromkeys(inside):
        path = PurePosixPath(inner)
        leads_out = {"..", "/"} & {*path.parts} or ":" in inner
        if leads_out:
            continue
        if is_picture(path):
            pictures.append(path)
        else:
            other_files.append(inner)
    if not other_files:
        paths_in_zip = [Path(name, path) for path in pictures]
        refuse_unknown(Path(name), paths_in_zip, remedy, read_name_labels(paths_in_zip))
        return
    with TemporaryDirectory() as folder:
        root = Path(folder, "in", "pictures")  # lists are searched for in the two folders above, too
        _unpack_lists(root, other_files, read)
        labels = read_class_labels(root, [root / path for path in pictures], by_marks=True)
    labels_in_zip = {}  # by path in the zip, not by path in the temporary folder
    for unpacked_path, picture_labels in labels.by_picture.items():
        labels_in_zip[Path(name, unpacked_path.relative_to(root))] = picture_labels
    refuse_unknown(Path(name), labels_in_zip, remedy, ClassLabels(labels_in_zip, unread=labels.unread))


def _unpack_lists(root: Path, paths: Iterable[str], read: Mapping[str, Callable[[], bytes]]) -> None:
    """Write files of a zip below `root`: possible lists with their content, all others empty.

    Lists beyond `MAX_LIST_BYTES` in total are written empty, too, so that only their names count.

    Args:
        root: Folder to write to, which does not exist yet.
        paths: Paths of the files in the zip.
        read: Functions that return the content of a file, by its path.
    """
    root.mkdir(parents=True)
    bytes_left = MAX_LIST_BYTES
    for path in paths:
        may_be_list = path in read and PurePosixPath(path).suffix.lower() in SUFFIXES
        content = read[path]() if may_be_list else b""
        bytes_left -= len(content)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if bytes_left >= 0 else b"")


def split_question(root: Path, paths: Iterable[Path]) -> InputError:
    """Return the question, as an error, which kinds of a data set with splits are good."""
    counts = Counter(_kind_folders(path.relative_to(root).parent.parts) for path in paths)
    top_meanings = read_side_by_side(sorted({parts[0] for parts in counts if parts}))
    meaning_of = {parts: top_meanings[parts[0]] for parts in counts if parts}
    return folders_question(root, counts, NAME_GOOD, meaning_of)


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
