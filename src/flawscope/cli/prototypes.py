"""Find PRN's prototypes of the good pictures, as a step of its own; fit with `--prototypes FILE`."""

from __future__ import annotations

import argparse
from typing import Any

from flawscope.cli import common
from flawscope.cli.remarks import on_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .safetensors")
    parser.add_argument("--preset", default=None, help="named settings: default, paper")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; wins over the file"
    )
    parser.add_argument("--size", metavar="N|HxW", help="picture size (default: 256)")
    parser.add_argument("--backbone", metavar="NAME", help="any timm model; see `flawscope backbones`")
    parser.add_argument(
        "--weights", metavar="FILE", help="the backbone's weights: safetensors or a checkpoint"
    )
    parser.add_argument(
        "--roi", metavar="MASK.png|x0,y0,x1,y1", help="region of interest; a box is in fractions"
    )
    parser.add_argument(
        "--group",
        metavar="PATTERN",
        help="regular expression; file names that match the same text show one part",
    )
    common.add_rate(parser, "5%%")
    parser.add_argument("--seed", type=int, help="of everything random (default: 0)")
    common.add_device(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.artefact import files
    from flawscope.calibration.decision import DEFAULT_RATE
    from flawscope.datasets import open_dataset
    from flawscope.methods import registry

    step = common.step_for(args)
    out = files.check_writable(args.out, ".safetensors")
    options = _options(args)
    preset = options.pop("preset", "default")
    method = registry.method("prnet")
    seed = method.configure(preset, options).seed  # a wrong setting is reported before torch is loaded
    dataset = open_dataset(args.data, args.category, seed=seed, group=args.group)
    for line in on_training(dataset, args.group):
        if not args.quiet:
            common.say(line)

    from flawscope.fitting.preparation import prepare  # torch
    from flawscope.methods.prnet.fit import write_prototypes
    from flawscope.methods.prnet.model import Model
    from flawscope.runtime.torch import use_threads

    use_threads(args.threads)
    prepared = prepare(
        dataset,
        method,
        preset=preset,
        false_alarm_rate=args.false_alarm_rate or DEFAULT_RATE,
        roi=args.roi,
        group=args.group,
        device=args.device,
        say=common.say_for(args),
        step=step,
        **options,
    )
    assert isinstance(prepared.model, Model)
    write_prototypes(prepared.model, prepared.task, out)
    if not args.quiet:
        common.say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    return common.report_failures(list(prepared.reader.failures.values()))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Settings from the file, then the flags, then --set; what only training needs does not matter."""
    from flawscope import config
    from flawscope.cli.fit import only_category

    values: dict[str, Any] = {}
    if args.config:
        values = config.read_config(args.config, args.category or only_category(args.data))
    for key in ("preset", "size", "backbone", "weights", "seed"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    values = {**values, **config.parse_assignments(args.set)}
    for key in ("method", "seen"):
        values.pop(key, None)
    return values
