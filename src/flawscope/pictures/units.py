"""Finds the pictures that show one part: by their names, or because they are nearly the same.

They are a unit: they are left out and held out together, and a calibration counts them as one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from flawscope import errors
from flawscope.errors import InputError, data_checks, join_names, pluralize
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.mask_files import EXPORTED, fold
from flawscope.pictures.near_duplicates import Compared, Look, Pair, clusters, compare_pictures
from flawscope.pictures.table import CALIBRATION, Picture, next_unit

# What tools that augment pictures add to the name of the picture itself
_CHANGED = re.compile(
    r"(.+?)[\W_]+(?:aug(?:mented)?[\W_]?\d*|[hv]?flip(?:ped)?(?:[\W_]?(?:h|v|lr|ud|x|y))?|mirror(?:ed)?|gespiegelt|"
    r"rot(?:ate|ated)?[\W_]?(?:90|180|270)(?:deg)?)"
)

PartKey = tuple[str | None, ...]  # matches of a pattern's groups, or its whole match
PartReader = Callable[[str], PartKey | None]  # returns the part in a picture's name; None: none


def file_stem(name: str) -> str:
    """Return a file's name, folders and all, without the suffix of a picture, if it has one."""
    return name.rpartition(".")[0] if is_picture(name) else name


def search_name(expression: re.Pattern[str], name: str) -> re.Match[str] | None:
    r"""Search a pattern in a file's name.

    A pattern that ends with `$` may mean the end with or without the suffix: `_(\d+)$` is searched for in the
    name without it first.
    """
    without = expression.search(file_stem(name)) if expression.pattern.endswith("$") else None
    return without or expression.search(name)


def part_key(name: str, expression: re.Pattern[str] | None) -> PartKey | None:
    """Return the part in a name by a pattern: the text of its groups, else of the match; None: no match."""
    match = None if expression is None else search_name(expression, name)
    return None if match is None else match.groups() or (match.group(),)


def same_sources(names: Sequence[str]) -> list[str | None]:
    """Return for each name the picture that it and others were made from; None where not known.

    It is known where the picture itself is there, or where the names are exports of labelling sites: `_aug`
    alone may be a month.
    """
    plain_names = [_without_suffix(name) for name in names]
    sources = []
    exported = set()
    for stem in plain_names:
        folder, _, last = stem.rpartition("/")
        match = EXPORTED.fullmatch(last) or _CHANGED.fullmatch(last)
        source = stem if match is None else f"{folder}/{match[1]}".lstrip("/")
        if match is not None and match.re is EXPORTED:
            exported.add(source)
        sources.append(source)
    changed = {source for source, stem in zip(sources, plain_names, strict=True) if source != stem}
    believed = changed & ({*plain_names} | exported)
    count = Counter(sources)
    return [source if source in believed and count[source] > 1 else None for source in sources]


def _without_suffix(name: str) -> str:
    """Return a file's name for comparison, folders and all, without its suffix."""
    path = PurePath(name)
    return fold(path.with_suffix("").as_posix() if path.name else name)


def name_parts(names: Sequence[str], part_of: PartReader | None) -> list[PartKey | None]:
    """Return the part that each name states.

    It is read by `part_of`, else it is the picture that several were made from; None where there is neither.
    """
    named_parts = [None if part_of is None else part_of(name) for name in names]
    sources = [None if source is None else ("", source) for source in same_sources(names)]
    return [part or source for part, source in zip(named_parts, sources, strict=True)]


def compile_group(pattern: str | None) -> re.Pattern[str] | None:
    """Compile the pattern of `--group`.

    Raises:
        InputError: It is not a regular expression.
    """
    return None if pattern is None else errors.compile_pattern("--group", pattern)


def group_reader(pattern: str | None) -> PartReader | None:
    """Return a function that reads parts from names by a regular expression (`--group`); None without one.

    Raises:
        InputError: The expression is wrong.
    """
    expression = compile_group(pattern)
    return None if expression is None else lambda name: part_key(name, expression)


