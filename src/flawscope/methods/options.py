"""The options of a fit, each as one record: command line, file, conflicts, updates and searches read it.

A further option is a record here, a field of `fitting.preparation.Seeing` or `Reading`, and the line that
uses it. Torch-free: help and the pages of a station ask these records.
"""

from __future__ import annotations

from dataclasses import dataclass

# Groups of the command line's help
PICTURES, VIEWS, PROMISE, METHOD, RUNNING = (
    "pictures",
    "how parts lie, and how they are seen",
    "what is promised",
    "method",
    "running",
)
# What an option belongs to: to the records of `fitting.preparation`, to the methods' settings, or to the call
SEEING, READING, SETTING, CALL = "seeing", "reading", "setting", "call"
# Where it may stand in a YAML file: in each category, above all of them, or nowhere
EACH, WHOLE, NOWHERE = "each", "whole", "nowhere"
# What its value is on the command line
TEXT, SWITCH, MINUTES, OPTIONAL_MINUTES = "text", "switch", "minutes", "optional minutes"
# What `--auto` makes of it: keeps it, tries sizes unless it is given, tries nothing, or is not changed by it
KEPT, SIZES, NOTHING, WITHOUT_EFFECT = "kept", "sizes", "nothing", "without effect"


@dataclass(frozen=True, kw_only=True)
class FitOption:
    """An option of a fit.

    name: in Python and in a file; the flag has dashes.
    group: of the help. of: what it belongs to. file: where it may stand in a YAML file.
    value, metavar, choices, help: on the command line. shared: it is added by `cli.common.add_SHARED`, as
        other commands have it. A method's options (`METHOD`) are added with the methods' own.
    rare: `--help-all` alone shows it.
    kept_by_update: `--update` keeps the model's, and refuses another.
    stored_as: where a model file keeps it, so that a training anew has it; empty: nowhere.
    changes_input: the network sees other pictures with it.
    search: what `--auto` makes of it.
    apart: options that it does not go with. needs: the one that it makes no sense without, and how to give
        that.
    """

    name: str
    group: str
    of: str = CALL
    file: str = EACH
    value: str = TEXT
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    shared: str = ""
    rare: bool = False
    kept_by_update: bool = False
    stored_as: str = ""
    changes_input: bool = False
    search: str = KEPT
    apart: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None


