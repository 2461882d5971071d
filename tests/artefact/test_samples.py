"""Packed pictures come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flawscope.artefact.certificate import STRIDE
from flawscope.artefact.model_file import Artefact, Manifest, pack_images, unpack_images
from flawscope.calibration.decision import Calibration
from flawscope.pictures.preprocess import Preprocess
from flawscope.runtime import onnx_file

RNG = np.random.default_rng(0)
LEVELS = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / np.float32(255)


def test_eight_bits_come_back_exactly() -> None:
    packed = pack_images(LEVELS)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(packed.ravel(), np.arange(256))
    np.testing.assert_array_equal(unpack_images(packed), LEVELS)


def test_marked_padding_comes_back_exactly() -> None:
    """The value v of a padded pixel stands as -1 - v: also 0, and also 1."""
    marked = np.stack([LEVELS, -1 - LEVELS])
    packed = pack_images(marked)
    assert packed.dtype == np.int16
    np.testing.assert_array_equal(packed[1].ravel(), -1 - np.arange(256))
    found = unpack_images(packed)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, marked)


def test_a_letterboxed_picture_comes_back_exactly() -> None:
    picture = RNG.integers(0, 256, (20, 80, 3), dtype=np.uint8)
    images, _ = Preprocess((32, 32), keep_aspect=True).from_array(picture)
    assert (images < 0).any()
    packed = pack_images(images)
    assert packed.dtype == np.int16
    np.testing.assert_array_equal(unpack_images(packed), images)


@pytest.mark.parametrize("value", [0.5, -1.3, 1 / 7, -0.25, 2.0, np.nan, -np.inf])
def test_what_eight_bits_would_change_stays_float(value: float) -> None:
    images = np.full((2, 3, 4, 4), value, np.float32)
    images[0] = 0
    packed = pack_images(images)
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(unpack_images(packed), images)


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_exported_models_carry_them(kind: type) -> None:
    samples = RNG.integers(0, 128, (2, 3, 16, 24)).astype(kind)
    maps = np.zeros((2, 16 // STRIDE, 24 // STRIDE), np.float32)
    calibration = Calibration((1.0,), (1.0,), 0.0)
    manifest = Manifest("none", {}, Preprocess((16, 24)), calibration, samples=({}, {}))
    entries = onnx_file._packed(Artefact(manifest, {"samples": samples, "sample_maps": maps}), "")
    found = onnx_file._tensors(entries, onnx_file._manifest(entries, "model"), "model")
    assert found["samples"].dtype == kind
    np.testing.assert_array_equal(found["samples"], samples)
    assert len(onnx_file._manifest(entries, "model").samples) == 2
