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

# Endings that augmentation tools add to the name of the picture itself
_CHANGED = re.compile(
    r"(.+?)[\W_]+(?:aug(?:mented)?[\W_]?\d*|[hv]?flip(?:ped)?(?:[\W_]?(?:h|v|lr|ud|x|y))?|mirror(?:ed)?|gespiegelt|"
    r"rot(?:ate|ated)?[\W_]?(?:90|180|270)(?:deg)?)"
)

PartKey = tuple[str | None, ...]  # matches of a pattern's groups, or its whole match
PartReader = Callable[[str], PartKey | None]  # returns the part in a picture's name; None: none


def file_stem(name: str) -> str:
    """Return a file's name with its folders, but without the suffix of a picture if it has one."""
    return name.rpartition(".")[0] if is_picture(name) else name


def search_name(expression: re.Pattern[str], name: str) -> re.Match[str] | None:
    r"""Search a pattern in a file's name.

    If the pattern ends with `$`, such as `_(\d+)$`, it is first searched in the name without the suffix, and
    then in the whole name.
    """
    match = expression.search(file_stem(name)) if expression.pattern.endswith("$") else None
    return match or expression.search(name)


def part_key(name: str, expression: re.Pattern[str] | None) -> PartKey | None:
    """Return the part that a name states according to a pattern; None: the pattern does not match.

    The part is the text of the pattern's groups, or of the whole match if it has no groups.
    """
    match = None if expression is None else search_name(expression, name)
    if match is None:
        return None
    return match.groups() or (match.group(),)


def same_sources(names: Sequence[str]) -> list[str | None]:
    """Return the original of each name: the picture that a tool made it and others from; None: not known.

    Endings such as `_aug` do not suffice, since `_aug` may mean a month. In addition, the name of the
    original picture must be among the names, or the ending must be one of a labelling site's exports.
    """
    stems = [_without_suffix(name) for name in names]
    sources = []
    exported_sources = set()
    for stem in stems:
        folder, _, last = stem.rpartition("/")
        match = EXPORTED.fullmatch(last) or _CHANGED.fullmatch(last)
        source = stem if match is None else f"{folder}/{match[1]}".lstrip("/")
        is_exported = match is not None and match.re is EXPORTED
        if is_exported:
            exported_sources.add(source)
        sources.append(source)
    changed_sources = {source for source, stem in zip(sources, stems, strict=True) if source != stem}
    sure_sources = changed_sources & ({*stems} | exported_sources)
    counts = Counter(sources)
    return [source if source in sure_sources and counts[source] > 1 else None for source in sources]


def _without_suffix(name: str) -> str:
    """Return a file's name with its folders, folded for comparison, without its suffix."""
    path = PurePath(name)
    return fold(path.with_suffix("").as_posix() if path.name else name)


def name_parts(names: Sequence[str], part_of: PartReader | None) -> list[PartKey | None]:
    """Return the part that each name states; None where it states none.

    The part is what `part_of` returns for the name, or else the original from which this and other pictures
    were made (`same_sources`).
    """
    named_parts = [None if part_of is None else part_of(name) for name in names]
    sources = [None if source is None else ("", source) for source in same_sources(names)]
    return [part or source for part, source in zip(named_parts, sources, strict=True)]


def compile_group(pattern: str | None) -> re.Pattern[str] | None:
    """Compile the pattern of `--group`.

    Raises:
        InputError: The pattern is not a regular expression.
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
    """Check the regular expression of `--group`.

    Raises:
        InputError: The pattern is no regular expression, or matches none of the names.
    """
    expression = compile_group(pattern)
    if expression is None or not names or any(part_key(name, expression) for name in names):
        return
    raise InputError(f"--group '{pattern}' matches no file name such as {names[0]}: correct the pattern")


def group_numbers(names: Sequence[str], pattern: str | None) -> list[int]:
    """Number the parts that names state: names in which `pattern` matches the same text get the same number.

    The text is what the pattern's groups match, or its whole match if it has no groups. Each name without a
    match (without a pattern, each name) gets a number of its own. But names that say that they were made from
    one picture (`same_sources`) share a number.

    Raises:
        InputError: The pattern is not a regular expression, or matches no name.
    """
    check_group(names, pattern)
    return units_of(named_rows(names), part_of=group_reader(pattern)).numbers


def named_rows(names: Sequence[str], looks: Sequence[Look | None] = ()) -> list[Picture]:
    """Return rows of pictures with their names, and with looks where these are given."""
    all_looks = looks or [None] * len(names)
    # an empty hash: only the name and the look are known
    return [Picture("", CALIBRATION, name, look=look) for name, look in zip(names, all_looks, strict=True)]


class Units(NamedTuple):
    """Parts that new pictures show.

    Attributes:
        rows: The new rows, each with its unit.
        copies: By number of a new picture, the known row whose picture is nearly the same.
        further: Numbers of the other new pictures that show a known part, according to their names.
        near_duplicates: Groups of new pictures that are nearly the same. Exact copies are left out, and so
            are groups whose names already state that they show one part.
        unsure: Groups of new pictures that differ only by noise, but count as several parts.
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
        """Describe the new pictures that are nearly the same as known pictures; empty: there are none."""
        if not self.copies:
            return ""
        number, other = next(iter(self.copies.items()))
        count = pluralize(len(self.copies), "picture")
        return f"{count} nearly the same as known ones, such as {self.rows[number].name} as {other.name}"


