"""Fits PatchCore with the settings that a product needs.

`auto_search` tries settings on good pictures that it leaves out; `auto_choice` chooses among them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flawscope.artefact.tried import TRIED
from flawscope.artefact.tried import Choice as Choice
from flawscope.calibration.parts import name_reader
from flawscope.datasets import open_dataset
from flawscope.errors import InputError, check_arguments
from flawscope.fitting.auto_search import Search
from flawscope.fitting.fitting import fit
from flawscope.fitting.preparation import check_networks, pop_options
from flawscope.fitting.search_time import SearchTime
from flawscope.fitting.sources import Images
from flawscope.methods import registry
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.pictures.decoding import SeenDefects
from flawscope.pictures.table import Picture
from flawscope.predictor import Predictor, fitted_artefact, open_fitted, read_manifest
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.types import Json


@check_arguments(unchecked=("images", "seen"))
def fit_auto(
    images: Images,
    *,
    minutes: float = 10.0,
    seen: SeenDefects = 0,
    names: Sequence[str] = (),
    earlier: Choice | str | os.PathLike[str] | None = None,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: object,
) -> Predictor:
    """Fit a PatchCore with the settings that the pictures need, searched for in a limited time.

    Args:
        images: Pictures, as `fitting.fit` takes them.
        minutes: Minutes for all, the fit that follows included. An interrupt ends the search, and keeps the
            best.
        seen: Defective pictures to choose by, as `Reading` has it: nothing is learnt from them, and
            evaluation leaves them out.
        names: Names of the pictures, as `fitting.fit` takes them.
        earlier: A search to go on with, or the model file that it made, if there is one: its trials are not
            repeated, if pictures and options are the same.
        say: Gets lines for a person.
        step: Gets progress.
        **options: Options of `fitting.fit`. Given options are kept.

    Returns:
        A `Predictor` as of `fit`; its facts hold the trials (`artefact.tried.Choice`).

    Raises:
        InputError: As in `fit`; a method other than PatchCore; minutes not above 0.
    """
    given: Json = options
    if given.get("method") not in (None, "patchcore"):
        raise InputError(f"what is found out is for patchcore, not {given['method']}: leave out --auto")
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes:g} minutes are no time: give more than 0")
    clock = SearchTime(60 * minutes)
    _check_networks(given)
    if isinstance(images, str | os.PathLike):
        group = name_reader(given.get("group"), given.get("part"), given.get("view"))
        seed = int(given.get("seed") or 0)
        images = open_dataset(images, given.get("category"), seed=seed, group=group)
    made = None  # the model of the earlier search, which need not be fitted again
    if isinstance(earlier, str | os.PathLike):
        made = earlier if os.path.isfile(earlier) else None
        earlier = None if made is None else Choice.from_facts(read_manifest(made).facts)
    search = Search(images, seen, list(names), dict(given), clock, earlier, say, step, made is not None)
    choice, recipe = search.run()
    kept = made if search.time.fitted == recipe.flags else None
    if kept is None:  # without a model there is nothing to go on with
        search.time.require(recipe, len(search.sources))
    for line in choice.lines():
        say(line)
    if kept is not None:
        say("the settings are those of the model before, which stays")
        return _with_choice(_reopened(kept, given), choice, search.given)
    with search.memory.used_for(recipe.flags):
        predictor = fit(images, names=names, say=say, step=step, **{**given, **recipe.options})
    return _with_choice(predictor, choice, search.given)


def _check_networks(options: Mapping[str, Any]) -> None:
    """Check, before pictures are read, the options of a fit that are PatchCore's settings.

    Raises:
        InputError: An option is wrong, or a network cannot be had.
    """
    settings = {name: value for name, value in options.items() if name not in ("method", "preset")}
    for arguments in ARGUMENTS:
        pop_options(arguments, settings)
    patchcore = registry.method("patchcore")
    config = registry.configure(patchcore, options.get("preset") or "default", settings)
    check_networks(patchcore, config, settings)


def _reopened(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Predictor:
    """Open a fitted model as `fit` returned it."""
    found = open_fitted(fitted_artefact(path), options.get("device") or "auto")
    return found.accept() if options.get("force") else found


def _with_choice(predictor: Predictor, choice: Choice, given: Mapping[str, str]) -> Predictor:
    """Return the model with the trials of its search.

    Args:
        predictor: The model.
        choice: The trials, and the choice among them.
        given: Names of the defects that the choice was made by, by their hashes.
    """
    manifest = predictor.manifest
    pictures = (
        *(row for row in manifest.pictures if row.role != "seen"),
        *(Picture(digest, "seen", name) for digest, name in given.items()),
    )
    facts = {**manifest.facts, TRIED: choice.to_dict()}
    return predictor.with_manifest(replace(manifest, pictures=pictures, facts=facts))
