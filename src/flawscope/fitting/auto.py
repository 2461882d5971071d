"""Finds out which settings a product needs: tries them on good pictures that it leaves out, and on defects.

First all settings are tried on few pictures; the best of them again beside those given, on other left-out
pictures with other defects (as in successive halving: Jamieson and Talwalkar, Non-stochastic Best Arm
Identification and Hyperparameter Optimization, AISTATS 2016). What is better there beyond its interval is
taken, else the settings stay. Then the model is fitted to all good pictures. Its calibration leaves each of
them out, also those that chose among a few settings: `bench/auto.py --parts promise` measures its p-values.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.tried import (
    GIVEN,
    MIN_GAIN,
    NO_TIME,
    TRIED,
    TRYING,
    Scored,
    Trial,
    surely_better,
)
from flawscope.artefact.tried import Choice as Choice
from flawscope.calibration.parts import name_reader
from flawscope.calibration.streams import Stream
from flawscope.datasets import Dataset, open_dataset
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, check_arguments, pluralize
from flawscope.fitting.first_look import look_at
from flawscope.fitting.fitting import fit
from flawscope.fitting.preparation import check_networks, pop_options
from flawscope.fitting.proposals import LARGE, Recipe, propose_frames, propose_tiles, propose_views
from flawscope.fitting.search_time import RESERVE, SearchTime
from flawscope.fitting.sources import Images, part_reader, pattern_of, split_sources
from flawscope.fitting.trial_pictures import LONG, SHORT, SimulatedPatch, Stage, make_stages
from flawscope.methods import registry
from flawscope.methods.feature_memory import FeatureMemory
from flawscope.methods.features.backbone import import_timm
from flawscope.methods.options import names_of
from flawscope.methods.options.arguments import ARGUMENTS, Reading
from flawscope.methods.options.record import NOTHING, SIZES, WITHOUT_EFFECT
from flawscope.pictures.decoded import decoded_or_none
from flawscope.pictures.decoding import PictureSource, SeenDefects, decode, pixel_hash, to_eight_bits
from flawscope.pictures.listing import picture_names, relative_names
from flawscope.pictures.table import Picture
from flawscope.pictures.units import named_rows, units_of
from flawscope.predictor import Predictor, fitted_artefact, open_fitted, read_manifest
from flawscope.progress import ProgressCallback, Say, discard, ignore_progress
from flawscope.views.preprocess import Preprocess

MIN_PARTS = 12  # good parts to try by: of more than ten PatchCore puts no turned copies in its bank
BEYOND = float(np.finfo(np.float32).max)  # score of a picture in which parts are not found
BATCH = 8  # pictures that are judged between two looks at the clock
LOOKED_AT = 24  # pictures that settings are proposed from
# Options and settings that say how large pictures are seen, and by what
SEEN = (*names_of(search=SIZES), "scale", "crop", "count", "ratio")


class _TimeIsUpError(Exception):
    """A trial takes longer than there is time for."""


@check_arguments(but=("images", "seen"))
def fit_auto(
    images: Images,
    *,
    minutes: float = 10.0,
    seen: SeenDefects = 0,
    names: Sequence[str] = (),
    earlier: Choice | str | os.PathLike[str] | None = None,
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: Any,
) -> Predictor:
    """Fits a PatchCore with the settings that the pictures need, found out in a limited time.

    Args:
        images: as `fitting.fit` takes them.
        names: as `fitting.fit` takes them.
        say: as `fitting.fit` takes it.
        step: as `fitting.fit` takes it.
        **options: as `fitting.fit` takes them. What is given stays.
        minutes: for all, the fit that follows included. An interrupt ends the search, and keeps the best.
        seen: defective pictures to choose by, as `Reading` has it: nothing is learnt from them, and
            evaluation leaves them out.
        earlier: a search to go on with, or the model file that it made, if there is one: what it tried is
            not tried again, if pictures and options are the same.

    Returns:
        As `fit`; its facts hold what was tried (`artefact.tried.Choice`).

    Raises:
        InputError: as of `fit`; a method other than PatchCore; minutes not above 0.
    """
    if options.get("method") not in (None, "patchcore"):
        raise InputError(f"what is found out is for patchcore, not {options['method']}: leave out --auto")
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes:g} minutes are no time: give more than 0")
    clock = SearchTime(60 * minutes)
    _check_networks(options)
    if isinstance(images, str | os.PathLike):
        group = name_reader(options.get("group"), options.get("part"), options.get("view"))
        seed = int(options.get("seed") or 0)
        images = open_dataset(images, options.get("category"), seed=seed, group=group)
    made = None  # the model of the earlier search, which need not be fitted again
    if isinstance(earlier, str | os.PathLike):
        made = earlier if os.path.isfile(earlier) else None
        earlier = None if made is None else Choice.from_facts(read_manifest(made).facts)
    search = _Search(images, seen, list(names), dict(options), clock, earlier, say, step, made is not None)
    choice, recipe = search.run()
    kept = made if search.time.fitted == recipe.flags else None
    if kept is None:  # without a model there is nothing to go on with
        search.time.require(recipe.flags, len(search.sources))
    for line in choice.lines():
        say(line)
    if kept is not None:
        say("the settings are those of the model before, which stays")
        return _with_choice(_reopened(kept, options), choice, search.given)
    with search.memory.used_for(recipe.flags):
        predictor = fit(images, names=names, say=say, step=step, **{**options, **recipe.options})
    return _with_choice(predictor, choice, search.given)


def _check_networks(options: Mapping[str, Any]) -> None:
    """Checks the options of a fit that are PatchCore's settings. InputError, before pictures are read."""
    settings = {name: value for name, value in options.items() if name not in ("method", "preset")}
    for arguments in ARGUMENTS:
        pop_options(arguments, settings)
    patchcore = registry.method("patchcore")
    config = registry.configure(patchcore, options.get("preset") or "default", settings)
    check_networks(patchcore, config, settings)


