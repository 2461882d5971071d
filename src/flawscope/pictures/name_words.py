"""Reads from the words of file names whether pictures are called good or defective: `OK_1`, `cam2_niO`.

Words are read like those of folders (`folder_words`). Words of none of its lists that sort the pictures of a
folder into groups are a question, and make a good name unclear. A file name also has counters, dates, types
and hashes. Words that all names share are passed over. `NG200` is a type where it occurs again beside a
counter, and a word within a hash is there by chance.
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
JUMBLE_PIECES = 4  # fewest pieces of a hash
JUMBLE_LENGTH = 2.5  # number of characters of its pieces on average, at most
# Fewer names, as a share of all and as a number, have words for good and defective by chance
CHANCE_SHARE = 0.1
CHANCE_COUNT = 3
_CHUNK = re.compile(r"[^\W_]+")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
# Date and time of day, as cameras write them: "2026-11-30T00-42-59.758Z"
_TIMESTAMP = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)[01]\d\1[0-3]\d[T _.-]?[0-2]\d([-_.:h]?)[0-5]\d"
    r"(?:\2[0-5]\d(?:[.,_-]?\d{3,6})?)?Z?(?!\d)"
)
_HEX = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}", re.I)
_ONE_NUMBER = re.compile(r"\d*[^\W\d_]+|[^\W\d_]+\d*")
_TYPE = re.compile(r"([^\W\d_]+)([1-9]\d+)")
_DATE = re.compile(r"(?:19|20)?\d\d(?:[01]\d[0-3]\d)|(?:19|20)\d\d(?:[01]\d)?")
_MARK = re.compile(r"(.*[\w)\]])([-+?!*~])")  # a sign at the end: "0024_OK-", "Teil (3)!"
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_LONG = 4  # digits from which on a number is a counter or a date, and no class
Chunks = list[str]


def read_names(stems: Sequence[str]) -> list[NameReading]:
    """Read from the names (without suffix) of a folder's pictures whether they are good or defective."""
    texts = [_TIMESTAMP.sub(" ", _UUID.sub(" ", stem)) for stem in stems]
    cores, shared = _split_shared([_CHUNK.findall(plain_words(text)) for text in texts])
    readings = [_read(core) for core in cores]
    classes = {reading.picture_class for reading in readings}
    if classes != {PictureClass.GOOD, PictureClass.BAD}:  # words may be parts of types or hashes
        types = _types(cores)
        cores = [[chunk for chunk in core if chunk not in types] for core in cores]
        readings = _read_without_chance(cores)
    readings = _read_with_shared(readings, shared)
    return _doubt_groups(_without_lights(readings, cores), texts, cores)


def _split_shared(names: list[Chunks]) -> tuple[list[Chunks], Chunks]:
    """Split each name into the chunks with which all names begin and end, and the other chunks.

    If one of the other chunks may invert words, such as "not", nothing is split: the word that it inverts may
    be among the shared chunks.

    Returns:
        The other chunks of each name, and the shared chunks.
    """
    first_count, last_count = _count_shared(names)
    cores = [name[first_count : len(name) - last_count] for name in names]
    if any(is_turning(chunk) for core in cores for chunk in core):
        return names, []
    if not names:
        return cores, []
    name = names[0]
    return cores, name[:first_count] + name[len(name) - last_count :]


def _read_with_shared(readings: list[NameReading], shared: Chunks) -> list[NameReading]:
    """Return the readings, completed by the chunks that all names share.

    If no reading knows a class, all get the class of the shared chunks. If the shared chunks mean good, names
    that are called defective become unclear.

    Args:
        readings: Readings of the names without the shared chunks.
        shared: Chunks that all names share.
    """
    shared_reading = _read([chunk for chunk in shared if not _is_type(chunk) and not _is_jumble(chunk)])
    if all(reading.picture_class is PictureClass.UNKNOWN for reading in readings):
        is_unclear = shared_reading.picture_class is PictureClass.UNCLEAR
        return [SILENT if is_unclear else shared_reading] * len(readings)
    if shared_reading.picture_class is PictureClass.GOOD:  # "ok_1", "ok_but_bad_2"
        return [_doubted_if_bad(reading) for reading in readings]
    return readings


def _doubted_if_bad(reading: NameReading) -> NameReading:
    """Return the reading of a name that also has a word for good: unclear instead of defective."""
    if reading.picture_class is not PictureClass.BAD:
        return reading
    return reading._replace(picture_class=PictureClass.UNCLEAR)


def _read(chunks: Chunks) -> NameReading:
    """Return the class that chunks state. Single letters are ignored, since they are places and counters."""
    # every number becomes 0: its value does not matter, and the cache gets fewer different texts
    text = " ".join(re.sub(r"\d+", "0", chunk) for chunk in chunks if len(chunk) > 1 or chunk.isdecimal())
    words = [word for word in split_words(text) if word_says(word) is not None or is_turning(word)]
    if not words:
        return SILENT
    if is_mistake(text):
        return NameReading(PictureClass.UNCLEAR, text)
    # unknown words are passed as shared, so that they do not count here: `_doubt_groups` considers them
    meaning = read_words(text, shared=unknown_words(text))
    if meaning is Said.GOOD:
        return NameReading(PictureClass.GOOD, " ".join(words))
    if meaning is Said.BAD:
        return NameReading(PictureClass.BAD, " ".join(words))
    has_class_word = any(word_says(word) is not None for word in words)
    if not has_class_word:
        return SILENT
    return NameReading(PictureClass.UNCLEAR, " ".join(words))


