"""Prepares a fit: reads settings and pictures, and builds an untrained detector."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.parts import PartPattern, name_reader
from flawscope.calibration.threshold import DEFAULT_RATE, Rate, parse_false_alarm_rate
from flawscope.datasets import Dataset, open_dataset
from flawscope.datasets.mask_remarks import refuse_marked_good
from flawscope.errors import InputError, check_one_each, require_type
from flawscope.fitting.first_look import (
    FirstLook,
    learn_normalization,
    learn_part_finding,
    look_at_parts,
    look_first,
)
from flawscope.fitting.region import check_region, learn_region
from flawscope.fitting.seen_defects import read_defects, seen_defect_pairs
from flawscope.fitting.sources import Images, part_reader, pattern_of, split_sources
from flawscope.fitting.training_views import Reader, TrainingViews, nearest_of, number_views
from flawscope.fitting.windows import Sizes
from flawscope.methods import registry
from flawscope.methods.detector import Detector, resolve_device
from flawscope.methods.features.weights import locate
from flawscope.methods.method import Method, WeightsOrigin, not_in_model_error
from flawscope.methods.options import check_options
from flawscope.methods.options.arguments import Reading, Seeing, types_of
from flawscope.methods.options.record import records_of
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Task, TaskViews
from flawscope.pictures.channels import Channels
from flawscope.pictures.decoded import DecodedPictures, Survey
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.defect_size import choose_tile, parse_pixels, reduction_remark
from flawscope.pictures.form import mixed_sizes, size_text
from flawscope.pictures.listing import picture_names, relative_names
from flawscope.progress import Detail, ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Json
from flawscope.views.congealing import learn_reference, poses_needed
from flawscope.views.light import MAX_RANGE, check_range
from flawscope.views.pose import Align, PoseKind
from flawscope.views.preprocess import Preprocess
from flawscope.views.several_parts_learning import LearnedParts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Settings that name networks; those that name files of networks are `PictureSettings.PATHS`
NETWORKS = ("backbone", "stages", "second_backbone", "second_stages")
R = TypeVar("R", bound="DataclassInstance")


@dataclass
class PreparedFit:
    """Untrained detector, and the arguments of its method's `fit`.

    Attributes:
        method: The method.
        model: The untrained detector.
        origin: Origin of pretrained weights.
        category: Name of the category.
        reader: Reader of the pictures.
        task: Task with the pictures as the numbered items.
        views: Views of the pictures, which are learnt from.
        group: Regular expression of parts; None: there is none.
        part: Pattern of parts and views; None: there is none.
        unusable: Why seen defects cannot be used, a line for each.
        chosen: Line on the choice of `align`; None: nothing was chosen.
        force: Whether pictures that are as far out as defects are good.
        scale_mm: Millimetres of a pixel; None: not known.
        remarks: Remarks on pictures that show nothing, and on those that show the same part, or may.
        kept: Options that the model keeps among its facts.
    """

    method: Method
    model: Detector
    origin: dict[str, str]
    category: str
    reader: Reader
    task: Task
    views: TrainingViews
    group: str | None = None
    part: PartPattern | None = None
    unusable: Sequence[str] = ()
    chosen: str | None = None
    force: bool = False
    scale_mm: float | None = None
    remarks: Sequence[str] = ()
    kept: Mapping[str, object] = field(default_factory=dict)


def pop_options(record: type[R], options: dict[str, Any]) -> R:
    """Build a record from the options that are its fields; they are removed from `options`, in place.

    Raises:
        InputError: An option has the wrong type.
    """
    names = [record_field.name for record_field in fields(record)]
    values = {name: options.pop(name) for name in names if name in options}
    types = types_of(record)
    for name, value in values.items():
        require_type(name, value, types[name])
    return record(**values)


def option_facts(arguments: DataclassInstance) -> dict[str, object]:
    """Return the facts in which a model stores the options that differ from their defaults."""
    facts = dict[str, object]()
    for option in records_of(type(arguments)):
        value = getattr(arguments, option.argument)
        if option.fact and value != option.default:
            facts[option.fact] = value
    return facts


def prepare(
    images: Images,
    method: Method,
    *,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    parts: Sequence[int] | None = None,
    networks_of: Artefact | None = None,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> PreparedFit:
    """Prepare a fit: settings, pictures and an untrained detector.

    Args:
        images: Pictures, as `fitting.fit` takes them.
        method: The method.
        preset: Named settings of the method.
        settings: All settings of the method, in place of a preset and single ones.
        names: Names of the pictures, as `fitting.fit` takes them.
        parts: Number of the part that each good picture shows; None: names and near-duplicates decide.
        networks_of: Fitted model with the same settings; its pretrained networks are used. None: the networks
            that the settings name are used.
        say: Gets lines for a person.
        step: Gets progress.
        **options: Fields of `Seeing` and `Reading`; and settings of the method, if `settings` is None.

    Raises:
        InputError: Wrong settings, no usable pictures, no weights.
    """
    seeing = pop_options(Seeing, options)
    reading = pop_options(Reading, options)
    steps = _Steps(seeing, reading, method, preset, options, say, step)
    config = steps.check(settings)
    # Networks are checked before the pictures are read. The detector that is built for the check is used
    # later, unless the pictures change its settings.
    checked_config = config
    checked_detector_and_origin = None
    if settings is None:
        checked_detector_and_origin = check_networks(method, config, options)
    elif networks_of is not None:
        checked_detector_and_origin = create_detector(method, config, inside=None, networks_of=networks_of)
    pictures = steps.open_pictures(images, names, parts, config.seed)
    frames = steps.find_frames(pictures)
    if settings is None:  # complete settings stay as they are
        config = steps.see_in_form(config, frames, pictures)
    config = steps.choose_tiles(config, frames, pictures)
    preprocess, roi = steps.see(frames.of(config), pictures)
    # with tiles, views mark the pixels outside the region; without tiles, the detector leaves them out
    region, inside = (roi, None) if config.tile is not None else (None, roi)
    if checked_detector_and_origin is not None and inside is None and config == checked_config:
        model, origin = checked_detector_and_origin
    else:
        model, origin = create_detector(method, config, inside, networks_of)
    defects, unusable = read_defects(pictures.chosen.pairs, preprocess, roi, say)
    near_looks = {
        number: picture.look
        for number, picture in enumerate(pictures.first_look.seen_pictures)
        if picture.look is not None
    }
    reader = Reader(
        pictures.chosen.sources,
        preprocess,
        known=set(),
        names=pictures.chosen.names,
        defects={digest: images_of_defect[0].name for digest, images_of_defect in defects.items()},
        near_looks=near_looks,
        roi=roi,
        region=region,
        hidden=model.config.hidden,
        nearest=nearest_of(model),
        pictures=pictures.decoded,
    )
    views = number_views(reader, pictures.surveyed.sizes, model.config.seed, frames.learnt)
    task = Task(
        reader.load,
        pictures.first_look.units,
        rate=steps.rate,
        drop_suspects=reading.drop_suspects,
        reserved=pictures.chosen.reserved,
        settle=reader.without_copies,
        seen=[image for images_of_defect in defects.values() for image in images_of_defect],
        decoded_bytes=pictures.surveyed.largest,
        views=TaskViews(pictures.views_per_part),
        say=say,
        step=step,
    )
    return PreparedFit(
        method,
        model.to(steps.device),
        origin,
        pictures.chosen.category,
        reader,
        task,
        views,
        group=reading.group or reading.part,
        part=pictures.pattern,
        unusable=unusable,
        chosen=frames.chosen,
        force=reading.force,
        scale_mm=seeing.scale_mm,
        remarks=pictures.first_look.remarks,
        kept=option_facts(seeing) | option_facts(reading),
    )


class _ChosenPictures(NamedTuple):
    """Pictures that a fit reads.

    Attributes:
        sources: The good pictures.
        names: Names of the good pictures.
        reserved: Numbers of the good pictures that the data set sets apart.
        category: Name of the category.
        pairs: Seen defects, each with its masks.
    """

    sources: list[PictureSource]
    names: list[str]
    reserved: range
    category: str
    pairs: list[tuple[PictureSource, list[PictureSource]]]


@dataclass(frozen=True)
class _Pictures:
    """Good pictures, and the facts that are known before views are cut.

    Attributes:
        chosen: The pictures that the fit reads.
        pattern: Pattern of parts in views; None: there is none.
        views_per_part: Number of views of a part, on average.
        surveyed: Sizes and levels of the pictures.
        preprocess: Preprocessing of the pictures, before frames are found.
        decoded: The pictures, decoded.
        first_look: Looks and parts of the pictures.
    """

    chosen: _ChosenPictures
    pattern: PartPattern | None
    views_per_part: float
    surveyed: Survey
    preprocess: Preprocess
    decoded: DecodedPictures
    first_look: FirstLook


class _Frames(NamedTuple):
    """Frames of the pictures.

    Attributes:
        preprocess: Preprocessing up to the frames.
        learnt: Settings and counts of several parts in a picture; None: each picture is one frame.
        chosen: Line on the choice of `align`; None: nothing was chosen.
    """

    preprocess: Preprocess
    learnt: LearnedParts | None = None
    chosen: str | None = None

    def of(self, config: PictureSettings) -> Preprocess:
        """Return the preprocessing with a method's picture settings."""
        return replace(
            self.preprocess,
            size=config.sizes[-1],
            keep_aspect=config.keep_aspect,
            crop=config.crop,
            tile=config.tile,
            overlap=config.overlap_share,
        )

    def sizes(self, config: PictureSettings, pictures: Sizes) -> list[tuple[int, int]]:
        """Return the sizes of the frames of the pictures that can be read."""
        how = replace(self.preprocess, size=config.sizes[-1])
        return [how.frame_size(size) for size in pictures if size is not None]


