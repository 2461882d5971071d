"""Learn what good parts look like, and write the model file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawscope.cli import common, fit_one, joint, latency
from flawscope.cluster import connect, tasks
from flawscope.errors import FlawscopeError, InputError, join_names, one_line_message, pluralize
from flawscope.methods import registry
from flawscope.progress import JobsProgress, ProgressCallback, format_duration, ignore_progress

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Manifest
    from flawscope.predictor import Predictor

POLL_INTERVAL = 0.5  # seconds between checks of the cluster's tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser, several=f"{common.SEVERAL_HELP}a model for each")
    parser.add_argument(
        "--out",
        required=True,
        metavar="MODEL",
        help="model file to write, .safetensors; for several categories a folder: CATEGORY.safetensors in it",
    )
    parser.add_argument(
        "--joint",
        action="store_true",
        help="one model of all the categories: `predict` recognises which one a picture shows "
        f"({_methods_with('supports_joint')})",
    )
    parser.add_argument(
        "--update", metavar="MODEL", help="add the pictures to this model; settings are its own"
    )
    parser.add_argument("--method", default=None, help=f"{_join_or(registry.names())} (default: patchcore)")
    common.add_settings(
        parser, "default or paper; small: PatchCore, accurate: several members, quick: EfficientAD"
    )
    parser.add_argument(
        "--size", metavar="N|HxW|N+N|auto", help="picture size, or several seen one by one (default: 256+384)"
    )
    parser.add_argument(
        "--tile",
        metavar="N|HxW",
        help="large pictures: look at tiles of so many of their pixels too, each at full resolution",
    )
    parser.add_argument(
        "--overlap", metavar="SHARE|Npx", help="of neighbouring tiles: 0.25, 25%% or 128px (default: 25%%)"
    )
    parser.add_argument(
        "--scale", metavar="S", help="of tiles: so many pixels of the picture become one (default: 1)"
    )
    parser.add_argument(
        "--min-defect",
        metavar="Npx",
        help="the smallest defect that is to be found, in pixels of the pictures: chooses --tile and --scale",
    )
    parser.add_argument("--keep-aspect", action="store_true", default=None, help="do not stretch")
    parser.add_argument("--crop", metavar="N|HxW", help="keep the central part after resizing")
    common.add_backbone(parser)
    parser.add_argument("--stages", metavar="2,3", help="feature stages as timm counts them")
    for flag, (metavar, text) in _method_flags().items():
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument(
        "--seen",
        metavar="N|FOLDER|FILE",
        help=f"{_methods_with('takes_seen_defects')}: defects to learn from: so many test pictures, "
        "drawn evenly over kinds, or a folder of pictures with masks, or a text file of paths; evaluation "
        "leaves them out",
    )
    length = parser.add_mutually_exclusive_group()
    in_steps = _methods_with("learns_in_steps")
    length.add_argument("--steps", metavar="N", help=f"{in_steps}: how many (default: as the device can)")
    length.add_argument(
        "--minutes", type=common.parse_minutes, metavar="M", help=f"{in_steps}: done after so long"
    )
    length.add_argument(
        "--latency",
        type=latency.milliseconds,
        metavar="30ms",
        help=f"the most accurate settings, engine and precision that answer for a picture within it here "
        f"({_methods_with('candidates')})",
    )
    parser.add_argument("--resume", action="store_true", help="go on where a run that was stopped left off")
    common.add_tensorboard(parser)
    common.add_roi(parser)
    parser.add_argument(
        "--light",
        metavar="SHARE",
        help="keep the false-alarm rate in each light whose brightness and contrast differ by up to SHARE, "
        "10%% say, and its white balance by half of it",
    )
    parser.add_argument(
        "--align",
        choices=("none", "shift", "turn", "full", "auto"),
        help="find the part in each picture, and see it as if all lay alike: shift: parts lie at different "
        "places, turn: at any angle, too, full: mirrored and at slightly different scales, too, auto: "
        "none, shift or turn, as left-out good pictures and simulated defects say (default: none)",
    )
    parser.add_argument(
        "--several",
        action="store_true",
        help="--align: pictures show several parts each: all are found, counted and judged",
    )
    common.add_group(parser)
    common.add_part(parser)
    common.add_view(parser)
    parser.add_argument(
        "--each-view",
        action="store_true",
        help="--part: learn each view by itself, in one file: for cameras that see quite different things "
        f"({_methods_with('supports_joint')})",
    )
    parser.add_argument(
        "--drop-suspects", action="store_true", help="leave out pictures that do not look good"
    )
    parser.add_argument(
        "--fair",
        action="store_true",
        help="--update: the pictures are good ones as they come, chosen by nobody; they set the threshold",
    )
    parser.add_argument(
        "--force", action="store_true", help="--update: go on where the model would find fewer defects"
    )
    common.add_rate(parser, "5%%")
    parser.add_argument(
        "--evaluate", action="store_true", help="measure the model on the test pictures when it is written"
    )
    parser.add_argument("--json", action="store_true", help="--evaluate: print its one JSON document")
    parser.add_argument("--seed", type=int, help="of splits and samples (default: 0)")
    parser.add_argument("--no-samples", action="store_true", help="store no pictures for the self-test")
    parser.add_argument(
        "--no-check", action="store_true", help="do not measure what share of simulated defects it finds"
    )
    common.add_device(parser)
    common.add_cluster(parser)
    common.add_quiet(parser)


def _method_flags() -> dict[str, tuple[str, str]]:
    """Returns metavar and help of the flags of single methods; the help names the methods."""
    found: dict[str, tuple[str, str]] = {}
    for method in registry.loadable_methods():
        for option in method.options:
            text = f"{method.name}: {option.help}"
            metavar, known = found.get(option.flag, (option.metavar, ""))
            found[option.flag] = metavar, f"{known}; {text}" if known else text
    return found


def _methods_with(capability: str) -> str:
    """Names of the methods that declare the capability."""
    return ", ".join(method.name for method in registry.loadable_methods() if getattr(method, capability))


def _join_or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def run(args: argparse.Namespace) -> int:
    from flawscope.artefact import files, joint_file

    if args.cluster is not None:
        connect.check_address(args.cluster)
    if args.evaluate and (args.joint or args.each_view or common.asks_several(args)):
        raise InputError("--evaluate measures one model: call `flawscope evaluate` for several")
    if args.latency and (args.joint or args.each_view or common.asks_several(args)):
        raise InputError("--latency fits one model: name one --category, without --joint and --each-view")
    if args.json and not args.evaluate:
        raise InputError("--json prints what --evaluate measures: add --evaluate")
    if (
        args.joint
        or args.each_view
        or (args.update and os.path.isfile(args.update) and joint_file.is_joint(args.update))
    ):
        return joint.fit(args)
    if common.asks_several(args):
        return _run_several(args)
    out = files.check_writable(args.out, ".safetensors")
    say = common.say_unless_quiet(args)
    fit = latency.fit_within_limit if args.latency else fit_one.fit_and_save
    predictor = fit(args, say, common.progress_for(args))
    for line in summary(predictor):
        say(line)
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    exported, engine = out.with_suffix(".onnx"), predictor.session.runtime
    if engine == "torch":
        say(f"`flawscope export {out} --out {exported}` makes a copy that starts at once and needs no torch")
    else:
        which = "" if engine == "onnxruntime" else f" --engine {engine}"
        say(f"wrote {exported}, the faster: `flawscope predict {exported} PICTURE{which}`")
    failures = list(predictor.failures)
    if args.evaluate:
        failures += _evaluate(args, predictor)
    return common.report_failures(failures)


def _evaluate(args: argparse.Namespace, predictor: Predictor) -> list[str]:
    """Evaluates the model, and prints the result as `flawscope evaluate` does; returns the failures."""
    from flawscope.cli.evaluate import format_evaluation
    from flawscope.datasets import open_dataset
    from flawscope.evaluation import evaluate

    seed, group = common.seed_and_group(predictor.manifest)
    dataset = open_dataset(args.data, args.category, seed=seed, group=group)
    result = evaluate(predictor, dataset, step=common.progress_for(args))
    common.show_document(args, result.to_dict(), lambda: format_evaluation(result))
    return list(result.failures)


def summary(predictor: Predictor) -> list[str]:
    from flawscope.calibration.power import describe_detection

    facts, calibration = predictor.manifest.facts, predictor.calibration
    lines = [*facts["summary"], calibration.promise()]
    if found := describe_detection(facts, calibration):
        lines.append(f"simulated defects found: {found}")
    if predictor.suspects:
        dropped = "left out" if any(p.role == "dropped" for p in predictor.manifest.pictures) else "kept"
        lines.append(
            f"{dropped}: {pluralize(len(predictor.suspects), 'suspicious picture')}, most suspicious first:"
        )
        lines += [f"  {name}  score {score:.4g}" for name, score in predictor.suspects[:20]]
        if len(predictor.suspects) > 20:
            lines.append(f"  and {len(predictor.suspects) - 20} more")
        if dropped == "kept":
            lines.append("look at them; --drop-suspects leaves them out")
    return lines


# ------------------------------------------------ --category all|objects|textures|a,b: a model for each

HEADER = ("category", "model", *joint.HEADER)


class Outcome(NamedTuple):
    """Outcome of a category: its row of the table, lines for a person, a failure's line, skipped pictures."""

    row: Sequence[str]
    lines: Sequence[str] = ()
    failed: str = ""
    skipped: Sequence[str] = ()


