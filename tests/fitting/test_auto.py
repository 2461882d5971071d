"""The search for settings, with models that score by a script; and one with real ones."""

import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from auto_helpers import pictures
from flawscope.artefact import tried
from flawscope.errors import InputError
from flawscope.fitting import auto, fit_auto, search_time, trial_pictures
from flawscope.fitting.preparation import prepare
from flawscope.fitting.proposals import Recipe, propose_tiles, propose_views
from flawscope.fitting.trial_pictures import make_stages
from flawscope.methods import registry
from flawscope.pictures import foreground
from flawscope.pictures.units import named_rows, units_of
from small_network import SMALL_NETWORK


class Scripted:
    """A model that knows good pictures by their pixels: defects score `reach` higher, give or take."""

    def __init__(self, good, reach):
        self.good, self.reach = {one.tobytes() for one in good}, reach

    def predict(self, shown):
        for one in map(np.asarray, (Image.open(x) if isinstance(x, Path) else x for x in shown)):
            noise = np.random.default_rng([one.sum()]).normal()
            score = noise + (0 if one.tobytes() in self.good else self.reach)
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
    monkeypatch.setattr(auto, "propose_frames", lambda *_: [Recipe({"align": "turn"})])
    monkeypatch.setattr(auto, "_with_choice", lambda predictor, choice, given: (choice, given))
    return SimpleNamespace(calls=calls, reaches=reaches, good=good)


def test_what_is_better_beyond_its_interval_is_chosen_and_fitted_to_all(scripted):
    scripted.reaches["--align turn"] = 4.0
    scripted.reaches["--align turn --size 256+768"] = 4.0
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == "--align turn"
    assert scripted.calls[-1] == (40, {"align": "turn"})
    assert [one.flags for one in choice.trials if one.stage == 2][:2] == ["", "--align turn"]
    again = len({one.flags for one in choice.trials if one.stage == 2})
    assert any(line.startswith(f"the first {again} were tried twice") for line in choice.lines())


def test_few_pictures_are_tried_as_all_are_fitted(scripted, monkeypatch):
    """Of ten pictures PatchCore tries turned copies, which take eight times as long: of all it does not."""
    inner, augment = auto.fit, []
    watched = lambda images, **o: augment.append(o.get("augment")) or inner(images, **o)  # noqa: E731
    monkeypatch.setattr(auto, "fit", watched)
    fit_auto(scripted.good[:14])
    assert (set(augment[:-1]), augment[-1]) == ({"none"}, None)


def test_of_few_pictures_all_tell_how_parts_lie(scripted, monkeypatch):
    looked_at = []
    monkeypatch.setattr(auto, "propose_frames", lambda sources, _: looked_at.extend(sources) or [])
    fit_auto(scripted.good[:12])
    assert len(looked_at) == 12


def test_settings_stay_where_nothing_is_better(scripted):
    choice, _ = fit_auto(scripted.good)
    assert (choice.flags, {one.stage for one in choice.trials}) == ("", {1})
    assert scripted.calls[-1] == (40, {})


def test_an_interrupt_keeps_what_was_found(scripted):
    scripted.reaches |= {"--align turn": 4.0, "--align turn --size 256+768": KeyboardInterrupt()}
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == "--align turn"
    assert "no time to try it on other pictures" in choice.reason


def test_what_there_was_no_time_to_try_again_is_chosen_by_the_first_trial(scripted, monkeypatch):
    scripted.reaches["--align turn"] = 4.0
    inner = auto.fit

    def late(images, **options):
        found, met = inner(images, **options), [own for _, own in scripted.calls]
        if met[-1] == {"align": "turn"} and met.count(met[-1]) == 2:
            raise auto._TimeIsUpError
        return found

    monkeypatch.setattr(auto, "fit", late)
    choice, _ = fit_auto(scripted.good)
    assert [one.note for one in choice.trials if (one.flags, one.stage) == ("--align turn", 2)] == ["no time"]
    assert choice.flags == "--align turn"
    assert choice.reason.endswith("there was no time to try it on other pictures")


