"""Learn what good parts look like, and write the model file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flawscope.cli import common, fit_one, fit_several, router
from flawscope.cluster import connect
from flawscope.errors import InputError, pluralize
from flawscope.methods import registry

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


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
        help="one file with a model of each category: `predict` recognises which one a picture shows",
    )
    parser.add_argument(
        "--update", metavar="MODEL", help="add the pictures to this model; settings are its own"
    )
    parser.add_argument("--method", default=None, help=f"{_join_or(registry.names())} (default: patchcore)")
    common.add_settings(parser, "default or paper; small or accurate: PatchCore, quick: EfficientAD")
    parser.add_argument(
        "--size",
        metavar="N|HxW|N+N",
        help="picture size, N² pixels in the pictures' form or HxW; several are seen one by one (default: "
        "256+512)",
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
    parser.add_argument(
        "--undistort",
        metavar="FILE",
        help="undistort pictures by the coefficients of their lens: OpenCV's YAML, or fx, fy, cx, cy, k1, "
        "k2, p1, p2, k3 by name",
    )
    common.add_scale(parser)
    parser.add_argument(
        "--channels",
        metavar="all|1-3,4|PATTERN",
        help="judge more channels than three together: colours, and each other one by itself (all), or views "
        "by numbers; or files of one part under several lights, such as {part}_{light}.png",
    )
    common.add_group(parser)
    common.add_part(parser)
    common.add_view(parser)
    parser.add_argument(
        "--each-view",
        action="store_true",
        help="--part: learn each view by itself, in one file: for cameras that see quite different things",
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
        "--force",
        action="store_true",
        help="go on where good pictures show nothing, or are as far out as defects are; --update: or where "
        "the model would find fewer defects",
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
    parser.set_defaults(only_view=None)  # of `router.fit`: pattern and view


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
    from flawscope.artefact import files
    from flawscope.predictor.router import is_router

    if args.channels and "{" in args.channels:
        args.part, args.view = _parse_template(args)
        args.channels = None
    if args.cluster is not None:
        connect.check_address(args.cluster)
    if args.evaluate and (args.joint or args.each_view or common.asks_several(args)):
        raise InputError("--evaluate measures one model: call `flawscope evaluate` for several")
    if args.json and not args.evaluate:
        raise InputError("--json prints what --evaluate measures: add --evaluate")
    if (
        args.joint
        or args.each_view
        or (args.update and os.path.isfile(args.update) and is_router(args.update))
    ):
        return router.fit(args)
    if common.asks_several(args):
        return fit_several.run(args)
    out = files.check_writable(args.out, ".safetensors")
    say = common.say_unless_quiet(args)
    if args.cluster is None:
        predictor = fit_one.fit_and_save(args, say, common.progress_for(args))
    else:
        predictor = fit_several.fit_in_task(args, say)
    for line in summary(predictor):
        say(line)
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    exported = out.with_suffix(".onnx")
    say(f"`flawscope export {out} --out {exported}` makes a copy that starts at once and needs no torch")
    failures = list(predictor.failures)
    if args.evaluate:
        failures += _evaluate(args, predictor)
    return common.report_failures(failures)


def _parse_template(args: argparse.Namespace) -> tuple[str, str | None]:
    """Patterns of --part and --view that `--channels {part}_{light}.png` stands for."""
    from flawscope.calibration.parts import PartPattern

    if args.part or args.view or args.group:
        raise InputError("--channels tells part and view by names: leave out --part, --view and --group")
    pattern = PartPattern.from_template(args.channels)
    return pattern.part, pattern.view


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
