"""Makes the next model from a model and people's judgements of pictures, and compares both models.

`fit --update`, `flawscope.extend` and the station use it. The model of a view learns from the pictures of
this view. A picture that somebody chose goes into the memory bank, not into the calibration: it is no fair
sample.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flawscope.artefact.judgement import Judgement
from flawscope.artefact.model_facts import ONE
from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.artefact.model_mapping import ModelMapping
from flawscope.calibration.outliers import LIKE_DEFECTS, SUSPECTS, Suspect
from flawscope.calibration.parts import name_reader
from flawscope.datasets import Dataset, find_categories, open_dataset
from flawscope.datasets.dataset import split_by_view
from flawscope.datasets.layouts import confirmed_good
from flawscope.datasets.mask_remarks import refuse_marked_good
from flawscope.errors import InputError, check_arguments, data_checks, join_names, pluralize
from flawscope.fitting.one_update import update_one
from flawscope.fitting.sources import Images, split_sources
from flawscope.fitting.stored_options import stored_arguments, stored_settings
from flawscope.fitting.update_evaluation import ReviewedPicture, Update
from flawscope.fitting.update_options import UpdateOptions
from flawscope.fitting.updated_models import with_whole_parts_drawn
from flawscope.methods import registry
from flawscope.methods.options.arguments import Reading
from flawscope.pictures.decoding import PictureSource
from flawscope.pictures.listing import relative_names
from flawscope.pictures.units import check_group
from flawscope.predictor import Predictor, fitted_artefact
from flawscope.predictor.parts import unknown_view_error
from flawscope.predictor.router import Model, Router, open_joined, open_models, read_fitted
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Json

MAX_KNOWN_DEFECTS = 200  # known defects that `extend` looks at


@dataclass(frozen=True)
class Updates:
    """The next models of a mapping, each beside the one that judges now.

    Attributes:
        model: All next models together.
        updates: Update of each view, by its name; that of one product under "".
        unplaced: Why a picture belongs to no model, by its number.
    """

    model: Model
    updates: Mapping[str, Update]
    unplaced: Mapping[int, str]

    @property
    def learnt(self) -> list[int]:
        """Numbers of the pictures that any of the models learnt from."""
        return [number for update in self.updates.values() for number in update.learnt]

    def judgement(self) -> Judgement:
        """Return the judgement of all next models together, for people."""
        joined = Judgement.joined([update.judgement() for update in self.updates.values()])
        return replace(joined, unreadable=sorted({*joined.unreadable, *self.unplaced}))


def update_models(
    old: ModelMapping,
    active: Model,
    pictures: Sequence[ReviewedPicture],
    options: UpdateOptions,
    good: Mapping[str, Dataset] | None = None,
) -> Updates:
    """Make the next models from trained ones, and compare each with the model that judges now.

    Each model learns from the pictures of its view.

    PatchCore learns from the false alarms. They are no fair sample of good pictures, and so do not decide the
    threshold. The threshold comes from the earlier calibration pictures, and from good pictures of the line
    that were chosen at random, false alarms or not. Each picture is scored as if the model had never seen it.
    If fewer defects are lost with the old threshold than with the new one, the old threshold is kept. Other
    methods are calibrated anew on the randomly chosen pictures, or trained anew.

    Args:
        old: The trained models that learn: of one product, or of the views of a part.
        active: The model that judges now, in the same or another engine. The next model is compared with it.
        pictures: Pictures with people's judgements.
        options: Options of the update.
        good: Data set that each model was fitted on, for a training (`open_fitted_datasets`).

    Raises:
        PowerLostError: With `refuse_unsure`, where a picture looks like a defect.
        InputError: There is nothing to learn from, or the model cannot be updated in this way; the message
            gives the remedy.
    """
    pictures_by_model, unplaced = _split_by_model(with_whole_parts_drawn(pictures, old.facts), old)
    updates = {}
    for name, model_pictures in pictures_by_model.items():
        updates[name] = update_one(
            old.products[name],
            active.products[name],
            model_pictures,
            replace(options, say=_named(name, options.say)),
            good=None if good is None else good[name],
            whole=partial(active.facts.with_model, name),
        )
    _check_learns(pictures, updates, unplaced)
    model = active if {*updates} == {*old.products} else open_joined(old, options.device)
    for name, update in updates.items():
        model = model.with_product(name, update.predictor)
    return Updates(model, updates, unplaced)


def _split_by_model(
    pictures: Sequence[ReviewedPicture], old: ModelMapping
) -> tuple[dict[str, list[ReviewedPicture]], dict[int, str]]:
    """Split pictures by the model that learns from them.

    Returns:
        The pictures of each model that has any, by the model's name; and the reason why a picture belongs to
        no model, by the picture's number.
    """
    if old.views is None:
        return {ONE: [*pictures]}, {}
    pictures_by_view = dict[str, list[ReviewedPicture]]()
    unplaced = dict[int, str]()  # number of a picture -> reason
    for picture in pictures:
        try:
            view = picture.view or old.views.parse(picture.name).view
            if view not in old.products:
                raise unknown_view_error(picture.name, view, old.products)
            pictures_by_view.setdefault(view, []).append(picture)
        except InputError as error:
            unplaced[picture.number] = str(error)
    return pictures_by_view, unplaced


def _check_learns(
    pictures: Sequence[ReviewedPicture], updates: Mapping[str, Update], unplaced: Mapping[int, str]
) -> None:
    """Raise InputError where no picture can be used, or no model has anything new to learn from."""
    unusable = dict(unplaced)
    for update in updates.values():
        unusable |= update.unreadable
    if pictures and len(unusable) == len(pictures):
        first_reason = next(iter(unusable.values()))
        count = pluralize(len(pictures), "picture")
        raise InputError(f"none of {count} can be used; the first: {first_reason}")
    if all(update.rests for update in updates.values()):
        raise InputError(
            "there is nothing new to learn from: no picture that the model does not know; give others"
        )


def _named(name: str, say: Say) -> Say:
    """Return a function like `say` that puts a view's name before each line; an empty name adds nothing."""
    return lambda line: say(f"{name}: {line}" if name else line)


