from pathlib import Path

import numpy as np
import pytest

from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting import fitting
from flawscope.methods.options.conflicts import Conflict, ConflictError, find_conflicts
from flawscope.synthesis.demo.dataset import draw_dataset

TOGETHER = [
    {},
    {"align": "turn", "roi": "0,0,1,1", "min_defect": 9, "light": 0.1},
    {"several": True, "align": "turn", "light": 0.1, "min_defect": 9, "roi": "0,0,1,1", "group": "x"},
    {"several": True, "align": "turn", "tile": 64, "drop_suspects": True},
    {"min_defect": 9, "drop_suspects": True},
    {"several": False, "part": r"\d+", "view": "top|left", "light": 0.1},
    {"align": "full", "light": 0.1, "part": "x"},
    {"roi": "0,0,.5,.5", "min_defect": 12, "part": "x"},
    {"min_defect": 12, "size": None},
    {"roi": np.ones((4, 4), np.bool_), "align": "turn"},
]
APART = [
    ({"align": "shift", "several": True, "part": "x"}, "several", "part"),
    ({"min_defect": 9, "size": "128"}, "min_defect", "size"),
    ({"part": "x", "group": "y"}, "part", "group"),
    ({"several": True, "align": "auto"}, "several", "align"),
    ({"view": "top"}, "view", "part"),
]


@pytest.mark.parametrize("options", TOGETHER)
def test_what_goes_together_is_no_conflict(options):
    assert find_conflicts(options) == []


@pytest.mark.parametrize(("options", "first", "second"), APART)
def test_a_fit_refuses_it_before_it_reads_a_picture(options, first, second):
    """The fit asks the same rules as the pages: it names both, and never looks at what it was given."""
    unread = [Path("/nowhere/1.png"), Path("/nowhere/2.png")]
    with pytest.raises(ConflictError) as refused:
        fitting.fit(unread, **options)
    missing = second not in options or options[second] == "auto"
    assert Conflict(first, second, missing) in refused.value.conflicts
    assert isinstance(refused.value, InputError)


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    root = draw_dataset(tmp_path, category="plate", train=3, good=0, bad_per_kind=0, size=64)
    words = ["--min-defect", "9px", "--size", "128", "--out", str(tmp_path / "m.safetensors")]
    assert main(["fit", "--data", str(root), *words]) == 2
    assert "--min-defect does not go with --size: leave one of them out" in capsys.readouterr().err