def units_of(
    new: Sequence[Picture], known: Iterable[Picture] = (), part_of: PartReader | None = None
) -> Units:
    """Find the parts that new pictures show, and number them. No other function numbers parts.

    Pictures show one part if their names say so. They also do if they are nearly the same, and their names do
    not state different parts. A picture of a known part gets the unit of that part; the others get units that
    no known row has.

    Args:
        new: Rows of the new pictures.
        known: Rows with units. Those without looks are compared by their names alone.
        part_of: Returns the part that a name states, or None. Without this function, names only state that
            pictures were made from one picture (`same_sources`).
    """
    count = len(new)
    earlier = _with_units(known)
    all_rows = [*new, *earlier]
    named_parts = [None if part_of is None else part_of(row.name) for row in all_rows]
    labels = _labels(new, earlier, named_parts)
    compared = _compare([row.look for row in all_rows], count)
    # groups of pictures that are nearly the same, without those that are one part by their names
    groups = [group for group in clusters(compared.copies) if len({labels[k] for k in group}) > 1]
    groups_apart = [group for group in groups if all(named_parts[k] is not None for k in group)]
    joined_groups = [group for group in groups if group not in groups_apart]
    joined_labels = _join(labels, joined_groups)
    unsure = _find_unsure(compared.unsure, joined_labels, named_parts, all_rows)
    units = _number(joined_labels, count, earlier)
    rows = [replace(row, unit=unit) for row, unit in zip(new, units, strict=True)]
    known_copies = _known_copies(joined_groups, count, earlier)
    near_duplicates = _near_duplicates(joined_groups, new)
    names = [row.name for row in all_rows]
    remarks = [*_apart_remarks(groups_apart, names)]
    remarks += _unsure_remarks(unsure, joined_labels[:count], names)
    remarks += _near_duplicate_remarks(near_duplicates, joined_labels[:count], names)
    remarks += _unknown_remarks(new, earlier)
    return Units(
        rows=rows,
        copies=known_copies,
        further=_further_pictures(units, earlier, known_copies),
        near_duplicates=near_duplicates,
        unsure=_among(unsure, count),
        remarks=remarks,
    )


def _further_pictures(
    units: Sequence[int], earlier: Sequence[Picture], known_copies: Collection[int]
) -> list[int]:
    """Return the numbers of the new pictures that show a known part, but are no copies of a known picture."""
    known_units = {row.unit for row in earlier}
    return [k for k, unit in enumerate(units) if unit in known_units and k not in known_copies]


def _near_duplicates(joined: Sequence[Sequence[int]], new: Sequence[Picture]) -> list[list[int]]:
    """Return groups of new pictures that are nearly the same; of exact copies the first."""
    new_groups = [[k for k in group if k < len(new)] for group in joined]
    distinct_groups = [_without_exact(group, new) for group in new_groups]
    return [group for group in distinct_groups if len(group) > 1]


def _with_units(known: Iterable[Picture]) -> list[Picture]:
    """Return the rows with a unit, each picture once."""
    row_by_hash: dict[str, Picture] = {}
    for row in known:
        if row.unit >= 0:
            row_by_hash.setdefault(row.hash, row)
    return list(row_by_hash.values())


def _labels(
    new: Sequence[Picture], earlier: Sequence[Picture], named_parts: Sequence[PartKey | None]
) -> list[int]:
    """Label the parts that are known from names and from earlier units.

    Args:
        new: Rows of the new pictures.
        earlier: Rows with units.
        named_parts: Part that the name of each new and each earlier picture states.

    Returns:
        A label for each new and then each earlier picture. Pictures of one part have the same label; labels
        are numbered from 0 in the order in which they first occur.
    """
    sources = _sources([row.name for row in new], [row.name for row in earlier])
    # what a name says: the part, else the picture from which this one was made, else None
    name_keys = [part or source for part, source in zip(named_parts, sources, strict=True)]
    unit_by_key: dict[object, object] = {}
    for key, row in zip(name_keys[len(new) :], earlier, strict=True):
        if key is not None:
            unit_by_key.setdefault(key, row.unit)
    label_by_part: dict[object, int] = {}
    labels = []
    for k, key in enumerate(name_keys):
        # a part is known by its unit, else by its name, else by its only picture
        if k >= len(new):
            part: object = earlier[k - len(new)].unit
        elif key is None:
            part = ("picture", k)
        else:
            part = unit_by_key.get(key, ("part", key))
        labels.append(label_by_part.setdefault(part, len(label_by_part)))
    return labels