def _reopened(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Predictor:
    """Opens a fitted model as `fit` returned it."""
    found = open_fitted(fitted_artefact(path), options.get("device") or "auto")
    return found.accept() if options.get("force") else found


def _with_choice(predictor: Predictor, choice: Choice, given: Mapping[str, str]) -> Predictor:
    """Returns the model with what was tried. given: names of the defects chosen by, by their hashes."""
    manifest = predictor.manifest
    pictures = (
        *(row for row in manifest.pictures if row.role != "seen"),
        *(Picture(digest, "seen", name) for digest, name in given.items()),
    )
    facts = {**manifest.facts, TRIED: choice.to_dict()}
    return predictor.with_manifest(replace(manifest, pictures=pictures, facts=facts))


class _Search:
    """Tries settings as long as there is time.

    given: names of the given defects by their pixels' hashes.

    Args:
        has_model: the earlier search's model is at hand.
    """

    def __init__(
        self,
        images: Images,
        seen: SeenDefects,
        names: list[str],
        options: dict[str, Any],
        clock: SearchTime,
        earlier: Choice | None,
        say: Say,
        step: ProgressCallback,
        has_model: bool,
    ):
        self.options, self.say, self.step, self.time = options, say, step, clock
        self.earlier, self.has_model, self.digest, self.first = earlier, has_model, "", SHORT
        self.seed = int(options.get("seed") or 0)
        self.sources, reserved, _ = split_sources(images, options.get("category"))
        self.names = picture_names([*self.sources, *reserved], names)[: len(self.sources)]
        reading = pop_options(Reading, dict(options))
        self.part_of = part_reader(self.names, reading.group, pattern_of(reading))
        self.trials: list[Trial] = []
        self.memory = FeatureMemory()
        self.recipes = dict[str, Recipe]()
        self.scored: dict[tuple[str, int], Scored] = {}
        self.is_known, self.is_large = False, False
        self.given: dict[str, str] = {}
        self.given_sources: list[PictureSource] = []
        for source in _given_defects(seen, images, self.seed, say):
            if (picture := decoded_or_none(source, decode)) is not None:
                self.given[pixel_hash(picture)] = relative_names([source])[0]
                self.given_sources.append(source)

    def run(self) -> tuple[Choice, Recipe]:
        """Returns what was tried, and the recipe that was chosen."""
        found, reason = Recipe(), self._why_nothing()
        if reason is None:
            try:
                found, reason = self._search()
            except KeyboardInterrupt:
                self.time.is_cut_short = True
                self.say("interrupted: the best so far is fitted; once more stops")
                found, reason = self._best_so_far()
        self.memory.drop(but=(found.flags,))
        simulated = sum(int((one.carriers != GIVEN).sum()) for (f, _), one in self.scored.items() if not f)
        took = round(self.time.spent, 1)
        done = self.earlier.seconds if self.is_known and self.earlier is not None else 0.0
        enough = self.time.enough(len(self.sources), self.is_large, done) if self.digest else 0
        took += done
        given = len(self.given_sources)
        trials = tuple(self.trials)
        return Choice(
            found.flags, reason, trials, given, simulated, took, self.digest, self.first, enough
        ), found

    def _why_nothing(self) -> str | None:
        """Why nothing can be tried; None: something can."""
        if fixed := [name for name in names_of(search=NOTHING) if self.options.get(name)]:
            return f"nothing is tried with {fixed[0]}"
        with self.time.measured() as used:
            looks = look_at(self.sources, self.step, Preprocess())
            groups = units_of(named_rows(self.names, looks), part_of=self.part_of).numbers
            self.time.compared = used()
        first = {group: i for i, group in reversed([*enumerate(groups)]) if looks[i] is not None}
        rng = Stream.TRIALS.rng(self.seed)
        self.order = [int(i) for i in rng.permutation(sorted(first.values()))]  # one of each part
        if len(self.order) < MIN_PARTS:
            return f"{pluralize(len(self.order), 'good part')} are too few to choose by"
        is_deep = any(decode(self.sources[i]).dtype != np.uint8 for i in self.order[:3])
        self.can_simulate = not is_deep and not self.options.get("roi")
        if not self.given and not self.can_simulate:
            of = "deep pictures" if is_deep else "a region"
            return f"defects are not simulated in {of}: give some (--seen)"
        self._take_up([one.thumbnail.tobytes() for one in looks if one is not None])
        return None

    def _take_up(self, thumbnails: Sequence[bytes]) -> None:
        """Takes from the earlier search what it tried to the end, if it was of the same."""
        same = names_of(search=WITHOUT_EFFECT)
        given = {name: value for name, value in self.options.items() if name not in same}
        digest = hashlib.sha256(repr((sorted(given.items()), sorted(self.given))).encode())
        for one in thumbnails:
            digest.update(one)
        self.digest = digest.hexdigest()[:16]
        if self.earlier is None:
            return
        if self.earlier.digest != self.digest:
            self.say("pictures or options are others than before: all settings are tried anew")
            return
        self.is_known, self.first = True, self.earlier.first
        self.time.fitted = self.earlier.flags if self.has_model else None
        self.trials = [one for one in self.earlier.trials if one.was_ended]
        for trial in self.trials:
            self.recipes[trial.flags] = Recipe.from_flags(trial.flags)
            self.time.note(trial.flags, trial.fit_seconds, 1)
            if (stored := Scored.of_lists(trial.judged)) is not None:
                self.scored[trial.flags, trial.stage] = stored
        count, verb = len(self.recipes), "was" if len(self.recipes) == 1 else "were"
        self.say(f"{pluralize(count, 'setting')} {verb} tried before, which is not done again")

    def load(self, number: int) -> NDArray[np.uint8]:
        return to_eight_bits(decode(self.sources[number]))

    # ----------------------------------------------------------------------------------------- the stages

    def _search(self) -> tuple[Recipe, str]:
        given = Recipe()
        import_timm()  # takes seconds, which are not of the first setting
        first, self.second = self._stages(self.first)
        began = self.time.now()
        base = self._attempt(given, first, 1)
        own = next(one for one in self.trials if (one.flags, one.stage) == ("", 1))
        self.time.small_seconds = max(self.time.now() - began, self.time.trial_seconds(own, first))
        if base is None:
            return given, "there was no time to try others: give more minutes"
        if not self.is_known and not self.time.is_short(len(self.sources)):
            self.first = LONG
            self.trials.clear()
            self.scored.clear()
            first, self.second = self._stages(LONG)
            if self._attempt(given, first, 1) is None:
                return given, self._nothing_better()
        second = self.second
        side = max(max(decode(self.sources[i]).shape[:2]) for i in self.order[:3])
        self.is_large = side >= LARGE
        left_out_last = sorted(self.order, key=lambda i: i in second.left_out)
        look_at_first = left_out_last[:LOOKED_AT]  # of few, all tell how parts lie
        frame = given
        if self._is_free("align") and self._is_free("several"):
            self.step(f"{TRYING} how parts lie", 0, 1)
            sources = [self.sources[i] for i in look_at_first]
            for recipe in propose_frames(sources, lambda i: self.load(look_at_first[i])):
                self._attempt(recipe, first, 1)
            if gained := self._gained(1):
                frame = self.recipes[self._plainest(gained).flags]
                if self.first == SHORT:  # what is next may take all the time
                    self._confirm(second)
        self._attempt_all(propose_views(frame, side, bool(self.given)), frame, first)
        self._confirm(second)
        self._attempt_all(propose_tiles(frame, side), frame, first)  # may take what time is left
        return self._confirm(second)

    def _stages(self, first: int) -> tuple[Stage, Stage]:
        rng = Stream.TRIALS.rng(self.seed)
        shuffled = [self.given_sources[int(i)] for i in rng.permutation(len(self.given_sources))]
        return make_stages(self.load, self.order, shuffled, self.seed, self.can_simulate, first)

    def _attempt_all(self, recipes: Iterable[Recipe], frame: Recipe, stage: Stage) -> None:
        """Tries recipes in the first stage, but for those whose options were given."""
        for recipe in recipes:
            if all(self._is_free(name) for name in recipe.options.keys() - frame.options.keys()):
                self._attempt(recipe, stage, 1)

    def _confirm(self, stage: Stage) -> tuple[Recipe, str]:
        """Tries the best of the first stage anew, and returns what is better beyond its interval."""
        given = Recipe()
        gained = self._gained(1)
        if not gained:
            return given, self._nothing_better(f" by {MIN_GAIN:.0%} or more")
        if self._attempt(given, stage, 2) is None:
            return self._best_so_far()
        plain, best = self._plainest(gained), max(gained, key=lambda one: one.auroc or 0.0)
        for flags in dict.fromkeys((plain.flags, best.flags)):
            self._attempt(self.recipes[flags], stage, 2)
        return self._best_so_far()

    def _best_so_far(self) -> tuple[Recipe, str]:
        """Returns what is better beyond its interval in the last stage that was reached."""
        stage = 2 if any(one.stage == 2 and one.flags and one.was_ended for one in self.trials) else 1
        found, reason = self._decide(stage)
        if not found.flags:
            return found, reason
        if stage == 2:
            return found, f"it {reason}"
        own = next(one for one in self.trials if (one.flags, one.stage) == (found.flags, 1))
        if self.first == SHORT and not self.given and not own.is_far_better:
            return Recipe(), f"only a small trial says that {found.flags} {reason}"
        return found, f"it {reason}; there was no time to try it on other pictures"

    def _decide(self, stage: int) -> tuple[Recipe, str]:
        """Returns what is surely better, and what is said of it; else the settings as given, and why."""
        sure = surely_better(self.trials, stage)
        if not sure:
            return Recipe(), self._nothing_better()
        best = self._plainest(sure)
        assert best.gain is not None
        gain, low, high = best.gain
        by = f"{gain:.1%}"
        if stage == 2:
            by += f" ({low:.1%} to {high:.1%}) on pictures that it was not chosen by"
        if not best.is_better:  # an interval around 0 alone is no reason: it was far better before
            first = next(one.gain for one in self.trials if one.flags == best.flags and one.is_far_better)
            assert first is not None
            by = f"{first[0]:.1%} at first, and {by}"
        return self.recipes[best.flags], f"tells good from bad better, by {by}"

    def _nothing_better(self, by: str = "") -> str:
        """Why the settings stay as given, and what was found by them where that is little."""
        if not any(one.flags and one.was_ended for one in self.trials):
            begun = any(one.flags for one in self.trials)
            return "nothing else was tried" + begun * " to the end"
        text = f"nothing else was surely better{by}"
        own = next((one for one in self.trials if not one.flags and one.was_ended), None)
        if own is None or 2 * own.found[0] > own.found[1]:
            return text
        of = f"{text}; by them it finds {own.found[0]} of {own.found[1]}"
        return f"{of} defects" if self.given else f"{of} simulated defects (--seen gives some of yours)"

    def _gained(self, stage: int) -> list[Trial]:
        return [one for one in self.trials if one.stage == stage and one.has_gained]

    def _plainest(self, trials: Sequence[Trial]) -> Trial:
        """Returns the plainest of those that are as good as the best: less than `MIN_GAIN` behind it. Of
        equally plain ones it is the first that was proposed."""
        best = max(one.auroc or 0.0 for one in trials)
        near = [one for one in trials if best - (one.auroc or 0.0) < MIN_GAIN]
        return min(near, key=lambda one: len(self.recipes[one.flags].options))

    # --------------------------------------------------------------------------------------------- trials

    def _is_free(self, name: str) -> bool:
        """Whether an option of the fit was left open; those of `SEEN` all together."""
        names = SEEN if name in SEEN else (name,)
        return all(self.options.get(one) in (None, False, "default") for one in names)

    def _attempt(self, recipe: Recipe, stage: Stage, number: int) -> Scored | None:
        """Tries a recipe in a stage, and notes what it got; None: it was tried before, or not to the end."""
        flags = recipe.flags
        if any((one.flags, one.stage) == (flags, number) for one in self.trials):
            return self.scored.get((flags, number))
        self.recipes[flags] = recipe
        try:
            trial, scored = self._try(recipe, stage, number)
        except _TimeIsUpError:
            self.time.is_cut_short = True
            self.trials.append(Trial(flags, number, note=NO_TIME))
            return None
        except InputError as error:
            self.trials.append(Trial(flags, number, note=str(error).split(":")[0]))
            return None
        base = self.scored.get(("", number))
        if not flags:
            trial = replace(trial, judged=scored.to_lists())
        if base is not None:
            trial = replace(trial, gain=_rounded(scored.gain_over(base, self.seed)))
            self.memory.drop(but=("", *(one.flags for one in (*self.trials, trial) if one.has_gained)))
        self.scored[flags, number] = scored
        self.trials.append(trial)
        return scored

    def _trial_until(self, stage: int) -> float:
        """Time until which a trial must be done, so that the rest can follow: the fit to all pictures and,
        where something gained, the second trial of it and of the settings as given."""
        if not self.time.knows(""):
            return math.inf
        gained = [one for one in self._gained(1) if self.time.knows(one.flags)]
        likely = ["", *([self._plainest(gained).flags] if gained else [])]
        later = 0.0
        if gained and stage == 1:
            again = {one.flags for one in self.trials if one.stage == 2}
            tried = [one for one in self.trials if one.stage == 1 and one.flags in {*likely} - again]
            later = sum(self.time.trial_seconds(one, self.second) for one in tried)
        final = max(self.time.final_seconds(flags, len(self.sources)) for flags in likely)
        return self.time.until - RESERVE * (final + later)

    def _try(self, recipe: Recipe, stage: Stage, number: int) -> tuple[Trial, Scored]:
        flags, learnt, every = recipe.flags, len(stage.learnt), len(self.sources)
        label = f"{TRYING} {flags or 'the settings as given'}"

        def step(name: str, done: int, total: int) -> None:
            if not self.time.can_fit(flags, every) or self.time.now() > self._trial_until(number):
                raise _TimeIsUpError
            self.step(label, done, total)

        likely = flags if self.time.knows(flags) else ""  # as long as that of the settings as given, about
        if self.time.now() + self.time.fit_seconds(likely, learnt) > self._trial_until(number):
            raise _TimeIsUpError
        step("", 0, 1)
        options = {**self.options, **recipe.options, "force": True, "drop_suspects": False}
        options["augment"] = options.get("augment") or "none"  # as `auto` has it in the fit: see `MIN_PARTS`
        options |= {"group": None, "samples": 0, "check": False}
        options["parts"] = range(learnt)  # near-duplicates were looked for, and each shows another
        with self.memory.used_for(flags), self.time.measured() as used:

            def fit_step(name: str, done: int, total: int) -> None:
                if not self.time.can_fit(flags, every, (used(), learnt)):  # it takes as long at least
                    raise _TimeIsUpError
                step(name, done, total)

            try:
                model = fit([self.sources[i] for i in stage.learnt], step=fit_step, **options)
            finally:
                self.time.note(flags, used(), learnt)
        fitted = self.time.now()
        good = self._judge(model, [self.sources[i] for i in stage.left_out], step)
        judged = self.time.now()
        place = {picture: k for k, picture in enumerate(stage.left_out)}
        bad = self._judge(model, [*stage.simulated, *stage.given], step)
        carriers = [place[one.carrier] for one in stage.simulated] + [GIVEN] * len(stage.given)
        scored = Scored(good[0], bad[0], np.array(carriers))
        if not self.time.can_fit(flags, every):
            raise _TimeIsUpError
        trial = Trial(
            flags,
            number,
            round(scored.auroc(), 4),
            None,
            (int(good[1].sum()), len(good[1])),
            (int(bad[1].sum()), len(bad[1])),
            round((judged - fitted) / len(stage.left_out), 3),
            fit_seconds=round(self.time.used_for(flags, 1), 4),
        )
        return trial, scored

    def _judge(
        self,
        model: Predictor,
        pictures: Sequence[PictureSource | SimulatedPatch],
        step: Callable[[str, int, int], None],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores [N] and decisions [N]; a picture in which parts are not found is beyond all others."""
        scores, above = [], []
        for k in range(0, len(pictures), BATCH):
            step("", k, len(pictures))
            batch = pictures[k : k + BATCH]
            shown = [one.draw(self.load) if isinstance(one, SimulatedPatch) else one for one in batch]
            for found in model.predict(shown):
                sure = any(finding.decides for finding in found.findings)
                scores.append(BEYOND if sure or not math.isfinite(found.score) else found.score)
                above.append(found.is_anomalous)
        return np.array(scores, np.float64), np.array(above, np.bool_)


def _rounded(gain: tuple[float, float, float]) -> tuple[float, float, float]:
    first, low, high = (round(value, 4) for value in gain)
    return first, low, high


def _given_defects(seen: SeenDefects, images: Images, seed: int, say: Say) -> list[PictureSource]:
    """Defective pictures that `seen` means; their masks are not used."""
    if not isinstance(seen, int | str | os.PathLike):
        return [picture for picture, _ in seen]
    if str(seen).strip() == "0":
        return []
    dataset = images if isinstance(images, Dataset) else None
    return [item.path for item in choose_seen(seen, dataset, seed, say, masked=False)]
