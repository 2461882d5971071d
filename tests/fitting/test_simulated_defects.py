"""The check at the end of a fit: where its defects lie, whom it asks, how long it takes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from flawscope.calibration.threshold import Calibration
from flawscope.fitting import simulated_defects
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.fitting.simulated_defects import DEFECT_SIZES, MIN_TRIED, score_simulated_defects
from flawscope.methods.detector import Detector
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Budget, LeaveOut, Task
from flawscope.pictures.table import Picture
from flawscope.synthesis import SCALE_AREAS, SimulatedDefect
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

SIDE = 64
MOST = simulated_defects.MAX_PER_SIZE
LONG_FIT = 1e5  # seconds: the check may take as long as it needs


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", 8)


class Difference(Detector):
    """Knows one good picture by heart; the score is the share of the pixels that differ from it, or 0 where
    it is `blind`. Pictures that were left out score half."""

    def __init__(self, good, *, blind=False, roi=None, **settings):
        super().__init__(PictureSettings(size=str(SIDE), **settings), roi)
        self.good, self.blind = good, blind
        self.seen: list[Tensor] = []
        self.groups: list[int] = []

    def embed(self, images):
        self.seen += list(images)
        return images

    def score(self, features, inside=None):
        maps = (features != self.good).any(1).float()
        return maps.mean((1, 2)) * (not self.blind), maps

    def left_out(self, features, group, kept, inside=None):
        self.groups.append(group)
        scores, maps = self.score(features)
        return scores / 2, maps

    @classmethod
    def rebuild(cls, config, tensors):
        raise NotImplementedError


@pytest.fixture(scope="module")
def good():
    picture = draw_picture("plate", np.random.default_rng(1), None, 0.1, size=SIDE)[0]
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255 + 1e-4  # not a whole grey level


def carrier(number, score):
    return Picture(f"{number}", "train", f"{number}.png", number, score, score, 0.0, True)


def checked(model, *, learnt=False, scores=(0.0,) * 4, leave_out=LeaveOut, budget=None):
    """As of a model that was fitted for a long time, of which groups count from 100 on."""
    numbers = list(range(len(scores)))
    task = Task(lambda i: model.good, [100 + k for k in numbers], rate=0.05, budget=budget or Budget())
    known = task.groups if learnt else []
    began = simulated_defects.time.monotonic() - LONG_FIT
    left_out = leave_out(model, known, model.state_dict())
    carriers = {k: carrier(k, score) for k, score in zip(numbers, scores, strict=True)}
    return score_simulated_defects(left_out, Calibration(scores, scores, 0.0), carriers, task, began)


def test_who_sees_every_difference_finds_all_and_who_is_blind_none(good):
    found, none = checked(Difference(good)), checked(Difference(good, blind=True))
    sizes = [str(size) for size in DEFECT_SIZES]
    assert list(found.scores) == sizes == ["small", "medium", "large"]
    assert len({len(scores) for scores in found.scores.values()}) == 1
    assert all(found.count_found(size)[0] == found.count_found(size)[1] > 0 for size in sizes)
    assert all(none.count_found(size)[0] == 0 for size in sizes)
    assert none.remark() is not None
    assert found.remark() is None


def test_defects_have_their_size_and_change_nothing_else(good):
    model = Difference(good)
    found = checked(model)
    pixels = SIDE * SIDE
    for size, scores in found.scores.items():
        low, high = SCALE_AREAS[size]
        # soft edges of faint ones fade away
        assert all(min(low / 4, 4 / pixels) <= score <= max(high, 4 / pixels) for score in scores), size
    for image in model.seen:
        changed = (image != good).any(0)
        assert torch.equal(image[:, ~changed], good[:, ~changed])  # to the last bit


def test_defects_lie_where_something_counts(good):
    roi = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    roi[:, : SIDE // 2] = True
    model = Difference(good, roi=roi)
    checked(model)
    assert model.seen
    assert all(torch.equal(image[..., SIDE // 2 :], good[..., SIDE // 2 :]) for image in model.seen)
    padded = good.clone()
    padded[:, : SIDE // 4] = -1 - padded[:, : SIDE // 4]  # marked
    model = Difference(padded, keep_aspect=True)
    checked(model)
    assert all(torch.equal(image[:, : SIDE // 4], padded[:, : SIDE // 4]) for image in model.seen)


def test_pictures_that_were_learnt_from_are_left_out_by_their_group(good):
    held, learnt = Difference(good), Difference(good)
    whole, halved = checked(held).scores["large"], checked(learnt, learnt=True).scores["large"]
    assert (held.groups, {*learnt.groups}) == ([], {*range(100, 104)})
    count = min(len(whole), len(halved))
    np.testing.assert_allclose(halved[:count], np.array(whole[:count]) / 2, rtol=1e-6)


def test_pictures_that_are_false_alarms_carry_no_defects(good):
    """Else a model would find what it calls anomalous anyway."""
    model = Difference(good)
    scores = (0.0, 0.1, 0.2, 0.9)  # the threshold is the largest
    found = checked(model, learnt=True, scores=scores)
    assert found.pictures == 3
    assert 13 not in model.groups
    assert checked(Difference(good), scores=(0.5,)).pictures == 1  # where there is no other


def test_what_is_checked_little_or_not_at_all(good, monkeypatch):
    padded = good.clone()
    padded[:, 10:] = -1 - padded[:, 10:]
    assert checked(Difference(padded, keep_aspect=True)) is None
    late = checked(Difference(good), budget=Budget(minutes=1e-9))
    assert sum(map(len, late.scores.values())) == 3  # one of each size all the same
    monkeypatch.setattr(Difference, "left_out", Detector.left_out)
    assert checked(Difference(good), learnt=True) is None


class Clock:
    """Instead of the time module: every picture takes a second."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("fit_took", [1.0, 90.0, 400.0, 1e5])
