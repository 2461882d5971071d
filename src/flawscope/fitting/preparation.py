"""Prepares a fit: reads settings and pictures, and builds an untrained detector."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.calibration.parts import PartPattern
from flawscope.calibration.threshold import DEFAULT_RATE, Rate, parse_false_alarm_rate
from flawscope.datasets import Dataset, group_numbers, open_dataset
from flawscope.errors import InputError
from flawscope.fitting import alignment
from flawscope.fitting.picture_views import PartsOfPictures, Windows
from flawscope.fitting.training_pictures import (
    Images,
    Reader,
    SeenDefects,
    decoded_or_none,
    learn_normalization,
    learn_part_finding,
    learn_pose_reference,
    read_defects,
    seen_defect_pairs,
    split_sources,
    survey,
)
from flawscope.methods import registry
from flawscope.methods.detector import Detector, resolve_device
from flawscope.methods.method import Method
from flawscope.methods.settings import AUTO, PictureSettings
from flawscope.methods.task import AutoSettingsTask, Task
from flawscope.pictures.defect_size import choose_tile, parse_pixels, reduction_remark
from flawscope.pictures.light import check_range
from flawscope.pictures.listing import relative_names
from flawscope.pictures.pose import PoseKind
from flawscope.pictures.preprocess import Preprocess
from flawscope.pictures.roi import read_roi
from flawscope.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Say = Callable[[str], None]
Align = PoseKind | Literal["none", "auto"]
RoiSource = str | os.PathLike[str] | NDArray[np.bool_] | None
R = TypeVar("R", bound="DataclassInstance")


def discard(line: str) -> None:
    """Drops the line: a library prints nothing."""


@dataclass
class PreparedFit:
    """Untrained detector, and the arguments of its method's `fit`.

    origin: of pretrained weights. unusable: seen defects that cannot be used, each with the reason. windows:
    views of pictures, tiles or parts, by which it is fitted; None: by the pictures. chosen: a line on
    what `align` chose; None: nothing was chosen.
    """

    method: Method
    model: Detector
    origin: dict[str, str]
    category: str
    reader: Reader
    task: Task
    group: str | None = None
    part: PartPattern | None = None
    unusable: Sequence[str] = ()
    windows: Windows | PartsOfPictures | None = None
    chosen: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of a fit that are not the method's: how pictures are read and chosen.

    category: its name, if the folder holds several.
    false_alarm_rate: share of good pictures that may be called anomalous, 0.05 or "5%".
    roi: region of interest, a mask file (white counts) or "x0,y0,x1,y1" in fractions of the picture.
    light: range of the light in which the false-alarm rate is kept, 0.1 or "10%": brightness and contrast
        differ by so much from the good pictures', white balance by half of it; None: light like theirs.
    group: regular expression on file names; pictures for which it matches the same text show one part.
    align: poses in which parts lie, "shift", "turn" (and shifted) or "full" (mirrored and at another scale,
        too): each is found and seen as if all lay alike; "none": pictures are seen as they are; "auto": as
        left-out good pictures and simulated defects say (`fitting.alignment`).
    several: pictures show several parts each: all are found, counted and judged; `align` says how they lie.
    part, view: regular expressions on file names that tell parts and their views apart, where one decision on
        all views of a part is wanted (`calibration.parts`); parts are left out whole.
    min_defect: the smallest defect that is to be found, in pixels of the pictures, 20 or "20px": chooses
        `tile` and `scale`.
    drop_suspects: leave out training pictures that do not look good.
    seen: defects to learn from too, for methods that do: how many to draw from the test pictures, evenly
        over their kinds; a folder of defective pictures with masks; a text file that lists such; or pairs
        of picture and mask. The model remembers them, and evaluation leaves them out.
    device: auto, cpu, cuda or mps.
    """

    category: str | None = None
    false_alarm_rate: Rate = DEFAULT_RATE
    roi: RoiSource = None
    light: Rate | None = None
    align: Align = "none"
    several: bool = False
    group: str | None = None
    part: str | None = None
    view: str | None = None
    min_defect: str | float | None = None
    drop_suspects: bool = False
    seen: SeenDefects = 0
    device: str = "auto"


def pop_options(record: type[R], options: dict[str, Any]) -> R:
    """Builds `record` from the options that are its fields, and removes these from `options`."""
    return record(**{f.name: options.pop(f.name) for f in fields(record) if f.name in options})