def _sources(new: Sequence[str], earlier: Sequence[str]) -> list[PartKey | None]:
    """Return the original of each new and then of each earlier picture (`same_sources`), as a key.

    If a new and an earlier picture have the same name, they count as different pictures, since cameras may
    start to number from 1 again.

    Args:
        new: Names of the new pictures.
        earlier: Names of the earlier pictures.
    """
    new_stems = {_without_suffix(name) for name in new}
    # the keys begin with an empty text, so that they are unlike those of parts that names state
    keys: list[PartKey | None] = []
    for source in same_sources([*new, *earlier]):
        keys.append(None if source is None or source in new_stems else ("", source))
    for k, source in enumerate(same_sources(new)):
        if source is not None:
            keys[k] = ("", source)
    return keys


def _compare(looks: Sequence[Look | None], new_count: int) -> Compared:
    """Compare the new pictures with each other and with all other pictures.

    Args:
        looks: Looks of the new and then the other pictures; pictures without a look are left out.
        new_count: Number of the new pictures.

    Returns:
        The pairs of pictures, as indices in `looks` with a correlation.
    """
    indices = [k for k, look in enumerate(looks) if look is not None]
    known_looks = [look for look in looks if look is not None]
    if len(known_looks) < 2:
        return Compared([], [])
    is_new = np.array(indices, np.intp) < new_count
    compared = compare_pictures(known_looks, np.flatnonzero(is_new))
    return Compared(
        copies=[(indices[i], indices[j], correlation) for i, j, correlation in compared.copies],
        unsure=[(indices[i], indices[j], correlation) for i, j, correlation in compared.unsure],
    )


def _join(labels: Sequence[int], copies: Sequence[Sequence[int]]) -> list[int]:
    """Join the labels of pictures that are in one group of copies, and number the labels from 0 anew.

    Args:
        labels: Label of each picture.
        copies: Groups of copies, as numbers of pictures.

    Returns:
        The new label of each picture.
    """
    pairs: list[Pair] = []  # all with the correlation 1, which does not matter here
    first_by_label: dict[int, int] = {}  # first picture with each label
    for k, label in enumerate(labels):
        first = first_by_label.setdefault(label, k)
        if first != k:
            pairs.append((first, k, 1.0))
    for group in copies:
        pairs += [(group[0], k, 1.0) for k in group[1:]]
    first_by_picture: dict[int, int] = {}  # first picture of each picture's group
    for group in clusters(pairs):
        first_by_picture |= dict.fromkeys(group, group[0])
    new_label_by_first: dict[int, int] = {}
    joined_labels = []
    for k in range(len(labels)):
        first = first_by_picture.get(k, k)
        joined_labels.append(new_label_by_first.setdefault(first, len(new_label_by_first)))
    return joined_labels


def _number(labels: Sequence[int], new_count: int, earlier: Sequence[Picture]) -> list[int]:
    """Return the unit of each new picture: the lowest unit of the earlier pictures with its label.

    If there is no such earlier picture, it is a new unit.

    Args:
        labels: Labels of the new and then the earlier pictures.
        new_count: Number of the new pictures.
        earlier: Rows of the earlier pictures, with units.
    """
    unit_by_label: dict[int, int] = {}
    for label, row in zip(labels[new_count:], earlier, strict=True):
        unit_by_label[label] = min(row.unit, unit_by_label.get(label, row.unit))
    free_unit = next_unit(earlier)
    for label in labels[:new_count]:
        if label not in unit_by_label:
            unit_by_label[label] = free_unit
            free_unit += 1
    return [unit_by_label[label] for label in labels[:new_count]]


def _known_copies(
    joined: Sequence[Sequence[int]], new_count: int, earlier: Sequence[Picture]
) -> dict[int, Picture]:
    """Map numbers of new pictures to the first known row whose picture is nearly the same.

    Args:
        joined: Groups of pictures that are nearly the same, as numbers of new and then earlier pictures.
        new_count: Number of the new pictures.
        earlier: Rows of the earlier pictures.
    """
    row_by_number: dict[int, Picture] = {}
    for group in joined:
        known_rows = [earlier[k - new_count] for k in group if k >= new_count]
        if known_rows:
            row_by_number |= {k: known_rows[0] for k in group if k < new_count}
    return dict(sorted(row_by_number.items()))


