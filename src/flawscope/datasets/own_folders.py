"""Opens people's own folders: good beside bad, or a bare folder of pictures; and asks where nobody knows
which of them are good.

What a picture is follows from the name of its folder (`pictures.folder_words`), from its own name, and from
lists and labelling tools (`class_labels`). Where these differ, or tell of a part alone, it is a question.
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
    SUFFIXES,
    ClassLabels,
    read_class_labels,
    read_name_labels,
)
from flawscope.datasets.dataset import (
    Dataset,
    Item,
    SplitSettings,
    category_of,
    split_dataset,
    split_of,
)
from flawscope.datasets.masks import GroundTruth
from flawscope.errors import InputError, join_names, suggest_name
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import (
    GOOD,
    one_may_negate,
    says_good,
    says_only_bad,
    sorts_good,
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
NAME_GOOD = "name them with --good NAME[,NAME], the others are defects; --good all: all are good"


def open_bare(root: Path, settings: SplitSettings) -> Dataset:
    """Opens good pictures alone, or with defects where each picture is called one or the other. A folder with
    signs of a split or of defects is refused, not trained on."""
    paths = pictures_in(root)
    if not paths:
        others = Counter(path.suffix.lower() for path in not_pictures_in(root) if path.suffix)
        there = join_names([f"{n} {suffix}" for suffix, n in others.most_common(3)])
        raise InputError(
            f"{root}: no pictures and no known layout{f', only {there}' if there else ''}; known formats: "
            f"{known_formats()}{other_remedies(others)}"
        )
    if category_of(root).casefold() in MASK_FOLDERS:
        raise InputError(f"{root}: a folder of masks, by its name; give the folder that holds it")
    folders = [path.relative_to(root).parent.parts for path in paths]
    labels = read_class_labels(root, paths, by_marks=True)
    if labels.is_complete:
        return _open_told(root, labels, settings)
    if all(map(split_of, folders)) and len({_kind_folders(parts) for parts in folders}) > 1:
        raise split_question(root, paths)
    if all(map(split_of, folders)) and labels.is_doubtful():  # the marks tell, or nobody does
        raise labels.question(root, NAME_GOOD)
    if any(map(split_of, folders)):
        hint = next("/".join(parts) for parts in folders if split_of(parts))
        reason = "the name hints at a split, but the folders around it follow no known layout"
        raise InputError(f"{root / hint}: {reason}; make it train/good and test/KIND, or good beside bad")
    refuse_unknown(root, paths, labels=labels)
    return _all_good(root, paths, settings)


def _open_told(root: Path, labels: ClassLabels, settings: SplitSettings) -> Dataset:
    """Opens pictures each of which is called good or defective, by its name or by a list. InputError where
    none is good, or where a folder that says "bad" has a good one."""
    good = [path for path in labels.of if labels.class_of(path) is PictureClass.GOOD]
    folders = {path.parent.relative_to(root).parts for path in good}
    if not good or any(says_good(name) is False for parts in folders for name in (category_of(root), *parts)):
        raise labels.question(root, NAME_GOOD)
    truth = GroundTruth(root)
    known = {*truth.pictures}  # without overlays
    bad = [path for path in labels.of if path not in {*good} and path in known]
    test = [Item(p, labels.kind(p), True, truth.find(p), truth.left_out(p)) for p in bad]
    return split_dataset(root, "folder", root, [path for path in good if path in known], test, settings)


def open_folder(root: Path, settings: SplitSettings) -> Dataset:
    """Opens good/ and bad/ (or ok and nok, ...); subfolders of bad/ are kinds; masks beside or inside. Other
    folders are not looked at beside one that says "bad" and no more, else they are a question."""
    truth, good = GroundTruth(root), good_folders(root)
    labels = read_class_labels(root, truth.pictures, truth.labels)
    full = {path: found for path in subfolders(root).values() if (found := truth.pictures_in(path))}
    bad = [path for path in full if says_good(path.name) is False]
    is_unknown = full.keys() - {*good, *bad} and not any(says_only_bad(path.name) for path in bad)
    if is_unknown or one_may_negate([path.name for path in good if path in full]):
        raise _question(root, Counter({(path.name,): len(found) for path, found in full.items()}))
    test = [item for folder in bad for item in defects_in(folder, truth)]
    paths = [path for folder in good for path in good_pictures(folder, truth.pictures_in(folder), labels)]
    # without defects there is no test: every good picture is for training
    share = settings if test else settings._replace(share=0)
    return split_dataset(root, "folder", good[0] if len(good) == 1 else root, paths, test, share)


def open_named(root: Path, names: str, settings: SplitSettings) -> Dataset:
    """Opens a folder whose good pictures somebody named: by their folders, or by words that names and lists
    say of them, or by the kinds of marks around good parts. What is called defective stays it, unless its
    folder is named that says "good", or its word. InputError where nothing has one of the names."""
    asked = split_names(names, "--good", "name folders of good pictures, or all")
    truth = GroundTruth(root, good_kinds=asked)
    folders = {path: path.relative_to(root).parent for path in truth.pictures}
    if asked == (ALL_GOOD,):
        return _all_good(root, truth.pictures, settings)
    own = {p: {"."} if f == Path() else {*f.parts, f.as_posix()} for p, f in folders.items()}
    there = {name for names_ in own.values() for name in names_}
    labels = read_class_labels(root, truth.pictures, truth.labels, by_marks=True)
    known = {*map(fold, there)}
    words = {fold(name) for name in asked} - known
    for name in asked:
        one = {fold(name)}
        if not one <= known and not any(labels.is_named(path, one) for path in folders):
            suggested = suggest_name(name, sorted(there | labels.words, key=natural_key))
            raise InputError(f"{root}: --good {name}: no pictures there; {suggested}")
    good, test = list[Path](), list[Item]()
    for path, folder in folders.items():
        named = [name for name in own[path] if fold(name) in {*map(fold, asked)}]
        is_bad = labels.defect_source(path) and not any(map(says_good, named))
        is_bad = is_bad or (named == ["."] and labels.has_unknown and labels.is_labelled(path))
        if (named and not is_bad) or labels.is_named(path, words):
            good.append(path)
        else:
            kind = _kind_of(folder.parts) or labels.kind(path) or category_of(root)
            test.append(Item(path, kind, True, truth.find(path), truth.left_out(path)))
    if not good:
        raise labels.question(root, NAME_GOOD)
    own_folder = root / asked[0]
    alone = own_folder if len(asked) == 1 and own_folder.is_dir() and asked != (".",) else root
    share = settings if test else settings._replace(share=0)
    return replace(split_dataset(root, "folder", alone, good, test, share), good_kinds=asked)


def _all_good(root: Path, paths: Sequence[Path], settings: SplitSettings) -> Dataset:
    return split_dataset(root, "folder", root, paths, [], settings._replace(share=0))


def good_folders(folder: Path) -> list[Path]:
    """Subfolders of good pictures; first of all the one that published data sets have."""
    first = subfolder(folder, *GOOD)
    named = (
        path for name, path in subfolders(folder).items() if says_good(name) and not is_mask_folder(name)
    )
    return [*dict.fromkeys([*([] if first is None else [first]), *named])]


def good_pictures(
    folder: Path, paths: Sequence[Path], labels: ClassLabels, remedy: str = ""
) -> Sequence[Path]:
    """The pictures of a folder of good ones. InputError where a folder in it says that its are defective, or
    the name of one or a list that it is."""
    remedy = remedy or f"move it, or name {folder.name} with --good where its pictures are good"
    for path in paths:
        below = path.relative_to(folder).parts[:-1]
        if any(says_good(name) is False and not is_mask_folder(name) for name in below):
            raise InputError(f"{path.parent}: not good by its name, within {folder.name}; {remedy}")
        if source := labels.defect_source(path):
            by = "its name" if source == "name" else source
            raise InputError(f"{path}: not good by {by}, within {folder.name}; {remedy}")
    return paths


def defects_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Defective pictures in a folder and its subfolders, which are their kinds. Folders of good pictures are
    left out."""
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parts[:-1]
        if not any(map(says_good, parts)):
            kind = next((p for p in parts if not is_picture_folder(p) and not split_said(p)), folder.name)
            items.append(Item(path, kind, True, truth.find(path), truth.left_out(path)))
    return items


