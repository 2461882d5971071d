"""PRN's settings: what is refused, and what the presets are."""

from __future__ import annotations

import pytest

from flawscope.config import build, parse_assignments
from flawscope.errors import InputError
from flawscope.methods.prnet import PRESETS, Config


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("size=100", "size, or crop, must be multiples of 32 between 64 and 4096: 96x96 is near"),
        ("size=256x300", "must be multiples of 32 between 64 and 4096: 256x288 is near"),
        ("size=32", "must be multiples of 32 between 64"),
        ("size=0", "must be multiples of 32"),
        ("size=4128", "must be multiples of 32 between 64 and 4096"),
        ("size=-64", "is not N or HxW"),
        ("size=256+384", "is not N or HxW"),
        ("size=64x64x64", "is not N or HxW"),
        ("crop=200", "size, or crop, must be multiples of 32"),
        ("crop=288", "crop must be no larger than size"),
        ("crop=64x288", "crop must be no larger than size"),
        ("stages=1,2,3", "stages must be four feature indices, of strides 4, 8, 16 and 32"),
        ("stages=0,1,2,3,4", "stages must be four"),
        ("stages=-1,2,3,4", "stages must be four"),
        ("stages=2", "stages must be four"),
        ("width=0", "width must be above 0 and at most 4"),
        ("width=5", "width must be"),
        ("textures=' '", "textures must be a folder or generated"),
        ("extended=1.1", "extended must be between 0 and 1"),
        ("original=-0.1", "original must be between 0 and 1"),
        ("held_out=0", "held_out must be above 0 and at most 0.5"),
        ("held_out=0.6", "held_out must be"),
        ("steps=0", "steps must be at least 1"),
        ("steps=1.5", "setting steps: 1.5 is not a whole number"),
        ("batch=1", "batch must be at least 2: a good picture and a defective one"),
        ("rate=0", "rate must be above 0"),
        ("rate=.nan", "setting rate: nan is not a number"),
        ("decay=2", "decay must be between 0 and 1"),
        ("noise=-1", "noise must be between 0 and 10"),
        ("schedule=cosine", "schedule: 'cosine' is not one of constant, drop, one_cycle"),
        ("top=0", "top must be at least 1"),
        ("memory=0", "memory must be a number of GiB above 0"),
        ("memory=.inf", "setting memory: inf is not a number"),
        ("seed=-1", "seed must be at least 0"),
        ("precision=int8", "setting precision: 'int8' is not one of fp32, bf16, fp16"),
        ("training=fp16", "setting training: 'fp16' is not one of auto, fp32, bf16"),
        ("attention=2", "setting attention: 2 is not true or false"),
        ("texture=generated", "unknown setting texture; did you mean textures?"),
        ("seen=3", "unknown setting seen"),
    ],
)
def test_wrong_settings_are_one_line(assignment: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        build(Config, parse_assignments([assignment]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "size"),
    [
        ([], (256, 256)),
        (["size=64"], (64, 64)),
        (["size=96x64"], (96, 64)),
        (["size=300", "crop=256"], (256, 256)),  # only what the network sees must be a multiple
        (["size=300x200", "crop=64x96"], (64, 96)),
    ],
)
def test_what_the_network_sees(assignments: list[str], size: tuple[int, int]) -> None:
    assert build(Config, parse_assignments(assignments)).network_size == size


def test_presets() -> None:
    default = build(Config, PRESETS["default"])
    assert default == Config()
    paper = build(Config, PRESETS["paper"])
    # 4.1: 700 epochs of 200 good pictures and as many defective ones, 64 at a time: 700 * 400 / 64 = 4375
    assert (paper.backbone, paper.stages, paper.size) == ("resnet18", (1, 2, 3, 4), "256")
    assert (paper.batch, paper.rate, paper.schedule, paper.decay) == (64, 1e-4, "constant", 1e-2)
    assert paper.noise == 0
    assert paper.steps == pytest.approx(700 * 400 / 64, rel=0.01)
    assert (paper.top, paper.width) == (100, 1.0)
