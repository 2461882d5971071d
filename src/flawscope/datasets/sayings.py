"""Finds what is said of each picture beside its folder's name: by its own name, by lists beside it or above,
and by the whole-picture labels of labelling tools.

What is plain is used. Two readings of a picture, values that nobody knows, or pictures of which nothing is
said beside others of which something is, are a question for a person.
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
from flawscope.pictures.name_words import Said, read_names

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


class Saying(NamedTuple):
    """Words of one source on a picture, which `--good` may name, and where they stand."""

    said: Said
    words: str
    source: str


@dataclass
class Sayings:
    """Sayings on each of some pictures, in their order; none on some. is_unknown: a list has values
    of which nobody knows what they say."""

    of: dict[Path, list[Saying]] = field(default_factory=dict)
    is_unknown: bool = False

    def said(self, picture: Path) -> Said:
        """Reads what all sources together say of a picture."""
        found = {one.said for one in self.of.get(picture, ())} - {Said.NOTHING}
        return Said.UNCLEAR if len(found) > 1 else next(iter(found), Said.NOTHING)

    def calls_bad(self, picture: Path) -> str:
        """Names the source that calls a picture defective; empty where nothing does."""
        return next((one.source for one in self.of.get(picture, ()) if one.said is Said.BAD), "")

    def names(self, picture: Path, wanted: set[str]) -> bool:
        """Whether one of the names is of what is said of a picture. wanted: folded."""
        for one in self.of.get(picture, ()):
            own = {*split_words(one.words)}
            if fold(one.words) in wanted or any((w := {*split_words(name)}) and w <= own for name in wanted):
                return True
        return False

    def doubtful(self) -> list[Path]:
        """The pictures that may be defective, where some may: those that are called so, else those of which
        nothing is said."""
        if not self.is_doubtful():
            return []
        called = [path for path in self.of if self.said(path) in (Said.BAD, Said.UNCLEAR)]
        return called or [path for path in self.of if self.said(path) is Said.NOTHING]

    @property
    def words(self) -> set[str]:
        return {one.words for found in self.of.values() for one in found}

    @property
    def is_plain(self) -> bool:
        """Whether each picture is called either good or defective, and some are defective."""
        found = {self.said(picture) for picture in self.of}
        return Said.BAD in found and found <= {Said.GOOD, Said.BAD}

    def is_doubtful(self) -> bool:
        """Whether some may be defective: one is called so or both, a list has unknown values, or pictures of
        one folder are called good beside others of which nothing is said."""
        found = {picture: self.said(picture) for picture in self.of}
        all_good = {*found.values()} == {Said.GOOD}
        if {Said.BAD, Said.UNCLEAR} & {*found.values()} or (self.is_unknown and not all_good):
            return True
        by_folder: dict[Path, set[Said]] = {}
        for picture, said in found.items():
            by_folder.setdefault(picture.parent, set()).add(said)
        return any(said == {Said.GOOD, Said.NOTHING} for said in by_folder.values())

    def kind(self, picture: Path) -> str:
        """Kind of a defect: the words that call it so; empty where there are none."""
        ranked = sorted(
            self.of[picture], key=lambda one: (one.said is not Said.BAD, says_only_bad(one.words))
        )
        words = next((one.words for one in ranked if one.said is not Said.GOOD), "")
        is_answer = _number(words) is not None or words.casefold() in _TRUE | _FALSE
        return "defect" if words and is_answer else words

    def question(self, root: Path, remedy: str) -> InputError:
        """The question which pictures below `root` are good, with the words by which to name them."""
        counts: Counter[tuple[str, str]] = Counter()
        for picture, sayings in self.of.items():
            said, first = self.said(picture), next(iter(sayings), None)
            if said is Said.UNCLEAR and first is not None:
                kinds = {one.source for one in sayings}
                counts[first.words, f", unclear by {' and '.join(sorted(kinds))}"] += 1
            elif first is not None:
                telling = next((one for one in sayings if one.said is not Said.NOTHING), first)
                sure = f", {said.value}" if said is not Said.NOTHING else ","
                counts[telling.words, f"{sure} by {telling.source}"] += 1
            else:
                folder = picture.parent.relative_to(root).as_posix()
                counts[folder, ", nothing is said"] += 1
        order = sorted(counts, key=lambda key: natural_key(key[0]))
        listed = [f"{words} ({counts[words, what]}{what})".replace(",,", ",") for words, what in order]
        return InputError(f"{root}: which pictures are good? {join_names(listed, 12)}: {remedy}")


def read_sayings(root: Path, pictures: Sequence[Path], labels: LabelFiles | None = None) -> Sayings:
    """Reads what is said of pictures below `root`, by names and files. labels: the files below it.

    Raises:
        InputError: a list cannot be read for want of a library.
    """
    found = Sayings({picture: [] for picture in pictures})
    for one in [labels or LabelFiles(root, pictures), *_files_above(root, pictures)]:
        if missing := next(iter(one.unread_lists.items()), None):
            raise InputError(f"{missing[0]} may say which pictures are good: {missing[1]}, or move it away")
        for source, texts in one.sayings().items():
            own = {one.given[path]: said for path, said in texts.items()}
            _add_source(found, source, {path: said for path, said in own.items() if path in found.of})
    for picture, said_by_name in read_name_sayings(pictures).of.items():
        found.of[picture] += said_by_name
    return found


def read_name_sayings(pictures: Sequence[Path]) -> Sayings:
    """Reads what the names of pictures say, which need not be there."""
    found = Sayings({picture: [] for picture in pictures})
    by_folder: dict[Path, list[Path]] = {}
    for picture in pictures:
        by_folder.setdefault(picture.parent, []).append(picture)
    for beside in by_folder.values():
        for picture, name in zip(beside, read_names([one.stem for one in beside]), strict=True):
            if name.said is not Said.NOTHING:
                found.of[picture].append(Saying(name.said, name.words, "name"))
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
    """Column of a list: what it says of pictures. is_unknown: nobody knows what its values say."""

    of: dict[Path, tuple[Said, str]]
    is_unknown: bool = False


def _add_source(found: Sayings, source: str, texts: Mapping[Path, Texts]) -> None:
    """Adds what a file says, or a tool's files of one picture each. A column that is plain throughout makes
    the others that nobody knows needless."""
    columns: dict[str, dict[Path, list[str]]] = {}
    for picture, own in texts.items():
        for header, text in own:
            columns.setdefault(header, {}).setdefault(picture, []).append(text)
    read = [_read_column(header, values) for header, values in _joined(columns, source, texts).items()]
    known = [column for column in read if column is not None and column.of]
    is_told = any(
        not column.is_unknown
        and len(column.of) == len(texts)
        and all(said is not Said.NOTHING for said, _ in column.of.values())
        for column in known
    )
    for column in known:
        if column.is_unknown and is_told:
            continue
        found.is_unknown |= column.is_unknown
        for picture, (said, words) in column.of.items():
            if words:
                found.of[picture].append(Saying(said, words, source))


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
    said = {says_good(header) for header in columns}
    one_each = sum(len(own) == 1 and own != [""] for own in joined.values())
    if said != {None} and (len(columns) == 1 or 2 * one_each <= len(joined)):
        return columns
    return {"defect" if True in said else "label": joined}  # beside a class of good ones others are defects


def _read_column(header: str, values: Mapping[Path, list[str]]) -> _Column | None:
    """Reads a column of texts; None where it says nothing of good and defective."""
    said, words = says_good(header), {*split_words(header)}
    texts = {text for own in values.values() for text in own if text}
    numbers = [_number(text) for text in texts]
    if texts and None not in numbers and len(texts) > 1:
        is_score = bool(words & _SCORES) and not {*numbers} <= {0.0, 1.0}
        if is_score or (said is False and 0.0 not in numbers and not {*numbers} <= {0.0, 1.0}):
            return _Column(dict.fromkeys(values, (Said.NOTHING, header)), True) if is_score else None
    if said is not None:
        return _read_answers(said, values)
    known = {text: says_good(text) for text in texts}
    if not words & (_LABELS | _KINDS | _SCORES):
        if not any(map(says_only_bad, texts)):
            return None
    elif not any(one is not None for one in known.values()):
        has_more = len(texts) + any("" in own for own in values.values()) > 1
        if not has_more or len(texts) > MAX_VALUES or not words & (_LABELS | _SCORES):
            return None
        return _Column({p: (Said.NOTHING, ", ".join(own)) for p, own in values.items()}, True)
    is_label = bool(words & (_LABELS | _KINDS))
    readings = {}
    for picture, own in values.items():
        telling = [text for text in own if known.get(text) is not None]
        if telling:
            readings[picture] = _together([known[text] for text in telling]), telling[0]
        elif is_label:
            readings[picture] = Said.NOTHING, own[0]
    return _Column(readings, any(said is Said.NOTHING and text for said, text in readings.values()))


def _read_answers(good: bool, values: Mapping[Path, list[str]]) -> _Column:
    """Reads a column whose name says good or defective: yes and no, 0 and 1, how many, or which defect."""
    readings, is_unknown = {}, False
    for picture, own in values.items():
        said = list[bool]()
        for text in own:
            plain = " ".join(split_words(text)) or text
            number = _number(text)
            if not text:
                continue
            if plain in _TRUE or plain in _FALSE or text.casefold() in _FALSE:
                said.append((plain in _TRUE) == good)
            elif number is not None and not good:
                said.append(number <= 0)
            elif (one := says_good(text)) is not None:
                said.append(one)
            elif good:
                is_unknown = True
            else:
                said.append(False)
        readings[picture] = _together(said), next(filter(None, own), "")
    return _Column(readings, is_unknown)


def _together(said: Sequence[bool | None]) -> Said:
    if True in said and False in said:
        return Said.UNCLEAR
    return Said.NOTHING if not said else Said.GOOD if said[0] else Said.BAD


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
