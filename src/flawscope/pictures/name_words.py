"""Tells by the words of pictures' file names whether they are called good or defective: `OK_1`, `cam2_niO`.

Words are read as those of folders (`folder_words`). A file name has more beside them: counters, dates, types
and hashes. What all names of a folder share tells none from another, so the rest is read first. `NG200` is a
type where it comes again beside a counter, and what stands in a hash stands there by chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from flawscope.pictures.folder_words import (
    is_sorting,
    is_turning,
    plain_words,
    says_good,
    split_words,
    word_says,
)


class PictureClass(Enum):
    """Class of a picture by its labels. UNCLEAR: both, or nobody knows which. UNKNOWN: nothing tells."""

    GOOD = "good"
    BAD = "not good"
    UNCLEAR = "unclear"
    UNKNOWN = ""


class NameReading(NamedTuple):
    """Result of reading a file's name: the class that it tells, and the words that tell it."""

    picture_class: PictureClass
    words: str = ""


SILENT = NameReading(PictureClass.UNKNOWN)
JUMBLE_PIECES, JUMBLE_LENGTH = 4, 2.5  # pieces of a hash, and characters of each on average, at most
CHANCE_SHARE, CHANCE_COUNT = 0.1, 3  # share and number of names that say something by chance, at most
_CHUNK = re.compile(r"[^\W_]+")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
_HEX = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}", re.I)
_ONE_NUMBER = re.compile(r"\d*[^\W\d_]+|[^\W\d_]+\d*")
_TYPE = re.compile(r"([^\W\d_]+)([1-9]\d+)")
_DATE = re.compile(r"(?:19|20)?\d\d(?:[01]\d[0-3]\d)|(?:19|20)\d\d(?:[01]\d)?")
Chunks = list[str]


def read_names(stems: Sequence[str]) -> list[NameReading]:
    """Reads the names, without suffix, of the pictures of a folder."""
    names = [_CHUNK.findall(plain_words(_UUID.sub(" ", stem))) for stem in stems]
    first, last = _shared(names)
    cores = [name[first : len(name) - last] for name in names]
    if any(is_turning(chunk) for core in cores for chunk in core):  # what it turns round may be shared
        first, last, cores = 0, 0, names
    found = [_read(core) for core in cores]
    if {one.picture_class for one in found} != {PictureClass.GOOD, PictureClass.BAD}:
        types = _types(cores)
        cores = [[chunk for chunk in core if chunk not in types] for core in cores]
        found = _read_without_chance(cores)
    if not any(one.picture_class is not PictureClass.UNKNOWN for one in found) and names:
        shared = [*names[0][:first], *names[0][len(names[0]) - last :]]
        one = _read([chunk for chunk in shared if not _is_type(chunk) and not _is_jumble(chunk)])
        return [SILENT if one.picture_class is PictureClass.UNCLEAR else one] * len(names)
    return _without_lights(_doubt_unknown_negations(found, cores), cores)


def _read(chunks: Chunks) -> NameReading:
    """Reads chunks; single letters are places and counters."""
    # numbers make no difference but for being there: so few texts are read
    text = " ".join(re.sub(r"\d+", "0", chunk) for chunk in chunks if len(chunk) > 1 or chunk.isdecimal())
    telling = [word for word in split_words(text) if word_says(word) is not None or is_turning(word)]
    if not telling:
        return SILENT
    good = says_good(text)
    if good is None:
        saying = any(word_says(word) is not None for word in telling)
        return NameReading(PictureClass.UNCLEAR, " ".join(telling)) if saying else SILENT
    return NameReading(PictureClass.GOOD if good else PictureClass.BAD, " ".join(telling))


def _read_without_chance(cores: Sequence[Chunks]) -> list[NameReading]:
    """Reads names without words within hashes, unless they are too many to stand there by chance."""
    found = [_read([chunk for chunk in core if not _is_jumble(chunk)]) for core in cores]
    whole = [_read(core) for core in cores]
    more = sum(
        one.picture_class is PictureClass.UNKNOWN is not all_.picture_class
        for one, all_ in zip(found, whole, strict=True)
    )
    return whole if more >= max(CHANCE_COUNT, CHANCE_SHARE * len(cores)) else found


def _shared(names: Sequence[Chunks]) -> tuple[int, int]:
    """Numbers of the first and of the last chunks that all names share. Negations turn round what follows or
    stands before, so they stay with it."""
    if len(names) < 2:
        return 0, 0
    most, counts = min(map(len, names)), [0, 0]
    for side, step in enumerate((1, -1)):
        for k in range(most - counts[0]):
            chunk = names[0][k if side == 0 else -1 - k]
            if is_turning(chunk) or any(name[k if step > 0 else -1 - k] != chunk for name in names):
                break
            counts[side] += 1
    return counts[0], counts[1]


def _types(cores: Sequence[Chunks]) -> set[str]:
    """Chunks that are names of types, such as NG200: they come again, with a counter behind, and where one
    is missing another word stands."""
    often = Counter(chunk for core in cores for chunk in {*core})
    found = {
        chunk
        for core in cores
        for k, chunk in enumerate(core)
        if _is_type(chunk)
        and (often[chunk] > 1 or len(cores) == 1)
        and any(re.search(r"\d", later) for later in core[k + 1 :])
    }
    return found if all(any(re.search(r"[^\W\d_]", chunk) for chunk in core) for core in cores) else set()


def _is_type(chunk: str) -> bool:
    match = _TYPE.fullmatch(chunk)
    return match is not None and word_says(match[1].casefold()) is not None and not _DATE.fullmatch(match[2])


def _is_jumble(chunk: str) -> bool:
    """Whether a chunk looks like a hash: small and large letters and digits by turns."""
    if _HEX.fullmatch(chunk):
        return _ONE_NUMBER.fullmatch(chunk) is None
    pieces = split_words(chunk, camel=True)
    return len(pieces) >= JUMBLE_PIECES and len(chunk) < JUMBLE_LENGTH * len(pieces)


def _doubt_unknown_negations(found: list[NameReading], cores: Sequence[Chunks]) -> list[NameReading]:
    """Doubts names in which an unknown word stands before the one for good, beside others without: it may be
    a "not" that is not known here, as in "ok" and "ej ok"."""
    before: list[bool] = []
    for one, core in zip(found, cores, strict=True):
        words = split_words(" ".join(core)) if one.picture_class is PictureClass.GOOD else []
        place = next((k for k, word in enumerate(words) if word_says(word) is not None), 0)
        word = words[place - 1] if place else ""
        before.append(
            len(word) > 1 and not word.isdecimal() and not is_sorting(word) and not is_turning(word)
        )
    has_plain = any(
        one.picture_class is PictureClass.GOOD and not b for one, b in zip(found, before, strict=True)
    )
    return [
        NameReading(PictureClass.UNCLEAR, one.words) if has_plain and doubtful else one
        for one, doubtful in zip(found, before, strict=True)
    ]


def _without_lights(found: list[NameReading], cores: Sequence[Chunks]) -> list[NameReading]:
    """Takes "normal" for a light where the other names have words of lights and views in its place."""
    if {one.words for one in found} != {"", "normal"}:
        return found
    others = [split_words(" ".join(core)) for one, core in zip(found, cores, strict=True) if not one.words]
    words = [[word for word in name if len(word) > 1 and not word.isdecimal()] for name in others]
    return [SILENT] * len(found) if all(name and all(map(is_sorting, name)) for name in words) else found
