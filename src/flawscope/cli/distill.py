"""Make a teacher for EfficientAD: a small network that gives from 33 pixels the features of a backbone."""

from __future__ import annotations

import argparse
from typing import Any

from flawscope.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, metavar="FOLDER", help="pictures of anything, the more various the better"
    )
    parser.add_argument("--out", required=True, metavar="TEACHER", help="file to write, .safetensors")
    parser.add_argument("--backbone", metavar="NAME", help="any timm model; see `flawscope backbones`")
    parser.add_argument(
        "--weights", metavar="FILE", help="the backbone's weights: safetensors or a checkpoint"
    )
    parser.add_argument(
        "--start", metavar="TEACHER", help="begin with this one of the same size and backbone"
    )
    parser.add_argument("--stages", metavar="2,3", help="feature stages as timm counts them")
    parser.add_argument("--size", choices=["xs", "s", "m"], help="PDN-XS, PDN-S or PDN-M (default: s)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", metavar="N", help="how many (default: 6000)")
    length.add_argument(
        "--minutes", type=common.minutes, metavar="M", help="as many steps as fit into the time"
    )
    parser.add_argument("--crop", metavar="PIXELS", help="side of the crops, 33 to 252 (default: 157)")
    parser.add_argument("--batch", metavar="N", help="crops a step (default: 8)")
    parser.add_argument("--preset", default="default", help="named settings: default, paper")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; wins over the file"
    )
    parser.add_argument("--seed", help="of everything random (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on where a run that was stopped left off")
    common.add_tensorboard(parser)
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope import config
    from flawscope.artefact import files
    from flawscope.artefact.state_file import checkpoint_of, log_of
    from flawscope.datasets import list_pictures
    from flawscope.errors import InputError, require_installed
    from flawscope.methods.efficientad import RECIPES, Recipe

    step = common.step_for(args)
    out = files.check_writable(args.out, ".safetensors")
    if args.preset not in RECIPES:
        raise InputError(f"there is no preset {args.preset}: choose of {', '.join(RECIPES)}")
    recipe = config.build(Recipe, {**RECIPES[args.preset], **_options(args)})
    paths = list_pictures(args.images)
    require_installed("distilling", "torch", "timm", extras="train")
    from flawscope.methods.efficientad.distill import distill
    from flawscope.runtime.torch import use_threads

    use_threads(args.threads)
    with common.kept_if_interrupted(checkpoint_of(out)):
        _, failures = distill(
            paths,
            recipe,
            out,
            weights=args.weights,
            start=args.start,
            minutes=None if recipe.steps else args.minutes,
            resume=args.resume,
            tensorboard=args.tensorboard,
            device=args.device,
            say=common.say_for(args),
            step=step,
        )
    if not args.quiet:
        common.say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
        common.say(f"training log: {log_of(checkpoint_of(out))}")
    return common.report_failures(failures)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Settings from the file, then the flags, then --set. --minutes wins over a preset's steps."""
    from flawscope import config

    values = config.read_config(args.config) if args.config else {}
    for key in ("backbone", "stages", "size", "steps", "crop", "batch", "seed"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    if args.minutes is not None:
        values["steps"] = None
    return {**values, **config.parse_assignments(args.set)}
