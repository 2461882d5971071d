"""Methods' settings: what a picture size may be, and what is refused before anything is loaded."""

import pytest

from flawscope.config import build_config, parse_assignments, read_config
from flawscope.methods import registry
from flawscope.methods.patchcore import record as patchcore
from flawscope.methods.settings import TrainingSettings
from flawscope.methods.training.efficientad import record as efficientad
from flawscope.methods.training.prnet import record as prnet
from flawscope.testing import must_refuse

SIZES = "is not N, HxW, or several joined by +"
CONFIGS = {"efficientad": efficientad.Config, "patchcore": patchcore.Config, "prnet": prnet.Config}


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("256", [(256, 256)]),
        (" 256 X 320 ", [(256, 320)]),
        ("384 + 256", [(256, 256), (384, 384)]),  # smallest first, however it is written
        ("200x300+400x300", [(200, 300), (400, 300)]),
        ("16+4096", [(16, 16), (4096, 4096)]),
        ("64+32+128+96", [(32, 32), (64, 64), (96, 96), (128, 128)]),
    ],
)
def test_sizes(size, sizes):
    config = patchcore.Config(size=size)
    assert config.sizes == config.network_sizes == tuple(sizes)
    assert config.network_size == sizes[-1]


def test_a_size_is_read_from_yaml_and_assignments(tmp_path):
    for text in ("256", "256+384", "256x320"):
        (tmp_path / "c.yaml").write_text(f"size: {text}\n")
        assert build_config(patchcore.Config, read_config(tmp_path / "c.yaml")).size == text
        assert build_config(patchcore.Config, parse_assignments([f"size={text}"])).size == text


def test_the_network_sees_the_crop_and_it_alone_must_be_a_multiple():
    config = prnet.Config(size="300x200", crop=(64, 96))
    assert config.sizes == ((300, 200),)
    assert config.network_sizes == (config.network_size,) == ((64, 96),)


@pytest.mark.parametrize(
    ("method", "assignment", "text"),
    [
        ("patchcore", "size=256+", SIZES),
        ("patchcore", "size=''", SIZES),
        ("patchcore", "size=256x", SIZES),
        ("patchcore", "size=1x2x3", SIZES),
        ("patchcore", "size=-256", SIZES),
        ("patchcore", "size=256²", SIZES),  # a digit to str.isdigit, no number
        ("patchcore", "size=true", "is not N, HxW"),
        ("patchcore", "size=15", "between 16 and 4096"),
        ("patchcore", "size=256+4097", "between 16 and 4096"),
        ("patchcore", "size=256+256x256", "up to 4 different sizes"),
        ("patchcore", "size=32+48+64+80+96", "up to 4 different sizes"),
        ("patchcore", "size=300x200+200x300", "the largest on both sides"),
        ("patchcore", "fine_ratio=0", "fine_ratio must be above 0"),
        ("patchcore", "score=best", "one of reweighted, map"),
        ("efficientad", "size=255", "between 256 and 4096"),
        ("efficientad", "crop=200", "between 256 and 4096"),
        ("efficientad", "size=256+384", "is not N or HxW"),
        ("efficientad", "border=2", "border must be 0, 4, 8, 12 or 16"),
        ("efficientad", "window=32", "window must be at least 33"),
        ("efficientad", "hard=1", "hard must be"),
        ("efficientad", "natural=' '", "natural must be a folder, generated or none"),
        ("efficientad", "quantiles=0.9,0.9", "quantiles must be two rising shares"),
        ("efficientad", "quantiles=0.9,1.1", "quantiles must be two rising shares"),
        ("efficientad", "network=l", "network"),
        ("efficientad", "backbone=resnet18", "unknown setting backbone"),
        ("prnet", "size=100", "multiples of 32 between 64 and 4096: 96x96 is near"),
        ("prnet", "size=256x300", "multiples of 32 between 64 and 4096: 256x288 is near"),
        ("prnet", "size=32", "multiples of 32 between 64"),
        ("prnet", "crop=64x288", "crop must be no larger than size"),
        ("prnet", "stages=1,2,3", "stages must be four feature indices, of strides 4, 8, 16 and 32"),
        ("prnet", "stages=-1,2,3,4", "stages must be four"),
        ("prnet", "width=0", "width must be above 0 and at most 4"),
        ("prnet", "textures=' '", "textures must be a folder or generated"),
        ("prnet", "extended=1.1", "extended must be between 0 and 1"),
        ("prnet", "original=-0.1", "original must be between 0 and 1"),
        ("prnet", "batch=1", "batch must be at least 2"),
        ("prnet", "noise=-1", "noise must be between 0 and 10"),
        ("prnet", "top=0", "top must be at least 1"),
        ("prnet", "texture=generated", "unknown setting texture; did you mean textures?"),
    ],
)
def test_a_wrong_setting_is_one_line(method, assignment, text):
    wrong = parse_assignments([assignment])
    assert text in must_refuse(lambda: build_config(CONFIGS[method], wrong), assignment)