FIT_OPTIONS: tuple[FitOption, ...] = (
    FitOption(name="data", group=PICTURES, file=NOWHERE, shared="data"),
    FitOption(name="category", group=PICTURES, of=READING, file=NOWHERE, shared="data", stored_as="category"),
    FitOption(name="good", group=PICTURES, shared="data"),
    FitOption(
        name="roi",
        group=PICTURES,
        of=SEEING,
        shared="roi",
        kept_by_update=True,
        stored_as="tensors",
        changes_input=True,
    ),
    FitOption(name="group", group=PICTURES, of=READING, shared="group", stored_as="facts"),
    FitOption(
        name="part",
        group=PICTURES,
        of=READING,
        shared="part",
        rare=True,
        kept_by_update=True,
        stored_as="facts",
        search=NOTHING,
        apart=("group",),  # whole parts are left out already
    ),
    FitOption(
        name="view",
        group=PICTURES,
        of=READING,
        shared="view",
        rare=True,
        kept_by_update=True,
        stored_as="facts",
        search=NOTHING,
        needs=("part", "give --part too"),
    ),
    FitOption(
        name="each_view",
        group=PICTURES,
        file=NOWHERE,
        value=SWITCH,
        help="--part: learn each view by itself, in one file: for cameras that see quite different things",
        rare=True,
    ),
    FitOption(
        name="channels",
        group=PICTURES,
        of=SEEING,
        metavar="all|1-3,4|PATTERN",
        help="judge more channels than three together: colours, and each other one by itself (all), or "
        "groups by numbers; or files of one part under several lights, such as {part}_{light}.png",
        rare=True,
        kept_by_update=True,
        stored_as="preprocess",
        changes_input=True,
        search=NOTHING,
        apart=("several", "light"),  # views of one place; each channel has its own light
    ),
    FitOption(
        name="seen",
        group=PICTURES,
        of=READING,
        metavar="N|FOLDER|FILE",
        help="defects to learn from: N test pictures, or a folder",
    ),
    FitOption(
        name="auto",
        group=VIEWS,
        value=OPTIONAL_MINUTES,
        metavar="MINUTES",
        help="find out how they are best seen (default: {default:g})",
        kept_by_update=True,
    ),
    FitOption(
        name="align",
        group=VIEWS,
        of=SEEING,
        choices=("none", "shift", "turn", "full", "auto"),
        metavar="HOW",
        help="find parts: shift, turn, full (mirrors), auto",
        kept_by_update=True,
        stored_as="preprocess",
        changes_input=True,
    ),
    FitOption(
        name="several",
        group=VIEWS,
        of=SEEING,
        value=SWITCH,
        help="--align: pictures show several parts",
        kept_by_update=True,
        stored_as="preprocess",
        changes_input=True,
        apart=("part",),  # each of its parts would have a name
        needs=("align", "give --align shift, turn or full"),
    ),
    FitOption(
        name="size",
        group=VIEWS,
        of=SETTING,
        metavar="N|HxW|N+N",
        help="that the network sees (default: 256+512 pixels)",
        stored_as="config",
        changes_input=True,
        search=SIZES,
    ),
    FitOption(
        name="tile",
        group=VIEWS,
        of=SETTING,
        metavar="N|HxW",
        help="large pictures: see tiles of so many pixels, too",
        stored_as="config",
        changes_input=True,
        search=SIZES,
    ),
    FitOption(
        name="min_defect",
        group=VIEWS,
        of=SEEING,
        metavar="Npx",
        help="the smallest defect to be found, sets --tile",
        kept_by_update=True,
        stored_as="config",  # the tiles that it chooses
        changes_input=True,
        search=SIZES,
        apart=("tile", "scale", "size", "crop"),  # it chooses them
    ),
    FitOption(
        name="scale_mm", group=VIEWS, of=SEEING, shared="scale", kept_by_update=True, stored_as="facts"
    ),
    FitOption(
        name="false_alarm_rate",
        group=PROMISE,
        of=READING,
        shared="rate",
        kept_by_update=True,
        stored_as="calibration",
    ),
    FitOption(
        name="light",
        group=PROMISE,
        of=SEEING,
        metavar="SHARE",
        help="in any light that is up to 10%% brighter or darker",
        kept_by_update=True,
        stored_as="preprocess",
        changes_input=True,
    ),
    FitOption(
        name="drop_suspects",
        group=PROMISE,
        of=READING,
        value=SWITCH,
        help="leave out pictures that do not look good",
        stored_as="facts",
    ),
    FitOption(
        name="force",
        group=PROMISE,
        of=READING,
        value=SWITCH,
        help="all are good: accept what a question names",
        stored_as="facts",
        search=WITHOUT_EFFECT,
    ),
    FitOption(
        name="fair",
        group=PROMISE,
        file=NOWHERE,
        value=SWITCH,
        help="--update: the pictures are good ones as they come, chosen by nobody; they set the threshold",
        rare=True,
    ),
    FitOption(
        name="no_check",
        group=PROMISE,
        value=SWITCH,
        help="do not measure what share of simulated defects it finds",
        rare=True,
    ),
    FitOption(name="method", group=METHOD, of=SETTING, stored_as="method"),
    FitOption(name="preset", group=METHOD, of=SETTING, stored_as="config", search=SIZES),
    FitOption(name="config", group=METHOD, file=NOWHERE),
    FitOption(name="set", group=METHOD, file=NOWHERE),
    FitOption(name="steps", group=METHOD, of=SETTING, stored_as="config", rare=True),
    FitOption(name="minutes", group=METHOD, kept_by_update=True, search=NOTHING),
    FitOption(name="resume", group=METHOD, rare=True, kept_by_update=True, search=NOTHING),
    FitOption(name="backbone", group=METHOD, of=SETTING, stored_as="config", rare=True, search=SIZES),
    FitOption(name="seed", group=METHOD, of=SETTING, stored_as="config", rare=True),
    FitOption(
        name="out",
        group=RUNNING,
        file=WHOLE,
        metavar="MODEL",
        help="model file; for several categories a folder",
    ),
    FitOption(
        name="update", group=RUNNING, file=NOWHERE, metavar="MODEL", help="add the pictures to this model"
    ),
    FitOption(
        name="joint",
        group=RUNNING,
        file=WHOLE,
        value=SWITCH,
        help="one file for all, `predict` tells them apart",
    ),
    FitOption(
        name="evaluate",
        group=RUNNING,
        file=WHOLE,
        value=SWITCH,
        help="measure the model on the test pictures",
    ),
    FitOption(
        name="json",
        group=RUNNING,
        file=NOWHERE,
        value=SWITCH,
        help="--evaluate: print its one JSON document",
        rare=True,
    ),
    FitOption(
        name="no_samples",
        group=RUNNING,
        value=SWITCH,
        help="store no pictures for the self-test",
        rare=True,
        kept_by_update=True,
    ),
    FitOption(
        name="no_looks",
        group=RUNNING,
        value=SWITCH,
        help="store no small pictures of the good ones: copies of them are not known again later",
        rare=True,
        kept_by_update=True,
        stored_as="facts",
    ),
    FitOption(name="device", group=RUNNING, of=READING, shared="device", search=WITHOUT_EFFECT),
    FitOption(name="threads", group=RUNNING, shared="device", rare=True),
    FitOption(name="cluster", group=RUNNING, file=NOWHERE, shared="cluster", rare=True),
    FitOption(name="quiet", group=RUNNING, file=NOWHERE, shared="quiet", rare=True),
    FitOption(
        name="verbose",
        group=RUNNING,
        file=NOWHERE,
        value=SWITCH,
        help="also time, memory, and what the promise comes from",
        rare=True,
    ),
    FitOption(name="debug", group="", rare=True),  # of all commands
)


def names_of(
    *of: str, search: str | None = None, file: str | None = None, kept_by_update: bool = False
) -> tuple[str, ...]:
    """Names of the options that belong to one of these, all without any, and of which the rest holds, too."""
    return tuple(
        option.name
        for option in FIT_OPTIONS
        if (not of or option.of in of)
        and search in (None, option.search)
        and file in (None, option.file)
        and option.kept_by_update >= kept_by_update
    )