def _read_without_chance(cores: Sequence[Chunks]) -> list[NameReading]:
    """Read names without the chunks that look like hashes, in which words occur by chance.

    If so many names get a class only by such chunks that it cannot be by chance, all chunks are read.
    """
    readings = [_read([chunk for chunk in core if not _is_jumble(chunk)]) for core in cores]
    full_readings = [_read(core) for core in cores]
    gained_count = 0
    for reading, full_reading in zip(readings, full_readings, strict=True):
        is_unknown = reading.picture_class is PictureClass.UNKNOWN
        if is_unknown and full_reading.picture_class is not PictureClass.UNKNOWN:
            gained_count += 1
    return full_readings if gained_count >= max(CHANCE_COUNT, CHANCE_SHARE * len(cores)) else readings


def _count_shared(names: Sequence[Chunks]) -> tuple[int, int]:
    """Return the number of chunks that all names begin with, and of those that all names end with.

    A negation is never counted, nor is what follows it (towards the middle of the name): it has to stay with
    the word that it inverts.
    """
    if len(names) < 2:
        return 0, 0
    shortest = min(map(len, names))
    first_count = _count_equal(names, shortest)
    reversed_names = [name[::-1] for name in names]
    return first_count, _count_equal(reversed_names, shortest - first_count)


def _count_equal(names: Sequence[Chunks], limit: int) -> int:
    """Return the number of chunks with which all names begin, at most `limit`; a negation ends the count."""
    for k in range(limit):
        chunk = names[0][k]
        if is_turning(chunk) or any(name[k] != chunk for name in names):
            return k
    return limit


def _types(cores: Sequence[Chunks]) -> set[str]:
    """Return the chunks that are names of product types, such as NG200.

    Such a chunk occurs in several names, and stands before a counter. If a name has no letters at all, there
    are no types.
    """
    name_counts = Counter(chunk for core in cores for chunk in {*core})
    types = set[str]()
    for core in cores:
        if not any(re.search(r"[^\W\d_]", chunk) for chunk in core):
            return set()
        has_counter_behind = False
        for chunk in reversed(core):
            is_repeated = name_counts[chunk] > 1 or len(cores) == 1
            if has_counter_behind and is_repeated and _is_type(chunk):
                types.add(chunk)
            if re.search(r"\d", chunk):
                has_counter_behind = True
    return types


def _is_type(chunk: str) -> bool:
    """Whether a chunk is a word for good or defective, followed by a number that is no date."""
    match = _TYPE.fullmatch(chunk)
    return match is not None and word_says(match[1].casefold()) is not None and not _DATE.fullmatch(match[2])


def _is_jumble(chunk: str) -> bool:
    """Whether a chunk looks like a hash: many short changes of small letters, capitals and digits."""
    if _HEX.fullmatch(chunk):
        return _ONE_NUMBER.fullmatch(chunk) is None
    pieces = split_words(chunk, camel=True)
    return len(pieces) >= JUMBLE_PIECES and len(chunk) < JUMBLE_LENGTH * len(pieces)


def _without_lights(readings: list[NameReading], cores: Sequence[Chunks]) -> list[NameReading]:
    """Read "normal" as the name of a light if all other names have only words for lights, views and the like.

    In this case no name says anything about its picture's class. In all other cases the readings are
    unchanged.
    """
    stated_words = {reading.words for reading in readings}
    if stated_words != {"normal", ""}:  # some names state nothing but "normal", all others nothing
        return readings
    for reading, core in zip(readings, cores, strict=True):
        if reading.words == "normal":
            continue
        words = [word for word in split_words(" ".join(core)) if len(word) > 1 and not word.isdecimal()]
        if not words or not all(map(is_sorting, words)):
            return readings
    return [SILENT] * len(readings)


# ------------------------------------------------------------------------------------------- groups of names


def form_groups(values: Collection[object], least: int = 0) -> bool:
    """Whether values sort pictures into groups: there are at least two different values, but not many.

    For n pictures and d different values: 1 < d <= max(least, n / 2).

    Args:
        values: Value of each picture.
        least: Number of different values that is allowed however few the pictures are.
    """
    return 1 < len({*values}) <= max(least, len(values) / 2)


