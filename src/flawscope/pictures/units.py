"""Finds the pictures that show one part: by their names, or because they are nearly the same. They are a
unit: they are left out and held out together, and a calibration counts them as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from flawscope import errors
from flawscope.errors import InputError, join_names, pluralize
from flawscope.pictures.mask_files import EXPORTED, fold
from flawscope.pictures.near_duplicates import Compared, Look, clusters, compare_pictures
from flawscope.progress import Say

MIN_SPREAD = 4.0  # grey levels of spread below which a picture may show nothing
MIN_SPREAD_SHARE = 0.2  # and of the spread of the others
MIN_ABOVE_NOISE = 2.0  # times its noise: a spread below which nothing else may be there

# What tools that augment pictures add to the name of the picture itself
_CHANGED = re.compile(
    r"(.+?)[\W_]+(?:aug(?:mented)?[\W_]?\d*|[hv]?flip(?:ped)?(?:[\W_]?(?:h|v|lr|ud|x|y))?|mirror(?:ed)?|gespiegelt|"
    r"rot(?:ate|ated)?[\W_]?(?:90|180|270)(?:deg)?)"
)

PartKey = tuple[str | None, ...]  # what a pattern's groups match, or its whole match


def part_key(name: str, expression: re.Pattern[str] | None) -> PartKey | None:
    """Part that a name gives: the text of the pattern's groups, if any, else of the match; None: no match."""
    match = None if expression is None else expression.search(name)
    return None if match is None else match.groups() or (match.group(),)


def same_sources(names: Sequence[str]) -> list[str | None]:
    """Name of the picture that each was made from, where several were made from it, or it is there itself.

    Only exports of labelling sites are believed without the picture itself: `_aug` may be a month.
    """
    own = [_without_suffix(name) for name in names]
    sources, exported = [], set()
    for stem in own:
        folder, _, last = stem.rpartition("/")
        match = EXPORTED.fullmatch(last) or _CHANGED.fullmatch(last)
        source = stem if match is None else f"{folder}/{match[1]}".lstrip("/")
        if match is not None and match.re is EXPORTED:
            exported.add(source)
        sources.append(source)
    changed = {source for source, stem in zip(sources, own, strict=True) if source != stem}
    believed, count = changed & ({*own} | exported), Counter(sources)
    return [source if source in believed and count[source] > 1 else None for source in sources]


def _without_suffix(name: str) -> str:
    """A file's name as it is compared, folders and all, without its suffix."""
    path = PurePath(name)
    return fold(path.with_suffix("").as_posix() if path.name else name)


def name_parts(names: Sequence[str], pattern: re.Pattern[str] | None) -> list[PartKey | None]:
    """Part that each name tells: by the pattern, or else by the picture that several were made from."""
    told = [part_key(name, pattern) for name in names]
    sources = [None if source is None else ("", source) for source in same_sources(names)]
    return [part or source for part, source in zip(told, sources, strict=True)]


def compile_group(pattern: str | None) -> re.Pattern[str] | None:
    """Compiles the pattern. InputError: it is not a regular expression."""
    return None if pattern is None else errors.compile_pattern("--group", pattern)


def group_numbers(names: Sequence[str], pattern: str | None) -> list[int]:
    """Number for each name; names in which `pattern` matches the same text share one.

    The text is that of the pattern's groups if it has any, else of the whole match. Names without a match,
    and all names without a pattern, have a number of their own, unless they say that they were made from one
    picture (`same_sources`).

    Raises:
        InputError: the pattern is not a regular expression, or matches no name.
    """
    expression = compile_group(pattern)
    if pattern is not None and names and not any(part_key(name, expression) for name in names):
        raise InputError(f"--group '{pattern}' matches no file name such as {names[0]}: correct the pattern")
    numbers: dict[object, int] = {}
    parts = name_parts(names, expression)
    return [numbers.setdefault(i if part is None else part, len(numbers)) for i, part in enumerate(parts)]


class Units(NamedTuple):
    """Units of pictures: those of one part, by their names, and near-copies.

    numbers: [N], of each picture's unit, rising from 0.
    near_copies: numbers of the pictures that are nearly the same, in groups.
    """

    numbers: list[int]
    near_copies: list[list[int]]


def find_units(looks: Sequence[Look | None], groups: Sequence[int]) -> Units:
    """Units of pictures of groups that names tell; near-copies share one whatever they are called.

    looks: None: a picture that cannot be read.
    """
    copies = [*clusters(_compare(looks).copies)]
    return Units(_join(groups, copies), copies)


def _compare(looks: Sequence[Look | None]) -> Compared:
    known = [k for k, look in enumerate(looks) if look is not None]
    found = [look for look in looks if look is not None]
    pairs = compare_pictures(found, np.arange(len(found)))
    return Compared(*([(known[i], known[j], much) for i, j, much in some] for some in pairs))


