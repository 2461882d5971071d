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
from flawscope.artefact.model_file import Artefact
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
        made: Update of each view, by its name; that of one product under "".
        unplaced: Numbers of pictures that belong to no model, each with the reason.
    """

    model: Model
    made: Mapping[str, Update]
    unplaced: Mapping[int, str]

    @property
    def learnt(self) -> list[int]:
        """Numbers of the pictures that any of the models learnt from."""
        return [number for update in self.made.values() for number in update.learnt]

    def judgement(self) -> Judgement:
        """Return the judgement of all next models together, for people."""
        found = Judgement.joined([update.judgement() for update in self.made.values()])
        return replace(found, unreadable=sorted({*found.unreadable, *self.unplaced}))


def update_models(
    old: ModelMapping,
    active: Model,
    pictures: Sequence[ReviewedPicture],
    options: UpdateOptions,
    good: Mapping[str, Dataset] | None = None,
) -> Updates:
    """Make the next models from trained ones, each from the pictures of its view, and compare both.

    PatchCore is extended by the false alarms. They do not decide the threshold because they were false
    alarms, which would be no fair sample: it comes from the earlier calibration pictures and from those that
    were drawn by chance among the line's good ones, corrected or not, each as if the model had never seen it.
    Where that would lose defects, the threshold stays as it was if that loses fewer. Other methods are
    calibrated anew on the drawn pictures, or trained anew.

    Args:
        old: The trained models that learn: of one product, or of the views of a part.
        active: The model that judges now, in the same or another engine; the next one is compared with it.
        pictures: Pictures with people's judgements.
        options: Options of the update.
        good: Data set that each model was fitted on, for a training (`open_fitted_datasets`).

    Raises:
        PowerLostError: With `refuse_unsure`, where a picture looks like a defect.
        InputError: There is nothing to learn from, or it cannot be done; the message gives the remedy.
    """
    of_model, unplaced = _by_model(with_whole_parts_drawn(pictures, old.facts), old)
    made = {}
    for name, reviewed in of_model.items():
        made[name] = update_one(
            old.products[name],
            active.products[name],
            reviewed,
            replace(options, say=_named(name, options.say)),
            good=None if good is None else good[name],
            whole=partial(active.facts.with_model, name),
        )
    _check_learns(pictures, made, unplaced)
    model = active if {*made} == {*old.products} else open_joined(old, options.device)
    for name, update in made.items():
        model = model.with_product(name, update.predictor)
    return Updates(model, made, unplaced)


def _by_model(
    pictures: Sequence[ReviewedPicture], old: ModelMapping
) -> tuple[dict[str, list[ReviewedPicture]], dict[int, str]]:
    """Return the pictures of each model that has some, and why the numbers of others belong to no model."""
    if old.views is None:
        return {ONE: [*pictures]}, {}
    found = dict[str, list[ReviewedPicture]]()
    unplaced = dict[int, str]()
    for picture in pictures:
        try:
            view = picture.view or old.views.parse(picture.name).view
            if view not in old.products:
                raise unknown_view_error(picture.name, view, old.products)
            found.setdefault(view, []).append(picture)
        except InputError as error:
            unplaced[picture.number] = str(error)
    return found, unplaced


def _check_learns(
    pictures: Sequence[ReviewedPicture], made: Mapping[str, Update], unplaced: Mapping[int, str]
) -> None:
    """Raise InputError where no model learns anything."""
    unusable = dict(unplaced)
    for update in made.values():
        unusable |= update.unreadable
    if pictures and len(unusable) == len(pictures):
        first = next(iter(unusable.values()))
        raise InputError(f"none of {pluralize(len(pictures), 'picture')} can be used; the first: {first}")
    if all(update.rests for update in made.values()):
        raise InputError(
            "there is nothing new to learn from: no picture that the model does not know; give others"
        )


def _named(name: str, say: Say) -> Say:
    """Return a `say` that puts the view's name before each line."""
    return lambda line: say(f"{name}: {line}" if name else line)