@dataclass
class _Steps:
    """Steps of a preparation, in their order.

    Attributes:
        how: Options that say how pictures are seen.
        which: Options that say which pictures are read.
        method: The method.
        preset: Named settings of the method.
        options: Settings of the method.
        say: Gets lines for a person.
        step: Gets progress.
        rate: False-alarm rate, after `check`.
        light: Share by which the light may vary, after `check`; None: light is not normalized.
        device: Device of the fit, after `check`.
    """

    how: Seeing
    which: Reading
    method: Method
    preset: str
    options: Mapping[str, Any]
    say: Say
    step: ProgressCallback
    rate: float = field(init=False)
    light: float | None = field(init=False)
    device: torch.device = field(init=False)

    def check(self, settings: PictureSettings | None) -> PictureSettings:
        """Check the options, set `rate`, `light` and `device`, and return the settings of the method.

        Args:
            settings: All settings of the method; None: they follow from preset and options.

        Raises:
            InputError: Options are wrong, or do not go together.
        """
        how = self.how
        which = self.which
        method = self.method
        config = registry.configure(method, self.preset, self.options) if settings is None else settings
        method_options = {name: getattr(config, name) for name in ("tile", "crop", "keep_aspect")}
        method_options |= {name: self.options.get(name) for name in ("scale", "size")}
        check_alignment(how.align, {**vars(how), **vars(which), **method_options})
        if which.drop_suspects and not method.finds_suspects:
            raise InputError(
                f"{method.name} does not look for suspicious pictures: find them with --method patchcore "
                "--drop-suspects"
            )
        # wrong values are reported here, before the work
        self.rate = parse_false_alarm_rate(which.false_alarm_rate or DEFAULT_RATE)
        self.light = None if how.light is None else parse_light_range(how.light)
        self.device = resolve_device(which.device)
        return config

    def _choose(self, images: Images, names: Sequence[str], seed: int) -> _ChosenPictures:
        """Choose the pictures that the method is fitted on.

        Raises:
            InputError: There are no usable pictures.
        """
        which = self.which
        method = self.method
        if isinstance(images, str | os.PathLike):
            split_by = name_reader(which.group, which.part, which.view)
            images = open_dataset(os.fspath(images), which.category, seed=seed, group=split_by)
        dataset = None
        if isinstance(images, Dataset):
            dataset = images
            for line in refuse_marked_good(dataset, which.force):
                self.say(line)
        pairs = seen_defect_pairs(which.seen, method, seed, dataset, self.say)
        learnt, reserved, category = split_sources(images, which.category)
        # a method that holds nothing out is calibrated on the pictures learnt from: it needs no reserved ones
        sources = [*learnt, *reserved] if method.holds_out else [*learnt]
        if len(names):  # `names` also name the reserved pictures, which come last
            source_names = picture_names([*learnt, *reserved], names)[: len(sources)]
        else:
            source_names = relative_names(sources)
        # the range has the numbers of the reserved pictures
        return _ChosenPictures(sources, source_names, range(len(learnt), len(sources)), category, pairs)

    def open_pictures(
        self, images: Images, names: Sequence[str], parts: Sequence[int] | None, seed: int
    ) -> _Pictures:
        """Choose the pictures; read their sizes, levels, looks and parts; report remarks on them.

        Args:
            images: Pictures, as `fitting.fit` takes them.
            names: Names of the pictures; empty: those of their files.
            parts: Number of the part that each picture shows; None: names and near-duplicates decide.
            seed: Seed by which a folder is split.

        Raises:
            InputError: There are no usable pictures, or options do not fit the pictures.
        """
        which = self.which
        pattern = pattern_of(which)
        chosen = self._choose(images, names, seed)
        if parts is not None:
            check_one_each(len(chosen.sources), part=parts)
        part_of = part_reader(chosen.names, which.group or which.part, pattern)
        views_per_part = 1.0 if pattern is None else _mean_view_count(chosen.names, pattern)
        channels = self.how.channels
        if isinstance(channels, str):
            channels = Channels.of(channels, chosen.sources)
        decoded = DecodedPictures(chosen.sources, channels)
        surveyed = decoded.survey()
        check_region(self.how.roi, chosen.sources, chosen.names, surveyed.sizes)
        preprocess = Preprocess.of_levels(surveyed.levels, channels=channels)
        is_aligned = self.how.align != "none" and not self.how.several
        reduce = preprocess.small if is_aligned else None
        if parts is None:
            first_look = look_first(decoded, chosen.names, part_of, which.force, self.step, reduce)
        elif reduce is not None:
            first_look = look_at_parts(decoded, [*parts], self.step, reduce)
        else:
            first_look = FirstLook([*parts])
        for line in (*first_look.remarks, *surveyed.remarks):
            self.say(line)
        return _Pictures(chosen, pattern, views_per_part, surveyed, preprocess, decoded, first_look)

    def find_frames(self, pictures: _Pictures) -> _Frames:
        """Learn how to find the parts in the pictures, as the option `align` says, and report the result.

        Raises:
            InputError: Parts cannot be aligned, or several parts cannot be found.
        """
        preprocess = pictures.preprocess
        seen_pictures = pictures.first_look.seen_pictures
        small_pictures = [picture.small for picture in seen_pictures if picture.small is not None]
        choice_line = None
        aligned = None  # parts that `poses_needed` has aligned; None: it has aligned none
        kind: PoseKind | None = None
        if self.how.align == "auto":  # `fit --auto` chooses frames in the same way
            needed = poses_needed(small_pictures)
            if needed is not None:
                kind, aligned = needed
            choice_line = f"align auto: {kind or 'none'}, as the parts lie in the good pictures"
            self.say(choice_line)
        elif self.how.align != "none":
            kind = self.how.align
        if kind is None:
            return _Frames(preprocess, chosen=choice_line)
        learnt = None
        if self.how.several:
            learnt = learn_part_finding(pictures.decoded, preprocess, kind)
            self.say(learnt.describe())
            reference = learnt.reference
        else:
            reference = learn_reference(small_pictures, kind, aligned)
        description = reference.describe()
        self.say(Detail(description) if np.isfinite(reference.errors).all() else description)
        several = None if learnt is None else learnt.settings
        preprocess = replace(preprocess, reference=reference, several=several)
        return _Frames(preprocess, learnt, choice_line)

    def see_in_form(self, config: PictureSettings, frames: _Frames, pictures: _Pictures) -> PictureSettings:
        """Return settings whose sizes have the aspect ratio of the pictures.

        Where parts are aligned, sizes stay as they are: an aligned part's frame is a square.
        """
        sizes = [size for size in pictures.surveyed.sizes if size is not None]
        # views of a part may differ in size
        several_sizes = mixed_sizes(sizes) if pictures.pattern is None else ""
        if several_sizes:
            self.say(
                f"pictures of several sizes: {several_sizes}; "
                "of several cameras, give each a model of its own"
            )
        if frames.preprocess.reference is not None:
            return config
        config_in_form = config.in_form(sizes)
        if config_in_form.size != config.size:
            line = (
                f"--size {config_in_form.size}: as many pixels as {config.size}, in the form of the pictures"
            )
            self.say(Detail(line))
        return config_in_form

    def choose_tiles(self, config: PictureSettings, frames: _Frames, pictures: _Pictures) -> PictureSettings:
        """Return settings with the tiles for `min_defect`, and with `masked`, `upright` and `hidden` set."""
        how = self.how
        sizes = frames.sizes(config, pictures.surveyed.sizes)
        if how.min_defect is not None:
            tiles = self._choose_tile_settings(parse_pixels(how.min_defect), config, sizes)
            if tiles:
                config = registry.configure(self.method, self.preset, {**self.options, **tiles})
        elif config.tile is None and not how.several:
            remark_and_remedy = reduction_remark(sizes, config.sizes[-1])
            if remark_and_remedy:
                self.say("; ".join(remark_and_remedy))
        reference = frames.preprocess.reference
        masked = reference is not None or (config.tile is not None and how.roi is not None)
        upright = reference is not None and reference.rotates
        return replace(config, masked=masked, upright=upright, hidden=how.roi is not None)

    def _choose_tile_settings(
        self, min_defect: float, config: PictureSettings, frame_sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """Choose tiles that make a small defect large enough for the network, and say why.

        Returns:
            The settings `tile` and `scale`; empty if defects are large enough without tiles.

        Args:
            min_defect: Length of the smallest defect, in pixels.
            config: Settings of the method.
            frame_sizes: (H, W) of the frames.
        """
        choice = None
        if frame_sizes:
            choice = choose_tile(min_defect, frame_sizes, config.sizes[-1], config.step)
        if choice is None:
            self.say(f"defects of {min_defect:g} px and more are large enough without tiles")
            return {}
        tile_size, scale = choice
        tile = size_text(tile_size)
        flags = f"--tile {tile} --set scale={scale:g}"
        self.say(
            f"defects of {min_defect:g} px: {flags}, which leaves {min_defect / scale:g} px at the network"
        )
        return {"tile": tile, "scale": scale}

    def see(self, preprocess: Preprocess, pictures: _Pictures) -> tuple[Preprocess, NDArray[np.bool_] | None]:
        """Return the preprocessing with normalization of light, and the region of interest.

        The region is a mask [H, W]; None: all counts.
        """
        region = None
        if self.how.roi is not None:
            chosen = pictures.chosen
            region = learn_region(self.how.roi, preprocess, chosen.sources, chosen.names, self.say)
        if self.light is None:
            return preprocess, region
        normalization = learn_normalization(pictures.decoded, preprocess, region, self.light)
        return replace(preprocess, normalization=normalization), region


def _mean_view_count(names: Sequence[str], pattern: PartPattern) -> float:
    """Return the number of views of a part, on average."""
    parts = {view.part for view in pattern.parse_all(names)}
    return len(names) / max(1, len(parts))


def create_detector(
    method: Method,
    config: PictureSettings,
    inside: NDArray[np.bool_] | None,
    networks_of: Artefact | None = None,
) -> tuple[Detector, WeightsOrigin]:
    """Build an untrained detector, and return the origin of its pretrained weights with it.

    Args:
        method: The method.
        config: Settings of the method.
        inside: Region of interest [H, W] at the network's size; None: all counts.
        networks_of: Fitted model whose pretrained networks are used; None: the networks that the settings
            name are used.

    Raises:
        InputError: The fitted model does not contain networks that the fit needs, and stores only the names
            of their files.
    """
    roi = None if inside is None else torch.from_numpy(inside)
    if networks_of is None:
        return method.create(config, roi)
    if method.create_like is not None and not networks_of.manifest.is_exported:
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in networks_of.tensors.items()}
        return method.create_like(config, roi, tensors), networks_of.manifest.backbone
    for setting in config.PATHS:
        if name := getattr(config, setting):
            raise not_in_model_error(setting, name)
    return method.create(config, roi)


