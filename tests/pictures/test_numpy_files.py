"""Files of numpy are read in any order of axes and bytes, or refused in one line."""

import io

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.pictures.channels import read_channels
from flawscope.pictures.decoding import decode


def stored(values, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, values, **how)
    return file.getvalue()


def with_header(text, body=b""):
    header = text.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


VALUES = np.random.default_rng(0).integers(0, 60_000, (9, 7, 3)).astype(np.uint16)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", ">f4", ">f8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_order_of_axes_and_bytes(version, dtype, order):
    values = np.asarray((VALUES // 256 if dtype == "|u1" else VALUES).astype(dtype), order=order)
    np.testing.assert_array_equal(decode(stored(values, version=version)), values)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (stored(np.array([[{}, 1]], object), allow_pickle=True), "holds Python objects"),
        (stored(VALUES.astype([("a", "<u2")])), "its dtype is"),
        (stored(VALUES.astype(np.complex64)), "its dtype is complex64"),
        (stored(VALUES)[:-1], "truncated"),
        (stored(VALUES)[:40], "damaged"),
        (b"\x93NUMPY", "damaged"),
        (b"\x93NUMPY\x09\x00aaaa", "damaged"),
        (with_header("{'descr': '<u2', 'fortran_order': False, 'shape': (900000, 900000, 3)}"), "truncated"),
        (with_header("{'descr': '<u2', 'fortran_order': False, 'shape': (-4, -4)}", bytes(32)), "truncated"),
        (with_header("{'descr': '<u2', 'fortran_order': False, 'shape': (4,"), "damaged"),
        (with_header("(" * 9000), "damaged"),
        (with_header("{'descr': '<u2', 'shape': (1, 1)}"), "damaged"),
        (with_header("{'descr': 3, 'fortran_order': [], 'shape': 'a'}"), "damaged"),
        (with_header("{'descr': '|V0', 'fortran_order': False, 'shape': (99999, 99999)}"), "its dtype is"),
    ],
)
def test_damaged_files_and_other_content_are_one_line(data, words, refused):
    refused(lambda: decode(data), words)
    refused(lambda: read_channels(data, "a.npy"), words)


def test_mutated_headers_are_read_or_refused():
    rng, files, refusals = np.random.default_rng(0), [stored(VALUES), stored(VALUES / 9)], 0
    for _ in range(1500):
        data = bytearray(files[rng.integers(2)])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(6, 130)] = rng.choice([0, 32, 39, 40, 44, 48, 57, 125, 255, rng.integers(256)])
        try:
            decode(bytes(data))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refusals += 1
    assert refusals > 100
