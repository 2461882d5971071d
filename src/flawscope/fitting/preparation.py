"""Prepares a fit: reads settings and pictures, and builds an untrained detector."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

import torch

from flawscope.calibration.parts import PartPattern
from flawscope.calibration.threshold import DEFAULT_RATE, Rate, parse_false_alarm_rate
from flawscope.datasets import Dataset, group_numbers, open_dataset
from flawscope.errors import InputError, require_type
from flawscope.fitting import alignment
from flawscope.fitting.picture_views import PartsOfPictures, Windows
from flawscope.fitting.training_pictures import (
    Images,
    Reader,
    RoiSource,
    SeenDefects,
    decoded_or_none,
    learn_normalization,
    learn_part_finding,
    learn_pose_reference,
    learn_region,
    look_at,
    read_defects,
    seen_defect_pairs,
    split_sources,
    survey,
)
from flawscope.methods import registry
from flawscope.methods.conflicts import check_options
from flawscope.methods.detector import Detector, resolve_device
from flawscope.methods.method import Method
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Task
from flawscope.pictures.defect_size import choose_tile, parse_pixels, reduction_remark
from flawscope.pictures.light import check_range
from flawscope.pictures.listing import relative_names
from flawscope.pictures.pose import PoseKind, PoseReference
from flawscope.pictures.preprocess import Preprocess
from flawscope.pictures.units import find_parts
from flawscope.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Say = Callable[[str], None]
Align = PoseKind | Literal["none", "auto"]
R = TypeVar("R", bound="DataclassInstance")


def discard(line: str) -> None:
    """Drops the line: a library prints nothing."""


@dataclass
class PreparedFit:
    """Untrained detector, and the arguments of its method's `fit`.

    origin: of pretrained weights. unusable: seen defects that cannot be used, each with the reason. windows:
    views of pictures, tiles or parts, by which it is fitted; None: by the pictures. chosen: a line on
    what `align` chose; None: nothing was chosen. force: pictures that are as far out as defects are good.
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
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of a fit that are not the method's: how pictures are read and chosen.

    category: its name, if the folder holds several.
    false_alarm_rate: share of good pictures that may be called anomalous, 0.05 or "5%".
    roi: region of interest, a mask file (white counts), or "x0,y0,x1,y1" or four numbers in fractions of the
        picture. With `align` it is drawn on the first good picture, or on another, "0,0,0.5,1@a/7.png", and
        moves with the part.
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
    force: go on where pictures show nothing, or are as far out as defects are.
    seen: defects to learn from too, for methods that do: how many to draw from the test pictures, evenly
        over their kinds; a folder of defective pictures with masks; a text file that lists such; or pairs
        of picture and mask. The model remembers them, and evaluation leaves them out.
    device: auto, cpu, cuda or mps.
    """

    category: str | None = None
    false_alarm_rate: Rate = DEFAULT_RATE
    roi: RoiSource | None = None
    light: Rate | None = None
    align: Align = "none"
    several: bool = False
    group: str | None = None
    part: str | None = None
    view: str | None = None
    min_defect: str | float | None = None
    drop_suspects: bool = False
    force: bool = False
    seen: SeenDefects = 0
    device: str = "auto"


def pop_options(record: type[R], options: dict[str, Any]) -> R:
    """Builds `record` from the options that are its fields, and removes these from `options`."""
    given = {f.name: options.pop(f.name) for f in fields(record) if f.name in options}
    hints = get_type_hints(record)
    for name, value in given.items():
        require_type(name, value, hints[name])
    return record(**given)


def prepare(
    images: Images,
    method: Method,
    *,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: Any,
) -> PreparedFit:
    """Prepares a fit: settings, pictures and an untrained detector.

    Args:
        settings, names: as `fitting.fit` takes them.
        **options: of `Reading`, and settings of the method where `settings` are not given.
    """
    how = pop_options(Reading, options)
    category, roi, group, seen, drop_suspects = how.category, how.roi, how.group, how.seen, how.drop_suspects
    rate = parse_false_alarm_rate(how.false_alarm_rate)  # a wrong one is reported before the work
    share = None if how.light is None else parse_light_range(how.light)
    config = registry.configure(method, preset, options) if settings is None else settings
    config = replace(config, hidden=roi is not None)
    check_alignment(how.align, _options_that_conflict(how, config, options))
    kind, chosen = None if how.align == "none" else how.align, None
    part = None if how.part is None else PartPattern(how.part, how.view)
    group = group or how.part
    min_defect = None if how.min_defect is None else parse_pixels(how.min_defect)
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
    names, views = list(names) or relative_names(sources), 1.0
    if part is None:
        groups = group_numbers(names, group)
    else:
        groups = part.part_numbers(names)
        views = len(groups) / (1 + max(groups, default=0))
    looks = look_at(sources, step)
    groups = find_parts(looks, names, groups, pattern=group, force=how.force, say=say)
    white_level, decoded, sizes = survey(sources)
    where = resolve_device(how.device)
    if kind == "auto":
        pictures = alignment.AlignmentTask(
            lambda i: decoded_or_none(sources[i]), len(sources), where, white_level, step
        )
        kind, chosen = alignment.choose_alignment(config.seed, pictures, groups)
    learnt = reference = None
    if kind is not None:
        decoder = Preprocess(white_level=white_level)
        if how.several:
            learnt = learn_part_finding(sources, decoder, kind)
            say(learnt.describe())
        reference = learn_pose_reference(sources, decoder, kind) if learnt is None else learnt.reference
        say(reference.describe())
    if min_defect is not None:
        found = _tiles_for(min_defect, config, _frame_sizes(config, reference, sizes), say)
        config = replace(registry.configure(method, preset, {**options, **found}), hidden=config.hidden)
    frames = _frame_sizes(config, reference, sizes)
    chosen_size = config.tile is not None or min_defect is not None or learnt is not None
    if not chosen_size and (remark := reduction_remark(frames, config.sizes[-1])):
        say("; ".join(remark))
    masked = kind is not None or (config.tile is not None and roi is not None)
    config = replace(config, masked=masked, upright=reference is not None and reference.rotates)
    places = None
    if config.tells_positions_apart is not False:
        places = _grid_shape(config, frames)
        if places is None:
            config = replace(config, positions="shared")
            if config.tile is not None:
                say("positions: shared, since the pictures do not have the same tiles")
    preprocess = replace(
        build_preprocess(config, white_level, places),
        reference=reference,
        several=None if learnt is None else learnt.settings,
    )
    region = None
    if roi is not None:
        region = torch.from_numpy(learn_region(roi, preprocess, sources, names, say))
    model, origin = method.create(config, None if config.tile is not None else region)
    mask, nearest = (None if one is None else one.numpy() for one in (region, model.nearest))
    if share is not None:
        normalization = learn_normalization(sources, preprocess, mask, share)
        preprocess = replace(preprocess, normalization=normalization)
    defects, unusable = read_defects(pairs, preprocess, mask, say)
    named = {digest: defects[0].name for digest, defects in defects.items()}
    reader = Reader(sources, preprocess, set(), named, mask, config.hidden, nearest)
    reader.names = names
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
        config = method.choose(model, windows.task(task))
        if not config.tells_positions_apart:
            reader.preprocess = replace(preprocess, positions=None)
            windows = Windows(reader, sizes, config.seed)
        model.config = config
    return PreparedFit(
        method,
        model,
        origin,
        category,
        reader,
        task,
        group,
        part,
        unusable,
        windows,
        chosen,
        how.force,
    )


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
    if config.tells_positions_apart is None or call.get("align") == "auto":
        return None
    prepared = prepare(images, asked, preset=preset, **call)
    task, windows = prepared.task, prepared.windows
    return asked.predict_peak(prepared.model, task if windows is None else windows.task(task))


def _options_that_conflict(
    how: Reading, config: PictureSettings, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options by name, as `find_conflicts` takes them."""
    reading = {f.name: getattr(how, f.name) for f in fields(how)}
    settings = {name: getattr(config, name) for name in ("tile", "crop", "keep_aspect")}
    given = {name: options.get(name) for name in ("scale", "size")}
    return {**reading, **settings, **given}