def prepare(
    images: Images,
    method: Method,
    *,
    preset: str = "default",
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: Any,
) -> PreparedFit:
    """Prepares a fit: settings, pictures and an untrained detector.

    Args:
        **options: of `Reading`, and settings of the method.
    """
    how = pop_options(Reading, options)
    category, roi, group, seen, drop_suspects = how.category, how.roi, how.group, how.seen, how.drop_suspects
    rate = parse_false_alarm_rate(how.false_alarm_rate)  # a wrong one is reported before the work
    share = None if how.light is None else parse_light_range(how.light)
    part = check_part_patterns(how.part, how.view, group)
    group = group or how.part
    config = registry.configure(method, preset, options)
    config = replace(config, hidden=roi is not None)
    kind, chosen = check_alignment(how.align, config, how)
    min_defect = None
    if how.min_defect is not None:
        min_defect = parse_pixels(how.min_defect)
        if given := [key for key in ("tile", "scale", "size", "crop") if key in options]:
            raise InputError(f"--min-defect chooses tiles and sizes: leave out --{given[0]}, or --min-defect")
    if drop_suspects and not method.finds_suspects:
        raise InputError(
            f"{method.name} does not look for suspicious pictures: find them with --method patchcore "
            "--drop-suspects"
        )
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=config.seed, group=group)
    pairs = seen_defect_pairs(seen, method, config.seed, images if isinstance(images, Dataset) else None)
    sources, reserved, category = split_sources(images, category)
    if not method.holds_out:
        reserved = []  # calibration is on the pictures learnt from
    sources = [*sources, *reserved]
    names, views = relative_names(sources), 1.0
    if part is None:
        groups = group_numbers(names, group)
    else:
        groups = part.part_numbers(names)
        views = len(groups) / (1 + max(groups, default=0))
    white_level, decoded, sizes = survey(sources)
    where = resolve_device(how.device)
    if min_defect is not None:
        options = {**options, **_tiles_for(min_defect, config, sizes, say)}
        config = replace(registry.configure(method, preset, options), hidden=config.hidden)
    undecided = AutoSettingsTask(
        lambda i: decoded_or_none(sources[i]),
        len(sources),
        device=where,
        roi=roi,
        white_level=white_level,
        say=say,
        step=step,
    )
    if kind == "auto":
        kind, chosen = alignment.choose_alignment(config.seed, undecided, groups)
    config = replace(config, masked=kind is not None)
    if config.size == AUTO and method.choose is not None:
        config = method.choose(config, undecided)
    elif (
        config.tile is None
        and min_defect is None
        and kind is None  # parts that are aligned are seen larger than pictures would be
        and (found := reduction_remark(_readable_sizes(sizes), config.sizes[-1]))
    ):
        say("; ".join(found))
    if config.tile is not None:
        if share is not None:
            raise InputError("--light does not go with tiles: leave out --tile and --min-defect, or --light")
        if drop_suspects:
            raise InputError("--drop-suspects does not go with tiles: fit, and move the pictures it lists")
        config = replace(config, masked=roi is not None)
    places = None
    if config.tells_positions_apart is not False:
        places = _grid_shape(config, _readable_sizes(sizes), white_level)
        if places is None:
            config = replace(config, positions="shared")
            if config.tile is not None:
                say("positions: shared, since the pictures do not have the same tiles")
    preprocess = build_preprocess(config, white_level, places)
    learnt = None
    if kind is not None:
        if how.several:
            learnt = learn_part_finding(sources, preprocess, kind)
            say(learnt.describe())
        reference = learn_pose_reference(sources, preprocess, kind) if learnt is None else learnt.reference
        several = None if learnt is None else learnt.settings
        preprocess = replace(preprocess, reference=reference, several=several)
        config = replace(config, upright=reference.rotates)
        say(reference.describe())
    region = None if roi is None else torch.from_numpy(read_roi(roi, preprocess.whole))
    model, origin = method.create(config, None if config.tile is not None else region)
    mask, nearest = (None if one is None else one.numpy() for one in (region, model.nearest))
    if share is not None:
        normalization = learn_normalization(sources, preprocess, mask, share)
        preprocess = replace(preprocess, normalization=normalization)
    defects, unusable = read_defects(pairs, preprocess, mask)
    named = {digest: defects[0].name for digest, defects in defects.items()}
    reader = Reader(sources, preprocess, set(), named, mask, config.hidden, nearest)
    windows: Windows | PartsOfPictures | None = None
    if learnt is not None:
        windows = PartsOfPictures(reader, learnt)
    elif config.tile is not None:
        windows = Windows(reader, sizes, config.seed)
    task = Task(
        reader.load,
        len(sources),
        rate=rate,
        groups=groups,
        drop_suspects=drop_suspects,
        reserved=range(len(sources) - len(reserved), len(sources)),
        settle=reader.without_copies,
        seen=[defect for several in defects.values() for defect in several],
        decoded_bytes=decoded,
        views_per_picture=views,
        say=say,
        step=step,
    )
    model = model.to(where)
    if config.tells_positions_apart is None and windows is not None and method.choose is not None:
        config = method.choose(config, replace(undecided, model=model, task=windows.task(task)))
        if not config.tells_positions_apart:
            reader.preprocess = build_preprocess(config, white_level)
            windows = Windows(reader, sizes, config.seed)
        model.config = config
    return PreparedFit(method, model, origin, category, reader, task, group, part, unusable, windows, chosen)