def test_tiles_are_tried_when_all_else_was_tried_twice(scripted):
    """They may take all the time that is left."""
    large = scripted.good[:] = [np.pad(one, ((0, 1000), (0, 0), (0, 0))) for one in pictures(24)]
    scripted.reaches |= {"--size 256+1024": 2.5, "--min-defect 17px": auto._TimeIsUpError()}
    choice, _ = fit_auto(large)
    assert choice.flags == "--size 256+1024"
    assert [(one.flags, one.note) for one in choice.trials][-1] == ("--min-defect 17px", "no time")
    scripted.reaches["--min-defect 17px"] = 9.0
    again = [(one.flags, one.stage) for one in fit_auto(large)[0].trials]
    assert again[-2:] == [("--min-defect 17px", 1), ("--min-defect 17px", 2)]
    assert len(again) == len({*again})


def test_settings_that_cannot_be_tried_are_told(scripted):
    scripted.reaches["--align turn"] = InputError("no part: leave it out")
    choice, _ = fit_auto(scripted.good)
    assert next(one.note for one in choice.trials if one.flags == "--align turn") == "no part"


class FakeClock:
    """A clock on which a fit takes a second of the processor for each picture, and judging a tenth of it.
    load: seconds of the clock for one of the processor."""

    def __init__(self, monkeypatch, load=1.0):
        self.wall = self.cpu = 0.0
        self.load = load
        now = SimpleNamespace(monotonic=lambda: self.wall, process_time=lambda: self.cpu)
        monkeypatch.setattr(search_time, "time", now)
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
        monkeypatch.setattr(Scripted, "predict", predict)

    def work(self, seconds):
        self.cpu += seconds
        self.wall += seconds * self.load


@pytest.mark.parametrize(
    ("load", "tried"), [(0.5, True), (1.0, True), (2.2, True), (2.6, False), (3.2, False)]
)
def test_under_load_a_setting_is_tried_as_long_as_the_last_fit_ends_in_time(
    scripted, monkeypatch, load, tried
):
    """The settings as given and another take 14 seconds of the processor each, the fit of 40 up to 44."""
    scripted.reaches |= {"": 0.0, "--align turn": 4.0}
    clock = FakeClock(monkeypatch, load)
    choice, _ = fit_auto(scripted.good, minutes=3)
    assert clock.wall <= 198
    assert choice.has_tried == tried
    assert choice.flags == ("--align turn" if tried else "")


def test_a_load_that_comes_in_between_is_seen(scripted, monkeypatch):
    clock = FakeClock(monkeypatch)
    scripted.reaches["--align turn"] = 4.0
    inner = auto.fit

    def fit(images, **options):
        clock.load = 1.0 if len(scripted.calls) < 2 else 3.0
        return inner(images, **options)

    monkeypatch.setattr(auto, "fit", fit)
    choice, _ = fit_auto(scripted.good, minutes=4)
    assert clock.wall <= 264
    assert "no time" in [one.note for one in choice.trials]


def test_a_search_that_is_refused_at_its_end_tells_why_and_no_table(scripted, monkeypatch, refused):
    """There is no model to go on with by --resume; the load came after the trials."""
    clock, said = FakeClock(monkeypatch), list[str]()
    inner = auto._Search.run

    def run(search):
        found = inner(search)
        clock.work(60.0)
        search.time._pace = 9.0
        return found

    monkeypatch.setattr(auto._Search, "run", run)
    refused(lambda: fit_auto(scripted.good, minutes=3, say=said.append), "3 minutes are too few", "of trials")
    assert not any("--resume" in line or "chosen" in line for line in said)


def test_work_that_waited_by_chance_tells_no_speed(monkeypatch):
    """By a hundredth of a second that took half a second, a fit of 20 s would take 1000."""
    wall = cpu = 0.0
    now = SimpleNamespace(monotonic=lambda: wall, process_time=lambda: cpu)
    monkeypatch.setattr(search_time, "time", now)
    clock = search_time.SearchTime(180)
    clock.note("", 20.0, 40)
    for used, took, expected in ((0.01, 0.5, 20.0), (2.0, 6.0, 60.0), (0.1, 0.1, 60.0)):
        with clock.measured():
            cpu, wall = cpu + used, wall + took
        assert clock.fit_seconds("", 40) == pytest.approx(expected)


def test_settings_as_given_that_cannot_be_fitted_in_time_are_seen_before_they_are(
    scripted, monkeypatch, refused
):
    clock = FakeClock(monkeypatch, 10.0)
    refused(lambda: fit_auto(scripted.good, minutes=3), "3 minutes are too few", "give 6 or more")
    assert clock.wall < 90
    assert all(count < 40 for count, _ in scripted.calls)


