"""TIFF files where a codec is not installed."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tiff_forms import COMMON, FORMS, GREY, drawn, form, packed, written


@pytest.mark.parametrize("missing", ["jpeg of 5 channels", "12 bits", "floats as differences"])
def test_a_missing_codec_is_named_with_the_command_that_brings_it(missing, tmp_path):
    five = np.full((16, 16, 5), 90, np.uint8)
    path = tmp_path / "a.tif"
    path.write_bytes(
        {
            "jpeg of 5 channels": lambda: written(
                np.moveaxis(five, 2, 0), planarconfig="separate", compression="jpeg", **GREY
            ),
            "12 bits": lambda: packed(12)[0],
            "floats as differences": lambda: form(drawn("float32", 3), compression="zlib", predictor=True)[0],
        }[missing]()
    )
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from flawscope.pictures.channels import read_channels\n"
        f"read_channels({str(path)!r}, 'a.tif')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert "needs imagecodecs; pip install " in last, last


def test_common_compressions_of_16_bits_need_no_codec(tmp_path):
    names = [name for name in FORMS if name.startswith(tuple(f"{one} uint16" for one in COMMON))]
    for k, name in enumerate(names):
        data, values = FORMS[name]()
        (tmp_path / f"{k}.tif").write_bytes(data)
        np.save(tmp_path / f"{k}.npy", values)
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "import numpy as np\nfrom flawscope.pictures.decoding import decode\n"
        f"for k in range({len(names)}):\n"
        "    np.testing.assert_array_equal(decode(f'{k}.tif'), np.load(f'{k}.npy'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ})
