"""Learn what good parts look like, and write the model file."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.cli import common, fit_one, fit_options, fit_several, questions, router
from flawscope.cluster import connect
from flawscope.errors import InputError, data_checks, pluralize
from flawscope.methods import registry
from flawscope.progress import Detail, Plan

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.predictor import Predictor


MAX_SUSPECTS = 20  # that are listed
add_arguments = fit_options.add_arguments


def run(args: argparse.Namespace) -> int:
    """Fit the model, or models, that a call asks for, and write them; return the exit code."""
    args = _read_call(args)
    if args.force and questions.accept(args.out, args.call_digest):
        return _report_accepted(args)
    args.each_view = router.wants_each_view(args)
    if args.joint or args.each_view or _updates_joint_model(args):
        return router.fit(args)
    if common.asks_several(args):
        return fit_several.run(args)
    return _fit_one(args)


def _read_call(args: argparse.Namespace) -> argparse.Namespace:
    """Return the call with the options of its file. InputError where options do not go together."""
    args = fit_options.with_call_of_file(args)
    args = fit_options.with_file(args, _category_of_file(args))
    if args.cluster is not None:
        connect.check_address(args.cluster)
    if args.evaluate and (args.joint or args.each_view or common.asks_several(args)):
        raise InputError("--evaluate measures one model: call `flawscope evaluate` for several")
    if args.json and not args.evaluate:
        raise InputError("--json prints what --evaluate measures: add --evaluate")
    args.call_digest = questions.digest_call(args)
    args.has_test = True
    return args


def _category_of_file(args: argparse.Namespace) -> str | None:
    """The category whose options of `--config` hold for the whole call; None: those for all do."""
    if args.joint or common.asks_several(args):
        return None
    if args.category or not args.config:
        return args.category or None
    return fit_one.only_category(args.data)


def _report_accepted(args: argparse.Namespace) -> int:
    """Evaluate a model whose questions were accepted, where `--evaluate` asks for it."""
    from flawscope.predictor import Predictor

    failures = _evaluate(args, Predictor.opened(args.out)) if args.evaluate else []
    return common.report_failures(failures)


def _updates_joint_model(args: argparse.Namespace) -> bool:
    from flawscope.predictor.router import is_router

    return bool(args.update) and os.path.isfile(args.update) and is_router(args.update)


def _fit_one(args: argparse.Namespace) -> int:
    """Fit one model, say what it is and how to go on, and evaluate it where the call asks for it."""
    from flawscope.artefact import files

    files.check_writable(args.out, ".safetensors")
    say = common.say_unless_quiet(args)

    def tell(line: str) -> None:
        if args.verbose or not isinstance(line, Detail):
            say(line)

    if args.cluster is None:
        predictor = fit_one.fit_and_save(args, tell, common.progress_for(args, _plan(args)))
    else:
        predictor = fit_several.fit_in_task(args, tell)
    out = questions.written(args.out, args.update)
    _say_fitted(args, predictor, out)
    failures = list(predictor.failures)
    if args.evaluate:
        failures += _evaluate(args, predictor)
    return common.report_failures(failures) or questions.report(out, args.update)


def _plan(args: argparse.Namespace) -> Plan | None:
    """Stages of a fit of PatchCore; None: a search, another method or several views have others."""
    if args.auto is not None or args.part is not None or args.method not in (None, "patchcore"):
        return None
    return common.UPDATE if args.update else common.FIT


def _say_fitted(args: argparse.Namespace, predictor: Predictor, out: Path) -> None:
    """Print the model's promised rate, its file and the next steps."""
    from flawscope.evaluation.next_steps import advise_blind
    from flawscope.results.advice import advice

    say = common.say_unless_quiet(args)
    manifest = predictor.manifest
    is_update = args.update is not None
    for line in summary(predictor, args.verbose, updated=is_update):
        say(line)
    seconds = manifest.facts.get("seconds_view")
    speed = "" if seconds is None else f", {seconds:.2g} s a view here"
    size = f"{out.stat().st_size / 2**20:.1f} MiB"
    say(f"wrote {out} ({size}{speed}); `flawscope info {out} --verbose` says the rest")
    few = advice(
        rate=predictor.calibration.rate,
        missing=lacking(manifest, is_update),
        learnt=learnt_by_default(args, manifest),
    )
    for step in [*advise_blind(manifest), *few]:
        say(common.next_step(step))
    for line in next_steps(args, out):
        say(line)


