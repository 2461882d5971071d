"""Arguments of `fit` that are no settings of a method.

Each field is an option, with its record: a further option is a field here and the line that uses it.
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
        "regular expression on file names; pictures for which it matches the same text show one part",
        record=FitOption(group=PICTURES, shared="group", benchmark=ALL_CELLS),
        stored=stored.group,
    )
    part: str | None = option(
        None,
        "regular expression on file names that tells parts apart, where one decision on all views of a part "
        "is wanted; parts are left out whole",
        record=FitOption(
            group=PICTURES,
            shared="part",
            rare=True,
            kept_by_update=True,
            search=NOTHING,
            apart=("group",),  # whole parts are left out already
            form=FormField(kind="text", pattern="^.{1,1000}$"),
        ),
        stored=stored.part,
    )
    view: str | None = option(
        None,
        "regular expression on file names that tells the views of a part apart",
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
        "defects to learn from too, for methods that do: how many to draw from the test pictures, evenly "
        "over their kinds; a folder of defective pictures with masks; a text file that lists such; or pairs "
        "of picture and mask. The model remembers them, and evaluation leaves them out",
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
        "go on where pictures show nothing, or are as far out as defects are",
        record=FitOption(
            group=PROMISE,
            value=SWITCH,
            help="Accept what a question names: all are good.",
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
        'region of interest, a mask file (white counts), or `"x0,y0,x1,y1"` or four numbers in fractions of '
        "the picture. With `align` it is drawn on the first good picture, or on another, "
        '`"0,0,0.5,1@a/7.png"`, and moves with the part',
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
        'channels of pictures that have more than three, judged together: `"all"`, colours together and each '
        'other one by itself, or groups by the channels\' numbers, `"1-3,4"`',
        record=FitOption(
            group=PICTURES,
            metavar="all|1-3,4|PATTERN",
            help="Judge more channels than three together: colours, and each other one by itself (all), or "
            "groups by numbers; or files of one part under several lights, such as {part}_{light}.png.",
            rare=True,
            kept_by_update=True,
            changes_input=True,
            search=NOTHING,
            apart=("several", "light"),  # views of one place; each channel has its own light
        ),
        stored=stored.channels,
    )
    align: Align = option(
        "none",
        'poses in which parts lie, `"shift"`, `"turn"` (and shifted) or `"full"` (mirrored and at another '
        'scale, too): each is found and seen as if all lay alike; `"none"`: pictures are seen as they are; '
        '`"auto"`: as they lie in the good pictures',
        record=FitOption(
            group=VIEWS,
            choices=("none", "shift", "turn", "full", "auto"),
            metavar="HOW",
            help="Find parts that lie apart: shift, turn, full (mirrors), auto.",
            kept_by_update=True,
            changes_input=True,
            form=FormField(kind="choice", choices=("none", "shift", "turn", "full", "auto")),
        ),
        stored=stored.align,
    )
    several: bool = option(
        False,
        "pictures show several parts each: all are found, counted and judged; `align` says how they lie",
        record=FitOption(
            group=VIEWS,
            value=SWITCH,
            help="Find several parts in a picture, with --align.",
            kept_by_update=True,
            changes_input=True,
            apart=("part",),  # each of its parts would have a name
            needs=("align", "give --align shift, turn or full"),
            form=FormField(kind="switch"),
        ),
        stored=stored.several,
    )
    min_defect: str | float | None = option(
        None,
        'smallest defect that is to be found, in pixels of the pictures, `20` or `"20px"`: chooses `tile` '
        "and `scale`",
        record=FitOption(
            group=VIEWS,
            metavar="Npx",
            help="Smallest defect to be found; it sets --tile.",
            kept_by_update=True,
            chooses=("tile", "scale"),
            changes_input=True,
            search=SIZES,
            apart=("tile", "scale", "size", "crop"),  # it chooses them
            form=FormField(kind="number", above=0, least=1, most=100_000),
        ),
    )
    scale_mm: float | None = option(
        None,
        "millimetres that a pixel of the pictures is long: regions have sizes",
        record=FitOption(group=VIEWS, shared="scale", kept_by_update=True),
        stored=stored.scale_mm,
    )
    light: Rate | None = option(
        None,
        'range of the light in which the false-alarm rate is kept, `0.1` or `"10%"`: brightness and contrast '
        "differ by so much from the good pictures', white balance by half of it",
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
    """Arguments of `fit` for the time of learning, and for the kept pictures and files.

    Attributes:
        checkpoint: The .safetensors file that holds the state of a method that learns in steps, also after
            it has learnt; the caller removes it once the model is saved.
    """

    checkpoint: str | os.PathLike[str] | None = None
    minutes: float | None = option(
        None,
        "minutes after which a method that learns in steps must be done, with all that comes after learning. "
        "Wins over `steps`; how many there were stands in the model's settings",
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
        "go on where the checkpoint stops",
        record=FitOption(
            group=METHOD,
            value=SWITCH,
            help="Go on where a run that was stopped left off; with --auto: with what had no time.",
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
        "keep small pictures of the good ones in the model, by which these and their parts are known again "
        "when the model is calibrated or updated",
        record=FitOption(
            name="no_looks",
            group=RUNNING,
            value=SWITCH,
            switched=False,
            help="Store no small pictures of the good ones: copies of them are not known again later.",
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