def update(
    old: Artefact, active: Predictor, pictures: Sequence[ReviewedPicture], **options: object
) -> Update:
    """Make the next model of one product, as `update_models` does; `good` is the data set of its fit."""
    given: Json = options
    good = given.pop("good", None)
    of_one = None if good is None else {ONE: good}
    return update_models(ModelMapping.of(old), active, pictures, UpdateOptions(**given), of_one).made[ONE]


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
    """Add good pictures to a fitted model, without the old pictures. Settings are the old model's.

    The pictures go into the memory bank. The threshold stays as it is, because pictures that somebody chose,
    such as false alarms, would raise it far too much; unless they are a `fair` sample. The shares found of
    simulated and of known defects are compared before and after: where less than 98 % of those before are
    found, or where the sample is not fair, the model has an open question (`Predictor.questions`).

    Args:
        model: A fitted model of one product, or of the views of a part, or its .safetensors file. Each view
            learns from its own pictures, which are known by their names.
        images: Good pictures, as `fit` takes them, or a folder that `review` wrote. Of a data set its
            defective test pictures are known defects.
        category: Name of the category, if the folder holds several.
        group: Regular expression on file names; pictures for which it matches the same text show one part.
        defects: Further known defective pictures.
        fair: Whether the pictures are good ones as they come, chosen by nobody: then they decide the
            threshold, too.
        force: Whether to go on where pictures look like defects, or the model would find fewer defects.
        drop_suspects: Whether to leave out pictures that look like defects.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to compare the shares of simulated defects that are found.
        say: Gets lines for a person: defects found before and after.
        step: Gets progress.

    Raises:
        PowerLostError: A picture looks like a defect.
        InputError: The method cannot be extended, or no picture can be used.
    """
    old = _fitted_models(model)
    if group is not None:
        old = _with_group(old, group)
    if isinstance(images, str | os.PathLike):
        part_of = old.facts.part_reader
        images = open_dataset(os.fspath(images), category, seed=_seed(old), group=part_of)
    twice: set[Path] = set()
    if isinstance(images, Dataset):
        twice = _confirmed_pictures(images, fair, force, say)
        defects = [*defects, *(item.path for item in images.test if item.anomalous)]
    sources, _, _ = split_sources(images, category)
    most = min(len(defects), MAX_KNOWN_DEFECTS)
    defects = [defects[k * len(defects) // most] for k in range(most)]
    if group is not None:  # an unmatched picture is an error before the work
        check_group(relative_names(sources), group)
    names = [*relative_names(sources), *relative_names(defects)]
    pictures = []
    for k, source in enumerate(sources):
        sure = force or (isinstance(source, Path) and source in twice)
        pictures.append(
            ReviewedPicture(k, source, good=True, name=names[k], learn=True, sure=sure, drawn=fair)
        )
    for k, source in enumerate(defects, start=len(sources)):
        pictures.append(ReviewedPicture(k, source, good=False, name=names[k]))
    made = update_models(
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
    if not made.learnt:
        raise InputError(
            "nothing is left to learn from: all pictures look like defects or are known; give others"
        )
    return _report_updates(made, old, names, force, say)


def _fitted_models(model: str | os.PathLike[str] | Artefact | Model) -> ModelMapping:
    """Return the fitted models that can be added to.

    Raises:
        InputError: They are exported, of several products, or of a method that cannot be extended.
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
    """Return the model with another pattern of groups.

    Raises:
        InputError: The views of a part are known by the pictures' names.
    """
    if old.views is not None:
        raise InputError("group is for models of one product: the names' own pattern tells parts and views")
    (product,) = old.products.values()
    facts = {**product.manifest.facts, "group": group}
    return ModelMapping.of(replace(product, manifest=replace(product.manifest, facts=facts)))


def _seed(old: ModelMapping) -> int:
    """Return the seed that models were fitted with, by which a folder is split alike."""
    return old.facts.shared("seeds", lambda it: int(registry.method(it.method).parse_stored(it.config).seed))


def _confirmed_pictures(images: Dataset, fair: bool, force: bool, say: Say) -> set[Path]:
    """Return pictures of a data set that were called good twice.

    Raises:
        InputError: It cannot be learnt from as it is.
    """
    if fair and images.reviewed:
        raise InputError(
            f"{images.root} holds pictures that were flagged, which are no fair sample: leave out --fair"
        )
    for line in refuse_marked_good(images, force):
        say(line)
    return confirmed_good(images.root) if images.reviewed else set()


def _report_updates(made: Updates, old: ModelMapping, names: Sequence[str], force: bool, say: Say) -> Model:
    """Say the results of an update, and return the next models.

    A model that finds fewer defects has a question, unless `force` is set.
    """
    model = made.model
    unplaced = [*made.unplaced.values()]
    for name, update in made.made.items():
        notes = old.products[name].manifest.notes
        predictor = _report_update(update, notes, names, force, _named(name, say))
        lost = [*update.unreadable.values(), *predictor.failures, *unplaced]
        unplaced = []
        scores = {number: update.comparison.before[number].score for number in update.unsure}
        unsure = [Suspect(names[number], score, LIKE_DEFECTS) for number, score in scores.items()]
        predictor = predictor.with_failures(lost)
        predictor.manifest.facts[SUSPECTS] = [[*suspect] for suspect in unsure]
        model = model.with_product(name, predictor)
    return model


def _report_update(
    made: Update, notes: Sequence[str], names: Sequence[str], force: bool, say: Say
) -> Predictor:
    """Say the result of a model's update, and return the next model; `notes` are those of the one before."""
    predictor = made.predictor
    for note in predictor.manifest.notes:
        if note not in notes:
            say(note)
    for line in made.lines():
        say(line)
    if not made.comparison.refused:
        return predictor
    responsible = join_names([names[number] for number in made.responsible])
    text = data_checks.FEWER_FOUND.coded(f"{made.comparison.refusal()}, because of: {responsible}")
    say(text)
    return predictor if force else predictor.asking(text)


def open_fitted_dataset(folder: str | os.PathLike[str], old: Artefact) -> Dataset:
    """Open the data set that a model was fitted on, split as it was for the fit.

    The folder may have another name by now.

    Raises:
        InputError: It has no good pictures.
    """
    reading = stored_arguments(old, Reading)
    category = reading.category if reading.category in find_categories(folder) else None
    group = name_reader(reading.group, reading.part, reading.view)
    found = open_dataset(os.fspath(folder), category, seed=stored_settings(old).seed, group=group)
    return replace(found, category=old.manifest.category)


def open_fitted_datasets(folder: str | os.PathLike[str], old: ModelMapping) -> dict[str, Dataset]:
    """Open the data set that each of the models was fitted on, as `open_fitted_dataset` does.

    Raises:
        InputError: The folder has no pictures of a view.
    """
    found = {name: open_fitted_dataset(folder, product) for name, product in old.products.items()}
    if old.views is None:
        return found
    for view, dataset in found.items():
        of_view = split_by_view(dataset, old.views, "train", "validation", "test")
        if view not in of_view:
            raise InputError(f"{folder} has no pictures of view {view}: name the folder of all views")
        found[view] = of_view[view]
    return found