def _join(groups: Sequence[int], copies: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of groups of which those that share copies are one, rising from 0."""
    firsts: dict[int, int] = {}
    by_name = [
        (first, k, 1.0) for k, group in enumerate(groups) if (first := firsts.setdefault(group, k)) != k
    ]
    linked = [(several[0], k, 1.0) for several in copies for k in several[1:]]
    first_of = {k: several[0] for several in clusters([*by_name, *linked]) for k in several}
    numbers: dict[int, int] = {}
    return [numbers.setdefault(first_of.get(k, k), len(numbers)) for k in range(len(groups))]


NOTHING = "nothing beside the others (black, white, or a covered lens)"  # that such pictures show


def show_nothing(looks: Sequence[Look | None]) -> list[int]:
    """Numbers of the pictures that show nothing beside the others: black, white, grey, or a cap on the lens.

    A product that is plain itself has such pictures alone, and they are good.
    """
    spreads, noises = (
        np.array([np.nan if look is None else getattr(look, name) for look in looks])
        for name in ("spread", "noise")
    )
    if np.isnan(spreads).all():
        return []
    found = spreads < min(MIN_SPREAD, MIN_SPREAD_SHARE * float(np.nanmedian(spreads)))
    # noise alone, in pictures of more bits brightened by their brightest pixel, spreads widely
    above_noise = spreads / noises
    found |= above_noise < min(MIN_ABOVE_NOISE, MIN_SPREAD_SHARE * float(np.nanmedian(above_noise)))
    return np.flatnonzero(found).tolist()


def _without_exact(several: Sequence[int], looks: Sequence[Look | None]) -> list[int]:
    """Numbers of pictures, of exact copies the first: what is told of these is told where they are left
    out."""
    first: dict[object, int] = {}
    for k in several:
        look = looks[k]
        first.setdefault(k if look is None else (look.thumbnail.tobytes(), look.noise), k)
    return [*first.values()]


class PartsFound(NamedTuple):
    """Parts that pictures show.

    numbers: [N], of the part of each. near_copies, unsure: groups of pictures of which names do not tell
    that they show one part: nearly the same, without exact copies; and the same but for noise, which count
    as several parts. remarks: on them.
    """

    numbers: list[int]
    near_copies: list[list[int]]
    unsure: list[list[int]]
    remarks: list[str]


def compare_parts(
    looks: Sequence[Look | None], names: Sequence[str], groups: Sequence[int], *, pattern: str | None
) -> PartsFound:
    """Groups pictures that show one part: those that names tell, or else near-copies.

    Args:
        groups: by the names. pattern: by which names tell them; near-copies that it tells apart are reported.
    """
    expression, remarks = compile_group(pattern), list[str]()
    told = [part_key(name, expression) is not None for name in names]
    compared = _compare(looks)
    copies = [several for several in clusters(compared.copies) if len({groups[k] for k in several}) > 1]
    apart = [several for several in copies if all(told[k] for k in several)]
    joined = [several for several in copies if several not in apart]

    def describe(copies: Sequence[Sequence[int]]) -> str:
        example = join_names([names[k] for k in copies[0][:2]])
        return (
            f"{pluralize(sum(map(len, copies)), 'picture')} are nearly the same as others, such as {example}"
        )

    if apart:
        remarks.append(f"{describe(apart)}, although their names tell different parts: correct the pattern")
    numbers = _join(groups, joined) if joined else list(groups)
    parts = len({*numbers})
    doubted = [
        (i, j, alike)
        for i, j, alike in compared.unsure
        if numbers[i] != numbers[j] and not (told[i] and told[j])
    ]
    unsure = [*clusters(doubted)]
    if unsure:
        fewer = len({*_join(numbers, unsure)})
        lowest = "nothing" if fewer == 1 else f"no rate below {1 / (fewer + 1):.1%}"
        remarks.append(
            f"unsure: {describe(unsure)} but for noise: alike parts, or one part again? Counted as "
            f"{pluralize(parts, 'part')}; if they show the same part there {'is' if fewer == 1 else 'are'} "
            f"{fewer}, and {lowest} can be promised: take them out then (`data check --out PAGE.html` "
            "shows the pairs), or tell parts by names (--group)"
        )
    shown = [own for several in joined if len(own := _without_exact(several, looks)) > 1]
    if shown:
        remarks.append(
            f"near-copies: {describe(shown)}: one part photographed again? Counted as "
            f"{pluralize(parts, 'part')}; if each shows another part: --group '.*'"
        )
    return PartsFound(numbers, shown, unsure, remarks)


def find_parts(
    looks: Sequence[Look | None],
    names: Sequence[str],
    groups: Sequence[int],
    *,
    pattern: str | None,
    say: Say,
) -> list[int]:
    """Numbers of the parts that `compare_parts` finds; `say` gets its remarks."""
    found = compare_parts(looks, names, groups, pattern=pattern)
    for line in found.remarks:
        say(line)
    return found.numbers


def find_new_parts(
    looks: Sequence[Look | None],
    names: Sequence[str],
    pattern: str | None,
    *,
    say: Say,
) -> list[int]:
    """`find_parts` of pictures that a model has not seen: by its pattern where it fits their names."""
    try:
        groups = group_numbers(names, pattern)
    except InputError:  # these are named otherwise
        groups, pattern = group_numbers(names, None), None
    return find_parts(looks, names, groups, pattern=pattern, say=say)