def test_presets_are_the_papers():
    """Batzner et al., A.1; Zhang et al., 4.1."""
    paper = build_config(efficientad.Config, efficientad.PRESETS["paper"])
    assert (paper.steps, paper.batch, paper.rate, paper.decay) == (70_000, 1, 1e-4, 1e-5)
    assert (paper.schedule, paper.window, paper.border, paper.hard) == ("drop", None, 0, 0.999)
    assert (paper.quantiles, paper.held_out, paper.size) == ((0.9, 0.995), 0.1, "256")
    prn = build_config(prnet.Config, prnet.PRESETS["paper"])
    assert (prn.backbone, prn.stages, prn.size) == ("resnet18", (1, 2, 3, 4), "256")
    assert (prn.batch, prn.rate, prn.schedule, prn.decay) == (64, 1e-4, "constant", 1e-2)
    assert (prn.noise, prn.top, prn.width) == (0, 100, 1.0)
    # 700 epochs of 200 good pictures and as many defective ones, 64 at a time
    assert prn.steps == pytest.approx(700 * 400 / 64, rel=0.01)


def test_names_that_a_fit_sets_are_taken():
    with pytest.raises(TypeError, match=r"Config\.hidden: set by fit itself"):
        type("Config", (TrainingSettings,), {"__annotations__": {"hidden": int}, "hidden": 64})


@pytest.mark.parametrize(
    ("method", "settings", "pictures", "size"),
    [
        ("patchcore", {}, (512, 512), "256+512"),
        ("patchcore", {}, (480, 640), "256+512"),  # as cameras usually give them
        ("patchcore", {}, (256, 512), "176x368+368x720"),
        ("patchcore", {}, (800, 320), "400x160+816x320"),
        ("patchcore", {}, (128, 256), "256+512"),  # enlarged nearly three times, squares are as good
        ("patchcore", {"preset": "small"}, (256, 512), "176x368+272x544"),
        ("patchcore", {"size": "300x200+512"}, (800, 320), "300x200+816x320"),  # HxW is meant as it is
        ("patchcore", {"preset": "paper"}, (256, 512), "256"),  # cropped
        ("patchcore", {"tile": (128, 128), "size": "128"}, (256, 512), "128"),
        ("patchcore", {"backbone": "vit_small_patch14_dinov2", "size": "224"}, (256, 512), "154x322"),
        ("efficientad", {}, (256, 512), "256"),  # sides of 256 px are the least that it takes
        ("efficientad", {"size": "512"}, (256, 512), "368x720"),
        ("prnet", {}, (256, 512), "192x352"),
    ],
)
def test_sizes_of_one_number_get_the_form_of_the_pictures(method, settings, pictures, size):
    known = dict(settings)
    config = registry.method(method).configure(known.pop("preset", "default"), known)
    seen = config.in_form([pictures] * 3 + [(100, 100)])
    assert seen.size == size
    assert config.in_form([]) == config
    assert seen.in_form([pictures]) == seen or "x" not in size  # what was chosen is kept