def _kind_of(folders: Sequence[str]) -> str:
    """Kind of a defect by its folders: a folder that says which, else one that says that it is one."""
    named = [name for name in folders if not is_picture_folder(name) and not split_said(name)]
    telling = [name for name in named if not sorts_good([name])]
    return next((name for name in telling if not says_only_bad(name)), telling[-1] if telling else "")


def refuse_unknown(
    root: Path, paths: Iterable[Path], remedy: str = NAME_GOOD, labels: ClassLabels | None = None
) -> None:
    """Raises InputError, with a question, where pictures below `root` are not known to be good.

    Their folders do not tell: one says that they are not, or several lie side by side that say nothing, and
    are not such as people sort good pictures by (`folder_words.sorts_good`), or one may say "not good" in an
    unknown language (`folder_words.one_may_negate`). Or labels of single ones do
    (`ClassLabels.is_doubtful`).

    Args:
        remedy: ends the error.
        labels: of the pictures, where they were read.
    """
    paths = list(paths)
    labels = read_class_labels(root, paths, by_marks=True) if labels is None else labels
    if labels.is_doubtful():
        raise labels.question(root, remedy)
    counts = Counter(path.relative_to(root).parent.parts for path in paths)
    if says_only_bad(category_of(root)):
        raise _question(root.parent, Counter({(category_of(root),): counts.total()}), remedy)
    inside: dict[tuple[str, ...], set[str]] = {}  # folders by the one that holds them
    for parts in counts:
        for depth, name in enumerate(parts):
            inside.setdefault(parts[:depth], set()).add(name)
    for above, names in sorted(inside.items(), key=lambda entry: (len(entry[0]), entry[0])):
        said, unknown = {says_good(name) for name in names}, [n for n in names if says_good(n) is None]
        beside = len(names) > 1 or counts[above] > 0
        bare = counts[above] > 0 and not any(map(says_good, (category_of(root), *above)))
        is_mixed = True in said and (unknown or bare)
        if (
            one_may_negate(names)
            or False in said
            or is_mixed
            or (beside and unknown and not sorts_good(unknown))
        ):
            here = Counter[tuple[str, ...]]()
            for parts, number in counts.items():
                if parts[: len(above)] == above:
                    here[parts[: len(above) + 1]] += number
            raise _question(root, here, remedy)