def _run_several(args: argparse.Namespace) -> int:
    """Fits the categories one after the other, or with `--cluster` on its nodes. A failure is reported and
    does not stop the others; the exit code is 1 then. With `--resume`, existing models are kept."""
    names = common.selected_categories(args, "models")
    say = common.say_unless_quiet(args)
    if args.update:
        raise InputError("--update adds to one model: name one --category")
    calls = {name: _category_call(args, name) for name in names}
    for call in calls.values():
        fit_one.read_fit_settings(call)
    common.prepare_output_folder(args.out)
    say(f"{pluralize(len(names), 'model')}, in {args.out}: {', '.join(names)}")
    found: dict[str, Outcome] = {}

    def take(name: str, outcome: Outcome) -> None:
        found[name] = outcome
        for line in outcome.lines:
            say(line)
        if outcome.failed:
            common.say(outcome.failed)

    try:
        if args.cluster is None:
            # without a terminal a line for each category is enough
            step = common.progress_for(args) if sys.stderr.isatty() else ignore_progress
            for name, call in calls.items():
                take(name, _fit_category(call, step))
        else:
            _fit_on_cluster(args, calls, take, say)
    except KeyboardInterrupt as error:
        running = [name for name in names if name not in found][: None if args.cluster else 1]
        text = str(error) or f"interrupted during {join_names(running)}; go on with --resume"
        raise KeyboardInterrupt(f"{len(found)} of {len(names)} models done; {text}") from None
    outcomes = [found[name] for name in names]
    say(common.format_table([one.row for one in outcomes], HEADER))
    code = common.report_failures([line for one in outcomes for line in one.skipped])
    return 1 if any(one.failed for one in outcomes) else code