def check_networks(
    method: Method, config: PictureSettings, names: Collection[str]
) -> tuple[Detector, WeightsOrigin] | None:
    """Check that the networks of a fit are available, before pictures are read.

    Args:
        method: The method.
        config: Settings of the method.
        names: Names of the settings that the user gave.

    Returns:
        The detector and the origin of its weights, if the user chose networks: the detector is built to check
        them. None: the user chose no networks.

    Raises:
        InputError: A network is not available.
    """
    user_chose_networks = bool({*NETWORKS, *config.PATHS} & {*names})
    if user_chose_networks:
        return method.create(config)
    for name in NETWORKS:
        backbone = getattr(config, name, None)
        if isinstance(backbone, str):
            locate(backbone)
    return None


def predict_peak_memory(
    images: Images, *, method: str = "patchcore", preset: str = "default", **call: object
) -> int | None:
    """Predict the peak memory of a fit's process, in bytes; None: not known.

    The memory is not known if the method has no prediction, or if settings are chosen from the pictures.

    Args:
        images: Pictures, as `prepare` takes them; their sizes are read.
        method: Name of the method.
        preset: Named settings of the method.
        **call: Further arguments of `prepare`.

    Raises:
        InputError: The fit cannot be begun.
    """
    method_record = registry.method(method)
    if method_record.predict_peak is None or call.get("align") == "auto":
        return None
    arguments: Json = call
    prepared = prepare(images, method_record, preset=preset, **arguments)
    return method_record.predict_peak(prepared.model, prepared.views.task(prepared.task))


def check_alignment(align: Align, options: Mapping[str, Any]) -> None:
    """Check the choice of `align`, and that `options` go together.

    Raises:
        ConflictError: The options do not go together.
        InputError: There is no such way to align.
    """
    if align not in (*get_args(PoseKind), "none", "auto"):
        raise InputError(f"align is {align!r:.40}; choose none, {', '.join(get_args(PoseKind))}, auto")
    check_options(options)


def parse_light_range(value: Rate) -> float:
    """Parse a range of light, such as 0.1 or "10%", and return it as a share.

    Raises:
        InputError: The value is no share above 0, or larger than `MAX_RANGE`.
    """
    try:
        share = parse_false_alarm_rate(value)
    except InputError:
        raise InputError(
            f"light {value!r} is no range of light: give a share above 0, up to {MAX_RANGE:.0%}, such as 10%"
        ) from None
    check_range(share)
    return share
