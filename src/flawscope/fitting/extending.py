"""Adds good pictures to a fitted model without harm: `fit --update` and `flawscope.extend`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flawscope.artefact.model_file import Artefact
from flawscope.datasets import Dataset, group_numbers, open_dataset
from flawscope.datasets.layouts import called_good_twice
from flawscope.errors import InputError, pluralize, some
from flawscope.fitting.incremental_update import update
from flawscope.fitting.preparation import Say, quiet
from flawscope.fitting.training_pictures import Images, Pool, names_of, sources_of
from flawscope.fitting.update_evaluation import PowerLostError, Reviewed, Update
from flawscope.methods import registry
from flawscope.pictures.decoding import Source
from flawscope.predictor import Predictor, trained
from flawscope.progress import Step, silent
from flawscope.runtime.torch import TorchSession

MOST_KNOWN = 200  # known defects that are looked at


def extend(
    model: str | os.PathLike[str] | Artefact | Predictor,
    images: Images,
    *,
    category: str | None = None,
    group: str | None = None,
    defects: Sequence[Source] = (),
    fair: bool = False,
    force: bool = False,
    drop_suspects: bool = False,
    device: str = "auto",
    check: bool = True,
    pool: Pool | None = None,
    say: Say = quiet,
    step: Step = silent,
) -> Predictor:
    """Adds good pictures to a fitted model, without the old pictures. Settings are the old model's.

    The pictures go into the memory bank. The threshold stays as it is, because pictures that somebody chose,
    such as false alarms, would raise it far too much; unless they are a `fair` sample. The shares found of
    simulated and of known defects are compared before and after.

    Args:
        model: a fitted model, or its .safetensors file.
        images: good pictures, as `fit` takes them, or a folder that `review` wrote. Of a data set its
            defective test pictures are known defects.
        category: its name, if the folder holds several.
        group: regular expression on file names; pictures for which it matches the same text show one part.
        defects: known defective pictures, too.
        fair: the pictures are good ones as they come, chosen by nobody: they decide the threshold, too.
        force: go on where pictures look like defects, or the model would find fewer defects.
        drop_suspects: leave out pictures that look like defects.
        check: compare the shares of simulated defects that are found.
        pool: processes that work on parts of the fit, as for `fit`.
        say: gets lines for a person: defects found before and after.
        step: gets progress.

    Raises:
        PowerLostError: a picture looks like a defect, or of simulated or known defects less than 98 % of
            those before are found, or what was called a fair sample is none.
        InputError: the method cannot be extended, or no picture can be used.
    """
    old = trained(model)
    method = registry.method(old.manifest.method)
    if not method.extends:
        raise InputError(f"{method.name} cannot be extended: fit anew with all pictures")
    if isinstance(images, str | os.PathLike):
        seed = method.stored(old.manifest.config).seed
        pattern = group or old.manifest.facts.get("group")
        images = open_dataset(os.fspath(images), category, seed=seed, group=pattern)
    twice: set[Path] = set()
    if isinstance(images, Dataset):
        if fair and images.reviewed:
            raise InputError(
                f"{images.root} holds pictures that were flagged, which are no fair sample: leave out --fair"
            )
        twice = called_good_twice(images.root) if images.reviewed else twice
        defects = [*defects, *(item.path for item in images.test if item.anomalous)]
    sources, _, _ = sources_of(images, category)
    if len(defects) > MOST_KNOWN:
        defects = [defects[k * len(defects) // MOST_KNOWN] for k in range(MOST_KNOWN)]
    if group is not None:  # an unmatched picture is an error before the work
        group_numbers(names_of(sources), group)
        old = replace(old, manifest=replace(old.manifest, facts={**old.manifest.facts, "group": group}))
    active = Predictor(old, TorchSession.open(old, device))
    given = [(source, name, True) for source, name in zip(sources, names_of(sources), strict=True)]
    given += [(source, name, False) for source, name in zip(defects, names_of(defects), strict=True)]
    names, pictures, failures = [name for _, name, _ in given], list[Reviewed](), list[str]()
    for k, (_, result) in enumerate(active.stream([source for source, _, _ in given])):
        step("judging", k + 1, len(given))
        if isinstance(result, InputError):
            failures.append(str(result))
            continue
        source, name, good = given[k]
        sure = force or (isinstance(source, Path) and source in twice)
        before = result.score, active.calibration.score_threshold
        drawn = fair and good
        pictures.append(Reviewed(k, source, good, name, learn=good, sure=sure, drawn=drawn, before=before))
    if not pictures:
        raise InputError(
            f"none of the {pluralize(len(names), 'picture')} can be used; the first: {failures[0]}"
        )
    made = update(
        old,
        active,
        pictures,
        fair=fair,
        refuse_unsure=not drop_suspects,
        device=device,
        check=check,
        pool=pool,
        say=say,
        step=step,
    )
    for note in made.predictor.manifest.notes:
        if note not in old.manifest.notes:
            say(note)
    _tell(made, say)
    if made.power.lost:
        responsible = [names[number] for number in made.responsible]
        if not force:
            remedy = "look again and take out what is not good, or go on with --force"
            raise PowerLostError(f"refused: {made.power.why()}, because of", responsible, remedy)
        say(f"--force: {made.power.why()}, because of: {some(responsible)}")
    if not made.learnt:
        raise InputError(
            "nothing is left to learn from: all pictures look like defects or are known; give others"
        )
    made.predictor.failures = [*failures, *made.predictor.failures]
    made.predictor.suspects = [(names[number], made.before[number].score) for number in made.unsure]
    return made.predictor


def _tell(made: Update, say: Say) -> None:
    """Tells a person the model's gains and losses."""
    learnt = [number for number in made.learnt if number in made.before and number in made.after]
    was, becomes = (
        sum(scores[number].anomalous for number in learnt) for scores in (made.before, made.after)
    )
    of = pluralize(len(learnt), "picture")
    say(f"called anomalous of {of} learnt: {was} before, {becomes} after, each as if it was not learnt")
    for line in made.power.lines():
        say(line)