@pytest.mark.parametrize("threads", [1, 3])
def test_it_takes_a_tenth_of_the_time_or_as_much_as_a_few_defects_take(good, monkeypatch, fit_took, threads):
    clock = Clock()
    monkeypatch.setattr(simulated_defects, "time", clock)
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", MOST)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done = []

    def embed(model, load, numbers, store):
        """As many threads take a batch of four each, at the same time."""
        clock.now += -(-len(numbers) // threads) if len(numbers) > 4 else len(numbers)
        for number in numbers:
            load(number)
            store(number, torch.zeros(3, 1, 1), None)

    monkeypatch.setattr(simulated_defects, "embed_pictures", embed)
    model = Difference(good[:, :1, :1])
    scores = (0.0,) * 4
    task = Task(lambda i: good, range(4), rate=0.05, step=lambda _, *now: done.append(now))
    leave_out, known = LeaveOut(model, (), {}), Calibration(scores, scores, 0.0)
    carriers = {k: carrier(k, score) for k, score in enumerate(scores)}
    found = score_simulated_defects(leave_out, known, carriers, task, fit_began_at=1000.0 - fit_took)
    count = sum(map(len, found.scores.values()))
    took = clock.now - 1000.0
    assert found.seconds == took
    assert MIN_TRIED <= count <= 3 * MOST, "of fewer than eight nothing could be said"
    if count > MIN_TRIED:
        assert took <= (fit_took + took) / 10
    if fit_took == 1e5:
        assert count == 3 * MOST
    elif fit_took > 90:
        assert took > 0.05 * fit_took
    assert done[-1] == (count, count)
    assert all(a < b for a, b in done[:-1])


def parts(count, seed=0):
    return [
        draw_picture("plate", np.random.default_rng([seed, k]), None, 0.1, size=96)[0] for k in range(count)
    ]


@pytest.fixture(scope="module")
def fitted():
    return fit(parts(8), size=64, device="cpu", samples=0, **SMALL_NETWORK)


def test_it_changes_nothing_and_an_extended_model_is_checked_anew_or_says_that_it_is_not(fitted):
    without = fit(parts(8), size=64, device="cpu", samples=0, **SMALL_NETWORK, check=False)
    assert without.calibration == fitted.calibration
    assert all(np.array_equal(v, without.artefact.tensors[k]) for k, v in fitted.artefact.tensors.items())
    more = parts(4, seed=5)
    new = partial_fit(fitted.artefact, more, device="cpu")
    found = new.manifest.facts["simulated_defects"]
    assert found["score_threshold"] == new.calibration.score_threshold
    assert found["sizes"] != fitted.manifest.facts["simulated_defects"]["sizes"]
    bare = partial_fit(fitted.artefact, more, device="cpu", check=False)
    assert "simulated_defects" not in bare.manifest.facts
    assert any("was not measured after the model was extended" in note for note in bare.manifest.notes)


def test_who_misses_many_says_so_and_what_it_does_not_say(monkeypatch):
    def unseen(picture, *_, **__):
        return SimulatedDefect(picture, np.zeros(picture.shape[:2], bool), "spot", 40.0)

    monkeypatch.setattr(simulated_defects, "simulate_defect", unseen)
    monkeypatch.setattr(simulated_defects, "TIME_SHARE", 1e3)
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", 4)
    said = []
    model = fit(parts(6), size=64, device="cpu", samples=0, **SMALL_NETWORK, say=said.append)
    (note,) = [line for line in model.manifest.notes if "clear simulated defects of medium and large" in line]
    assert note in said
    assert "of 8 clear" in note
    assert "`evaluate` tells by real ones" in note


def test_a_method_may_leave_out_in_its_own_way(good):
    """While it is fitted it may know more than its model file holds."""
    model, asked = Difference(good), []

    class OwnWay(LeaveOut):
        def score(self, group, features, inside):
            assert features.shape == (3, SIDE, SIDE)
            asked.append(group)
            return torch.full((1,), 7.0), torch.zeros(1, SIDE, SIDE)

    found = checked(model, learnt=True, leave_out=OwnWay)
    assert {score for scores in found.scores.values() for score in scores} == {7.0}
    assert set(asked) == {*range(100, 104)}
    assert model.groups == []


def test_contrasts_fill_their_range_evenly_at_each_size_however_many_there_are():
    low, high = simulated_defects.CONTRAST_RANGE
    for count in (6, 12, 40):
        for size in range(len(DEFECT_SIZES)):
            drawn = [simulated_defects._contrast(size + k * len(DEFECT_SIZES)) for k in range(count)]
            places = np.sort(np.log(np.array(drawn) / low) / np.log(high / low))
            assert np.diff([0, *places, 1]).max() < 2.7 / count  # no gap is much wider than their share


class Faint(Difference):
    """Sees differences above a number of grey levels alone, on more than so many pixels."""

    levels, pixels = 14.5, 4

    def score(self, features, inside=None):
        maps = ((features - self.good).abs().amax(1) * 255 > self.levels).float()
        return (maps.sum((1, 2)) > self.pixels).float(), maps


def test_the_contrast_that_a_model_needs_is_measured(good, monkeypatch):
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", MOST)
    found = checked(Faint(good))
    for size in ("medium", "large"):
        assert 0 < found.count_found(size)[0] < MOST  # neither nothing nor all
        assert found.count_found(size, 22.0)[0] == found.count_found(size, 22.0)[1] > 10
        half = found.limit(size, 0.5)
        assert 6 < half < 18
    assert "only labelled ones tell" in found.describe()


def test_settings_that_see_more_are_told_apart(good, monkeypatch):
    """The ladder ends where nobody sees anything, so that a better model has something to gain."""
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", MOST)
    shares = []
    for levels in (6.5, 12.5, 25.5):
        model = Faint(good)
        model.levels, model.pixels = levels, 2
        found = checked(model)
        shares.append(sum(found.count_found(str(size))[0] for size in DEFECT_SIZES) / (3 * MOST))
    assert shares[0] - shares[1] > 0.1
    assert shares[1] - shares[2] > 0.1
    assert shares[0] < 1


@pytest.mark.parametrize("at", [30, 0])
def test_the_found_defects_bound_sizes(good, at):
    """The map doubts 4 x 4 pixels wherever the defect lies; where these reach the edge, nothing is known."""

    class Square(LeaveOut):
        def score(self, group, features, inside):
            values = torch.zeros(1, SIDE, SIDE)
            values[0, at : at + 4, 30:34] = 1
            return torch.full((1,), 7.0), values

    found = checked(Difference(good), learnt=True, leave_out=Square)
    count = sum(map(len, found.scores.values()))
    assert found.bounds.count == (count if at else 0)
    assert (found.bounds.length > 2) == bool(at)  # the longest of them has more than 8 pixels
