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
        minutes: Minutes for the search and the fit that follows. An interrupt ends the search, and the best
            settings so far are fitted.
        seen: Defective pictures to choose by, in the forms of `Reading.seen`. Nothing is learnt from them,
            and evaluation leaves them out.
        names: Names of the pictures, as `fitting.fit` takes them.
        earlier: An earlier search, or the model file that it made; the file may be missing. If pictures and
            options are the same, its trials are not repeated.
        say: Gets lines for a person.
        step: Gets progress.
        **options: Options of `fitting.fit`. The search leaves them as they are.

    Returns:
        The predictor, as `fit` returns it. Its facts hold the trials (`artefact.tried.Choice`).

    Raises:
        InputError: As in `fit`; a method other than PatchCore; minutes not above 0.
    """
    fit_options: Json = options
    if fit_options.get("method") not in (None, "patchcore"):
        raise InputError(f"what is found out is for patchcore, not {fit_options['method']}: leave out --auto")
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes:g} minutes are no time: give more than 0")
    clock = SearchTime(60 * minutes)
    _check_networks(fit_options)
    if isinstance(images, str | os.PathLike):
        group = name_reader(fit_options.get("group"), fit_options.get("part"), fit_options.get("view"))
        seed = int(fit_options.get("seed") or 0)
        images = open_dataset(images, fit_options.get("category"), seed=seed, group=group)
    earlier_file = None  # file of the earlier search's model
    if isinstance(earlier, str | os.PathLike):
        earlier_file = earlier if os.path.isfile(earlier) else None
        earlier_choice = None
        if earlier_file is not None:
            earlier_choice = Choice.from_facts(read_manifest(earlier_file).facts)
    else:
        earlier_choice = earlier
    search = Search(
        images,
        seen,
        list(names),
        dict(fit_options),
        clock,
        earlier_choice,
        say,
        step,
        has_model=earlier_file is not None,
    )
    choice, recipe = search.run()
    kept_file = earlier_file if search.time.fitted == recipe.flags else None
    if kept_file is None:
        search.time.require(recipe, len(search.sources))
    for line in choice.lines():
        say(line)
    if kept_file is not None:
        say("the settings are those of the model before, which stays")
        return _with_choice(_reopen(kept_file, fit_options), choice, search.given)
    with search.memory.used_for(recipe.flags):
        predictor = fit(images, names=names, say=say, step=step, **{**fit_options, **recipe.options})
    return _with_choice(predictor, choice, search.given)


def _check_networks(options: Mapping[str, Any]) -> None:
    """Check PatchCore's settings among the options of a fit, before pictures are read.

    Raises:
        InputError: An option is wrong, or a network is not available.
    """
    settings = {name: value for name, value in options.items() if name not in ("method", "preset")}
    for arguments in ARGUMENTS:
        pop_options(arguments, settings)
    patchcore = registry.method("patchcore")
    config = registry.configure(patchcore, options.get("preset") or "default", settings)
    check_networks(patchcore, config, settings)


def _reopen(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Predictor:
    """Open a fitted model as `fit` returns it; `options` are those of the fit."""
    predictor = open_fitted(fitted_artefact(path), options.get("device") or "auto")
    return predictor.accept() if options.get("force") else predictor


def _with_choice(predictor: Predictor, choice: Choice, defects: Mapping[str, str]) -> Predictor:
    """Return the model with the trials of its search, and with rows of the defects that the search used.

    Args:
        predictor: The model.
        choice: The trials, and the choice among them.
        defects: Names of the defects, by their hashes.
    """
    manifest = predictor.manifest
    pictures = (
        *(row for row in manifest.pictures if row.role != "seen"),
        *(Picture(digest, "seen", name) for digest, name in defects.items()),
    )
    facts = {**manifest.facts, TRIED: choice.to_dict()}
    return predictor.with_manifest(replace(manifest, pictures=pictures, facts=facts))
