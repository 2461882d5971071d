"""Steps of single methods as commands, each a function of its name: `distill` of EfficientAD, `prototypes` of
PRN."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flawscope.artefact import files
from flawscope.cli import common
from flawscope.cli.fit_one import only_category, report_kept_steps, training_remarks
from flawscope.errors import require_installed
from flawscope.methods import registry

DISTILL_SETTINGS = ("backbone", "stages", "size", "steps", "crop", "batch", "seed")  # flags that are settings


def distill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, metavar="FOLDER", help="pictures of anything, the more various the better"
    )
    parser.add_argument("--out", required=True, metavar="TEACHER", help="file to write, .safetensors")
    common.add_backbone(parser)
    parser.add_argument(
        "--start", metavar="TEACHER", help="begin with this one of the same size and backbone"
    )
    parser.add_argument("--stages", metavar="2,3", help="feature stages as timm counts them")
    parser.add_argument("--size", choices=["xs", "s", "m"], help="PDN-XS, PDN-S or PDN-M (default: s)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", metavar="N", help="how many (default: 6000)")
    length.add_argument(
        "--minutes", type=common.parse_minutes, metavar="M", help="as many steps as fit into the time"
    )
    parser.add_argument("--crop", metavar="PIXELS", help="side of the crops, 33 to 252 (default: 157)")
    parser.add_argument("--batch", metavar="N", help="crops a step (default: 8)")
    common.add_settings(parser, "named settings: default, paper", "default")
    parser.add_argument("--seed", help="of everything random (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on where a run that was stopped left off")
    common.add_tensorboard(parser)
    common.add_device(parser)
    common.add_quiet(parser)


def distill(args: argparse.Namespace) -> int:
    """Make a teacher for EfficientAD: a small network that gives a backbone's features from 33 pixels."""
    from flawscope.artefact.state_file import checkpoint_path, training_log_path
    from flawscope.datasets import list_pictures
    from flawscope.methods.efficientad import make_recipe

    step = common.progress_for(args)
    out = files.check_writable(args.out, ".safetensors")
    own = common.read_settings(args, DISTILL_SETTINGS)
    if args.minutes is not None:  # wins over other steps
        own["steps"] = None
    chosen = make_recipe(args.preset, own)
    paths = list_pictures(args.images)
    require_installed("distilling", "torch", "timm", extras="train")
    from flawscope.methods.efficientad import distill as distilling
    from flawscope.methods.threads import set_thread_count

    set_thread_count(args.threads)
    with report_kept_steps(checkpoint_path(out)):
        _, failures = distilling.distill(
            paths,
            chosen,
            out,
            weights=args.weights,
            start=args.start,
            minutes=None if chosen.steps else args.minutes,
            resume=args.resume,
            tensorboard=args.tensorboard,
            device=args.device,
            say=common.say_unless_quiet(args),
            step=step,
        )
    if not args.quiet:
        common.say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
        common.say(f"training log: {training_log_path(checkpoint_path(out))}")
    return common.report_failures(failures)


def prototypes_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser, several=f"{common.SEVERAL_HELP}a file for each")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="file to write, .safetensors; for several categories a folder: CATEGORY.safetensors in it",
    )
    common.add_settings(parser, "named settings: default, paper")
    parser.add_argument("--size", metavar="N|HxW", help="picture size (default: 256)")
    common.add_backbone(parser)
    common.add_roi(parser)
    common.add_group(parser)
    common.add_rate(parser, "5%%")
    parser.add_argument("--seed", type=int, help="of everything random (default: 0)")
    common.add_device(parser)
    common.add_quiet(parser)


def prototypes(args: argparse.Namespace) -> int:
    """Find PRN's prototypes of the good pictures, as a step of its own; fit with `--prototypes FILE`."""
    if not common.asks_several(args):
        return _prototypes(args)
    names = common.selected_categories(args, "files")
    calls = {
        name: argparse.Namespace(
            **{**vars(args), "category": name, "out": str(Path(args.out) / f"{name}.safetensors")}
        )
        for name in names
    }
    for call in calls.values():
        _settings(call)
    common.prepare_output_folder(args.out)
    return common.run_for_each(names, lambda name: _prototypes(calls[name]), debug=args.debug)[0]


def _prototypes(args: argparse.Namespace) -> int:
    """Writes the prototypes of one category."""
    from flawscope.calibration.threshold import DEFAULT_RATE
    from flawscope.datasets import open_dataset

    step = common.progress_for(args)
    out = files.check_writable(args.out, ".safetensors")
    preset, options, seed = _settings(args)  # a wrong one is reported before torch is loaded
    dataset = open_dataset(args.data, args.category, seed=seed, group=args.group)
    for line in training_remarks(dataset, args.group):
        if not args.quiet:
            common.say(line)

    from flawscope.fitting.preparation import prepare  # torch
    from flawscope.methods.prnet.fit import write_prototypes
    from flawscope.methods.prnet.model import Model
    from flawscope.methods.threads import set_thread_count

    set_thread_count(args.threads)
    prepared = prepare(
        dataset,
        registry.method("prnet"),
        preset=preset,
        false_alarm_rate=args.false_alarm_rate or DEFAULT_RATE,
        roi=args.roi,
        group=args.group,
        device=args.device,
        say=common.say_unless_quiet(args),
        step=step,
        **options,
    )
    assert isinstance(prepared.model, Model)
    write_prototypes(prepared.model, prepared.task, out)
    if not args.quiet:
        common.say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    return common.report_failures(list(prepared.reader.failures.values()))


def _settings(args: argparse.Namespace) -> tuple[str, dict[str, Any], int]:
    """Preset, settings and seed: from the file, then the flags, then --set. Settings that only training needs
    are ignored. InputError for a wrong one."""
    category = (args.category or only_category(args.data)) if args.config else None
    values = common.read_settings(args, ("preset", "size", "backbone", "weights", "seed"), category)
    for key in ("method", "seen"):
        values.pop(key, None)
    preset = values.pop("preset", "default")
    return preset, values, registry.configure(registry.method("prnet"), preset, values).seed
