"""PatchCore's settings: what a picture size may be, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawscope.config import build, parse_assignments, read_config
from flawscope.errors import InputError
from flawscope.methods.patchcore import Config


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("256", [(256, 256)]),
        ("256x320", [(256, 320)]),
        (" 256 X 320 ", [(256, 320)]),
        ("384+256", [(256, 256), (384, 384)]),  # smallest first, however it is written
        ("256 + 384", [(256, 256), (384, 384)]),
        ("200x300+400x300", [(200, 300), (400, 300)]),
        ("16+4096", [(16, 16), (4096, 4096)]),
        ("64+32+128+96", [(32, 32), (64, 64), (96, 96), (128, 128)]),
    ],
)
def test_sizes(size: str, sizes: list[tuple[int, int]]) -> None:
    config = Config(size=size)
    assert config.sizes == config.view_sizes == tuple(sizes)
    assert config.network_size == sizes[-1]


@pytest.mark.parametrize(("text", "size"), [("256", "256"), ("256+384", "256+384"), ("256x320", "256x320")])
def test_a_size_is_read_from_yaml_and_assignments(tmp_path: Path, text: str, size: str) -> None:
    (tmp_path / "c.yaml").write_text(f"size: {text}\n")
    assert build(Config, read_config(tmp_path / "c.yaml")).size == size
    assert build(Config, parse_assignments([f"size={text}"])).size == size


def test_the_network_sees_the_crop() -> None:
    config = Config(size="64x80", crop=(48, 56))
    assert config.sizes == ((64, 80),)
    assert config.view_sizes == ((48, 56),)
    assert config.network_size == (48, 56)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"size": "256+"}, "is not N, HxW, or several joined by +"),
        ({"size": ""}, "is not N, HxW, or several joined by +"),
        ({"size": "large"}, "is not N, HxW, or several joined by +"),
        ({"size": "256x"}, "is not N, HxW, or several joined by +"),
        ({"size": "1x2x3"}, "is not N, HxW, or several joined by +"),
        ({"size": "-256"}, "is not N, HxW, or several joined by +"),
        ({"size": "256²"}, "is not N, HxW, or several joined by +"),  # a digit to str.isdigit, no number
        ({"size": [256, 320]}, "is not a text"),
        ({"size": 256.5}, "is not a text"),
        ({"size": True}, "is not a text"),
        ({"size": "0"}, "between 16 and 4096"),
        ({"size": 15}, "between 16 and 4096"),
        ({"size": "256+4097"}, "between 16 and 4096"),
        ({"size": "256+256"}, "up to 4 different sizes"),
        ({"size": "256+256x256"}, "up to 4 different sizes"),
        ({"size": "32+48+64+80+96"}, "up to 4 different sizes"),
        ({"size": "300x200+200x300"}, "the largest on both sides"),
        ({"size": "64+96", "crop": 48}, "crop works with one size"),
        ({"size": "64", "crop": 65}, "no larger than size"),
        ({"size": "64", "crop": 8}, "between 16 and 4096"),
        ({"fine_ratio": 0}, "fine_ratio must be above 0"),
        ({"fine_ratio": 1.1}, "fine_ratio must be above 0 and at most 1"),
        ({"score": "best"}, "one of reweighted, maximum, map"),
    ],
    ids=str,
)
def test_senseless_settings_are_one_line(values: dict, match: str) -> None:
    with pytest.raises(InputError) as caught:
        build(Config, values)
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)