def predict_peak_memory(
    images: Images, *, method: str = "patchcore", preset: str = "default", **call: Any
) -> int | None:
    """Predicts the peak memory of a fit's process, in bytes; None where the method predicts nothing, or where
    settings that decide it are chosen by looking at the pictures.

    Args:
        images, method, preset, **call: as `prepare` takes them, which reads the sizes of the pictures.

    Raises:
        InputError: the fit cannot be begun.
    """
    asked = registry.method(method)
    if asked.predict_peak is None:
        return None
    options = {k: v for k, v in call.items() if k in asked.config.__dataclass_fields__ or k == "scale"}
    config = registry.configure(asked, preset, options)
    if config.size == AUTO or config.tells_positions_apart is None or call.get("align") == "auto":
        return None
    prepared = prepare(images, asked, preset=preset, **call)
    task, windows = prepared.task, prepared.windows
    return asked.predict_peak(prepared.model, task if windows is None else windows.task(task))


def check_part_patterns(part: str | None, view: str | None, group: str | None) -> PartPattern | None:
    """Checks the patterns of parts and views. InputError: wrong ones, or such that do not go together."""
    if part is None:
        if view is not None:
            raise InputError("--view tells the views of a part apart: give --part too")
        return None
    if group is not None:
        raise InputError("--part leaves out whole parts by itself: leave out --group")
    return PartPattern(part, view)


def check_alignment(
    align: Align, config: PictureSettings, how: Reading
) -> tuple[PoseKind | Literal["auto"] | None, str | None]:
    """Checks how parts are to be aligned; None: not at all, with a line where `auto` has no choice.

    Raises:
        InputError: there is no such way, or it does not go with the other options.
    """
    if how.several:
        given = {"--part": how.part, "--light": how.light, "--drop-suspects": how.drop_suspects}
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise InputError(f"--several does not go with {wrong[0]}: leave one of them out")
        if align in ("none", "auto"):
            raise InputError("--several needs to know how parts lie: give --align shift, turn or full")
    if align == "none":
        return None, None
    if align not in (*get_args(PoseKind), "auto"):
        raise InputError(f"align is {align!r:.40}; choose none, {', '.join(get_args(PoseKind))}, auto")
    given = {
        "--roi": how.roi is not None,
        "--min-defect": how.min_defect is not None,
        "--tile": config.tile is not None,
        "--crop": config.crop is not None,
        "--keep-aspect": config.keep_aspect,
        "--size auto": config.size == AUTO,
    }
    if not (wrong := [name for name, is_given in given.items() if is_given]):
        return align, None
    if align == "auto":
        return None, f"align auto: none, which alone goes with {wrong[0]}"
    raise InputError(f"--align does not go with {wrong[0]}: leave one of them out")


def parse_light_range(value: Rate) -> float:
    """Reads 0.1 or "10%" as a share. InputError where it is too large."""
    share = parse_false_alarm_rate(value)
    check_range(share)
    return share


def _readable_sizes(sizes: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    return [size for size in sizes if size is not None]


def _tiles_for(
    min_defect: float, config: PictureSettings, sizes: Sequence[tuple[int, int] | None], say: Say
) -> dict[str, Any]:
    """Settings that make a defect of `min_defect` pixels large enough; a line says why they were chosen."""
    known, whole = _readable_sizes(sizes), config.sizes[-1]
    found = choose_tile(min_defect, known, whole=whole) if known else None
    if found is None:
        say(f"defects of {min_defect:g} px and more are large enough without tiles")
        return {}
    tile, scale = found
    left = f"{min_defect / scale:g} px at the network"
    say(f"defects of {min_defect:g} px: --tile {tile} --scale {scale:g}, which leaves {left}")
    return {"tile": tile, "scale": scale}


def _grid_shape(
    config: PictureSettings, sizes: Sequence[tuple[int, int]], white_level: float | None
) -> tuple[int, int] | None:
    """Rows and columns of tiles, if they are the same in all pictures; else None.

    Raises:
        InputError: there are none.
    """
    how = build_preprocess(config, white_level)
    if config.tile is None and config.tells_positions_apart:
        raise InputError("--positions each is for tiles: give --tile or --min-defect too, or leave it out")
    grids = [] if config.tile is None else [how.grid(size) for size in sizes]
    shapes = {grid.shape for grid in grids if grid is not None}
    if len(shapes) == 1 and math.prod(one := shapes.pop()) > 1:
        return one
    if config.tells_positions_apart is None:
        return None
    found = " and ".join(sorted(f"{width}x{height}" for height, width in {*sizes}))
    raise InputError(
        f"--positions each needs pictures with the same tiles, at least two, and these have {found:.100} "
        "pixels: leave it out, or choose another --tile"
    )


def build_preprocess(
    config: PictureSettings, white_level: float | None, places: tuple[int, int] | None = None
) -> Preprocess:
    """Returns the preprocessing for a method's picture settings.

    Args:
        places: rows and columns of tiles that are told apart.
    """
    return Preprocess(
        config.sizes[-1],
        config.keep_aspect,
        config.crop,
        white_level,
        tile=config.tile,
        overlap=config.overlap_share,
        positions=places,
    )
