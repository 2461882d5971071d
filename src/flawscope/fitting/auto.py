"""Finds out which settings a product needs: tries them on good pictures that it leaves out, and on defects.

First all settings are tried on few pictures; what got most is tried again beside the settings as given, on
other left-out pictures with other defects (successive halving: Jamieson and Talwalkar, Non-stochastic Best Arm
Identification, 2016). It is taken where it gains beyond the interval there; else the settings stay. Then the
model is fitted to all good pictures. Its calibration leaves each picture out, also those that chose among a
few settings: that p-values stay uniform is measured (`bench/auto.py --parts promise`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import Artefact, Picture
from flawscope.calibration.tried import GIVEN, MIN_GAIN, TRIED, Choice, Scored, Trial
from flawscope.datasets import Dataset, open_dataset
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import InputError, check_arguments, pluralize
from flawscope.fitting.fitting import fit
from flawscope.fitting.preparation import Reading, Say, Seeing, discard
from flawscope.fitting.proposals import Recipe, propose_frames, propose_views
from flawscope.fitting.training_pictures import (
    Images,
    SeenDefects,
    decoded_or_none,
    look_at,
    split_sources,
)
from flawscope.methods import registry
from flawscope.methods.settings import setting_names
from flawscope.pictures.decoding import PictureSource, decode, pixel_hash, to_eight_bits
from flawscope.pictures.listing import relative_names
from flawscope.pictures.units import find_parts, group_numbers
from flawscope.predictor import Predictor
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.synthesis import DefectScale, Foreground, simulate_defect

STREAM = 67  # of random numbers: part of their seed
MIN_PARTS = 12  # good parts to try by
LEARNT, LEFT_OUT = (24, 48), (16, 24)  # pictures learnt from, and left out, at most, in each stage
SIMULATED = 24, 48  # defects in each stage
CONTRASTS = math.log(8), math.log(64)  # grey levels of simulated defects
WINDOW = 512  # pixels a side: half of the defects in larger pictures are drawn in a part of so many
CONFIRMED = 2  # settings that are tried in the second stage, beside those given
RESERVE = 1.25  # times the time that a fit is expected to take
LOOKED_AT = 24  # pictures that settings are proposed from
# Options of a fit that leave nothing to try, or for which pictures are not as they lie in the file
NOT_TRIED = ("part", "view", "channels", "undistort", "resume", "minutes", "tensorboard")
Pixels = NDArray[np.uint8]


class _TimeIsUpError(Exception):
    """A trial takes longer than there is time for."""


class _Defect(NamedTuple):
    """Simulated defect: pixels that replace those of the good picture `carrier` from row y and column x on."""

    carrier: int
    y: int
    x: int
    pixels: Pixels


@dataclass
class _Stage:
    """Pictures of a stage, by number. given: sources of defective pictures."""

    learnt: list[int]
    left_out: list[int]
    given: list[PictureSource]
    simulated: list[_Defect] = field(default_factory=list)


@check_arguments(but=("images", "seen"))
def fit_auto(
    images: Images,
    *,
    minutes: float = 10.0,
    seen: SeenDefects = 0,
    names: Sequence[str] = (),
    say: Say = discard,
    step: ProgressCallback = ignore_progress,
    **options: Any,
) -> Predictor:
    """Fits a PatchCore with the settings that the pictures need, found out in a limited time.

    Args:
        images, names, say, step, **options: as `fitting.fit` takes them. What is given stays.
        minutes: for all, the fit that follows included. An interrupt ends the search and keeps what was found.
        seen: defective pictures to choose by, as `Reading` has it: nothing is learnt from them, and
            evaluation leaves them out.

    Returns:
        As `fit`; its facts hold what was tried (`calibration.tried.Choice`).

    Raises:
        InputError: as of `fit`; a method other than PatchCore; minutes not above 0.
    """
    if options.get("method") not in (None, "patchcore"):
        raise InputError(f"what is found out is for patchcore, not {options['method']}: leave out --auto")
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes:g} minutes are no time: give more than 0")
    until = time.monotonic() + 60 * minutes
    if not isinstance(images, Dataset) and isinstance(images, str):
        group = options.get("group") or options.get("part")
        seed = int(options.get("seed") or 0)
        images = open_dataset(images, options.get("category"), seed=seed, group=group)
    search = _Search(images, seen, list(names), dict(options), until, say, step)
    choice, recipe = search.run()
    for line in choice.lines():
        say(line)
    predictor = fit(images, names=names, say=say, step=step, **{**options, **recipe.options})
    return _with_choice(predictor, choice, search.given)


def _with_choice(predictor: Predictor, choice: Choice, given: Mapping[str, str]) -> Predictor:
    """Returns the model with what was tried. given: names of the defects chosen by, by their hashes."""
    manifest = predictor.manifest
    pictures = (*manifest.pictures, *(Picture(digest, "seen", name) for digest, name in given.items()))
    facts = {**manifest.facts, TRIED: choice.to_dict()}
    made = Predictor(
        Artefact(replace(manifest, pictures=pictures, facts=facts), predictor.artefact.tensors),
        predictor.session,
    )
    made.failures, made.suspects = predictor.failures, predictor.suspects
    return made


class _Search:
    """Tries settings until `until`, on `time.monotonic`'s clock.

    given: names of the given defects by their pixels' hashes.
    """

    def __init__(
        self,
        images: Images,
        seen: SeenDefects,
        names: list[str],
        options: dict[str, Any],
        until: float,
        say: Say,
        step: ProgressCallback,
    ):
        self.options, self.until, self.say, self.step = options, until, say, step
        self.began = time.monotonic()
        self.seed = int(options.get("seed") or 0)
        self.sources = split_sources(images, options.get("category"))[0]
        self.names = names or relative_names(self.sources)
        self.groups = group_numbers(self.names, options.get("group"))
        self.trials: list[Trial] = []
        self.scored: dict[tuple[str, int], Scored] = {}
        self.seconds = dict[str, tuple[float, int]]()  # of the fit of each setting, and of how many pictures
        self.given: dict[str, str] = {}
        self.given_sources: list[PictureSource] = []
        for source in _given_defects(seen, images, self.seed, say):
            if (picture := decoded_or_none(source)) is not None:
                self.given[pixel_hash(picture)] = relative_names([source])[0]
                self.given_sources.append(source)

    def run(self) -> tuple[Choice, Recipe]:
        """Returns what was tried, and the recipe that was chosen."""
        given = Recipe()
        reason = self._why_nothing()
        if reason is None:
            try:
                found, reason = self._search(given)
            except KeyboardInterrupt:
                self.say("interrupted: the best so far is fitted; once more stops")
                found, reason = self._best_so_far(given)
        else:
            found = given
        chosen = found.flags
        simulated = int(sum((one.carriers != GIVEN).sum() for one in self._of_given()))
        choice = Choice(
            chosen,
            reason,
            tuple(self.trials),
            len(self.given_sources),
            simulated,
            round(time.monotonic() - self.began, 1),
        )
        return choice, found

    def _of_given(self) -> list[Scored]:
        return [one for (flags, _), one in self.scored.items() if not flags]

    def _why_nothing(self) -> str | None:
        """Why nothing can be tried; None: something can."""
        if fixed := [name for name in NOT_TRIED if self.options.get(name)]:
            return f"nothing is tried with {fixed[0]}"
        self.looks = look_at(self.sources, self.step)
        self.groups = find_parts(
            self.looks, self.names, self.groups, pattern=self.options.get("group"), force=True, say=discard
        )
        first = {group: i for i, group in reversed([*enumerate(self.groups)]) if self.looks[i] is not None}
        self.order = [int(i) for i in self._rng(0).permutation(sorted(first.values()))]  # one of each part
        if len(self.order) < MIN_PARTS:
            return f"{pluralize(len(self.order), 'good part')} are too few to choose by"
        self.is_deep = any(decode(self.sources[i]).dtype != np.uint8 for i in self.order[:3])
        if not self.given and (self.is_deep or self.options.get("roi")):
            of = "deep pictures" if self.is_deep else "a region"
            return f"defects cannot be simulated in {of}: give --seen"
        return None

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, STREAM, number])

    # ----------------------------------------------------------------------------------------- the stages

    def _search(self, given: Recipe) -> tuple[Recipe, str]:
        first, second = self._stages()
        self.recipes = {given.flags: given}
        if self._attempt(given, first, 1) is None:
            return given, "there was no time to try others"
        side = max(max(decode(self.sources[i]).shape[:2]) for i in self.order[:3])
        look_at_first = [i for i in self.order if i not in second.left_out][:LOOKED_AT]
        frame = given
        if self._is_free("align") and self._is_free("several"):
            self.step("auto: how parts lie", 0, 1)
            sources = [self.sources[i] for i in look_at_first]
            for recipe in propose_frames(sources, lambda i: self._load(look_at_first[i])):
                self._attempt(recipe, first, 1)
            frame = self._best(1, given)
        for recipe in propose_views(frame, side, bool(self.given)):
            if all(self._is_free(name) for name in recipe.options.keys() - frame.options.keys()):
                self._attempt(recipe, first, 1)
        return self._confirm(given, second)

    def _confirm(self, given: Recipe, stage: _Stage) -> tuple[Recipe, str]:
        """Tries the best of the first stage anew, and returns what is better beyond its interval."""
        candidates = self._ranked(1)[:CONFIRMED]
        if not candidates:
            return given, f"nothing gained {MIN_GAIN:g} of AUROC or more"
        if self._attempt(given, stage, 2) is None:
            return self._best_so_far(given)
        for flags in candidates:
            self._attempt(self.recipes[flags], stage, 2)
        return self._decide(2, given)

    def _best_so_far(self, given: Recipe) -> tuple[Recipe, str]:
        """What is better beyond its interval in the last stage that was reached."""
        stage = 2 if any(one.stage == 2 and one.gain for one in self.trials) else 1
        found, reason = self._decide(stage, given)
        return found, reason if stage == 2 else f"{reason}; there was no time to try it on other pictures"

    def _decide(self, stage: int, given: Recipe) -> tuple[Recipe, str]:
        sure = [
            one
            for one in self.trials
            if one.stage == stage and one.gain and one.gain[0] >= MIN_GAIN and one.gain[1] > 0
        ]
        if not sure:
            return given, "nothing else was better beyond its interval"
        best = max(sure, key=lambda one: one.auroc or 0.0)
        assert best.gain is not None
        gain, low, high = best.gain
        text = f"it gains {gain:.3f} of AUROC ({low:.3f} to {high:.3f}) on pictures that it was not chosen by"
        return self.recipes[best.flags], text if stage == 2 else f"it gains {gain:.3f} of AUROC"

    def _ranked(self, stage: int) -> list[str]:
        """Settings that gained in a stage, the best first."""
        gained = [one for one in self.trials if one.stage == stage and one.gain and one.gain[0] >= MIN_GAIN]
        return [one.flags for one in sorted(gained, key=lambda one: -(one.auroc or 0.0))]

    def _best(self, stage: int, given: Recipe) -> Recipe:
        ranked = self._ranked(stage)
        return self.recipes[ranked[0]] if ranked else given

    # ------------------------------------------------------------------------------------------- pictures

    def _stages(self) -> tuple[_Stage, _Stage]:
        """Two stages, which leave out different pictures, and judge different defects."""
        quarter = len(self.order) // 4
        left_out, start = [], 0
        for most in LEFT_OUT:
            left_out.append(self.order[start : start + min(most, quarter)])
            start += len(left_out[-1])
        rest = self.order[start:]
        learnt = rest[: LEARNT[0]], [*left_out[0], *rest][: LEARNT[1]]
        shuffled = [self.given_sources[int(i)] for i in self._rng(1).permutation(len(self.given_sources))]
        stages = [
            _Stage(learnt[k], left_out[k], shuffled[k::2] if len(shuffled) > 1 else shuffled) for k in (0, 1)
        ]
        if not self.is_deep and not self.options.get("roi"):
            part = Foreground.of([self._load(i) for i in rest[:8]])
            for k, stage in enumerate(stages):
                stage.simulated = [self._simulate(stage, part, n, k) for n in range(SIMULATED[k])]
        return stages[0], stages[1]

    def _load(self, number: int) -> Pixels:
        return to_eight_bits(decode(self.sources[number]))

    def _simulate(self, stage: _Stage, part: Foreground, number: int, which: int) -> _Defect:
        """Simulated defect `number` of a stage, on the part; every other one in a window of larger pictures."""
        rng = self._rng(1000 * (which + 1) + number)
        carrier = stage.left_out[number % len(stage.left_out)]
        picture = self._load(carrier)
        within = part.mask(picture)
        y = x = 0
        if number % 2 and max(picture.shape[:2]) > 1.5 * WINDOW:
            rows, columns = np.nonzero(within)
            at = int(rng.integers(len(rows)))
            y, x = (
                max(0, min(int(v[at]) - WINDOW // 2, side - WINDOW))
                for v, side in zip((rows, columns), picture.shape, strict=False)
            )
            picture = np.ascontiguousarray(picture[y : y + WINDOW, x : x + WINDOW])
            within = within[y : y + WINDOW, x : x + WINDOW]
        scales = list(DefectScale)
        made = simulate_defect(
            picture,
            rng,
            scale=scales[number // 2 % len(scales)],
            contrast=math.exp(rng.uniform(*CONTRASTS)),
            foreground=within,
        )
        rows, columns = np.nonzero(made.mask)
        top, left = int(rows.min()), int(columns.min())
        pixels = made.picture[top : int(rows.max()) + 1, left : int(columns.max()) + 1].copy()
        return _Defect(carrier, y + top, x + left, pixels)

    def _draw(self, defect: _Defect) -> Pixels:
        picture = self._load(defect.carrier).copy()
        height, width = defect.pixels.shape[:2]
        picture[defect.y : defect.y + height, defect.x : defect.x + width] = defect.pixels
        return picture

    # --------------------------------------------------------------------------------------------- trials

    def _is_free(self, name: str) -> bool:
        """Whether an option of the fit was left open. Those that say how large pictures are seen go together."""
        seen = ("size", "tile", "scale", "min_defect", "crop", "preset", "backbone", "layers", "count", "ratio")
        names = seen if name in seen else (name,)
        return all(self.options.get(one) in (None, False, "none", "default") for one in names)

    def _attempt(self, recipe: Recipe, stage: _Stage, number: int) -> Scored | None:
        """Tries a recipe in a stage, and notes what it got; None: it could not be tried to the end."""
        flags = recipe.flags
        if (flags, number) in self.scored:
            return self.scored[flags, number]
        self.recipes[flags] = recipe
        until = self._trial_until(number)
        known = self.seconds.get(flags)
        if known is not None and time.monotonic() + known[0] > until:
            until = 0.0
        try:
            trial, scored = self._try(recipe, stage, number, until)
        except _TimeIsUpError:
            self.trials.append(Trial(flags, number, note="no time"))
            return None
        except InputError as error:
            self.trials.append(Trial(flags, number, note=str(error).split(":")[0]))
            return None
        base = self.scored.get(("", number))
        if base is not None:
            trial = replace(trial, gain=_rounded(scored.gain_over(base, self.seed)))
        self.scored[flags, number] = scored
        self.trials.append(trial)
        return scored

    def _trial_until(self, stage: int) -> float:
        """Time until which a trial must be done, so that the rest can follow."""
        each, learnt = self.seconds.get("", (0.0, 1))
        final = RESERVE * each * len(self.sources) / learnt
        later = 0.0 if stage == 2 else 2.0 * RESERVE * each
        return self.until - final - later

    def _try(self, recipe: Recipe, stage: _Stage, number: int, until: float) -> tuple[Trial, Scored]:
        label = f"auto: {recipe.flags or 'as given'}"

        def step(name: str, done: int, total: int) -> None:
            if time.monotonic() > until:
                raise _TimeIsUpError
            self.step(label, done, total)

        step("", 0, 1)
        began = time.monotonic()
        options = {**self.options, **recipe.options, "force": True, "drop_suspects": False}
        model = fit(
            [self.sources[i] for i in stage.learnt],
            **{**options, "group": None, "samples": 0, "check": False, "step": step},
        )
        fitted = time.monotonic()
        good = self._judge(model, [self.sources[i] for i in stage.left_out], step)
        judged = time.monotonic()
        place = {picture: k for k, picture in enumerate(stage.left_out)}
        defects = [*map(self._draw, stage.simulated), *stage.given]
        bad = self._judge(model, defects, step)
        carriers = [place[one.carrier] for one in stage.simulated] + [GIVEN] * len(stage.given)
        self.seconds[recipe.flags] = fitted - began, len(stage.learnt)
        scored = Scored(good[0], bad[0], np.array(carriers))
        # were all fitted with it, the time would be beyond the limit
        final = (fitted - began) * len(self.sources) / len(stage.learnt)
        if time.monotonic() + final > self.until:
            raise _TimeIsUpError
        trial = Trial(
            recipe.flags,
            number,
            round(scored.auroc(), 4),
            None,
            (int(good[1].sum()), len(good[1])),
            (int(bad[1].sum()), len(bad[1])),
            round((judged - fitted) / len(stage.left_out), 3),
        )
        return trial, scored

    def _judge(
        self, model: Predictor, pictures: Sequence[PictureSource], step: Callable[[str, int, int], None]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores [N] and decisions [N]; a picture in which parts are not found is beyond all others."""
        scores, above = [], []
        for k, picture in enumerate(pictures):
            step("", k, len(pictures))
            found = model.predict(picture)
            sure = any(finding.decides for finding in found.findings)
            scores.append(math.inf if sure or not math.isfinite(found.score) else found.score)
            above.append(found.is_anomalous)
        return np.array(scores, np.float64), np.array(above, np.bool_)


def _rounded(gain: tuple[float, float, float]) -> tuple[float, float, float]:
    first, low, high = (round(value, 4) for value in gain)
    return first, low, high


def _given_defects(seen: SeenDefects, images: Images, seed: int, say: Say) -> list[PictureSource]:
    """Defective pictures that `seen` means; masks are not asked for where pictures are listed."""
    if isinstance(seen, list | tuple):
        return [picture for picture, _ in seen]
    if str(seen).strip() == "0":
        return []
    dataset = images if isinstance(images, Dataset) else None
    return [item.path for item in choose_seen(seen, dataset, seed, say)]
