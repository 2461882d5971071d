"""Reads from the words of file names whether pictures are called good or defective: `OK_1`, `cam2_niO`.

Words are read like those of folders (`folder_words`), in the same closed world: words of no list that sort
the pictures of a folder into groups are a question, and make a good name unclear. A file name also has
counters, dates, types and hashes. Words that all names share distinguish none. `NG200` is a type where it
comes again beside a counter, and a word within a hash stands there by chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from enum import Enum
from typing import NamedTuple

from flawscope.pictures.folder_words import (
    Said,
    ages_in,
    are_new_and_old,
    is_mistake,
    is_sorting,
    is_turning,
    plain_words,
    read_words,
    split_words,
    unknown_words,
    word_says,
)


class PictureClass(Enum):
    """Class of a picture by its labels.

    Attributes:
        GOOD: It is called good.
        BAD: It is called defective.
        UNCLEAR: It is called both, or it is not clear which.
        UNKNOWN: No label has a known meaning.
    """

    GOOD = "good"
    BAD = "not good"
    UNCLEAR = "unclear"
    UNKNOWN = ""


class NameReading(NamedTuple):
    """Result of reading a file's name.

    Attributes:
        picture_class: Class that the name states.
        words: Words that state it. With UNKNOWN, words of unknown meaning that sort pictures into groups.
    """

    picture_class: PictureClass
    words: str = ""


SILENT = NameReading(PictureClass.UNKNOWN)
# pieces of a hash, and characters of each on average, at most
JUMBLE_PIECES = 4
JUMBLE_LENGTH = 2.5
# share and number of names that say something by chance, at most
CHANCE_SHARE = 0.1
CHANCE_COUNT = 3
_CHUNK = re.compile(r"[^\W_]+")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
# a date with the time of day, as cameras write it: "2026-11-30T00-42-59.758Z"
_TIMESTAMP = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)[01]\d\1[0-3]\d[T _.-]?[0-2]\d([-_.:h]?)[0-5]\d"
    r"(?:\2[0-5]\d(?:[.,_-]?\d{3,6})?)?Z?(?!\d)"
)
_HEX = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}", re.I)
_ONE_NUMBER = re.compile(r"\d*[^\W\d_]+|[^\W\d_]+\d*")
_TYPE = re.compile(r"([^\W\d_]+)([1-9]\d+)")
_DATE = re.compile(r"(?:19|20)?\d\d(?:[01]\d[0-3]\d)|(?:19|20)\d\d(?:[01]\d)?")
_MARK = re.compile(r"(.*[\w)\]])([-+?!*~])")  # a sign behind all: "0024_OK-", "Teil (3)!"
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_LONG = 4  # digits of a number that counts or dates, and is no class
Chunks = list[str]


def read_names(stems: Sequence[str]) -> list[NameReading]:
    """Read the names, without suffix, of the pictures of a folder."""
    stems = [_TIMESTAMP.sub(" ", _UUID.sub(" ", stem)) for stem in stems]
    cores, shared = _part_shared([_CHUNK.findall(plain_words(stem)) for stem in stems])
    found = [_read(core) for core in cores]
    if {reading.picture_class for reading in found} != {PictureClass.GOOD, PictureClass.BAD}:
        types = _types(cores)
        cores = [[chunk for chunk in core if chunk not in types] for core in cores]
        found = _read_without_chance(cores)
    found = _read_with_shared(found, shared)
    return _doubt_groups(_without_lights(found, cores), stems, cores)


def _part_shared(names: list[Chunks]) -> tuple[list[Chunks], Chunks]:
    """Part each name's own chunks from those with which all names begin and end.

    Where some word turns other words round, nothing is shared: the turned word may be among the shared ones.
    """
    first, last = _shared(names)
    cores = [name[first : len(name) - last] for name in names]
    if any(is_turning(chunk) for core in cores for chunk in core):
        return names, []
    if not names:
        return cores, []
    return cores, names[0][:first] + names[0][len(names[0]) - last :]


def _read_with_shared(found: list[NameReading], shared: Chunks) -> list[NameReading]:
    """Read names together with the chunks that all of them share."""
    of_all = _read([chunk for chunk in shared if not _is_type(chunk) and not _is_jumble(chunk)])
    if all(reading.picture_class is PictureClass.UNKNOWN for reading in found):
        return [SILENT if of_all.picture_class is PictureClass.UNCLEAR else of_all] * len(found)
    if of_all.picture_class is PictureClass.GOOD:  # "ok_1", "ok_but_bad_2"
        return [_doubted_if_bad(reading) for reading in found]
    return found


def _doubted_if_bad(reading: NameReading) -> NameReading:
    if reading.picture_class is not PictureClass.BAD:
        return reading
    return reading._replace(picture_class=PictureClass.UNCLEAR)


def _read(chunks: Chunks) -> NameReading:
    """Return the class that chunks state; single letters are places and counters."""
    # every number becomes 0: its value makes no difference, and fewer different texts are read
    text = " ".join(re.sub(r"\d+", "0", chunk) for chunk in chunks if len(chunk) > 1 or chunk.isdecimal())
    telling = [word for word in split_words(text) if word_says(word) is not None or is_turning(word)]
    if not telling:
        return SILENT
    if is_mistake(text):
        return NameReading(PictureClass.UNCLEAR, text)
    said = read_words(text, unknown_words(text))  # others are looked at beside each other
    if said in (Said.GOOD, Said.BAD):
        good = said is Said.GOOD
        return NameReading(PictureClass.GOOD if good else PictureClass.BAD, " ".join(telling))
    saying = any(word_says(word) is not None for word in telling)
    return NameReading(PictureClass.UNCLEAR, " ".join(telling)) if saying else SILENT


def _read_without_chance(cores: Sequence[Chunks]) -> list[NameReading]:
    """Read names without words within hashes, unless they are too many to stand there by chance."""
    found = [_read([chunk for chunk in core if not _is_jumble(chunk)]) for core in cores]
    whole = [_read(core) for core in cores]
    more = sum(
        reading.picture_class is PictureClass.UNKNOWN is not all_.picture_class
        for reading, all_ in zip(found, whole, strict=True)
    )
    return whole if more >= max(CHANCE_COUNT, CHANCE_SHARE * len(cores)) else found


def _shared(names: Sequence[Chunks]) -> tuple[int, int]:
    """Return the numbers of first and of last chunks that all names share.

    Negations turn round the word before or after them, and stay with it.
    """
    if len(names) < 2:
        return 0, 0
    most = min(map(len, names))
    counts = [0, 0]
    for side, step in enumerate((1, -1)):
        for k in range(most - counts[0]):
            chunk = names[0][k if side == 0 else -1 - k]
            if is_turning(chunk) or any(name[k if step > 0 else -1 - k] != chunk for name in names):
                break
            counts[side] += 1
    return counts[0], counts[1]


def _types(cores: Sequence[Chunks]) -> set[str]:
    """Return chunks that are names of types, such as NG200.

    They come again, with a counter behind. There are none where a name has no word at all.
    """
    often = Counter(chunk for core in cores for chunk in {*core})
    found = set[str]()
    for core in cores:
        if not any(re.search(r"[^\W\d_]", chunk) for chunk in core):
            return set()
        has_counter = False  # behind the chunk
        for chunk in reversed(core):
            comes_again = often[chunk] > 1 or len(cores) == 1
            if has_counter and comes_again and _is_type(chunk):
                found.add(chunk)
            has_counter = has_counter or re.search(r"\d", chunk) is not None
    return found


def _is_type(chunk: str) -> bool:
    match = _TYPE.fullmatch(chunk)
    return match is not None and word_says(match[1].casefold()) is not None and not _DATE.fullmatch(match[2])


def _is_jumble(chunk: str) -> bool:
    """Whether a chunk looks like a hash: small and large letters and digits by turns."""
    if _HEX.fullmatch(chunk):
        return _ONE_NUMBER.fullmatch(chunk) is None
    pieces = split_words(chunk, camel=True)
    return len(pieces) >= JUMBLE_PIECES and len(chunk) < JUMBLE_LENGTH * len(pieces)


def _without_lights(found: list[NameReading], cores: Sequence[Chunks]) -> list[NameReading]:
    """Read "normal" as a light where the other names have words of lights and views in its place."""
    if {reading.words for reading in found} != {"", "normal"}:
        return found
    others = [
        split_words(" ".join(core)) for reading, core in zip(found, cores, strict=True) if not reading.words
    ]
    words = [[word for word in name if len(word) > 1 and not word.isdecimal()] for name in others]
    return [SILENT] * len(found) if all(name and all(map(is_sorting, name)) for name in words) else found


# ------------------------------------------------------------------------------------------- groups of names


def form_groups(values: Collection[object], least: int = 0) -> bool:
    """Whether values of single pictures sort them into groups.

    They do where they differ, and are no more than half as many as the pictures, or than `least`.
    """
    return 1 < len({*values}) <= max(least, len(values) / 2)


def _doubt_groups(
    found: list[NameReading], stems: Sequence[str], cores: Sequence[Chunks]
) -> list[NameReading]:
    """Doubt names that are not called defective, where something unknown sorts the pictures into groups.

    This may be words of no list, or a number or letter that is no counter.
    """
    random = sum(any(map(_is_jumble, core)) for core in cores)
    if 2 * random >= len(cores) > 0:  # names of hashes
        return found
    is_said = any(reading != SILENT for reading in found)
    least = 2 if is_said else 0
    marks = _with_signs(_unknown_in(cores), stems, least)
    if not is_said and not form_groups(marks):
        marks = _slot_marks(stems)
    if not form_groups(marks, least):
        return found
    return [_doubt(reading, mark) for reading, mark in zip(found, marks, strict=True)]


def _with_signs(marks: list[str], stems: Sequence[str], least: int) -> list[str]:
    """Return marks together with the sign behind each name, where such signs sort pictures into groups."""
    matches = [_MARK.fullmatch(stem) for stem in stems]
    signs = [match[2] if match else "" for match in matches]
    if not form_groups(signs, least):
        return marks
    return [" ".join(filter(None, pair)) for pair in zip(marks, signs, strict=True)]


def _doubt(reading: NameReading, mark: str) -> NameReading:
    """Return the reading of a name with a mark whose meaning is unknown."""
    if reading.picture_class is PictureClass.GOOD and mark:
        return NameReading(PictureClass.UNCLEAR, f"{reading.words} {mark}")
    if reading == SILENT:
        return NameReading(PictureClass.UNKNOWN, mark)
    return reading


def _unknown_in(cores: Sequence[Chunks]) -> list[str]:
    """Return the words of unknown meaning in each name, without words that all names have.

    These are words of no list, of two letters at least; words for wrong decisions; and "new" and "old" beside
    each other.
    """
    texts = [" ".join(core) for core in cores]
    has_ages = are_new_and_old(texts)
    each = []
    for text in texts:
        ages = ages_in(text) if has_ages else {}
        each.append([word for word in split_words(text) if word in ages or _is_open(word)])
    shared = {*each[0]}.intersection(*each) if each else set()
    return [" ".join(word for word in words if word not in shared) for words in each]


def _is_open(word: str) -> bool:
    return len(word) > 1 and (word in unknown_words(word) or is_mistake(word))


def _slot_marks(stems: Sequence[str]) -> list[str]:
    """Return the text at the place of each name that sorts the pictures into groups; empty without one.

    The text is a single letter, a short number behind a word of no list ("K1"), or 0 and 1. A place that
    comes again with each of the others is a view or a part: `7_A` and `7_B`.
    """
    nothing = [""] * len(stems)
    pieces = [_PIECE.findall(plain_words(stem).casefold()) for stem in stems]
    lengths = {*map(len, pieces)}
    if len(lengths) == 2:
        letters = [_single_letters(piece) for piece in pieces]
        return letters if form_groups(letters) else nothing
    if len(lengths) != 1:
        return nothing
    for place in range(len(pieces[0])):
        marks = _marks_at(place, pieces)
        if marks is not None:
            return marks
    return nothing


def _marks_at(place: int, pieces: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the text at a place of each name, where it sorts the pictures into groups; else None.

    Args:
        place: Number of the word or number.
        pieces: Words and numbers of each name, equally many for all names.
    """
    values = [piece[place] for piece in pieces]
    others = {(*piece[:place], *piece[place + 1 :]) for piece in pieces}
    is_counted = len(others) == len(pieces)  # by something else
    before = pieces[0][place - 1] if place else ""
    if not (is_counted and form_groups(values) and _marks_class(values, before)):
        return None
    is_word = before and not before.isdecimal()
    return [f"{before}{value}" for value in values] if is_word else values


def _single_letters(pieces: Sequence[str]) -> str:
    return " ".join(piece for piece in pieces if len(piece) == 1 and not piece.isdecimal())


def _marks_class(values: Sequence[str], before: str) -> bool:
    if all(len(value) == 1 and not value.isdecimal() for value in values):
        return True
    if not all(value.isdecimal() and len(value) < _LONG for value in values):
        return False
    if {*map(int, values)} == {0, 1}:
        return not is_sorting(before)
    return bool(before) and not before.isdecimal() and not is_sorting(before) and word_says(before) is None
