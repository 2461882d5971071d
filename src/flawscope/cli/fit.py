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


MAX_LISTED_SUSPECTS = 20
add_arguments = fit_options.add_arguments


def run(args: argparse.Namespace) -> int:
    """Fit the model, or models, that a call asks for, and write them; return the exit code."""
    args = _read_call(args)
    # with --force, the model that this call wrote with an open question is accepted, and nothing is fitted
    if args.force and questions.accept(args.out, args.call_digest):
        return _report_accepted(args)
    args.each_view = router.decide_each_view(args)
    if args.joint or args.each_view or _updates_joint_model(args):
        return router.fit(args)
    if common.has_several_categories(args):
        return fit_several.run(args)
    return _fit_one(args)


def _read_call(args: argparse.Namespace) -> argparse.Namespace:
    """Return the call with the options of `--config` and the arguments `call_digest` and `has_test` added.

    Raises:
        InputError: Options do not go together, or an option of the file is wrong.
    """
    call = fit_options.with_call_of_file(args)
    call = fit_options.with_file(call, _category_of_file(call))
    if call.cluster is not None:
        connect.check_address(call.cluster)
    if call.evaluate and (call.joint or call.each_view or common.has_several_categories(call)):
        raise InputError("--evaluate measures one model: call `flawscope evaluate` for several")
    if call.json and not call.evaluate:
        raise InputError("--json prints what --evaluate measures: add --evaluate")
    call.call_digest = questions.digest_call(call)
    call.has_test = True  # a fit sets it to False where the data have no test pictures
    return call


def _category_of_file(args: argparse.Namespace) -> str | None:
    """Return the category whose section of `--config` is read for the whole call.

    The result is None if only the options for all categories are read.
    """
    if args.joint or common.has_several_categories(args):
        return None
    if args.category:
        return str(args.category)
    return fit_one.only_category(args.data) if args.config else None


def _report_accepted(args: argparse.Namespace) -> int:
    """Evaluate a model whose questions were accepted, if `--evaluate` asks for it; return the exit code."""
    from flawscope.predictor import Predictor

    failures = _evaluate(args, Predictor.opened(args.out)) if args.evaluate else []
    return common.report_failures(failures)


def _updates_joint_model(args: argparse.Namespace) -> bool:
    from flawscope.predictor.router import is_router

    return bool(args.update) and os.path.isfile(args.update) and is_router(args.update)


def _fit_one(args: argparse.Namespace) -> int:
    """Fit one model, print its facts and the next steps, and evaluate it if `--evaluate` asks for it."""
    from flawscope.artefact import files

    files.check_writable(args.out, ".safetensors")
    say = common.say_unless_quiet(args)

    def say_without_details(line: str) -> None:
        if args.verbose or not isinstance(line, Detail):
            say(line)

    if args.cluster is None:
        step = common.progress_for(args, _plan(args))
        predictor = fit_one.fit_and_save(args, say_without_details, step)
    else:
        predictor = fit_several.fit_in_task(args, say_without_details)
    out = questions.saved_path(args.out, args.update)
    _say_fitted(args, predictor, out)
    failures = list(predictor.failures)
    if args.evaluate:
        failures += _evaluate(args, predictor)
    return common.report_failures(failures) or questions.report(out, args.update)


def _plan(args: argparse.Namespace) -> Plan | None:
    """Return the stages of a fit; None for a search, several views, or a method other than PatchCore."""
    if args.auto is not None or args.part is not None or args.method not in (None, "patchcore"):
        return None
    return common.UPDATE if args.update else common.FIT


