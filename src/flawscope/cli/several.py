"""`--category all|objects|textures|a,b`: one category after the other. One that fails is reported and does
not stop the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from flawscope.cli import common
from flawscope.errors import FlawscopeError, InputError, one_line, with_kind

SEVERAL = "; all, objects, textures (MVTec AD's) or names with commas: "  # of `--category`'s help


def are_asked(args: argparse.Namespace) -> bool:
    """Tell whether `--category` means more than the category of that name."""
    from flawscope.datasets.layouts import means_several

    return bool(args.category) and means_several(args.data, args.category)


def asked(args: argparse.Namespace) -> tuple[str, ...]:
    """The categories that `--category` means, in the order of the tables. InputError if one is missing."""
    from flawscope.datasets.layouts import present_categories

    return present_categories(args.data, args.category, "--category")


def check_out(args: argparse.Namespace, files: str) -> None:
    """InputError where `--out`, the folder of CATEGORY.safetensors, is a file's name."""
    if args.out.endswith(".safetensors"):
        raise InputError(
            f"--category {args.category} makes several {files}: give --out a folder instead of {args.out}; "
            "it gets CATEGORY.safetensors"
        )


def each(names: Sequence[str], work: Callable[[str], int], *, debug: bool) -> tuple[int, dict[str, str]]:
    """Call `work` with each name: the highest exit code that it returned, 1 where it failed, and by name why
    it failed."""
    codes, failed = [], {}
    for name in names:
        try:
            codes.append(work(name))
        except Exception as error:
            failed[name] = reason_of(error, debug=debug)
            common.say(f"{name}: failed: {failed[name]}")
            codes.append(1)
    return max(codes), failed


def reason_of(error: Exception, *, debug: bool) -> str:
    """Why a category failed, in one line. With `debug` an error that nobody foresaw is raised."""
    if isinstance(error, FlawscopeError):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory: choose a smaller --size"
    if debug:
        raise error
    return f"unexpected {with_kind(error)}; --debug shows where"
