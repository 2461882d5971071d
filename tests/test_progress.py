"""What a person sees of a long job: little on a file, a living line on a terminal."""

import io
import time

import pytest

from flawscope import errors, progress
from flawscope.progress import Plan, TerminalProgress, format_duration


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def go(step, stage, numbers, total, clock, seconds):
    """Each step takes so many seconds."""
    for k in numbers:
        step(stage, k, total)
        clock[0] += seconds


def test_a_log_gets_one_line_a_stage(clock):
    log = io.StringIO()
    step = TerminalProgress(log)
    for stage in ("reading", "fitting"):
        go(step, stage, range(1, 51), 50, clock, 0.1)
    assert [line.split(":")[0] for line in log.getvalue().splitlines()] == ["reading", "fitting"]
    assert not {"\x1b", "\r"} & {*log.getvalue()}


def test_what_follows_a_comma_may_change_within_a_stage(clock):
    screen = Screen()
    step = TerminalProgress(screen)
    for k in range(1, 11):
        step(f"distilling, loss {1 / k:.2f}", k, 10)
        clock[0] += 2.0
    text = screen.getvalue()
    assert "distilling, loss 0.20: 5 of 10, 8.0 s left" in text
    assert text.count("\n") == 1
    assert text.endswith("distilling, loss 0.10: done in 18 s\n")


def test_a_terminal_is_not_flooded_and_hears_no_time_that_is_not_worth_naming(clock):
    screen = Screen()
    step = TerminalProgress(screen)
    go(step, "fitting", range(1000), 100_000, clock, 0.001)
    assert screen.getvalue().count("\r") <= 6
    go(step, "checking", range(5), 4, clock, 0.3)
    assert "0.0 s" not in screen.getvalue()
    assert "checking: 3 of 4\r" in screen.getvalue()