def test_nothing_is_tried_without_time(scripted, monkeypatch):
    FakeClock(monkeypatch, 3.0)
    choice, _ = fit_auto(scripted.good, minutes=3)
    assert (choice.flags, choice.reason) == ("", "there was no time to try others: give more minutes")
    assert [one.note for one in choice.trials] == ["no time"]
    assert choice.enough > 3
    assert any(f"about {choice.enough} minutes would do" in line for line in choice.lines())


def test_what_cannot_be_fitted_in_time_is_refused_with_the_minutes(scripted, refused):
    refused(lambda: fit_auto(scripted.good, minutes=1e-6), "too few", "40 good pictures", "give 2 or more")
    assert not scripted.calls


def short(monkeypatch):
    monkeypatch.setattr(search_time.SearchTime, "is_short", lambda *_: True)


def test_with_little_time_trials_are_small_and_the_likeliest_comes_first(scripted, monkeypatch):
    short(monkeypatch)
    likeliest = [Recipe({"align": kind}) for kind in ("shift", "turn")]
    monkeypatch.setattr(auto, "propose_frames", lambda *_: likeliest)
    scripted.reaches["--align shift"] = 4.0
    choice, _ = fit_auto(scripted.good)
    assert [(one.flags, one.stage) for one in choice.trials][:5] == [
        ("", 1),
        ("--align shift", 1),
        ("--align turn", 1),
        ("", 2),
        ("--align shift", 2),
    ]
    assert choice.trials[0].found[1] == 16
    assert choice.flags == "--align shift"
    assert not choice.enough


def test_few_simulated_defects_do_not_decide(scripted, monkeypatch):
    short(monkeypatch)
    scripted.reaches |= {"": 0.0, "--align turn": 4.0}

    def stopped(self, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(auto._Search, "_confirm", stopped)
    assert fit_auto(scripted.good)[0].flags == "--align turn"  # by far
    monkeypatch.setattr(tried, "FAR_BETTER", 0.9)
    choice, _ = fit_auto(scripted.good)
    assert choice.flags == ""
    assert choice.reason.startswith("only a small trial says that --align turn tells good from bad better")
    given, _ = fit_auto(scripted.good, seen=[(one, []) for one in pictures(60)[40:]])
    assert given.flags == "--align turn"


def test_a_wide_interval_is_told_with_the_first_trial_that_decides():
    """By 3 % (-10 % to 10 %) alone nobody would choose."""
    search = object.__new__(auto._Search)
    search.recipes = {flags: Recipe.from_flags(flags) for flags in ("", "--align turn")}
    far, wide = (0.412, 0.28, 0.52), (0.033, -0.104, 0.096)
    search.trials = [tried.Trial("--align turn", stage, 0.9, gain) for stage, gain in ((1, far), (2, wide))]
    _, reason = search._decide(2)
    assert "by 41.2% at first, and 3.3% (-10.4% to 9.6%) on pictures that it was not chosen by" in reason


def test_the_same_settings_are_not_fitted_again(scripted, monkeypatch, tmp_path):
    """A search that goes on tries the settings as given no more, and keeps a model of the same settings."""
    scripted.reaches["--size 256+768"] = KeyboardInterrupt()
    first, _ = fit_auto(scripted.good)
    assert first.enough
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"")
    facts = json.loads(json.dumps({tried.TRIED: first.to_dict()}))
    monkeypatch.setattr(auto, "read_manifest", lambda _: SimpleNamespace(facts=facts))
    monkeypatch.setattr(auto, "_reopened", lambda path, options: "kept")
    monkeypatch.setattr(auto, "_with_choice", lambda predictor, choice, given: (choice, predictor))
    scripted.calls.clear()
    with monkeypatch.context() as late:  # without a fit to come there is nothing to be too late for
        late.setattr(auto.SearchTime, "require", lambda *_: pytest.fail("refused"))
        again, kept = fit_auto(scripted.good, earlier=path)
    assert kept == "kept"
    assert {} not in [own for _, own in scripted.calls]
    assert {one.flags for one in again.trials} >= {one.flags for one in first.trials}
    del scripted.reaches["--size 256+768"]
    scripted.reaches["--preset accurate"] = 4.0
    other, made = fit_auto(scripted.good, earlier=path)
    assert (other.flags, isinstance(made, Scripted)) == ("--preset accurate", True)
    assert scripted.calls[-1] == (40, {"preset": "accurate"})