def _find_unsure(
    pairs: Sequence[Pair],
    labels: Sequence[int],
    named_parts: Sequence[PartKey | None],
    rows: Sequence[Picture],
) -> list[list[int]]:
    """Return groups of pictures that differ only by noise, but have different labels.

    Pairs whose names both state a part are left out. Of exact copies only the first is in a group.

    Args:
        pairs: Pairs of pictures that differ only by noise.
        labels: Label of the part that each picture shows.
        named_parts: Part that each picture's name states.
        rows: Rows of the pictures.
    """
    unsure_pairs = []
    for i, j, correlation in pairs:
        has_unnamed = named_parts[i] is None or named_parts[j] is None
        if labels[i] != labels[j] and has_unnamed:
            unsure_pairs.append((i, j, correlation))
    return [_without_exact(group, rows) for group in clusters(unsure_pairs)]


def _among(groups: Sequence[Sequence[int]], new_count: int) -> list[list[int]]:
    """Return the groups with only their new pictures; groups with fewer than two of these are left out.

    Args:
        groups: Groups of numbers of new and then earlier pictures.
        new_count: Number of the new pictures.
    """
    new_groups = [[k for k in group if k < new_count] for group in groups]
    return [group for group in new_groups if len(group) > 1]


# ---------------------------------------------------------------------------------------------------- remarks


def _describe_alike(groups: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Describe groups of pictures that are nearly the same, with two names as an example."""
    example = join_names([names[k] for k in groups[0][:2]])
    count = pluralize(sum(map(len, groups)), "picture")
    return f"{count} are nearly the same as others, such as {example}"


def _apart_remarks(apart: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[str]:
    """Yield a remark on groups of near-duplicates whose names state different parts."""
    if apart:
        alike = _describe_alike(apart, names)
        line = f"{alike}, although their names tell different parts: correct the pattern"
        yield data_checks.OTHER_PARTS_BY_NAME.coded(line)


def _unsure_remarks(
    unsure: Sequence[Sequence[int]], labels: Sequence[int], names: Sequence[str]
) -> Iterator[str]:
    """Yield a remark on unsure groups.

    Args:
        unsure: Groups of pictures that differ only by noise.
        labels: Label of the part that each new picture shows.
        names: Names of all pictures.
    """
    if not unsure:
        return
    part_count = len({*labels})
    new_groups = [[k for k in group if k < len(labels)] for group in unsure]
    # number of parts if each group shows one part
    joined_count = len({*_join(labels, [group for group in new_groups if group])})
    limit = "nothing" if joined_count == 1 else f"no rate below {1 / (joined_count + 1):.1%}"
    yield data_checks.UNSURE_DUPLICATES.coded(
        f"unsure: {_describe_alike(unsure, names)} but for noise: alike parts, or one part again? Counted as "
        f"{pluralize(part_count, 'part')}; if they show the same part there "
        f"{'is' if joined_count == 1 else 'are'} {joined_count}, and {limit} can be promised: take them out "
        "then (`data check --out PAGE.html` shows the pairs), or tell parts by names (--group)"
    )


def _near_duplicate_remarks(
    near_duplicates: Sequence[Sequence[int]], labels: Sequence[int], names: Sequence[str]
) -> Iterator[str]:
    """Yield a remark on near-duplicates.

    Args:
        near_duplicates: Groups of new pictures that are nearly the same.
        labels: Label of the part that each new picture shows.
        names: Names of all pictures.
    """
    if near_duplicates:
        yield data_checks.NEAR_DUPLICATES.coded(
            f"near-duplicates: {_describe_alike(near_duplicates, names)}: one part photographed again? "
            f"Counted as {pluralize(len({*labels}), 'part')}; if each shows another part: --group '.*'"
        )


def _unknown_remarks(new: Sequence[Picture], earlier: Sequence[Picture]) -> Iterator[str]:
    """Yield a remark where new pictures cannot be compared with all known pictures."""
    missing_count = sum(row.look is None for row in earlier)
    if missing_count and any(row.look is not None for row in new):
        yield data_checks.NO_LOOKS.coded(
            f"the model keeps no looks of {missing_count} of the {pluralize(len(earlier), 'picture')} that "
            "it knows: copies of them that were saved anew are not known again, so give none"
        )


def _without_exact(numbers: Sequence[int], rows: Sequence[Picture]) -> list[int]:
    """Leave out of `numbers` the exact copies of pictures before them, which are reported elsewhere."""
    number_by_look: dict[object, int] = {}
    for number in numbers:
        look = rows[number].look
        key = number if look is None else (look.thumbnail.tobytes(), look.noise)
        number_by_look.setdefault(key, number)
    return [*number_by_look.values()]
