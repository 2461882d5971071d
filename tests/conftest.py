"""Pictures in memory, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError


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
