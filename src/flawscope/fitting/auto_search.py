"""Searches for the settings that a product needs, by trials on left-out good pictures and on defects.

All settings are tried in a first round, each once; with the time that is left those that may be the best are
tried in further rounds, which leave out other pictures, until one is ahead. The setting that separates good
from defective best in the mean is taken. No proof is asked: it matters how much is lost where it is not the
best one (simple regret: Bubeck, Munos and Stoltz, Pure Exploration in Multi-armed Bandits Problems, ALT
2009). Then the model is fitted to all good pictures. Its calibration leaves each of them out, also those that
chose among a few settings: `bench/auto.py --parts promise` measures its p-values.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.tried import (
    NO_TIME,
    TRYING,
    Choice,
    Trial,
    auroc,
    auroc_on_carriers,
)
from flawscope.calibration.streams import Stream
from flawscope.datasets import Dataset
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, pluralize
from flawscope.fitting.auto_choice import MARGIN, best_of, compared_rounds, nearly_best
from flawscope.fitting.first_look import look_at
from flawscope.fitting.fitting import fit
from flawscope.fitting.preparation import pop_options
from flawscope.fitting.proposals import Recipe, propose_frames, propose_tiles, propose_views
from flawscope.fitting.search_time import LearningClock, SearchTime, Taken
from flawscope.fitting.sources import Images, part_reader, pattern_of, split_sources
from flawscope.fitting.trial_pictures import Round, SimulatedPatch, make_rounds
from flawscope.methods.feature_memory import FeatureMemory
from flawscope.methods.features.backbone import import_timm
from flawscope.methods.options import names_of
from flawscope.methods.options.arguments import Reading
from flawscope.methods.options.record import NOTHING, SIZES, WITHOUT_EFFECT
from flawscope.pictures.decoded import decoded_or_none
from flawscope.pictures.decoding import PictureSource, SeenDefects, decode, pixel_hash, to_eight_bits
from flawscope.pictures.listing import picture_names, relative_names
from flawscope.pictures.units import named_rows, units_of
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, Say, format_duration
from flawscope.views.preprocess import Preprocess

MIN_PARTS = 12  # good parts to try by: of more than ten PatchCore puts no turned copies in its bank
BEYOND = float(np.finfo(np.float32).max)  # score of a picture in which parts are not found
BATCH = 8  # pictures that are judged between two looks at the clock
# AUROC behind the best in one round, from which on a setting is not tried again; behind in the mean of n, its
# √n-th part: two standard deviations of the difference of two settings (bench/results/auto_real.json)
NEAR = 0.05
CONTENDERS = 3  # settings that are tried again, at most
FRAME_LOSS = 0.05  # AUROC: a setting that finds the part is kept, unless it is worse by more
LOOKED_AT = 24  # pictures that settings are proposed from
# Options and settings for the size at which pictures are seen, and for the network
SEEN = (*names_of(search=SIZES), "scale", "crop", "count", "ratio")


class _TimeIsUpError(Exception):
    """A trial takes longer than there is time for."""


class Search:
    """Tries settings as long as there is time.

    Args:
        images: Pictures, as `fitting.fit` takes them.
        seen: Defective pictures to choose by.
        names: Names of the pictures.
        options: Options of the fit that were given.
        clock: Time of the search.
        earlier: The search to go on with; None: there is none.
        say: Gets lines for a person.
        step: Gets progress.
        has_model: Whether the earlier search's model is at hand.

    Attributes:
        given: Names of the given defects, by their pixels' hashes.
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
        self.options = options
        self.say = say
        self.step = step
        self.time = clock
        self.earlier = earlier
        self.has_model = has_model
        self.digest = ""
        self.seed = int(options.get("seed") or 0)
        self.sources, reserved, _ = split_sources(images, options.get("category"))
        self.names = picture_names([*self.sources, *reserved], names)[: len(self.sources)]
        reading = pop_options(Reading, dict(options))
        self.part_of = part_reader(self.names, reading.group, pattern_of(reading))
        self.memory = FeatureMemory()
        self.trials: dict[str, Trial] = {}  # by flags
        self.frame = Recipe()  # how parts are found; all further settings have its options
        self.waiting: list[Recipe] = []  # to be tried in the first round
        self.rounds: list[Round] = []
        self.is_known = False
        self.given: dict[str, str] = {}
        self.given_sources: list[PictureSource] = []
        for source in _given_defects(seen, images, self.seed, say):
            if (picture := decoded_or_none(source, decode)) is not None:
                self.given[pixel_hash(picture)] = relative_names([source])[0]
                self.given_sources.append(source)

    def run(self) -> tuple[Choice, Recipe]:
        """Run the search; return the trials and the chosen recipe."""
        found = Recipe()
        reason = self._why_nothing()
        if reason is None:
            try:
                self._search()
            except KeyboardInterrupt:
                self.say("interrupted: the best so far is fitted; once more stops")
            found, reason = self._choose()
        self.memory.drop(keep=(found.flags,))
        return self._describe(found, reason), found

    def _describe(self, found: Recipe, reason: str) -> Choice:
        """Return the trials, with those that had no time."""
        took = self.time.spent
        enough = 0
        if self.is_known and self.earlier is not None:
            took += self.earlier.seconds
        untried = [waiting for waiting in self.waiting if waiting.flags not in self.trials]
        late = [Recipe.from_flags(trial.flags) for trial in self.trials.values() if not trial.was_ended]
        if self.rounds and (late or untried):
            how = self.rounds[0], found, len(self.sources)
            for recipe in (*late, *untried):
                minutes = self.time.minutes_for([recipe], *how)
                self.trials[recipe.flags] = Trial(recipe.flags, note=NO_TIME, minutes=minutes)
            enough = self.time.minutes_for([*late, *untried], *how)
        done = self.rounds[: max((trial.rounds for trial in self.trials.values()), default=0)]
        return Choice(
            found.flags,
            reason,
            tuple(self.trials.values()),
            good=sum(len(pictures.left_out) for pictures in done),
            given=len(self.given_sources),
            simulated=sum(pictures.count for pictures in done),
            seconds=round(took, 1),
            digest=self.digest,
            enough=enough,
        )

    def _why_nothing(self) -> str | None:
        """Return why nothing can be tried; None: something can."""
        if fixed := [name for name in names_of(search=NOTHING) if self.options.get(name)]:
            return f"nothing is tried with {fixed[0]}"
        began = self.time.now()
        looks = look_at(self.sources, self.step, Preprocess())
        groups = units_of(named_rows(self.names, looks), part_of=self.part_of).numbers
        self.time.compared = self.time.now() - began
        first = {group: i for i, group in reversed([*enumerate(groups)]) if looks[i] is not None}
        rng = Stream.TRIALS.rng(self.seed)
        self.order = [int(i) for i in rng.permutation(sorted(first.values()))]  # one of each part
        if len(self.order) < MIN_PARTS:
            return f"{pluralize(len(self.order), 'good part')} are too few to choose by"
        is_deep = any(decode(self.sources[i]).dtype != np.uint8 for i in self.order[:3])
        can_simulate = not is_deep and not self.options.get("roi")
        if not self.given and not can_simulate:
            of = "deep pictures" if is_deep else "a region"
            return f"defects are not simulated in {of}: give some (--seen)"
        shuffled = [self.given_sources[int(i)] for i in rng.permutation(len(self.given_sources))]
        self.rounds = make_rounds(self.load, self.order, shuffled, self.seed, can_simulate)
        self._take_up([look.thumbnail.tobytes() for look in looks if look is not None])
        return None

    def _take_up(self, thumbnails: Sequence[bytes]) -> None:
        """Take the ended trials from the earlier search, if it had the same pictures and options."""
        same = names_of(search=WITHOUT_EFFECT)
        given = {name: value for name, value in self.options.items() if name not in same}
        digest = hashlib.sha256(repr((sorted(given.items()), sorted(self.given))).encode())
        for thumbnail in thumbnails:
            digest.update(thumbnail)
        self.digest = digest.hexdigest()[:16]
        if self.earlier is None:
            return
        if self.earlier.digest != self.digest:
            self.say("pictures or options are others than before: all settings are tried anew")
            return
        self.is_known = True
        self.time.fitted = self.earlier.flags if self.has_model else None
        self.trials = {earlier.flags: earlier for earlier in self.earlier.trials if earlier.was_ended}
        for trial in self.trials.values():
            self.time.note(trial.flags, Taken(trial.fit_seconds, trial.seconds))
        count = len(self.trials)
        verb = "was" if len(self.trials) == 1 else "were"
        self.say(f"{pluralize(count, 'setting')} {verb} tried before, which is not done again")

    def load(self, number: int) -> NDArray[np.uint8]:
        """Return good picture `number`, [H, W, 3] uint8."""
        return to_eight_bits(decode(self.sources[number]))

    # ----------------------------------------------------------------------------------------- the rounds

    def _search(self) -> None:
        import_timm()  # takes seconds, which are not of the first setting
        if not self._attempt(Recipe(), self.rounds[0]):
            return
        self._find_frame()
        shapes = [decode(self.sources[i]).shape[:2] for i in self.order[:3]]
        shape = max(height for height, _ in shapes), max(width for _, width in shapes)
        views = [*propose_views(self.frame, shape, bool(self.given)), *propose_tiles(self.frame, max(shape))]
        frame_options = self.frame.options.keys()
        self.waiting = [
            view for view in views if all(map(self._is_free, view.options.keys() - frame_options))
        ]
        self._tell_time()
        for recipe in self.waiting:
            self._attempt(recipe, self.rounds[0])
            self.memory.drop(keep=("", *(trial.flags for trial in self._contenders())))
        for tried in self.rounds[1:]:
            again = self._tried_again(tried)
            if len(again) < 2:
                return
            for recipe in again:
                if not self._attempt(recipe, tried):
                    return

    def _find_frame(self) -> None:
        """Try the ways to find parts where good pictures show that they lie elsewhere.

        A way is kept, unless the settings as given do far better: simulated defects hardly show the gain from
        finding the part.
        """
        if not (self._is_free("align") and self._is_free("several")):
            return
        self.step(f"{TRYING} how parts lie", 0, 1)
        left_out_last = sorted(self.order, key=lambda i: i in self.rounds[0].left_out)
        looked_at = left_out_last[:LOOKED_AT]  # few pictures are all looked at
        sources = [self.sources[i] for i in looked_at]
        for recipe in propose_frames(sources, lambda i: self.load(looked_at[i])):
            if not self._attempt(recipe, self.rounds[0]):
                continue
            tried = [self.trials[""], self.trials[recipe.flags]]
            if self.trials[recipe.flags] in nearly_best(tried, FRAME_LOSS):
                self.frame = recipe
                return

    def _tell_time(self) -> None:
        """Say, before the settings are tried, how long they take, and how many there is time for."""
        first = self.rounds[0]
        pictures = len(self.sources)
        every = 0.0
        ahead = 0.0
        count = 0
        for recipe in self.waiting:
            seconds = self.time.trial_seconds(recipe, first)
            every += seconds
            if self.time.has_time([self.frame, recipe], pictures, ahead + seconds):
                ahead += seconds
                count += 1
        if not self.waiting:
            return
        if count == len(self.waiting):
            fits = "there is time for all; what is left goes to those that are best"
        else:
            minutes = self.time.minutes_for(self.waiting, first, self.frame, pictures)
            some = f"{count} of them" if count else "none"
            fits = f"there is time for {some}, for all with {pluralize(minutes, 'minute')}"
        settings = pluralize(len(self.waiting), "more setting")
        self.say(f"{settings} to try, about {format_duration(every)}: {fits}")

    def _tried(self) -> list[Trial]:
        """Return the trials that may be chosen: those that find parts as `frame` does."""
        return [trial for trial in self.trials.values() if trial.flags.startswith(self.frame.flags)]

    def _contenders(self) -> list[Trial]:
        """Return the trials that another round may show to be the best, best first."""
        trials = self._tried()
        near = nearly_best(trials, NEAR / math.sqrt(max(1, compared_rounds(trials))))
        near.sort(key=lambda trial: trial.figures(), reverse=True)
        return near[:CONTENDERS]

    def _tried_again(self, tried: Round) -> list[Recipe]:
        """Return the contenders of a further round, the best that there is time for.

        A single contender is not tried: results of different rounds are not comparable.
        """
        again = [Recipe.from_flags(trial.flags) for trial in self._contenders()]
        while again and not self._has_time_for(again, tried):
            again.pop()
        return again

    def _choose(self) -> tuple[Recipe, str]:
        """Return the settings that were best in the mean, of those that can still be fitted, and why."""
        trials = self._tried()
        every = len(self.sources)
        in_time = [trial for trial in trials if self.time.can_end(Recipe.from_flags(trial.flags), every)]
        best = best_of(in_time or trials)
        if best is None:
            return Recipe(), "there was no time to try others: give more minutes"
        recipe = Recipe.from_flags(best.flags)
        compared = [trial for trial in trials if trial.rounds]
        if len(compared) == 1:
            return recipe, self._with_found(best, self._why_alone(best))
        apart = best.separation()
        why = f"of {len(compared)} settings it tells good pictures best from {apart}"
        if any(
            trial.figures(best.rounds) > best.figures() for trial in compared if trial.rounds >= best.rounds
        ):
            why = (
                f"it tells good pictures from {apart} as well as the best of {len(compared)} settings, "
                f"within {MARGIN:.0%}, in less time"
            )
        return recipe, self._with_found(best, why)

    def _why_alone(self, best: Trial) -> str:
        """Return why settings are taken that are compared with no others."""
        if best.flags:
            return "parts lie elsewhere in each picture"
        others = [trial for trial in self.trials.values() if trial.flags]
        untried = [recipe for recipe in self.waiting if recipe.flags not in self.trials]
        if not others and not untried:
            return "there was nothing else to try beside the options given"
        if untried or not all(trial.was_ended for trial in others):
            return "no other setting was tried to the end"
        return "no other setting can be used: the table says why"

    def _with_found(self, best: Trial, reason: str) -> str:
        """Add the number of defects found to a reason, where it is small."""
        found, every = best.found_given if self.given else best.found
        if 2 * found > every or not every:
            return reason
        of = "your defects" if self.given else "simulated defects (--seen gives some of yours)"
        return f"{reason}; of {of} {found} of {every} are found with it"

    # --------------------------------------------------------------------------------------------- trials

    def _is_free(self, name: str) -> bool:
        """Whether an option of the fit was left open; those of `SEEN` count as one."""
        names = SEEN if name in SEEN else (name,)
        return all(self.options.get(option) in (None, False, "default") for option in names)

    def _attempt(self, recipe: Recipe, tried: Round) -> bool:
        """Try a recipe in a round, unless it was tried before; return whether it was tried to the end."""
        before = self.trials.get(recipe.flags, Trial(recipe.flags))
        if before.rounds > tried.number or (before.note and before.was_ended):
            return not before.note
        try:
            if not self._has_time_for([recipe], tried):
                raise _TimeIsUpError
            self.trials[recipe.flags] = self._try(recipe, tried, before)
        except _TimeIsUpError:
            if not before.rounds:
                self.trials[recipe.flags] = Trial(recipe.flags, note=NO_TIME)
            return False
        except InputError as error:
            if not before.rounds:
                self.trials[recipe.flags] = Trial(recipe.flags, note=str(error).split(":")[0])
            return False
        return True

    def _has_time_for(self, recipes: Sequence[Recipe], tried: Round) -> bool:
        """Whether recipes can be tried in time, and any of them fitted to all pictures if it is the best."""
        best = best_of(self._tried())
        if best is None:
            return self.time.has_time(recipes, len(self.sources))
        after = [Recipe.from_flags(best.flags), *recipes]
        seconds = sum(self.time.trial_seconds(recipe, tried) for recipe in recipes)
        return self.time.has_time(after, len(self.sources), seconds)

    def _try(self, recipe: Recipe, tried: Round, before: Trial) -> Trial:
        flags = recipe.flags
        learnt = len(tried.learnt)
        every = len(self.sources)
        label = f"{TRYING} {flags or 'the settings as given'}"
        best = best_of(self._tried())
        known = [] if best is None else [Recipe.from_flags(best.flags)]
        learning = LearningClock(self.time.now, learnt)
        reached = (
            0  # of the pictures to learn from and to judge: a fit has stages, of which the first is longest
        )

        def step(done: int) -> None:
            if known and not self.time.has_time(known, every):
                raise _TimeIsUpError
            self.step(label, done, learnt + tried.judged)

        def fit_step(name: str, done: int, total: int) -> None:
            nonlocal reached
            # it takes as long for each of all pictures at least
            learning.see(name, done, total)
            if self.time.is_late(learning.each(), every):
                raise _TimeIsUpError
            reached = max(reached, learnt * done // max(1, total))
            step(reached)

        step(0)
        options = {**self.options, **recipe.options, "force": True, "drop_suspects": False}
        options["augment"] = options.get("augment") or "none"  # as `auto` has it in the fit: see `MIN_PARTS`
        options |= {"group": None, "samples": 0, "check": False}
        options["parts"] = range(learnt)  # near-duplicates were looked for, and each shows another
        with self.memory.used_for(flags):
            try:
                model = fit([self.sources[i] for i in tried.learnt], step=fit_step, **options)
            finally:
                took = learning.each()
                self.time.note(flags, Taken(took))
        if not self.time.has_time([recipe], every):
            raise _TimeIsUpError
        judged = self.time.now()
        found = list[Judged]()
        place = learnt
        for pictures in ([self.sources[i] for i in tried.left_out], tried.given, tried.simulated):
            found.append(self._judge(model, pictures, step, place))
            place += len(pictures)
        good, given, simulated = found
        step(place)
        picture = (self.time.now() - judged) / tried.judged
        self.time.note(flags, Taken(took, picture))
        if not self.time.has_time([recipe], every):
            raise _TimeIsUpError
        return replace(
            before,
            given=(*before.given, *_apart(good, given)),
            simulated=(*before.simulated, *_apart_on_carriers(good, simulated, tried)),
            false_alarms=_counted(before.false_alarms, good),
            found_given=_counted(before.found_given, given),
            found=_counted(before.found, simulated),
            seconds=round(min(before.seconds or math.inf, picture), 4),
            fit_seconds=round(max(before.fit_seconds, took), 4),
            note="",
        )

    def _judge(
        self,
        model: Predictor,
        pictures: Sequence[PictureSource | SimulatedPatch],
        step: Callable[[int], None],
        place: int,
    ) -> Judged:
        """Judge pictures; a picture in which parts are not found has a score beyond all others.

        Args:
            model: The model of a trial.
            pictures: Pictures, or simulated defects to draw.
            step: Gets the number of pictures done in the trial.
            place: Number of the first picture in the trial.
        """
        scores = []
        above = []
        for k in range(0, len(pictures), BATCH):
            step(place + k)
            batch = pictures[k : k + BATCH]
            shown = [
                source.draw(self.load) if isinstance(source, SimulatedPatch) else source for source in batch
            ]
            for found in model.predict(shown):
                sure = any(finding.decides for finding in found.findings)
                scores.append(BEYOND if sure or not math.isfinite(found.score) else found.score)
                above.append(found.is_anomalous)
        return Judged(np.array(scores, np.float64), np.array(above, np.bool_))


class Judged(NamedTuple):
    """Scores of pictures [N], higher is more anomalous, and whether each is called anomalous [N]."""

    scores: NDArray[np.float64]
    anomalous: NDArray[np.bool_]


def _apart(good: Judged, defective: Judged) -> list[float]:
    """Return the AUROC of a round; empty where there are no such defects."""
    return [round(auroc(good.scores, defective.scores), 4)] if len(defective.scores) else []


def _apart_on_carriers(good: Judged, simulated: Judged, tried: Round) -> list[float]:
    """Return the AUROC of a round's simulated defects; empty where there are none."""
    if not len(simulated.scores):
        return []
    places = {carrier: place for place, carrier in enumerate(tried.left_out)}
    carriers = np.array([places[defect.carrier] for defect in tried.simulated])
    return [round(auroc_on_carriers(good.scores, simulated.scores, carriers), 4)]


def _counted(before: tuple[int, int], judged: Judged) -> tuple[int, int]:
    """Add the numbers of anomalous and of all pictures to those before."""
    anomalous, every = before
    return anomalous + int(judged.anomalous.sum()), every + len(judged.anomalous)


def _given_defects(seen: SeenDefects, images: Images, seed: int, say: Say) -> list[PictureSource]:
    """Return the defective pictures that `seen` names; their masks are not used."""
    if not isinstance(seen, int | str | os.PathLike):
        return [picture for picture, _ in seen]
    if str(seen).strip() == "0":
        return []
    dataset = images if isinstance(images, Dataset) else None
    return [item.path for item in choose_seen(seen, dataset, seed, say, masked=False)]
