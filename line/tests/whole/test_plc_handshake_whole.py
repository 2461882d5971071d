"""The handshake with a PLC: whatever happens, OK stands for a part that was judged good, and for no other."""

from __future__ import annotations

import os
import random
import runpy
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plc_histories import LENGTHS, World, live

ROOT = Path(__file__).parents[3]
HISTORIES = int(os.environ.get("FLAWSCOPE_HISTORIES", "1500"))


QUIET = {"deadline": None, "database": None, "suppress_health_check": [*HealthCheck]}


@settings(max_examples=HISTORIES, derandomize=True, **QUIET)
@given(st.binary(min_size=LENGTHS[0], max_size=LENGTHS[1]))
def test_no_history_gives_ok_for_a_part_that_was_not_judged_good(history):
    live(history)


def test_the_drawings_are_those_of_the_machine():
    """The arrows are the ways that histories take, and the pictures are drawn anew."""
    draw, rng, taken = runpy.run_path(f"{ROOT}/docs/draw_plc.py"), random.Random(0), set()
    for _ in range(300):
        world = World()
        for code in rng.randbytes(100):
            before = world.state.phase
            world.happen(code)
            taken.add((before.value, world.state.phase.value))
    assert {(one, other) for one, other in taken if one != other} == {arrow[:2] for arrow in draw["ARROWS"]}
    for name, text in (("signals", draw["signals"]()), ("phases", draw["phases"]())):
        assert (draw["IMAGES"] / f"plc-{name}.svg").read_text() == text, "run python docs/draw_plc.py"


def test_histories_reach_every_outcome():
    """So the property says something."""
    found: Counter[str] = Counter()
    rng = random.Random(0)
    for _ in range(300):
        found += live(rng.randbytes(100))
    causes = {"link", "no_recipe", "unknown_recipe", "loading", "no_model", "camera", "late", "changed"}
    assert found["ok"] > 300
    assert {"parts", "ok", "nok", "unknown_part", *causes} <= found.keys()