def check_alignment(align: Align, options: Mapping[str, Any]) -> None:
    """Checks how parts are to be aligned, and that the options go together.

    Args:
        options: as `find_conflicts` takes them.

    Raises:
        ConflictError: options do not go together. InputError: there is no such way to align.
    """
    if align not in (*get_args(PoseKind), "none", "auto"):
        raise InputError(f"align is {align!r:.40}; choose none, {', '.join(get_args(PoseKind))}, auto")
    check_options(options)


def parse_light_range(value: Rate) -> float:
    """Reads 0.1 or "10%" as a share. InputError where it is too large."""
    share = parse_false_alarm_rate(value)
    check_range(share)
    return share


def _frame_sizes(
    config: PictureSettings, reference: PoseReference | None, sizes: Sequence[tuple[int, int] | None]
) -> list[tuple[int, int]]:
    """Sizes of the frames of the pictures that can be read."""
    how = Preprocess(config.sizes[-1], reference=reference)
    return [how.frame_size(size) for size in sizes if size is not None]


def _tiles_for(
    min_defect: float, config: PictureSettings, known: Sequence[tuple[int, int]], say: Say
) -> dict[str, Any]:
    """Settings that make a defect of `min_defect` pixels large enough in frames of these sizes; a line says
    why they were chosen."""
    whole = config.sizes[-1]
    found = choose_tile(min_defect, known, whole=whole) if known else None
    if found is None:
        say(f"defects of {min_defect:g} px and more are large enough without tiles")
        return {}
    tile, scale = found
    left = f"{min_defect / scale:g} px at the network"
    say(f"defects of {min_defect:g} px: --tile {tile} --scale {scale:g}, which leaves {left}")
    return {"tile": tile, "scale": scale}


def _grid_shape(config: PictureSettings, sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Rows and columns of tiles, if they are the same in frames of these sizes; else None.

    Raises:
        InputError: there are none.
    """
    how = build_preprocess(config, None)
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