def _category_call(args: argparse.Namespace, category: str) -> argparse.Namespace:
    """Returns the arguments for this category alone."""
    out = str(Path(args.out) / f"{category}.safetensors")
    board = args.tensorboard and str(Path(args.tensorboard) / category)
    own = {"category": category, "out": out, "tensorboard": board, "cluster": None}
    return argparse.Namespace(**{**vars(args), **own})


def _fit_category(call: argparse.Namespace, step: ProgressCallback) -> Outcome:
    from flawscope.predictor import read_manifest

    began, name = time.monotonic(), call.category
    try:
        if _is_kept(call):
            row = _row(call, read_manifest(call.out), "")
            return Outcome(row, [f"{name}: kept, it is there already"])
        # of a method that does not learn in steps --resume goes on with the next category
        resume = call.resume and registry.method(fit_one.read_fit_settings(call).method).learns_in_steps
        own_call = argparse.Namespace(**{**vars(call), "resume": resume})
        predictor = fit_one.fit_and_save(own_call, lambda line: None, step)
    except Exception as error:
        return _failure(
            name, common.reason_of(error, debug=call.debug), format_duration(time.monotonic() - began)
        )
    took, manifest = format_duration(time.monotonic() - began), predictor.manifest
    pictures = pluralize(len(manifest.pictures), "picture")
    line = f"{name}: {pictures} in {took}; {manifest.calibration.promise()}"
    lines = [line, *(f"  {note}" for note in manifest.notes)]
    return Outcome(_row(call, manifest, took), lines, skipped=predictor.failures)


def _is_kept(call: argparse.Namespace) -> bool:
    return call.resume and Path(call.out).is_file()


def _row(call: argparse.Namespace, manifest: Manifest, took: str) -> list[str]:
    return [call.category, Path(call.out).name, *joint.figures(manifest, took)]


def _failure(name: str, reason: str, took: str = "") -> Outcome:
    return Outcome([name, "failed", "", "", "", took], failed=f"{name}: failed: {reason}")


def _fit_on_cluster(
    args: argparse.Namespace,
    calls: Mapping[str, argparse.Namespace],
    take: Callable[[str, Outcome], None],
    say: fit_one.Say,
) -> None:
    """Fits each category in a task of the cluster."""
    left = {name: call for name, call in calls.items() if not _is_kept(call)}
    for name in [name for name in calls if name not in left]:
        take(name, _fit_category(calls[name], ignore_progress))
    if not left:
        return
    live = JobsProgress(say, common.say, terminal=sys.stderr.isatty() and not args.quiet)
    fits = {name: _peak_arguments(call) for name, call in left.items()}
    how = len(left), args.threads, args.device
    with (
        connect.cluster_connection(args.cluster),
        tasks.task_pool("fit", fits, args.data, args.out, live, *how) as pool,
    ):
        for name, call in left.items():
            call.threads = pool.resources.threads
            pool.start(name, _fit_category, call)
        while pool.running:
            for name, found in pool.ended(POLL_INTERVAL):
                live.job_stages.pop(name, None)
                if isinstance(found, FlawscopeError):
                    if args.debug and found.__cause__:  # with the traceback of the node's process
                        raise found
                    found = _failure(name, one_line_message(found))
                take(name, found)
            live.show()


def _peak_arguments(call: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `predicted_peak` for the fit."""
    settings = fit_one.read_fit_settings(call)
    given = {
        name: getattr(call, name)
        for name in ("category", "roi", "light", "group", "part", "view", "min_defect", "device")
    }
    own = {"method": settings.method, "preset": settings.preset, "seen": settings.seen}
    return {"images": os.path.abspath(call.data), **given, **own, **settings.settings}
