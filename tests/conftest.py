"""Pictures in memory and in a folder, engines, and what is refused."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.datasets import list_pictures
from flawscope.errors import InputError
from flawscope.runtime import ENGINES


@pytest.fixture
def rgb():
    """Smooth in places, noisy in others: [37, 52, 3] uint8."""
    picture = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    picture[5:20, 10:40] = np.arange(30, dtype=np.uint8)[None, :, None] * 8
    return picture


@pytest.fixture(scope="session")
def encoded():
    """encoded(image or array, "PNG", ...) are the bytes of the file."""

    def bytes_of(image, file_format, **options):
        stream = io.BytesIO()
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(stream, file_format, **options)
        return stream.getvalue()

    return bytes_of


@pytest.fixture
def answer(run):
    """`answer(*words, code=0, said="", printed="")`: what `flawscope WORDS` prints; it ends with this code,
    with these words on stderr and stdout."""

    def call(*words, code=0, said=(), printed=()):
        found, out, err = run(*words)
        assert found == code, err
        for expected, text in ((said, err), (printed, out)):
            for word in [expected] if isinstance(expected, str) else expected:
                assert word in text, text
        return out

    return call


@pytest.fixture(scope="session")
def refused():
    """refused(call, *words): it raises InputError in one line with the words, a reason and a remedy."""

    def check(call, *words):
        with pytest.raises(InputError) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        assert "; " in text
        for word in words:
            assert word in text, text

    return check


@pytest.fixture(params=ENGINES)
def engine(request):
    """Every engine of exported models that is here."""
    return str(request.param)


@pytest.fixture
def precision():
    """The reduced precision of PatchCore, where this machine has it."""
    from flawscope.runtime.openvino import shared_core

    if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16: nothing to install")
    return "bf16"


@pytest.fixture
def mixed(drawn, tmp_path):
    """A folder as it comes: good, defective, several in a file, a video, a note, and what has no suffix."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = drawn / "plate/train/good/000.png"
    shutil.copy(good, folder / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    with Image.open(good) as first:
        first.save(folder / "c.gif", save_all=True, append_images=[first.rotate(90)])
    (folder / "d.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "e.txt").write_text("a note")
    shutil.copy(good, folder / "f")
    return folder


@pytest.fixture(scope="session")
def train(drawn):
    """Paths of the pictures that the small model was fitted on."""
    return list_pictures(drawn / "plate/train/good")


@pytest.fixture(scope="session")
def unseen(drawn):
    """Paths of good pictures that it has not seen."""
    return list_pictures(drawn / "plate/test/good")


@pytest.fixture(scope="session")
def trained(model_path):
    """The small model, opened."""
    return flawscope.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def routers(two_products, small_backbone, shared):
    """A folder with a router, line.safetensors, and its export, line.zip: pictures of fabric are padded,
    plates are aligned. Read only."""
    from flawscope.export.router_export import export_router
    from flawscope.fitting import joining

    def fill(folder):
        settings = {**small_backbone, "size": 64, "cap": 200, "check": False, "device": "cpu"}
        seen = {"fabric": {"keep_aspect": True}, "plate": {"align": "shift"}}
        models = {
            name: flawscope.fit(two_products, category=name, **how, **settings) for name, how in seen.items()
        }
        joining.join(models, {name: two_products / name for name in models}, device="cpu").save(
            folder / "line.safetensors"
        )
        export_router(folder / "line.safetensors", folder / "line.zip")

    return shared("router-export", fill)