def _doubt_groups(
    readings: list[NameReading], stems: Sequence[str], cores: Sequence[Chunks]
) -> list[NameReading]:
    """Doubt the names' readings if marks of unknown meaning in the names sort the pictures into groups.

    Such marks are words of no list, a sign at the end, or a number or letter that is no counter. A reading
    of GOOD becomes UNCLEAR, and a reading without a class gets the mark as its words.

    Args:
        readings: Readings of the names.
        stems: The names.
        cores: Chunks of the names without shared chunks and types.
    """
    hash_count = sum(any(map(_is_jumble, core)) for core in cores)
    if 2 * hash_count >= len(cores) > 0:  # most names are hashes
        return readings
    has_meaning = any(reading != SILENT for reading in readings)
    least = 2 if has_meaning else 0  # number of different marks that is allowed however few the names are
    marks = _with_signs(_unknown_in(cores), stems, least)
    if not has_meaning and not form_groups(marks):
        marks = _slot_marks(stems)
    if not form_groups(marks, least):
        return readings
    return [_doubt(reading, mark) for reading, mark in zip(readings, marks, strict=True)]


def _with_signs(marks: list[str], stems: Sequence[str], least: int) -> list[str]:
    """Add the sign at the end of each name to its mark, if these signs sort the pictures into groups.

    Args:
        marks: Mark of each name; empty: none.
        stems: The names.
        least: Number of different signs that is allowed however few the names are.
    """
    matches = [_MARK.fullmatch(stem) for stem in stems]
    signs = [match[2] if match else "" for match in matches]
    if not form_groups(signs, least):
        return marks
    return [f"{mark} {sign}".strip() for mark, sign in zip(marks, signs, strict=True)]


def _doubt(reading: NameReading, mark: str) -> NameReading:
    """Return the reading of a name with a mark whose meaning is unknown."""
    if reading.picture_class is PictureClass.GOOD and mark:
        return NameReading(PictureClass.UNCLEAR, f"{reading.words} {mark}")
    if reading == SILENT:
        return NameReading(PictureClass.UNKNOWN, mark)
    return reading


def _unknown_in(cores: Sequence[Chunks]) -> list[str]:
    """Return the words of unknown meaning in each name, without words that all names have.

    These are words of no list with at least two letters, and words for wrong decisions. Words for "new" and
    "old" are among them if the names have both.
    """
    texts = [" ".join(core) for core in cores]
    has_ages = are_new_and_old(texts)
    words_by_name = []
    for text in texts:
        ages = ages_in(text) if has_ages else {}
        words_by_name.append([word for word in split_words(text) if word in ages or _is_open(word)])
    word_sets = [{*words} for words in words_by_name]
    shared = word_sets[0].intersection(*word_sets[1:]) if word_sets else set()
    return [" ".join(word for word in words if word not in shared) for words in words_by_name]


def _is_open(word: str) -> bool:
    """Whether it is unknown what a word says about the part."""
    return len(word) > 1 and (word in unknown_words(word) or is_mistake(word))


def _slot_marks(stems: Sequence[str]) -> list[str]:
    """Find a place in the names whose texts sort the pictures into groups; return each name's text there.

    The texts are single letters, short numbers behind a word of no list ("K1"), or 0 and 1. A place does not
    count if the rests of the names repeat, as in `7_A` and `7_B`: then its texts are views or parts. If there
    is no such place, all texts are empty.
    """
    no_marks = [""] * len(stems)
    pieces_by_name = [_PIECE.findall(plain_words(stem).casefold()) for stem in stems]
    lengths = {*map(len, pieces_by_name)}
    if len(lengths) == 2:  # some names may have a letter that the others lack
        letters = [_single_letters(pieces) for pieces in pieces_by_name]
        return letters if form_groups(letters) else no_marks
    if len(lengths) != 1:
        return no_marks
    for place in range(len(pieces_by_name[0])):
        marks = _marks_at(place, pieces_by_name)
        if marks is not None:
            return marks
    return no_marks


def _marks_at(place: int, pieces: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the text of each name at a place, if these texts sort the pictures into groups; else None.

    A word before the place becomes a part of the texts.

    Args:
        place: Place of the word or number in the names.
        pieces: Words and numbers of each name, equally many for all names.
    """
    values = [name[place] for name in pieces]
    rests = {(*name[:place], *name[place + 1 :]) for name in pieces}
    are_rests_different = len(rests) == len(pieces)  # no name occurs with several texts at this place
    before = pieces[0][place - 1] if place else ""
    if not are_rests_different or not form_groups(values) or not _marks_class(values, before):
        return None
    if not before or before.isdecimal():
        return values
    return [f"{before}{value}" for value in values]


def _single_letters(pieces: Sequence[str]) -> str:
    """Return the single letters among the words and numbers of a name."""
    return " ".join(piece for piece in pieces if len(piece) == 1 and not piece.isdecimal())


def _marks_class(values: Sequence[str], before: str) -> bool:
    """Whether texts may be classes: letters, 0 and 1, or short numbers behind a word of no list.

    Args:
        values: Each name's text at the same place.
        before: Word or number before this place.
    """
    if all(len(value) == 1 and not value.isdecimal() for value in values):
        return True
    if not all(value.isdecimal() and len(value) < _LONG for value in values):
        return False
    if {*map(int, values)} == {0, 1}:
        return not is_sorting(before)
    return bool(before) and not before.isdecimal() and not is_sorting(before) and word_says(before) is None
