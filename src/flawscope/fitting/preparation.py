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
from flawscope.fitting.training_views import Reader, TrainingViews, nearest_of, views_of
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

NETWORKS = ("backbone", "stages", "second_backbone", "second_stages")  # settings beside files (`PATHS`)
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
        unusable: Seen defects that cannot be used, each with the reason.
        chosen: Line on the choice of `align`; None: nothing was chosen.
        force: Whether pictures that are as far out as defects are good.
        scale_mm: Millimetres of a pixel; None: not known.
        remarks: Remarks on pictures that show one part, or may.
        kept: Options among the facts of the model.
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
    """Build `record` from the options that are its fields, and remove these from `options`."""
    given = {f.name: options.pop(f.name) for f in fields(record) if f.name in options}
    types = types_of(record)
    for name, value in given.items():
        require_type(name, value, types[name])
    return record(**given)


def option_facts(arguments: DataclassInstance) -> dict[str, object]:
    """Return the facts by which a model keeps options that are not their defaults."""
    found = dict[str, object]()
    for option in records_of(type(arguments)):
        value = getattr(arguments, option.argument)
        if option.fact and value != option.default:
            found[option.fact] = value
    return found


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
        networks_of: Fitted model of the same settings, whose pretrained networks are taken; None: those that
            the settings name.
        say: Gets lines for a person.
        step: Gets progress.
        **options: Fields of `Seeing` and `Reading`, and settings of the method where `settings` are not
            given.

    Raises:
        InputError: Wrong settings, no usable pictures, no weights.
    """
    seeing = pop_options(Seeing, options)
    reading = pop_options(Reading, options)
    steps = _Steps(seeing, reading, method, preset, options, say, step)
    config = steps.check(settings)
    # a detector that the check of its networks made, and its settings
    checked = config
    made = None
    if settings is None:
        made = check_networks(method, config, options)
    elif networks_of is not None:
        made = create_detector(method, config, inside=None, networks_of=networks_of)
    pictures = steps.open_pictures(images, names, parts, config.seed)
    frames = steps.find_frames(pictures)
    if settings is None:  # these are meant as they are
        config = steps.see_in_form(config, frames, pictures)
    config = steps.choose_tiles(config, frames, pictures)
    preprocess, roi = steps.see(frames.of(config), pictures)
    # in tiles, views mark the pixels outside it; else the detector leaves them out
    region, inside = (roi, None) if config.tile is not None else (None, roi)
    fits = inside is None and config == checked
    model, origin = (
        made if made is not None and fits else create_detector(method, config, inside, networks_of)
    )
    defects, unusable = read_defects(pictures.chosen.pairs, preprocess, roi, say)
    looks = enumerate(picture.look for picture in pictures.looked.shown)
    reader = Reader(
        pictures.chosen.sources,
        preprocess,
        set(),
        names=pictures.chosen.names,
        defects={digest: shown[0].name for digest, shown in defects.items()},
        near_looks={number: look for number, look in looks if look is not None},
        roi=roi,
        region=region,
        hidden=model.config.hidden,
        nearest=nearest_of(model),
        pictures=pictures.decoded,
    )
    views = views_of(reader, pictures.surveyed.sizes, model.config.seed, frames.learnt)
    task = Task(
        reader.load,
        pictures.looked.units,
        rate=steps.rate,
        drop_suspects=reading.drop_suspects,
        reserved=pictures.chosen.reserved,
        settle=reader.without_copies,
        seen=[defect for shown in defects.values() for defect in shown],
        decoded_bytes=pictures.surveyed.largest,
        views=TaskViews(pictures.views),
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
        remarks=pictures.looked.remarks,
        kept=option_facts(seeing) | option_facts(reading),
    )


class _Chosen(NamedTuple):
    """Good pictures that a fit is given.

    Attributes:
        sources: The pictures.
        names: Their names.
        reserved: Numbers of the pictures that the data set sets apart.
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
        chosen: The pictures that the fit is given.
        pattern: Pattern of parts in views; None: there is none.
        views: Number of views of a part, on average.
        surveyed: Sizes and levels of the pictures.
        preprocess: Preprocessing of the pictures, before frames are found.
        decoded: The pictures, decoded.
        looked: Looks and parts of the pictures.
    """

    chosen: _Chosen
    pattern: PartPattern | None
    views: float
    surveyed: Survey
    preprocess: Preprocess
    decoded: DecodedPictures
    looked: FirstLook


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
    """Steps of a preparation, in their order; `options` are settings of the method."""

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
        """Return the settings of the method.

        Raises:
            InputError: Options are wrong, or do not go together.
        """
        how = self.how
        which = self.which
        method = self.method
        config = registry.configure(method, self.preset, self.options) if settings is None else settings
        of_method = {name: getattr(config, name) for name in ("tile", "crop", "keep_aspect")}
        given = {name: self.options.get(name) for name in ("scale", "size")}
        check_alignment(how.align, {**vars(how), **vars(which), **of_method, **given})
        if which.drop_suspects and not method.finds_suspects:
            raise InputError(
                f"{method.name} does not look for suspicious pictures: find them with --method patchcore "
                "--drop-suspects"
            )
        self.rate = parse_false_alarm_rate(
            which.false_alarm_rate or DEFAULT_RATE
        )  # a wrong one is reported before the work
        self.light = None if how.light is None else parse_light_range(how.light)
        self.device = resolve_device(which.device)
        return config

    def _choose(self, images: Images, names: Sequence[str], seed: int) -> _Chosen:
        """Choose the pictures that the method is fitted on."""
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
        # a method that holds nothing out is calibrated on the pictures learnt from
        sources = [*learnt, *reserved] if method.holds_out else [*learnt]
        if len(names):
            names = picture_names([*learnt, *reserved], names)[: len(sources)]
        else:
            names = relative_names(sources)
        return _Chosen(sources, names, range(len(learnt), len(sources)), category, pairs)

    def open_pictures(
        self, images: Images, names: Sequence[str], parts: Sequence[int] | None, seed: int
    ) -> _Pictures:
        which = self.which
        channels = self.how.channels
        pattern = pattern_of(which)
        chosen = self._choose(images, names, seed)
        if parts is not None:
            check_one_each(len(chosen.sources), part=parts)
        part_of = part_reader(chosen.names, which.group or which.part, pattern)
        views = 1.0 if pattern is None else _mean_views(chosen.names, pattern)
        channels = Channels.of(channels, chosen.sources) if isinstance(channels, str) else channels
        decoded = DecodedPictures(chosen.sources, channels)
        surveyed = decoded.survey()
        check_region(self.how.roi, chosen.sources, chosen.names, surveyed.sizes)
        preprocess = Preprocess.of_levels(surveyed.levels, channels=channels)
        is_aligned = self.how.align != "none" and not self.how.several
        reduce = preprocess.small if is_aligned else None
        if parts is None:
            looked = look_first(decoded, chosen.names, part_of, which.force, self.step, reduce)
        elif reduce is not None:
            looked = look_at_parts(decoded, [*parts], self.step, reduce)
        else:
            looked = FirstLook([*parts])
        for line in (*looked.remarks, *surveyed.remarks):
            self.say(line)
        return _Pictures(chosen, pattern, views, surveyed, preprocess, decoded, looked)

    def find_frames(self, pictures: _Pictures) -> _Frames:
        preprocess = pictures.preprocess
        small = [picture.small for picture in pictures.looked.shown if picture.small is not None]
        chosen = aligned = None
        kind: PoseKind | None = None
        if self.how.align == "auto":  # as `fit --auto` proposes it, with frames alone
            lying = poses_needed(small)
            if lying is not None:
                kind, aligned = lying
            chosen = f"align auto: {kind or 'none'}, as the parts lie in the good pictures"
            self.say(chosen)
        elif self.how.align != "none":
            kind = self.how.align
        if kind is None:
            return _Frames(preprocess, chosen=chosen)
        if self.how.several:
            learnt = learn_part_finding(pictures.decoded, preprocess, kind)
            self.say(learnt.describe())
            found = _Frames(
                replace(preprocess, reference=learnt.reference, several=learnt.settings), learnt, chosen
            )
            reference = learnt.reference
        else:
            reference = learn_reference(small, kind, aligned)
            found = _Frames(replace(preprocess, reference=reference), None, chosen)
        described = reference.describe()
        self.say(Detail(described) if np.isfinite(reference.errors).all() else described)
        return found

    def see_in_form(self, config: PictureSettings, frames: _Frames, pictures: _Pictures) -> PictureSettings:
        """Return settings with sizes in the form of the pictures; an aligned part's frame is a square."""
        known = [size for size in pictures.surveyed.sizes if size is not None]
        if pictures.pattern is None and (mixed := mixed_sizes(known)):  # views may have sizes of their own
            self.say(f"pictures of several sizes: {mixed}; of several cameras, give each a model of its own")
        seen = config if frames.preprocess.reference is not None else config.in_form(known)
        if seen.size != config.size:
            self.say(
                Detail(f"--size {seen.size}: as many pixels as {config.size}, in the form of the pictures")
            )
        return seen

    def choose_tiles(self, config: PictureSettings, frames: _Frames, pictures: _Pictures) -> PictureSettings:
        """Return settings with the tiles that `min_defect` needs, and those that frames and region imply."""
        how = self.how
        sizes = frames.sizes(config, pictures.surveyed.sizes)
        if how.min_defect is not None:
            tiles = self._tiles_for(parse_pixels(how.min_defect), config, sizes)
            if tiles:
                config = registry.configure(self.method, self.preset, {**self.options, **tiles})
        elif (
            config.tile is None and not how.several and (remark := reduction_remark(sizes, config.sizes[-1]))
        ):
            self.say("; ".join(remark))
        reference = frames.preprocess.reference
        masked = reference is not None or (config.tile is not None and how.roi is not None)
        upright = reference is not None and reference.rotates
        return replace(config, masked=masked, upright=upright, hidden=how.roi is not None)

    def _tiles_for(
        self, min_defect: float, config: PictureSettings, frames: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """Return tile settings that make a defect of `min_defect` pixels large enough, and say why.

        Args:
            min_defect: Length of the smallest defect, in pixels.
            config: Settings of the method.
            frames: Sizes of the frames.
        """
        whole = config.sizes[-1]
        chosen = choose_tile(min_defect, frames, whole, config.step) if frames else None
        if chosen is None:
            self.say(f"defects of {min_defect:g} px and more are large enough without tiles")
            return {}
        tile = size_text(chosen[0])
        scale = chosen[1]
        left = f"{min_defect / scale:g} px at the network"
        self.say(f"defects of {min_defect:g} px: --tile {tile} --set scale={scale:g}, which leaves {left}")
        return {"tile": tile, "scale": scale}

    def see(self, preprocess: Preprocess, pictures: _Pictures) -> tuple[Preprocess, NDArray[np.bool_] | None]:
        """Return the preprocessing with its light, and the region of interest."""
        how = self.how
        sources = pictures.chosen.sources
        region = (
            None
            if how.roi is None
            else learn_region(how.roi, preprocess, sources, pictures.chosen.names, self.say)
        )
        if self.light is None:
            return preprocess, region
        normalization = learn_normalization(pictures.decoded, preprocess, region, self.light)
        return replace(preprocess, normalization=normalization), region


def _mean_views(names: Sequence[str], pattern: PartPattern) -> float:
    """Return the number of views of a part, on average."""
    return len(names) / max(1, len({view.part for view in pattern.parse_all(names)}))


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
        networks_of: Fitted model whose pretrained networks are taken; None: those that the settings name.

    Raises:
        InputError: The model's file lacks networks that the fit needs, and of its files only the names are
            known.
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
    method: Method, config: PictureSettings, given: Collection[str]
) -> tuple[Detector, WeightsOrigin] | None:
    """Check that a fit can have its networks, before it reads pictures.

    Settings that name networks may have any name: these networks are built, and returned.

    Args:
        method: The method.
        config: Settings of the method.
        given: Names of the settings that were given.

    Raises:
        InputError: A network cannot be had.
    """
    if {*NETWORKS, *config.PATHS} & {*given}:
        return method.create(config)
    for name in NETWORKS:
        backbone = getattr(config, name, None)
        if isinstance(backbone, str):
            locate(backbone)
    return None