def test_a_search_that_had_no_time_shows_what_it_had(scripted):
    scripted.reaches |= {"--align turn": KeyboardInterrupt()}
    choice, _ = fit_auto(scripted.good)
    assert choice.reason == "nothing else was tried"
    late = tried.Trial("--align turn", 2, note=tried.NO_TIME)
    base = tried.Trial("", 1, 0.5), tried.Trial("", 2, 0.6)
    shown = tried.Choice("", "", (*base, tried.Trial("--align turn", 1, 0.9), late))
    assert [(one.flags, one.auroc) for one in shown.shown()] == [("--align turn", 0.9), ("", 0.5)]
    assert "tried twice" not in " ".join(shown.lines())  # what it gained there nobody knows


def test_settings_that_find_little_are_told_so(scripted):
    scripted.reaches[""] = 0.0
    choice, _ = fit_auto(scripted.good)
    told = r"; by them it finds \d+ of 24 simulated defects \(--seen gives some of yours\)"
    assert re.search(told, choice.reason)


def test_a_folder_is_a_path_too(scripted, tmp_path, monkeypatch):
    for k, one in enumerate(scripted.good[:8]):
        Image.fromarray(one).save(tmp_path / f"{k}.png")
    monkeypatch.setattr(auto, "fit", lambda images, **_: None)
    choice, _ = fit_auto(tmp_path)
    assert "8 good parts are too few" in choice.reason


def test_a_search_goes_on_with_what_had_no_time(scripted):
    """What was tried stays, and is not tried again; what had no time is tried now, and gains what it gains in
    a search of its own."""
    slow = "--align none --preset accurate"
    scripted.reaches[slow] = KeyboardInterrupt()
    first, _ = fit_auto(scripted.good, align="none")
    assert [one.flags for one in first.trials] == ["", "--size 256+768"]
    scripted.calls.clear()
    del scripted.reaches[slow]
    again, _ = fit_auto(scripted.good, align="none", earlier=first)
    whole, _ = fit_auto(scripted.good, align="none")
    assert {"align": "none", "size": "256+768"} not in [own for _, own in scripted.calls[:3]]
    found, expected = ([(t.flags, t.auroc, t.gain) for t in one.trials] for one in (again, whole))
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
    search = auto._Search(good, 0, names, told, auto.SearchTime(60), None, has_model=False, **nothing)
    found = units_of(named_rows(names), part_of=search.part_of).numbers
    fitted = prepare(good, registry.method("patchcore"), names=names, **told, **SMALL_NETWORK)
    assert found == [*fitted.task.groups]
    with pytest.raises(InputError, match="correct the pattern"):
        auto._Search(good, 0, names, {"part": "x"}, auto.SearchTime(60), None, has_model=False, **nothing)


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


def test_stages_share_no_left_out_picture_and_no_defect():
    good = pictures(24)
    first, second = make_stages(lambda i: good[i], range(24), ["a", "b", "c"], 0, True)
    assert not {*first.left_out} & {*first.learnt, *second.left_out}
    assert not {*second.left_out} & {*second.learnt}
    assert sorted([*first.given, *second.given]) == ["a", "b", "c"]
    for stage in (first, second):
        for one in stage.simulated:
            assert one.carrier in stage.left_out
            changed = (one.draw(lambda i: good[i]) != good[one.carrier]).any(-1)
            assert changed.any()
            assert changed.sum() <= one.pixels.shape[0] * one.pixels.shape[1]


def test_simulated_defects_alone_propose_no_smaller_look():
    def sizes(judged_by_given):
        return {one.options.get("size") for one in propose_views(Recipe(), 512, judged_by_given)}

    assert sizes(False) == {"256+768", None}
    assert sizes(True) > {"256", "512"}


def test_large_pictures_are_seen_larger_and_then_in_tiles():
    def larger(side):
        shown = [*propose_views(Recipe(), side, False), *propose_tiles(Recipe(), side)]
        return [one.flags for one in shown if "256+1024" in one.flags or "min-defect" in one.flags]

    assert larger(999) == []
    assert larger(1600) == ["--size 256+1024", "--min-defect 25px"]
