"""Fits the views of a part: one model for all views, or a model for each where they look different."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_mapping import ModelMapping
from flawscope.calibration.parts import PartPattern
from flawscope.datasets import Dataset, open_dataset
from flawscope.datasets.dataset import split_by_view
from flawscope.errors import FlawscopeError, InputError, check_arguments, join_names
from flawscope.fitting import fitting
from flawscope.fitting.sources import Images, split_sources
from flawscope.methods import registry
from flawscope.methods.settings import PictureSettings
from flawscope.pictures.decoding import PictureSource, decode
from flawscope.pictures.listing import picture_names
from flawscope.predictor import Predictor
from flawscope.predictor.looks_of_views import looked_at
from flawscope.predictor.router import Router, open_joined
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Json
from flawscope.views.view_looks import look_different, thumbnail


class ViewPictures(NamedTuple):
    """Good pictures of a view, as `fit` takes them."""

    images: Images
    names: Sequence[str] = ()

    @property
    def sources(self) -> list[PictureSource]:
        """The pictures themselves."""
        return split_sources(self.images, category=None)[0]


@overload
def fit(
    images: Images,
    *,
    part: None = None,
    view: str | None = None,
    each_view: bool | None = None,
    method: str | None = None,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> Predictor: ...
@overload
def fit(
    images: Images,
    *,
    part: str | None,
    view: str | None = None,
    each_view: bool | None = None,
    method: str | None = None,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> Predictor | Router: ...
@check_arguments()
def fit(
    images: Images,
    *,
    method: str | None = None,
    preset: str = "default",
    settings: PictureSettings | None = None,
    names: Sequence[str] = (),
    part: str | None = None,
    view: str | None = None,
    each_view: bool | None = None,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> Predictor | Router:
    """Fit a model to good parts.

    Args:
        images: A data set, a folder (any layout that `open_dataset` reads), or good pictures: paths, bytes,
            PIL images or numpy `[H, W, 3]` uint8.
        method: patchcore, efficientad, prnet, or a method of an installed package. None: patchcore, or the
            only method that has the preset.
        preset: Named settings of the method.
        settings: All settings of the method, in place of a preset and single ones.
        names: One name per picture, which `group`, `part` and `view` read. Names of pictures that a data set
            reserves (`Dataset.validation`) come last. By default the names of the files.
        part: Regular expression on file names that finds the part. One decision is made on all views of a
            part, and calibration leaves them out together. None: each picture is judged by itself.
        view: Regular expression on file names that finds the view of a part.
        each_view: Whether each view gets a model of its own. None: yes, if every two views look different.
        say: Gets lines for a person.
        step: Gets progress.
        **options: How the pictures are read, such as `roi="0,0,0.5,1"` or `false_alarm_rate="1%"`
            (`methods.options.arguments.Seeing`, `Reading`); how long it may take and what is kept, such as
            `minutes=30` (`Learning`); and settings of the method, such as `size=384` or `ratio=0.05`.

    Returns:
        A `Predictor`, or a `Router` if each view has a model of its own. `failures` of either lists pictures
        that could not be read. `suspects` of a `Predictor` lists pictures that do not look good, most
        suspicious first. Its `questions` ask about pictures that may make the model wrong; there are none
        with the option `force`, which states that all pictures are good. `Predictor.accept` states that
        afterwards.

    Raises:
        InputError: Wrong settings, no usable pictures, no weights.
    """
    fit_options: Json = {"method": method, "preset": preset, "settings": settings, **options}
    group = fit_options.get("group")
    if each_view and (part is None or group is not None):
        raise InputError("each_view learns the views of part: give part, and leave out group")
    views: dict[str, ViewPictures] = {}  # pictures by view; empty: one model for all views
    if part is not None and group is None and each_view is not False:
        method_record = registry.method(registry.default_method_name(method, preset))
        seed = fit_options.get("seed", method_record.config().seed) if settings is None else settings.seed
        pattern = PartPattern(part, view)
        views = _pictures_by_view(images, names, pattern, fit_options.get("category"), seed)
        sources_by_view = {name: pictures.sources for name, pictures in views.items()}
        if each_view is None and not views_differ(sources_by_view):
            views = {}  # one model for all
    if not views:
        return fitting.fit(images, names=names, part=part, view=view, say=say, step=step, **fit_options)
    assert part is not None
    if each_view is None:
        say(different_views_line([*views], "each_view=False: one model for all"))
    return _fit_each(views, PartPattern(part, view), fit_options, say, step)


def split_good_by_view(dataset: Dataset, pattern: PartPattern) -> dict[str, Dataset]:
    """Split a data set's good pictures by view: return the data set of each view, by the view's name.

    Args:
        dataset: Data set with the pictures of all views.
        pattern: Pattern that reads part and view from file names.

    Raises:
        InputError: The pattern does not fit the names (`PartPattern.check_parts`).
    """
    items = [*dataset.train, *dataset.validation]
    pattern.check_parts(dataset.relative(item.path) for item in items)
    return split_by_view(dataset, pattern, "train", "validation")


def different_views_line(views: Sequence[str], remedy: str) -> str:
    """Return a line for the user: each view gets a model of its own.

    Args:
        views: Names of the views.
        remedy: The option that asks for one model for all views instead.
    """
    return f"views {join_names(views)} look different: each has a model of its own, in one file ({remedy})"


def views_differ(pictures: Mapping[str, Sequence[PictureSource]]) -> bool:
    """Whether every two views look different (`view_looks.look_different`).

    The result is False if a view has too few pictures to decide, or more than three channels.

    Args:
        pictures: Good pictures by view.
    """
    looks_by_view: dict[str, list[NDArray[np.float32]]] = {}
    for view, view_pictures in pictures.items():
        looks_by_view[view] = []
        for source in looked_at(view_pictures):
            look = _look(source)
            if look is not None:
                looks_by_view[view].append(look)
    return look_different(looks_by_view)


def _look(source: PictureSource) -> NDArray[np.float32] | None:
    """Return the thumbnail of a picture; None: the picture cannot be read (the fit reports that)."""
    try:
        picture = decode(source)
    except FlawscopeError:
        return None
    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    return thumbnail(np.asarray(picture, np.float32).transpose(2, 0, 1))


def _pictures_by_view(
    images: Images, names: Sequence[str], pattern: PartPattern, category: str | None, seed: int
) -> dict[str, ViewPictures]:
    """Return the pictures of each view, by the view's name.

    Raises:
        InputError: The pattern does not fit the names (`PartPattern.check_parts`).
    """
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=seed, group=pattern.part_key)
    if isinstance(images, Dataset):
        if len(names):
            raise InputError("names are for pictures that are no data set, where each view may have a model")
        return {view: ViewPictures(dataset) for view, dataset in split_good_by_view(images, pattern).items()}
    sources, _, _ = split_sources(images, category)
    source_names = picture_names(sources, names)
    pattern.check_parts(source_names)
    sources_by_view: dict[str, list[PictureSource]] = {}
    names_by_view: dict[str, list[str]] = {}
    for source, name in zip(sources, source_names, strict=True):
        view = pattern.parse(name).view
        sources_by_view.setdefault(view, []).append(source)
        names_by_view.setdefault(view, []).append(name)
    return {
        view: ViewPictures(sources_by_view[view], names_by_view[view]) for view in sorted(sources_by_view)
    }


def _fit_each(
    views: Mapping[str, ViewPictures],
    pattern: PartPattern,
    fit_options: Json,
    say: Say,
    step: ProgressCallback,
) -> Router:
    """Fit a model to each view, and join the models; a part's pictures in a view stay together."""
    models = {}
    for view, view_pictures in views.items():
        say(f"view {view}:")
        options = {**fit_options, "group": pattern.part}
        if options.get("checkpoint") is not None:  # each view has a checkpoint of its own
            checkpoint = Path(options["checkpoint"])
            view_checkpoint = checkpoint.with_name(f"{view}-{checkpoint.name}")
            options["checkpoint"] = view_checkpoint
            options["resume"] = bool(options.get("resume")) and view_checkpoint.is_file()
        view_step = _report_view(view, step)
        models[view] = fitting.fit(
            view_pictures.images, names=view_pictures.names, say=say, step=view_step, **options
        )
    mapping = ModelMapping({view: fitted.artefact for view, fitted in models.items()}, views=pattern)
    mapping.facts.check()
    failures = {view: fitted.failures for view, fitted in models.items()}
    joined = open_joined(mapping, fit_options.get("device", "auto"), failures)
    return joined.with_looks_of_views({view: view_pictures.sources for view, view_pictures in views.items()})


def _report_view(view: str, step: ProgressCallback) -> ProgressCallback:
    """Return a progress callback that puts a view's name before each stage."""
    return lambda stage, done, total: step(f"{view}: {stage}", done, total)
