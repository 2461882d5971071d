"""Readiness is a function of the history: a product answers only after each of its parts has passed."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flawscope_station.challenge.readiness import (
    CLOCK_TOLERANCE,
    FAILED,
    LEAST,
    OLD_PICTURE,
    PASSED,
    WRONG_PART,
    History,
    Instant,
    Run,
    Showing,
    readiness,
)
from flawscope_station.store.schema import EARLIER_RELEASE

PARTS = {1: "good", 2: "anomalous", 3: "anomalous"}
NAMES = {number: f"part-{number}" for number in PARTS}
JUDGING = 7, "hash"
AT = Instant(100, 0.0)
NIGHT = 12 * 3600 * 1_000_000  # microseconds
ANY = st.builds(
    Showing,
    number=st.sampled_from([*PARTS]),
    inspection=st.just(0),
    at=st.just(0),
    decision=st.sampled_from(["good", "anomalous", "within tolerance"]),
    resemblance=st.sampled_from([-1.0, LEAST - 0.01, LEAST, 1.0]),
    is_at_place=st.booleans(),
    pixels=st.frozensets(st.integers(0, 40).map(str), min_size=1, max_size=2),
    is_copy=st.booleans(),
)
RIGHT = [
    Showing(number, 0, 0, decision, pixels=frozenset([f"new {number}"])) for number, decision in PARTS.items()
]
# anything, and in most cases a right picture of each part among it
STEPS = st.builds(
    lambda more, with_right, order: order.sample(every := more + RIGHT * with_right, len(every)),
    st.lists(ANY, max_size=4),
    st.sampled_from([0, 1, 1]),
    st.randoms(use_true_random=False),
)


def history_of(shown: list[Showing], **more: object) -> History:
    numbered = [replace(one, at=place, inspection=place) for place, one in enumerate(shown)]
    run = Run(JUDGING, PARTS, 0, "time", "station", showings=tuple(numbered))
    return replace(History(AT, NAMES, run), **more)  # type: ignore[arg-type]


def is_ready(history: History, judging: tuple[int, str] = JUDGING, now: Instant = AT) -> bool:
    return readiness(history, judging, now).cause is None


def right(one: Showing) -> bool:
    """Whether a picture shows that its part is judged rightly, but for its novelty."""
    is_known = one.resemblance >= LEAST and not one.is_copy and one.decision == PARTS[one.number]
    return is_known and (one.decision == "good" or one.is_at_place)


@settings(deadline=None)
@given(STEPS)
def test_a_product_is_ready_only_after_each_part_got_its_answer_from_a_new_picture(shown):
    history = history_of(shown)
    found = readiness(history, JUDGING, AT)
    if found.cause is None:
        assert {one.number for one in shown if right(one)} == {*PARTS}
        for number in PARTS:  # each is needed
            assert not is_ready(history_of([one for one in shown if one.number != number]))
        assert not is_ready(history_of([replace(one, pixels=frozenset("x")) for one in shown])), "one picture"
    else:
        assert (found.cause, {*found.missing} <= {*NAMES.values()}) in (("time", True), (FAILED, True))
    assert is_ready(history) == (history.last is not None and history.last.outcome == PASSED)
    assert all(not is_ready(history, judging) for judging in ((8, "hash"), (7, "other")))


@settings(deadline=None)
@given(STEPS, st.integers(0, 13))
def test_a_part_that_is_judged_wrongly_fails_the_challenge_until_another_begins(shown, place):
    wrong = Showing(2, 0, 0, "good", pixels=frozenset(["unlike any other"]))
    before = [one for one in shown if right(one)][:place]
    had_passed = is_ready(history_of(before))
    assert is_ready(history_of([*before, wrong, *shown])) == had_passed
    assert is_ready(history_of([*before, wrong])) == had_passed


@settings(deadline=None)
@given(
    st.integers(-2 * NIGHT, 5 * NIGHT), st.integers(0, 5 * NIGHT), st.integers(-NIGHT, NIGHT), st.booleans()
)
def test_it_is_due_at_its_time_whatever_the_clock_says(wall, passed, read, is_fair):
    """Each 12 hours; passed: microseconds since the challenge was read, as the monotonic clock counts."""
    read_at = Instant(1000 + max(0, read), 50.0)
    history = history_of(RIGHT, read=read_at, next_due=lambda at: (at // NIGHT + 1) * NIGHT)
    now = Instant(read_at.wall + passed if is_fair else wall, read_at.monotonic + passed / 1e6)
    found = readiness(history, JUDGING, now)
    if found.cause is None:
        assert now.wall < NIGHT, "not due by the wall clock"
        assert passed < NIGHT - read_at.wall + CLOCK_TOLERANCE, "nor by the monotonic clock"
        assert now.wall >= 2 - CLOCK_TOLERANCE, "nor was the clock set back before the challenge"
        assert found.next_at == NIGHT
    else:
        assert found.cause in ("time", "clock")
        assert {*found.missing} == {*NAMES.values()}, "all are shown again"
    if is_fair:  # read later, as after a restart, it is as ready
        restarted = replace(history, read=now)
        again = readiness(restarted, JUDGING, now)
        assert (again.cause is None) == (found.cause is None)


def test_an_override_holds_until_something_changes():
    history = history_of([], last=Run(JUDGING, PARTS, 5, "time", "engineer", reason="part-2 is lost"))
    assert is_ready(history)
    assert not is_ready(history, (8, "hash"))
    assert not is_ready(replace(history, next_due=lambda at: at + 1))
    assert not is_ready(replace(history, last=None))


def test_each_picture_has_an_outcome():
    good, defect = Showing(1, 0, 0, "good", pixels=frozenset("a")), Showing(2, 1, 1, "anomalous")
    assert good.outcome("good") == PASSED
    assert good.outcome("good", [replace(good, number=2)]) == OLD_PICTURE
    assert good.outcome("anomalous") == FAILED
    assert replace(defect, decision="within tolerance").outcome("anomalous") == FAILED, "it was not found"
    assert replace(good, resemblance=LEAST - 0.01).outcome("good") == WRONG_PART
    assert replace(defect, is_at_place=False).outcome("anomalous") == WRONG_PART


def test_a_challenge_of_an_earlier_release_is_told_as_such():
    """Its hash is none of this release's: no setting has changed."""
    passed = history_of(RIGHT)
    assert passed.last is not None
    earlier = replace(passed, last=replace(passed.last, judging=(JUDGING[0], EARLIER_RELEASE)))
    assert readiness(earlier, JUDGING, AT).cause == "release"
    assert readiness(earlier, (8, "hash"), AT).cause == "version"