def check_group(names: Sequence[str], pattern: str | None) -> None:
    """Check a regular expression (`--group`).

    Raises:
        InputError: It is wrong, or matches none of the names.
    """
    expression = compile_group(pattern)
    if expression is None or not names or any(part_key(name, expression) for name in names):
        return
    raise InputError(f"--group '{pattern}' matches no file name such as {names[0]}: correct the pattern")


def group_numbers(names: Sequence[str], pattern: str | None) -> list[int]:
    """Return a number for each name; names in which `pattern` matches the same text share one.

    The text is that of the pattern's groups if it has any, else of the whole match. Names without a match,
    and all names without a pattern, have a number of their own, unless the names say that they were made from
    one picture (`same_sources`).

    Raises:
        InputError: The pattern is not a regular expression, or matches no name.
    """
    check_group(names, pattern)
    return units_of(named_rows(names), part_of=group_reader(pattern)).numbers


def named_rows(names: Sequence[str], looks: Sequence[Look | None] = ()) -> list[Picture]:
    """Return rows of pictures with their names, and with looks where these are given."""
    known = looks or [None] * len(names)
    return [Picture("", CALIBRATION, name, look=look) for name, look in zip(names, known, strict=True)]


class Units(NamedTuple):
    """Parts that new pictures show.

    Attributes:
        rows: The new rows, each with its unit.
        copies: Known rows that new pictures are nearly the same as, by the numbers of the new ones.
        further: Numbers of other new pictures whose names state known parts.
        near_duplicates: Groups of new pictures that are nearly the same, without exact copies, where the
            names do not state one part already.
        unsure: Groups of new pictures that are the same but for noise, and count as several parts.
        remarks: Lines for a person.
    """

    rows: list[Picture]
    copies: dict[int, Picture]
    further: list[int]
    near_duplicates: list[list[int]]
    unsure: list[list[int]]
    remarks: list[str]

    @property
    def numbers(self) -> list[int]:
        """Unit [N] of each new picture."""
        return [row.unit for row in self.rows]

    def describe_copies(self) -> str:
        """Name the new pictures that are nearly the same as known ones; empty where there are none."""
        if not self.copies:
            return ""
        number, other = next(iter(self.copies.items()))
        count = pluralize(len(self.copies), "picture")
        return f"{count} nearly the same as known ones, such as {self.rows[number].name} as {other.name}"


def units_of(
    new: Sequence[Picture], known: Iterable[Picture] = (), part_of: PartReader | None = None
) -> Units:
    """Find the parts that new pictures show, and number them.

    No other function numbers parts. Pictures show one part where their names say so, or where they are nearly
    the same and their names do not state different parts. A picture of a known part gets its unit, others get
    units that no known row has.

    Args:
        new: Rows of the new pictures.
        known: Rows with units. Those without looks are compared by their names alone.
        part_of: Returns the part for a name, or None. Without it, names state only that pictures were made
            from one picture (`same_sources`).
    """
    count = len(new)
    earlier = _with_units(known)
    every = [*new, *earlier]
    named_parts = [None if part_of is None else part_of(row.name) for row in every]
    labels = _labels(new, earlier, named_parts)
    compared = _compare([row.look for row in every], count)
    copies = [several for several in clusters(compared.copies) if len({labels[k] for k in several}) > 1]
    apart = [several for several in copies if all(named_parts[k] is not None for k in several)]
    joined = [several for several in copies if several not in apart]
    joined_labels = _join(labels, joined)
    unsure = _find_unsure(compared.unsure, joined_labels, named_parts, every)
    units = _number(joined_labels, count, earlier)
    rows = [replace(row, unit=unit) for row, unit in zip(new, units, strict=True)]
    known_copies = _known_copies(joined, count, earlier)
    further = _further_pictures(units, earlier, known_copies)
    near_duplicates = _near_duplicates(joined, new)
    names = [row.name for row in every]
    remarks = [*_apart_remarks(apart, names)]
    remarks += _unsure_remarks(unsure, joined_labels[:count], names)
    remarks += _near_duplicate_remarks(near_duplicates, joined_labels[:count], names)
    remarks += _unknown_remarks(new, earlier)
    return Units(rows, known_copies, further, near_duplicates, _among(unsure, count), remarks)


