"""Which categories of a folder are meant: names with commas, all of them, or MVTec AD's groups."""

from __future__ import annotations

import os

from flawscope.datasets.layouts import find_categories
from flawscope.errors import InputError, nearest

# MVTec AD's categories in the usual order
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
MVTEC = TEXTURES + OBJECTS
GROUPS = {"textures": TEXTURES, "objects": OBJECTS}
ALL = "all"


def select_categories(
    root: str | os.PathLike[str], text: str, option: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Categories in the order of the tables, and which of them are not in `root`.

    Args:
        text: `all`, or names with commas, among which `textures` and `objects` mean MVTec AD's.
        option: that gave it, for the error.

    Raises:
        InputError: there are no categories, or none of these.
    """
    words = listed(text, option, "name some, or leave it out for all")
    found = find_categories(root)
    if not found:
        raise InputError(
            f"{root}: no category to work with: give a folder of categories with train/good and test/KIND, "
            "or one such category"
        )
    asked: set[str] = set()
    for word in words:
        if word == ALL:
            asked |= {*found}
        else:
            asked |= {*GROUPS.get(word, (word,))}
    order = {name: k for k, name in enumerate(dict.fromkeys([*MVTEC, *found]))}
    rows = tuple(sorted(asked, key=lambda name: order.get(name, len(order))))
    missing = tuple(row for row in rows if row not in found)
    if len(missing) == len(rows):
        raise _none_of(root, words[0], f"none of {option} {text} is there", found)
    return rows, missing


def present_categories(root: str | os.PathLike[str], text: str, option: str) -> tuple[str, ...]:
    """The categories that are there; every one that is named must be.

    Raises:
        InputError: as `select_categories`, or one that is named is not there.
    """
    rows, missing = select_categories(root, text, option)
    words = listed(text, option, "name some")
    for word in words:
        if word in missing:
            raise _none_of(root, word, f"no category {word}", find_categories(root))
    return tuple(row for row in rows if row not in missing)


def means_several(root: str | os.PathLike[str], text: str) -> bool:
    """Whether a category that is asked for means more than the one of that name."""
    if "," not in text and text != ALL and text not in GROUPS:
        return False
    return text not in find_categories(root)


def listed(text: str, option: str, remedy: str) -> tuple[str, ...]:
    """The words between commas, each once. InputError, with the remedy, where there is none."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{option} is empty: {remedy}")
    return words


def _none_of(root: str | os.PathLike[str], word: str, what: str, found: list[str]) -> InputError:
    return InputError(f"{root}: {what}; {nearest(word, found)}")
