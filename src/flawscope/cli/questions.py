"""Open questions of model files, and the model that is written with them.

A question waits for a person while the computed model is written with it. Every command that uses the file
reports its questions first. The same call with `--force` accepts them without computing again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common
from flawscope.errors import InputError
from flawscope.methods.options import FIT_OPTIONS

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.predictor import Predictor
    from flawscope.predictor.router import Router
    from flawscope.types import Json

# arguments that change nothing in what is computed
OTHER = (*(option.name for option in FIT_OPTIONS if not option.computes), "typed", "filed")
WRITTEN = ("out",)  # arguments that name what is written
# Arguments that name files or folders which are read. A pattern of names or a device is none.
PATHS = (*(option.name for option in FIT_OPTIONS if option.names_files), "model", "pictures")
EXIT_CODE = 2
REMEDY = (
    "take out what is not good and begin anew, or give the same call with --force, which accepts it and "
    "computes nothing"
)


def digest_call(args: argparse.Namespace) -> str:
    """Return the digest of a call: its arguments, and names, sizes and times of the files that these name.

    Files that the call writes itself do not count.
    """
    given = {name: value for name, value in vars(args).items() if name not in OTHER}
    text = json.dumps([given, _files_of_call(given)], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of_call(given: Json) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that arguments name, or that lie in folders which they name."""
    roots = {given[name] for name in PATHS if isinstance(given.get(name), str)}
    paths = set[str]()
    for root in roots:
        for found in glob(root) or [root]:
            paths.update(_files(found))
    call_paths = _own_paths(given)
    files = []
    for path in sorted(paths):
        is_own = any(Path(os.path.abspath(path)).is_relative_to(folder) for folder in call_paths)
        if is_own and path not in roots:  # it only lies in a folder that is read
            continue
        with suppress(OSError):
            facts = os.stat(path)
            files.append((path, facts.st_size, facts.st_mtime_ns))
    return files


def _own_paths(given: Json) -> list[str]:
    """Paths that a call writes itself."""
    paths = [os.path.abspath(given[name]) for name in WRITTEN if given.get(name)]
    beside = [str(_beside(path)) for path in paths]
    return paths + beside


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


def save(
    model: Predictor | Router, path: str | os.PathLike[str], call: str, source: str | None = None
) -> None:
    """Write a model, with the digest of the call where a question is open.

    Args:
        model: Model to write.
        path: File to write.
        call: Digest of the call (`digest_call`).
        source: Model file that this one was made from. A model with a question does not replace it and is
            written beside it (`written`).
    """
    from flawscope.artefact.model_file import ASKED_CALL

    asked = any(product.questions for product in model.products.values())
    for name, product in model.products.items():
        if product.questions:
            product.manifest.facts[ASKED_CALL] = call
            model = model.with_product(name, product)
    model.save(_beside(path) if asked and _same_file(path, source) else path)


def written(path: str | os.PathLike[str], source: str | None) -> Path:
    """The file that `save` wrote."""
    beside = _beside(path)
    return beside if _same_file(path, source) and beside.is_file() else Path(path)


def _beside(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_stem(f"{Path(path).stem}-open")


def _same_file(path: str | os.PathLike[str], source: str | None) -> bool:
    return source is not None and os.path.exists(path) and Path(path).samefile(source)


def accept(path: str | os.PathLike[str], call: str) -> bool:
    """Accept the model that the same call wrote with an open question; False: there is none."""
    from flawscope.artefact.model_file import ASKED_CALL
    from flawscope.predictor.router import accept_questions, load

    for file in (Path(path), _beside(path)):
        asked = {
            manifest.facts.get(ASKED_CALL) for manifest in _manifests(file).values() if manifest.questions
        }
        if asked != {call}:
            continue
        accept_questions(load(file, device="cpu"))[0].save(path)
        if file != Path(path):
            file.unlink()
        common.say(f"accepted: {path}, as it was computed before")
        return True
    return False


def new_questions(path: str | os.PathLike[str], source: str | None) -> list[str]:
    """Return the open questions of a model file that are not in the file which it was made from."""
    known = [] if source is None else open_questions(source)
    return [line for line in open_questions(path) if line not in known]


def report(path: str | os.PathLike[str], source: str | None = None) -> int:
    """Say that a model was written with open questions, and return the exit code.

    Args:
        path: The written model file.
        source: Model file that it was made from (`save`); None: it was fitted.
    """
    lines = new_questions(path, source)
    for line in lines:
        common.say(f"question: {line}")
    if lines:
        common.say(f"{path} is written, with an open question: {REMEDY}")
    return EXIT_CODE if lines else 0


def open_questions(path: str | os.PathLike[str]) -> list[str]:
    """Open questions of a model file, with the product's name where there are several."""
    return [
        f"{name}: {line}" if name else line
        for name, manifest in _manifests(path).items()
        for line in manifest.questions
    ]


def tell_questions(args: argparse.Namespace) -> None:
    """Print a line for each model of a call that has an open question."""
    given = [getattr(args, name, None) for name in ("model", "models", "update")]
    paths = [path for source in given for path in (source if isinstance(source, list) else [source])]
    for path in paths:
        if not isinstance(path, str) or not Path(path).is_file():
            continue
        if lines := open_questions(path):
            common.say(f"{path} has an open question: {'; '.join(lines)}")


def _manifests(path: str | os.PathLike[str]) -> Mapping[str, Manifest]:
    """Return the manifests of a model file's products; none for another file, which the command reports."""
    from flawscope.predictor.router import read_facts

    try:
        return read_facts(path).manifests
    except (InputError, OSError):
        return {}
