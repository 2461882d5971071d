"""Judges good pictures by a model as if it had not learnt from them, and calibrates the model on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.detection import with_decided_defects
from flawscope.artefact.parts import check_whole_parts, part_calibration, stored_part_pattern
from flawscope.calibration.goods import (
    CALIBRATION,
    Picture,
    calibrate,
    judge,
    map_values,
    renumber,
)
from flawscope.calibration.outliers import Seen, odd, settle
from flawscope.calibration.power import DefectScores
from flawscope.errors import ExcludedPictureError, InputError, join_names, pluralize
from flawscope.pictures.appearance import APPEARANCE_KEY as APPEARANCE
from flawscope.pictures.channels import first_channels
from flawscope.pictures.decoding import PictureSource, error_reason, pixel_hash, source_name
from flawscope.pictures.listing import picture_names
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_new_parts
from flawscope.predictor.streaming import stream_predictions
from flawscope.progress import ProgressCallback, Say, ignore_progress
from flawscope.results.findings import COUNT_WRONG, Finding
from flawscope.results.prediction import Prediction
from flawscope.runtime import Run
from flawscope.views.light import Light, within_range

if TYPE_CHECKING:
    from flawscope.predictor import Predictor

RunOf = Callable[[str, Run], Run]


class GoodPicture(NamedTuple):
    """Good picture as a model judged it.

    number: among those given. digest: hash of its pixels. values: [lights, 3], `Values` in each light, its
    own first; NaN where its parts are lost or counted wrong.
    """

    number: int
    digest: str
    seen: Seen
    values: NDArray[np.float64]

    @property
    def is_lost(self) -> bool:
        return bool(np.isnan(self.values).any())


@dataclass(frozen=True)
class GoodPictures:
    """Good pictures that a model judged, each once, in their order. failures: why others cannot be used."""

    pictures: list[GoodPicture]
    failures: list[str]

    def rows(
        self, kept: Sequence[Picture], names: Sequence[str], group: str | None, say: Say
    ) -> tuple[Picture, ...]:
        """The rows that a model keeps, as these pictures were judged, and new ones for those that have none:
        pictures of one part, by the pattern `group` or near-copies, share a unit. names: of all that were
        given."""
        place_of = {row.hash: k for k, row in reversed([*enumerate(kept)]) if row.role != "duplicate"}
        new = [one for one in self.pictures if one.digest not in place_of]
        units = find_new_parts(
            [one.seen.look for one in new], [names[one.number] for one in new], group, say=say
        )
        fresh = [
            Picture(one.digest, CALIBRATION, names[one.number], unit)
            for one, unit in zip(new, units, strict=True)
        ]
        rows = [*kept, *renumber(fresh, kept)]
        place_of |= {one.digest: len(kept) + k for k, one in enumerate(new)}
        places = [place_of[one.digest] for one in self.pictures]
        for place, row in zip(places, judge([rows[k] for k in places], self.values()), strict=True):
            rows[place] = row
        return tuple(rows)

    @property
    def seen(self) -> dict[str, Seen]:
        """Columns of the pictures by hash, as `odd` takes them."""
        return {one.digest: one.seen for one in self.pictures}

    def values(self) -> NDArray[np.float64]:
        """Values [N, lights, 3], as `goods.judge` takes them."""
        return np.array([one.values for one in self.pictures])


def judge_good(
    predictor: Predictor,
    good: Sequence[PictureSource],
    *,
    run_of: RunOf | None = None,
    but: Collection[str] = (),
    lights: Sequence[Light] | None = None,
    step: ProgressCallback = ignore_progress,
) -> GoodPictures:
    """Judges good pictures as any prediction does, each decoded once.

    Args:
        run_of: gives the run that has not learnt from the picture of a hash, by the session's; it, or its
            run, may raise an `ExcludedPictureError`. None: the session's has not.
        but: hashes of pictures that are left out, as copies are.
        lights: further ones that each is judged in; None: those in which the model keeps its rate.
    """
    how = predictor.manifest.preprocess
    more = how.lights[1:] if lights is None else lights
    seen: dict[int, tuple[str, Seen]] = {}

    def load(number: int) -> tuple[int, Any]:
        source = good[number]
        try:
            picture = how.decode(source)
            digest = pixel_hash(picture)
            if digest in but:
                return number, ExcludedPictureError("known")
            views, measured = predictor.see(source, picture)[:2]
            seen[number] = digest, Seen(Look.of(first_channels(picture, how.channels)), measured)
            return number, (views, measured, picture if more else None)
        except InputError as error:
            return number, error
        except Exception as error:  # also what a reader of pictures does not foresee
            return number, InputError(error_reason(error, source_name(source)))

    def judge_alike(batch: Sequence[tuple[int, Any]], run: Run) -> Iterator[tuple[int, list[Any]]]:
        """Results of pictures that one run judges: in their own light, then in each other one."""
        shown = [(good[number], one if isinstance(one, InputError) else one[:2]) for number, one in batch]
        for (number, loaded), (_, own) in zip(batch, predictor.judge(shown, run), strict=True):
            lit = more if isinstance(own, Prediction) and not _refusal(own) else ()
            pictures = (light(loaded[2]) for light in lit)
            seen_so = ((picture, predictor.see(picture, picture)) for picture in pictures)
            yield number, [own, *(result for one in seen_so for _, result in predictor.judge([one], run))]

    def judge_batch(batch: Sequence[tuple[int, Any]], run: Run) -> list[Any]:
        if run_of is None:
            return [*judge_alike(batch, run)]
        answers = list[Any]()
        for number, loaded in batch:
            try:
                own = run if isinstance(loaded, InputError) else run_of(seen[number][0], run)
                answers += judge_alike([(number, loaded)], own)
            except ExcludedPictureError as error:
                answers.append((number, [error]))
        return answers

    found, failures, tiled = dict[str, GoodPicture](), list[str](), how.tile is not None
    answers = stream_predictions(range(len(good)), load, judge_batch, predictor.session, None, tiled)
    for done, (number, (own, *others)) in enumerate(answers):
        step("calibration", done, len(good))
        if isinstance(own, ExcludedPictureError) or (number in seen and seen[number][0] in found):
            continue
        finding = None if isinstance(own, InputError) else _refusal(own)
        if isinstance(own, InputError):
            failures.append(str(own))
        elif finding is not None and finding.code != COUNT_WRONG:
            failures.append(f"cannot calibrate on {own.path or 'a picture'}: {finding.words}; remove it")
        else:
            values = np.full((1 + len(more), 3), np.nan)
            for k, one in enumerate([] if finding else [own, *others]):
                if isinstance(one, InputError):
                    raise one
                if not _refusal(one):
                    values[k] = map_values(one.score, one.map, predictor.valid_mask(one.geometry))
            found[seen[number][0]] = GoodPicture(number, *seen[number], values)
    step("calibration", len(good), len(good))
    return GoodPictures([*found.values()], failures)


def _refusal(found: Prediction) -> Finding | None:
    """The finding that decides about a picture instead of its score; None: there is none."""
    return next((one for one in found.findings if one.decides), None)


def recalibrate(
    predictor: Predictor,
    good: Sequence[PictureSource],
    step: ProgressCallback,
    force: bool,
    names: Sequence[str] = (),
) -> Predictor:
    """Returns the model with thresholds from new good pictures (`Predictor.calibrate`). names: of the
    pictures, which tell their parts; by default those of their files."""
    own = picture_names(good, names)
    if (pattern := stored_part_pattern(predictor.manifest)) is not None:
        check_whole_parts(part_calibration(predictor.manifest, pattern).views, pattern.parse_all(own))
    others = [row.forgotten() for row in predictor.manifest.pictures if row.learnt]
    how, before = predictor.manifest.preprocess, predictor.calibration
    judged = judge_good(predictor, good, but={row.hash for row in others}, step=step)
    every, failures = judged.pictures, judged.failures
    usable = [picture for picture in every if not picture.is_lost]
    unlit = [one for one in every if one.is_lost and not np.isnan(one.values[0]).any()]
    if not usable and not unlit:
        why = "the model was fitted on all of them: give good pictures it has not seen"
        raise InputError(failures[0] if failures else why if good else "no good pictures given")
    if not usable:
        raise InputError(
            "the parts of none of the good pictures are found in all light: fit with a smaller --light, or "
            "without --align"
        )
    left_out = len(good) - len(every) - len(failures)
    notes = [f"calibrated anew on {pluralize(len(usable), 'good picture')}"]
    if unlit:
        lost = join_names([own[picture.number] for picture in unlit])
        notes.append(f"parts lost in some light, and so counted as anomalous: {lost}")
    group = predictor.manifest.facts.get("group")
    pictures = judged.rows(others, own, group, notes.append)
    if left_out:
        fitted = pluralize(left_out, "picture")
        notes.append(f"not calibrated with {fitted} that the model was fitted on, or copies")
    how_scored = before.to_dict() | {
        "method": f"held out{within_range(how.normalization)}",
        "runtime": predictor.session.runtime,
        "promised": True,
    }
    calibration = calibrate(pictures, **how_scored)
    defects, appearance = DefectScores.from_facts(predictor.manifest.facts), predictor.appearance
    found = odd(
        pictures,
        calibration,
        defects,
        judged.seen,
        before=before,
        appearance=appearance,
        left_out=left_out,
    )
    more, questions = settle(found, force)
    new = predictor.with_calibration(calibration, *notes, *more)
    facts = dict(new.manifest.facts)
    if appearance is not None:  # pictures like these are expected from now on
        facts[APPEARANCE] = appearance.widen(appearance.shifts(one.seen.measured) for one in usable).to_dict()
    manifest = with_decided_defects(replace(new.manifest, pictures=pictures, facts=facts)).asking(*questions)
    return new.with_manifest(manifest).with_failures(failures)
