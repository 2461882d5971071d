"""The inputs that a call of `predict` names: files, folders, patterns, or paths and a picture on stdin."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.pictures.decoding import Source
    from flawscope.results.table import Unjudged

PIPED = "-"  # the name of a picture on stdin


@dataclass
class Asked:
    """What the call wants judged.

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
