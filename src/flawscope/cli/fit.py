"""Learn what good parts look like, and write the model file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flawscope.cli import categories, common, fit_one, several
from flawscope.cluster import connect
from flawscope.methods import registry
from flawscope.progress import counted

if TYPE_CHECKING:
    from flawscope.predictor import Predictor


Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_data(parser, several=f"{several.SEVERAL}a model for each")
    parser.add_argument(
        "--out",
        required=True,
        metavar="MODEL",
        help="model file to write, .safetensors; for several categories a folder: CATEGORY.safetensors in it",
    )
    parser.add_argument(
        "--update", metavar="MODEL", help="add the pictures to this model; settings are its own"
    )
    parser.add_argument("--method", default=None, help=f"{_either(registry.names())} (default: patchcore)")
    parser.add_argument(
        "--preset", default=None, help="default or paper; small: PatchCore, quick: EfficientAD"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; wins over the file"
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
        "--overlap",
        metavar="SHARE|Npx",
        help="of neighbouring tiles: 0.25, 25%% or 128px (default: 25%%)",
    )
    parser.add_argument(
        "--scale", metavar="S", help="of tiles: so many pixels of the picture become one (default: 1)"
    )
    parser.add_argument(
        "--min-defect",
        metavar="Npx",
        help="the smallest defect that is to be found, in pixels of the pictures: chooses --tile and --scale",
    )
    parser.add_argument("--keep-aspect", action="store_true", help="do not stretch")
    parser.add_argument("--crop", metavar="N|HxW", help="keep the central part after resizing")
    parser.add_argument("--backbone", metavar="NAME", help="any timm model; see `flawscope backbones`")
    parser.add_argument("--stages", metavar="2,3", help="feature stages as timm counts them")
    parser.add_argument(
        "--weights", metavar="FILE", help="the backbone's weights: safetensors or a checkpoint"
    )
    for flag, (metavar, text) in _method_flags().items():
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument(
        "--seen",
        metavar="N|FOLDER|FILE",
        help=f"{_those('takes_seen_defects')}: defects to learn from: so many test pictures, drawn evenly "
        "over kinds, or a folder of pictures with masks, or a text file of paths; evaluation leaves them out",
    )
    length = parser.add_mutually_exclusive_group()
    in_steps = _those("learns_in_steps")
    length.add_argument("--steps", metavar="N", help=f"{in_steps}: how many (default: as the device can)")
    length.add_argument(
        "--minutes",
        type=common.minutes,
        metavar="M",
        help=f"{in_steps}: done after so long",
    )
    parser.add_argument("--resume", action="store_true", help="go on where a run that was stopped left off")
    common.add_tensorboard(parser)
    parser.add_argument(
        "--roi", metavar="MASK.png|x0,y0,x1,y1", help="region of interest; a box is in fractions"
    )
    common.add_group(parser)
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
    parser.add_argument("--seed", type=int, help="of splits and samples (default: 0)")
    parser.add_argument("--no-samples", action="store_true", help="store no pictures for the self-test")
    parser.add_argument(
        "--no-check", action="store_true", help="do not measure what share of simulated defects it finds"
    )
    common.add_device(parser)
    common.add_cluster(parser)
    common.add_quiet(parser)


def _method_flags() -> dict[str, tuple[str, str]]:
    """The flags of single methods: metavar and help, which names the methods."""
    found: dict[str, tuple[str, str]] = {}
    for method in registry.loadable():
        for option in method.options:
            text = f"{method.name}: {option.help}"
            metavar, known = found.get(option.flag, (option.metavar, ""))
            found[option.flag] = metavar, f"{known}; {text}" if known else text
    return found


def _those(capability: str) -> str:
    """The methods that declare it."""
    return ", ".join(method.name for method in registry.loadable() if getattr(method, capability))


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def run(args: argparse.Namespace) -> int:
    from flawscope.artefact import files

    if args.cluster is not None:
        connect.check(args.cluster)
    if several.are_asked(args):
        return categories.run(args)
    out = files.check_writable(args.out, ".safetensors")
    say = common.say_for(args)
    predictor = fit_one.learnt(args, say, common.step_for(args))
    for line in summary(predictor):
        say(line)
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    exported = out.with_suffix(".onnx")
    say(f"`flawscope export {out} --out {exported}` makes a copy that starts at once and needs no torch")
    return common.report_failures(predictor.failures)


def summary(predictor: Predictor) -> list[str]:
    """The lines that are printed after fitting."""
    from flawscope.calibration.simulated import described

    facts, calibration = predictor.manifest.facts, predictor.calibration
    lines = [*facts["summary"], calibration.promise()]
    if found := described(facts, calibration):
        lines.append(f"simulated defects found: {found}")
    if predictor.suspects:
        dropped = "left out" if any(p.role == "dropped" for p in predictor.manifest.pictures) else "kept"
        lines.append(
            f"{dropped}: {counted(len(predictor.suspects), 'suspicious picture')}, most suspicious first:"
        )
        lines += [f"  {name}  score {score:.4g}" for name, score in predictor.suspects[:20]]
        if len(predictor.suspects) > 20:
            lines.append(f"  and {len(predictor.suspects) - 20} more")
        if dropped == "kept":
            lines.append("look at them; --drop-suspects leaves them out")
    return lines
