"""Open questions of model files, and the model that is written with them.

A model with a question is written, and waits for an answer. Every command that uses the file reports
its questions first. The call that wrote the model, given again with `--force`, accepts them and computes
nothing.
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

# Arguments that change nothing in what is computed
UNCOUNTED_ARGUMENTS = (*(option.name for option in FIT_OPTIONS if not option.computes), "typed", "filed")
OUTPUT_ARGUMENTS = ("out",)  # arguments that name files to write
# Arguments that name files or folders to read; a pattern of names, or a device, names no file
INPUT_ARGUMENTS = (*(option.name for option in FIT_OPTIONS if option.names_files), "model", "pictures")
EXIT_CODE = 2
REMEDY = (
    "take out what is not good and begin anew, or give the same call with --force, which accepts it and "
    "computes nothing"
)


def digest_call(args: argparse.Namespace) -> str:
    """Return the digest (hex) of a call, by which the same call is known again.

    The digest is made from the arguments, and from names, sizes and times of the files that they name. Files
    that the call writes itself do not count.
    """
    arguments = {name: value for name, value in vars(args).items() if name not in UNCOUNTED_ARGUMENTS}
    text = json.dumps([arguments, _files_of_call(arguments)], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of_call(arguments: Json) -> list[tuple[str, int, int]]:
    """Return path, size and time (ns) of each file that the arguments name, and of each in a named folder."""
    roots = {arguments[name] for name in INPUT_ARGUMENTS if isinstance(arguments.get(name), str)}
    paths = set[str]()
    for root in roots:
        matching_paths = glob(root)
        for root_path in matching_paths or [root]:
            paths.update(_list_files(root_path))
    output_paths = _output_paths(arguments)
    files = []
    for path in sorted(paths):
        is_output = any(Path(os.path.abspath(path)).is_relative_to(folder) for folder in output_paths)
        if is_output and path not in roots:  # an earlier output that lies in a folder of inputs
            continue
        with suppress(OSError):  # a missing file is reported by the command
            facts = os.stat(path)
            files.append((path, facts.st_size, facts.st_mtime_ns))
    return files


def _output_paths(arguments: Json) -> list[str]:
    """Return the absolute paths of the files and folders that a call may write."""
    paths = [os.path.abspath(arguments[name]) for name in OUTPUT_ARGUMENTS if arguments.get(name)]
    paths_with_question = [str(_path_with_question(path)) for path in paths]
    return paths + paths_with_question


def _list_files(path: str) -> Iterator[str]:
    """Yield a file's path, or the paths of all files in a folder and its subfolders."""
    if not os.path.isdir(path):
        yield path
    for folder, _, names in os.walk(path):  # nothing is yielded for a file
        yield from (os.path.join(folder, name) for name in names)


def save(
    model: Predictor | Router, path: str | os.PathLike[str], call_digest: str, source: str | None = None
) -> None:
    """Write a model; if it has an open question, store the digest of the call in it.

    A model with an open question does not replace its source: if `path` is the `source`, the model is written
    to another file beside this one (`saved_path`).

    Args:
        model: Model to write.
        path: File to write.
        call_digest: Digest of the call (`digest_call`).
        source: Model file that the model was made from; None: it was fitted.
    """
    from flawscope.artefact.model_file import ASKED_CALL

    has_questions = any(product.questions for product in model.products.values())
    model_with_digest = model
    for name, product in model.products.items():
        if product.questions:
            product.manifest.facts[ASKED_CALL] = call_digest
            model_with_digest = model_with_digest.with_product(name, product)
    must_keep_source = has_questions and _is_same_file(path, source)
    model_with_digest.save(_path_with_question(path) if must_keep_source else path)


def saved_path(path: str | os.PathLike[str], source: str | None) -> Path:
    """Return the file that `save` wrote for these arguments."""
    path_with_question = _path_with_question(path)
    if _is_same_file(path, source) and path_with_question.is_file():
        return path_with_question
    return Path(path)


def _path_with_question(path: str | os.PathLike[str]) -> Path:
    """Return the file, NAME-open, for a model with an open question that must not replace NAME."""
    return Path(path).with_stem(f"{Path(path).stem}-open")


def _is_same_file(path: str | os.PathLike[str], source: str | None) -> bool:
    return source is not None and os.path.exists(path) and Path(path).samefile(source)


def accept(path: str | os.PathLike[str], call_digest: str) -> bool:
    """Accept the model that the same call wrote with an open question.

    Args:
        path: Model file that the call names.
        call_digest: Digest of the call (`digest_call`).

    Returns:
        Whether there was such a model.
    """
    from flawscope.artefact.model_file import ASKED_CALL
    from flawscope.predictor.router import accept_questions, load

    for file in (Path(path), _path_with_question(path)):
        # digests of the calls that wrote a question into the file
        asked_calls = {
            manifest.facts.get(ASKED_CALL) for manifest in _manifests(file).values() if manifest.questions
        }
        is_of_this_call = asked_calls == {call_digest}
        if not is_of_this_call:
            continue
        accepted_model, _ = accept_questions(load(file, device="cpu"))
        accepted_model.save(path)
        if file != Path(path):
            file.unlink()
        common.say(f"accepted: {path}, as it was computed before")
        return True
    return False


def new_questions(path: str | os.PathLike[str], source: str | None) -> list[str]:
    """Return the open questions of a model file that `source`, the file it was made from, does not have."""
    source_questions = [] if source is None else open_questions(source)
    return [line for line in open_questions(path) if line not in source_questions]


def report(path: str | os.PathLike[str], source: str | None = None) -> int:
    """Print the open questions of a written model, and return the exit code: `EXIT_CODE` or 0.

    Args:
        path: The written model file.
        source: Model file that the model was made from; None: it was fitted. Questions that `source` has,
            too, are not printed.
    """
    lines = new_questions(path, source)
    for line in lines:
        common.say(f"question: {line}")
    if lines:
        common.say(f"{path} is written, with an open question: {REMEDY}")
    return EXIT_CODE if lines else 0


def open_questions(path: str | os.PathLike[str]) -> list[str]:
    """Return the open questions of a model file; in a joint model, each begins with the product's name."""
    return [
        f"{name}: {line}" if name else line
        for name, manifest in _manifests(path).items()
        for line in manifest.questions
    ]


def say_open_questions(args: argparse.Namespace) -> None:
    """Print a line for each model file of a call that has an open question."""
    paths: list[object] = []
    for name in ("model", "models", "update"):
        value = getattr(args, name, None)
        paths += value if isinstance(value, list) else [value]
    for path in paths:
        if not isinstance(path, str) or not Path(path).is_file():
            continue
        if lines := open_questions(path):
            common.say(f"{path} has an open question: {'; '.join(lines)}")


def _manifests(path: str | os.PathLike[str]) -> Mapping[str, Manifest]:
    """Return the manifests of a model file by product; empty if the file cannot be read."""
    from flawscope.predictor.router import read_facts

    try:
        return read_facts(path).manifests
    except (InputError, OSError):  # the command reports the error
        return {}
