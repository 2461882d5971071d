"""`fit --category all|objects|textures|a,b`: one model for each category, in one folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flawscope.cli import common, fit
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods import registry
from flawscope.progress import Step, duration, silent

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest


class Done(NamedTuple):
    """What became of a category; `failed`: why there is no model."""

    category: str
    model: str = ""
    pictures: str = ""
    threshold: str = ""
    alarms: str = ""
    time: str = ""
    failed: str = ""


def run(args: argparse.Namespace) -> int:
    """Fit them one after the other. One that fails is reported and does not stop the others; the exit code is
    1 then. With `--resume`, models that are there already are kept."""
    from flawscope.datasets.categories import present_categories

    names = present_categories(args.data, args.category, "--category")
    say = common.say_for(args)
    _check_folder(args)
    calls = [_call(args, name) for name in names]
    for call in calls:
        fit.checked(call)
    common.folder_for_results(args.out)
    say(f"{len(names)} models, in {args.out}: {', '.join(names)}")
    done: list[Done] = []
    failures: list[str] = []
    try:
        for call in calls:
            done.append(_one(call, say, failures))
    except KeyboardInterrupt as error:
        text = str(error) or f"interrupted during {names[len(done)]}; go on with --resume"
        raise KeyboardInterrupt(f"{len(done)} of {len(names)} models done; {text}") from None
    header = ("category", "model", "pictures", "score threshold", "false alarms expected", "time")
    say(common.table([one[:-1] for one in done], header))
    code = common.report_failures(failures)
    return 1 if any(one.failed for one in done) else code


def _check_folder(args: argparse.Namespace) -> None:
    if args.update:
        raise InputError("--update adds to one model: name one --category")
    if args.out.endswith(".safetensors"):
        raise InputError(
            f"--category {args.category} makes several models: give --out a folder instead of {args.out}; "
            "it gets CATEGORY.safetensors"
        )


def _call(args: argparse.Namespace, category: str) -> argparse.Namespace:
    """The call for this category alone."""
    out = str(Path(args.out) / f"{category}.safetensors")
    board = args.tensorboard and str(Path(args.tensorboard) / category)
    return argparse.Namespace(**{**vars(args), "category": category, "out": out, "tensorboard": board})


def _one(call: argparse.Namespace, say: fit.Say, failures: list[str]) -> Done:
    """Fit one category, and say in a line what became of it."""
    from flawscope.predictor import read_manifest

    began, name = time.monotonic(), call.category
    try:
        if call.resume and Path(call.out).is_file():
            say(f"{name}: kept, it is there already")
            return _described(call, read_manifest(call.out))
        predictor = fit.learnt(_resuming(call), lambda line: None, _step(call))
    except FlawscopeError as error:
        reason = " ".join(str(error).split())
    except MemoryError:
        reason = "not enough memory: choose a smaller --size"
    except Exception as error:
        if call.debug:
            raise
        reason = (
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}; --debug shows where"
        )
    else:
        failures += predictor.failures
        found = _described(call, predictor.manifest)._replace(time=duration(time.monotonic() - began))
        calibration = predictor.calibration
        say(f"{name}: {found.pictures} pictures in {found.time}; {calibration.promise()}")
        for note in predictor.manifest.notes:
            say(f"  {note}")
        return found
    common.say(f"{name}: failed: {reason}")
    return Done(name, "failed", time=duration(time.monotonic() - began), failed=reason)


def _resuming(call: argparse.Namespace) -> argparse.Namespace:
    """--resume is for methods that learn in steps; for others a category is the step."""
    learns = registry.method(fit.method_of(call)).learns_in_steps
    return argparse.Namespace(**{**vars(call), "resume": call.resume and learns})


def _step(call: argparse.Namespace) -> Step:
    """Progress on a terminal; elsewhere the line of each category is enough."""
    return common.step_for(call) if sys.stderr.isatty() else silent


def _described(call: argparse.Namespace, manifest: Manifest) -> Done:
    calibration = manifest.calibration
    return Done(
        call.category,
        Path(call.out).name,
        str(len(manifest.pictures)),
        f"{calibration.score_threshold:.4g}",
        f"{calibration.expected_rate:.1%}" if calibration.promised else "no promise",
    )
