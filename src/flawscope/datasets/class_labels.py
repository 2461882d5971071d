"""Finds the class of each picture, good or defective, beside what its folder says: by its own name, by lists
beside it or above, and by the labels that tools give whole pictures.

What is plain is used. Two classes of one picture, values that nobody knows, or pictures without a label
beside others that have one, are a question for a person.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flawscope.datasets.labels import LabelFiles, Texts
from flawscope.errors import InputError, join_names
from flawscope.pictures.folder_words import says_good, says_only_bad, split_words, word_set
from flawscope.pictures.listing import list_entries, natural_key
from flawscope.pictures.mask_files import fold
from flawscope.pictures.name_words import PictureClass, read_names

UNMARKED = "unmarked"  # word of pictures without marks beside others with some
MAX_VALUES = 20  # of a column of labels; one with more holds something else
MAX_LIST_BYTES = 1 << 24  # larger files above the pictures' folder, or in a zip, are not opened
SUFFIXES = {".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".xml", ".txt"}
_TRUE = word_set("1 true yes y ja j oui si sim tak x wahr vrai vero verdadero verdadeiro prawda")
_FALSE = word_set(
    "0 false no n nein non nao nie nee falsch faux falso falsz none keine kein keiner - nan null ohne aucun "
    "nessuno ninguno nenhum geen n/a na"
)
_LABELS = word_set(  # words of columns that say what a picture is, in six languages
    "label labels class classes target y gt truth annotation verdict decision judgement judgment result "
    "results status state condition quality choice tag outcome klasse klassen urteil bewertung befund "
    "ergebnis pruefergebnis prufergebnis zustand qualitat entscheidung etikett classe etiquette resultat "
    "etat jugement qualite etiqueta resultado clase estado calidad juicio esito giudizio risultato "
    "etichetta stato qualita rotulo qualidade etykieta wynik klasa ocena stan jakosc uitslag oordeel "
    "kwaliteit"
)
_KINDS = word_set("category categories kategorie categorie categoria kategoria type typ tipo kind")
_SCORES = word_set("score scores severity probability punktzahl schweregrad punteggio puntuacion")


class ClassLabel(NamedTuple):
    """Class of a picture by one source, and the words that tell it, which `--good` may name."""

    picture_class: PictureClass
    words: str
    source: str


@dataclass
class ClassLabels:
    """Labels of pictures, in their order; a picture may have none, or several.

    Attributes:
        of: labels by picture.
        has_unknown: a list has values of which nobody knows what they mean.
    """

    of: dict[Path, list[ClassLabel]] = field(default_factory=dict)
    has_unknown: bool = False

    def class_of(self, picture: Path) -> PictureClass:
        """The class that all labels of a picture agree on."""
        found = {one.picture_class for one in self.of.get(picture, ())} - {PictureClass.UNKNOWN}
        return PictureClass.UNCLEAR if len(found) > 1 else next(iter(found), PictureClass.UNKNOWN)

    def defect_source(self, picture: Path) -> str:
        """Names the source that calls a picture defective; empty where none does."""
        labels = self.of.get(picture, ())
        return next((one.source for one in labels if one.picture_class is PictureClass.BAD), "")

    def is_labelled(self, picture: Path) -> bool:
        """Whether somebody says something of a picture, be it known what it means or not."""
        return any(one.words != UNMARKED for one in self.of.get(picture, ()))

    def is_named(self, picture: Path, wanted: set[str]) -> bool:
        """Whether a label of a picture has one of the names. wanted: folded."""
        for one in self.of.get(picture, ()):
            own = {*split_words(one.words)}
            if fold(one.words) in wanted or any((w := {*split_words(name)}) and w <= own for name in wanted):
                return True
        return False

    @property
    def words(self) -> set[str]:
        return {one.words for labels in self.of.values() for one in labels}

    @property
    def is_complete(self) -> bool:
        """Whether each picture is either good or defective, and some are defective."""
        found = {self.class_of(picture) for picture in self.of}
        return PictureClass.BAD in found and found <= {PictureClass.GOOD, PictureClass.BAD}

    def is_doubtful(self) -> bool:
        """Whether some pictures may be defective: one is called so or both, a list has unknown values, or
        some of a folder are called good and the others have no label."""
        by_folder: dict[Path, set[PictureClass]] = {}
        for picture in self.of:
            by_folder.setdefault(picture.parent, set()).add(self.class_of(picture))
        found = {one for several in by_folder.values() for one in several}
        if found & {PictureClass.BAD, PictureClass.UNCLEAR}:
            return True
        if self.has_unknown and found != {PictureClass.GOOD}:
            return True
        return {PictureClass.GOOD, PictureClass.UNKNOWN} in by_folder.values()

    def doubtful(self) -> list[Path]:
        """The pictures that may be defective, where some may: those that are called so, else those without a
        label."""
        if not self.is_doubtful():
            return []
        called = [path for path in self.of if self.class_of(path) in (PictureClass.BAD, PictureClass.UNCLEAR)]
        return called or [path for path in self.of if self.class_of(path) is PictureClass.UNKNOWN]

    def kind(self, picture: Path) -> str:
        """Kind of a defect: the words that call it so, best such as say which; empty where there are none."""
        others = [one for one in self.of[picture] if one.picture_class is not PictureClass.GOOD]
        others.sort(key=lambda one: (one.picture_class is not PictureClass.BAD, says_only_bad(one.words)))
        words = others[0].words if others else ""
        is_answer = _number(words) is not None or words.casefold() in _TRUE | _FALSE
        return "defect" if words and is_answer else words

    def question(self, root: Path, remedy: str) -> InputError:
        """The question which pictures below `root` are good, with the words by which to name them."""
        counts = Counter(self._describe(picture, root) for picture in self.of)
        order = sorted(counts, key=lambda key: natural_key(key[0]))
        listed = [f"{words} ({counts[words, why]}, {why})" for words, why in order]
        return InputError(f"{root}: which pictures are good? {join_names(listed, 12)}: {remedy}")

    def _describe(self, picture: Path, root: Path) -> tuple[str, str]:
        """Returns words that name a picture, and what they say by which source."""
        labels, found = self.of[picture], self.class_of(picture)
        if not labels:
            return picture.parent.relative_to(root).as_posix(), "nothing is said"
        if found is PictureClass.UNCLEAR:
            sources = " and ".join(sorted({one.source for one in labels}))
            return labels[0].words, f"unclear by {sources}"
        telling = next((one for one in labels if one.picture_class is found), labels[0])
        if telling.words == UNMARKED:
            return UNMARKED, "nothing is said"
        return telling.words, f"{found.value} by {telling.source}".strip()


def read_class_labels(
    root: Path, pictures: Sequence[Path], files: LabelFiles | None = None, *, by_marks: bool = False
) -> ClassLabels:
    """Reads the labels of pictures below `root`, by names and files.

    Args:
        files: those below it.
        by_marks: nothing else may tell which pictures are good: those are not in which something is marked
            whose kind does not say so, and the others are `UNMARKED`.

    Raises:
        InputError: a list cannot be read for want of a library.
    """
    found, files = ClassLabels({picture: [] for picture in pictures}), files or LabelFiles(root, pictures)
    if by_marks and (marked := files.marked()):
        for picture, labels in found.of.items():
            source, kinds = marked.get(picture, ("", (UNMARKED,)))
            known = PictureClass.BAD if picture in marked else PictureClass.UNKNOWN
            labels.append(ClassLabel(known, ", ".join(kinds) or "marked", source.rpartition("/")[2]))
    for one in [files, *_files_above(root, pictures)]:
        if missing := next(iter(one.unread_lists.items()), None):
            raise InputError(f"{missing[0]} may say which pictures are good: {missing[1]}, or move it away")
        for source, texts in one.class_texts().items():
            own = {one.given[path]: several for path, several in texts.items()}
            _add_source(found, source, {path: several for path, several in own.items() if path in found.of})
    for picture, labels in read_name_labels(pictures).of.items():
        found.of[picture] += labels
    return found


def read_name_labels(pictures: Sequence[Path]) -> ClassLabels:
    """Reads the labels in the names of pictures, which need not be there."""
    found = ClassLabels({picture: [] for picture in pictures})
    by_folder: dict[Path, list[Path]] = {}
    for picture in pictures:
        by_folder.setdefault(picture.parent, []).append(picture)
    for beside in by_folder.values():
        for picture, name in zip(beside, read_names([one.stem for one in beside]), strict=True):
            if name.picture_class is not PictureClass.UNKNOWN:
                found.of[picture].append(ClassLabel(name.picture_class, name.words, "name"))
    return found


def _files_above(root: Path, pictures: Sequence[Path]) -> Iterator[LabelFiles]:
    """Yields the label files and lists in the two folders above `root`."""
    whole = Path(os.path.abspath(root))
    for levels, folder in enumerate(whole.parents[:2], start=1):
        try:
            entries = [e for e in list_entries(folder) if Path(e.name).suffix.lower() in SUFFIXES]
            paths = [folder / e.name for e in entries if e.is_file() and e.stat().st_size <= MAX_LIST_BYTES]
        except (InputError, OSError):  # others' folders
            continue
        if paths:
            yield LabelFiles(folder, pictures, paths, levels)


# --------------------------------------------------------------------------------------------------- columns


class _Column(NamedTuple):
    """Column of a list: class and words by picture. has_unknown: nobody knows what its values mean."""

    of: dict[Path, tuple[PictureClass, str]]
    has_unknown: bool = False

    def is_complete(self, count: int) -> bool:
        """Whether it tells the class of so many pictures."""
        known = all(found is not PictureClass.UNKNOWN for found, _ in self.of.values())
        return not self.has_unknown and len(self.of) == count and known


def _add_source(found: ClassLabels, source: str, texts: Mapping[Path, Texts]) -> None:
    """Adds the labels of a file, or of a tool's files of one picture each. Beside a column that tells the
    class of each picture, others that nobody knows are needless."""
    columns: dict[str, dict[Path, list[str]]] = {}
    for picture, own in texts.items():
        for header, text in own:
            columns.setdefault(header, {}).setdefault(picture, []).append(text)
    is_partial = len(texts) < len(found.of)
    joined = _joined(columns, source, texts)
    read = [_read_column(header, values, is_partial) for header, values in joined.items()]
    telling = [column for column in read if column is not None and column.of]
    is_complete = any(column.is_complete(len(texts)) for column in telling)
    for column in telling:
        if column.has_unknown and is_complete:
            continue
        found.has_unknown |= column.has_unknown
        for picture, (picture_class, words) in column.of.items():
            if words:
                found.of[picture].append(ClassLabel(picture_class, words, source))


def _joined(
    columns: dict[str, dict[Path, list[str]]], source: str, texts: Mapping[Path, Texts]
) -> dict[str, dict[Path, list[str]]]:
    """Columns that are ticked or not, one for each class, joined to one of the classes."""
    every = {fold(text) for values in columns.values() for own in values.values() for text in own}
    if not every <= {"0", "1", "true", "false"} or len(columns) < (1 if source == "LabelMe" else 2):
        return columns
    joined = {
        picture: [header for header, text in own if fold(text) in ("1", "true")] or [""]
        for picture, own in texts.items()
    }
    good = {says_good(header) for header in columns}
    one_each = sum(len(own) == 1 and own != [""] for own in joined.values())
    if good != {None} and (len(columns) == 1 or 2 * one_each <= len(joined)):
        return columns
    return {"defect" if True in good else "label": joined}  # beside a class of good ones others are defects


def _read_column(header: str, values: Mapping[Path, list[str]], is_partial: bool) -> _Column | None:
    """Reads a column of texts; None where it says nothing of good and defective. is_partial: it is not of all
    pictures."""
    good, words = says_good(header), {*split_words(header)}
    texts = {text for own in values.values() for text in own if text}
    numbers = {_number(text) for text in texts}
    is_measured = len(texts) > 1 and None not in numbers and not numbers <= {0.0, 1.0}
    if is_measured and words & _SCORES:
        return _Column(dict.fromkeys(values, (PictureClass.UNKNOWN, header)), True)
    if is_measured and good is False and 0.0 not in numbers:  # such as where defects lie
        return None
    if good is not None:
        return _read_answers(good, values)
    known = {text: one for text in texts if (one := says_good(text)) is not None}
    is_label = bool(words & (_LABELS | _KINDS))
    if not is_label and not words & _SCORES:
        if not any(map(says_only_bad, texts)):
            return None
    elif not known:
        differs = len(texts) + (is_partial or any("" in own for own in values.values())) > 1
        if not differs or len(texts) > MAX_VALUES or not words & (_LABELS | _SCORES):
            return None
        return _Column({p: (PictureClass.UNKNOWN, ", ".join(own)) for p, own in values.items()}, True)
    found = {}
    for picture, own in values.items():
        telling = [text for text in own if text in known]
        if telling:
            found[picture] = _together([known[text] for text in telling]), telling[0]
        elif is_label:
            found[picture] = PictureClass.UNKNOWN, own[0]
    return _Column(found, any(one is PictureClass.UNKNOWN and text for one, text in found.values()))


def _read_answers(good: bool, values: Mapping[Path, list[str]]) -> _Column:
    """Reads a column whose name says good or defective: yes and no, 0 and 1, how many, or which defect."""
    found, has_unknown = {}, False
    for picture, own in values.items():
        answers = list[bool]()
        for text in filter(None, own):
            plain, number = " ".join(split_words(text)) or text, _number(text)
            if plain in _TRUE or plain in _FALSE or text.casefold() in _FALSE:
                answers.append((plain in _TRUE) == good)
            elif number is not None and not good:
                answers.append(number <= 0)
            elif (one := says_good(text)) is not None:
                answers.append(one)
            elif good:
                has_unknown = True
            else:
                answers.append(False)
        found[picture] = _together(answers), next(filter(None, own), "")
    return _Column(found, has_unknown)


def _together(good: Sequence[bool]) -> PictureClass:
    """The class of a picture of which several values say whether it is good."""
    if not good:
        return PictureClass.UNKNOWN
    if len({*good}) > 1:
        return PictureClass.UNCLEAR
    return PictureClass.GOOD if good[0] else PictureClass.BAD


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
