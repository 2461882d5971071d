"""Fits the views of a part: by one model for all, or, where they look different, by one for each."""

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
        method: patchcore, efficientad, prnet, or one of an installed package; None: patchcore, or the only
            one that has the preset.
        preset: Named settings of the method.
        settings: All settings of the method, in place of a preset and single ones.
        names: Names of the pictures, which `group`, `part` and `view` read, one each; those of pictures that
            a data set sets apart (`Dataset.validation`) come last. By default those of their files.
        part: Regular expression on file names that finds the part: one decision is made on all views of a
            part, which is left out whole.
        view: Regular expression on file names that finds the view of a part.
        each_view: Whether each view gets a model of its own; None: where every two views look different.
        say: Gets lines for a person.
        step: Gets progress.
        **options: How the pictures are read, such as `roi="0,0,0.5,1"` or `false_alarm_rate="1%"`
            (`methods.options.arguments.Seeing`, `Reading`); how long it may take and what is kept, such as
            `minutes=30` (`Learning`); and settings of the method, such as `size=384` or `ratio=0.05`.

    Returns:
        A `Predictor`; a `Router` where each view has a model. `failures` lists pictures that could not be
        read. Of a `Predictor`, `suspects` lists those that do not look good, most suspicious first;
        `questions` asks about pictures with which the model may be wrong, unless `force` says that all are
        good: `accept` says so afterwards.

    Raises:
        InputError: Wrong settings, no usable pictures, no weights.
    """
    how: Json = {"method": method, "preset": preset, "settings": settings, **options}
    group = how.get("group")
    if each_view and (part is None or group is not None):
        raise InputError("each_view learns the views of part: give part, and leave out group")
    views: dict[str, ViewPictures] = {}
    if part is not None and group is None and each_view is not False:
        asked = registry.method(registry.default_method_name(method, preset))
        seed = how.get("seed", asked.config().seed) if settings is None else settings.seed
        views = _pictures_by_view(images, names, PartPattern(part, view), how.get("category"), seed)
        if each_view is None and not views_differ(
            {name: pictures.sources for name, pictures in views.items()}
        ):
            views = {}
    if not views:
        return fitting.fit(images, names=names, part=part, view=view, say=say, step=step, **how)
    assert part is not None
    if each_view is None:
        say(different_views_line([*views], "each_view=False: one model for all"))
    return _fit_each(views, PartPattern(part, view), how, say, step)


def views_of(dataset: Dataset, pattern: PartPattern) -> dict[str, Dataset]:
    """Return the good pictures of each view.

    Raises:
        InputError: Names state no part, or none twice.
    """
    items = [*dataset.train, *dataset.validation]
    pattern.check_parts(dataset.relative(item.path) for item in items)
    return split_by_view(dataset, pattern, "train", "validation")


def different_views_line(views: Sequence[str], remedy: str) -> str:
    """Return the line that each view gets its own model; `remedy` is how to ask for one model for all."""
    return f"views {join_names(views)} look different: each has a model of its own, in one file ({remedy})"


def views_differ(pictures: Mapping[str, Sequence[PictureSource]]) -> bool:
    """Whether every two views look different (`view_looks.look_different`).

    False where a view has too few pictures for a decision, or more channels than three.

    Args:
        pictures: Good pictures by view.
    """
    looks: dict[str, list[NDArray[np.float32]]] = {}
    for view, view_pictures in pictures.items():
        looks[view] = []
        for source in looked_at(view_pictures):
            look = _look(source)
            if look is not None:
                looks[view].append(look)
    return look_different(looks)


def _look(source: PictureSource) -> NDArray[np.float32] | None:
    """Return the thumbnail of a picture; None: it cannot be read, which the fit reports."""
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
    """Return the pictures of each view.

    Raises:
        InputError: Names state no part, or none twice.
    """
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=seed, group=pattern.part_key)
    if isinstance(images, Dataset):
        if len(names):
            raise InputError("names are for pictures that are no data set, where each view may have a model")
        return {view: ViewPictures(view_sources) for view, view_sources in views_of(images, pattern).items()}
    sources, _, _ = split_sources(images, category)
    own_names = picture_names(sources, names)
    pattern.check_parts(own_names)
    found: dict[str, tuple[list[PictureSource], list[str]]] = {}
    for source, name in zip(sources, own_names, strict=True):
        pictures, called = found.setdefault(pattern.parse(name).view, ([], []))
        pictures.append(source)
        called.append(name)
    return {view: ViewPictures(*found[view]) for view in sorted(found)}


def _fit_each(
    views: Mapping[str, ViewPictures], pattern: PartPattern, how: Json, say: Say, step: ProgressCallback
) -> Router:
    """Fit a model of each view, in which a part's pictures stay together, and join them."""
    models = {}
    for view, view_pictures in views.items():
        say(f"view {view}:")
        options = {**how, "group": pattern.part}
        if options.get("checkpoint") is not None:  # each has its own
            whole = Path(options["checkpoint"])
            options["checkpoint"] = whole.with_name(f"{view}-{whole.name}")
            options["resume"] = bool(options.get("resume")) and options["checkpoint"].is_file()
        model = fitting.fit(
            view_pictures.images, names=view_pictures.names, say=say, step=_of_view(view, step), **options
        )
        models[view] = model
    mapping = ModelMapping({view: fitted.artefact for view, fitted in models.items()}, views=pattern)
    mapping.facts.check()
    failures = {view: fitted.failures for view, fitted in models.items()}
    joined = open_joined(mapping, how.get("device", "auto"), failures)
    return joined.with_looks_of_views({view: view_pictures.sources for view, view_pictures in views.items()})


def _of_view(view: str, step: ProgressCallback) -> ProgressCallback:
    """Return a progress callback for the model of one view."""
    return lambda stage, done, total: step(f"{view}: {stage}", done, total)