def _further_pictures(
    units: Sequence[int], earlier: Sequence[Picture], known_copies: Collection[int]
) -> list[int]:
    """Return the numbers of the new pictures that show a known part, and are no copies of a known picture."""
    known_units = {row.unit for row in earlier}
    return [k for k, unit in enumerate(units) if unit in known_units and k not in known_copies]


def _near_duplicates(joined: Sequence[Sequence[int]], new: Sequence[Picture]) -> list[list[int]]:
    """Return groups of new pictures that are nearly the same; of exact copies the first."""
    among_new = [[k for k in several if k < len(new)] for several in joined]
    distinct = [_without_exact(several, new) for several in among_new]
    return [several for several in distinct if len(several) > 1]


def _with_units(known: Iterable[Picture]) -> list[Picture]:
    """Return the rows with a unit, each picture once."""
    once: dict[str, Picture] = {}
    for row in known:
        if row.unit >= 0:
            once.setdefault(row.hash, row)
    return list(once.values())


def _labels(
    new: Sequence[Picture], earlier: Sequence[Picture], named_parts: Sequence[PartKey | None]
) -> list[int]:
    """Return labels [new and earlier] of the parts that names and known units state, rising from 0."""
    sources = _sources([row.name for row in new], [row.name for row in earlier])
    keys = [part or source for part, source in zip(named_parts, sources, strict=True)]
    known: dict[object, object] = {}
    for key, row in zip(keys[len(new) :], earlier, strict=True):
        if key is not None:
            known.setdefault(key, row.unit)
    numbers: dict[object, int] = {}
    labels = []
    for k, key in enumerate(keys):
        if k >= len(new):
            part: object = earlier[k - len(new)].unit
        elif key is None:
            part = ("picture", k)
        else:
            part = known.get(key, ("part", key))
        labels.append(numbers.setdefault(part, len(numbers)))
    return labels


def _sources(new: Sequence[str], earlier: Sequence[str]) -> list[PartKey | None]:
    """Return the picture that each new and earlier one was made from (`same_sources`).

    A new picture with an earlier one's name is another picture: cameras number from 1 again.
    """
    stems = {_without_suffix(name) for name in new}
    among_new = same_sources(new)
    found: list[PartKey | None] = []
    for source in same_sources([*new, *earlier]):
        found.append(None if source is None or source in stems else ("", source))
    for k, source in enumerate(among_new):
        if source is not None:
            found[k] = ("", source)
    return found


def _compare(looks: Sequence[Look | None], new: int) -> Compared:
    """Compare the first `new` pictures with each other and with all others."""
    known = [k for k, look in enumerate(looks) if look is not None]
    found = [look for look in looks if look is not None]
    if len(found) < 2:
        return Compared([], [])
    pairs = compare_pictures(found, np.flatnonzero(np.array(known, np.intp) < new))
    copies, unsure = ([(known[i], known[j], much) for i, j, much in some] for some in pairs)
    return Compared(copies, unsure)


def _join(labels: Sequence[int], copies: Sequence[Sequence[int]]) -> list[int]:
    """Return labels rising from 0, the same for all that share copies."""
    firsts: dict[int, int] = {}
    by_name = []
    for k, label in enumerate(labels):
        first = firsts.setdefault(label, k)
        if first != k:
            by_name.append((first, k, 1.0))
    linked = [(several[0], k, 1.0) for several in copies for k in several[1:]]
    first_of = {k: several[0] for several in clusters([*by_name, *linked]) for k in several}
    numbers: dict[int, int] = {}
    return [numbers.setdefault(first_of.get(k, k), len(numbers)) for k in range(len(labels))]


def _number(labels: Sequence[int], new: int, earlier: Sequence[Picture]) -> list[int]:
    """Return units [new] of new pictures: the lowest known one of their label, or new ones, rising."""
    units: dict[int, int] = {}
    for label, row in zip(labels[new:], earlier, strict=True):
        units[label] = min(row.unit, units.get(label, row.unit))
    following = next_unit(earlier)
    for label in labels[:new]:
        if label not in units:
            units[label] = following
            following += 1
    return [units[label] for label in labels[:new]]