def test_a_short_stage_leaves_no_line(clock):
    for stream in (io.StringIO(), Screen()):
        step = TerminalProgress(stream)
        step("features", 0, 2)
        clock[0] += 1.0
        step("features", 2, 2)
        assert "done" not in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[K")


def test_a_log_hears_of_a_long_stage_now_and_then(clock):
    log = io.StringIO()
    go(TerminalProgress(log), "fitting", range(1, 101), 100, clock, 1.0)
    assert log.getvalue().splitlines() == [
        "fitting: 31 of 100, 1.0 a second, 1 min 07 s left",
        "fitting: 61 of 100, 1.0 a second, 38 s left",
        "fitting: 91 of 100, 1.0 a second, 8.9 s left",
        "fitting: done in 1 min 39 s, 1.0 a second",
    ]


def test_a_rate_is_told_where_it_is_one_a_second_or_more(clock):
    for each, said in ((0.001, "1,000 a second"), (0.03, "33 a second"), (0.25, "4.0 a second"), (1.5, "")):
        log, clock[0] = io.StringIO(), 100.0
        step = TerminalProgress(log)
        step("predict", 0, 10_000)
        for k in range(1, 10_001):
            clock[0] += each
            step("predict", k, 10_000)
        assert log.getvalue().splitlines()[-1].endswith(said if said else "4 h 10 min")
        assert ("a second" in log.getvalue()) == bool(said)


@pytest.mark.parametrize("total", [0, 1])
def test_a_stage_of_nothing_or_one_is_fine(total):
    screen = Screen()
    TerminalProgress(screen)("check", total, total)
    assert screen.getvalue().endswith("\x1b[K")


PLAN = Plan("fit", (("features", 6), ("coreset", 3), ("check", 1)))


def test_stages_of_a_plan_have_one_total_and_one_time(clock):
    log = io.StringIO()
    step = TerminalProgress(log, plan=PLAN)
    go(step, "features", range(1, 61), 60, clock, 2.0)
    go(step, "coreset at 256", range(1, 41), 40, clock, 1.0)
    go(step, "coreset at 512", range(1, 21), 20, clock, 0.1)
    go(step, "check", range(1, 4), 3, clock, 15.0)
    totals = [line.split(";")[0] for line in log.getvalue().splitlines() if line.startswith("fit")]
    assert totals == [
        "fit 16%, about 2 min 38 s left",
        "fit 31%, about 2 min 14 s left",
        "fit 46%, about 1 min 46 s left",
        "fit 83%, about 30 s left",  # 150 s for 83 of 100
    ]


def test_a_total_never_falls_and_says_nothing_of_other_stages(clock):
    screen = Screen()
    step = TerminalProgress(screen, plan=PLAN)
    for stage, expected in (("features", "fit 30%"), ("check", "fit 95%"), ("coreset", "fit 95%")):
        clock[0] += 10
        step(stage, 1, 2)
        assert expected in screen.getvalue().split("\r")[-1]
    clock[0] += 10
    step("evaluation", 1, 2)
    assert "fit" not in screen.getvalue().split("\r")[-1]


def test_durations_are_read_at_a_glance():
    seconds = [0, 0.05, 9.94, 10, 59.4, 59.6, 185, 3599.7, 7800]
    texts = "less than 0.1 s, 0.1 s, 9.9 s, 10 s, 59 s, 1 min 00 s, 3 min 05 s, 1 h 00 min, 2 h 10 min"
    assert ", ".join(map(format_duration, seconds)) == texts


def test_a_terminal_hears_that_work_goes_on(monkeypatch):
    """Before the first stage, within one that does not move, and after it; not when it has been stopped."""
    monkeypatch.setattr(progress, "HEARTBEAT_INTERVAL", 0.01)
    screen = Screen()
    step = TerminalProgress(screen, alive=True)

    def wait_for(text):
        for _ in range(500):
            if text in screen.getvalue():
                return
            time.sleep(0.01)
        pytest.fail(f"{text!r} is not in {screen.getvalue()!r}")

    wait_for("starting, 1.0 s")
    step("fitting", 1, 2)
    screen.truncate(0)
    wait_for("fitting: 1 of 2")
    step("fitting", 2, 2)
    wait_for("working, 1.0 s")
    step.stop()
    ended = screen.getvalue()
    assert ended.endswith("\r\x1b[K")
    time.sleep(0.05)
    assert screen.getvalue() == ended


def test_the_time_that_is_left_goes_on_while_nothing_is_done(clock):
    screen = Screen()
    step = TerminalProgress(screen)
    step("fitting", 0, 10)
    clock[0] += 10
    step("fitting", 1, 10)
    assert screen.getvalue().endswith("fitting: 1 of 10, 1 min 30 s left")
    assert step._progress_text(clock[0] + 30) == "fitting: 1 of 10, 1 min 00 s left"
    assert step._progress_text(clock[0] + 100) == "fitting: 1 of 10"


def test_a_line_replaces_progress_on_a_terminal_only_and_is_no_longer_than_it(monkeypatch):
    screen, log = Screen(), io.StringIO()
    for stream in (screen, log):
        TerminalProgress(stream)("fitting", 1, 10)
        progress.write_line("a remark", stream)
    assert screen.getvalue() == "\r\x1b[Kfitting: 1 of 10\r\x1b[Ka remark\n"
    assert log.getvalue() == "a remark\n"
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen()
    TerminalProgress(screen)("a stage with a long name", 1, 1_000_000)
    assert screen.getvalue() == "\r\x1b[Ka stage with a long "[: 4 + 19]


def test_things_are_counted_and_some_of_many_are_named():
    counts = {0: "0 pictures", 1: "1 picture", 2: "2 pictures", 4000: "4,000 pictures"}
    assert {number: errors.pluralize(number, "picture") for number in counts} == counts
    assert errors.join_names(["a", "b"]) == "a, b"
    assert errors.join_names(list("abcdefg"), 3) == "a, b, c and 4 more"
