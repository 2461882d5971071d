"""The files of a call: what `predict` judges (files, folders, patterns, or paths and a picture on stdin), and
what a person should know about those that are not taken, or not all of them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flawscope.progress import counted, some

if TYPE_CHECKING:
    from flawscope.datasets import Dataset
    from flawscope.pictures.decoding import Source
    from flawscope.results.table import Unjudged

PIPED = "-"  # the name of a picture on stdin


@dataclass
class Asked:
    """The inputs that a call wants judged.

    sources: files, or one picture itself. total: how many; 0 where they come one by one.
    wrong: specs that mean nothing, by the number of sources before them. beside: files that are no pictures.
    several: files that turned out to hold more than the one picture that is judged.
    """

    sources: Iterable[Source]
    total: int = 0
    wrong: dict[int, list[Unjudged]] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    several: list[str] = field(default_factory=list)


def asked_inputs(specs: list[str]) -> Asked:
    """InputError if nothing is meant."""
    from flawscope.datasets.files import list_inputs
    from flawscope.errors import InputError
    from flawscope.results.table import Unjudged

    if specs == [PIPED]:
        return _piped(sys.stdin.buffer)
    if PIPED in specs:
        raise InputError("- stands alone: leave out the other pictures, or -; a file of this name is ./-")
    found: dict[Path, None] = {}  # each once
    asked = Asked(found)
    for spec in specs:
        try:
            inputs, beside = list_inputs(spec)
        except InputError as error:
            asked.wrong.setdefault(len(found), []).append(Unjudged(spec, str(error)))
        else:
            found |= dict.fromkeys(inputs)
            asked.beside += beside
    if not found:
        raise InputError(asked.wrong[0][0].error)
    asked.total = len(found)
    return asked


def _piped(stream: IO[bytes]) -> Asked:
    """A picture, or a path a line."""
    from flawscope.errors import InputError
    from flawscope.pictures.decoding import is_encoded

    head = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    if b"\0" not in head:
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in stream)
        return Asked(Path(line) for line in lines if line.strip())
    if not is_encoded(head):
        raise InputError("what comes on stdin is neither a picture that can be read nor a list of paths")
    return Asked([stream.read()], 1)


def on_training(dataset: Dataset, group: str | None) -> Iterator[str]:
    """Remarks on the training pictures, before anything is read. InputError: `group` matches no name."""
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
