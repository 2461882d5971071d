"""What a person should know about the files of a call: which of them are not taken, or not all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.progress import counted, some

if TYPE_CHECKING:
    from flawscope.datasets import Dataset


def on_training(dataset: Dataset, group: str | None) -> Iterator[str]:
    """On what is learnt from, before anything is read. InputError: `group` matches no name."""
    from flawscope.datasets.dataset import remark
    from flawscope.datasets.files import SIDE_SUFFIXES, not_pictures_in
    from flawscope.pictures.decoding import frames

    paths = [item.path for item in (*dataset.train, *dataset.validation)]
    if not paths:
        return
    if found := remark(paths, group):
        yield found
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    others = not_pictures_in(folder)
    unread = [
        path.relative_to(folder).as_posix() for path in others if path.suffix.lower() not in SIDE_SUFFIXES
    ]
    beside = [path.relative_to(folder).as_posix() for path in others if path.suffix.lower() in SIDE_SUFFIXES]
    if unread:
        yield f"not learnt from: {counted(len(unread), 'file')} of formats that are not read: {some(unread)}"
    several = [(path.relative_to(folder).as_posix(), count) for path in paths if (count := frames(path)) > 1]
    yield from on_files([f"{name} ({count})" for name, count in several], beside)


def on_files(several: Sequence[str], beside: Sequence[str]) -> Iterator[str]:
    """several: files with more than one picture, and how many. beside: files that show nothing."""
    if several:
        files = counted(len(several), "file")
        yield f"{files} with several pictures; the first of each is taken: {some(several)}"
    if beside:
        yield f"{counted(len(beside), 'file')} beside the pictures not looked at: {some(beside)}"
