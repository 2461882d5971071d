"""Arguments of `fit` that are no settings of a method.

Each field carries its option's record: to add an option, add a field here and the line that uses it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_type_hints

from flawscope.methods.options import stored
from flawscope.methods.options.record import (
    ALL_CELLS,
    ITS_METHODS,
    METHOD,
    MINUTES,
    NOTHING,
    NOWHERE,
    PICTURES,
    PROMISE,
    RUNNING,
    SIZES,
    SWITCH,
    VIEWS,
    WITHOUT_EFFECT,
    FitOption,
    FormField,
    option,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flawscope.calibration.threshold import Rate
    from flawscope.pictures.channels import Channels
    from flawscope.pictures.decoding import SeenDefects
    from flawscope.views.pose import Align
    from flawscope.views.roi import RoiSource


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Arguments of `fit` for the pictures to learn from, and for the false-alarm rate."""

    category: str | None = option(
        None,
        "name of a category, if the folder holds several",
        record=FitOption(group=PICTURES, file=NOWHERE, shared="data"),
        stored=stored.category,
    )
    group: str | None = option(
        None,
        "regular expression on file names; pictures in whose names it matches the same text show one part",
        record=FitOption(group=PICTURES, shared="group", benchmark=ALL_CELLS),
        stored=stored.group,
    )
    part: str | None = option(
        None,
        "regular expression on file names that identifies the part, for one decision on all views of a part; "
        "all pictures of a part are left out together",
        record=FitOption(
            group=PICTURES,
            shared="part",
            rare=True,
            kept_by_update=True,
            search=NOTHING,
            apart=("group",),  # a part is a group already
            form=FormField(kind="text", pattern="^.{1,1000}$"),
        ),
        stored=stored.part,
    )
    view: str | None = option(
        None,
        "regular expression on file names that identifies the view of the part",
        record=FitOption(
            group=PICTURES,
            shared="view",
            rare=True,
            kept_by_update=True,
            search=NOTHING,
            needs=("part", "give --part too"),
            form=FormField(kind="own", pattern="^.{1,1000}$"),
        ),
        stored=stored.view,
    )
    seen: SeenDefects = option(
        0,
        "defects for methods that learn from defects, too: a number of test pictures to draw, evenly over "
        "the kinds of defects; a folder of defective pictures with masks; a text file that lists such "
        "pictures; or pairs of picture and mask. The model remembers the pictures, and evaluation leaves "
        "them out",
        record=FitOption(
            group=PICTURES,
            metavar="N|FOLDER|FILE",
            help="Defects to learn from: N test pictures, or a folder.",
            names_files=True,
            benchmark=ITS_METHODS,
        ),
    )
    false_alarm_rate: Rate | None = option(
        None,
        'share of good pictures that may be called anomalous, `0.05` or `"5%"`; None: 5 %',
        record=FitOption(
            group=PROMISE,
            shared="rate",
            kept_by_update=True,
            form=FormField(kind="own", above=0, most=0.5),
        ),
        stored=stored.false_alarm_rate,
    )
    drop_suspects: bool = option(
        False,
        "leave out training pictures that do not look good",
        record=FitOption(
            group=PROMISE,
            value=SWITCH,
            help="Leave out pictures that do not look good.",
            fact="drop_suspects",
        ),
    )
    force: bool = option(
        False,
        "continue although pictures are blank, or as unlike the others as defects are",
        record=FitOption(
            group=PROMISE,
            value=SWITCH,
            help="Accept pictures that a check questions: all are good.",
            computes=False,
            fact="force",
            search=WITHOUT_EFFECT,
        ),
    )
    device: str = option(
        "auto",
        "auto, cpu, cuda or mps",
        record=FitOption(group=RUNNING, shared="device", search=WITHOUT_EFFECT, benchmark=ALL_CELLS),
    )


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """Arguments of `fit` for the views of pictures."""

    roi: RoiSource | None = option(
        None,
        "region of interest: a mask file, in which white counts, or a rectangle in fractions of the picture, "
        '`"x0,y0,x1,y1"` or four numbers. With `align` it is a region of the first good picture, or of a '
        'named one, `"0,0,0.5,1@a/7.png"`, and moves with the part',
        record=FitOption(
            group=PICTURES,
            shared="roi",
            names_files=True,
            kept_by_update=True,
            changes_input=True,
            form=FormField(kind="region", pattern=r"^[\d.]+(,[\d.]+){3}$"),
        ),
        stored=stored.region,
    )
    channels: str | Channels | None = option(
        None,
        'groups of channels, for pictures with more than three: `"all"` is the colours as one group and each '
        'further channel as a group; `"1-3,4"` names groups by the channels\' numbers. Groups are judged '
        "together",
        record=FitOption(
            group=PICTURES,
            metavar="all|1-3,4|PATTERN",
            help="Judge more than three channels together: all (colours as a group, each further channel as "
            "a group), or groups by number; or files of a part under several lights, as {part}_{light}.png.",
            rare=True,
            kept_by_update=True,
            changes_input=True,
            search=NOTHING,
            # several: a group shows the same place as the others; light: each channel has its own light
            apart=("several", "light"),
        ),
        stored=stored.channels,
    )
    align: Align = option(
        "none",
        'how parts may lie: `"shift"` (shifted), `"turn"` (turned, too) or `"full"` (mirrored and at another '
        "scale, too). Each part is found, and its picture moved to the same pose. "
        '`"none"`: pictures stay as they are. `"auto"`: the good pictures show how parts lie',
        record=FitOption(
            group=VIEWS,
            choices=("none", "shift", "turn", "full", "auto"),
            metavar="HOW",
            help="Bring parts to one pose: shift, turn, full (mirrors), auto.",
            kept_by_update=True,
            changes_input=True,
            form=FormField(kind="choice", choices=("none", "shift", "turn", "full", "auto")),
        ),
        stored=stored.align,
    )
    several: bool = option(
        False,
        "find, count and judge several parts in each picture; `align` says how they may lie",
        record=FitOption(
            group=VIEWS,
            value=SWITCH,
            help="Find several parts in a picture, with --align.",
            kept_by_update=True,
            changes_input=True,
            apart=("part",),  # a file name would name one of many parts
            needs=("align", "give --align shift, turn or full"),
            form=FormField(kind="switch"),
        ),
        stored=stored.several,
    )
    min_defect: str | float | None = option(
        None,
        'size of the smallest defect to find, in pixels of the pictures, `20` or `"20px"`: it sets `tile` '
        "and `scale`",
        record=FitOption(
            group=VIEWS,
            metavar="Npx",
            help="Smallest defect to be found; it sets --tile.",
            kept_by_update=True,
            chooses=("tile", "scale"),
            changes_input=True,
            search=SIZES,
            apart=("tile", "scale", "size", "crop"),  # min_defect decides these settings
            form=FormField(kind="number", above=0, least=1, most=100_000),
        ),
    )
    scale_mm: float | None = option(
        None,
        "side of a pixel of the pictures in millimetres: reported regions then have sizes in millimetres",
        record=FitOption(group=VIEWS, shared="scale", kept_by_update=True),
        stored=stored.scale_mm,
    )
    light: Rate | None = option(
        None,
        'range of light in which the false-alarm rate holds, `0.1` or `"10%"`: brightness and contrast may '
        "differ by this share from those of the good pictures, white balance by half of it",
        record=FitOption(
            group=PROMISE,
            metavar="SHARE",
            help="Keep the rate in light that is up to 10%% brighter or darker.",
            kept_by_update=True,
            changes_input=True,
            benchmark=ALL_CELLS,
            form=FormField(kind="percent", above=0, least=1, most=30),
        ),
        stored=stored.light,
    )


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Arguments of `fit` for the time of learning, and for the pictures and files that it stores.

    Attributes:
        checkpoint: The .safetensors file for the state of a method that learns in steps. It stays when the
            learning ends: the caller removes it once the model is saved.
    """

    checkpoint: str | os.PathLike[str] | None = None
    minutes: float | None = option(
        None,
        "minutes in which a method that learns in steps must be done, calibration included. It overrides "
        "`steps`; the model's settings then hold the number of steps that were done",
        record=FitOption(
            group=METHOD,
            value=MINUTES,
            metavar="M",
            help="Minutes that {in_steps} may take.",
            exclusive="length",
            kept_by_update=True,
            search=NOTHING,
            benchmark=ALL_CELLS,
            form=FormField(kind="own", above=0, most=10_000),
        ),
    )
    resume: bool = option(
        False,
        "continue from the checkpoint",
        record=FitOption(
            group=METHOD,
            value=SWITCH,
            help="Continue a run that was stopped; with --auto: try the settings that had no time.",
            rare=True,
            kept_by_update=True,
            search=NOTHING,
        ),
    )
    samples: int = option(
        3,
        "pictures stored in the model for its self-test",
        record=FitOption(
            name="no_samples",
            group=RUNNING,
            value=SWITCH,
            switched=0,
            help="Store no pictures for the self-test.",
            rare=True,
            kept_by_update=True,
        ),
        stored=stored.samples,
    )
    looks: bool = option(
        True,
        "store small copies of the good pictures in the model: when it is calibrated or updated, pictures of "
        "the same parts are recognised by them",
        record=FitOption(
            name="no_looks",
            group=RUNNING,
            value=SWITCH,
            switched=False,
            help="Store no small copies of the good pictures: later, the same parts are not recognised.",
            rare=True,
            kept_by_update=True,
            fact="keeps_looks",
        ),
        stored=stored.looks,
    )
    check: bool = option(
        True,
        "measure the share of simulated defects that the model finds, in a tenth of the time at most",
        record=FitOption(
            name="no_check",
            group=PROMISE,
            value=SWITCH,
            switched=False,
            help="Do not measure what share of simulated defects the model finds.",
            rare=True,
        ),
    )


ARGUMENTS = (Reading, Seeing, Learning)


def types_of(arguments: type[DataclassInstance]) -> dict[str, object]:
    """Return the types of arguments by their names."""
    # names of types in the annotations, which the modules of the arguments import for type checkers only
    from flawscope.calibration.threshold import Rate
    from flawscope.pictures.channels import Channels
    from flawscope.pictures.decoding import SeenDefects
    from flawscope.views.pose import Align
    from flawscope.views.roi import RoiSource

    types = {
        "Rate": Rate,
        "Channels": Channels,
        "SeenDefects": SeenDefects,
        "Align": Align,
        "RoiSource": RoiSource,
    }
    return get_type_hints(arguments, localns=types)