def _evaluate(args: argparse.Namespace, predictor: Predictor) -> list[str]:
    """Evaluate the model, and print the result as `flawscope evaluate` does; return the failures."""
    from flawscope.cli.evaluate import format_evaluation
    from flawscope.datasets import open_dataset
    from flawscope.evaluation.evaluation import evaluate

    seed, group = common.seed_and_group(predictor.manifest)
    dataset = open_dataset(args.data, args.category, seed=seed, group=group, good=args.good)
    result = evaluate(predictor, dataset, step=common.progress_for(args))
    common.show_document(args, result.to_dict(), lambda: format_evaluation(result))
    return list(result.failures)


def summary(predictor: Predictor, verbose: bool = False, updated: bool = False) -> list[str]:
    """Return lines on a fit: the promised rate, simulated defects, and what stands out.

    Args:
        predictor: The fitted model.
        verbose: Whether to say also what the rate comes from, which `info` says, too.
        updated: Whether the model was updated: what it finds was reported before.
    """
    from flawscope.artefact.detection import describe_found
    from flawscope.artefact.rates import promise_of

    manifest = predictor.manifest
    promise = promise_of(manifest)
    calibration = manifest.calibration
    short = not verbose and not promise.by_part
    # what the rate lacks stands among the next steps
    brief = calibration.describe_rate() if calibration.promised else calibration.brief()
    lines = [brief if short else promise.text]
    if not updated:
        lines += describe_found(manifest)
    lines += describe_suspects(manifest)
    return lines


def describe_suspects(manifest: Manifest) -> list[str]:
    """Lines on the good pictures that deserve a look, each once, with one reason."""
    from flawscope.calibration.outliers import HIGH, WORDS

    suspects = manifest.suspects
    if not suspects:
        return []
    dropped = {row.name for row in manifest.pictures if row.role == "dropped"}
    count = pluralize(len(suspects), "picture")
    head = data_checks.SUSPECTS.coded(f"look whether these are good ({count})")
    lines = [f"{head}, most suspicious first:"]
    lines += [
        f"  {suspect.line()}{', left out' * (suspect.name in dropped)}" for suspect in suspects[:MAX_SUSPECTS]
    ]
    if len(suspects) > MAX_SUSPECTS:
        lines.append(f"  and {len(suspects) - MAX_SUSPECTS} more")
    if any(suspect.reason == HIGH and suspect.name not in dropped for suspect in suspects):
        lines.append(f"--drop-suspects leaves out what {WORDS[HIGH]}")
    return lines


def lacking(manifest: Manifest, updated: bool) -> str:
    """Words how much more the requested rate needs; empty: nothing.

    Args:
        manifest: Of the fitted model.
        updated: Whether the model was updated: its new pictures count only where they are a fair sample.
    """
    from flawscope.artefact.rates import promise_of

    missing = promise_of(manifest).describe_missing()
    return f"{missing} that nobody chose, by --update and --fair" if missing and updated else missing


def learnt_by_default(args: argparse.Namespace, manifest: Manifest) -> int:
    """Return how many good pictures a method learnt from by default, where they are few; else 0.

    They are few where the method has a preset `accurate` that is worth its time with so many. After an
    update, and where the call chose another preset, it is 0, too.
    """
    plain = args.update is None and args.preset in (None, "default")
    count = sum(picture.role == "train" for picture in manifest.pictures)
    return count if plain and registry.wants_accurate(manifest.method, count) else 0


def next_steps(args: argparse.Namespace, out: Path) -> list[str]:
    """Lines with the commands that come next."""
    which = ["--category", args.category] if args.category else []
    which += ["--good", args.good] if args.good else []
    tested = [args.data, *which] if args.has_test else ["GOOD_AND_BAD"]  # good ones alone test nothing
    why = "shows what was measured, with pictures" if args.evaluate else "measures on good and bad ones"
    steps = (
        (["predict", out, "NEW_PICTURES", "--out", "found"], "judges pictures"),
        (["evaluate", out, "--data", *tested, "--out", "results"], why),
        (
            ["export", out, "--out", out.with_suffix(".onnx")],
            "makes a copy for computers that only judge: less to install",
        ),
    )
    return ["go on with:", *(f"  flawscope {shlex.join(map(str, words))}   {what}" for words, what in steps)]
