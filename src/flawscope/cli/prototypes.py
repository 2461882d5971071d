"""Find PRN's prototypes of the good pictures, as a step of its own; fit with `--prototypes FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flawscope.cli import common, several
from flawscope.cli.inputs import on_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser, several=f"{several.SEVERAL}a file for each")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="file to write, .safetensors; for several categories a folder: CATEGORY.safetensors in it",
    )
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
    if not several.are_asked(args):
        return _run(args)
    names = several.asked(args)
    several.check_out(args, "files")
    calls = {
        name: argparse.Namespace(
            **{**vars(args), "category": name, "out": str(Path(args.out) / f"{name}.safetensors")}
        )
        for name in names
    }
    for call in calls.values():
        _settings(call)
    common.folder_for_results(args.out)
    return several.each(names, lambda name: _run(calls[name]), debug=args.debug)[0]


def _run(args: argparse.Namespace) -> int:
    """Of one category."""
    from flawscope.artefact import files
    from flawscope.calibration.decision import DEFAULT_RATE
    from flawscope.datasets import open_dataset
    from flawscope.methods import registry

    step = common.step_for(args)
    out = files.check_writable(args.out, ".safetensors")
    preset, options, seed = _settings(args)  # a wrong one is reported before torch is loaded
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
        registry.method("prnet"),
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


def _settings(args: argparse.Namespace) -> tuple[str, dict[str, Any], int]:
    """The preset, the settings and the seed: from the file, then the flags, then --set; what only training
    needs does not matter. InputError for a wrong one."""
    from flawscope import config
    from flawscope.cli.fit_one import only_category
    from flawscope.methods import registry

    values: dict[str, Any] = {}
    if args.config:
        values = config.read_config(args.config, args.category or only_category(args.data))
    for key in ("preset", "size", "backbone", "weights", "seed"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    values = {**values, **config.parse_assignments(args.set)}
    for key in ("method", "seen"):
        values.pop(key, None)
    preset = values.pop("preset", "default")
    return preset, values, registry.configure(registry.method("prnet"), preset, values).seed