def _say_fitted(args: argparse.Namespace, predictor: Predictor, out: Path) -> None:
    """Print the model's expected false-alarm rate, its file and the next steps."""
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
    advice_on_few_pictures = advice(
        rate=predictor.calibration.rate,
        missing=lacking(manifest, is_update),
        learnt=learnt_by_default(args, manifest),
    )
    for advised_step in [*advise_blind(manifest), *advice_on_few_pictures]:
        say(common.format_advice(advised_step))
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
    """Return lines on a fit: the expected rate, simulated defects, and suspicious pictures.

    Args:
        predictor: The fitted model.
        verbose: Whether to give the long text on the rate, which also says how the rate was measured.
        updated: Whether the model was updated; then the line on simulated defects is left out, because the
            fit has reported it.
    """
    from flawscope.artefact.detection import describe_found
    from flawscope.artefact.rates import promise_of

    manifest = predictor.manifest
    promise = promise_of(manifest)
    calibration = manifest.calibration
    if verbose or promise.by_part:
        lines = [promise.text]
    elif calibration.promised:
        lines = [calibration.describe_rate()]  # the next steps say which pictures the rate lacks
    else:
        lines = [calibration.brief()]
    if not updated:
        lines += describe_found(manifest)
    lines += describe_suspects(manifest)
    return lines


def describe_suspects(manifest: Manifest) -> list[str]:
    """Return lines on suspicious good pictures, each with the reason; [] if there are none."""
    from flawscope.calibration.outliers import HIGH, WORDS

    suspects = manifest.suspects
    if not suspects:
        return []
    dropped_names = {picture.name for picture in manifest.pictures if picture.role == "dropped"}
    count = pluralize(len(suspects), "picture")
    heading = data_checks.SUSPECTS.coded(f"look whether these are good ({count})")
    lines = [f"{heading}, most suspicious first:"]
    for suspect in suspects[:MAX_LISTED_SUSPECTS]:
        left_out = ", left out" if suspect.name in dropped_names else ""
        lines.append(f"  {suspect.line()}{left_out}")
    if len(suspects) > MAX_LISTED_SUSPECTS:
        lines.append(f"  and {len(suspects) - MAX_LISTED_SUSPECTS} more")
    kept_suspects = [suspect for suspect in suspects if suspect.name not in dropped_names]
    if any(suspect.reason == HIGH for suspect in kept_suspects):
        lines.append(f"--drop-suspects leaves out what {WORDS[HIGH]}")
    return lines


def lacking(manifest: Manifest, updated: bool) -> str:
    """Return the text on the good pictures that the requested rate needs and the model lacks; "" for none.

    Args:
        manifest: Manifest of the fitted model.
        updated: Whether the model was updated; then further pictures count only if they are a fair sample.
    """
    from flawscope.artefact.rates import promise_of

    missing = promise_of(manifest).describe_missing()
    if missing and updated:
        return f"{missing} that nobody chose, by --update and --fair"
    return missing


def learnt_by_default(args: argparse.Namespace, manifest: Manifest) -> int:
    """Return the number of training pictures if they are so few that `accurate` is worth its time, else 0.

    The result is also 0 after an update, and if the call chose a preset.
    """
    if args.update is not None or args.preset not in (None, "default"):
        return 0
    count = sum(picture.role == "train" for picture in manifest.pictures)
    return count if registry.wants_accurate(manifest.method, count) else 0


def next_steps(args: argparse.Namespace, out: Path) -> list[str]:
    """Return lines with commands that use the model in the file `out`."""
    if args.has_test:
        data = [args.data]
        if args.category:
            data += ["--category", args.category]
        if args.good:
            data += ["--good", args.good]
    else:
        data = ["GOOD_AND_BAD"]  # the pictures of the fit are all good, and would measure no misses
    predict = ["predict", out, "NEW_PICTURES", "--out", "found"]
    evaluate = ["evaluate", out, "--data", *data, "--out", "results"]
    export = ["export", out, "--out", out.with_suffix(".onnx")]
    evaluate_use = (
        "shows what was measured, with pictures" if args.evaluate else "measures on good and bad ones"
    )
    lines = ["go on with:"]
    for words, use in (
        (predict, "judges pictures"),
        (evaluate, evaluate_use),
        (export, "makes a copy for computers that only judge: less to install"),
    ):
        lines.append(f"  flawscope {shlex.join(map(str, words))}   {use}")
    return lines
