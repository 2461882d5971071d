"""Searches for the settings that a product needs, by trials on left-out good pictures and on defects.

All settings are tried once, in a first round. In the remaining time, settings that may be the best are tried
in further rounds, each of which leaves out other pictures, until one is ahead. The setting that separates
good from defective best in the mean is taken. It need not be proven best: it matters only how much worse than
the best it may be (simple regret: Bubeck, Munos and Stoltz, Pure Exploration in Multi-armed Bandits Problems,
ALT 2009). Then the model is fitted to all good pictures. Its calibration leaves out each picture, also those
by which the setting was chosen: `bench/auto.py --parts promise` measures its p-values.
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

MIN_PARTS = (
    12  # good parts that a search needs: with more than ten PatchCore puts no turned copies in its bank
)
BEYOND = float(np.finfo(np.float32).max)  # score of a picture in which parts are not found
BATCH = 8  # pictures that are judged between two looks at the clock
# A setting whose AUROC is this much below the best in one round is not tried again; after n rounds, NEAR / √n
# below the best mean. These are two standard deviations of the difference of two settings
# (bench/results/auto_real.json).
NEAR = 0.05
CONTENDERS = 3  # settings that are tried again, at most
FRAME_LOSS = 0.05  # AUROC: a setting that finds the part is kept, unless it loses more
LOOKED_AT = 24  # pictures that settings are proposed from
# Options and settings that count as one choice: for the size at which pictures are seen, and for the network
SEEN = (*names_of(search=SIZES), "scale", "crop", "count", "ratio")


class _TimeIsUpError(Exception):
    """A trial takes longer than there is time for."""


class Search:
    """Tries settings as long as there is time.

    Args:
        images: Pictures, as `fitting.fit` takes them.
        seen: Defective pictures to choose by.
        names: Names of the pictures.
        options: The user's options of the fit.
        clock: Time of the search.
        earlier: The search to go on with; None: there is none.
        say: Gets lines for a person.
        step: Gets progress.
        has_model: Whether the earlier search's model is at hand.

    Attributes:
        digest: Digest of pictures and options, by which an earlier search is recognised.
        sources: Good pictures to learn from and to leave out.
        names: Names of the good pictures.
        part_of: Returns the part for a name; None: near-duplicates decide.
        memory: Features of pictures that trials share.
        trials: Trials by the flags of their recipe.
        frame: Recipe that finds the parts; all further recipes have its options.
        waiting: Recipes of the first round.
        rounds: Rounds of the search.
        is_known: Whether the earlier search had the same pictures and options.
        given: Names of the user's defects, by their pixels' hashes.
        given_sources: The user's defects.
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
        # `names` also name the reserved pictures, which come last
        self.names = picture_names([*self.sources, *reserved], names)[: len(self.sources)]
        reading = pop_options(Reading, dict(options))
        self.part_of = part_reader(self.names, reading.group, pattern_of(reading))
        self.memory = FeatureMemory()
        self.trials: dict[str, Trial] = {}
        self.frame = Recipe()
        self.waiting: list[Recipe] = []
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
        chosen = Recipe()
        reason = self._prepare()
        if reason is None:
            try:
                self._search()
            except KeyboardInterrupt:
                self.say("interrupted: the best so far is fitted; once more stops")
            chosen, reason = self._choose()
        self.memory.drop(keep=(chosen.flags,))
        return self._describe(chosen, reason), chosen

    def _describe(self, chosen: Recipe, reason: str) -> Choice:
        """Return all trials and the choice, after adding a trial for each recipe that there was no time for.

        Args:
            chosen: The chosen recipe.
            reason: Why it was chosen.
        """
        seconds = self.time.spent
        if self.is_known and self.earlier is not None:
            seconds += self.earlier.seconds
        untried = [recipe for recipe in self.waiting if recipe.flags not in self.trials]
        begun = [Recipe.from_flags(trial.flags) for trial in self.trials.values() if not trial.was_ended]
        without_time = [*begun, *untried]
        minutes_for_all = 0
        if self.rounds and without_time:
            first_round = self.rounds[0]
            count = len(self.sources)
            for recipe in without_time:
                minutes = self.time.minutes_for([recipe], first_round, chosen, count)
                self.trials[recipe.flags] = Trial(recipe.flags, note=NO_TIME, minutes=minutes)
            minutes_for_all = self.time.minutes_for(without_time, first_round, chosen, count)
        round_count = max((trial.rounds for trial in self.trials.values()), default=0)
        done_rounds = self.rounds[:round_count]
        return Choice(
            chosen.flags,
            reason,
            tuple(self.trials.values()),
            good=sum(len(done_round.left_out) for done_round in done_rounds),
            given=len(self.given_sources),
            simulated=sum(done_round.count for done_round in done_rounds),
            seconds=round(seconds, 1),
            digest=self.digest,
            enough=minutes_for_all,
        )

    def _prepare(self) -> str | None:
        """Make the rounds, and take over the earlier search's trials.

        Returns:
            The reason why no settings can be tried; None: they can be tried.
        """
        preventing_options = [name for name in names_of(search=NOTHING) if self.options.get(name)]
        if preventing_options:
            return f"nothing is tried with {preventing_options[0]}"
        began = self.time.now()
        looks = look_at(self.sources, self.step, Preprocess())
        units = units_of(named_rows(self.names, looks), part_of=self.part_of).numbers
        self.time.compared = self.time.now() - began
        first_of_unit: dict[int, int] = {}  # number of the first readable picture of each part
        for number, (unit, look) in enumerate(zip(units, looks, strict=True)):
            if look is not None:
                first_of_unit.setdefault(unit, number)
        rng = Stream.TRIALS.rng(self.seed)
        self.order = [int(number) for number in rng.permutation(sorted(first_of_unit.values()))]
        if len(self.order) < MIN_PARTS:
            return f"{pluralize(len(self.order), 'good part')} are too few to choose by"
        is_deep = any(decode(self.sources[number]).dtype != np.uint8 for number in self.order[:3])
        can_simulate = not is_deep and not self.options.get("roi")
        if not self.given and not can_simulate:
            place = "deep pictures" if is_deep else "a region"
            return f"defects are not simulated in {place}: give some (--seen)"
        order_of_given = rng.permutation(len(self.given_sources))
        shuffled_given = [self.given_sources[int(place)] for place in order_of_given]
        self.rounds = make_rounds(self.load, self.order, shuffled_given, self.seed, can_simulate)
        self._take_over_trials([look.thumbnail.tobytes() for look in looks if look is not None])
        return None

    def _take_over_trials(self, thumbnails: Sequence[bytes]) -> None:
        """Take the finished trials from the earlier search, if it had the same pictures and options.

        Sets `digest`; and sets `is_known`, if the earlier search has the same digest.

        Args:
            thumbnails: Thumbnails of the good pictures.
        """
        without_effect = names_of(search=WITHOUT_EFFECT)
        options = {name: value for name, value in self.options.items() if name not in without_effect}
        digest = hashlib.sha256(repr((sorted(options.items()), sorted(self.given))).encode())
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
        verb = "was" if count == 1 else "were"
        self.say(f"{pluralize(count, 'setting')} {verb} tried before, which is not done again")

    def load(self, number: int) -> NDArray[np.uint8]:
        """Return good picture `number`, [H, W, 3] uint8."""
        return to_eight_bits(decode(self.sources[number]))

    # ----------------------------------------------------------------------------------------- the rounds

    def _search(self) -> None:
        """Try the settings as given, ways to find parts, and other settings; then try the best ones again."""
        import_timm()  # here, so that its seconds do not count as the first setting's
        if not self._attempt(Recipe(), self.rounds[0]):
            return
        self._find_frame()
        shapes = [decode(self.sources[number]).shape[:2] for number in self.order[:3]]
        shape = max(height for height, _ in shapes), max(width for _, width in shapes)
        proposed = [
            *propose_views(self.frame, shape, judged_by_given=bool(self.given)),
            *propose_tiles(self.frame, max(shape)),
        ]
        frame_options = self.frame.options.keys()
        self.waiting = []
        for recipe in proposed:
            new_options = recipe.options.keys() - frame_options
            if all(map(self._is_free, new_options)):
                self.waiting.append(recipe)
        self._announce_time()
        for recipe in self.waiting:
            self._attempt(recipe, self.rounds[0])
            contender_flags = [trial.flags for trial in self._contenders()]
            self.memory.drop(keep=("", *contender_flags))  # "": the settings as given
        for further_round in self.rounds[1:]:
            contenders = self._contenders_in_time(further_round)
            if len(contenders) < 2:
                return
            for recipe in contenders:
                if not self._attempt(recipe, further_round):
                    return

    def _find_frame(self) -> None:
        """Try ways to find the part, if its place differs between good pictures, and set `frame`.

        The first way that loses less than `FRAME_LOSS` against the settings as given is kept. A small loss is
        accepted, since simulated defects hardly show the gain from finding the part.
        """
        if not (self._is_free("align") and self._is_free("several")):
            return
        self.step(f"{TRYING} how parts lie", 0, 1)
        # stable sort: pictures that trials learn from come first, pictures that are left out last
        learnt_first = sorted(self.order, key=lambda number: number in self.rounds[0].left_out)
        chosen = learnt_first[:LOOKED_AT]
        sources = [self.sources[number] for number in chosen]
        # `propose_frames` numbers these pictures by their place in `chosen`
        for recipe in propose_frames(sources, lambda place: self.load(chosen[place])):
            if not self._attempt(recipe, self.rounds[0]):
                continue
            trial = self.trials[recipe.flags]
            trial_as_given = self.trials[""]  # "": without a recipe's flags
            if trial in nearly_best([trial_as_given, trial], FRAME_LOSS):
                self.frame = recipe
                return

    def _announce_time(self) -> None:
        """Say how long trying all settings takes, and how many of them can be tried in time."""
        if not self.waiting:
            return
        first_round = self.rounds[0]
        picture_count = len(self.sources)
        seconds_of_all = 0.0
        seconds_in_time = 0.0
        count_in_time = 0
        for recipe in self.waiting:
            seconds = self.time.trial_seconds(recipe, first_round)
            seconds_of_all += seconds
            if self.time.has_time([self.frame, recipe], picture_count, seconds_in_time + seconds):
                seconds_in_time += seconds
                count_in_time += 1
        if count_in_time == len(self.waiting):
            forecast = "there is time for all; what is left goes to those that are best"
        else:
            minutes = self.time.minutes_for(self.waiting, first_round, self.frame, picture_count)
            count_text = f"{count_in_time} of them" if count_in_time else "none"
            forecast = f"there is time for {count_text}, for all with {pluralize(minutes, 'minute')}"
        settings = pluralize(len(self.waiting), "more setting")
        self.say(f"{settings} to try, about {format_duration(seconds_of_all)}: {forecast}")

    def _eligible_trials(self) -> list[Trial]:
        """Return the trials that may be chosen: those whose recipe begins with that of `frame`."""
        return [trial for trial in self.trials.values() if trial.flags.startswith(self.frame.flags)]

    def _contenders(self) -> list[Trial]:
        """Return the trials that may turn out to be the best in another round, best first."""
        trials = self._eligible_trials()
        round_count = max(1, compared_rounds(trials))
        contenders = nearly_best(trials, NEAR / math.sqrt(round_count))
        contenders.sort(key=lambda trial: trial.figures(), reverse=True)
        return contenders[:CONTENDERS]

    def _contenders_in_time(self, further_round: Round) -> list[Recipe]:
        """Return the best contenders that there is time for in a further round, best first."""
        recipes = [Recipe.from_flags(trial.flags) for trial in self._contenders()]
        while recipes and not self._has_time_for(recipes, further_round):
            recipes.pop()  # leave out the worst
        return recipes

    def _choose(self) -> tuple[Recipe, str]:
        """Choose the best settings on average among those that can still be fitted in time.

        Returns:
            The recipe, and the reason for the choice.
        """
        trials = self._eligible_trials()
        count = len(self.sources)
        in_time = [trial for trial in trials if self.time.can_end(Recipe.from_flags(trial.flags), count)]
        best = best_of(in_time or trials)
        if best is None:
            return Recipe(), "there was no time to try others: give more minutes"
        recipe = Recipe.from_flags(best.flags)
        compared = [trial for trial in trials if trial.rounds]
        if len(compared) == 1:
            return recipe, self._with_found(best, self._reason_without_comparison(best))
        separation = best.separation()
        reason = f"of {len(compared)} settings it tells good pictures best from {separation}"
        comparable = [trial for trial in compared if trial.rounds >= best.rounds]
        # Figures are AUROCs, first by given and then by simulated defects. Another setting may have better
        # figures, but be slower.
        if any(trial.figures(best.rounds) > best.figures() for trial in comparable):
            reason = (
                f"it tells good pictures from {separation} as well as the best of {len(compared)} settings, "
                f"within {MARGIN:.0%}, in less time"
            )
        return recipe, self._with_found(best, reason)

    def _reason_without_comparison(self, best: Trial) -> str:
        """Return the reason for choosing `best`, the only settings with results."""
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
        """Return the reason; add how many defects are found, if at most half of them are."""
        found, count = best.found_given if self.given else best.found
        finds_most = 2 * found > count
        if finds_most or not count:
            return reason
        defects = "your defects" if self.given else "simulated defects (--seen gives some of yours)"
        return f"{reason}; of {defects} {found} of {count} are found with it"

    # --------------------------------------------------------------------------------------------- trials

    def _is_free(self, name: str) -> bool:
        """Whether the user left an option of the fit open; the options of `SEEN` count as one."""
        names = SEEN if name in SEEN else (name,)
        return all(self.options.get(option) in (None, False, "default") for option in names)

    def _attempt(self, recipe: Recipe, current_round: Round) -> bool:
        """Try a recipe in a round, and note the trial; a recipe is tried once in a round.

        Returns:
            Whether the recipe was tried to the end.
        """
        before = self.trials.get(recipe.flags, Trial(recipe.flags))
        was_unusable = bool(before.note) and before.was_ended
        was_tried_in_round = before.rounds > current_round.number
        if was_tried_in_round or was_unusable:
            return not before.note  # a note says why a recipe was not tried to the end
        try:
            if not self._has_time_for([recipe], current_round):
                raise _TimeIsUpError
            self.trials[recipe.flags] = self._try(recipe, current_round, before)
        except _TimeIsUpError:
            if not before.rounds:
                self.trials[recipe.flags] = Trial(recipe.flags, note=NO_TIME)
            return False
        except InputError as error:
            if not before.rounds:
                # the note is the error without its remedy, which follows a colon
                self.trials[recipe.flags] = Trial(recipe.flags, note=str(error).split(":")[0])
            return False
        return True

    def _has_time_for(self, recipes: Sequence[Recipe], next_round: Round) -> bool:
        """Whether there is time to try recipes in a round, and then to fit the best one to all pictures."""
        best = best_of(self._eligible_trials())
        if best is None:
            return self.time.has_time(recipes, len(self.sources))
        candidates = [Recipe.from_flags(best.flags), *recipes]
        trial_seconds = sum(self.time.trial_seconds(recipe, next_round) for recipe in recipes)
        return self.time.has_time(candidates, len(self.sources), before=trial_seconds)

    def _try(self, recipe: Recipe, tried: Round, before: Trial) -> Trial:
        """Fit a model with a recipe, judge the pictures of a round, and return the trial with the results.

        Args:
            recipe: The recipe.
            tried: The round.
            before: Trial of the recipe with the results of earlier rounds.

        Raises:
            _TimeIsUpError: The trial takes longer than there is time for.
            InputError: No model can be fitted with the recipe.
        """
        flags = recipe.flags
        learnt_count = len(tried.learnt)
        picture_count = len(self.sources)
        label = f"{TRYING} {flags or 'the settings as given'}"
        best = best_of(self._eligible_trials())
        best_recipes = [] if best is None else [Recipe.from_flags(best.flags)]
        clock = LearningClock(self.time.now, learnt_count)
        reached = 0  # largest number of pictures learnt from that was reported

        def step(done: int) -> None:
            if best_recipes and not self.time.has_time(best_recipes, picture_count):
                raise _TimeIsUpError
            self.step(label, done, learnt_count + tried.judged)

        def fit_step(name: str, done: int, total: int) -> None:
            nonlocal reached
            clock.see(name, done, total)
            seconds_per_picture = clock.each()  # the fit to all pictures takes at least as long per picture
            if self.time.is_late(seconds_per_picture, picture_count):
                raise _TimeIsUpError
            # each stage of a fit counts from 0; the progress shown does not go back
            reached = max(reached, learnt_count * done // max(1, total))
            step(reached)

        step(0)
        options = {**self.options, **recipe.options, "force": True, "drop_suspects": False}
        # "auto" would mean "none" in the final fit, which has at least `MIN_PARTS` parts
        options["augment"] = options.get("augment") or "none"
        options |= {"group": None, "samples": 0, "check": False}
        options["parts"] = range(learnt_count)  # each picture shows another part
        with self.memory.used_for(flags):
            try:
                model = fit([self.sources[number] for number in tried.learnt], step=fit_step, **options)
            finally:
                fit_seconds = clock.each()
                self.time.note(flags, Taken(fit_seconds))
        if not self.time.has_time([recipe], picture_count):
            raise _TimeIsUpError
        judging_began_at = self.time.now()
        judged = list[Judged]()
        done_count = learnt_count
        left_out = [self.sources[number] for number in tried.left_out]
        for pictures in (left_out, tried.given, tried.simulated):
            judged.append(self._judge(model, pictures, step, done_count))
            done_count += len(pictures)
        good, given, simulated = judged
        step(done_count)
        picture_seconds = (self.time.now() - judging_began_at) / tried.judged
        self.time.note(flags, Taken(fit_seconds, picture_seconds))
        if not self.time.has_time([recipe], picture_count):
            raise _TimeIsUpError
        return replace(
            before,
            given=(*before.given, *_auroc_of_given(good, given)),
            simulated=(*before.simulated, *_auroc_of_simulated(good, simulated, tried)),
            false_alarms=_add_counts(before.false_alarms, good),
            found_given=_add_counts(before.found_given, given),
            found=_add_counts(before.found, simulated),
            seconds=round(min(before.seconds or math.inf, picture_seconds), 4),
            fit_seconds=round(max(before.fit_seconds, fit_seconds), 4),
            note="",
        )

    def _judge(
        self,
        model: Predictor,
        pictures: Sequence[PictureSource | SimulatedPatch],
        step: Callable[[int], None],
        place: int,
    ) -> Judged:
        """Judge pictures; a picture in which parts are not found gets the score `BEYOND`.

        Args:
            model: The model of a trial.
            pictures: Pictures, or simulated defects to draw.
            step: Gets the number of pictures done in the trial.
            place: Place of the first picture in the trial: number of pictures done before.
        """
        scores = []
        decisions = []
        for start in range(0, len(pictures), BATCH):
            step(place + start)
            sources = [
                source.draw(self.load) if isinstance(source, SimulatedPatch) else source
                for source in pictures[start : start + BATCH]
            ]
            for prediction in model.predict(sources):
                is_part_lost = any(finding.decides for finding in prediction.findings)
                has_score = not is_part_lost and math.isfinite(prediction.score)
                scores.append(prediction.score if has_score else BEYOND)
                decisions.append(prediction.is_anomalous)
        return Judged(np.array(scores, np.float64), np.array(decisions, np.bool_))


class Judged(NamedTuple):
    """Scores of pictures [N], higher is more anomalous, and whether each is called anomalous [N]."""

    scores: NDArray[np.float64]
    anomalous: NDArray[np.bool_]


def _auroc_of_given(good: Judged, defective: Judged) -> list[float]:
    """Return the AUROC of a round by the user's defects; empty where there are none."""
    return [round(auroc(good.scores, defective.scores), 4)] if len(defective.scores) else []


def _auroc_of_simulated(good: Judged, simulated: Judged, tried: Round) -> list[float]:
    """Return the AUROC of a round by simulated defects on its good pictures; empty where there are none."""
    if not len(simulated.scores):
        return []
    place_by_number = {number: place for place, number in enumerate(tried.left_out)}  # in `good.scores`
    carriers = np.array([place_by_number[defect.carrier] for defect in tried.simulated])
    return [round(auroc_on_carriers(good.scores, simulated.scores, carriers), 4)]


def _add_counts(counts: tuple[int, int], judged: Judged) -> tuple[int, int]:
    """Add a round's numbers of anomalous and of all pictures to the counts of earlier rounds."""
    anomalous_count, picture_count = counts
    return anomalous_count + int(judged.anomalous.sum()), picture_count + len(judged.anomalous)


def _given_defects(seen: SeenDefects, images: Images, seed: int, say: Say) -> list[PictureSource]:
    """Return the defective pictures that `seen` names; their masks are not used."""
    if not isinstance(seen, int | str | os.PathLike):
        return [picture for picture, _ in seen]
    if str(seen).strip() == "0":  # 0: no defects
        return []
    dataset = images if isinstance(images, Dataset) else None
    return [item.path for item in choose_seen(seen, dataset, seed, say, masked=False)]
