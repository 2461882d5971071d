"""Options of `flawscope fit`: on the command line, and in its YAML file, for each category by itself.

A file names an option as the command line does, without dashes in front and with _ inside; the command line
wins. Settings of methods, which stand in the same file, are read by `common.read_settings`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from flawscope.cli import common
from flawscope.errors import InputError, suggest_name
from flawscope.methods import registry
from flawscope.methods.settings import parse_assignments, read_config, redact_value, setting_names

# Of the call, not of what is fitted
OF_THE_CALL = frozenset(
    (
        *("data", "category", "out", "config", "set", "update", "fair", "joint", "each_view", "evaluate"),
        *("json", "cluster", "quiet", "only_view"),
    )
)
AUTO_MINUTES = 10.0
# Settings of every method, and the file's own
COMMON_SETTINGS = frozenset(("method", "preset", "seen", "scale"))


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
    add_auto(parser)
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
        help="the good pictures are good, also those that show nothing, are marked, lie apart or are as far "
        "out as defects are, --update: or with which the model would find fewer defects; after a question: "
        "accept what the same call wrote",
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
    parser.set_defaults(only_view=None, typed=None, filed=())  # of `router.fit`, and of `with_file`


def add_auto(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--auto",
        nargs="?",
        type=common.parse_minutes,
        const=AUTO_MINUTES,
        metavar="MINUTES",
        help="try how the pictures are best seen, and take what finds more of given (--seen) or simulated "
        f"defects on left-out good pictures; done after so many minutes (default: {AUTO_MINUTES:g})",
    )


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


# ------------------------------------------------------------------------------------------------ in a file


def with_file(args: argparse.Namespace, category: str | None) -> argparse.Namespace:
    """Returns the call with the options of `--config` for this category; None: those for all.

    Raises:
        InputError: the file or `--set` has an unknown name, or one that stands elsewhere; a wrong value.
    """
    typed = args.typed
    if typed is None:
        typed = frozenset(name for name in _actions() if getattr(args, name) not in (None, False, []))
    for name in parse_assignments(args.set):
        if name in file_options():
            raise InputError(f"--set {name}: it is an option; write {flag(name)} instead")
    values = read_config(args.config, category) if args.config else {}
    _check_names(args.config, values)
    own = argparse.Namespace(**{**vars(args), "typed": typed, "filed": frozenset(values.keys() - typed)})
    for name in file_options() & values.keys():
        if name not in typed and values[name] is not None:
            setattr(own, name, _read(args.config, name, values[name]))
    if own.channels and "{" in own.channels:
        own.part, own.view = _parse_template(own)
        own.channels = None
    return own


@cache
def file_options() -> frozenset[str]:
    """Names of the options that may stand in a file and are no settings of a method."""
    return frozenset(_actions().keys() - OF_THE_CALL - _settings())


def written(args: argparse.Namespace, name: str) -> str:
    """Names a setting or an option as it was given: `--keep-aspect`, or `keep_aspect` of the file."""
    return f"{name} of {args.config}" if name in args.filed else flag(name)


def name_as_typed(args: argparse.Namespace, text: str) -> str:
    """Names the setting that an error begins with as its flag, where that was typed."""
    found = re.match(r"setting (\w+)", text)
    if found is None or getattr(args, found[1], None) is None:
        return text
    return written(args, found[1]) + text[found.end() :]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_names(file: str | None, values: Mapping[str, Any]) -> None:
    known = file_options() | _settings()
    for name in values:
        if name in known:
            continue
        if name in OF_THE_CALL and name in _actions():
            raise InputError(f"config {file}: {name} is for the command line: write {flag(str(name))}")
        raise InputError(
            f"config {file}: unknown setting {redact_value(name)}; {suggest_name(str(name), sorted(known))}"
        )


def _settings() -> frozenset[str]:
    own: Iterable[str] = (
        name for method in registry.loadable_methods() for name in setting_names(method.config)
    )
    return frozenset(own) | COMMON_SETTINGS


@cache
def _actions() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def _read(file: str, name: str, value: Any) -> Any:
    """Reads a value of the file as the command line reads it."""
    action, where = _actions()[name], f"config {file}: {name}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {redact_value(value)} is not true or false")
        return value
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool | dict | list) for one in parts):
        raise InputError(f"{where}: {redact_value(value)} is no value of {flag(name)}: write it as there")
    texts = [str(one) for one in parts]
    if isinstance(action.nargs, int) and len(texts) != action.nargs:
        raise InputError(f"{where} takes {action.nargs} values: write a list of them")
    if not isinstance(action.nargs, int):
        texts = [",".join(texts)]
    read = []
    for text in texts:
        if action.choices is not None and text not in action.choices:
            raise InputError(f"{where}: {text} is none of {', '.join(map(str, action.choices))}")
        try:
            read.append(action.type(text) if callable(action.type) else text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise InputError(f"{where}: {error}") from None
    return read if isinstance(action.nargs, int) else read[0]


def _parse_template(args: argparse.Namespace) -> tuple[str, str | None]:
    """Patterns of --part and --view that `--channels {part}_{light}.png` stands for."""
    from flawscope.calibration.parts import PartPattern

    if args.part or args.view or args.group:
        raise InputError("--channels tells part and view by names: leave out --part, --view and --group")
    pattern = PartPattern.from_template(args.channels)
    return pattern.part, pattern.view
