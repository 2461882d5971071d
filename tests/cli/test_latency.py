"""Choosing settings, engine and precision by the time that a picture may take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawscope.benchmark import timing
from flawscope.cli import latency
from flawscope.cli.fit_one import FitSettings
from flawscope.datasets.dataset import Item
from flawscope.methods import registry
from flawscope.predictor import read_manifest

Run = Callable[..., tuple[int, str, str]]
Times = Callable[[list[float]], None]


def test_settings_that_were_given_win_and_leave_each_candidate_once() -> None:
    every = [one.name for one in latency.candidates(FitSettings("patchcore", "default", 0, {}))]
    assert every[:2] == ["default", "small"]
    of_size = [*latency.candidates(FitSettings("patchcore", "default", 0, {"size": 64}))]
    assert [one.name for one in of_size] == ["default", "small"]
    assert {one.settings["size"] for one in of_size} == {64}


def test_a_candidate_may_be_of_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out where it does not have what was given."""
    patchcore, known = registry.method("patchcore"), registry.method
    wider = replace(patchcore, candidates=({"method": "prnet", "width": 0.5}, *patchcore.candidates))
    monkeypatch.setattr(registry, "method", lambda name: wider if name == "patchcore" else known(name))
    first = next(latency.candidates(FitSettings("patchcore", "default", 0, {"size": 64})))
    assert (first.method, first.name) == ("prnet", "width=0.5")
    first = next(latency.candidates(FitSettings("patchcore", "default", 0, {"ratio": 0.1})))
    assert (first.method, first.name) == ("patchcore", "default")


@pytest.mark.parametrize("count", [1, 4, 48, 213, 5000])
def test_a_trial_learns_enough_pictures_for_its_banks_and_is_timed_on_others(count: int) -> None:
    train = [Item(Path(f"{k}.png"), "good", False) for k in range(count)]
    shown, learnt = latency.split_pictures(train)
    assert 0 < len(shown) <= latency.MAX_TIMED + 1
    assert count == 1 or not {*shown} & {*learnt}
    method = registry.method("patchcore")
    config, share = method.configure(), len(learnt) / count
    assert method.rehearse is not None
    ratio = method.rehearse(config, share)["ratio"]
    patches = 16 * 16  # of a picture of 128 px
    full = min(config.cap, config.ratio * count * patches)
    assert min(config.cap, ratio * len(learnt) * patches) >= 0.99 * min(full, len(learnt) * patches)
    assert len(learnt) * patches >= full or count < 20


def test_95_of_100_calls_are_within_the_95th_percentile() -> None:
    found = timing.summarize([k / 1000 for k in range(100, 0, -1)])
    assert found == {"median_ms": 50.5, "p95_ms": 95.0, "calls": 100}


@pytest.mark.parametrize(("enough", "calls"), [(float("inf"), 50), (0.0, timing.CALLS)])
def test_slow_models_are_called_less_often(enough: float, calls: int) -> None:
    class Model:
        def predict(self, picture: str) -> str:
            return picture

    assert len(timing.time_calls(Model(), ["a", "b"], calls=50, max_seconds=enough)) == calls


def test_a_process_that_ends_or_fails_says_so() -> None:
    assert timing.in_process(dict, [("a", 1)]) == {"a": 1}
    assert "ended early" in timing.in_process(exit_at_once)["error"]
    assert "invalid literal" in timing.in_process(int, "x")["error"]


def exit_at_once() -> dict[str, Any]:
    import os

    os._exit(1)


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[str]]:
    """`taking(times)`: each measurement in turn gives this many milliseconds; returns what was measured."""

    def set_times(times: list[float]) -> list[str]:
        asked: list[str] = []

        def measure(work: Any, file: str, engine: str, *_: Any) -> dict[str, Any]:
            asked.append(f"{Path(file).stem} {engine}")
            return {"seconds": [times[len(asked) - 1] / 1000]}

        monkeypatch.setattr(timing, "in_process", measure)
        monkeypatch.setattr("flawscope.export.export.engines_for", lambda precision: ["onnxruntime"])
        return asked

    return set_times


@pytest.mark.slow
def test_the_first_candidate_that_is_fast_enough_is_written_with_what_was_given_up(
    run: Run,
    drawn: Path,
    tmp_path: Path,
    trace_once: Any,
    taking: Any,
    int8_in_name: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flawscope.export import onnx_graph

    monkeypatch.setattr(onnx_graph, "trace", trace_once)
    out = tmp_path / "part.safetensors"
    call = ["fit", "--data", drawn, "--size", "64", "--no-check", "--latency", "30ms", "--out", out]
    # default: torch is far too slow, also once more; small: 26 ms in ONNX Runtime, 29 when it is finished
    asked = taking([1154.0, 130.0, 40.0, 26.0, 29.0])
    code, _, said = run(*call, "--threads", "1")
    assert code == 0, said
    assert asked == [*["trial torch"] * 3, "trial onnxruntime", "model onnxruntime"]
    for file in (out, out.with_suffix(".onnx")):
        facts = read_manifest(file).facts
        assert facts["latency"]["p95_ms"] == 29.0
        assert (facts["latency"]["settings"], facts["latency"]["engine"]) == ("small", "onnxruntime")
        assert facts["summary"][-1] == "given up for it: default (130 ms)"
        assert facts["latency"]["machine"]["cores"] >= 1
    assert read_manifest(out).config["ratio"] == 0.03
    assert "given up for it: default (130 ms)" in run("info", out.with_suffix(".onnx"))[1]

    # small takes more than nine tenths of the limit, in int8 too, and keeps it when it is finished
    asked = taking([130.0, 130.0, 40.0, 28.0, 28.5, 29.5])
    code, _, said = run(*call, "--threads", "1")
    assert code == 0, said
    assert asked == [*["trial torch"] * 3, *["trial onnxruntime"] * 2, "model onnxruntime"]
    assert read_manifest(out).facts["latency"]["p95_ms"] == 29.5

    # the finished default takes too long, and small would too
    taking([20.0, 35.0, 31.0, 130.0, 130.0])
    code, _, said = run(*call, "--threads", "1")
    assert code == 2
    assert "--latency 30ms: the fastest candidate takes 31 ms (default, torch fp32) on 1 thread:" in said


def test_what_does_not_go_together_is_one_line(run: Run, drawn: Path, tmp_path: Path) -> None:
    call = ["fit", "--data", drawn, "--latency", "30ms", "--out", tmp_path / "part.safetensors"]
    for more, line in (
        (["--preset", "small"], "leave out --preset"),
        (["--category", "all"], "--latency fits one model"),
        (["--device", "cuda"], "leave out --device cuda"),
        (["--method", "prnet"], "take patchcore"),
    ):
        code, _, said = run(*call, *more)
        assert (code, line in said) == (2, True), said
    with pytest.raises(argparse.ArgumentTypeError, match="30ms"):
        latency.milliseconds("soon")
    assert latency.milliseconds("30ms") == latency.milliseconds("30") == 30