def predict_peak_memory(
    images: Images, *, method: str = "patchcore", preset: str = "default", **call: object
) -> int | None:
    """Predict the peak memory of a fit's process, in bytes.

    None where the method predicts nothing, or where settings that decide it are chosen by looking at the
    pictures.

    Args:
        images: Pictures, as `prepare` takes them; their sizes are read.
        method: Name of the method.
        preset: Named settings of the method.
        **call: Further arguments of `prepare`.

    Raises:
        InputError: The fit cannot be begun.
    """
    asked = registry.method(method)
    if asked.predict_peak is None or call.get("align") == "auto":
        return None
    given: Json = call
    prepared = prepare(images, asked, preset=preset, **given)
    return asked.predict_peak(prepared.model, prepared.views.task(prepared.task))


def check_alignment(align: Align, options: Mapping[str, Any]) -> None:
    """Check the choice of `align`, and that `options` go together (`find_conflicts`).

    Raises:
        ConflictError: They do not go together.
        InputError: There is no such way to align.
    """
    if align not in (*get_args(PoseKind), "none", "auto"):
        raise InputError(f"align is {align!r:.40}; choose none, {', '.join(get_args(PoseKind))}, auto")
    check_options(options)


def parse_light_range(value: Rate) -> float:
    """Return 0.1 or "10%" as a share.

    Raises:
        InputError: It is too large.
    """
    try:
        share = parse_false_alarm_rate(value)
    except InputError:
        raise InputError(
            f"light {value!r} is no range of light: give a share above 0, up to {MAX_RANGE:.0%}, such as 10%"
        ) from None
    check_range(share)
    return share