def refuse_unknown_names(
    name: str,
    inside: Iterable[str],
    read: Mapping[str, Callable[[], bytes]] = MappingProxyType({}),
    remedy: str = NAME_GOOD,
) -> None:
    """Raises InputError as `refuse_unknown`, for pictures that are in no folder, such as those of a zip.

    Args:
        name: of what holds them.
        inside: paths of its files, with forward slashes; those that lead out of it are passed over.
        read: reads a file, by its path: lists of pictures are looked at.
    """
    every = {one: PurePosixPath(one) for one in inside}
    usual = {one: path for one, path in every.items() if not {"..", "/"} & {*path.parts} and ":" not in one}
    pictures = [path for path in usual.values() if is_picture(path)]
    lists = [one for one, path in usual.items() if one in read and path.suffix.lower() in SUFFIXES]
    if not lists:
        virtual = [Path(name, path) for path in pictures]
        refuse_unknown(Path(name), virtual, remedy, read_name_labels(virtual))
        return
    with TemporaryDirectory() as unpacked:
        root, left = Path(unpacked, "in", "pictures"), MAX_LIST_BYTES
        root.mkdir(parents=True)
        for one in lists:
            content = read[one]()
            left -= len(content)
            if left >= 0:
                (root / one).parent.mkdir(parents=True, exist_ok=True)
                (root / one).write_bytes(content)
        labels = read_class_labels(root, [root / path for path in pictures])
    named = {Path(name, path.relative_to(root)): said for path, said in labels.of.items()}
    refuse_unknown(Path(name), named, remedy, ClassLabels(named, labels.has_unknown))


def split_question(root: Path, paths: Iterable[Path]) -> InputError:
    """The question which kinds of a split data set are good."""
    return _question(root, Counter(_kind_folders(path.relative_to(root).parts[:-1]) for path in paths))


def _kind_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """Folders without those that tell a split."""
    return tuple(name for name in folders if not split_said(name))


def _question(root: Path, counts: Mapping[tuple[str, ...], int], remedy: str = NAME_GOOD) -> InputError:
    """The question which folders hold good pictures. counts: of the pictures, by the folder below `root`."""
    words = {True: ", good by its name", False: ", not good by its name", None: ""}
    listed = []
    for parts in sorted(counts, key=lambda parts: natural_key("/".join(parts))):
        said = words[says_good(parts[-1])] if parts else ""
        listed.append(f"{'/'.join(parts) or '.'} ({counts[parts]}{said})")
    return InputError(f"{root}: which folders hold good pictures? {join_names(listed, 12)}: {remedy}")


def split_names(text: str, option: str, remedy: str) -> tuple[str, ...]:
    """Words between commas, each once. InputError, with the remedy, where there is none."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{option} is empty: {remedy}")
    return words