def update(
    old: Artefact, active: Predictor, pictures: Sequence[ReviewedPicture], **options: object
) -> Update:
    """Make the next model of one product, as `update_models` does.

    Args:
        old: The trained model that learns.
        active: The model that judges now.
        pictures: Pictures with people's judgements.
        **options: Fields of `UpdateOptions`; and `good`, the data set that the model was fitted on.
    """
    update_options: Json = {**options}
    good = update_options.pop("good", None)
    datasets = None if good is None else {ONE: good}  # `ONE` is the key of the only product
    made = update_models(ModelMapping.of(old), active, pictures, UpdateOptions(**update_options), datasets)
    return made.updates[ONE]


@check_arguments()
def extend(
    model: str | os.PathLike[str] | Artefact | Model,
    images: Images,
    *,
    category: str | None = None,
    group: str | None = None,
    defects: Sequence[PictureSource] = (),
    fair: bool = False,
    force: bool = False,
    drop_suspects: bool = False,
    device: str = "auto",
    check: bool = True,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
) -> Model:
    """Add good pictures to a fitted model, without the pictures that it was fitted on.

    The settings are those of the fitted model. The pictures are added to the memory bank. The threshold
    changes only if the pictures are a `fair` sample: pictures that somebody chose, such as false alarms,
    would raise it far too much. Both the old and the new model judge simulated and known defects. If the new
    model finds less than 98 % of the defects that the old one found, or if the sample turns out not to be
    fair, the new model has an open question (`Predictor.questions`).

    Args:
        model: A fitted model of one product, or of the views of a part; or its .safetensors file. The model
            of a view learns from the pictures of this view, which are recognised by their names.
        images: Good pictures, as for `fit`, or a folder that `review` wrote. If a data set has defective test
            pictures, these are used as known defects.
        category: Name of the category, if the folder holds several.
        group: Regular expression on file names; pictures for which it matches the same text show one part.
        defects: Further known defective pictures.
        fair: Whether the pictures are good pictures as they come, not a selection. They then decide the
            threshold, too.
        force: Whether to go on where pictures look like defects, or the model would find fewer defects.
        drop_suspects: Whether to leave out pictures that look like defects.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to compare the shares of simulated defects that are found.
        say: Gets lines for a person: defects found before and after.
        step: Gets progress.

    Returns:
        The new model, in the form of `model`.

    Raises:
        PowerLostError: A picture looks like a defect.
        InputError: The method cannot be extended, or no picture can be used.
    """
    old = _fitted_models(model)
    if group is not None:
        old = _with_group(old, group)
    if isinstance(images, str | os.PathLike):
        images = open_dataset(os.fspath(images), category, seed=_seed(old), group=old.facts.part_reader)
    all_defects = [*defects]
    confirmed: set[Path] = set()
    if isinstance(images, Dataset):
        confirmed = _confirmed_pictures(images, fair, force, say)
        all_defects += [item.path for item in images.test if item.anomalous]
    sources, _, _ = split_sources(images, category)
    # at most `MAX_KNOWN_DEFECTS` defects are compared, evenly spaced among all
    defect_count = min(len(all_defects), MAX_KNOWN_DEFECTS)
    places = [k * len(all_defects) // defect_count for k in range(defect_count)]
    compared_defects = [all_defects[place] for place in places]
    if group is not None:  # report a name that does not match before the work begins
        check_group(relative_names(sources), group)
    names = [*relative_names(sources), *relative_names(compared_defects)]
    pictures = []
    for number, source in enumerate(sources):
        is_sure = force or (isinstance(source, Path) and source in confirmed)
        name = names[number]
        pictures.append(
            ReviewedPicture(number, source, good=True, name=name, learn=True, sure=is_sure, drawn=fair)
        )
    for number, source in enumerate(compared_defects, start=len(sources)):
        pictures.append(ReviewedPicture(number, source, good=False, name=names[number]))
    updates = update_models(
        old,
        open_models(old, device),
        pictures,
        UpdateOptions(
            fair=fair,
            refuse_unsure=not drop_suspects,
            force=force,
            device=device,
            check=check,
            say=say,
            step=step,
        ),
    )
    if not updates.learnt:
        raise InputError(
            "nothing is left to learn from: all pictures look like defects or are known; give others"
        )
    return _report_updates(updates, old, names, force, say)


def _fitted_models(model: str | os.PathLike[str] | Artefact | Model) -> ModelMapping:
    """Return the fitted models, by view, after checking that pictures can be added to them.

    Raises:
        InputError: The models are exported, of several products, or of a method that cannot be extended.
    """
    if isinstance(model, Router):
        fitted = {name: fitted_artefact(product) for name, product in model.products.items()}
        old = replace(model.artefact, products=fitted)
    elif isinstance(model, str | os.PathLike):
        old = read_fitted(model)
    else:
        old = ModelMapping.of(fitted_artefact(model))
    if old.facts.is_joint:
        raise InputError(
            "a joint model is added to by `flawscope fit --joint --update`, which learns to recognise the "
            "new pictures, too"
        )
    for product in old.products.values():
        method = registry.method(product.manifest.method)
        if not method.extends:
            raise InputError(f"{method.name} cannot be extended: fit anew with all pictures")
    return old


def _with_group(old: ModelMapping, group: str) -> ModelMapping:
    """Return the model of one product with `group` as the pattern by which names state parts.

    Raises:
        InputError: There are models of several views, whose stored pattern reads parts from names.
    """
    if old.views is not None:
        raise InputError("group is for models of one product: the names' own pattern tells parts and views")
    (product,) = old.products.values()
    facts = {**product.manifest.facts, "group": group}
    return ModelMapping.of(replace(product, manifest=replace(product.manifest, facts=facts)))


def _seed(old: ModelMapping) -> int:
    """Return the seed of the models' fits: with this seed, a folder is split as for these fits."""

    def read_seed(manifest: Manifest) -> int:
        return int(registry.method(manifest.method).parse_stored(manifest.config).seed)

    return old.facts.shared("seeds", read_seed)


def _confirmed_pictures(images: Dataset, fair: bool, force: bool, say: Say) -> set[Path]:
    """Return the pictures of a data set that people called good twice; say remarks on good pictures.

    Raises:
        InputError: A good picture has a mask, and `force` is not set; or the data set is said to be a fair
            sample, but contains pictures that were flagged.
    """
    if fair and images.reviewed:
        raise InputError(
            f"{images.root} holds pictures that were flagged, which are no fair sample: leave out --fair"
        )
    for line in refuse_marked_good(images, force):
        say(line)
    return confirmed_good(images.root) if images.reviewed else set()


def _report_updates(
    updates: Updates, old: ModelMapping, names: Sequence[str], force: bool, say: Say
) -> Model:
    """Say the results of an update, and return the next models.

    A model that would find fewer defects asks a question about that, unless `force` is set.

    Args:
        updates: The updates of all models.
        old: The trained models before.
        names: Names of the pictures, by their numbers.
        force: Whether to go on where a model would find fewer defects.
        say: Gets lines for a person.
    """
    model = updates.model
    unplaced_reasons = [*updates.unplaced.values()]
    for name, update in updates.updates.items():
        old_notes = old.products[name].manifest.notes
        predictor = _report_update(update, old_notes, names, force, _named(name, say))
        failures = [*update.unreadable.values(), *predictor.failures, *unplaced_reasons]
        unplaced_reasons = []  # only the first model's failures list these
        suspects = []
        for number in update.unsure:
            score_before = update.comparison.before[number].score
            suspects.append(Suspect(names[number], score_before, LIKE_DEFECTS))
        predictor = predictor.with_failures(failures)
        predictor.manifest.facts[SUSPECTS] = [[*suspect] for suspect in suspects]
        model = model.with_product(name, predictor)
    return model


def _report_update(
    update: Update, old_notes: Sequence[str], names: Sequence[str], force: bool, say: Say
) -> Predictor:
    """Say the result of a model's update, and return the next model.

    Args:
        update: The update.
        old_notes: Notes of the model before; they are not said again.
        names: Names of the pictures, by their numbers.
        force: Whether to go on where the model would find fewer defects.
        say: Gets lines for a person.
    """
    predictor = update.predictor
    for note in predictor.manifest.notes:
        if note not in old_notes:
            say(note)
    for line in update.lines():
        say(line)
    if not update.comparison.refused:
        return predictor
    responsible = join_names([names[number] for number in update.responsible])
    question = data_checks.FEWER_FOUND.coded(f"{update.comparison.refusal()}, because of: {responsible}")
    say(question)
    return predictor if force else predictor.asking(question)


def open_fitted_dataset(folder: str | os.PathLike[str], old: Artefact) -> Dataset:
    """Open the data set that a model was fitted on, split as it was for the fit.

    The folder may have been renamed since.

    Raises:
        InputError: The folder has no good pictures.
    """
    reading = stored_arguments(old, Reading)
    # the folder of a single category has no categories of its own
    category = reading.category if reading.category in find_categories(folder) else None
    group = name_reader(reading.group, reading.part, reading.view)
    dataset = open_dataset(os.fspath(folder), category, seed=stored_settings(old).seed, group=group)
    return replace(dataset, category=old.manifest.category)


def open_fitted_datasets(folder: str | os.PathLike[str], old: ModelMapping) -> dict[str, Dataset]:
    """Open the data set that each of the models was fitted on, as `open_fitted_dataset` does.

    Raises:
        InputError: The folder has no pictures of a view.
    """
    dataset_by_name = {name: open_fitted_dataset(folder, product) for name, product in old.products.items()}
    if old.views is None:
        return dataset_by_name
    dataset_by_view = {}
    for view, dataset in dataset_by_name.items():  # each model may split the folder with a seed of its own
        views_of_dataset = split_by_view(dataset, old.views, "train", "validation", "test")
        if view not in views_of_dataset:
            raise InputError(f"{folder} has no pictures of view {view}: name the folder of all views")
        dataset_by_view[view] = views_of_dataset[view]
    return dataset_by_view
