"""The search for settings, with models that score by a script; and one with real ones."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from auto_helpers import pictures
from flawscope.artefact.tried import TRIED
from flawscope.errors import InputError
from flawscope.fitting import auto, auto_search, fit_auto, proposals, search_time, trial_pictures
from flawscope.fitting.preparation import prepare
from flawscope.fitting.proposals import Recipe, propose_tiles, propose_views, relative_cost
from flawscope.fitting.trial_pictures import make_rounds
from flawscope.methods import registry
from flawscope.pictures import foreground
from flawscope.pictures.units import named_rows, units_of
from small_network import SMALL_NETWORK


class Scripted:
    """A model that knows good pictures by their pixels: defects score `reach` higher, give or take. reach:
    a number, or numbers by pixels, None: of all other defects."""

    def __init__(self, good, reach):
        self.good = {one.tobytes() for one in good}
        self.reach = reach if isinstance(reach, dict) else {None: reach}

    def predict(self, shown):
        for one in map(np.asarray, (Image.open(x) if isinstance(x, Path) else x for x in shown)):
            noise = np.random.default_rng([one.sum()]).normal()
            reach = self.reach.get(one.tobytes(), self.reach[None])
            score = noise + (0 if one.tobytes() in self.good else reach)
            yield SimpleNamespace(score=score, is_anomalous=score > 2, findings=())


KNOWN = {}


def remembered(function):
    """Of the same pictures it is done once for all searches here."""

    def recall(*given, **more):
        key = pickle.dumps((function.__name__, given, more))
        if key not in KNOWN:
            KNOWN[key] = function(*given, **more)
        return KNOWN[key]

    return recall


@pytest.fixture
def scripted(monkeypatch):
    """Replaces fits; returns what they were called with. reaches: of models by their flags."""
    calls, reaches = [], {"": 1.0}
    good = pictures(40)

    def fit(images, *, step=None, **options):
        own = {name: options[name] for name in ("align", "size", "preset", "min_defect") if name in options}
        calls.append((len(images), own))
        flags = Recipe(own).flags
        if flags in reaches and isinstance(reaches[flags], Exception | KeyboardInterrupt):
            raise reaches[flags]
        return Scripted(good, reaches.get(flags, reaches[""]))

    for module, name in ((foreground, "foreground_mask"), (trial_pictures, "simulate_defect")):
        monkeypatch.setattr(module, name, remembered(getattr(module, name)))
    monkeypatch.setattr(auto, "fit", fit)
    monkeypatch.setattr(auto_search, "fit", fit)
    monkeypatch.setattr(auto_search, "propose_frames", lambda *_: [])
    monkeypatch.setattr(proposals, "SEEN_PIXELS", 0)  # they stand for larger pictures
    monkeypatch.setattr(auto, "_with_choice", lambda predictor, choice, given: (choice, given))
    return SimpleNamespace(calls=calls, reaches=reaches, good=good)


def turned(monkeypatch):
    """Good pictures that show parts at any angle."""
    monkeypatch.setattr(auto_search, "propose_frames", lambda *_: [Recipe({"align": "turn"})])


def tried(choice):
    return {one.flags: one.rounds for one in choice.trials}


def test_the_best_in_the_mean_is_chosen_and_fitted_to_all(scripted):
    scripted.reaches["--preset accurate"] = 4.0
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == "--preset accurate"
    assert scripted.calls[-1] == (40, {"preset": "accurate"})
    assert choice.reason.startswith("of 4 settings it tells good pictures best from defects (")


def test_where_nothing_else_was_to_be_tried_it_is_told_so(scripted, monkeypatch):
    """Nothing failed, and more minutes would change nothing."""

    def why(**options):
        return fit_auto(scripted.good, **options)[0].reason.split(";")[0]

    assert why(align="none", size="64") == "there was nothing else to try beside the options given"
    turned(monkeypatch)
    scripted.reaches["--align turn --size 64"] = InputError("no part: leave it out")
    assert why(size="64") == "no other setting can be used: the table says why"
    scripted.reaches["--align none --preset accurate"] = KeyboardInterrupt()
    assert why(align="none") == "no other setting was tried to the end"


def test_a_small_gain_is_enough_and_needs_no_proof(scripted):
    """By its interval neither would be surely better: what is lost by the other one is."""
    scripted.reaches |= {"": 1.0, "--preset accurate": 1.3, "--preset small": 0.5, "--size 256+768": 0.5}
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == "--preset accurate"


def test_each_setting_is_tried_once_and_the_best_again_with_the_time_that_is_left(scripted):
    scripted.reaches |= {"--preset accurate": 2.0, "--size 256+768": 2.0, "--preset small": 0.0, "": 0.0}
    choice, _ = fit_auto(scripted.good)
    rounds = tried(choice)
    assert rounds == {"": 1, "--preset accurate": 4, "--size 256+768": 4, "--preset small": 1}
    assert (choice.good, choice.simulated) == (40, 128), "each good picture was left out once"
    assert len(scripted.calls) == sum(rounds.values()) + 1


def test_the_nearer_two_settings_are_the_longer_they_are_tried(scripted, monkeypatch):
    """In the mean of four rounds half of a difference of one round is sure."""
    reached, inner = [], auto_search.fit

    def fit(images, **options):
        reached.append(apart.get(options.get("preset") or options.get("size"), 0.9))
        return inner(images, **options)

    monkeypatch.setattr(auto_search, "fit", fit)
    monkeypatch.setattr(auto_search, "auroc_on_carriers", lambda *_: reached[-1])
    for small, rounds in ((0.84, 1), (0.86, 2), (0.87, 3), (0.88, 4)):
        apart = {"accurate": 0.8, "256+768": 0.8, "small": small}
        found = tried(fit_auto(scripted.good)[0])
        assert (found[""], found["--preset small"], found["--preset accurate"]) == (rounds, rounds, 1)


@pytest.mark.parametrize("minutes", [4.0, 4.5, 5.0, 5.5, 6.0])
def test_a_round_is_of_two_settings_or_there_is_none(scripted, monkeypatch, minutes):
    """What one setting alone reached in another round says nothing."""
    FakeClock(monkeypatch)
    scripted.reaches |= {"": 2.0, "--preset accurate": 2.0, "--size 256+768": 0.0, "--preset small": 0.0}
    found = tried(fit_auto(scripted.good, minutes=minutes)[0])
    assert found[""] == found["--preset accurate"] >= 1


def test_where_one_is_far_better_no_time_is_spent_on_others(scripted):
    scripted.reaches |= {"": 0.0, "--preset accurate": 9.0, "--preset small": 0.0, "--size 256+768": 0.0}
    choice, _ = fit_auto(scripted.good)
    assert set(tried(choice).values()) == {1}


def test_parts_that_lie_elsewhere_are_found_and_all_else_is_tried_with_it(scripted, monkeypatch):
    """Simulated defects that tell nothing do not speak against it; those that tell much do."""
    turned(monkeypatch)
    for own, plain, chosen in ((1.0, 1.0, True), (1.0, 1.05, True), (0.0, 3.0, False)):
        scripted.reaches |= {"": plain, "--align turn": own}
        for more in ("--preset accurate", "--size 256+768", "--preset small"):
            scripted.reaches |= {f"--align turn {more}": own / 2, more: own / 2}
        choice, _ = fit_auto(scripted.good)
        assert choice.flags == ("--align turn" if chosen else "")
        assert ("--align turn --preset accurate" in tried(choice)) == chosen
        assert ("--preset accurate" in tried(choice)) != chosen


def test_defects_of_a_person_decide_before_simulated_ones(scripted):
    """They are counted apart."""
    defects = pictures(46)[40:]
    own = {one.tobytes(): 5.0 for one in defects}
    scripted.reaches |= {"": 3.0, "--preset accurate": {**own, None: 1.0}}
    for flags in ("--size 256+768", "--preset small", "--size 512", "--size 256", "--size 384+512"):
        scripted.reaches[flags] = {**dict.fromkeys(own, 0.0), None: 3.0}
    scripted.reaches[""] = {**dict.fromkeys(own, 0.0), None: 3.0}
    choice, _ = fit_auto(scripted.good, seen=[(one, []) for one in defects])
    assert choice.flags == "--preset accurate"
    best = next(one for one in choice.trials if one.flags == choice.flags)
    assert best.found_given[1] == 6 * best.rounds
    assert best.found[1] == 32 * best.rounds
    assert best.given[0] > 0.9 > best.simulated[0]


def test_few_pictures_are_tried_as_all_are_fitted(scripted, monkeypatch):
    """Of ten pictures PatchCore tries turned copies, which take eight times as long: of all it does not."""
    inner, augment = auto.fit, []
    watched = lambda images, **o: augment.append(o.get("augment")) or inner(images, **o)  # noqa: E731
    monkeypatch.setattr(auto, "fit", watched)
    monkeypatch.setattr(auto_search, "fit", watched)
    fit_auto(scripted.good[:14])
    assert (set(augment[:-1]), augment[-1]) == ({"none"}, None)


def test_of_few_pictures_all_tell_how_parts_lie(scripted, monkeypatch):
    looked_at = []
    monkeypatch.setattr(auto_search, "propose_frames", lambda sources, _: looked_at.extend(sources) or [])
    fit_auto(scripted.good[:12])
    assert len(looked_at) == 12


def test_an_interrupt_keeps_the_best_so_far(scripted):
    scripted.reaches |= {"--preset accurate": 4.0, "--size 256+768": KeyboardInterrupt()}
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == "--preset accurate"
    assert [one.flags for one in choice.trials if one.note == "no time"] == [
        "--size 256+768",
        "--preset small",
    ]
    assert choice.enough


def test_settings_that_cannot_be_tried_are_told(scripted, monkeypatch):
    turned(monkeypatch)
    scripted.reaches["--align turn"] = InputError("no part: leave it out")
    choice, _ = fit_auto(scripted.good)
    assert next(one.note for one in choice.trials if one.flags == "--align turn") == "no part"
    assert "--preset accurate" in tried(choice)


class FakeClock:
    """A clock on which a fit takes a second for each picture, and judging a tenth of it, times a load."""

    def __init__(self, monkeypatch, load=1.0):
        self.now, self.load = 0.0, load
        monkeypatch.setattr(search_time, "time", SimpleNamespace(monotonic=lambda: self.now))
        inner, judge = auto.fit, Scripted.predict

        def fit(images, *, step=None, **options):
            for k in range(len(images)):
                self.work(1.0)
                if step:
                    step("features", k, len(images))
            return inner(images, **options)

        def predict(model, shown):
            for one in judge(model, shown):
                self.work(0.1)
                yield one

        monkeypatch.setattr(auto, "fit", fit)
        monkeypatch.setattr(auto_search, "fit", fit)
        monkeypatch.setattr(Scripted, "predict", predict)

    def work(self, seconds):
        self.now += seconds * self.load


@pytest.mark.parametrize(
    ("load", "minutes", "accurate"), [(0.5, 3, True), (1.0, 5, True), (2.0, 5, False), (3.0, 5, False)]
)
def test_a_setting_is_tried_as_long_as_the_last_fit_ends_in_time(
    scripted, monkeypatch, load, minutes, accurate
):
    """The settings as given take 28 seconds, `accurate` about three times as long until it was tried, the fit
    to all 44. What was not tried is told with the minutes that it takes."""
    scripted.reaches |= {"": 0.0, "--preset accurate": 4.0}
    clock, said = FakeClock(monkeypatch, load), []
    choice, _ = fit_auto(scripted.good, minutes=minutes, say=said.append)
    assert clock.now <= 60 * minutes
    assert (choice.flags == "--preset accurate") == accurate
    (told,) = [line for line in said if "there is time for" in line]
    assert told.startswith("3 more settings to try"), "the time is told before"
    assert ("there is time for all;" in told) == accurate
    assert ("for all with" in told) != accurate
    if not accurate:
        late = next(one for one in choice.trials if one.flags == "--preset accurate")
        assert (late.note, late.minutes > minutes) == ("no time", True)


def test_a_trial_goes_forward_and_ends_once(scripted, monkeypatch):
    """A fit has stages of its own, which a person need not see."""
    FakeClock(monkeypatch)
    steps = []
    fit_auto(scripted.good, align="none", step=lambda *one: steps.append(one))
    label = auto_search.TRYING + " the settings as given"
    own = [(done, total) for stage, done, total in steps if stage == label]
    first = own[: next(k for k, (done, total) in enumerate(own) if done == total) + 1]
    assert {total for _, total in first} == {24 + 10 + 32}
    assert [done for done, _ in first] == sorted(done for done, _ in first)
    assert first[0][0] == 0


def test_a_load_that_comes_in_between_is_seen(scripted, monkeypatch):
    clock = FakeClock(monkeypatch)
    scripted.reaches["--preset accurate"] = 4.0
    inner = auto_search.fit

    def fit(images, **options):
        clock.load = 1.0 if len(scripted.calls) < 2 else 3.0
        return inner(images, **options)

    monkeypatch.setattr(auto_search, "fit", fit)
    choice, _ = fit_auto(scripted.good, minutes=6)
    assert clock.now <= 1.1 * 360
    assert "no time" in [one.note for one in choice.trials]


def test_settings_as_given_that_cannot_be_fitted_in_time_are_seen_before_they_are(
    scripted, monkeypatch, refused
):
    clock = FakeClock(monkeypatch, 10.0)
    refused(lambda: fit_auto(scripted.good, minutes=3), "3 minutes are too few", "give 11 or more")
    assert clock.now < 90
    assert all(count < 40 for count, _ in scripted.calls)


def test_a_search_that_is_refused_at_its_end_tells_why_and_no_table(scripted, monkeypatch, refused):
    """There is no model to go on with by --resume."""
    clock, said = FakeClock(monkeypatch), list[str]()
    inner = auto_search.Search.run

    def run(one):
        found = inner(one)
        clock.work(180.0)
        return found

    monkeypatch.setattr(auto_search.Search, "run", run)
    refused(lambda: fit_auto(scripted.good, minutes=3, say=said.append), "3 minutes are too few", "of trials")
    assert not any("--resume" in line or "chosen" in line for line in said)


def test_the_best_that_can_still_be_fitted_is_chosen(scripted, monkeypatch):
    """Other programs came after the trials: `accurate`, whose fit takes twice as long, is too late now."""
    scripted.reaches |= {"": 1.0, "--preset accurate": 4.0, "--size 256+768": 0.0, "--preset small": 0.0}
    clock, inner, tried_all = FakeClock(monkeypatch), auto_search.fit, auto_search.Search._search

    def fit(images, **options):
        clock.load = 2.0 if options.get("preset") == "accurate" else 1.0
        return inner(images, **options)

    def late(one):
        tried_all(one)
        clock.now = 1.1 * 360 - 60

    monkeypatch.setattr(auto_search, "fit", fit)
    assert fit_auto(scripted.good, minutes=6)[0].flags == "--preset accurate"
    clock.now = 0.0
    monkeypatch.setattr(auto_search.Search, "_search", late)
    choice, _ = fit_auto(scripted.good, minutes=6)
    assert choice.flags == ""
    assert "--preset accurate" in tried(choice)


def test_nothing_is_tried_without_time(scripted, monkeypatch):
    FakeClock(monkeypatch, 2.4)
    choice, _ = fit_auto(scripted.good, minutes=3)
    assert (choice.flags, choice.reason) == ("", "there was no time to try others: give more minutes")
    assert [one.note for one in choice.trials] == ["no time"]
    assert choice.enough > 3
    assert any(f"about {choice.enough} minutes would do" in line for line in choice.lines())


def test_what_settings_take_is_expected_by_the_pixels_that_they_see():
    found = {
        flags: relative_cost(Recipe.from_flags(flags)) for flags in ("", "--align turn", "--size 256+512")
    }
    assert set(found.values()) == {1.0}
    assert relative_cost(Recipe({"size": "256+768"})) == pytest.approx(2.0)
    slower = [
        Recipe({"min_defect": "25px"}),
        Recipe({"preset": "accurate"}),
        Recipe(),
        Recipe({"preset": "small"}),
    ]
    assert sorted(slower, key=relative_cost, reverse=True) == slower


def test_the_same_settings_are_not_fitted_again(scripted, monkeypatch, tmp_path):
    """A search that goes on tries the settings as given no more, and keeps a model of the same settings."""
    scripted.reaches |= {"--preset accurate": 0.0, "--size 256+768": KeyboardInterrupt()}
    first, _ = fit_auto(scripted.good)
    assert first.enough
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"")
    facts = json.loads(json.dumps({TRIED: first.to_dict()}))
    monkeypatch.setattr(auto, "read_manifest", lambda _: SimpleNamespace(facts=facts))
    monkeypatch.setattr(auto, "_reopen", lambda path, options: "kept")
    monkeypatch.setattr(auto, "_with_choice", lambda predictor, choice, given: (choice, predictor))
    scripted.calls.clear()
    with monkeypatch.context() as late:  # without a fit to come there is nothing to be too late for
        late.setattr(search_time.SearchTime, "require", lambda *_: pytest.fail("refused"))
        again, kept = fit_auto(scripted.good, earlier=path)
    assert kept == "kept"
    assert {} not in [own for _, own in scripted.calls]
    assert {one.flags for one in again.trials} >= {one.flags for one in first.trials}
    scripted.reaches["--size 256+768"] = 4.0
    other, made = fit_auto(scripted.good, earlier=path)
    assert (other.flags, isinstance(made, Scripted)) == ("--size 256+768", True)
    assert scripted.calls[-1] == (40, {"size": "256+768"})


def test_settings_that_find_little_are_told_so(scripted):
    scripted.reaches[""] = 0.0
    choice, _ = fit_auto(scripted.good)
    assert "; of simulated defects (--seen gives some of yours) 1 of 128 are found" in choice.reason


def test_a_folder_is_a_path_too(scripted, tmp_path, monkeypatch):
    for k, one in enumerate(scripted.good[:8]):
        Image.fromarray(one).save(tmp_path / f"{k}.png")
    monkeypatch.setattr(auto, "fit", lambda images, **_: None)
    choice, _ = fit_auto(tmp_path)
    assert "8 good parts are too few" in choice.reason


def test_a_search_goes_on_with_what_had_no_time(scripted):
    """What was tried stays, and is not tried again; what had no time is tried now, and gains what it gains in
    a search of its own."""
    slow = "--align none --size 256+768"
    scripted.reaches[slow] = KeyboardInterrupt()
    first, _ = fit_auto(scripted.good, align="none")
    assert [one.flags for one in first.trials if one.was_ended] == ["", "--preset accurate"]
    scripted.calls.clear()
    del scripted.reaches[slow]
    again, _ = fit_auto(scripted.good, align="none", earlier=first)
    whole, _ = fit_auto(scripted.good, align="none")
    assert {"align": "none", "preset": "accurate"} not in [own for _, own in scripted.calls[:1]]
    found, expected = ({t.flags: t.simulated for t in one.trials} for one in (again, whole))
    assert found == expected
    assert again.seconds >= first.seconds


def test_a_search_with_other_pictures_or_options_begins_anew(scripted):
    first, _ = fit_auto(scripted.good[:12], align="none", size="64")
    for good, size in ((scripted.good[:12], "96"), (scripted.good[1:13], "64")):
        said = []
        again, _ = fit_auto(good, align="none", size=size, earlier=first, say=said.append)
        assert "tried anew" in said[0]
        assert again.digest != first.digest


def test_what_was_given_stays(scripted):
    for align in ("shift", "none"):
        scripted.calls.clear()
        fit_auto(scripted.good, align=align, size="256")
        assert scripted.calls
        assert {one["align"] for _, one in scripted.calls} == {align}
        assert {one["size"] for _, one in scripted.calls} == {"256"}


@pytest.mark.parametrize(
    "told", [{}, {"group": r"^\d+"}, {"part": r"^\d+"}, {"part": r"^\d+", "view": "top|side"}], ids=str
)
def test_a_search_knows_the_parts_that_the_fit_knows(told):
    """Of parts, too: their views are no pictures of different parts."""
    names = [f"{part}_{view}.png" for part in range(8) for view in ("top", "side")]
    good = pictures(len(names))
    nothing = {"say": auto.discard, "step": auto.ignore_progress}
    own = auto_search.Search(good, 0, names, told, auto.SearchTime(60), None, has_model=False, **nothing)
    found = units_of(named_rows(names), part_of=own.part_of).numbers
    fitted = prepare(good, registry.method("patchcore"), names=names, **told, **SMALL_NETWORK)
    assert found == [*fitted.task.groups]
    with pytest.raises(InputError, match="correct the pattern"):
        auto_search.Search(
            good, 0, names, {"part": "x"}, auto.SearchTime(60), None, has_model=False, **nothing
        )


def test_few_pictures_leave_nothing_to_choose_by(scripted):
    choice, _ = fit_auto(scripted.good[:8])
    assert "too few" in choice.reason
    assert scripted.calls == [(8, {})]


def test_given_defects_are_told_and_marked_as_seen(scripted, tmp_path):
    defects = pictures(46)[40:]
    folder = tmp_path / "own/place"  # masks are looked for in the folder above, too
    folder.mkdir(parents=True)
    for k, one in enumerate(defects):
        Image.fromarray(one).save(folder / f"{k}.png")
    for seen in ([(one, []) for one in defects], folder):  # a plant's photographs have no masks
        choice, given = fit_auto(scripted.good, seen=seen)
        assert choice.given == len(given) == 6


@pytest.mark.parametrize(("options", "said"), [({"method": "prnet"}, "prnet"), ({"minutes": 0}, "no time")])
def test_a_wrong_call_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        fit_auto([np.zeros((32, 32, 3), np.uint8)], **options)


def test_rounds_leave_out_different_pictures_and_share_no_defect():
    good = pictures(24)
    rounds = make_rounds(lambda i: good[i], range(24), ["a", "b", "c"], 0, True)
    left_out = [i for one in rounds for i in one.left_out]
    assert sorted(left_out) == [*range(24)]
    for one in rounds:
        assert not {*one.left_out} & {*one.learnt}
        assert one.given == ["a", "b", "c"]
    for defect in rounds[1].simulated:
        assert defect.carrier in rounds[1].left_out
        changed = (defect.draw(lambda i: good[i]) != good[defect.carrier]).any(-1)
        assert changed.any()
        assert changed.sum() <= defect.pixels.shape[0] * defect.pixels.shape[1]


def test_many_given_defects_are_judged_in_turn():
    rounds = make_rounds(lambda i: None, range(48), [*range(30)], 0, False)
    assert [(len(one.given), one.count) for one in rounds] == [(24, 0), (6, 0), (24, 0), (24, 0)]


def test_simulated_defects_alone_propose_no_smaller_look():
    def sizes(judged_by_given):
        return {one.options.get("size") for one in propose_views(Recipe(), (640, 640), judged_by_given)}

    assert sizes(False) == {"256+768", None}
    assert sizes(True) > {"256", "512"}


def test_pictures_that_show_nothing_more_are_not_seen_larger():
    def larger(*shape):
        return "--size 256+768" in [one.flags for one in propose_views(Recipe(), shape, False)]

    assert [larger(512, 512), larger(800, 319), larger(256, 512), larger(480, 640)] == [False] * 3 + [True]


def test_large_pictures_are_seen_larger_and_then_in_tiles():
    def larger(side):
        shown = [*propose_views(Recipe(), (side, side), False), *propose_tiles(Recipe(), side)]
        return [one.flags for one in shown if "256+1024" in one.flags or "min-defect" in one.flags]

    assert larger(999) == []
    assert larger(1600) == ["--size 256+1024", "--min-defect 25px"]