def _known_copies(
    joined: Sequence[Sequence[int]], new: int, earlier: Sequence[Picture]
) -> dict[int, Picture]:
    """Return the first known row that each new picture is nearly the same as."""
    found: dict[int, Picture] = {}
    for several in joined:
        known = [earlier[k - new] for k in several if k >= new]
        if known:
            found |= {k: known[0] for k in several if k < new}
    return dict(sorted(found.items()))


def _find_unsure(
    pairs: Sequence[Pair],
    labels: Sequence[int],
    named_parts: Sequence[PartKey | None],
    rows: Sequence[Picture],
) -> list[list[int]]:
    """Return groups of pictures that look the same but for noise, of exact copies the first.

    Pictures whose names state different parts are left out.
    """
    doubted = [
        (i, j, alike)
        for i, j, alike in pairs
        if labels[i] != labels[j] and (named_parts[i] is None or named_parts[j] is None)
    ]
    return [_without_exact(several, rows) for several in clusters(doubted)]


def _among(groups: Sequence[Sequence[int]], new: int) -> list[list[int]]:
    """Return the new pictures of groups that have several of them."""
    known_members = [[k for k in several if k < new] for several in groups]
    return [several for several in known_members if len(several) > 1]


# ---------------------------------------------------------------------------------------------------- remarks


def _describe_alike(groups: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    example = join_names([names[k] for k in groups[0][:2]])
    count = pluralize(sum(map(len, groups)), "picture")
    return f"{count} are nearly the same as others, such as {example}"


def _apart_remarks(apart: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[str]:
    if apart:
        alike = _describe_alike(apart, names)
        line = f"{alike}, although their names tell different parts: correct the pattern"
        yield data_checks.OTHER_PARTS_BY_NAME.coded(line)


def _unsure_remarks(
    unsure: Sequence[Sequence[int]], labels: Sequence[int], names: Sequence[str]
) -> Iterator[str]:
    """Yield a remark on unsure groups; `labels` are those of the new pictures."""
    if not unsure:
        return
    parts = len({*labels})
    known_members = [[k for k in several if k < len(labels)] for several in unsure]
    fewer = len({*_join(labels, [several for several in known_members if several])})
    lowest = "nothing" if fewer == 1 else f"no rate below {1 / (fewer + 1):.1%}"
    yield data_checks.UNSURE_DUPLICATES.coded(
        f"unsure: {_describe_alike(unsure, names)} but for noise: alike parts, or one part again? Counted as "
        f"{pluralize(parts, 'part')}; if they show the same part there {'is' if fewer == 1 else 'are'} "
        f"{fewer}, and {lowest} can be promised: take them out then (`data check --out PAGE.html` "
        "shows the pairs), or tell parts by names (--group)"
    )


def _near_duplicate_remarks(
    near_duplicates: Sequence[Sequence[int]], labels: Sequence[int], names: Sequence[str]
) -> Iterator[str]:
    """Yield a remark on near-duplicates; `labels` are those of the new pictures."""
    if near_duplicates:
        yield data_checks.NEAR_DUPLICATES.coded(
            f"near-duplicates: {_describe_alike(near_duplicates, names)}: one part photographed again? "
            f"Counted as {pluralize(len({*labels}), 'part')}; if each shows another part: --group '.*'"
        )


def _unknown_remarks(new: Sequence[Picture], earlier: Sequence[Picture]) -> Iterator[str]:
    """Yield a remark where new pictures cannot be compared with all that are known."""
    blind = sum(row.look is None for row in earlier)
    if blind and any(row.look is not None for row in new):
        yield data_checks.NO_LOOKS.coded(
            f"the model keeps no looks of {blind} of the {pluralize(len(earlier), 'picture')} that it knows: "
            "copies of them that were saved anew are not known again, so give none"
        )


def _without_exact(several: Sequence[int], rows: Sequence[Picture]) -> list[int]:
    """Return the numbers of pictures, of exact copies the first; the others are reported elsewhere."""
    first: dict[object, int] = {}
    for k in several:
        look = rows[k].look
        first.setdefault(k if look is None else (look.thumbnail.tobytes(), look.noise), k)
    return [*first.values()]
