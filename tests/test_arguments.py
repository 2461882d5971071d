"""Wrong types of arguments: one line that names the argument, wherever the public interface is called."""

import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from brightness import draw, model
from flawscope import compare, evaluate, load, open_dataset
from flawscope.errors import InputError, check_arguments, require_type
from flawscope.predictor import Predictor
from flawscope.predictor.router import Router
from flawscope.views.preprocess import Preprocess
from flawscope.views.roi import read_roi

WRONG = [
    *(None, 5, 1.5, True, {}, {1, 2}, object(), lambda: 1, (0, 0, 0.5, 1), [3], np.zeros(3)),
    Image.new("L", (1, 1)),
]


def calls() -> dict[str, Callable[[Any], Any]]:
    known = model()
    return {
        "path": load,
        "save path": known.save,
        "engine": lambda wrong: load("x.onnx", engine=wrong),
        "device": lambda wrong: load("x.onnx", device=wrong),
        "threads": lambda wrong: load("x.onnx", threads=wrong),
        "root": open_dataset,
        "seed": lambda wrong: open_dataset("x", seed=wrong),
        "group": lambda wrong: open_dataset("x", group=wrong),
        "predictor": lambda wrong: evaluate(wrong, None),
        "dataset": lambda wrong: evaluate(known, wrong),
        "a": lambda wrong: compare(wrong, known, None),
        "views": known.predict_part,
        "pictures": known.predict,
        "stream pictures": known.stream,
        "bgr": lambda wrong: known.predict("x.png", bgr=wrong),
        "batch": lambda wrong: known.stream(["x.png"], batch=wrong),
        "leave_out": lambda wrong: known.stream(["x.png"], leave_out=wrong),
    }


# What is right for an argument, of `WRONG`
RIGHT: dict[str, tuple[type, ...]] = {
    "engine": (type(None),),
    "threads": (type(None), int),
    "seed": (int,),
    "group": (type(None), FunctionType),
    "views": (dict,),
    "pictures": (np.ndarray, Image.Image),
    "stream pictures": (np.ndarray, Image.Image, tuple, list, set),
    "bgr": (bool,),
    "batch": (type(None), int),
    "leave_out": (dict, set, tuple, list, np.ndarray),
}


@pytest.mark.parametrize("name", calls())
def test_wrong_types_are_one_line_that_names_the_argument(name):
    call = calls()[name]
    for wrong in WRONG:
        if isinstance(wrong, RIGHT.get(name, ())) and not (wrong is True and name != "bgr"):
            continue
        with pytest.raises(InputError) as caught:
            call(wrong)
        said = str(caught.value)
        assert said.startswith(name.split()[-1]), (wrong, said)
        assert "; give " in said
        assert "\n" not in said
        assert len(said) < 160


def test_an_element_of_a_list_is_named_by_its_place():
    with pytest.raises(InputError, match=r"pictures\[1\] is 5; give a text, a path, bytes, a PIL image"):
        model().predict(["x.png", 5])
    with pytest.raises(InputError, match=r"views\['left'\] is a tuple"):
        model().predict_part({"left": (1, 2)})


def test_what_fits_passes_and_functions_keep_their_names(tmp_path):
    @check_arguments()
    def made(count: int, share: float = 0.5, *, names: list[str] | None = None, **more: int) -> str:
        """Says what it got."""
        return f"{count} {share} {names} {more}"

    assert made(np.int64(3), np.float32(1), names=("a", "b"), x=1) == "3 1.0 ('a', 'b') {'x': 1}"
    assert (made.__name__, made.__doc__) == ("made", "Says what it got.")
    with pytest.raises(TypeError, match=r"made\(\) missing"):
        made()
    with pytest.raises(InputError, match="count is True; give a whole number"):
        made(True)
    require_type("rate", "5%", float | str)
    draw(tmp_path / "a.png", 0.2)
    assert isinstance(model().predict(tmp_path / "a.png").score, float)
    for kind in (Predictor, Router):
        assert "Judge pictures" in (kind.predict.__doc__ or "")


def test_a_region_of_interest_may_be_four_numbers():
    how = Preprocess((16, 32))
    for given in ((0, 0, 0.5, 1), [0.0, 0, 0.5, 1.0], (np.float32(0), 0, np.float64(0.5), 1)):
        np.testing.assert_array_equal(read_roi(given, how), read_roi("0,0,0.5,1", how))
    for wrong, word in (
        ((0, 0, 1), "3 numbers"),
        ((-0.1, 0, 1, 1), "leaves the picture"),
        ((0, 0, float("nan"), 1), "leaves the picture"),
        ((10, 10, 90, 90), "pixels"),
        ((0.5, 0, 0.5, 1), "empty"),
    ):
        with pytest.raises(InputError, match=word):
            read_roi(wrong, how)


def test_results_hold_plain_numbers(tmp_path):
    draw(tmp_path / "a.png", 0.9, spot=True)
    found = model().predict(tmp_path / "a.png")
    assert found.regions
    values: list[Any] = [found, *found.regions]
    while values:
        value = values.pop()
        assert not isinstance(value, np.generic), value
        if dataclasses.is_dataclass(value):
            values += [getattr(value, field.name) for field in dataclasses.fields(value)]
        elif isinstance(value, tuple | list):
            values += value
    assert "np." not in repr(found.regions)
